"""What the rules of matrix functions are written with: products, and calls into the array library.

On Tensors and on bare arrays alike. Imports op, rules, tensor, errors and the ops below.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import Aval, Shape
from gpugrad.errors import DeviceError, GradientError, LinAlgError, ShapeError, message
from gpugrad.node import Dual
from gpugrad.op import data_of, still
from gpugrad.ops.elementwise import refuse
from gpugrad.ops.matrix import matmul
from gpugrad.ops.reduce import sum_
from gpugrad.ops.shape import diagonal
from gpugrad.rules import conjugate
from gpugrad.tensor import Tensor


def adjoint(x: Any) -> Any:
    """Conjugate transpose."""
    return conjugate(x.swapaxes(-1, -2))


def hermitian(x: Any) -> Any:
    return (x + adjoint(x)) * 0.5


def columns(x: Any) -> Any:
    """``m * columns(d)`` is ``m @ diag(d)``."""
    return x[..., None, :]


def rows(x: Any) -> Any:
    """``m * rows(d)`` is ``diag(d) @ m``."""
    return x[..., :, None]


def product(*matrices: Any) -> Any:
    left = matrices[0]
    for right in matrices[1:]:
        left = matmul(left, right)
    return left


def identity(x: Any) -> Any:
    """The bare identity matrix that fits the last axis of ``x``, of its real dtype."""
    array = data_of(x)
    return backend.of(array).xp.eye(array.shape[-1], dtype=real_dtype(array.dtype))


def trace(x: Any) -> Any:
    """The trace, as a 1 × 1 matrix."""
    return sum_(diagonal(x, k=0), axis=(x.ndim - 2,), keepdims=True)[..., None]


def varies(g: Any) -> bool:
    """Whether a cotangent itself depends on something that is being differentiated."""
    return type(g) is Tensor and (g._node is not None or type(g._data) is Dual)


# Calls into the array library


def real_dtype(dtype: Any) -> Any:
    return np.empty(0, dtype).real.dtype


def complex_dtype(dtype: Any) -> Any:
    return np.result_type(dtype, np.complex64)


def call(xp: Any, name: str, *arrays: Any, **options: Any) -> Any:
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
        with backend.behind(xp).strict():
            y = function(*wide, **options)
    except np.linalg.LinAlgError:
        raise error from None
    if xp is not np and name in _NO_RESULT:  # a pivot may be 0 without CuPy's being told
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


def square(name: str, x: Any) -> Shape:
    """The batch shape of square matrices; anything else raises."""
    shape: Shape = x.shape
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ShapeError(message(name, "takes square matrices (…, n, n)", shape))
    return shape[:-2]


def on_square(name: str) -> tuple[Callable[..., Any], Callable[..., Aval]]:
    """forward and aval of a function of square matrices to matrices of the same shape."""

    def forward(xp: Any, x: Any) -> Any:
        square(name, x)
        return call(xp, name, x)

    def aval(x: Aval) -> Aval:
        square(name, x)
        return x

    return forward, aval


def no_basis(name: str, hint: str) -> GradientError:
    return GradientError(message(name, _NO_BASIS, hint=hint))


_NO_BASIS = "the columns beyond the range are any basis of the rest, and have no derivative"


def within_range(g: Any, k: int, name: str, hint: str) -> Any:
    """The cotangent of the first ``k`` columns; an error where the others have one."""
    if g is None:
        return None
    beyond = still(g)[..., k:] != 0
    return refuse(g[..., :k], beyond, owner=name, rule=_NO_BASIS, hint=hint)
