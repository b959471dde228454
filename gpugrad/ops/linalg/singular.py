"""Singular values and vectors. Imports op and `gaps`."""

from typing import Any

from gpugrad.aval import Aval
from gpugrad.op import Op, data_of
from gpugrad.ops.elementwise import absolute, real, where
from gpugrad.ops.linalg.gaps import check_phase, distinct, gaps, off_diagonal, over, tolerance
from gpugrad.ops.linalg.matrices import (
    absent,
    adjoint,
    call,
    columns,
    hermitian,
    identity,
    no_basis,
    product,
    real_dtype,
    refuse_basis,
    rows,
)
from gpugrad.ops.matrix import matmul
from gpugrad.ops.reduce import sum_
from gpugrad.ops.shape import batch_of, diagonal
from gpugrad.rules import conjugate, total


def _svd(xp: Any, x: Any, full: bool) -> Any:
    batch_of("svd", x)
    return call(xp, "svd", x, full_matrices=full)


def _svd_aval(x: Aval, *, full: bool) -> Any:
    batch = batch_of("svd", x)
    m, n = x.shape[-2:]
    k = min(m, n)
    return (
        Aval((*batch, m, m if full else k), x.dtype),
        Aval((*batch, k), real_dtype(x.dtype)),
        Aval((*batch, n if full else k, n), x.dtype),
    )


_THIN = "full_matrices=False"


def _svdvals_cotangent(g: Any, factors: Any, owner: str) -> Any:
    """``u diag(g) vh``. A zero singular value has a corner like |x|: its derivative is 0."""
    u, s, vh = factors
    array = data_of(s)
    if array.size:
        g = where(array <= tolerance(array)[..., 0], 0, g)
    return matmul(distinct(u, s, owner=owner) * columns(g), distinct(vh, s, owner=owner))


def _svd_cotangent(g: Any, y: Any) -> Any:
    (u, s, vh), (gu, gs, gvh) = y, g
    k, m, n = s.shape[-1], u.shape[-2], vh.shape[-1]
    if u.shape[-1] > k:
        refuse_basis("svd", gu[..., k:], _THIN)
        u, gu = u[..., :k], gu[..., :k]
    if vh.shape[-2] > k:
        refuse_basis("svd", gvh[..., k:, :], _THIN)
        vh, gvh = vh[..., :k, :], gvh[..., :k, :]
    terms = []
    if not absent(gs):
        terms.append(_svdvals_cotangent(gs, (u, s, vh), "svd"))
    if absent(gu) and absent(gvh):
        return total(terms) if terms else matmul(u * columns(s), vh) * 0
    uh = adjoint(u)
    pu, pv = matmul(uh, gu), matmul(vh, adjoint(gvh))
    both, apart = pu + pv, pu - pv
    size = absolute(pu) + absolute(pv)
    check_phase("svd", both, size)
    # (skew pu · S + S · skew pv) / (s_j² − s_i²), with each zero of the denominator by itself
    apart = (apart - adjoint(apart)) * 0.5
    if apart.dtype.kind != "c":
        apart = off_diagonal(apart)
    both = off_diagonal((both - adjoint(both)) * 0.5)
    inner = over(both, gaps(s), size, owner="svd") + over(apart, _sums(s, apart), size, owner="svd")
    terms.append(product(u, inner, vh))
    if m > k:
        beyond = gu - matmul(u, pu)
        terms.append(matmul(over(beyond, columns(_flushed(s)), gu, owner="svd"), vh))
    if n > k:
        beyond = gvh - matmul(adjoint(pv), vh)
        terms.append(matmul(u, over(beyond, rows(_flushed(s)), gvh, owner="svd")))
    return total(terms)


def _sums(s: Any, x: Any) -> Any:
    """``s_j + s_i``; of real matrices the diagonal, where x is 0, is 1."""
    d = gaps(s, 1)
    return d if x.dtype.kind == "c" or not s.shape[-1] else where(identity(s) == 1, 1, d)


def _flushed(s: Any) -> Any:
    """``s`` with exact zeros in place of rounding."""
    array = data_of(s)
    return where(array <= tolerance(array)[..., 0], 0, s) if array.size else s


def _svd_tangent(dx: Any, y: Any) -> Any:
    u, s, vh = y
    k, m, n = s.shape[-1], u.shape[-2], vh.shape[-1]
    if u.shape[-1] > k or vh.shape[-2] > k:
        raise no_basis("svd", _THIN)
    uh, v = adjoint(u), adjoint(vh)
    p = product(uh, dx, v)
    even, odd = hermitian(p), (p - adjoint(p)) * 0.5
    if odd.dtype.kind != "c":
        odd = off_diagonal(odd)
    a = over(off_diagonal(even), gaps(s), p, owner="svd")
    b = over(odd, _sums(s, odd), p, owner="svd")
    du, dvh = matmul(u, a + b), matmul(adjoint(a - b), vh)
    if m > k:
        beyond = matmul(dx, v) - matmul(u, p)
        du = du + over(beyond, columns(_flushed(s)), dx, owner="svd")
    if n > k:
        beyond = matmul(uh, dx) - matmul(p, vh)
        dvh = dvh + over(beyond, rows(_flushed(s)), dx, owner="svd")
    return du, real(diagonal(p, k=0)), dvh


svd = Op(
    "svd",
    lambda xp, x, *, full: _svd(xp, x, full),
    _svd_aval,
    vjp=[_svd_cotangent],
    jvp=_svd_tangent,
)


def _svdvals(xp: Any, x: Any) -> Any:
    batch_of("svdvals", x)
    return call(xp, "svd", x, compute_uv=False)


def _svdvals_tangent(dx: Any, x: Any) -> Any:
    u, s, vh = svd(x, full=False)
    u, vh = distinct(u, s, owner="svdvals"), distinct(vh, s, owner="svdvals")
    ds = real(sum_(conjugate(u) * matmul(dx, adjoint(vh)), axis=(x.ndim - 2,), keepdims=False))
    return where(data_of(_flushed(s)) == 0, 0, ds)


svdvals = Op(
    "svdvals",
    _svdvals,
    lambda x: Aval((*batch_of("svdvals", x), min(x.shape[-2:])), real_dtype(x.dtype)),
    vjp=[lambda g, x: _svdvals_cotangent(g, svd(x, full=False), "svdvals")],
    jvp=_svdvals_tangent,
)
