"""Rows added to rows of a matrix by number, in their order: kernels/cuda/scatter.cuh.

Imports launch and printer.
"""

from functools import cache
from typing import Any

from gpugrad.backend.kernels.printer import TYPES
from gpugrad.backend.launch import Launch, Loader, ceil_div, kernel_source

_THREADS = 256
_MOST_BLOCKS = 4096  # more than fill a GPU would only be slower


def scatter_add(
    loader: Loader, dtype: str, out: Any, numbers: Any, order: Any, values: Any, count: int,
    cols: int,
) -> None:  # fmt: skip
    """Enqueue ``out[numbers[j]] += values[order[j]]`` for rows of ``cols``, j from 0 to ``count``.

    ``dtype`` is "f4" or "f8", of out and values, dense; numbers are int64 in ascending order, and
    so is order where they are equal.
    """
    if count * cols:
        blocks = min(ceil_div(count * cols, _THREADS), _MOST_BLOCKS)
        launch = Launch(scatter_text(dtype), "scatter_add", (blocks, 1, 1), (_THREADS, 1, 1))
        launch(loader, out, numbers, order, values, count, cols)


@cache
def scatter_text(dtype: str) -> str:
    item = TYPES[dtype]
    return f"""{kernel_source("scatter.cuh")}
extern "C" __global__ void __launch_bounds__({_THREADS})
    scatter_add({item}* out, const index_t* numbers, const index_t* order, const {item}* values,
                index_t count, index_t cols) {{
    scatter_rows(out, numbers, order, values, count, cols);
}}
GG_EXPORT(scatter_add)
"""
