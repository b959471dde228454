"""Making tensors, and moving them between dtypes and devices. Imports tensor, backend, config."""

import builtins
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import WEAK
from gpugrad.config import flags
from gpugrad.errors import DtypeError, GradientError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.state import state
from gpugrad.tensor import Tensor, made, value_of

__all__ = [
    "arange",
    "asarray",
    "astype",
    "empty",
    "empty_like",
    "eye",
    "from_dlpack",
    "full",
    "full_like",
    "linspace",
    "meshgrid",
    "ones",
    "ones_like",
    "tensor",
    "to_device",
    "tril",
    "triu",
    "zeros",
    "zeros_like",
]

# What numbers written in Python become. NumPy's own choice is float64.
_DEFAULTS = {"f": np.float32, "c": np.complex64}
_KINDS = "biufc"


def asarray(
    obj: Any,
    dtype: Any = None,
    device: str | None = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of ``obj``: numbers, nested lists, NumPy or CuPy arrays, or a tensor.

    An array keeps its dtype and is borrowed, not copied, unless ``copy``; Python floats become
    float32. Lists may hold tensors, which stay on the tape. Without ``device`` an array stays where
    it is and anything else goes to the default.

    Raises
    ------
    DtypeError
        For objects and strings, and for ``requires_grad`` on integers or booleans.
    DeviceError
        When the device is unknown or cannot be used.

    Examples
    --------
    >>> import gpugrad as gg
    >>> gg.asarray([1.0, 2.0]).dtype, gg.asarray([1, 2]).dtype
    (dtype('float32'), dtype('int64'))
    >>> x = gg.asarray([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad.tolist()
    [2.0, 4.0]
    """
    if isinstance(obj, Tensor):
        result = _from_tensor(obj, dtype, device, copy)
    elif isinstance(obj, (list, tuple)) and _holds_tensors(obj):
        result = _from_tensor(functions.stack(obj), dtype, device, None)
    else:
        if state.trace is not None and _is_from_outside(obj):
            raise state.trace.outside(obj)
        result = made(_array(obj, dtype, device, copy))
    if requires_grad and not (result is obj and obj.requires_grad):
        result = result.detach()
        result.requires_grad = True
    return result


def tensor(
    obj: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """`asarray` that always copies, so that later changes to ``obj`` are not seen.

    >>> import gpugrad as gg, numpy as np
    >>> a = np.ones(2)
    >>> t = gg.tensor(a)
    >>> a[0] = 5
    >>> t.tolist()
    [1.0, 1.0]
    """
    return asarray(obj, dtype, device, True, requires_grad)


def _from_tensor(x: Tensor, dtype: Any, device: str | None, copy: bool | None) -> Tensor:
    if copy is False and (dtype is not None and np.dtype(dtype) != x.dtype):
        raise DtypeError(message("asarray", "another dtype needs a copy", f"{x.dtype} to {dtype}"))
    if dtype is not None:
        x = astype(x, dtype, copy=False)
    if device is not None:
        x = to_device(x, device)
    return ops.positive(x) if copy and x.dtype.kind != "b" else x[...] if copy else x


def _array(obj: Any, dtype: Any, device: str | None, copy: bool | None) -> Any:
    if backend.is_cupy(obj):
        owner = backend.of(obj) if device is None else backend.get(device)
        return owner.asarray(obj, dtype=None if dtype is None else np.dtype(dtype), copy=copy)
    wanted = None if dtype is None else np.dtype(dtype)
    if wanted is None and isinstance(obj, (int, float, complex, list, tuple)):
        host = _from_python(obj)
        copy = None if copy else copy  # what was built from a list is a copy already
    elif hasattr(obj, "__dlpack__") and not hasattr(obj, "__array__"):
        host = np.from_dlpack(obj)
    else:
        host = obj
    try:
        array = np.asarray(host, dtype=wanted, copy=copy)
    except (TypeError, ValueError) as error:
        raise _unfit(obj, error) from None
    if array.dtype.kind not in _KINDS or array.dtype.itemsize > 16:
        raise DtypeError(message("asarray", "tensors hold numbers and booleans", array.dtype))
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    owner = backend.get(flags.device if device is None else device)
    return owner.asarray(array)


def _from_python(obj: Any) -> Any:
    try:
        array = np.asarray(obj)
    except (TypeError, ValueError) as error:
        if isinstance(error, GradientError):
            raise
        raise _unfit(obj, error) from None
    default = _DEFAULTS.get(array.dtype.kind)
    return array if default is None or _holds_arrays(obj) else array.astype(default)


def _holds_tensors(obj: Any) -> bool:
    if set(map(type, obj)) <= WEAK.keys():
        return False
    return builtins.any(
        type(part) is Tensor or (isinstance(part, (list, tuple)) and _holds_tensors(part))
        for part in obj
    )


def _is_from_outside(obj: Any) -> bool:
    """Whether a step being traced must not take ``obj`` for a constant."""
    return hasattr(obj, "shape") and obj.shape != ()


def _unfit(obj: Any, error: Exception) -> DtypeError:
    hint = "numbers, or nested lists of them in which all rows are equally long"
    return DtypeError(message("asarray", f"cannot be an array: {error}", type(obj).__name__, hint))


def _holds_arrays(obj: Any) -> bool:
    """Whether a nested list holds values that already have a dtype of their own."""
    if isinstance(obj, (list, tuple)):
        return builtins.any(_holds_arrays(part) for part in obj)
    return type(obj) not in WEAK and hasattr(obj, "dtype")


def astype(x: Tensor, dtype: Any, /, *, copy: bool = True, device: str | None = None) -> Tensor:
    """``x`` in another dtype. Between floating dtypes it is differentiable.

    >>> import gpugrad as gg
    >>> gg.astype(gg.asarray([1.9]), gg.int32).tolist()
    [1]
    """
    x = asarray(x, device=device)
    wanted = np.dtype(dtype)
    if wanted.kind not in _KINDS:
        raise DtypeError(message("astype", "tensors hold numbers and booleans", wanted))
    if wanted == x.dtype:
        return (
            Tensor(value_of(x), x._node) if copy else x
        )  # a handle of its own: values never change
    if x.dtype.kind == "c" and wanted.kind not in "cb":
        rule = "a complex number has two parts"
        hint = "gg.real(x), gg.imag(x) or gg.abs(x)"
        raise DtypeError(message("astype", rule, f"{x.dtype} to {wanted}", hint))
    return ops.astype(x if wanted.kind in "fc" else x.detach(), dtype=wanted)


def to_device(x: Tensor, device: str, /) -> Tensor:
    """``x`` on ``device``; the same tensor if it is there already. Differentiable."""
    target = backend.get(device)
    source = x.device
    if source == target.device:
        return x
    return ops.to_device(x, device=target.device, source=source)


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A tensor on the memory of any DLPack exporter (PyTorch, JAX, NumPy, CuPy), not copied.

    >>> import gpugrad as gg, numpy as np
    >>> gg.from_dlpack(np.arange(3)).tolist()
    [0, 1, 2]
    """
    if isinstance(x, Tensor) or backend.is_cupy(x):
        return asarray(x, device=device, copy=copy)
    if x.__dlpack_device__()[0] == 2:  # kDLCUDA
        return Tensor(backend.get("cuda").xp.from_dlpack(x))
    return asarray(np.from_dlpack(x), device=device or "cpu", copy=copy)


# Filled with one value


def _shape(shape: Any) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if not builtins.all(isinstance(d, (int, np.integer)) and d >= 0 for d in sizes):
        raise ShapeError(message("shape", "sizes are integers ≥ 0", shape))
    return tuple(int(d) for d in sizes)


def _made(make: str, args: tuple[Any, ...], dtype: Any, device: str | None) -> Tensor:
    owner = backend.get(flags.device if device is None else device)
    with owner.here():
        return made(getattr(owner.xp, make)(*args, dtype=np.dtype(dtype)))


def zeros(shape: Any, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """Zeros of ``shape``, float32 by default.

    >>> import gpugrad as gg
    >>> gg.zeros((2, 2)).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    return _made("zeros", (_shape(shape),), np.float32 if dtype is None else dtype, device)


def ones(shape: Any, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """Ones of ``shape``, float32 by default.

    >>> import gpugrad as gg
    >>> gg.ones(2).tolist()
    [1.0, 1.0]
    """
    return _made("ones", (_shape(shape),), np.float32 if dtype is None else dtype, device)


def empty(shape: Any, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """A tensor of ``shape`` with whatever values the memory held, float32 by default."""
    return _made("empty", (_shape(shape),), np.float32 if dtype is None else dtype, device)


def full(shape: Any, fill_value: Any, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """``fill_value`` in every place of ``shape``; the dtype is the value's unless given.

    >>> import gpugrad as gg
    >>> gg.full(2, 7).dtype
    dtype('int64')
    """
    value = asarray(fill_value, dtype=dtype, device=device)
    if value.requires_grad or state.trace is not None:
        return ops.broadcast_to(value, shape=_shape(shape))
    return _made("full", (_shape(shape), value.item()), value.dtype, device)


def _like(make: Any, x: Any, dtype: Any, device: str | None) -> Tensor:
    x = asarray(x)
    result: Tensor = make(x.shape, dtype=dtype or x.dtype, device=device or x.device)
    return result


def zeros_like(x: Any, /, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """Zeros with the shape, dtype and device of ``x``."""
    return _like(zeros, x, dtype, device)


def ones_like(x: Any, /, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """Ones with the shape, dtype and device of ``x``."""
    return _like(ones, x, dtype, device)


def empty_like(x: Any, /, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """An uninitialised tensor with the shape, dtype and device of ``x``."""
    return _like(empty, x, dtype, device)


def full_like(
    x: Any, /, fill_value: Any, *, dtype: Any = None, device: str | None = None
) -> Tensor:
    """``fill_value`` with the shape, dtype and device of ``x``."""
    x = asarray(x)
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=device or x.device)


# Ranges and matrices


def arange(
    start: Any,
    /,
    stop: Any = None,
    step: Any = 1,
    dtype: Any = None,
    *,
    device: str | None = None,
) -> Tensor:
    """Values from ``start`` up to, not including, ``stop``; ``arange(n)`` counts from 0.

    >>> import gpugrad as gg
    >>> gg.arange(3).tolist(), gg.arange(0.0, 1.0, 0.5).dtype
    ([0, 1, 2], dtype('float32'))
    """
    if stop is None:
        start, stop = 0, start
    if dtype is None:
        floating = builtins.any(isinstance(v, float) for v in (start, stop, step))
        dtype = np.float32 if floating else np.int64
    return _made("arange", (start, stop, step), dtype, device)


def linspace(
    start: Any,
    stop: Any,
    /,
    num: int = 50,
    *,
    dtype: Any = None,
    device: str | None = None,
    endpoint: bool = True,
) -> Tensor:
    """``num`` evenly spaced values from ``start`` to ``stop``, float32 by default.

    Between tensors it has their dtype, and is differentiable in them.

    >>> import gpugrad as gg
    >>> gg.linspace(0, 1, 3).tolist()
    [0.0, 0.5, 1.0]
    """
    if isinstance(start, Tensor) or isinstance(stop, Tensor):
        ends: Any = np.linspace(start, stop, num, endpoint=endpoint, dtype=dtype)  # runs as ours
        return asarray(ends, device=device)
    kind = complex if isinstance(start, complex) or isinstance(stop, complex) else float
    default = np.complex64 if kind is complex else np.float32
    host = np.linspace(start, stop, num, endpoint=endpoint, dtype=dtype or default)
    return made(backend.get(flags.device if device is None else device).asarray(host))


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    k: int = 0,
    dtype: Any = None,
    *,
    device: str | None = None,
) -> Tensor:
    """Ones on the ``k``-th diagonal of an otherwise zero matrix, float32 by default."""
    return _made("eye", (n_rows, n_cols, k), dtype or np.float32, device)


def tril(x: Any, /, k: int = 0) -> Tensor:
    """``x`` with zeros above the ``k``-th diagonal of its last two axes."""
    return ops.triangle(asarray(x), k=k, lower=True)


def triu(x: Any, /, k: int = 0) -> Tensor:
    """``x`` with zeros below the ``k``-th diagonal of its last two axes."""
    return ops.triangle(asarray(x), k=k, lower=False)


def meshgrid(*arrays: Any, indexing: str = "xy") -> tuple[Tensor, ...]:
    """Coordinates of the grid that 1-d ``arrays`` span, one tensor each, all of the grid's shape.

    >>> import gpugrad as gg
    >>> x, y = gg.meshgrid(gg.arange(2), gg.arange(3))
    >>> x.shape
    (3, 2)
    """
    if indexing not in ("xy", "ij"):
        raise ShapeError(message("meshgrid", "indexing is 'xy' or 'ij'", repr(indexing)))
    axes = [asarray(a) for a in arrays]
    places = list(range(len(axes)))
    if indexing == "xy" and len(axes) > 1:
        places[:2] = [1, 0]
    shape = [1] * len(axes)
    for place, a in zip(places, axes, strict=True):
        shape[place] = a.size
    result = []
    for place, a in zip(places, axes, strict=True):
        column = [a.size if i == place else 1 for i in range(len(axes))]
        spread = ops.reshape(a, shape=tuple(column))
        result.append(ops.broadcast_to(spread, shape=tuple(shape)))
    return tuple(result)
