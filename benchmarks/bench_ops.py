"""The ops people use most, forward and backward, where calls count and where bytes do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import backend

OPS: dict[str, Callable[[Any], Any]] = {
    "add": lambda x: x + x,
    "multiply": lambda x: x * x,
    "multiply by a number": lambda x: x * 1.5,
    "add a row": lambda x: x + x[0],
    "exp": gg.exp,
    "log": lambda x: gg.log(x),
    "tanh": gg.tanh,
    "sigmoid": gg.sigmoid,
    "relu": gg.nn.relu,
    "where": lambda x: gg.where(x > 0.5, x, 0),
    "sum": lambda x: x.sum(),
    "mean of columns": lambda x: x.mean(axis=0),
    "max of rows": lambda x: gg.max(x, axis=1),
    "softmax": gg.nn.softmax,
    "matmul": lambda x: x @ x.T,
    "transpose": lambda x: x.T,
    "slice": lambda x: x[::2],
    "rows by index": lambda x: x[[0, 2, 0]],
    "concat": lambda x: gg.concat([x, x]),
    "cross_entropy": lambda x: gg.nn.cross_entropy(x, np.zeros(len(x), "i8")),
}
SIZES = [(32, 64), (1024, 512)]


def leaf(shape: tuple[int, int], device: str) -> Any:
    values = np.random.default_rng(0).random(shape, "f4")
    return gg.asarray(values, device=device, requires_grad=True)


@pytest.mark.benchmark(group="ops forward")
@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_forward(benchmark: Any, name: str, shape: tuple[int, int], device: str) -> None:
    x, op, wait = leaf(shape, device), OPS[name], backend.get(device).synchronize

    def forward() -> None:
        op(x)
        wait()

    benchmark(forward)


@pytest.mark.benchmark(group="ops backward")
@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_backward(benchmark: Any, name: str, shape: tuple[int, int], device: str) -> None:
    x, op, wait = leaf(shape, device), OPS[name], backend.get(device).synchronize
    y = op(x)
    g = gg.ones_like(y.detach())

    def backward() -> None:
        x.grad = None
        y.backward(g, retain_graph=True)
        wait()

    benchmark(backward)
    assert x.grad.shape == shape
