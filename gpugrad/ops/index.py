"""Reading and writing at an index. Imports op, aval, errors and backend.

An index is a ``key``, whose parts are integers, slices, None, Ellipsis or `ARRAY`; each `ARRAY`
stands for one of the index arrays, which are inputs of the op (without a derivative).
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import Aval
from gpugrad.errors import BoundsError, DtypeError, ShapeError, message
from gpugrad.op import Op
from gpugrad.ops.elementwise import where
from gpugrad.rules import REST, Joint
from gpugrad.state import state
from gpugrad.tensor import Tensor

ARRAY = type("ARRAY", (), {"__repr__": lambda self: "ARRAY"})()

Key = tuple[Any, ...]


def split_key(index: Any) -> tuple[Key, list[Any]]:
    """``x[index]`` as a key and its index arrays. Raises `DtypeError` for what is no index."""
    parts = index if type(index) is tuple else (index,)
    key: list[Any] = []
    arrays: list[Any] = []
    for part in parts:
        if part is None or part is Ellipsis or type(part) in (int, slice):
            key.append(_plain(part) if type(part) is slice else part)
        elif isinstance(part, (bool, np.bool_, list, tuple, np.ndarray)) or hasattr(part, "shape"):
            part = list(part) if type(part) is tuple else part
            if isinstance(part, np.integer):
                key.append(int(part))
                continue
            array = np.asarray(part) if isinstance(part, (bool, list)) else part
            if array.dtype.kind not in "bui" and not (isinstance(part, list) and not part):
                got = f"an index of dtype {array.dtype}"
                raise DtypeError(message("index", "indices are integers or booleans", got))
            key.append(ARRAY)
            arrays.append(array if array.size or not isinstance(part, list) else array.astype(int))
        elif hasattr(part, "__index__"):
            key.append(part.__index__())
        else:
            hint = "integers, slices, None, ..., integer or boolean arrays"
            raise DtypeError(message("index", "not an index", type(part).__name__, hint))
    return tuple(key), arrays


def _plain(part: slice) -> slice:
    """A slice of plain integers, so that a 0-d Tensor may stand in one."""
    ends = [None if v is None else v.__index__() for v in (part.start, part.stop, part.step)]
    return slice(*ends)


def _filled(key: Key, indices: Any) -> Any:
    rest = iter(indices)
    filled = tuple([next(rest) if part is ARRAY else part for part in key])
    return filled[0] if len(filled) == 1 else filled


def _checked(xp: Any, x: Any, key: Key, indices: Any) -> Any:
    """The index to hand to ``xp``; CuPy wraps what is out of range: there it is checked first."""
    if xp is not np and indices:
        owner = backend.behind(xp)
        for array, size in zip(indices, _indexed_sizes(x.shape, key, indices), strict=True):
            if array.dtype.kind != "b":
                owner.check_indices("index", array, size)
    return _filled(key, indices)


def _indexed_sizes(shape: Any, key: Key, indices: Any) -> list[int]:
    """For each index array the size of the (first) axis it addresses."""
    spans = iter([a.ndim if a.dtype.kind == "b" else 1 for a in indices])
    takes = [
        next(spans) if part is ARRAY else 0 if part is None or part is Ellipsis else 1
        for part in key
    ]
    sizes, axis = [], 0
    for part, span in zip(key, takes, strict=True):
        if part is ARRAY:
            sizes.append(shape[axis] if axis < len(shape) else 1)
        axis += len(shape) - sum(takes) if part is Ellipsis else span
    return sizes


def _index_aval(x: Aval, *indices: Aval, key: Key) -> Aval:
    if any(i.dtype == bool for i in indices):
        rule = "the shape of a boolean selection depends on its values"
        raise ShapeError(message("index", rule, hint="gg.where(mask, x, 0)"))
    arrays = [np.zeros(i.shape, np.intp) for i in indices]
    shape = _indexed(np.broadcast_to(np.empty((), x.dtype), x.shape), key, arrays).shape
    return Aval(shape, x.dtype)


def _indexed(x: Any, key: Key, indices: Any) -> Any:
    try:
        return x[_filled(key, indices)]
    except IndexError as error:
        raise _outside(error, x.shape) from None


def _outside(error: IndexError, shape: Any) -> BoundsError:
    hint = "as many indices as axes, each within its axis, and masks of the array's shape"
    return BoundsError(message("index", str(error), f"an array of shape {shape}", hint))


def _getitem(xp: Any, x: Any, *indices: Any, key: Key) -> Any:
    index = _checked(xp, x, key, indices)
    try:
        return x[index]
    except IndexError as error:
        raise _outside(error, x.shape) from None


getitem = Op(
    "getitem",
    _getitem,
    _index_aval,
    vjp=[lambda g, indices, like, *, key: _read_cotangent(g, indices, key, like.shape)],
    jvp="linear",
    kind="view",
)


def _read_cotangent(g: Any, indices: Any, key: Key, shape: Any) -> Any:
    if type(g) is Tensor:
        return scatter(g, *indices, key=key, shape=shape)
    return Piece(g, indices, key)


class Piece:
    """The cotangent of an array that was read at an index: ``g`` there, zero everywhere else.

    A pass on bare arrays adds it in place, so a loop of n reads costs O(n).
    """

    __slots__ = ("g", "indices", "key")

    def __init__(self, g: Any, indices: Any, key: Key) -> None:
        self.g = g
        self.indices = indices
        self.key = key

    def add_to(self, out: Any) -> None:
        xp = backend.of(out).xp
        if not self.indices:
            out[_filled(self.key, ())] += self.g
        elif out.dtype == np.float16:
            out += _scatter(xp, self.g, *self.indices, key=self.key, shape=out.shape)
        else:
            index = _checked(xp, out, self.key, self.indices)
            backend.behind(xp).scatter_add(out, index, self.g)


def _scatter(xp: Any, g: Any, *indices: Any, key: Key, shape: Any) -> Any:
    # An index that occurs twice receives twice; half precision would stop counting at 2048.
    wide = np.float32 if g.dtype == np.float16 else g.dtype
    out = xp.zeros(shape, wide)
    Piece(g.astype(wide, copy=False), indices, key).add_to(out)
    return out.astype(g.dtype, copy=False)


# Zeros of ``shape`` with g added at the index: the transpose of getitem.
scatter = Op(
    "scatter",
    _scatter,
    lambda g, *indices, key, shape: Aval(shape, g.dtype),
    vjp=[lambda g, indices, *, key: getitem(g, *indices, key=key)],
    jvp="linear",
)


def _setitem(xp: Any, x: Any, v: Any, *indices: Any, key: Key, reuse: bool) -> Any:
    index = _checked(xp, x, key, indices)
    out = x if reuse else xp.array(x)  # (a bare 0-d value may be a NumPy scalar)
    try:
        out[index] = v
    except IndexError as error:
        raise _outside(error, x.shape) from None
    return out


def _setitem_aval(x: Aval, v: Aval, *indices: Aval, key: Key, reuse: bool) -> Aval:
    if not any(i.dtype == bool for i in indices):
        place = _index_aval(x, *indices, key=key).shape
        try:
            fits = np.broadcast_shapes(place, v.shape) == place
        except ValueError:
            fits = False
        if not fits:
            got = f"a value of shape {v.shape} for a place of shape {place}"
            hint = "a value of that shape, or sizes of 1 where it repeats"
            raise ShapeError(message("setitem", "the value must broadcast to its place", got, hint))
    return x


def _setitem_tangent(dx: Any, dv: Any, x: Any, v: Any, xs: Any, *, key: Key) -> Any:
    dx = x * 0 if dx is None else dx
    return setitem(dx, 0 if dv is None else dv, *xs[2:], key=key, reuse=False)


def _stays(xp: Any, *indices: Any, key: Key, shape: Any) -> Any:
    """For each value written at the index, whether it is the last one written to its place."""
    index = _filled(key, indices)
    order = xp.full(shape, -1)
    place = order[index]
    numbers = xp.arange(place.size).reshape(place.shape)
    order[index] = numbers
    return order[index] == numbers


stays = Op(
    "stays",
    _stays,
    lambda *indices, key, shape: Aval(
        _indexed(
            np.broadcast_to(0, shape), key, [np.zeros(i.shape, np.intp) for i in indices]
        ).shape,
        np.dtype(bool),
    ),
)


def _write_cotangents(g: Any, saved: Any, node: Any) -> tuple[Any, ...]:
    x, v, *_ = node.parents
    key, indices = node.params["key"], saved[2:-1]
    bare = type(g) is not Tensor
    gx = gv = None
    if v is not None:
        gv = getitem(g, *indices, key=key)
        if not all(i.dtype == np.bool_ for i in indices):
            gv = where(stays(*indices, key=key, shape=g.shape), gv, 0)
        elif bare:
            gv = gv.copy()  # it may be a view of g
    if x is not None:
        gx = setitem(g, 0, *indices, key=key, reuse=bare)
    return gx, gv, *[None] * len(indices)


# x with v at the index. Where an index occurs twice the last value stays, and has the gradient.
setitem = Op(
    "setitem",
    _setitem,
    _setitem_aval,
    vjp=Joint(_write_cotangents, reads=[(REST,), (REST,)], overwrites=True),
    jvp=_setitem_tangent,
)


def _one_hot(xp: Any, t: Any, classes: int, dtype: Any) -> Any:
    out = xp.zeros((t.size, classes), dtype)
    out[xp.arange(t.size), t.reshape(-1)] = 1
    return out.reshape((*t.shape, classes))


one_hot = Op(
    "one_hot",
    lambda xp, t, *, classes, dtype: _one_hot(xp, t, classes, dtype),
    lambda t, *, classes, dtype: Aval((*t.shape, classes), np.dtype(dtype)),
)


def check_range(op: str, indices: Any, size: int) -> None:
    """Raise `BoundsError` unless every index is in ``0..size-1``; negative ones do not wrap."""
    if not indices.size:
        return
    unsigned = indices.view(f"u{indices.dtype.itemsize}")  # where a negative one is huge
    if int(unsigned.max()) >= size:
        low, high = int(indices.min()), int(indices.max())
        raise label_error(op, low if low < 0 else high, size)


def _within(xp: Any, x: Any, *, op: str, size: int) -> Any:
    check_range(op, x, size)
    return x


# x as it is; a step that is being traced checks it at every run.
_WITHIN = SimpleNamespace(
    name="within", kind="effect", rules=None, forward=_within, aval=lambda x, *, op, size: x
)


def within(op: str, labels: Tensor, size: int) -> Tensor:
    """``labels``, once it is certain that all are in ``0..size-1``; raises `BoundsError`."""
    if state.trace is not None:
        return state.trace.record(_WITHIN, (labels,), {"op": op, "size": size})  # type: ignore[no-any-return]
    check_range(op, labels._data, size)
    return labels


def label_error(op: str, label: int, size: int) -> BoundsError:
    """The error for a class ``label`` of ``size`` classes."""
    rule = f"a class label is outside 0..{size - 1}"
    hint = "labels counted from 0, and as many outputs as classes"
    return BoundsError(message(op, rule, label, hint))
