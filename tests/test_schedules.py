"""Learning-rate schedules: PyTorch's values, resuming, and a compiled step that sees them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import optim
from gpugrad.errors import CheckpointError, DtypeError, ShapeError

TORCH = dict(np.load(Path(__file__).parent / "data" / "torch_schedules.npz"))
SCHEDULES = json.loads(str(TORCH["schedules"]))
METRICS = TORCH["metrics"].tolist()


def optimizer_for(name: str) -> Any:
    p = gg.asarray([1.0], requires_grad=True)
    return optim.Adam([p], lr=0.4) if "adam" in name else optim.SGD([p], lr=0.4, momentum=0.9)


def made(optimizer: Any, spec: Any) -> Any:
    if isinstance(spec[0], list):
        *inner, milestones = spec
        return optim.SequentialLR(optimizer, [made(optimizer, s) for s in inner], milestones)
    return getattr(optim, spec[0])(optimizer, **spec[1])


def go(schedule: Any, metric: float) -> None:
    plateau = isinstance(schedule, optim.ReduceLROnPlateau)
    schedule.step(*([metric] if plateau else []))


def momentum(optimizer: Any) -> float:
    return float(optimizer.betas[0] if isinstance(optimizer, optim.Adam) else optimizer.momentum)


@pytest.mark.parametrize("name", SCHEDULES)
def test_values_are_pytorchs(name: str) -> None:
    optimizer = optimizer_for(name)
    schedule = made(optimizer, SCHEDULES[name])
    lrs, momenta = [optimizer.lr], [momentum(optimizer)]
    for metric in METRICS:
        go(schedule, metric)
        lrs.append(optimizer.lr)
        momenta.append(momentum(optimizer))
        assert schedule.get_last_lr() == [optimizer.lr]
    np.testing.assert_allclose(lrs, TORCH[f"lr.{name}"], 1e-12, 1e-15)
    if f"momentum.{name}" in TORCH:
        np.testing.assert_allclose(momenta, TORCH[f"momentum.{name}"], 1e-12)


def test_the_fixture_is_from_pytorch_2_13_and_moves() -> None:
    assert str(TORCH["torch"]).startswith("2.13.")
    for name in SCHEDULES:
        assert len(set(TORCH[f"lr.{name}"])) > 2, name


@pytest.mark.parametrize("at", [0, 4, 12])
@pytest.mark.parametrize("name", SCHEDULES)
def test_resuming_goes_on_with_the_same_values(name: str, at: int) -> None:
    optimizer = optimizer_for(name)
    schedule = made(optimizer, SCHEDULES[name])
    for metric in METRICS[:at]:
        go(schedule, metric)
    state = json.loads(json.dumps(schedule.state_dict()))
    again = optimizer_for(name)
    again.lr = optimizer.lr  # what a loaded optimiser has, before the schedule is made
    resumed = made(again, SCHEDULES[name])
    resumed.load_state_dict(state)
    for metric in METRICS[at:]:
        go(schedule, metric)
        go(resumed, metric)
        assert again.lr == optimizer.lr
        assert momentum(again) == momentum(optimizer)


def test_state_of_another_schedule_raises_and_changes_nothing() -> None:
    optimizer = optimizer_for("")
    schedule = optim.StepLR(optimizer, 2)
    with pytest.raises(CheckpointError, match="StepLR"):
        schedule.load_state_dict({"last_epoch": 5})
    with pytest.raises(CheckpointError, match="best"):
        schedule.load_state_dict(optim.ReduceLROnPlateau(optimizer).state_dict())
    assert (schedule.last_epoch, optimizer.lr) == (0, 0.4)


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_a_compiled_step_sees_rate_and_momentum(kind: Any) -> None:
    """A whole cycle on one recording, with the uncompiled step's numbers."""
    x = gg.asarray(np.random.default_rng(0).standard_normal((8, 3)).astype("f4"))

    def run(compiled: bool) -> Any:
        w = gg.asarray(np.ones(3, "f4"), requires_grad=True)
        settings = {"momentum": 0.9} if kind is optim.SGD else {}
        optimizer = kind([w], lr=0.1, **settings)
        schedule = optim.OneCycleLR(optimizer, max_lr=0.2, total_steps=12)

        def step(x: gg.Tensor) -> gg.Tensor:
            optimizer.zero_grad()
            loss = (gg.sigmoid(x @ w) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss.detach()

        call = gg.compile(step) if compiled else step
        seen = []
        for _ in range(11):
            call(x)
            schedule.step()
            seen.append(w.detach().numpy(copy=True))
        if compiled:
            assert call.stats()["recordings"] == 1
        return np.array(seen)

    np.testing.assert_allclose(run(True), run(False), 2e-6, 1e-7)


def test_lambda_and_plateau_refuse_and_compute() -> None:
    optimizer = optimizer_for("")
    schedule = optim.LambdaLR(optimizer, lambda n: 0.5**n)
    schedule.step()
    assert optimizer.lr == 0.2
    with pytest.raises(DtypeError, match="metric"):
        optim.ReduceLROnPlateau(optimizer).lr_at(3)
    over = optim.OneCycleLR(optimizer, 1.0, total_steps=1)
    over.step()
    with pytest.raises(ShapeError, match="cycle is over"):
        over.step()


def test_a_nan_metric_counts_as_no_improvement() -> None:
    optimizer = optimizer_for("")
    schedule = optim.ReduceLROnPlateau(optimizer, patience=0)
    schedule.step(math.nan)
    assert optimizer.lr == pytest.approx(0.04)


BAD = {
    "optimizer": lambda o: optim.StepLR(object(), 2),
    "step_size": lambda o: optim.StepLR(o, 0),
    "gamma": lambda o: optim.ExponentialLR(o, -1.0),
    "factor": lambda o: optim.LinearLR(o, start_factor=0.0),
    "T_max": lambda o: optim.CosineAnnealingLR(o, 0),
    "eta_min": lambda o: optim.CosineAnnealingLR(o, 3, math.nan),
    "no length": lambda o: optim.OneCycleLR(o, 1.0),
    "pct_start": lambda o: optim.OneCycleLR(o, 1.0, 10, pct_start=1.5),
    "strategy": lambda o: optim.OneCycleLR(o, 1.0, 10, anneal_strategy="cosine"),
    "no momentum": lambda o: optim.OneCycleLR(optim.SGD(o.params), 1.0, 10),
    "milestones": lambda o: optim.SequentialLR(o, [optim.StepLR(o, 2)], [3]),
    "order": lambda o: optim.SequentialLR(o, [optim.StepLR(o, 2)] * 3, [4, 3]),
    "plateau inside": lambda o: optim.SequentialLR(o, [optim.ReduceLROnPlateau(o)], []),
    "another's": lambda o: optim.SequentialLR(o, [optim.StepLR(optimizer_for(""), 2)], []),
    "mode": lambda o: optim.ReduceLROnPlateau(o, mode="least"),
    "threshold_mode": lambda o: optim.ReduceLROnPlateau(o, threshold_mode="relative"),
    "factor of 1": lambda o: optim.ReduceLROnPlateau(o, factor=1.0),
    "patience": lambda o: optim.ReduceLROnPlateau(o, patience=-1),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_settings_raise(bad: Any) -> None:
    with pytest.raises((DtypeError, ShapeError)):
        bad(optimizer_for(""))
