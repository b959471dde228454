"""What one number says of a matrix: determinant, norm, rank. Imports ops and namespace."""

import math
from typing import Any, NamedTuple

from gpugrad.aval import normalize_axes
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.linalg.checks import floats, tolerance_of
from gpugrad.namespace.lifting import floating
from gpugrad.tensor import Tensor

Axis = int | tuple[int, ...] | None


class SlogdetResult(NamedTuple):
    """Sign and ``log |det|``."""

    sign: Tensor
    logabsdet: Tensor


def det(x: Any, /) -> Tensor:
    """Determinant of each (…, n, n) matrix. Its first two derivatives hold for singular ones too.

    >>> import gpugrad as gg
    >>> gg.grad(gg.linalg.det)(gg.asarray([[1.0, 0.0], [0.0, 0.0]])).tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    return ops.det(floats("det", x))


def slogdet(x: Any, /) -> "SlogdetResult":
    """Sign and logarithm of the absolute value of the determinant, which may itself overflow.

    A singular matrix has sign 0 and logarithm −∞; differentiating there raises `GradientError`.

    >>> import gpugrad as gg
    >>> gg.linalg.slogdet(gg.eye(2)).logabsdet.item()
    0.0
    """
    return SlogdetResult(*ops.slogdet(floats("slogdet", x)))


def matrix_rank(x: Any, /, *, rtol: Any = None) -> Tensor:
    """Number of singular values above ``rtol`` times the largest. No derivative.

    >>> import gpugrad as gg
    >>> gg.linalg.matrix_rank(gg.ones((3, 3))).item()
    1
    """
    x = floats("matrix_rank", x).detach()
    tolerance = tolerance_of("matrix_rank", x, rtol)
    s = ops.svdvals(x)
    largest = s[..., :1]
    limit = largest * (tolerance[..., None] if isinstance(tolerance, Tensor) else tolerance)
    return functions.sum(s > limit, axis=-1)


def vector_norm(x: Any, /, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """``(Σ |x|ᵖ)^(1/p)`` over ``axis`` (all by default), p = ``ord``.

    ``inf`` is the largest absolute value, ``-inf`` the smallest, 0 the count of values that are not
    0. A value that is 0 has derivative 0, also where the slope there is infinite (p < 1); ties for
    the largest or smallest share the gradient evenly.

    >>> import gpugrad as gg
    >>> gg.linalg.vector_norm(gg.asarray([3.0, 4.0])).item()
    5.0
    """
    x = floats("vector_norm", x)
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
    1, -1: largest, smallest column sum of |x|. inf, -inf: the same of rows. Ties share the gradient
    evenly. Derivatives where singular values are 0 or equal: see `svdvals`; at a zero matrix 0.

    >>> import gpugrad as gg
    >>> gg.linalg.matrix_norm(gg.asarray([[3.0, 0.0], [0.0, -4.0]]), ord="nuc").item()
    7.0
    """
    x = floats("matrix_norm", x)
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
    x = floating(x)
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
