"""Order, search and sets. Imports ops, aval, tensor, array and creation.

Functions whose result has a shape that depends on values (`nonzero`, `unique_values` …) have no op:
they read the values at once. Indices have no derivative; distinct values are read at indices.
"""

from typing import Any, NamedTuple

import numpy as np

from gpugrad import backend
from gpugrad.aval import normalize_axis
from gpugrad.errors import ShapeError, message
from gpugrad.late import ops
from gpugrad.namespace.array import reshape
from gpugrad.namespace.creation import asarray
from gpugrad.namespace.lifting import Axis, as_written, together
from gpugrad.namespace.manipulation import take_along_axis
from gpugrad.namespace.reductions import sum
from gpugrad.op import data_of
from gpugrad.tensor import Tensor


def argsort(x: Any, /, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Tensor:
    """Indices that sort ``x`` along ``axis``; equal values keep their order, NaN counts as largest.

    >>> import gpugrad as gg
    >>> gg.argsort(gg.asarray([3.0, 1.0, 2.0])).tolist()
    [1, 2, 0]
    """
    x = _ordered("argsort", asarray(x))
    return ops.argsort(x, axis=normalize_axis("argsort", axis, x.ndim), descending=descending)


def sort(x: Any, /, axis: int = -1, *, descending: bool = False, stable: bool = True) -> Tensor:
    """``x`` in order along ``axis``; NaN counts as largest.

    Complex numbers stand in order of their real parts, and where these are equal of the others.
    The gradient of each value goes back to the place it came from. Among equal values the order is
    that of the input, so there, where the derivative jumps, it is the one of this order.

    >>> import gpugrad as gg
    >>> gg.sort(gg.asarray([3.0, 1.0, 2.0]), descending=True).tolist()
    [3.0, 2.0, 1.0]
    """
    x = _ordered("sort", asarray(x))
    order = argsort(x, axis=axis, descending=descending)
    return take_along_axis(x, order, axis=axis)


def _ordered(name: str, x: Tensor) -> Tensor:
    if not x.ndim:
        raise ShapeError(message(name, "a 0-d tensor has no order", x.shape))
    return x


def searchsorted(x1: Any, x2: Any, /, side: str = "left", sorter: Any = None) -> Tensor:
    """Where in the ascending ``x1`` the values ``x2`` belong: before equal values, or after them.

    >>> import gpugrad as gg
    >>> gg.searchsorted(gg.asarray([1.0, 2.0, 3.0]), gg.asarray([2.0, 9.0])).tolist()
    [1, 3]
    """
    if side not in ("left", "right"):
        raise ShapeError(message("searchsorted", "side is 'left' or 'right'", repr(side)))
    x1 = together(x1, x2)[0]
    values = asarray(as_written(x2, x1.dtype), device=x1.device)
    if sorter is not None:
        x1 = take_along_axis(x1, sorter, axis=0)
    return ops.searchsorted(x1, values, side=side)


def nonzero(x: Any, /) -> tuple[Tensor, ...]:
    """Indices of the values that are not 0, one tensor an axis.

    >>> import gpugrad as gg
    >>> gg.nonzero(gg.asarray([0, 5, 7]))[0].tolist()
    [1, 2]
    """
    array = data_of(asarray(x))
    if not array.ndim:
        raise ShapeError(message("nonzero", "a 0-d tensor has no indices", array.shape))
    owner = backend.of(array)
    with owner.here():
        found = owner.xp.nonzero(array)
    return tuple([Tensor(i.astype(np.int64, copy=False)) for i in found])


def count_nonzero(x: Any, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """How many values over ``axis`` are not 0.

    >>> import gpugrad as gg
    >>> gg.count_nonzero(gg.asarray([0, 5, 7])).item()
    2
    """
    return sum(ops.not_equal(asarray(x), 0), axis=axis, keepdims=keepdims)


def isin(x1: Any, x2: Any, /, *, invert: bool = False) -> Tensor:
    """For each value of ``x1`` whether it is (with ``invert``, is not) among those of ``x2``.

    >>> import gpugrad as gg
    >>> gg.isin(gg.asarray([1, 2, 3]), gg.asarray([3, 1])).tolist()
    [True, False, True]
    """
    device = next((x.device for x in (x1, x2) if isinstance(x, Tensor)), None)
    x1, x2 = [asarray(x, device=device) for x in together(x1, x2)]
    return ops.isin(x1, x2, invert=invert)


class UniqueAll(NamedTuple):
    """What `unique_all` returns."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """What `unique_counts` returns."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """What `unique_inverse` returns."""

    values: Tensor
    inverse_indices: Tensor


def unique_all(x: Any, /) -> UniqueAll:
    """The distinct values, where each first occurs, which one each place holds, and how often.

    Values are in ascending order, and every NaN is distinct.

    >>> import gpugrad as gg
    >>> gg.unique_all(gg.asarray([5, 2, 5])).indices.tolist()
    [1, 0]
    """
    x = asarray(x)
    flat = reshape(x, (-1,))
    indices, inverse, counts = runs(data_of(flat))
    return UniqueAll(flat[indices], indices, reshape(inverse, x.shape), counts)


def runs(array: Any, equal_nan: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Of the distinct values of a vector, or rows of a matrix: first places, inverse, counts.

    The differences that CuPy and NumPy have in their own `unique` (NaN, shapes) are avoided.
    """
    owner = backend.of(array)
    with owner.here():
        return _runs(owner.xp, array, equal_nan)


def _runs(xp: Any, array: Any, equal_nan: bool) -> tuple[Tensor, Tensor, Tensor]:
    n = array.shape[0]
    if array.ndim == 1:
        order = xp.argsort(array, kind="stable")
    else:
        order = xp.lexsort(array.T[::-1]) if array.shape[1] else xp.arange(n)
    ranked = array[order]
    after, before = ranked[1:], ranked[:-1]
    differ = after != before
    if equal_nan:
        differ = differ & ((after == after) | (before == before))
    new = xp.ones(n, dtype=bool)
    new[1:] = differ if array.ndim == 1 else differ.any(axis=1)
    starts = xp.nonzero(new)[0]
    ends = xp.concatenate([starts[1:], xp.full(min(n, 1), n, starts.dtype)])
    inverse = xp.empty(n, np.int64)
    inverse[order] = xp.cumsum(new) - 1
    found = (order[starts], inverse, ends - starts)
    first, inverse, counts = (Tensor(part.astype(np.int64, copy=False)) for part in found)
    return first, inverse, counts


def unique_counts(x: Any, /) -> UniqueCounts:
    """The distinct values in ascending order, and how often each occurs."""
    found = unique_all(x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: Any, /) -> UniqueInverse:
    """The distinct values in ascending order, and for each place of ``x`` which one it holds."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: Any, /) -> Tensor:
    """The distinct values in ascending order; every NaN is distinct.

    >>> import gpugrad as gg
    >>> gg.unique_values(gg.asarray([5, 2, 5])).tolist()
    [2, 5]
    """
    return unique_all(x).values
