"""NumPy's functions that write into their first argument: a tensor is pointed at a new value.

As any write, differentiable in what was there and in what is written. Imports `lifting`.
"""

from typing import Any

import numpy as np

from gpugrad.errors import BoundsError, DtypeError, ShapeError, message
from gpugrad.late import functions
from gpugrad.namespace.creation import asarray, astype
from gpugrad.namespace.lifting import constant, host, together
from gpugrad.tensor import Tensor


def copyto(dst: Any, src: Any, casting: str = "same_kind", where: Any = True) -> None:
    """Set ``dst`` to ``src`` where ``where``."""
    _target("copyto", dst)
    src = _like(src, dst)
    if not np.can_cast(src.dtype, dst.dtype, casting):  # type: ignore[arg-type]
        got = f"{src.dtype} into {dst.dtype}"
        raise DtypeError(message("copyto", f"the cast is not {casting}", got, "casting='unsafe'"))
    chosen = asarray(where, device=dst.device)
    functions.setitem(dst, ..., functions.where(chosen, astype(src, dst.dtype), dst))


def fill_diagonal(a: Any, val: Any, wrap: bool = False) -> None:
    """Set the diagonal of ``a``, all of whose indices are equal, to ``val``, repeated if too short.

    ``wrap`` goes on behind a tall matrix's first diagonal, after one row.

    >>> import gpugrad as gg
    >>> x = gg.zeros((2, 2))
    >>> gg.fill_diagonal(x, 5)
    >>> x.tolist()
    [[5.0, 0.0], [0.0, 5.0]]
    """
    _target("fill_diagonal", a)
    if a.ndim < 2 or (a.ndim > 2 and len(set(a.shape)) > 1):
        rule = "takes at least two axes, and more than two only of one size"
        raise ShapeError(message("fill_diagonal", rule, a.shape))
    n = a.shape[0] if wrap and a.ndim == 2 else min(a.shape)
    i = np.arange(n)
    if a.ndim == 2 and wrap:
        i = i[i % (a.shape[1] + 1) < a.shape[1]]
        index: Any = (i, i % (a.shape[1] + 1))
    else:
        index = (i,) * a.ndim
    a[tuple([constant(k, a.device) for k in index])] = _repeated(_like(val, a), i.size)


def put(a: Any, ind: Any, v: Any, mode: str = "raise") -> None:
    """Set places of the flattened ``a`` to the values ``v``, repeated if there are too few."""
    _target("put", a)
    places = np.asarray(host(ind)).reshape(-1)
    if mode == "wrap":
        places = places % a.size
    elif mode == "clip":
        places = np.clip(places, 0, a.size - 1)
    elif places.size and (places.min() < -a.size or places.max() >= a.size):
        raise BoundsError(message("put", f"an index is outside the {a.size} places", ind))
    where = np.unravel_index(places % max(a.size, 1), a.shape)
    index = tuple([constant(i, a.device) for i in where]) or ...
    functions.setitem(a, index, _repeated(_like(v, a), places.size, a.ndim == 0))


def place(arr: Any, mask: Any, vals: Any) -> None:
    """Set the places where ``mask`` to the values ``vals`` one after the other, repeated."""
    _target("place", arr)
    where = np.flatnonzero(host(mask))
    if where.size:
        put(arr, where, vals)


def putmask(a: Any, mask: Any, values: Any) -> None:
    """Set the places where ``mask`` to those of ``values``, repeated to the size of ``a``."""
    _target("putmask", a)
    given = functions.reshape(_repeated(_like(values, a), a.size), a.shape)
    functions.setitem(a, ..., functions.where(asarray(mask, device=a.device), given, a))


def put_along_axis(arr: Any, indices: Any, values: Any, axis: int | None) -> None:
    """Set what `take_along_axis` would read."""
    _target("put_along_axis", arr)
    i = asarray(indices, device=arr.device).detach()
    if axis is None:
        put(arr, i, values)
        return
    if i.ndim != arr.ndim:
        got = f"arr: {arr.shape}, indices: {i.shape}"
        raise ShapeError(message("put_along_axis", "both have as many axes", got))
    axis = range(arr.ndim)[axis]
    index: list[Any] = []
    for k, size in enumerate(arr.shape):
        column = (1,) * k + (size,) + (1,) * (arr.ndim - k - 1)
        index.append(i if k == axis else constant(np.arange(size).reshape(column), arr.device))
    arr[tuple(index)] = _like(values, arr)


def _target(name: str, a: Any) -> None:
    if not isinstance(a, Tensor):
        hint = f"np.{name}, which writes into arrays"
        raise DtypeError(message(name, "writes into a tensor", type(a).__name__, hint))


def _like(values: Any, a: Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values
    return together(a, values)[1]


def _repeated(values: Tensor, size: int, scalar: bool = False) -> Tensor:
    """``size`` of the flattened values, starting over when they end."""
    flat = functions.reshape(values, (-1,))
    if not flat.size and size:
        raise ShapeError(message("put", "there is no value to write", values.shape))
    whole = (
        flat
        if flat.size == size
        else flat[constant(np.arange(size) % max(flat.size, 1), flat.device)]
    )
    return whole[-1] if scalar else whole
