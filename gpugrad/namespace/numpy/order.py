"""Median, quantiles and partial orders, also of values with NaN among them. Imports `lifting`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpugrad.aval import normalize_axes, normalize_axis
from gpugrad.errors import BoundsError, DtypeError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray
from gpugrad.namespace.lifting import Axis, constant, flat_unless, floating, host
from gpugrad.tensor import Tensor


def _interpolated(alpha: float, beta: float) -> Callable[[Any, Any], Any]:
    return lambda n, q: n * q + (alpha + q * (1 - alpha - beta)) - 1


# Where among n sorted values, counted from 0, the part q of them lies. The first nine are those of
# Hyndman and Fan 1996, in their order; (α, β) from their table 1.
_METHODS: dict[str, Callable[[Any, Any], Any]] = {
    "inverted_cdf": lambda n, q: np.ceil(n * q) - 1,
    "averaged_inverted_cdf": lambda n, q: (np.ceil(n * q) + np.floor(n * q) - 1) / 2,
    "closest_observation": lambda n, q: np.rint(n * q) - 1,
    "interpolated_inverted_cdf": _interpolated(0, 1),
    "hazen": _interpolated(0.5, 0.5),
    "weibull": _interpolated(0, 0),
    "linear": lambda n, q: (n - 1) * q,
    "median_unbiased": _interpolated(1 / 3, 1 / 3),
    "normal_unbiased": _interpolated(3 / 8, 3 / 8),
    "higher": lambda n, q: np.ceil((n - 1) * q),
    "lower": lambda n, q: np.floor((n - 1) * q),
    "midpoint": lambda n, q: (np.floor((n - 1) * q) + np.ceil((n - 1) * q)) / 2,
    "nearest": lambda n, q: np.rint((n - 1) * q),
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
    a: Any,
    q: Any,
    axis: Axis = None,
    *,
    method: str = "linear",
    keepdims: bool = False,
    weights: Any = None,
) -> Tensor:
    """`quantile` of ``q / 100``."""
    levels = _checked(_levels(q) / 100, method)
    return _quantile(a, levels, axis, method, keepdims, weights)


def quantile(
    a: Any,
    q: Any,
    axis: Axis = None,
    *,
    method: str = "linear",
    keepdims: bool = False,
    weights: Any = None,
) -> Tensor:
    """The value below which the part ``q`` of the values over ``axis`` lies; q has no derivative.

    With sorted values s₀ … sₙ₋₁ and ``v = q(n − 1)`` it is ``s⌊v⌋ + (v − ⌊v⌋)(s⌊v⌋₊₁ − s⌊v⌋)``; the
    gradient follows these weights. The axes of ``q`` come first in the result. ``method`` is any of
    NumPy's; the discrete ones select one value, or the mean of two. With ``weights``, which have no
    derivative, it is ``"inverted_cdf"``: the first value up to which they are the part q of all.

    >>> import gpugrad as gg
    >>> gg.quantile(gg.asarray([1.0, 2.0, 4.0]), [0.5, 0.75]).tolist()
    [2.0, 3.0]
    """
    return _quantile(a, _checked(_levels(q), method), axis, method, keepdims, weights)


def _quantile(a: Any, levels: Any, axis: Axis, method: str, keepdims: bool, weights: Any) -> Tensor:
    if weights is not None:
        return _weighted(asarray(a), levels, axis, method, keepdims, host(weights))
    rows, shape = _sorted_rows("quantile", a, axis, keepdims)
    between = _read(rows, _METHODS[method](rows.shape[-1], levels.reshape(-1)))
    return _levels_first(_nan_wins(rows, between, np.newaxis), levels, shape)


def nanmedian(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """`median` of the values that are not NaN; NaN where there is none."""
    return nanquantile(a, 0.5, axis, keepdims=keepdims)


def nanpercentile(
    a: Any, q: Any, axis: Axis = None, *, method: str = "linear", keepdims: bool = False
) -> Tensor:
    """`nanquantile` of ``q / 100``."""
    return _nanquantile(a, _checked(_levels(q) / 100, method), axis, method, keepdims)


def nanquantile(
    a: Any, q: Any, axis: Axis = None, *, method: str = "linear", keepdims: bool = False
) -> Tensor:
    """`quantile` of the values that are not NaN; NaN where there is none.

    >>> import gpugrad as gg
    >>> gg.nanquantile(gg.asarray([1.0, float("nan"), 4.0]), 0.5).item()
    2.5
    """
    return _nanquantile(a, _checked(_levels(q), method), axis, method, keepdims)


def _nanquantile(a: Any, levels: Any, axis: Axis, method: str, keepdims: bool) -> Tensor:
    rows, shape = _sorted_rows("nanquantile", a, axis, keepdims)
    n = functions.sum(~ops.isnan(rows.detach()), axis=-1, keepdims=True)
    levels = constant(levels, rows.device)
    between = _read(rows, _METHODS[method](n, levels.reshape(-1)), n)
    return _levels_first(between, levels, shape)


def _levels(q: Any) -> Any:
    if isinstance(q, Tensor):
        q = q.to("cpu").numpy()  # refuses what is on the tape
    return np.asarray(host(q), np.float64)


def _checked(levels: Any, method: str) -> Any:
    if levels.size and not (levels.min() >= 0 and levels.max() <= 1):
        raise BoundsError(message("quantile", "q is a part of the whole", levels, "0 ≤ q ≤ 1"))
    if method not in _METHODS:
        hint = ", ".join(_METHODS)
        raise DtypeError(message("quantile", "not a method there is", repr(method), hint))
    return levels


def _in_rows(name: str, x: Tensor, axis: Axis, keepdims: bool) -> tuple[Tensor, tuple[int, ...]]:
    """The values over ``axis`` in a last axis, and the shape of what is left without it."""
    axes = normalize_axes(name, axis, x.ndim)
    rest = tuple([i for i in range(x.ndim) if i not in axes])
    lead = tuple([x.shape[i] for i in rest])
    n = int(np.prod([x.shape[i] for i in axes], dtype=np.int64))
    if not n:
        raise ShapeError(message(name, "an empty axis has no such value", x.shape))
    rows = functions.reshape(functions.permute_dims(x, (*rest, *axes)), (*lead, n))
    kept = tuple([1 if i in axes else d for i, d in enumerate(x.shape)]) if keepdims else lead
    return rows, kept


def _sorted_rows(name: str, a: Any, axis: Axis, keepdims: bool) -> tuple[Tensor, tuple[int, ...]]:
    rows, kept = _in_rows(name, floating(a), axis, keepdims)
    return functions.sort(rows, axis=-1), kept


def _read(rows: Tensor, at: Any, n: Tensor | None = None) -> Tensor:
    """Sorted ``rows`` at the places ``at``, between two values at those that are no integers.

    ``n`` counts the values of each row, where they are not all of it; without any, it gives NaN.
    """
    if n is None:
        last = rows.shape[-1] - 1
        at = np.clip(at, 0, last)
        below = np.floor(at).astype(np.intp)
        above = np.minimum(below + 1, last)
        rest = constant((at - below).astype(rows.dtype), rows.device)
        low, high = (rows[..., constant(i, rows.device)] for i in (below, above))
    else:
        end = ops.maximum(n - 1, 0)
        at = ops.minimum(ops.maximum(at, 0), end)
        first = functions.astype(ops.floor(at), np.intp)
        rest = functions.astype(at - first, rows.dtype)
        low = functions.take_along_axis(rows, first)
        high = functions.take_along_axis(rows, ops.minimum(first + 1, end))
    return ops.where(rest == 0, low, low + (high - low) * rest)


def _levels_first(found: Tensor, levels: Any, shape: tuple[int, ...]) -> Tensor:
    return functions.reshape(functions.moveaxis(found, -1, 0), (*levels.shape, *shape))


def _nan_wins(rows: Tensor, value: Tensor, *at: Any) -> Tensor:
    """NaN where there is one, which sorting brought to the end."""
    return ops.where(ops.isnan(rows[(..., -1, *at)].detach()), np.nan, value)


def _weighted(a: Tensor, levels: Any, axis: Axis, method: str, keepdims: bool, w: Any) -> Tensor:
    if method != "inverted_cdf":
        hint = "method='inverted_cdf'"
        raise DtypeError(message("quantile", "this method takes no weights", repr(method), hint))
    w = np.asarray(w, np.float64)
    if w.shape != a.shape:
        if w.ndim != 1 or not isinstance(axis, int) or w.size != a.shape[axis]:
            got = f"a: {a.shape}, weights: {w.shape}, axis: {axis}"
            hint = "weights of a's shape, or one for each place along axis"
            raise ShapeError(message("quantile", "weights do not fit", got, hint))
        w = np.broadcast_to(np.moveaxis(w.reshape((-1,) + (1,) * (a.ndim - 1)), 0, axis), a.shape)
    if not (w >= 0).all():
        raise BoundsError(message("quantile", "weights are not negative", float(w.min())))
    rows, shape = _in_rows("quantile", floating(a), axis, keepdims)
    order = functions.argsort(rows, axis=-1)
    heavy = _in_rows("quantile", asarray(w), axis, False)[0].numpy()
    part = np.cumsum(np.take_along_axis(heavy, host(order), -1), -1)
    # A value without weight never is the first that reaches q, not even q = 0.
    reached = (part[..., None, :] >= levels.reshape(-1, 1) * part[..., None, -1:]) & (
        part[..., None, :] > 0
    )
    rows = functions.take_along_axis(rows, order, axis=-1)
    found = functions.take_along_axis(rows, reached.argmax(-1), axis=-1)
    return _levels_first(_nan_wins(rows, found, np.newaxis), levels, shape)


# Partial and other orders


def partition(a: Any, kth: Any, axis: int | None = -1) -> Tensor:
    """``a`` with the value of place ``kth`` where sorting puts it, none larger before it.

    It is sorted altogether: a sort is one of the orders that NumPy's contract allows.
    """
    x, axis = flat_unless(a, axis)
    _check_places(kth, x.shape[normalize_axis("partition", axis, x.ndim)])
    return functions.sort(x, axis=axis)


def argpartition(a: Any, kth: Any, axis: int | None = -1) -> Tensor:
    """Indices that bring ``a`` into the order of `partition`."""
    x, axis = flat_unless(a, axis)
    _check_places(kth, x.shape[normalize_axis("argpartition", axis, x.ndim)])
    return functions.argsort(x, axis=axis)


def _check_places(kth: Any, size: int) -> None:
    places = np.asarray(host(kth))
    if places.size and not (places.min() >= -size and places.max() < size):
        raise BoundsError(message("partition", f"kth is outside the {size} places", kth))


def lexsort(keys: Sequence[Any], axis: int = -1) -> Tensor:
    """Indices that sort by the last of ``keys``, among equals by the one before it, and so on.

    >>> import gpugrad as gg
    >>> gg.lexsort([[2, 1, 1], [5, 5, 4]]).tolist()
    [2, 1, 0]
    """
    rows = [asarray(key).detach() for key in keys]
    if not rows:
        raise ShapeError(message("lexsort", "needs at least one key", "none"))
    order = functions.argsort(rows[0], axis=axis)
    for key in rows[1:]:
        step = functions.argsort(functions.take_along_axis(key, order, axis=axis), axis=axis)
        order = functions.take_along_axis(order, step, axis=axis)
    return order


def sort_complex(a: Any) -> Tensor:
    """``a`` as complex numbers in order of their real parts, then of their imaginary parts."""
    x = asarray(a)
    x = functions.astype(x, np.result_type(x.dtype, np.complex64))
    order = lexsort([functions.imag(x), functions.real(x)])
    return functions.take_along_axis(x, order, axis=-1)
