"""Layers fused into one launch on CUDA, by the emulator, against NumPy. No GPU is involved."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu.launcher import ORDERS, Emulator, why_unavailable

from gpugrad.backend import launch
from gpugrad.backend.kernels import mlp
from gpugrad.errors import ShapeError

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")


def tanh(dtype: str = "f4") -> mlp.Function:
    lines = (("add", 0, 1, -1), ("tanh", 2, -1, -1))
    return mlp.Function(((dtype, mlp.COLUMNS),), (), lines, ((3, dtype),))


def bias(dtype: str = "f4") -> mlp.Function:
    return mlp.Function(((dtype, mlp.COLUMNS),), (), (("add", 0, 1, -1),), ((2, dtype),))


def tanh_backward(how: str, dtype: str = "f4") -> mlp.Function:
    """acc * (1 - y * y)"""
    lines = (("mul", 1, 1, -1), ("sub", 2, 3, -1), ("mul", 0, 4, -1))
    return mlp.Function(((dtype, how),), (1.0,), lines, ((5, dtype),))


# bfloat16 is rounded to from here, kept as its bits, and good to 2^-8.
ERRORS = {"f4": 1e-5, "tf32": 1e-2, "f2": 1e-2, "B2": 6e-2}


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """As a kernel takes them."""
    if dtype != "B2":
        return values.astype(dtype)
    bits = values.astype("f4").view("u4")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("u2")


def as_floats(values: np.ndarray) -> np.ndarray:
    wide = (values.astype("u4") << 16).view("f4") if values.dtype == "u2" else values
    return wide.astype("f8")


def empty(shape: Any, dtype: str) -> np.ndarray:
    return rounded(np.full(shape, np.nan, "f4"), dtype)


class Network:
    """Numbers of a multi-layer perceptron in ``dtype``, and what it gives in float64."""

    def __init__(self, rows: int, widths: list[int], dtype: str = "f4") -> None:
        rng = np.random.default_rng([rows, *widths])
        self.rows, self.widths, self.dtype = rows, widths, dtype
        self.x = rounded(rng.standard_normal((rows, widths[0])), dtype)
        self.weights = [
            rounded(rng.standard_normal((n, k)) / k**0.5, dtype) for k, n in pairwise(widths)
        ]
        self.biases = [rounded(rng.standard_normal(n), dtype) for n in widths[1:]]
        self.d = rounded(rng.standard_normal((rows, widths[-1])), dtype)
        self.ys = [as_floats(self.x)]
        for w, b in zip(self.weights, self.biases, strict=True):
            y = self.ys[-1] @ as_floats(w).T + as_floats(b)
            self.ys.append(y if w is self.weights[-1] else np.tanh(y))


def check_forward(loader: launch.Loader, net: Network, exact: bool = True) -> list[np.ndarray]:
    dtype, rows = net.dtype, net.rows
    outs = [empty((rows, n), dtype) for n in net.widths[1:]]
    plan = mlp.plan(rows, net.widths, tanh(dtype), bias(dtype), dtype=dtype, exact=exact)
    more = [[b] for b in net.biases]
    plan.launch(loader, net.x, net.weights, more, [[out] for out in outs])
    error = ERRORS[dtype if exact else "tf32"]
    for got, want in zip(outs, net.ys[1:], strict=True):
        np.testing.assert_allclose(as_floats(got), want, rtol=0, atol=error)
    last = [*[None] * (len(outs) - 1), np.zeros_like(outs[-1])]
    plan.launch(loader, net.x, net.weights, more, [[out] for out in last])
    np.testing.assert_array_equal(last[-1], outs[-1])
    return outs


def check_backward(
    loader: launch.Loader, net: Network, *, ends: bool = False, how: str = mlp.MATRIX,
    exact: bool = True, flipped: bool = False,
) -> list[np.ndarray]:  # fmt: skip
    """Gradients at the layers before the last, each in the place of what the layer gave, their
    sums, and with ``ends`` or BELOW those of the weights, in the weights' place.
    """
    dtype, rate, alpha = net.dtype, np.array([0.25]), -2.0
    ys = [rounded(y, dtype) for y in net.ys[-2::-1]]
    weights = [w.copy() for w in net.weights[::-1]]
    gradients: list[mlp.Gradient | None] = []
    wants, g = [], as_floats(net.d)
    for w, y in zip(weights, ys, strict=True):
        below = as_floats(y)
        dw = as_floats(w) - 0.5 * g.T @ below
        g = (g @ as_floats(w)) * (1 - below * below)
        wants.append((g, dw))
        turned = np.ascontiguousarray(w.T) if flipped else w
        gradients.append(mlp.Gradient(y, turned, alpha, rate, True))
    products = weights[:-1]
    places = ys[:-1]
    totals = [empty(y.shape[1], dtype) for y in places]
    with_weights = ends or how == mlp.BELOW
    gradients = gradients[: len(places) + ends] if with_weights else []
    function = tanh_backward(how, dtype)
    plan = mlp.plan(
        *(net.rows, net.widths[::-1] if ends else net.widths[:0:-1], function, function),
        dtype=dtype, turned=False, exact=exact, sums=True, gradients=with_weights,
        flipped=flipped, ends=ends,
    )  # fmt: skip
    more = [[None if how == mlp.BELOW else y] for y in places]
    # Products read their weights where gradients are written, unless those are turned.
    taken = [g.out for g in gradients if g is not None] if with_weights and not flipped else []
    taken = [*taken, *products[len(taken) :]][: len(products)]
    workspace = loader.empty((plan.workspace_bytes,), np.dtype("u1"))
    outs = [[y] for y in places]
    plan.launch(loader, net.d, taken, more, outs, totals, gradients, workspace)
    error = ERRORS[dtype if exact else "tf32"]
    size = max(1.0, net.rows**0.5)
    for place, total, (want, _) in zip(places, totals, wants, strict=False):
        np.testing.assert_allclose(as_floats(place), want, rtol=0, atol=error)
        np.testing.assert_allclose(as_floats(total), want.sum(0), rtol=error, atol=error * size)
    for gradient, (_, want) in zip(gradients, wants, strict=False):
        if gradient is not None:
            got = as_floats(gradient.out)
            want = want.T if flipped else want
            np.testing.assert_allclose(got, want, rtol=error, atol=error * size)
    return [*places, *totals, *[g.out for g in gradients if g is not None]]


# With how many blocks to fill the device: few are tall, many are low.
SHAPES = [(2, [3, 1]), (2, [64, 64, 64]), (132, [5, 33, 17, 2]), (2, [100, 128, 65, 10])]


@pytest.mark.parametrize(("fill", "widths"), SHAPES, ids=str)
def test_mlp_forward(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, fill: int, widths: list[int]
) -> None:
    monkeypatch.setattr(mlp, "FILL_BLOCKS", fill)
    check_forward(emulator, Network(70, widths))


@pytest.mark.parametrize(
    ("fill", "widths", "ends", "how"),
    [
        (2, [64, 64, 64], True, mlp.BELOW),
        (132, [5, 33, 17, 2], False, mlp.BELOW),
        (2, [9, 70, 17, 5], False, mlp.MATRIX),
        (2, [9, 70, 65], True, mlp.BELOW),
    ],
    ids=str,
)
def test_mlp_backward_with_sums(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, fill: int, widths: list[int], ends: bool,
    how: str,
) -> None:  # fmt: skip
    """Blocks with several tiles, or one; the gradients of all weights, of some, of none."""
    monkeypatch.setattr(mlp, "FILL_BLOCKS", fill)
    check_backward(emulator, Network(150, widths), ends=ends, how=how)


@pytest.mark.parametrize("dtype", ["f2", "B2"])
def test_mlp_of_two_bytes(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """Odd widths and rows: half a word at every end."""
    monkeypatch.setattr(mlp, "FILL_BLOCKS", 2)
    for widths in ([5, 33, 17, 3], [9, 97, 12])[: 2 if dtype == "f2" else 1]:
        check_forward(emulator, Network(75, widths, dtype))
        check_backward(emulator, Network(75, widths, dtype), ends=True, how=mlp.BELOW)


def test_gradients_of_turned_weights_of_one_block(built: Path) -> None:
    for rows in (5, 40):
        net = Network(rows, [4, 9, 7, 3])
        check_backward(Emulator(built), net, ends=True, how=mlp.BELOW, flipped=True)
        check_backward(Emulator(built), net, ends=True)


def test_weights_as_a_user_has_them_and_sums_of_some_layers(built: Path) -> None:
    """``x @ w``; a layer that keeps two values and takes a mask of bools."""
    net = Network(40, [4, 9, 7])
    mask = np.random.default_rng(0).random((40, 9)) < 0.5
    lines = (("add", 0, 1, -1), ("tanh", 3, -1, -1), ("where", 2, 4, 3))
    masked = mlp.Function(
        (("f4", mlp.COLUMNS), ("b1", mlp.MATRIX)), (), lines, ((5, "f4"), (4, "f4"))
    )
    outs = [np.zeros((40, 9), "f4"), np.zeros((40, 9), "f4")]
    plan = mlp.plan(40, net.widths, masked, bias(), turned=False, sums=True)
    total, loader = np.zeros(9, "f4"), Emulator(built)
    workspace = loader.empty((plan.workspace_bytes,), np.dtype("u1"))
    turned = [np.ascontiguousarray(w.T) for w in net.weights]
    more = [[net.biases[0], mask], [net.biases[1]]]
    last = np.zeros((40, 7), "f4")
    plan.launch(loader, net.x, turned, more, [outs, [last]], [total, None], (), workspace)
    y = net.ys[1]
    z = np.where(mask, y, np.arctanh(y))
    for got, want in [(outs[0], z), (outs[1], y), (total, z.sum(0))]:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    want = z @ net.weights[1].T + net.biases[1]
    np.testing.assert_allclose(last, want, rtol=1e-4, atol=1e-4)


def test_mlp_rounded_to_tf32(built: Path) -> None:
    net = Network(33, [20, 40, 8])
    check_forward(Emulator(built), net, exact=False)
    check_backward(Emulator(built), net, exact=False, ends=True)


def test_mlp_is_bitwise_repeatable(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "FILL_BLOCKS", 2)
    for check, options in [(check_forward, {}), (check_backward, {"ends": True, "how": mlp.BELOW})]:
        results = set()
        for order in ORDERS:
            parts = check(Emulator(built, order=order), Network(70, SHAPES[2][1]), **options)
            results.add(tuple(part.tobytes() for part in parts))
        assert len(results) == 1


def test_mlp_of_nothing_and_refusals(built: Path) -> None:
    check_forward(Emulator(built), Network(0, [3, 4]))
    check_backward(Emulator(built), Network(0, [3, 4, 2]), ends=True)
    rule = r"\[mlp\] at most 64 fused layers, 1..128 wide; got \(4, 129\)"
    with pytest.raises(ShapeError, match=rule):
        mlp.plan(3, [4, 129], tanh(), bias())
    for widths in ([4, 0], [4] * 66):
        with pytest.raises(ShapeError, match="at most 64"):
            mlp.plan(3, widths, tanh(), bias())
    with pytest.raises(ShapeError, match="at most 2 summed layers"):
        mlp.plan(3, [65] * 4, tanh(), bias(), gradients=True)
    many = mlp.Function((("f4", mlp.MATRIX),) * 4, (), (), ((0, "f4"),))
    with pytest.raises(ShapeError, match="a layer takes 3 and keeps 3 matrices; got 4 and 1"):
        mlp.plan(3, [4, 4], tanh(), many)


def test_blocks_fill_a_device_before_they_grow() -> None:
    """A batch of 128 is 8 blocks of the least height, one of 2^18 has the tallest."""
    for widths, rows, want in [([64] * 3, 128, 16), ([64] * 3, 1 << 18, 128), ([65], 1 << 18, 64)]:
        assert mlp.plan(rows, widths, tanh(), bias()).shape.rows == want
    for rows, want in [(128, (32, 4)), (1 << 18, (64, mlp.FILL_BLOCKS))]:
        plan = mlp.plan(rows, [64, 64], tanh(), bias(), gradients=True)
        assert (plan.shape.rows, plan.blocks) == want
    # What one launch is given fits its parameters.
    most = mlp.Function((("f4", mlp.MATRIX),) * 3, (), (), ((0, "f4"),) * 3)
    shape = mlp.plan(1, [1] * 65, most, most).shape
    assert mlp.net_dtype(shape).itemsize <= 4000
    shape = mlp.plan(1, [1] * 6, most, most, sums=True).shape
    assert mlp.net_dtype(shape).itemsize + mlp.sums_dtype(shape).itemsize <= 4000
