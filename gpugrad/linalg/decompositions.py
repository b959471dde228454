"""Factors of matrices: Cholesky, QR, eigenvalues, singular values. Imports ops and namespace."""

from typing import Any, NamedTuple

from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.linalg.checks import floats
from gpugrad.namespace.array import matmul
from gpugrad.ops.linalg import adjoint
from gpugrad.tensor import Tensor


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


class SVDResult(NamedTuple):
    """Singular vectors U, values S in descending order, and Vh: ``x = U @ diag(S) @ Vh``."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def cholesky(x: Any, /, *, upper: bool = False) -> Tensor:
    """Lower triangle L with ``x = L @ Lᴴ``, or with ``upper`` U with ``x = Uᴴ @ U``.

    Only that triangle of ``x`` is read, as that of a Hermitian matrix; the gradient is Hermitian.
    Raises `LinAlgError` when a matrix is not positive definite.

    >>> import gpugrad as gg
    >>> gg.linalg.cholesky(gg.asarray([[4.0, 2.0], [2.0, 2.0]])).tolist()
    [[2.0, 0.0], [1.0, 1.0]]
    """
    x = floats("cholesky", x)
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

    At equal eigenvalues (within 10 n rounding units of the largest) a loss of vectors alone that
    sees the whole space they span has its derivative; so has one of the values alone. A loss of
    both, like a matrix function ``(v * f(w)) @ v.mT``, raises `GradientError` there, as what flows
    back to w and v does not say how f goes on; the sum of one of values and one of vectors can take
    each from an `eigh` of its own. jvp, which cannot know the loss, raises too: for values alone
    there is `eigvalsh`. Second derivatives raise, but for those of losses linear in the values that
    treat equal ones alike.

    >>> import gpugrad as gg
    >>> gg.linalg.eigh(gg.asarray([[2.0, 0.0], [0.0, 1.0]])).eigenvalues.tolist()
    [1.0, 2.0]
    """
    return EighResult(*ops.eigh(_lower("eigh", x, UPLO), owner="eigh"))


def _lower(op: str, x: Any, triangle: str) -> Tensor:
    """A Hermitian matrix, given by one of its triangles, with that one below."""
    if triangle not in ("L", "U"):
        raise DtypeError(message(op, "UPLO is 'L' or 'U'", repr(triangle)))
    given = floats(op, x)
    flipped: Tensor = given if triangle == "L" else adjoint(given)
    return flipped


def eigvalsh(x: Any, /, UPLO: str = "L") -> Tensor:
    """Eigenvalues of Hermitian matrices (…, n, n), ascending; triangles as in `eigh`.

    At equal eigenvalues the gradient is exact for a loss that treats these alike (their sum, say),
    else a subgradient. Second derivatives raise there, as in `eigh`.

    >>> import gpugrad as gg
    >>> gg.grad(lambda x: gg.linalg.eigvalsh(x).sum())(gg.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return ops.eigvalsh(_lower("eigvalsh", x, UPLO))


def eig(x: Any, /) -> EigResult:
    """Eigenvalues and eigenvectors of general matrices (…, n, n); always complex.

    Eigenvectors have length 1 and an arbitrary phase, on which a loss must not depend. At equal
    eigenvalues the rules are those of `eigh`. Any derivative of a matrix without a full set of
    eigenvectors raises `GradientError`.

    >>> import gpugrad as gg
    >>> gg.linalg.eig(gg.asarray([[0.0, 1.0], [-1.0, 0.0]])).eigenvalues.dtype
    dtype('complex64')
    """
    return EigResult(*ops.eig(floats("eig", x), owner="eig"))


def eigvals(x: Any, /) -> Tensor:
    """Eigenvalues of general matrices (…, n, n), always complex; see `eig`.

    >>> import gpugrad as gg
    >>> gg.linalg.eigvals(gg.eye(2)).tolist()
    [(1+0j), (1+0j)]
    """
    return ops.eigvals(floats("eigvals", x))


def qr(x: Any, /, mode: str = "reduced") -> QRResult:
    """Orthonormal columns Q and upper triangle R with ``x = Q @ R``.

    Of an (…, m, n) matrix Q is (…, m, k), k = min(m, n); with ``mode="complete"`` k = m. The first
    k columns of x must be independent for a derivative, else `GradientError`, which also meets a
    loss that sees the columns only the complete mode has: they are any basis of the rest.

    >>> import gpugrad as gg
    >>> abs(gg.linalg.qr(gg.asarray([[3.0], [4.0]])).R).tolist()
    [[5.0]]
    """
    x = floats("qr", x)
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
    singular values are equal or, of a matrix that is not square, 0; the rules for a loss are those
    of `eigh`. A single value that is 0 counts as one that changes sign there, which is right for
    functions of all three factors; `svdvals` has its corner. The additional columns of full
    matrices have no derivative, and neither has jvp of full non-square ones.

    >>> import gpugrad as gg
    >>> gg.linalg.svd(gg.asarray([[0.0, 2.0], [1.0, 0.0]])).S.tolist()
    [2.0, 1.0]
    """
    x = floats("svd", x)
    square = x.ndim >= 2 and x.shape[-1] == x.shape[-2]
    return SVDResult(*ops.svd(x, full=full_matrices and not square, owner="svd"))


def svdvals(x: Any, /) -> Tensor:
    """Singular values of (…, m, n) matrices, descending.

    One that is 0 has a corner like that of |x|; its subgradient here is 0. At equal values the
    gradient is exact for a loss that treats these alike, else a subgradient. Second derivatives
    raise `GradientError` at equal values and at 0, but for those of losses linear in the values
    that treat equal ones alike: the nuclear norm, the spectral norm.

    >>> import gpugrad as gg
    >>> gg.linalg.svdvals(gg.asarray([[3.0, 0.0], [0.0, -4.0]])).tolist()
    [4.0, 3.0]
    """
    return ops.svdvals(floats("svdvals", x))
