"""Derivatives of functions: worked examples by hand, every kind of argument, every nesting."""

import math
import threading
from collections import defaultdict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.errors import DtypeError, GradientError, ShapeError
from gpugrad.state import state


def slope(f, mode):
    """df/dx of a scalar function of one float, in either mode."""
    if mode == "reverse":
        return gg.grad(f)
    return lambda x: gg.jvp(f, (x,), (1.0,))[1]


MODES = ("reverse", "forward")


# Worked examples


def e_of(a, b):
    return (a + b) * (b + 1)


def test_graph_example_reverse():
    """Olah, Calculus on Computational Graphs: e = (a + b)(b + 1) at a = 2, b = 1."""
    value, (da, db) = gg.value_and_grad(e_of, argnums=(0, 1))(2.0, 1.0)
    assert (value, da, db) == (6.0, 2.0, 5.0)


def test_graph_example_forward():
    assert gg.jvp(e_of, (2.0, 1.0), (1.0, 0.0)) == (6.0, 2.0)
    assert gg.jvp(e_of, (2.0, 1.0), (0.0, 1.0)) == (6.0, 5.0)


def test_graph_example_on_tensors(device):
    a, b = (gg.asarray(v, requires_grad=True) for v in (2.0, 1.0))
    e = e_of(a, b)
    e.backward()
    assert (e.item(), a.grad.item(), b.grad.item()) == (6.0, 2.0, 5.0)


def neuron(w, x):
    return gg.sigmoid(w[0] * x[0] + w[1] * x[1] + w[2])


def test_sigmoid_neuron():
    """CS231n: the neuron whose pre-activation is 1, by hand to two digits and exactly."""
    w, x = np.array([2.0, -3.0, -3.0]), np.array([-1.0, -2.0])
    f, (dw, dx) = gg.value_and_grad(neuron, argnums=(0, 1))(w, x)
    assert round(float(f), 2) == 0.73
    assert np.round(dw, 2).tolist() == [-0.20, -0.39, 0.20]
    assert np.round(dx, 2).tolist() == [0.39, -0.59]
    y = 1 / (1 + math.exp(-1))
    s = y * (1 - y)
    assert abs(float(f) - y) < 1e-15
    np.testing.assert_allclose(dw, s * np.array([x[0], x[1], 1]), rtol=1e-15)
    np.testing.assert_allclose(dx, s * w[:2], rtol=1e-15)
    for i in range(3):
        got = gg.jvp(neuron, (w, x), (np.eye(3)[i], np.zeros(2)))[1]
        np.testing.assert_allclose(got, dw[i], rtol=1e-15)
    for i in range(2):
        got = gg.jvp(neuron, (w, x), (np.zeros(3), np.eye(2)[i]))[1]
        np.testing.assert_allclose(got, dx[i], rtol=1e-15)


@pytest.mark.parametrize("mode", MODES)
def test_paths_factor(mode):
    """Three edges X→Y and three Y→Z: nine paths, one product of two sums."""
    alpha, beta, gamma, delta, eps, zeta = 2.0, 3.0, 5.0, 7.0, 11.0, 13.0

    def z(x):
        y = alpha * x + beta * x + gamma * x
        return delta * y + eps * y + zeta * y

    assert slope(z, mode)(1.5) == (alpha + beta + gamma) * (delta + eps + zeta)


# Which arguments


def test_argnums():
    def f(a, b, c):
        return a * b * b * c * c * c

    args = (2.0, 3.0, 5.0)
    assert gg.grad(f)(*args) == 9 * 125
    assert gg.grad(f, 1)(*args) == 2 * 6 * 125
    assert gg.grad(f, -1)(*args) == 2 * 9 * 75
    assert gg.grad(f, argnums=(2, 0))(*args) == (2 * 9 * 75, 9 * 125)
    assert gg.grad(f, argnums=(-3,))(*args) == (9 * 125,)
    with pytest.raises(GradientError, match=r"\[grad\] argnums=3 .* 3 arguments"):
        gg.grad(f, 3)(*args)
    with pytest.raises(GradientError, match="argnums=-4"):
        gg.grad(f, -4)(*args)


def test_keywords_are_passed_on():
    def f(x, *, scale, mask=None):
        return scale * x * x + (0 if mask is None else 1)

    assert gg.grad(f)(3.0, scale=2.0) == 12.0
    assert gg.value_and_grad(f)(3.0, scale=2, mask=True) == (19.0, 12.0)
    with pytest.raises(GradientError, match="not passed by position"):
        gg.grad(f)(x=3.0, scale=2.0)


def test_name_and_docstring_are_kept():
    def energy(x):
        """Half the square."""
        return 0.5 * x * x

    assert gg.grad(energy).__name__ == "energy"
    assert gg.value_and_grad(energy).__doc__ == "Half the square."
    assert gg.grad(partial(e_of, b=1.0))(2.0) == 2.0


Pair = namedtuple("Pair", "first second")


def test_nested_arguments():
    tree = {
        "layers": [(np.array([1.0, 2.0]), None), (np.array([[3.0]]), np.float32(2))],
        "pair": Pair(2.0, [5.0]),
        "nothing": None,
        "empty": [],
    }

    def f(t):
        (a, none), (b, c) = t["layers"]
        assert none is None
        assert t["nothing"] is None
        assert isinstance(t["pair"], Pair)
        return (a * a).sum() + b[0, 0] * c + t["pair"].first * t["pair"].second[0]

    value, g = gg.value_and_grad(f)(tree)
    assert value == 5 + 6 + 10
    assert list(g) == list(tree)
    assert g["layers"][0][0].tolist() == [2.0, 4.0]
    assert g["layers"][0][1] is None
    assert g["layers"][1][0].tolist() == [[2.0]]
    assert g["layers"][1][1] == 3.0
    assert type(g["layers"][1][1]) is np.float32
    assert g["pair"] == Pair(5.0, [2.0])
    assert g["nothing"] is None
    assert g["empty"] == []


def test_defaultdict_arguments():
    tree = defaultdict(float, {"a": 2.0, "b": 3.0})

    def f(d):
        assert isinstance(d, defaultdict)
        return d["a"] * d["b"] + d["absent"]

    value, g = gg.value_and_grad(f)(tree)
    assert (value, g) == (6.0, {"a": 3.0, "b": 2.0})
    assert type(g) is defaultdict
    assert dict(tree) == {"a": 2.0, "b": 3.0}
    assert gg.jvp(f, (tree,), ({"b": 1.0, "a": 0.0},)) == (6.0, 2.0)
    assert gg.vjp(f, tree)[1](1.0) == ({"a": 3.0, "b": 2.0},)


def test_nested_results():
    y, pullback = gg.vjp(lambda d: {"double": 2 * d["x"], "both": (d["x"] * d["y"], d["y"])},
                         {"x": 3.0, "y": 4.0})  # fmt: skip
    assert y == {"double": 6.0, "both": (12.0, 4.0)}
    assert pullback({"double": 1.0, "both": (10.0, 100.0)}) == ({"x": 42.0, "y": 130.0},)
    with pytest.raises(ShapeError, match="structure of the output"):
        pullback(1.0)
    y, dy = gg.jvp(lambda x: [x, {"sq": x * x}], (3.0,), (1.0,))
    assert (y, dy) == ([3.0, {"sq": 9.0}], [1.0, {"sq": 6.0}])


def test_cotangent_is_matched_by_key():
    _, pullback = gg.vjp(lambda x: {"a": x * 1.0, "b": x * 10.0}, 1.0)
    assert pullback({"b": 0.0, "a": 1.0}) == (1.0,)


def test_tangent_is_matched_by_key():
    def f(d):
        return d["a"] + 10 * d["b"]

    assert gg.jvp(f, ({"a": 1.0, "b": 1.0},), ({"b": 0.0, "a": 1.0},))[1] == 1.0


def test_cotangent_of_another_structure():
    _, pullback = gg.vjp(lambda x: {"a": x * 1.0, "b": x * 10.0}, 1.0)
    for other in ({"a": 1.0, "c": 1.0}, [1.0, 1.0]):
        with pytest.raises((ShapeError, DtypeError, GradientError)):
            pullback(other)


# Kinds: the same kind out as went in

ARRAYS = [
    (np.array([1.0, 2.0]), np.ndarray),
    (np.array([1.0, 2.0], np.float32), np.ndarray),
    (np.array([1.0, 2.0], np.float16), np.ndarray),
    (np.array(2.0), np.ndarray),
    (np.ones((2, 3)).T, np.ndarray),
    (np.ones(6)[::2], np.ndarray),
    (np.ones((0, 3)), np.ndarray),
    (np.float64(2.0), np.float64),
    (np.float32(2.0), np.float32),
    (2.0, float),
    (gg.asarray([1.0, 2.0]), gg.Tensor),
    (gg.asarray(np.ones((2, 2))), gg.Tensor),
]


@pytest.mark.parametrize(("x", "kind"), ARRAYS, ids=lambda v: getattr(v, "__name__", None))
def test_kind_in_kind_out(x, kind):
    value, g = gg.value_and_grad(lambda t: gg.sum(t * t) / 2)(x)
    dtype = np.float64 if kind is float else x.dtype
    assert type(g) is kind
    assert np.shape(g) == np.shape(x)
    if kind is gg.Tensor:
        assert type(value) is gg.Tensor
        assert not value.requires_grad
        assert not g.requires_grad
        assert g.tolist() == x.tolist()
    else:
        assert type(value) is (float if kind is float else np.dtype(dtype).type)
        np.testing.assert_array_equal(g, x)
    if kind is not float:
        assert g.dtype == dtype
    if kind is np.ndarray:
        assert g.flags.writeable
        assert g.flags.owndata
        assert not np.shares_memory(g, x)


def test_python_float_counts_as_float64():
    third = gg.grad(lambda x: x * x * x)(1 / 3)
    assert type(third) is float
    assert abs(third - 1 / 3) < 1e-16
    assert gg.jvp(gg.exp, (1.0,), (1.0,)) == (math.e, math.e)


def test_directions_written_in_python_keep_their_digits():
    """0.1 read as a float32 would be 1e-9 off."""
    assert gg.jvp(lambda x: x, (1.0,), (0.1,)) == (1.0, 0.1)
    assert gg.hvp(lambda x: x * x / 2, 1.0, 0.1) == 0.1
    assert gg.vjp(lambda x: x, 1.0)[1](0.1) == (0.1,)
    (from_list,) = gg.vjp(lambda x: x, np.ones(2))[1]([0.1, 0.2])
    assert from_list.tolist() == [0.1, 0.2]
    x = gg.asarray(np.ones(2), requires_grad=True)
    (x * 1).backward([0.1, 0.2])
    assert x.grad.tolist() == [0.1, 0.2]


def test_python_complex_counts_as_complex128():
    value, slope = gg.value_and_grad(lambda z: gg.real(z) ** 2 + 0.1 * gg.imag(z))(3 + 4j)
    assert (value, slope) == (9.4, 6 + 0.1j)
    assert (type(value), type(slope)) == (float, complex)
    assert gg.jvp(lambda z: z * z, (1j,), (0.1 + 0.2j,)) == (-1 + 0j, 2j * (0.1 + 0.2j))
    assert gg.vjp(lambda x: x * 1j, 0.1)[0] == 0.1j


def test_gradients_do_not_overlap():
    """Each gradient may be written to without a trace in another, in the input or in the value."""
    a, b = np.ones(3), np.ones(3)
    ga, gb = gg.grad(lambda a, b: (a + b).sum(), (0, 1))(a, b)
    assert not np.shares_memory(ga, gb)
    ga[:] = 7
    assert gb.tolist() == a.tolist() == b.tolist() == [1, 1, 1]


def test_pullback_results_do_not_overlap():
    _, pullback = gg.vjp(lambda a, b: a + b, np.ones(3), np.ones(3))
    c = np.ones(3)
    ga, gb = pullback(c)
    assert not np.shares_memory(ga, gb)
    assert not np.shares_memory(ga, c)


def test_values_do_not_overlap_arguments():
    a, da = np.ones(3), np.ones(3)
    y, _ = gg.vjp(lambda x: x, a)
    assert not np.shares_memory(y, a)
    y, dy = gg.jvp(lambda x: x, (a,), (da,))
    assert not np.shares_memory(y, a)
    assert not np.shares_memory(dy, da)


def test_writing_to_the_value_leaves_the_pullback_alone():
    y, pullback = gg.vjp(gg.exp, np.zeros(2))
    y[:] = 100
    assert pullback(np.ones(2))[0].tolist() == [1.0, 1.0]


def test_number_and_array_mix():
    """An array among the arguments makes the result an array."""
    y, dy = gg.jvp(lambda s, x: s * x, (2.0, np.ones(3)), (1.0, np.zeros(3)))
    assert type(y) is type(dy) is np.ndarray
    assert dy.tolist() == [1, 1, 1]


def test_float32_argument_with_float64_constant():
    """The gradient has the argument's dtype, whatever the function computes in."""
    x = np.ones(2, np.float32)
    value, g = gg.value_and_grad(lambda x: (x * np.array([0.1, 0.2])).sum())(x)
    assert value.dtype == np.float64
    assert g.dtype == np.float32
    assert gg.jvp(lambda x: 2 * x, (x,), (np.ones(2),))[1].dtype == np.float32


# Corners of f


def test_ignored_argument():
    x, y = np.ones((2, 3), np.float32), gg.asarray([1.0])
    gx, gy, gz = gg.grad(lambda x, y, z: z * z, (0, 1, 2))(x, y, 3.0)
    assert type(gx) is np.ndarray
    assert (gx.dtype, gx.shape, gx.any()) == (np.float32, (2, 3), False)
    assert (type(gy), gy.tolist(), gz) == (gg.Tensor, [0.0], 6.0)
    assert gg.jvp(lambda x, y: y, (1.0, 2.0), (1.0, 0.0)) == (2.0, 0.0)
    assert gg.vjp(lambda x, y: y * 2, 1.0, 2.0)[1](1.0) == (0.0, 2.0)


@pytest.mark.parametrize("mode", MODES)
def test_identity_and_constant(mode):
    assert slope(lambda x: x, mode)(3.0) == 1.0
    assert slope(lambda x: gg.asarray(np.float64(2.0)), mode)(3.0) == 0.0
    assert slope(lambda x: +x, mode)(3.0) == 1.0
    assert slope(lambda x: gg.sum(x > 0), mode)(3.0) == 0.0


def test_constant_through_vjp():
    y, pullback = gg.vjp(lambda x: gg.ones(3), np.ones(2))
    assert np.asarray(y).tolist() == [1, 1, 1]
    assert pullback(np.ones(3))[0].tolist() == [0, 0]


@pytest.mark.parametrize("x", [3, True, np.arange(3), np.array([True]), gg.arange(2), [1, 2]])
def test_integers_have_no_derivative(x):
    for call in (
        lambda: gg.grad(gg.sum)(x),
        lambda: gg.value_and_grad(gg.sum)(x),
        lambda: gg.vjp(gg.sum, x),
        lambda: gg.jvp(gg.sum, (x,), (x,)),
    ):
        with pytest.raises(DtypeError, match=r"integers have no derivative.*try"):
            call()


def test_integers_may_be_other_arguments():
    g = gg.grad(lambda x, i, n: (x[i] * n).sum())(np.ones(3), np.array([0, 0, 2]), 5)
    assert g.tolist() == [10, 0, 5]


def test_output_must_be_one_number():
    with pytest.raises(GradientError, match=r"one number; got shape \(2,\); try f\(x\).sum\(\)"):
        gg.grad(lambda x: x * x)(np.ones(2))
    assert gg.grad(lambda x: x * x)(np.ones((1, 1))).tolist() == [[2.0]]


@pytest.mark.parametrize("f", [gg.grad(gg.exp), gg.value_and_grad(gg.exp)])
def test_output_must_be_real(f):
    with pytest.raises(GradientError, match=r"two parts.*complex128.*gg\.real"):
        f(1j)
    z = gg.asarray(1j, requires_grad=True)
    with pytest.raises(GradientError, match=r"\[backward\].*two parts"):
        gg.exp(z).backward()
    gg.exp(z).backward(1j)  # of the imaginary part
    assert z.grad is not None


@pytest.mark.parametrize("leave", [lambda x: 1.0, lambda x: x.item(), lambda x: x.detach().numpy()])
def test_output_must_be_a_tensor(leave):
    for call in (gg.grad(leave), lambda x: gg.jvp(leave, (x,), (1.0,))):
        with pytest.raises(GradientError, match=r"silently zero; got .*; try gg functions"):
            call(1.0)


TRANSFORMS = {
    "grad": lambda f: gg.grad(f)(3.0),
    "value_and_grad": lambda f: gg.value_and_grad(f)(3.0),
    "vjp": lambda f: gg.vjp(f, 3.0)[1](1.0),
    "jvp": lambda f: gg.jvp(f, (3.0,), (1.0,)),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("convert", [float, int, complex, math.sin], ids=lambda f: f.__name__)
def test_python_numbers_inside_a_transform_raise(convert, transform):
    name = {math.sin: "float"}.get(convert, convert.__name__)
    match = rf"^\[{name}\] .*silently zero; got .*; try the gg function.*x.item\(\)"
    for f in (convert, lambda x: x * convert(x).real, lambda x: x * convert(x * x).real):
        with pytest.raises(GradientError, match=match):
            transform(f)
    with pytest.raises(GradientError, match=match):
        transform(lambda x: x * gg.grad(lambda y: y * convert(y).real)(2.0))
    assert float(gg.asarray(3.0, requires_grad=True) * 2) == 6  # the state is clean again


@pytest.mark.parametrize("mode", MODES)
def test_item_is_a_constant_inside_a_transform(mode):
    assert slope(lambda x: x * x.item(), mode)(3.0) == 3.0
    assert slope(lambda x: x * math.sin(x.item()), mode)(3.0) == pytest.approx(math.sin(3.0))
    assert slope(lambda x: x * float(x.detach()), mode)(3.0) == 3.0
    assert slope(lambda x: x * float(gg.asarray(2.0)), mode)(3.0) == 2.0


def test_argnums_twice():
    for argnums in ((0, 0), (0, -2)):
        for transform in (gg.grad, gg.value_and_grad):
            with pytest.raises(GradientError, match=r"^\[grad\] argnums names an argument twice"):
                transform(e_of, argnums)(1.0, 2.0)


def test_function_without_result_raises():
    with pytest.raises(GradientError):
        gg.grad(lambda x: None)(1.0)


def test_jvp_argument_errors():
    with pytest.raises(DtypeError, match=r"try gg.jvp\(f, \(x,\), \(dx,\)\)"):
        gg.jvp(gg.sin, 1.0, 1.0)
    rule = r"^\[jvp\] tangents have the structure of the primals; got "
    with pytest.raises(ShapeError, match=rule + "at the top: 2 for 1 entries"):
        gg.jvp(gg.sin, (1.0,), (1.0, 2.0))
    with pytest.raises(ShapeError, match=rule + r"\[0\]: \['b'\] for a dict with keys \['a'\]"):
        gg.jvp(lambda d: d["a"], ({"a": 1.0},), ({"b": 1.0},))
    with pytest.raises(ShapeError, match=rule + r"\[0\]: float for 2 entries"):
        gg.jvp(lambda p: p[0] * p[1], ((1.0, 2.0),), (1.0,))
    with pytest.raises(ShapeError, match="shape of its primal"):
        gg.jvp(gg.sin, (np.ones(2),), (np.ones((2, 1)),))


def test_pullback_checks_its_cotangent():
    _, pullback = gg.vjp(lambda x: 2 * x, np.ones(3))
    with pytest.raises(ShapeError, match="the gradient has the tensor's shape"):
        pullback(np.ones((3, 1)))
    with pytest.raises(ShapeError):
        pullback(1.0)


def test_pullback_may_be_called_again():
    y, pullback = gg.vjp(lambda x, w: gg.tanh(x @ w), np.ones((2, 3)), np.ones((3, 1)) / 7)
    first, second = pullback(np.ones((2, 1))), pullback(np.ones((2, 1)))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    doubled = pullback(np.full((2, 1), 2.0))
    np.testing.assert_allclose(doubled[0], 2 * first[0])
    np.testing.assert_allclose(first[1][0], (1 - y**2).sum())


def test_pullback_outlives_no_grad_and_threads():
    with gg.no_grad():
        _, pullback = gg.vjp(lambda x: x * x, 3.0)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(pullback, 1.0).result() == (6.0,)
    assert pullback(2.0) == (12.0,)


@pytest.mark.parametrize("mode", MODES)
def test_pullback_is_differentiable_in_its_cotangent(mode):
    """The transpose of a linear map is linear: its own derivative is not zero."""
    _, pullback = gg.vjp(lambda x: 3 * x, 5.0)
    assert slope(lambda c: gg.asarray(pullback(c)[0]) * 1.0, mode)(2.0) == 3.0


def test_in_place_code():
    def f(x, v):
        y = x * 1.0
        y[0] = y[1] * y[2]
        y *= v
        y[::2] += x[::2]
        z = y
        z -= 1.0
        y[[2, 0]] = gg.stack([y[1], y[2]])
        return gg.sin(y) * v

    rng = np.random.default_rng(0)
    assert gg.testing.gradcheck(f, [rng.standard_normal(3), rng.standard_normal(3)])


def test_writes_to_an_argument_stay_inside():
    def f(x):
        x *= 2
        x[0] = 0
        x += 1
        return (x * x).sum()

    a = np.array([1.0, 2.0])
    assert gg.grad(f)(a).tolist() == [0, 20]
    assert gg.jvp(f, (a,), (np.ones(2),))[1] == 20
    assert a.tolist() == [1, 2]
    t = gg.asarray(a)
    assert gg.grad(f)(t).tolist() == [0, 20]
    assert t.tolist() == [1, 2]


def test_same_object_twice():
    x = gg.asarray([3.0])
    a, b = gg.grad(lambda a, b: (a * a * b).sum(), (0, 1))(x, x)
    assert (a.item(), b.item()) == (18.0, 9.0)


def test_modules_and_losses_are_functions():
    layer = gg.nn.Linear(3, 2)
    x = np.ones((4, 3), np.float32)
    g = gg.grad(lambda x: layer(x).sum())(x)
    np.testing.assert_allclose(
        np.asarray(g.detach()), np.tile(layer.weight.detach().numpy().sum(0), (4, 1)), rtol=1e-6
    )


# What is captured


def test_closure_over_a_leaf_stays_differentiable(device):
    w = gg.asarray([2.0, 3.0], requires_grad=True)
    x = gg.asarray([5.0, 7.0])
    value, g = gg.value_and_grad(lambda x: (w * x * x).sum())(x)
    assert g.tolist() == [20, 42]
    assert w.grad is None
    assert value.requires_grad
    g.sum().backward(retain_graph=True)  # the gradient shares nodes with the value
    assert w.grad.tolist() == [10, 14]
    value.backward()
    assert w.grad.tolist() == [35, 63]


def test_array_argument_with_captured_leaf_gives_a_tensor():
    """An array could not carry the derivative with respect to w: nothing is lost on the way out."""
    w = gg.asarray(2.0, requires_grad=True)
    g = gg.grad(lambda x: (w * x * x).sum())(np.ones(2))
    assert isinstance(g, gg.Tensor)
    assert g.requires_grad


def test_argument_that_requires_grad():
    x = gg.asarray([3.0], requires_grad=True)
    g = gg.grad(lambda x: (x * x * x).sum())(x)
    assert (g.tolist(), x.grad) == ([27.0], None)
    g.sum().backward()
    assert x.grad.tolist() == [18.0]
    y, dy = gg.jvp(lambda t: t * t, (x,), (gg.ones(1),))
    assert (y.requires_grad, dy.tolist()) == (True, [6.0])
    x.grad = None
    dy.sum().backward()
    assert x.grad.tolist() == [2.0]


def test_hooks_of_captured_leaves_stay_silent():
    w = gg.asarray(2.0, requires_grad=True)
    calls = []
    w.register_hook(calls.append)
    gg.grad(lambda x: w * x * x)(3.0)
    assert not calls


@pytest.mark.parametrize("mode", MODES)
def test_inside_no_grad(mode):
    w = gg.asarray(2.0, dtype=gg.float64, requires_grad=True)
    with gg.no_grad():
        assert slope(lambda x: x * x, mode)(3.0) == 6.0
        assert slope(slope(lambda x: x * x * x, mode), mode)(3.0) == 18.0
        assert gg.grad(slope(lambda x: x * x * x, mode))(3.0) == 18.0
        g = gg.grad(lambda x: w * x * x)(3.0)
        assert not getattr(g, "requires_grad", False)
        assert not gg.is_grad_enabled()
    assert gg.is_grad_enabled()


def test_no_grad_inside_the_function_is_a_constant():
    def f(x):
        with gg.no_grad():
            c = x * x
        return c * x

    assert gg.grad(f)(3.0) == 9.0


# Nesting


def f0(x):
    return x * gg.sin(x)


DERIVATIVES = [
    lambda x: math.sin(x) + x * math.cos(x),
    lambda x: 2 * math.cos(x) - x * math.sin(x),
    lambda x: -3 * math.sin(x) - x * math.cos(x),
    lambda x: -4 * math.cos(x) + x * math.sin(x),
]


NESTINGS = [modes for n in (1, 2, 3, 4) for modes in product(MODES, repeat=n)]


@pytest.mark.parametrize("modes", NESTINGS, ids="-of-".join)
def test_nested_in_any_order(modes):
    f = f0
    for mode in reversed(modes):
        f = slope(f, mode)
    assert f(0.7) == pytest.approx(DERIVATIVES[len(modes) - 1](0.7), rel=1e-13)


def test_reverse_over_two_forward_passes():
    """d³(x³)/dx³ = 6: the tape must see the tangents of both passes."""

    def along(f):
        return lambda x: gg.jvp(f, (x,), (1.0,))[1]

    assert gg.grad(along(along(lambda x: x**3)))(2.0) == 6
    assert gg.grad(along(along(lambda x: x * x * x)))(2.0) == 6
    x = gg.asarray(2.0, requires_grad=True)
    along(along(lambda x: x**3))(x).backward()
    assert x.grad.item() == 6


@pytest.mark.parametrize("outer", MODES)
@pytest.mark.parametrize("inner", MODES)
def test_perturbation_confusion(outer, inner):
    """d/dx (x · d/dy (x + y)) = 1; tangents mixed up would give 2. Siskind, Pearlmutter 2005."""
    assert slope(lambda x: x * slope(lambda y: x + y, inner)(1.0), outer)(1.0) == 1.0
    assert slope(lambda x: x * slope(lambda y: x * y, inner)(2.0), outer)(3.0) == 6.0
    # the outer variable used only inside, and the inner derivative constant in it
    assert slope(lambda x: slope(lambda y: x * y * y, inner)(5.0), outer)(3.0) == 10.0
    assert slope(lambda x: slope(lambda y: y * y, inner)(x), outer)(3.0) == 2.0


def test_hessian_vector_products_agree(device):
    rng = np.random.default_rng(1)
    a, x, v = (gg.asarray(rng.standard_normal(s)) for s in ((4, 4), (4,), (4,)))

    def f(x):
        return gg.sum(gg.tanh(a @ x) * gg.exp(0.3 * x)) + gg.sigmoid(x @ a @ x)

    grad = gg.grad(f)
    ways = [
        gg.jvp(grad, (x,), (v,))[1],
        gg.grad(lambda x: gg.sum(grad(x) * v))(x),
        gg.grad(lambda x: gg.jvp(f, (x,), (v,))[1])(x),
        gg.vjp(grad, x)[1](v)[0],
    ]
    numeric = (grad(x + 1e-6 * v) - grad(x - 1e-6 * v)) / 2e-6
    for way in ways:
        np.testing.assert_allclose(way.tolist(), numeric.tolist(), rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(way.tolist(), ways[0].tolist(), rtol=1e-12)
    twice = gg.jvp(lambda x: gg.jvp(f, (x,), (v,))[1], (x,), (v,))[1]
    np.testing.assert_allclose(twice.item(), gg.sum(ways[0] * v).item(), rtol=1e-12)


def test_nested_in_place():
    def f(x):
        y = x * x
        y[0] = y[0] * y[1]
        y *= x
        return y.sum()  # x₀³x₁² + x₁³

    x = np.array([2.0, 3.0])
    hessian_row = gg.grad(lambda x: gg.grad(f)(x)[0])(x)
    assert hessian_row.tolist() == [6 * 2 * 9, 3 * 4 * 2 * 3]
    assert gg.jvp(gg.grad(f), (x,), (np.array([1.0, 0.0]),))[1].tolist() == [108, 72]


def test_backward_through_grad():
    """A gradient penalty: .backward() of a loss that holds gg.grad."""
    w = gg.asarray([1.0, 2.0], requires_grad=True)
    penalty = gg.sum(gg.square(gg.grad(lambda x: gg.sum(w * x * x))(gg.asarray([1.0, 1.0]))))
    penalty.backward()
    assert w.grad.tolist() == [8.0, 16.0]


# State


class Broken(Exception):
    pass


def clean():
    return gg.is_grad_enabled() and not state.levels and not state.special


@pytest.mark.parametrize("outer", MODES)
@pytest.mark.parametrize("inner", MODES)
def test_exceptions_leave_the_state_clean(outer, inner):
    def broken(x):
        raise Broken

    def bad_shape(x):
        return x * gg.ones(3) @ gg.ones(4)

    for f, error in ((broken, Broken), (bad_shape, ShapeError)):
        with pytest.raises(error):
            slope(f, outer)(1.0)
        with pytest.raises(error):
            slope(lambda x: x * slope(f, inner)(x), outer)(1.0)  # noqa: B023
        with pytest.raises(error), gg.no_grad():
            slope(f, outer)(1.0)
        assert clean()
    assert slope(f0, outer)(0.7) == pytest.approx(DERIVATIVES[0](0.7))


def test_caught_exceptions_inside_a_forward_pass():
    def f(x):
        for inner in MODES:
            with pytest.raises(Broken):
                slope(lambda y: (_ for _ in ()).throw(Broken), inner)(x)
        return x * x

    assert gg.jvp(f, (3.0,), (1.0,)) == (9.0, 6.0)
    assert gg.grad(f)(3.0) == 6.0
    assert clean()


def test_threads_differentiate_independently():
    """Every thread waits inside its transform until all are inside theirs."""
    barrier = threading.Barrier(5, timeout=20)

    def waiting(f):
        def g(x):
            barrier.wait()
            y = f(x)
            barrier.wait()
            return y

        return g

    def off():
        with gg.no_grad():
            barrier.wait()
            x = gg.asarray(2.0, requires_grad=True)
            y = x * x
            barrier.wait()
            return y.requires_grad, state.levels

    def plain():
        x = gg.asarray(2.0, requires_grad=True)
        waiting(lambda x: x * x * x)(x).backward()
        return x.grad.item()

    jobs = [
        off,
        plain,
        lambda: gg.jvp(waiting(gg.sin), (0.5,), (1.0,))[1],
        lambda: gg.grad(waiting(gg.sin))(0.5),
        lambda: gg.jvp(gg.grad(waiting(gg.sin)), (0.5,), (1.0,))[1],
    ]
    with ThreadPoolExecutor(len(jobs)) as pool:
        results = [job.result() for job in [pool.submit(job) for job in jobs]]
    want = [(False, []), 12.0, math.cos(0.5), math.cos(0.5), -math.sin(0.5)]
    assert results[:2] == want[:2]
    assert results[2:] == pytest.approx(want[2:])
    assert clean()


def test_tensor_that_leaked_from_a_forward_pass():
    """What a function kept for itself is a plain value once the pass is over."""
    kept = []

    def f(x):
        kept.append(x * x)
        return x

    gg.jvp(f, (3.0,), (1.0,))
    assert kept[0].item() == 9.0
    assert (kept[0] + 1).item() == 10.0
