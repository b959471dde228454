"""The native CPU core against NumPy: every instruction, every way of running it."""

import itertools
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpugrad as gg
from gpugrad.backend import direct, native, numpy, twin

if native.why_not():
    pytest.skip(native.why_not(), allow_module_level=True)

from gpugrad import _native

Array = np.ndarray[Any, Any]
CHUNKED, PRIVATE = 1, 2
TYPES = ("f4", "f8")


@pytest.fixture(params=_native.isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


class Builder:
    """Turns arrays into operands and instructions into programs."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []

    def base(self, a: Array) -> int:
        """The number of the memory ``a`` is a view of."""
        while isinstance(a.base, np.ndarray):
            a = a.base
        for i, known in enumerate(self.arrays):
            if known is a:
                return i
        self.arrays.append(a)
        return len(self.arrays) - 1

    def __call__(self, a: Array, flags: int = 0) -> tuple[Any, ...]:
        """The operand for a 2-D array; stride 0 where numpy.broadcast_to made one."""
        base = self.base(a)
        offset = a.ctypes.data - self.arrays[base].ctypes.data
        row, col = (s // a.itemsize for s in a.strides)
        kind = "b1" if a.dtype == bool else a.dtype.str[1:]
        return base, offset, row, col, kind, flags

    def program(self, *segments: Any, threads: int = 1, private_bytes: int = 0) -> Any:
        program = _native.Program(segments, len(self.arrays), private_bytes, threads)
        for i, a in enumerate(self.arrays):
            program.bind(i, a.ctypes.data)
        return program

    def run(self, *instructions: Any, mode: str = "serial", threads: int = 1) -> Any:
        return self.program((mode, instructions, 0, 0, ()), threads=threads).run()


def chain(
    dtype: str,
    shape: tuple[int, int],
    operands: Any,
    code: Any,
    stores: Any = (),
    reductions: Any = (),
    constants: Any = (),
    chunked: bool = False,
) -> tuple[Any, ...]:
    return (
        "chain", dtype, *shape, tuple(operands), tuple(constants), tuple(code), tuple(stores),
        tuple(reductions), chunked,
    )  # fmt: skip


# ---- elementwise ---------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def mulz(a: Array, b: Array) -> Array:
    return np.where((a == 0) & np.isnan(a * b), 0, a * b)


REFERENCE: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "abs": np.abs, "square": np.square, "recip": np.reciprocal, "sigmoid": lambda x: sigmoid(x),
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "pow": np.power, "atan2": np.arctan2,
    "max": np.maximum, "min": np.minimum, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal, "and": np.logical_and,
    "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not,
    "where": lambda c, a, b: np.where(c != 0, a, b), "mulz": mulz,
}  # fmt: skip
SAME = {"add", "sub", "mul", "div", "neg", "abs", "sqrt", "square", "recip", "max", "min", "floor",
        "ceil", "trunc", "rint", "sign", "copysign", "lt", "le", "gt", "ge", "eq", "ne", "and",
        "or", "xor", "not", "where", "isnan", "isinf", "isfinite", "mulz"}  # fmt: skip
FIRST_OF_TWO = {"add", "sub", "mul", "div", "pow", "atan2", "hypot", "max", "min", "copysign",
                "remainder", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor",
                "mulz"}  # fmt: skip


def reference(op: str, *values: Array) -> Array:
    function = REFERENCE.get(op) or getattr(np, op)
    with np.errstate(all="ignore"):
        result = function(*values)
        return np.asarray(result, dtype=values[0].dtype)


def arity(op: str) -> int:
    return 3 if op == "where" else 2 if op in FIRST_OF_TWO else 1


def specials(dtype: str) -> Array:
    info = np.finfo(dtype)
    ends = [0, 1, 0.5, 2, 3, 1e-3, 0.25, 87, 88.5, 89, 104, 710, 746, 9.5, 20, 1e4, math.pi,
            info.max, info.tiny, info.smallest_subnormal, info.eps, np.inf]  # fmt: skip
    spread = np.concatenate([np.linspace(0, 4, 41), np.geomspace(1e-30, 1e30, 61)])
    with np.errstate(over="ignore"):
        positive = np.concatenate([ends, spread]).astype(dtype)
    return np.concatenate([positive, -positive, np.array([np.nan], dtype)])


def ulp_error(got: Array, want: Array) -> Array:
    """Distance in units of the last place; 0 where both are NaN or the same infinity."""
    with np.errstate(all="ignore"):
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        distance = np.abs(got.astype("f8") - want) / np.spacing(np.abs(want)).astype("f8")
        return np.where(same, 0, np.where(np.isfinite(distance), distance, np.inf))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("op", _native.OPCODES)
def test_opcode(op: str, dtype: str) -> None:
    x = specials(dtype)
    grids = [x]
    if arity(op) == 2:
        grids = [a.ravel() for a in np.meshgrid(x, x)]
    elif arity(op) == 3:
        grids = [np.resize(np.array([0, 1, np.nan, -0.0], dtype), x.size), x, x[::-1].copy()]
    out = np.empty_like(grids[0])
    b, n = Builder(), len(grids)
    operands = [b(a[None]) for a in grids]
    args = (*range(n), *[-1] * (3 - n))
    b.run(chain(dtype, (1, out.size), operands, [(op, *args)], [(n, b(out[None]))]))
    want = reference(op, *grids)
    if op in SAME:
        np.testing.assert_array_equal(out, want)
        zero = want == 0
        if op not in ("max", "min"):  # which zero is the larger, IEEE leaves open
            np.testing.assert_array_equal(np.signbit(out[zero]), np.signbit(want[zero]))
        return
    if op != "remainder":  # NumPy's own sin, cos, ... are off by a few ulp
        wide = "f8" if dtype == "f4" else "g"
        with np.errstate(over="ignore"):
            want = reference(op, *[a.astype(wide) for a in grids]).astype(dtype)
    error = ulp_error(out, want)
    worst = int(error.argmax())
    assert error[worst] <= 4, (op, [g[worst] for g in grids], out[worst], want[worst])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("op", ["exp", "expm1", "log", "log1p", "tanh", "sigmoid", "pow"])
def test_own_functions_are_good_to_a_few_ulp(op: str, dtype: str) -> None:
    """Against twice the precision, over the range where results are finite."""
    rng = np.random.default_rng(0)
    n = 200_000
    x = np.concatenate([rng.uniform(-110, 90, n), rng.standard_normal(n)]).astype(dtype)
    if op in ("log", "log1p", "pow"):
        x = np.exp(rng.uniform(-80, 80, 2 * n)).astype(dtype)
    y = rng.uniform(-1, 1, 2 * n).astype(dtype)
    out = np.empty_like(x)
    b = Builder()
    operands = [b(x[None]), b(y[None])]
    b.run(chain(dtype, (1, x.size), operands, [(op, 0, 1, -1)], [(2, b(out[None]))]))
    wide = "f8" if dtype == "f4" else "g"
    v, w = x.astype(wide), y.astype(wide)
    want = reference(op, *((v, w) if op == "pow" else (v,)))
    with np.errstate(all="ignore"):
        distance = np.abs(out - want) / np.spacing(np.abs(want).astype(dtype)).astype(wide)
    assert np.max(distance[np.isfinite(out)]) <= 2.5


LINKS = [("add", 2), ("sub", 2), ("mul", 2), ("div", 2), ("max", 2), ("gt", 2), ("sqrt", 1),
         ("sigmoid", 1), ("tanh", 1)]  # fmt: skip


@pytest.mark.parametrize("first", LINKS, ids=lambda link: link[0])
@pytest.mark.parametrize("second", LINKS, ids=lambda link: link[0])
def test_fused_operations_round_as_single_ones(first: Any, second: Any) -> None:
    """Every three in a row, on either side of the next; what is stored in between is not fused."""
    x = np.abs(np.random.default_rng(0).standard_normal((4, 4, 25))).astype("f4")
    for third, sides in itertools.product(LINKS, itertools.product([0, 1], repeat=2)):
        code: list[Any] = [(first[0], *((0, 1) if first[1] == 2 else (0, -1)), -1)]
        for i, (link, side) in enumerate(zip((second, third), sides, strict=True)):
            pair = (4 + i, 2 + i) if side == 0 else (2 + i, 4 + i)
            code.append((link[0], *(pair if link[1] == 2 else (4 + i, -1)), -1))
        b = Builder()
        inputs = [b(a) for a in x]
        out, apart, *between = (np.empty((4, 25), "f4") for _ in range(4))
        sums, sums_apart = np.zeros((1, 25), "f4"), np.zeros((1, 25), "f4")
        stores = [(4 + i, b(a)) for i, a in enumerate(between)]
        total = ("sum", "rows", 6)
        b.run(
            chain("f4", (4, 25), inputs, code, [(6, b(out))], [(*total, b(sums), 1.0, False)]),
            chain("f4", (4, 25), inputs, code, [(6, b(apart)), *stores],
                  [(*total, b(sums_apart), 1.0, False)]),
        )  # fmt: skip
        np.testing.assert_array_equal(out, apart)
        np.testing.assert_array_equal(sums, sums_apart)


def test_in_place_and_dead_code() -> None:
    x = np.arange(3000, dtype="f4").reshape(3, 1000)
    old, y = x.copy(), np.empty_like(x)
    total = np.zeros((1, 1), "f4")
    b = Builder()
    # x is overwritten by a value made before its last use, and read by a store and a reduction.
    code = [("add", 0, 1, -1), ("exp", 0, -1, -1), ("mul", 2, 0, -1)]
    stores = [(2, b(x)), (4, b(y)), (0, b(z := np.empty_like(x)))]
    reductions = [("sum", "all", 0, b(total), 1.0, False)]
    b.run(chain("f4", x.shape, [b(x)], code, stores, reductions, [1.0]))
    np.testing.assert_array_equal(x, old + 1)
    np.testing.assert_array_equal(y, (old + 1) * old)
    np.testing.assert_array_equal(z, old)
    assert total == old.sum()


SHAPES = [(1, 1), (1, 5000), (5, 3), (7, 1), (100, 10), (33, 64), (3, 600), (5, 1025), (4, 2500),
          (2000, 2), (0, 4), (4, 0), (3000, 1)]  # fmt: skip
KINDS = ["full", "row", "col", "scalar", "strided", "transposed", "reversed", "f8", "i8", "u1",
         "b1", "f4row", "i4col"]  # fmt: skip
EXACT_OPS = ["add", "sub", "mul", "neg", "abs", "max", "min", "lt", "ge", "where", "square", "not"]


def operand_array(kind: str, shape: tuple[int, int], dtype: str, rng: Any) -> Array:
    rows, cols = shape

    def values(*shape: int, dtype: str = dtype) -> Array:
        return rng.integers(-3, 4, shape).astype(dtype)

    to = np.broadcast_to
    return {
        "full": lambda: values(rows, cols),
        "row": lambda: to(values(1, cols), shape),
        "col": lambda: to(values(rows, 1), shape),
        "scalar": lambda: to(values(1, 1), shape),
        "strided": lambda: values(2 * rows + 1, 3 * cols + 1)[1::2, 1::3],
        "transposed": lambda: values(cols, rows).T,
        "reversed": lambda: values(rows, cols)[:, ::-1],
        "f8": lambda: values(rows, cols, dtype="f8"),
        "i8": lambda: values(rows, cols, dtype="i8"),
        "u1": lambda: np.abs(values(rows, cols)).astype("u1"),
        "b1": lambda: values(rows, cols) > 0,
        "f4row": lambda: to(values(1, cols, dtype="f4"), shape),
        "i4col": lambda: to(values(rows, 1, dtype="i4"), shape),
    }[kind]()


@st.composite
def chains(draw: Any) -> Any:
    code = []
    inputs = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))
    constants = draw(st.lists(st.sampled_from([0.0, 1.0, -0.5]), max_size=2))
    values = len(inputs) + len(constants)
    for _ in range(draw(st.integers(0, 12))):
        op = draw(st.sampled_from(EXACT_OPS))
        args = [draw(st.integers(0, values - 1)) for _ in range(arity(op))]
        code.append((op, *args, *[-1] * (3 - len(args))))
        values += 1
    pick = st.integers(0, values - 1)
    stores = draw(st.lists(st.tuples(pick, st.sampled_from(["full", "strided", "f8", "b1", "i8"])),
                           max_size=3))  # fmt: skip
    reductions = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["sum", "max", "min"]), st.sampled_from(["rows", "cols", "all"]),
                pick, st.sampled_from(["f4", "f8"]), st.sampled_from([1.0, 2.0]), st.booleans(),
            ),
            max_size=3,
        )
    )  # fmt: skip
    return draw(st.sampled_from(SHAPES)), inputs, constants, code, stores, reductions


@settings(max_examples=300, deadline=None)
@given(chains(), st.sampled_from(TYPES), st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_random_chains(what: Any, dtype: str, threads: int, seed: int) -> None:
    """Values are small whole numbers, so that every sum is exact in any order."""
    shape, kinds, constants, code, stores, reductions = what
    rng = np.random.default_rng(seed)
    inputs = [operand_array(kind, shape, dtype, rng) for kind in kinds]
    with np.errstate(all="ignore"):
        values = [a.astype(dtype) for a in inputs]
        values += [np.full(shape, c, dtype) for c in constants]
        for op, *args in code:
            values.append(reference(op, *[values[a] for a in args if a >= 0]))
    if any(np.abs(v).max(initial=0) * max(v.size, 1) > 2**22 for v in values):
        return  # a sum of these would round

    b = Builder()
    operands = [b(a) for a in inputs]
    wanted, out = [], []
    for value, kind in stores:
        to = operand_array(kind, shape, dtype, rng)
        out.append((value, b(to)))
        with np.errstate(all="ignore"):
            wanted.append((to, values[value].astype(to.dtype)))
    results = []
    for kind, axis, value, to_dtype, scale, accumulate in reductions:
        if 0 in shape and kind != "sum":
            continue
        numpy_axis = {"rows": 0, "cols": 1, "all": None}[axis]
        function = {"sum": np.sum, "max": np.max, "min": np.min}[kind]
        full = np.atleast_2d(function(values[value], axis=numpy_axis)) * scale
        full = full.T if axis == "cols" else full
        to = np.ones(full.shape, to_dtype)
        if accumulate:
            full = {"sum": np.add, "max": np.maximum, "min": np.minimum}[kind](to, full)
        results.append((kind, axis, value, b(to), scale, accumulate))
        wanted.append((to, full.astype(to_dtype)))
    mode = "serial" if threads == 1 else "split"
    instruction = chain(dtype, shape, operands, code, out, results, constants)
    assert b.run(instruction, mode=mode, threads=threads) is None
    for got, want in wanted:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(100_000, 10), (300, 3000), (1, 1_000_000)])
def test_sums_are_accurate(dtype: str, shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    rows, cols, total = (np.zeros(s, dtype) for s in ((1, shape[1]), (shape[0], 1), (1, 1)))
    b = Builder()
    reductions = [
        ("sum", axis, 0, b(to), 0.5, False)
        for axis, to in (("rows", rows), ("cols", cols), ("all", total))
    ]
    b.run(chain(dtype, shape, [b(x)], [], reductions=reductions))
    exact = x.astype("g")
    for got, axis in ((rows[0], 0), (cols[:, 0], 1), (total[0, 0], None)):
        error = np.abs(got - 0.5 * exact.sum(axis)) / np.abs(exact).sum(axis)
        assert np.max(error) < 4 * np.finfo(dtype).eps


def test_nan_reaches_every_reduction() -> None:
    x = np.zeros((40, 100), "f4")
    x[17, 33] = np.nan
    b, outs = Builder(), []
    for kind in ("sum", "max", "min"):
        for axis, shape in (("rows", (1, 100)), ("cols", (40, 1)), ("all", (1, 1))):
            outs.append((kind, axis, 0, np.zeros(shape, "f4"), 1.0, False))
    b.run(chain("f4", x.shape, [b(x)], [], reductions=[(*r[:3], b(r[3]), *r[4:]) for r in outs]))
    for _, axis, _, got, *_ in outs:
        want = {"rows": x.sum(0)[None], "cols": x.sum(1)[:, None], "all": x.sum()[None, None]}
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want[axis]))


# ---- products ------------------------------------------------------------------------------------

SIZES = [(1, 1, 1), (2, 3, 4), (7, 10, 5), (32, 16, 16), (33, 17, 65), (64, 2, 16), (12, 32, 64),
         (13, 64, 300), (128, 10, 64), (100, 100, 100), (5, 7, 0), (70, 90, 257)]  # fmt: skip


@pytest.mark.parametrize("mode", ["serial", "split"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
def test_gemm(ta: bool, tb: bool, beta: float, dtype: str, mode: str) -> None:
    rng = np.random.default_rng(0)
    for m, n, k in SIZES:

        def matrix(rows: int, cols: int) -> Array:
            return rng.standard_normal((rows, cols + 3)).astype(dtype)[:, :cols]

        a, c = matrix(*((k, m) if ta else (m, k))), matrix(m, n)
        x = matrix(*((n, k) if tb else (k, n)))
        if beta == 0:
            c[...] = np.nan  # must not be read
        margin = c.base.copy()
        scale = np.array([[3.0]])
        want = 0.5 * 3 * (a.T if ta else a) @ (x.T if tb else x)
        want += beta * c if beta else 0
        b = Builder()
        b.run(
            ("gemm", dtype, ta, tb, m, n, k, 0.5, b(scale), b(a), b(x), beta, b(c), None),
            mode=mode, threads=1 if mode == "serial" else 3,
        )  # fmt: skip
        tolerance = 1e-5 if dtype == "f4" else 1e-13
        np.testing.assert_allclose(c, want, rtol=tolerance, atol=tolerance * 10 * max(k, 1) ** 0.5)
        np.testing.assert_array_equal(c.base[:, n:], margin[:, n:])


@pytest.mark.parametrize("threads", [1, 3, 4])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [(5, 7, 9, 4), (1, 3, 2, 5), (2, 70, 90, 257)])
def test_stack_of_products(sizes: tuple[int, ...], dtype: str, threads: int) -> None:
    """Members side by side in the columns of one matrix, one after the other, or all the same."""
    count, m, n, k = sizes
    rng = np.random.default_rng(0)
    a = rng.standard_normal((m, count, k)).astype(dtype)
    x = rng.standard_normal((n, k)).astype(dtype)
    c = np.full((count, m, n), np.nan, dtype)
    b = Builder()
    at_a, at_x, at_c = b(a.reshape(m, -1)), b(x), b(c.reshape(-1, n))
    head = ("gemm", dtype, False, True, m, n, k, 1.0, None, at_a, at_x, 0.0, at_c, None)
    mode = "split" if threads > 1 else "serial"
    b.run((*head, count, k, 0, m * n), mode=mode, threads=threads)
    want = np.matmul(a.transpose(1, 0, 2), x.T)
    tolerance = 1e-5 if dtype == "f4" else 1e-13
    np.testing.assert_allclose(c, want, rtol=tolerance, atol=tolerance * 10 * k**0.5)


# ---- softmax, cross-entropy, copy ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("labels", ["i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1"])
@pytest.mark.parametrize("shape", [(1, 1), (50, 2), (130, 10), (20, 100), (3, 1500)])
def test_cross_entropy(shape: tuple[int, int], labels: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    rows, cols = shape
    z = (4 * rng.standard_normal((rows, cols + 1))).astype(dtype)[:, :cols]
    z[0] *= 1e4
    t = rng.integers(0, min(cols, 128), (rows, 1)).astype(labels)
    loss = np.empty((rows, 1), dtype)
    residual, probability = np.empty(shape, dtype), np.empty(shape, dtype)
    b = Builder()
    assert b.run(
        ("cross_entropy", dtype, rows, cols, b(z), b(t), b(loss), b(residual), b(probability),
         0.25, False),
        mode="split", threads=2,
    ) is None  # fmt: skip
    wide = z.astype("f8")
    shifted = wide - wide.max(1, keepdims=True)
    e = np.exp(shifted)
    p = e / e.sum(1, keepdims=True)
    each = np.arange(rows)
    want = np.log(e.sum(1)) - shifted[each, t[:, 0]]
    tolerance = 2e-6 if dtype == "f4" else 1e-13
    np.testing.assert_allclose(loss[:, 0], want, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(probability, p, rtol=10 * tolerance, atol=tolerance)
    p[each, t[:, 0]] -= 1
    np.testing.assert_allclose(residual, 0.25 * p, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", ["serial", "split", "rows"])
@pytest.mark.parametrize("bad", [-1, 5, 200])
def test_a_bad_label_stops_the_run(bad: int, mode: str) -> None:
    z, t = np.zeros((40, 5), "f4"), np.zeros((40, 1), "i8")
    t[33] = bad
    residual, later = np.full((40, 5), 7, "f4"), np.zeros((40, 5), "f4")
    b = Builder()
    flags = CHUNKED if mode == "rows" else 0
    entropy = ("cross_entropy", "f4", 40, 5, b(z, flags), b(t, flags), None, b(residual, flags),
               None, 1.0, bool(flags))  # fmt: skip
    update = chain("f4", (40, 5), [], [], [(0, b(later))], constants=[1.0])
    program = b.program(
        (mode, (entropy,) if mode == "rows" else (entropy, update), 40, 20, ()),
        ("serial", (update,), 0, 0, ()),
        threads=1 if mode == "serial" else 2,
    )
    assert program.run() == ("label", bad, 5)
    assert not later.any()
    assert (residual[33] == 7).all()
    t[33] = 4
    assert program.run() is None
    assert later.all()
    assert (residual != 7).all()


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1), (130, 10), (20, 100), (3, 1500)])
def test_softmax(shape: tuple[int, int], dtype: str, log: bool) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    y, nan = np.empty_like(x), x.copy()
    nan[0, 0] = np.nan
    b = Builder()
    rows, cols = shape
    b.run(
        ("softmax", dtype, rows, cols, b(x), b(y), log, False),
        ("softmax", dtype, rows, cols, b(nan), b(nan), log, False),
    )
    wide = x.astype("f8")
    want = np.exp(wide) / np.exp(wide).sum(1, keepdims=True)
    tolerance = 2e-6 if dtype == "f4" else 1e-13
    np.testing.assert_allclose(y, np.log(want) if log else want, rtol=tolerance, atol=tolerance)
    assert np.isnan(nan[0]).all()
    np.testing.assert_array_equal(nan[1:], y[1:])


@pytest.mark.parametrize("mode", ["serial", "split"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8", "b1"])
def test_copy(dtype: str, mode: str) -> None:
    x = np.random.default_rng(0).integers(0, 2, (70, 45)).astype(dtype)
    for source in (x, x.T, x[::2, ::3], np.broadcast_to(x[:1], x.shape)):
        to = np.zeros((source.shape[1] + 2, source.shape[0] + 1), dtype).T[1:, 2:]
        b = Builder()
        b.run(("copy", x.itemsize, *source.shape, b(source), b(to), False), mode=mode, threads=2)
        np.testing.assert_array_equal(to, source)
        assert not to.base[:2].any()


# ---- whole steps, in each mode -------------------------------------------------------------------


class Step:
    """One SGD step of an MLP with sigmoids and cross-entropy, planned by layers or by rows."""

    def __init__(self, batch: int, sizes: list[int], mode: str, threads: int) -> None:
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((batch, sizes[0])).astype("f4")
        self.t = rng.integers(0, sizes[-1], (batch, 1))
        self.w = [
            (rng.standard_normal(s) / s[0] ** 0.5).astype("f4") for s in itertools.pairwise(sizes)
        ]
        self.b = [np.zeros((1, n), "f4") for n in sizes[1:]]
        self.loss = np.zeros((1, 1), "f4")
        self.program = (self.rows if mode == "rows" else self.layers)(batch, sizes, mode, threads)

    def layers(self, batch: int, sizes: list[int], mode: str, threads: int) -> Any:
        o = Builder()
        h = [self.x] + [np.empty((batch, n), "f4") for n in sizes[1:]]
        d = [np.empty_like(a) for a in h]
        losses = np.empty((batch, 1), "f4")
        self.keep = h, d, losses
        code = self.forward(o, batch, h, lambda a: o(a), False)
        code += self.head(o, batch, sizes[-1], h[-1], d[-1], losses, lambda a: o(a), False)
        for k in reversed(range(len(self.w))):
            rate = ("sum", "rows")
            code.append(
                self.slope(o, batch, d[k + 1], h[k + 1], k, lambda a: o(a), rate, self.b[k], -0.1,
                           True, False)
            )  # fmt: skip
            m, n = self.w[k].shape
            if k:
                code.append(("gemm", "f4", False, True, batch, m, n, 1.0, None, o(d[k + 1]),
                             o(self.w[k]), 0.0, o(d[k]), None))  # fmt: skip
            code.append(("gemm", "f4", True, False, m, n, batch, -0.1, None, o(h[k]), o(d[k + 1]),
                         1.0, o(self.w[k]), None))  # fmt: skip
        total = ("sum", "all", 0, o(self.loss), 1 / batch, False)
        code.append(chain("f4", (batch, 1), [o(losses)], [], reductions=[total]))
        return o.program((mode, tuple(code), 0, 0, ()), threads=threads)

    def forward(self, o: Any, rows: int, h: list[Array], at: Any, chunked: bool) -> list[Any]:
        code: list[Any] = []
        for k, (w, bias) in enumerate(zip(self.w, self.b, strict=True)):
            m, n = w.shape
            source = o(self.x, CHUNKED) if chunked and not k else at(h[k])
            code.append(("gemm", "f4", False, False, rows, n, m, 1.0, None, source, o(w), 0.0,
                         at(h[k + 1]), "m" if chunked else None))  # fmt: skip
            row = o(np.broadcast_to(bias, (rows, n)))
            last = k == len(self.w) - 1
            lines = [("add", 0, 1, -1)] + ([] if last else [("sigmoid", 2, -1, -1)])
            z = at(h[k + 1])
            code.append(
                chain("f4", (rows, n), [z, row], lines, [(1 + len(lines), z)], chunked=chunked)
            )
        return code

    def head(self, o: Any, rows: int, n: int, z: Array, d: Array, losses: Array, at: Any,
             chunked: bool) -> list[Any]:  # fmt: skip
        t = o(self.t, CHUNKED if chunked else 0)
        return [("cross_entropy", "f4", rows, n, at(z), t, at(losses), at(d), None,
                 1 / len(self.x), chunked)]  # fmt: skip

    def slope(self, o: Any, rows: int, d: Array, h: Array, k: int, at: Any, kind: Any, to: Array,
              scale: float, accumulate: bool, chunked: bool) -> Any:  # fmt: skip
        shape = (rows, self.w[k].shape[1])
        to_operand = to if isinstance(to, tuple) else o(to)
        if k == len(self.w) - 1:
            reduction = (*kind, 0, to_operand, scale, accumulate)
            return chain("f4", shape, [at(d)], [], reductions=[reduction], chunked=chunked)
        code = [("sub", 2, 1, -1), ("mul", 1, 3, -1), ("mul", 0, 4, -1)]
        reduction = (*kind, 5, to_operand, scale, accumulate)
        return chain("f4", shape, [at(d), at(h)], code, [(5, at(d))], [reduction], [1.0], chunked)

    def rows(self, batch: int, sizes: list[int], mode: str, threads: int) -> Any:
        chunk = getattr(self, "chunk", 32)
        o = Builder()
        used = 0

        def take(rows: int, cols: int) -> Any:
            nonlocal used
            at, used = used, used + rows * cols * 4
            used += -used % 64
            return (None, at, cols, 1, "f4", PRIVATE)

        h: list[Any] = [self.x] + [take(chunk, n) for n in sizes[1:]]
        d = [take(chunk, n) for n in sizes]
        losses = take(chunk, 1)
        first = used
        dw = [take(*w.shape) for w in self.w]
        db = [take(1, n) for n in sizes[1:]]
        loss = take(1, 1)
        private = np.empty((threads, used), "u1")
        base = o.base(private)
        self.keep = (private,)

        def at(a: Any, flags: int = PRIVATE) -> Any:
            return (base, *a[1:5], flags)

        code = self.forward(o, chunk, h, at, True)
        code += self.head(o, chunk, sizes[-1], h[-1], d[-1], losses, at, True)
        total = ("sum", "all", 0, at(loss), 1 / batch, True)
        code.append(chain("f4", (chunk, 1), [at(losses)], [], reductions=[total], chunked=True))
        for k in reversed(range(len(self.w))):
            m, n = self.w[k].shape
            code.append(self.slope(o, chunk, d[k + 1], h[k + 1], k, at, ("sum", "rows"), at(db[k]),
                                   1.0, True, True))  # fmt: skip
            source = o(self.x, CHUNKED) if k == 0 else at(h[k])
            code.append(("gemm", "f4", True, False, m, n, chunk, 1.0, None, source, at(d[k + 1]),
                         1.0, at(dw[k]), "k"))  # fmt: skip
            if k:
                code.append(("gemm", "f4", False, True, chunk, m, n, 1.0, None, at(d[k + 1]),
                             o(self.w[k]), 0.0, at(d[k]), "m"))  # fmt: skip
        update = []
        for p, g in zip(self.w + self.b, dw + db, strict=True):
            parts = [(base, g[1] + i * used, p.shape[1], 1, "f4", 0) for i in range(threads)]
            lines, last = [], 1
            for i in range(1, threads):
                lines.append(("add", last, i + 1, -1))
                last = threads + 1 + len(lines)
            lines += [("mul", last, threads + 1, -1)]
            lines += [("sub", 0, threads + 1 + len(lines), -1)]
            result = threads + 1 + len(lines)
            update.append(
                chain("f4", p.shape, [o(p), *parts], lines, [(result, o(p))], constants=[0.1])
            )
        parts = [(base, loss[1] + i * used, 1, 1, "f4", 0) for i in range(threads)]
        total_loss = [("sum", "all", i, o(self.loss), 1.0, i > 0) for i in range(threads)]
        update += [chain("f4", (1, 1), parts, [], reductions=[r]) for r in total_loss]
        zeroed = ((first, used - first, base),)
        return o.program(
            ("rows", tuple(code), batch, chunk, zeroed), ("split", tuple(update), 0, 0, ()),
            threads=threads, private_bytes=used,
        )  # fmt: skip

    def reference(self, steps: int) -> list[float]:
        w, b = ([p.astype("f8") for p in ps] for ps in (self.w, self.b))
        losses, t = [], self.t[:, 0]
        for _ in range(steps):
            h = [self.x.astype("f8")]
            for k in range(len(w)):
                z = h[-1] @ w[k] + b[k]
                h.append(1 / (1 + np.exp(-z)) if k < len(w) - 1 else z)
            p = np.exp(h[-1])
            p /= p.sum(1, keepdims=True)
            losses.append(float(-np.log(p[np.arange(len(t)), t]).mean()))
            p[np.arange(len(t)), t] -= 1
            d = p / len(t)
            for k in reversed(range(len(w))):
                if k < len(w) - 1:
                    d = d * h[k + 1] * (1 - h[k + 1])
                dw, db, d = h[k].T @ d, d.sum(0), d @ w[k].T
                w[k] -= 0.1 * dw
                b[k] -= 0.1 * db
        return losses

    def run(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            assert self.program.run() is None
            losses.append(float(self.loss[0, 0]))
        return losses


NETS = [(32, [2, 16, 16, 2]), (100, [64, 65, 10]), (130, [20, 300, 33, 7])]


@pytest.mark.parametrize("net", NETS, ids=str)
@pytest.mark.parametrize("mode", ["serial", "split", "rows"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_training_step(net: Any, mode: str, threads: int) -> None:
    if mode == "serial" and threads > 1:
        threads = 1
    step = Step(*net, mode, threads)
    want = step.reference(5)
    np.testing.assert_allclose(step.run(5), want, rtol=3e-6)


@pytest.mark.parametrize("mode", ["split", "rows"])
def test_the_same_bits_every_time(mode: str) -> None:
    """Also when the pool is taken, and the calling thread does all parts itself."""
    first = Step(*NETS[2], mode, 2)
    first.run(3)
    for _ in range(50):
        again = Step(*NETS[2], mode, 2)
        again.run(3)
        for a, b in zip(first.w + first.b, again.w + again.b, strict=True):
            np.testing.assert_array_equal(a, b)


def test_two_python_threads_at_once() -> None:
    want = Step(*NETS[2], "split", 2)
    want.run(40)
    steps = [Step(*NETS[2], mode, 2) for mode in ("split", "split", "rows")]
    runners = [threading.Thread(target=step.run, args=(40,)) for step in steps]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    for step in steps[:2]:
        for a, b in zip(want.w, step.w, strict=True):
            np.testing.assert_array_equal(a, b)


def test_blas_threads_are_put_back() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def counts() -> list[int]:
        return [lib["num_threads"] for lib in threadpoolctl.threadpool_info()]

    before = counts()
    Step(*NETS[2], "split", 2).run(2)
    assert counts() == before


IN_CHILD = """
import os, sys
sys.path.insert(0, {tests!r})
from test_native import NETS, Step
step = Step(*NETS[2], "split", 2)
step.run(2)
child = os.fork()
if child == 0:
    step.run(2)
    os._exit(0 if step.loss[0, 0] > 0 else 1)
status = os.waitpid(child, 0)[1]
step.run(2)
print(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_after_use(isa: str) -> None:
    code = IN_CHILD.format(tests=os.path.dirname(__file__))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "0\n"


# ---- argmax --------------------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["native", "twin"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 10), (40, 3), (3, 1000)])
def test_argmax(shape: tuple[int, int], dtype: str, threads: int, core: str) -> None:
    engine: Any = _native.Program if core == "native" else twin.Program
    rows, cols = shape
    x = np.random.default_rng(0).integers(-3, 3, shape).astype(dtype)  # with ties
    for i, value in enumerate((np.nan, np.inf, -np.inf)):
        x[i::5, cols // 2 :: 3] = value
    out = np.full(rows, -1)
    code = ("argmax", dtype, rows, cols, (0, 0, cols, 1, dtype, 0), (1, 0, 1, 1, "i8", 0), False)
    mode = "split" if threads > 1 else "serial"
    program = engine(((mode, (code,), 0, 0, ()),), 2, 0, threads)
    for i, array in enumerate((x, out)):
        program.bind(i, array.ctypes.data if core == "native" else array)
    assert program.run() is None
    np.testing.assert_array_equal(out, x.argmax(axis=1))


# ---- draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("core", ["native", "twin"])
def test_uniforms_have_the_bits_of_numpys(dtype: str, core: str, threads: int) -> None:
    """From any place in the stream: within a block, within a word, and where a counter carries."""
    engine: Any = _native.Program if core == "native" else twin.Program
    kind = np.dtype(dtype)
    for n in (0, 1, 2, 3, 8, 9, 70, 5000):
        for before in (0, 1, 2, 3, 7, 8, 13):
            ours, theirs = (
                gg.random.Generator(5),
                np.random.Generator(np.random.Philox(np.random.SeedSequence(5))),
            )
            for generator in (ours._bits, theirs):
                generator.bit_generator.advance(2**64 - 2)  # blocks
                generator.random(before, np.float32)
            state, out = ours.take(n, kind), np.full(n, -1, dtype)
            draw = ("uniform", dtype, n, (0, 0, 1, 1, "u8", 0), (1, 0, 1, 1, dtype, 0))
            mode = "split" if threads > 1 else "serial"
            program = engine(((mode, (draw,), 0, 0, ()),), 2, 0, threads)
            for i, array in enumerate((state, out)):
                program.bind(i, array.ctypes.data if core == "native" else array)
            program.run()
            np.testing.assert_array_equal(out, theirs.random(n, kind))
            assert ours._bits.random() == theirs.random()


# ---- what is refused -----------------------------------------------------------------------------

Z = (0, 0, 4, 1, "f4", 0)
BAD = [
    ("x",),
    (),
    ("chain", "f2", 1, 1, (), (), (), (), (), False),
    ("chain", "f4", -1, 1, (), (), (), (), (), False),
    ("chain", "f4", 1, 1, (), (), (), (), False),
    ("chain", "f4", 1, 1, (Z,), (), (("nope", 0, -1, -1),), (), (), False),
    ("chain", "f4", 1, 1, (Z,), (), (("add", 0, 1, -1),), (), (), False),
    ("chain", "f4", 1, 1, (Z,), ("a",), (), (), (), False),
    ("chain", "f4", 1, 1, ((1, 0, 0, 0, "f4", 0),), (), (), (), (), False),
    ("chain", "f4", 1, 1, ((0, 0, 0, 0, "c8", 0),), (), (), (), (), False),
    ("chain", "f4", 1, 1, ((0, 0, 0, 0, "f4", 4),), (), (), (), (), False),
    ("chain", "f4", 1, 1, ((0, 0, 0, 0, "f4", CHUNKED),), (), (), (), (), False),
    ("chain", "f4", 1, 1, (Z,), (), (), ((1, Z),), (), False),
    ("chain", "f4", 1, 1, (Z,), (), (), (), (("mean", "all", 0, Z, 1.0, False),), False),
    ("chain", "f4", 1, 1, (), (), (), (), (), True),
    ("gemm", "f4", False, False, 4, 4, 4, 1.0, None, (0, 0, 3, 1, "f4", 0), Z, 0.0, Z, None),
    ("gemm", "f4", False, False, 4, 4, 4, 1.0, None, (0, 0, 4, 2, "f4", 0), Z, 0.0, Z, None),
    ("gemm", "f8", False, False, 4, 4, 4, 1.0, None, Z, Z, 0.0, Z, None),
    ("gemm", "f4", False, False, 4, 4, 4, 1.0, Z, Z, Z, 0.0, Z, None),
    ("gemm", "f4", False, False, 4, 4, 4, 1.0, None, Z, Z, 0.0, Z, "m"),
    ("gemm", "f4", False, False, 4, 4, 4, 1.0, None, Z, Z, 0.0, Z, None, 0, 1, 1, 1),
    ("gemm", "f4", False, False, 4, 4, 4, 1.0, None, Z, Z, 0.0, Z, None, 2, -1, 1, 1),
    ("gemm", "f4", False, False, 4, 4, 4, 1.0, None, Z, Z, 0.0, Z, None, 2, 1, 1),
    ("cross_entropy", "f4", 2, 4, Z, Z, None, None, None, 1.0, False),
    ("cross_entropy", "f4", 2, 0, Z, (0, 0, 1, 0, "i8", 0), None, None, None, 1.0, False),
    ("softmax", "f4", 2, 4, Z, None, False, False),
    ("copy", 3, 2, 2, Z, Z, False),
    ("copy", 8, 2, 2, Z, Z, False),
    ("argmax", "f4", 2, 4, Z, Z, False),
    ("argmax", "f4", 2, 0, Z, (0, 0, 1, 0, "i8", 0), False),
    ("uniform", "f4", 2, Z, Z),
    ("uniform", "f4", 2, (0, 0, 1, 1, "u8", 0), (0, 0, 1, 1, "f8", 0)),
    ("uniform", "f4", -1, (0, 0, 1, 1, "u8", 0), Z),
]


@pytest.mark.parametrize("instruction", BAD, ids=str)
def test_a_wrong_instruction_is_named(instruction: Any) -> None:
    with pytest.raises(ValueError, match=r"\[native\] segment 0, instruction 1: .*; got "):
        _native.Program(
            (("serial", (("copy", 4, 0, 0, Z, Z, False), instruction), 0, 0, ()),), 1, 0, 1
        )


def test_wrong_use() -> None:
    program = _native.Program((), 2, 0, 1)
    with pytest.raises(ValueError, match="no address; got none for 0"):
        program.run()
    with pytest.raises(IndexError, match="no such base; got 2"):
        program.bind(2, 1)
    with pytest.raises(ValueError, match="not null"):
        program.bind(0, 0)
    with pytest.raises(ValueError, match="threads is"):
        _native.Program((), 0, 0, 0)
    with pytest.raises(ValueError, match="mode is serial, rows or split"):
        _native.Program((("all", (), 0, 0, ()),), 0, 0, 1)
    with pytest.raises(ValueError, match="instruction set"):
        _native.set_isa("mmx")


# ---- what is in use ------------------------------------------------------------------------------


def test_describe() -> None:
    what = native.describe()
    assert what["available"]
    assert what["isa"] == _native.isas()[0]
    assert os.path.exists(what["blas"])
    assert what["blas_int_bits"] in (32, 64)
    with gg.config.override(num_threads=3):
        assert native.threads() == 3
    with gg.config.override(native=False):
        assert not native.available()
        assert native.why_not() == "GPUGRAD_NATIVE is 0"


def test_importing_gpugrad_leaves_the_core_alone() -> None:
    code = "import sys, gpugrad; print('gpugrad._native' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"


def test_a_core_of_another_version_is_left_alone() -> None:
    code = "import gpugrad._native as n; n.FORMAT -= 1\nimport gpugrad as gg\n"
    code += "from gpugrad.backend import native; print(native.why_not())\n"
    code += "print(gg.compile(gg.exp)(gg.zeros(2)).tolist(), gg.sigmoid(gg.zeros(2)).tolist())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    why, values = done.stdout.splitlines()
    assert why == "the native core is of another version: install again"
    assert values == "[1.0, 1.0] [0.5, 0.5]"


# Ops outside a compiled step


@pytest.fixture(params=["one thread", "threads"])
def fresh(request: Any, monkeypatch: Any) -> None:
    """Programs built anew, for the instruction set of this test; cut over threads or not."""
    least = 1 << 60 if request.param == "one thread" else 1
    monkeypatch.setattr(direct, "_SPLIT_VALUES", least)
    monkeypatch.setattr(direct, "_SPLIT_FLOP", least)
    monkeypatch.setattr(direct, "_programs", direct._Programs())


def both_ways(f: Any) -> Iterator[tuple[Any, Any]]:
    """Results of ``f`` with and without the native core, side by side."""
    with gg.config.override(native=False):
        wanted = f()
    got = f()
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            yield a, b


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", [(1, 7), (1, 20_001), (30, 31), (20_001, 1), (5, 4, 50)])
def test_sigmoid_of_an_array(dtype: str, shape: tuple[int, ...], fresh: None) -> None:
    """The same with and without the native core, where it is used and where it cannot be."""
    x = 4 * np.random.default_rng(0).standard_normal(shape).astype(dtype)
    x.flat[:7] = [0.0, -0.0, np.inf, -np.inf, np.nan, 88.8, -104.0]
    tolerance = 2e-6 if dtype == "f4" else 1e-13
    for view in (x, x[::-1], x.T):
        for a, b in both_ways(lambda view=view: [gg.sigmoid(gg.asarray(view)).numpy()]):
            np.testing.assert_allclose(a, b, tolerance, 300 * tolerance)


LAYERS = [(1, 1, 1), (3, 5, 4), (32, 64, 10), (33, 400, 130), (700, 20, 30)]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", LAYERS)
def test_layer_and_its_backward_in_one_call(
    dtype: str, shape: tuple[int, int, int], fresh: None
) -> None:
    m, k, n = shape
    rng = np.random.default_rng(0)
    x, w, g = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (n, k), (m, n)))
    b = rng.standard_normal(n).astype(dtype)
    tolerance = 1e-4 if dtype == "f4" else 1e-12
    for a, c in both_ways(lambda: [numpy.linear(x, w, b)]):
        np.testing.assert_allclose(a, c, tolerance, tolerance)
    slopes = {
        "sigmoid": lambda y: y * (1 - y),
        "tanh": lambda y: 1 - y * y,
        "relu": lambda y: y > 0,
        "": np.ones_like,
    }
    for activation, slope in slopes.items():
        y = np.maximum(rng.standard_normal((m, n)), 0).astype(dtype)
        for wants_x, wants_w in itertools.product([True, False], repeat=2):
            results = numpy.linear_bwd(
                activation,
                g,
                y if activation else None,
                x if wants_w else None,
                w if wants_x else None,
            )
            assert results is not None
            dz = (g * slope(y)).astype(dtype)
            wanted = (dz, dz @ w if wants_x else None, dz.T @ x if wants_w else None, dz.sum(0))
            for a, c in zip(results, wanted, strict=True):
                assert (a is None) == (c is None)
                if c is not None:
                    assert (a.shape, a.dtype) == (c.shape, c.dtype)
                    np.testing.assert_allclose(a, c, tolerance, tolerance * m)


@pytest.mark.parametrize("activation", [gg.sigmoid, gg.tanh, gg.nn.relu, gg.nn.identity])
@pytest.mark.parametrize("wanted", list(itertools.product([True, False], repeat=3)))
def test_gradients_through_a_layer(activation: Any, wanted: tuple[bool, ...]) -> None:
    """Whatever of the three requires a gradient, with and without the core and the fusion."""
    shapes = ((6, 5), (4, 5), (4,))

    def gradients(fuse: bool) -> list[Array]:
        rng = np.random.default_rng(1)
        leaves = [
            gg.asarray(rng.standard_normal(s), requires_grad=r)
            for s, r in zip(shapes, wanted, strict=True)
        ]
        y = activation(gg.nn.linear(*leaves))
        if any(wanted):
            with gg.config.override(fuse=fuse):
                (y * gg.asarray(rng.standard_normal(y.shape))).sum().backward()
        return [x.grad.numpy() if r else None for x, r in zip(leaves, wanted, strict=True)]

    for fuse in (True, False):
        for a, b in both_ways(lambda fuse=fuse: gradients(fuse)):
            np.testing.assert_allclose(a, b, 1e-13)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("label", ["i8", "u1", "i2"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 10), (40, 100), (1700, 10)])
def test_cross_entropy_in_one_call(
    dtype: str, label: str, shape: tuple[int, int], fresh: None
) -> None:
    rng = np.random.default_rng(0)
    z, t = 5 * rng.standard_normal(shape).astype(dtype), rng.integers(0, shape[1], shape[0])
    t = t.astype(label)
    tolerance = 2e-6 if dtype == "f4" else 1e-13

    def loss_and_gradient(reduction: str) -> list[Array]:
        x = gg.asarray(z, requires_grad=True)
        losses = gg.nn.cross_entropy(x, t, reduction=reduction)
        losses.backward(np.arange(1.0, losses.size + 1).reshape(losses.shape).astype(dtype))
        return [losses.detach().numpy(), x.grad.numpy()]

    for reduction in ("mean", "none"):
        for a, b in both_ways(lambda reduction=reduction: loss_and_gradient(reduction)):
            np.testing.assert_allclose(a, b, 10 * tolerance, tolerance * shape[0])
    t = t.astype("i8")
    t[-1] = shape[1]
    with pytest.raises(gg.errors.BoundsError, match=rf"outside 0..{shape[1] - 1}; got {shape[1]}"):
        gg.nn.cross_entropy(z, t)


def strange(x: Array) -> Iterator[Array]:
    """``x`` as the core cannot take it: in other orders and byte orders, unaligned."""
    yield np.asfortranarray(x) if x.ndim > 1 else np.repeat(x, 2)[::2]
    yield x[::-1][::-1]
    yield x.astype(x.dtype.newbyteorder())
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    yield raw


def test_arrays_that_lie_otherwise_go_to_numpy() -> None:
    rng = np.random.default_rng(0)
    x, w, b, g = (rng.standard_normal(s) for s in ((6, 5), (4, 5), (4,), (6, 4)))
    t = np.array([0, 3, 1, 2, 3, 0])
    wanted = x @ w.T + b
    losses = gg.nn.cross_entropy(wanted, t, reduction="none").numpy()
    for odd_x, odd_w, odd_b, odd_g in zip(*map(strange, (x, w, b, g)), strict=True):
        np.testing.assert_allclose(numpy.linear(odd_x, w, b), wanted, 1e-13)
        np.testing.assert_allclose(numpy.linear(x, odd_w, b), wanted, 1e-13)
        np.testing.assert_allclose(numpy.linear(x, w, odd_b), wanted, 1e-13)
        dz, db = numpy.sigmoid_bwd(odd_g, g)
        np.testing.assert_allclose(dz, g * g * (1 - g), 1e-13)
        np.testing.assert_allclose(db, dz.sum(0), 1e-12)
    for odd in strange(wanted):
        np.testing.assert_allclose(numpy.sigmoid(odd), 1 / (1 + np.exp(-wanted)), 1e-13)
        got = gg.nn.cross_entropy(odd, t, reduction="none").numpy()
        np.testing.assert_allclose(got, losses, 1e-13)


@pytest.mark.parametrize(
    "shapes", [((2, 3), (4, 5), (4,)), ((2, 3), (4, 3), (3,)), ((2, 3), (4, 3), (1,))]
)
def test_wrong_shapes_never_reach_the_core(shapes: Any) -> None:
    with pytest.raises(gg.errors.ShapeError):
        gg.nn.linear(*[gg.ones(s) for s in shapes])


def test_on_refuses_what_is_no_plain_array() -> None:
    program = direct._elementwise("sigmoid", 6, "f")
    x, y = np.zeros((2, 3), "f4"), np.zeros((2, 3), "f4")
    assert program.on(x, y) is None
    assert y.tolist() == [[0.5] * 3] * 2
    y[:] = 7
    for odd in (x.T, x[:, ::2], [0.0] * 6, None, np.ma.array(x), gg.asarray(x)):
        assert program.on(odd, y) is NotImplemented
    assert (y == 7).all()
    with pytest.raises(TypeError, match="one array for each base; got 1 for 2"):
        program.on(x)


def test_large_results_are_never_given_twice(monkeypatch: Any) -> None:
    monkeypatch.setattr(direct, "_LARGE", 4)
    monkeypatch.setattr(direct, "_MOST_ROOM", 10 * 48)
    monkeypatch.setattr(direct, "_rooms", direct._Rooms())
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((3, 4)).astype("f4") for _ in range(30)]
    kept = [gg.sigmoid(x) for x in xs]  # more than there is room for
    views = [gg.sigmoid(x).numpy()[1:] for x in xs]
    for x in xs:
        gg.sigmoid(-x)  # dropped at once
    for x, y, view in zip(xs, kept, views, strict=True):
        np.testing.assert_allclose(y.numpy(), 1 / (1 + np.exp(-x)), 1e-5)
        np.testing.assert_allclose(view, 1 / (1 + np.exp(-x[1:])), 1e-5)
    assert direct._rooms.nbytes == sum(a.nbytes for a in direct._rooms.arrays) <= 10 * 48
    first = gg.sigmoid(xs[0])
    place = first.numpy().ctypes.data
    del first
    assert gg.sigmoid(xs[1]).numpy().ctypes.data == place
    w = gg.asarray(rng.standard_normal((4, 4)).astype("f4"), requires_grad=True)
    h = gg.asarray(xs[0])
    b = gg.zeros(4)
    for _ in range(3):
        h = gg.sigmoid(gg.nn.linear(h, w, b))
    h.sum().backward(retain_graph=True)
    before = w.grad.numpy(copy=True)
    for x in xs:
        gg.sigmoid(gg.nn.linear(x, w, b))
    w.grad = None
    h.sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), before)


def test_ops_in_several_threads() -> None:
    xs = [np.full((300, 300), v, "f4") for v in (-2.0, -1.0, 0.0, 1.0, 2.0)]

    def work(x: Any) -> bool:
        wanted = 1 / (1 + np.exp(-x[0, 0]))
        return all(np.allclose(numpy.sigmoid(x), wanted, 1e-6) for _ in range(50))

    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(work, xs))
