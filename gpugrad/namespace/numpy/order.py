"""Median and quantiles. Imports `lifting`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpugrad.aval import normalize_axes
from gpugrad.errors import BoundsError, DtypeError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.array import Axis
from gpugrad.namespace.creation import asarray
from gpugrad.namespace.lifting import floating
from gpugrad.tensor import Tensor

__all__ = [
    "median",
    "percentile",
    "quantile",
]

# (α, β) of the sample quantiles that interpolate: Hyndman and Fan 1996, table 1.
_METHODS = {
    "hazen": (0.5, 0.5),
    "interpolated_inverted_cdf": (0.0, 1.0),
    "linear": (1.0, 1.0),
    "median_unbiased": (1 / 3, 1 / 3),
    "normal_unbiased": (3 / 8, 3 / 8),
    "weibull": (0.0, 0.0),
}
_ROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "higher": np.ceil,
    "lower": np.floor,
    "midpoint": lambda at: (np.floor(at) + np.ceil(at)) / 2,
    "nearest": np.rint,
}


def median(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Middle value over ``axis``, the mean of the two middle ones of an even number.

    The gradient goes to the values in the middle; among equal ones, to those the sort put there.

    >>> import gpugrad as gg
    >>> gg.grad(gg.median)(gg.asarray([5.0, 1.0, 3.0, 9.0])).tolist()
    [0.5, 0.0, 0.5, 0.0]
    """
    rows, shape = _sorted_rows("median", a, axis, keepdims)
    n = rows.shape[-1]
    middle = functions.mean(rows[..., (n - 1) // 2 : n // 2 + 1], axis=-1)
    return functions.reshape(_nan_wins(rows, middle), shape)


def percentile(
    a: Any, q: Any, axis: Axis = None, *, method: str = "linear", keepdims: bool = False
) -> Tensor:
    """`quantile` of ``q / 100``."""
    return quantile(a, np.true_divide(_levels(q), 100), axis, method=method, keepdims=keepdims)


def quantile(
    a: Any, q: Any, axis: Axis = None, *, method: str = "linear", keepdims: bool = False
) -> Tensor:
    """The value below which the part ``q`` of the values over ``axis`` lies; q has no derivative.

    With sorted values s₀ … sₙ₋₁ and ``v = q(n − 1)`` it is ``s⌊v⌋ + (v − ⌊v⌋)(s⌊v⌋₊₁ − s⌊v⌋)``; the
    gradient follows these weights. The axes of ``q`` come first in the result. ``method`` is one of
    NumPy's that interpolate, or lower, higher, midpoint, nearest.

    >>> import gpugrad as gg
    >>> gg.quantile(gg.asarray([1.0, 2.0, 4.0]), [0.5, 0.75]).tolist()
    [2.0, 3.0]
    """
    levels = _levels(q)
    if levels.size and not (levels.min() >= 0 and levels.max() <= 1):
        raise BoundsError(message("quantile", "q is a part of the whole", q, "0 ≤ q ≤ 1"))
    rows, shape = _sorted_rows("quantile", a, axis, keepdims)
    n = rows.shape[-1]
    if method in _METHODS:
        alpha, beta = _METHODS[method]
        at = n * levels + (alpha + levels * (1 - alpha - beta)) - 1
        at = np.clip(at, 0, n - 1)
    elif method in _ROUNDINGS:
        at = _ROUNDINGS[method](levels * (n - 1))
    else:
        hint = ", ".join(sorted({*_METHODS, *_ROUNDINGS}))
        raise DtypeError(message("quantile", "not a method that is supported", method, hint))
    below = np.floor(at).astype(np.intp).reshape(-1)
    rest = (at.reshape(-1) - below).astype(rows.dtype)
    low, high = rows[..., below], rows[..., np.minimum(below + 1, n - 1)]
    rest = asarray(rest, device=rows.device)
    between = ops.where(rest == 0, low, low + (high - low) * rest)
    found = functions.moveaxis(_nan_wins(rows, between, np.newaxis), -1, 0)
    return functions.reshape(found, (*levels.shape, *shape))


def _levels(q: Any) -> Any:
    if isinstance(q, Tensor):
        q = q.numpy()  # refuses what is on the tape
    return np.asarray(q, np.float64)


def _sorted_rows(name: str, a: Any, axis: Axis, keepdims: bool) -> tuple[Tensor, tuple[int, ...]]:
    """The values over ``axis`` sorted along a last axis, and the shape of the result."""
    x = floating(a)
    axes = normalize_axes(name, axis, x.ndim)
    rest = tuple([i for i in range(x.ndim) if i not in axes])
    lead = tuple([x.shape[i] for i in rest])
    n = int(np.prod([x.shape[i] for i in axes], dtype=np.int64))
    if not n:
        raise ShapeError(message(name, "an empty axis has no such value", x.shape))
    rows = functions.reshape(functions.permute_dims(x, (*rest, *axes)), (*lead, n))
    kept = tuple([1 if i in axes else d for i, d in enumerate(x.shape)]) if keepdims else lead
    return functions.sort(rows, axis=-1), kept


def _nan_wins(rows: Tensor, value: Tensor, *at: Any) -> Tensor:
    """NaN where there is one, which sorting brought to the end."""
    return ops.where(ops.isnan(rows[(..., -1, *at)].detach()), np.nan, value)
