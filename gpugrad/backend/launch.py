"""Finds, describes and launches the CUDA kernels.

May import: the standard library, NumPy, `gpugrad.errors`. Whatever compiles and runs a kernel, CuPy
or the emulator of the tests, is handed in as a `Loader`.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gpugrad.errors import GpugradError, message

Array = Any  # numpy.ndarray or cupy.ndarray

ARCHS = (75, 80, 86, 89, 90, 100, 120)  # compute capabilities every kernel must compile for
OPTIONS = ("-std=c++17",)  # for NVRTC
HEADER = "common.cuh"

ALIGNMENT_BYTES = 16  # of the widest load a kernel makes


class Kernel(Protocol):
    """One compiled kernel; `cupy.RawKernel` is one.

    `args` holds arrays and NumPy scalars, and host arrays of one structure, which are passed by
    value. Enqueues on the current stream and returns at once.
    """

    def __call__(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: tuple[Any, ...],
        *,
        shared_mem: int = 0,
    ) -> None: ...


class Loader(Protocol):
    """What compiles kernels and owns memory on one device."""

    def kernel(self, source: str, name: str) -> Kernel:
        """The kernel `name` of the CUDA text `source`, compiled with OPTIONS.

        Asked for at every launch: keep what was compiled, in a dict keyed by both. A text always
        comes as the same string object, which Python hashes once.
        """
        ...

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An uninitialised C-ordered array whose address is a multiple of ALIGNMENT_BYTES."""
        ...

    def address(self, array: Array) -> int:
        """Where the array's first element lies (`array.data.ptr`, `array.ctypes.data`)."""
        ...


@dataclass(frozen=True)
class Launch:
    """One kernel launch, all but its arguments."""

    source: str  # CUDA text
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int = 0  # dynamic shared memory

    def __call__(self, loader: Loader, *args: Any) -> None:
        """Launch on arrays and numbers; an int is passed as 64 bits: an index_t or a pointer."""
        packed = tuple(np.int64(value) if isinstance(value, int) else value for value in args)
        kernel = loader.kernel(self.source, self.kernel)
        kernel(self.grid, self.block, packed, shared_mem=self.shared_bytes)


@cache
def kernel_folder() -> Traversable:
    """The folder of the `.cu` files: package data when installed, `kernels/` in a checkout."""
    checkout = Path(__file__).parents[2] / "kernels" / "cuda"
    try:
        installed = resources.files("gpugrad.kernels") / "cuda"
    except ModuleNotFoundError:
        installed = checkout
    for folder in (installed, checkout):
        if (folder / HEADER).is_file():
            return folder
    raise GpugradError(
        message("launch", "the CUDA kernels are missing", str(installed), "reinstalling gpugrad")
    )


@cache
def kernel_source(*files: str) -> str:
    """The text of files of `kernel_folder` with the common header before them, ready to compile."""
    # Not an #include: CuPy's kernel cache would not notice a changed header.
    return "".join(
        f'#line 1 "{name}"\n{(kernel_folder() / name).read_text(encoding="utf-8")}'
        for name in (HEADER, *files)
    )


@cache
def kernels_key() -> str:
    """What changes whenever a kernel does."""
    texts = {f.name: f.read_bytes() for f in kernel_folder().iterdir() if f.is_file()}
    return hashlib.sha256(b"".join(texts[name] for name in sorted(texts))).hexdigest()[:12]


def address(loader: Loader, pointer: Any) -> int:
    """Where an array lies; an address, an int or a NumPy integer, is itself."""
    return int(pointer) if isinstance(pointer, (int, np.integer)) else loader.address(pointer)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two_from(count: int) -> int:
    """The smallest power of two >= count."""
    return 1 << (max(count, 1) - 1).bit_length()
