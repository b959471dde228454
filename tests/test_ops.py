"""Every op, driven by the case table: value, dtype, shape, aval, first and second derivatives."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case

import gpugrad as gg
from gpugrad.aval import Aval, aval_of
from gpugrad.errors import DtypeError, GradientError
from gpugrad.late import ops
from gpugrad.op import Op, elementwise

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-2}


def as_dtype(args: tuple[Any, ...], dtype: Any) -> list[Any]:
    """Floating arguments in ``dtype``, with the strides they had."""
    cast = []
    for a in args:
        if a.dtype.kind != "f":
            cast.append(a)
            continue
        moved = (
            np.empty_like(a, dtype=dtype) if a.flags.c_contiguous else a.astype(dtype, order="K")
        )
        moved[...] = a
        cast.append(moved)
    return cast


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_value(case: Case, dtype: str, device: str) -> None:
    args = as_dtype(case.args, dtype)
    got = case.f(*[gg.asarray(a, device=device) for a in args])
    want = np.asarray(case.ref(*[a.astype("f8") if a.dtype.kind == "f" else a for a in args]))
    assert isinstance(got, gg.Tensor)
    assert got.shape == want.shape
    if want.dtype.kind == "f":
        cast = case.op == "astype" or case.op == "one_hot"
        assert cast or got.dtype == dtype, f"dtype drifted to {got.dtype}"
    else:
        assert got.dtype.kind == want.dtype.kind
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(got.to("cpu").numpy().astype(want.dtype), want, tolerance, tolerance)


@pytest.mark.parametrize("case", [c for c in CASES if c.smooth], ids=lambda c: c.id)
def test_derivatives(case: Case, device: str) -> None:
    """vjp and jvp against differences, and both kinds of second derivative."""
    gg.testing.gradcheck(lambda *xs: case.f(*xs) * 1.0, case.args, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("case", [c for c in CASES if c.smooth], ids=lambda c: c.id)
def test_gradients_keep_dtype(case: Case, device: str) -> None:
    """float32 in, float32 gradient out, of the argument's own shape."""
    leaves = [
        gg.asarray(a, device=device, requires_grad=True) for a in as_dtype(case.args, "float32")
    ]
    case.f(*leaves).sum().backward()
    for x in leaves:
        assert x.grad is not None
        assert (x.grad.dtype, x.grad.shape, x.grad.device) == (gg.float32, x.shape, x.device)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_aval_foretells(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape rule, which tracing relies on, says what forward then does."""
    run = Op.__call__
    seen = []

    def checked(op: Op, *xs: Any, **params: Any) -> Any:
        y = run(op, *xs, **params)
        data_dependent = "item" in op.name and any(getattr(x, "dtype", 0) == np.bool_ for x in xs)
        if not isinstance(y, tuple) and hasattr(y, "shape") and not data_dependent:
            avals = [aval_of(x) for x in xs]
            assert op.aval(*avals, **params) == Aval(y.shape, y.dtype), op
            seen.append(op.name)
        return y

    monkeypatch.setattr(Op, "__call__", checked)
    case.f(*[gg.asarray(a) for a in case.args])
    unseen = case.op in WITH_SEVERAL_OUTPUTS or case.note in ("mask-", "full-mask-", "up-")
    assert seen or unseen


# What the check above cannot see: tuples of outputs, shapes that depend on values, no op at all.
WITH_SEVERAL_OUTPUTS = {"sgd", "sgd_momentum", "adam", "rmsprop", "adagrad"}


SPECIAL = [0.0, 1.0, -1.0, 0.5, -3.7, 3.0, 0.1, 1e10, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("name", ["remainder", "floor_divide"])
def test_quotients_and_remainders_are_numpys(name: str, dtype: str, device: str) -> None:
    with np.errstate(all="ignore"):
        a, b = np.array(list(product(SPECIAL, repeat=2))).astype(dtype).T.copy()
        wanted = getattr(np, name)(a, b)
        found = getattr(ops, name)(*[gg.asarray(x, device=device) for x in (a, b)])
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found.to("cpu").numpy(), wanted)


def test_a_bound_that_is_nan_is_not_passed_over(device: str) -> None:
    x, low = (gg.asarray(v, device=device) for v in ([1.0, 5.0], [np.nan, 0.0]))
    np.testing.assert_array_equal(gg.clip(x, low, low + 2).to("cpu").numpy(), [np.nan, 2])


def test_whole_numbers_have_no_negative_powers(device: str) -> None:
    x = gg.asarray([1, -2], device=device)
    assert (x ** gg.asarray([2, 3], device=device)).tolist() == [1, -8]
    for power in (lambda: x**-1, lambda: 2**x, lambda: x**x):
        with pytest.raises(gg.errors.DtypeError, match="negative integer powers"):
            power()


def test_gradient_of_complex_numbers_read_twice(device: str) -> None:
    x = gg.asarray(np.array([1 + 2j, 3, 4j]), device=device, requires_grad=True)
    rows = gg.asarray([0, 0, 2], device=device)
    (gg.abs(x[rows]) ** 2).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.to("cpu").numpy(), [4 + 8j, 0, 8j])


# Edges and ordinary values. Two inputs take them all ways, three only the four in the middle.
POINTS = [-1e4, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 1e4]
SETTINGS = {
    "bessel_i": {"order": 0},
    "leaky_relu": {"slope": 0.1},
    "elu": {"alpha": 1.0},
    "astype": {"dtype": np.float64},
}


@pytest.mark.parametrize(
    "op",
    [op for op in vars(ops).values() if op.kind == "elementwise" and op.rules is not None],
    ids=repr,
)
def test_no_derivative_is_nan_where_the_value_is_finite(op: Op) -> None:
    """To first and second order, in any mode: exact, infinite, a subgradient, or an error."""
    points = list(product(POINTS if len(op.inputs) < 3 else POINTS[2:7], repeat=len(op.inputs)))
    smooth = [i for i, rule in enumerate(op.rules) if rule is not None]

    def f(*xs: Any) -> Any:
        given = iter(xs)
        args = [next(given) if i in smooth else point[i] > 0 for i in range(len(op.inputs))]
        y = op(*args, **SETTINGS.get(op.name, {}))
        return gg.real(y) + gg.imag(y) if y.dtype.kind == "c" else y

    ones, every = [1.0] * len(smooth), tuple(range(len(smooth)))
    with np.errstate(all="ignore"):
        for point in points:
            xs = [point[i] for i in smooth]
            if not np.isfinite(f(*map(gg.asarray, map(np.float64, xs))).item()):
                continue
            if op.name == "pow" and point[0] < 0:
                with pytest.raises(GradientError, match="negative number"):
                    gg.grad(f, every)(*xs)
                continue
            slopes = [*gg.grad(f, every)(*xs), gg.jvp(f, xs, ones)[1], *gg.hvp(f, xs, ones)]
            slopes += gg.grad(lambda *xs: sum(gg.grad(f, every)(*xs)), every)(*xs)
            assert not np.isnan(slopes).any(), (point, slopes)


def test_every_op_has_a_case() -> None:
    ours = {op.name for op in vars(ops).values() if op.forward.__module__.startswith("gpugrad.")}
    assert {case.op for case in CASES} == ours


def test_every_op_that_moves_floats_has_a_derivative() -> None:
    from cases import WITHOUT_DERIVATIVE

    for name, op in vars(ops).items():
        assert (op.rules is None) == (name in WITHOUT_DERIVATIVE), name
        assert (op.jvp is None) == (op.rules is None), name


def test_an_op_of_ones_own(device: str) -> None:
    """Declared outside the library, by its partial derivative alone: every mode follows."""
    softsign = elementwise(
        "own_softsign", lambda xp, x: x / (1 + xp.abs(x)), [lambda x: 1 / (1 + ops.abs(x)) ** 2]
    )
    x = np.array([0.3, -2.0])
    assert gg.testing.gradcheck(softsign, [x])
    compiled = gg.compile(lambda x: softsign(x).sum())
    given = gg.asarray(x, device=device)
    assert compiled(given).item() == pytest.approx(softsign(given).sum().item())
    assert "ran uncompiled" not in compiled.stats()
    with pytest.raises(DtypeError, match=r"gpugrad\.ops\.elementwise has that name; got 'tanh'"):
        elementwise("tanh", lambda xp, x: x, [1])
    assert gg.tanh(1.0).item() < 1
