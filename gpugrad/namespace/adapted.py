"""NumPy's name -> ours under NumPy's signature, where our function of that name has another one.

Options that NumPy has besides, `where` and `initial`, are done here. Imports the NumPy names, ops.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpugrad.aval import normalize_axis
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.lifting import constant, host, leaves, together
from gpugrad.namespace.numpy import statistics
from gpugrad.namespace.numpy.arranging import ravel, transpose
from gpugrad.namespace.numpy.elementwise import around
from gpugrad.namespace.numpy.ranges import line
from gpugrad.tensor import Tensor


def _lifted(x: Any) -> Tensor:
    return functions.asarray(x)


def _reduction(name: str, neutral: Any, join: str = "") -> Callable[..., Tensor]:
    """``initial`` counts as one value more, and those that are not ``where`` as ``neutral``."""

    def reduction(
        a: Any, axis: Any = None, keepdims: bool = False, initial: Any = None, where: Any = True
    ) -> Tensor:
        x, reduce = _lifted(a), getattr(functions, name)
        if where is not True:
            absent = initial if neutral is None else neutral
            if absent is None:
                rule = "where= leaves no value to start from"
                raise DtypeError(message(name, rule, hint="initial= as well"))
            x = functions.where(functions.asarray(where, device=x.device), x, absent)
        if initial is not None and neutral is None and not x.size:
            return functions.full_like(functions.sum(x, axis=axis, keepdims=keepdims), initial)
        y: Tensor = reduce(x, axis=axis, keepdims=keepdims)
        return y if initial is None else getattr(ops, join)(y, initial)

    return reduction


def _totalled(name: str, neutral: int, join: str) -> Callable[..., Tensor]:
    plain = _reduction(name, neutral, join)

    def reduction(
        a: Any,
        axis: Any = None,
        dtype: Any = None,
        keepdims: bool = False,
        initial: Any = None,
        where: Any = True,
    ) -> Tensor:
        if dtype is None:
            return plain(a, axis, keepdims, initial, where)
        y = plain(functions.astype(_lifted(a), dtype), axis, keepdims, initial, where)
        return functions.astype(y, dtype)  # small integers come back wider

    return reduction


def _mean(
    a: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False, where: Any = True
) -> Tensor:
    x = _floating(a, dtype)
    if where is True:
        return functions.mean(x, axis=axis, keepdims=keepdims)
    return statistics.mean_of(*_masked(x, where), axis, keepdims)


def _masked(x: Tensor, where: Any) -> tuple[Tensor, Tensor]:
    there = functions.broadcast_to(functions.asarray(where, device=x.device), x.shape)
    return functions.where(there, x, 0), there


def _spread(name: str) -> Callable[..., Tensor]:
    def spread(
        a: Any,
        axis: Any = None,
        dtype: Any = None,
        ddof: float = 0,
        keepdims: bool = False,
        correction: float = 0,
        where: Any = True,
    ) -> Tensor:
        x = _floating(a, dtype)
        if where is not True:
            of: Any = getattr(statistics, f"{name}_of")
            y: Tensor = of(*_masked(x, where), axis, keepdims, correction or ddof)
            return y
        return getattr(functions, name)(  # type: ignore[no-any-return]
            x, axis=axis, correction=correction or ddof, keepdims=keepdims
        )

    return spread


def _floating(a: Any, dtype: Any) -> Tensor:
    """As NumPy has it for means: integers count as float64."""
    x = _lifted(a)
    wanted = dtype if dtype is not None else x.dtype if x.dtype.kind in "fc" else np.float64
    return functions.astype(x, wanted)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, min: Any = None, max: Any = None) -> Tensor:
    return functions.clip(a, a_min if min is None else min, a_max if max is None else max)


def _take(a: Any, indices: Any, axis: int | None = None, mode: str = "raise") -> Tensor:
    x = _lifted(a) if axis is not None else ravel(a)
    axis = normalize_axis("take", axis or 0, x.ndim)
    places: Any = indices
    if not isinstance(indices, Tensor):
        places = constant(np.asarray(host(indices)), x.device)
    if mode != "raise":
        size = x.shape[axis]
        places = np.clip(places, 0, size - 1) if mode == "clip" else np.remainder(places, size)
    return x[(*(slice(None),) * axis, places)]


def _reshape(a: Any, shape: Any, order: str = "C") -> Tensor:
    if order == "F":
        sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        return transpose(functions.reshape(transpose(a), sizes[::-1]))
    return functions.reshape(a, shape)


def _ordering(name: str) -> Callable[..., Tensor]:
    def ordering(a: Any, axis: int | None = -1) -> Tensor:
        x = ravel(a) if axis is None else a
        return getattr(functions, name)(x, axis=-1 if axis is None else axis)  # type: ignore[no-any-return]

    return ordering


def _take_along_axis(arr: Any, indices: Any, axis: int | None = -1) -> Tensor:
    x = ravel(arr) if axis is None else arr
    return functions.take_along_axis(x, indices, axis=-1 if axis is None else axis)


def _full_like(a: Any, fill_value: Any, dtype: Any = None, shape: Any = None) -> Tensor:
    x = _lifted(a)
    return _full(x.shape if shape is None else shape, fill_value, dtype or x.dtype, x.device)


def _full(shape: Any, fill_value: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if not isinstance(fill_value, Tensor):
        fill_value = functions.asarray(np.asarray(fill_value, dtype), device=device)
    elif dtype is not None:
        fill_value = functions.astype(fill_value, dtype)
    return functions.broadcast_to(fill_value, sizes)


def _moveaxis(a: Any, source: Any, destination: Any) -> Tensor:
    lists = [tuple(v) if isinstance(v, list) else v for v in (source, destination)]
    return functions.moveaxis(a, *lists)


def _linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0
) -> Tensor:
    y = line(start, stop, num, endpoint, axis)
    return y if dtype is None else functions.astype(y, dtype)


def _windows(x: Any, window_shape: Any, axis: Any = None) -> Tensor:
    """Each stretch of ``window_shape`` places along ``axis``, in new axes at the end."""
    y = _lifted(x)
    widths = (window_shape,) if isinstance(window_shape, (int, np.integer)) else tuple(window_shape)
    given = tuple(range(y.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if len(widths) != len(given):
        got = f"{len(widths)} widths for {len(given)} axes"
        raise ShapeError(message("sliding_window_view", "one width for each axis", got))
    for width, i in zip(widths, given, strict=True):
        at = normalize_axis("sliding_window_view", i, _lifted(x).ndim)
        count = y.shape[at] - width + 1
        if width < 0 or count < 1:
            got = f"{width} of {y.shape[at]} places"
            raise ShapeError(message("sliding_window_view", "a window fits into its axis", got))
        places = constant(np.add.outer(np.arange(count), np.arange(width)), y.device)
        y = functions.moveaxis(y[(slice(None),) * at + (places,)], at + 1, -1)
    return y


def _svd(a: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    package: Any = functions.array_namespace(None)
    linalg = package.linalg
    return linalg.svd(a, full_matrices=full_matrices) if compute_uv else linalg.svdvals(a)


def _made(name: str) -> Callable[..., Tensor]:
    """``np.zeros(3, like=t)``: NumPy's values as a tensor."""

    def made(*args: Any, **kwargs: Any) -> Tensor:
        return functions.asarray(getattr(np, name)(*args, **kwargs))

    return made


def _array(object: Any, dtype: Any = None) -> Tensor:
    """``np.array([[t, 0], [0, 1]], like=t)``: nested lists may hold tensors."""
    if type(object) in (list, tuple) and any(isinstance(leaf, Tensor) for leaf in leaves(object)):
        rows = [_array(part) if type(part) in (list, tuple) else part for part in object]
        object = functions.stack(together(*rows))
    if type(object) in (list, tuple):
        object = constant(np.asarray(object), None)
    x = functions.asarray(object)
    return x if dtype is None else functions.astype(x, dtype)


ADAPTED: dict[str, Callable[..., Any]] = {
    "all": _reduction("all", True, "logical_and"),
    "amax": _reduction("max", None, "maximum"),
    "amin": _reduction("min", None, "minimum"),
    "any": _reduction("any", False, "logical_or"),
    "argsort": _ordering("argsort"),
    "array": _array,
    "asanyarray": _array,
    "asarray": _array,
    "ascontiguousarray": _array,
    "clip": _clip,
    "copy": lambda a: functions.asarray(a, copy=True),
    "full": _full,
    "full_like": _full_like,
    "imag": lambda val: functions.imag(val) if val.dtype.kind == "c" else functions.zeros_like(val),
    "lib.stride_tricks.sliding_window_view": _windows,
    "linalg.svd": _svd,
    "linspace": _linspace,
    "max": _reduction("max", None, "maximum"),
    "mean": _mean,
    "min": _reduction("min", None, "minimum"),
    "moveaxis": _moveaxis,
    "prod": _totalled("prod", 1, "multiply"),
    "real": lambda val: functions.real(val) if val.dtype.kind == "c" else val,
    "reshape": _reshape,
    "round": around,
    "sort": _ordering("sort"),
    "squeeze": lambda a, axis=None: _lifted(a).squeeze(axis),
    "std": _spread("std"),
    "sum": _totalled("sum", 0, "add"),
    "take": _take,
    "take_along_axis": _take_along_axis,
    "var": _spread("var"),
    **{
        name: _made(name) for name in ("arange", "empty", "eye", "identity", "ones", "tri", "zeros")
    },
}
