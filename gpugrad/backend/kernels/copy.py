"""Copies between strided places: a chain of no ops, or a transpose through shared memory.

Takes what an instruction ("copy", ...) of gpugrad/compiler/emit.py says, but pointers; twin:
`gpugrad.backend.twin.Program`. Imports launch, printer and chain.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from gpugrad.backend.kernels import chain
from gpugrad.backend.kernels.printer import TYPES
from gpugrad.backend.launch import Launch, Loader, address, ceil_div, kernel_source

_TILE, _TILE_ROWS = 32, 8  # TILE, TILE_ROWS in transpose.cuh
_NARROW = 8  # a transpose this narrow gains nothing from shared memory


class Transpose(NamedTuple):
    """A copy whose source steps by 1 between rows and whose target does between columns."""

    code: str
    rows: int
    cols: int
    source_col: int
    target_row: int
    workspace_bytes: int = 0

    def launch(self, loader: Loader, source: Any, target: Any) -> None:
        """Enqueue it on arrays or addresses that do not overlap."""
        tiles = ceil_div(self.rows, _TILE) * ceil_div(self.cols, _TILE)
        block = (_TILE, _TILE_ROWS, 1)
        launch = Launch(transpose_text(self.code), "transpose", (tiles, 1, 1), block)
        launch(loader, source, self.source_col, target, self.target_row, self.rows, self.cols)


class Copy(NamedTuple):
    """A copy as a chain of no ops on unsigned integers, two of them for an element of 16 bytes."""

    chain: chain.Plan
    halves: int
    workspace_bytes: int = 0

    def launch(self, loader: Loader, source: Any, target: Any) -> None:
        """Enqueue it on arrays or addresses that do not overlap."""
        if self.halves == 1:
            self.chain.launch(loader, [source], [target])
            return
        places = [address(loader, source), address(loader, target)]
        ins, outs = ([place, place + 8] for place in places)
        self.chain.launch(loader, ins, outs)


def plan(
    itemsize: int, rows: int, cols: int, source: tuple[int, int], target: tuple[int, int]
) -> Transpose | Copy:
    """How to launch ("copy", itemsize, rows, cols, ...): elements of 1, 2, 4, 8 or 16 bytes.

    ``source`` and ``target`` are steps between rows and between columns, in elements.
    """
    if itemsize <= 8 and rows > _NARROW and cols > _NARROW:
        code = f"u{itemsize}"
        if source[0] == 1 and target[1] == 1 and source[1] > 1:
            return Transpose(code, rows, cols, source[1], target[0])
        if source[1] == 1 and target[0] == 1 and source[0] > 1:
            return Transpose(code, cols, rows, source[0], target[1])
    halves = max(1, itemsize // 8)
    steps = [
        (row * halves, col * halves, f"u{itemsize // halves}") for row, col in (source, target)
    ]
    ins, outs = [steps[0]] * halves, [(half, steps[1]) for half in range(halves)]
    return Copy(chain.plan(steps[0][2], rows, cols, ins, (), (), outs), halves)


@lru_cache(maxsize=8)
def transpose_text(code: str) -> str:
    kind = TYPES[code]
    return f"""{kernel_source("transpose.cuh")}
extern "C" __global__ void __launch_bounds__(TILE * TILE_ROWS)
    transpose(const {kind}* from, index_t from_col, {kind}* to, index_t to_row, index_t rows,
              index_t cols) {{
    transpose_tile(from, from_col, to, to_row, rows, cols);
}}
GG_EXPORT(transpose)
"""
