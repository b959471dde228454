"""The number of each row's largest or smallest value: kernels/cuda/argmax.cuh.

Takes instructions ("argmax", ...) and ("argmin", ...) of gpugrad/compiler/emit.py, but pointers;
twin: `gpugrad.backend.twin.Program`. Imports launch, printer and softmax.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from gpugrad.backend.kernels.printer import TYPES
from gpugrad.backend.kernels.softmax import RowsPlan
from gpugrad.backend.launch import Loader, address, kernel_source

FILES = ("reduce.cuh", "rows.cuh", "argmax.cuh")


class Plan(NamedTuple):
    """How to launch one."""

    matrix: RowsPlan
    out_step: int
    least: bool
    workspace_bytes: int = 0

    def launch(self, loader: Loader, x: Any, out: Any) -> None:
        """Enqueue it on a matrix and int64 numbers, arrays or addresses."""
        dtype, rows, cols, (x_row,) = self.matrix
        if not rows:
            return
        width = self.matrix.width([address(loader, x)])
        text = argmax_text(dtype, width, self.least)
        launch = self.matrix.launch(text, "argmax", width)
        launch(loader, x, x_row, out, self.out_step, rows, cols)


def plan(dtype: str, rows: int, cols: int, x_row: int, out_step: int, least: bool) -> Plan:
    """How to launch ("argmax", dtype, rows, cols, ...), or with ``least`` ("argmin", ...).

    ``x_row`` is between the rows of x, ``out_step`` between results; there is a column at least.
    """
    return Plan(RowsPlan(dtype, rows, cols, (x_row,)), out_step, least)


@lru_cache(maxsize=64)
def argmax_text(dtype: str, width: int, least: bool) -> str:
    item = TYPES[dtype]
    return f"""{kernel_source(*FILES)}
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    argmax(const {item}* x, index_t x_row, index_t* out, index_t out_step, index_t rows,
           index_t cols) {{
    argmax_rows<{width}, {str(least).lower()}>(x, x_row, out, out_step, rows, cols);
}}
GG_EXPORT(argmax)
"""
