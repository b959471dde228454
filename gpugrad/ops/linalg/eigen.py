"""Eigenvalues and eigenvectors, Hermitian and general. Imports op, `systems` and `gaps`."""

from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import Aval
from gpugrad.errors import GradientError, message
from gpugrad.op import Op, data_of
from gpugrad.ops.elementwise import conj, real
from gpugrad.ops.linalg.gaps import check_phase, distinct, gaps, off_diagonal, over
from gpugrad.ops.linalg.matrices import (
    absent,
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
from gpugrad.ops.linalg.systems import solve
from gpugrad.ops.matrix import matmul
from gpugrad.ops.reduce import sum_
from gpugrad.ops.shape import diagonal, diagonal_matrix
from gpugrad.rules import conjugate, total

# Hermitian eigenvalues. Formulas: Giles, An extended collection of matrix derivative results (2008)


def _eigh(xp: Any, x: Any) -> Any:
    square("eigh", x)
    return call(xp, "eigh", x)


def _eigenvalues_cotangent(g: Any, v: Any) -> Any:
    return matmul(v * columns(g), adjoint(v))


def _eigh_cotangent(g: Any, y: Any) -> Any:
    (w, v), (gw, gv) = y, g
    terms = []
    if not absent(gw):
        terms.append(_eigenvalues_cotangent(gw, distinct(v, w, owner="eigh")))
    if not absent(gv):
        vh = adjoint(v)
        p = matmul(vh, gv)
        check_phase("eigh", p, gv)
        skew = off_diagonal((p - adjoint(p)) * 0.5)
        terms.append(product(v, over(skew, gaps(w), p, owner="eigh"), vh))
    return total(terms) if terms else v * 0


def _eigh_tangent(dx: Any, y: Any) -> Any:
    w, v = y
    p = product(adjoint(v), hermitian(dx), v)
    turn = over(off_diagonal(p), gaps(w), p, owner="eigh")
    return real(diagonal(p, k=0)), matmul(v, turn)


def _eigh_aval(x: Aval) -> Any:
    return Aval((*square("eigh", x), x.shape[-1]), real_dtype(x.dtype)), x


eigh = Op(
    "eigh",
    _eigh,
    _eigh_aval,
    vjp=[_eigh_cotangent],
    jvp=_eigh_tangent,
)


def _eigvalsh(xp: Any, x: Any) -> Any:
    square("eigvalsh", x)
    return call(xp, "eigvalsh", x)


def _vectors(x: Any) -> Any:
    w, v = eigh(x)
    return distinct(v, w, owner="eigvalsh")


def _eigvalsh_tangent(dx: Any, x: Any) -> Any:
    v = _vectors(x)
    return real(sum_(conjugate(v) * matmul(dx, v), axis=(x.ndim - 2,), keepdims=False))


# No gap occurs in the first derivative. At equal eigenvalues, which have none, it is the mean over
# directions: exact for a loss that treats them alike, a subgradient otherwise.
eigvalsh = Op(
    "eigvalsh",
    _eigvalsh,
    lambda x: Aval((*square("eigvalsh", x), x.shape[-1]), real_dtype(x.dtype)),
    vjp=[lambda g, x: _eigenvalues_cotangent(g, _vectors(x))],
    jvp=_eigvalsh_tangent,
)


# General eigenvalues: always complex


def _eig(xp: Any, x: Any) -> Any:
    square("eig", x)
    return tuple([p.astype(complex_dtype(x.dtype), copy=False) for p in call(xp, "eig", x)])


def _check_independent(v: Any, owner: str) -> None:
    """Eigenvectors (of length 1) that are a basis; those of a defective matrix are not."""
    array = data_of(v)
    if array.size:
        bound = 1 / (np.finfo(array.dtype).eps * array.shape[-1])
        xp = backend.of(array).xp
        # One that is a multiple of another has a singular value of rounding size.
        if not (xp.linalg.svd(array, compute_uv=False)[..., -1] * bound > 1).all():
            rule = "a matrix without a full set of eigenvectors has no derivative here"
            raise GradientError(message(owner, rule, v.shape, "svd(x), or a matrix function"))


def _eig_cotangent(g: Any, y: Any) -> Any:
    (w, v), (gw, gv) = y, g
    _check_independent(v, "eig")
    vh = adjoint(v)
    inner = diagonal_matrix(gw, k=0, shape=v.shape[-2:])
    if not absent(gv):
        p = matmul(vh, gv)
        check_phase("eig", p, gv)
        p = p - matmul(vh, v) * columns(real(diagonal(p, k=0)))  # each vector keeps its length 1
        inner = inner + over(off_diagonal(p), conj(gaps(w)), p, owner="eig")
    return solve(vh, matmul(inner, vh))


def _eig_tangent(dx: Any, y: Any) -> Any:
    w, v = y
    _check_independent(v, "eig")
    p = solve(v, matmul(dx, v))
    dv = matmul(v, over(off_diagonal(p), gaps(w), p, owner="eig"))
    lengths = real(sum_(conj(v) * dv, axis=(v.ndim - 2,), keepdims=True))
    return diagonal(p, k=0), dv - v * lengths


def _eig_aval(x: Aval) -> Any:
    dtype = complex_dtype(x.dtype)
    return Aval((*square("eig", x), x.shape[-1]), dtype), Aval(x.shape, dtype)


# Boeddeker et al., On the computation of complex-valued gradients (2017), eqs. 4.60 and 4.77
eig = Op(
    "eig",
    _eig,
    _eig_aval,
    vjp=[_eig_cotangent],
    jvp=_eig_tangent,
)


def _eigvals(xp: Any, x: Any) -> Any:
    square("eigvals", x)
    return call(xp, "eigvals", x).astype(complex_dtype(x.dtype), copy=False)


def _eigvals_cotangent(g: Any, x: Any) -> Any:
    w, v = eig(x)
    _check_independent(v, "eigvals")
    vh = adjoint(distinct(v, w, owner="eigvals"))
    return solve(vh, rows(g) * vh)


def _eigvals_tangent(dx: Any, x: Any) -> Any:
    w, v = eig(x)
    _check_independent(v, "eigvals")
    v = distinct(v, w, owner="eigvals")
    return diagonal(solve(v, matmul(dx, v)), k=0)


eigvals = Op(
    "eigvals",
    _eigvals,
    lambda x: Aval((*square("eigvals", x), x.shape[-1]), complex_dtype(x.dtype)),
    vjp=[_eigvals_cotangent],
    jvp=_eigvals_tangent,
)
