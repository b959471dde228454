"""Which instructions of a compiled step are one launch on the device, and which stand apart."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_graph import LABELS, X, close, kinds, net, state, training

import gpugrad as gg
from gpugrad.backend import layers, operands, steps
from gpugrad.backend.operands import conflict
from gpugrad.compiler import arena


def both_ways(
    make: Callable[[], tuple[Any, Any]], steps: int = 4, of: Any = training, **flags: Any
) -> Any:
    """Losses, parameters and gradients of training without and with fused products, and what that
    launches; a smaller batch every other time.
    """
    x, labels = gg.asarray(X), gg.asarray(LABELS)
    results = []
    for fused in (False, True):
        with gg.config.override(fuse_products=fused, **(flags if fused else {})):
            model, optimizer = make()
            step = gg.compile(of(model, optimizer))
            losses = []
            for _ in range(steps // 2):
                losses += [step(x[:20], labels[:20]).item(), step(x[20:], labels[20:]).item()]
            grads = [p.grad.to("cpu").numpy() for p in model.parameters()]
        results.append([np.array(losses), *state(model), *grads])
    return (*results, kinds(step))


ACTIVATIONS = ["sigmoid", "tanh", "relu", "gelu", "silu", "leaky_relu", "elu", "softplus"]


@pytest.mark.parametrize(
    ("activation", "tf32"), [*[(name, False) for name in ACTIVATIONS], ("tanh", True)]
)
def test_a_narrow_network_is_two_launches(cuda: str, activation: str, tf32: bool) -> None:
    """Forward, and backward with all sums over rows, for biases and weights; exact, or TF32."""

    def make() -> tuple[Any, Any]:
        model = net(activation=activation)
        return model, gg.optim.Adam(model, lr=0.02)

    plain, fused, launched = both_ways(make, matmul="tf32" if tf32 else "float32")
    tolerance = 5e-3 if tf32 else 2e-5
    for a, b in zip(plain, fused, strict=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance)
    assert launched.count("layers") == 2
    assert not {"gemm", "product"} & set(launched)


@pytest.mark.parametrize(
    ("widths", "want"),
    [([12, 16, 8, 5], (2, 0, 0)), ([12, 130, 70, 5], (1, 2, 4)), ([12, *[9] * 6, 5], (3, 0, 0))],
    ids=str,
)
def test_weights_are_updated_where_they_lie(
    cuda: str, widths: list[int], want: tuple[int, ...]
) -> None:
    """Their gradients are added to them, and can still be asked for; as far as layers are narrow,
    in several launches where they are too many for one.
    """

    def make() -> tuple[Any, Any]:
        model = gg.nn.MLP(widths, activation="tanh", generator=gg.random.Generator(0))
        return model, gg.optim.SGD(model, lr=0.5)

    plain, fused, launched = both_ways(make)
    close(plain, fused)
    assert tuple(map(launched.count, ("layers", "gemm", "product"))) == want


def test_products_with_what_follows_in_one_launch(cuda: str) -> None:
    """Wide layers; and narrow ones with masks between them."""
    for dropout, widths, want in [(0.0, [12, 130, 140, 5], 8), (0.3, [12, 16, 8, 5], 0)]:

        def make(dropout: float = dropout, widths: Any = widths) -> tuple[Any, Any]:
            generator = gg.random.Generator(0)
            model = gg.nn.MLP(widths, activation="tanh", dropout=dropout, generator=generator)
            return model, gg.optim.SGD(model, lr=0.2, momentum=0.9)

        plain, fused, launched = both_ways(make)
        close(plain, fused)
        assert (launched.count("product"), launched.count("layers")) == (want, 2 * (not want))


def test_a_narrow_network_of_half_precision_is_two_launches(cuda: str) -> None:
    """As autocast has it: every value rounded to float16, the master weights float32."""
    started: list[Any] = []

    def make() -> tuple[Any, Any]:
        model = net(activation="tanh")
        started[:] = state(model)
        return model, gg.optim.SGD(model, lr=0.2)

    def halved(model: Any, optimizer: Any) -> Callable[..., Any]:
        def step(x: Any, labels: Any) -> Any:
            optimizer.zero_grad()
            with gg.autocast():
                loss = gg.nn.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            return loss

        return step

    plain, fused, launched = both_ways(make, of=halved)
    for a, b in zip(plain, fused, strict=True):
        np.testing.assert_allclose(a, b, 5e-3, 2e-3)
    assert any(abs(a - b).max() > 0.05 for a, b in zip(fused[1:], started, strict=False))
    assert launched.count("layers") == 2
    assert "gemm" not in launched


@pytest.mark.parametrize("second", ["hvp", "penalty"])
def test_second_derivatives_of_a_narrow_network(cuda: str, second: str) -> None:
    """As uncompiled: they are made of the parts of what one launch does."""
    model = net(activation="tanh")
    x, labels = gg.asarray(X), gg.asarray(LABELS)
    parameters = list(model.parameters())
    directions = [gg.asarray(np.cos(np.arange(p.size)).reshape(p.shape).astype("f4"))
                  for p in parameters]  # fmt: skip

    def hvp(x: Any, labels: Any) -> Any:
        for p in parameters:
            p.grad = None
        loss = gg.nn.cross_entropy(model(x), labels)
        loss.backward(create_graph=True)
        along = sum((p.grad * v).sum() for p, v in zip(parameters, directions, strict=True))
        for p in parameters:
            p.grad = None
        along.backward()
        return along.detach(), *[p.grad for p in parameters]

    def penalty(x: Any, labels: Any) -> Any:
        for p in parameters:
            p.grad = None
        x = x.detach()
        x.requires_grad = True
        model(x).sum().backward(create_graph=True)
        slope = (x.grad * x.grad).sum()
        for p in parameters:
            p.grad = None
        (slope + gg.nn.cross_entropy(model(x), labels)).backward()
        return slope.detach(), *[p.grad for p in parameters]

    step = {"hvp": hvp, "penalty": penalty}[second]
    wanted = [y.to("cpu").numpy() for y in step(x, labels)]
    with gg.config.override(fuse_products=True):
        run = gg.compile(step)
        for _ in range(2):
            found = [y.to("cpu").numpy() for y in run(x, labels)]
            for a, b in zip(found, wanted, strict=True):
                np.testing.assert_allclose(a, b, 1e-4, 1e-4)
    assert "layers" in kinds(run)


def test_layers_of_ones_own_with_one_output(cuda: str) -> None:
    """``x @ w + b``, the weights lying as they are written down; the loss of one column."""
    rng = np.random.default_rng(0)
    shapes = [(12, 9), (9,), (9, 7), (7,), (7, 1), (1,)]
    values = [rng.standard_normal(shape).astype("f4") for shape in shapes]
    results = []
    for fused in (False, True):
        parameters = [gg.asarray(v, requires_grad=True, copy=True) for v in values]
        optimizer = gg.optim.SGD(parameters, lr=0.1)

        def step(x: Any, parameters: Any = parameters, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            y = x
            for w, b in zip(parameters[::2], parameters[1::2], strict=True):
                y = gg.tanh(y @ w + b)
            loss = (y * y).mean()
            loss.backward()
            optimizer.step()
            return loss

        with gg.config.override(fuse_products=fused):
            run = gg.compile(step)
            losses = [run(gg.asarray(X)).item() for _ in range(4)]
            assert kinds(run).count("layers") == (2 if fused else 0)
            assert fused != bool({"gemm", "product"} & set(kinds(run)))
        results.append([np.array(losses), *[p.detach().to("cpu").numpy() for p in parameters]])
    close(*results)


def test_layers_where_memory_is_used_again(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a large batch has it. What only the next layer reads need not be written at all."""
    monkeypatch.setattr(arena, "_APART_BYTES", 0)
    x, labels = gg.asarray(X), gg.asarray(LABELS)
    results = []
    for fused in (False, True):
        with gg.config.override(fuse_products=fused):
            model = gg.nn.MLP([12, 16, 16, 16, 5], generator=gg.random.Generator(0))
            step = gg.compile(training(model, gg.optim.SGD(model, lr=0.5, momentum=0.9)))
            losses = [step(x, labels).item() for _ in range(4)]
            assert kinds(step).count("layers") == (2 if fused else 0)
            with gg.no_grad():
                predict = gg.compile(lambda x, model=model: model(x))
                logits = [predict(x).to("cpu").numpy() for _ in range(3)]
                close(logits[:1], [model(x).to("cpu").numpy()])
            assert (kinds(predict) == ["layers"]) == fused
        results.append([np.array(losses), *state(model), *logits])
    close(*results)


def test_a_product_that_somebody_else_reads_is_kept(cuda: str) -> None:
    """It is a result, or a gradient that is looked at afterwards; a layer goes on from it."""
    w, b = gg.asarray(np.ones((5, 12), "f4")), gg.asarray(np.ones(12, "f4"))
    v, c = gg.asarray(np.full((12, 12), 0.1, "f4")), gg.asarray(np.full(5, 0.1, "f4"))
    x = gg.asarray(X[:, :5].copy(), requires_grad=True)

    def step() -> Any:
        x.grad = None
        product = gg.tanh(x @ w + b) @ v
        product.sum().backward()
        return product.detach(), gg.tanh(product + b).detach(), gg.tanh(x.grad + c)

    with gg.config.override(fuse_products=True):
        run = gg.compile(step)
        wanted = [y.to("cpu").numpy() for y in (*step(), x.grad)]
        for _ in range(3):
            close([y.to("cpu").numpy() for y in (*run(), x.grad)], wanted)
    counts = [kinds(run).count(kind) for kind in ("layers", "product")]
    assert (counts, run.stats()["calls"]) == ([1, 1], 0)


def test_deep_sums_of_few_tiles_are_left_to_cublas() -> None:
    """The gradient of a narrow layer's weights, of a large batch: others split its sum."""
    _, gemm, chain = layer((0, 0), (1, 0), (2, 0))
    for k, count in [(1024, 1), (1025, 2)]:
        x, w = (0, 0, k, 1, "f4", 0), (1, 0, k, 1, "f4", 0)
        deep = (*gemm[:6], k, *gemm[7:9], x, w, *gemm[11:])
        assert len(steps.with_chains([deep, chain])) == count


def layer(
    x: Any, w: Any, y: Any, op: str = "tanh", more: Any = (9, 0, 0, 1, "f4", 0), once: bool = False
) -> Any:
    """One of 8 rows, 4 wide: where x, w and y begin, as (memory, row); y may be read once."""
    x, w, y = ((base, 16 * row, 4, 1, "f4", 4 * once) for base, row in (x, w, y))
    product = ("gemm", "f4", False, True, 8, 4, 4, 1.0, None, x, w, 0.0, y, None)
    lines = (("add", 0, 1, -1), (op, 2, -1, -1))
    return ("product", product, ("chain", "f4", 8, 4, (y, more), (), lines, ((3, y),), (), False))


def test_layers_are_one_launch_only_where_rows_are_apart() -> None:
    x, w, y, z = (0, 0), (1, 0), (2, 0), (3, 0)
    first = layer(x, w, y)
    update = ("copy", 4, 4, 4, (4, 0, 4, 1, "u4", 0), (1, 0, 4, 1, "u4", 0), False)
    aside = ("copy", 4, 4, 4, (0, 0, 4, 1, "u4", 0), (5, 0, 4, 1, "u4", 0), False)
    matrix = (9, 0, 4, 1, "f4", 0)
    apart = [first, aside, layer(y, w, z)]
    assert [s[0] for s in layers.with_layers(apart)] == ["layers", "copy"]
    assert [s[0] for s in layers.with_layers([first, update, layer(y, w, z)])] == [
        *("product", "copy", "product")
    ]
    # What comes out lies where another block still reads, or is writing.
    for over in [(0, 4), (1, 0), (2, 4)]:
        assert len(layers.with_layers([first, layer(y, w, over)])) == 2
    assert len(layers.with_layers([first, layer(y, (2, 4), z)])) == 2
    # Between layers nothing lies in memory that only the next one reads.
    for once in (False, True):
        passed = [layer(x, w, y, once=once), layer(y, w, z), layer(z, w, y)]
        assert len(layers.with_layers(passed)) == (1 if once else 2)
        assert len(layers.with_layers([passed[0], layer(y, (2, 4), z)])) == 2
    # One code between layers; the last may have its own.
    for last in (layer(z, w, (6, 0), "exp"), layer(z, w, (6, 0), more=matrix)):
        assert len(layers.with_layers([first, layer(y, w, z), last])) == 1
    codes = [first, layer(y, w, z, "exp"), layer(z, w, (6, 0))]
    assert len(layers.with_layers(codes)) == 2


def gradient(d: Any, below: Any, c: Any) -> Any:
    """dᵀ @ below of 8 rows, 4 wide, in c, all as (memory, row)."""
    d, below, c = ((base, 16 * row, 4, 1, "f4", 0) for base, row in (d, below, c))
    return ("gemm", "f4", True, False, 4, 4, 8, 1.0, None, d, below, 0.0, c, None)


def test_gradients_of_weights_are_of_the_launch_where_order_allows() -> None:
    x, w, y, below, dw = (0, 0), (1, 0), (2, 0), (8, 0), (5, 0)
    first, w_2, z = layer(x, w, y), (3, 0), (4, 0)

    def joined(*steps: Any) -> list[str]:
        return [step[0] for step in layers.with_layers(steps)]

    # Of what goes in and of what comes out; in the weights' place, which all have read by then.
    for d, c in [(x, dw), (y, dw), (x, w)]:
        assert joined(first, gradient(d, below, c)) == ["layers"]
    both = gradient(x, below, dw), gradient(y, (7, 0), (5, 4))
    assert joined(first, *both, layer(y, w_2, z)) == ["layers"]
    # Two in one place; of what the launch itself writes; weights that have changed.
    assert joined(first, gradient(x, below, dw), gradient(y, (7, 0), (5, 2))) == ["layers", "gemm"]
    assert joined(first, gradient(y, y, dw)) == ["product", "gemm"]
    assert joined(first, gradient(x, y, dw)) == ["layers"]  # as yᵀ @ x, turned
    update = gradient(x, below, w_2)
    assert joined(first, update, layer(y, w_2, z)) == ["layers", "product"]

    # What is needed comes before, unless it needs what the launch gives.
    def copy(source: Any, target: Any) -> Any:
        source, target = ((base, 16 * row, 4, 1, "u4", 0) for base, row in (source, target))
        return ("copy", 4, 8, 4, source, target, False)

    last = gradient(x, below, dw)
    assert joined(first, copy((6, 0), below), last) == ["copy", "layers"]
    assert joined(first, copy(y, below), last) == ["product", "copy", "gemm"]
    assert joined(first, copy(dw, (6, 0)), last) == ["copy", "layers"]


def test_only_what_is_read_later_is_kept() -> None:
    x, w, y, z, dw = (0, 0), (1, 0), (2, 0), (3, 0), (5, 0)
    over = ("copy", 4, 8, 4, (6, 0, 4, 1, "u4", 0), (2, 0, 4, 1, "u4", 0), False)
    read = (*over[:4], *over[5:3:-1], False)

    def kept(*later: Any, inside: bool = True) -> bool:
        _, product, chain = layer(x, w, y)
        if inside:  # a temporary of the program's own
            product = (*product[:12], (*product[12][:5], operands.READ_INSIDE), None)
            [(value, to)] = chain[7]
            chain = (*chain[:7], ((value, (*to[:5], operands.READ_INSIDE)),), *chain[8:])
        first = ("product", product, chain)
        run, *_ = layers.with_layers([first, gradient(y, (8, 0), dw), layer(y, w, z), *later])
        return bool(run.kept[0][0])

    assert (kept(), kept(inside=False)) == (False, True)
    assert (kept(read), kept(over, read), kept(over)) == (True, False, False)


def test_two_streams_wait_for_each_other() -> None:
    """Whatever conflicts is on one stream, or waited for on the other."""

    def gemm(*starts: int) -> Any:
        places = [(0, 4 * start, 4, 1, "f4", 0) for start in starts]
        return ("gemm", "f4", False, False, 4, 4, 4, 1.0, None, *places[:2], 0.0, places[2], None)

    random = np.random.default_rng(1)
    for _ in range(200):
        products = [gemm(*(16 * random.integers(0, 6, 3))) for _ in range(12)]
        plan = steps.branches(products)
        done: list[set[int]] = []
        latest: list[set[int]] = [set(), set()]
        for i, (branch, after) in enumerate(plan):
            before = set(latest[branch]).union(*[done[j] for j in after])
            for j in range(i):
                if conflict(products[j], products[i]):
                    assert j in before
            done.append(before | {i})
            latest[branch] = done[i]
