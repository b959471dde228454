"""What test_kernels.py does to every CUDA file: a run that reaches all of it, and its texts.

Arrays are of their own and exactly as long as needed, so that AddressSanitizer sees one element too
many read or written.
"""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np

import gpugrad as gg
from gpugrad.backend.kernels import (
    argmax,
    chain,
    copy,
    cross_entropy,
    gather,
    gemm,
    mlp,
    philox,
    printer,
    scalars,
    scatter,
    softmax,
)
from gpugrad.backend.launch import Loader, kernel_source
from gpugrad.compiler.expr import BINARY, UNARY, WHOLE


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def padded(values: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Memory that ends with the last value, in rows ``step`` apart; and the values in it."""
    rows, cols = values.shape
    memory = np.zeros((rows - 1) * step + cols, values.dtype)
    item = memory.itemsize
    inside = np.lib.stride_tricks.as_strided(memory, values.shape, (step * item, item))
    inside[...] = values
    return memory, inside


def check_chain(loader: Loader) -> None:
    """One text: every way to step through an operand, all three axes; two stages and one."""
    rng = np.random.default_rng(0)
    for rows, cols, step in [(280, 10, 12), (3, 270, 272)]:
        x, values = padded(rng.standard_normal((rows, cols)).astype("f4"), step)
        y, stored = padded(np.zeros((rows, cols), "f4"), step)
        turned = rng.standard_normal((cols, rows)).astype("f4")
        column = rng.standard_normal(rows).astype("f4")
        line = rng.standard_normal(cols).astype("f4")
        z = np.zeros((cols, rows), "f4")
        totals = [np.zeros(count, "f4") for count in (cols, cols, rows, 1)]
        plan = chain.plan(
            "f4", rows, cols,
            [(step, 1, "f4"), (1, rows, "f4"), (1, 0, "f4"), (0, 1, "f4")], (),
            [("add", 0, 1, -1), ("mul", 4, 2, -1), ("add", 5, 3, -1)],
            [(6, (step, 1, "f4")), (5, (1, rows, "f4"))],
            [
                ("sum", "rows", 6, (0, 1, "f4"), 1.0, False),
                ("sum", "rows", 5, (0, 1, "f4"), 1.0, False),
                ("sum", "cols", 6, (1, 0, "f4"), 1.0, False),
                ("max", "all", 6, (0, 0, "f4"), 1.0, False),
            ],
        )  # fmt: skip
        workspace = loader.empty((plan.workspace_bytes,), np.dtype(np.uint8))
        plan.launch(loader, [x, turned, column, line], [y, z], totals, workspace)
        part = (values + turned.T.astype("f8")) * column[:, None]
        want = part + line
        close(stored, want)
        close(z, part.T)
        for got, expected in zip(
            totals, (want.sum(0), part.sum(0), want.sum(1), want.max()), strict=True
        ):
            close(got, expected)


def check_softmax(loader: Loader) -> None:
    """Rows for some threads and for a block, with and without neighbours to the right."""
    rng = np.random.default_rng(0)
    for rows, cols, step in [(70, 10, 12), (3, 1030, 1032)]:
        z, values = padded(rng.standard_normal((rows, cols)).astype("f4"), step)
        y, stored = padded(np.zeros((rows, cols), "f4"), step)
        e = np.exp(values.astype("f8"))
        p = e / e.sum(1, keepdims=True)
        plan = softmax.plan("f4", rows, cols, step, step, False)
        launch = plan.matrix.launch(softmax.softmax_text("f4", 4, False), "softmax", 4)
        for grid in [launch.grid, (1, 1, 1)]:  # one block goes through all rows
            stored[...] = 0
            replace(launch, grid=grid)(loader, z, step, y, step, rows, cols)
            close(stored, p)
        t = rng.integers(0, cols, rows)
        t[1], t[2] = -(1 << 40), 1 << 40
        good = np.arange(rows)[(t >= 0) & (t < cols)]
        r, residual = padded(np.zeros((rows, cols), "f4"), step)
        loss, status = np.zeros(rows, "f4"), np.zeros(2, "i8")
        plan = cross_entropy.plan("f4", rows, cols, step, (1, "i8"), 1, step, None)
        plan.launch(loader, z, t, status, loss, r)
        close(loss[good], -np.log(p[good, t[good]]))
        p[good, t[good]] -= 1
        close(residual[good], p[good])
        assert status.tolist() == [-(1 << 40), 1 << 40]


def check_argmax(loader: Loader) -> None:
    """Below 0, which is what lies beyond the end of a row."""
    rng = np.random.default_rng(0)
    for rows, cols, step in [(70, 10, 12), (3, 1030, 1032)]:
        x, values = padded(-1 - rng.random((rows, cols)).astype("f4"), step)
        for least, want in [(False, values.argmax(1)), (True, (-values).argmax(1))]:
            plan = argmax.plan("f4", rows, cols, step, 1, least)
            launch = plan.matrix.launch(argmax.argmax_text("f4", 4, least), "argmax", 4)
            for grid in [launch.grid, (1, 1, 1)]:  # one block goes through all rows
                out = np.zeros(rows, "i8")
                replace(launch, grid=grid)(loader, x, step, out, 1, rows, cols)
                np.testing.assert_array_equal(out, want)


def check_transpose(loader: Loader) -> None:
    rng = np.random.default_rng(0)
    for rows, cols in [(33, 70), (64, 9)]:
        source, turned = padded(rng.integers(0, 99, (cols, rows)), rows + 2)
        target, copied = padded(np.zeros((rows, cols), "i8"), cols + 3)
        plan = copy.plan(8, rows, cols, (1, rows + 2), (cols + 3, 1))
        assert isinstance(plan, copy.Transpose)
        plan.launch(loader, source, target)
        np.testing.assert_array_equal(copied, turned.T)


def check_philox(loader: Loader) -> None:
    """From the middle of a block, with and without a half word left over."""
    generator = gg.random.Generator(5)
    for n in (1, 2, 3, 8, 1, 1001):
        for code in ("f4", "f4", "f8", "f4"):
            out = np.zeros(n, code)
            state = np.array(generator.state, "u8")
            philox.plan(code, n).launch(loader, state, out)
            np.testing.assert_array_equal(out, generator.uniform(size=n, dtype=code).numpy())
    words = np.zeros(7, "u8")
    philox.plan("u8", 7).launch(loader, np.array(generator.state, "u8"), words)
    np.testing.assert_array_equal(words, generator._bits.bit_generator.random_raw(7))


def check_gemm(loader: Loader) -> None:
    """Several tiles and more steps in depth than stages, no size a multiple of anything."""
    rng = np.random.default_rng(0)
    m, n, k = 37, 35, 133
    a, left = padded(rng.standard_normal((m, k)).astype("f4"), k + 3)
    b, right = padded(rng.standard_normal((k, n)).astype("f4"), n + 1)
    y, stored = padded(np.zeros((m, n), "f4"), n + 1)
    x, added = padded(rng.standard_normal((m, n)).astype("f4"), n + 1)
    totals = [np.zeros(n, "f4"), np.zeros(n, "f4")]
    plan = gemm.plan(
        "f4", m, n, k, (k + 3, False), (n + 1, False), [(n + 1, 1, "f4")], (),
        [("add", 0, 1, -1)], [(2, (n + 1, 1, "f4"))],
        [("sum", "rows", value, (0, 1, "f4"), 1.0, False) for value in (2, 0)],
    )  # fmt: skip
    workspace = loader.empty((plan.workspace_bytes,), np.dtype(np.uint8))
    plan.launch(loader, a, b, [x], [y], totals, workspace)
    product = left.astype("f8") @ right
    close(stored, product + added)
    for total, want in zip(totals, (product + added, product), strict=True):
        close(total, want.sum(0))


def check_mlp(loader: Loader) -> None:
    """No size a multiple of anything; a tile a block, and several blocks and one of several tiles,
    with gradients in the place of the weights.
    """
    rng = np.random.default_rng(0)
    widths = [5, 13, 3]
    weights = [rng.standard_normal(s).astype("f4") for s in ((13, 5), (3, 13))]
    biases = [rng.standard_normal(n).astype("f4") for n in (13, 3)]
    lines = (("add", 0, 1, -1),)
    add = mlp.Function((("f4", mlp.COLUMNS),), (), lines, ((2, "f4"),))
    plus = mlp.Function((("f4", mlp.BELOW),), (), lines, ((2, "f4"),))
    for rows in (37, 7):
        x = rng.standard_normal((rows, 5)).astype("f4")
        outs = [np.zeros((rows, n), "f4") for n in (13, 3)]
        plan = mlp.plan(rows, widths, add, add)
        plan.launch(loader, x, weights, [[b] for b in biases], [[out] for out in outs])
        y = x.astype("f8")
        for w, b, out in zip(weights, biases, outs, strict=True):
            y = y @ w.T + b
            close(out, y)
    # Products and then a gradient alone; the last block has fewer tiles.
    widths = [5, 13, 9, 3]
    for rows, blocks in [(133, 2), (71, 1)]:
        plan = mlp.plan(rows, widths, plus, plus, turned=False, gradients=True, ends=True)
        plan.blocks = blocks
        x = rng.standard_normal((rows, 5)).astype("f4")
        weights, below, outs, totals, wants = [], [], [], [], []
        d = x.astype("f8")
        for k, n in pairwise(widths):
            weights.append(rng.standard_normal((k, n)).astype("f4"))
            below.append(rng.standard_normal((rows, n)).astype("f4"))
            outs.append([np.zeros((rows, n), "f4")])
            totals.append(np.zeros(n, "f4"))
            given = d
            d = d @ weights[-1] + below[-1]
            wants.append((d, weights[-1] + given.T @ below[-1]))
        gradients = [mlp.Gradient(y, w, add=True) for y, w in zip(below, weights, strict=True)]
        workspace = loader.empty((plan.workspace_bytes,), np.dtype(np.uint8))
        more = [[None]] * 2
        plan.launch(loader, x, weights[:2], more, outs[:2], totals[:2], gradients, workspace)
        for [out], total, w, (want, want_w) in zip(outs, totals, weights, wants, strict=True):
            if w is not weights[-1]:
                close(out, want)
                np.testing.assert_allclose(total, want.sum(0), rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(w, want_w, rtol=1e-3, atol=1e-3)


@cache
def texts() -> dict[str, str]:
    """Texts for nvcc, by name: together they have every kernel."""
    unary = [(op, 0, -1, -1) for op in UNARY]
    lines = (*unary, *[(op, 0, 1, -1) for op in BINARY], ("where", 2, 0, 1))
    line = printer.Place("f4", printer.LINE)
    wide, whole = (printer.Place(code, printer.LINE) for code in ("f8", "i8"))
    one = printer.Place("f8", printer.ONE)
    totals = tuple(
        printer.Total(kind, axis, 5, "f4", False)
        for kind, axis in [("sum", "rows"), ("max", "cols"), ("min", "all")]
    )
    mixed = printer.Code(
        "f4", 4, (line, printer.Place("f4", printer.ROW), one),
        ("0x1.8p+1f",), (("mul", 0, 3, -1), ("tanh", 4, -1, -1)), ((5, line),), totals,
    )  # fmt: skip
    accumulator = printer.Place("f4", printer.REGISTERS)
    total = printer.Total("sum", "rows", 4, "f4", False)
    gradient = mixed._replace(
        width=2, operands=(accumulator, line), totals=(total,),
        lines=(("sub", 2, 1, -1), ("mul", 0, 3, -1)), stores=((4, line),),
    )  # fmt: skip
    counts = printer.Code(
        "i8", 2, (whole, printer.Place("i4", printer.LINE), printer.Place("b1", printer.ONE)),
        (printer.literal(-3, "i8"),), (("eq", 0, 1, -1), ("where", 4, 2, 3)), ((5, whole),),
        tuple(t._replace(code="i8") for t in totals),
    )  # fmt: skip
    return {
        **{f"mlp_{name}": mlp.mlp_text(*plan.text) for name, plan in _layers().items()},
        "gemm_exact": gemm.gemm_text("f4", gemm.EXACT_TILES[0], False, False, True, 16, gradient),
        "gemm_half": gemm.gemm_text("f2", gemm.TILES[0], True, False, False, 16, gradient),
        "gemm_small": gemm.gemm_text("f4", gemm.EXACT_TILES[1], True, True, True, 4, gradient),
        "softmax": softmax.softmax_text("f4", 4, False),
        "log_softmax": softmax.softmax_text("f8", 2, True),
        "cross_entropy": cross_entropy.cross_entropy_text("f4", "i8", 4),
        "argmax": argmax.argmax_text("f4", 4, False),
        "argmin": argmax.argmax_text("f2", 8, True),
        "transpose": copy.transpose_text("u8"),
        "philox": philox.philox_text("f4"),
        "opcodes_f4": _opcodes("f4", line, lines),
        "opcodes_f8": _opcodes("f8", wide, lines),
        "opcodes_i8": _opcodes("i8", whole, tuple(line for line in lines if line[0] in WHOLE)),
        "counts": printer.chain_text(counts),
        "chain": printer.chain_text(mixed),
        "group": printer.group_text(mixed._replace(totals=(), operands=(line, line, one))),
        "scatter": scatter.scatter_text("f4"),
        "gather_x4": gather.gather_text("u4", "i8", 4),
        "gather_x1": gather.gather_text("u8", "i4", 1),
        "scalars": kernel_source(scalars.FILE),
    }


def _layers() -> dict[str, mlp.Plan]:
    """As many layers as a launch takes, of all types and sizes."""
    taken = (("f4", mlp.MATRIX), ("b1", mlp.MATRIX))
    chosen = (("mul", 0, 1, -1), ("where", 2, 0, 3))
    code = mlp.Function(taken, (), chosen, ((4, "f4"), (3, "f4")))
    lines = (("mul", 1, 1, -1), ("half", 3, -1, -1), ("sub", 2, 4, -1), ("mul", 0, 5, -1))
    half = mlp.Function((("f2", mlp.BELOW),), (1.0,), lines, ((6, "f2"),))
    wide = half._replace(more=(("B2", mlp.BELOW),), outs=((6, "B2"),))
    large, small = 1 << 16, 64  # rows
    forward, backward = {"turned": True}, {"turned": False, "gradients": True}
    return {
        "tall": mlp.plan(large, [64] * 5, code, code, **forward),
        "wide": mlp.plan(large, [128] * 4, code, code, **forward),
        "low": mlp.plan(small, [128] * 4, code, code, exact=False, **forward),
        "half": mlp.plan(large, [128] * 4, half, half, dtype="f2", **forward),
        "sums": mlp.plan(large, [64] * 6, code, code, sums=True, turned=False),
        "gradients": mlp.plan(large, [64] * 6, code, code, ends=True, **backward),
        "gradients_wide": mlp.plan(large, [128] * 3, code, code, **backward),
        "gradients_half": mlp.plan(small, [64] * 6, half, half, dtype="f2", ends=True, **backward),
        "gradients_bfloat": mlp.plan(
            *(large, [128] * 3, wide, wide), dtype="B2", flipped=True, gradients=True
        ),
    }


def min_arch(name: str) -> int:
    """The lowest compute capability a text is for."""
    return gemm.MIN_ARCH if name.startswith(("gemm", "mlp")) else 0


def _opcodes(dtype: str, place: printer.Place, lines: tuple) -> str:
    stores = tuple((3 + i, place) for i in range(len(lines)))
    return printer.chain_text(printer.Code(dtype, 1, (place,) * 3, (), lines, stores))


def check_scalars(loader: Loader) -> None:
    for count in (3, scalars.NUMBERS + 2):
        numbers = np.zeros(count)
        scalars.send(loader, np.arange(count) + 0.5, numbers)
        np.testing.assert_array_equal(numbers, np.arange(count) + 0.5)
    rates = np.array([0.5, 3.0])
    pairs = [np.zeros(2, "f4"), np.zeros(2)]
    address = loader.address
    scalars.factors(
        loader,
        [
            scalars.Factor(address(rates), -1.0, 1.0, address(pairs[0]), True),
            scalars.Factor(address(rates) + 8, 0.1, 0.0, address(pairs[1]), False),
        ],
    )
    np.testing.assert_array_equal(pairs[0], np.array([-0.5, 1.0], "f4"))
    np.testing.assert_array_equal(pairs[1], [0.1 * 3.0, 0.0])
    for value in (0.0, -1e308, np.inf, -np.inf, np.nan):
        status = np.zeros(2, np.int64)
        scalars.check_finite(loader, np.array([value]), status)
        want = 0 if np.isfinite(value) else np.float64(value).view(np.int64)
        assert status.tolist() == [0, want]


def check_scatter(loader: Loader) -> None:
    """Numbers at both ends, some many times and some never; more elements than threads."""
    rng = np.random.default_rng(0)
    for size, count, cols, dtype in [(4, 9, 5, "f4"), (3, 1, 1, "f8"), (40, 700, 3, "f4")]:
        t = rng.integers(0, size, count)
        t[[0, -1]] = size - 1, 0
        values = rng.standard_normal((count, cols)).astype(dtype)
        out = rng.standard_normal((size, cols)).astype(dtype)
        want = out.copy()
        np.add.at(want, t, values)
        order = np.argsort(t, kind="stable")
        scatter.scatter_add(loader, dtype, out, t[order], order, values, count, cols)
        np.testing.assert_array_equal(out, want)


def check_gather(loader: Loader) -> None:
    """Every width, all ends of the numbers' range, more rows and columns than threads; bad ones."""
    rng = np.random.default_rng(0)
    for size, rows, cols, dtype in [(5, 9, 8, "f4"), (3, 300, 7, "f4"), (4, 3, 2100, "f8")]:
        x = rng.standard_normal((size, cols)).astype(dtype)
        for t_dtype in ("i4", "i8"):
            t = rng.integers(-size, size, rows).astype(t_dtype)
            t[:2] = -size, size - 1
            out, status = np.zeros((rows, cols), dtype), np.zeros(2, np.int64)
            item = x.itemsize
            plan = gather.plan(item, size, rows, cols, cols, (1, t_dtype), cols)
            plan.launch(loader, x, t, out, status)
            np.testing.assert_array_equal(out, x[t])
            assert not status.any()
            t[1:3] = -size - 1, size + 3
            plan.launch(loader, x, t, out, status)
            assert not out[1:3].any()
            assert status.tolist() == [-size - 1, size + 3]
