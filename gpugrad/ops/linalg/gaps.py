"""What divides by gaps between eigenvalues or singular values.

Values within rounding of each other count as equal. Imports op, rules and `matrices`.
"""

from typing import Any

import numpy as np

from gpugrad.aval import Aval, broadcast, promote
from gpugrad.errors import GradientError, message
from gpugrad.op import Op, still
from gpugrad.ops.elementwise import imag, refuse, where
from gpugrad.ops.linalg.matrices import columns, identity, rows, varies
from gpugrad.ops.shape import diagonal
from gpugrad.rules import conjugate, total


def _over(xp: Any, x: Any, d: Any, size: Any, *, owner: str, free: bool) -> Any:
    at_zero = d == 0
    y = x / xp.where(at_zero, 1, d)
    if not at_zero.any():
        return y
    if size.size and not free:
        limit = np.finfo(x.dtype).eps ** 0.5 * xp.abs(size).max(axis=(-2, -1), keepdims=True)
        if (at_zero & (xp.abs(x) > limit)).any():
            rule, hint = _UNDETERMINED.get(owner, _UNDEFINED)
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
_UNDEFINED = (
    "no derivative of this order is defined where values are equal",
    "x @ x, det(x) or vector_norm(x), which need no eigenvalues",
)

# x / d, where 0 / 0 is 0 and anything else over 0, beyond rounding of what has ``size``, raises. If
# ``free`` it is 0 as well: how vectors turn among themselves that the loss cannot tell apart.
over = Op(
    "over",
    lambda xp, x, d, size, *, owner, free: _over(xp, x, d, size, owner=owner, free=free),
    lambda x, d, size, *, owner, free: Aval(
        broadcast("over", "xd", (x, d)), promote("over", (x, d))
    ),
    vjp=[
        lambda g, d, *, owner: over(g, conjugate(d), g, owner=owner, free=False),
        lambda g, y, d, *, owner: -over(g * conjugate(y), conjugate(d), g, owner=owner, free=False),
        None,
    ],
    jvp=lambda dx, dd, d, y, *, owner: _over_tangent(dx, dd, d, y, owner),
)


def _over_tangent(dx: Any, dd: Any, d: Any, y: Any, owner: str) -> Any:
    top = total(t for t in (dx, None if dd is None else -y * dd) if t is not None)
    return None if top is None else over(top, d, top, owner=owner, free=False)


_LATER = {
    "svdvals": (
        "no derivative of this order is defined where values are equal or 0",
        "svd(x).S, smooth where one value is 0, or x @ x, det(x) or vector_norm(x)",
    ),
    "pinv": (
        "no second derivative is defined where the rank is not full",
        "inv(x.mT @ x + eps * gg.eye(n)) @ x.mT",
    ),
}


def _again(g: Any, clash: Any, owner: str) -> Any:
    rule, hint = _LATER.get(owner, _UNDEFINED)
    return refuse(g, clash, owner=owner, rule=rule, hint=hint)


# x itself, differentiable once: another derivative raises where ``clash`` is true. The rule that
# uses x is right there, as 0 / 0 and corners have been dealt with; its own derivative would not be.
once = Op(
    "once",
    lambda xp, x, clash, *, owner: x,
    lambda x, clash, *, owner: x,
    vjp=[lambda g, clash, *, owner: _again(g, clash, owner), None],
    jvp=lambda dx, clash, *, owner: None if dx is None else _again(dx, clash, owner),
)


def tolerance(w: Any) -> Any:
    """Below this, (…, 1), a difference of two of the values ``w`` is rounding."""
    computed_in = np.result_type(w.dtype, np.float32)
    size = 10 * float(np.finfo(computed_in).eps) * w.shape[-1]
    return abs(w).max(axis=-1, keepdims=True) * size


def equal(w: Any) -> Any:
    """Which pairs of the values ``w`` are equal, (…, n, n); not one with itself."""
    w = still(w)
    if not w.size:
        return columns(w) != columns(w)
    return (abs(columns(w) - rows(w)) <= tolerance(w)[..., None]) & (identity(w) == 0)


def clashes(w: Any, g: Any = None) -> Any:
    """The pairs for which ``v diag(g) vᴴ`` has no derivative of its own.

    None where g is a constant and the same for both: how the vectors of the two turn is then of no
    matter. With a g that depends on w there would be a term ∂g/∂w, and g is not known beside w.
    """
    pairs = equal(w)
    if g is None or varies(g):
        return pairs
    return pairs & (columns(still(g)) != rows(still(g)))


def refuse_both(inner: Any, pairs: Any, owner: str) -> Any:
    """``inner``; an error where values are equal and a loss sees them and their vectors.

    Together these do not determine a derivative. Of ``v f(w) vᴴ`` it contains f′, of the projector
    ``v vᴴ`` it does not, and their cotangents here may be the same.
    """
    rule = "a loss that sees equal (or zero) values and their vectors has no derivative here"
    hint = "a matrix whose values differ, or one call for values alone and one for vectors"
    return refuse(inner, pairs, owner=owner, rule=rule, hint=hint)


def gaps(w: Any, sign: int = -1) -> Any:
    """``w_j ± w_i``, exactly 0 where it is rounding; 1 on the diagonal of differences."""
    d = columns(w) - rows(w) if sign < 0 else columns(w) + rows(w)
    if not w.size:
        return d
    d = where(abs(still(d)) <= tolerance(still(w))[..., None], 0, d)
    return where(identity(w) == 1, 1, d) if sign < 0 else d


def off_diagonal(x: Any) -> Any:
    return x * (1 - identity(x))


def check_phase(owner: str, p: Any, g: Any) -> Any:
    """``p``; eigenvectors are known up to a phase, a loss that sees it has no derivative."""
    if p.dtype.kind != "c" or not p.size:
        return p
    phase = abs(imag(diagonal(still(p), k=0))).max()
    sees = phase > np.finfo(p.dtype).eps ** 0.5 * abs(still(g)).max()
    rule = "the loss depends on the phase of complex vectors, which is arbitrary"
    return refuse(p, sees, owner=owner, rule=rule, hint="abs(v), or v @ v.mT.conj()")
