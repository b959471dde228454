"""The CUDA backend on CuPy: the only file that imports CuPy, and only when a device is asked for.

Imports errors, launch, kernels and the array library. What NumPy raises on, CuPy often wraps or
ignores: the checks that make both raise stand here.
"""

import os
from types import ModuleType
from typing import Any

import numpy as np

from gpugrad.backend import launch
from gpugrad.backend.kernels.sigmoid import sigmoid_bwd
from gpugrad.backend.numpy import out_of_range
from gpugrad.errors import DeviceError, message

Array = Any

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
        hint = "nvidia-smi to see whether the driver runs; or --device cpu"
        raise DeviceError(message("device", "no CUDA device can be used", got, hint))
    return cupy  # type: ignore[no-any-return]


def device_count() -> int:
    """How many CUDA devices there are; raises `DeviceError` when CUDA cannot be used."""
    return int(_import().cuda.runtime.getDeviceCount())


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
        self.device = "cuda" if index == 0 else f"cuda:{index}"
        self._kernels: dict[tuple[str, str], Any] = {}

    def asarray(self, obj: Any, dtype: Any = None, copy: bool | None = None) -> Array:
        with self.xp.cuda.Device(self.index):
            if copy:
                return self.xp.array(obj, dtype=dtype)
            return self.xp.asarray(obj, dtype=dtype)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        return self.xp.asnumpy(array)  # type: ignore[no-any-return]

    def synchronize(self) -> None:
        with self.xp.cuda.Device(self.index):
            self.xp.cuda.get_current_stream().synchronize()

    # Kernels

    def sigmoid_bwd(self, dy: Array, y: Array) -> tuple[Array, Array]:
        return sigmoid_bwd(self, dy, y)

    def scatter_add(self, out: Array, index: Any, values: Array) -> None:
        self.xp.add.at(out, index, values)

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
            module = self.xp.RawModule(code=source, options=launch.OPTIONS)
            kernel = self._kernels[source, name] = module.get_function(name)
        return kernel  # type: ignore[no-any-return]

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        with self.xp.cuda.Device(self.index):
            return self.xp.empty(shape, dtype)

    def address(self, array: Array) -> int:
        return int(array.data.ptr)
