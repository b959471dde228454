"""What divides by gaps between eigenvalues or singular values.

Values within rounding of each other count as equal. Imports op, rules and `matrices`.
"""

from typing import Any

import numpy as np

from gpugrad.aval import Aval, broadcast, promote
from gpugrad.errors import GradientError, message
from gpugrad.op import Op, data_of
from gpugrad.ops.elementwise import where
from gpugrad.ops.linalg.matrices import columns, identity, rows
from gpugrad.rules import conjugate, total


def _over(xp: Any, x: Any, d: Any, size: Any, *, owner: str) -> Any:
    at_zero = d == 0
    y = x / xp.where(at_zero, 1, d)
    if not at_zero.any():
        return y
    if size.size:
        limit = np.finfo(x.dtype).eps ** 0.5 * xp.abs(size).max(axis=(-2, -1), keepdims=True)
        if (at_zero & (xp.abs(x) > limit)).any():
            rule, hint = _UNDETERMINED[owner]
            raise GradientError(message(owner, rule, hint=hint))
    return xp.where(at_zero, 0, y)


_UNDETERMINED = {
    "eigh": (
        "eigenvectors of equal eigenvalues have no derivative",
        "eigvalsh(x), or a loss that sees only the whole space they span",
    ),
    "svd": (
        "singular vectors of equal or zero singular values have no derivative",
        "svdvals(x), or a loss that sees only the whole space they span",
    ),
    "eig": ("eigenvectors of equal eigenvalues have no derivative", "eigvals(x)"),
}


# x / d, where 0 / 0 is 0 and anything else over 0, beyond rounding of what has ``size``, raises.
over = Op(
    "over",
    lambda xp, x, d, size, *, owner: _over(xp, x, d, size, owner=owner),
    lambda x, d, size, *, owner: Aval(broadcast("over", "xd", (x, d)), promote("over", (x, d))),
    vjp=[
        lambda g, d, *, owner: over(g, conjugate(d), g, owner=owner),
        lambda g, y, d, *, owner: -over(g * conjugate(y), conjugate(d), g, owner=owner),
        None,
    ],
    jvp=lambda dx, dd, d, y, *, owner: _over_tangent(dx, dd, d, y, owner),
)


def _over_tangent(dx: Any, dd: Any, d: Any, y: Any, owner: str) -> Any:
    top = total(t for t in (dx, None if dd is None else -y * dd) if t is not None)
    return None if top is None else over(top, d, top, owner=owner)


def _check_distinct(g: Any, w: Any, owner: str) -> Any:
    array = data_of(w)
    if array.size:
        close = abs(columns(array) - rows(array)) <= tolerance(array)
        if (close & (identity(array) == 0)).any():
            rule = "no second derivative is defined where values are equal"
            hint = "x @ x, det(x) or vector_norm(x), which need no eigenvalues"
            raise GradientError(message(owner, rule, hint=hint))
    return g


# v itself. Its derivative, which only a second derivative asks for, raises where values of w are
# equal: the rules built on v then divide 0 by 0, and the limit is not 0.
distinct = Op(
    "distinct",
    lambda xp, v, w, *, owner: v,
    lambda v, w, *, owner: v,
    vjp=[lambda g, w, *, owner: _check_distinct(g, w, owner), None],
    jvp=lambda dv, w, *, owner: None if dv is None else _check_distinct(dv, w, owner),
    kind="view",
)


def tolerance(w: Any) -> Any:
    """Below this, a difference of two of the values ``w`` (a bare array) is rounding."""
    computed_in = np.result_type(w.dtype, np.float32)
    size = 10 * float(np.finfo(computed_in).eps) * w.shape[-1]
    return (size * abs(w).max(axis=-1, keepdims=True))[..., None]


def gaps(w: Any, sign: int = -1) -> Any:
    """``w_j ± w_i``, exactly 0 where it is rounding; 1 on the diagonal of differences."""
    d = columns(w) - rows(w) if sign < 0 else columns(w) + rows(w)
    array = data_of(w)
    if not array.size:
        return d
    d = where(abs(data_of(d)) <= tolerance(array), 0, d)
    return where(identity(array) == 1, 1, d) if sign < 0 else d


def off_diagonal(x: Any) -> Any:
    return x * (1 - identity(x))


def check_phase(owner: str, p: Any, g: Any) -> None:
    """Eigenvectors are known up to a phase: a loss that sees it has no derivative."""
    array, size = data_of(p), data_of(g)
    if array.dtype.kind == "c" and array.size:
        phase = abs(array.diagonal(0, -2, -1).imag).max()
        if phase > np.finfo(array.dtype).eps ** 0.5 * abs(size).max():
            rule = "the loss depends on the phase of complex vectors, which is arbitrary"
            raise GradientError(message(owner, rule, hint="abs(v), or v @ v.mT.conj()"))
