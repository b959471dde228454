"""Softmax and cross-entropy on CUDA, by the emulator, against NumPy. No GPU is involved."""

from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu.launcher import ORDERS, Emulator, why_unavailable
from kernel_arena import Arena, aligned, assert_agree, view

from gpugrad.backend import launch
from gpugrad.backend.kernels import cross_entropy, softmax

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")

SHAPES = [(1, 2), (5, 10), (300, 3), (70, 36), (3, 1024), (2, 1500), (1, 5001)]


def check_softmax(loader: launch.Loader, arena: Arena, instruction: tuple) -> np.ndarray:
    _, dtype, rows, cols, x, y, log, _ = instruction
    plan = softmax.plan(dtype, rows, cols, x[2], y[2], log)

    def run(memory: np.ndarray) -> None:
        base = memory.ctypes.data
        plan.launch(loader, base + x[1], base + y[1])

    eps = float(np.finfo(dtype).eps)
    before = arena.memory[: arena.end + 64]
    tolerance = {"rtol": 64 * eps, "atol": 64 * eps if log else 0}
    return assert_agree(instruction, before, run, [(y, rows, cols)], **tolerance)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_softmax(emulator: Emulator, rows: int, cols: int, log: bool) -> None:
    arena = Arena()
    x, y = arena.new("f4", rows, cols), arena.take("f4", rows, cols)
    check_softmax(emulator, arena, ("softmax", "f4", rows, cols, x, y, log, False))


@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_rows_apart_and_unaligned(built: Path, log: bool) -> None:
    for dtype, skew in [("f4", 1), ("f8", 0)]:
        arena = Arena()
        x = arena.new(dtype, 6, 10, row=14, skew=skew)
        y = arena.take(dtype, 6, 10, row=12)
        check_softmax(Emulator(built), arena, ("softmax", dtype, 6, 10, x, y, log, False))


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("cols", [5, 1500])
def test_softmax_of_extremes(built: Path, log: bool, cols: int) -> None:
    arena = Arena()
    inf, nan = np.inf, np.nan
    rows = [
        [1e4, -1e4, 0, 1, 2],
        [-1e4, -1e4, -1e4, -1e4, -1e4],
        [-inf, 0, -inf, 1, -inf],
        [-inf] * 5,
        [inf, 0, 1, 2, 3],
        [inf, -inf, inf, 0, 0],
        [0, nan, 1, 2, 3],
        [nan, inf, -inf, 0, 0],
        [0.0, -0.0, 0, 0, 0],
        [3e38, -3e38, 3e38, 0, 0],
    ]
    values = np.resize(np.array(rows), (len(rows), 5))
    values = np.tile(values, (1, cols // 5))
    x, y = arena.new("f4", len(rows), cols, values), arena.take("f4", len(rows), cols)
    instruction = ("softmax", "f4", len(rows), cols, x, y, log, False)
    check_softmax(Emulator(built), arena, instruction)


def check_cross_entropy(
    loader: launch.Loader, arena: Arena, instruction: tuple
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's memory and its status."""
    _, dtype, rows, cols, z, t, loss, residual, probability, scale, _ = instruction
    plan = cross_entropy.plan(
        dtype, rows, cols, z[2], (t[2], t[4]),
        loss and loss[2], residual and residual[2], probability and probability[2], scale,
    )  # fmt: skip
    status = np.zeros(2, "i8")

    def run(memory: np.ndarray) -> None:
        base = memory.ctypes.data
        outs = [o and base + o[1] for o in (loss, residual, probability)]
        plan.launch(loader, base + z[1], base + t[1], status, *outs)

    eps = float(np.finfo(dtype).eps)
    written = [(o, rows, cols) for o in (residual, probability) if o]
    written += [(loss, rows, 1)] if loss else []
    before = arena.memory[: arena.end + 64]
    got = assert_agree(instruction, before, run, written, rtol=64 * eps, atol=8 * eps)
    return got, status


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_cross_entropy(emulator: Emulator, rows: int, cols: int) -> None:
    arena = Arena()
    z = arena.new("f4", rows, cols)
    t = arena.new("i8", rows, 1, arena.rng.integers(0, cols, (rows, 1)))
    outs = (arena.take("f4", rows, 1), arena.take("f4", rows, cols), arena.take("f4", rows, cols))
    instruction = ("cross_entropy", "f4", rows, cols, z, t, *outs, 1 / rows, False)
    _, status = check_cross_entropy(emulator, arena, instruction)
    assert cross_entropy.bad_label(status, cols) is None


@pytest.mark.parametrize("wanted", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)])
def test_cross_entropy_computes_what_is_asked(built: Path, wanted: tuple[int, ...]) -> None:
    for dtype, code in [("f4", "u1"), ("f8", "i4")]:
        arena = Arena()
        z = arena.new(dtype, 7, 10, row=12)
        t = arena.new(code, 7, 1, arena.rng.integers(0, 10, (7, 1)), row=2)
        outs = [
            arena.take(dtype, 7, cols) if w else None
            for w, cols in zip(wanted, (1, 10, 10), strict=True)
        ]
        instruction = ("cross_entropy", dtype, 7, 10, z, t, *outs, 0.5, False)
        check_cross_entropy(Emulator(built), arena, instruction)


def test_cross_entropy_of_extremes(built: Path) -> None:
    arena = Arena()
    rows = [[1e4, -1e4, 0], [-1e4] * 3, [-np.inf, 0, 1], [np.nan, 0, 1], [np.inf, 0, 1]]
    z = arena.new("f4", 5, 3, np.array(rows))
    t = arena.new("i4", 5, 1, np.array([[1], [2], [0], [1], [0]]))
    outs = (arena.take("f4", 5, 1), arena.take("f4", 5, 3), None)
    instruction = ("cross_entropy", "f4", 5, 3, z, t, *outs, 1.0, False)
    got, _ = check_cross_entropy(Emulator(built), arena, instruction)
    assert view(got, outs[0], 5, 1)[0] == 2e4


@pytest.mark.parametrize(
    ("code", "labels", "want"),
    [
        ("i8", [0, 9, 10, 3, 77], ("label", 77, 10)),
        ("i8", [-1, 9, 10, -5, 77], ("label", -5, 10)),
        ("i1", [-1, 9, 0, -1, 1], ("label", -1, 10)),
        ("u1", [255, 9, 0, 1, 1], ("label", 255, 10)),
        ("u8", [2**63 + 5, 9, 0, 1, 1], ("label", 2**63 - 1, 10)),
    ],
)
def test_a_label_out_of_range_is_recorded(
    built: Path, code: str, labels: list, want: tuple
) -> None:
    """Never read; its row has a loss of NaN and no gradient, the other rows are right."""
    z = np.random.default_rng(0).standard_normal((5, 10)).astype("f4")
    t = np.array(labels, code)
    bad = np.array([not 0 <= label < 10 for label in labels])
    for order in ORDERS:
        loss, residual = np.zeros(5, "f4"), np.zeros((5, 10), "f4")
        status = np.zeros(2, "i8")
        plan = cross_entropy.plan("f4", 5, 10, 10, (1, code), 1, 10, None)
        for _ in range(2):
            plan.launch(Emulator(built, order=order), z, t, status, loss, residual)
        assert cross_entropy.bad_label(status, 10) == want
        np.testing.assert_array_equal(np.isnan(loss), bad)
        np.testing.assert_array_equal(residual.any(axis=1), ~bad)


def test_softmax_of_nothing_and_in_place(built: Path) -> None:
    empty = np.zeros((0, 4), "f4")
    softmax.plan("f4", 0, 4, 4, 4, False).launch(Emulator(built), empty, empty)
    status = np.zeros(2, "i8")
    plan = cross_entropy.plan("f4", 0, 4, 4, (1, "i8"), 1, None, None)
    plan.launch(Emulator(built), empty, np.zeros(0, "i8"), status, np.zeros(0, "f4"))
    x = np.random.default_rng(0).standard_normal((40, 10)).astype("f4")
    y = aligned(x.view("u1").ravel()).view("f4").reshape(x.shape)
    softmax.plan("f4", 40, 10, 10, 10, False).launch(Emulator(built), y, y)
    want = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    np.testing.assert_allclose(y, want, rtol=1e-5)


def test_rows_are_covered() -> None:
    for rows in (1, 2, 31, 300, 100_003, 3_000_000_000):
        for cols in (1, 2, 10, 33, 1024, 1025, 100_000):
            for width in (1, 2, 4):
                plan = softmax.RowsPlan("f4", rows, cols, (cols, cols)).launch("", "softmax", width)
                lanes, height, _ = plan.block
                assert lanes * height == softmax.BLOCK_THREADS
                assert lanes in (1, 2, 4, 8, 16, 32, softmax.BLOCK_THREADS)
                assert 1 <= plan.grid[0] < 2**31
                assert (plan.grid[0] - 1) * height < rows
