"""Shape, index and matrix functions. Imports ops, aval, lifting."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpugrad.aval import normalize_axes, normalize_axis
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import ops
from gpugrad.namespace.creation import asarray
from gpugrad.namespace.lifting import Axis, as_written, together
from gpugrad.ops.index import split_key
from gpugrad.state import state
from gpugrad.tensor import Tensor, made, sole_owner

__all__ = [
    "broadcast_to",
    "concat",
    "expand_dims",
    "flip",
    "matmul",
    "matrix_transpose",
    "moveaxis",
    "permute_dims",
    "reshape",
    "roll",
    "squeeze",
    "stack",
    "take",
]

# Shape


def reshape(x: Any, /, shape: Any, *, copy: bool | None = None) -> Tensor:
    """The values of ``x`` in another shape, in C order; one size may be -1.

    >>> import gpugrad as gg
    >>> gg.reshape(gg.arange(6), (2, -1)).shape
    (2, 3)
    """
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    y = ops.reshape(asarray(x), shape=tuple(int(d) for d in sizes))
    return asarray(y, copy=True) if copy else y


def broadcast_to(x: Any, /, shape: tuple[int, ...]) -> Tensor:
    """``x`` repeated along new axes and axes of size 1 until it has ``shape``."""
    return ops.broadcast_to(asarray(x), shape=tuple(shape))


def permute_dims(x: Any, /, axes: tuple[int, ...]) -> Tensor:
    """``x`` with its axes in the order ``axes``."""
    x = asarray(x)
    order = tuple(normalize_axis("permute_dims", a, x.ndim) for a in axes)
    if sorted(order) != list(range(x.ndim)):
        rule = "axes must name every axis once"
        raise ShapeError(message("permute_dims", rule, f"axes {axes}, {x.ndim} axes"))
    return ops.permute_dims(x, axes=order)


def matrix_transpose(x: Any, /) -> Tensor:
    """``x`` with its last two axes exchanged."""
    x = asarray(x)
    if x.ndim < 2:
        raise ShapeError(message("matrix_transpose", "needs at least two axes", x.shape))
    order = (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2)
    return ops.permute_dims(x, axes=order)


def moveaxis(x: Any, source: Any, destination: Any, /) -> Tensor:
    """``x`` with the axes ``source`` moved to ``destination``, the others in their order."""
    x = asarray(x)
    sources = source if isinstance(source, tuple) else (source,)
    targets = destination if isinstance(destination, tuple) else (destination,)
    if len(sources) != len(targets):
        got = f"{sources} to {targets}"
        raise ShapeError(message("moveaxis", "as many destinations as sources", got))
    from_ = [normalize_axis("moveaxis", a, x.ndim) for a in sources]
    to = [normalize_axis("moveaxis", a, x.ndim) for a in targets]
    order = [i for i in range(x.ndim) if i not in from_]
    for target, axis in sorted(zip(to, from_, strict=True)):
        order.insert(target, axis)
    return ops.permute_dims(x, axes=tuple(order))


def expand_dims(x: Any, /, axis: Axis = 0) -> Tensor:
    """``x`` with new axes of size 1 at ``axis`` of the result."""
    x = asarray(x)
    count = len(axis) if isinstance(axis, tuple) else 1
    axes = normalize_axes("expand_dims", axis, x.ndim + count)
    old = iter(x.shape)
    shape = tuple(1 if i in axes else next(old) for i in range(x.ndim + count))
    return ops.reshape(x, shape=shape)


def squeeze(x: Any, /, axis: int | tuple[int, ...]) -> Tensor:
    """``x`` without the axes ``axis``, which must have size 1."""
    x = asarray(x)
    axes = normalize_axes("squeeze", axis, x.ndim)
    if [a for a in axes if x.shape[a] != 1]:
        raise ShapeError(message("squeeze", "only axes of size 1 go", f"{axis} of {x.shape}"))
    return ops.reshape(x, shape=tuple(d for i, d in enumerate(x.shape) if i not in axes))


def flip(x: Any, /, axis: Axis = None) -> Tensor:
    """``x`` in reverse order along ``axis`` (all axes by default)."""
    x = asarray(x)
    return ops.flip(x, axis=normalize_axes("flip", axis, x.ndim))


def roll(x: Any, /, shift: int | tuple[int, ...], axis: Axis = None) -> Tensor:
    """``x`` shifted round and round by ``shift`` places along ``axis``."""
    x = asarray(x)
    if axis is None:
        return reshape(roll(reshape(x, (-1,)), shift, axis=0), x.shape)
    axes = axis if isinstance(axis, tuple) else (axis,)
    shifts = shift if isinstance(shift, tuple) else (shift,) * len(axes)
    if len(shifts) != len(axes):
        got = f"shift {shift}, axis {axis}"
        raise ShapeError(message("roll", "as many shifts as axes", got))
    axes = tuple(normalize_axis("roll", a, x.ndim) for a in axes)
    return ops.roll(x, shift=shifts, axis=axes)


def concat(arrays: Sequence[Any], /, axis: int | None = 0) -> Tensor:
    """``arrays`` one after the other along ``axis``; with None, all flattened first.

    >>> import gpugrad as gg
    >>> gg.concat([gg.ones(2), gg.zeros(1)]).tolist()
    [1.0, 1.0, 0.0]
    """
    xs = together(*arrays)
    if not xs:
        raise ShapeError(message("concat", "needs at least one array", "none"))
    if axis is None:
        xs, axis = [reshape(x, (-1,)) for x in xs], 0
    axis = normalize_axis("concat", axis, xs[0].ndim)
    offsets = [0]
    for x in xs:
        if x.ndim != xs[0].ndim:
            got = [x.shape for x in xs]
            hint = "expand_dims(...) on those with fewer"
            raise ShapeError(message("concat", "all arrays need as many axes", got, hint))
        offsets.append(offsets[-1] + x.shape[axis])
    return ops.concat(*xs, axis=axis, offsets=tuple(offsets))


def stack(arrays: Sequence[Any], /, axis: int = 0) -> Tensor:
    """``arrays`` of one shape, side by side along a new axis.

    >>> import gpugrad as gg
    >>> gg.stack([gg.ones(2), gg.zeros(2)], axis=1).shape
    (2, 2)
    """
    xs = together(*arrays)
    if len({x.shape for x in xs}) != 1:
        got = [x.shape for x in xs]
        hint = "concat(...) for arrays of different sizes"
        raise ShapeError(message("stack", "all shapes must be equal", got, hint))
    axis = normalize_axis("stack", axis, xs[0].ndim + 1)
    return concat([expand_dims(x, axis=axis) for x in xs], axis=axis)


# Indexing


def getitem(x: Tensor, index: Any) -> Tensor:
    """``x[index]``: integers, slices, None, ``...``, integer and boolean arrays, as in NumPy."""
    key, arrays = split_key(index)
    y = ops.getitem(x, *[_index_array(x, a, index) for a in arrays], key=key)
    if state.trace is not None:
        return y
    # A view that a derivative rule saves would keep x from being written in place.
    if x._node is not None and not arrays and getattr(y._data, "base", None) is not None:
        small = y._data.size * 4 <= x._data.size
        y._data = y._data.copy() if small else y._data
    return y


def setitem(x: Tensor, index: Any, value: Any) -> None:
    """``x[index] = value``: points ``x`` at a new value; differentiable in both.

    The buffer is reused when nothing else can see it, so a loop of single writes costs O(n).
    """
    key, arrays = split_key(index)
    indices = [_index_array(x, a, index) for a in arrays]
    reuse = not state.special and sole_owner(x)
    if not isinstance(value, Tensor):
        value = asarray(as_written(value, x.dtype), device=x.device)
    if not np.can_cast(value.dtype, x.dtype, "same_kind"):
        got = f"{value.dtype} into {x.dtype}"
        hint = f"x = x.astype({value.dtype}) before, or value.astype({x.dtype})"
        raise DtypeError(message("setitem", "the value would lose its kind", got, hint))
    x._assign(ops.setitem(x, value, *indices, key=key, reuse=reuse))


def spread(values: Tensor, index: Any, like: Tensor) -> Tensor:
    """Zeros of the shape of ``like`` with ``values`` added at ``index``."""
    key, arrays = split_key(index)
    places = [_index_array(like, a, index) for a in arrays]
    return ops.scatter(values, *places, key=key, shape=like.shape)


def _index_array(x: Tensor, a: Any, index: Any) -> Any:
    if isinstance(a, Tensor):
        return a.detach()
    if state.trace is not None:  # a list is a constant, an array comes from somewhere else
        parts = index if type(index) is tuple else (index,)
        return asarray(a, device=x.device) if _is_among(a, parts) else made(a)
    return a if x.device == "cpu" else asarray(a, device=x.device)


def _is_among(x: Any, others: Sequence[Any]) -> bool:
    """Whether ``x`` itself is among ``others``."""
    return any(x is other for other in others)


def take(x: Any, indices: Any, /, axis: int | None = None) -> Tensor:
    """The places ``indices`` of ``x`` along ``axis``.

    >>> import gpugrad as gg
    >>> gg.take(gg.asarray([5.0, 6.0, 7.0]), gg.asarray([2, 0])).tolist()
    [7.0, 5.0]
    """
    x = asarray(x)
    if axis is None:
        if x.ndim != 1:
            raise ShapeError(message("take", "axis may be left out for 1-d only", x.shape))
        axis = 0
    axis = normalize_axis("take", axis, x.ndim)
    return getitem(x, (slice(None),) * axis + (asarray(indices, device=x.device),))


# Matrices


def matmul(x1: Any, x2: Any, /) -> Tensor:
    """Matrix product over the last two axes; a vector counts as one row or one column.

    >>> import gpugrad as gg
    >>> gg.matmul(gg.ones((2, 3)), gg.ones(3)).tolist()
    [3.0, 3.0]
    """
    if type(x1) is not Tensor or type(x2) is not Tensor:
        x1, x2 = together(x1, x2)
    if not x1.shape or not x2.shape:
        hint = "x1 * x2"
        raise ShapeError(message("matmul", "a scalar is no matrix", (x1.shape, x2.shape), hint))
    if len(x1.shape) >= 2 and len(x2.shape) >= 2:
        return ops.matmul(x1, x2)
    row, column = x1.ndim == 1, x2.ndim == 1
    a = expand_dims(x1, axis=0) if row else x1
    b = expand_dims(x2, axis=1) if column else x2
    y = ops.matmul(a, b)
    if column:
        y = squeeze(y, axis=y.ndim - 1)
    return squeeze(y, axis=y.ndim - (1 if column else 2)) if row else y
