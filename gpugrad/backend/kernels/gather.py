"""Rows of a matrix by number: kernels/cuda/gather.cuh. Imports launch and printer.

Takes an instruction ("gather", itemsize, size, rows, cols, x, t, out), but pointers.
"""

from functools import lru_cache
from typing import Any, NamedTuple

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

BLOCK_THREADS = 256
STATUS_BYTES = 16
_MOST_BLOCKS = 4096  # more than fill a GPU would only be slower
_CODES = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}


class Plan(NamedTuple):
    """How to launch one gather."""

    itemsize: int
    size: int
    rows: int
    cols: int
    x_row: int
    t_step: int
    t_code: str
    out_row: int
    workspace_bytes: int = 0

    def launch(self, loader: Loader, x: Any, t: Any, out: Any, status: Any) -> None:
        """Enqueue it on arrays or addresses.

        ``status`` is two int64 that kernels can write to, 0 before the first launch; afterwards
        the least number below -size, and the greatest from size on, that were met; 0: none.
        """
        if not self.rows * self.cols:
            return
        width = ALIGNMENT_BYTES // self.itemsize
        while any(step % width for step in (self.cols, self.x_row, self.out_row)):
            width //= 2
        while any(address(loader, p) % (width * self.itemsize) for p in (x, out)):
            width //= 2
        lanes = min(power_of_two_from(ceil_div(self.cols, width)), BLOCK_THREADS)
        height = BLOCK_THREADS // lanes
        grid = (
            min(ceil_div(self.cols, lanes * width), _MOST_BLOCKS),
            min(ceil_div(self.rows, height), _MOST_BLOCKS),
            1,
        )
        text = gather_text(_CODES[self.itemsize], self.t_code, width)
        Launch(text, "gather", grid, (lanes, height, 1))(
            loader, x, self.x_row, t, self.t_step, out, self.out_row, status,
            self.size, self.rows, self.cols,
        )  # fmt: skip


def plan(
    itemsize: int, size: int, rows: int, cols: int, x_row: int, t: tuple[int, str], out_row: int
) -> Plan:
    """How to launch ("gather", ...): ``t`` is the numbers' step and dtype, the rest row steps."""
    return Plan(itemsize, size, rows, cols, x_row, *t, out_row)


@lru_cache(maxsize=64)
def gather_text(code: str, t_code: str, width: int) -> str:
    item, number = TYPES[code], TYPES[t_code]
    return f"""{kernel_source("gather.cuh")}
extern "C" __global__ void __launch_bounds__({BLOCK_THREADS})
    gather(const {item}* x, index_t x_row, const {number}* t, index_t t_step, {item}* out,
           index_t out_row, index_t* status, index_t size, index_t rows, index_t cols) {{
    gather_rows<{width}>(x, x_row, t, t_step, out, out_row, status, size, rows, cols);
}}
GG_EXPORT(gather)
"""
