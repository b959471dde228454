"""Discrete Fourier transforms. Imports op, aval, errors and the ops below.

Each is linear, so its vjp is the adjoint: the transform in the other direction, unscaled where this
one scales. Single precision stays single, half precision is computed in single.
"""

from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import Aval
from gpugrad.errors import ShapeError, message
from gpugrad.op import Op, data_of

# The norm under which the opposite transform is the adjoint.
ADJOINT_NORM = {"backward": "forward", "forward": "backward", "ortho": "ortho"}


def _wide(x: Any) -> Any:
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _spectrum_dtype(dtype: Any) -> Any:
    return np.result_type(dtype, np.complex64)


def _nonempty(name: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    if any(shape[i] == 0 for i in axes):
        raise ShapeError(message(name, "an empty axis has no transform", shape))


def _fft(xp: Any, x: Any, axes: tuple[int, ...], inverse: bool, norm: str) -> Any:
    transform = xp.fft.ifftn if inverse else xp.fft.fftn
    return transform(_wide(x), axes=axes, norm=norm)


def _fft_aval(x: Aval, *, axes: tuple[int, ...], inverse: bool, norm: str) -> Aval:
    _nonempty("fft", x.shape, axes)
    return Aval(x.shape, _spectrum_dtype(x.dtype))


fft = Op(
    "fft",
    lambda xp, x, *, axes, inverse, norm: _fft(xp, x, axes, inverse, norm),
    _fft_aval,
    vjp=[
        lambda g, *, axes, inverse, norm: fft(
            g, axes=axes, inverse=not inverse, norm=ADJOINT_NORM[norm]
        )
    ],
    jvp="linear",
)

# Of real x the second half of the spectrum repeats the first, conjugated: only n // 2 + 1 values
# are kept, and all of them stand for two but the first and, of even n, the last.


def _counts(x: Any, n: int, axis: int) -> Any:
    """How many values of the whole spectrum each kept one stands for, along ``axis`` of ``x``."""
    array = data_of(x)
    counts = np.full(n // 2 + 1, 2, np.empty(0, array.dtype).real.dtype)
    counts[0] = 1
    if n % 2 == 0:
        counts[-1] = 1
    shape = [1] * array.ndim
    shape[axis] = -1
    return backend.of(array).asarray(counts.reshape(shape))


def _rfft_aval(x: Aval, *, axis: int, norm: str) -> Aval:
    _nonempty("rfft", x.shape, (axis,))
    shape = (*x.shape[:axis], x.shape[axis] // 2 + 1, *x.shape[axis + 1 :])
    return Aval(shape, _spectrum_dtype(x.dtype))


def _rfft_cotangent(g: Any, like: Any, *, axis: int, norm: str) -> Any:
    n = like.shape[axis]
    return irfft(g / _counts(g, n, axis), n=n, axis=axis, norm=ADJOINT_NORM[norm])


rfft = Op(
    "rfft",
    lambda xp, x, *, axis, norm: xp.fft.rfft(_wide(x), axis=axis, norm=norm),
    _rfft_aval,
    vjp=[_rfft_cotangent],
    jvp="linear",
)


def _irfft_aval(x: Aval, *, n: int, axis: int, norm: str) -> Aval:
    if n < 1 or x.shape[axis] != n // 2 + 1:
        got, hint = f"{x.shape[axis]} for a result of {n}", "gg.fft.irfft, which crops and pads"
        raise ShapeError(message("irfft", "needs n // 2 + 1 values, and n ≥ 1", got, hint))
    shape = (*x.shape[:axis], n, *x.shape[axis + 1 :])
    return Aval(shape, np.empty(0, _spectrum_dtype(x.dtype)).real.dtype)


def _irfft_cotangent(g: Any, *, n: int, axis: int, norm: str) -> Any:
    return rfft(g, axis=axis, norm=ADJOINT_NORM[norm]) * _counts(g, n, axis)


irfft = Op(
    "irfft",
    lambda xp, x, *, n, axis, norm: xp.fft.irfft(_wide(x), n=n, axis=axis, norm=norm),
    _irfft_aval,
    vjp=[_irfft_cotangent],
    jvp="linear",
)
