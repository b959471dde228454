"""Reductions and running sums. Imports ops, aval, lifting and array."""

import builtins
import math
from typing import Any

import numpy as np

from gpugrad.aval import normalize_axes, normalize_axis
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import ops
from gpugrad.namespace.array import concat, reshape
from gpugrad.namespace.creation import asarray, astype, full
from gpugrad.namespace.lifting import Axis, floating
from gpugrad.tensor import Tensor

__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "cumulative_prod",
    "cumulative_sum",
    "logsumexp",
    "max",
    "mean",
    "min",
    "norm",
    "prod",
    "std",
    "sum",
    "var",
]


def _reduce(op: Any, x: Any, axis: Axis, keepdims: bool) -> Tensor:
    x = asarray(x)
    axes = normalize_axes(op.name, axis, len(x.shape))
    return op(x, axis=axes, keepdims=keepdims)  # type: ignore[no-any-return]


def _totalled(op: Any, x: Any, axis: Axis, dtype: Any, keepdims: bool) -> Tensor:
    if dtype is None:
        return _reduce(op, x, axis, keepdims)
    # Small integers would come back wider.
    return astype(_reduce(op, astype(x, dtype), axis, keepdims), dtype)


def sum(x: Any, /, axis: Axis = None, dtype: Any = None, *, keepdims: bool = False) -> Tensor:
    """Sum over ``axis`` (all by default); half precision accumulates in float32.

    >>> import gpugrad as gg
    >>> gg.sum(gg.ones((2, 3)), axis=0).tolist()
    [2.0, 2.0, 2.0]
    """
    return _totalled(ops.sum, x, axis, dtype, keepdims)


def prod(x: Any, /, axis: Axis = None, dtype: Any = None, *, keepdims: bool = False) -> Tensor:
    """Product over ``axis``; its gradient is exact where values are 0.

    >>> import gpugrad as gg
    >>> gg.grad(lambda x: gg.prod(x))(gg.asarray([0.0, 3.0])).tolist()
    [3.0, 0.0]
    """
    return _totalled(ops.prod, x, axis, dtype, keepdims)


def mean(x: Any, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over ``axis``; of floating numbers only."""
    x = asarray(x)
    if x.dtype.kind not in "fc":
        hint = "x.astype(gg.float32).mean()"
        raise DtypeError(message("mean", "the mean of integers is not one", x.dtype, hint))
    return _reduce(ops.mean, x, axis, keepdims)


def max(x: Any, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Largest value over ``axis``; ties share the gradient evenly."""
    return _reduce(ops.max, x, axis, keepdims)


def min(x: Any, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Smallest value over ``axis``; ties share the gradient evenly."""
    return _reduce(ops.min, x, axis, keepdims)


def norm(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Euclidean length ``√Σx²`` over ``axis``; at 0 all derivatives are 0."""
    return _reduce(ops.norm, floating(x), axis, keepdims)


def logsumexp(x: Any, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """``log Σ eˣ`` over ``axis``, without overflow; the derivative where all are −∞ is 0."""
    return _reduce(ops.logsumexp, floating(x), axis, keepdims)


def _degrees(op: str, x: Tensor, axis: Axis, correction: float) -> float:
    n = int(np.prod([x.shape[a] for a in normalize_axes(op, axis, x.ndim)], dtype=np.int64))
    return builtins.max(n - correction, 0)


def var(x: Any, /, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Variance over ``axis``; the sum of squares is divided by ``n − correction``."""
    x = asarray(x)
    centred = x - mean(x, axis=axis, keepdims=True)
    squares = ops.real(centred * ops.conj(centred)) if x.dtype.kind == "c" else centred * centred
    total = sum(squares, axis=axis, keepdims=keepdims)
    return total / (_degrees("var", x, axis, correction) or math.nan)


def std(x: Any, /, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Standard deviation over ``axis``; where all values are equal all derivatives are 0."""
    x = asarray(x)
    axes = normalize_axes("std", axis, x.ndim)
    first = x.detach()[tuple([slice(0, 1) if i in axes else slice(None) for i in range(x.ndim)])]
    x = x - first  # so that equal values are exactly their mean
    centred = x - mean(x, axis=axis, keepdims=True)
    root = math.sqrt(_degrees("std", x, axis, correction)) or math.nan
    return norm(centred, axis=axis, keepdims=keepdims) / root


def any(x: Any, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Whether one value over ``axis`` is true."""
    return _reduce(ops.any, x, axis, keepdims)


def all(x: Any, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Whether every value over ``axis`` is true."""
    return _reduce(ops.all, x, axis, keepdims)


def _arg(op: Any, x: Any, axis: int | None, keepdims: bool) -> Tensor:
    x = asarray(x)
    if axis is None:
        flat: Tensor = op(reshape(x, (-1,)), axis=0, keepdims=False)
        return reshape(flat, (1,) * x.ndim) if keepdims else flat
    y: Tensor = op(x, axis=normalize_axis(op.name, axis, x.ndim), keepdims=keepdims)
    return y


def argmax(x: Any, /, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
    """Index of the first largest value along ``axis``, or in the flattened array."""
    return _arg(ops.argmax, x, axis, keepdims)


def argmin(x: Any, /, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
    """Index of the first smallest value along ``axis``, or in the flattened array."""
    return _arg(ops.argmin, x, axis, keepdims)


def cumulative_sum(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """Sum of the values up to and including each place along ``axis``.

    >>> import gpugrad as gg
    >>> gg.cumulative_sum(gg.asarray([1, 2, 3])).tolist()
    [1, 3, 6]
    """
    return _cumulative("cumulative_sum", ops.cumsum, 0, x, axis, dtype, include_initial)


def cumulative_prod(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """Product of the values up to and including each place along ``axis``.

    Its gradient is exact where values are 0.

    >>> import gpugrad as gg
    >>> gg.cumulative_prod(gg.asarray([1, 2, 3])).tolist()
    [1, 2, 6]
    """
    return _cumulative("cumulative_prod", ops.cumprod, 1, x, axis, dtype, include_initial)


def _cumulative(
    name: str, op: Any, initial: int, x: Any, axis: int | None, dtype: Any, include_initial: bool
) -> Tensor:
    x = asarray(x)
    if axis is None:
        if x.ndim != 1:
            raise ShapeError(message(name, "axis may be left out for 1-d only", x.shape))
        axis = 0
    axis = normalize_axis(name, axis, x.ndim)
    y: Tensor = op(x if dtype is None else astype(x, dtype), axis=axis)
    if dtype is not None:
        y = astype(y, dtype)
    if not include_initial:
        return y
    first = (*y.shape[:axis], 1, *y.shape[axis + 1 :])
    return concat([full(first, initial, dtype=y.dtype, device=y.device), y], axis=axis)
