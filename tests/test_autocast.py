"""Mixed precision: which op computes in which, and loss scaling as PyTorch does it."""

import threading
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import nn, optim
from gpugrad.errors import CheckpointError, DtypeError, GradientError
from gpugrad.late import ops
from gpugrad.state import state

F16, F32, F64 = np.dtype("f2"), np.dtype("f4"), np.dtype("f8")


def host(x: Any) -> Any:
    return x.detach().to("cpu").numpy()


def leaf(*values: float, dtype: Any = np.float32) -> gg.Tensor:
    return gg.asarray(np.array(values, dtype), requires_grad=True)


def tensor(*shape: int, dtype: Any = np.float32, seed: int = 0) -> gg.Tensor:
    return gg.asarray(np.random.default_rng(seed).uniform(0.1, 1, shape).astype(dtype))


# Which op in which precision


def test_every_op_has_pytorchs_precision() -> None:
    """torch/docs amp: "ops that autocast to float16", "… to float32", of those there are here."""
    single = "pow reciprocal exp expm1 log log1p log2 log10 tan sinh cosh asin acos softplus"
    single += " bce_with_logits sum prod norm cumsum cumprod softmax log_softmax cross_entropy"
    single += " square mean logsumexp logaddexp"  # part of PyTorch's norms and losses, and kin
    expected = dict.fromkeys(single.split(), "single") | {"matmul": "half", "linear": "half"}
    found = {op.name: op.precision for op in vars(ops).values() if hasattr(op, "precision")}
    assert {name: how for name, how in found.items() if how is not None} == expected


@pytest.mark.parametrize("dtype", [F16, F32])
def test_results_have_the_precision_of_their_op(dtype: Any, device: str) -> None:
    x, w = tensor(3, 4, dtype=dtype), tensor(4, 4, dtype=dtype)
    with gg.autocast():
        for y in (x @ w, nn.linear(x, w, w[0]), nn.linear(x, w)):
            assert y.dtype == F16
        for y in (gg.exp(x), gg.log(x), x**2, x.sum(), x.mean(0), nn.softmax(x), gg.norm(x)):
            assert y.dtype == F32
        for y in (nn.layer_norm(x, 4), nn.batch_norm(x, training=True), nn.mse(x, x), nn.l1(x, x)):
            assert y.dtype == F32
        for y in (nn.relu(x), nn.sigmoid(x), x * 2, x + x, x.reshape(-1), gg.maximum(x, 0)):
            assert y.dtype == dtype  # as they come
        assert (x @ w + tensor(4)).dtype == F32  # the wider of the two
    assert (x @ w).dtype == gg.exp(x).dtype == dtype


def test_other_kinds_are_left_alone() -> None:
    with gg.autocast():
        assert (tensor(2, 2, dtype=F64) @ tensor(2, 2, dtype=F64)).dtype == F64
        assert (tensor(2, 2, dtype=F64) @ tensor(2, 2)).dtype == F64
        assert (gg.arange(4).reshape(2, 2) @ gg.arange(4).reshape(2, 2)).dtype.kind == "i"
        assert (tensor(2, 2).astype(np.complex64) @ tensor(2, 2)).dtype == np.complex64
        assert gg.sum(gg.arange(3)).dtype.kind == "i"
        assert (tensor(2, 2) @ np.ones((2, 2), np.float32)).dtype == F16  # an array beside


def test_blocks_nest_and_end() -> None:
    x = tensor(2, 2)
    with gg.autocast():
        with gg.autocast(enabled=False):
            assert (x @ x).dtype == F32
            with gg.autocast(np.float16):
                assert (x @ x).dtype == F16
        assert (x @ x).dtype == F16
        seen = []
        other = threading.Thread(target=lambda: seen.append((x @ x).dtype))
        other.start()
        other.join()
        assert seen == [F32]  # it is this thread's
        with gg.config.override(fuse=False):
            assert (x @ x).dtype == F16
        assert (x @ x).dtype == F16
    with pytest.raises(ZeroDivisionError), gg.autocast():
        1 / 0  # noqa: B018
    assert (x @ x).dtype == F32
    assert not state.special  # nothing is looked at twice any more


def test_it_decorates() -> None:
    @gg.autocast()
    def product(x: Any) -> Any:
        return x @ x

    assert [product(tensor(2, 2)).dtype for _ in range(2)] == [F16, F16]


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(DtypeError, match=r"NumPy, which .* has no bfloat16; got bfloat16; try gg"):
        gg.autocast("bfloat16")
    for dtype in ("float32", np.float64, gg.float32):
        with pytest.raises(DtypeError, match="products are computed in float16"):
            gg.autocast(dtype)
    assert gg.autocast(gg.float16)
    assert gg.autocast(np.float16)


def test_products_sum_in_float32(device: str) -> None:
    a = gg.asarray(np.full((1, 4096), 1.0, np.float16))
    assert (a @ a.T).item() == 4096  # a float16 sum stops at 2048
    x, w, b = tensor(5, 70, dtype=F16), tensor(3, 70, dtype=F16, seed=1), tensor(3, dtype=F16)
    expected = (host(x).astype("f4") @ host(w).astype("f4").T).astype("f2")
    np.testing.assert_allclose(host(nn.linear(x, w)), expected, rtol=1e-3)
    np.testing.assert_allclose(host(nn.linear(x, w, b)), expected + host(b), rtol=2e-3)


def test_losses_see_targets_beyond_float16() -> None:
    with gg.autocast():
        prediction = tensor(4, 2) @ tensor(2, 1)
        assert prediction.dtype == F16
        for loss in (nn.mse, nn.l1, nn.huber):
            assert np.isfinite(loss(prediction, np.full((4, 1), 1e5, np.float32)).item())


# Derivatives


def manual(x: Any, w: Any, b: Any) -> Any:
    """Loss and gradients of sum((x wᵀ + b)²) with the product, and its cotangent, in float16."""
    xh, wh, bh = (a.astype("f2").astype("f4") for a in (x, w, b))
    z = ((xh @ wh.T).astype("f2") + b.astype("f2")).astype("f2")
    g = (2 * z.astype("f4")).astype("f2").astype("f4")
    return (
        np.square(z.astype("f4")).sum(),
        (g.T @ xh).astype("f2").astype("f4"),
        g.sum(0).astype("f2").astype("f4"),
        bh,
    )


@pytest.mark.parametrize("where", ["inside", "outside", "grad", "create_graph", "checkpoint"])
def test_gradients_are_those_of_the_rounded_products(where: str, device: str) -> None:
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s).astype("f4") for s in ((6, 4), (3, 4), (3,)))
    expected, dw, db, _ = manual(x, w, b)
    tx, tw, tb = (gg.asarray(a) for a in (x, w, b))

    def loss_of(w: Any, b: Any) -> Any:
        with gg.autocast():
            return gg.square(nn.linear(tx, w, b)).sum()

    if where == "grad":
        found = gg.grad(loss_of, argnums=(0, 1))(tw, tb)
    else:
        tw.requires_grad = tb.requires_grad = True
        f = gg.checkpoint(loss_of) if where == "checkpoint" else loss_of
        loss = f(tw, tb)
        np.testing.assert_allclose(loss.item(), expected, rtol=1e-3)
        with gg.autocast(enabled=where == "inside"):
            loss.backward(create_graph=where == "create_graph")
        found = (tw.grad, tb.grad)
    for ours, theirs in zip(found, (dw, db), strict=True):
        assert ours.dtype == F32
        np.testing.assert_allclose(host(ours), theirs, rtol=2e-3, atol=2e-2)
    if where == "create_graph":  # the graph leads to the leaf: a cycle, ended by hand
        tw.grad = tb.grad = None


def test_forward_mode_and_second_order_agree_with_reverse() -> None:
    w = tensor(3, 3)

    def f(x: Any) -> Any:
        with gg.autocast():
            return gg.sum(gg.exp(x @ w) ** 2)

    x, dx = tensor(2, 3, seed=1), tensor(2, 3, seed=2)
    y, dy = gg.jvp(f, (x,), (dx,))
    g = gg.grad(f)(x)
    assert (y.dtype, dy.dtype, g.dtype) == (F32, F32, F32)
    assert dy.item() == pytest.approx((host(g) * host(dx)).sum(), rel=5e-3)
    exact = gg.hvp(lambda x: gg.sum(gg.exp(x @ w) ** 2), (x,), (dx,))
    (found,), (expected,) = gg.hvp(f, (x,), (dx,)), exact
    np.testing.assert_allclose(host(found), host(expected), rtol=2e-2)


# Compiled steps


def make(seed: int = 0, scaler: bool = True, momentum: float = 0.9, adam: bool = False) -> Any:
    model = nn.MLP([4, 8, 3], "tanh", generator=gg.random.Generator(seed))
    optimizer: Any = (
        optim.Adam(model, lr=0.05) if adam else optim.SGD(model, lr=0.1, momentum=momentum)
    )
    scale = optim.GradScaler(256.0, growth_interval=3, enabled=scaler)

    def step(x: Any, y: Any, inject: Any) -> Any:
        optimizer.zero_grad()
        with gg.autocast():
            loss = nn.cross_entropy(model(x), y)
        scale.scale(loss * inject).backward()
        scale.step(optimizer)
        scale.update()
        return loss.detach()

    return model, optimizer, scale, step


def batch(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return gg.asarray(rng.standard_normal((12, 4)).astype("f4")), gg.asarray(rng.integers(0, 3, 12))


def test_a_compiled_step_is_recorded_anew_under_another_setting(device: str) -> None:
    x = tensor(3, 3)
    step = gg.compile(lambda x: x @ x)
    seen = []
    for on in (False, True, True, False, True):
        with gg.autocast(enabled=on):
            seen.append(step(x).dtype)
    assert seen == [F32, F16, F16, F32, F16]
    assert step.stats()["recordings"] == 2
    assert "ran uncompiled" not in step.stats()


@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "adam"])
def test_compiled_equals_eager_skips_included(adam: bool, device: str) -> None:
    x, y = batch()
    # an overflow, a NaN, then enough good steps for the scale to grow
    injected = [1, np.inf, 1, 1, 1, np.nan, np.inf, 1, 1, 1, 1]
    eager, compiled = make(adam=adam), make(adam=adam)
    fast = gg.compile(compiled[3])
    for factor in injected:
        inject = gg.asarray(np.float32(factor))
        with np.errstate(all="ignore"):
            eager[3](x, y, inject)
        fast(x, y, inject)
        assert compiled[2].state_dict() == eager[2].state_dict()
        assert compiled[1].steps == eager[1].steps
        ours, theirs = compiled[1].state_dict(), eager[1].state_dict()
        for name in ours.keys() - {"lr", "steps"}:
            np.testing.assert_allclose(host(ours[name]), host(theirs[name]), 2e-2, 2e-4)
        for a, b in zip(compiled[0].parameters(), eager[0].parameters(), strict=True):
            np.testing.assert_allclose(host(a), host(b), 2e-2, 2e-3 if adam else 2e-4)
    assert eager[1].steps == [8] * 4
    assert fast.stats()["recordings"] == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_a_skipped_step_leaves_every_bit(compiled: bool) -> None:
    x, y = batch()
    model, optimizer, scaler, step = make(adam=True)
    if compiled:
        step = gg.compile(step)
    step(x, y, gg.asarray(np.float32(1)))

    def bits() -> Any:
        state = {**model.state_dict(), **optimizer.state_dict()}
        return {k: v.numpy().tobytes() if isinstance(v, gg.Tensor) else v for k, v in state.items()}

    before = bits()
    for factor in (np.inf, np.nan, -np.inf):
        with np.errstate(all="ignore"):
            step(x, y, gg.asarray(np.float32(factor)))
        assert bits() == before
    assert scaler.get_scale() == 256 / 8
    step(x, y, gg.asarray(np.float32(1)))
    assert optimizer.steps == [2] * 4
    assert bits() != before


# GradScaler


def scaled_run(found: str, **options: Any) -> list[float]:
    """The scale after each step; an "x" is a step with an infinite gradient."""
    w = leaf(1.0)
    optimizer, scaler = optim.SGD([w], lr=0.0), optim.GradScaler(**options)
    scales = []
    for step in found:
        w.grad = gg.asarray(np.array([np.inf if step == "x" else 1.0], np.float32))
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


def test_scales_are_pytorchs() -> None:
    """Worked by hand from torch/amp/grad_scaler.py, and compared with it below where it is."""
    assert scaled_run("..x....x..", init_scale=8.0, growth_interval=3) == [
        *(8, 8, 4, 4, 4, 8, 8, 4, 4, 4)
    ]
    factors = {"growth_factor": 3.0, "backoff_factor": 0.1, "growth_interval": 1}
    assert scaled_run(".x.", init_scale=10.0, **factors) == pytest.approx([30, 3, 9])
    assert scaled_run("..", init_scale=3e38, growth_interval=1) == pytest.approx([3e38, 3e38])
    assert scaled_run(".")[0] == 65536


def test_pytorch_says_the_same() -> None:
    torch = pytest.importorskip("torch")
    for found in ("..x....x..", "xxx......", "......"):
        w = torch.ones(1, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        scaler.scale(w.sum())
        scales = []
        for step in found:
            w.grad = torch.tensor([float("inf") if step == "x" else 1.0])
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        assert scaled_run(found, init_scale=1024.0, growth_interval=3) == scales
    keys = torch.amp.GradScaler("cpu").state_dict().keys()
    assert optim.GradScaler().state_dict().keys() == keys


def test_unscaled_gradients_can_be_clipped() -> None:
    w = leaf(3.0, 4.0)
    optimizer, scaler = optim.SGD([w], lr=1.0), optim.GradScaler(1024.0)
    scaler.scale((w * w).sum() / 2).backward()
    assert w.grad is not None
    assert host(w.grad).tolist() == [3072, 4096]
    scaler.unscale_(optimizer)
    assert host(w.grad).tolist() == [3, 4]
    assert optim.clip_grad_norm([w], 1.0) == 5
    scaler.step(optimizer)
    np.testing.assert_allclose(host(w), [2.4, 3.2], rtol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_clipping_lets_an_overflow_pass(compiled: bool) -> None:
    w = leaf(3.0, 4.0)
    optimizer, scaler = optim.SGD([w], lr=1.0, momentum=0.5), optim.GradScaler(8.0)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        scaler.scale((w * x).sum()).backward()
        scaler.unscale_(optimizer)
        norm = optim.clip_grad_norm([w], 1.0)
        scaler.step(optimizer)
        scaler.update()
        return norm

    if compiled:
        step = gg.compile(step)
    with np.errstate(all="ignore"):
        norms = [float(step(gg.asarray(np.float32([a, 4.0])))) for a in (np.inf, 3.0, np.nan)]
    assert norms == [0, 5, 0]
    assert (scaler.get_scale(), optimizer.steps) == (2.0, [1])
    np.testing.assert_allclose(host(w), [2.4, 3.2], rtol=1e-5)
    assert w.grad is not None
    assert host(w.grad).tolist() == [0, 0]


def test_two_optimisers_skip_each_for_itself_and_share_the_scale() -> None:
    a, b = leaf(1.0), leaf(1.0)
    first, second = optim.SGD([a], lr=1.0), optim.SGD([b], lr=1.0)
    scaler = optim.GradScaler(4.0)
    a.grad, b.grad = gg.asarray([np.inf]), gg.asarray([2.0])
    scaler.step(first)
    scaler.step(second)
    scaler.update()
    assert (a.tolist(), b.tolist(), scaler.get_scale()) == ([1.0], [0.5], 2.0)


def test_small_gradients_survive_float16() -> None:
    w = leaf(1.0)
    found = {}
    for enabled in (False, True):
        scaler = optim.GradScaler(enabled=enabled)
        w.grad = None
        with gg.autocast():
            loss = (w.reshape(1, 1) @ np.ones((1, 1), np.float32)).astype(np.float32).sum() * 1e-9
        scaler.scale(loss).backward()
        assert w.grad is not None
        found[enabled] = w.grad.item() / scaler.get_scale()
    assert found[False] == 0
    assert found[True] == pytest.approx(1e-9, rel=1e-3)


def test_a_disabled_scaler_changes_nothing() -> None:
    w = leaf(1.0)
    optimizer, scaler = optim.SGD([w], lr=0.5), optim.GradScaler(enabled=False)
    loss = (w * w).sum()
    assert scaler.scale(loss) is loss
    loss.backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert w.tolist() == [0.0]
    assert (scaler.get_scale(), scaler.state_dict(), scaler.is_enabled()) == (1.0, {}, False)
    scaler.load_state_dict({})


def test_what_is_called_out_of_turn_is_refused() -> None:
    w = leaf(1.0)
    optimizer, scaler = optim.SGD([w], lr=0.5), optim.GradScaler()
    with pytest.raises(GradientError, match="no gradients were looked at"):
        scaler.update()
    with pytest.raises(GradientError, match="no parameter has a gradient"):
        scaler.step(optimizer)
    w.grad = gg.asarray([1.0])
    scaler.unscale_(optimizer)
    with pytest.raises(GradientError, match="were unscaled since"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(GradientError, match="has stepped since"):
        scaler.step(optimizer)
    scaler.update()
    half = leaf(1.0, dtype=np.float16)
    half.grad = gg.asarray(np.ones(1, np.float16))
    with pytest.raises(GradientError, match="gradients in float16 lose"):
        scaler.step(optim.SGD([half], lr=1.0))
    scaler.update(new_scale=16.0)
    assert scaler.get_scale() == 16
    for wrong in ({"init_scale": 0}, {"growth_factor": 1}, {"backoff_factor": 1}):
        with pytest.raises(DtypeError, match=next(iter(wrong))):
            optim.GradScaler(**wrong)
    with pytest.raises(DtypeError, match="growth_interval is at least 1; got 0"):
        optim.GradScaler(growth_interval=0)


def test_its_state_goes_on() -> None:
    first = optim.GradScaler(8.0, growth_interval=3)
    w = leaf(1.0)
    optimizer = optim.SGD([w], lr=0.0)

    def steps(scaler: optim.GradScaler, n: int) -> float:
        for _ in range(n):
            w.grad = gg.asarray([1.0])
            scaler.step(optimizer)
            scaler.update()
        return scaler.get_scale()

    assert steps(first, 2) == 8
    second = optim.GradScaler()
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert steps(second, 1) == steps(first, 1) == 16
    for broken in ({}, {**first.state_dict(), "scale": "much"}, {**first.state_dict(), "scale": 0}):
        with pytest.raises(CheckpointError, match="GradScaler"):
            second.load_state_dict(broken)
    assert second.state_dict() == first.state_dict()


def test_digits_are_learnt_as_well_as_in_float32() -> None:
    pytest.importorskip("sklearn")
    train, test = gg.data.digits().split(0.25, seed=0)
    accuracy = {}
    for half in (False, True):
        model = nn.MLP([64, 48, 10], "relu", generator=gg.random.Generator(0))
        optimizer, scaler = optim.Adam(model, lr=0.01), optim.GradScaler(enabled=half)

        @gg.compile
        def step(x: Any, y: Any, half: bool = half, of: Any = (model, optimizer, scaler)) -> None:
            model, optimizer, scaler = of
            optimizer.zero_grad()
            with gg.autocast(enabled=half):
                loss = nn.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

        for epoch in range(8):
            for x, y in gg.data.batches(train, 64, seed=0, epoch=epoch):
                step(gg.asarray(x), gg.asarray(y))
        with gg.no_grad():
            accuracy[half] = float(np.mean(host(model(test.x)).argmax(1) == test.y))
    assert accuracy[False] > 0.94
    assert abs(accuracy[True] - accuracy[False]) < 0.02


# Half precision in programs


def rounds(x: Any) -> Any:
    """Each line is another value if a rounding on the way is left out."""
    h = (x * 0.1).astype(np.float16)
    return (
        h.astype(np.float32) - x * 0.1,  # the rounding itself
        (x * 0.3).astype(np.float16).astype(np.float32) - x,  # of a value with one reader
        (h * 60_000.0 * 2.0).astype(np.float32) * 0.25,  # infinite on the way
        ((h + 1.0) - 1.0).astype(np.float32),
        (h.astype(np.float32) + h).sum(),
        h.sum(axis=0),
        gg.where(h > 0, h, 0) * h,
        (x.astype(np.float64) * 0.1).astype(np.float16),
    )


def test_a_program_rounds_where_eager_code_does(device: str) -> None:
    x = tensor(33, 5)
    with np.errstate(over="ignore"):
        expected = rounds(x)
    step = gg.compile(rounds)
    for _ in range(3):
        for ours, theirs in zip(step(x), expected, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(host(ours), host(theirs), rtol=2e-3 * (theirs.ndim < 2))


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "gelu"])
def test_a_compiled_half_precision_step_is_one_program_on_a_gpu(
    activation: str, device: str
) -> None:
    x, y = batch()
    losses = {}
    for compiled in (False, True):
        model = nn.MLP([4, 8, 3], activation, generator=gg.random.Generator(0))
        optimizer = optim.SGD(model, lr=0.3)

        def step(x: Any, y: Any, of: Any = (model, optimizer)) -> Any:
            model, optimizer = of
            with gg.autocast():
                loss = nn.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()  # so that an update may ride on the product before it
            return loss.detach()

        run = gg.compile(step) if compiled else step
        losses[compiled] = [run(x, y).item() for _ in range(5)]
        if compiled and device != "cpu":
            stats = run.stats()  # type: ignore[attr-defined]
            assert (stats["calls"], stats["graphs"]) == (0, 1)
    np.testing.assert_allclose(losses[True], losses[False], rtol=2e-3)
