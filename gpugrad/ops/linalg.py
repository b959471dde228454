"""Matrix functions, over the last two axes. Imports op, rules, tensor, errors and the ops below.

Half precision computes in float32. What has no result raises `LinAlgError`, on every device. The
gradient of a Hermitian argument is Hermitian. Where a derivative does not exist a rule gives the
subgradient written beside it or raises `GradientError`; it never gives NaN.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import Aval, Shape, broadcast, promote
from gpugrad.errors import DeviceError, GpugradError, GradientError, ShapeError, message
from gpugrad.op import Op, data_of
from gpugrad.ops.elementwise import absolute, conj, imag, real, where
from gpugrad.ops.matrix import matmul
from gpugrad.ops.reduce import sum_
from gpugrad.ops.shape import triangle
from gpugrad.rules import OUTPUT, Joint, total
from gpugrad.tensor import Dual, Tensor


class LinAlgError(GpugradError, np.linalg.LinAlgError):
    """A matrix for which the result does not exist: singular, or not positive definite."""


# What the rules are written with, on Tensors and on bare arrays alike


def adjoint(x: Any) -> Any:
    """Conjugate transpose."""
    x = x.swapaxes(-1, -2)
    return conj(x) if x.dtype.kind == "c" else x


def _hermitian(x: Any) -> Any:
    return (x + adjoint(x)) * 0.5


def columns(x: Any) -> Any:
    """``m * columns(d)`` is ``m @ diag(d)``."""
    return x[..., None, :]


def rows(x: Any) -> Any:
    """``m * rows(d)`` is ``diag(d) @ m``."""
    return x[..., :, None]


def _product(*matrices: Any) -> Any:
    left = matrices[0]
    for right in matrices[1:]:
        left = matmul(left, right)
    return left


def _identity(x: Any) -> Any:
    """The bare identity matrix that fits the last axis of ``x``, of its real dtype."""
    array = data_of(x)
    return backend.of(array).xp.eye(array.shape[-1], dtype=_real_dtype(array.dtype))


def _trace(x: Any) -> Any:
    """The trace, as a 1 × 1 matrix."""
    return sum_(diagonal(x, k=0), axis=(x.ndim - 2,), keepdims=True)[..., None]


def _absent(g: Any) -> bool:
    """Whether a cotangent is zero and can be nothing else: nothing flows through this output."""
    if type(g) is Tensor and (g._node is not None or type(g._data) is Dual):
        return False
    return not data_of(g).any()


# Calls into the array library


def _real_dtype(dtype: Any) -> Any:
    return np.empty(0, dtype).real.dtype


def _complex_dtype(dtype: Any) -> Any:
    return np.result_type(dtype, np.complex64)


def _call(xp: Any, name: str, *arrays: Any, **options: Any) -> Any:
    """``xp.linalg.<name>``, in float32 for half precision; what has no result raises."""
    half = arrays[0].dtype == np.float16
    wide = [a.astype(np.float32) if a.dtype == np.float16 else a for a in arrays]
    rule, hint = _NO_RESULT.get(name, ("the iteration did not converge", "finite values"))
    error = LinAlgError(message(name, rule, arrays[0].shape, hint))
    function = getattr(xp.linalg, name, None)
    if function is None:
        rule = f"this version of {xp.__name__} does not have it"
        raise DeviceError(message(name, rule, xp.__version__, "x.to('cpu')"))
    try:
        y = function(*wide, **options)
    except np.linalg.LinAlgError:
        raise error from None
    if xp is not np and name in _NO_RESULT:  # CuPy does not raise
        lost = not xp.isfinite(y).all()
        if lost and all(xp.isfinite(a).all() for a in wide):
            raise error
    if not half:
        return tuple(y) if isinstance(y, tuple) else y
    return tuple(map(_narrow, y)) if isinstance(y, tuple) else _narrow(y)


def _narrow(y: Any) -> Any:
    return y.astype(np.float16) if y.dtype == np.float32 else y


_NO_RESULT = {
    "cholesky": ("the matrix is not positive definite", "x + eps * gg.eye(n), or eigh(x)"),
    "inv": ("the matrix is singular", "pinv(x)"),
    "solve": ("the matrix is singular", "pinv(a) @ b, or lstsq(a, b)"),
}


def _square(name: str, x: Any) -> Shape:
    """The batch shape of square matrices; anything else raises."""
    shape: Shape = x.shape
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ShapeError(message(name, "takes square matrices (…, n, n)", shape))
    return shape[:-2]


def _matrix(name: str, x: Any) -> Shape:
    """The batch shape of matrices; anything else raises."""
    shape: Shape = x.shape
    if len(shape) < 2:
        raise ShapeError(message(name, "takes matrices (…, m, n)", shape))
    return shape[:-2]


def _on_square(name: str) -> tuple[Callable[..., Any], Callable[..., Aval]]:
    """forward and aval of a function of square matrices to matrices of the same shape."""

    def forward(xp: Any, x: Any) -> Any:
        _square(name, x)
        return _call(xp, name, x)

    def aval(x: Aval) -> Aval:
        _square(name, x)
        return x

    return forward, aval


# Diagonals

diagonal = Op(
    "diagonal",
    lambda xp, x, *, k: xp.diagonal(x, k, -2, -1),
    lambda x, *, k: Aval((*_matrix("diagonal", x), _diagonal_size(x.shape, k)), x.dtype),
    vjp=[lambda g, like, *, k: diagonal_matrix(g, k=k, shape=like.shape[-2:])],
    jvp="linear",
    kind="view",
)


def _diagonal_size(shape: Shape, k: int) -> int:
    m, n = shape[-2:]
    return max(0, min(m, n - k) if k >= 0 else min(m + k, n))


def _diagonal_matrix(xp: Any, d: Any, k: int, shape: Shape) -> Any:
    y = xp.zeros((*d.shape[:-1], *shape), d.dtype)
    place = xp.arange(d.shape[-1])
    y[..., place + max(-k, 0), place + max(k, 0)] = d
    return y


diagonal_matrix = Op(
    "diagonal_matrix",
    lambda xp, d, *, k, shape: _diagonal_matrix(xp, d, k, shape),
    lambda d, *, k, shape: Aval((*d.shape[:-1], *shape), d.dtype),
    vjp=[lambda g, *, k: diagonal(g, k=k)],
    jvp="linear",
)

# Linear systems


def _solve(xp: Any, a: Any, b: Any) -> Any:
    shape = _solve_aval(Aval(a.shape, a.dtype), Aval(b.shape, b.dtype)).shape
    if xp is not np:  # CuPy does not broadcast here
        a = xp.broadcast_to(a, shape[:-2] + a.shape[-2:])
        b = xp.broadcast_to(b, shape)
    return _call(xp, "solve", a, b)


def _solve_aval(a: Aval, b: Aval) -> Aval:
    batch = _square("solve", a)
    if b.ndim < 2 or b.shape[-2] != a.shape[-1]:
        rule, hint = "b needs as many rows as a", "a: (…, n, n) and b: (…, n, k)"
        raise ShapeError(message("solve", rule, f"a: {a.shape}, b: {b.shape}", hint))
    avals = [Aval(batch, a.dtype), Aval(b.shape[:-2], b.dtype)]
    return Aval((*broadcast("solve", "ab", avals), *b.shape[-2:]), promote("solve", (a, b)))


def _solve_cotangents(g: Any, saved: Any, node: Any) -> tuple[Any, Any]:
    a, _, y = saved
    gb = solve(adjoint(a), g)
    return None if node.parents[0] is None else -matmul(gb, adjoint(y)), gb


def _solve_tangent(da: Any, db: Any, a: Any, y: Any) -> Any:
    return solve(a, total(t for t in (db, None if da is None else -matmul(da, y)) if t is not None))


solve = Op("solve", _solve, _solve_aval, jvp=_solve_tangent)
_both: Any = Joint(_solve_cotangents)  # one rule for both: gb is a step on the way to ga
solve.rules = _both
solve.reads = [(0, OUTPUT), (0,)]

inv = Op(
    "inv",
    *_on_square("inv"),
    vjp=[lambda g, y: -_product(adjoint(y), g, adjoint(y))],
    jvp=lambda dx, y: -_product(y, dx, y),
)


def _pinv(xp: Any, x: Any, rtol: Any) -> Any:
    _matrix("pinv", x)
    u, s, vh = _call(xp, "svd", x, full_matrices=False)
    if not s.size:
        return xp.zeros((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype)
    keep = s > s[..., :1] * (xp.asarray(rtol)[..., None] if hasattr(rtol, "shape") else rtol)
    scaled = adjoint(vh) * columns(xp.where(keep, 1 / xp.where(keep, s, 1), 0))
    return xp.matmul(scaled, adjoint(u)).astype(x.dtype, copy=False)


def _pinv_tangent(dx: Any, x: Any, y: Any) -> Any:
    yh, dh = adjoint(y), adjoint(dx)
    left = _product(y, yh, dh)
    right = _product(dh, yh, y)
    return -_product(y, dx, y) + left - _product(left, x, y) + right - _product(y, x, right)


def _pinv_cotangent(g: Any, x: Any, y: Any) -> Any:
    yh, gh = adjoint(y), adjoint(g)
    left = _product(gh, y, yh)
    right = _product(yh, y, gh)
    return -_product(yh, g, yh) + left - _product(x, y, left) + right - _product(right, y, x)


# Golub and Pereyra (1973), eq. 4.12: holds while the rank, as ``rtol`` sees it, stays what it is.
pinv = Op(
    "pinv",
    _pinv,
    lambda x, rtol: Aval((*_matrix("pinv", x), x.shape[-1], x.shape[-2]), x.dtype),
    vjp=[_pinv_cotangent, None],
    jvp=lambda dx, x, y: None if dx is None else _pinv_tangent(dx, x, y),
)

# Determinants


def _det(xp: Any, x: Any) -> Any:
    _square("det", x)
    return _call(xp, "det", x)


det = Op(
    "det",
    _det,
    lambda x: Aval(_square("det", x), x.dtype),
    # The cofactors exist where the inverse does not.
    vjp=[lambda g, x: g[..., None, None] * _conj(cofactors(x))],
    jvp=lambda dx, x: sum_(cofactors(x) * dx, axis=(x.ndim - 2, x.ndim - 1), keepdims=False),
)


def _conj(x: Any) -> Any:
    return conj(x) if x.dtype.kind == "c" else x


def _rotations(xp: Any, x: Any) -> tuple[Any, Any, Any, Any]:
    """u, s, vh, and ``det(u) det(vh)`` as a 1 × 1 matrix."""
    wide = x.astype(np.float32) if x.dtype == np.float16 else x
    u, s, vh = _call(xp, "svd", wide)
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
    w = _diagonal_matrix(
        xp, xp.matmul(pairs, rows(xp.diagonal(p, 0, -2, -1)))[..., 0], 0, p.shape[-2:]
    ) - pairs * p.swapaxes(-1, -2)
    return (turn * xp.matmul(xp.matmul(xp.conj(u), w), xp.conj(vh))).astype(x.dtype, copy=False)


def _cofactors_along_both(x: Any, e: Any, f: Any) -> Any:
    """The third derivative of det, as the matrix it is paired with; of regular matrices only."""
    b = inv(x)
    be, bf = matmul(b, e), matmul(b, f)
    ef, fe = matmul(be, bf), matmul(bf, be)
    te, tf = _trace(be), _trace(bf)
    inner = (te * tf - _trace(ef)) * _identity(x) - te * bf - tf * be + ef + fe
    return det(x)[..., None, None] * matmul(inner, b).swapaxes(-1, -2)


cofactors = Op(
    "cofactors",
    _cofactors,
    lambda x: x,
    vjp=[lambda g, x: _conj(cofactors_along(x, _conj(g)))],
    jvp=lambda dx, x: cofactors_along(x, dx),
)
cofactors_along = Op(
    "cofactors_along",  # the derivative of cofactors in direction e; symmetric, hence its own vjp
    _cofactors_along,
    lambda x, e: x,
    vjp=[
        lambda g, x, e: _conj(_cofactors_along_both(x, e, _conj(g))),
        lambda g, x: _conj(cofactors_along(x, _conj(g))),
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
    _square("slogdet", x)
    return _call(xp, "slogdet", x)


def _slogdet_cotangent(g: Any, x: Any, y: Any) -> Any:
    g_sign, q = g
    if x.dtype.kind == "c":
        q = q - 1j * imag(conj(g_sign) * y[0])
    return q[..., None, None] * adjoint(inv(x))


def _slogdet_tangent(dx: Any, x: Any, y: Any) -> Any:
    rate = _trace(solve(x, dx))[..., 0, 0]
    if x.dtype.kind != "c":
        return None, rate
    return 1j * imag(rate) * y[0], real(rate)


def _slogdet_aval(x: Aval) -> Any:
    batch = _square("slogdet", x)
    return Aval(batch, x.dtype), Aval(batch, _real_dtype(x.dtype))


slogdet = Op(
    "slogdet",
    _slogdet,
    _slogdet_aval,
    vjp=[_slogdet_cotangent],
    jvp=_slogdet_tangent,
)

# Decompositions without gaps


def _half_diagonal(x: Any) -> Any:
    """The lower triangle of ``x`` with its diagonal halved: what Murray (2016) calls Φ."""
    return triangle(x, k=0, lower=True) * (1 - 0.5 * _identity(x))


def _cholesky_cotangent(g: Any, y: Any) -> Any:
    yh = adjoint(y)
    inner = solve(yh, _half_diagonal(matmul(yh, g)))
    return _hermitian(adjoint(solve(yh, adjoint(inner))))


def _cholesky_tangent(dx: Any, y: Any) -> Any:
    inner = adjoint(solve(y, adjoint(solve(y, _hermitian(dx)))))
    return matmul(y, _half_diagonal(inner))


# Murray, Differentiation of the Cholesky decomposition (2016), eqs. 8 and 10
cholesky = Op("cholesky", *_on_square("cholesky"), vjp=[_cholesky_cotangent], jvp=_cholesky_tangent)


def _qr(xp: Any, x: Any, mode: str) -> Any:
    _qr_aval(Aval(x.shape, x.dtype), mode=mode)
    return _call(xp, "qr", x, mode=mode)


def _qr_aval(x: Aval, *, mode: str) -> Any:
    batch = _matrix("qr", x)
    m, n = x.shape[-2:]
    if m < n:
        raise ShapeError(message("qr", "the op takes no wide matrices", x.shape, "gg.linalg.qr"))
    k = n if mode == "reduced" else m
    return Aval((*batch, m, k), x.dtype), Aval((*batch, k, n), x.dtype)


def _full_rank(r: Any) -> None:
    d = abs(data_of(diagonal(r, k=0)))
    if d.size:
        eps = np.finfo(d.dtype).eps * d.shape[-1]
        if (d <= eps * d.max(axis=-1, keepdims=True)).any():
            rule = "a matrix without full column rank has no derivative here"
            raise GradientError(message("qr", rule, r.shape, "svd(x)"))


def _upper(x: Any) -> Any:
    """Upper triangle of ``x + xᴴ``, its diagonal halved."""
    return triangle(x + adjoint(x), k=0, lower=False) * (1 - 0.5 * _identity(x))


def _qr_cotangent(g: Any, y: Any) -> Any:
    (q, r), (gq, gr) = y, g
    n = r.shape[-1]
    if q.shape[-1] > n:
        _refuse_basis("qr", gq[..., n:], "mode='reduced'")
        q, r, gq, gr = q[..., :n], r[..., :n, :], gq[..., :n], gr[..., :n, :]
    _full_rank(r)
    s = triangle(matmul(gr, adjoint(r)) - matmul(adjoint(q), gq), k=0, lower=False)
    s = (s + adjoint(s)) * (1 - 0.5 * _identity(s))
    return adjoint(solve(r, adjoint(gq + matmul(q, s))))


def _qr_tangent(dx: Any, y: Any) -> Any:
    q, r = y
    if q.shape[-1] > r.shape[-1]:
        raise _no_basis("qr", "mode='reduced'")
    _full_rank(r)
    w = adjoint(solve(adjoint(r), adjoint(dx)))
    t = _upper(matmul(adjoint(q), w))
    return w - matmul(q, t), matmul(t, r)


def _no_basis(name: str, hint: str) -> GradientError:
    rule = "the columns beyond the range are any basis of the rest, and have no derivative"
    return GradientError(message(name, rule, hint=hint))


def _refuse_basis(name: str, g: Any, hint: str) -> None:
    if data_of(g).any():
        raise _no_basis(name, hint)


# Roberts and Roberts (2020), eq. 8, with the gauge in which r has a real diagonal
qr = Op(
    "qr",
    lambda xp, x, *, mode: _qr(xp, x, mode),
    _qr_aval,
    vjp=[_qr_cotangent],
    jvp=_qr_tangent,
)

# What divides by gaps between eigenvalues. Values within rounding of each other count as equal.


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
        lambda g, d, *, owner: over(g, _conj(d), g, owner=owner),
        lambda g, y, d, *, owner: -over(g * _conj(y), _conj(d), g, owner=owner),
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
        close = abs(columns(array) - rows(array)) <= _tolerance(array)
        if (close & (_identity(array) == 0)).any():
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


def _tolerance(w: Any) -> Any:
    """Below this, a difference of two of the values ``w`` (a bare array) is rounding."""
    computed_in = np.result_type(w.dtype, np.float32)
    size = 10 * float(np.finfo(computed_in).eps) * w.shape[-1]
    return (size * abs(w).max(axis=-1, keepdims=True))[..., None]


def _gaps(w: Any, sign: int = -1) -> Any:
    """``w_j ± w_i``, exactly 0 where it is rounding; 1 on the diagonal of differences."""
    d = columns(w) - rows(w) if sign < 0 else columns(w) + rows(w)
    array = data_of(w)
    if not array.size:
        return d
    d = where(abs(data_of(d)) <= _tolerance(array), 0, d)
    return where(_identity(array) == 1, 1, d) if sign < 0 else d


def _off_diagonal(x: Any) -> Any:
    return x * (1 - _identity(x))


def _check_phase(owner: str, p: Any, g: Any) -> None:
    """Eigenvectors are known up to a phase: a loss that sees it has no derivative."""
    array, size = data_of(p), data_of(g)
    if array.dtype.kind == "c" and array.size:
        phase = abs(array.diagonal(0, -2, -1).imag).max()
        if phase > np.finfo(array.dtype).eps ** 0.5 * abs(size).max():
            rule = "the loss depends on the phase of complex vectors, which is arbitrary"
            raise GradientError(message(owner, rule, hint="abs(v), or v @ v.mT.conj()"))


# Hermitian eigenvalues. Formulas: Giles, An extended collection of matrix derivative results (2008)


def _eigh(xp: Any, x: Any) -> Any:
    _square("eigh", x)
    return _call(xp, "eigh", x)


def _eigenvalues_cotangent(g: Any, v: Any) -> Any:
    return matmul(v * columns(g), adjoint(v))


def _eigh_cotangent(g: Any, y: Any) -> Any:
    (w, v), (gw, gv) = y, g
    terms = []
    if not _absent(gw):
        terms.append(_eigenvalues_cotangent(gw, distinct(v, w, owner="eigh")))
    if not _absent(gv):
        vh = adjoint(v)
        p = matmul(vh, gv)
        _check_phase("eigh", p, gv)
        skew = _off_diagonal((p - adjoint(p)) * 0.5)
        terms.append(_product(v, over(skew, _gaps(w), p, owner="eigh"), vh))
    return total(terms) if terms else v * 0


def _eigh_tangent(dx: Any, y: Any) -> Any:
    w, v = y
    p = _product(adjoint(v), _hermitian(dx), v)
    turn = over(_off_diagonal(p), _gaps(w), p, owner="eigh")
    return real(diagonal(p, k=0)), matmul(v, turn)


def _eigh_aval(x: Aval) -> Any:
    return Aval((*_square("eigh", x), x.shape[-1]), _real_dtype(x.dtype)), x


eigh = Op(
    "eigh",
    _eigh,
    _eigh_aval,
    vjp=[_eigh_cotangent],
    jvp=_eigh_tangent,
)


def _eigvalsh(xp: Any, x: Any) -> Any:
    _square("eigvalsh", x)
    return _call(xp, "eigvalsh", x)


def _vectors(x: Any) -> Any:
    w, v = eigh(x)
    return distinct(v, w, owner="eigvalsh")


def _eigvalsh_tangent(dx: Any, x: Any) -> Any:
    v = _vectors(x)
    return real(sum_(_conj(v) * matmul(dx, v), axis=(x.ndim - 2,), keepdims=False))


# No gap occurs in the first derivative. At equal eigenvalues, which have none, it is the mean over
# directions: exact for a loss that treats them alike, a subgradient otherwise.
eigvalsh = Op(
    "eigvalsh",
    _eigvalsh,
    lambda x: Aval((*_square("eigvalsh", x), x.shape[-1]), _real_dtype(x.dtype)),
    vjp=[lambda g, x: _eigenvalues_cotangent(g, _vectors(x))],
    jvp=_eigvalsh_tangent,
)

# Singular values


def _svd(xp: Any, x: Any, full: bool) -> Any:
    _matrix("svd", x)
    return _call(xp, "svd", x, full_matrices=full)


def _svd_aval(x: Aval, *, full: bool) -> Any:
    batch = _matrix("svd", x)
    m, n = x.shape[-2:]
    k = min(m, n)
    return (
        Aval((*batch, m, m if full else k), x.dtype),
        Aval((*batch, k), _real_dtype(x.dtype)),
        Aval((*batch, n if full else k, n), x.dtype),
    )


_THIN = "full_matrices=False"


def _svdvals_cotangent(g: Any, factors: Any, owner: str) -> Any:
    """``u diag(g) vh``. A zero singular value has a corner like |x|: its derivative is 0."""
    u, s, vh = factors
    array = data_of(s)
    if array.size:
        g = where(array <= _tolerance(array)[..., 0], 0, g)
    return matmul(distinct(u, s, owner=owner) * columns(g), distinct(vh, s, owner=owner))


def _svd_cotangent(g: Any, y: Any) -> Any:
    (u, s, vh), (gu, gs, gvh) = y, g
    k, m, n = s.shape[-1], u.shape[-2], vh.shape[-1]
    if u.shape[-1] > k:
        _refuse_basis("svd", gu[..., k:], _THIN)
        u, gu = u[..., :k], gu[..., :k]
    if vh.shape[-2] > k:
        _refuse_basis("svd", gvh[..., k:, :], _THIN)
        vh, gvh = vh[..., :k, :], gvh[..., :k, :]
    terms = []
    if not _absent(gs):
        terms.append(_svdvals_cotangent(gs, (u, s, vh), "svd"))
    if _absent(gu) and _absent(gvh):
        return total(terms) if terms else matmul(u * columns(s), vh) * 0
    uh = adjoint(u)
    pu, pv = matmul(uh, gu), matmul(vh, adjoint(gvh))
    both, apart = pu + pv, pu - pv
    size = absolute(pu) + absolute(pv)
    _check_phase("svd", both, size)
    # (skew pu · S + S · skew pv) / (s_j² − s_i²), with each zero of the denominator by itself
    apart = (apart - adjoint(apart)) * 0.5
    if apart.dtype.kind != "c":
        apart = _off_diagonal(apart)
    both = _off_diagonal((both - adjoint(both)) * 0.5)
    inner = over(both, _gaps(s), size, owner="svd") + over(
        apart, _sums(s, apart), size, owner="svd"
    )
    terms.append(_product(u, inner, vh))
    if m > k:
        beyond = gu - matmul(u, pu)
        terms.append(matmul(over(beyond, columns(_flushed(s)), gu, owner="svd"), vh))
    if n > k:
        beyond = gvh - matmul(adjoint(pv), vh)
        terms.append(matmul(u, over(beyond, rows(_flushed(s)), gvh, owner="svd")))
    return total(terms)


def _sums(s: Any, x: Any) -> Any:
    """``s_j + s_i``; of real matrices the diagonal, where x is 0, is 1."""
    d = _gaps(s, 1)
    return d if x.dtype.kind == "c" or not s.shape[-1] else where(_identity(s) == 1, 1, d)


def _flushed(s: Any) -> Any:
    """``s`` with exact zeros in place of rounding."""
    array = data_of(s)
    return where(array <= _tolerance(array)[..., 0], 0, s) if array.size else s


def _svd_tangent(dx: Any, y: Any) -> Any:
    u, s, vh = y
    k, m, n = s.shape[-1], u.shape[-2], vh.shape[-1]
    if u.shape[-1] > k or vh.shape[-2] > k:
        raise _no_basis("svd", _THIN)
    uh, v = adjoint(u), adjoint(vh)
    p = _product(uh, dx, v)
    even, odd = _hermitian(p), (p - adjoint(p)) * 0.5
    if odd.dtype.kind != "c":
        odd = _off_diagonal(odd)
    a = over(_off_diagonal(even), _gaps(s), p, owner="svd")
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
    _matrix("svdvals", x)
    return _call(xp, "svd", x, compute_uv=False)


def _svdvals_tangent(dx: Any, x: Any) -> Any:
    u, s, vh = svd(x, full=False)
    u, vh = distinct(u, s, owner="svdvals"), distinct(vh, s, owner="svdvals")
    ds = real(sum_(_conj(u) * matmul(dx, adjoint(vh)), axis=(x.ndim - 2,), keepdims=False))
    return where(data_of(_flushed(s)) == 0, 0, ds)


svdvals = Op(
    "svdvals",
    _svdvals,
    lambda x: Aval((*_matrix("svdvals", x), min(x.shape[-2:])), _real_dtype(x.dtype)),
    vjp=[lambda g, x: _svdvals_cotangent(g, svd(x, full=False), "svdvals")],
    jvp=_svdvals_tangent,
)

# General eigenvalues: always complex


def _eig(xp: Any, x: Any) -> Any:
    _square("eig", x)
    return tuple([p.astype(_complex_dtype(x.dtype), copy=False) for p in _call(xp, "eig", x)])


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
    if not _absent(gv):
        p = matmul(vh, gv)
        _check_phase("eig", p, gv)
        p = p - matmul(vh, v) * columns(real(diagonal(p, k=0)))  # each vector keeps its length 1
        inner = inner + over(_off_diagonal(p), conj(_gaps(w)), p, owner="eig")
    return solve(vh, matmul(inner, vh))


def _eig_tangent(dx: Any, y: Any) -> Any:
    w, v = y
    _check_independent(v, "eig")
    p = solve(v, matmul(dx, v))
    dv = matmul(v, over(_off_diagonal(p), _gaps(w), p, owner="eig"))
    lengths = real(sum_(conj(v) * dv, axis=(v.ndim - 2,), keepdims=True))
    return diagonal(p, k=0), dv - v * lengths


def _eig_aval(x: Aval) -> Any:
    dtype = _complex_dtype(x.dtype)
    return Aval((*_square("eig", x), x.shape[-1]), dtype), Aval(x.shape, dtype)


# Boeddeker et al., On the computation of complex-valued gradients (2017), eqs. 4.60 and 4.77
eig = Op(
    "eig",
    _eig,
    _eig_aval,
    vjp=[_eig_cotangent],
    jvp=_eig_tangent,
)


def _eigvals(xp: Any, x: Any) -> Any:
    _square("eigvals", x)
    return _call(xp, "eigvals", x).astype(_complex_dtype(x.dtype), copy=False)


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
    lambda x: Aval((*_square("eigvals", x), x.shape[-1]), _complex_dtype(x.dtype)),
    vjp=[_eigvals_cotangent],
    jvp=_eigvals_tangent,
)
