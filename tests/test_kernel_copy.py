"""Copies and random numbers on CUDA, by the emulator, against NumPy. No GPU is involved."""

from pathlib import Path

import kernel_checks
import numpy as np
import pytest
from cuda_on_cpu.launcher import Emulator, why_unavailable
from kernel_arena import Arena, assert_agree

import gpugrad as gg
from gpugrad.backend.kernels import copy, philox

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")

LAYOUTS = {
    "dense": ((40, 1), (40, 1)),
    "padded": ((44, 1), (41, 1)),
    "transposed": ((1, 33), (40, 1)),
    "transposing": ((40, 1), (1, 33)),
    "both transposed": ((1, 33), (1, 35)),
    "broadcast row": ((0, 1), (40, 1)),
    "broadcast column": ((1, 0), (40, 1)),
    "steps": ((90, 2), (125, 3)),
}


CASES = [
    *[(layout, itemsize) for layout in LAYOUTS for itemsize in (4, 16)],
    *[(layout, itemsize) for layout in ("dense", "transposing") for itemsize in (1, 2, 8)],
]


@pytest.mark.parametrize(("layout", "itemsize"), CASES)
def test_copy(built: Path, layout: str, itemsize: int) -> None:
    (rows, cols), steps = (33, 40), LAYOUTS[layout]
    arena = Arena(itemsize)
    code = "c16" if itemsize == 16 else f"u{itemsize}"
    source, target = (arena.take(code, rows, cols, *step) for step in steps)
    arena.memory[source[1] : target[1]] = arena.rng.integers(0, 256, target[1] - source[1])
    plan = copy.plan(itemsize, rows, cols, *steps)
    assert isinstance(plan, copy.Transpose) == (layout.startswith("transpos") and itemsize < 16)

    def run(memory: np.ndarray) -> None:
        base = memory.ctypes.data
        plan.launch(Emulator(built), base + source[1], base + target[1])

    instruction = ("copy", itemsize, rows, cols, source, target, False)
    before = arena.memory[: arena.end + 64]
    with np.errstate(all="ignore"):
        assert_agree(instruction, before, run, [(target, rows, cols)], rtol=0)


def test_copy_of_nothing(built: Path) -> None:
    x = np.zeros(1)
    for rows, cols in [(0, 20), (20, 0)]:
        copy.plan(8, rows, cols, (1, 20), (20, 1)).launch(Emulator(built), x, x)


def test_transposes_are_covered() -> None:
    launch = copy.plan(4, 70_000 * 32, 1 << 20, (1, 70_000 * 32), (1 << 20, 1))
    assert isinstance(launch, copy.Transpose)
    assert copy.plan(4, 8, 1000, (1, 8), (1000, 1)).__class__ is copy.Copy


def test_philox_is_numpys(emulator: Emulator) -> None:
    kernel_checks.check_philox(emulator)


@pytest.mark.parametrize("code", ["f4", "f8"])
def test_many_draws_are_numpys(built: Path, code: str) -> None:
    """More blocks of words than threads in a block, and a counter that carries."""
    generator = gg.random.Generator(1)
    full = (1 << 64) - 1
    generator.state = [full - 3, full, 7, 0, *generator.state[4:10], 2, 0]
    state = np.array(generator.state, "u8")
    out = np.zeros(20_001, code)
    philox.plan(code, out.size).launch(Emulator(built), state, out)
    want, words = generator._bits.random(out.size, code), state.copy()
    np.testing.assert_array_equal(out, want)
    philox.plan(code, 0).launch(Emulator(built), state, out)
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(state, words)  # the host moves it on
