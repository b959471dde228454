"""Compiled steps on the device: as uncompiled, captured into graphs, and safe to replay."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import backend
from gpugrad.backend import cublas, graph

rng = np.random.default_rng(0)
X = rng.standard_normal((24, 12)).astype("f4")
LABELS = rng.integers(0, 5, 24)


def net(**options: Any) -> gg.nn.MLP:
    options = {"activation": "sigmoid", "generator": gg.random.Generator(0)} | options
    return gg.nn.MLP([12, 16, 8, 5], **options)


def training(model: Any, optimizer: Any) -> Callable[..., Any]:
    def step(x: Any, labels: Any) -> Any:
        optimizer.zero_grad()
        loss = gg.nn.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def state(model: Any) -> list[np.ndarray]:
    return [p.detach().to("cpu").numpy() for p in model.parameters()]


def close(some: Any, others: Any) -> None:
    for a, b in zip(some, others, strict=True):
        np.testing.assert_allclose(a, b, 2e-5, 2e-5)


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "SGD": lambda model: gg.optim.SGD(model, lr=0.5),
    "momentum": lambda model: gg.optim.SGD(model, lr=0.2, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda model: gg.optim.AdamW(model, lr=0.02),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_as_uncompiled(device: str, name: str) -> None:
    """With a smaller last batch, and a learning rate that changes."""
    x, labels = gg.asarray(X), gg.asarray(LABELS)
    results = []
    for compiled in (False, True):
        model = net(dropout=0.2 if name == "SGD" else 0.0)
        optimizer = OPTIMIZERS[name](model)
        step = training(model, optimizer)
        step = gg.compile(step) if compiled else step
        losses = []
        for _ in range(3):
            optimizer.lr *= 0.9
            losses += [step(x[:10], labels[:10]).item(), step(x[10:20], labels[10:20]).item()]
            losses += [step(x[20:], labels[20:]).item()]
        results.append((np.array(losses), *state(model)))
    close(*results)


def kinds(step: Any) -> list[str]:
    """What the latest recording of a compiled step launches."""
    (engine,) = step._latest._engines
    return [kind for kind, *_ in engine._steps]


@pytest.mark.parametrize("head", ["cross_entropy", "softmax", "log_softmax"])
def test_half_precision_by_hand_is_one_graph(cuda: str, head: str) -> None:
    """Master weights of float32, all else of float16 and rounded to it: an overflow stays one."""
    x, labels = gg.asarray(X), gg.asarray(LABELS)
    half = np.dtype(np.float16)

    def of(logits: Any) -> Any:
        if head == "cross_entropy":
            return gg.nn.cross_entropy(logits, labels)
        return (getattr(gg.nn, head)(logits, axis=1) ** 2).mean()

    results = []
    for compiled in (False, True):
        model = net(activation="tanh", dropout=0.2)
        optimizer = gg.optim.SGD(model, lr=0.2, momentum=0.9)

        def step(scale: Any, model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            y = x.astype(half)
            for layer in model:
                if isinstance(layer, gg.nn.Linear):
                    y = gg.nn.linear(y, layer.weight.astype(half), layer.bias.astype(half))
                else:
                    y = layer(y)
            loss = of(y)
            (loss * scale.astype(half) * 32).backward()
            for p in model.parameters():
                p.grad = p.grad / (scale * 32)
            optimizer.step()
            return loss

        run = gg.compile(step) if compiled else step
        losses = [run(gg.asarray(2.0)).item() for _ in range(4)]
        found = np.array(losses), *state(model)
        with np.errstate(over="ignore", invalid="ignore"):
            run(gg.asarray(65_000.0))
        results.append((*found, *[np.isfinite(values) for values in state(model)]))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(np.float32(a), np.float32(b), 1e-2, 1e-2)
    stats = run.stats()  # type: ignore[attr-defined]
    assert (stats["graphs"], stats["calls"]) == (1, 0)
    assert not all(map(np.all, results[1][-len(state(model)) :]))


def test_half_precision_is_rounded_after_every_operation_in_one_launch(cuda: str) -> None:
    """The bits of uncompiled ones, and an overflow on the way; a cast to what it is is none."""
    values = np.concatenate([rng.standard_normal(200) * 100, [300.0, -300.0, np.nan, 1e-7]])
    x, y = gg.asarray(values.astype("f2")), gg.asarray(values[::-1].astype("f2").copy())
    half = np.dtype(np.float16)

    def f(x: Any, y: Any) -> Any:
        z = (x * y + x).astype(half) - y * 0.1
        return z, z.astype(np.float32) * 2, (z * z).astype(half).sum()

    run = gg.compile(f)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(3):
            found, wanted = ([a.to("cpu").numpy() for a in g(x, y)] for g in (run, f))
            for a, b in zip(found[:2], wanted[:2], strict=True):
                np.testing.assert_array_equal(a, b)
    assert np.isinf(found[0]).any()
    assert run.stats()["launches"] == {"chain": 1}


def test_one_graph_a_step_and_few_launches(cuda: str) -> None:
    model = net()
    step = gg.compile(training(model, gg.optim.AdamW(model, lr=0.01)))
    for _ in range(3):
        step(gg.asarray(X), gg.asarray(LABELS))
    stats = step.stats()
    assert (stats["graphs"], stats["calls"], stats["kernels"]) == (1, 0, "cuda")
    (engine,) = step._latest._engines
    assert kinds(step).count("group") == 2  # the update of all six parameters, and its step counts
    assert sum(branch for branch, _ in engine._streams) >= 2  # gradients of weights beside


def test_runs_repeat_bit_for_bit(device: str) -> None:
    runs = []
    for _ in range(3):
        model = net()
        step = gg.compile(training(model, gg.optim.AdamW(model, lr=0.01)))
        for _ in range(5):
            step(gg.asarray(X), gg.asarray(LABELS))
        runs.append(state(model))
    for others in runs[1:]:
        for a, b in zip(runs[0], others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_results_are_of_each_call(device: str) -> None:
    step = gg.compile(lambda x: (x * 2, x.sum()))
    first = step(gg.asarray([1.0, 2.0]))
    second = step(gg.asarray([3.0, 4.0]))
    third = step(gg.asarray([5.0, 6.0]))
    assert [y.tolist() for y in (*first, *second, *third)] == [
        *([2.0, 4.0], 3.0),
        *([6.0, 8.0], 7.0),
        *([10.0, 12.0], 11.0),
    ]


def test_steps_that_take_turns_leave_parameters_where_they_are(cuda: str) -> None:
    """A smaller last batch, and somebody who only looks: nothing moves, no graph is made again."""
    model = net()
    step = gg.compile(training(model, gg.optim.AdamW(model, lr=0.01)))
    look = gg.compile(lambda x: model(x).detach())
    x, labels = gg.asarray(X), gg.asarray(LABELS)
    rest = gg.asarray(X[:10]), gg.asarray(LABELS[:10])
    place = backend.get(cuda)
    recordings, places = set(), set()
    for epoch in range(12):
        for given in [(x, labels)] * 3 + [rest] * 2:
            step(*given)
            with gg.no_grad():
                look(x)
            recordings |= {step._latest, look._latest}
            if epoch > 1:
                places.add(tuple(place.address(p._data) for p in model.parameters()))
    assert len(places) == 1
    assert len(recordings) == 3
    for recording in recordings:
        (engine,) = recording._engines
        assert engine.captured
        assert engine._captures < 4
    # Who looks on keeps what was there.
    before = [p._data for p in model.parameters()]
    kept = state(model)
    step(x, labels)
    close([p.get() for p in before], kept)
    assert not np.array_equal(state(model)[0], kept[0])


def test_other_arrays_between_replays_change_nothing(device: str) -> None:
    """Memory that the graph works on is its own, whatever else is made and freed meanwhile."""
    runs = []
    for disturbed in (False, True):
        model = net()
        step = gg.compile(training(model, gg.optim.SGD(model, lr=0.5, momentum=0.9)))
        for i in range(10):
            step(gg.asarray(X), gg.asarray(LABELS))
            if disturbed:
                junk = [gg.full((7 + i, 16), float("nan")) for _ in range(5)]
                del junk
        runs.append(state(model))
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_graph_keeps_what_it_works_on(device: str) -> None:
    x = gg.asarray(X)
    w = gg.asarray(np.ones((12, 3), "f4"))
    step = gg.compile(lambda x: x @ w)
    want = step(x).numpy() if device == "cpu" else step(x).to("cpu").numpy()
    step(x)
    del x
    np.testing.assert_array_equal(step(gg.asarray(X)).to("cpu").numpy(), want)


def test_parameters_that_were_replaced(device: str) -> None:
    """Loaded ones are seen, and graphs captured anew; after many times launches go one by one."""
    w = gg.asarray(np.ones((12, 3), "f4"))
    x = gg.asarray(X)
    step = gg.compile(lambda x: x @ w)
    kept = []
    for k in range(graph._CAPTURES + 3):
        values = gg.asarray(np.full((12, 3), float(k), "f4"))
        kept.append(values)
        w[...] = values
        w._data = values._data  # as loading does
        for _ in range(3):
            np.testing.assert_allclose(step(x).to("cpu").numpy(), X @ np.full((12, 3), k), 1e-4)
    if device != "cpu":
        assert step.stats()["graphs"] == 0
        assert "moved" in step.stats()["not captured"][0]


def test_ops_without_a_kernel_stand_between_graphs(device: str) -> None:
    w = gg.asarray(np.ones((12, 3), "f4"))

    def step(x: Any) -> Any:
        return gg.cumulative_sum(x @ w, axis=0) * 2 + 1

    x = gg.asarray(X)
    compiled = gg.compile(step)
    for _ in range(3):
        close([compiled(x).to("cpu").numpy()], [step(x).to("cpu").numpy()])
    if device != "cpu":
        assert compiled.stats()["graphs"] == 2
        assert list(compiled.stats()["not fused"]) == ["cumsum"]


@pytest.mark.parametrize("name", ["momentum", "AdamW"])
def test_several_steps_a_graph_on_a_dataset_that_is_there(device: str, name: str) -> None:
    """Only row numbers and rates are handed in; rows are picked, and dropped out, in the graph.

    The numbers are those of single steps, each with the rate set before it.
    """
    x, labels = gg.asarray(X), gg.asarray(LABELS)
    rows = np.random.default_rng(1).permutation(24).reshape(4, 6)
    batches, rates = gg.asarray(rows), np.array([0.1, 0.05, 0.2, 0.02], "f4")
    results = []
    for steps in (1, 4):
        model = net(dropout=0.3, activation="tanh")
        optimizer = OPTIMIZERS[name](model)
        step = training(model, optimizer)

        def several(batches: Any, rates: Any, step: Any = step, optimizer: Any = optimizer) -> Any:
            before, losses = optimizer.lr, []
            for i in range(len(batches)):
                optimizer.lr = rates[i]
                losses.append(step(x[batches[i]], labels[batches[i]]).detach())
            optimizer.lr = before
            return gg.stack(losses)

        run, single = gg.compile(several), gg.compile(step)
        losses: list[float] = []
        for _ in range(3):
            if steps == 1:
                for i in range(4):
                    optimizer.lr = float(rates[i])
                    losses.append(single(x[batches[i]], labels[batches[i]]).item())
            else:
                losses += run(batches, gg.asarray(rates)).tolist()
        results.append([np.array(losses), *state(model)])
        assert optimizer.steps[0] == 12
    close(*results)
    if device != "cpu":
        assert (run.stats()["graphs"], run.stats()["calls"]) == (1, 0)


def test_a_rate_that_is_a_tensor_is_used_in_eager_steps_too(device: str) -> None:
    results = []
    for rate in (0.3, gg.asarray(0.3)):
        model = net()
        optimizer = gg.optim.Adam(model, lr=0.1)
        optimizer.lr = rate
        step = training(model, optimizer)
        losses = [step(gg.asarray(X), gg.asarray(LABELS)).item() for _ in range(25)]
        results.append([np.array(losses), *state(model)])
    close(*results)


def test_labels_and_rows_out_of_range_are_errors(device: str) -> None:
    """At the latest when something of that step is read; the next step is fine."""
    model = net()
    step = gg.compile(training(model, gg.optim.SGD(model, lr=0.1)))
    rows = gg.compile(lambda x, t: x[t])
    x, labels, t = gg.asarray(X), gg.asarray(LABELS), gg.asarray([3, -24, 23])
    for bad in (5, -1, 10**6):
        wrong = LABELS.copy()
        wrong[7] = bad
        for _ in range(2):  # launch by launch, then as a graph
            assert step(x, labels).item() > 0
            with pytest.raises(gg.errors.BoundsError, match=str(bad)):
                step(x, gg.asarray(wrong)).item()
    for bad in (24, -25):
        for _ in range(2):
            np.testing.assert_array_equal(rows(x, t).to("cpu").numpy(), X[[3, 0, 23]])
            with pytest.raises(gg.errors.BoundsError, match=str(bad)):
                rows(x, gg.asarray([0, bad, 1])).sum().item()


@pytest.mark.parametrize("dtype", ["f2", "f4", "i2"])
def test_guesses_and_how_many_are_right_are_part_of_the_graph(device: str, dtype: str) -> None:
    values = np.random.default_rng(0).integers(-2, 3, (24, 5)).astype(dtype)

    def counted(z: Any, labels: Any) -> Any:
        right = gg.argmax(z, axis=1) == labels
        return right.sum(), gg.argmin(z, axis=1), right.astype(np.float32).mean(), z.sum(), z.max()

    step = gg.compile(counted)
    for labels in (LABELS, LABELS.astype("u1")):
        given = gg.asarray(values), gg.asarray(labels)
        for _ in range(2):
            for a, b in zip(step(*given), counted(*given), strict=True):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                np.testing.assert_array_equal(a.to("cpu").numpy(), b.to("cpu").numpy())
        if device != "cpu":
            assert (step.stats()["graphs"], step.stats()["not fused"]) == (1, {})


def test_whole_numbers_are_part_of_the_graph(device: str) -> None:
    """Of 64 bits, wrapping around; of fewer, cut to them after every operation."""
    ends = np.iinfo(np.int64)
    n = np.array([0, 1, -1, 1 << 40, ends.max, ends.min, ends.max - 3, 77])
    small = np.array([127, -128, 5, 0, 64, -1, 100, -100], "i1")
    count = gg.asarray(0)

    def step(n: Any, small: Any) -> Any:
        nonlocal count
        count += 1
        twice = small + small  # wraps around
        return (
            *(n + 3, n * n - n, gg.abs(n), gg.maximum(n, small.astype(np.int64)), twice, twice > 0),
            *(n.sum(), n.max(), n.min(), small.sum(), (n > 1).sum(axis=0), gg.where(n > 5, n, -n)),
            *(small.astype(np.float32) * 0.5, n // 7, count * 2),
        )

    def compiled() -> Any:
        count._assign(gg.asarray(0))
        run = gg.compile(lambda n, small: step(n, small))
        return [run(gg.asarray(n), gg.asarray(small)) for _ in range(3)][-1], run

    with np.errstate(over="ignore"):
        got, run = compiled()
        count._assign(gg.asarray(2))
        want = step(gg.asarray(n), gg.asarray(small))
    for a, b in zip(got, want, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a.to("cpu").numpy(), b.to("cpu").numpy())
    if device != "cpu":
        assert list(run.stats()["not fused"]) == ["floor_divide"]


def test_a_norm_that_is_not_finite_is_an_error_of_the_graph(cuda: str) -> None:
    """Of the next read or call; a finite one is as before."""
    model = net()

    def step(x: Any) -> Any:
        model.zero_grad()
        gg.square(model(x)).sum().backward()
        return gg.optim.clip_grad_norm(model, 1.0)

    run = gg.compile(step)
    far = X.copy()
    far[0, 0] = np.inf
    for _ in range(3):
        assert run(gg.asarray(X)).item() > 0
        with pytest.raises(gg.errors.GradientError, match=r"not finite; got (nan|inf)"):
            run(gg.asarray(far)).item()
    assert (run.stats()["graphs"], run.stats()["calls"]) == (1, 0)


def test_draws_are_part_of_the_graph(cuda: str) -> None:
    """The same bits as drawn here, at every replay, and in the right order between two layers."""
    generator = gg.random.Generator(5, cuda)

    def draw(x: Any) -> Any:
        return x + generator.uniform(size=7), generator.bernoulli(0.5, (3, 5)), x * 2

    step = gg.compile(draw)
    host = np.random.Generator(np.random.Philox(5))
    for _ in range(4):
        added, kept, _ = step(gg.zeros(7))
        np.testing.assert_array_equal(added.to("cpu").numpy(), host.random(7, "f4"))
        np.testing.assert_array_equal(kept.to("cpu").numpy(), host.random((3, 5), "f4") < 0.5)
    assert (step.stats()["graphs"], step.stats()["calls"]) == (1, 0)


def test_float32_is_rounded_only_when_asked_for(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    made = cublas.Matmul.__init__

    def noted(self: Any, library: Any, product: Any) -> None:
        asked.append(product.rounded_to)
        made(self, library, product)

    monkeypatch.setattr(cublas.Matmul, "__init__", noted)
    step = gg.compile(lambda a: a @ a.T)
    step(gg.ones((3, 41)))
    for matmul in ("tf32", "bfloat16"):
        with gg.config.override(matmul=matmul):
            step(gg.ones((3, 41)))
    assert asked == ["float32", "tf32", "bfloat16"]
    assert step.stats()["recordings"] == 3


def test_an_exception_while_capturing_leaves_the_stream_usable(
    cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = gg.asarray(X)
    step = gg.compile(lambda x: x * 2 + 1)
    step(x)

    def fails(self: Any) -> None:
        raise KeyboardInterrupt

    (engine,) = step._latest._engines
    launches = engine._launches
    engine._launches = [*launches, lambda: fails(engine)]
    engine._streams = [*engine._streams, (0, [])]
    with pytest.raises(KeyboardInterrupt):
        step(x)
    assert (x + 1).sum().item() == pytest.approx(float((X + 1).sum()), rel=1e-5)
    engine._launches, engine._streams = launches, engine._streams[:-1]
    for _ in range(2):
        np.testing.assert_allclose(step(x).to("cpu").numpy(), X * 2 + 1, 1e-6)


def test_no_memory_is_taken_while_replaying(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside results: the loss of each call."""
    model = net()
    step = gg.compile(training(model, gg.optim.AdamW(model, lr=0.01)))
    x, labels = gg.asarray(X), gg.asarray(LABELS)
    for _ in range(3):
        step(x, labels)
    place = backend.get(cuda)
    taken = []
    empty = type(place).empty
    monkeypatch.setattr(
        type(place), "empty", lambda self, *args: (taken.append(args), empty(self, *args))[1]
    )
    monkeypatch.setattr(type(place), "memory", lambda self, nbytes: 1 / 0)
    for _ in range(10):
        step(x, labels)
    assert taken == [((), np.dtype("f4"))] * 10


def test_several_devices_run_uncompiled_and_say_so(cuda: str) -> None:
    step = gg.compile(lambda x: (x * 2).to("cpu") + 1)
    for _ in range(2):
        np.testing.assert_allclose(step(gg.asarray(X)).numpy(), X * 2 + 1, 1e-6)
    assert "several devices" in step.stats()["ran uncompiled"]


def test_a_picture_of_a_captured_step(device: str) -> None:
    """Looking changes nothing; only on a CPU do passes have times of their own."""
    losses = []
    for looked in (False, True):
        model = net(dropout=0.2)
        step = gg.compile(training(model, gg.optim.AdamW(model, lr=0.02)))
        x, labels = gg.asarray(X), gg.asarray(LABELS)
        if looked:
            passes = gg.draw(step, x, labels).graph
        losses.append([step(x, labels).item() for _ in range(3)])
    assert losses[0] == losses[1]
    done = [v for v in passes.vertices if v.kind in ("pass", "fused")]
    assert any(v.text == "x @ 0.weightᵀ" for v in done)
    assert all((v.seconds is not None) == (device == "cpu") for v in done)
