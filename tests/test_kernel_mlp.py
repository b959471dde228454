"""Layers fused into one launch on CUDA, by the emulator, against NumPy. No GPU is involved."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu.launcher import ORDERS, Emulator, why_unavailable

from gpugrad.backend import launch
from gpugrad.backend.kernels import mlp
from gpugrad.errors import ShapeError

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")

TANH = mlp.Function((), (("add", 0, 1, -1), ("tanh", 2, -1, -1)))
BIAS = mlp.Function((), (("add", 0, 1, -1),))
# acc * (1 - y * y)
TANH_BACKWARD = mlp.Function((1.0,), (("mul", 1, 1, -1), ("sub", 2, 3, -1), ("mul", 0, 4, -1)))


def network(rows: int, widths: list[int]) -> tuple:
    rng = np.random.default_rng([rows, *widths])
    x = rng.standard_normal((rows, widths[0])).astype("f4")
    weights = [(rng.standard_normal((n, k)) / k**0.5).astype("f4") for k, n in pairwise(widths)]
    biases = [rng.standard_normal(n).astype("f4") for n in widths[1:]]
    return x, weights, biases


def by_numpy(x: np.ndarray, weights: list, biases: list) -> list[np.ndarray]:
    """What every layer gives, in float64."""
    ys, y = [], x.astype("f8")
    for w, b in zip(weights, biases, strict=True):
        y = y @ w.T.astype("f8") + b
        y = y if w is weights[-1] else np.tanh(y)
        ys.append(y)
    return ys


def check_forward(
    loader: launch.Loader, rows: int, widths: list[int], exact: bool = True
) -> list[np.ndarray]:
    x, weights, biases = network(rows, widths)
    outs = [np.zeros((rows, n), "f4") for n in widths[1:]]
    plan = mlp.plan(rows, widths, TANH, BIAS, exact=exact)
    plan.launch(loader, x, weights, biases, outs)
    for got, want in zip(outs, by_numpy(x, weights, biases), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 if exact else 1e-2)
    last = [None] * (len(outs) - 1) + [np.zeros_like(outs[-1])]
    plan.launch(loader, x, weights, biases, last)
    np.testing.assert_array_equal(last[-1], outs[-1])
    return outs


def check_backward(loader: launch.Loader, rows: int, widths: list[int]) -> None:
    """Gradients at the layers before the last, each in the place of what the layer gave."""
    x, weights, biases = network(rows, widths)
    ys = by_numpy(x, weights, biases)
    d = np.random.default_rng(1).standard_normal((rows, widths[-1])).astype("f4")
    places = [y.astype("f4") for y in ys[-2::-1]]
    wants, g = [], d.astype("f8")
    for w, y in zip(weights[:0:-1], ys[-2::-1], strict=True):
        g = (g @ w) * (1 - y * y)
        wants.append(g)
    plan = mlp.plan(rows, widths[:0:-1], TANH_BACKWARD, TANH_BACKWARD, forward=False)
    plan.launch(loader, d, weights[:0:-1], places, places)
    for got, want in zip(places, wants, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


WIDTHS = [[3, 1], [64, 64, 64], [5, 33, 17, 2], [100, 128, 65, 10]]


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_mlp_forward(emulator: Emulator, widths: list[int]) -> None:
    check_forward(emulator, 70, widths)


@pytest.mark.parametrize("widths", WIDTHS[1:], ids=str)
def test_mlp_backward(built: Path, widths: list[int]) -> None:
    check_backward(Emulator(built), 150, widths)


def test_mlp_rounded_to_tf32(built: Path) -> None:
    check_forward(Emulator(built), 33, [20, 40, 8], exact=False)


def test_mlp_is_bitwise_repeatable(built: Path) -> None:
    results = {
        tuple(part.tobytes() for part in check_forward(Emulator(built, order=order), 70, WIDTHS[2]))
        for order in ORDERS
    }
    assert len(results) == 1


def test_mlp_of_nothing_and_refusals(built: Path) -> None:
    check_forward(Emulator(built), 0, [3, 4])
    with pytest.raises(ShapeError, match=r"\[mlp\] fused layers are 1..128 wide; got \(4, 129\)"):
        mlp.plan(3, [4, 129], TANH, BIAS)
    with pytest.raises(ShapeError, match="layers are 1"):
        mlp.plan(3, [4, 0], TANH, BIAS)
