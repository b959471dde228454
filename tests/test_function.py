"""Jacobians and Hessians, nodes of the user's own, and rematerialisation."""

import weakref

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.errors import DtypeError, GradientError, ShapeError

rng = np.random.default_rng(3)


# jacobian, hessian, hvp


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_jacobian_of_a_matrix_function(mode, device):
    a = rng.normal(size=(3, 2))
    x = rng.normal(size=(2, 4))
    j = gg.jacobian(lambda t: gg.asarray(a) @ t, mode)(x)
    want = np.einsum("ij,kl->ikjl", a, np.eye(4))
    assert type(j) is np.ndarray
    np.testing.assert_allclose(j, want)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_jacobian_of_nested_arguments_and_scalars(mode):
    j = gg.jacobian(lambda p: p["w"] * p["b"], mode)({"w": np.array([1.0, 2.0]), "b": 3.0})
    np.testing.assert_allclose(j["w"], 3 * np.eye(2))
    np.testing.assert_allclose(np.asarray(j["b"]), [1, 2])
    assert gg.jacobian(lambda x, y: x * y, mode, argnums=1)(2.0, 5.0) == 2.0


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_jacobian_of_nothing(mode):
    assert gg.jacobian(lambda x: x * 2, mode)(np.ones((0,))).shape == (0, 0)
    assert gg.jacobian(lambda x: x[:0], mode)(np.ones(3)).shape == (0, 3)


def test_jacobian_modes_nest():
    x = np.array([0.3, -0.7])

    def f(t):
        return gg.sin(t) * gg.sum(t * t)

    modes = ("reverse", "forward")
    thirds = [gg.jacobian(gg.jacobian(gg.jacobian(f, a), b), a)(x) for a in modes for b in modes]
    for other in thirds[1:]:
        np.testing.assert_allclose(other, thirds[0], atol=1e-12)


def test_unknown_mode():
    with pytest.raises(GradientError, match="reverse"):
        gg.jacobian(gg.sin, "sideways")


def test_hessian_and_hvp():
    a = rng.normal(size=(4, 4))
    x, v = rng.normal(size=4), rng.normal(size=4)

    def f(t):
        return gg.sum(gg.tanh(gg.asarray(a) @ t) ** 2)

    h = gg.hessian(f)(x)
    np.testing.assert_allclose(h, h.T, atol=1e-12)
    np.testing.assert_allclose(gg.hvp(f, x, v), h @ v)
    (in_tuple,) = gg.hvp(f, (x,), (v,))
    np.testing.assert_allclose(in_tuple, h @ v)
    step = 1e-6
    slope = (gg.grad(f)(x + step * v) - gg.grad(f)(x - step * v)) / (2 * step)
    np.testing.assert_allclose(h @ v, slope, rtol=1e-6)


def test_hvp_of_several_arguments():
    hx, hy = gg.hvp(lambda x, y: x * x * y, (2.0, 3.0), (1.0, 10.0))
    assert (hx, hy) == (2 * 3.0 + 2 * 2.0 * 10, 2 * 2.0)


# Function


class Exp(gg.Function):
    """Saves its output, so it must be put back on the tape without closing a circle."""

    @staticmethod
    def forward(ctx, x):
        y = gg.exp(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved
        return g * y


class Scaled(gg.Function):
    """An argument without derivative, two outputs, an attribute on the context."""

    @staticmethod
    def forward(ctx, x, k, y):
        ctx.k = k
        ctx.save_for_backward(x)
        return x * x * k, x + y

    @staticmethod
    def backward(ctx, g, h):
        (x,) = ctx.saved_tensors
        return g * 2 * x * ctx.k + h, None, h


def test_function_at_every_order():
    assert gg.grad(Exp.apply)(0.5) == pytest.approx(np.exp(0.5))
    assert gg.grad(gg.grad(gg.grad(Exp.apply)))(0.5) == pytest.approx(np.exp(0.5))


def test_function_of_several():
    def f(x, y):
        a, b = Scaled.apply(x, 3.0, y)
        return gg.sum(a * b)

    x, y = rng.normal(size=3), rng.normal(size=3)

    def plain(x, y):
        return gg.sum(x * x * 3.0 * (x + y))

    for i in (0, 1):
        np.testing.assert_allclose(gg.grad(f, i)(x, y), gg.grad(plain, i)(x, y))
    second = gg.hessian(lambda t: plain(t, gg.asarray(y)))(x)
    np.testing.assert_allclose(gg.jacobian(gg.grad(f), "reverse")(x, y), second)


def test_one_of_two_outputs():
    np.testing.assert_allclose(gg.grad(lambda x: Scaled.apply(x, 3.0, x)[1].sum())(np.ones(2)), 2)


def test_function_is_freed_without_gc():
    x = gg.asarray([1.0], requires_grad=True)
    y = Exp.apply(x)
    node = weakref.ref(y._node)
    y.sum().backward()
    assert x.grad.tolist() == pytest.approx([np.e])
    del y
    assert node() is None


def test_function_without_gradient_records_nothing():
    assert not Exp.apply(gg.asarray(1.0)).requires_grad
    with gg.no_grad():
        assert not Exp.apply(gg.asarray(1.0, requires_grad=True)).requires_grad


def test_function_errors():
    class Wrong(gg.Function):
        @staticmethod
        def forward(ctx, x, kind):
            return 3.0 if kind == "number" else x.sum()

        @staticmethod
        def backward(ctx, g):
            return g

    x = gg.asarray([1.0, 2.0], requires_grad=True)
    with pytest.raises(DtypeError, match="forward returns tensors"):
        Wrong.apply(x, "number")
    with pytest.raises(GradientError, match="one cotangent for each argument"):
        Wrong.apply(x, "count").backward()

    class Shape(Wrong):
        @staticmethod
        def backward(ctx, g):
            return g, None

    with pytest.raises(ShapeError, match=r"got \(\) for \(2,\)"):
        Shape.apply(x, "shape").backward()
    with pytest.raises(GradientError, match="forward mode"):
        gg.jvp(Exp.apply, (1.0,), (1.0,))


# checkpoint


def test_checkpoint_agrees_at_every_order():
    x, w = rng.normal(size=(3, 2)), rng.normal(size=(2, 2))

    def block(t):
        return gg.tanh(t @ gg.asarray(w)) * gg.sigmoid(t)

    gg.testing.gradcheck(gg.checkpoint(block), [x])
    kept = gg.grad(lambda t: gg.sum(block(block(t))))(x)
    again = gg.grad(lambda t: gg.sum(gg.checkpoint(block)(gg.checkpoint(block)(t))))(x)
    np.testing.assert_array_equal(again, kept)


def test_checkpoint_reaches_captured_parameters():
    model = gg.nn.MLP([3, 4, 1], generator=gg.random.Generator(0))
    x = gg.asarray(rng.normal(size=(5, 3)).astype("f4"))
    model(x).sum().backward()
    want = [p.grad.tolist() for p in model.parameters()]
    model.zero_grad()
    gg.checkpoint(model)(x).sum().backward()
    assert [p.grad.tolist() for p in model.parameters()] == want


def test_checkpoint_keeps_no_inner_values():
    kept = []

    def f(x):
        y = gg.exp(x)
        kept.append(weakref.ref(y._data))
        return gg.sum(y * y)

    x = gg.asarray(np.ones(1000), requires_grad=True)
    loss = gg.checkpoint(f)(x)
    assert kept[0]() is None
    loss.backward()
    assert len(kept) == 2  # computed again
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.exp(2.0))


def test_checkpoint_with_structures_and_constants():
    def f(p, scale):
        return {"out": p["a"] * scale, "same": p["b"]}

    p = {"a": gg.asarray([2.0], requires_grad=True), "b": gg.asarray([5.0])}
    out = gg.checkpoint(f)(p, 3.0)
    out["out"].sum().backward()
    assert p["a"].grad.tolist() == [3.0]
    assert not out["same"].requires_grad


def test_gradcheck_without_forward_mode():
    """The check that a Function's author wants: backward, and backward of backward."""

    class Cube(gg.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved
            return g * 3 * x**2

    class Untied(Cube):
        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved
            return g * 3 * x.detach() ** 2  # right, but a constant to the next derivative

    args = [np.array([0.5, -2.0])]
    assert gg.testing.gradcheck(Cube.apply, args, forward=False)
    assert gg.testing.gradcheck(Untied.apply, args, forward=False, order=1)
    with pytest.raises(GradientError, match="vjp of vjp"):
        gg.testing.gradcheck(Untied.apply, args, forward=False)
    with pytest.raises(GradientError, match="forward mode cannot go through a Function"):
        gg.testing.gradcheck(Cube.apply, args)
