"""Softmax of rows and cross-entropy with labels: kernels/cuda/softmax.cuh.

Takes what instructions ("softmax", ...) and ("cross_entropy", ...) of gpugrad/compiler/emit.py say,
but pointers; twin: `gpugrad.backend.twin.Program`. Imports launch, printer and chain.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpugrad.backend.kernels.chain import BLOCK_THREADS
from gpugrad.backend.kernels.printer import TYPES
from gpugrad.backend.launch import (
    ALIGNMENT_BYTES,
    Launch,
    Loader,
    address,
    ceil_div,
    kernel_source,
    power_of_two_from,
)

FILES = ("ops.cuh", "reduce.cuh", "rows.cuh", "softmax.cuh")
_WARP_COLS = 1024  # up to here a warp has a row to itself, from here a block
_MOST_BLOCKS = 2**31 - 1


class RowsPlan(NamedTuple):
    """Where each row of a matrix is worked on by some threads."""

    dtype: str
    rows: int
    cols: int
    steps: tuple[int, ...]  # between rows, of every matrix that is read or written

    def width(self, addresses: list[int]) -> int:
        """The widest loads that steps and addresses allow, in elements."""
        item = np.dtype(self.dtype).itemsize
        width = ALIGNMENT_BYTES // item
        while any(step % width for step in self.steps if self.rows > 1):
            width //= 2
        while any(at % (width * item) for at in addresses):
            width //= 2
        return max(width, 1)

    def launch(self, text: str, kernel: str, width: int) -> Launch:
        packs = ceil_div(self.cols, width)
        lanes = min(power_of_two_from(packs), 32) if self.cols <= _WARP_COLS else BLOCK_THREADS
        height = BLOCK_THREADS // lanes
        grid = (min(ceil_div(self.rows, height), _MOST_BLOCKS), 1, 1)
        return Launch(text, kernel, grid, (lanes, height, 1))


class Plan(NamedTuple):
    """How to launch a softmax, or its logarithm."""

    matrix: RowsPlan
    log: bool
    workspace_bytes: int = 0

    def launch(self, loader: Loader, x: Any, y: Any) -> None:
        """Enqueue it on matrices, arrays or addresses; ``y`` may be ``x``."""
        if not self.matrix.rows * self.matrix.cols:
            return
        width = self.matrix.width([address(loader, x), address(loader, y)])
        x_row, y_row = self.matrix.steps
        launch = self.matrix.launch(
            softmax_text(self.matrix.dtype, width, self.log), "softmax", width
        )
        launch(loader, x, x_row, y, y_row, self.matrix.rows, self.matrix.cols)


def plan(dtype: str, rows: int, cols: int, x_row: int, y_row: int, log: bool) -> Plan:
    """How to launch ("softmax", dtype, rows, cols, ...); rows lie ``x_row`` and ``y_row`` apart."""
    return Plan(RowsPlan(dtype, rows, cols, (x_row, y_row)), log)


@lru_cache(maxsize=64)
def softmax_text(dtype: str, width: int, log: bool) -> str:
    real = TYPES[dtype]
    return f"""{kernel_source(*FILES)}
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    softmax(const {real}* x, index_t x_row, {real}* y, index_t y_row, index_t rows, index_t cols) {{
    softmax_rows<{width}, {str(log).lower()}>(x, x_row, y, y_row, rows, cols);
}}
GG_EXPORT(softmax)
"""
