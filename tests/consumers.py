"""Calls into scikit-learn and SciPy that take any array of the array API, run on tensors.

A table (``CALLS``), what is known not to run (``REFUSED``), and a program that runs every row on
NumPy arrays and on tensors and prints what came of it. SciPy reads ``SCIPY_ARRAY_API`` when it is
imported, so `test_consumers.py` runs this file in a Python of its own.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy
import sklearn
from scipy import constants, differentiate, fft, integrate, ndimage, signal, spatial, special, stats
from scipy.cluster import hierarchy, vq
from scipy.optimize import elementwise
from sklearn import (
    calibration,
    decomposition,
    discriminant_analysis,
    kernel_approximation,
    linear_model,
    metrics,
    mixture,
    model_selection,
    naive_bayes,
    pipeline,
    preprocessing,
)
from sklearn.metrics import pairwise
from sklearn.metrics.cluster import entropy
from sklearn.utils import extmath

import gpugrad as gg

# The versions whose array API support this table was written for.
WRITTEN_FOR = {"scikit-learn": "1.9", "SciPy": "1.17"}
INSTALLED = {"scikit-learn": sklearn.__version__, "SciPy": scipy.__version__}

Make = Callable[[Any], Any]  # turns a NumPy array into the kind of array under test

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 4))
X[:20, 0] += 2
TWO = np.repeat([1, 0], 20)
THREE = np.arange(40) % 3
TARGET = X @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.1 * rng.normal(size=40)
POSITIVE = np.abs(X) + 0.1
CHANCE = 1 / (1 + np.exp(1 - X[:, 0]))
CHANCES = np.exp(X[:, :3]) / np.exp(X[:, :3]).sum(1, keepdims=True)
GUESS, GUESSES = (CHANCE > 0.5).astype(int), CHANCES.argmax(1)
LABELS = (X > 0).astype(int), (X > 0.2).astype(int)
V, W = X[:, 0].copy(), X[:, 1].copy()


def namespace(a: Make) -> Any:
    return gg if isinstance(a(V), gg.Tensor) else np


CALLS: dict[str, Callable[[Make], Any]] = {}


# scikit-learn, array_api_dispatch=True: estimators


def transformed(estimator: Callable[[], Any], x: Any = X) -> Callable[[Make], Any]:
    return lambda a: estimator().fit(a(x)).transform(a(x))


def fitted(
    estimator: Callable[[], Any], y: Any, *results: str, x: Any = X
) -> Callable[[Make], Any]:
    """What methods and attributes of the estimator give after ``fit(x, y)``."""

    def call(a: Make) -> Any:
        model = estimator()
        model = model.fit(a(x)) if y is None else model.fit(a(x), a(y))
        found = [getattr(model, name) for name in results]
        return [result(a(x)) if callable(result) else result for result in found]

    return call


PREDICTIONS = ("predict", "predict_proba")

CALLS |= {
    "StandardScaler": transformed(lambda: preprocessing.StandardScaler()),
    "StandardScaler attributes": fitted(
        lambda: preprocessing.StandardScaler(), None, "mean_", "var_", "scale_"
    ),
    "StandardScaler inverse": lambda a: (
        preprocessing.StandardScaler().fit(a(X)).inverse_transform(a(X))
    ),
    "MinMaxScaler": transformed(lambda: preprocessing.MinMaxScaler()),
    "MaxAbsScaler": transformed(lambda: preprocessing.MaxAbsScaler()),
    "Normalizer l1": transformed(lambda: preprocessing.Normalizer(norm="l1")),
    "Normalizer l2": transformed(lambda: preprocessing.Normalizer()),
    "Normalizer max": transformed(lambda: preprocessing.Normalizer(norm="max")),
    "Binarizer": transformed(lambda: preprocessing.Binarizer()),
    "KernelCenterer": transformed(lambda: preprocessing.KernelCenterer(), X @ X.T),
    "PolynomialFeatures": transformed(lambda: preprocessing.PolynomialFeatures()),
    "LabelEncoder": lambda a: preprocessing.LabelEncoder().fit_transform(a(THREE)),
    "LabelBinarizer": lambda a: preprocessing.LabelBinarizer().fit_transform(a(THREE)),
    "maxabs_scale": lambda a: preprocessing.maxabs_scale(a(X)),
    "minmax_scale": lambda a: preprocessing.minmax_scale(a(X)),
    "scale": lambda a: preprocessing.scale(a(X)),
    "PCA auto": transformed(lambda: decomposition.PCA(2)),
    "PCA covariance_eigh": transformed(lambda: decomposition.PCA(2, svd_solver="covariance_eigh")),
    "PCA full": fitted(
        lambda: decomposition.PCA(2, svd_solver="full"),
        None,
        *("transform", "components_", "explained_variance_ratio_", "singular_values_", "score"),
    ),
    "PCA randomized": transformed(
        lambda: decomposition.PCA(
            2, svd_solver="randomized", random_state=0, power_iteration_normalizer="QR"
        )
    ),
    "PCA whitened": transformed(lambda: decomposition.PCA(2, whiten=True)),
    "Nystroem": transformed(lambda: kernel_approximation.Nystroem(n_components=5, random_state=0)),
    "Ridge svd": fitted(
        lambda: linear_model.Ridge(solver="svd"), TARGET, "predict", "coef_", "intercept_"
    ),
    "Ridge auto": fitted(lambda: linear_model.Ridge(), TARGET, "predict", "coef_"),
    "Ridge of several targets": fitted(
        lambda: linear_model.Ridge(solver="svd"), X[:, :2], "predict"
    ),
    "Ridge cholesky": fitted(lambda: linear_model.Ridge(solver="cholesky"), TARGET, "predict"),
    "RidgeCV": fitted(lambda: linear_model.RidgeCV(), TARGET, "predict", "coef_", "alpha_"),
    "RidgeClassifier": fitted(lambda: linear_model.RidgeClassifier(solver="svd"), TWO, "predict"),
    "RidgeClassifierCV": fitted(lambda: linear_model.RidgeClassifierCV(), TWO, "predict"),
    "LinearDiscriminantAnalysis": fitted(
        lambda: discriminant_analysis.LinearDiscriminantAnalysis(),
        THREE,
        *(*PREDICTIONS, "transform", "decision_function"),
    ),
    "LogisticRegression of two": fitted(
        lambda: linear_model.LogisticRegression(), TWO, *PREDICTIONS, "coef_"
    ),
    "LogisticRegression of three": fitted(
        lambda: linear_model.LogisticRegression(), THREE, *PREDICTIONS, "coef_"
    ),
    "LogisticRegressionCV": fitted(
        lambda: linear_model.LogisticRegressionCV(
            Cs=2, cv=2, l1_ratios=(0,), use_legacy_attributes=False, scoring="neg_log_loss"
        ),
        TWO,
        "predict",
    ),
    **{
        f"GaussianMixture {kind}": fitted(
            lambda kind=kind: mixture.GaussianMixture(
                2, covariance_type=kind, random_state=0, init_params="random"
            ),
            None,
            *(*PREDICTIONS, "score_samples", "bic"),
        )
        for kind in ("tied", "diag", "spherical")
    },
    "GaussianMixture full": fitted(
        lambda: mixture.GaussianMixture(2, random_state=0, init_params="random_from_data"),
        None,
        *PREDICTIONS,
    ),
    "GaussianNB": fitted(lambda: naive_bayes.GaussianNB(), TWO, *PREDICTIONS),
    "CalibratedClassifierCV": fitted(
        lambda: calibration.CalibratedClassifierCV(
            discriminant_analysis.LinearDiscriminantAnalysis(), method="temperature", cv=3
        ),
        TWO,
        *PREDICTIONS,
    ),
    "GridSearchCV": fitted(
        lambda: model_selection.GridSearchCV(
            linear_model.Ridge(solver="svd"), {"alpha": [0.1, 10.0]}, cv=3
        ),
        TARGET,
        "predict",
        "best_score_",
    ),
    "pipeline": fitted(
        lambda: pipeline.make_pipeline(
            preprocessing.StandardScaler(), decomposition.PCA(2), linear_model.Ridge(solver="svd")
        ),
        TARGET,
        "predict",
    ),
    "train_test_split": lambda a: model_selection.train_test_split(
        a(X), a(TWO), random_state=0, stratify=a(TWO)
    ),
    "cross_val_predict": lambda a: model_selection.cross_val_predict(
        discriminant_analysis.LinearDiscriminantAnalysis(), a(X), a(TWO), cv=3
    ),
    "randomized_svd": lambda a: extmath.randomized_svd(
        a(X), 2, random_state=0, power_iteration_normalizer="QR"
    ),
}

# scikit-learn: metrics, by the arguments they take


def metric(name: str, *arrays: Any, module: Any = metrics, **options: Any) -> None:
    call = "".join(f", {key}={value}" for key, value in options.items())
    CALLS[name + call] = lambda a: getattr(module, name)(*map(a, arrays), **options)


for name in [
    *("accuracy_score", "balanced_accuracy_score", "cohen_kappa_score", "confusion_matrix"),
    *("f1_score", "hamming_loss", "jaccard_score", "matthews_corrcoef", "precision_score"),
    *("multilabel_confusion_matrix", "precision_recall_fscore_support", "recall_score"),
    "zero_one_loss",
]:
    metric(name, TWO, GUESS)
for name in ("f1_score", "jaccard_score", "precision_score", "recall_score"):
    metric(name, THREE, GUESSES, average="macro")
    metric(name, THREE, GUESSES, average=None)
    metric(name, *LABELS, average="samples", zero_division=0)
metric("fbeta_score", TWO, GUESS, beta=0.5)
for name in [
    *("d2_absolute_error_score", "d2_pinball_score", "explained_variance_score", "max_error"),
    *("mean_absolute_error", "mean_absolute_percentage_error", "mean_pinball_loss"),
    *("mean_squared_error", "median_absolute_error", "r2_score", "root_mean_squared_error"),
]:
    metric(name, TARGET, V)
for name in [
    *("d2_tweedie_score", "mean_gamma_deviance", "mean_poisson_deviance"),
    *("mean_squared_log_error", "mean_tweedie_deviance", "root_mean_squared_log_error"),
]:
    metric(name, POSITIVE[:, 0], POSITIVE[:, 1])
metric("mean_tweedie_deviance", POSITIVE[:, 0], POSITIVE[:, 1], power=1.5)
for name in ("mean_squared_error", "r2_score"):
    metric(name, X, POSITIVE, multioutput="raw_values")
for name in [
    *("average_precision_score", "brier_score_loss", "d2_brier_score", "d2_log_loss_score"),
    *("det_curve", "log_loss", "precision_recall_curve", "roc_auc_score", "roc_curve"),
]:
    metric(name, TWO, CHANCE)
for name in ("brier_score_loss", "log_loss"):
    CALLS[f"{name} of three"] = lambda a, name=name: getattr(metrics, name)(a(THREE), a(CHANCES))
metric("roc_auc_score", THREE, CHANCES, multi_class="ovr")
metric("entropy", THREE, module=SimpleNamespace(entropy=entropy))
for name in [
    *("cosine_distances", "cosine_similarity", "euclidean_distances", "laplacian_kernel"),
    *("linear_kernel", "manhattan_distances", "polynomial_kernel", "rbf_kernel", "sigmoid_kernel"),
]:
    metric(name, X, X[:5], module=pairwise)
for name in ("additive_chi2_kernel", "chi2_kernel"):
    metric(name, POSITIVE, POSITIVE[:5], module=pairwise)
for name in ("cosine", "euclidean", "manhattan"):
    metric(f"paired_{name}_distances", X, POSITIVE, module=pairwise)
    metric("pairwise_distances", X, metric=name)
for name in ("cosine", "linear", "poly", "rbf"):
    metric("pairwise_kernels", X, metric=name)
metric("silhouette_score", X, TWO)
metric("ndcg_score", POSITIVE, POSITIVE[:, ::-1].copy())

# SciPy, SCIPY_ARRAY_API=1


def each(module: Any, names: str, *arrays: Any, **options: Any) -> None:
    prefix = module.__name__.removeprefix("scipy.")
    for name in names.split():
        CALLS[f"{prefix}.{name}"] = lambda a, name=name: getattr(module, name)(
            *[a(x) if isinstance(x, np.ndarray) else x for x in arrays], **options
        )


each(special, "log_softmax logsumexp softmax", X, axis=1)
each(special, "entr erf erfc expit i0 i1 j0 j1 log_ndtr ndtr sinc", V)
each(special, "digamma gammaln logit ndtri", CHANCE)
each(special, "betaln gammainc gammaincc kl_div rel_entr xlog1py xlogy", POSITIVE[:, 0], CHANCE)
each(special, "betainc", POSITIVE[:, 0], POSITIVE[:, 1], CHANCE)

each(stats, "circmean circstd circvar describe iqr kurtosis kurtosistest", V)
each(stats, "jarque_bera moment normaltest rankdata sem skew skewtest variation", V)
each(stats, "tmax tmean tmin tstd tvar zscore", V)
each(stats, "entropy gmean gstd gzscore hmean", POSITIVE[:, 0])
each(stats, "f_oneway ks_2samp linregress mannwhitneyu spearmanr ttest_ind ttest_rel", V, W)
each(stats, "bartlett brunnermunzel kruskal levene wilcoxon zmap", V, W)
each(stats, "combine_pvalues false_discovery_control", CHANCE)
CALLS["stats.chisquare"] = lambda a: stats.chisquare(
    a(CHANCE / CHANCE.sum()), a(np.full(40, 1 / 40))
)
CALLS["stats.pearsonr"] = lambda a: (
    result := stats.pearsonr(a(V), a(W)),
    *result.confidence_interval(),
)[1:]
CALLS["stats.quantile"] = lambda a: stats.quantile(a(V), a(np.array([0.1, 0.5])))
CALLS["stats.ttest_1samp"] = lambda a: stats.ttest_1samp(a(V), 0.1)

each(fft, "dct dst fft fft2 fftn fftshift hfft idct ifft ifft2 ifftn ihfft rfft rfft2 rfftn", X)
each(fft, "irfft irfft2 irfftn", X + 1j * POSITIVE)
CALLS["fft.fftfreq"] = lambda a: fft.fftfreq(8, xp=namespace(a))
CALLS["fft.rfftfreq"] = lambda a: fft.rfftfreq(8, xp=namespace(a))

each(signal, "convolve correlate fftconvolve oaconvolve", V, W[:5])
each(signal, "convolve2d correlate2d", X, X[:3, :3])
each(signal, "detrend hilbert medfilt wiener", V)
each(signal, "lfilter filtfilt", np.array([1.0, 0.5]), np.array([1.0, -0.3]), V)
each(signal, "sosfilt", np.array([[1.0, 0.5, 0.0, 1.0, -0.3, 0.0]]), V)
each(signal, "resample", V, num=20)
each(signal, "savgol_filter", V, window_length=5, polyorder=2)
each(signal, "upfirdn", W[:5], V)
CALLS["signal.windows.hann"] = lambda a: signal.windows.hann(8, xp=namespace(a))

each(integrate, "cumulative_simpson cumulative_trapezoid trapezoid", X, dx=0.5, axis=0)
each(integrate, "romb", X[:33], axis=0)
CALLS["integrate.cubature"] = lambda a: (
    integrate.cubature(
        lambda x: namespace(a).sum(x**2, axis=-1), a(np.zeros(2)), a(np.ones(2))
    ).estimate
)
CALLS["integrate.tanhsinh"] = lambda a: (
    integrate.tanhsinh(namespace(a).exp, a(np.zeros(2)), a(np.array([1.0, 2.0]))).integral
)
CALLS["integrate.tanhsinh to infinity"] = lambda a: (
    integrate.tanhsinh(lambda x: 1 / x**2, a(np.ones(2)), a(np.full(2, np.inf))).integral
)

CUBES = np.array([1.0, 2.0, 8.0])
CALLS["elementwise.find_root"] = lambda a: (
    elementwise.find_root(
        lambda x, c: x**3 - c, (a(np.zeros(3)), a(np.full(3, 5.0))), args=(a(CUBES),)
    ).x
)
CALLS["elementwise.find_minimum"] = lambda a: (
    elementwise.find_minimum(
        lambda x, c: (x - c) ** 2,
        (a(np.full(3, -10.0)), a(np.zeros(3)), a(np.full(3, 20.0))),
        args=(a(CUBES),),
    ).x
)
CALLS["elementwise.bracket_root"] = lambda a: (
    elementwise.bracket_root(lambda x, c: x**3 - c, a(np.zeros(3)), args=(a(CUBES),)).bracket
)
CALLS["differentiate.derivative"] = lambda a: differentiate.derivative(namespace(a).exp, a(V)).df
CALLS["differentiate.jacobian"] = lambda a: differentiate.jacobian(lambda x: x**2, a(V[:3])).df

each(ndimage, "gaussian_filter gaussian_laplace", X, 1.0)
each(ndimage, "laplace prewitt sobel spline_filter", X)
each(ndimage, "maximum_filter median_filter uniform_filter", X, size=3)
each(ndimage, "binary_dilation binary_erosion distance_transform_edt label", X > 0)
each(ndimage, "rotate shift zoom", X, 0.5)

each(vq, "vq kmeans2", X, X[:3].copy())
CALLS["cluster.vq.kmeans"] = lambda a: vq.kmeans(a(X), a(X[:3].copy()))
each(vq, "whiten", X)
each(hierarchy, "average linkage ward", X[:10])
CALLS["cluster.hierarchy.fcluster"] = lambda a: hierarchy.fcluster(hierarchy.linkage(a(X[:10])), 1)
CALLS["cluster.hierarchy.cophenet"] = lambda a: hierarchy.cophenet(hierarchy.linkage(a(X[:10])))

CALLS["Rotation"] = lambda a: spatial.transform.Rotation.from_euler("xyz", a(X[:, :3])).apply(
    a(X[:, 1:])
)
CALLS["Rotation product"] = lambda a: (
    (r := spatial.transform.Rotation.from_rotvec(a(X[:, :3]))) * r
).as_quat()
CALLS["constants.convert_temperature"] = lambda a: constants.convert_temperature(a(V), "C", "K")
CALLS["pchip"] = lambda a: scipy.interpolate.PchipInterpolator(a(np.arange(40.0)), a(V))(a(CHANCE))
CALLS["CubicSpline"] = lambda a: scipy.interpolate.CubicSpline(a(np.arange(40.0)), a(V))(a(CHANCE))
CALLS["RegularGridInterpolator"] = lambda a: scipy.interpolate.RegularGridInterpolator(
    (a(np.arange(40.0)), a(np.arange(4.0))), a(X)
)(a(POSITIVE[:, :2]))

THROUGH_A_VIEW = "writes through a view; a view of ours is a value of its own"

# What does not run, and whose doing it is.
REFUSED = {
    "GaussianMixture full": THROUGH_A_VIEW,
    "LogisticRegressionCV": "scikit-learn: keeps classes as keys of a dict",
    "Ridge cholesky": "scikit-learn: array API dispatch is for solver 'svd' only",
    "integrate.tanhsinh to infinity": THROUGH_A_VIEW,
    "ndcg_score": "scikit-learn: not for the array API, divides into a NumPy array",
    "pchip": THROUGH_A_VIEW,
    "scale": "scikit-learn: not for the array API, writes into np.asarray(x)",
    "signal.oaconvolve": THROUGH_A_VIEW,
    "signal.sosfilt": "SciPy: wants writable memory, of NumPy arrays too",
    "silhouette_score": "scikit-learn: not for the array API, uses ndarray.flat",
}


# What differentiates: the consumer stays in the array API, however long its way.
DIFFERENTIATES = {
    *("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "Normalizer l2", "KernelCenterer"),
    *("PolynomialFeatures", "PCA auto", "PCA whitened", "Nystroem", "Ridge svd", "RidgeCV"),
    *("LinearDiscriminantAnalysis", "GaussianNB", "pipeline", "train_test_split"),
    *("mean_squared_error, multioutput=raw_values", "r2_score, multioutput=raw_values"),
    *("cosine_similarity", "manhattan_distances", "rbf_kernel", "chi2_kernel"),
    *("special.log_softmax", "special.logsumexp", "special.softmax", "special.xlogy"),
    *("stats.circmean", "stats.iqr", "stats.kurtosis", "stats.quantile", "stats.skew"),
    *("stats.hmean", "stats.gmean", "stats.zscore", "stats.sem", "stats.tvar"),
    *("fft.fft", "fft.ifftn", "fft.rfft", "fft.hfft", "fft.irfft2"),
    *("signal.fftconvolve", "signal.resample", "cluster.vq.whiten", "Rotation"),
    *("integrate.cumulative_simpson", "integrate.trapezoid", "integrate.tanhsinh"),
    *("elementwise.find_root", "elementwise.find_minimum", "differentiate.derivative"),
}

# Where a difference is no judge.
ROUGH = {
    "GridSearchCV": "scikit-learn: a score that raises becomes NaN, with a warning",
    "elementwise.bracket_root": "how the bracket grows is no smooth matter",
    "euclidean_distances": "the distance of a point to itself, √0, has no derivative",
    "roc_curve": "its first threshold is infinite",
}


def leaves(result: Any) -> list[Any]:
    if isinstance(result, (list, tuple)):
        return [leaf for part in result for leaf in leaves(part)]
    return [result]


def agree(got: Any, want: Any) -> None:
    assert len(got) == len(want)
    for ours, numpys in zip(got, want, strict=True):
        if isinstance(numpys, np.ndarray) and numpys.ndim:
            assert isinstance(ours, gg.Tensor), f"came back as {type(ours).__name__}"
        host = ours.numpy() if isinstance(ours, gg.Tensor) else np.asarray(ours)
        assert host.dtype.kind == np.asarray(numpys).dtype.kind, f"{host.dtype}"
        # What a consumer makes from Python's floats is float32, our default.
        np.testing.assert_allclose(host, numpys, rtol=1e-6, atol=1e-7)


def agree_on_slope(call: Callable[[Make], Any]) -> str:
    """The gradient of all floating results in the row's first floating array, against NumPy."""
    first: list[Any] = []

    def reading(make: Make, x: Any = None) -> Make:
        """``make``, but for the first floating array: ``x``, or what is noted in ``first``."""
        waiting = [True]

        def convert(v: Any) -> Any:
            if waiting and v.dtype.kind in "fc":
                waiting.clear()
                first[:] = [v] if x is None else first
                return v if x is None else x
            return make(v)

        return convert

    weights = [
        rng.normal(size=np.shape(y)) + (1j * rng.normal(size=np.shape(y)) if kind == "c" else 0)
        for y in leaves(call(reading(np.asarray)))
        if (kind := np.asarray(y).dtype.kind) in "fc"
    ]
    if not first:
        return "no floating array goes in"
    (x,) = first
    direction = rng.normal(size=x.shape)

    def total(x: Any, make: Make) -> Any:
        ys = [y for y in leaves(call(reading(make, x))) if np.result_type(y).kind in "fc"]
        return sum(np.sum(np.real(y * w)) for y, w in zip(ys, weights, strict=True))

    ahead, behind = (total(x + step * direction, np.asarray) for step in (1e-6, -1e-6))
    gradient = gg.grad(lambda x: total(x, gg.asarray))(x)
    slope = np.sum(np.real(np.conj(gradient) * direction))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-4)
    return ""


def outcome(call: Callable[[Make], Any]) -> dict[str, str]:
    """What came of a row: ``value`` and ``slope``, each "" where all is well, or what is not."""
    try:
        want = leaves(call(np.asarray))
    except Exception as error:
        return {"absent": f"{type(error).__name__}: {error}"}
    found = {"value": "", "slope": "no floating result comes out"}
    try:
        agree(leaves(call(gg.asarray)), want)
    except Exception as error:
        found["value"] = f"{type(error).__name__}: {error}"
    if any(np.asarray(y).dtype.kind in "fc" for y in want):
        try:
            found["slope"] = agree_on_slope(call)
        except Exception as error:
            found["slope"] = f"{type(error).__name__}: {error}"
    return found


if __name__ == "__main__":
    assert os.environ["SCIPY_ARRAY_API"] == "1"
    sklearn.set_config(array_api_dispatch=True)
    warnings.simplefilter("ignore")  # the consumers' own
    json.dump({name: outcome(call) for name, call in CALLS.items()}, sys.stdout)
