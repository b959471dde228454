"""What the estimators share: fitting and predicting. Imports fitting and network."""

import copy
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import clone, is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, validate_data

from gpugrad import backend, nn
from gpugrad.sklearn import fitting
from gpugrad.sklearn.network import Networks, Spec, host, predict
from gpugrad.tensor import Tensor

_STOCHASTIC = ("sgd", "adam", "adamw")
_CURVES = ("loss_curve_", "validation_scores_")


def constraints(own: dict[str, Any]) -> dict[str, Any]:
    activations = set(nn.ACTIVATIONS) - {"sigmoid"}  # which scikit-learn calls logistic
    return {
        **own,
        "activation": [StrOptions(activations), callable],
        "solver": [StrOptions({"lbfgs", *_STOCHASTIC})],
        "alpha": [*own["alpha"], "array-like"],
        "learning_rate_init": [*own["learning_rate_init"], "array-like"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "ensemble": [Interval(Integral, 1, None, closed="left")],
        "progress": ["boolean"],
        "device": [str],
    }


class Perceptron:
    """What the two share. Mixed in before scikit-learn's class, which has the rest."""

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> Any:
        return super()._validate_input(host(X), host(y), incremental, reset)  # type: ignore[misc]

    def _check_solver(self: Any) -> bool:
        if self.solver not in _STOCHASTIC:
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. "
                f"{self.solver} is not stochastic."
            )
        return True

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Mean accuracy of a classifier, R² of a regressor; as scikit-learn's, of any array."""
        return float(super().score(X, host(y), host(sample_weight)))  # type: ignore[misc]

    # Fitting

    def _fit(
        self: Any, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False
    ) -> Any:
        device = self._device_for(X)
        hidden = list(np.atleast_1d(self.hidden_layer_sizes))
        if any(width <= 0 for width in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        if incremental:
            self._check_solver()
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        if not first and len(getattr(self, "members_", [self])) != self.ensemble:
            raise ValueError("ensemble cannot change with warm_start=True or partial_fit.")
        X, y = self._validate_input(X, y, incremental, first)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(host(sample_weight), X)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        self.n_outputs_ = y.shape[1]
        self._random_state = check_random_state(self.random_state)
        units = [X.shape[1], *map(int, hidden), y.shape[1]]
        if first:
            for name in ("_networks", "_optimizer_state", "members_"):
                vars(self).pop(name, None)
        members = self._members(first, y, units, X.dtype)
        if self.solver in _STOCHASTIC:
            self._fit_stochastic(members, X, y, sample_weight, device, incremental)
        else:
            rows = fitting.Rows(X, self._targets(y, X.dtype), sample_weight, device)
            for member in members:
                networks = Networks(self._spec(device), [_layers(member)], 0)
                networks.penalise([member.alpha])
                fitting.quasi_newton(member, networks, rows)
        if self.ensemble > 1:
            self._gather(members)
        if not all(np.isfinite(w).all() for w in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may"
                " contain large values and need to be preprocessed."
            )
        return self

    def _fit_stochastic(
        self: Any, members: Any, X: Any, y: Any, weight: Any, device: str, incremental: bool
    ) -> None:
        for member in members:
            if not hasattr(member, "loss_curve_"):  # so far fitted by lbfgs, or made of a model
                member._start_curves()
        validation = None
        if self.early_stopping:
            X, y, weight, validation = self._split(X, y, weight)
        spec = self._spec(device)
        layers = [_layers(member) for member in members]
        networks: Any = getattr(self, "_networks", None)
        known = networks is not None and (networks.spec, networks.dtype) == (spec, X.dtype)
        if known:
            networks.load(layers)
        else:
            seed = copy.deepcopy(self._random_state).randint(np.iinfo(np.int32).max)
            networks = self._networks = Networks(spec, layers, seed)
        networks.penalise([0.0 if self.solver == "adamw" else m.alpha for m in members])
        if not (known and incremental):
            networks.pace([m.learning_rate_init for m in members])
            networks.use(fitting.optimizers(networks, self))
            if incremental:
                for optimizer, state in zip(
                    networks.optimizers, vars(self).pop("_optimizer_state", ()), strict=False
                ):
                    optimizer.load_state_dict(state)
        rows = fitting.Rows(X, self._targets(y, X.dtype), weight, device)
        with np.errstate(all="ignore"):  # weights that are not finite are an error at the end
            fitting.stochastic(self, members, networks, rows, validation, incremental)

    def _split(self: Any, X: Any, y: Any, weight: Any) -> Any:
        """Rows to train on and rows to validate with."""
        stratify = y if is_classifier(self) and self.n_outputs_ == 1 else None
        arrays = [X, y] if weight is None else [X, y, weight]
        parts = train_test_split(
            *arrays,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=stratify,
        )
        (X, X_val, y, y_val), weights = parts[:4], parts[4:] or (None, None)
        if X_val.shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' "
                "or the size of your dataset."
            )
        if is_classifier(self):
            y_val = self._label_binarizer.inverse_transform(y_val)
        return X, y, weights[0], (X_val, y_val, weights[1])

    def _spec(self: Any, device: str) -> Spec:
        return Spec(self.activation, self.out_activation_, self.loss, float(self.dropout), device)

    def _targets(self: Any, y: Any, dtype: Any) -> Any:
        """Labels for softmax's cross-entropy, else numbers in the dtype of X."""
        if self.out_activation_ == "softmax" and not callable(self.loss):
            return y.argmax(axis=1)
        return y.astype(dtype, copy=False)

    def _initialize(self: Any, y: Any, layer_units: Any, dtype: Any) -> None:
        super()._initialize(y, layer_units, dtype)  # type: ignore[misc]
        if self.solver in _STOCHASTIC:
            self._start_curves()

    def _start_curves(self: Any) -> None:
        """What scikit-learn begins with for the solvers it knows, which are not all."""
        early = self.early_stopping
        vars(self).update(
            loss_curve_=[],
            _no_improvement_count=0,
            validation_scores_=[] if early else None,
            best_validation_score_=-np.inf if early else None,
            best_loss_=None if early else np.inf,
        )

    # Ensembles

    def _members(self: Any, first: bool, y: Any, units: Any, dtype: Any) -> list[Any]:
        """The estimators to train: this one, or those it consists of."""
        for name in ("alpha", "learning_rate_init"):
            value = getattr(self, name)
            if np.ndim(value) and np.shape(value) != (self.ensemble,):
                raise ValueError(
                    f"{name} has one value, or one for each of ensemble={self.ensemble} networks; "
                    f"got shape {np.shape(value)}."
                )
        if np.min(self.learning_rate_init) <= 0:
            raise ValueError(f"learning_rate_init is above 0; got {self.learning_rate_init}.")
        if np.min(self.alpha) < 0:
            raise ValueError(f"alpha is at least 0; got {self.alpha}.")
        if np.ndim(self.alpha) and self.solver == "adamw":
            raise ValueError("alpha has one value with solver='adamw'.")
        start = copy.deepcopy(self._random_state)
        if first:
            self._initialize(y, units, dtype)
        if self.ensemble == 1:
            return [self]
        if first:
            alphas, rates = (
                np.broadcast_to(value, self.ensemble).tolist()
                for value in (self.alpha, self.learning_rate_init)
            )
            seeds = copy.deepcopy(start).randint(np.iinfo(np.int32).max, size=self.ensemble)
            self.members_ = [clone(self) for _ in alphas]
            for k, (member, alpha, rate) in enumerate(
                zip(self.members_, alphas, rates, strict=True)
            ):
                member.set_params(ensemble=1, alpha=alpha, learning_rate_init=rate, progress=False)
                if k:  # the first is what would be trained alone
                    member.set_params(random_state=int(seeds[k]))
                member._random_state = check_random_state(int(seeds[k])) if k else start
                for name in ("_label_binarizer", "classes_", "n_features_in_", "feature_names_in_"):
                    if hasattr(self, name):
                        setattr(member, name, getattr(self, name))
                member._initialize(y, units, dtype)
        return list(self.members_)

    def _gather(self: Any, members: list[Any]) -> None:
        """Attributes of the whole: weights stacked, losses and scores averaged."""
        layers = [_layers(member) for member in members]
        self.coefs_ = [np.stack(ws) for ws in zip(*[coefs for coefs, _ in layers], strict=True)]
        self.intercepts_ = [np.stack(bs) for bs in zip(*[b for _, b in layers], strict=True)]
        self.n_iter_ = max(m.n_iter_ for m in members)
        self.t_ = max(m.t_ for m in members)
        for name in ("loss_", "best_loss_", "best_validation_score_"):
            values: list[Any] = [getattr(m, name, None) for m in members]
            if None not in values:
                setattr(self, name, float(np.mean(values)))
        for name in _CURVES:
            curves: list[Any] = [getattr(m, name, None) for m in members]
            if None not in curves:
                epochs = range(max(map(len, curves)))  # those that still trained
                now = [[curve[i] for curve in curves if len(curve) > i] for i in epochs]
                setattr(self, name, [float(np.mean(values)) for values in now])

    # Predicting

    def _device_for(self: Any, X: Any) -> str:
        if self.device != "auto":
            return str(self.device)
        if isinstance(X, Tensor) or backend.is_cupy(X):
            return X.device if isinstance(X, Tensor) else backend.of(X).device
        return "cuda" if backend.cuda_available() else "cpu"

    def _forward_pass_fast(self: Any, X: Any, check_input: bool = True) -> Any:
        device = self._device_for(X)
        X = host(X)
        if check_input:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        if self.ensemble > 1:
            return np.mean([m._forward_pass_fast(X, False) for m in self.members_], axis=0)
        spec, layers = self._spec(device), _layers(self)
        if X.dtype.kind != "f":
            X = X.astype(layers[0][0].dtype)
        if not issparse(X):
            return predict(spec, layers, X)
        rows = X.tocsr()
        parts = [predict(spec, layers, rows[p].toarray()) for p in fitting.dense_parts(rows)]
        return np.concatenate(parts)

    def __getstate__(self) -> Any:
        """The optimiser's state as NumPy arrays: a pickle opens where there is no CuPy."""
        state: Any = super().__getstate__()
        networks = state.pop("_networks", None)
        if networks is not None:
            state["_optimizer_state"] = [
                {k: v.to("cpu").numpy() if isinstance(v, Tensor) else v for k, v in kept.items()}
                for kept in (optimizer.state_dict() for optimizer in networks.optimizers)
            ]
        return state


def _layers(member: Any) -> Any:
    return member.coefs_, member.intercepts_
