"""The estimators: scikit-learn's checks, scikit-learn's numbers, and what is beyond them."""

import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array
from sklearn import neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils.estimator_checks import check_estimator

import gpugrad as gg
from gpugrad import sklearn as ours
from gpugrad.errors import DtypeError, ShapeError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

WINE = scale(load_wine().data), load_wine().target
CANCER = scale(load_breast_cancer().data)[:230], load_breast_cancer().target[:230]
DIABETES = scale(load_diabetes().data)[:230], scale(load_diabetes().target)[:230]
MANY = DIABETES[0], np.stack([DIABETES[1], DIABETES[0][:, 0] ** 2], axis=1)
LABELS = WINE[0], np.stack([WINE[1] == 0, WINE[0][:, 0] > 0], axis=1).astype(int)
COUNTS = DIABETES[0], np.random.default_rng(0).poisson(np.exp(0.5 * DIABETES[1]))
SHORT: dict[str, Any] = {"max_iter": 12, "random_state": 3, "hidden_layer_sizes": (20,)}


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_scikit_learns_own_checks(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of slow convergence, and of what cannot be checked here
        results = check_estimator(getattr(ours, kind)(max_iter=100, device="cpu"), on_fail=None)
    assert len(results) >= 50  # 60 and 67 of scikit-learn 1.9
    assert [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")] == []


# The same numbers


def pair(kind: str, data: Any, weight: Any = None, **settings: Any) -> list[Any]:
    """scikit-learn's estimator and ours, fitted alike."""
    x, y = data
    weights = {} if weight is None else {"sample_weight": weight}
    return [
        getattr(library, kind)(**SHORT | settings).fit(x, y, **weights)
        for library in (theirs, ours)
    ]


def assert_same(a: Any, b: Any, x: Any, tolerance: float = 1e-9) -> None:
    for p, q in zip((*a.coefs_, *a.intercepts_), (*b.coefs_, *b.intercepts_), strict=True):
        assert (p.shape, p.dtype) == (q.shape, q.dtype)
        np.testing.assert_allclose(q, p, tolerance, tolerance)
    assert b.loss_ == pytest.approx(a.loss_, rel=tolerance)
    for name in ("loss_curve_", "validation_scores_"):
        if getattr(a, name, None) is not None:
            np.testing.assert_allclose(getattr(b, name), getattr(a, name), tolerance)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("best_loss_", "best_validation_score_"):
        best = getattr(a, name, None)
        assert getattr(b, name, None) == (best if best is None else pytest.approx(best))
    if tolerance < 1e-6:
        np.testing.assert_allclose(b.predict(x), a.predict(x), 1e-7, 1e-9)
    if hasattr(a, "classes_"):
        np.testing.assert_allclose(b.predict_proba(x), a.predict_proba(x), 1e-5, 1e-6)


ALIKE: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "adam": ("MLPClassifier", WINE, {}),
    "two classes, last batch smaller": ("MLPClassifier", CANCER, {"solver": "sgd"}),
    "several layers": ("MLPClassifier", WINE, {"hidden_layer_sizes": (9, 8, 7)}),
    "no hidden layer": ("MLPClassifier", WINE, {"hidden_layer_sizes": ()}),
    "not shuffled": ("MLPClassifier", CANCER, {"shuffle": False, "batch_size": 50}),
    "plain sgd": ("MLPRegressor", DIABETES, {"solver": "sgd", "momentum": 0, "alpha": 0.5}),
    "invscaling": (
        "MLPRegressor",
        DIABETES,
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    ),
    "adaptive": (
        "MLPRegressor",
        DIABETES,
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 2},
    ),
    "no nesterov": ("MLPRegressor", DIABETES, {"solver": "sgd", "nesterovs_momentum": False}),
    "lbfgs": ("MLPClassifier", CANCER, {"solver": "lbfgs"}),
    "lbfgs regression": ("MLPRegressor", DIABETES, {"solver": "lbfgs", "activation": "tanh"}),
    "multilabel": ("MLPClassifier", LABELS, {"activation": "logistic"}),
    "multi-output": ("MLPRegressor", MANY, {"activation": "identity"}),
    "poisson": ("MLPRegressor", COUNTS, {"loss": "poisson"}),
    "early stopping": (
        "MLPClassifier",
        WINE,
        {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 60},
    ),
    "stops by itself": ("MLPClassifier", WINE, {"tol": 0.5, "max_iter": 60, "n_iter_no_change": 3}),
}


@pytest.mark.parametrize("name", ALIKE)
def test_numbers_are_scikit_learns(name: str) -> None:
    kind, data, settings = ALIKE[name]
    assert_same(*pair(kind, data, **settings), data[0])


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_weighted_rows(solver: str) -> None:
    weight = np.random.default_rng(1).uniform(0.1, 3, len(CANCER[0]))
    assert_same(*pair("MLPClassifier", CANCER, weight, solver=solver), CANCER[0])
    several = pair("MLPRegressor", MANY, weight, solver="sgd", early_stopping=True)
    assert_same(*several, MANY[0])


def test_float32_stays_float32() -> None:
    data = CANCER[0].astype("f4"), CANCER[1]
    assert_same(*pair("MLPClassifier", data, solver="sgd"), data[0], 2e-4)


def test_training_in_parts_and_going_on() -> None:
    for kind, (x, y), given in (
        ("MLPClassifier", WINE, {"classes": [0, 1, 2]}),
        ("MLPRegressor", DIABETES, {}),
    ):
        both = [getattr(library, kind)(**SHORT) for library in (theirs, ours)]
        for model in both:
            for rows in (slice(0, 60), slice(60, 97), slice(100, 101), slice(110, 178)):
                model.partial_fit(x[rows], y[rows], **given)
        assert_same(*both, x)
        for model in both:
            model.set_params(warm_start=True, max_iter=3).fit(x, y)
            model.fit(x, y)
        assert_same(*both, x)


def test_many_sizes_of_parts_are_recorded_a_few_times() -> None:
    model = ours.MLPRegressor(**SHORT)
    for n in range(1, 60):
        model.partial_fit(DIABETES[0][:n], DIABETES[1][:n])
    assert model._networks.step.stats()["recordings"] == 4


@pytest.mark.parametrize("kind", [csr_array, csc_array])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_sparse_rows(kind: Any, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made dense a few at a time: the same numbers, to rounding."""
    monkeypatch.setattr("gpugrad.sklearn.fitting._DENSE_VALUES", 13 * 50)
    x = np.where(WINE[0] > 0.5, WINE[0], 0)
    dense, thin = (
        ours.MLPClassifier(**SHORT | {"solver": solver}).fit(data, WINE[1]) for data in (x, kind(x))
    )
    np.testing.assert_allclose(thin.predict_proba(kind(x)), dense.predict_proba(x), 1e-7, 1e-9)


# Beyond scikit-learn's


@pytest.mark.parametrize("activation", ["gelu", "silu", "elu", "softplus", "leaky_relu", gg.tanh])
def test_more_activations(activation: Any) -> None:
    model = ours.MLPClassifier(**SHORT | {"activation": activation, "solver": "lbfgs"})
    assert model.fit(*WINE).score(*WINE) > 0.95


SQUARES = {
    "gpugrad, rows": lambda y, p: 0.5 * gg.sum((y - p) ** 2, axis=1),
    "numpy, values": lambda y, p: 0.5 * np.square(np.subtract(y, p)),
    "one number": lambda y, p: 0.5 * ((y - p) ** 2).sum() / y.shape[0],
}


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("loss", SQUARES.values(), ids=SQUARES)
def test_a_loss_of_ones_own(loss: Any, solver: str) -> None:
    """The squared error written by hand trains what the built-in one does."""
    built, own = (
        ours.MLPRegressor(**SHORT | {"solver": solver, "loss": given}).fit(*MANY)
        for given in ("squared_error", loss)
    )
    np.testing.assert_allclose(own.predict(MANY[0]), built.predict(MANY[0]), 1e-7, 1e-9)


def test_a_loss_of_ones_own_for_classes() -> None:
    def brier(y: Any, p: Any) -> Any:
        return ((y - p) ** 2).sum(axis=1)

    for data in (WINE, CANCER, LABELS):
        model = ours.MLPClassifier(**SHORT | {"loss": brier, "solver": "lbfgs"}).fit(*data)
        assert model.score(*data) > 0.9
    with pytest.raises(ShapeError, match="row"):
        ours.MLPClassifier(loss=lambda y, p: (y - p).sum(axis=0)).fit(*WINE)
    scalar = ours.MLPRegressor(SQUARES["one number"], max_iter=1)
    with pytest.raises(ShapeError, match="sample_weight"):
        scalar.fit(*DIABETES, sample_weight=np.ones(230))


def test_dropout_and_decay() -> None:
    plain = ours.MLPClassifier(**SHORT).fit(*WINE)
    dropped = [ours.MLPClassifier(**SHORT, dropout=0.5).fit(*WINE) for _ in range(2)]
    np.testing.assert_array_equal(dropped[0].coefs_[0], dropped[1].coefs_[0])  # by random_state
    assert np.abs(dropped[0].coefs_[0] - plain.coefs_[0]).max() > 1e-4
    x = WINE[0]
    np.testing.assert_array_equal(dropped[0].predict_proba(x), dropped[0].predict_proba(x))
    weak, strong = (
        ours.MLPClassifier(**SHORT | {"solver": "adamw", "alpha": alpha, "max_iter": 100})
        .fit(*WINE)
        .coefs_[0]
        for alpha in (0.0, 5.0)
    )
    assert np.linalg.norm(strong) < 0.9 * np.linalg.norm(weak)
    adam = ours.MLPClassifier(**SHORT | {"alpha": 0.0, "max_iter": 100}).fit(*WINE)
    np.testing.assert_allclose(weak, adam.coefs_[0], 1e-9)  # without decay it is Adam


# Ensembles


@pytest.mark.parametrize(
    ("kind", "data", "settings"),
    [
        ("MLPClassifier", WINE, {}),
        ("MLPClassifier", CANCER, {"solver": "sgd", "hidden_layer_sizes": (6, 5)}),
        ("MLPClassifier", LABELS, {"hidden_layer_sizes": ()}),
        ("MLPRegressor", MANY, {"loss": SQUARES["gpugrad, rows"]}),
        ("MLPRegressor", COUNTS, {"loss": "poisson"}),
        ("MLPClassifier", WINE, {"solver": "lbfgs"}),
        (
            "MLPClassifier",
            WINE,
            {"early_stopping": True, "n_iter_no_change": 1, "max_iter": 60},
        ),
    ],
)
def test_the_first_of_an_ensemble_is_what_would_be_trained_alone(
    kind: str, data: Any, settings: Any
) -> None:
    x, y = data
    alone = getattr(ours, kind)(**SHORT | settings).fit(x, y)
    several = getattr(ours, kind)(**SHORT | settings, ensemble=3).fit(x, y)
    assert_same(alone, several.members_[0], x)
    weights = [m.coefs_[0] for m in several.members_]
    assert np.abs(weights[1] - weights[2]).max() > 1e-3
    assert several.coefs_[0].shape == (3, *alone.coefs_[0].shape)
    out = [m._forward_pass_fast(x) for m in several.members_]
    np.testing.assert_allclose(several._forward_pass_fast(x), np.mean(out, axis=0))
    assert several.loss_ == pytest.approx(np.mean([m.loss_ for m in several.members_]))


def test_an_ensemble_of_penalties_and_in_parts() -> None:
    alphas = [1.0, 1e-4, 1000.0]
    several = ours.MLPClassifier(**SHORT | {"alpha": alphas}, ensemble=3).fit(*WINE)
    assert_same(
        ours.MLPClassifier(**SHORT | {"alpha": 1.0}).fit(*WINE), several.members_[0], WINE[0]
    )
    _, free, held = (np.linalg.norm(m.coefs_[0]) for m in several.members_)
    assert held < 0.95 * free
    assert [m.alpha for m in several.members_] == alphas
    parts = ours.MLPClassifier(**SHORT, ensemble=2)
    for _ in range(3):
        parts.partial_fit(*WINE, classes=[0, 1, 2])
    again = pickle.loads(pickle.dumps(parts))
    for model in (parts, again):
        model.partial_fit(*WINE)
    np.testing.assert_array_equal(parts.coefs_[0], again.coefs_[0])
    for bad in ({"alpha": [1, 2]}, {"alpha": alphas, "solver": "adamw"}, {"alpha": [1, 2, -1]}):
        with pytest.raises(ValueError, match="alpha"):
            ours.MLPClassifier(**bad, ensemble=3).fit(*WINE)
    with pytest.raises(ValueError, match="ensemble cannot change"):
        parts.set_params(ensemble=3).partial_fit(*WINE)
    assert not hasattr(parts.set_params(ensemble=1, max_iter=1).fit(*WINE), "members_")


@pytest.mark.parametrize("solver", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("rates", [[0.01, 0.1, 0.001], [0.02, 0.02, 0.02]])
def test_an_ensemble_of_learning_rates(solver: str, rates: list[float]) -> None:
    settings = SHORT | {"solver": solver, "shuffle": False, "learning_rate": "invscaling"}
    rate = np.array(rates)
    several = ours.MLPClassifier(**settings | {"learning_rate_init": rate}, ensemble=3).fit(*WINE)
    for member, own in zip(several.members_, rates, strict=True):
        assert member.learning_rate_init == own
        started = {"random_state": member.random_state, "learning_rate_init": own}
        assert_same(ours.MLPClassifier(**settings | started).fit(*WINE), member, WINE[0])
    for bad in ([0.1, 0.2], [0.1, 0.2, 0.0]):
        with pytest.raises(ValueError, match="learning_rate_init"):
            ours.MLPClassifier(learning_rate_init=bad, ensemble=3).fit(*WINE)


def test_members_stop_on_their_own() -> None:
    settings: dict[str, Any] = {"tol": 0.01, "n_iter_no_change": 2, "max_iter": 200}
    several = ours.MLPClassifier(**SHORT | settings, ensemble=4).fit(*WINE)
    epochs = [m.n_iter_ for m in several.members_]
    assert len(set(epochs)) > 1
    assert several.n_iter_ == max(epochs) == len(several.loss_curve_)
    assert_same(ours.MLPClassifier(**SHORT | settings).fit(*WINE), several.members_[0], WINE[0])


# Arrays, devices, pickles


def test_weighted_rows_on_the_device(device: str) -> None:
    """The last batch is smaller; what a row weighs is there as well."""
    x, y = np.random.default_rng(0).standard_normal((30, 4)), np.arange(30) % 3
    settings = {"hidden_layer_sizes": 5, "batch_size": 8, "max_iter": 3, "random_state": 0}
    fitted = []
    for place in ("cpu", device):
        model = ours.MLPClassifier(**settings, device=place)
        model.fit(x, y, sample_weight=np.linspace(0, 2, 30))
        fitted.append(model.predict_proba(x))
    np.testing.assert_allclose(*fitted, 1e-4, 1e-5)


def test_arrays_of_the_device(device: str) -> None:
    """NumPy, tensors and the device's own arrays give one model; predictions are NumPy's."""
    x, y = WINE
    t = gg.asarray(x, device=device)
    native = t._data, gg.asarray(y, device=device)._data
    settings = SHORT | {"max_iter": 4}
    models = [ours.MLPClassifier(**settings, device=device).fit(x, y)]
    models += [ours.MLPClassifier(**settings).fit(*given) for given in (native, (t, y))]
    for model in models:
        p = model.predict_proba(t)
        assert isinstance(p, np.ndarray)
        np.testing.assert_allclose(p, models[0].predict_proba(x), 1e-6)
        assert all(isinstance(w, np.ndarray) for w in model.coefs_)
        assert model.score(*native) == models[0].score(x, y)
    (parameter,) = {p.device for p in models[-1]._networks.parameters}
    assert parameter == device


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(library: str) -> None:
    frames = pytest.importorskip(library)
    names = [f"c{i}" for i in range(13)]
    frame = frames.DataFrame(dict(zip(names, WINE[0].T, strict=True)))
    model = ours.MLPClassifier(**SHORT).fit(frame, WINE[1])
    assert model.feature_names_in_.tolist() == names
    alone = ours.MLPClassifier(**SHORT).fit(*WINE)
    np.testing.assert_array_equal(model.predict_proba(frame), alone.predict_proba(WINE[0]))


def test_a_pickle_opens_without_cupy_and_goes_on(tmp_path: Path) -> None:
    model = ours.MLPClassifier(**SHORT)
    for _ in range(3):
        model.partial_fit(*WINE, classes=[0, 1, 2])
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps((model, WINE)))
    code = f"""
import pickle, sys
sys.modules["cupy"] = None
model, (x, y) = pickle.load(open({str(path)!r}, "rb"))
model.partial_fit(x, y)
print(*model.coefs_[0][0].tolist())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    model.partial_fit(*WINE)
    assert [float(v) for v in run.stdout.split()] == model.coefs_[0][0].tolist()


def test_where_scikit_learn_is_missing() -> None:
    code = """
import sys
sys.modules["sklearn"] = None
try:
    import gpugrad.sklearn
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "gpugrad[sklearn]" in run.stdout


# In scikit-learn's company


def test_in_a_grid_search_of_a_pipeline() -> None:
    steps = make_pipeline(StandardScaler(), ours.MLPClassifier(**SHORT))
    search = GridSearchCV(steps, {"mlpclassifier__alpha": [1e-4, 1e3]}, cv=2)
    search.fit(load_wine().data, load_wine().target)
    assert search.best_params_ == {"mlpclassifier__alpha": 1e-4}
    copy = clone(search.best_estimator_[-1])
    assert copy.get_params() == search.best_estimator_[-1].get_params()
    assert not hasattr(copy, "coefs_")


@pytest.mark.parametrize("activation", ["logistic", "gelu"])
@pytest.mark.parametrize(
    ("kind", "data"),
    [("MLPClassifier", WINE), ("MLPClassifier", CANCER), ("MLPRegressor", MANY)],
    ids=["three", "two", "numbers"],
)
def test_models_and_estimators(kind: str, data: Any, activation: str) -> None:
    """There and back again: the same predictions, of another network in memory."""
    x, y = data
    fitted = getattr(ours, kind)(**SHORT | {"activation": activation}).fit(x, y)
    model = ours.from_sklearn(fitted)
    z = model(gg.asarray(x)).detach()
    if kind == "MLPRegressor":
        np.testing.assert_allclose(z.numpy(), fitted.predict(x), 1e-9)
    else:
        p = gg.nn.softmax(z) if z.shape[1] > 1 else gg.nn.sigmoid(z)
        np.testing.assert_allclose(p.numpy(), fitted.predict_proba(x)[:, -z.shape[1] :], 1e-9)
    again = ours.as_sklearn(model, fitted.classes_ if kind == "MLPClassifier" else None)
    np.testing.assert_allclose(again._forward_pass_fast(x), fitted._forward_pass_fast(x), 1e-9)
    assert again.get_params()["activation"] == activation
    assert again.score(x, y) == pytest.approx(fitted.score(x, y))
    before = fitted.coefs_[0].copy()
    again.set_params(warm_start=True, max_iter=2).partial_fit(x, y)
    np.testing.assert_array_equal(fitted.coefs_[0], before)
    assert np.abs(again.coefs_[0] - before).max() > 1e-6


def test_two_logits_are_one_and_what_does_not_fit_raises() -> None:
    two = gg.nn.MLP([13, 5, 2], "tanh", dropout=0.5, dtype=gg.float64).eval()
    p = ours.as_sklearn(two, classes=["no", "yes"]).predict_proba(WINE[0])
    np.testing.assert_allclose(p, gg.nn.softmax(two(gg.asarray(WINE[0]))).detach().numpy(), 1e-9)
    theirs_too = theirs.MLPClassifier(**SHORT | {"hidden_layer_sizes": ()}).fit(*CANCER)
    z = ours.from_sklearn(theirs_too)(gg.asarray(CANCER[0]))
    np.testing.assert_array_equal(z.detach().numpy()[:, 0] > 0, theirs_too.predict(CANCER[0]))
    mixed = gg.nn.Sequential(
        gg.nn.Linear(2, 2), gg.nn.Tanh(), gg.nn.Linear(2, 2), gg.nn.ReLU(), gg.nn.Linear(2, 1)
    )
    several = ours.MLPClassifier(ensemble=2, max_iter=1).fit(*WINE)
    for error, wrong in (
        (DtypeError, lambda: ours.as_sklearn(mixed)),
        (DtypeError, lambda: ours.as_sklearn(gg.nn.Sequential(gg.nn.Linear(2, 2), gg.nn.Tanh()))),
        (ShapeError, lambda: ours.as_sklearn(two, classes=[0, 1, 2])),
        (DtypeError, lambda: ours.from_sklearn(ours.MLPClassifier())),
        (DtypeError, lambda: ours.from_sklearn(StandardScaler())),
        (DtypeError, lambda: ours.from_sklearn(several)),
    ):
        with pytest.raises(error):
            wrong()


def test_it_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    for solver in ("adam", "lbfgs"):
        ours.MLPClassifier(**SHORT | {"solver": solver}, verbose=True).fit(*WINE)
        assert capsys.readouterr().out.count("Iteration") == 12
    ours.MLPClassifier(**SHORT, progress=True).fit(*WINE)
    with pytest.warns(ConvergenceWarning, match="Maximum iterations"):
        ours.MLPClassifier(**SHORT).fit(*WINE)


def test_going_on_with_another_solver() -> None:
    model = ours.MLPClassifier(**SHORT | {"solver": "lbfgs", "warm_start": True}).fit(*WINE)
    before = model.loss_
    for solver in ("adam", "adamw", "lbfgs", "sgd"):
        model.set_params(solver=solver).fit(*WINE)
    assert model.loss_ < before


def test_interrupted_training_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))
    step = ours.network.Networks.epoch_losses

    def interrupted(self: Any, rows: int) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return step(self, rows)

    monkeypatch.setattr(ours.network.Networks, "epoch_losses", interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        model = ours.MLPClassifier(**SHORT).fit(*WINE)
    assert model.n_iter_ == 3
    assert model.predict(WINE[0]).shape == (178,)


BAD = {
    "activation": "sine",
    "solver": "newton",
    "dropout": 1.0,
    "ensemble": 0,
    "alpha": -1.0,
    "hidden_layer_sizes": (-1,),
    "device": 3,
}


@pytest.mark.parametrize(("name", "value"), BAD.items())
def test_bad_parameters_raise(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        ours.MLPClassifier(**{name: value}).fit(*WINE)


def test_weights_that_run_away_raise() -> None:
    x, y = DIABETES
    model = ours.MLPRegressor(**SHORT | {"solver": "sgd", "learning_rate_init": 1e6})
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        model.fit(1e6 * x, y)
    with pytest.raises(AttributeError, match="not stochastic"):
        ours.MLPRegressor(solver="lbfgs").partial_fit(x, y)
    with pytest.raises(ValueError, match="early_stopping"):
        ours.MLPRegressor(early_stopping=True).partial_fit(x, y)
