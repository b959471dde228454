"""Determinants, to the third derivative of singular matrices. Imports op and `systems`."""

from typing import Any

import numpy as np

from gpugrad.aval import Aval
from gpugrad.op import Op, still
from gpugrad.ops.elementwise import conj, imag, real, refuse
from gpugrad.ops.linalg.matrices import (
    adjoint,
    call,
    columns,
    identity,
    real_dtype,
    rows,
    square,
    trace,
)
from gpugrad.ops.linalg.systems import inv, solve
from gpugrad.ops.matrix import matmul
from gpugrad.ops.reduce import sum_
from gpugrad.ops.shape import with_diagonal
from gpugrad.rules import conjugate, total


def _det(xp: Any, x: Any) -> Any:
    square("det", x)
    return call(xp, "det", x)


det = Op(
    "det",
    _det,
    lambda x: Aval(square("det", x), x.dtype),
    # The cofactors exist where the inverse does not.
    vjp=[lambda g, x: g[..., None, None] * conjugate(cofactors(x))],
    jvp=lambda dx, x: sum_(cofactors(x) * dx, axis=(x.ndim - 2, x.ndim - 1), keepdims=False),
)


def _rotations(xp: Any, x: Any) -> tuple[Any, Any, Any, Any]:
    """u, s, vh, and ``det(u) det(vh)`` as a 1 × 1 matrix."""
    wide = x.astype(np.float32) if x.dtype == np.float16 else x
    u, s, vh = call(xp, "svd", wide)
    return u, s, vh, (xp.linalg.det(u) * xp.linalg.det(vh))[..., None, None]


def _cofactors(xp: Any, x: Any) -> Any:
    """``det(x) x⁻ᵀ`` from products of singular values, each without its own."""
    u, s, vh, turn = _rotations(xp, x)
    t = xp.where(s == 0, 1, s)
    elsewhere = (s == 0).sum(-1, keepdims=True) - (s == 0)
    others = xp.where(elsewhere == 0, xp.prod(t, -1, keepdims=True) / t, 0)
    y = turn * xp.matmul(xp.conj(u) * columns(others), xp.conj(vh))
    return y.astype(x.dtype, copy=False)


def _cofactors_along(xp: Any, x: Any, e: Any) -> Any:
    """From ``∂²det/∂dᵢᵢ∂dⱼⱼ = Π_{k≠i,j} s_k`` at a diagonal matrix, and its negative for dᵢⱼdⱼᵢ."""
    u, s, vh, turn = _rotations(xp, x)
    zero = s == 0
    t = xp.where(zero, 1, s)
    elsewhere = zero.sum(-1)[..., None, None] - rows(zero) * 1 - columns(zero) * 1
    pairs = xp.prod(t, -1)[..., None, None] / (rows(t) * columns(t))
    pairs = xp.where((elsewhere == 0) & (xp.eye(s.shape[-1]) == 0), pairs, 0)
    p = xp.matmul(xp.matmul(adjoint(u), e.astype(u.dtype, copy=False)), adjoint(vh))
    w = with_diagonal(
        xp, xp.matmul(pairs, rows(xp.diagonal(p, 0, -2, -1)))[..., 0], 0, p.shape[-2:]
    ) - pairs * p.swapaxes(-1, -2)
    return (turn * xp.matmul(xp.matmul(xp.conj(u), w), xp.conj(vh))).astype(x.dtype, copy=False)


def _cofactors_along_both(x: Any, e: Any, f: Any) -> Any:
    """The third derivative of det, as the matrix it is paired with; of regular matrices only."""
    b = inv(x)
    be, bf = matmul(b, e), matmul(b, f)
    ef, fe = matmul(be, bf), matmul(bf, be)
    te, tf = trace(be), trace(bf)
    inner = (te * tf - trace(ef)) * identity(x) - te * bf - tf * be + ef + fe
    return det(x)[..., None, None] * matmul(inner, b).swapaxes(-1, -2)


cofactors = Op(
    "cofactors",
    _cofactors,
    lambda x: x,
    vjp=[lambda g, x: conjugate(cofactors_along(x, conjugate(g)))],
    jvp=lambda dx, x: cofactors_along(x, dx),
)


cofactors_along = Op(
    "cofactors_along",  # the derivative of cofactors in direction e; symmetric, hence its own vjp
    _cofactors_along,
    lambda x, e: x,
    vjp=[
        lambda g, x, e: conjugate(_cofactors_along_both(x, e, conjugate(g))),
        lambda g, x: conjugate(cofactors_along(x, conjugate(g))),
    ],
    jvp=lambda dx, de, x, e: total(
        term
        for term in (
            None if dx is None else _cofactors_along_both(x, e, dx),
            None if de is None else cofactors_along(x, de),
        )
        if term is not None
    ),
)


def _slogdet(xp: Any, x: Any) -> Any:
    square("slogdet", x)
    return call(xp, "slogdet", x)


def _slogdet_cotangent(g: Any, x: Any, y: Any) -> Any:
    g_sign, q = g
    x, q = _regular(x, y), y[1] * 0 if q is None else q
    if x.dtype.kind == "c" and g_sign is not None:
        q = q - 1j * imag(conj(g_sign) * y[0])
    return q[..., None, None] * adjoint(inv(x))


def _regular(x: Any, y: Any) -> Any:
    """``x``; an error where it is singular."""
    rule = "the logarithm of |det| of a singular matrix, −∞, has no derivative"
    return refuse(x, still(y[0]) == 0, owner="slogdet", rule=rule, hint="det(x)")


def _slogdet_tangent(dx: Any, x: Any, y: Any) -> Any:
    rate = trace(solve(_regular(x, y), dx))[..., 0, 0]
    if x.dtype.kind != "c":
        return None, rate
    return 1j * imag(rate) * y[0], real(rate)


def _slogdet_aval(x: Aval) -> Any:
    batch = square("slogdet", x)
    return Aval(batch, x.dtype), Aval(batch, real_dtype(x.dtype))


slogdet = Op(
    "slogdet",
    _slogdet,
    _slogdet_aval,
    vjp=[_slogdet_cotangent],
    jvp=_slogdet_tangent,
)
