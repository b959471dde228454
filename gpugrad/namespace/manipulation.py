"""Repeating, selecting and taking apart: compositions of few ops. Imports ops, aval and array."""

from typing import Any

import numpy as np

from gpugrad.aval import Aval, broadcast, normalize_axis
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import ops
from gpugrad.namespace.array import broadcast_to, concat, getitem, reshape, take
from gpugrad.namespace.creation import asarray
from gpugrad.namespace.lifting import constant, together
from gpugrad.tensor import Tensor

__all__ = [
    "broadcast_arrays",
    "broadcast_shapes",
    "diff",
    "repeat",
    "take_along_axis",
    "tile",
    "unstack",
]


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that arrays of ``shapes`` broadcast to.

    >>> import gpugrad as gg
    >>> gg.broadcast_shapes((3, 1), (4,))
    (3, 4)
    """
    names = [f"shape {i}" for i in range(len(shapes))]
    return broadcast("broadcast_shapes", names, [Aval(tuple(s), None) for s in shapes])


def broadcast_arrays(*arrays: Any) -> tuple[Tensor, ...]:
    """``arrays``, each repeated to the shape they broadcast to together."""
    xs = together(*arrays)
    shape = broadcast_shapes(*[x.shape for x in xs])
    return tuple([x if x.shape == shape else broadcast_to(x, shape) for x in xs])


def unstack(x: Any, /, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices of ``x`` along ``axis``: what `stack` would put together again.

    >>> import gpugrad as gg
    >>> [row.tolist() for row in gg.unstack(gg.asarray([[1, 2], [3, 4]]))]
    [[1, 2], [3, 4]]
    """
    x = asarray(x)
    lead = (slice(None),) * normalize_axis("unstack", axis, x.ndim)
    return tuple([x[(*lead, i)] for i in range(x.shape[len(lead)])])


def repeat(x: Any, repeats: Any, /, axis: int | None = None) -> Tensor:
    """Each value (or slice along ``axis``) ``repeats`` times in a row; without axis, flattened.

    ``repeats`` is an integer, or integers for each place.

    >>> import gpugrad as gg
    >>> gg.repeat(gg.asarray([1, 2]), 2).tolist()
    [1, 1, 2, 2]
    """
    x = asarray(x)
    if axis is None:
        x, axis = reshape(x, (-1,)), 0
    axis = normalize_axis("repeat", axis, x.ndim)
    size = x.shape[axis]
    times = repeats.to("cpu").detach().numpy() if isinstance(repeats, Tensor) else repeats
    counts = np.asarray(times)
    if counts.dtype.kind not in "iu":
        raise DtypeError(message("repeat", "repeats are integers", counts.dtype))
    if counts.ndim > 1 or counts.size not in (1, size) or (counts < 0).any():
        rule = "repeats are integers ≥ 0: one, or one for each place along the axis"
        got = f"repeats of shape {counts.shape}, {size} places"
        raise ShapeError(message("repeat", rule, got))
    if counts.size != 1:
        return take(x, constant(np.repeat(np.arange(size), counts), x.device), axis=axis)
    n = int(counts.reshape(()))
    before, after = x.shape[: axis + 1], x.shape[axis + 1 :]
    column = ops.reshape(x, shape=(*before, 1, *after))
    spread = ops.broadcast_to(column, shape=(*before, n, *after))
    return ops.reshape(spread, shape=(*before[:-1], size * n, *after))


def tile(x: Any, repetitions: Any, /) -> Tensor:
    """``x`` laid side by side ``repetitions`` times along each axis.

    >>> import gpugrad as gg
    >>> gg.tile(gg.asarray([1, 2]), (2, 2)).tolist()
    [[1, 2, 1, 2], [1, 2, 1, 2]]
    """
    x = asarray(x)
    times = tuple(repetitions) if isinstance(repetitions, (tuple, list)) else (repetitions,)
    ndim = max(x.ndim, len(times))
    times = (1,) * (ndim - len(times)) + tuple([t.__index__() for t in times])
    if min(times, default=0) < 0:
        raise ShapeError(message("tile", "repetitions are integers ≥ 0", repetitions))
    sizes = (1,) * (ndim - x.ndim) + x.shape
    cells = ops.reshape(x, shape=tuple(d for size in sizes for d in (1, size)))
    pairs = list(zip(times, sizes, strict=True))
    spread = ops.broadcast_to(cells, shape=tuple(d for pair in pairs for d in pair))
    return ops.reshape(spread, shape=tuple(t * size for t, size in pairs))


def take_along_axis(x: Any, indices: Any, /, axis: int = -1) -> Tensor:
    """``x`` at ``indices`` along ``axis``, which has one index for each place of the other axes.

    The other axes broadcast together. A value taken twice receives twice the gradient.

    >>> import gpugrad as gg
    >>> x = gg.asarray([[5.0, 6.0], [7.0, 8.0]])
    >>> gg.take_along_axis(x, gg.asarray([[1], [0]]), axis=1).tolist()
    [[6.0], [7.0]]
    """
    x = asarray(x)
    indices = asarray(indices, device=x.device)
    axis = normalize_axis("take_along_axis", axis, x.ndim)
    if indices.ndim != x.ndim:
        got = f"x: {x.shape}, indices: {indices.shape}"
        raise ShapeError(message("take_along_axis", "x and indices have as many axes", got))
    sides = [(*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in (x, indices)]
    wide = broadcast_shapes(*sides)
    x = _spread(x, (*wide[:axis], x.shape[axis], *wide[axis + 1 :]))
    places: list[Any] = []
    for i, size in enumerate(wide):
        column = (1,) * i + (size,) + (1,) * (x.ndim - i - 1)
        places.append(indices if i == axis else constant(np.arange(size).reshape(column), x.device))
    return getitem(x, tuple(places))


def _spread(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x if x.shape == shape else broadcast_to(x, shape)


def diff(x: Any, /, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Tensor:
    """``n`` times the differences between neighbours along ``axis``.

    ``prepend`` and ``append`` are put before and after ``x`` first.

    >>> import gpugrad as gg
    >>> gg.diff(gg.asarray([1.0, 4.0, 9.0])).tolist()
    [3.0, 5.0]
    """
    x = asarray(x)
    axis = normalize_axis("diff", axis, x.ndim)
    if n < 0:
        raise ShapeError(message("diff", "the number of times is ≥ 0", n))
    pieces = [a for a in (prepend, x, append) if a is not None]
    y = concat(pieces, axis=axis) if len(pieces) > 1 else x
    lead = (slice(None),) * axis
    for _ in range(n):
        after, before = y[(*lead, slice(1, None))], y[(*lead, slice(None, -1))]
        y = after != before if y.dtype == np.bool_ else after - before
    return y
