"""Fused elementwise code on CUDA, by the emulator: against its NumPy twin. No GPU is involved."""

import mmap
from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu.launcher import ORDERS, Emulator, why_unavailable
from kernel_arena import Arena, aligned, check_chain, run_chain, run_twin, view

from gpugrad.backend import launch, twin
from gpugrad.backend.kernels import chain, printer
from gpugrad.compiler.expr import BINARY, UNARY, WHOLE
from gpugrad.errors import GpugradError

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")

FLOATS = ("f4", "f8")
SHAPES = [
    (1, 1),
    (1, 7),
    (7, 1),
    (5, 3),
    (64, 36),
    (77, 33),
    (257, 24),  # the first height with more than one row block
    (300, 100),
    (1000, 1),
    (3, 3000),
    (1500, 10),
]


def tolerance(dtype: str, summed: int = 1) -> dict[str, float]:
    eps = float(np.finfo(dtype).eps)
    return {"rtol": 16 * eps, "atol": 16 * eps * summed**0.5}


def every_opcode() -> tuple[tuple[str, int, int, int], ...]:
    """Of operands 0, 1, 2."""
    unary = [(op, 0, -1, -1) for op in UNARY]
    return (*unary, *[(op, 0, 1, -1) for op in BINARY], ("where", 2, 0, 1))


@pytest.mark.parametrize("dtype", FLOATS)
def test_opcodes_mean_what_numpys_do(built: Path, dtype: str) -> None:
    assert {op for op, *_ in every_opcode()} == set(twin.NUMPY)
    points = [0, 1, 0.5, 1.5, 2.5, 3, 7.25, 1e-3, 1e-30, 20, 88, 104, 1e4, np.inf, np.nan]
    values = np.array([*points, *[-p for p in points]])
    x, y = (a.ravel()[None] for a in np.meshgrid(values, values))
    n = x.size
    arena = Arena()
    operands = tuple(arena.new(dtype, 1, n, v) for v in (x, y, np.roll(x, 7)))
    lines = every_opcode()
    stores = tuple((3 + i, arena.take(dtype, 1, n)) for i in range(len(lines)))
    instruction = ("chain", dtype, 1, n, operands, (), lines, stores, (), False)
    got = check_chain(Emulator(built), arena, instruction, **tolerance(dtype))
    want = aligned(arena.memory)
    run_twin(instruction, want)
    zero_signs = {"neg", "abs", "mul", "copysign", "remainder", "mulz", "rint", "trunc", "tanh"}
    for (op, *_), (_, place) in zip(lines, stores, strict=True):
        if op in zero_signs:
            ours, numpys = view(got, place, 1, n), view(want, place, 1, n)
            np.testing.assert_array_equal(
                np.signbit(ours[ours == 0]), np.signbit(numpys[ours == 0])
            )


def test_opcodes_of_whole_numbers_wrap_around_as_numpys_do(built: Path) -> None:
    lines = tuple(line for line in every_opcode() if line[0] in WHOLE)
    assert {op for op, *_ in lines} == WHOLE
    ends = np.iinfo(np.int64)
    values = [0, 1, -1, 3, -7, 2**53 + 1, ends.max, ends.max - 1, ends.min, ends.min + 1]
    x, y = (a.ravel()[None] for a in np.meshgrid(values, values))
    n = x.size
    arena = Arena()
    operands = tuple(arena.new("i8", 1, n, v) for v in (x, y, np.roll(x, 7)))
    stores = tuple((3 + i, arena.take("i8", 1, n)) for i in range(len(lines)))
    check_chain(
        Emulator(built), arena, ("chain", "i8", 1, n, operands, (), lines, stores, (), False)
    )


@pytest.mark.parametrize(("rows", "cols"), [(1, 7), (64, 36), (300, 10)])
def test_whole_numbers_of_every_width(emulator: Emulator, rows: int, cols: int) -> None:
    """Truths counted, sums that wrap around, extremes of the range, results cut to their dtype."""
    arena = Arena()
    far = arena.rng.integers(-(1 << 63), 1 << 63, (rows, cols))
    operands = (
        arena.new("i8", rows, cols, far),
        arena.new("i1", rows, cols, arena.rng.integers(-128, 128, (rows, cols)), row=cols + 3),
        arena.new("u4", rows, cols, arena.rng.integers(0, 1 << 32, (rows, 1)), row=1, col=0),
        arena.new("b1", rows, cols, arena.rng.random((rows, cols)) < 0.5),
    )
    lines = (("add", 0, 1, -1), ("mul", 5, 2, -1), ("lt", 0, 4, -1), ("where", 7, 6, 3))
    stores = ((8, arena.take("i8", rows, cols)), (6, arena.take("i2", rows, cols)))
    reductions = tuple(
        (kind, axis, value, arena.take("i8", count, 1, row=step), 1.0, False)
        if axis != "rows"
        else (kind, axis, value, arena.take("i8", 1, count), 1.0, False)
        for kind, axis, value, count, step in [
            ("sum", "all", 7, 1, 1),
            ("sum", "rows", 8, cols, 0),
            ("max", "cols", 0, rows, 1),
            ("min", "all", 0, 1, 1),
        ]
    )
    instruction = (
        *("chain", "i8", rows, cols, operands, (float(-(1 << 40)),), lines),
        *(stores, reductions, False),
    )
    check_chain(emulator, arena, instruction)


def mixed(arena: Arena, dtype: str, rows: int, cols: int, skew: int = 0) -> tuple:
    """A code with an operand of each kind, a store, and a reduction over each axis."""
    operands = (
        arena.new(dtype, rows, cols, skew=skew),
        arena.new(dtype, rows, cols, row=0),  # one a column
        arena.new(dtype, rows, cols, row=1, col=0),  # one a row
        arena.new("f8", 1, 1, 0.75, row=0, col=0),
    )
    # v5 is the same everywhere, v6 along a row.
    lines = (
        ("mul", 3, 4, -1),
        ("mul", 2, 5, -1),
        ("add", 0, 1, -1),
        ("tanh", 7, -1, -1),
        ("mul", 8, 6, -1),
    )
    stores = ((9, arena.take(dtype, rows, cols)),)
    reductions = (
        ("sum", "rows", 9, arena.take(dtype, 1, cols, row=0), 0.5, False),
        ("max", "cols", 7, arena.take(dtype, rows, 1, row=1, col=0), 1.0, False),
        ("sum", "all", 8, arena.take(dtype, 1, 1, row=0, col=0), 0.25, False),
    )
    return ("chain", dtype, rows, cols, operands, (2.0,), lines, stores, reductions, False)


@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_chain_matches_its_twin(emulator: Emulator, rows: int, cols: int) -> None:
    arena = Arena()
    instruction = mixed(arena, "f4", rows, cols)
    check_chain(emulator, arena, instruction, **tolerance("f4", rows * cols))


def sum_of(arena: Arena, operands: tuple, rows: int, cols: int, **steps) -> tuple:
    """The sum of all operands, stored, and its sums over rows."""
    more = range(2, len(operands))
    lines = [("add", 0, 1, -1), *[("add", len(operands) + i - 2, i, -1) for i in more]]
    last = len(operands) + len(lines) - 1
    stores = ((last, arena.take("f4", rows, cols, **steps)),)
    sums = (("sum", "rows", last, arena.take("f4", 1, cols, row=0), 1.0, False),)
    return ("chain", "f4", rows, cols, operands, (), tuple(lines), stores, sums, False)


@pytest.mark.parametrize("skew", [1, 2])
def test_chain_takes_any_alignment(built: Path, skew: int) -> None:
    arena = Arena()
    check_chain(
        Emulator(built), arena, mixed(arena, "f4", 40, 24, skew=skew), **tolerance("f4", 960)
    )


@pytest.mark.parametrize(("rows", "cols"), [(40, 24), (300, 5)])
def test_chain_takes_any_steps(built: Path, rows: int, cols: int) -> None:
    for turned in (False, True):
        arena = Arena()
        operands = [
            arena.new("f4", rows, cols, row=1, col=rows),  # transposed
            arena.new("f4", rows, cols, row=1, col=0),
        ]
        if not turned:
            operands.append(arena.new("f4", rows, cols, row=2 * cols))
            operands.append(arena.new("f4", rows, cols, row=3 * cols, col=3))
        steps = {"row": 1, "col": rows} if turned else {}
        instruction = sum_of(arena, tuple(operands), rows, cols, **steps)
        check_chain(Emulator(built), arena, instruction, **tolerance("f4", rows * cols))
    arena = Arena()  # a store with a step
    instruction = sum_of(arena, (arena.new("f4", 9, 8), arena.new("f4", 9, 8)), 9, 8, row=17, col=2)
    check_chain(Emulator(built), arena, instruction, **tolerance("f4", 9))


@pytest.mark.parametrize("dtype", FLOATS)
def test_chain_casts_as_numpy_does(built: Path, dtype: str) -> None:
    """Every dtype is loaded, and every one stored."""
    n = 101
    arena = Arena()
    codes = [code for code in printer.TYPES if code != "B2"]
    codes = [code for code in codes if code[0] != "u" or code == "u1" or dtype == "f8"]
    integers = [arena.rng.integers(0, 100, (1, n)) for _ in codes]
    operands = tuple(
        arena.new(code, 1, n, x if code[0] in "iub" else x - 50.25)
        for code, x in zip(codes, integers, strict=True)
    )
    stores = [(i, arena.take(dtype, 1, n)) for i in range(len(codes))]
    bytes_ = codes.index("u1")
    stores += [(bytes_, arena.take(code, 1, n)) for code in codes]
    wide = codes.index("f8")
    stores += [(wide, arena.take(code, 1, n)) for code in ("i1", "i4", "i8", "f2", "b1")]
    instruction = ("chain", dtype, 1, n, operands, (), (), tuple(stores), (), False)
    check_chain(Emulator(built), arena, instruction, rtol=0)


def test_chain_rounds_a_double_to_half_once(built: Path) -> None:
    arena = Arena()
    halfway = 1 + 2.0**-11
    x = arena.new("f8", 1, 4, [[halfway, halfway + 2.0**-40, halfway - 2.0**-40, -1e9]])
    stores = ((0, arena.take("f2", 1, 4)),)
    check_chain(Emulator(built), arena, ("chain", "f8", 1, 4, (x,), (), (), stores, (), False), 0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_constants_keep_their_bits(built: Path, dtype: str) -> None:
    constants = (0.1, -0.0, 0.0, 1e-40, 1 / 3, -1e300, np.inf, -np.inf, np.nan, 16777217.0)
    arena = Arena()
    stores = tuple((i, arena.take(dtype, 1, 1)) for i in range(len(constants)))
    instruction = ("chain", dtype, 1, 1, (), constants, (), stores, (), False)
    with np.errstate(over="ignore"):
        got = check_chain(Emulator(built), arena, instruction, rtol=0)
        want = np.array(constants).astype(dtype)
    found = np.array([view(got, place, 1, 1)[0, 0] for _, place in stores])
    np.testing.assert_array_equal(np.signbit(found[:-1]), np.signbit(want[:-1]))


def test_chain_may_write_over_an_operand(built: Path) -> None:
    arena = Arena()
    x = arena.new("f4", 30, 17)
    t = arena.new("f8", 1, 1, 3.0, row=0, col=0)
    lines = (("mul", 0, 0, -1), ("sub", 0, 2, -1), ("exp", 1, -1, -1))
    instruction = ("chain", "f4", 30, 17, (x, t), (), lines, ((3, x),), (), False)
    check_chain(Emulator(built), arena, instruction, **tolerance("f4"))
    arena = Arena()  # a step counter
    t = arena.new("f8", 1, 1, 3.0, row=0, col=0)
    lines = (("add", 0, 1, -1),)
    instruction = ("chain", "f8", 1, 1, (t,), (1.0,), lines, ((2, t),), (), False)
    check_chain(Emulator(built), arena, instruction)


REDUCTIONS = [(kind, axis) for kind in ("sum", "max", "min") for axis in ("rows", "cols", "all")]


def reducing(arena: Arena, dtype: str, rows: int, cols: int, kinds=REDUCTIONS, add=False) -> tuple:
    """Every reduction of one operand, sums in two dtypes and, with ``add``, on top of others."""
    x = arena.new(dtype, rows, cols, arena.rng.random((rows, cols)))
    places = {"rows": (1, cols, 0, 1), "cols": (rows, 1, 2, 0), "all": (1, 1, 0, 0)}

    def place(axis: str, code: str) -> tuple:
        r, c, row, col = places[axis]
        return arena.new(code, r, c, row=row, col=col) if add else arena.take(code, r, c, row, col)

    reductions = [(kind, axis, 0, place(axis, dtype), 0.5, False) for kind, axis in kinds]
    sums = [axis for kind, axis in kinds if kind == "sum"]
    reductions += [("sum", axis, 0, place(axis, "f8"), 1.0, add) for axis in sums]
    return ("chain", dtype, rows, cols, (x,), (), (), (), tuple(reductions), False)


@pytest.mark.parametrize(("rows", "cols"), [(40, 24), (1500, 5), (3, 3000)])
def test_reductions(emulator: Emulator, rows: int, cols: int) -> None:
    arena = Arena()
    instruction = reducing(arena, "f4", rows, cols, add=True)
    check_chain(emulator, arena, instruction, **tolerance("f4", rows * cols))


@pytest.mark.parametrize("axis", ["cols", "all"])
def test_reductions_over_one_axis_alone(built: Path, axis: str) -> None:
    """Where the rows may be cut too, or all is one row."""
    for rows, cols in [(3, 9000), (2, 10_001), (999, 33)]:
        arena = Arena()
        instruction = reducing(arena, "f8", rows, cols, [("sum", axis), ("min", axis)])
        check_chain(Emulator(built), arena, instruction, **tolerance("f8", rows * cols))


def test_reductions_keep_nan(built: Path) -> None:
    arena = Arena()
    instruction = reducing(arena, "f4", 300, 12)
    view(arena.memory, instruction[4][0], 300, 12)[[7, 299], [3, 11]] = np.nan, -np.inf
    got = check_chain(Emulator(built), arena, instruction, **tolerance("f4", 3600))
    for kind, axis, _, place, *_ in instruction[8]:
        if axis == "rows" and kind != "sum":
            assert np.isnan(view(got, place, 1, 12)[0, 3])


@pytest.mark.parametrize(("rows", "cols"), [(0, 5), (5, 0), (0, 0)])
def test_chain_of_nothing(built: Path, rows: int, cols: int) -> None:
    """Stores write nothing; a sum of nothing is 0, a maximum -inf."""
    arena = Arena()
    x = arena.take("f4", 5, 5)
    outs = {"rows": (1, cols), "cols": (rows, 1), "all": (1, 1)}
    reductions = tuple(
        (kind, axis, 0, arena.new("f4", 5, 5, row=1, col=1), 1.0, False)
        for kind in ("sum", "max")
        for axis in outs
    )
    instruction = ("chain", "f4", rows, cols, (x,), (), (), ((0, x),), reductions, False)
    memory = aligned(arena.memory)
    run_chain(Emulator(built), instruction, memory)
    run_chain(Emulator(built), (*instruction[:8], (), False), memory)
    for kind, axis, _, place, *_ in reductions:
        got = view(memory, place, *outs[axis])
        np.testing.assert_array_equal(got, 0 if kind == "sum" else -np.inf)


def test_nothing_may_have_no_address(built: Path) -> None:
    """An empty array of CuPy's lies at 0, where a GPU that reads loses its context."""
    total = ("sum", "rows", 0, (0, 1, "f4"), 1.0, False)
    plan = chain.plan("f4", 0, 5, [(5, 1, "f4")], (), (), (), [total])
    sums = np.full(5, 7, "f4")
    plan.launch(Emulator(built), [0], [], [sums])
    np.testing.assert_array_equal(sums, 0)


def test_chain_is_bitwise_repeatable(built: Path) -> None:
    arena = Arena()
    instruction = mixed(arena, "f4", 1000, 33)
    results = set()
    for order in ORDERS:
        for _ in range(2):
            memory = aligned(arena.memory)
            run_chain(Emulator(built, order=order), instruction, memory)
            results.add(memory.tobytes())
    assert len(results) == 1


def test_chain_refuses(built: Path) -> None:
    arena = Arena()
    x = (24, 1, "f4")
    most = ("max", "rows", 0, (0, 1, "f4"), 1.0, True)
    with pytest.raises(GpugradError, match=r"\[chain\] only sums accumulate; got max"):
        chain.plan("f4", 3, 24, [x], (), (), (), [most])
    with pytest.raises(GpugradError, match="4096 bytes of parameters; got 400 of them"):
        chain.plan("f4", 3, 24, [x] * 400, (), (), ())
    with pytest.raises(GpugradError, match="too many operands and stores"):
        chain.group_plan("f4", [(1, "f4")] * 600, (), (), (), [3])
    assert arena.end == 0


# ---- several instances in one launch -------------------------------------------------------------

# Adam: p, g, m, v, rate, step count. Constants: betas, their complements, epsilon, one.
ADAM_OPERANDS = [(1, "f4"), (1, "f4"), (1, "f4"), (1, "f4"), (0, "f8"), (0, "f8")]
ADAM_CONSTANTS = (0.9, 0.1, 0.999, 0.001, 1e-8, 1.0)
ADAM = (
    ("mul", 2, 6, -1),
    ("mul", 1, 7, -1),
    ("add", 12, 13, -1),  # 14: m
    ("mul", 3, 8, -1),
    ("square", 1, -1, -1),
    ("mul", 16, 9, -1),
    ("add", 15, 17, -1),  # 18: v
    ("pow", 6, 5, -1),
    ("sub", 11, 19, -1),
    ("pow", 8, 5, -1),
    ("sub", 11, 21, -1),
    ("div", 14, 20, -1),
    ("div", 18, 22, -1),
    ("sqrt", 24, -1, -1),
    ("add", 25, 10, -1),
    ("div", 23, 26, -1),
    ("mul", 27, 4, -1),
    ("sub", 0, 28, -1),  # 29: p
)
ADAM_STORES = [(29, "f4"), (14, "f4"), (18, "f4")]


def check_group(loader: launch.Loader, sizes: list[int], skew: int = 0) -> None:
    """One group against as many chains by the twin."""
    arena = Arena()
    scalars = [arena.new("f8", 1, 1, v, row=0, col=0) for v in (1e-3, 7.0)]
    instances = [
        [arena.new("f4", 1, n, arena.rng.random((1, n)), skew=skew) for _ in range(4)]
        for n in sizes
    ]
    want, got = aligned(arena.memory), aligned(arena.memory)
    for n, (p, g, m, v) in zip(sizes, instances, strict=True):
        stores = ((29, p), (14, m), (18, v))
        operands = (p, g, m, v, *scalars)
        if n:
            line = ("chain", "f4", 1, n, operands, ADAM_CONSTANTS, ADAM, stores, (), False)
            run_twin(line, want)
    base = got.ctypes.data
    plan = chain.group_plan("f4", ADAM_OPERANDS, ADAM_CONSTANTS, ADAM, ADAM_STORES, sizes)
    plan.launch(
        loader,
        [[base + o[1] for o in (*instance, *scalars)] for instance in instances],
        [[base + o[1] for o in (p, m, v)] for p, _, m, v in instances],
    )
    np.testing.assert_allclose(got.view("f4"), want.view("f4"), rtol=1e-5, equal_nan=True)


def test_group_updates_all_at_once(emulator: Emulator) -> None:
    check_group(emulator, [1000, 0, 1, 4096, 10, 2050, 0])


def test_group_of_more_than_a_launch_takes(built: Path) -> None:
    most = printer.group_instances(9)
    assert most == 48
    check_group(Emulator(built), [5] * most)
    check_group(Emulator(built), [*range(most), 1000, 3])
    check_group(Emulator(built), [7, 8, 9], skew=1)
    check_group(Emulator(built), [0])


# ---- geometry ------------------------------------------------------------------------------------

SIZES = (1, 2, 3, 8, 31, 64, 100, 256, 257, 4096, 100_003, 1 << 26, 3_000_000_000)
AXES = [
    frozenset(axes.split()) for axes in ("", "rows", "cols", "all", "rows cols", "rows cols all")
]


def test_every_launch_is_one_cuda_takes() -> None:
    for rows in SIZES:
        for cols in SIZES:
            for width in (1, 4):
                for axes in AXES:
                    grid, block = chain.geometry(rows, cols, width, axes)
                    lanes, height, _ = block
                    assert 1 <= grid[0] < 2**31
                    assert 1 <= grid[1] < 2**16
                    assert grid[2] == block[2] == 1
                    assert 1 <= lanes * height <= chain.BLOCK_THREADS
                    if axes:
                        assert lanes * height == chain.BLOCK_THREADS
                        assert lanes & (lanes - 1) == 0
                    if axes & {"rows", "cols"}:
                        assert lanes <= 32
                    if "rows" in axes:
                        assert grid[0] * lanes * width >= cols
                    assert (grid[0] - 1) * lanes * width < cols
                    assert (grid[1] - 1) * height < rows


def test_tall_and_wide_both_fill_a_gpu() -> None:
    for rows, cols in [(16384, 64), (128, 4096), (4096, 4096)]:
        for axes in AXES[1:]:
            across, down, _ = chain.geometry(rows, cols, 4, axes).grid
            assert 128 <= across * down <= 2048


def test_block_size_is_the_kernels_own() -> None:
    text = launch.kernel_source("reduce.cuh")
    assert f"constexpr int BLOCK_THREADS = {chain.BLOCK_THREADS};" in text


def test_offsets_are_64_bit(built: Path) -> None:
    """Rows 2^29 elements apart: 2^32 in all, of which memory holds the few pages touched."""
    rows, cols, step = 9, 64, 1 << 29

    def sparse() -> np.ndarray:
        size_bytes = 2 * rows * step
        no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named from Python 3.13
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        try:
            memory = mmap.mmap(-1, size_bytes, flags=flags)
        except OSError as error:
            pytest.skip(f"the system refuses {size_bytes} bytes of address space: {error}")
        return np.frombuffer(memory, "f2").reshape(rows, step)[:, :cols]

    x, y, total = sparse(), sparse(), np.zeros(cols, "f4")
    x[...] = np.random.default_rng(0).standard_normal(x.shape)
    place = (step, 1, "f2")
    plan = chain.plan(
        "f4", rows, cols, [place], (), [("neg", 0, -1, -1)], [(1, place)],
        [("sum", "rows", 1, (0, 1, "f4"), 1.0, False)],
    )  # fmt: skip
    plan.launch(Emulator(built), [x], [y], [total])
    np.testing.assert_array_equal(y, -x)
    np.testing.assert_allclose(total, y.astype("f4").sum(0), rtol=1e-5, atol=1e-6)
