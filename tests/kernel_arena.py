"""Runs an instruction of a compiled step by its NumPy twin and by a CUDA kernel, and compares.

Both get the same memory, operands and room for results in one arena; what is in no place that the
instruction writes must come out as it was, so a kernel that writes elsewhere is found as well.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpugrad.backend import twin
from gpugrad.backend.kernels import chain
from gpugrad.backend.launch import Loader

Operand = tuple[int, int, int, int, str, int]
ITEM = {"b1": "?"}


def dtype_of(code: str) -> np.dtype:
    return np.dtype(ITEM.get(code, code))


class Arena:
    """Memory that places are taken from one after another."""

    def __init__(self, seed: int = 0, size: int = 1 << 16) -> None:
        self.rng = np.random.default_rng(seed)
        self.memory = np.zeros(size, np.uint8)
        self.end = 0

    def take(
        self, code: str, rows: int, cols: int, row: int | None = None, col: int = 1, skew: int = 0
    ) -> Operand:
        """A place of steps ``row`` (default: dense) and ``col``, ``skew`` elements unaligned."""
        item = dtype_of(code).itemsize
        row = cols if row is None else row
        start = -(-self.end // 64) * 64 + skew * item
        self.end = start + item * (1 + max(rows - 1, 0) * row + max(cols - 1, 0) * col)
        while self.end + 64 > len(self.memory):
            self.memory = np.concatenate([self.memory, np.zeros_like(self.memory)])
        return (0, start, row, col, code, 0)

    def fill(self, place: Operand, rows: int, cols: int, values: Any = None) -> Operand:
        """Put values there: normal deviates, unless they are given."""
        if values is None:
            values = self.rng.standard_normal((rows, cols))
            if dtype_of(place[4]).kind in "iu":
                values = np.abs(values) * 20
        with np.errstate(all="ignore"):
            cast = np.asarray(values).astype(dtype_of(place[4]))
        view(self.memory, place, rows, cols)[...] = cast
        return place

    def new(self, code: str, rows: int, cols: int, values: Any = None, **steps: Any) -> Operand:
        """A place with values in it."""
        place = self.take(code, rows, cols, **steps)
        once = (1 if place[2] == 0 else rows, 1 if place[3] == 0 else cols)
        self.fill(place, *once, values)
        return place


def view(memory: np.ndarray, place: Operand, rows: int, cols: int) -> np.ndarray:
    """The (rows, cols) values of a place."""
    _, offset, row, col, code, _ = place
    dtype = dtype_of(code)
    steps = (row * dtype.itemsize, col * dtype.itemsize)
    return np.ndarray((rows, cols), dtype, memory, offset, steps)


def run_twin(instruction: tuple, memory: np.ndarray) -> Any:
    program = twin.Program([("serial", [instruction], 0, 0, ())], 1, 0, 1)
    program.bind(0, memory)
    return program.run()


def aligned(memory: np.ndarray) -> np.ndarray:
    """A copy whose address is a multiple of 64, as device memory has it."""
    room = np.empty(len(memory) + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + len(memory)]
    copy[...] = memory
    return copy


def assert_agree(
    instruction: tuple, before: np.ndarray, launch: Callable[[np.ndarray], Any],
    written: Sequence[tuple[Operand, int, int]], rtol: float, atol: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Run both, compare what is ``written``; returns the kernel's memory."""
    want, got = aligned(before), aligned(before)
    run_twin(instruction, want)
    launch(got)
    outside = np.ones(len(before), bool)
    for place, rows, cols in written:
        a, b = view(want, place, rows, cols), view(got, place, rows, cols)
        if a.dtype.kind == "f":
            np.testing.assert_allclose(b, a, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(b, a)
        at = place[1] + a.itemsize * (
            np.arange(rows)[:, None] * place[2] + np.arange(cols)[None, :] * place[3]
        )
        outside[at[..., None] + np.arange(a.itemsize)] = False
    np.testing.assert_array_equal(got[outside], before[outside])
    return got


def run_chain(loader: Loader, instruction: tuple, memory: np.ndarray) -> None:
    """A ("chain", ...) instruction by the CUDA kernel, on ``memory`` in place."""
    _, dtype, rows, cols, operands, constants, lines, stores, reductions, _ = instruction
    plan = chain.plan(
        dtype,
        rows,
        cols,
        [o[2:5] for o in operands],
        constants,
        lines,
        [(value, to[2:5]) for value, to in stores],
        [(kind, axis, value, to[2:5], s, add) for kind, axis, value, to, s, add in reductions],
    )
    base = memory.ctypes.data
    plan.launch(
        loader,
        [base + o[1] for o in operands],
        [base + to[1] for _, to in stores],
        [base + r[3][1] for r in reductions],
        loader.empty((plan.workspace_bytes,), np.dtype(np.uint8)),
    )


def check_chain(
    loader: Loader, arena: Arena, instruction: tuple, rtol: float = 2e-6, atol: float = 0.0
) -> np.ndarray:
    _, _, rows, cols, *_, stores, reductions, _ = instruction
    written = [(to, rows, cols) for _, to in stores]
    for _, axis, _, to, _, _ in reductions:
        written.append((to, rows if axis == "cols" else 1, cols if axis == "rows" else 1))
    before = arena.memory[: arena.end + 64]
    return assert_agree(
        instruction, before, lambda m: run_chain(loader, instruction, m), written, rtol, atol
    )
