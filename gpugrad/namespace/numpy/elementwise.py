"""NumPy's elementwise names. Imports ops and `lifting`."""

from typing import Any

import numpy as np

from gpugrad.aval import normalize_axis
from gpugrad.errors import DtypeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray, astype
from gpugrad.namespace.lifting import along, floating, together
from gpugrad.tensor import Tensor


def _floats(name: str, *xs: Any) -> list[Tensor]:
    """``xs`` as real floating tensors of one dtype: that of NumPy's ufuncs, half of int8."""
    tensors = together(*xs)
    common = np.result_type(*[x.dtype for x in tensors])
    if common.kind == "c":
        raise DtypeError(message(name, "takes real numbers", common, "gg.real(x) or gg.abs(x)"))
    if common.kind != "f":
        common = np.exp2(np.empty(0, common)).dtype
    return [x if x.dtype == common else astype(x, common) for x in tensors]


def cbrt(x: Any, /) -> Tensor:
    """``∛x``, of negative numbers too; the derivative at 0, which is infinite, counts as 0.

    >>> import gpugrad as gg
    >>> gg.cbrt(gg.asarray([-8.0, 27.0])).tolist()
    [-2.0, 3.0]
    """
    (x,) = _floats("cbrt", x)
    root = ops.sign(x) * ops.abs(x) ** (1 / 3)
    # 1/3 is not a third: one Newton step y − (y³ − x) / 3y² brings back the last bits.
    square = root * root
    usual = ops.isfinite(x) & (square > 0)
    step = (root * square - x) / ops.where(usual, 3 * square, 1)
    return root - ops.where(usual, step, 0)


def exp2(x: Any, /) -> Tensor:
    """``2ˣ``."""
    return ops.pow(2.0, floating(x) if asarray(x).dtype.kind == "c" else _floats("exp2", x)[0])


def logaddexp2(x1: Any, x2: Any, /) -> Tensor:
    """``log₂(2ˣ¹ + 2ˣ²)`` without overflow."""
    x1, x2 = _floats("logaddexp2", x1, x2)
    log2 = float(np.log(2))
    return ops.logaddexp(x1 * log2, x2 * log2) * (1 / log2)


def float_power(x1: Any, x2: Any, /) -> Tensor:
    """``x1 ** x2`` in at least float64."""
    x1, x2 = together(x1, x2)
    wide = np.result_type(x1.dtype, x2.dtype, np.float64)
    return ops.pow(astype(x1, wide), astype(x2, wide))


def conjugate(x: Any, /) -> Tensor:
    """Complex conjugate; of real numbers, themselves."""
    x = asarray(x)
    return functions.conj(x) if x.dtype.kind == "c" else x


def fabs(x: Any, /) -> Tensor:
    """Absolute value as a floating number; the derivative at 0 is 0."""
    return ops.abs(*_floats("fabs", x))


def deg2rad(x: Any, /) -> Tensor:
    """Degrees to radians, ``x · π/180``."""
    return _floats("deg2rad", x)[0] * float(np.pi / 180)


def rad2deg(x: Any, /) -> Tensor:
    """Radians to degrees, ``x · 180/π``."""
    return _floats("rad2deg", x)[0] * float(180 / np.pi)


radians, degrees = deg2rad, rad2deg


def sinc(x: Any, /) -> Tensor:
    """``sin(πx) / πx``, and 1 at 0, where all derivatives are right too.

    >>> import gpugrad as gg
    >>> gg.grad(gg.grad(gg.sinc))(0.0)  # −π²/3
    -3.2898681336964524
    """
    y = floating(x) * float(np.pi)
    near = ops.abs(y) < 0.5
    square = ops.where(near, y * y, 0)
    series: Any = 1 / 355687428096000  # of sin(y)/y in y²: the coefficients are 1/(2k+1)!
    for denominator in (-1307674368000, 6227020800, -39916800, 362880, -5040, 120, -6, 1):
        series = series * square + 1 / denominator
    away = ops.where(near, 1, y)
    return ops.where(near, series, ops.sin(away) / away)


def heaviside(x1: Any, x2: Any, /) -> Tensor:
    """0 where ``x1 < 0``, 1 where ``x1 > 0``, ``x2`` where it is 0; flat in ``x1``."""
    x1, x2 = _floats("heaviside", x1, x2)
    return ops.where(x1 == 0, x2, (ops.sign(x1) + 1) * 0.5)


def fmax(x1: Any, x2: Any, /) -> Tensor:
    """The larger of both, and the other one where one is NaN; a tie shares the gradient evenly."""
    return _but_nan(ops.maximum, *together(x1, x2))


def fmin(x1: Any, x2: Any, /) -> Tensor:
    """The smaller of both, and the other one where one is NaN; a tie shares the gradient evenly."""
    return _but_nan(ops.minimum, *together(x1, x2))


def _but_nan(op: Any, a: Tensor, b: Tensor) -> Tensor:
    return ops.where(ops.isnan(a), b, ops.where(ops.isnan(b), a, op(a, b)))


def divmod(x1: Any, x2: Any, /) -> tuple[Tensor, Tensor]:
    """``x1 // x2`` and ``x1 % x2``."""
    x1, x2 = together(x1, x2)
    return ops.floor_divide(x1, x2), ops.remainder(x1, x2)


def modf(x: Any, /) -> tuple[Tensor, Tensor]:
    """What is behind the point of ``x`` and what is before it, both with the sign of x."""
    (x,) = _floats("modf", x)
    whole = ops.trunc(x)
    return ops.copysign(ops.where(ops.isinf(x), 0.0, x - whole), x.detach()), whole


def frexp(x: Any, /) -> tuple[Tensor, Tensor]:
    """``m`` in ±[½, 1) and the integer ``n`` with ``x = m · 2ⁿ``; 0, ∞ and NaN are m themselves.

    >>> import gpugrad as gg
    >>> [part.item() for part in gg.frexp(20.0)]
    [0.625, 5]
    """
    (x,) = _floats("frexp", x)
    n = ops.where(ops.isfinite(x), ops.exponent(x), 0)
    return ops.ldexp(x, -n), n


def around(a: Any, decimals: int = 0) -> Tensor:
    """Rounded to ``decimals`` places, halves to even; the derivative is 0."""
    a = asarray(a)
    if not decimals:
        return ops.round(a)
    scale = 10.0 ** abs(decimals)
    if a.dtype.kind in "biu":
        shifted = a if decimals > 0 else ops.round(a / scale) * scale
        return astype(shifted, a.dtype)
    return ops.round(a * scale) / scale if decimals > 0 else ops.round(a / scale) * scale


def nan_to_num(
    x: Any, copy: bool = True, nan: float = 0.0, posinf: Any = None, neginf: Any = None
) -> Tensor:
    """NaN becomes ``nan``, ±∞ the largest finite numbers (or what is given), with gradient 0.

    >>> import gpugrad as gg
    >>> gg.nan_to_num(gg.asarray([1.0, float("nan"), float("inf")]), posinf=9.0).tolist()
    [1.0, 0.0, 9.0]
    """
    y = asarray(x)
    if y.dtype.kind == "c":
        parts = [nan_to_num(part, copy, nan, posinf, neginf) for part in (ops.real(y), ops.imag(y))]
        return astype(parts[0] + parts[1] * 1j, y.dtype)
    if y.dtype.kind != "f":
        return asarray(y, copy=copy)
    limits = np.finfo(y.dtype)
    above = float(limits.max) if posinf is None else posinf
    below = float(limits.min) if neginf is None else neginf
    known = ops.where(ops.isnan(y), nan, y)
    return ops.where(y == np.inf, above, ops.where(y == -np.inf, below, known))


def i0(x: Any) -> Tensor:
    """Modified Bessel function of order 0, ``(1/π) ∫₀^π exp(x cos t) dt``.

    >>> import gpugrad as gg
    >>> round(gg.i0(1.0).item(), 5), round(gg.grad(gg.i0)(1.0), 5)
    (1.26607, 0.56516)
    """
    x = floating(x)
    if x.dtype.kind == "c":
        raise DtypeError(message("i0", "takes real numbers", x.dtype))
    return ops.bessel_i(x, order=0)


def unwrap(
    p: Any, discont: float | None = None, axis: int = -1, *, period: float = 2 * np.pi
) -> Tensor:
    """``p`` plus multiples of ``period``, so that no step along ``axis`` is above half a period.

    Steps of less than ``discont`` stay. The gradient is that of p.

    >>> import gpugrad as gg
    >>> gg.unwrap([1, 2, 0, 1], period=3).tolist()
    [1, 2, 3, 4]
    """
    x = asarray(p)
    axis = normalize_axis("unwrap", axis, x.ndim)
    steps = functions.diff(x.detach(), axis=axis)
    whole = x.dtype.kind in "iu" and isinstance(period, int)
    half: Any = period // 2 if whole else period / 2
    rest = ops.remainder(steps + half, period) - half
    if 2 * half == period:  # both −half and half are half a period: the sign of the step decides
        rest = ops.where((rest == -half) & (steps > 0), half, rest)
    stay = ops.abs(steps) < (period / 2 if discont is None else discont)
    turns = ops.where(stay, 0, rest - steps)
    first = x[along(axis, slice(0, 1))]
    return functions.concat(
        [first, x[along(axis, slice(1, None))] + functions.cumulative_sum(turns, axis=axis)],
        axis=axis,
    )


# Complex numbers, and which values are what


def angle(z: Any, deg: bool = False) -> Tensor:
    """Angle of complex numbers in radians, or degrees; of real ones 0 or π, without derivative.

    >>> import gpugrad as gg
    >>> gg.angle(gg.asarray([1j, -1j]), deg=True).tolist()
    [90.0, -90.0]
    """
    x = asarray(z)
    if x.dtype.kind == "c":
        y = ops.atan2(ops.imag(x), ops.real(x))
    else:
        (x,) = _floats("angle", x.detach())
        y = ops.atan2(functions.zeros_like(x), x)
    return rad2deg(y) if deg else y


def real_if_close(a: Any, tol: float = 100) -> Tensor:
    """The real part, if all imaginary parts are below ``tol`` rounding units, else ``a``."""
    x = asarray(a)
    if x.dtype.kind != "c":
        return x
    limit = tol * float(np.finfo(x.dtype).eps) if tol > 1 else tol
    close = functions.all(ops.abs(ops.imag(x.detach())) < limit)
    return ops.real(x) if bool(close) else x


def isreal(x: Any) -> Tensor:
    """Where the imaginary part is 0."""
    return ~iscomplex(x)


def iscomplex(x: Any) -> Tensor:
    """Where the imaginary part is not 0."""
    x = asarray(x).detach()
    if x.dtype.kind != "c":
        return functions.zeros_like(x, dtype=np.bool_)
    return ops.imag(x) != 0


def isneginf(x: Any) -> Tensor:
    """Where a value is −∞."""
    return ops.equal(_ordered("isneginf", x), -np.inf)


def isposinf(x: Any) -> Tensor:
    """Where a value is +∞."""
    return ops.equal(_ordered("isposinf", x), np.inf)


def _ordered(name: str, x: Any) -> Tensor:
    values = asarray(x)
    if values.dtype.kind == "c":
        hint = "gg.isinf(x)"
        raise DtypeError(message(name, "complex numbers have no sign", values.dtype, hint))
    return values


def spacing(x: Any, /) -> Tensor:
    """Distance to the next floating number away from 0, with the sign of ``x``; no derivative."""
    (x,) = _floats("spacing", asarray(x).detach())
    size = ops.abs(x)
    step = ops.nextafter(size, np.inf) - size
    return ops.where(x < 0, -step, step)
