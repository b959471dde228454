"""Finds, describes and launches the CUDA kernels.

May import: the standard library, NumPy, `gpugrad.errors`. Whatever compiles and runs a kernel, CuPy
or the emulator of the tests, is handed in as a `Loader`.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gpugrad.errors import DtypeError, GpugradError, ShapeError, message

Array = Any  # numpy.ndarray or cupy.ndarray

ARCHS = (75, 80, 86, 89, 90, 100, 120)  # compute capabilities every kernel must compile for
OPTIONS = ("-std=c++17",)  # for NVRTC
HEADER = "common.cuh"
KERNEL_FILES = ("sigmoid_bwd.cu",)

ALIGNMENT_BYTES = 16  # of the widest load a kernel makes


class Kernel(Protocol):
    """One compiled kernel; `cupy.RawKernel` is one.

    `args` holds arrays and NumPy scalars. Enqueues on the current stream and returns at once.
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

        Asked for at every launch: keep what was compiled, in a dict keyed by both. A file always
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

    file: str
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int = 0  # dynamic shared memory

    def __call__(self, loader: Loader, *args: Any) -> None:
        """Launch on arrays and sizes; an int is passed as the kernels' 64-bit index_t."""
        packed = tuple(np.int64(value) if isinstance(value, int) else value for value in args)
        kernel = loader.kernel(kernel_source(self.file), self.kernel)
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
def kernel_source(file: str) -> str:
    """The text of a `.cu` with the common header before it, ready to compile."""
    # Not an #include: CuPy's kernel cache would not notice a changed header.
    return "".join(
        f'#line 1 "{name}"\n{(kernel_folder() / name).read_text(encoding="utf-8")}'
        for name in (HEADER, file)
    )


# ---- sigmoid_bwd ---------------------------------------------------------------------------------

_SIGMOID_BWD = "sigmoid_bwd.cu"
_TYPE_NAMES = {
    np.dtype(np.float16): "f16",
    np.dtype(np.float32): "f32",
    np.dtype(np.float64): "f64",
}

BLOCK_THREADS = 256  # BLOCK_THREADS in sigmoid_bwd.cu
# Up to this height one row block takes the whole column, which spares the second launch. Eight
# lanes of 16 bytes fill a 128-byte line; so few make many blocks of a matrix that is not tall.
_SHORT_ROWS = 256
_SHORT_LANES = 8
_TALL_LANES = 32
# Bounds the blocks of stage 1, and with them the rows stage 2 has to sum.
_TARGET_BLOCKS = 512
_ROWS_PER_THREAD = 4
_STAGE_2_LANES = 8  # 8 float32 are one 32-byte sector


@dataclass(frozen=True)
class SigmoidBwdPlan:
    """The launches of one `sigmoid_bwd` and the workspace between them."""

    stage_1: Launch  # dy, y, dz, partial, m, n
    stage_2: Launch | None  # partial, db, row_blocks, n; None where stage 1 writes db itself
    partial_shape: tuple[int, int]
    partial_dtype: np.dtype[Any]


@lru_cache(maxsize=1024)
def sigmoid_bwd_plan(m: int, n: int, dtype: np.dtype[Any]) -> SigmoidBwdPlan:
    """How to launch `sigmoid_bwd` on (m, n) arrays, m, n >= 1.

    Depends on nothing else, so the additions happen in the same order on every device.
    """
    type_name = _TYPE_NAMES[dtype]
    width = ALIGNMENT_BYTES // dtype.itemsize
    if n % width:
        width = 1
    packs = n // width

    lanes = min(_SHORT_LANES if m <= _SHORT_ROWS else _TALL_LANES, _power_of_two_from(packs))
    rows = BLOCK_THREADS // lanes
    column_blocks = _ceil_div(packs, lanes)
    row_blocks = 1
    if m > _SHORT_ROWS:
        row_blocks = min(
            _ceil_div(m, rows * _ROWS_PER_THREAD), _ceil_div(_TARGET_BLOCKS, column_blocks)
        )
    partial_dtype = np.dtype(np.float64 if dtype == np.float64 else np.float32)

    stage_2 = Launch(
        _SIGMOID_BWD,
        f"column_sum_{type_name}",
        grid=(_ceil_div(n, _STAGE_2_LANES), 1, 1),
        block=(_STAGE_2_LANES, BLOCK_THREADS // _STAGE_2_LANES, 1),
    )
    return SigmoidBwdPlan(
        stage_1=Launch(
            _SIGMOID_BWD,
            f"sigmoid_bwd_{type_name}_x{width}",
            grid=(column_blocks, row_blocks, 1),
            block=(lanes, rows, 1),
        ),
        stage_2=None if row_blocks == 1 and partial_dtype == dtype else stage_2,
        partial_shape=(row_blocks, n),
        partial_dtype=partial_dtype,
    )


def sigmoid_bwd(loader: Loader, dy: Array, y: Array) -> tuple[Array, Array]:
    """Gradients through y = sigmoid(z), z = x @ w + b, in one pass over memory.

    dz = dy * y * (1 - y), db = dz.sum(axis=0); NumPy twin `gpugrad.backend.numpy.sigmoid_bwd`.

    dy, y: (m, n) arrays of one dtype, float16, float32 or float64, on the loader's device; copied
    first when not C-ordered or not aligned. Returns dz (m, n) and db (n,) in that dtype. Half
    precision multiplies and sums in float32. The same shape and dtype give the same bits every
    time. Raises ShapeError or DtypeError. All memory comes from `loader.empty`.
    """
    if dy.ndim != 2 or dy.shape != y.shape:
        raise ShapeError(
            message(
                "sigmoid_bwd",
                "dy and y must be matrices of one shape",
                f"dy {dy.shape}, y {y.shape}",
            )
        )
    if dy.dtype != y.dtype or dy.dtype not in _TYPE_NAMES:
        raise DtypeError(
            message(
                "sigmoid_bwd",
                "dy and y must share one dtype of float16, float32, float64",
                f"dy {dy.dtype}, y {y.dtype}",
                "astype on both",
            )
        )
    m, n = dy.shape
    dz = loader.empty((m, n), dy.dtype)
    db = loader.empty((n,), dy.dtype)
    if m == 0 or n == 0:
        db.fill(0)
        return dz, db

    plan = sigmoid_bwd_plan(m, n, dy.dtype)
    dy, y = _launchable(loader, dy), _launchable(loader, y)
    if plan.stage_2 is None:
        plan.stage_1(loader, dy, y, dz, db, m, n)
    else:
        partial = loader.empty(plan.partial_shape, plan.partial_dtype)
        plan.stage_1(loader, dy, y, dz, partial, m, n)
        plan.stage_2(loader, partial, db, plan.partial_shape[0], n)
    return dz, db


# ---- helpers -------------------------------------------------------------------------------------


def _launchable(loader: Loader, array: Array) -> Array:
    """The array itself if kernels can read it as it lies, else a copy."""
    if array.flags.c_contiguous and loader.address(array) % ALIGNMENT_BYTES == 0:
        return array
    copy = loader.empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_two_from(count: int) -> int:
    """The smallest power of two >= count."""
    return 1 << (count - 1).bit_length()
