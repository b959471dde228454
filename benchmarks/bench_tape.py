"""What the tape costs. Run: pytest benchmarks --benchmark-enable"""

from typing import Any

import numpy as np
import pytest

import gpugrad as gg

STEPS = 100


def chain(x: Any) -> Any:
    """The chain of `gpugrad bench --suite tape`: 2·STEPS ops on ten values."""
    y = x
    for _ in range(STEPS):
        y = gg.tanh(y * 1.01)
    return y


@pytest.mark.benchmark(group="tape: 200 ops on 10 values")
def test_chain_forward(benchmark: Any) -> None:
    benchmark.extra_info["ops"] = 2 * STEPS
    x = gg.ones(10)
    benchmark(chain, x)


@pytest.mark.benchmark(group="tape: 200 ops on 10 values")
def test_chain_forward_backward(benchmark: Any) -> None:
    benchmark.extra_info["ops"] = 2 * STEPS
    x = gg.asarray(np.ones(10, "f4"), requires_grad=True)

    def both() -> None:
        chain(x).sum().backward()

    benchmark(both)
    assert x.grad is not None


@pytest.mark.benchmark(group="500 tracked writes and reads of one tensor, forward + backward")
@pytest.mark.parametrize("n", [10**3, 10**6])
@pytest.mark.parametrize("what", ["x[i] = v", "x[i + 1] = sin(x[i])"])
def test_loop_of_writes(benchmark: Any, n: int, what: str) -> None:
    """The time is that of 500 steps, whatever the size of x."""
    v = gg.asarray(0.5, requires_grad=True)

    def both() -> None:
        x = gg.zeros(n)
        x[0] = v
        for i in range(500):
            x[i + 1] = v if what == "x[i] = v" else gg.sin(x[i])
        x[:501].sum().backward()

    benchmark(both)
    assert v.grad is not None
