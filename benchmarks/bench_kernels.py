"""Fused kernels, with achieved GB/s beside the measured copy rate, or FLOP/s beside a product's.

The sigmoid's backward runs as the tape calls it, on both devices; the others are CUDA kernels.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpugrad import backend
from gpugrad.backend.kernels import (
    argmax,
    chain,
    copy,
    cross_entropy,
    gather,
    gemm,
    mlp,
    philox,
    scatter,
    softmax,
)

GROUP = "fused kernels, float32"
Case = tuple[Callable[[], None], int]  # what to run, and the bytes it must move


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("shape", [(128, 512), (16384, 64), (1024, 2048), (4096, 4096)], ids=str)
def test_sigmoid_bwd(
    benchmark: Any, beside_copy: Callable[[int, str], None], shape: tuple[int, int], device: str
) -> None:
    place = backend.get(device)
    rng = np.random.default_rng(0)
    dy = place.asarray(rng.standard_normal(shape, "f4"))
    y = place.asarray(rng.random(shape, "f4"))

    def kernel() -> None:
        place.sigmoid_bwd(dy, y)
        place.synchronize()

    benchmark(kernel)
    beside_copy(3 * dy.nbytes, device)  # dy and y read, dz written


def filled(place: Any, *shape: int) -> Any:
    return place.xp.full(shape, 0.5, np.float32)


def bias_tanh(place: Any, m: int, n: int) -> Case:
    x, bias, y = filled(place, m, n), filled(place, n), place.empty((m, n), np.dtype("f4"))
    operands = [(n, 1, "f4"), (0, 1, "f4")]
    lines = [("add", 0, 1, -1), ("tanh", 2, -1, -1)]
    plan = chain.plan("f4", m, n, operands, (), lines, [(3, (n, 1, "f4"))])
    return lambda: plan.launch(place, [x, bias], [y]), 2 * x.nbytes


def sums(place: Any, m: int, n: int) -> Case:
    """Of columns and of all, of one read."""
    x, columns, whole = filled(place, m, n), filled(place, n), filled(place, 1)
    totals = [
        ("sum", "rows", 0, (0, 1, "f4"), 1.0, False),
        ("sum", "all", 0, (0, 0, "f4"), 1.0, False),
    ]
    plan = chain.plan("f4", m, n, [(n, 1, "f4")], (), (), (), totals)
    workspace = place.empty((plan.workspace_bytes,), np.dtype("u1"))
    return lambda: plan.launch(place, [x], [], [columns, whole], workspace), x.nbytes


def momentum(place: Any, m: int, n: int) -> Case:
    """SGD with momentum on m arrays of n in one launch."""
    arrays = [[filled(place, n) for _ in range(3)] for _ in range(m)]  # p, g, v
    rate = place.asarray(np.full(1, 1e-3))
    operands = [(1, "f4"), (1, "f4"), (1, "f4"), (0, "f8")]
    lines = [("mul", 2, 4, -1), ("add", 5, 1, -1), ("mul", 6, 3, -1), ("sub", 0, 7, -1)]
    stores = [(8, "f4"), (6, "f4")]
    plan = chain.group_plan("f4", operands, (0.9,), lines, stores, [n] * m)
    ins, outs = [[*a, rate] for a in arrays], [[p, v] for p, _, v in arrays]
    return lambda: plan.launch(place, ins, outs), 5 * 4 * m * n


def softmax_rows(place: Any, m: int, n: int) -> Case:
    x, y = filled(place, m, n), place.empty((m, n), np.dtype("f4"))
    plan = softmax.plan("f4", m, n, n, n, False)
    return lambda: plan.launch(place, x, y), 2 * x.nbytes


def loss_and_residual(place: Any, m: int, n: int) -> Case:
    z, residual = filled(place, m, n), place.empty((m, n), np.dtype("f4"))
    loss, status = place.empty((m,), np.dtype("f4")), place.asarray(np.zeros(2, "i8"))
    t = place.asarray(np.random.default_rng(0).integers(0, n, m))
    plan = cross_entropy.plan("f4", m, n, n, (1, "i8"), 1, n, None, 1 / m)
    return lambda: plan.launch(place, z, t, status, loss, residual), 2 * z.nbytes


def guesses(place: Any, m: int, n: int) -> Case:
    x, out = filled(place, m, n), place.empty((m,), np.dtype("i8"))
    plan = argmax.plan("f4", m, n, n, 1, False)
    return lambda: plan.launch(place, x, out), x.nbytes + out.nbytes


def picked(place: Any, m: int, n: int) -> Case:
    """A batch of m rows, each from anywhere among as many."""
    x, out = filled(place, m, n), place.empty((m, n), np.dtype("f4"))
    rows = place.asarray(np.random.default_rng(0).permutation(m))
    status = place.seen_by_both(gather.STATUS_BYTES).ctypes.data
    plan = gather.plan(4, m, m, n, n, (1, "i8"), n)
    return lambda: plan.launch(place, x, rows, out, status), 2 * x.nbytes + rows.nbytes


def added_up(place: Any, m: int, n: int) -> Case:
    """m rows onto a thousand, as the gradient of an embedding does."""
    values, out = filled(place, m, n), filled(place, 1000, n)
    rows = np.random.default_rng(0).integers(0, 1000, m)
    order = np.argsort(rows, kind="stable")
    numbers, order = place.asarray(rows[order]), place.asarray(order)
    count = values.nbytes + 2 * out.nbytes + 16 * m

    def run() -> None:
        scatter.scatter_add(place, "f4", out, numbers, order, values, m, n)

    return run, count


def transpose(place: Any, m: int, n: int) -> Case:
    x, y = filled(place, n, m), place.empty((m, n), np.dtype("f4"))
    plan = copy.plan(4, m, n, (1, m), (n, 1))
    return lambda: plan.launch(place, x, y), 2 * x.nbytes


def uniforms(place: Any, m: int, n: int) -> Case:
    state = place.asarray(np.array([0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 4, 0], "u8"))
    out = place.empty((m, n), np.dtype("f4"))
    plan = philox.plan("f4", m * n)
    return lambda: plan.launch(place, state, out), out.nbytes


MEMORY = [
    (bias_tanh, (16384, 64)),
    (bias_tanh, (4096, 4096)),
    (sums, (16384, 64)),
    (sums, (4096, 4096)),
    (momentum, (8, 512)),
    (momentum, (4, 4096 * 4096)),
    (softmax_rows, (16384, 10)),
    (softmax_rows, (4096, 4096)),
    (loss_and_residual, (16384, 10)),
    (loss_and_residual, (64, 100_000)),
    (guesses, (16384, 10)),
    (guesses, (64, 100_000)),
    (picked, (16384, 64)),
    (added_up, (16384, 64)),
    (transpose, (4096, 4096)),
    (uniforms, (4096, 4096)),
]


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
@pytest.mark.parametrize(("case", "shape"), MEMORY, ids=lambda v: getattr(v, "__name__", str(v)))
def test_cuda_kernel(
    benchmark: Any,
    beside_copy: Callable[[int, str], None],
    case: Callable[..., Case],
    shape: tuple[int, int],
    device: str,
) -> None:
    place: Any = backend.get(device)
    run, count = case(place, *shape)

    def kernel() -> None:
        run()
        place.synchronize()

    benchmark(kernel)
    beside_copy(count, device)


# Name: dtype of the operands, exact products.
PRODUCTS = {"float32": ("f4", True), "tf32": ("f4", False), "float16": ("f2", False)}


@pytest.mark.benchmark(group="act(x @ w.T + b)")
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
@pytest.mark.parametrize("shape", [(128, 512, 784), (16384, 64, 64), (4096, 4096, 4096)], ids=str)
@pytest.mark.parametrize("kind", [*PRODUCTS, "library"])
def test_linear(benchmark: Any, kind: str, shape: tuple[int, int, int], device: str) -> None:
    """Beside CuPy's product and two elementwise calls, "library", which is float32."""
    place: Any = backend.get(device)
    m, n, k = shape
    code, exact = PRODUCTS.get(kind, ("f4", True))
    x, w, bias = (filled(place, *s) for s in ((m, k), (n, k), (n,)))
    x, w = x.astype(code), w.astype(code)
    y = place.empty((m, n), np.dtype("f4"))
    lines = [("add", 0, 1, -1), ("sigmoid", 2, -1, -1)]
    plan = gemm.plan(
        code, m, n, k, (k, False), (k, True), [(0, 1, "f4")], (), lines, [(3, (n, 1, "f4"))],
        exact=exact,
    )  # fmt: skip
    xp = place.xp

    def fused() -> None:
        plan.launch(place, x, w, [bias], [y])
        place.synchronize()

    def library() -> None:
        xp.reciprocal(1 + xp.exp(-(x @ w.T + bias)))
        place.synchronize()

    benchmark(library if kind == "library" else fused)
    benchmark.extra_info["FLOP"] = 2 * math.prod(shape)
    if benchmark.stats is not None:
        rate = 2 * math.prod(shape) / benchmark.stats.stats.median
        benchmark.extra_info["TFLOP/s"] = round(rate / 1e12, 2)


@pytest.mark.benchmark(group="4 layers of 64 in one launch")
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
@pytest.mark.parametrize("rows", [1 << 14, 1 << 18])
@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_mlp(
    benchmark: Any, beside_copy: Callable[[int, str], None], backward: bool, kind: str, rows: int,
    device: str,
) -> None:  # fmt: skip
    """With tanh. Backward gives the gradients between layers, of weights and of biases."""
    place: Any = backend.get(device)
    layers, n = 4, 64
    code, exact = PRODUCTS[kind]
    x, *outs = (filled(place, rows, n).astype(code) for _ in range(1 + layers))
    weights, grads = ([filled(place, n, n).astype(code) for _ in outs] for _ in range(2))
    if backward:
        below = [filled(place, rows, n).astype(code) for _ in outs]
        lines = (("mul", 1, 1, -1), ("sub", 2, 3, -1), ("mul", 0, 4, -1))
        act = mlp.Function(((code, mlp.BELOW),), (1.0,), lines, ((5, code),))
        more: list[Any] = [[None] for _ in outs]
        totals = [place.empty((n,), np.dtype(code)) for _ in outs]
        gradients = [mlp.Gradient(y, dw) for y, dw in zip(below, grads, strict=True)]
    else:
        lines = (("add", 0, 1, -1), ("tanh", 2, -1, -1))
        act = mlp.Function(((code, mlp.COLUMNS),), (), lines, ((3, code),))
        more = [[filled(place, n).astype(code)] for _ in outs]
        below, totals, gradients = [], [], []
    plan = mlp.plan(
        *(rows, [n] * (layers + 1), act, act), dtype=code, turned=not backward, exact=exact,
        sums=backward, gradients=backward,
    )  # fmt: skip
    workspace = place.empty((plan.workspace_bytes,), np.dtype("u1"))
    kept = [[out] for out in outs]

    def kernel() -> None:
        plan.launch(place, x, weights, more, kept, totals, gradients, workspace)
        place.synchronize()

    benchmark(kernel)
    flop = 2 * rows * n * n * layers * (1 + backward)
    benchmark.extra_info["FLOP"] = flop
    if benchmark.stats is not None:
        benchmark.extra_info["TFLOP/s"] = round(flop / benchmark.stats.stats.median / 1e12, 2)
    beside_copy(sum(array.nbytes for array in (x, *outs, *below)), device)
