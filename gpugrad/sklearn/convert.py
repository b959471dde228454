"""Models as estimators and estimators as models. Imports nn and the estimators."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.preprocessing import LabelBinarizer

from gpugrad import nn
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.nn.activations import ACTIVATIONS
from gpugrad.sklearn.estimators import MLPClassifier, MLPRegressor

_NAMES = {kind: name for name, kind in ACTIVATIONS.items() if name != "sigmoid"}


def as_sklearn(
    model: nn.Sequential, classes: Sequence[Any] | None = None
) -> MLPClassifier | MLPRegressor:
    """A trained `nn.MLP` as a fitted estimator: a classifier with ``classes``, else a regressor.

    The model's outputs are logits, one for each class in sorted order (or a single one for two
    classes), or the numbers to predict. Weights are copied; dropout, which only trains, is left
    out. Raises `DtypeError` for a model that is not linear layers with one activation in between,
    `ShapeError` when outputs and classes do not match.

    >>> from gpugrad import nn
    >>> model = nn.MLP([4, 8, 3], "tanh")
    >>> estimator = as_sklearn(model, classes=["a", "b", "c"])
    >>> estimator.predict_proba([[0.0, 0.0, 0.0, 0.0]]).shape
    (1, 3)
    """
    linears, activation = _layers_of(model)
    coefs = [np.array(layer.weight.detach().to("cpu").numpy().T, order="C") for layer in linears]
    intercepts = [
        np.zeros(w.shape[1], w.dtype)
        if layer.bias is None
        else layer.bias.detach().to("cpu").numpy(copy=True)
        for layer, w in zip(linears, coefs, strict=True)
    ]
    kind = MLPRegressor if classes is None else MLPClassifier
    hidden = tuple(w.shape[1] for w in coefs[:-1])
    estimator = kind(hidden_layer_sizes=hidden, activation=activation)
    output = "identity"
    if classes is not None:
        binarizer = LabelBinarizer().fit(np.asarray(classes))
        count, outputs = len(binarizer.classes_), coefs[-1].shape[1]
        if count == outputs == 2:  # the difference of two logits is the logit of the second class
            coefs[-1] = coefs[-1][:, 1:] - coefs[-1][:, :1]
            intercepts[-1] = intercepts[-1][1:] - intercepts[-1][:1]
        elif outputs != (count if count > 2 else 1):
            got = f"{count} classes, {outputs} outputs"
            raise ShapeError(message("as_sklearn", "one output for each class", got))
        estimator.classes_, estimator._label_binarizer = binarizer.classes_, binarizer
        output = "softmax" if count > 2 else "logistic"
    estimator.coefs_, estimator.intercepts_ = coefs, intercepts
    estimator.out_activation_ = output
    estimator.n_layers_, estimator.n_outputs_ = len(coefs) + 1, coefs[-1].shape[1]
    estimator.n_features_in_ = coefs[0].shape[0]
    estimator.n_iter_ = estimator.t_ = 0
    return estimator


def from_sklearn(estimator: Any) -> nn.MLP:
    """A fitted MLPClassifier or MLPRegressor, scikit-learn's or ours, as an `nn.MLP`.

    Its outputs are those before the estimator's last activation: logits, or numbers to predict
    (their logarithm with ``loss="poisson"``). Weights are copied. Raises `DtypeError` for anything
    that is not such an estimator, or is not fitted.

    >>> from sklearn.neural_network import MLPClassifier
    >>> fitted = MLPClassifier((5,), solver="lbfgs", random_state=0).fit([[0.0], [1.0]], [0, 1])
    >>> from_sklearn(fitted).sizes
    [1, 5, 1]
    """
    coefs = getattr(estimator, "coefs_", None)
    if coefs is None or coefs[0].ndim != 2:
        got = repr(estimator)
        hint = "a fitted one; of an ensemble one of its members_"
        raise DtypeError(message("from_sklearn", "takes one fitted perceptron", got, hint))
    sizes = [coefs[0].shape[0], *[w.shape[1] for w in coefs]]
    model = nn.MLP(sizes, estimator.activation, dtype=coefs[0].dtype)
    linears, _ = _layers_of(model)
    for layer, w, b in zip(linears, coefs, estimator.intercepts_, strict=True):
        layer.load_state_dict({"weight": np.array(w.T, order="C"), "bias": b})
    return model


def _layers_of(model: nn.Sequential) -> tuple[list[nn.Linear], Any]:
    """The linear layers, and what they share as activation."""
    layers = [m for m in model if not isinstance(m, nn.Dropout)]
    linears, between = layers[::2], layers[1::2]
    alternate = len(layers) % 2 == 1 and all(isinstance(m, nn.Linear) for m in linears)
    described = {(type(m), repr(m)) for m in between}
    if not alternate or len(described) > 1:
        rule = "the model is linear layers with one activation in between"
        raise DtypeError(message("as_sklearn", rule, [type(m).__name__ for m in layers]))
    if not between:
        return linears, "identity"  # type: ignore[return-value]
    return linears, _NAMES.get(type(between[0]), between[0])  # type: ignore[return-value]
