"""Comparing, searching and counting: without derivative but for `bincount`. Imports `lifting`."""

import math
from typing import Any

import numpy as np

from gpugrad.errors import BoundsError, DtypeError, GradientError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray, astype
from gpugrad.namespace.lifting import floating, host, together
from gpugrad.namespace.numpy.arranging import ravel
from gpugrad.node import Dual
from gpugrad.ops.index import ARRAY
from gpugrad.tensor import Tensor


def isclose(
    a: Any, b: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Tensor:
    """Where ``|a − b| ≤ atol + rtol·|b|``, or both are the same infinity."""
    a, b = [x.detach() for x in together(a, b)]
    finite = ops.isfinite(a) & ops.isfinite(b)
    b0 = ops.where(finite, b, 0)
    near = ops.abs(ops.where(finite, a, 0) - b0) <= atol + rtol * ops.abs(b0)
    same = ops.where(finite, near, a == b)
    return same | (ops.isnan(a) & ops.isnan(b)) if equal_nan else same


def allclose(
    a: Any, b: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Whether `isclose` holds everywhere."""
    return bool(functions.all(isclose(a, b, rtol, atol, equal_nan)))


def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> bool:
    """Whether shapes and all values are equal."""
    a, b = [x.detach() for x in together(a1, a2)]
    if a.shape != b.shape:
        return False
    same = a == b
    if equal_nan:
        same = same | ((a != a) & (b != b))
    return bool(functions.all(same))


def array_equiv(a1: Any, a2: Any) -> bool:
    """Whether the shapes broadcast together and all values are then equal."""
    a, b = [x.detach() for x in together(a1, a2)]
    try:
        return bool(functions.all(a == b))
    except ShapeError:
        return False


def argwhere(a: Any) -> Tensor:
    """The indices of the values that are not 0, one row each."""
    a = asarray(a)
    if not a.ndim:
        return functions.zeros((int(bool(a)), 0), dtype=np.int64, device=a.device)
    return functions.stack(list(functions.nonzero(a)), axis=1)


def flatnonzero(a: Any) -> Tensor:
    """The indices of the values that are not 0, in the flattened array."""
    return functions.nonzero(ravel(a))[0]


def bincount(x: Any, weights: Any = None, minlength: int = 0) -> Tensor:
    """How often each integer occurs in ``x``; with ``weights`` the sum of its weights.

    Differentiable in ``weights``.

    >>> import gpugrad as gg
    >>> gg.bincount(gg.asarray([0, 2, 2]), weights=[1.0, 2.0, 3.0]).tolist()
    [1.0, 0.0, 5.0]
    """
    written = isinstance(weights, Tensor) and not hasattr(x, "dtype")
    x = asarray(x, device=weights.device if written else None)
    if x.ndim != 1 or x.dtype.kind not in "iu":
        got = f"{x.dtype}{list(x.shape)}"
        raise DtypeError(message("bincount", "takes a vector of integers", got))
    if x.size and int(functions.min(x)) < 0:
        raise BoundsError(message("bincount", "counts integers ≥ 0", int(functions.min(x))))
    size = max(int(functions.max(x)) + 1 if x.size else 0, minlength)
    if weights is None:
        weights = functions.ones_like(x, dtype=np.int64)
    elif not hasattr(weights, "dtype"):
        weights = asarray(weights, device=x.device)
    weights = weights if asarray(weights).dtype == np.int64 else floating(weights)
    if weights.shape != x.shape:
        got = f"{weights.shape} for {x.shape}"
        raise ShapeError(message("bincount", "one weight for each integer", got))
    return ops.scatter(weights, x, key=(ARRAY,), shape=(size,))


def digitize(x: Any, bins: Any, right: bool = False) -> Tensor:
    """For each value the index of the bin, between rising or falling edges, that it lies in."""
    values, edges = [v.detach() for v in together(x, bins)]
    if edges.size > 1 and bool(edges[0] > edges[-1]):
        side = "right" if right else "left"
        return edges.size - functions.searchsorted(functions.flip(edges), values, side=side)
    return functions.searchsorted(edges, values, side="left" if right else "right")


def histogram_bin_edges(a: Any, bins: Any = 10, range: Any = None, weights: Any = None) -> Tensor:
    """The edges of the bins that `histogram` would use."""
    x = _untracked("histogram_bin_edges", a)
    edges = np.histogram_bin_edges(host(x), host(bins), range, host(weights))
    return asarray(edges, device=x.device)


def histogram(
    a: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Tensor, Tensor]:
    """Counts in ``bins`` and the bins' edges; differentiable in ``weights``, and in nothing else.

    >>> import gpugrad as gg
    >>> gg.histogram([1.0, 2.0, 2.5], bins=2)[0].tolist()
    [1, 2]
    """
    counts, (edges,) = histogramdd(
        _column("histogram", a), [bins], None if range is None else [range], density, weights
    )
    return (counts if density or weights is not None else astype(counts, np.int64)), edges


def histogram2d(
    x: Any, y: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`histogramdd` of the points (x, y): counts, and the edges along both axes."""
    if not isinstance(bins, (int, np.integer)) and len(bins) not in (1, 2):
        bins = [bins, bins]  # one array of edges is for both
    columns = [_column("histogram2d", v) for v in together(x, y)]
    points = functions.concat(columns, axis=1)
    counts, (first, second) = histogramdd(points, bins, range, density, weights)
    return counts, first, second


def histogramdd(
    sample: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Counts of the points ``sample`` (n, d) in a grid of ``bins``, and its edges along each axis.

    ``bins`` is a number, or for each axis a number or edges. With ``weights`` it is their sum in
    each bin, differentiable in them; with ``density`` divided by total and volume. The points and
    the edges have no derivative: being differentiated they raise.
    """
    if not hasattr(sample, "dtype") and isinstance(sample, (list, tuple)):
        sample = functions.stack(together(*sample), axis=1)  # as NumPy has it: a list of columns
    x = _untracked("histogramdd", sample)
    x = x if x.ndim == 2 else functions.reshape(x, (-1, 1))
    n, d = x.shape
    parts = [bins] * d if isinstance(bins, (int, np.integer)) else list(bins)
    ranges = [None] * d if range is None else list(range)
    if len(parts) != d or len(ranges) != d:
        raise ShapeError(message("histogramdd", "bins and ranges for each axis", (bins, range)))
    flat: Any = functions.zeros(n, dtype=np.int64, device=x.device)
    inside: Any = functions.ones(n, dtype=np.bool_, device=x.device)
    edges = []
    for k, (part, limits) in enumerate(zip(parts, ranges, strict=True)):
        column = x[:, k]
        _untracked("histogramdd", part)
        ends = np.histogram_bin_edges(host(column), host(part), limits)
        edge = asarray(ends, device=x.device)
        place = functions.searchsorted(edge, column, side="right") - 1
        place = place - astype(column == edge[-1], np.int64)  # the last bin has its end too
        inside = inside & (place >= 0) & (place < edge.size - 1)
        flat = flat * (edge.size - 1) + place
        edges.append(edge)
    shape = tuple([edge.size - 1 for edge in edges])
    w = functions.ones(n, dtype=np.float64, device=x.device) if weights is None else weights
    w = ravel(asarray(w, device=x.device))
    if w.shape != (n,):
        raise ShapeError(message("histogramdd", "one weight for each point", w.shape))
    counts = bincount(ops.where(inside, flat, 0), ops.where(inside, w, 0), math.prod(shape))
    counts = functions.reshape(counts, shape)
    if density:
        for k, edge in enumerate(edges):
            widths = functions.diff(edge)
            counts = counts / functions.reshape(widths, (1,) * k + (-1,) + (1,) * (d - k - 1))
        counts = counts / functions.sum(w * inside)
    return counts, tuple(edges)


def _column(name: str, a: Any) -> Tensor:
    return functions.reshape(_untracked(name, a), (-1, 1))


def _untracked(name: str, a: Any) -> Tensor:
    x = asarray(a)
    if x.requires_grad or type(x._data) is Dual:
        hint = "x.detach(), or weights=, in which it is differentiable"
        raise GradientError(message(name, "counts have no derivative", hint=hint))
    return x
