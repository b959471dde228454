"""The CUDA backend on CuPy: the only file that imports CuPy, and only when a device is asked for.

Imports errors, launch, kernels and the array library. What NumPy raises on, CuPy often wraps or
ignores: the checks that make both raise stand here.
"""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any
from weakref import WeakSet

import numpy as np

from gpugrad.backend import choice, cublas, graph, launch, steps
from gpugrad.backend.kernels import gemm, philox, scalars, scatter
from gpugrad.backend.kernels.activation import CODES, activation_bwd
from gpugrad.backend.numpy import out_of_range
from gpugrad.config import flags
from gpugrad.errors import DeviceError, DeviceMemoryError, message

Array = Any

_ANYWHERE = contextlib.nullcontext()

_ALIGNED = 16  # bytes: where arrays begin in pinned memory

_INSTALL = 'pip install "gpugrad[cuda13]" (CUDA 13 drivers) or "gpugrad[cuda12]"; or --device cpu'


def _import() -> ModuleType:
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            message("device", "CUDA needs CuPy, which cannot be imported", error, _INSTALL)
        ) from None
    # CuPy imports fine on a machine without a GPU: only this tells.
    if not cupy.cuda.is_available():
        got = f"CuPy {cupy.__version__} is installed"
        driver, runtime = (
            get()
            for get in (cupy.cuda.runtime.driverGetVersion, cupy.cuda.runtime.runtimeGetVersion)
        )
        if 0 < driver < runtime:
            rule = f"the driver runs CUDA up to {_version(driver)}, CuPy needs {_version(runtime)}"
            hint = f'a newer driver, or pip install "cupy-cuda{driver // 1000}x[ctk]" in its place'
            raise DeviceError(message("device", rule, got, hint))
        hint = "nvidia-smi to see whether the driver runs; or --device cpu"
        raise DeviceError(message("device", "no CUDA device can be used", got, hint))
    return cupy  # type: ignore[no-any-return]


def device_count() -> int:
    """How many CUDA devices there are; raises `DeviceError` when CUDA cannot be used."""
    return int(_import().cuda.runtime.getDeviceCount())


def _version(number: int) -> str:
    """CUDA's 12040 as 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):,.0f} MiB"


_backends: dict[int, "CupyBackend"] = {}


_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):  # cheaper than to ask for the process at every call
    os.register_at_fork(after_in_child=_after_fork)


def get(index: int) -> "CupyBackend":
    """The backend of one CUDA device."""
    backend = _backends.get(index)
    if _forked and _backends:
        hint = 'multiprocessing.get_context("spawn")'
        rule = "CUDA does not survive a fork, and the parent has used it"
        raise DeviceError(message("device", rule, f"process {os.getpid()}", hint))
    if backend is None:
        count = device_count()
        if index >= count:
            got = f"cuda:{index}, and there are {count}"
            raise DeviceError(message("device", "no such CUDA device", got, '"cuda"'))
        backend = _backends[index] = CupyBackend(_import(), index)
    return backend


def current() -> "CupyBackend":
    """The backend of CuPy's current device."""
    return get(_import().cuda.Device().id)


class CupyBackend:
    """Arrays in one device's memory; kernels from kernels/cuda, compiled at first use."""

    def __init__(self, cupy: ModuleType, index: int) -> None:
        self.xp = cupy
        self.index = index
        self._several = cupy.cuda.runtime.getDeviceCount() > 1
        self.device = "cuda" if index == 0 else f"cuda:{index}"
        self._kernels: dict[tuple[str, str], Any] = {}
        self.on_read: WeakSet[Any] = WeakSet()  # recordings; a read waits for what they enqueued

    def here(self) -> Any:
        return self.xp.cuda.Device(self.index) if self._several else _ANYWHERE

    def asarray(self, obj: Any, dtype: Any = None, copy: bool | None = None) -> Array:
        with self.here():
            if copy:
                return self.xp.array(obj, dtype=dtype)
            return self.xp.asarray(obj, dtype=dtype)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        host: np.ndarray[Any, Any] = self.xp.asnumpy(array)
        for check in list(self.on_read):
            check.check()  # what it was computed from may have been found wrong on the way
        return host

    def synchronize(self) -> None:
        with self.here():
            self.xp.cuda.get_current_stream().synchronize()

    def memory(self, nbytes: int) -> Array:
        with self.here():
            return self.xp.zeros(nbytes, np.uint8)

    def view(self, memory: Array, start: int, shape: Any, dtype: Any, steps: Any) -> Array:
        return self.xp.ndarray(shape, dtype, memory.data + start, steps)

    def copy_into(self, target: Array, source: Array) -> None:
        with self.here():
            self.xp.copyto(target, self.xp.asarray(source), casting="unsafe")

    def memory_stats(self) -> dict[str, int]:
        """See `gpugrad.memory_stats`."""
        with self.here():
            free, total = self.xp.cuda.runtime.memGetInfo()
            pool = self.xp.get_default_memory_pool()
            used, kept = pool.used_bytes(), pool.free_bytes()
        return {"used": used, "kept": kept, "free": free, "total": total}

    def explained(self, error: Exception) -> Exception:
        """An error of CuPy's as ours, where ours says more."""
        if not isinstance(error, self.xp.cuda.memory.OutOfMemoryError):
            return error
        stats = {name: _mib(nbytes) for name, nbytes in self.memory_stats().items()}
        got = (
            f"{error}; {self.device} has {stats['free']} free of {stats['total']}: arrays of this "
            f"process hold {stats['used']}, CuPy's pool keeps {stats['kept']} unused, others have "
            "the rest"
        )
        hint = "a smaller batch, gg.checkpoint, or cupy.get_default_memory_pool().free_all_blocks()"
        return DeviceMemoryError(message("device", "out of memory", got, hint))

    # Captured steps

    @cached_property
    def arch(self) -> int:
        """Its compute capability, 90 for 9.0."""
        return int(self.xp.cuda.Device(self.index).compute_capability)

    @cached_property
    def cublas(self) -> cublas.CublasLt:
        with self.here():
            return cublas.load(self.xp.cuda.runtime.runtimeGetVersion() // 1000)

    def program(
        self, segments: Sequence[Any], bases: int, private_bytes: int, threads: int
    ) -> graph.Program:
        """What runs instructions here: the native core's interface, on this device's memory."""
        instructions = [instruction for segment in segments for instruction in segment[1]]
        fuse = self.arch >= gemm.MIN_ARCH and flags.fuse_products
        if fuse == "auto":
            made = choice.fastest(self, instructions, flags.matmul)
        else:
            made = steps.stepped(instructions, bool(fuse))
        return graph.Program(self, made, bases, flags.matmul)

    @cached_property
    def known(self) -> choice.Known:
        """The fastest ways to do steps on this device, as far as they were measured."""
        runtime = self.xp.cuda.runtime
        name = runtime.getDeviceProperties(self.index)["name"].decode()
        versions = runtime.driverGetVersion(), runtime.runtimeGetVersion(), self.cublas.version
        device = f"{name}, CUDA {versions}, kernels {launch.kernels_key()}"
        return choice.Known(choice.file(), device)

    def numbers(self, count: int) -> Array:
        """Room for ``count`` float64 that `send` fills: learning rates, step counts."""
        return self.memory(8 * count).view(np.float64)

    def send(self, values: np.ndarray[Any, Any], target: Array) -> None:
        """Enqueue that ``target`` becomes these numbers, as they are now."""
        scalars.send(self, values, target)

    def seen_by_both(self, nbytes: int) -> np.ndarray[Any, Any]:
        """Zeroed host memory that kernels may write to, at the same address."""
        with self.here():
            memory = self.xp.cuda.alloc_pinned_memory(nbytes)
        array = np.frombuffer(memory, np.uint8, nbytes)
        array[:] = 0
        return array

    def upload(self, slots: int) -> Callable[[Sequence[np.ndarray[Any, Any]]], Callable[[], Any]]:
        """What copies host arrays here beside the work of the present stream, from another thread.

        ``arrive = send(arrays)`` enqueues the copies on a stream of their own; ``arrive()`` gives
        the arrays, for work that is enqueued from then on. ``slots`` calls may be under way.
        """
        own = os.environ.get("CUPY_CUDA_PER_THREAD_DEFAULT_STREAM", "")
        if own.strip() not in ("", "0"):
            rule = "copies from another thread need the streams that threads share"
            got = f"CUPY_CUDA_PER_THREAD_DEFAULT_STREAM={own}"
            raise DeviceError(message("prefetch", rule, got, "unsetting it, or no prefetch"))
        return _Upload(self, slots).send

    def stream(self) -> int:
        """The current stream, as the libraries take it."""
        return int(self.xp.cuda.get_current_stream().ptr)

    def capture(self, enqueue: Callable[[Sequence[Any]], None]) -> Any:
        """What ``enqueue`` puts on the two streams it is given, as a graph; ``launch()`` runs it.

        The second must wait for the first before, and the first for it afterwards. An exception in
        ``enqueue`` ends the capture; streams can be used as before.
        """
        with self.here():
            main, side = (self.xp.cuda.Stream(non_blocking=True) for _ in range(2))
            main.begin_capture()
            try:
                enqueue((main, side))
            except BaseException:
                self._end(main)
                raise
            return main.end_capture()

    def _end(self, stream: Any) -> None:
        """End a capture that failed, which may be what its end says again."""
        with contextlib.suppress(self.xp.cuda.runtime.CUDARuntimeError):
            stream.end_capture()

    # Kernels

    def sigmoid_bwd(self, dy: Array, y: Array) -> tuple[Array, Array]:
        with self.here():
            return activation_bwd(self, "sigmoid", dy, y)

    def linear_bwd(
        self, activation: str, g: Array, y: Array | None, x: Array | None, w: Array | None
    ) -> tuple[Array, Array | None, Array | None, Array] | None:
        """One pass for dz and db, and the products; without an activation the ops do as well."""
        if y is None or g.ndim != 2 or g.dtype not in CODES or not g.size:
            return None
        if any(a is not None and a.dtype != g.dtype for a in (y, x, w)):
            return None
        dz, db = activation_bwd(self, activation, g, y)
        dx, dw = None if w is None else dz @ w, None if x is None else dz.T @ x
        return dz, dx, dw, db

    def uniform(self, words: np.ndarray[Any, Any], shape: Any, dtype: Any) -> Array:
        """Uniforms of the stream that ``words``, of `Generator.take`, says where to find."""
        with self.here():
            out = self.empty(shape, dtype)
            state = self.numbers(len(words))
            self.send(words.view(np.float64), state)
            philox.plan(np.dtype(dtype).str[1:], out.size).launch(self, state, out)
        return out

    def strict(self) -> Any:
        import cupyx  # CuPy has imported it by now

        return cupyx.errstate(linalg="raise")

    def scatter_add(self, out: Array, index: Any, values: Array) -> None:
        """As NumPy's ``add.at``, in one order; CuPy's adds with atomics, differently each time."""
        xp = self.xp
        if isinstance(index, xp.ndarray) and index.dtype.kind in "iu":
            rows, cols = index.astype(np.int64).ravel(), math.prod(out.shape[1:])
            rows = xp.where(rows < 0, rows + len(out), rows)
            shape = (*index.shape, *out.shape[1:])
        else:  # element by element
            rows, cols = xp.arange(out.size).reshape(out.shape)[index], 1
            shape, rows = rows.shape, rows.ravel()
        order = xp.argsort(rows, kind="stable")
        whole = xp.ascontiguousarray(out)
        values = xp.ascontiguousarray(xp.broadcast_to(values, shape), out.dtype)
        parts = 2 if out.dtype.kind == "c" else 1  # a complex number is two
        code = f"f{out.dtype.itemsize // parts}"
        scatter.scatter_add(self, code, whole, rows[order], order, values, rows.size, cols * parts)
        if whole is not out:
            out[...] = whole

    def check_indices(self, op: str, indices: Array, size: int) -> None:
        # NumPy raises for an index out of range; CuPy wraps it silently.
        if indices.size:
            low, high = int(indices.min()), int(indices.max())
            if not (-size <= low and high < size):
                raise out_of_range(op, low, high, size)

    # launch.Loader

    def kernel(self, source: str, name: str) -> launch.Kernel:
        kernel = self._kernels.get((source, name))
        if kernel is None:
            try:
                module = self.xp.RawModule(code=source, options=launch.OPTIONS)
                kernel = self._kernels[source, name] = module.get_function(name)
            except (ImportError, OSError, RuntimeError) as error:
                if "nvrtc" not in str(error).lower():
                    raise
                major = self.xp.cuda.runtime.runtimeGetVersion() // 1000
                rule = "CuPy finds no NVRTC, which compiles the kernels"
                hint = f'pip install "cupy-cuda{major}x[ctk]"'
                raise DeviceError(message("launch", rule, error, hint)) from error
        return kernel  # type: ignore[no-any-return]

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        with self.here():
            return self.xp.empty(shape, dtype)

    def address(self, array: Array) -> int:
        return int(array.data.ptr)


class _Upload:
    """Pinned memories that take turns, and the stream that copies from them."""

    def __init__(self, backend: CupyBackend, slots: int) -> None:
        self._backend = backend
        with backend.here():
            self._reader = backend.xp.cuda.get_current_stream()
            self._stream = backend.xp.cuda.Stream(non_blocking=True)
            # Each with what tells that the copies from it are done, and with what they write to.
            self._slots: list[tuple[Any, Any, list[Any]]] = [
                (backend.seen_by_both(1), self._stream.record(), []) for _ in range(slots)
            ]
        self._turn = 0

    def __del__(self) -> None:
        # Copies that nobody waited for write to memory that goes back to the reader's pool now.
        with contextlib.suppress(Exception):  # at the end of the interpreter, or of the device
            self._stream.synchronize()

    def send(self, arrays: Sequence[np.ndarray[Any, Any]]) -> Callable[[], list[Array]]:
        xp = self._backend.xp
        slot = self._turn
        self._turn = (slot + 1) % len(self._slots)
        pinned, copied, _ = self._slots[slot]
        copied.synchronize()
        starts = np.cumsum([0, *[-(-a.nbytes // _ALIGNED) * _ALIGNED for a in arrays]]).tolist()
        with self._backend.here():
            if pinned.size < starts[-1]:
                pinned = self._backend.seen_by_both(starts[-1])
            # Of the reader's pool: its queue may still work on memory that was freed there.
            with self._reader:
                targets = [xp.empty(a.shape, a.dtype) for a in arrays]
            self._stream.wait_event(self._reader.record())
            for a, target, start in zip(arrays, targets, starts, strict=False):
                if a.size:
                    room = pinned[start : start + a.nbytes]
                    room.view(a.dtype).reshape(a.shape)[...] = a
                    target.data.copy_from_host_async(room.ctypes.data, a.nbytes, self._stream)
            copied = self._stream.record()
        held = [targets]
        self._slots[slot] = pinned, copied, held

        def arrive() -> list[Array]:
            with self._backend.here():
                xp.cuda.get_current_stream().wait_event(copied)
            return held.pop()

        return arrive
