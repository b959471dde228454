"""Complex numbers: values, and derivatives against differences in real and imaginary part.

The gradient of a real loss is dL/dRe + i·dL/dIm, PyTorch's convention.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.errors import GradientError
from gpugrad.late import ops

rng = np.random.default_rng(11)


def near(*shape: int) -> Any:
    """Complex numbers of modest size, away from zero and from every branch cut."""
    return rng.uniform(0.3, 1.2, shape) + 1j * rng.uniform(0.2, 1.1, shape)


def anywhere(*shape: int) -> Any:
    return rng.uniform(-1, 1, shape) + 1j * rng.uniform(-1, 1, shape)


UNARY = {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "conj": np.conj,
    "cos": np.cos,
    "cosh": np.cosh,
    "exp": np.exp,
    "expm1": np.expm1,
    "imag": np.imag,
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "negative": np.negative,
    "positive": np.positive,
    "real": np.real,
    "reciprocal": np.reciprocal,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sign": lambda x: x / np.abs(x),
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}
BINARY = {
    "add": np.add,
    "divide": np.divide,
    "multiply": np.multiply,
    "pow": np.power,
    "subtract": np.subtract,
}


def check(f: Callable[..., Any], ref: Callable[..., Any], *args: Any) -> None:
    got = f(*[gg.asarray(a) for a in args])
    want = np.asarray(ref(*args))
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got.numpy(), want, 1e-12, 1e-12)
    gg.testing.gradcheck(f, args, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("shape", [(2, 3), ()])
def test_unary(name: str, shape: tuple[int, ...]) -> None:
    check(getattr(gg, name), UNARY[name], near(*shape))


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str) -> None:
    f, ref = getattr(gg, name), BINARY[name]
    check(f, ref, near(2, 3), near(3))
    check(f, ref, near(2, 3), near(3).real)  # of a real argument the gradient is real
    check(f, ref, near(2, 1).real, near(3))


CASES: dict[str, tuple[Any, ...]] = {
    "matmul": (gg.matmul, np.matmul, anywhere(2, 3), anywhere(3, 2)),
    "matmul-stack": (gg.matmul, np.matmul, anywhere(2, 2, 3), anywhere(3, 2)),
    "matmul-real": (gg.matmul, np.matmul, anywhere(2, 3), anywhere(3, 2).real),
    "linear": (
        gg.nn.linear,
        lambda x, w, b: x @ w.T + b,
        anywhere(2, 3),
        anywhere(2, 3),
        anywhere(2),
    ),
    "linear-vector": (
        gg.nn.linear,
        lambda x, w, b: w @ x + b,
        anywhere(3),
        anywhere(2, 3),
        anywhere(2),
    ),
    "sum": (lambda x: gg.sum(x, axis=0), lambda x: x.sum(0), anywhere(2, 3)),
    "mean": (gg.mean, np.mean, anywhere(2, 3)),
    "var": (gg.var, np.var, anywhere(2, 3)),
    "std": (gg.std, np.std, anywhere(2, 3)),
    "prod": (lambda x: gg.prod(x, axis=1), lambda x: x.prod(1), near(2, 3)),
    "prod-zero": (gg.prod, np.prod, np.array([1j, 0, 2 + 1j])),
    "norm": (lambda x: gg.norm(x, axis=1), lambda x: np.linalg.norm(x, axis=1), near(2, 3)),
    "logsumexp": (gg.logsumexp, lambda x: np.log(np.exp(x).sum()), near(3)),
    "cumsum": (lambda x: gg.cumulative_sum(x, axis=1), lambda x: x.cumsum(1), anywhere(2, 3)),
    "cumprod": (lambda x: gg.cumulative_prod(x, axis=1), lambda x: x.cumprod(1), anywhere(2, 3)),
    "cumprod-zero": (gg.cumulative_prod, np.cumprod, np.array([1j, 0, 2 + 1j])),
    "recurrence": (
        lambda a, b: ops.recurrence(a, b, axis=0),
        lambda a, b: np.stack([b[0], a[1] * b[0] + b[1]]),
        anywhere(2, 3),
        anywhere(2, 3),
    ),
    "where": (
        lambda a, b: gg.where(gg.asarray([True, False]), a, b),
        lambda a, b: np.where([True, False], a, b),
        anywhere(2),
        anywhere(2),
    ),
    "index": (lambda x: x[[0, 1, 0]], lambda x: x[[0, 1, 0]], anywhere(2)),
    "write": (
        lambda x, v: ops.setitem(x, v, key=(1,), reuse=False),
        lambda x, v: np.array([x[0], v]),
        anywhere(2),
        anywhere(),
    ),
    "write-real": (
        lambda x, v: ops.setitem(x, v, key=(1,), reuse=False),
        lambda x, v: np.array([x[0], v]),
        anywhere(2),
        anywhere().real,
    ),
    "concat-real": (
        lambda a, b: gg.concat([a, b]),
        lambda a, b: np.concatenate([a, b]),
        anywhere(2),
        anywhere(2).real,
    ),
    "astype": (
        lambda x: gg.astype(x, gg.complex128) * 1j,
        lambda x: x * 1j,
        anywhere(2).real,
    ),
    "number": (lambda x: x * (2 + 1j) / (1 - 2j), lambda x: x * (2 + 1j) / (1 - 2j), anywhere(2)),
    "number-real": (lambda x: x * (2 + 1j), lambda x: x * (2 + 1j), anywhere(2).real),
    "power": (lambda x: x**3 + x**-0.5, lambda x: x**3 + x**-0.5, near(2)),
    "power-complex": (lambda x: x ** (1 + 2j), lambda x: x ** (1 + 2j), near(2)),
    "power-base": (lambda x: (1 + 2j) ** x, lambda x: (1 + 2j) ** x, near(2)),
    "power-of-real": (lambda x: x ** (1 + 2j), lambda x: x ** (1 + 2j), near(2).real),
    "angle": (lambda x: gg.imag(gg.log(x)), np.angle, near(3)),
}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    f, ref, *args = CASES[name]
    check(f, ref, *args)


def test_the_gradient_points_uphill() -> None:
    """Of |z|² it is 2z, so z − lr·grad goes towards 0."""
    z = gg.asarray([3.0 - 4.0j], requires_grad=True)
    (gg.abs(z) ** 2).sum().backward()
    assert z.grad is not None
    np.testing.assert_allclose(z.grad.numpy(), [6 - 8j], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_dtypes_stay(dtype: str) -> None:
    z = gg.asarray(near(2, 2), dtype=dtype, requires_grad=True)
    loss = gg.sum(gg.abs(gg.exp(z * (1 + 1j)) / 2 + z**2 @ gg.conj(z).mT))
    assert loss.dtype == gg.finfo(dtype).dtype
    loss.backward()
    assert z.grad is not None
    assert z.grad.dtype == dtype


def test_a_real_leaf_gets_a_real_gradient() -> None:
    x = gg.asarray([1.0, 2.0], requires_grad=True)
    y = x * gg.asarray([1j, 2 + 1j])
    gg.sum(gg.real(y) ** 2 + gg.imag(y)).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 17.0]
    assert x.grad.dtype == gg.float32


@pytest.mark.parametrize("f", [gg.sqrt, gg.log, lambda z: z**0.5, lambda z: gg.acos(z + 1)])
def test_branch_points_have_no_derivative(f) -> None:
    """NumPy's complex infinity is inf + NaN·i, which no gradient should be."""
    z = np.array([0j, 1j])
    with np.errstate(all="ignore"), pytest.raises(GradientError, match="branch point"):
        gg.grad(lambda z: gg.sum(gg.real(f(z))))(z)
    with np.errstate(all="ignore"):
        g = gg.grad(lambda z: gg.sum(gg.real(gg.where(z == 0, 0, f(z)))))(z)
    assert g[0] == 0
    assert np.isfinite(g).all()


def test_subgradients_at_zero() -> None:
    z = gg.asarray([0j, 1j], requires_grad=True)
    gg.sum(gg.abs(z) + gg.real(gg.sign(z))).backward()
    assert z.grad is not None
    assert z.grad.tolist() == [0j, 1 + 1j]
    gradient = gg.grad(lambda z: gg.norm(z))(np.zeros(2, "c16"))
    assert gradient.tolist() == [0, 0]


def test_a_cast_to_real_says_which_part() -> None:
    z = gg.asarray([1j])
    with pytest.raises(gg.errors.DtypeError, match=r"gg\.real"):
        z.astype(gg.float32)
    assert z.astype(gg.bool).tolist() == [True]
    assert z.astype(gg.complex128).dtype == gg.complex128
