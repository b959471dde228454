"""The compiled step: the same as uncompiled, in value and in state; and what cannot be compiled."""

import random
import threading
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case

import gpugrad as gg
from gpugrad.backend import native
from gpugrad.compiler.trace import Trace
from gpugrad.namespace import creation

rng = np.random.default_rng(0)
X = rng.standard_normal((24, 12)).astype("f4")
LABELS = rng.integers(0, 5, 24)
TARGETS = rng.standard_normal((24, 5)).astype("f4")


def close(a: Any, b: Any, dtype: Any = np.float32) -> None:
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    np.testing.assert_allclose(a, b, tolerance, tolerance)


# Every op of the case table


@pytest.fixture
def constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table's rows use NumPy arrays of their own; here they may, as constants."""
    monkeypatch.setattr(Trace, "_bare", lambda self, op, x: self._constant(np.asarray(x)))
    monkeypatch.setattr(creation, "_is_from_outside", lambda x: False)


def refused(case: Case, gradient: bool) -> bool:
    """Whether a row needs values, which a recording has not: it is refused in words."""
    if "mask" in case.note and (gradient or case.op != "setitem"):
        return True
    return case.note == "lstsq-"  # the shape of the residuals depends on the rank


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.usefixtures("constants")
def test_op_as_uncompiled(case: Case, dtype: str) -> None:
    args = [gg.asarray(a.astype(dtype) if a.dtype.kind == "f" else a) for a in case.args]
    want = case.f(*args)
    if refused(case, gradient=False):
        with pytest.raises((gg.errors.TraceError, gg.errors.ShapeError)):
            gg.compile(case.f)(*args)
        return
    got = gg.compile(case.f)(*args)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    if want.dtype.kind in "fc":
        close(got.numpy(), want.numpy(), want.dtype)
    else:
        np.testing.assert_array_equal(got.numpy(), want.numpy())


@pytest.mark.parametrize("case", [c for c in CASES if c.smooth], ids=lambda c: c.id)
@pytest.mark.usefixtures("constants")
def test_gradient_as_uncompiled(case: Case) -> None:
    floats = tuple(i for i, a in enumerate(case.args) if a.dtype.kind == "f")

    def loss(*xs: Any) -> Any:
        y = case.f(*xs)
        return (y * gg.sin(gg.arange(0, y.size, dtype=y.dtype).reshape(y.shape))).sum()

    both = gg.value_and_grad(loss, floats)
    args = [gg.asarray(a.astype("f8") if a.dtype.kind == "f" else a) for a in case.args]
    if refused(case, gradient=True):
        with pytest.raises((gg.errors.TraceError, gg.errors.ShapeError)):
            gg.compile(both)(*args)
        return
    value, gradients = both(*args)
    got, found = gg.compile(both)(*args)
    close(got.numpy(), value.numpy(), np.float64)
    for g, want in zip(found, gradients, strict=True):
        close(g.numpy(), want.numpy(), np.float64)


# Whole steps


def pair(build: Callable[[], tuple[Any, Any, Callable[..., Any]]]) -> Any:
    """Model, optimiser and step twice from the same start; the second step compiled."""
    first, second = build(), build()
    return first, (*second[:2], gg.compile(second[2]))


def mlp_step(
    optimizer: str = "SGD",
    activation: str = "sigmoid",
    loss: str = "cross_entropy",
    dropout: float = 0.0,
    clip: float | None = None,
    dtype: Any = np.float32,
    sizes: tuple[int, ...] = (12, 16, 16, 5),
    **settings: Any,
) -> Callable[[], Any]:
    def build() -> Any:
        model = gg.nn.MLP(
            sizes,
            activation,
            dropout=dropout,
            generator=gg.random.Generator(3),
            dtype=dtype,
        )
        updates = getattr(gg.optim, optimizer)(model, **settings)

        def step(x: Any, y: Any) -> Any:
            updates.zero_grad()
            outputs = model(x)
            if loss == "nll":
                value = gg.nn.nll(gg.nn.log_softmax(outputs), y)
            else:
                value = getattr(gg.nn, loss)(outputs, y)
            value.backward()
            if clip is not None:
                gg.optim.clip_grad_norm(model, clip)
            updates.step()
            return value

        return model, updates, step

    return build


def assert_same(first: Any, second: Any, tolerance: float) -> None:
    """Parameters, gradients and optimiser state of two trained models."""
    for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True):
        for u, v in ((a, b), (a.grad, b.grad)):
            np.testing.assert_allclose(u.detach().numpy(), v.detach().numpy(), tolerance, tolerance)
    assert first[1].steps == second[1].steps
    for name, xs in first[1].state.items():
        for u, v in zip(xs, second[1].state[name], strict=True):
            np.testing.assert_allclose(u.numpy(), v.numpy(), tolerance, tolerance)


OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", {"lr": 1e-3}),
    ("Adam", {"lr": 1e-3, "weight_decay": 0.01}),
    ("AdamW", {"lr": 1e-3}),
    ("RMSprop", {"lr": 1e-3}),
    ("Adagrad", {"lr": 1e-2}),
]


def train(pairs: Any, targets: Any, inputs: Any = X) -> None:
    """1000 steps of both, side by side, with a smaller last batch and a schedule of the rate.

    In float64, where rounding has no room to grow.
    """
    schedules = [gg.optim.CosineAnnealingLR(optimizer, 700) for _, optimizer, _ in pairs]
    for i in range(1000):
        rows = slice(0, 24) if i % 4 else slice(0, 7)
        x, y = (a[rows] if a.dtype.kind == "i" else a[rows].astype("f8") for a in (inputs, targets))
        values = [step(x, y).item() for _, _, step in pairs]
        assert np.isclose(*values, 1e-6, 1e-8), (i, values)
        for schedule in schedules:
            schedule.step()
    assert_same(*pairs, 1e-6)
    assert pairs[1][2].stats()["recordings"] == 2


@pytest.mark.parametrize(("name", "settings"), OPTIMIZERS, ids=str)
def test_optimisers_over_1000_steps(name: str, settings: dict[str, Any]) -> None:
    train(pair(mlp_step(name, dtype=np.float64, **settings)), LABELS)


@pytest.mark.parametrize("activation", sorted(gg.nn.ACTIVATIONS))
def test_activations_over_1000_steps(activation: str) -> None:
    both = pair(mlp_step(activation=activation, dtype=np.float64, lr=0.01))
    train(both, LABELS)
    assert both[1][2].stats()["not fused"] == {}


@pytest.mark.parametrize("loss", ["cross_entropy", "nll", "mse", "l1", "huber", "bce_with_logits"])
def test_losses_over_1000_steps(loss: str) -> None:
    targets = LABELS if loss in ("cross_entropy", "nll") else np.abs(TARGETS) % 1
    train(pair(mlp_step(loss=loss, dtype=np.float64, lr=0.01)), targets)


def test_dropout_and_clipping_over_1000_steps() -> None:
    both = pair(mlp_step("Adam", dropout=0.4, clip=0.3, dtype=np.float64, lr=1e-3))
    train(both, LABELS)


class Flat(gg.nn.Module):
    def forward(self, x: Any) -> Any:
        return x.reshape((x.shape[0], -1))


def layers_of(kind: str) -> list[Any]:
    f8 = {"dtype": np.float64}
    draws = gg.random.Generator(3)
    first = [gg.nn.Linear(12, 16, generator=draws, **f8)]
    if kind == "LayerNorm":
        first += [gg.nn.LayerNorm(16, **f8), gg.nn.Tanh()]
    elif kind == "BatchNorm1d":
        first += [gg.nn.BatchNorm1d(16, **f8), gg.nn.Tanh()]
    elif kind == "Dropout":
        first += [gg.nn.Tanh(), gg.nn.Dropout(0.3, generator=draws)]
    elif kind == "Embedding":
        first = [gg.nn.Embedding(9, 4, generator=draws, **f8), Flat()]
        first += [gg.nn.Linear(48, 16, generator=draws, **f8), gg.nn.Tanh()]
    return [*first, gg.nn.Linear(16, 5, generator=draws, **f8)]


@pytest.mark.parametrize("kind", ["Linear", "LayerNorm", "BatchNorm1d", "Dropout", "Embedding"])
def test_layers_over_1000_steps(kind: str) -> None:
    def build() -> Any:
        model = gg.nn.Sequential(*layers_of(kind))
        updates = gg.optim.SGD(model, lr=0.01, momentum=0.9)

        def step(x: Any, y: Any) -> Any:
            updates.zero_grad()
            value = gg.nn.cross_entropy(model(x), y)
            value.backward()
            updates.step()
            return value

        return model, updates, step

    inputs = rng.integers(0, 9, (24, 12)) if kind == "Embedding" else X
    both = pair(build)
    train(both, LABELS, inputs)
    states = [model.state_dict() for model, *_ in both]
    for name, value in states[0].items():
        close(value, states[1][name], np.float64)


def test_one_thread_or_more_and_no_native_core_agree() -> None:
    results = []
    for threads, core in ((1, True), (2, True), (3, True), (1, False)):
        model, _, step = mlp_step("Adam", sizes=(12, 64, 64, 5), lr=1e-3, dtype=np.float64)()
        big = np.tile(X.astype("f8"), (40, 1)), np.tile(LABELS, 40)

        def returning(x: Any, y: Any, step: Any = step, model: Any = model) -> Any:
            loss = step(x, y)
            return loss, loss, *[p.grad for p in model.parameters()]

        with gg.config.override(native=core):
            compiled = gg.compile(returning, threads=threads)
            for _ in range(20):
                returned = compiled(*big)
        kept = [*returned, *[p.detach() for p in model.parameters()]]
        results.append([value.numpy(copy=True) for value in kept])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, 1e-9, 1e-9)


def test_sums_over_rows_that_others_than_chains_read() -> None:
    """By rows each thread has its part of a sum; products, calls and results need the whole."""
    rows = np.tile(X, (40, 1)).astype("f8")
    w = gg.asarray(np.linspace(-1, 1, 12 * 64).reshape(64, 12))

    def f(x: Any) -> Any:
        h = gg.tanh(x @ w.T)
        gram = h.T @ h
        return gram @ gram, gg.sort(h.sum(axis=0)), gram, gg.nn.softmax(gram), gram.T

    for got, want in zip(gg.compile(f, threads=2)(rows), f(gg.asarray(rows)), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), 1e-9, 1e-9)


@pytest.mark.skipif(not native.available(), reason="the native core was not built")
def test_replays_allocate_nothing_but_results() -> None:
    """One value of any layer would show: 64 KiB."""
    x, y = np.ones((256, 64), "f4"), np.arange(256) % 5
    _, _, step = mlp_step("Adam", sizes=(64, 64, 64, 5))()
    compiled = gg.compile(step)
    for _ in range(3):
        compiled(x, y)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(50):
            compiled(x, y)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 16 << 10
    assert after - before < 4 << 10


def test_replays_are_bitwise_repeatable() -> None:
    finals = []
    for _ in range(3):
        model, _, step = mlp_step("Adam", sizes=(12, 64, 64, 5), lr=1e-3)()
        compiled = gg.compile(step)
        for _ in range(30):
            compiled(np.tile(X, (40, 1)), np.tile(LABELS, 40))
        finals.append([p.detach().numpy(copy=True).tobytes() for p in model.parameters()])
    assert finals[0] == finals[1] == finals[2]


# Random programs

UNARY: list[Callable[[Any], Any]] = [
    gg.tanh,
    gg.sigmoid,
    lambda a: gg.exp(gg.clip(a, -2, 2)),
    gg.abs,
    lambda a: a * a,
    gg.nn.relu,
    gg.nn.gelu,
    lambda a: gg.clip(a, -0.5, 0.5),
    lambda a: 1 / (a * a + 1),
    lambda a: gg.where(a > 0, a, a * 0.1),
    lambda a: gg.sqrt(a * a + 1),
]
BINARY: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a * b,
    lambda a, b: a - b,
    lambda a, b: a / (b * b + 1),
    gg.maximum,
    gg.minimum,
    lambda a, b: gg.where(a > b, a, b),
]


def random_program(draw: Any, by_rows: bool) -> Callable[..., Any]:
    """A function of a batch and parameters; ``by_rows`` never looks from one row at another."""
    kinds = [0, 0, 1, 2, 2, 3, 4, 5, 6] if by_rows else list(range(10))
    steps = [(draw.choice(kinds), *draw.integers(0, 1000, 3)) for _ in range(draw.integers(4, 12))]

    def f(x: Any, params: Any) -> Any:
        values = [x]
        for kind, a, b, c in steps:
            v, w = values[a % len(values)], values[b % len(values)]
            weight, bias = params[c % len(params)]
            unary, binary = UNARY[c % len(UNARY)], BINARY[c % len(BINARY)]
            y = unary(v)
            if kind == 1 and w.shape == v.shape:
                y = binary(v, w)
            elif kind == 2 and weight.shape[1] == v.shape[1]:
                y = gg.nn.linear(v, weight, bias)
            elif kind == 3:
                y = binary(v, v.sum(axis=1, keepdims=True) * 0.1)
            elif kind == 4:
                y = v - gg.max(v, axis=1, keepdims=True)
            elif kind == 5:
                y = gg.nn.softmax(v)
            elif kind == 6 and bias.shape[0] >= v.shape[1]:
                y = binary(v, bias[: v.shape[1]])
            elif kind == 7:
                y = binary(v, v.mean(axis=0))
            elif kind == 8:
                y = v @ (v.T @ v) * 0.01
            elif kind == 9:
                y = gg.tanh(v) * v.mean()
            values.append(y)
        return (gg.tanh(values[-1]) ** 2).mean() + gg.sin(values[1]).mean() * 0.1, values[-1]

    return f


@pytest.mark.parametrize("seed", range(90))
def test_random_steps(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to cut the work over threads; state and results as uncompiled."""
    for module in ("segments", "rows"):
        monkeypatch.setattr(f"gpugrad.compiler.{module}.SERIAL_FLOP", 0)
    draw = np.random.default_rng(seed)
    rows, n = int(draw.choice([2, 5, 64, 130])), int(draw.choice([1, 3, 8, 17]))
    f = random_program(draw, by_rows=seed % 3 > 0)
    x = gg.asarray(draw.standard_normal((rows, n)))

    def build() -> Any:
        start = np.random.default_rng(seed)
        params = [
            [gg.asarray(start.standard_normal(s) / 2, requires_grad=True) for s in ((m, n), (m,))]
            for m in (n, 8, 17)
        ]
        flat = [p for pair in params for p in pair]
        optimizer = (gg.optim.SGD, gg.optim.Adam)[seed % 2](flat, lr=0.01)
        average = gg.zeros((), dtype=gg.float64)

        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss, y = f(x, params)
            if loss.requires_grad:
                loss.backward()
            optimizer.step()
            average[...] = average * 0.9 + loss.detach() * 0.1
            y = y.detach()
            return loss.detach(), y, y.sum(axis=0), y.T

        return [*flat, average], step

    (wanted, eager), (found, step) = build(), build()
    with gg.config.override(native=seed % 5 > 0):
        compiled = gg.compile(step, threads=1 + seed % 3)
        for i in range(3):
            for a, b in zip(eager(x + i * 0.01), compiled(x + i * 0.01), strict=True):
                close(b.numpy(), a.numpy(), np.float64)
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(b.detach().numpy(), a.detach().numpy(), 1e-8, 1e-8)
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            np.testing.assert_allclose(b.grad.numpy(), a.grad.numpy(), 1e-8, 1e-8)


def test_slices_are_where_numpy_has_them() -> None:
    x = np.arange(60.0).reshape(10, 6)

    def f(x: Any) -> Any:
        first = x[2:8:2, 1] * x[3, 4] + x[..., 0].sum()
        return (
            first,
            x[::-1],
            x[:, None, 3:] + 1,
            x[1:] @ x[1:].T,
            x.T[2:4],
            x[3],
            x[9, 5] * x[0, 0],
        )

    for got, want in zip(gg.compile(f)(x), f(gg.asarray(x)), strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())


# State


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("batch", [24, 900])
def test_right_answers_are_counted_without_leaving_the_core(native: bool, batch: int) -> None:
    model = gg.nn.MLP([12, 96, 96, 5], generator=gg.random.Generator(0))
    x = rng.standard_normal((batch, 12)).astype("f4")

    def counted(x: Any, labels: Any) -> Any:
        guesses = gg.argmax(model(x), axis=1)
        right = guesses == labels
        return (
            right.sum(),
            right.astype(gg.float32).mean(),
            guesses,
            (guesses != labels).sum(axis=0),
        )

    for dtype in ("i8", "i4", "u1"):
        labels = rng.integers(0, 5, batch).astype(dtype)
        with gg.no_grad(), gg.config.override(native=native):
            step = gg.compile(counted)
            got = step(x, labels)
            want = counted(gg.asarray(x), gg.asarray(labels))
        stats = step.stats()
        assert (stats["not fused"], stats["calls"]) == ({}, 0)
        for a, b in zip(got, want, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(a.numpy(), b.numpy(), 1e-6)


def test_large_whole_numbers_are_compared_as_such() -> None:
    big = 2**53
    a, b = np.array([0, 1, big, big + 1]), np.array([0, 2, big + 1, big + 1])
    step = gg.compile(lambda a, b: (a == b, a != b, (a == b).sum()))
    same, other, count = step(a, b)
    assert same.tolist() == [True, False, False, True]
    assert other.tolist() == [False, True, True, False]
    assert count.item() == 2
    near = gg.compile(lambda x, b: gg.argmax(x, axis=1) == b)  # 0 and 1 beside anything
    x = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert near(x, np.array([0, 2**53 + 1, 1])).tolist() == [True, False, True]
    assert near(x, np.array([0, 2**64 - 1, 1], "u8")).tolist() == [True, False, True]


def test_counts_beyond_float32_are_exact() -> None:
    n = 2**24 + 3
    step = gg.compile(lambda x: (x > 0).sum())
    assert step(np.ones(n, "f4")).item() == n


STACKS = [
    ((4, 5, 6), (4, 6, 3)),
    ((1, 5, 6), (4, 6, 3)),
    ((4, 5, 6), (1, 6, 3)),
    ((5, 6), (4, 6, 3)),
    ((3, 1, 1), (3, 1, 7)),
    ((16, 60, 40), (16, 40, 30)),
]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("shapes", STACKS, ids=str)
def test_stacks_of_products_are_native(shapes: Any, native: bool) -> None:
    """Also of networks side by side in one matrix, taken apart and put together again."""
    a, b = (gg.asarray(rng.standard_normal(s), requires_grad=True) for s in shapes)

    def apart(a: Any, b: Any) -> Any:
        return gg.tanh(a @ b)

    def together(a: Any, b: Any) -> Any:
        if a.ndim == 3:  # (count, m, k) lies as (m, count · k)
            count, m, k = a.shape
            beside = gg.concat([a[i] for i in range(count)], axis=1)
            a = gg.permute_dims(beside.reshape((m, count, k)), (1, 0, 2))
        y = gg.permute_dims(a @ b, (1, 0, 2))
        return gg.tanh(y.reshape((y.shape[0], -1)))

    for f in (apart, together):
        both = gg.value_and_grad(lambda a, b, f=f: gg.square(f(a, b)).sum(), (0, 1))
        given = a.detach(), b.detach()
        value, gradients = both(*given)
        with gg.config.override(native=native):
            step = gg.compile(both)
            got, found = step(*given)
        assert "matmul" not in step.stats()["not fused"]
        close(got.numpy(), value.numpy(), np.float64)
        for g, want in zip(found, gradients, strict=True):
            close(g.numpy(), want.numpy(), np.float64)


def test_arrays_side_by_side_are_copied_to_their_places() -> None:
    """In the core, along every axis whose parts have even rows; a sum of rows among the parts."""
    x = gg.asarray(np.tile(X, (40, 1)))

    def step(x: Any) -> Any:
        h = gg.tanh(x * 2)
        both = gg.concat([h, x[:, :3], h.mT.mT], axis=1)
        long = gg.concat([h.sum(axis=0), gg.zeros(2), h[3]])
        return (
            both,
            gg.stack([x, h]),
            gg.stack([h, x], axis=-1),
            long,
            gg.concat([x.T, h.T], axis=1),
        )

    compiled = gg.compile(step)
    for got, want in zip(compiled(x), step(x), strict=True):
        close(got.numpy(), want.numpy())
    assert compiled.stats()["not fused"] == {}
    for dtype in "?bBhHiIqQefdFD":
        y = gg.asarray(np.arange(12).reshape(3, 4).astype(dtype))
        moved = gg.compile(lambda y: (gg.concat([y, y], axis=1), y.T.reshape(-1)))
        for got, want in zip(moved(y), (np.tile(y.numpy(), 2), y.numpy().T.ravel()), strict=True):
            assert got.dtype == dtype
            np.testing.assert_array_equal(got.numpy(), want)
    mixed = gg.compile(lambda x: gg.concat([x, gg.zeros((2, 12), dtype=np.float64)]))
    assert mixed(x).dtype == np.float64
    assert list(mixed.stats()["not fused"]) == ["concat"]


def test_gradients_accumulate_when_nobody_clears_them() -> None:
    def build() -> Any:
        w = gg.asarray([[1.0, 2.0]], requires_grad=True)

        def step(x: Any) -> Any:
            loss = (w @ x).sum()
            loss.backward()
            return loss

        return w, None, step

    (w, _, eager), (v, _, compiled) = pair(build)
    x = gg.asarray([[1.0], [3.0]])
    for _ in range(4):
        assert eager(x).item() == compiled(x).item()
        assert w.grad.tolist() == v.grad.tolist()
    kept = v.grad
    compiled(x)
    assert kept.tolist() == [[4.0, 12.0]]  # what was taken out does not change


def test_what_others_hold_is_never_overwritten() -> None:
    model, optimizer, step = mlp_step("Adam", lr=0.1)()
    compiled = gg.compile(step)
    compiled(X, LABELS)
    held = model.layers[0].weight.detach()
    view = model.layers[0].weight.detach().numpy()
    average = optimizer.state["exp_avg"][0].detach()
    before = held.numpy(copy=True), average.numpy(copy=True)
    for _ in range(3):
        compiled(X, LABELS)
    np.testing.assert_array_equal(held.numpy(), before[0])
    np.testing.assert_array_equal(view, before[0])
    np.testing.assert_array_equal(average.numpy(), before[1])
    assert not np.array_equal(model.layers[0].weight.detach().numpy(), before[0])


def test_loaded_parameters_are_seen() -> None:
    model, _, step = mlp_step(lr=0.1)()
    compiled = gg.compile(step)
    first = compiled(X, LABELS).item()
    start = {k: v.numpy(copy=True) for k, v in mlp_step(lr=0.1)()[0].state_dict().items()}
    compiled(X, LABELS)
    model.load_state_dict(start)
    assert compiled(X, LABELS).item() == pytest.approx(first, abs=1e-6)
    assert compiled.stats()["recordings"] == 1


def test_a_buffer_and_a_swap() -> None:
    total, a, b = gg.zeros(3), gg.asarray([1.0, 2.0]), gg.asarray([5.0, 6.0])

    @gg.compile
    def step(x: Any) -> Any:
        nonlocal_total = total
        nonlocal_total += x
        swap = a.detach()
        a[...] = b
        b[...] = swap
        return total * 2

    one = gg.asarray([1.0, 1.0, 1.0])
    assert step(one).tolist() == [2.0, 2.0, 2.0]
    assert (a.tolist(), b.tolist()) == ([5.0, 6.0], [1.0, 2.0])
    assert step(one).tolist() == [4.0, 4.0, 4.0]
    assert (a.tolist(), b.tolist()) == ([1.0, 2.0], [5.0, 6.0])
    assert total.tolist() == [2.0, 2.0, 2.0]


def test_results_are_of_each_call() -> None:
    step = gg.compile(lambda x: {"y": x * 2, "both": [x + 1, "text", None, 3]})
    first = step(gg.asarray([1.0]))
    second = step(gg.asarray([2.0]))
    assert first["y"].tolist() == [2.0]
    assert second["y"].tolist() == [4.0]
    assert second["both"][0].tolist() == [3.0]
    assert second["both"][1:] == ["text", None, 3]


def test_transforms_inside_a_step() -> None:
    def f(x: Any) -> Any:
        return (gg.sin(x) * x).sum()

    x = gg.asarray(np.linspace(0.1, 2, 5))
    for g in (gg.grad(f), lambda x: gg.hvp(f, (x,), (gg.ones_like(x),))[0], gg.hessian(f)):
        np.testing.assert_allclose(gg.compile(g)(x).numpy(), g(x).numpy(), 1e-12)
    primal, tangent = gg.compile(lambda x, d: gg.jvp(f, (x,), (d,)))(x, x)
    want = gg.jvp(f, (x,), (x,))
    np.testing.assert_allclose((primal.item(), tangent.item()), [w.item() for w in want], 1e-12)


def test_inside_a_transform_the_function_itself_runs() -> None:
    step = gg.compile(lambda x: (x * x).sum())
    x = gg.asarray([1.0, 2.0])
    assert gg.grad(step)(x).tolist() == [2.0, 4.0]
    assert gg.jvp(step, (x,), (x,))[1].item() == 10.0
    assert gg.compile(lambda x: step(x) + 1)(x).item() == 6.0
    leaf = gg.asarray([3.0], requires_grad=True)
    step(leaf).backward()
    assert leaf.grad.tolist() == [6.0]
    assert "requires a gradient" in step.stats()["ran uncompiled"]


# What is recorded anew


def test_numbers_shapes_dtypes_and_structure() -> None:
    def f(x: Any, scale: float = 1.0, more: Any = ()) -> Any:
        return x * scale + sum(m.sum() for m in more)

    step = gg.compile(f)
    x = gg.asarray([1.0, 2.0])
    assert step(x).tolist() == [1.0, 2.0]
    assert step(x, 3.0).tolist() == [3.0, 6.0]
    assert step(x, scale=4.0).tolist() == [4.0, 8.0]
    assert step(x, 3.0).tolist() == [3.0, 6.0]
    assert step(x.astype(gg.float64)).dtype == gg.float64
    assert step(gg.asarray([1, 2])).tolist() == [1.0, 2.0]
    assert step(gg.asarray([[1.0]])).tolist() == [[1.0]]
    assert step(x, 1.0, (x, x)).tolist() == [7.0, 8.0]
    assert step.stats()["recordings"] == 7


class Settings:
    rate = 2.0


SCALE = 10.0


def test_python_values_the_step_reads() -> None:
    """Attributes, closures, globals, lists and train() or eval() record anew; others do not."""
    global SCALE
    settings, factors, dropout = Settings(), [1.0, 2.0], gg.nn.Dropout(0.5)
    offset = 0.0

    @gg.compile
    def step(x: Any) -> Any:
        return dropout(x) * settings.rate * factors[0] * SCALE + offset

    x = gg.ones(1000)
    dropout.eval()
    assert step(x)[0].item() == 20.0
    settings.rate = 3.0
    assert step(x)[0].item() == 30.0
    factors[0] = 2.0
    assert step(x)[0].item() == 60.0
    offset = 1.0
    assert step(x)[0].item() == 61.0
    SCALE = 1.0
    assert step(x)[0].item() == 7.0
    settings.unread = 1  # type: ignore[attr-defined]
    count = step.stats()["recordings"]
    assert step(x)[0].item() == 7.0
    assert step.stats()["recordings"] == count == 5
    dropout.train()
    assert 300 < (step(x) == 1.0).sum().item() < 700
    assert not np.array_equal(step(x).numpy(), step(x).numpy())
    dropout.eval()
    assert step(x)[0].item() == 7.0
    assert step.stats()["recordings"] == 6
    SCALE = 10.0


def test_a_storm_of_recordings_says_why() -> None:
    step = gg.compile(lambda x, n: x * n)
    for n in range(7):
        step(gg.ones(2), float(n))
    with pytest.warns(RuntimeWarning, match="recorded 8 times.*number among the arguments"):
        step(gg.ones(2), 7.0)
    step(gg.ones(2), 8.0)  # said once


def test_methods_are_compiled_for_their_object() -> None:
    class Trainer:
        def __init__(self, factor: float) -> None:
            self.factor = factor
            self.calls = 0

        @gg.compile
        def step(self, x: Any) -> Any:
            return x * self.factor

    a, b = Trainer(2.0), Trainer(3.0)
    x = gg.asarray([1.0])
    for _ in range(3):
        a.calls += 1
        assert a.step(x).item() == 2.0
        assert b.step(x).item() == 3.0
    assert Trainer.step.stats()["recordings"] == 2


# What cannot be compiled


def refuses(f: Callable[..., Any], words: str, *args: Any) -> None:
    with pytest.raises(gg.errors.TraceError, match=words):
        gg.compile(f)(*(args or (gg.asarray([1.0, 2.0]),)))


def test_reading_a_value_is_refused_at_the_users_line() -> None:
    here = r"at .*test_compile\.py:\d+"
    refuses(lambda x: 1 if x.sum() > 0 else 0, here)
    refuses(lambda x: float(x.sum()), here)
    refuses(lambda x: x.sum().item(), here)
    refuses(lambda x: x.numpy(), here)
    refuses(lambda x: x.tolist(), here)
    refuses(lambda x: print(x), here)
    refuses(lambda x: f"{x}", here)
    refuses(lambda x: np.asarray(x), here)
    refuses(lambda x: list(range(x.sum().astype(gg.int64))), here)


def test_arrays_from_outside_are_refused() -> None:
    array = np.ones(2, np.float32)
    refuses(lambda x: x * array, "no argument enters the step")
    refuses(lambda x: x + gg.asarray(array), "no argument enters the step")
    assert gg.compile(lambda x: x * [2.0, 3.0])(gg.ones(2)).tolist() == [2.0, 3.0]
    assert gg.compile(lambda x: x * np.float32(2))(gg.ones(2)).tolist() == [2.0, 2.0]


def layer(z: Any, w: Any) -> Any:
    return gg.tanh(gg.nn.linear(z, w)) @ w


DERIVATIVES: dict[str, Callable[[Any], Any]] = {
    "grad": lambda w: gg.grad(lambda z: gg.sum(layer(z, w)))(w),
    "jvp": lambda w: gg.jvp(lambda z: layer(z, w), (w,), (w * w,))[1],
    "vjp": lambda w: gg.vjp(lambda z: layer(z, w), w)[1](w)[0],
    "hvp": lambda w: gg.hvp(lambda z: gg.sum(layer(z, w)), w, w),
    "hessian": lambda w: gg.hessian(lambda z: gg.sum(layer(z, w)))(w),
    "grad of grad": lambda w: gg.grad(
        lambda z: gg.sum(gg.grad(lambda y: gg.sum(layer(y, w) ** 2))(z) ** 2)
    )(w),
    "jvp of jvp": lambda w: gg.jvp(
        lambda z: gg.jvp(lambda y: layer(y, w), (z,), (w,))[1], (w,), (w,)
    )[1],
    "vjp of jvp": lambda w: gg.vjp(lambda z: gg.jvp(lambda y: layer(y, w), (z,), (w,))[1], w)[1](w)[
        0
    ],
}


@pytest.mark.parametrize("name", DERIVATIVES)
@pytest.mark.parametrize("captured", ["constant", "parameter"])
def test_derivatives_inside_a_step_read_what_it_captured_anew(name: str, captured: str) -> None:
    """Not as it was when the step was recorded, in the rules of the backward pass either."""
    start = np.random.default_rng(1).standard_normal((3, 3))
    w = gg.asarray(start, requires_grad=captured == "parameter")

    def step() -> Any:
        y = gg.sum(DERIVATIVES[name](w) ** 2)
        if not w.requires_grad:
            return y, y
        w.grad = None
        y.backward()
        return y, w.grad

    compiled = gg.compile(step)
    for factor in (1.0, 0.5, -2.0):
        with gg.no_grad():
            w[...] = factor * start
        for got, want in zip(compiled(), step(), strict=True):
            np.testing.assert_allclose(got.numpy(), want.detach().numpy(), 1e-10, 1e-10)
    assert compiled.stats()["recordings"] == 1


def test_random_numbers_of_others_are_refused() -> None:
    """A number drawn while the step is recorded would be the same at every replay."""
    ours, pythons = np.random.default_rng(0), random.Random(0)
    holder = Settings()
    holder.rng = np.random.RandomState(0)  # type: ignore[attr-defined]
    refuses(lambda x: x * random.random(), "the generator that functions of random share")
    refuses(lambda x: x * np.random.rand(), "the generator that functions of numpy.random share")
    refuses(lambda x: x * ours.normal(), "draws from ours")
    refuses(lambda x: x * pythons.gauss(0, 1), "draws from pythons")
    refuses(lambda x: x * holder.rng.rand(), r"draws from holder\.rng")  # type: ignore[attr-defined]
    at_rest = gg.compile(lambda x: x if ours and pythons else -x)
    assert at_rest(gg.ones(2)).tolist() == [1, 1]


def test_changes_of_python_objects_are_refused_and_undone() -> None:
    seen: list[Any] = []
    holder = Settings()

    def appends(x: Any) -> Any:
        seen.append(x)
        return x

    def sets(x: Any) -> Any:
        holder.last = x  # type: ignore[attr-defined]
        return x

    refuses(appends, "changes a Python value")
    refuses(sets, "changes a Python value")
    assert seen == []
    assert not hasattr(holder, "last")


def test_a_failure_while_recording_leaves_everything_as_it_was() -> None:
    model, optimizer, step = mlp_step("Adam", dropout=0.5, lr=0.1)()
    step(X, LABELS)
    before = {k: v.numpy(copy=True) for k, v in model.state_dict().items()}
    grads = [p.grad for p in model.parameters()]
    words = model.layers[2].generator.state

    @gg.compile
    def broken(x: Any, y: Any) -> Any:
        step(x, y)
        raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        broken(X, LABELS)
    assert optimizer.steps == [1] * 6
    assert model.layers[2].generator.state == words
    for (name, value), p, g in zip(
        model.state_dict().items(), model.parameters(), grads, strict=True
    ):
        np.testing.assert_array_equal(value.numpy(), before[name])
        assert p.grad is g


def test_bad_labels_are_an_error_on_the_step_that_has_them() -> None:
    for loss in ("cross_entropy", "nll"):
        model, _, step = mlp_step(loss=loss, lr=0.1)()
        compiled = gg.compile(step)
        compiled(X, LABELS)
        before = {k: v.numpy(copy=True) for k, v in model.state_dict().items()}
        for bad in (-1, 5):
            labels = LABELS.copy()
            labels[17] = bad
            with pytest.raises(gg.errors.BoundsError, match=f"outside 0..4; got {bad}"):
                compiled(X, labels)
            for name, value in model.state_dict().items():
                np.testing.assert_array_equal(value.numpy(), before[name])
        assert np.isfinite(compiled(X, LABELS).item())


def test_rules_look_at_the_values_of_each_replay() -> None:
    """Whether eigenvalues are equal, or the base of a power negative, is not known before."""

    def projector(x: Any) -> Any:
        return gg.linalg.eigh(x).eigenvectors[:, 0].sum() ** 2

    slope = gg.compile(gg.grad(projector))
    x = np.diag([1.0, 2.0, 4.0])
    close(slope(x), gg.grad(projector)(x), np.float64)
    with pytest.raises(gg.errors.GradientError, match=r"\[eigh\] eigenvectors of equal"):
        slope(np.eye(3))
    close(slope(x), gg.grad(projector)(x), np.float64)
    slope = gg.compile(gg.grad(lambda p, x: (x**p).sum()))
    p, x = np.array([2.0, 3.0]), np.array([0.5, 4.0])
    close(slope(p, x), x**p * np.log(x), np.float64)
    with pytest.raises(gg.errors.GradientError, match="negative number"):
        slope(p, -x)


def test_what_a_replay_cannot_record_is_refused() -> None:
    w = gg.asarray([1.0], requires_grad=True)
    refuses(lambda x: (w * x).sum(), "still carries its graph")
    outside = w * 2
    refuses(lambda x: outside + x, "computed outside the step")

    def in_place(x: Any) -> Any:
        x += 1
        return x

    refuses(in_place, "writes to an argument in place")
    with gg.no_grad():
        assert gg.compile(lambda x: (w * x).sum())(gg.asarray([1.0, 2.0])).item() == 3.0


def test_a_tensor_that_escaped_says_what_it_is() -> None:
    class Hidden:
        __slots__ = ("value",)  # where no watch can look

    hidden = Hidden()

    def step(x: Any) -> Any:
        hidden.value = x * 2
        return x

    gg.compile(step)(gg.ones(2))
    with pytest.raises(gg.errors.TraceError, match="no values until it runs"):
        hidden.value.numpy()


def test_two_steps_in_two_threads() -> None:
    builds = [mlp_step("Adam", lr=1e-3, sizes=(12, 64, 64, 5)) for _ in range(2)]
    alone = []
    for build in builds:
        model, _, step = build()
        compiled = gg.compile(step)
        for _ in range(50):
            compiled(X, LABELS)
        alone.append([p.detach().numpy(copy=True) for p in model.parameters()])
    together: list[Any] = [None, None]

    def run(i: int) -> None:
        model, _, step = builds[i]()
        compiled = gg.compile(step)
        for _ in range(50):
            compiled(X, LABELS)
        together[i] = [p.detach().numpy(copy=True) for p in model.parameters()]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, together, strict=True):
        for u, v in zip(a, b, strict=True):
            np.testing.assert_array_equal(u, v)


# What there is to see


def test_program_and_stats() -> None:
    _, _, step = mlp_step(lr=0.1)()
    compiled = gg.compile(step)
    text = str(compiled.program(X, LABELS))
    assert text.startswith("{ lambda a:f32[24,12] b:i64[24] .")
    assert "cross_entropy" in text
    assert ".grad <-" in text
    compiled(X, LABELS)
    stats = compiled.stats()
    assert stats["recordings"] == 1
    assert stats["ops"] > stats["equations"] > stats["steps"] > 0
    assert stats["arena_bytes"] > 0
    assert stats["calls"] == 0


def test_common_and_dead_expressions_go() -> None:
    @gg.compile
    def step(x: Any) -> Any:
        gg.cos(x)
        return gg.sin(x) + gg.sin(x) * 1.0 + (gg.zeros(2) + 1)

    program = step.program(gg.ones(2))
    names = [eqn.op.name for eqn in program.eqns]
    assert names.count("sin") == 1
    assert "cos" not in names
    assert program.traced > len(program.eqns)


def test_no_warning_in_a_plain_loop() -> None:
    _, _, step = mlp_step("Adam", lr=1e-3)()
    compiled = gg.compile(step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(50):
            compiled(X, LABELS)
