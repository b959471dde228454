"""A stand-in for the few CuPy calls gpugrad makes, on NumPy and the kernel emulator. Not a GPU.

It drives the whole CUDA path (dispatch, transfers, launches) on a machine without one, and is as
strict as CuPy where NumPy is lenient: NumPy arrays do not mix in, nothing converts to NumPy by
itself, reductions give 0-d arrays, an index out of range wraps. Used by ``--cuda-stand-in``.
"""

import contextlib
import contextvars
import ctypes
import os
import random
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cuda_on_cpu.launcher import Emulator


class ndarray(np.ndarray):
    """What CuPy's array type shows of itself."""

    __module__ = "cupy"

    def __new__(
        cls, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None
    ) -> "ndarray":
        buffer = None if memptr is None else memptr.bytes
        return np.ndarray.__new__(cls, shape, dtype, buffer, 0, strides)

    @property
    def base(self) -> Any:  # type: ignore[override]
        """None for an array that owns its memory: one that alone refers to a plain NumPy array."""
        owner = np.ndarray.base.__get__(self)  # type: ignore[attr-defined]
        alone = sys.getrefcount(owner) <= 3  # ours, the call's, the array's
        return None if owner is None or (owner.base is None and alone) else owner

    def __array_finalize__(self, made_from: Any) -> None:
        self.at = getattr(made_from, "at", _here.device)

    @property
    def device(self) -> Any:  # type: ignore[override]
        return types.SimpleNamespace(id=self.at)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.__array_interface__

    def get(self) -> Any:
        return np.array(self.view(np.ndarray))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use .get()")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = _plain((inputs, kwargs))
        own = _OWN.get(ufunc.__name__, ufunc) if method == "__call__" else getattr(ufunc, method)
        return _ours(own(*plain[0], **plain[1]))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{func.__name__} was called on a cupy.ndarray")

    def __getitem__(self, index: Any) -> Any:
        return _ours(self.view(np.ndarray)[_wrapped(self.shape, _plain(index))], self.at)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.view(np.ndarray)[_wrapped(self.shape, _plain(index))] = _plain(value)


for _name in ("sum", "mean", "min", "max", "prod", "any", "all", "astype", "copy", "reshape"):

    def _method(self: ndarray, *args: Any, _name: str = _name, **kwargs: Any) -> Any:
        return _ours(getattr(self.view(np.ndarray), _name)(*args, **kwargs), self.at)

    setattr(ndarray, _name, _method)


def _plain(x: Any) -> Any:
    """Our arrays as NumPy's, through nesting; NumPy's own are refused, as CuPy refuses them."""
    if isinstance(x, ndarray):
        if x.at != _here.device:
            raise ValueError(f"an array is on device {x.at}, the current device is {_here.device}")
        return x.view(np.ndarray)
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(x, (tuple, list)):
        return type(x)(_plain(part) for part in x)
    if isinstance(x, dict):
        return {key: _plain(value) for key, value in x.items()}
    return x


def _ours(x: Any, at: int | None = None) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        array = np.asarray(x).view(ndarray)
        array.at = _here.device if at is None else at
        return array
    if isinstance(x, (tuple, list)):
        return (list if isinstance(x, list) else tuple)(_ours(part, at) for part in x)
    return x


def _floor_divide(a: Any, b: Any) -> Any:
    whole = np.result_type(a, b).kind not in "fc"
    return np.floor_divide(a, b) if whole else np.floor(np.true_divide(a, b))


def _remainder(a: Any, b: Any) -> Any:
    whole = np.result_type(a, b).kind not in "fc"
    return np.remainder(a, b) if whole else a - _floor_divide(a, b) * b


def _power(a: Any, b: Any) -> Any:
    if np.result_type(a, b).kind not in "iu":
        return np.power(a, b)
    return np.where(np.less(b, 0), 0, np.power(a, np.maximum(b, 0)))


def _clip(x: Any, low: Any, high: Any) -> Any:
    low, high = (x if bound is None else bound for bound in (low, high))
    inside = np.where(np.greater(x, high), high, x)
    return np.where(np.greater(low, high), high, np.where(np.less(x, low), low, inside))


# CuPy's answers where they are not NumPy's.
_OWN: dict[str, Callable[..., Any]] = {
    "floor_divide": _floor_divide,
    "remainder": _remainder,
    "power": _power,
    "clip": _clip,
    "where": lambda condition, x, y: np.where(condition.astype("?", copy=False), x, y),
}


def _wrapped(shape: tuple[int, ...], index: Any) -> Any:
    """CuPy wraps integer-array indices that are out of range (for one such array, axis 0)."""
    if isinstance(index, np.ndarray) and index.dtype.kind in "iu" and shape and shape[0]:
        return index % shape[0]
    return index


# Functions of NumPy 2.4 that CuPy 14.2 does not have: what dir() of the two tells.
# fmt: off
_ABSENT: dict[str, tuple[str, ...]] = {
    "numpy": (
        "block", "einsum_path", "geomspace", "insert", "isnat", "matvec", "nanpercentile",
        "nanquantile", "polyder", "polydiv", "polyint", "spacing", "unstack", "vecdot", "vecmat",
    ),
    "numpy.linalg": (
        "diagonal", "matrix_norm", "multi_dot", "outer", "svdvals", "tensordot", "trace", "vecdot",
        "vector_norm",
    ),
    "numpy.fft": (),
}
# fmt: on


class _Module(types.ModuleType):
    """NumPy's functions under CuPy's name."""

    def __getattr__(self, name: str) -> Any:
        source = self.__dict__.get("source", np)
        if name in _ABSENT[source.__name__]:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        thing = getattr(source, name)
        if isinstance(thing, types.ModuleType):  # linalg, fft
            module = _Module(f"cupy.{name}")
            module.source = thing
            return module
        if not callable(thing) or isinstance(thing, type):
            return thing
        if isinstance(thing, np.ufunc):
            return _Ufunc(thing)

        def call(*args: Any, **kwargs: Any) -> Any:
            _not_while_capturing(f"{name} is called")
            try:
                return _ours(_OWN.get(name, thing)(*_plain(args), **_plain(kwargs)))
            except np.linalg.LinAlgError:
                if _linalg_raises.get():
                    raise
                return array(np.ones_like(_plain(args[-1])))  # cuSOLVER leaves what it had so far

        return call


_linalg_raises = contextvars.ContextVar("linalg", default=False)


@contextlib.contextmanager
def errstate(*, linalg: str) -> Any:
    """``cupyx.errstate``."""
    token = _linalg_raises.set(linalg == "raise")
    try:
        yield
    finally:
        _linalg_raises.reset(token)


class _Ufunc:
    def __init__(self, ufunc: Any) -> None:
        self.ufunc = ufunc

    def __call__(self, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        _not_while_capturing(f"{self.ufunc.__name__} is called")
        if out is None:
            own = _OWN.get(self.ufunc.__name__, self.ufunc)
            return _ours(own(*_plain(args), **_plain(kwargs)))
        self.ufunc(*_plain(args), **_plain(kwargs), out=_plain(out))
        return out

    def at(self, a: Any, index: Any, values: Any) -> None:
        if a.dtype.char not in "iIlLqQefd":
            raise TypeError(f"cupy.{self.ufunc.__name__}.at does not support {a.dtype}")
        self.ufunc.at(_plain(a), _plain(index), _plain(values))


class _Device:
    compute_capability = "90"

    def __init__(self, index: int | None = None) -> None:
        self.id = _here.device if index is None else index

    def __enter__(self) -> "_Device":
        self.before = _here.device
        _here.device = self.id
        return self

    def __exit__(self, *error: Any) -> None:
        _here.device = self.before


class _Capture:
    """Work with what it must come after. ``last`` is the latest of each stream that takes part."""

    def __init__(self, stream: "Stream") -> None:
        self.work: list[tuple[Callable[[], None], set[int]]] = []
        self.last: dict[Stream, set[int]] = {stream: set()}

    def add(self, stream: "Stream", work: Callable[[], None]) -> None:
        if stream not in self.last:
            raise RuntimeError("work on a stream that is not part of the capture")
        self.work.append((work, self.last[stream]))
        self.last[stream] = {len(self.work) - 1}


class _Here(threading.local):
    """Of each thread: its device, its capture, as in the relaxed mode, and its current stream."""

    def __init__(self) -> None:
        self.device = 0
        self.capture: _Capture | None = None
        self.current = Stream()


def _enqueue(work: Callable[[], None]) -> None:
    if _here.capture is None:
        work()
    else:
        _here.capture.add(_here.current, work)


def _not_while_capturing(what: str) -> None:
    if _here.capture is not None:
        raise RuntimeError(f"{what} while a stream is being captured")


class Graph:
    """Runs its work in an order of its own that keeps to what was said to come first."""

    order = random.Random(0)

    def __init__(self, capture: _Capture) -> None:
        self.work = capture.work

    def launch(self, stream: Any = None) -> None:
        _not_while_capturing("a graph is launched")
        waiting = dict(enumerate(self.work))
        while waiting:
            ready = [i for i, (_, after) in waiting.items() if after.isdisjoint(waiting)]
            work, _ = waiting.pop(self.order.choice(ready))
            work()


class Event:
    def __init__(self, after: set[int], stream: "Stream") -> None:
        self.after, self.stream, self.copies = after, stream, len(stream.copies)

    def synchronize(self) -> None:
        _not_while_capturing("an event is waited for")
        self.stream.catch_up(self.copies)


class Stream:
    """What is enqueued runs at once, or when the graph is launched that it is captured into.

    Asynchronous copies from the host run as late as can be: when somebody waits for them.
    """

    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr = id(self) if non_blocking else 0
        self.before: Any = None
        self.copies: list[Callable[[], None]] = []
        self.copied = 0
        self.lock = threading.Lock()

    def catch_up(self, copies: int) -> None:
        with self.lock:
            while self.copied < copies:
                self.copies[self.copied]()
                self.copied += 1

    def __enter__(self) -> "Stream":
        self.before = _here.current
        _here.current = self
        return self

    def __exit__(self, *error: Any) -> None:
        _here.current = self.before

    @property
    def done(self) -> bool:
        return self.copied == len(self.copies)

    def synchronize(self) -> None:
        _not_while_capturing("a stream is waited for")
        self.catch_up(len(self.copies))

    def record(self, event: Any = None) -> Event:
        return Event(set() if _here.capture is None else set(_here.capture.last[self]), self)

    def wait_event(self, event: Event) -> None:
        if _here.capture is None:
            event.synchronize()
        else:
            _here.capture.last[self] = _here.capture.last.get(self, set()) | event.after

    def begin_capture(self, mode: int | None = None) -> None:
        _not_while_capturing("another capture begins")
        if not self.ptr:
            raise RuntimeError("the default stream cannot be captured")
        _here.capture = _Capture(self)

    def end_capture(self) -> Graph:
        capture, _here.capture = _here.capture, None
        if capture is None:
            raise RuntimeError("the stream is not being captured")
        joined = capture.last[self]
        before = set(joined)
        for i in sorted(range(len(capture.work)), reverse=True):
            if i in before:
                before |= capture.work[i][1]
        if len(before) < len(capture.work):
            raise RuntimeError("a forked stream was not joined to the one being captured")
        return Graph(capture)


_here = _Here()


class RawModule:
    """Compiles with g++ and runs one fiber a CUDA thread: tests/cuda_on_cpu."""

    cache = Path(tempfile.gettempdir()) / f"gpugrad-emulated-{os.getuid()}"

    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        self.code = code
        self.emulator = Emulator(self.cache)

    def get_function(self, name: str) -> Any:
        kernel = self.emulator.kernel(self.code, name)

        def launch(grid: Any, block: Any, args: Any, **options: Any) -> None:
            values = tuple(map(_argument, args))
            _enqueue(lambda: kernel(grid, block, values, **options))

        return launch


def _argument(x: Any) -> Any:
    """A host array is refused, but one of a structure is passed by value, as CuPy does."""
    if isinstance(x, np.ndarray) and x.dtype.names:
        return x.copy()
    if isinstance(x, ndarray) and not x.size:
        return np.uint64(0)
    return _plain(x)


class _CublasLt:
    """tests/cuda_on_cpu/cublas_lt.c where the library is looked for."""

    source = Path(__file__).parent / "cuda_on_cpu" / "cublas_lt.c"

    def __init__(self) -> None:
        self.library = RawModule.cache / "cublas_lt.so"
        self.called: Any = None

    def load_nvidia_dynamic_lib(self, name: str) -> Any:
        RawModule.cache.mkdir(parents=True, exist_ok=True)
        partial = self.library.with_suffix(f".{os.getpid()}")
        flags = ["-std=c11", "-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
        subprocess.run(["gcc", *flags, str(self.source), "-o", str(partial)], check=True)
        partial.replace(self.library)
        library = ctypes.CDLL(str(self.library))
        library.gg_run.argtypes = (ctypes.c_void_p,)
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self.called = kind(lambda at: _enqueue(lambda: library.gg_run(at)))
        place = ctypes.c_void_p.in_dll(library, "gg_on_matmul")
        place.value = ctypes.cast(self.called, ctypes.c_void_p).value
        return types.SimpleNamespace(abs_path=str(self.library))


class _OutOfMemory(MemoryError):
    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes)."
        super().__init__(text)


class _Pool:
    def used_bytes(self) -> int:
        return 0

    free_bytes = used_bytes


class _Pinned(bytearray):
    """Host memory that the device sees: ``alloc_pinned_memory``."""

    @property
    def ptr(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self))


def asarray(obj: Any, dtype: Any = None) -> Any:
    kept = isinstance(obj, ndarray) and obj.at == _here.device
    if kept and (dtype is None or obj.dtype == dtype):
        return obj
    return array(obj, dtype)


def array(obj: Any, dtype: Any = None, **options: Any) -> Any:
    return _ours(np.array(obj.view(np.ndarray) if isinstance(obj, ndarray) else obj, dtype))


class _Pointer:
    """``array.data``."""

    def __init__(self, room: Any) -> None:
        self.bytes = room
        self.ptr = room.ctypes.data

    def copy_from_host_async(self, mem: int, size: int, stream: Any = None) -> None:
        stream.copies.append(lambda: ctypes.memmove(self.bytes.ctypes.data, mem, size))

    def __add__(self, offset: int) -> "_Pointer":
        return _Pointer(self.bytes[offset:])


class _Data:
    def __get__(self, array: Any, owner: Any) -> Any:
        plain = array.view(np.ndarray)
        if plain.flags.c_contiguous and plain.size:
            return _Pointer(plain.reshape(-1).view(np.uint8))
        # CuPy allocates nothing for no values: their address is null.
        return types.SimpleNamespace(ptr=plain.ctypes.data if plain.size else 0)


def install() -> None:
    """Put the stand-in where ``import cupy`` finds it."""
    ndarray.data = _Data()  # type: ignore[assignment]
    module = _Module("cupy")
    cuda = types.SimpleNamespace(
        is_available=lambda: True,
        Device=_Device,
        Stream=Stream,
        get_current_stream=lambda: _here.current,
        alloc_pinned_memory=_Pinned,
        runtime=types.SimpleNamespace(
            getDeviceCount=lambda: 2,
            runtimeGetVersion=lambda: 13000,
            driverGetVersion=lambda: 13000,
            getDeviceProperties=lambda index: {"name": b"stand-in"},
            CUDARuntimeError=RuntimeError,
            memGetInfo=lambda: (1 << 30, 2 << 30),
        ),
        memory=types.SimpleNamespace(OutOfMemoryError=_OutOfMemory),
    )
    pathfinder: Any = types.ModuleType("cuda.pathfinder")
    pathfinder.load_nvidia_dynamic_lib = _CublasLt().load_nvidia_dynamic_lib
    package: Any = types.ModuleType("cuda")
    package.pathfinder = pathfinder
    sys.modules.update({"cuda": package, "cuda.pathfinder": pathfinder})
    vars(module).update(
        __version__="stand-in",
        ndarray=ndarray,
        asarray=asarray,
        array=array,
        asnumpy=lambda a: a.get() if isinstance(a, ndarray) else np.asarray(a),
        RawModule=RawModule,
        get_default_memory_pool=lambda: _Pool(),
        cuda=cuda,
    )
    extras: Any = types.ModuleType("cupyx")
    extras.errstate = errstate
    sys.modules.update({"cupy": module, "cupyx": extras})
