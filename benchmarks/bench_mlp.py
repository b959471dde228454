"""One eager training step (forward, backward, SGD) of the eight shapes. Synchronous on a CPU.

Run: pytest benchmarks --benchmark-enable
"""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import gpugrad as gg

SHAPES = [
    (32, [2, 16, 16, 2]),
    (32, [64, 64, 64, 10]),
    (128, [64, 128, 128, 10]),
    (128, [784, 128, 10]),
    (128, [784, 512, 512, 10]),
    (1024, [784, 512, 512, 10]),
    (256, [1024, 2048, 2048, 1024, 10]),
    (16384, [64, 64, 64, 64, 64, 10]),
]


@pytest.mark.benchmark(group="MLP step, eager")
@pytest.mark.parametrize(("batch", "sizes"), SHAPES, ids=str)
def test_step(benchmark: Any, batch: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(0)
    x = gg.asarray(rng.standard_normal((batch, sizes[0]), "f4"))
    y = gg.asarray(rng.integers(0, sizes[-1], batch))
    model = gg.nn.MLP(sizes)
    optimizer = gg.optim.SGD(model, lr=0.1)
    work = sum(a * b for a, b in pairwise(sizes))
    benchmark.extra_info["flop"] = 6 * batch * work - 2 * batch * sizes[0] * sizes[1]

    def step() -> Any:
        loss = gg.nn.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    assert np.isfinite(benchmark(step).item())
