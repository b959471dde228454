"""Numbers of largest and smallest values on CUDA, by the emulator, against NumPy. No GPU."""

from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu.launcher import Emulator, why_unavailable
from kernel_arena import Arena, Operand, assert_agree, dtype_of

from gpugrad.backend import launch
from gpugrad.backend.kernels import argmax

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")

CODES = {
    **dict.fromkeys(("f2", "b1", "i1", "u8"), "argmax"),
    **dict.fromkeys(("f8", "u4", "i8"), "argmin"),
}


def check(loader: launch.Loader, arena: Arena, x: Operand, rows: int, cols: int, kind: str) -> None:
    out = arena.take("i8", rows, 1, row=2)
    plan = argmax.plan(x[4], rows, cols, x[2], out[2], kind == "argmin")

    def run(memory: np.ndarray) -> None:
        base = memory.ctypes.data
        plan.launch(loader, base + x[1], base + out[1])

    instruction = (kind, x[4], rows, cols, x, out, False)
    assert_agree(instruction, arena.memory[: arena.end + 64], run, [(out, rows, 1)], rtol=0)


@pytest.mark.parametrize("kind", ["argmax", "argmin"])
@pytest.mark.parametrize(
    ("rows", "cols"), [(1, 1), (5, 10), (300, 3), (70, 36), (3, 1024), (2, 1500), (1, 5001)]
)
def test_the_first_of_equals(emulator: Emulator, rows: int, cols: int, kind: str) -> None:
    arena = Arena()
    values = arena.rng.integers(-3, 3, (rows, cols))
    check(emulator, arena, arena.new("f4", rows, cols, values), rows, cols, kind)


@pytest.mark.parametrize("kind", ["argmax", "argmin"])
@pytest.mark.parametrize("cols", [7, 1400])
def test_the_first_nan_and_infinities(emulator: Emulator, cols: int, kind: str) -> None:
    inf, nan = np.inf, np.nan
    rows = [
        [0, nan, 1, nan, inf, -inf, 2],
        [-inf] * 7,
        [inf] * 7,
        [nan] * 7,
        [-1, -2, -3, -1, -2, -3, nan],
        [0.0, -0.0, 0.0, -0.0, 0, 0, 0],
    ]
    arena = Arena()
    values = np.tile(np.array(rows), (1, cols // 7))
    x = arena.new("f4", len(rows), cols, values, row=cols + 5)
    check(emulator, arena, x, len(rows), cols, kind)


@pytest.mark.parametrize("code", CODES)
def test_dtypes_and_their_extremes(built: Path, code: str) -> None:
    dtype = dtype_of(code)
    arena = Arena()
    values = arena.rng.integers(0, 2, (40, 20)).astype(dtype)
    if dtype.kind in "iu":
        values[::2, 11] = np.iinfo(dtype).max
        values[::3, 13] = np.iinfo(dtype).min
    elif dtype.kind == "f":
        values[::2, 11] = np.finfo(dtype).max
        values[::3, 13] = np.nan
    place = arena.new(code, 40, 20, values, row=24, skew=1)
    check(Emulator(built), arena, place, 40, 20, CODES[code])


def test_of_no_rows(built: Path) -> None:
    empty = np.zeros((0, 4), "f4")
    argmax.plan("f4", 0, 4, 4, 1, False).launch(Emulator(built), empty, np.zeros(0, "i8"))
