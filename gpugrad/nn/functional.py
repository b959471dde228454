"""Activations and losses as functions. Imports tensor and the namespace's functions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpugrad.aval import aval_of, normalize_axis
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.lifting import as_written
from gpugrad.ops import nn as declared
from gpugrad.ops.index import within
from gpugrad.state import state
from gpugrad.tensor import Tensor


def _x(x: Any) -> Tensor:
    return x if type(x) is Tensor else functions.asarray(x)


# Activations


def identity(x: Any) -> Tensor:
    """``x``."""
    return _x(x)


def sigmoid(x: Any) -> Tensor:
    """``σ(x) = 1 / (1 + e⁻ˣ)``; finite for every x, its derivative is ``y(1 − y)``.

    >>> import gpugrad as gg
    >>> gg.nn.sigmoid(gg.asarray([-1e4, 0.0, 1e4])).tolist()
    [0.0, 0.5, 1.0]
    """
    return ops.sigmoid(_x(x))


def tanh(x: Any) -> Tensor:
    """Hyperbolic tangent."""
    return ops.tanh(_x(x))


def relu(x: Any) -> Tensor:
    """``max(x, 0)``; the derivative at 0 is 0."""
    return ops.relu(_x(x))


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Tensor:
    """``x`` where it is positive, else ``negative_slope · x``."""
    return ops.leaky_relu(_x(x), slope=float(negative_slope))


def elu(x: Any, alpha: float = 1.0) -> Tensor:
    """``x`` where it is positive, else ``alpha · (eˣ − 1)``. Clevert et al. 2015, eq. 15."""
    return ops.elu(_x(x), alpha=float(alpha))


def gelu(x: Any) -> Tensor:
    """``x Φ(x)`` in its tanh form, PyTorch's ``approximate="tanh"``. Hendrycks, Gimpel 2016."""
    return ops.gelu(_x(x))


def silu(x: Any) -> Tensor:
    """``x σ(x)``."""
    return ops.silu(_x(x))


def softplus(x: Any) -> Tensor:
    """``log(1 + eˣ)``, without overflow."""
    return ops.softplus(_x(x))


def softmax(x: Any, axis: int = -1) -> Tensor:
    """``eˣ / Σ eˣ`` along ``axis``, without overflow."""
    x = _floating("softmax", x)
    return ops.softmax(x, axis=normalize_axis("softmax", axis, x.ndim))


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """``x − log Σ eˣ`` along ``axis``, without overflow."""
    x = _floating("log_softmax", x)
    return ops.log_softmax(x, axis=normalize_axis("log_softmax", axis, x.ndim))


def linear(x: Any, weight: Any, bias: Any = None) -> Tensor:
    """``x weightᵀ + bias``; ``x`` (…, in), ``weight`` (out, in), ``bias`` (out,)."""
    x, weight = _x(x), _x(weight)
    if bias is not None and type(bias) is not Tensor:
        bias = _beside(weight, as_written(bias, weight.dtype))
    if x.dtype.kind in "biu":  # NumPy would go on in float64
        x = functions.astype(x, weight.dtype)
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        got = f"weight: {weight.shape}, bias: {None if bias is None else bias.shape}"
        hint = "weight: (out, in), bias: (out,)"
        raise ShapeError(message("linear", "one bias for each row of the weights", got, hint))
    if bias is None:
        return functions.matmul(x, weight.T)
    return ops.linear(x, weight, bias)


def embedding(indices: Any, weight: Any) -> Tensor:
    """Rows of ``weight`` (n, width) by ``indices`` (any shape), integers in 0..n-1: (…, width).

    Raises `BoundsError` for an index outside the table, also in a compiled step; negative ones do
    not count from the end.
    """
    weight = _x(weight)
    indices = _beside(weight, indices).detach()
    if indices.dtype.kind not in "iu":
        hint = "codes.astype(gg.int64)"
        raise DtypeError(message("embedding", "indices are integers", indices.dtype, hint))
    rows: Tensor = weight[within("embedding", indices, weight.shape[0])]
    return rows


def layer_norm(
    x: Any,
    normalized_shape: int | Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Tensor:
    """``(x − mean) / √(var + eps) · weight + bias`` over the last axes, ``normalized_shape``.

    ``var`` divides by the count. Ba, Kiros, Hinton 2016, eq. 4.

    >>> import gpugrad as gg
    >>> gg.nn.layer_norm(gg.asarray([[1.0, 3.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    x = _floating("layer_norm", x)
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        got = f"x: {x.shape}, normalized_shape: {shape}"
        raise ShapeError(message("layer_norm", "normalized_shape is how the shape of x ends", got))
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    mean = ops.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    return _scaled(
        centred, ops.mean(centred * centred, axis=axes, keepdims=True), weight, bias, eps
    )


def batch_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``(x − mean) / √(var + eps) · weight + bias`` for each column of ``x`` (n, c) or (n, c, l).

    In training mean and variance are the batch's, and the running ones, unless None, move to them:
    ``running ← (1 − momentum) · running + momentum · batch``, with the unbiased variance. Otherwise
    they are the running ones. Ioffe, Szegedy 2015, algorithm 1.

    Raises `ShapeError` in training on a single value for each column.

    >>> import gpugrad as gg
    >>> gg.nn.batch_norm(gg.asarray([[1.0], [3.0]]), training=True, eps=0.0).tolist()
    [[-1.0], [1.0]]
    """
    x = _floating("batch_norm", x)
    if x.ndim not in (2, 3):
        raise ShapeError(message("batch_norm", "x is (n, c) or (n, c, l)", x.shape))
    axes, per_column = ((0,), (1, -1)) if x.ndim == 2 else ((0, 2), (1, -1, 1))
    if not training:
        mean, variance = (_x(value).reshape(per_column) for value in (running_mean, running_var))
        return _scaled(x - mean, variance, weight, bias, eps, per_column)
    count = x.size // max(1, x.shape[1])
    if count < 2:
        rule = "one value for each column has no variance to train with"
        raise ShapeError(message("batch_norm", rule, x.shape, "a larger batch, or model.eval()"))
    mean = ops.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    variance = ops.mean(centred * centred, axis=axes, keepdims=True)
    if running_mean is not None:
        for running, batch in (
            (running_mean, mean.detach()),
            (running_var, variance.detach() * (count / (count - 1))),
        ):
            running += momentum * (batch.reshape(running.shape).astype(running.dtype) - running)
    return _scaled(centred, variance, weight, bias, eps, per_column)


def _scaled(
    centred: Tensor, variance: Tensor, weight: Any, bias: Any, eps: float, shape: Any = None
) -> Tensor:
    """``centred / √(variance + eps) · weight + bias``, the last two seen as ``shape``."""
    y = centred * (1 / ops.sqrt(variance + eps))
    if weight is not None:
        y = y * (weight if shape is None else weight.reshape(shape))
    if bias is not None:
        y = y + (bias if shape is None else bias.reshape(shape))
    return y


# Losses. Each takes the raw output of the last layer.


def cross_entropy(logits: Any, labels: Any, reduction: str = "mean") -> Tensor:
    """Softmax cross-entropy ``logsumexp(z) − z[label]``, averaged over the rows.

    Parameters
    ----------
    logits : (n, classes), floating.
    labels : (n,), integers in 0..classes-1.
    reduction : ``"mean"``, ``"sum"`` or ``"none"`` (a loss for each row).

    Raises
    ------
    ShapeError
        Unless there is one label for each row.
    BoundsError
        For a label outside the classes; negative ones do not count from the end.

    Examples
    --------
    >>> import gpugrad as gg
    >>> gg.nn.cross_entropy(gg.zeros((2, 4)), gg.asarray([0, 3])).item()  # log 4
    1.3862943649291992
    """
    logits = _floating("cross_entropy", logits)
    labels = _beside(logits, labels)
    if labels.dtype.kind in "iu" and labels.ndim == 2 and labels.shape[1] == 1:
        hint = "labels.reshape(-1)"
        raise ShapeError(message("cross_entropy", "labels have one axis", labels.shape, hint))
    # Asked first: NumPy would broadcast some shapes that are wrong.
    declared.cross_entropy.aval(aval_of(logits), aval_of(labels))
    return _reduce("cross_entropy", ops.cross_entropy(logits, labels), reduction)


def bce_with_logits(logits: Any, targets: Any, reduction: str = "mean") -> Tensor:
    """Binary cross-entropy of ``σ(logits)`` against ``targets`` in 0..1, of the same shape.

    ``max(z, 0) − z·t + log(1 + e^{−|z|})``: finite for every logit.

    >>> import gpugrad as gg
    >>> gg.nn.bce_with_logits(gg.asarray([1e4, -1e4]), gg.asarray([1.0, 0.0])).item()
    0.0
    """
    logits, targets = _pair("bce_with_logits", logits, targets)
    return _reduce("bce_with_logits", ops.bce_with_logits(logits, targets), reduction)


def mse(prediction: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Mean squared error ``(prediction − target)²``, both of the same shape.

    Shapes (n, 1) and (n,) raise: broadcast to (n, n) they would train something else.

    >>> import gpugrad as gg
    >>> gg.nn.mse(gg.asarray([1.0, 3.0]), gg.asarray([1.0, 1.0])).item()
    2.0
    """
    prediction, target = _pair("mse", prediction, target)
    return _reduce("mse", ops.square(prediction - target), reduction)


def l1(prediction: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Mean absolute error ``|prediction − target|``, both of the same shape.

    >>> import gpugrad as gg
    >>> gg.nn.l1(gg.asarray([1.0, 3.0]), gg.asarray([1.0, 1.0])).item()
    1.0
    """
    prediction, target = _pair("l1", prediction, target)
    return _reduce("l1", ops.abs(prediction - target), reduction)


def huber(prediction: Any, target: Any, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """``d²/2`` for ``d = |prediction − target| ≤ delta``, else ``delta (d − delta/2)``.

    Huber 1964. Both of the same shape.

    >>> import gpugrad as gg
    >>> gg.nn.huber(gg.asarray([1.5, 3.0]), gg.asarray([1.0, 1.0]), reduction="none").tolist()
    [0.125, 1.5]
    """
    if not delta > 0:
        raise DtypeError(message("huber", "delta is a number > 0", delta))
    prediction, target = _pair("huber", prediction, target)
    size = ops.abs(prediction - target)
    inner = functions.minimum(size, delta)
    return _reduce("huber", inner * (size - 0.5 * inner), reduction)


def nll(log_probabilities: Any, labels: Any, reduction: str = "mean") -> Tensor:
    """``−log_probabilities[i, labels[i]]``: the loss behind `log_softmax`.

    ``log_probabilities`` (n, classes), ``labels`` (n,) integers; raises as `cross_entropy`, which
    does both steps at once.

    >>> import gpugrad as gg
    >>> gg.nn.nll(gg.nn.log_softmax(gg.zeros((1, 4))), gg.asarray([2])).item()
    1.3862943649291992
    """
    rows = _floating("nll", log_probabilities)
    labels = _beside(rows, labels)
    declared.cross_entropy.aval(aval_of(rows), aval_of(labels))
    labels = within("nll", labels.detach(), rows.shape[1])
    index = functions.arange(rows.shape[0], device=rows.device)
    return _reduce("nll", -rows[index, labels], reduction)


def _floating(op: str, x: Any) -> Tensor:
    values = _x(x)
    if values.dtype.kind != "f":
        hint = "x.astype(gg.float32)"
        raise DtypeError(message(op, "takes floating values", values.dtype, hint))
    if state.autocast is not None and values.dtype == np.float16:  # of what is made of several ops
        return functions.astype(values, np.float32)
    return values


def _beside(x: Tensor, other: Any) -> Tensor:
    """``other`` as a tensor: host data goes to the device of ``x``, a tensor stays where it is."""
    device = None if isinstance(other, Tensor) else x.device
    return functions.asarray(other, device=device)


def _pair(op: str, prediction: Any, target: Any) -> tuple[Tensor, Tensor]:
    prediction = _floating(op, prediction)
    target = _beside(prediction, as_written(target, prediction.dtype))
    if prediction.shape != target.shape:
        got = f"prediction: {prediction.shape}, target: {target.shape}"
        hint = "y.reshape(prediction.shape) if they mean the same values"
        rule = "shapes must be equal; broadcasting here would average over pairs that do not belong"
        raise ShapeError(message(op, rule, got, hint))
    if target.dtype != prediction.dtype:
        target = functions.astype(target, prediction.dtype)
    return prediction, target


_REDUCTIONS = ("mean", "sum", "none")


def _reduce(op: str, losses: Tensor, reduction: str) -> Tensor:
    if reduction not in _REDUCTIONS:
        hint = " or ".join(map(repr, _REDUCTIONS))
        raise ShapeError(message(op, "unknown reduction", repr(reduction), hint))
    if reduction == "none":
        return losses
    axes = tuple(range(losses.ndim))
    if reduction == "mean" and not losses.size:
        rule = "the mean of no rows is undefined"
        raise ShapeError(message(op, rule, losses.shape, 'a batch with rows, or reduction="sum"'))
    return (ops.mean if reduction == "mean" else ops.sum)(losses, axis=axes, keepdims=False)
