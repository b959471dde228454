"""Linear algebra, einsum and fft where they are hard: equal eigenvalues, singular and empty
matrices, complex numbers, and losses that depend on an arbitrary choice of vectors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.errors import DtypeError, GpugradError, GradientError, ShapeError
from gpugrad.late import ops

la = gg.linalg
rng = np.random.default_rng(11)


def real(*shape: int) -> Any:
    return rng.standard_normal(shape)


def cplx(*shape: int) -> Any:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def herm(x: Any) -> Any:
    return (x + gg.conj(x.mT)) * 0.5


def check_complex(f: Any, *xs: Any, order: int = 2) -> None:
    """``f`` of complex arrays, as a function of their real and imaginary parts."""

    def g(*parts: Any) -> Any:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return f(*[a + 1j * b for a, b in pairs])

    halves = [part for x in xs for part in (x.real, x.imag)]
    gg.testing.gradcheck(g, halves, rtol=5e-4, atol=5e-5, order=order)


def check_gradient(f: Any, x: Any) -> None:
    """Reverse mode alone, where forward mode would have to know what the loss will see."""
    dx = real(*x.shape)
    want = gg.testing.numerical_jvp(f, [x], [dx])
    np.testing.assert_allclose((gg.grad(f)(x) * dx).sum(), want, 1e-5, 1e-6)


def with_spectrum(w: Any, n: int | None = None) -> Any:
    """A symmetric matrix with eigenvalues ``w`` and no structure of its own."""
    q = np.linalg.qr(real(len(w), len(w)))[0]
    return (q * np.asarray(w)) @ q.T


def with_singular_values(m: int, n: int, s: Any) -> Any:
    u = np.linalg.qr(real(m, m))[0][:, : len(s)]
    v = np.linalg.qr(real(n, n))[0][:, : len(s)]
    return (u * np.asarray(s)) @ v.T


# Values


UNARY = ["inv", "det", "pinv", "cholesky", "eigvalsh", "svdvals", "eigvals", "matrix_rank"]


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3), (0, 3, 3), (2, 0, 3, 3), (0, 0)])
@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
def test_values_agree_with_numpy(name: str, shape: tuple[int, ...], dtype: str) -> None:
    x = (cplx(*shape) if dtype[0] == "c" else real(*shape)) * 0.3
    x = x @ np.conj(np.swapaxes(x, -1, -2)) + np.diag(1.0 + np.arange(shape[-1]))
    x = x.astype(dtype)
    want = getattr(np.linalg, name)(x)
    got = getattr(la, name)(gg.asarray(x))
    assert got.shape == want.shape
    precision = np.dtype(dtype).type(0).real.dtype
    assert got.numpy().real.dtype == precision or name == "matrix_rank"
    if name == "eigvals":
        got, want = np.sort_complex(got.numpy()), np.sort_complex(want)
    np.testing.assert_allclose(np.asarray(got), want, 1e-4 if precision == "f4" else 1e-10)


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (0, 2, 3), (3, 0), (2, 0, 3), (2, 3, 3)])
@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("full", [False, True])
def test_factors_multiply_to_the_matrix(shape: tuple[int, ...], dtype: str, full: bool) -> None:
    x = gg.asarray((cplx(*shape) if dtype[0] == "c" else real(*shape)).astype(dtype))
    tolerance = 1e-4 if dtype in ("f4", "c8") else 1e-12
    want = np.linalg.svd(x.numpy(), full_matrices=full)
    u, s, vh = la.svd(x, full_matrices=full)
    assert [u.shape, s.shape, vh.shape] == [a.shape for a in want]
    assert (u.dtype, s.dtype, vh.dtype) == (x.dtype, np.empty(0, dtype).real.dtype, x.dtype)
    k = s.shape[-1]
    product = (u[..., :k] * s[..., None, :]) @ vh[..., :k, :]
    np.testing.assert_allclose(product.numpy(), x.numpy(), 0, tolerance)
    q, r = la.qr(x, mode="complete" if full else "reduced")
    shapes = [a.shape for a in np.linalg.qr(x.numpy(), mode="complete" if full else "reduced")]
    assert [q.shape, r.shape] == shapes
    np.testing.assert_allclose((q @ r).numpy(), x.numpy(), 0, tolerance)
    assert not np.tril(r.numpy(), -1).any()


def test_results_have_the_standards_names() -> None:
    x = gg.eye(2)
    assert la.eigh(x)._fields == ("eigenvalues", "eigenvectors")
    assert la.eig(x)._fields == ("eigenvalues", "eigenvectors")
    assert la.qr(x)._fields == ("Q", "R")
    assert la.slogdet(x)._fields == ("sign", "logabsdet")
    assert la.svd(x)._fields == ("U", "S", "Vh")


def test_hermitian_decompositions_of_complex_matrices() -> None:
    x = cplx(2, 3, 3)
    x = x + np.conj(np.swapaxes(x, -1, -2))
    w, v = la.eigh(gg.asarray(x))
    assert w.dtype == gg.float64
    np.testing.assert_allclose(w.numpy(), np.linalg.eigvalsh(x))
    rebuilt = (v * w[..., None, :]) @ gg.conj(v.mT)
    np.testing.assert_allclose(rebuilt.numpy(), x, atol=1e-12)
    upper = la.cholesky(gg.asarray(x + 10 * np.eye(3)), upper=True).numpy()
    want = np.linalg.cholesky(x + 10 * np.eye(3), upper=True)
    np.testing.assert_allclose(upper, want, atol=1e-12)


@pytest.mark.parametrize("rtol", [None, 0.5, np.array([1e-9, 0.9])])
def test_cut_off_of_pinv_and_rank(rtol: Any) -> None:
    x = np.stack([np.diag([3.0, 2.0, 1e-20]), np.diag([4.0, 1.0, 3.0])])
    kw = {} if rtol is None else {"rtol": rtol}
    want = np.linalg.pinv(x, rtol=1e-15 if rtol is None else rtol)
    np.testing.assert_allclose(la.pinv(gg.asarray(x), **kw).numpy(), want, atol=1e-14)
    want = np.linalg.matrix_rank(x, **kw)
    np.testing.assert_array_equal(la.matrix_rank(gg.asarray(x), **kw).numpy(), want)


# Complex derivatives, in PyTorch's convention: of a real loss, dL/dRe + i dL/dIm


def test_convention() -> None:
    a, b = cplx(3, 3), cplx(3, 3)
    x = gg.asarray(a, requires_grad=True)
    gg.sum(gg.real(x @ b)).backward()
    np.testing.assert_allclose(x.grad.numpy(), np.ones((3, 3)) @ np.conj(b).T)


def _abs2(x: Any) -> Any:
    return gg.real(gg.conj(x) * x)


def _mix(x: Any) -> Any:
    return gg.real(x) + 2 * gg.imag(x)


COMPLEX: dict[str, Any] = {
    "inv": lambda x: _mix(la.inv(x)),
    "solve": lambda x: _mix(la.solve(x, x.mT)),
    "det": lambda x: _mix(la.det(x)),
    "slogdet": lambda x: la.slogdet(x)[1] * _mix(la.slogdet(x)[0]),
    "pinv": lambda x: _mix(la.pinv(x[:, :2])),
    "cholesky": lambda x: _mix(la.cholesky(x @ gg.conj(x.mT))),
    "eigvalsh": lambda x: la.eigvalsh(herm(x)),
    "eigh": lambda x: _abs2(la.eigh(herm(x))[1]) * la.eigh(herm(x))[0],
    "eigh projector": lambda x: _mix(_projector(la.eigh(herm(x))[1][:, :1])),
    "svdvals": lambda x: la.svdvals(x[:, :2]),
    "svd": lambda x: _mix(_svd_product(*la.svd(x))),
    "svd tall": lambda x: _mix(_svd_product(*la.svd(x[:, :2], full_matrices=False))),
    "svd wide": lambda x: _abs2(la.svd(x[:2], full_matrices=False)[2]),
    "qr": lambda x: _mix(la.qr(x).Q + la.qr(x).R),
    "qr tall": lambda x: _mix(la.qr(x[:, :2]).Q),
    "qr wide": lambda x: _mix(la.qr(x[:2]).R),
    "eigvals": lambda x: gg.sum(_mix(la.eigvals(x) ** 3)),
    "eig": lambda x: gg.sum(_abs2(la.eig(x)[1]) ** 2, axis=-2).sum(),
    "vector_norm": lambda x: la.vector_norm(x, ord=3, axis=0),
    "matrix_norm": lambda x: la.matrix_norm(x, ord="nuc"),
    "einsum": lambda x: _mix(gg.einsum("ij,jk,ik->i", x, x, gg.conj(x))),
    "vecdot": lambda x: _mix(gg.vecdot(x, x.mT)),
    "trace": lambda x: _mix(gg.trace(x @ x)),
    "fft": lambda x: _mix(gg.fft.fft(x)) * _abs2(gg.fft.ifft(x)),
    "fftn": lambda x: _abs2(gg.fft.fftn(x, norm="ortho")),
    "irfft": lambda x: gg.fft.irfft(x, axis=0),
    "irfft odd": lambda x: gg.fft.irfft(x, n=5),
    "hfft": lambda x: gg.fft.hfft(x, n=3),
    "rfft": lambda x: _abs2(gg.fft.rfft(gg.real(x))),
}


def _projector(v: Any) -> Any:
    return v @ gg.conj(v.mT)


def _svd_product(u: Any, s: Any, vh: Any) -> Any:
    return (u * gg.exp(s)[..., None, :]) @ vh


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_derivatives(name: str) -> None:
    local = np.random.default_rng(5)
    x = 0.4 * (local.standard_normal((3, 3)) + 1j * local.standard_normal((3, 3)))
    check_complex(COMPLEX[name], x + np.diag([1.0, 2.0, 3.5]))


def test_batches_of_complex_matrices() -> None:
    x = 0.4 * cplx(2, 2, 2) + np.diag([1.0, 3.0])
    check_complex(lambda x: _mix(_svd_product(*la.svd(x))), x)
    check_complex(lambda x: _mix(la.det(x)), x)


@pytest.mark.parametrize("name", ["eigh", "svd", "eig"])
def test_a_loss_that_sees_the_phase_raises(name: str) -> None:
    def loss(x: Any) -> Any:
        vectors = getattr(la, name)(herm(x) if name == "eigh" else x)[1 if name != "svd" else 0]
        return gg.imag(gg.sum(vectors[1, 0]))

    with pytest.raises(GradientError, match="phase"):
        gg.grad(loss)(cplx(3, 3))


# Equal eigenvalues


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("matrix", [np.eye(3), with_spectrum([1, 1, 2]), np.zeros((3, 3))])
def test_losses_of_eigenvalues_alone_never_divide(matrix: Any, dtype: str) -> None:
    x = matrix.astype(dtype)
    want = 2 * x
    for f in (la.eigvalsh, lambda x: la.eigh(x).eigenvalues):
        got = gg.grad(lambda x, f=f: (f(x) ** 2).sum())(x)
        np.testing.assert_allclose(got, want, atol=1e-5 if dtype == "f4" else 1e-12)
    _, rate = gg.jvp(lambda x: (la.eigvalsh(x) ** 2).sum(), (x,), (np.ones_like(x),))
    np.testing.assert_allclose(rate, want.sum(), atol=1e-4)


def test_subspaces_of_equal_eigenvalues_have_a_derivative() -> None:
    """The projector on both equal eigenvectors, though neither has a derivative of its own."""
    x = with_spectrum([1.0, 1.0, 3.0])
    weights = real(3, 3)

    def loss(x: Any) -> Any:
        v = la.eigh((x + x.mT) * 0.5).eigenvectors[:, :2]
        return (v @ v.mT * weights).sum()

    check_gradient(loss, x)


def _matrix_function(f: Any) -> Any:
    """``V f(w) Vᵀ`` of a symmetric matrix."""

    def apply(x: Any) -> Any:
        w, v = la.eigh((x + x.mT) * 0.5)
        return (v * f(w)[..., None, :]) @ v.mT

    return apply


@pytest.mark.parametrize("f", [gg.exp, gg.log, gg.sqrt, lambda w: w * 1])
def test_functions_of_values_and_vectors_raise_at_equal_ones(f: Any) -> None:
    """Their derivative contains f′, which no cotangent tells; 0 / 0 = 0 would leave it out.

    Neither gap nor cotangent has a NaN to show: at I the logarithm sends 0 back to the vectors.
    """
    weights = real(3, 3)

    def loss(x: Any) -> Any:
        return (_matrix_function(f)(x) * weights).sum()

    for x in (np.eye(3), with_spectrum([1.0, 1.0, 3.0])):
        with pytest.raises(GradientError, match=r"\[eigh\] a loss that sees equal"):
            gg.grad(loss)(x)
        with pytest.raises(GradientError, match=r"\[eigh\]"):
            gg.jvp(loss, (x,), (real(3, 3),))
        with pytest.raises(GradientError, match=r"\[eigh\]"):
            gg.hvp(loss, (x,), (real(3, 3),))
    gg.testing.gradcheck(loss, [with_spectrum([1.0, 2.0, 3.5])])


def test_the_same_of_svd_and_eig() -> None:
    weights = real(3, 3)

    def rebuilt(x: Any) -> Any:
        u, s, vh = la.svd(x, full_matrices=False)
        return ((u * s[..., None, :]) @ vh * weights[: x.shape[0], : x.shape[1]]).sum()

    for x in (np.eye(3), with_singular_values(3, 2, (2.0, 2.0)), np.eye(3)[:, :2] * [1.0, 0.0]):
        with pytest.raises(GradientError, match=r"\[svd\] a loss that sees equal"):
            gg.grad(rebuilt)(x)

    def powers(x: Any) -> Any:
        w, v = la.eig(x)
        return gg.real((la.solve(v.mT, (v * w[None, :]).mT).mT * weights).sum())

    with pytest.raises(GradientError, match=r"\[eig\] a loss that sees equal"):
        gg.grad(powers)(np.eye(3))
    np.testing.assert_allclose(gg.grad(powers)(np.diag([1.0, 2, 4])), weights, atol=1e-12)


def test_values_and_vectors_in_calls_of_their_own() -> None:
    """What the message advises."""
    x, weights = with_spectrum([1.0, 1.0, 3.0]), real(3, 3)

    def loss(x: Any) -> Any:
        x = (x + x.mT) * 0.5
        v = la.eigh(x).eigenvectors[:, :2]
        return (la.eigh(x).eigenvalues ** 3).sum() + (v @ v.mT * weights).sum()

    check_gradient(loss, x)


def test_functions_of_all_factors_where_one_singular_value_is_zero() -> None:
    """A value that changes sign there: the matrix rebuilt has the identity for derivative."""
    x, weights, dx = with_singular_values(3, 3, (2.0, 1.0, 0.0)), real(3, 3), real(3, 3)

    def rebuilt(x: Any) -> Any:
        u, s, vh = la.svd(x)
        return (u * s[None, :]) @ vh

    np.testing.assert_allclose(gg.jvp(rebuilt, (x,), (dx,))[1], dx, atol=1e-12)
    got = gg.grad(lambda x: (rebuilt(x) * weights).sum())(x)
    np.testing.assert_allclose(got, weights, atol=1e-12)
    for square in (lambda x: (rebuilt(x) ** 2).sum(), lambda x: (la.svd(x).S ** 2).sum()):
        np.testing.assert_allclose(gg.hvp(square, (x,), (dx,))[0], 2 * dx, atol=1e-10)


def numerical_hvp(f: Any, x: Any, dx: Any, eps: float = 1e-5) -> Any:
    return (gg.grad(f)(x + eps * dx) - gg.grad(f)(x - eps * dx)) / (2 * eps)


def reverse_hvp(f: Any, x: Any, dx: Any) -> Any:
    return gg.grad(lambda x: (gg.grad(f)(x) * dx).sum())(x)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: la.eigvalsh(herm(x))[-1], with_spectrum([1.0, 1.0, 3.0])),
        (lambda x: la.eigh(herm(x))[0][0], with_spectrum([1.0, 3.0, 5.0])),
        (lambda x: la.eigvalsh(herm(x))[1:].sum(), with_spectrum([1.0, 2.0, 2.0])),
        (lambda x: la.eigvalsh(herm(x)).sum(), np.eye(3)),
        (lambda x: gg.real(la.eigvals(x)).max(), np.diag([1.0, 1.0, 3.0])),
        (lambda x: la.matrix_norm(x, ord="nuc"), with_singular_values(3, 3, (2.0, 2.0, 2.0))),
        (lambda x: la.matrix_norm(x, ord=2), with_singular_values(3, 3, (2.0, 0.0, 0.0))),
        (lambda x: la.matrix_norm(x, ord=2), with_singular_values(3, 2, (2.0, 0.0))),
        (lambda x: la.matrix_norm(x, ord=2), with_singular_values(2, 3, (2.0, 0.0))),
    ],
)
def test_second_derivatives_that_do_exist_at_equal_values(f: Any, x: Any) -> None:
    """Linear in the values, and blind to which of the equal ones is which."""
    dx = real(*x.shape)
    want = numerical_hvp(f, x, dx)
    np.testing.assert_allclose(gg.hvp(f, (x,), (dx,))[0], want, 1e-6, 1e-8)
    np.testing.assert_allclose(reverse_hvp(f, x, dx), want, 1e-6, 1e-8)


def test_third_derivatives_at_equal_values_raise() -> None:
    x, dx = with_spectrum([1.0, 1.0, 3.0]), real(3, 3)

    def bend(x: Any) -> Any:
        return (reverse_hvp(lambda x: la.eigvalsh(herm(x))[-1], x, dx) * dx).sum()

    with pytest.raises(GradientError, match=r"\[eigvalsh\] no derivative of this order"):
        gg.grad(bend)(x)


def test_second_derivatives_of_values_at_zero_raise() -> None:
    """Σs² has one, which the subgradient 0 of s cannot know; svd's signed values do."""
    x, dx = with_singular_values(3, 3, (2.0, 1.0, 0.0)), real(3, 3)

    def f(x: Any) -> Any:
        return (la.svdvals(x) ** 2).sum()

    for hvp in (lambda: gg.hvp(f, (x,), (dx,)), lambda: reverse_hvp(f, x, dx)):
        with pytest.raises(GradientError, match=r"\[svdvals\].*equal or 0; try svd\(x\)\.S"):
            hvp()


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_eigenvectors_of_equal_eigenvalues_raise(scale: float) -> None:
    x, weights = scale * with_spectrum([1.0, 1.0, 3.0]), real(3, 3)
    with pytest.raises(GradientError, match=r"\[eigh\] eigenvectors of equal.*try eigvalsh"):
        gg.grad(lambda x: (la.eigh(x).eigenvectors * weights).sum())(x)
    with pytest.raises(GradientError, match="eigh"):
        gg.jvp(lambda x: la.eigh(x).eigenvectors, (x,), (real(3, 3),))


@pytest.mark.parametrize("f", [la.eigvalsh, lambda x: la.eigh(x)[0], la.svdvals, la.eigvals])
def test_second_derivatives_at_equal_values_raise(f: Any) -> None:
    """tr x² has one, 2 dx, but no path through the eigenvectors of I leads there."""

    def loss(x: Any) -> Any:
        return gg.real((f(x) ** 2).sum())

    with pytest.raises(GradientError, match="equal"):
        gg.hvp(loss, (np.eye(2),), (real(2, 2),))
    with pytest.raises(GradientError, match="equal"):
        gg.grad(lambda x: (gg.grad(loss)(x) * real(2, 2)).sum())(np.eye(2))


def test_one_degenerate_matrix_in_a_batch() -> None:
    x = np.stack([np.diag([1.0, 2.0]), np.eye(2)])
    got = gg.grad(lambda x: gg.exp(la.eigh(x).eigenvalues).sum())(x)
    np.testing.assert_allclose(got, np.stack([np.diag(np.exp([1.0, 2.0])), np.e * np.eye(2)]))


def test_general_eigenvalues() -> None:
    jordan = np.array([[1.0, 1.0], [0.0, 1.0]])
    got = gg.grad(lambda x: gg.real(la.eigvals(x).sum()))(np.eye(2))
    np.testing.assert_allclose(got, np.eye(2))
    for f in (la.eigvals, lambda x: la.eig(x)[0]):
        with pytest.raises(GradientError, match="full set of eigenvectors"):
            gg.grad(lambda x, f=f: gg.real(f(x)[0]))(jordan)
        with pytest.raises(GradientError, match="full set of eigenvectors"):
            gg.jvp(f, (jordan,), (jordan,))
    with pytest.raises(GradientError, match="eig"):
        gg.grad(lambda x: abs(la.eig(x)[1][:, 0].sum()) ** 2)(np.eye(2))


# Singular values


@pytest.mark.parametrize("shape", [(3, 3), (4, 3), (3, 4)])
@pytest.mark.parametrize("s", [(2.0, 2.0, 1.0), (2.0, 1.0, 0.0), (3.0, 0.0, 0.0), (0.0, 0.0, 0.0)])
def test_losses_of_singular_values_alone(shape: tuple[int, int], s: Any) -> None:
    x = with_singular_values(*shape, s)
    for f in (la.svdvals, lambda x: la.svd(x, full_matrices=False).S, lambda x: la.svd(x).S):
        got = gg.grad(lambda x, f=f: (f(x) ** 2).sum())(x)
        np.testing.assert_allclose(got, 2 * x, atol=1e-12)
    rate = gg.jvp(lambda x: (la.svdvals(x) ** 2).sum(), (x,), (np.ones(shape),))[1]
    np.testing.assert_allclose(rate, 2 * x.sum(), atol=1e-12)


def test_a_zero_singular_value_has_subgradient_zero() -> None:
    x = np.diag([2.0, 0.0])
    for order in ("nuc", 2):
        got = gg.grad(lambda x, p=order: la.matrix_norm(x, ord=p))(x)
        np.testing.assert_allclose(got, np.diag([1.0, 0.0]), atol=1e-12)
    assert not gg.grad(lambda x: la.matrix_norm(x, ord=-2))(x).any()


@pytest.mark.parametrize("s", [(2.0, 2.0, 1.0), (2.0, 0.0, 0.0)])
def test_singular_vectors_without_a_derivative_raise(s: Any) -> None:
    x = with_singular_values(3, 3, s)
    weights = real(3, 3)
    with pytest.raises(GradientError, match=r"\[svd\] singular vectors of equal or zero"):
        gg.grad(lambda x: (la.svd(x).U * weights).sum())(x)
    with pytest.raises(GradientError, match=r"\[svd\]"):
        gg.jvp(lambda x: la.svd(x).U, (x,), (weights,))


def test_column_space_of_rank_deficient_matrix() -> None:
    """Left vectors of a tall matrix divide by s: the vectors of nonzero ones are fine."""
    x = with_singular_values(4, 3, (3.0, 1.0, 0.0))

    def loss(x: Any) -> Any:
        u = la.svd(x, full_matrices=False).U[:, :1]
        return (u @ u.mT * weights).sum()

    weights = real(4, 4)
    check_gradient(loss, x)


def test_basis_of_the_rest_has_no_derivative() -> None:
    x = real(4, 2)
    with pytest.raises(GradientError, match=r"\[svd\].*full_matrices=False"):
        gg.grad(lambda x: la.svd(x).U.sum())(x)
    with pytest.raises(GradientError, match=r"\[qr\].*reduced"):
        gg.grad(lambda x: la.qr(x, mode="complete").Q.sum())(x)
    with pytest.raises(GradientError, match=r"\[svd\]"):
        gg.jvp(lambda x: la.svd(x).S, (x,), (x,))
    first = gg.grad(lambda x: (la.qr(x, mode="complete").Q[:, :2] ** 3).sum())(x)
    np.testing.assert_allclose(first, gg.grad(lambda x: (la.qr(x).Q ** 3).sum())(x))
    first = gg.grad(lambda x: (la.svd(x).U[:, :2] ** 4).sum())(x)
    thin = gg.grad(lambda x: (la.svd(x, full_matrices=False).U ** 4).sum())(x)
    np.testing.assert_allclose(first, thin)


# Systems


def test_singular_matrices_raise() -> None:
    x = gg.asarray([[1.0, 2.0], [2.0, 4.0]])
    with pytest.raises(la.LinAlgError, match=r"\[inv\] the matrix is singular.*try pinv"):
        la.inv(x)
    with pytest.raises(np.linalg.LinAlgError, match=r"\[solve\]"):
        la.solve(x, x)
    with pytest.raises(GpugradError, match=r"\[cholesky\] .*positive definite"):
        la.cholesky(gg.asarray([[1.0, 0.0], [0.0, -1.0]]))
    with pytest.raises(GpugradError, match=r"\[inv\]"):
        la.matrix_power(x, -1)


def test_qr_without_full_rank_raises() -> None:
    x = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [3.0, 6.0, 1.0]])
    for f in (lambda x: la.qr(x).Q.sum(), lambda x: la.qr(x[:2]).R.sum()):
        with pytest.raises(GradientError, match=r"\[qr\]"):
            gg.grad(f)(x)
        with pytest.raises(GradientError, match=r"\[qr\]"):
            gg.jvp(f, (x,), (np.ones((3, 3)),))


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", ["f8", "c16"])
def test_det_of_singular_matrices(rank: int, dtype: str) -> None:
    """A polynomial: it has every derivative, singular or not."""
    make = cplx if dtype[0] == "c" else real
    x = make(3, rank) @ make(rank, 3)
    if rank == 2:
        x = np.diag([1.0, 2.0, 0.0]) + 0 * x  # an exact zero
    if dtype[0] == "c":
        check_complex(lambda x: _mix(la.det(x)), x)
    else:
        gg.testing.gradcheck(la.det, [x])


def test_third_derivative_of_det() -> None:
    x, e = real(3, 3), real(3, 3)
    gg.testing.gradcheck(lambda x: gg.jvp(la.det, (x,), (e,))[1] * 1.0, [x])


def test_slogdet_of_singular_matrix() -> None:
    x = np.array([[1.0, 2.0], [2.0, 4.0]])
    sign, log = la.slogdet(gg.asarray(x))
    assert (sign.item(), log.item()) == (0.0, -np.inf)
    for derivative in (gg.grad, lambda f: lambda x: gg.jvp(f, (x,), (x,))):
        with pytest.raises(GradientError, match=r"\[slogdet\].*singular.*try det"):
            derivative(lambda x: la.slogdet(x)[1])(x)


def test_pinv_at_constant_rank() -> None:
    """A path of matrices of rank 2; beyond it there is no derivative, so no second one either."""
    u, v, du = real(4, 2), real(2, 3), real(4, 2)
    x, dx, weights = u @ v, du @ v, real(3, 4)

    def loss(x: Any) -> Any:
        return (la.pinv(x, rtol=1e-10) * weights).sum()

    want = gg.testing.numerical_jvp(lambda u: loss(u @ v), [u], [du])
    np.testing.assert_allclose((gg.grad(loss)(x) * dx).sum(), want, 1e-6)
    np.testing.assert_allclose(gg.jvp(loss, (x,), (dx,))[1], want, 1e-6)
    for hvp in (lambda: gg.hvp(loss, (x,), (dx,)), lambda: reverse_hvp(loss, x, dx)):
        with pytest.raises(GradientError, match=r"\[pinv\] no second derivative.*rank"):
            hvp()


def test_solve_shares_one_factorisation_for_both_cotangents() -> None:
    a = gg.asarray(real(3, 3) + 3 * np.eye(3), requires_grad=True)
    b = gg.asarray(real(3), requires_grad=True)
    la.solve(a, b).sum().backward()
    gb = np.linalg.solve(a.detach().numpy().T, np.ones(3))
    np.testing.assert_allclose(b.grad.numpy(), gb)
    want = -np.outer(gb, np.linalg.solve(a.detach().numpy(), b.detach().numpy()))
    np.testing.assert_allclose(a.grad.numpy(), want)
    for only in ((a, b.detach()), (a.detach(), b)):
        la.solve(*only).sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), 2 * want)


def test_gradients_of_hermitian_arguments_are_hermitian() -> None:
    x = real(3, 3)
    x = x @ x.T + np.eye(3)
    for f in (la.cholesky, la.eigvalsh, lambda x: la.eigh(x).eigenvectors ** 2):
        g = gg.grad(lambda x, f=f: (f(x) * np.arange(1.0, 4)).sum())(x)
        np.testing.assert_allclose(g, g.T, atol=1e-12)


def test_matrix_power() -> None:
    x = real(2, 3, 3)
    for n in (0, 1, 2, 7, -1, -3):
        want = np.linalg.matrix_power(x, n)
        np.testing.assert_allclose(la.matrix_power(gg.asarray(x), n).numpy(), want, 1e-8)
    assert la.matrix_power(gg.asarray([[1, 1], [0, 1]]), 3).tolist() == [[1, 3], [0, 1]]


# Norms at zero, and where powers overflow


@pytest.mark.parametrize("order", [0.5, 1, 1.5, 2, 3, np.inf, -np.inf, -1, -2.5, 0])
def test_vector_norm_at_zero(order: float) -> None:
    for x in (np.zeros(3), np.zeros(3, complex)):
        value, g = gg.value_and_grad(lambda x, p=order: la.vector_norm(x, ord=p))(x)
        assert value == 0
        assert not g.any()


@pytest.mark.parametrize("order", [0.5, 1, 1.5, 2, 3, np.inf, -1])
def test_derivatives_of_norms_of_vectors_with_a_zero_are_finite(order: float) -> None:
    x, dx = np.array([0.0, 3.0, 4.0]), np.ones(3)

    def norm(x: Any) -> Any:
        return la.vector_norm(x, ord=order)

    assert gg.grad(norm)(x)[0] == 0
    assert np.isfinite(gg.hvp(norm, (x,), (dx,))).all()


@pytest.mark.parametrize("order", ["fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf])
def test_matrix_norm_at_zero(order: Any) -> None:
    for x in (np.zeros((2, 3)), np.zeros((2, 3), complex)):
        assert not gg.grad(lambda x, p=order: la.matrix_norm(x, ord=p))(x).any()


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("order", [3, 5.5, -3, 0.5])
def test_powers_do_not_overflow(size: float, order: float) -> None:
    x = np.array([3.0, 4.0], "f4") * np.float32(size)
    value, g = gg.value_and_grad(lambda x: la.vector_norm(x, ord=order))(x)
    want = np.linalg.vector_norm(x.astype("f8"), ord=order)
    np.testing.assert_allclose(value, want, 1e-5)
    np.testing.assert_allclose((g * x).sum(), want, 1e-5)  # Euler: a norm has degree 1


def test_empty_norms() -> None:
    x = gg.zeros((0, 3))
    for order in (0, 1, 2, 3):
        assert la.vector_norm(x, axis=0, ord=order).tolist() == [0, 0, 0]
    assert la.matrix_norm(gg.zeros((2, 0, 3))).tolist() == [0, 0]


# Half precision, batches of nothing, gradients' dtypes


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("shape", [(2, 2), (0, 2, 2)])
def test_gradients_have_the_arguments_dtype(shape: tuple[int, ...], dtype: str) -> None:
    x = np.broadcast_to(np.array([[2.0, 0.5], [0.5, 1.0]], dtype), shape)
    losses = [
        lambda x: gg.sum(gg.real(la.inv(x))),
        lambda x: gg.sum(gg.real(la.det(x))),
        lambda x: gg.sum(la.slogdet(x)[1]),
        lambda x: gg.sum(gg.real(la.cholesky(x))),
        lambda x: gg.sum(la.eigh(x)[0]),
        lambda x: gg.sum(abs(la.eigh(x)[1])),
        lambda x: gg.sum(la.svd(x)[1]),
        lambda x: gg.sum(abs(la.svd(x)[0])),
        lambda x: gg.sum(abs(la.qr(x)[1])),
        lambda x: gg.sum(gg.real(la.pinv(x))),
        lambda x: gg.sum(abs(la.eigvals(x))),
        lambda x: gg.sum(abs(la.eig(x)[1])),
        lambda x: gg.sum(abs(gg.fft.fft(x) + 1)),
    ]
    for loss in losses:
        t = gg.asarray(x, requires_grad=True)
        loss(t).backward()
        assert (t.grad.dtype, t.grad.shape) == (x.dtype, shape)
        assert np.isfinite(t.grad.numpy()).all()


def test_decompositions_inside_second_order_reverse_mode() -> None:
    """Outputs of one op that a rule reads again share its node: their cotangents add up."""
    x = real(3, 3)

    def loss(x: Any) -> Any:
        w, v = la.eigh((x + x.mT) * 0.5)
        return (v**2 * w).sum() + (la.svd(x).U ** 4).sum()

    gg.testing.gradcheck(loss, [x])


# Arguments


@pytest.mark.parametrize(
    "call",
    [
        lambda: la.inv(gg.ones((2, 3))),
        lambda: la.det(gg.ones(3)),
        lambda: la.eigh(gg.ones((2, 3))),
        lambda: la.cholesky(gg.ones(2), upper=True),
        lambda: la.svd(gg.ones(3)),
        lambda: la.qr(gg.ones(3)),
        lambda: la.pinv(gg.ones(3)),
        lambda: la.solve(gg.ones((2, 2)), gg.ones(3)),
        lambda: la.solve(gg.eye(2), gg.ones((3, 1))),
        lambda: la.matrix_norm(gg.ones(3)),
        lambda: la.norm(gg.ones((2, 2, 2)), axis=(0, 1, 2), ord=2),
        lambda: la.cross(gg.ones(2), gg.ones(2)),
        lambda: la.outer(gg.ones((2, 2)), gg.ones(2)),
        lambda: la.lstsq(gg.ones((2, 2)), gg.ones(3)),
        lambda: la.matrix_power(gg.ones((2, 3)), 2),
        lambda: ops.qr(gg.ones((2, 3)), mode="reduced"),
        lambda: gg.vecdot(gg.ones(2), gg.ones(3)),
        lambda: gg.tensordot(gg.ones(2), gg.ones(3), axes=1),
        lambda: gg.tensordot(gg.ones(2), gg.ones(3), axes=2),
        lambda: gg.diagonal(gg.ones(3)),
        lambda: gg.diagonal(gg.ones((3, 3)), 0, 1, 1),
        lambda: gg.einsum("ij", gg.ones(3)),
        lambda: gg.einsum("i,i", gg.ones(3)),
        lambda: gg.einsum("i,i", gg.ones(3), gg.ones(2)),
        lambda: gg.einsum("i->ii", gg.ones(3)),
        lambda: gg.einsum("i->j", gg.ones(3)),
        lambda: gg.einsum("ii", gg.ones((2, 3))),
        lambda: gg.einsum("i.j", gg.ones((2, 3))),
        lambda: gg.fft.fft(gg.ones((2, 0))),
        lambda: gg.fft.fft(gg.ones(3), n=0),
        lambda: gg.fft.irfft(gg.ones(1)),
        lambda: gg.fft.fftn(gg.ones((2, 2)), axes=(0, 0)),
        lambda: gg.fft.fftn(gg.ones((2, 2)), s=(2,), axes=(0, 1)),
        lambda: gg.fft.fft(gg.ones(2), axis=1),
    ],
)
def test_wrong_shapes(call: Any) -> None:
    with pytest.raises(ShapeError, match=r"^\[\w+\] .*; got "):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: la.inv(gg.asarray([[1, 0], [0, 1]])),
        lambda: la.vector_norm(gg.ones(2), ord="fro"),
        lambda: la.matrix_norm(gg.ones((2, 2)), ord=3),
        lambda: la.qr(gg.ones((2, 2)), mode="raw"),
        lambda: la.matrix_power(gg.eye(2), 0.5),
        lambda: gg.einsum(gg.ones(2)),
        lambda: gg.fft.fft(gg.ones(2), norm="unit"),
        lambda: gg.fft.rfft(gg.ones(2, dtype=gg.complex64)),
        lambda: gg.fft.fftfreq(3, dtype=gg.int32),
    ],
)
def test_wrong_kinds(call: Any) -> None:
    with pytest.raises(DtypeError, match=r"^\[\w+\] .*; got "):
        call()


# einsum


@pytest.mark.parametrize("dtype", ["i4", "f4", "c8", "?"])
def test_einsum_keeps_dtype(dtype: str) -> None:
    a, b = np.ones((2, 3), dtype), np.ones((3, 2), dtype)
    for spec in ("ij,jk->ik", "ij,jk->i", "ij,jk->"):
        want = np.einsum(spec, a, b)
        got = gg.einsum(spec, gg.asarray(a), gg.asarray(b)).numpy()
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_einsum_chains_are_multiplied_in_a_good_order() -> None:
    """(a @ b) @ v would make an n × n matrix."""
    n = 200
    sizes = []
    a, b, v = gg.ones((n, n)), gg.ones((n, n)), gg.ones(n)
    from gpugrad.state import state

    with state.watched_by(lambda op, xs, y: sizes.append((op.name, y.size))):
        gg.einsum("ij,jk,k->i", a, b, v)
    assert max(size for name, size in sizes if name == "matmul") == n


def test_random_einsums_agree_with_numpy() -> None:
    local = np.random.default_rng(3)
    letters = "abcd"
    sizes = dict(zip(letters, (2, 3, 1, 4), strict=True))
    for _ in range(300):
        groups = [
            "".join(local.choice(list(letters), local.integers(0, 4)))
            for _ in range(local.integers(1, 4))
        ]
        seen = sorted(set("".join(groups)))
        output = "".join(local.permutation(seen)[: local.integers(0, len(seen) + 1)])
        spec = ",".join(groups) + ("" if local.random() < 0.3 else "->" + output)
        xs = [local.standard_normal([sizes[c] for c in group]) for group in groups]
        want = np.einsum(spec, *xs)
        got = gg.einsum(spec, *map(gg.asarray, xs)).numpy()
        np.testing.assert_allclose(got, want, 1e-10, 1e-12, err_msg=spec)


# fft


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("norm", [None, "ortho", "forward"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fft", {}),
        ("fft", {"n": 3, "axis": 0}),
        ("ifft", {"n": 7}),
        ("fftn", {}),
        ("fftn", {"s": (3, 6)}),
        ("fftn", {"s": (3, -1), "axes": (2, 0)}),
        ("ifftn", {"axes": (0, 1)}),
        ("rfft", {}),
        ("rfft", {"n": 3}),
        ("irfft", {}),
        ("irfft", {"n": 7, "axis": 1}),
        ("rfftn", {}),
        ("rfftn", {"s": (3, 6)}),
        ("rfftn", {"axes": (1,)}),
        ("irfftn", {}),
        ("irfftn", {"s": (3, 5), "axes": (0, 2)}),
        ("hfft", {}),
        ("hfft", {"n": 5}),
        ("ihfft", {"n": 5}),
    ],
)
def test_fft_agrees_with_numpy(name: str, options: Any, norm: Any, dtype: str) -> None:
    if name in ("rfft", "rfftn", "ihfft"):
        dtype = dtype.replace("c16", "f8").replace("c8", "f4")
    x = (cplx(2, 3, 4) if dtype[0] == "c" else real(2, 3, 4)).astype(dtype)
    axes = options.get("axes", (1, 2) if "s" in options else None)
    given = {**options, "axes": axes} if "s" in options else options
    want = getattr(np.fft, name)(x, norm=norm, **given)
    got = getattr(gg.fft, name)(gg.asarray(x), norm=norm, **options).numpy()
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-5 if dtype in ("f4", "c8") else 1e-12)


@pytest.mark.parametrize("n", [1, 4, 5])
def test_frequencies(n: int) -> None:
    for name in ("fftfreq", "rfftfreq"):
        got = getattr(gg.fft, name)(n, d=0.5)
        assert got.dtype == gg.float32
        np.testing.assert_allclose(got.numpy(), getattr(np.fft, name)(n, 0.5), 1e-6)
        assert getattr(gg.fft, name)(n, dtype=gg.float64).dtype == gg.float64


def test_adjoints() -> None:
    """⟨A x, y⟩ = ⟨x, Aᴴ y⟩ for every transform, size parity and norm."""
    for n in (4, 5):
        for norm in ("backward", "ortho", "forward"):
            for f, x in [
                (gg.fft.fft, cplx(n)),
                (gg.fft.ifft, cplx(n)),
                (gg.fft.rfft, real(n)),
                (gg.fft.ihfft, real(n)),
                (lambda x, norm, n=n: gg.fft.irfft(x, n=n, norm=norm), cplx(n // 2 + 1)),
                (lambda x, norm, n=n: gg.fft.hfft(x, n=n, norm=norm), cplx(n // 2 + 1)),
            ]:
                y, pullback = gg.vjp(lambda x, f=f, m=norm: f(x, norm=m), x)
                c = cplx(*y.shape) if y.dtype.kind == "c" else real(*y.shape)
                (g,) = pullback(c)
                np.testing.assert_allclose(np.vdot(c, y).real, np.vdot(g, x).real, 1e-10)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: la.eigh(gg.eye(2), "X"), r"\[eigh\] UPLO is 'L' or 'U'; got 'X'"),
        (lambda: la.eigvalsh(gg.eye(2), UPLO="l"), r"\[eigvalsh\] UPLO"),
        (lambda: la.multi_dot([gg.eye(2)]), r"\[multi_dot\] takes a chain"),
        (lambda: la.multi_dot([gg.eye(2), gg.ones(2), gg.eye(2)]), r"\[multi_dot\]"),
        (lambda: la.tensorsolve(gg.ones((2, 2, 3)), gg.ones((2, 2))), r"\[tensorsolve\].*; try"),
        (lambda: la.tensorinv(gg.ones((2, 3))), r"\[tensorinv\].*; try"),
        (lambda: la.cond(gg.eye(2), "max"), r"\[matrix_norm\] unknown order"),
    ],
)
def test_arguments_that_do_not_fit(call: Callable[[], Any], words: str) -> None:
    with pytest.raises((DtypeError, ShapeError), match=words):
        call()


def test_one_triangle_is_read() -> None:
    x = np.array([[2.0, 1.0], [5.0, 3.0]])
    for triangle in "LU":
        got, want = la.eigh(gg.asarray(x), triangle), np.linalg.eigh(x, triangle)
        np.testing.assert_allclose(got.eigenvalues.numpy(), want.eigenvalues)
        np.testing.assert_allclose(la.eigvalsh(x, triangle).numpy(), want.eigenvalues)
