"""Which array library and which kernels serve a device. Imports errors; never imports CuPy itself.

A backend offers ``xp`` (the array module) and the fused kernels. `numpy.py` is the reference: every
kernel's plain twin. `get` finds a backend by device name, `of` by the type of an array.
"""

from types import ModuleType
from typing import Any, Protocol

import numpy as np

from gpugrad.backend.numpy import NumpyBackend
from gpugrad.errors import DeviceError, DtypeError, message

Array = Any  # numpy.ndarray or cupy.ndarray


class Backend(Protocol):
    """What the layers above may ask of a device."""

    device: str
    xp: ModuleType

    def here(self) -> Any:
        """A context in which `xp` works on this device: CuPy's results lie on its current one."""
        ...

    def strict(self) -> Any:
        """A context in which `xp.linalg` raises LinAlgError; CuPy's else gives any numbers."""
        ...

    def asarray(self, obj: Any, dtype: Any = None, copy: bool | None = None) -> Array:
        """Array on this device; from NumPy this is the only way data enters it."""
        ...

    def to_numpy(self, array: Array) -> "np.ndarray[Any, Any]":
        """The array's values in host memory (no copy where there is none to make)."""
        ...

    def synchronize(self) -> None:
        """Return when all work queued on the device is done."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised array in C order."""
        ...

    def memory(self, nbytes: int) -> Array:
        """Bytes that all dtypes and the widest loads may lie in."""
        ...

    def view(self, memory: Array, start: int, shape: Any, dtype: Any, steps: Any) -> Array:
        """The array in contiguous ``memory``, from byte ``start``, in ``steps`` of bytes."""
        ...

    def copy_into(self, target: Array, source: Array) -> None:
        """Write the values of ``source``, cast to the dtype of ``target``."""
        ...

    def sigmoid_bwd(self, dy: Array, y: Array) -> tuple[Array, Array]:
        """``dz = dy·y·(1−y)`` and its column sums ``db``, in one pass over (rows, columns)."""
        ...

    def linear_bwd(
        self, activation: str, g: Array, y: Array | None, x: Array | None, w: Array | None
    ) -> tuple[Array, Array | None, Array | None, Array] | None:
        """(dz, dx, dw, db) of ``y = activation(x wᵀ + b)``; None where that is not one call."""
        ...

    def scatter_add(self, out: Array, index: Any, values: Array) -> None:
        """``out[index] += values`` where an index that occurs twice counts twice."""
        ...

    def check_indices(self, op: str, indices: Array, size: int) -> None:
        """Raise `BoundsError` when an index is outside ``-size..size-1``."""
        ...


_cpu = NumpyBackend()
_by_type: dict[type, Backend] = {np.ndarray: _cpu, np.generic: _cpu}
_by_module: dict[str, Backend] = {"numpy": _cpu}


def get(device: str) -> Backend:
    """The backend of ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises `DeviceError` when the name is unknown or the device cannot be used, saying what to
    install.
    """
    if device == "cpu":
        return _cpu
    name, _, index = device.partition(":") if isinstance(device, str) else ("", "", "")
    if name != "cuda" or (index and not index.isdecimal()):
        raise DeviceError(
            message("device", "unknown device", repr(device), '"cpu", "cuda", "cuda:1"')
        )
    return _cuda_device(int(index or 0))


def of(array: Array) -> Backend:
    """The backend that owns ``array``; raises `DtypeError` for anything that is not an array."""
    backend = _by_type.get(type(array))
    if backend is None:
        if is_cupy(array):
            return _cuda_device(array.device.id)
        if isinstance(array, (np.ndarray, np.generic)):
            return _cpu
        if hasattr(array, "backend"):  # a value that is only being traced
            return array.backend  # type: ignore[no-any-return]
        raise DtypeError(message("array", "not an array gpugrad knows", type(array).__name__))
    return backend


def behind(xp: ModuleType) -> Backend:
    """The backend whose array module is ``xp``: how an op's ``forward`` reaches a fused kernel."""
    return _by_module.get(xp.__name__) or _cuda_device(None)


def is_cupy(x: Any) -> bool:
    """Whether ``x`` is a CuPy array, told without importing CuPy."""
    return type(x).__module__.partition(".")[0] == "cupy" and hasattr(x, "__cuda_array_interface__")


def cuda_available() -> bool:
    """Whether a CUDA device can be used here. Imports CuPy, and nothing else does by accident."""
    try:
        return bool(_cuda().device_count())
    except DeviceError:
        return False


def memory_stats(device: str = "cuda") -> dict[str, int]:
    """Bytes of a CUDA device's memory: ``used``, ``kept``, ``free`` and ``total``.

    Used is what arrays and compiled steps of this process hold; kept is what CuPy's pool holds
    ready for new ones, and gives back to others by
    ``cupy.get_default_memory_pool().free_all_blocks()``. Other processes have the rest. Raises
    `DeviceError` where there is no such device, and for the CPU, whose memory nobody pools.

    Examples
    --------
    >>> memory_stats("cpu")
    Traceback (most recent call last):
        ...
    gpugrad.errors.DeviceError: [memory_stats] the CPU's memory is not pooled; got 'cpu'; try "cuda"
    """
    place = get(device)
    if place is _cpu:
        rule = "the CPU's memory is not pooled"
        raise DeviceError(message("memory_stats", rule, repr(device), '"cuda"'))
    stats: dict[str, int] = place.memory_stats()  # type: ignore[attr-defined]
    return stats


def _cuda_device(index: int | None) -> Backend:
    """The backend of one CUDA device, by default CuPy's current one."""
    cuda = _cuda()
    backend: Backend = cuda.current() if index is None else cuda.get(index)
    return backend


def _cuda() -> Any:
    from gpugrad.backend import cupy  # deferred: CuPy takes a second to import and may be absent

    return cupy
