"""Singular values and vectors. Imports op and `gaps`."""

from typing import Any

from gpugrad.aval import Aval
from gpugrad.op import Op, still
from gpugrad.ops.elementwise import absolute, real, where
from gpugrad.ops.linalg.gaps import (
    check_phase,
    clashes,
    equal,
    gaps,
    off_diagonal,
    once,
    over,
    refuse_both,
    tolerance,
)
from gpugrad.ops.linalg.matrices import (
    adjoint,
    call,
    columns,
    hermitian,
    identity,
    no_basis,
    product,
    real_dtype,
    rows,
    within_range,
)
from gpugrad.ops.matrix import matmul
from gpugrad.ops.reduce import sum_
from gpugrad.ops.shape import batch_of, diagonal, diagonal_matrix
from gpugrad.rules import conjugate, total


def _svd(xp: Any, x: Any, full: bool) -> Any:
    batch_of("svd", x)
    return call(xp, "svd", x, full_matrices=full)


def _svd_aval(x: Aval, *, full: bool, owner: str) -> Any:
    batch = batch_of("svd", x)
    m, n = x.shape[-2:]
    k = min(m, n)
    return (
        Aval((*batch, m, m if full else k), x.dtype),
        Aval((*batch, k), real_dtype(x.dtype)),
        Aval((*batch, n if full else k, n), x.dtype),
    )


_THIN = "full_matrices=False"


def _values_cotangent(g: Any, factors: Any, owner: str) -> Any:
    u, s, vh = factors
    clash = clashes(s, g)
    return matmul(once(u, clash, owner=owner) * columns(g), once(vh, clash, owner=owner))


def _svd_cotangent(g: Any, y: Any, *, owner: str) -> Any:
    (u, s, vh), (gu, gs, gvh) = y, g
    k, m, n = s.shape[-1], u.shape[-2], vh.shape[-1]
    if u.shape[-1] > k:
        u, gu = u[..., :k], within_range(gu, k, "svd", _THIN)
    if vh.shape[-2] > k:
        vh = vh[..., :k, :]
        gvh = None if gvh is None else adjoint(within_range(adjoint(gvh), k, "svd", _THIN))
    if gu is None and gvh is None:
        return _values_cotangent(gs, (u, s, vh), owner)
    gu, gvh = u * 0 if gu is None else gu, vh * 0 if gvh is None else gvh
    uh = adjoint(u)
    pu, pv = matmul(uh, gu), matmul(vh, adjoint(gvh))
    both, apart = pu + pv, pu - pv
    size = absolute(pu) + absolute(pv)
    both = check_phase("svd", both, size)
    # (skew pu · S + S · skew pv) / (s_j² − s_i²), with each zero of the denominator by itself
    apart = (apart - adjoint(apart)) * 0.5
    if apart.dtype.kind != "c":
        apart = off_diagonal(apart)
    both = off_diagonal((both - adjoint(both)) * 0.5)
    inner = _over(both, gaps(s), size, owner) + _over(apart, _sums(s, apart), size, owner)
    if gs is not None:
        inner = refuse_both(inner, equal(s) | columns(_zero(s) & (m != n)), "svd")
        inner = inner + diagonal_matrix(gs, k=0, shape=(k, k))
    terms = [product(u, inner, vh)]
    if m > k:
        beyond = gu - matmul(u, pu)
        terms.append(matmul(_over(beyond, columns(_flushed(s)), gu, owner), vh))
    if n > k:
        beyond = gvh - matmul(adjoint(pv), vh)
        terms.append(matmul(u, _over(beyond, rows(_flushed(s)), gvh, owner)))
    return total(terms)


def _over(x: Any, d: Any, size: Any, owner: str, free: bool = False) -> Any:
    return over(x, d, size, owner=owner, free=free)


def _sums(s: Any, x: Any) -> Any:
    """``s_j + s_i``; of real matrices the diagonal, where x is 0, is 1."""
    d = gaps(s, 1)
    return d if x.dtype.kind == "c" or not s.shape[-1] else where(identity(s) == 1, 1, d)


def _zero(s: Any) -> Any:
    """Which of the values ``s`` are 0 but for rounding."""
    s = still(s)
    return s <= tolerance(s) if s.size else s != s


def _flushed(s: Any) -> Any:
    """``s`` with exact zeros in place of rounding."""
    return where(_zero(s), 0, s)


def _svd_tangent(dx: Any, y: Any, *, owner: str) -> Any:
    u, s, vh = y
    free = owner != "svd"
    k, m, n = s.shape[-1], u.shape[-2], vh.shape[-1]
    if u.shape[-1] > k or vh.shape[-2] > k:
        raise no_basis("svd", _THIN)
    uh, v = adjoint(u), adjoint(vh)
    p = product(uh, dx, v)
    even, odd = hermitian(p), (p - adjoint(p)) * 0.5
    if odd.dtype.kind != "c":
        odd = off_diagonal(odd)
    a = _over(off_diagonal(even), gaps(s), p, owner, free)
    b = _over(odd, _sums(s, odd), p, owner, free)
    du, dvh = matmul(u, a + b), matmul(adjoint(a - b), vh)
    if m > k:
        beyond = matmul(dx, v) - matmul(u, p)
        du = du + _over(beyond, columns(_flushed(s)), dx, owner, free)
    if n > k:
        beyond = matmul(uh, dx) - matmul(p, vh)
        dvh = dvh + _over(beyond, rows(_flushed(s)), dx, owner, free)
    return du, real(diagonal(p, k=0)), dvh


# A value that is 0 counts as one that changes sign there, so that functions of all three factors
# have their derivative. ``owner`` is who asks, as the user knows it: with "svdvals" how vectors of
# equal values turn is no concern of the derivative that is being taken.
svd = Op(
    "svd",
    lambda xp, x, *, full, owner: _svd(xp, x, full),
    _svd_aval,
    vjp=[_svd_cotangent],
    jvp=_svd_tangent,
)


def _svdvals(xp: Any, x: Any) -> Any:
    batch_of("svdvals", x)
    return call(xp, "svd", x, compute_uv=False)


def _svdvals_cotangent(g: Any, x: Any) -> Any:
    u, s, vh = svd(x, full=False, owner="svdvals")
    return _values_cotangent(_corner(g, s), (u, s, vh), "svdvals")


def _corner(g: Any, s: Any) -> Any:
    """A value alone has a corner at 0, like |x|, and there the subgradient 0."""
    at_zero = _zero(s)
    return once(where(at_zero, 0, g), at_zero, owner="svdvals")


def _svdvals_tangent(dx: Any, x: Any) -> Any:
    u, s, vh = svd(x, full=False, owner="svdvals")
    clash = clashes(s)
    u, vh = once(u, clash, owner="svdvals"), once(vh, clash, owner="svdvals")
    ds = real(sum_(conjugate(u) * matmul(dx, adjoint(vh)), axis=(x.ndim - 2,), keepdims=False))
    return _corner(ds, s)


svdvals = Op(
    "svdvals",
    _svdvals,
    lambda x: Aval((*batch_of("svdvals", x), min(x.shape[-2:])), real_dtype(x.dtype)),
    vjp=[_svdvals_cotangent],
    jvp=_svdvals_tangent,
)
