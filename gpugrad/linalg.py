"""``gg.linalg``: the array API's linear algebra extension, and NumPy's ``norm`` and ``lstsq``.

Every function takes stacks of matrices, real or complex, and keeps their precision. A matrix that
has no result raises `LinAlgError`; a derivative that does not exist raises `GradientError` or is
the subgradient that is documented. Imports ops and namespace.
"""

import builtins
import math
from string import ascii_letters
from typing import Any, NamedTuple

import numpy as np

from gpugrad.aval import normalize_axes
from gpugrad.errors import DtypeError, LinAlgError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace import linalg as _products
from gpugrad.namespace.array import matmul, matrix_transpose
from gpugrad.namespace.creation import asarray
from gpugrad.namespace.lifting import together
from gpugrad.namespace.linalg import tensordot, vecdot
from gpugrad.ops.linalg import adjoint
from gpugrad.tensor import Tensor

__all__ = [
    "EigResult",
    "EighResult",
    "LinAlgError",
    "LstsqResult",
    "QRResult",
    "SVDResult",
    "SlogdetResult",
    "cholesky",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "inv",
    "lstsq",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "multi_dot",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "tensorinv",
    "tensorsolve",
    "trace",
    "vecdot",
    "vector_norm",
]

Axis = int | tuple[int, ...] | None


def _floating(op: str, x: Any) -> Tensor:
    values = asarray(x)
    if values.dtype.kind not in "fc":
        hint = "x.astype(gg.float32)"
        raise DtypeError(message(op, "takes floating or complex matrices", values.dtype, hint))
    return values


# Systems, inverses, determinants


def solve(x1: Any, x2: Any, /) -> Tensor:
    """``y`` with ``x1 @ y = x2``.

    Parameters
    ----------
    x1 : (…, n, n), invertible.
    x2 : (n,), or (…, n, k); leading axes broadcast with those of ``x1``.

    Raises
    ------
    LinAlgError
        When a matrix is exactly singular.

    Examples
    --------
    >>> import gpugrad as gg
    >>> gg.linalg.solve(gg.asarray([[2.0, 0.0], [0.0, 4.0]]), gg.asarray([2.0, 2.0])).tolist()
    [1.0, 0.5]
    """
    x1, x2 = [_floating("solve", x) for x in together(x1, x2)]
    if x2.ndim == 1:
        y: Tensor = ops.solve(x1, x2[:, None])[..., 0]
        return y
    return ops.solve(x1, x2)


def inv(x: Any, /) -> Tensor:
    """Inverse of each (…, n, n) matrix; `solve` is faster and more accurate than a product with it.

    Raises `LinAlgError` when a matrix is exactly singular.

    >>> import gpugrad as gg
    >>> gg.linalg.inv(gg.asarray([[2.0, 0.0], [0.0, 4.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    return ops.inv(_floating("inv", x))


def pinv(x: Any, /, *, rtol: Any = None) -> Tensor:
    """Moore–Penrose inverse: (…, m, n) to (…, n, m).

    Singular values of at most ``rtol`` times the largest count as 0; ``rtol`` is a number or one
    for each matrix, by default ``max(m, n)`` times the rounding unit. The derivative is that at
    constant rank (Golub and Pereyra 1973): where the rank changes, pinv jumps and has none.

    >>> import gpugrad as gg
    >>> gg.linalg.pinv(gg.asarray([[2.0, 0.0], [0.0, 0.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    x = _floating("pinv", x)
    return ops.pinv(x, _rtol("pinv", x, rtol))


def _rtol(op: str, x: Tensor, rtol: Any) -> Any:
    if x.ndim < 2:
        raise ShapeError(message(op, "takes matrices (…, m, n)", x.shape))
    if rtol is None:
        return builtins.max(x.shape[-2:]) * float(np.finfo(x.dtype).eps)
    return (
        float(rtol) if isinstance(rtol, (int, float)) else asarray(rtol, device=x.device).detach()
    )


def lstsq(a: Any, b: Any, /, rcond: float | None = None) -> "LstsqResult":
    """The shortest ``x`` that minimises ``‖b − a @ x‖``, by the pseudoinverse; named as NumPy's.

    ``residuals`` holds the sums of squares per column, empty unless ``a`` has full column rank and
    more rows than columns.

    >>> import gpugrad as gg
    >>> x = gg.linalg.lstsq(gg.asarray([[1.0], [1.0]]), gg.asarray([1.0, 3.0])).x
    >>> round(x.item(), 5)
    2.0
    """
    a, b = [_floating("lstsq", x) for x in together(a, b)]
    if a.ndim != 2 or b.ndim not in (1, 2) or a.shape[0] != b.shape[0]:
        got, hint = f"a: {a.shape}, b: {b.shape}", "a: (m, n) and b: (m,) or (m, k)"
        raise ShapeError(message("lstsq", "b needs as many rows as a", got, hint))
    m, n = a.shape
    rank = matrix_rank(a, rtol=rcond)
    x = matmul(pinv(a, rtol=rcond), b)
    rest = functions.abs(b - matmul(a, x))
    sums = functions.reshape(functions.sum(rest * rest, axis=0), (-1,))
    full = m > n and int(rank) == n
    return LstsqResult(x, sums if full else sums[:0], rank, svdvals(a))


def tensorsolve(a: Any, b: Any, /, axes: Any = None) -> Tensor:
    """``y`` with ``tensordot(a, y, y.ndim) = b``; ``axes`` of a are moved to its end first.

    >>> import gpugrad as gg
    >>> gg.linalg.tensorsolve(2 * gg.reshape(gg.eye(4), (2, 2, 4)), gg.ones((2, 2))).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    a, b = together(a, b)
    if axes is not None:
        moved = tuple(axes)
        a = functions.moveaxis(a, moved, tuple(range(a.ndim - len(moved), a.ndim)))
    rest = a.shape[b.ndim :]
    if math.prod(rest) != b.size or a.size != b.size**2:
        got, hint = f"a: {a.shape}, b: {b.shape}", "a: (*b.shape, *y.shape), y as large as b"
        raise ShapeError(message("tensorsolve", "a is no square matrix over b", got, hint))
    y = solve(functions.reshape(a, (b.size, b.size)), functions.reshape(b, (-1,)))
    return functions.reshape(y, rest)


def tensorinv(a: Any, /, ind: int = 2) -> Tensor:
    """The inverse of ``a`` as a map from its last axes to its first ``ind`` ones.

    >>> import gpugrad as gg
    >>> gg.linalg.tensorinv(2 * gg.reshape(gg.eye(4), (4, 2, 2)), ind=1).shape
    (2, 2, 4)
    """
    x = _floating("tensorinv", a)
    n = math.prod(x.shape[:ind])
    if ind < 1 or n * n != x.size:
        hint = "as many values in the first ind axes as in the others"
        raise ShapeError(message("tensorinv", "a is no square matrix", (x.shape, ind), hint))
    y = inv(functions.reshape(x, (n, n)))
    return functions.reshape(y, (*x.shape[ind:], *x.shape[:ind]))


def det(x: Any, /) -> Tensor:
    """Determinant of each (…, n, n) matrix. Its first two derivatives hold for singular ones too.

    >>> import gpugrad as gg
    >>> gg.grad(gg.linalg.det)(gg.asarray([[1.0, 0.0], [0.0, 0.0]])).tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    return ops.det(_floating("det", x))


def slogdet(x: Any, /) -> "SlogdetResult":
    """Sign and logarithm of the absolute value of the determinant, which may itself overflow.

    A singular matrix has sign 0 and logarithm −∞; differentiating there raises `LinAlgError`.

    >>> import gpugrad as gg
    >>> gg.linalg.slogdet(gg.eye(2)).logabsdet.item()
    0.0
    """
    return SlogdetResult(*ops.slogdet(_floating("slogdet", x)))


def matrix_power(x: Any, n: int, /) -> Tensor:
    """``x`` multiplied by itself ``n`` times; a negative ``n`` takes powers of the inverse.

    >>> import gpugrad as gg
    >>> gg.linalg.matrix_power(gg.asarray([[1.0, 1.0], [0.0, 1.0]]), 5).tolist()
    [[1.0, 5.0], [0.0, 1.0]]
    """
    x = asarray(x)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(message("matrix_power", "takes square matrices (…, n, n)", x.shape))
    if not isinstance(n, (int, np.integer)):
        raise DtypeError(message("matrix_power", "the exponent is an integer", n))
    if n == 0:
        identity = functions.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return functions.broadcast_to(identity, x.shape)
    square = inv(x) if n < 0 else x
    n = abs(int(n))
    result = None
    while n:
        if n & 1:
            result = square if result is None else matmul(result, square)
        n >>= 1
        if n:
            square = matmul(square, square)
    assert result is not None
    return result


def matrix_rank(x: Any, /, *, rtol: Any = None) -> Tensor:
    """Number of singular values above ``rtol`` times the largest. No derivative.

    >>> import gpugrad as gg
    >>> gg.linalg.matrix_rank(gg.ones((3, 3))).item()
    1
    """
    x = _floating("matrix_rank", x).detach()
    tolerance = _rtol("matrix_rank", x, rtol)
    s = ops.svdvals(x)
    largest = s[..., :1]
    limit = largest * (tolerance[..., None] if isinstance(tolerance, Tensor) else tolerance)
    return functions.sum(s > limit, axis=-1)


# Decompositions


class EighResult(NamedTuple):
    """Eigenvalues (…, n) in ascending order, eigenvectors in the columns of (…, n, n)."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class EigResult(NamedTuple):
    """Complex eigenvalues (…, n) in no order, eigenvectors in the columns of (…, n, n)."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class QRResult(NamedTuple):
    """Orthonormal columns Q, upper triangle R."""

    Q: Tensor
    R: Tensor


class SlogdetResult(NamedTuple):
    """Sign and ``log |det|``."""

    sign: Tensor
    logabsdet: Tensor


class SVDResult(NamedTuple):
    """Singular vectors U, values S in descending order, and Vh: ``x = U @ diag(S) @ Vh``."""

    U: Tensor
    S: Tensor
    Vh: Tensor


class LstsqResult(NamedTuple):
    """Solution, sums of squared residuals, rank and singular values."""

    x: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


def cholesky(x: Any, /, *, upper: bool = False) -> Tensor:
    """Lower triangle L with ``x = L @ Lᴴ``, or with ``upper`` U with ``x = Uᴴ @ U``.

    Only that triangle of ``x`` is read, as that of a Hermitian matrix; the gradient is Hermitian.
    Raises `LinAlgError` when a matrix is not positive definite.

    >>> import gpugrad as gg
    >>> gg.linalg.cholesky(gg.asarray([[4.0, 2.0], [2.0, 2.0]])).tolist()
    [[2.0, 0.0], [1.0, 1.0]]
    """
    x = _floating("cholesky", x)
    if upper and x.ndim >= 2:
        y: Tensor = adjoint(ops.cholesky(adjoint(x)))
        return y
    return ops.cholesky(x)


def eigh(x: Any, /, UPLO: str = "L") -> EighResult:
    """Eigenvalues and eigenvectors of Hermitian matrices (…, n, n).

    The lower triangle is read, or with ``UPLO="U"`` the upper one; the gradient is Hermitian.

    Eigenvectors are known up to sign (complex: phase), and within a space of equal eigenvalues up
    to a rotation. A loss must not depend on that choice: where it does so the derivative does not
    exist and `GradientError` is raised. One of the eigenvalues alone never divides by their gaps.
    Second derivatives, and jvp, raise at equal eigenvalues; for jvp of eigenvalues alone there is
    `eigvalsh`. Eigenvalues within 10 n rounding units of the largest count as equal.

    >>> import gpugrad as gg
    >>> gg.linalg.eigh(gg.asarray([[2.0, 0.0], [0.0, 1.0]])).eigenvalues.tolist()
    [1.0, 2.0]
    """
    return EighResult(*ops.eigh(_lower("eigh", x, UPLO)))


def _lower(op: str, x: Any, triangle: str) -> Tensor:
    """A Hermitian matrix, given by one of its triangles, with that one below."""
    if triangle not in ("L", "U"):
        raise DtypeError(message(op, "UPLO is 'L' or 'U'", repr(triangle)))
    given = _floating(op, x)
    flipped: Tensor = given if triangle == "L" else adjoint(given)
    return flipped


def eigvalsh(x: Any, /, UPLO: str = "L") -> Tensor:
    """Eigenvalues of Hermitian matrices (…, n, n), ascending; triangles as in `eigh`.

    At equal eigenvalues the gradient is exact for a loss that treats these alike (their sum, say),
    else a subgradient; second derivatives raise there.

    >>> import gpugrad as gg
    >>> gg.grad(lambda x: gg.linalg.eigvalsh(x).sum())(gg.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return ops.eigvalsh(_lower("eigvalsh", x, UPLO))


def eig(x: Any, /) -> EigResult:
    """Eigenvalues and eigenvectors of general matrices (…, n, n); always complex.

    Eigenvectors have length 1 and an arbitrary phase, on which a loss must not depend. At equal
    eigenvalues their derivative does not exist and raises `GradientError`, as does any derivative
    of a matrix without a full set of eigenvectors.

    >>> import gpugrad as gg
    >>> gg.linalg.eig(gg.asarray([[0.0, 1.0], [-1.0, 0.0]])).eigenvalues.dtype
    dtype('complex64')
    """
    return EigResult(*ops.eig(_floating("eig", x)))


def eigvals(x: Any, /) -> Tensor:
    """Eigenvalues of general matrices (…, n, n), always complex; see `eig`.

    >>> import gpugrad as gg
    >>> gg.linalg.eigvals(gg.eye(2)).tolist()
    [(1+0j), (1+0j)]
    """
    return ops.eigvals(_floating("eigvals", x))


def qr(x: Any, /, mode: str = "reduced") -> QRResult:
    """Orthonormal columns Q and upper triangle R with ``x = Q @ R``.

    Of an (…, m, n) matrix Q is (…, m, k), k = min(m, n); with ``mode="complete"`` k = m. The first
    k columns of x must be independent for a derivative, else `GradientError`, which also meets a
    loss that sees the columns only the complete mode has: they are any basis of the rest.

    >>> import gpugrad as gg
    >>> abs(gg.linalg.qr(gg.asarray([[3.0], [4.0]])).R).tolist()
    [[5.0]]
    """
    x = _floating("qr", x)
    if mode not in ("reduced", "complete"):
        raise DtypeError(message("qr", "mode is 'reduced' or 'complete'", repr(mode)))
    if x.ndim < 2:
        raise ShapeError(message("qr", "takes matrices (…, m, n)", x.shape))
    m, n = x.shape[-2:]
    if m >= n:
        return QRResult(*ops.qr(x, mode=mode))
    q, r = ops.qr(x[..., :m], mode="reduced")  # Householder's Q knows the first m columns only
    return QRResult(q, functions.concat([r, matmul(adjoint(q), x[..., m:])], axis=-1))


def svd(x: Any, /, full_matrices: bool = True) -> SVDResult:
    """Singular value decomposition ``x = U @ diag(S) @ Vh`` of (…, m, n) matrices.

    U is (…, m, m), Vh (…, n, n), with ``full_matrices=False`` (…, m, k) and (…, k, n), k =
    min(m, n). Singular vectors are known up to a common sign or phase, and up to rotations where
    singular values are equal or 0; the rules for a loss are those of `eigh`. The additional columns
    of full matrices have no derivative, and neither has jvp of full non-square ones.

    >>> import gpugrad as gg
    >>> gg.linalg.svd(gg.asarray([[0.0, 2.0], [1.0, 0.0]])).S.tolist()
    [2.0, 1.0]
    """
    x = _floating("svd", x)
    square = x.ndim >= 2 and x.shape[-1] == x.shape[-2]
    return SVDResult(*ops.svd(x, full=full_matrices and not square))


def svdvals(x: Any, /) -> Tensor:
    """Singular values of (…, m, n) matrices, descending.

    One that is 0 has a corner like that of |x|; its subgradient here is 0. At equal values the
    gradient is exact for a loss that treats these alike; second derivatives raise there.

    >>> import gpugrad as gg
    >>> gg.linalg.svdvals(gg.asarray([[3.0, 0.0], [0.0, -4.0]])).tolist()
    [4.0, 3.0]
    """
    return ops.svdvals(_floating("svdvals", x))


# Norms


def vector_norm(x: Any, /, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """``(Σ |x|ᵖ)^(1/p)`` over ``axis`` (all by default), p = ``ord``.

    ``inf`` is the largest absolute value, ``-inf`` the smallest, 0 the count of values that are not
    0. A value that is 0 has derivative 0, also where the slope there is infinite (p < 1).

    >>> import gpugrad as gg
    >>> gg.linalg.vector_norm(gg.asarray([3.0, 4.0])).item()
    5.0
    """
    x = _floating("vector_norm", x)
    axes = normalize_axes("vector_norm", axis, x.ndim)
    size = functions.abs(x) if x.dtype.kind == "c" or ord != 2 else x
    if ord == 2:
        return ops.norm(size, axis=axes, keepdims=keepdims)
    if ord == math.inf:
        return functions.max(size, axis=axes, keepdims=keepdims)
    if ord == -math.inf:
        return functions.min(size, axis=axes, keepdims=keepdims)
    if ord == 0:
        return functions.astype(functions.sum(size != 0, axis=axes, keepdims=keepdims), size.dtype)
    if ord == 1:
        return functions.sum(size, axis=axes, keepdims=keepdims)
    if not isinstance(ord, (int, float)):
        hint = "a number, or matrix_norm(x, ord=...)"
        raise DtypeError(message("vector_norm", "unknown order", repr(ord), hint))
    return _power_norm(size, float(ord), axes, keepdims)


def _power_norm(size: Tensor, p: float, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    # Scaled by a constant, as p·log x would over- or underflow; ‖x‖ = m ‖x / m‖ for any m.
    values = size.detach()
    extreme = functions.max if p > 0 else functions.min
    m = (
        extreme(values, axis=axes, keepdims=True)
        if values.size
        else functions.ones((1,) * values.ndim)
    )
    m = functions.where((m > 0) & functions.isfinite(m), m, functions.ones_like(m))
    zero = size == 0
    powers = functions.where(zero, 0.0, functions.where(zero, 1.0, size / m) ** p)
    total = functions.sum(powers, axis=axes, keepdims=True)
    none = total == 0 if p > 0 else functions.any(zero, axis=axes, keepdims=True)
    root = functions.where(none, 0.0, functions.where(none, 1.0, total) ** (1 / p) * m)
    return root if keepdims else functions.squeeze(root, axes)


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Tensor:
    """Norm of each (…, m, n) matrix.

    ``"fro"``: √Σ|x|². ``"nuc"``: sum of singular values. 2, -2: the largest, the smallest of them.
    1, -1: largest, smallest column sum of |x|. inf, -inf: the same of rows. Derivatives where
    singular values are 0 or equal: see `svdvals`; at a zero matrix 0.

    >>> import gpugrad as gg
    >>> gg.linalg.matrix_norm(gg.asarray([[3.0, 0.0], [0.0, -4.0]]), ord="nuc").item()
    7.0
    """
    x = _floating("matrix_norm", x)
    if x.ndim < 2:
        raise ShapeError(message("matrix_norm", "takes matrices (…, m, n)", x.shape))
    if ord == "fro":
        return vector_norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord in ("nuc", 2, -2):
        s = ops.svdvals(x)
        if ord == "nuc":
            y = functions.sum(s, axis=-1)
        else:
            y = functions.max(s, axis=-1) if ord == 2 else functions.min(s, axis=-1)
    elif ord in (1, -1, math.inf, -math.inf):
        sums = functions.sum(functions.abs(x), axis=-2 if abs(ord) == 1 else -1)
        y = functions.max(sums, axis=-1) if ord > 0 else functions.min(sums, axis=-1)
    else:
        hint = "'fro', 'nuc', 1, -1, 2, -2, gg.inf or -gg.inf"
        raise DtypeError(message("matrix_norm", "unknown order", repr(ord), hint))
    return functions.expand_dims(y, axis=(-2, -1)) if keepdims else y


def norm(x: Any, /, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """NumPy's norm: of all values, of vectors along one axis, or of matrices in two.

    >>> import gpugrad as gg
    >>> gg.linalg.norm(gg.asarray([[3.0, 4.0], [6.0, 8.0]]), axis=1).tolist()
    [5.0, 10.0]
    """
    x = _floating("norm", x)
    if axis is None and ord is None:
        return vector_norm(x, keepdims=keepdims)
    if axis is None:
        axis = tuple(range(x.ndim))
    pair = axis if isinstance(axis, tuple) else (axis,)
    if len(pair) == 1:
        return vector_norm(x, axis=pair, keepdims=keepdims, ord=2 if ord is None else ord)
    if len(pair) != 2:
        raise ShapeError(message("norm", "one axis of vectors or two of matrices", axis))
    y = matrix_norm(functions.moveaxis(x, pair, (-2, -1)), ord="fro" if ord is None else ord)
    return functions.expand_dims(y, axis=normalize_axes("norm", pair, x.ndim)) if keepdims else y


def cond(x: Any, /, p: Any = None) -> Tensor:
    """Condition number ``‖x‖ ‖x⁻¹‖`` in the norm ``p`` of `matrix_norm`, by default 2.

    For 2 and −2 it is the quotient of the extreme singular values, also of oblong matrices.

    >>> import gpugrad as gg
    >>> gg.linalg.cond(gg.asarray([[4.0, 0.0], [0.0, 0.5]])).item()
    8.0
    """
    x = _floating("cond", x)
    if p is None or p in (2, -2):
        s = svdvals(x)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    return matrix_norm(x, ord=p) * matrix_norm(inv(x), ord=p)


# Products and diagonals


def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Tensor:
    """Cross product of 3-vectors along ``axis``; the other axes broadcast.

    >>> import gpugrad as gg
    >>> gg.linalg.cross([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]).tolist()
    [0.0, 0.0, 1.0]
    """
    x1, x2 = together(x1, x2)
    if axis >= 0:  # counted from the front of the shape they broadcast to
        axis -= builtins.max(x1.ndim, x2.ndim)
    if any(-axis > x.ndim or x.shape[axis] != 3 for x in (x1, x2)):
        got = f"axis {axis} of {x1.shape} and {x2.shape}"
        raise ShapeError(message("cross", "vectors have three components", got))
    left = functions.roll(x1, -1, axis=axis) * functions.roll(x2, -2, axis=axis)
    return left - functions.roll(x1, -2, axis=axis) * functions.roll(x2, -1, axis=axis)


def multi_dot(arrays: Any) -> Tensor:
    """Product of several matrices, two at a time so that intermediates stay small.

    The first may be a row and the last a column, as vectors.

    >>> import gpugrad as gg
    >>> gg.linalg.multi_dot([gg.ones((2, 3)), gg.ones((3, 4)), gg.ones(4)]).tolist()
    [12.0, 12.0]
    """
    xs = together(*arrays)
    if len(xs) < 2 or any(x.ndim != 2 for x in xs[1:-1]) or xs[0].ndim > 2 or xs[-1].ndim > 2:
        hint = "matrices, between vectors at most"
        raise ShapeError(message("multi_dot", "takes a chain", [x.shape for x in xs], hint))
    labels = [ascii_letters[i : i + 2] for i in range(len(xs))]
    if xs[0].ndim == 1:
        labels[0] = labels[0][1]
    if xs[-1].ndim == 1:
        labels[-1] = labels[-1][0]
    ends = labels[0][:-1] + labels[-1][1:]
    return _products.einsum(f"{','.join(labels)}->{ends}", *xs)


def outer(x1: Any, x2: Any, /) -> Tensor:
    """``x1[i] · x2[j]`` of two vectors.

    >>> import gpugrad as gg
    >>> gg.linalg.outer(gg.ones(2), gg.ones(3)).shape
    (2, 3)
    """
    x1, x2 = together(x1, x2)
    if x1.ndim != 1 or x2.ndim != 1:
        got = f"{x1.shape} and {x2.shape}"
        raise ShapeError(message("outer", "takes two vectors", got, "gg.outer, which flattens"))
    return _products.outer(x1, x2)


def diagonal(x: Any, /, *, offset: int = 0) -> Tensor:
    """The diagonal ``offset`` places right of the main one, of the last two axes.

    >>> import gpugrad as gg
    >>> gg.linalg.diagonal(gg.ones((5, 2, 3))).shape
    (5, 2)
    """
    return _products.diagonal(x, offset, -2, -1)


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Tensor:
    """Sum of a diagonal of the last two axes.

    >>> import gpugrad as gg
    >>> gg.linalg.trace(gg.ones((5, 3, 3))).tolist()
    [3.0, 3.0, 3.0, 3.0, 3.0]
    """
    return _products.trace(x, offset, -2, -1, dtype)
