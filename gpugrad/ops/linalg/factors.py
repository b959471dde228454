"""Factors that need no eigenvalues: Cholesky and QR. Imports op and `systems`."""

from typing import Any

import numpy as np

from gpugrad.aval import Aval
from gpugrad.errors import ShapeError, message
from gpugrad.op import Op, still
from gpugrad.ops.elementwise import refuse
from gpugrad.ops.linalg.matrices import (
    adjoint,
    call,
    hermitian,
    identity,
    no_basis,
    on_square,
    within_range,
)
from gpugrad.ops.linalg.systems import solve
from gpugrad.ops.matrix import matmul
from gpugrad.ops.shape import batch_of, diagonal, triangle


def _half_diagonal(x: Any) -> Any:
    """The lower triangle of ``x`` with its diagonal halved: what Murray (2016) calls Φ."""
    return triangle(x, k=0, lower=True) * (1 - 0.5 * identity(x))


def _cholesky_cotangent(g: Any, y: Any) -> Any:
    yh = adjoint(y)
    inner = solve(yh, _half_diagonal(matmul(yh, g)))
    return hermitian(adjoint(solve(yh, adjoint(inner))))


def _cholesky_tangent(dx: Any, y: Any) -> Any:
    inner = adjoint(solve(y, adjoint(solve(y, hermitian(dx)))))
    return matmul(y, _half_diagonal(inner))


# Murray, Differentiation of the Cholesky decomposition (2016), eqs. 8 and 10
cholesky = Op("cholesky", *on_square("cholesky"), vjp=[_cholesky_cotangent], jvp=_cholesky_tangent)


def _qr(xp: Any, x: Any, mode: str) -> Any:
    _qr_aval(Aval(x.shape, x.dtype), mode=mode)
    return call(xp, "qr", x, mode=mode)


def _qr_aval(x: Aval, *, mode: str) -> Any:
    batch = batch_of("qr", x)
    m, n = x.shape[-2:]
    if m < n:
        raise ShapeError(message("qr", "the op takes no wide matrices", x.shape, "gg.linalg.qr"))
    k = n if mode == "reduced" else m
    return Aval((*batch, m, k), x.dtype), Aval((*batch, k, n), x.dtype)


def _full_rank(r: Any) -> Any:
    """``r``; an error where it is singular."""
    d = abs(diagonal(still(r), k=0))
    if not d.size:
        return r
    eps = float(np.finfo(d.dtype).eps) * d.shape[-1]
    rule = "a matrix without full column rank has no derivative here"
    bad = d <= d.max(axis=-1, keepdims=True) * eps
    return refuse(r, bad, owner="qr", rule=rule, hint="svd(x)")


def _upper(x: Any) -> Any:
    """Upper triangle of ``x + xᴴ``, its diagonal halved."""
    return triangle(x + adjoint(x), k=0, lower=False) * (1 - 0.5 * identity(x))


def _qr_cotangent(g: Any, y: Any) -> Any:
    (q, r), (gq, gr) = y, g
    gq, gr = q * 0 if gq is None else gq, r * 0 if gr is None else gr
    n = r.shape[-1]
    if q.shape[-1] > n:
        gq = within_range(gq, n, "qr", "mode='reduced'")
        q, r, gr = q[..., :n], r[..., :n, :], gr[..., :n, :]
    r = _full_rank(r)
    s = triangle(matmul(gr, adjoint(r)) - matmul(adjoint(q), gq), k=0, lower=False)
    s = (s + adjoint(s)) * (1 - 0.5 * identity(s))
    return adjoint(solve(r, adjoint(gq + matmul(q, s))))


def _qr_tangent(dx: Any, y: Any) -> Any:
    q, r = y
    if q.shape[-1] > r.shape[-1]:
        raise no_basis("qr", "mode='reduced'")
    r = _full_rank(r)
    w = adjoint(solve(adjoint(r), adjoint(dx)))
    t = _upper(matmul(adjoint(q), w))
    return w - matmul(q, t), matmul(t, r)


# Roberts and Roberts (2020), eq. 8, with the gauge in which r has a real diagonal
qr = Op(
    "qr",
    lambda xp, x, *, mode: _qr(xp, x, mode),
    _qr_aval,
    vjp=[_qr_cotangent],
    jvp=_qr_tangent,
)
