"""Eigenvalues and eigenvectors, Hermitian and general. Imports op and the rooms beside it."""

from typing import Any

import numpy as np

from gpugrad.aval import Aval
from gpugrad.op import Op, still
from gpugrad.ops.elementwise import conj, real, refuse
from gpugrad.ops.linalg.gaps import (
    check_phase,
    clashes,
    equal,
    gaps,
    off_diagonal,
    once,
    over,
    refuse_both,
)
from gpugrad.ops.linalg.matrices import (
    adjoint,
    call,
    columns,
    complex_dtype,
    hermitian,
    product,
    real_dtype,
    rows,
    square,
)
from gpugrad.ops.linalg.singular import svdvals
from gpugrad.ops.linalg.systems import solve
from gpugrad.ops.matrix import matmul
from gpugrad.ops.reduce import sum_
from gpugrad.ops.shape import diagonal, diagonal_matrix
from gpugrad.rules import conjugate

# Hermitian eigenvalues. Formulas: Giles, An extended collection of matrix derivative results (2008)


def _eigh(xp: Any, x: Any) -> Any:
    square("eigh", x)
    return call(xp, "eigh", x)


def _eigenvalues_cotangent(g: Any, w: Any, v: Any, owner: str) -> Any:
    v = once(v, clashes(w, g), owner=owner)
    return matmul(v * columns(g), adjoint(v))


def _eigh_cotangent(g: Any, y: Any, *, owner: str) -> Any:
    (w, v), (gw, gv) = y, g
    if gv is None:
        return _eigenvalues_cotangent(gw, w, v, owner)
    vh = adjoint(v)
    p = matmul(vh, gv)
    p = check_phase("eigh", p, gv)
    skew = off_diagonal((p - adjoint(p)) * 0.5)
    inner = over(skew, gaps(w), p, owner=owner, free=False)
    if gw is not None:
        inner = refuse_both(inner, equal(w), "eigh")
        inner = inner + diagonal_matrix(gw, k=0, shape=v.shape[-2:])
    return product(v, inner, vh)


def _eigh_tangent(dx: Any, y: Any, *, owner: str) -> Any:
    w, v = y
    p = product(adjoint(v), hermitian(dx), v)
    turn = over(off_diagonal(p), gaps(w), p, owner=owner, free=owner != "eigh")
    return real(diagonal(p, k=0)), matmul(v, turn)


def _eigh_aval(x: Aval, *, owner: str) -> Any:
    return Aval((*square("eigh", x), x.shape[-1]), real_dtype(x.dtype)), x


# ``owner`` is who asks, as the user knows it: with "eigvalsh" how vectors of equal values turn is
# no concern of the derivative that is being taken.
eigh = Op(
    "eigh",
    lambda xp, x, *, owner: _eigh(xp, x),
    _eigh_aval,
    vjp=[_eigh_cotangent],
    jvp=_eigh_tangent,
)


def _eigvalsh(xp: Any, x: Any) -> Any:
    square("eigvalsh", x)
    return call(xp, "eigvalsh", x)


def _eigvalsh_cotangent(g: Any, x: Any) -> Any:
    w, v = eigh(x, owner="eigvalsh")
    return _eigenvalues_cotangent(g, w, v, "eigvalsh")


def _eigvalsh_tangent(dx: Any, x: Any) -> Any:
    w, v = eigh(x, owner="eigvalsh")
    v = once(v, clashes(w), owner="eigvalsh")
    return real(sum_(conjugate(v) * matmul(dx, v), axis=(x.ndim - 2,), keepdims=False))


# No gap occurs in the first derivative. At equal eigenvalues, which have none, it is the mean over
# directions: exact for a loss that treats them alike, a subgradient otherwise.
eigvalsh = Op(
    "eigvalsh",
    _eigvalsh,
    lambda x: Aval((*square("eigvalsh", x), x.shape[-1]), real_dtype(x.dtype)),
    vjp=[_eigvalsh_cotangent],
    jvp=_eigvalsh_tangent,
)


# General eigenvalues: always complex


def _eig(xp: Any, x: Any) -> Any:
    square("eig", x)
    return tuple([p.astype(complex_dtype(x.dtype), copy=False) for p in call(xp, "eig", x)])


def _independent(v: Any, owner: str) -> Any:
    """``v``; an error where eigenvectors (of length 1) are no basis, as of a defective matrix."""
    if not v.size:
        return v
    # Of one that is a multiple of another a singular value is of rounding size.
    least = svdvals(still(v))[..., -1]
    rule = "a matrix without a full set of eigenvectors has no derivative here"
    bad = least <= np.finfo(v.dtype).eps * v.shape[-1]
    return refuse(v, bad, owner=owner, rule=rule, hint="svd(x), or a matrix function")


def _eig_cotangent(g: Any, y: Any, *, owner: str) -> Any:
    (w, v), (gw, gv) = y, g
    v = _independent(v, owner)
    if gv is None:
        return _eigenvalues_of_any_cotangent(gw, w, v, "eig")
    vh = adjoint(v)
    p = matmul(vh, gv)
    p = check_phase("eig", p, gv)
    p = p - matmul(vh, v) * columns(real(diagonal(p, k=0)))  # each vector keeps its length 1
    inner = over(off_diagonal(p), conj(gaps(w)), p, owner="eig", free=False)
    if gw is not None:
        inner = refuse_both(inner, equal(w), "eig")
        inner = inner + diagonal_matrix(gw, k=0, shape=v.shape[-2:])
    return solve(vh, matmul(inner, vh))


def _eigenvalues_of_any_cotangent(g: Any, w: Any, v: Any, owner: str) -> Any:
    vh = adjoint(once(v, clashes(w, g), owner=owner))
    return solve(vh, rows(g) * vh)


def _eig_tangent(dx: Any, y: Any, *, owner: str) -> Any:
    w, v = y
    v = _independent(v, owner)
    p = solve(v, matmul(dx, v))
    dv = matmul(v, over(off_diagonal(p), gaps(w), p, owner=owner, free=owner != "eig"))
    lengths = real(sum_(conj(v) * dv, axis=(v.ndim - 2,), keepdims=True))
    return diagonal(p, k=0), dv - v * lengths


def _eig_aval(x: Aval, *, owner: str) -> Any:
    dtype = complex_dtype(x.dtype)
    return Aval((*square("eig", x), x.shape[-1]), dtype), Aval(x.shape, dtype)


# Boeddeker et al., On the computation of complex-valued gradients (2017), eqs. 4.60 and 4.77
eig = Op(
    "eig",
    lambda xp, x, *, owner: _eig(xp, x),
    _eig_aval,
    vjp=[_eig_cotangent],
    jvp=_eig_tangent,
)


def _eigvals(xp: Any, x: Any) -> Any:
    square("eigvals", x)
    return call(xp, "eigvals", x).astype(complex_dtype(x.dtype), copy=False)


def _eigvals_cotangent(g: Any, x: Any) -> Any:
    w, v = eig(x, owner="eigvals")
    v = _independent(v, "eigvals")
    return _eigenvalues_of_any_cotangent(g, w, v, "eigvals")


def _eigvals_tangent(dx: Any, x: Any) -> Any:
    w, v = eig(x, owner="eigvals")
    v = _independent(v, "eigvals")
    v = once(v, clashes(w), owner="eigvals")
    return diagonal(solve(v, matmul(dx, v)), k=0)


eigvals = Op(
    "eigvals",
    _eigvals,
    lambda x: Aval((*square("eigvals", x), x.shape[-1]), complex_dtype(x.dtype)),
    vjp=[_eigvals_cotangent],
    jvp=_eigvals_tangent,
)
