"""One training step (forward, backward, SGD) of the eight MLPs, eager and compiled."""

from typing import Any

import numpy as np
import pytest

from gpugrad.bench.contenders.gpugrad import Mlp
from gpugrad.bench.suites import RATES, SUITES, Case
from gpugrad.bench.worker import problem


@pytest.mark.benchmark(group="MLP step")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("case", SUITES["mlp"], ids=lambda case: case.name)
def test_step(benchmark: Any, case: Case, compiled: bool, device: str) -> None:
    settings = {"device": device, "cores": 1, "optimizer": "sgd", "lr": RATES["sgd"]}
    try:
        contender = Mlp(problem(case.data(), **settings), compiled)
    except NotImplementedError as error:
        pytest.skip(str(error))
    benchmark.extra_info["flop"] = case.flop
    sync = getattr(contender, "sync", lambda: None)

    def step() -> None:
        contender.step()
        sync()

    benchmark(step)
    assert np.isfinite(contender.value())
