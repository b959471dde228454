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


def check_backward(loader: launch.Loader, rows: int, widths: list[int]) -> list[np.ndarray]:
    """Gradients at the layers before the last, each in the place of what the layer gave."""
    x, weights, biases = network(rows, widths)
    ys = by_numpy(x, weights, biases)
    d = np.random.default_rng(1).standard_normal((rows, widths[-1])).astype("f4")
    places = [y.astype("f4") for y in ys[-2::-1]]
    wants, g = [], d.astype("f8")
    for w, y in zip(weights[:0:-1], ys[-2::-1], strict=True):
        g = (g @ w) * (1 - y * y)
        wants.append(g)
    totals = [np.full(n, np.nan, "f4") for n in widths[-2:0:-1]]
    function = TANH_BACKWARD
    plan = mlp.plan(rows, widths[:0:-1], function, function, turned=False, columns=False)
    workspace = loader.empty((plan.workspace_bytes,), np.dtype("u1"))
    plan.launch(loader, d, weights[:0:-1], places, places, totals, workspace)
    for got, want, total in zip(places, wants, totals, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
        np.testing.assert_allclose(total, want.sum(0), rtol=0, atol=1e-4)
    return [*places, *totals]


# With how many blocks to fill the device: few are tall, many are low.
SHAPES = [(2, [3, 1]), (2, [64, 64, 64]), (132, [5, 33, 17, 2]), (2, [100, 128, 65, 10])]


@pytest.mark.parametrize(("fill", "widths"), SHAPES, ids=str)
def test_mlp_forward(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, fill: int, widths: list[int]
) -> None:
    monkeypatch.setattr(mlp, "FILL_BLOCKS", fill)
    check_forward(emulator, 70, widths)


@pytest.mark.parametrize(("fill", "widths"), SHAPES[1:], ids=str)
def test_mlp_backward_with_sums(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, fill: int, widths: list[int]
) -> None:
    monkeypatch.setattr(mlp, "FILL_BLOCKS", fill)
    check_backward(emulator, 150, widths)


def test_sums_of_some_layers_and_of_one_block(built: Path) -> None:
    """With weights as a user's own ``x @ w`` has them."""
    for rows in (5, 40):
        x, weights, biases = network(rows, [4, 9, 7, 3])
        outs = [None, None, np.zeros((rows, 3), "f4")]
        totals = [None, np.zeros(7, "f4"), None]
        plan = mlp.plan(rows, [4, 9, 7, 3], TANH, BIAS, turned=False)
        loader = Emulator(built)
        workspace = loader.empty((plan.workspace_bytes,), np.dtype("u1"))
        turned = [np.ascontiguousarray(w.T) for w in weights]
        plan.launch(loader, x, turned, biases, outs, totals, workspace)
        _, second, third = by_numpy(x, weights, biases)
        np.testing.assert_allclose(totals[1], second.sum(0), rtol=0, atol=1e-4)
        np.testing.assert_allclose(outs[2], third, rtol=0, atol=1e-5)


def test_mlp_rounded_to_tf32(built: Path) -> None:
    check_forward(Emulator(built), 33, [20, 40, 8], exact=False)


def test_mlp_is_bitwise_repeatable(built: Path) -> None:
    for check in (check_forward, check_backward):
        results = {
            tuple(part.tobytes() for part in check(Emulator(built, order=order), 70, SHAPES[2][1]))
            for order in ORDERS
        }
        assert len(results) == 1


def test_mlp_of_nothing_and_refusals(built: Path) -> None:
    check_forward(Emulator(built), 0, [3, 4])
    check_backward(Emulator(built), 0, [3, 4, 2])
    rule = r"\[mlp\] at most 64 fused layers, 1..128 wide; got \(4, 129\)"
    with pytest.raises(ShapeError, match=rule):
        mlp.plan(3, [4, 129], TANH, BIAS)
    for widths in ([4, 0], [4] * 66):
        with pytest.raises(ShapeError, match="at most 64"):
            mlp.plan(3, widths, TANH, BIAS)


def test_blocks_fill_a_device_before_they_grow() -> None:
    """A batch of 128 is 8 blocks of the least height, one of 2^18 has the tallest."""
    for widths, rows, want in [([64] * 3, 128, 16), ([64] * 3, 1 << 18, 128), ([65], 1 << 18, 64)]:
        assert mlp.plan(rows, widths, TANH, BIAS).block_rows == want
