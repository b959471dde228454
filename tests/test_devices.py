"""More than one device: results lie where their operands do, whichever is CuPy's current one."""

import numpy as np
import pytest
from test_graph import training

import gpugrad as gg
from gpugrad.backend import cupy as ours


@pytest.fixture
def second(cuda: str) -> str:
    """A device that is not the current one."""
    if ours.device_count() < 2:
        pytest.skip("there is one CUDA device")
    return "cuda:1" if cuda == "cuda" else "cuda"


def test_tensors_are_made_where_they_were_asked_for(second: str) -> None:
    made = [
        *(make(3, device=second) for make in (gg.zeros, gg.ones, gg.empty, gg.eye, gg.arange)),
        *(gg.full(3, 2.0, device=second), gg.linspace(0, 1, 3, device=second)),
        *(gg.asarray([1.0], device=second), gg.zeros(3).to(second)),
        gg.random.Generator(0, second).uniform(size=4),
        *gg.nonzero(gg.ones(3, device=second)),
    ]
    assert {x.device for x in made} == {second}
    assert gg.unique_values(gg.asarray([2, 1, 2], device=second)).device == second


def test_a_step_stays_on_its_device(second: str) -> None:
    rng = np.random.default_rng(0)
    x = gg.asarray(rng.standard_normal((6, 4), np.float32), device=second)
    labels = gg.asarray(rng.integers(0, 2, 6), device=second)
    losses = []
    for compiled in (False, True):
        model = gg.nn.MLP([4, 3, 2], generator=gg.random.Generator(0), device=second)
        optimizer = gg.optim.Adam(model, lr=0.1)
        step = training(model, optimizer)
        run = gg.compile(step) if compiled else step
        losses.append([run(x, labels).item() for _ in range(4)])
        assert {p.device for p in model.parameters()} == {second}
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_devices_do_not_mix(second: str) -> None:
    with pytest.raises(gg.errors.DeviceError, match="different devices"):
        gg.ones(2) + gg.ones(2, device=second)
