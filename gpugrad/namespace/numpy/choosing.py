"""Some of the values, chosen by place or condition. Imports `arranging`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpugrad.aval import normalize_axes, normalize_axis
from gpugrad.errors import BoundsError, DtypeError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray, astype
from gpugrad.namespace.lifting import along, constant, flat_unless, host, together
from gpugrad.namespace.numpy.arranging import ravel
from gpugrad.tensor import Tensor


def compress(condition: Any, a: Any, axis: int | None = None) -> Tensor:
    """The places along ``axis`` where the 1-d ``condition`` is true."""
    x, axis = flat_unless(a, axis)
    axis = normalize_axis("compress", axis, x.ndim)
    if isinstance(condition, Tensor):
        return x[along(axis, functions.flatnonzero(condition))]
    return x[along(axis, constant(np.flatnonzero(host(condition)), x.device))]


def extract(condition: Any, arr: Any) -> Tensor:
    """The values of ``arr`` where ``condition``, in one axis."""
    return compress(ravel(condition), ravel(arr))


def delete(arr: Any, obj: Any, axis: int | None = None) -> Tensor:
    """``arr`` without the places ``obj`` (integers, a slice or a mask) along ``axis``."""
    x, axis = flat_unless(arr, axis)
    axis = normalize_axis("delete", axis, x.ndim)
    kept = np.delete(np.arange(x.shape[axis]), host(obj))
    return x[along(axis, constant(kept, x.device))]


def insert(arr: Any, obj: Any, values: Any, axis: int | None = None) -> Tensor:
    """``arr`` with ``values`` put in before the places ``obj`` along ``axis``.

    >>> import gpugrad as gg
    >>> gg.insert([1, 2, 3], 1, 9).tolist()
    [1, 9, 2, 3]
    """
    x, axis = flat_unless(arr, axis)
    axis = normalize_axis("insert", axis, x.ndim)
    n = x.shape[axis]
    places = np.arange(n)[obj] if isinstance(obj, slice) else np.asarray(host(obj))
    if places.dtype == np.bool_:
        places = np.flatnonzero(places)
    v = together(x, values)[1]
    v = functions.reshape(v, (1,) * (x.ndim - v.ndim) + v.shape)
    if not places.ndim:  # one place takes whatever values has along its first axis
        v = functions.moveaxis(v, 0, axis)
    count = max(places.size, v.shape[axis] if places.size == 1 else 1) if places.size else 0
    v = astype(v, x.dtype)
    v = functions.broadcast_to(v, (*x.shape[:axis], count, *x.shape[axis + 1 :]))
    # Behind one another, and then read in the order that NumPy gives their numbers.
    order = np.insert(np.arange(n), places, n + np.arange(count))
    return functions.concat([x, v], axis=axis)[along(axis, constant(order, x.device))]


def trim_zeros(filt: Any, trim: str = "fb", axis: Any = None) -> Tensor:
    """``filt`` without the zeros at its front (``"f"``), back (``"b"``) or both, along ``axis``.

    >>> import gpugrad as gg
    >>> gg.trim_zeros([0, 1, 0, 2, 0]).tolist()
    [1, 0, 2]
    """
    x = asarray(filt)
    if not trim or set(trim.lower()) - {"f", "b"}:
        raise DtypeError(message("trim_zeros", "trims the front, the back or both", trim, "'fb'"))
    axes = normalize_axes("trim_zeros", axis, x.ndim)
    found = np.nonzero(host(x))
    key = []
    for i, (size, places) in enumerate(zip(x.shape, found, strict=True)):
        first, last = (int(places.min()), int(places.max())) if places.size else (size, -1)
        start = first if i in axes and "f" in trim.lower() else 0
        stop = last + 1 if i in axes and "b" in trim.lower() else size
        key.append(slice(start, max(start, stop)))
    return x[tuple(key)]


def diag(v: Any, k: int = 0) -> Tensor:
    """The ``k``-th diagonal of a matrix, or the matrix that has the vector ``v`` there."""
    x = asarray(v)
    if x.ndim not in (1, 2):
        raise ShapeError(message("diag", "takes a vector or a matrix", x.shape))
    if x.ndim == 2:
        return ops.diagonal(x, k=k)
    size = x.size + abs(k)
    return ops.diagonal_matrix(x, k=k, shape=(size, size))


def diagflat(v: Any, k: int = 0) -> Tensor:
    """The matrix that has all values of ``v`` on its ``k``-th diagonal."""
    return diag(ravel(v), k)


def choose(a: Any, choices: Any, *, mode: str = "raise") -> Tensor:
    """At each place the value of that one of ``choices`` whose number stands in ``a``.

    >>> import gpugrad as gg
    >>> gg.choose([1, 0], [[1, 2], [30, 40]]).tolist()
    [30, 2]
    """
    i = asarray(a)
    given = together(*choices)
    n = len(given)
    if mode == "wrap":
        i = i % n
    elif mode == "clip":
        i = functions.clip(i, 0, n - 1)
    elif i.size and (int(functions.min(i)) < 0 or int(functions.max(i)) >= n):
        raise BoundsError(message("choose", f"a number is outside the {n} choices", a))
    i, *spread = functions.broadcast_arrays(i, *given)
    table = functions.stack(spread)
    return functions.take_along_axis(table, i[None], axis=0)[0]


def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Tensor:
    """At each place the choice of the first condition that is true, or ``default``."""
    if len(condlist) != len(choicelist) or not condlist:
        got = f"{len(condlist)} and {len(choicelist)}"
        raise ShapeError(message("select", "as many choices as conditions, at least one", got))
    *choices, y = together(*choicelist, default)
    for condition, choice in zip(condlist[::-1], choices[::-1], strict=True):
        y = functions.where(condition, choice, y)
    return y


def piecewise(x: Any, condlist: Any, funclist: Sequence[Any], *args: Any, **kw: Any) -> Tensor:
    """At each place the function (or number) of the last condition that is true there.

    Each function sees the values of its own places only. One function more than conditions is that
    of the places where none is true; else there it is 0.

    >>> import gpugrad as gg
    >>> x = gg.asarray([-1.0, 4.0])
    >>> gg.piecewise(x, [x < 0, x >= 0], [lambda v: -v, gg.sqrt]).tolist()
    [1.0, 2.0]
    """
    x = asarray(x)
    single = not isinstance(condlist, (list, tuple)) or (
        x.ndim > 0 and not isinstance(condlist[0], (list, tuple)) and not np.ndim(condlist[0])
    )
    conditions = [asarray(c, dtype=np.bool_) for c in ([condlist] if single else condlist)]
    if len(funclist) == len(conditions) + 1:
        free = ~conditions[0]
        for condition in conditions[1:]:
            free = free & ~condition
        conditions.append(free)
    if len(funclist) != len(conditions):
        got = f"{len(funclist)} for {len(conditions)} conditions"
        raise ShapeError(message("piecewise", "as many functions, or one more", got))
    y: Tensor = functions.zeros_like(x)
    for condition, f in zip(conditions, funclist, strict=True):
        if not callable(f):
            functions.setitem(y, condition, f)
        elif bool(functions.any(condition)):
            functions.setitem(y, condition, f(x[condition], *args, **kw))
    return y


def ix_(*args: Any) -> tuple[Tensor, ...]:
    """Vectors of indices, each along an axis of its own: ``x[ix_(i, j)]`` has all their pairs."""
    made = []
    for k, arg in enumerate(args):
        i = asarray(arg)
        if i.ndim != 1:
            raise ShapeError(message("ix_", "takes vectors", i.shape))
        i = functions.nonzero(i)[0] if i.dtype == np.bool_ else i
        i = i if i.size else astype(i, np.int64)
        made.append(functions.reshape(i, (1,) * k + (-1,) + (1,) * (len(args) - k - 1)))
    return tuple(made)


def unravel_index(indices: Any, shape: Any) -> tuple[Tensor, ...]:
    """The index of each axis, from indices into the flattened array of ``shape``.

    >>> import gpugrad as gg
    >>> [i.item() for i in gg.unravel_index(5, (2, 3))]
    [1, 2]
    """
    i = asarray(indices)
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    size = math.prod(sizes)
    if i.dtype.kind not in "iu":
        raise DtypeError(message("unravel_index", "indices are integers", i.dtype))
    if i.size and (int(functions.min(i)) < 0 or int(functions.max(i)) >= size):
        raise BoundsError(message("unravel_index", f"an index is outside the {size} places", i))
    found = []
    for d in sizes[::-1]:
        found.append(i % d)
        i = i // d
    return tuple(found[::-1])


def ravel_multi_index(multi_index: Sequence[Any], dims: Any, mode: Any = "raise") -> Tensor:
    """Indices into the flattened array of shape ``dims``, from one index for each axis."""
    sizes = tuple(dims) if isinstance(dims, (tuple, list)) else (dims,)
    modes = (mode,) * len(sizes) if isinstance(mode, str) else tuple(mode)
    if not len(multi_index) == len(sizes) == len(modes):
        got = f"{len(multi_index)} for {len(sizes)} axes"
        raise ShapeError(message("ravel_multi_index", "one index for each axis", got))
    flat: Any = 0
    for i, d, how in zip(together(*multi_index), sizes, modes, strict=True):
        if how == "wrap":
            i = i % d
        elif how == "clip":
            i = functions.clip(i, 0, d - 1)
        elif i.size and (int(functions.min(i)) < 0 or int(functions.max(i)) >= d):
            raise BoundsError(message("ravel_multi_index", f"an index is outside {d} places", i))
        flat = flat * d + i
    return asarray(flat)
