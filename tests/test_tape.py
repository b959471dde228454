"""The reverse pass: how much work it does, what it keeps alive, and where every gradient goes."""

import gc
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import backend, tape
from gpugrad.errors import GradientError, ShapeError
from gpugrad.node import Node
from gpugrad.tensor import Tensor


def leaf(value, dtype=None):
    return gg.asarray(value, dtype=dtype, requires_grad=True)


@pytest.fixture
def no_gc():
    """The collector is off, and has nothing left to do."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def steps(monkeypatch):
    """Names of the ops whose rules ran, in order."""
    seen = []
    step = tape.Pass.step

    def counted(self, node, g):
        seen.append(node.op.name)
        step(self, node, g)

    monkeypatch.setattr(tape.Pass, "step", counted)
    return seen


# Deep graphs


def chain(n):
    x = leaf(1.0)
    y = x
    for _ in range(n):
        y = y * 1.0
    return x, y


def test_a_million_ops(no_gc):
    x, y = chain(10**6)
    y.backward()
    assert x.grad.item() == 1
    first = weakref.ref(y._node)
    del y
    assert first() is None


def test_a_deep_graph_is_freed_without_backward(no_gc):
    x, y = chain(300_000)
    last = weakref.ref(y._node)
    del x, y
    assert last() is None


def test_deep_graph_in_a_thread_with_a_small_stack():
    before = threading.stack_size(256 * 1024)
    try:
        with ThreadPoolExecutor(1) as pool:

            def work():
                x, y = chain(50_000)
                y.backward()
                return x.grad.item()

            assert pool.submit(work).result() == 1
    finally:
        threading.stack_size(before)


@pytest.mark.parametrize("n", [1000, 4000])
def test_one_step_an_op(n, steps):
    """Work grows with the graph, by count and not by the clock."""
    x, y = chain(n)
    y.backward()
    assert len(steps) == n
    assert x.grad.item() == 1


def test_deep_second_derivative_is_linear(steps):
    def counted(n):
        def f(x):
            for _ in range(n):
                x = gg.sin(x)
            return x

        steps.clear()
        value = gg.grad(gg.grad(f))(0.5)
        return len(steps), value

    few, _ = counted(50)
    many, value = counted(200)
    assert many < 4.2 * few
    assert np.isfinite(value)
    steps.clear()
    gg.jvp(gg.grad(lambda x: x * x), (1.0,), (1.0,))
    assert len(steps) == 1


def test_diamonds_are_not_walked_twice(steps, device):
    """2⁵⁰ paths, fifty nodes."""
    x = leaf(1.0, gg.float64)
    y = x
    for _ in range(50):
        y = y + y
    y.backward()
    assert len(steps) == 50
    assert x.grad.item() == 2.0**50


def test_wide_diamonds(steps, device):
    x = leaf(0.5, gg.float64)
    y = x
    for _ in range(50):
        a, b = y * 0.25, y * 0.75
        y = a + b
    y.backward()
    assert len(steps) == 150
    assert x.grad.item() == pytest.approx(1)


def test_only_the_path_to_the_wanted_is_walked(steps):
    w = leaf(1.0)
    for _ in range(20):
        w = w * 1.0
    gg.grad(lambda x: x * x * w)(gg.asarray(2.0))
    assert len(steps) == 2


# Memory


def nodes_and_tensors():
    return sum(type(o) in (Node, Tensor) for o in gc.get_objects())


def test_ten_thousand_training_steps_in_flat_memory(no_gc):
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((8, 4)).astype("f4"), rng.integers(0, 3, 8)
    model = gg.nn.MLP([4, 8, 3])
    optimizer = gg.optim.Adam(model, lr=1e-3)
    blocks, objects = [], []
    for step in range(10_000):
        loss = gg.nn.cross_entropy(model(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 2000 == 1999 and step > 3000:  # caches have settled
            blocks.append(sys.getallocatedblocks())
            objects.append(nodes_and_tensors())
    assert len(set(objects)) == 1, objects
    assert max(blocks) - min(blocks) < 500, blocks  # one object leaked a step would make 6000
    assert gc.collect() == 0


def make_a_pass():
    x = leaf([1.0, 2.0, 3.0])
    w = leaf(np.ones((3, 3), np.float32))
    y = gg.sigmoid(x @ w + x)
    y.retain_grad()
    y.register_hook(lambda g: g * 2)
    (y * x).sum().backward()


def make_two_passes():
    x = leaf([1.0, 2.0])
    y = (gg.exp(x) * x).sum()
    y.backward(retain_graph=True)
    y.backward()


def make_writes():
    x = leaf([1.0, 2.0])
    y = x * 1
    y += x
    y[0] = y[1]
    y.sum().backward()


def make_error():
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    y.backward()
    with suppress(GradientError):
        y.backward()


def make_penalty():
    """What create_graph is for, without its cycle."""
    w = leaf([1.0, 2.0])
    gg.sum(gg.square(gg.grad(lambda x: (w * x * x).sum())(gg.ones(2)))).backward()
    assert w.grad.tolist() == [8, 16]


CYCLE_FREE = [
    make_a_pass,
    make_two_passes,
    make_writes,
    make_error,
    make_penalty,
    lambda: gg.grad(gg.grad(gg.sin))(0.5),
    lambda: gg.jvp(gg.grad(gg.sin), (0.5,), (1.0,)),
    lambda: gg.grad(lambda x: gg.jvp(gg.sin, (x,), (1.0,))[1])(0.5),
    lambda: gg.vjp(lambda x: (x, gg.sin(x)), np.ones(2))[1]((np.ones(2), np.ones(2))),
    lambda: chain(100),
]  # fmt: skip


@pytest.mark.parametrize("work", CYCLE_FREE)
def test_nothing_for_the_collector(work, no_gc):
    work()  # first calls fill caches
    gc.collect()
    before = nodes_and_tensors()
    work()
    assert nodes_and_tensors() == before
    assert gc.collect() == 0


def test_create_graph_makes_a_cycle_that_gc_frees(no_gc):
    """leaf.grad holds the graph of the gradient, which holds the leaf; `backward` documents it."""
    x = leaf([1.0])
    (x * x * x).sum().backward(create_graph=True)
    node, array = weakref.ref(x._node), weakref.ref(x._data)
    del x
    assert node() is not None
    gc.collect()
    assert node() is None
    assert array() is None


def test_dropping_the_gradient_ends_that_cycle(no_gc):
    x = leaf([1.0])
    (x * x * x).sum().backward(create_graph=True)
    node = weakref.ref(x._node)
    x.grad = None
    del x
    assert node() is None
    assert gc.collect() == 0


def test_activations_are_freed_as_they_are_read():
    """While the early layers are still to come, the arrays of the late ones are gone."""
    x = leaf(np.full(1000, 0.1))
    h, arrays, alive = x, [], []
    for i in range(10):
        h = gg.exp(-h)
        arrays.append(weakref.ref(h._data))
        if i == 4:
            h.register_hook(
                lambda g: alive.extend(i for i, a in enumerate(arrays) if a() is not None)
            )
    loss = h.sum()
    del h
    assert all(a() is not None for a in arrays)
    loss.backward()
    assert alive == [0, 1, 2, 3, 4]
    assert all(a() is None for a in arrays)


def test_retained_activations_stay():
    x = leaf(np.ones(10))
    h = gg.exp(x)
    array = weakref.ref(h._data)
    loss = h.sum()
    del h
    loss.backward(retain_graph=True)
    assert array() is not None
    loss.backward()
    assert array() is None


def test_only_what_rules_read_is_saved():
    x = leaf(np.ones(10))
    a = x + 1
    z = a * 2.0
    array = weakref.ref(a._data)
    del a
    assert array() is None
    z.sum().backward()


def test_no_grad_keeps_nothing():
    x = leaf(np.ones(10))
    with gg.no_grad():
        h = gg.exp(x)
        array = weakref.ref(h._data)
        h = h * 2
    assert array() is None
    assert not h.requires_grad


# Again


def test_second_backward_names_what_to_pass(device):
    x = leaf([1.0, 2.0])
    y = (gg.exp(x) * x).sum()
    y.backward()
    with pytest.raises(GradientError, match=r"multiply.*try backward\(retain_graph=True\)"):
        y.backward()


def test_second_backward_through_a_shared_part(device):
    x = leaf([1.0, 2.0])
    shared = gg.exp(x)
    (shared * 2).sum().backward()
    with pytest.raises(GradientError, match="exp"):
        (shared * 3).sum().backward()


def test_failed_backward_adds_nothing():
    a, b = leaf(2.0), leaf(3.0)
    y = a * a + b
    y.backward()
    with pytest.raises(GradientError):
        y.backward()
    assert b.grad.item() == 1


def test_retain_graph(device):
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    for i in (1, 2, 3):
        y.backward(retain_graph=True)
        assert x.grad.tolist() == [2 * i, 4 * i]
    y.backward()
    with pytest.raises(GradientError):
        y.backward()


def test_create_graph(device):
    x = leaf([1.0, 2.0])
    (x * x * x).sum().backward(create_graph=True)
    assert x.grad.requires_grad
    first, x.grad = x.grad, None
    assert first.tolist() == [3, 12]
    first.sum().backward()
    assert x.grad.tolist() == [6, 12]
    assert not x.grad.requires_grad


def test_create_graph_keeps_the_graph(device):
    x = leaf(2.0)
    y = x * x
    y.backward(create_graph=True)
    y.backward()
    assert x.grad.item() == 8


def test_backward_adds_up_over_calls(device):
    x = leaf([1.0, 2.0])
    (x * 2).sum().backward()
    kept = x.grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [4, 6]
    assert kept.tolist() == [2, 2]


# Shared values


def test_same_tensor_twice(device):
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    for f, want in [
        (lambda: x + x, [[2, 2], [2, 2]]),
        (lambda: x - x, [[0, 0], [0, 0]]),
        (lambda: x * x, [[2, 4], [6, 8]]),
        (lambda: x @ x.T, [[8, 12], [8, 12]]),
        (lambda: x @ x, [[7, 11], [9, 13]]),
        (lambda: gg.concat([x, x]), [[2, 2], [2, 2]]),
        (lambda: gg.where(x > 2, x, x), [[1, 1], [1, 1]]),
        (lambda: gg.maximum(x, x), [[1, 1], [1, 1]]),
    ]:
        x.grad = None
        f().sum().backward()
        assert x.grad.tolist() == want


def test_one_parameter_in_two_layers(device):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 3)), rng.standard_normal((3, 3))

    def f(w):
        return gg.sum(gg.sigmoid(gg.sigmoid(gg.asarray(x) @ w) @ w))

    t = leaf(w)
    f(t).backward()
    a, b = leaf(w), leaf(w)
    gg.sum(gg.sigmoid(gg.sigmoid(gg.asarray(x) @ a) @ b)).backward()
    np.testing.assert_allclose(t.grad.tolist(), (a.grad + b.grad).tolist(), rtol=1e-12)
    layer = gg.nn.Linear(3, 3)
    layer(layer(x.astype("f4"))).sum().backward()
    assert layer.weight.grad.shape == (3, 3)


def test_shared_subexpression(device):
    x = leaf([0.5, 1.0])
    h = gg.exp(x)
    ((h * h) + h + gg.sin(h) * 0).sum().backward()
    e = np.exp([0.5, 1.0])
    np.testing.assert_allclose(x.grad.tolist(), 2 * e * e + e, rtol=1e-6)


def test_borrowed_cotangents_are_not_overwritten(device):
    """a and b receive one array from c = a + b; what a gets on top must not reach b."""
    a, b, d = leaf([1.0, 2.0]), leaf([3.0, 4.0]), leaf([5.0, 6.0])
    c = a + b
    c.retain_grad()
    (c + d + a * a + a * 5 + a * 7).sum().backward()
    assert a.grad.tolist() == [15, 17]
    assert b.grad.tolist() == c.grad.tolist() == d.grad.tolist() == [1, 1]
    (a * 3).sum().backward()
    a.grad *= 10
    a.grad[0] = 0.0
    assert b.grad.tolist() == c.grad.tolist() == d.grad.tolist() == [1, 1]


def test_given_gradient_is_not_overwritten():
    a, b = leaf(np.zeros(3)), leaf(np.zeros(3))
    g = np.ones(3)
    (a + b + a + a + b * 2).backward(g)
    assert g.tolist() == [1, 1, 1]
    assert (a.grad.tolist(), b.grad.tolist()) == ([3, 3, 3], [3, 3, 3])


def test_gradient_views_of_one_array(device):
    """The parts of a concatenation get views of one cotangent; each is then added to."""
    a, b = leaf([1.0, 2.0]), leaf([3.0])
    joined = gg.concat([a, b])
    joined.retain_grad()
    (joined * gg.asarray([1.0, 10.0, 100.0]) + 0).sum().backward()
    (a * 5 + a).sum().backward()
    assert a.grad.tolist() == [7, 16]
    assert b.grad.tolist() == [100]
    assert joined.grad.tolist() == [1, 10, 100]


def test_long_accumulation(device):
    x = leaf([1.0, 2.0])
    total = x * 0
    for i in range(100):
        total = total + x * i
    total.sum().backward()
    assert x.grad.tolist() == [4950, 4950]


# Order


def test_leaves_are_served_as_soon_as_they_are_ready(steps, device):
    """The last layer's parameters are finished before the first layer is walked."""
    order = []
    x = gg.ones((2, 3))
    params = []
    for i in range(3):
        w = leaf(np.full((3, 3), 0.1, np.float32))
        w.register_hook(lambda g, i=i: order.append((i, len(steps))))
        params.append(w)
        x = gg.tanh(x @ w)
    x.sum().backward()
    assert [i for i, _ in order] == [2, 1, 0]
    assert [count for _, count in order] == [3, 5, 7]


def test_hook_may_use_other_gradients_that_are_ready(device):
    """Clipping or updating inside a hook: the gradient is stored right after its hooks."""
    first, last = leaf(2.0), leaf(3.0)
    seen = []
    first.register_hook(lambda g: seen.append(last.grad.item()))
    (gg.sin(first) * last * 0 + first * last).backward()
    assert seen == [2]


def test_update_inside_a_hook(device):
    """A parameter rebound while the pass still runs does not change what it computes."""
    w, v = leaf([2.0]), leaf([3.0])

    def update(g):
        with gg.no_grad():
            v.__isub__(100 * g)

    v.register_hook(update)
    (w * w * v).sum().backward()
    assert w.grad.tolist() == [12]
    assert v.tolist() == [3 - 400]


def test_backward_inside_a_hook(device):
    x, z = leaf(2.0), leaf(5.0)
    y = z * z
    x.register_hook(lambda g: y.backward())
    (x * x).backward()
    assert (x.grad.item(), z.grad.item()) == (4, 10)


def test_exception_in_a_hook_leaves_the_state_clean(device):
    def broken(g):
        raise KeyError("hook")

    x = leaf(2.0)
    drop = x.register_hook(broken)
    with pytest.raises(KeyError):
        (x * x).backward()
    assert gg.is_grad_enabled()
    drop()
    x.grad = None
    (x * x).backward()
    assert x.grad.item() == 4


# Threads


def test_threads_on_separate_graphs():
    def work(seed):
        rng = np.random.default_rng(seed)
        a = rng.standard_normal(50)
        x = leaf(a)
        for _ in range(100):
            x.grad = None
            (gg.sin(x) * x).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), np.sin(a) + a * np.cos(a), rtol=1e-12)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))


def test_threads_that_share_leaves(monkeypatch):
    """Concurrent backward silently losing a gradient (burn #5573)."""
    x = leaf([0.0, 0.0])
    x.grad = gg.ones(2)
    barrier = threading.Barrier(4, timeout=20)
    add = Tensor.__add__

    def slow_add(a, b):
        total = add(a, b)
        time.sleep(0.05)  # between reading x.grad and writing it
        return total

    def work(factor):
        y = (x * factor).sum()
        barrier.wait()
        y.backward()

    monkeypatch.setattr(Tensor, "__add__", slow_add)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [1.0, 10.0, 100.0, 1000.0]))
    assert x.grad.tolist() == [1112, 1112]


# The fused row


@pytest.fixture
def kernel_calls(device, monkeypatch):
    """One entry, the shape, for every backward of a sigmoid by one call of the backend."""
    kernels = backend.get(device)
    calls = []
    run, run_whole = kernels.sigmoid_bwd, kernels.linear_bwd

    def counted(dy, y):
        calls.append(y.shape)
        return run(dy, y)

    def counted_whole(activation, g, y, x, w):
        results = run_whole(activation, g, y, x, w)
        if results is not None and activation == "sigmoid":
            calls.append(y.shape)
        return results

    monkeypatch.setattr(kernels, "sigmoid_bwd", counted)
    monkeypatch.setattr(kernels, "linear_bwd", counted_whole)
    return calls


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_a_layer_goes_back_in_one_call(device, activation, monkeypatch):
    """On a GPU always; on a CPU where the native core is."""
    kernels = backend.get(device)
    run, results = kernels.linear_bwd, []
    monkeypatch.setattr(
        kernels, "linear_bwd", lambda *given: (results.append(run(*given)), results[-1])[1]
    )
    random = np.random.default_rng(0)
    values = [random.standard_normal(shape).astype("f4") for shape in ((6, 5), (4, 5), (4,))]
    x, w, b = (gg.asarray(v, copy=True, requires_grad=True) for v in values)
    c = random.standard_normal((6, 4)).astype("f4")
    z = gg.nn.linear(x, w, b)
    (getattr(gg.nn, activation)(z) * gg.asarray(c)).sum().backward()
    z = values[0] @ values[1].T + values[2]
    y = 1 / (1 + np.exp(-z))
    slope = {"sigmoid": y * (1 - y), "tanh": 1 - np.tanh(z) ** 2, "relu": z > 0}[activation]
    wanted = c * slope @ values[1], (c * slope).T @ values[0], (c * slope).sum(0)
    for p, want in zip((x, w, b), wanted, strict=True):
        np.testing.assert_allclose(p.grad.to("cpu").numpy(), want, 1e-5, 1e-5)
    assert device == "cpu" or [r is not None for r in results] == [True]


def layer(x, w, b):
    return gg.sigmoid(x @ w + b)


def used_twice(x, w, b):
    z = x @ w + b
    return gg.sigmoid(z) * z


def used_by_two_sigmoids(x, w, b):
    z = x @ w + b
    return gg.sigmoid(z) + gg.sigmoid(z)


def retained(x, w, b):
    return gg.sigmoid((x @ w + b).retain_grad())


def hooked(x, w, b):
    z = x @ w + b
    z.register_hook(lambda g: 2 * g)
    return gg.sigmoid(z)


def transposed_gradient(x, w, b):
    return layer(x, w, b).T * gg.asarray(np.arange(12.0).reshape(4, 3).astype(x.dtype))


SHAPES = ((3, 5), (5, 4), (4,))
FUSED = {
    "matmul": (layer, SHAPES, "float64"),
    "float32": (layer, SHAPES, "float32"),
    "bias first": (lambda x, w, b: gg.sigmoid(b + x @ w), SHAPES, "float64"),
    "linear": (lambda x, w, b: gg.sigmoid(gg.nn.linear(x, w.T, b)), SHAPES, "float64"),
    "result used twice": (lambda x, w, b: (lambda y: y * y)(layer(x, w, b)), SHAPES, "float64"),
    "transposed gradient": (transposed_gradient, SHAPES, "float64"),
    "retained result": (lambda x, w, b: layer(x, w, b).retain_grad(), SHAPES, "float64"),
    "square": (layer, ((4, 4), (4, 4), (4,)), "float64"),
    "one column": (layer, ((3, 5), (5, 1), (1,)), "float64"),
    "one row": (layer, ((1, 5), (5, 4), (4,)), "float64"),
    "no rows": (layer, ((0, 5), (5, 4), (4,)), "float64"),
    "no columns": (layer, ((3, 5), (5, 0), (0,)), "float64"),
    "inner axis empty": (layer, ((3, 0), (0, 4), (4,)), "float64"),
    "many rows": (layer, ((9000, 2), (2, 4), (4,)), "float64"),
}
NOT_FUSED = {
    "inner value used twice": (used_twice, SHAPES, "float64"),
    "two sigmoids": (used_by_two_sigmoids, SHAPES, "float64"),
    "retained": (retained, SHAPES, "float64"),
    "hooked": (hooked, SHAPES, "float64"),
    "rank 3": (layer, ((2, 3, 5), (5, 4), (4,)), "float64"),
    "rank 1": (layer, ((5,), (5, 4), (4,)), "float64"),
    "half": (layer, SHAPES, "float16"),
    "bias is a row": (layer, ((3, 5), (5, 4), (1, 4)), "float64"),
    "bias is a column": (layer, ((3, 5), (5, 4), (3, 1)), "float64"),
    "bias is a number": (layer, ((3, 5), (5, 4), ()), "float64"),
    "bias is a matrix": (layer, ((4, 5), (5, 4), (4, 4)), "float64"),
    "bias widens": (layer, ((3, 5), (5, 1), (4,)), "float64"),
    "no bias": (lambda x, w, b: gg.sigmoid(x @ w) * gg.sum(b), SHAPES, "float64"),
    "scaled": (lambda x, w, b: gg.sigmoid((x @ w + b) * 2), SHAPES, "float64"),
    "tanh": (lambda x, w, b: gg.tanh(x @ w + b), SHAPES, "float64"),
}


def gradients_of(f, shapes, dtype):
    rng = np.random.default_rng(3)
    leaves = [leaf(rng.standard_normal(shape).astype(dtype)) for shape in shapes]
    out = f(*leaves)
    weights = gg.asarray(rng.standard_normal(out.shape).astype(dtype))
    (out * weights).sum().backward()
    return [x.grad for x in leaves]


@pytest.mark.parametrize(
    ("f", "shapes", "dtype", "fused"),
    [pytest.param(*case, 1, id=name) for name, case in FUSED.items()]
    + [pytest.param(*case, 0, id=name) for name, case in NOT_FUSED.items()],
)
def test_fused_row(f, shapes, dtype, fused, kernel_calls):
    got = gradients_of(f, shapes, dtype)
    assert len(kernel_calls) == fused
    with gg.config.override(fuse=False):
        want = gradients_of(f, shapes, dtype)
    assert len(kernel_calls) == fused
    tolerance = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2}[dtype]
    for a, b in zip(got, want, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(
            a.to("cpu").numpy(), b.to("cpu").numpy(), rtol=tolerance, atol=tolerance
        )


def test_fused_row_serves_only_what_is_wanted(kernel_calls):
    rng = np.random.default_rng(0)
    x, w, b = (gg.asarray(rng.standard_normal(s)) for s in SHAPES)
    for i in range(3):
        xs = [x, w, b]
        xs[i] = leaf(xs[i].detach())
        layer(*xs).sum().backward()
        assert xs[i].grad.shape == xs[i].shape
    everything = gg.grad(lambda *xs: layer(*xs).sum(), (0, 1, 2))(x, w, b)
    for i in range(3):
        alone = gg.grad(lambda *xs: layer(*xs).sum(), i)(x, w, b)
        np.testing.assert_allclose(alone.tolist(), everything[i].tolist(), rtol=1e-12)


def test_stride_zero_gradient_into_the_kernel(kernel_calls):
    """Non-contiguous or odd-stride gradients into raw kernels (pytorch #64529)."""
    x, w, b = (leaf(np.ones(s)) for s in SHAPES)
    layer(x, w, b).sum().backward()  # a cotangent broadcast from one number
    y = 1 / (1 + np.exp(-6))
    np.testing.assert_allclose(b.grad.tolist(), [3 * y * (1 - y)] * 4, rtol=1e-12)
    assert kernel_calls == [(3, 4)]


def test_no_fusion_while_the_pass_is_recorded(kernel_calls):
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s) for s in SHAPES)
    t = leaf(b)
    layer(gg.asarray(x), gg.asarray(w), t).sum().backward(create_graph=True)
    gg.jvp(
        gg.grad(lambda b: layer(gg.asarray(x), gg.asarray(w), b).sum()),
        (t.detach(),),
        (t.detach(),),
    )
    assert not kernel_calls
    assert gg.testing.gradcheck(layer, [x, w, b])


def test_fused_graph_is_freed_too(kernel_calls):
    x, w, b = (leaf(np.ones(s)) for s in SHAPES)
    y = layer(x, w, b).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert len(kernel_calls) == 2
    with pytest.raises(GradientError, match="sigmoid"):
        y.backward()


def test_model_of_sigmoids_runs_on_the_kernel(kernel_calls):
    model = gg.nn.MLP([3, 5, 4, 2])
    gg.nn.mse(model(np.ones((6, 3), "f4")), np.zeros((6, 2), "f4")).backward()
    assert kernel_calls == [(6, 4), (6, 5)]


# Modes


def test_grad_modes_nest():
    x = leaf(1.0)
    seen = [gg.is_grad_enabled()]
    with gg.no_grad():
        seen.append(gg.is_grad_enabled())
        with gg.enable_grad():
            seen.append((x * 2).requires_grad)
            with gg.no_grad():
                seen.append((x * 2).requires_grad)
            seen.append(gg.is_grad_enabled())
        seen.append(gg.is_grad_enabled())
    assert seen == [True, False, True, False, True, False]
    assert gg.is_grad_enabled()


def test_no_grad_ends_with_an_exception():
    with pytest.raises(KeyError), gg.no_grad():
        raise KeyError
    assert gg.is_grad_enabled()


def test_no_grad_decorates():
    @gg.no_grad()
    def evaluate(x):
        return (x * 2).requires_grad

    x = leaf(1.0)
    assert not evaluate(x)
    assert not evaluate(x)
    assert gg.is_grad_enabled()


def test_leaf_made_under_no_grad_is_a_leaf():
    with gg.no_grad():
        x = leaf(1.0)
    (x * x).backward()
    assert x.grad.item() == 2


def test_backward_under_no_grad(device):
    x = leaf(2.0)
    y = x * x * x
    with gg.no_grad():
        y.backward()
        assert not gg.is_grad_enabled()
    assert x.grad.item() == 12


# Seeds


def test_backward_of_a_leaf(device):
    x = leaf(3.0)
    x.backward()
    x.backward()
    assert x.grad.item() == 2
    v = leaf([1.0, 2.0])
    v.backward([5.0, 6.0])
    assert v.grad.tolist() == [5, 6]


def test_only_a_scalar_needs_no_gradient(device):
    x = leaf([1.0, 2.0])
    with pytest.raises(
        GradientError, match=r"got \(2,\); try backward\(gradient=...\).*loss.sum\(\)"
    ):
        (x * 2).backward()
    (x[:1] * 2).backward()
    assert x.grad.tolist() == [2, 0]
    (x * 2).backward(gg.asarray([1.0, 10.0]))
    assert x.grad.tolist() == [4, 20]
    (x * 2).backward(gradient=[0, 1])
    assert (x.grad.tolist(), x.grad.dtype) == ([4, 22], gg.float32)


@pytest.mark.parametrize("shape", [(), (1,), (2, 1), (1, 2), (3,)])
def test_gradient_of_another_shape(shape, device):
    x = leaf([1.0, 2.0])
    with pytest.raises(ShapeError, match=r"gradient: .*, tensor: \(2,\)"):
        (x * 2).backward(gg.ones(shape))
    assert x.grad is None


def test_backward_of_what_depends_on_nothing(device):
    with pytest.raises(GradientError, match=r"depends on no leaf.*try"):
        gg.ones(1).sum().backward()
    with pytest.raises(GradientError):
        (leaf([1.0]) > 0).sum().backward()
    with pytest.raises(GradientError):
        leaf([1.0]).detach().sum().backward()


@pytest.mark.parametrize(
    "gradient",
    [
        np.arange(6.0).reshape(3, 2).T,
        np.broadcast_to(np.array([1.0, 2.0, 3.0]), (2, 3)),
        np.broadcast_to(2.0, (2, 3)),
        np.arange(24.0).reshape(4, 6)[::-2, ::2],
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.ones((2, 3), np.float16),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ],
    ids=lambda g: f"{g.strides}{g.dtype}",
)
def test_gradient_layouts(gradient, device):
    """Each op gets a cotangent with odd strides, and leaves it as it was."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3)), rng.standard_normal((3, 3))
    kept = gradient.copy()
    for f in (
        lambda x, w: x @ w,
        lambda x, w: gg.tanh(x) * w[0],
        lambda x, w: gg.nn.linear(x, w, w[0]),
        lambda x, w: gg.sigmoid(gg.nn.linear(x, w, w[0])),
        lambda x, w: x.T.reshape(3, 2).T + gg.flip(w)[:2],
        lambda x, w: gg.nn.softmax(x) * gg.cumulative_sum(w, axis=0)[:2],
    ):
        got, want = [], []
        for g, found in ((gradient, got), (np.array(gradient, np.float64, order="C"), want)):
            x, w = leaf(a), leaf(b)
            f(x, w).backward(g)
            found += [x.grad.tolist(), w.grad.tolist()]
        for p, q in zip(got, want, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(gradient, kept)


def test_broadcasting_is_undone(device):
    a, b, c = leaf(np.ones((3, 1, 2))), leaf(np.ones((4, 1))), leaf(1.0, gg.float64)
    (a * b + c).sum().backward()
    assert a.grad.shape == a.shape
    assert b.grad.shape == b.shape
    assert (a.grad.tolist(), c.grad.item()) == ([[[4, 4]]] * 3, 24)
    assert b.grad.tolist() == [[6]] * 4


def test_empty_graphs(device):
    x, w = leaf(np.ones((0, 3))), leaf(np.ones((3, 2)))
    y = gg.sigmoid(x @ w)
    (y.sum() + (y * y).sum()).backward()
    assert x.grad.shape == (0, 3)
    assert w.grad.tolist() == [[0, 0]] * 3
    z = leaf(np.ones(0))
    z.backward(np.ones(0))
    assert z.grad.shape == (0,)
    gg.concat([z, leaf(np.ones(2))]).sum().backward()
    assert gg.grad(lambda x: (x[:0] * 2).sum())(np.ones(3)).tolist() == [0, 0, 0]


def test_zero_dimensional_graphs(device):
    x = leaf(2.0)
    y = (x * x).reshape(1, 1).reshape(()) * gg.sum(x) + gg.max(x) + x[...] + x[None][0]
    y.backward()
    assert x.grad.shape == ()
    assert x.grad.item() == 3 * 4 + 3
    for _ in range(3):
        (x * x + x * x + x * x).backward()
    assert x.grad.item() == 15 + 3 * 12
