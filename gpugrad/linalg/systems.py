"""Linear systems and inverses. Imports ops, namespace and `measures`."""

import math
from typing import Any, NamedTuple

from gpugrad.errors import ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.linalg.checks import floats, tolerance_of
from gpugrad.linalg.decompositions import svdvals
from gpugrad.linalg.measures import matrix_norm, matrix_rank
from gpugrad.namespace.array import matmul
from gpugrad.namespace.lifting import together
from gpugrad.tensor import Tensor


class LstsqResult(NamedTuple):
    """Solution, sums of squared residuals, rank and singular values."""

    x: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


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
    x1, x2 = [floats("solve", x) for x in together(x1, x2)]
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
    return ops.inv(floats("inv", x))


def pinv(x: Any, /, *, rtol: Any = None) -> Tensor:
    """Moore–Penrose inverse: (…, m, n) to (…, n, m).

    Singular values of at most ``rtol`` times the largest count as 0; ``rtol`` is a number or one
    for each matrix, by default ``max(m, n)`` times the rounding unit. The derivative is that at
    constant rank (Golub and Pereyra 1973): where the rank changes, pinv jumps and has none. Second
    derivatives raise `GradientError` where the rank is not full.

    >>> import gpugrad as gg
    >>> gg.linalg.pinv(gg.asarray([[2.0, 0.0], [0.0, 0.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    x = floats("pinv", x)
    return ops.pinv(x, tolerance_of("pinv", x, rtol))


def lstsq(a: Any, b: Any, /, rcond: float | None = None) -> "LstsqResult":
    """The shortest ``x`` that minimises ``‖b − a @ x‖``, by the pseudoinverse; named as NumPy's.

    ``residuals`` holds the sums of squares per column, empty unless ``a`` has full column rank and
    more rows than columns.

    >>> import gpugrad as gg
    >>> x = gg.linalg.lstsq(gg.asarray([[1.0], [1.0]]), gg.asarray([1.0, 3.0])).x
    >>> round(x.item(), 5)
    2.0
    """
    a, b = [floats("lstsq", x) for x in together(a, b)]
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
    x = floats("tensorinv", a)
    n = math.prod(x.shape[:ind])
    if ind < 1 or n * n != x.size:
        hint = "as many values in the first ind axes as in the others"
        raise ShapeError(message("tensorinv", "a is no square matrix", (x.shape, ind), hint))
    y = inv(functions.reshape(x, (n, n)))
    return functions.reshape(y, (*x.shape[ind:], *x.shape[:ind]))


def cond(x: Any, /, p: Any = None) -> Tensor:
    """Condition number ``‖x‖ ‖x⁻¹‖`` in the norm ``p`` of `matrix_norm`, by default 2.

    For 2 and −2 it is the quotient of the extreme singular values, also of oblong matrices.

    >>> import gpugrad as gg
    >>> gg.linalg.cond(gg.asarray([[4.0, 0.0], [0.0, 0.5]])).item()
    8.0
    """
    x = floats("cond", x)
    if p is None or p in (2, -2):
        s = svdvals(x)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    return matrix_norm(x, ord=p) * matrix_norm(inv(x), ord=p)
