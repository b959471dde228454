"""L-BFGS: PyTorch's iterates without line search, as good a minimum with it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.errors import CheckpointError, DtypeError, GradientError, TraceError

TORCH = dict(np.load(Path(__file__).parent / "data" / "torch_lbfgs.npz"))
SETTINGS = json.loads(str(TORCH["settings"]))
SHAPES = [(5, 3), (5,), (1, 5), (1,)]


class Fit:
    """The generator's problem: parameters, optimiser, and a closure that counts its calls."""

    def __init__(self, dtype: str = "f8", compiled: bool = False, **settings: Any) -> None:
        parts = np.split(TORCH["start"].astype(dtype), np.cumsum([15, 5, 5]))
        self.params = [
            gg.asarray(p.reshape(s), requires_grad=True) for p, s in zip(parts, SHAPES, strict=True)
        ]
        self.x, self.y = (gg.asarray(TORCH[k].astype(dtype)) for k in "xy")
        self.optimizer = gg.optim.LBFGS(self.params, **settings)
        self.calls = 0
        self.loss = gg.compile(self._loss) if compiled else self._loss

    def _loss(self, x: Any, y: Any) -> Any:
        self.optimizer.zero_grad()
        hidden = gg.tanh(gg.nn.linear(x, *self.params[:2]))
        loss = gg.nn.mse(gg.nn.linear(hidden, *self.params[2:]), y)
        loss.backward()
        return loss

    def closure(self) -> Any:
        self.calls += 1
        return self.loss(self.x, self.y)

    def step(self) -> float:
        return float(self.optimizer.step(self.closure).item())

    def flat(self) -> Any:
        return np.concatenate([p.detach().numpy().ravel() for p in self.params])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", [n for n in SETTINGS if n != "strong_wolfe"])
def test_iterates_are_pytorchs(name: str, compiled: bool) -> None:
    fit = Fit(compiled=compiled, **SETTINGS[name])
    for loss, end in zip(TORCH[f"loss.{name}"], TORCH[f"end.{name}"], strict=True):
        assert fit.step() == pytest.approx(loss, rel=1e-9)
        np.testing.assert_allclose(fit.flat(), end, 1e-8, 1e-9)
    assert fit.calls == TORCH[f"calls.{name}"]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_line_search_gets_as_far_as_pytorchs(dtype: str) -> None:
    """Other steps than PyTorch's, so other iterates: compared by loss and by evaluations."""
    fit = Fit(dtype, **SETTINGS["strong_wolfe"])
    losses = [fit.step() for _ in range(6)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1.1 * TORCH["loss.strong_wolfe"][-1] < 0.1 * losses[0]
    assert fit.calls < 1.2 * TORCH["calls.strong_wolfe"]


def test_rosenbrock_in_many_dimensions() -> None:
    w = gg.asarray(np.tile([-1.2, 1.0], 10), requires_grad=True)
    optimizer = gg.optim.LBFGS([w], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(w.detach().numpy(), 1, 1e-4)


def test_a_step_into_nowhere_is_taken_back() -> None:
    """The loss is not finite beyond 2: the search comes back from there."""
    w = gg.asarray(1.9, dtype=gg.float64, requires_grad=True)
    optimizer = gg.optim.LBFGS([w], lr=50.0, line_search_fn="strong_wolfe", max_iter=50)

    def closure() -> Any:
        optimizer.zero_grad()
        with np.errstate(invalid="ignore"):
            loss = -gg.log(2 - w) - 3 * gg.log(w)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert w.item() == pytest.approx(1.5, abs=1e-6)


@pytest.mark.parametrize("name", ["short memory", "strong_wolfe"])
def test_state_goes_on_bitwise(name: str, tmp_path: Path) -> None:
    fit = Fit(**SETTINGS[name])
    for _ in range(2):
        fit.step()
    gg.io.save(tmp_path / "state.safetensors", fit.optimizer.state_dict())
    again = Fit(**SETTINGS[name])
    for p, q in zip(again.params, fit.params, strict=True):
        p._assign(q.detach())
        p.requires_grad = True
    again.optimizer.load_state_dict(gg.io.load(tmp_path / "state.safetensors"))
    for _ in range(2):
        assert again.step() == fit.step()
    np.testing.assert_array_equal(again.flat(), fit.flat())
    assert again.optimizer.steps == fit.optimizer.steps


@pytest.mark.parametrize(
    "change", [{"move": np.zeros(3)}, {"extra": 1}, {"steps": [1]}, {"lr": None}]
)
def test_mismatched_state_raises_and_changes_nothing(change: Any) -> None:
    fit = Fit(**SETTINGS["plain"])
    fit.step()
    state = fit.optimizer.state_dict()
    with pytest.raises(CheckpointError, match="LBFGS"):
        fit.optimizer.load_state_dict(state | {"lr": 9.0} | change)
    assert fit.optimizer.state_dict().keys() == state.keys()
    assert fit.optimizer.lr == 0.3


def test_what_it_refuses() -> None:
    fit = Fit()
    with pytest.raises(TraceError, match="closure"):
        gg.compile(lambda: fit.optimizer.step(fit.closure))()
    with pytest.raises(GradientError, match="finite"):
        fit.optimizer.step(lambda: math.nan)
    fit.closure()
    for scaler in (gg.optim.GradScaler(), gg.optim.GradScaler(enabled=False)):
        with pytest.raises(DtypeError, match=r"\[LBFGS.step\].*try optimizer.step\(closure\)"):
            scaler.step(fit.optimizer)
    for bad in ({"line_search_fn": "armijo"}, {"max_iter": 0}, {"tolerance_grad": -1.0}):
        with pytest.raises(DtypeError):
            Fit(**bad)


def test_a_parameter_without_gradient_stays() -> None:
    w, unused = (gg.asarray([1.0], requires_grad=True) for _ in range(2))
    optimizer = gg.optim.LBFGS([w, unused], lr=0.5, max_iter=3)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 1.0
    assert abs(w.item()) < 0.3
    assert unused.item() == 1.0
    assert w.is_leaf
