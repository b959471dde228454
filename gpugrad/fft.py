"""``gg.fft``: the array API's Fourier transforms, with NumPy's argument names.

Single precision stays single. ``norm`` says which direction is divided by the number of values:
``"backward"`` the inverse (the default), ``"forward"`` the forward one, ``"ortho"`` both by its
root. All are linear, and differentiable in both modes to any order. Imports ops and namespace.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpugrad.aval import normalize_axis
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray
from gpugrad.ops.fft import ADJOINT_NORM
from gpugrad.tensor import Tensor

__all__ = [
    "fft",
    "fft2",
    "fftfreq",
    "fftn",
    "fftshift",
    "hfft",
    "ifft",
    "ifft2",
    "ifftn",
    "ifftshift",
    "ihfft",
    "irfft",
    "irfft2",
    "irfftn",
    "rfft",
    "rfft2",
    "rfftfreq",
    "rfftn",
]

Sizes = Sequence[int] | None
Axes = Sequence[int] | None


# Arguments


def _checked_norm(op: str, norm: str | None) -> str:
    if norm is None:
        return "backward"
    if norm not in ADJOINT_NORM:
        hint = "'backward', 'ortho' or 'forward'"
        raise DtypeError(message(op, "unknown norm", repr(norm), hint))
    return norm


def _resized(op: str, x: Tensor, axis: int, n: int) -> Tensor:
    """``x`` cropped, or padded with zeros at the end, to ``n`` values along ``axis``."""
    if n < 1:
        raise ShapeError(message(op, "a transform has at least one value", f"n = {n}"))
    have = x.shape[axis]
    if n < have:
        y: Tensor = x[(slice(None),) * axis + (slice(0, n),)]
        return y
    if n == have:
        return x
    shape = (*x.shape[:axis], n - have, *x.shape[axis + 1 :])
    return functions.concat([x, functions.zeros(shape, dtype=x.dtype, device=x.device)], axis=axis)


def _places(op: str, x: Tensor, s: Sizes, axes: Axes) -> tuple[list[int], list[int | None]]:
    """Axes counted from the front, and the size each is to have (None: as it is)."""
    if axes is None:
        axes = range(x.ndim) if s is None else range(x.ndim - len(s), x.ndim)
    places = [normalize_axis(op, a, x.ndim) for a in axes]
    if not places or len(set(places)) != len(places):
        raise ShapeError(message(op, "axes are at least one, each named once", list(axes)))
    if s is not None and len(s) != len(places):
        raise ShapeError(message(op, "as many sizes as axes", f"s {list(s)}, axes {list(axes)}"))
    # -1 keeps the axis as it is, as in NumPy.
    if s is None:
        return places, [None] * len(places)
    sizes = [None if n in (None, -1) else int(n) for n in s]
    return places, sizes


def _real(op: str, x: Any) -> Tensor:
    values = asarray(x)
    if values.dtype.kind == "c":
        raise DtypeError(message(op, "takes real values", values.dtype, "fft(x), or real(x)"))
    return values


def _transform(op: str, x: Any, s: Sizes, axes: Axes, norm: str | None, inverse: bool) -> Tensor:
    x, norm = asarray(x), _checked_norm(op, norm)
    places, sizes = _places(op, x, s, axes)
    for axis, n in zip(places, sizes, strict=True):
        x = _resized(op, x, axis, x.shape[axis] if n is None else n)
    return ops.fft(x, axes=tuple(places), inverse=inverse, norm=norm)


def _half(op: str, x: Tensor, axis: int, n: int | None, norm: str) -> Tensor:
    """rfft along one axis, of ``n`` values."""
    x = _resized(op, x, axis, x.shape[axis] if n is None else n)
    return ops.rfft(x, axis=axis, norm=norm)


def _whole(op: str, x: Tensor, axis: int, n: int | None, norm: str) -> Tensor:
    """irfft along one axis, to ``n`` values."""
    n = 2 * (x.shape[axis] - 1) if n is None else n
    if n < 1:
        hint = "n=..., or two values at least"
        raise ShapeError(message(op, "the result needs at least one value", f"n = {n}", hint))
    return ops.irfft(_resized(op, x, axis, n // 2 + 1), n=n, axis=axis, norm=norm)


def _one(op: str, x: Tensor, n: int | None, axis: int) -> tuple[int, int | None]:
    return normalize_axis(op, axis, x.ndim), None if n is None else int(n)


# Complex to complex


def fft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """``y[k] = Σⱼ x[j] e^(−2πijk/n)`` along ``axis``; ``n`` crops or pads with zeros first.

    >>> import gpugrad as gg
    >>> gg.fft.fft(gg.asarray([1.0, 0.0])).tolist()
    [(1+0j), (1+0j)]
    """
    return _transform("fft", x, None if n is None else [n], [axis], norm, False)


def ifft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of `fft`.

    >>> import gpugrad as gg
    >>> gg.fft.ifft(gg.fft.fft(gg.asarray([1.0, 2.0]))).tolist()
    [(1+0j), (2+0j)]
    """
    return _transform("ifft", x, None if n is None else [n], [axis], norm, True)


def fftn(x: Any, /, s: Sizes = None, axes: Axes = None, norm: str | None = None) -> Tensor:
    """`fft` along all ``axes`` (by default all there are, or the last ``len(s)``).

    >>> import gpugrad as gg
    >>> gg.fft.fftn(gg.ones((2, 2))).tolist()
    [[(4+0j), 0j], [0j, 0j]]
    """
    return _transform("fftn", x, s, axes, norm, False)


def ifftn(x: Any, /, s: Sizes = None, axes: Axes = None, norm: str | None = None) -> Tensor:
    """The inverse of `fftn`.

    >>> import gpugrad as gg
    >>> gg.fft.ifftn(gg.ones((2, 2))).tolist()
    [[(1+0j), 0j], [0j, 0j]]
    """
    return _transform("ifftn", x, s, axes, norm, True)


# Real signals, whose spectrum is Hermitian: only its first half is kept


def rfft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """The first ``n // 2 + 1`` values of the `fft` of real ``x``.

    >>> import gpugrad as gg
    >>> gg.fft.rfft(gg.ones(4)).tolist()
    [(4+0j), 0j, 0j]
    """
    x = _real("rfft", x)
    place, size = _one("rfft", x, n, axis)
    return _half("rfft", x, place, size, _checked_norm("rfft", norm))


def irfft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of `rfft`: ``n`` real values, by default ``2 (m − 1)`` of m.

    The imaginary parts of the first value and, of even n, the last are ignored.

    >>> import gpugrad as gg
    >>> gg.fft.irfft(gg.fft.rfft(gg.asarray([1.0, 2.0, 3.0])), n=3).tolist()
    [1.0, 2.0, 3.0]
    """
    x = asarray(x)
    place, size = _one("irfft", x, n, axis)
    return _whole("irfft", x, place, size, _checked_norm("irfft", norm))


def rfftn(x: Any, /, s: Sizes = None, axes: Axes = None, norm: str | None = None) -> Tensor:
    """`rfft` along the last of ``axes``, then `fft` along the others.

    >>> import gpugrad as gg
    >>> gg.fft.rfftn(gg.ones((2, 4))).shape
    (2, 3)
    """
    x, norm = _real("rfftn", x), _checked_norm("rfftn", norm)
    places, sizes = _places("rfftn", x, s, axes)
    y = _half("rfftn", x, places[-1], sizes[-1], norm)
    if len(places) == 1:
        return y
    return _transform(
        "rfftn", y, [-1 if n is None else n for n in sizes[:-1]], places[:-1], norm, False
    )


def irfftn(x: Any, /, s: Sizes = None, axes: Axes = None, norm: str | None = None) -> Tensor:
    """The inverse of `rfftn`: real values.

    >>> import gpugrad as gg
    >>> gg.fft.irfftn(gg.ones((2, 3))).shape
    (2, 4)
    """
    x, norm = asarray(x), _checked_norm("irfftn", norm)
    places, sizes = _places("irfftn", x, s, axes)
    if len(places) > 1:
        rest = [-1 if n is None else n for n in sizes[:-1]]
        x = _transform("irfftn", x, rest, places[:-1], norm, True)
    return _whole("irfftn", x, places[-1], sizes[-1], norm)


def hfft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """The real spectrum of a Hermitian signal, given by its first half: ``n`` values.

    >>> import gpugrad as gg
    >>> gg.fft.hfft(gg.asarray([1.0, 0.0])).tolist()
    [1.0, 1.0]
    """
    x, norm = asarray(x), _checked_norm("hfft", norm)
    place, size = _one("hfft", x, n, axis)
    return _whole("hfft", ops.conj(x), place, size, ADJOINT_NORM[norm])


def ihfft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = None) -> Tensor:
    """The inverse of `hfft`: the first ``n // 2 + 1`` values of a Hermitian signal.

    >>> import gpugrad as gg
    >>> gg.real(gg.fft.ihfft(gg.asarray([1.0, 1.0]))).tolist()
    [1.0, 0.0]
    """
    x, norm = _real("ihfft", x), _checked_norm("ihfft", norm)
    place, size = _one("ihfft", x, n, axis)
    return ops.conj(_half("ihfft", x, place, size, ADJOINT_NORM[norm]))


# Two axes: NumPy's names for the transforms over several


def fft2(x: Any, /, s: Sizes = None, axes: Axes = (-2, -1), norm: str | None = None) -> Tensor:
    """`fftn` along two axes, by default the last ones.

    >>> import gpugrad as gg
    >>> gg.fft.fft2(gg.ones((2, 2))).tolist()
    [[(4+0j), 0j], [0j, 0j]]
    """
    return fftn(x, s, axes, norm)


def ifft2(x: Any, /, s: Sizes = None, axes: Axes = (-2, -1), norm: str | None = None) -> Tensor:
    """The inverse of `fft2`."""
    return ifftn(x, s, axes, norm)


def rfft2(x: Any, /, s: Sizes = None, axes: Axes = (-2, -1), norm: str | None = None) -> Tensor:
    """`rfftn` along two axes, by default the last ones."""
    return rfftn(x, s, axes, norm)


def irfft2(x: Any, /, s: Sizes = None, axes: Axes = (-2, -1), norm: str | None = None) -> Tensor:
    """The inverse of `rfft2`."""
    return irfftn(x, s, axes, norm)


# Frequencies, and the order they come in


def fftfreq(n: int, /, d: float = 1.0, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Frequency of each value of `fft`, in cycles per unit of the spacing ``d``.

    In float32 unless ``dtype`` says otherwise.

    >>> import gpugrad as gg
    >>> gg.fft.fftfreq(4).tolist()
    [0.0, 0.25, -0.5, -0.25]
    """
    return _frequencies("fftfreq", np.fft.fftfreq, n, d, dtype, device)


def rfftfreq(n: int, /, d: float = 1.0, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Frequency of each value of `rfft`; see `fftfreq`.

    >>> import gpugrad as gg
    >>> gg.fft.rfftfreq(4).tolist()
    [0.0, 0.25, 0.5]
    """
    return _frequencies("rfftfreq", np.fft.rfftfreq, n, d, dtype, device)


def _frequencies(op: str, make: Any, n: int, d: float, dtype: Any, device: str | None) -> Tensor:
    wanted = np.dtype(np.float32 if dtype is None else dtype)
    if wanted.kind != "f":
        raise DtypeError(message(op, "frequencies are real floating numbers", wanted))
    return asarray(make(n, d).astype(wanted), device=device)


def fftshift(x: Any, /, axes: int | Sequence[int] | None = None) -> Tensor:
    """Frequency 0 moved to the middle of ``axes`` (all by default).

    >>> import gpugrad as gg
    >>> gg.fft.fftshift(gg.fft.fftfreq(4)).tolist()
    [-0.5, -0.25, 0.0, 0.25]
    """
    return _shifted("fftshift", x, axes, 1)


def ifftshift(x: Any, /, axes: int | Sequence[int] | None = None) -> Tensor:
    """The inverse of `fftshift`; they differ for odd sizes.

    >>> import gpugrad as gg
    >>> gg.fft.ifftshift(gg.fft.fftshift(gg.asarray([1, 2, 3]))).tolist()
    [1, 2, 3]
    """
    return _shifted("ifftshift", x, axes, -1)


def _shifted(op: str, x: Any, axes: int | Sequence[int] | None, sign: int) -> Tensor:
    x = asarray(x)
    if axes is None:
        axes = range(x.ndim)
    elif isinstance(axes, (int, np.integer)):
        axes = (axes,)
    places = tuple(normalize_axis(op, a, x.ndim) for a in axes)
    return functions.roll(x, tuple(sign * (x.shape[i] // 2) for i in places), axis=places)
