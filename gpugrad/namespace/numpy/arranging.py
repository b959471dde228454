"""Other shapes and orders of the same values. Imports `lifting`."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gpugrad.aval import normalize_axis
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import functions
from gpugrad.namespace.creation import asarray
from gpugrad.namespace.lifting import along, constant, host
from gpugrad.tensor import Tensor


def ravel(a: Any, order: str = "C") -> Tensor:
    """All values in one axis; the last index changes first, with ``order="F"`` the first does."""
    x = asarray(a)
    if order not in ("C", "F", "K", "A"):
        raise DtypeError(message("ravel", "unknown order", repr(order), "'C' or 'F'"))
    return functions.reshape(transpose(x) if order == "F" else x, (-1,))


def resize(a: Any, new_shape: Any) -> Tensor:
    """The values of ``a`` in another shape, repeated from the start if there are too few."""
    flat = ravel(a)
    shape = tuple(new_shape) if isinstance(new_shape, (tuple, list)) else (new_shape,)
    size = math.prod(shape)
    if not flat.size:
        return functions.zeros(shape, dtype=flat.dtype, device=flat.device)
    return functions.reshape(flat[constant(np.arange(size) % flat.size, flat.device)], shape)


def transpose(a: Any, axes: Any = None) -> Tensor:
    """``a`` with its axes in the order ``axes``, reversed by default."""
    a = asarray(a)
    return functions.permute_dims(a, tuple(range(a.ndim))[::-1] if axes is None else tuple(axes))


def swapaxes(a: Any, axis1: int, axis2: int) -> Tensor:
    """``a`` with two axes exchanged."""
    a = asarray(a)
    order = list(range(a.ndim))
    i, j = (normalize_axis("swapaxes", axis, a.ndim) for axis in (axis1, axis2))
    order[i], order[j] = order[j], order[i]
    return functions.permute_dims(a, tuple(order))


def rollaxis(a: Any, axis: int, start: int = 0) -> Tensor:
    """``a`` with ``axis`` moved to where it stands before axis ``start``; `moveaxis` is clearer."""
    a = asarray(a)
    axis = normalize_axis("rollaxis", axis, a.ndim)
    start = start + a.ndim if start < 0 else start
    order = [i for i in range(a.ndim) if i != axis]
    order.insert(start - (axis < start), axis)
    return functions.permute_dims(a, tuple(order))


def atleast_1d(*arys: Any) -> Any:
    """Each as a tensor of at least one axis; a tuple of several."""
    return _each(lambda x: x if x.ndim else functions.reshape(x, (1,)), arys)


def atleast_2d(*arys: Any) -> Any:
    """Each as a tensor of at least two axes, vectors as rows; a tuple of several."""
    return _each(lambda x: x if x.ndim > 1 else functions.reshape(x, (1, -1)), arys)


def atleast_3d(*arys: Any) -> Any:
    """Each as a tensor of at least three axes, new ones last; a tuple of several."""

    def three(x: Tensor) -> Tensor:
        shape = (1, x.size, 1) if x.ndim < 2 else (*x.shape, 1)
        return x if x.ndim > 2 else functions.reshape(x, shape)

    return _each(three, arys)


def _each(f: Callable[[Tensor], Tensor], arys: tuple[Any, ...]) -> Any:
    made = tuple([f(asarray(a)) for a in arys])
    return made[0] if len(made) == 1 else made


def flipud(m: Any) -> Tensor:
    """Rows in reverse order."""
    return functions.flip(m, axis=0)


def fliplr(m: Any) -> Tensor:
    """Columns in reverse order."""
    return functions.flip(m, axis=1)


def rot90(m: Any, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Tensor:
    """``m`` turned by ``k`` right angles, from the first of ``axes`` towards the second."""
    first, second = axes
    if k % 4 == 0:
        return asarray(m)
    if k % 4 == 2:
        return functions.flip(m, axis=(first, second))
    if k % 4 == 1:
        return swapaxes(functions.flip(m, axis=second), first, second)
    return functions.flip(swapaxes(m, first, second), axis=second)


def pad(array: Any, pad_width: Any, mode: str = "constant", *, constant_values: Any = 0) -> Tensor:
    """``array`` with ``pad_width`` places added before and after each axis.

    ``pad_width`` is one number, one pair (before, after), or a pair for each axis. ``mode`` is
    constant, edge, reflect, symmetric or wrap; all but constant repeat values, and so add up their
    gradients.

    >>> import gpugrad as gg
    >>> gg.pad(gg.asarray([1, 2, 3]), (2, 1), mode="reflect").tolist()
    [3, 2, 1, 2, 3, 2]
    """
    x = asarray(array)
    try:
        widths = np.broadcast_to(np.asarray(host(pad_width)), (x.ndim, 2)).tolist()
        values = np.broadcast_to(np.asarray(host(constant_values)), (x.ndim, 2))
    except ValueError as error:
        got = f"{pad_width} for {x.ndim} axes"
        hint = "n, (before, after), or a pair for each axis"
        raise ShapeError(message("pad", str(error), got, hint)) from None
    if mode not in ("constant", "edge", "reflect", "symmetric", "wrap"):
        hint = "constant, edge, reflect, symmetric or wrap"
        raise DtypeError(message("pad", "not a mode that is supported", mode, hint))
    for axis, (before, after) in enumerate(widths):
        if min(before, after) < 0:
            raise ShapeError(message("pad", "widths are not negative", pad_width))
        if not before and not after:
            continue
        if mode == "constant":
            sides = []
            for width, value in zip((before, after), values[axis], strict=True):
                shape = (*x.shape[:axis], width, *x.shape[axis + 1 :])
                sides.append(constant(np.full(shape, value, x.dtype), x.device))
            x = functions.concat([sides[0], x, sides[1]], axis=axis)
        else:
            places = np.pad(np.arange(x.shape[axis]), (before, after), mode=mode)  # type: ignore[call-overload]
            x = x[along(axis, constant(places, x.device))]
    return x


def apply_along_axis(
    func1d: Callable[..., Any], axis: int, arr: Any, *args: Any, **kwargs: Any
) -> Tensor:
    """``func1d(row, …)`` for each 1-d ``row`` along ``axis``, its result in the row's place.

    >>> import gpugrad as gg
    >>> gg.apply_along_axis(gg.sum, 1, gg.ones((2, 3))).tolist()
    [3.0, 3.0]
    """
    x = asarray(arr)
    axis = normalize_axis("apply_along_axis", axis, x.ndim)
    x = functions.moveaxis(x, axis, -1)
    lead = x.shape[:-1]
    rows = functions.reshape(x, (-1, x.shape[-1]))
    if not rows.shape[0]:
        raise ShapeError(message("apply_along_axis", "there is no row", x.shape))
    made = functions.stack([asarray(func1d(row, *args, **kwargs)) for row in rows])
    inner = made.ndim - 1
    made = functions.reshape(made, (*lead, *made.shape[1:]))
    last = tuple(range(made.ndim - inner, made.ndim))
    return functions.moveaxis(made, last, tuple(range(axis, axis + inner)))


def apply_over_axes(func: Callable[..., Any], a: Any, axes: Any) -> Tensor:
    """``func(x, axis)`` for one of ``axes`` after the other; an axis it drops comes back as 1."""
    x = asarray(a)
    for axis in np.atleast_1d(axes).tolist():
        axis = normalize_axis("apply_over_axes", axis, x.ndim)
        y = asarray(func(x, axis))
        x = y if y.ndim == x.ndim else functions.expand_dims(y, axis=axis)
    return x
