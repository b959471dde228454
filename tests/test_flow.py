"""Gradient flow: a deep sigmoid stack, a recurrent net, and what must not be changed by looking."""

from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import nn
from gpugrad.errors import DtypeError, TraceError
from gpugrad.random import Generator


def batch(*shape: int, seed: int = 0) -> gg.Tensor:
    return gg.asarray(np.random.default_rng(seed).standard_normal(shape).astype("f4"))


def stack(activation: str) -> nn.MLP:
    return nn.MLP([16] * 12 + [1], activation, generator=Generator(0))


def measured(model: nn.Module, x: gg.Tensor) -> nn.GradientFlow:
    with nn.gradient_flow(model) as flow:
        y = model(x)
        (y * y).mean().backward()
    return flow


def test_a_deep_sigmoid_stack_vanishes_at_its_beginning() -> None:
    flow = measured(stack("sigmoid"), batch(32, 16))
    verdicts = [layer.verdict for layer in flow.layers]
    assert verdicts[0] == "vanishing"
    assert verdicts[-1] == ""
    assert flow.problems() == flow.layers[: len(flow.problems())]  # a beginning, without gaps
    relative = [layer.relative for layer in flow.layers]
    assert relative[-1] == 1.0
    assert relative[0] < 1e-8
    assert flow.layers[0].name == "0"
    assert "vanishing" in str(flow).splitlines()[1]


def test_a_normalised_stack_flows() -> None:
    layers: list[nn.Module] = []
    draw = Generator(0)
    for _ in range(12):
        layers += [nn.Linear(16, 16, generator=draw), nn.LayerNorm(16), nn.GELU()]
    flow = measured(nn.Sequential(*layers, nn.Linear(16, 1, generator=draw)), batch(32, 16))
    assert flow.problems() == []


class Recurrent(nn.Module):
    """``h ← f(W h + U x)``, with W a multiple of an orthogonal matrix."""

    def __init__(self, gain: float, activation: Any) -> None:
        self.inner = nn.Linear(8, 8, bias=False)
        self.outer = nn.Linear(3, 8, generator=Generator(1))
        q, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((8, 8)))
        self.inner.load_state_dict({"weight": gain * q})
        self.activation = activation

    def forward(self, x: gg.Tensor) -> gg.Tensor:
        h = gg.zeros((x.shape[1], 8))
        for step in x:
            h = self.activation(self.inner(h) + self.outer(step))
        return h


@pytest.mark.parametrize(
    ("gain", "activation", "verdict"),
    [(0.5, gg.tanh, "vanishing"), (1.0, nn.identity, ""), (2.0, nn.identity, "exploding")],
)
def test_a_recurrent_net(gain: float, activation: Any, verdict: str) -> None:
    """One layer, many calls: seen by the calls, where its weight's gradient shows nothing."""
    model = Recurrent(gain, activation)
    flow = measured(model, batch(20, 4, 3))
    calls = [layer for layer in flow.layers if layer.name == "outer"]
    assert [layer.call for layer in calls] == list(range(20))
    assert calls[0].verdict == verdict
    assert calls[-1].verdict == ""
    if activation is nn.identity:  # W is orthogonal: the gain at each step is all there is
        assert calls[0].rms / calls[-1].rms == pytest.approx(gain**19, rel=1e-3)
    weight = model.inner.weight.grad
    assert weight is not None
    assert np.linalg.norm(weight.numpy()) > 1e-3


def test_values_are_those_of_the_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = batch(5, 3)
    flow = measured(model, x)
    hidden = model[0](x)
    active = nn.relu(hidden).retain_grad()
    hidden.retain_grad()
    y = model[2](nn.relu(hidden))
    (y * y).mean().backward()
    assert hidden.grad is not None
    g = hidden.grad.numpy()
    assert flow.layers[0].rms == pytest.approx(np.sqrt((g * g).mean()), rel=1e-6)
    assert flow.layers[0].zeros == pytest.approx((g == 0).mean())
    assert active.shape == (5, 4)


def test_looking_changes_nothing_and_ends_with_the_block() -> None:
    watched, plain = (stack("tanh") for _ in range(2))
    flow = measured(watched, batch(8, 16))
    y = plain(batch(8, 16))
    (y * y).mean().backward()
    for p, q in zip(watched.parameters(), plain.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), 1e-5, 1e-7)
    assert list(watched.state_dict()) == list(plain.state_dict())
    seen = len(flow.layers)
    watched(batch(8, 16))
    assert len(flow.layers) == seen
    assert all("forward" not in vars(m) for m in watched.modules())


def test_what_does_not_arrive_is_said() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    with nn.gradient_flow(model) as flow:
        model[0](batch(2, 3))  # nobody uses it
        model[1](batch(2, 3)).sum().backward()
    assert [layer.verdict for layer in flow.layers] == ["no gradient", ""]
    with nn.gradient_flow(model) as flow:
        (model(batch(2, 3)).sum() * np.float32("inf")).backward()
    assert flow.layers[-1].verdict == "not finite"


def test_one_layer_and_shared_layers() -> None:
    layer = nn.Linear(3, 3)
    flow = measured(layer, batch(2, 3))
    assert [(x.name, x.verdict) for x in flow.layers] == [("model", "")]
    twice = measured(nn.Sequential(layer, layer), batch(2, 3))
    assert [(x.name, x.call) for x in twice.layers] == [("0", 0), ("0", 1)]


def test_a_compiled_step_cannot_be_watched() -> None:
    model = stack("tanh")
    step = gg.compile(lambda x: model(x).detach())
    for rows in (4, 4, 5):  # recorded inside the block, replayed, recorded anew
        with pytest.raises(TraceError, match="uncompiled"), nn.gradient_flow(model):
            step(batch(rows, 16))
    with pytest.raises(DtypeError), nn.gradient_flow(model, low=2.0):
        pass
