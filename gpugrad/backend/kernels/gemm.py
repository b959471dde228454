"""A matrix product on tensor cores with fused code behind it: kernels/cuda/gemm.cuh. From sm_80 on.

linear + activation, and the gradient behind an activation with the bias gradient, are two of its
codes. Imports launch, printer and chain.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpugrad.backend.kernels import printer
from gpugrad.backend.kernels.chain import (
    BLOCK_THREADS,
    FOLD_LANES,
    Line,
    Reduction,
    Steps,
    aligned_width,
    place_of,
    totals_of,
)
from gpugrad.backend.kernels.printer import LINE, REGISTERS, TYPES, Code, Place
from gpugrad.backend.launch import (
    ALIGNMENT_BYTES,
    Launch,
    Loader,
    address,
    ceil_div,
    kernel_source,
)
from gpugrad.errors import GpugradError, message

MIN_ARCH = 80  # cp.async, TF32 and bfloat16
_FILES = (*printer.FILES, "mma.cuh", "gemm.cuh")
_FILL_BLOCKS = 132  # as many as a large GPU has processors
_DEEPEST = 1024  # what few blocks may sum over: a sum is never split over several


class Tile(NamedTuple):
    """What one block computes, by how many warps, and how many parts of it are on their way.

    All fit the 48 KiB of shared memory that need not be asked for.
    """

    rows: int
    cols: int
    warps_down: int
    warps_across: int
    stages: int


TILES = (Tile(128, 64, 4, 2, 3), Tile(64, 64, 2, 2, 4), Tile(32, 32, 2, 2, 6))
# Exact products need twice the registers for what is multiplied: narrower warps.
EXACT_TILES = (Tile(128, 64, 4, 4, 3), Tile(64, 64, 2, 4, 4), Tile(32, 32, 2, 2, 6))


class Matrix(NamedTuple):
    """How an operand lies: the step between its rows as stored, and whether k are neighbours."""

    step: int
    deep: bool


class Plan:
    """How to launch one product. `launch` picks the widest copies that the pointers allow."""

    def __init__(
        self, dtype: str, m: int, n: int, k: int, a: Matrix, b: Matrix, exact: bool, code: Code,
        steps: Sequence[tuple[int, int]], totals: Sequence[Reduction],
    ) -> None:  # fmt: skip
        self.dtype, self.m, self.n, self.k = dtype, m, n, k
        self._a, self._b, self._exact = a, b, exact
        self._code, self._steps, self._totals = code, steps, totals
        self._places = [*code.operands[1:], *[place for _, place in code.stores]]
        tiles = [
            (t, ceil_div(m, t.rows) * ceil_div(n, t.cols))
            for t in (EXACT_TILES if exact else TILES)
        ]
        self.tile, self.blocks = next((t for t in tiles if t[1] >= _FILL_BLOCKS), tiles[-1])
        self._splits = ceil_div(m, self.tile.rows)
        room = ceil_div(4 * self._splits * n, ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._part_bytes = room if self._splits > 1 else 0
        self.workspace_bytes = self._part_bytes * len(totals)

    def launch(
        self, loader: Loader, a: Any, b: Any, operands: Sequence[Any], stores: Sequence[Any],
        totals: Sequence[Any] = (), workspace: Any = 0,
    ) -> None:  # fmt: skip
        """Enqueue it. Pointers are arrays or addresses; ``workspace`` is `workspace_bytes`, aligned
        to 16. Stores may be operands, place by place, but overlap neither a nor b.
        """
        if not self.m * self.n:
            return
        pointers = [*operands, *stores]
        width = 2
        for (row, _), place in zip(self._steps, self._places, strict=True):
            width = 1 if place.how == LINE and self.m > 1 and row % 2 else width
        addresses = [address(loader, pointer) for pointer in pointers]
        width = aligned_width(width, zip(addresses, self._places, strict=True))
        item = int(self.dtype[1:])
        copies = [address(loader, a), address(loader, b), self._a.step * item, self._b.step * item]
        copy_bytes = next(c for c in (16, 8, 4, 2) if not any(at % c for at in copies))
        code = self._code._replace(width=width)
        text = gemm_text(
            self.dtype, self.tile, self._a.deep, self._b.deep, self._exact, copy_bytes, code
        )
        arguments: list[Any] = [a, self._a.step, b, self._b.step]
        for pointer, steps, place in zip(pointers, self._steps, self._places, strict=True):
            arguments += [pointer, *steps[: len(place.steps)]]
        folded: list[Any] = []
        at = address(loader, workspace)
        for i, (pointer, r) in enumerate(zip(totals, self._totals, strict=True)):
            total = [pointer, r.place[1], at + i * self._part_bytes, np.float64(r.scale)]
            arguments += total
            folded += [*total, self.n, self._splits]
        threads = 32 * self.tile.warps_down * self.tile.warps_across
        gemm = Launch(text, "gemm", (self.blocks, 1, 1), (threads, 1, 1))
        gemm(loader, *arguments, self.m, self.n, self.k)
        if self.workspace_bytes:
            grid = (ceil_div(self.n, FOLD_LANES), len(totals), 1)
            block = (FOLD_LANES, BLOCK_THREADS // FOLD_LANES, 1)
            Launch(text, "gemm_fold", grid, block)(loader, *folded)


def suits(m: int, n: int, k: int) -> bool:
    """Whether a product has blocks enough for its depth; cuBLAS also splits the sums."""
    tile = TILES[-1]
    return k <= _DEEPEST or ceil_div(m, tile.rows) * ceil_div(n, tile.cols) >= _FILL_BLOCKS


def plan(
    dtype: str, m: int, n: int, k: int, a: tuple[int, bool], b: tuple[int, bool],
    operands: Sequence[Steps], constants: Sequence[float], lines: Sequence[Line],
    stores: Sequence[tuple[int, Steps]],
    reductions: Sequence[tuple[str, str, int, Steps, float, bool]] = (), exact: bool = True,
) -> Plan:  # fmt: skip
    """How to launch acc = a @ b of (m, k) and (k, n), and a code on acc: see `chain.plan`.

    ``dtype`` is "f4", "f2" or "B2" (bfloat16); sums are in float32, and so is the code. ``a`` and
    ``b`` are (step between rows as stored, turned): ``a`` is stored (m, k), turned (k, m); ``b`` is
    stored (k, n), turned (n, k). Value 0 of the code is acc, then come ``operands``, constants and
    lines. Reductions run over rows. ``exact`` float32 products have float32's accuracy but give NaN
    where an input is infinite; else they are rounded to TF32 first.
    """
    totals = [Reduction(*r) for r in reductions]
    if any(r.axis != "rows" for r in totals):
        axes = [r.axis for r in totals]
        raise GpugradError(message("gemm", "a product's totals run over rows", axes, "a chain"))
    steps = [*operands, *[to for _, to in stores]]
    places = [place_of(p, i < len(operands)) for i, p in enumerate(steps)]
    values = [value for value, _ in stores]
    code = Code(
        "f4",
        1,
        (Place("f4", REGISTERS), *places[: len(operands)]),
        tuple(printer.literal(c, "f4") for c in constants),
        tuple((op, x, y, z) for op, x, y, z in lines),
        tuple(zip(values, places[len(operands) :], strict=True)),
        totals_of(totals),
    )
    matrices = Matrix(a[0], not a[1]), Matrix(b[0], b[1])
    pairs = [(row, col) for row, col, _ in steps]
    return Plan(dtype, m, n, k, *matrices, exact and dtype == "f4", code, pairs, totals)


@lru_cache(maxsize=256)
def gemm_text(
    dtype: str, tile: Tile, a_deep: bool, b_deep: bool, exact: bool, copy_bytes: int, code: Code
) -> str:
    """Kernels ``gemm`` and, where something is reduced, ``gemm_fold``."""
    names = ("ROWS", "COLS", "WARPS_DOWN", "WARPS_ACROSS", "STAGES")
    sizes = [*zip(names, tile, strict=True), ("COPY_BYTES", copy_bytes)]
    constants = "".join(f"constexpr int {name} = {value};\n" for name, value in sizes)
    kind = TYPES[dtype]
    flags = ", ".join(str(flag).lower() for flag in (a_deep, b_deep, exact))
    parameters = printer.code_parameters(code)
    matrices = [f"const {kind}* a", "index_t a_step", f"const {kind}* b", "index_t b_step"]
    taken = ", ".join([*matrices, *parameters, "index_t m", "index_t n", "index_t k"])
    return f"""{constants}{kernel_source(*_FILES)}{printer.code_struct(code)}
extern "C" __global__ void __launch_bounds__(THREADS) gemm({taken}) {{
    Code code = {{{printer.code_arguments(parameters)}}};
    run_gemm<{kind}, {flags}>(code, a, a_step, b, b_step, m, n, k);
}}
GG_EXPORT(gemm)
{printer.fold_text(code, "gemm_fold")}"""
