"""Products and diagonals. Imports ops, namespace and `systems`."""

from string import ascii_letters
from typing import Any

import numpy as np

from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import functions
from gpugrad.linalg.systems import inv
from gpugrad.namespace import linalg as _products
from gpugrad.namespace.array import matmul
from gpugrad.namespace.creation import asarray
from gpugrad.namespace.lifting import together
from gpugrad.tensor import Tensor


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


def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Tensor:
    """Cross product of 3-vectors along ``axis``; the other axes broadcast.

    >>> import gpugrad as gg
    >>> gg.linalg.cross([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]).tolist()
    [0.0, 0.0, 1.0]
    """
    x1, x2 = together(x1, x2)
    if axis >= 0:  # counted from the front of the shape they broadcast to
        axis -= max(x1.ndim, x2.ndim)
    if any(-axis > x.ndim or x.shape[axis] != 3 for x in (x1, x2)):
        got = f"axis {axis} of {x1.shape} and {x2.shape}"
        raise ShapeError(message("cross", "vectors have three components", got))
    return functions.cross(x1, x2, axis=axis)


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
