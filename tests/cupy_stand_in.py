"""A stand-in for the few CuPy calls gpugrad makes, on NumPy and the kernel emulator. Not a GPU.

It drives the whole CUDA path (dispatch, transfers, launches) on a machine without one, and is as
strict as CuPy where NumPy is lenient: NumPy arrays do not mix in, nothing converts to NumPy by
itself, reductions give 0-d arrays, an index out of range wraps. Used by ``--cuda-stand-in``.
"""

import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
from cuda_on_cpu.launcher import Emulator


class ndarray(np.ndarray):
    """What CuPy's array type shows of itself."""

    __module__ = "cupy"

    @property
    def device(self) -> Any:  # type: ignore[override]
        return types.SimpleNamespace(id=0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.__array_interface__

    def get(self) -> Any:
        return np.array(self.view(np.ndarray))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use .get()")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = _plain((inputs, kwargs))
        return _ours(getattr(ufunc, method)(*plain[0], **plain[1]))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{func.__name__} was called on a cupy.ndarray")

    def __getitem__(self, index: Any) -> Any:
        return _ours(self.view(np.ndarray)[_wrapped(self.shape, _plain(index))])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.view(np.ndarray)[_wrapped(self.shape, _plain(index))] = _plain(value)


for _name in ("sum", "mean", "min", "max", "prod", "any", "all", "astype", "copy", "reshape"):

    def _method(self: ndarray, *args: Any, _name: str = _name, **kwargs: Any) -> Any:
        return _ours(getattr(self.view(np.ndarray), _name)(*args, **kwargs))

    setattr(ndarray, _name, _method)


def _plain(x: Any) -> Any:
    """Our arrays as NumPy's, through nesting; NumPy's own are refused, as CuPy refuses them."""
    if isinstance(x, ndarray):
        return x.view(np.ndarray)
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(x, (tuple, list)):
        return type(x)(_plain(part) for part in x)
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    return x


def _ours(x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        return np.asarray(x).view(ndarray)
    if isinstance(x, (tuple, list)):
        return (list if isinstance(x, list) else tuple)(_ours(part) for part in x)
    return x


def _wrapped(shape: tuple[int, ...], index: Any) -> Any:
    """CuPy wraps integer-array indices that are out of range (for one such array, axis 0)."""
    if isinstance(index, np.ndarray) and index.dtype.kind in "iu" and shape and shape[0]:
        return index % shape[0]
    return index


class _Module(types.ModuleType):
    """NumPy's functions under CuPy's name."""

    def __getattr__(self, name: str) -> Any:
        thing = getattr(self.__dict__.get("source", np), name)
        if isinstance(thing, types.ModuleType):  # linalg, fft
            module = _Module(f"cupy.{name}")
            module.source = thing
            return module
        if not callable(thing) or isinstance(thing, type):
            return thing
        if isinstance(thing, np.ufunc):
            return _Ufunc(thing)
        return lambda *args, **kwargs: _ours(thing(*_plain(args), **_plain(kwargs)))


class _Ufunc:
    def __init__(self, ufunc: Any) -> None:
        self.ufunc = ufunc

    def __call__(self, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        if out is None:
            return _ours(self.ufunc(*_plain(args), **_plain(kwargs)))
        self.ufunc(*_plain(args), **_plain(kwargs), out=_plain(out))
        return out

    def at(self, a: Any, index: Any, values: Any) -> None:
        self.ufunc.at(_plain(a), _plain(index), _plain(values))


class _Device:
    def __init__(self, index: int = 0) -> None:
        self.id = index

    def __enter__(self) -> "_Device":
        return self

    def __exit__(self, *error: Any) -> None:
        pass


class RawModule:
    """Compiles with g++ and runs one fiber a CUDA thread: tests/cuda_on_cpu."""

    cache = Path(tempfile.gettempdir()) / f"gpugrad-emulated-{os.getuid()}"

    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        self.code = code
        self.emulator = Emulator(self.cache)

    def get_function(self, name: str) -> Any:
        kernel = self.emulator.kernel(self.code, name)
        return lambda grid, block, args, **options: kernel(
            grid, block, tuple(map(_argument, args)), **options
        )


def _argument(x: Any) -> Any:
    """A host array is refused, but one of a structure is passed by value, as CuPy does."""
    return x if isinstance(x, np.ndarray) and x.dtype.names else _plain(x)


def asarray(obj: Any, dtype: Any = None) -> Any:
    if isinstance(obj, ndarray) and (dtype is None or obj.dtype == dtype):
        return obj
    return array(obj, dtype)


def array(obj: Any, dtype: Any = None, **options: Any) -> Any:
    return np.array(obj.view(np.ndarray) if isinstance(obj, ndarray) else obj, dtype).view(ndarray)


class _Data:
    """``array.data.ptr``."""

    def __get__(self, array: Any, owner: Any) -> Any:
        return types.SimpleNamespace(ptr=array.view(np.ndarray).ctypes.data)


def install() -> None:
    """Put the stand-in where ``import cupy`` finds it."""
    ndarray.data = _Data()  # type: ignore[assignment]
    module = _Module("cupy")
    stream = types.SimpleNamespace(synchronize=lambda: None)
    cuda = types.SimpleNamespace(
        is_available=lambda: True,
        Device=_Device,
        get_current_stream=lambda: stream,
        runtime=types.SimpleNamespace(getDeviceCount=lambda: 1),
    )
    vars(module).update(
        __version__="stand-in",
        ndarray=ndarray,
        asarray=asarray,
        array=array,
        asnumpy=lambda a: a.get() if isinstance(a, ndarray) else np.asarray(a),
        RawModule=RawModule,
        cuda=cuda,
    )
    sys.modules["cupy"] = module
