"""What broke in other libraries and cost people days: each case by name, with its issue.

The last test lets Hypothesis write small programs and compares reverse, forward and numerical
derivatives of each.
"""

import inspect
import math
import operator
import os
import re
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import gpugrad as gg
from gpugrad.errors import BoundsError, DtypeError, GpugradError, GradientError, ShapeError


def leaf(value, dtype=None):
    return gg.asarray(value, dtype=dtype, requires_grad=True)


def reverse(f, x):
    """Gradient of Σf at the array x, as a list; overflow in the forward pass is not the subject."""
    with np.errstate(all="ignore"):
        return gg.grad(lambda t: gg.sum(f(t)))(np.asarray(x)).tolist()


def forward(f, x, dx=1.0):
    x = np.asarray(x)
    return gg.jvp(f, (x,), (np.full_like(x, dx),))[1].tolist()


# NaN through the unselected side of where (pytorch #52248, jax #347, tinygrad #12409)

BRANCHES = {
    "sqrt": (lambda x: gg.where(x > 0, gg.sqrt(x), 0.0), [0.0, -1.0, 4.0], [0, 0, 0.25]),
    "log": (lambda x: gg.where(x > 0, gg.log(x), 0.0), [0.0, -1.0, 4.0], [0, 0, 0.25]),
    "1/x": (lambda x: gg.where(x != 0, 1 / x, 0.0), [0.0, 2.0], [0, -0.25]),
    "sin(x)/x": (lambda x: gg.where(x != 0, gg.sin(x) / x, 1.0), [0.0, math.pi], [0, -1 / math.pi]),
    "x**0.5": (lambda x: gg.where(x > 0, x**0.5, 0.0), [0.0, 4.0], [0, 0.25]),
    "asin": (lambda x: gg.where(abs(x) < 1, gg.asin(x), 0.0), [1.0, 2.0, 0.0], [0, 0, 1]),
    "other side": (lambda x: gg.where(x <= 0, 0.0, gg.sqrt(x)), [0.0, 4.0], [0, 0.25]),
    "norm": (lambda x: gg.where(x > 0, gg.norm(x * 0) + x, 0.0), [0.0, 4.0], [0, 1]),
    "chain": (lambda x: gg.where(x > 0, gg.log(gg.sqrt(x)), 0.0), [0.0, 4.0], [0, 0.125]),
}
OVERFLOWS = {
    "x·log x": (lambda x: gg.where(x > 0, x * gg.log(x), 0.0), [0.0, 1.0], [0, 1]),
    "exp": (lambda x: gg.where(x < 100, gg.exp(x), 0.0), [1000.0, 0.0], [0, 1]),
    "sinh": (lambda x: gg.where(x < 100, gg.sinh(x), 0.0), [1000.0, 0.0], [0, 1]),
    "square": (lambda x: gg.where(x < 1e200, x * x, 0.0), [1e308, 2.0], [0, 4]),
    "product": (lambda x: gg.where(x > 0, x / x, 0.0), [0.0, 4.0], [0, 0]),
}


@pytest.mark.parametrize(("f", "x", "want"), BRANCHES.values(), ids=BRANCHES)
def test_where_keeps_nan_out_of_the_gradient(f, x, want):
    np.testing.assert_allclose(reverse(f, x), want, rtol=1e-12)


@pytest.mark.parametrize(("f", "x", "want"), OVERFLOWS.values(), ids=OVERFLOWS)
def test_where_keeps_overflow_out_of_the_gradient(f, x, want):
    np.testing.assert_allclose(reverse(f, x), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("f", "x", "want"), OVERFLOWS.values(), ids=OVERFLOWS)
def test_where_keeps_overflow_out_of_the_tangent(f, x, want):
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(forward(f, x), want, rtol=1e-12, atol=1e-12)


def test_where_guards_x_log_x_at_zero():
    """Value, first and second derivative, each in both modes: log x + 1 and 1/x, and 0 at 0."""

    def f(x):
        return gg.where(x > 0, x * gg.log(x), 0.0)

    x, slopes, bends = [0.0, 1.0, 2.0], [0, 1, math.log(2) + 1], [0, 1, 0.5]
    g = gg.grad(lambda x: gg.sum(f(x)))
    with np.errstate(all="ignore"):
        assert f(gg.asarray(x, dtype=gg.float64)).tolist() == [0, 0, 2 * math.log(2)]
        np.testing.assert_allclose(reverse(f, x), slopes, rtol=1e-12)
        np.testing.assert_allclose(forward(f, x), slopes, rtol=1e-12)
        np.testing.assert_allclose(reverse(g, x), bends, rtol=1e-12)
        np.testing.assert_allclose(forward(g, x), bends, rtol=1e-12)


@pytest.mark.parametrize(("f", "x", "want"), BRANCHES.values(), ids=BRANCHES)
def test_where_keeps_nan_out_of_the_tangent(f, x, want):
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(forward(f, x), want, rtol=1e-12)


def test_tangents_warn_no_more_than_values():
    """√0 is 0 without a warning; its infinite slope is no reason to warn either, as in reverse."""
    assert reverse(gg.sqrt, [0.0, 4.0]) == [math.inf, 0.25]
    assert forward(gg.sqrt, [0.0, 4.0]) == [math.inf, 0.25]


def test_where_second_derivative():
    def f(x):
        return gg.where(x > 0, gg.sqrt(x), 0.0) * x

    with np.errstate(all="ignore"):
        twice = gg.grad(lambda x: gg.sum(gg.grad(lambda x: gg.sum(f(x)))(x)))(np.array([0.0, 1.0]))
    assert twice.tolist() == [0, 0.75]


# norm and sqrt at 0 (autograd #151, pytorch PR #2775)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1,)])
@pytest.mark.parametrize("f", [gg.norm, gg.std], ids=["norm", "std"])
def test_norm_at_zero(f, shape):
    zeros = np.zeros(shape)
    assert not np.any(reverse(f, zeros))
    assert forward(f, zeros) == 0
    assert reverse(lambda x: f(x, axis=-1), zeros) == zeros.tolist()
    second = gg.grad(lambda x: gg.sum(gg.grad(lambda x: gg.sum(f(x)))(x)))(zeros)
    assert np.isfinite(second).all()


def test_singular_points_have_their_limits():
    """Where a one-sided limit exists it is the answer: infinity, never NaN."""
    for f, want in [
        (gg.sqrt, math.inf),
        (gg.log, math.inf),
        (lambda x: x**0.5, math.inf),
        (gg.reciprocal, -math.inf),
        (lambda x: x**2, 0),
        (lambda x: x**1, 1),
        (lambda x: x**0, 0),
        (abs, 0),
        (lambda x: gg.hypot(x, x), 0),
        (gg.nn.relu, 0),
    ]:
        assert reverse(f, [0.0]) == [want]


def test_slope_of_a_division_by_a_python_zero():
    assert reverse(lambda x: x / 0.0, [1.0]) == reverse(lambda x: x / np.zeros(1), [1.0])
    assert reverse(lambda x: x / 0, [1.0]) == [math.inf]


def test_pow_at_zero_exponent_and_base():
    x, p = np.array([0.0, 0.0, 2.0, 0.0]), np.array([0.0, 2.0, 0.0, 1.0])
    dx, dp = gg.grad(lambda x, p: gg.sum(x**p), (0, 1))(x, p)
    assert dx.tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(dp, [0, 0, math.log(2), 0])


def test_pow_at_exponent_zero_has_its_mixed_derivative():
    """∂²aᵇ/∂a∂b at b = 0 is 1/a; PyTorch has 0."""
    gg.testing.gradcheck(lambda a, b: a**b, [np.array([2.0, 0.5]), np.zeros(2)])


def test_pow_at_base_zero_is_finite_at_any_order():
    def f(a, b):
        return gg.sum(a**b)

    x, ones = (np.zeros(4), np.array([0.0, 1.0, 2.0, 3.0])), np.ones(4)
    slopes = gg.grad(f, (0, 1))(*x)
    bends = gg.hvp(f, x, (ones, ones))
    assert [g.tolist() for g in slopes] == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert [h.tolist() for h in bends] == [[0, 0, 2, 0], [0, 0, 0, 0]]


def test_pow_of_negative_numbers_in_its_exponent():
    """(−2)² is 4 and (−2)^2.1 is nothing: an error, but where no one looks."""

    def f(p, guard):
        y = x**p
        return gg.sum(gg.where(x > 0, y, 0.0) if guard else y)

    x, p, dp = np.array([-2.0, 2.0]), np.array([2.0, 2.0]), np.ones(2)
    with pytest.raises(GradientError, match=r"\[pow\] a power of a negative number.*try abs"):
        gg.grad(f)(p, False)
    want = 4 * math.log(2)
    np.testing.assert_allclose(gg.grad(f)(p, True), [0, want])
    np.testing.assert_allclose(gg.jvp(lambda p: f(p, True), (p,), (dp,))[1], want)
    np.testing.assert_allclose(
        gg.hvp(lambda p: f(p, True), (p,), (dp,))[0], [0, want * math.log(2)]
    )


# Ties in max: Theano #4568, Chainer; split evenly (pytorch PR #155071)


@pytest.mark.parametrize("f", [gg.max, gg.min], ids=["max", "min"])
def test_ties_share_evenly(f):
    assert reverse(f, [2.0, 2.0, 2.0, 2.0]) == [0.25] * 4
    assert reverse(lambda x: f(x, axis=0), [[1.0, 2.0], [1.0, 2.0]]) == [[0.5, 0.5], [0.5, 0.5]]
    assert forward(f, [2.0, 2.0]) == 1
    got = gg.jvp(f, (np.array([2.0, 2.0]),), (np.array([1.0, 0.0]),))[1]
    assert got == 0.5


def test_ties_between_two_tensors():
    a, b = leaf([1.0, 2.0, 3.0]), leaf([1.0, 5.0, 0.0])
    gg.maximum(a, b).sum().backward()
    assert (a.grad.tolist(), b.grad.tolist()) == ([0.5, 0, 1], [0.5, 1, 0])
    assert reverse(lambda x: gg.maximum(x, x), [1.0]) == [1]
    assert reverse(lambda x: gg.clip(x, 0.0, 1.0), [-1.0, 0.0, 0.5, 1.0, 2.0]) == [0, 1, 1, 1, 0]


def test_max_of_infinities():
    assert reverse(gg.max, [-math.inf, -math.inf]) == [0.5, 0.5]
    assert reverse(gg.max, [math.inf, 0.0]) == [1, 0]


# Sigmoid, log-sigmoid, softmax and log-softmax far out (pytorch #1835, snntorch PR #433)

STEEP = ["sigmoid", "tanh", "softplus", "silu", "elu", "gelu", "softmax", "log_softmax"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in STEEP for dtype in ("float16", "float32", "float64")],
)
def test_activations_far_out(name, dtype):
    """Finite values and derivatives, no warning: warnings are errors here."""
    f = getattr(gg.nn, name)
    x = np.array([1e4, -1e4, 0.0, 500.0, -500.0], dtype)
    assert np.isfinite(f(gg.asarray(x)).tolist()).all()
    weights = np.array([0, 0.125, 0.25, 0.5, 1], dtype)
    g = gg.grad(lambda t: gg.sum(f(t) * weights))(x)
    assert g.dtype == dtype
    assert np.isfinite(g).all()
    y, dy = gg.jvp(f, (x,), (np.ones(5, dtype),))
    assert np.isfinite(y).all()
    assert np.isfinite(dy).all()
    assert y.dtype == dy.dtype == dtype


def test_exact_values_far_out(device):
    x = leaf([1e4, -1e4])
    gg.sigmoid(x).sum().backward()
    assert gg.sigmoid(x).tolist() == [1, 0]
    assert x.grad.tolist() == [0, 0]
    assert (-gg.nn.softplus(-x)).tolist() == [0, -1e4]  # log σ(x)
    assert gg.nn.log_softmax(x).tolist() == [0, -2e4]
    assert gg.logsumexp(x).item() == 1e4
    assert gg.logsumexp(gg.asarray([-math.inf, -math.inf])).item() == -math.inf
    assert gg.logaddexp(x, -x).tolist() == [1e4, 1e4]


@pytest.mark.parametrize("sign", [1, -1])
def test_losses_far_out(sign, device):
    z = leaf(sign * np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32))
    loss = gg.nn.cross_entropy(z, np.array([0, 1]))
    loss.backward()
    assert loss.item() == (0 if sign == 1 else 2e4)
    assert np.isfinite(z.grad.tolist()).all()
    z.grad = None
    loss = gg.nn.bce_with_logits(z, np.eye(2, dtype=np.float32))
    loss.backward()
    assert loss.item() == (0 if sign == 1 else 1e4)
    assert np.isfinite(z.grad.tolist()).all()


# float16 reductions accumulate in float32 (chainer #6702, #7681)


def half(*shape, value=1.0):
    return gg.asarray(np.full(shape, value, np.float16))


def test_half_sums(device):
    assert gg.sum(half(4096)).item() == 4096  # a float16 running sum stops at 2048
    assert gg.sum(half(2, 4096), axis=1).tolist() == [4096, 4096]
    assert gg.mean(half(100_000, value=2.0)).item() == 2
    assert gg.matmul(half(1, 4096), half(4096, 1)).item() == 4096
    assert gg.norm(half(3, value=300.0)).item() == pytest.approx(519.6, abs=0.3)
    assert gg.prod(gg.asarray(np.array([300, 300, 0.001], np.float16))).item() == pytest.approx(
        90, 1e-2
    )
    assert gg.std(half(4096)).item() == 0
    for f in (gg.sum, gg.mean, gg.norm, gg.prod, gg.logsumexp, gg.var):
        assert f(half(3)).dtype == gg.float16


def test_half_broadcast_gradient(device):
    """Undoing a broadcast is a sum too."""
    b = leaf(np.zeros(1, np.float16))
    (half(4096, 1) + b).sum().backward()
    assert b.grad.tolist() == [4096]


def test_half_running_sum():
    assert gg.cumulative_sum(half(4096))[-1].item() == 4096


def test_half_gradient_of_repeated_indices():
    x = leaf(np.ones(1, np.float16))
    x[np.zeros(4096, int)].sum().backward()
    assert x.grad.tolist() == [4096]


def test_half_logsumexp_of_many():
    assert gg.logsumexp(half(70_000, value=0.0)).item() == pytest.approx(math.log(70_000), abs=0.01)


def test_half_mean_gradient_of_many():
    g = gg.grad(gg.mean)(half(70_000))
    assert g[0].item() == pytest.approx(1 / 70_000, rel=0.05)


# Dtype drift: float32 in, float64 gradient out (autograd #163, #671)

DRIFTERS = {
    "scalar": lambda x: x * 0.5 + 1,
    "power": lambda x: x**2 + 2.0**x,
    "mean": lambda x: gg.mean(x),
    "var": lambda x: gg.var(x, correction=1) + gg.std(x),
    "where": lambda x: gg.where(x > 0, x, 0.0),
    "clip": lambda x: gg.clip(x, 0.1, 0.9),
    "index": lambda x: x[[0, 0, 1]],
    "loss": lambda x: gg.nn.mse(x, np.zeros(3)),
    "cross entropy": lambda x: gg.nn.cross_entropy(x.reshape(1, 3), [0]),
    "normalise": lambda x: (x - gg.mean(x)) / (gg.std(x) + 1e-5),
    "prod": lambda x: gg.prod(x),
    "stack": lambda x: gg.stack([x, x * 2]),
    "cumsum": lambda x: gg.cumulative_sum(x, include_initial=True),
    "zeros": lambda x: x + gg.zeros(3),
    "ufunc": lambda x: np.exp(x) * np.float32(2),
}


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_what_has_no_result_raises_on_every_device(batch: tuple[int, ...], device: str) -> None:
    """cuSOLVER leaves the numbers it had got to, and CuPy returns them."""
    x = gg.asarray(np.broadcast_to(np.array([[1.0, 2.0], [2.0, 1.0]]), (*batch, 2, 2)))
    with pytest.raises(gg.errors.LinAlgError, match="not positive definite"):
        gg.linalg.cholesky(x)
    for name, args in {"inv": (x * 0,), "solve": (x * 0, x)}.items():
        with pytest.raises(gg.errors.LinAlgError, match="singular"):
            getattr(gg.linalg, name)(*args)


@pytest.mark.parametrize("f", DRIFTERS.values(), ids=DRIFTERS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_no_dtype_drift(f, dtype, device):
    x = leaf(np.array([0.2, 0.5, 0.7], dtype))
    x_plain = x.detach()
    if dtype == "float16" and f in (DRIFTERS["zeros"], DRIFTERS["ufunc"]):
        dtype_out = "float32"  # a float32 array joins in
    else:
        dtype_out = dtype
    y = f(x)
    assert y.dtype == dtype_out
    y.sum().backward()
    assert x.grad.dtype == dtype
    second = gg.grad(lambda x: gg.sum(gg.grad(lambda x: gg.sum(f(x)))(x)))(x_plain)
    assert second.dtype == dtype


@pytest.mark.parametrize("name", [*DRIFTERS, "wide", "cast"])
def test_tangents_have_the_dtype_of_their_values(name):
    """float32 throughout, and float64 where a float64 array joins in; "zeros" mixes halves."""
    wider = {"wide": lambda x: x + np.ones(3), "cast": lambda x: x.astype(gg.float64)}
    f = (DRIFTERS | wider)[name]
    x = np.array([0.2, 0.5, 0.7], np.float16 if name == "zeros" else np.float32)
    y, dy = gg.jvp(f, (x,), (np.ones_like(x),))
    assert dy.dtype == y.dtype


# Integer leaves must raise: tests/test_tensor.py has asarray, test_transforms.py the transforms


def test_integer_parameters_raise(device):
    with pytest.raises(DtypeError, match=r"only floating.*int64; try x.astype\(gg.float32\)"):
        leaf([1, 2, 3])
    with pytest.raises(DtypeError, match="mean of integers"):
        gg.mean(gg.arange(3))


# Zero-size and 0-d (pytorch #15223, #31515, #82644)

ANY_SHAPE = {
    "exp": gg.exp,
    "sum": gg.sum,
    "sum 0": lambda x: gg.sum(x, axis=0) if x.ndim else x * 1,
    "norm": gg.norm,
    "prod": gg.prod,
    "reshape": lambda x: x.reshape(-1),
    "where": lambda x: gg.where(x > 0, x, -x),
    "flip": gg.flip,
    "ellipsis": lambda x: x[...],
    "new axis": lambda x: x[None],
    "mask": lambda x: x[x > 0],
    "stack": lambda x: gg.stack([x, x]),
    "clip": lambda x: gg.clip(x, 0, 1),
    "sigmoid": gg.sigmoid,
    "roll": lambda x: gg.roll(x, 1),
}


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (2, 0, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("f", ANY_SHAPE.values(), ids=ANY_SHAPE)
def test_zero_size_and_0d(f, shape, device):
    x = leaf(np.full(shape, 0.5))
    f(x).sum().backward()
    assert x.grad.shape == shape
    y, dy = gg.jvp(f, (x.detach(),), (gg.ones_like(x),))
    assert isinstance(y, gg.Tensor)
    assert y.shape == dy.shape
    assert gg.grad(lambda x: gg.sum(f(x)))(x.detach()).shape == shape


@pytest.mark.parametrize("f", [gg.max, gg.min, gg.argmax, gg.argmin, gg.logsumexp])
def test_nothing_has_no_extreme(f, device):
    with pytest.raises(ShapeError, match="empty axis"):
        f(gg.zeros((0,)))
    with pytest.raises(ShapeError, match="empty axis"):
        f(gg.zeros((3, 0)), axis=1)
    assert f(gg.zeros((3, 0)), axis=0).shape == (0,)


@pytest.mark.parametrize("f", [gg.mean, gg.var, gg.std])
def test_mean_of_nothing_is_nan(f):
    """As the array API has it, and without a warning: warnings are errors here."""
    assert math.isnan(f(gg.zeros((0,))).item())
    rows = f(gg.zeros((3, 0)), axis=1)
    assert rows.shape == (3,)
    assert np.isnan(rows.tolist()).all()
    assert f(gg.zeros((3, 0)), axis=0).shape == (0,)
    assert gg.grad(f)(np.zeros(0)).shape == (0,)
    value, tangent = gg.jvp(f, (np.zeros(0),), (np.zeros(0),))
    assert math.isnan(value)
    assert math.isnan(tangent)


def test_empty_batches(device):
    model = gg.nn.MLP([3, 4, 2])
    out = model(np.zeros((0, 3), np.float32))
    assert out.shape == (0, 2)
    gg.nn.cross_entropy(out, np.zeros(0, int), "sum").backward()
    assert not any(np.any(p.grad.tolist()) for p in model.parameters())
    for loss, target in [(gg.nn.cross_entropy, np.zeros(0, int)), (gg.nn.mse, np.zeros((0, 2)))]:
        with pytest.raises(ShapeError, match="mean of no rows"):
            loss(model(np.zeros((0, 3), np.float32)), target)


def test_write_to_0d():
    def f(x):
        y = x * 1
        y[...] = gg.sin(x)
        return y * y

    assert gg.grad(f)(2.0) == pytest.approx(math.sin(4.0))


# Bad indices and labels (pytorch #43840); tests/test_tensor.py has more of the indices


def test_bad_indices(device):
    for x in (gg.ones((2, 3)), leaf(np.ones((2, 3)))):
        for index in (2, -3, (0, 3), ([0, 2],), (slice(None), [-4])):
            with pytest.raises(BoundsError):
                x[index]
        with pytest.raises(BoundsError):
            gg.take(x, [3], axis=1)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [0, 10**9]])
def test_bad_labels(labels, device):
    with pytest.raises(BoundsError, match=r"\[cross_entropy\].*outside 0..2; got .*; try"):
        gg.nn.cross_entropy(leaf(np.ones((2, 3))), np.array(labels))


@pytest.mark.parametrize("labels", [[0.0, 1.0], [True, False]])
def test_labels_are_integers(labels, device):
    with pytest.raises(DtypeError, match=r"\[cross_entropy\] labels are integers"):
        gg.nn.cross_entropy(gg.ones((2, 3)), np.array(labels))


# Duplicates in index assignment


def test_duplicate_reads_add_up(device):
    x = leaf([1.0, 2.0])
    (x[[0, 0, 1, 0]] * gg.asarray([1.0, 10.0, 5.0, 100.0])).sum().backward()
    assert x.grad.tolist() == [111, 5]


@pytest.mark.parametrize("value", [2.0, [2.0, 2.0, 3.0]], ids=["broadcast", "array"])
def test_duplicate_writes_count_once(value):
    """x[[0, 0, 1]] = v writes x[0] once; reverse mode must agree with forward mode."""

    def f(v):
        x = gg.zeros(2, dtype=gg.float64)
        x[[0, 0, 1]] = v
        return gg.sum(x)

    v = np.array(value)
    directional = gg.jvp(f, (v,), (np.ones_like(v),))[1]
    assert directional == 2
    assert np.sum(gg.grad(f)(v)) == directional


def test_last_duplicate_has_the_gradient():
    """x[[0, 0]] = v: v[1] stays, so v[0] has no part in the result."""

    def f(v):
        x = gg.zeros(2, dtype=gg.float64)
        x[[0, 0]] = v
        return x

    v, dv, g = np.array([2.0, 3.0]), np.array([1.0, 10.0]), np.array([5.0, 7.0])
    y, dy = gg.jvp(f, (v,), (dv,))
    assert (y.tolist(), dy.tolist()) == ([3, 0], [10, 0])
    assert gg.vjp(f, v)[1](g)[0].tolist() == [0, 5]
    assert gg.vjp(f, 2.0)[1](g) == (5.0,)
    x, v = leaf([1.0, 1.0]), leaf([2.0, 3.0])
    y = x * 1
    y[[0, 0]] = v
    (y * y).sum().backward()
    assert (x.grad.tolist(), v.grad.tolist()) == ([0, 2], [0, 6])


# (N, 1) against (N,) in a loss (pytorch #16045, #19699)

LOSSES = [getattr(gg.nn, n) for n in ("mse", "l1", "huber", "bce_with_logits") if hasattr(gg.nn, n)]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("a", "b"), [((4, 1), (4,)), ((4,), (4, 1)), ((4,), ()), ((2, 3), (3,)), ((1, 3), (2, 3))]
)
def test_mixed_shapes_in_losses(loss, a, b, device):
    with pytest.raises(ShapeError, match=rf"\[{loss.__name__}\].*prediction: .*target: .*; try"):
        loss(leaf(np.zeros(a)), np.zeros(b))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [((4, 3), (4, 1)), ((4, 3), (3,)), ((4, 3), (4, 3)), ((3,), ()), ((2, 4, 3), (2, 4))],
)
def test_mixed_shapes_in_cross_entropy(logits, labels, device):
    with pytest.raises(ShapeError, match=r"\[cross_entropy\].*; try"):
        gg.nn.cross_entropy(leaf(np.zeros(logits)), np.zeros(labels, int))


# Untracked ops: plain NumPy ran, the gradient is silently zero (autograd #8, #423)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: gg.sum(gg.asarray(np.array([x[0], x[1]]))),
        lambda x: gg.sum(gg.asarray(np.add.reduceat(x, [0, 1]))),
        lambda x: gg.sum(x * [x[0], x[1]]),
        lambda x: gg.sum(gg.asarray(np.maximum.accumulate(x))),
        lambda x: gg.sum(gg.asarray(np.vectorize(abs)(x))),
        lambda x: gg.asarray(x.numpy()).sum(),
        lambda x: gg.from_dlpack(np.from_dlpack(x)).sum(),
    ],
)
def test_leaving_the_tape_raises(f):
    """With reverse and with forward mode watching."""
    x = np.array([1.0, 2.0])
    with pytest.raises((GradientError, TypeError)):
        gg.grad(f)(x)
    with pytest.raises((GradientError, TypeError)):
        gg.jvp(f, (x,), (x,))


@pytest.mark.parametrize(
    ("f", "value", "gradient"),
    [
        (lambda x: gg.sum(gg.asarray(np.where(x > 1, x * x, 0))), 4, [0, 4]),
        (lambda x: gg.sum(gg.asarray(np.concatenate([x, x * x]))), 8, [3, 5]),
        (lambda x: gg.sum(gg.asarray(np.stack([x, x * x]))), 8, [3, 5]),
        (lambda x: gg.sum(gg.asarray(np.cumsum(x))), 4, [2, 1]),
        (lambda x: gg.sum(gg.asarray(np.clip(x, 0, 1.5))), 2.5, [1, 0]),
        (lambda x: gg.asarray(np.dot(x, x)), 5, [2, 4]),
        (lambda x: np.sum(x) * np.max(x), 6, [2, 5]),
    ],
)
def test_numpy_functions_keep_the_derivative(f, value, gradient):
    x, dx = np.array([1.0, 2.0]), np.array([1.0, 10.0])
    got, g = gg.value_and_grad(f)(x)
    assert (got, g.tolist()) == (value, gradient)
    assert gg.jvp(f, (x,), (dx,)) == (value, np.dot(gradient, dx))


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_python_numbers_out_of_a_differentiated_tensor_raise(mode):
    """0.14 instead of −2.83 is what math.sin's float(x) would make of it."""

    def f(x):
        return x * math.sin(x)

    with pytest.raises(GradientError, match="try the gg function"):
        gg.grad(f)(3.0) if mode == "reverse" else gg.jvp(f, (3.0,), (1.0,))


# Mutation of saved arrays (MLX: f'(3) = 1 instead of 6); test_tensor.py has the other ways


def test_write_through_a_numpy_view():
    x = leaf([3.0])
    y = x * x
    with pytest.raises(ValueError, match="read-only"):
        x.detach().numpy()[0] = 0.5
    y.sum().backward()
    assert x.grad.tolist() == [6]


# Aliased gradients, second backward, deep graphs, retained graphs, threads, odd strides:
# tests/test_tape.py. An array that its owner changes: tests/test_check.py


# TF32 (pytorch #67384): float32 means float32


def test_products_of_float32_are_float32(device):
    """TF32 keeps 10 bits: sums of 256 products would be off by 1e-2."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 64, 256)).astype(np.float32)
    want = a.astype(np.float64) @ b.T.astype(np.float64)
    for x, y in [(a, b.T), (np.stack([a, a]), b.T)]:
        got = gg.asarray(x) @ gg.asarray(y)
        np.testing.assert_allclose(got.to("cpu").numpy() - want, 0, atol=1e-4)
        x, y = leaf(x), leaf(y)
        (x @ y).sum().backward()
        exact = np.broadcast_to(b.astype(np.float64).sum(0), x.shape)
        np.testing.assert_allclose(x.grad.to("cpu").numpy() - exact, 0, atol=1e-4)


# Fork after CUDA (pytorch #2517, #30900); the native pool after a fork: tests/test_native.py


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_after_use(device):
    """The CPU works in the child. CUDA cannot, and says what to do; only the parent keeps it."""
    x = leaf([1.0, 2.0])
    (x * x).sum().backward()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the threads that a fork leaves
        child = os.fork()
    if child == 0:
        answer = "nothing"
        try:
            answer = str(gg.grad(lambda x: (x * x).sum())(x.detach()).tolist())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, answer.encode())
            os._exit(0)
    os.waitpid(child, 0)
    answer = os.read(reader, 10_000).decode()
    os.close(reader)
    os.close(writer)
    if device == "cpu":
        assert answer == "[2.0, 4.0]"
    else:
        assert re.match(r"DeviceError: \[device\] CUDA does not survive a fork, .*spawn", answer)
    assert gg.grad(lambda x: (x * x).sum())(x.detach()).tolist() == [2, 4]


# Messages: [op] rule; got …; try …

FORM = re.compile(r"^\[[\w+*/@<>|&^%-]+=?\] .+; got .+; try .+", re.DOTALL)


def write(x, index, value):
    x[index] = value


MESSAGES = {
    "matmul": (lambda: gg.ones((2, 3)) @ gg.ones((2, 3)), ShapeError, "matmul"),
    "matmul 0-d": (lambda: gg.ones((2, 3)) @ 2.0, ShapeError, "matmul"),
    "matmul vectors": (lambda: gg.ones(3) @ gg.ones(2), ShapeError, "matmul"),
    "matmul batch": (lambda: gg.ones((2, 3, 4)) @ gg.ones((3, 4, 2)), ShapeError, "matmul"),
    "add": (lambda: gg.ones(2) + gg.ones(3), ShapeError, "add"),
    "add array": (lambda: np.ones(2) + gg.ones(3, device="cpu"), ShapeError, "add"),
    "where": (lambda: gg.where(gg.ones(2) > 0, gg.ones(3), 0.0), ShapeError, "where"),
    "linear": (lambda: gg.nn.linear(gg.ones((2, 3)), gg.ones((4, 4))), ShapeError, "matmul"),
    "bias": (lambda: gg.nn.linear(gg.ones(3), gg.eye(3), gg.ones(4)), ShapeError, "linear"),
    "axis": (lambda: gg.sum(gg.ones(2), axis=2), ShapeError, "sum"),
    "grows": (lambda: operator.iadd(gg.ones(2), gg.ones((2, 2))), ShapeError, r"\+="),
    "reshape": (lambda: gg.ones(6).reshape(4), ShapeError, "reshape"),
    "reshape -1": (lambda: gg.ones(6).reshape(-1, 4), ShapeError, "reshape"),
    "broadcast": (lambda: gg.broadcast_to(gg.ones(3), (2,)), ShapeError, "broadcast_to"),
    "concat": (lambda: gg.concat([gg.ones((2, 2)), gg.ones((3, 3))]), ShapeError, "concat"),
    "concat ndim": (lambda: gg.concat([gg.ones(2), gg.ones((2, 2))]), ShapeError, "concat"),
    "stack": (lambda: gg.stack([gg.ones(2), gg.ones(3)]), ShapeError, "stack"),
    "index": (lambda: gg.ones(3)[5], BoundsError, "index"),
    "too many": (lambda: gg.ones(3)[0, 0], BoundsError, "index"),
    "mask": (lambda: gg.ones(3)[np.array([True, False])], BoundsError, "index"),
    "setitem": (lambda: write(gg.ones(3), 0, gg.ones(2)), ShapeError, "setitem"),
    "changes kind": (lambda: operator.iadd(gg.arange(2), 0.5), DtypeError, r"\+="),
    "string": (lambda: gg.ones(2) + "a", DtypeError, "add"),
    "None": (lambda: gg.ones(2) * None, DtypeError, "multiply"),
    "object": (lambda: object() - gg.ones(2), DtypeError, "subtract"),
    "index type": (lambda: gg.ones(3)["a"], DtypeError, "index"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "op"), MESSAGES.values(), ids=MESSAGES)
def test_messages(call, error, op, device):
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, GpugradError)
    assert re.match(rf"\[{op}\]", str(caught.value))
    assert FORM.match(str(caught.value)), caught.value


@pytest.mark.parametrize(
    ("call", "shapes"),
    [
        (lambda: gg.ones((2, 3)) @ gg.ones((4, 5)), ["(2, 3)", "(4, 5)"]),
        (lambda: gg.ones((2, 3)) + gg.ones(4), ["(2, 3)", "(4,)"]),
        (lambda: gg.ones(6).reshape(4), ["(6,)", "(4,)"]),
        (lambda: gg.broadcast_to(gg.ones(3), (2, 2)), ["(3,)", "(2, 2)"]),
        (lambda: gg.concat([gg.ones((2, 2)), gg.ones((2, 3))]), ["(2, 2)", "(2, 3)"]),
        (lambda: gg.ones((2, 3))[7], ["(2, 3)", "7"]),
    ],
)
def test_messages_show_the_shapes(call, shapes, device):
    with pytest.raises(GpugradError) as caught:
        call()
    assert all(shape in str(caught.value) for shape in shapes), caught.value


@pytest.mark.parametrize("op", [operator.lshift, operator.and_, operator.xor])
def test_bits_of_floats_message(op):
    with pytest.raises(DtypeError, match=r"^\["):
        op(gg.ones(2), 1)


def test_errors_name_themselves_on_the_tape_too(device):
    """The same message whether or not a gradient is recorded, and in forward mode."""
    for x in (gg.ones((2, 3)), leaf(np.ones((2, 3)))):
        with pytest.raises(ShapeError, match=r"\[matmul\]"):
            x @ x
    with pytest.raises(ShapeError, match=r"\[matmul\]"):
        gg.jvp(lambda x: x @ x, (gg.ones((2, 3)),), (gg.ones((2, 3)),))


def test_errors_are_the_built_ins_numpy_users_catch():
    assert issubclass(ShapeError, ValueError)
    assert issubclass(DtypeError, TypeError)
    assert issubclass(BoundsError, IndexError)
    assert issubclass(GradientError, RuntimeError)


# Random programs


class Program:
    """Straight-line code over a pool of tensors; each line reads and writes it by position."""

    def __init__(self, lines):
        self.lines = lines

    def __call__(self, *xs):
        pool = list(xs)
        for (_, f), i, j in self.lines:
            a, b = pool[i % len(pool)], pool[j % len(pool)]
            y = f(a, b)
            if y is not None:
                pool.append(y)
        return sum((gg.mean(gg.sin(x)) for x in pool if x.size), start=gg.asarray(np.float64(0)))

    def __repr__(self):
        return "\n" + "\n".join(f"{name} {i} {j}" for (name, _), i, j in self.lines)


def fits(a, b):
    """Whether b broadcasts to a's shape."""
    try:
        return np.broadcast_shapes(a.shape, b.shape) == a.shape
    except ValueError:
        return False


def both(f):
    return lambda a, b: f(a, b) if fits(a, b) or fits(b, a) else f(a, gg.mean(b))


def product_of(a, b):
    if not (a.ndim and b.ndim) or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        b = b.reshape(-1)[:1] if b.size else gg.ones(1)
        a = a.reshape(-1, 1)
    return a @ b


def add_in_place(a, b):
    a += b if fits(a, b) else gg.mean(b)


def multiply_in_place(a, b):
    a *= gg.tanh(b if fits(a, b) else gg.sum(b))


def write_first(a, b):
    if a.ndim:
        a[0] = gg.mean(b)


def write_slice(a, b):
    if a.ndim:
        a[..., ::2] = a[..., ::2] * gg.mean(b)


def write_mask(a, b):
    if a.ndim:
        a[a > 0] = gg.sin(gg.mean(b))


def write_rows(a, b):
    if a.ndim:
        n = a.shape[0]
        a[[n - 1, 0] if n > 1 else [0]] = gg.mean(b)


LINES = {
    "add": both(operator.add),
    "sub": both(operator.sub),
    "mul": both(operator.mul),
    "div": both(lambda a, b: a / (2 + b * b)),
    "atan2": both(lambda a, b: gg.atan2(a, 3 + b * b)),
    "hypot": both(lambda a, b: gg.hypot(a, 1 + b * b)),
    "where": both(lambda a, b: gg.where(a > b, a * 2, b)),
    "sigmoid": lambda a, b: gg.sigmoid(a),
    "tanh": lambda a, b: gg.tanh(a),
    "exp": lambda a, b: gg.exp(gg.sin(a)),
    "sqrt": lambda a, b: gg.sqrt(1 + a * a),
    "power": lambda a, b: (1 + a * a) ** 1.5,
    "layer": lambda a, b: gg.sigmoid(product_of(a, b) + gg.mean(b)),
    "softmax": lambda a, b: gg.nn.softmax(a.reshape(1, -1)),
    "logsumexp": lambda a, b: gg.logsumexp(a),
    "sum": lambda a, b: gg.sum(a, axis=-1) if a.ndim else gg.sum(a),
    "mean keep": lambda a, b: gg.mean(a, axis=0, keepdims=True) if a.ndim else gg.mean(a),
    "norm": lambda a, b: gg.norm(a),
    "prod": lambda a, b: gg.prod(gg.tanh(a)),
    "cumsum": lambda a, b: gg.cumulative_sum(a.reshape(-1)),
    "flatten": lambda a, b: a.flatten(),
    "turn": lambda a, b: a.transpose(),
    "stack": lambda a, b: gg.stack([a, a * a]),
    "concat": lambda a, b: gg.concat([a.reshape(-1), b.reshape(-1)]),
    "first": lambda a, b: a[0] if a.ndim else a * 1,
    "every other": lambda a, b: a[..., ::-2] if a.ndim else a[None],
    "pick": lambda a, b: a.reshape(-1)[[0, -1, 0]],
    "mask": lambda a, b: gg.sum(a[a > 0]),
    "matmul": product_of,
    "alias": lambda a, b: a,
    "+=": add_in_place,
    "*=": multiply_in_place,
    "[0] =": write_first,
    "[::2] =": write_slice,
    "[mask] =": write_mask,
    "[rows] =": write_rows,
}

programs = st.lists(
    st.tuples(st.sampled_from(list(LINES.items())), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=10,
).map(Program)
shapes = st.sampled_from([(), (1,), (3,), (2, 3), (3, 1), (3, 3), (1, 2, 3)])


@settings(
    max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(program=programs, sizes=st.tuples(shapes, shapes), seed=st.integers(0, 2**16))
def test_random_programs(program, sizes, seed):
    rng = np.random.default_rng(seed)
    xs = [rng.uniform(-1.2, 1.2, size) for size in sizes]
    dxs = [rng.standard_normal(size) for size in sizes]
    grads = gg.grad(program, (0, 1))(*xs)
    reverse = sum(float(np.sum(g * dx)) for g, dx in zip(grads, dxs, strict=True))
    value, tangent = gg.jvp(program, xs, dxs)
    assert value == program(*map(gg.asarray, xs)).item()
    np.testing.assert_allclose(reverse, tangent, rtol=1e-9, atol=1e-9)

    leaves = [leaf(x) for x in xs]
    program(*[x * 1 for x in leaves]).backward()
    for x, g in zip(leaves, grads, strict=True):
        got = np.zeros(x.shape) if x.grad is None else x.grad.numpy()
        np.testing.assert_allclose(got, g, rtol=1e-12, atol=1e-12)

    # A branch may flip within the step: two steps that disagree say so.
    slopes = [gg.testing.numerical_jvp(program, xs, dxs, eps) for eps in (1e-6, 3e-6)]
    assume(abs(slopes[0] - slopes[1]) < 1e-4 * (1 + abs(slopes[0])))
    np.testing.assert_allclose(tangent, slopes[0], rtol=1e-3, atol=1e-4)

    # Second order: forward over reverse against reverse over forward.
    hvp = gg.jvp(lambda *ys: gg.grad(program, (0, 1))(*ys), xs, dxs)[1]
    hvp_too = gg.grad(lambda *ys: gg.jvp(program, ys, dxs)[1], (0, 1))(*xs)
    for a, b in zip(hvp, hvp_too, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7)


def test_every_line_of_the_programs_runs_alone():
    """So that a random program that fails has one line to blame less."""
    rng = np.random.default_rng(0)
    for name, f in LINES.items():
        for size in [(), (3,), (2, 3)]:
            program = Program([((name, f), 0, 1)])
            xs = [rng.uniform(-1, 1, size), rng.uniform(-1, 1, size)]
            assert gg.testing.gradcheck(program, xs), inspect.getsource(f)
