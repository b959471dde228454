"""NumPy's names beyond the array API, composed of functions that differentiate already.

Signatures and defaults are NumPy's; ``out``, ``where`` and ``initial`` are not taken, and what
NumPy has behind them is keyword-only. Imports creation, ops, aval, backend and errors.
"""

import builtins
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import WEAK, normalize_axes, normalize_axis
from gpugrad.errors import BoundsError, DtypeError, GradientError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray, astype
from gpugrad.ops.index import ARRAY
from gpugrad.tensor import Dual, Tensor

Axis = int | tuple[int, ...] | None

# Other names of functions there are

ALIASES = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "fix": "trunc",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "mod": "remainder",
    "power": "pow",
    "right_shift": "bitwise_right_shift",
    "rint": "round",
    "true_divide": "divide",
}

__all__ = [
    *ALIASES,
    "allclose",
    "amax",
    "amin",
    "append",
    "apply_along_axis",
    "argwhere",
    "around",
    "array_equal",
    "array_split",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "average",
    "bincount",
    "cbrt",
    "column_stack",
    "compress",
    "concatenate",
    "conjugate",
    "convolve",
    "corrcoef",
    "correlate",
    "cov",
    "cross",
    "cumprod",
    "cumsum",
    "deg2rad",
    "degrees",
    "delete",
    "diag",
    "digitize",
    "dsplit",
    "dstack",
    "ediff1d",
    "exp2",
    "fabs",
    "flatnonzero",
    "fliplr",
    "flipud",
    "float_power",
    "fmax",
    "fmin",
    "fmod",
    "geomspace",
    "gradient",
    "heaviside",
    "histogram",
    "hsplit",
    "hstack",
    "identity",
    "interp",
    "isclose",
    "logaddexp2",
    "logspace",
    "median",
    "nan_to_num",
    "nanmax",
    "nanmean",
    "nanmin",
    "nanstd",
    "nansum",
    "nanvar",
    "pad",
    "percentile",
    "polyval",
    "ptp",
    "quantile",
    "rad2deg",
    "radians",
    "ravel",
    "rollaxis",
    "rot90",
    "select",
    "sinc",
    "split",
    "swapaxes",
    "transpose",
    "trapezoid",
    "tri",
    "vander",
    "vsplit",
    "vstack",
]


def __getattr__(name: str) -> Any:
    if name in ALIASES:  # looked up late: what they stand for may be declared after this module
        return getattr(functions, ALIASES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def together(*arrays: Any) -> list[Tensor]:
    """``arrays`` as tensors; numbers written in Python take the dtype of those that have one.

    Alone they would become float32, and 0.1 in float32 is not 0.1 beside a float64 tensor.
    """
    typed = [x for x in arrays if hasattr(x, "dtype")]
    if not typed:
        return [asarray(x) for x in arrays]
    common = np.result_type(*[x.dtype for x in typed])
    device = next((x.device for x in typed if isinstance(x, Tensor)), None)
    return [
        asarray(x) if hasattr(x, "dtype") else asarray(as_written(x, common), device=device)
        for x in arrays
    ]


def as_written(x: Any, dtype: Any) -> Any:
    """Python numbers, also in nested lists, as an array: their values weak beside ``dtype``."""
    leaves = _leaves(x)
    kinds = set(map(type, leaves))
    if not kinds or not kinds <= WEAK.keys():
        return x
    widest = builtins.max(kinds, key=_WIDTH.index)
    return np.asarray(x, np.result_type(dtype, WEAK[widest]))


_WIDTH = list(WEAK)


def _leaves(x: Any) -> list[Any]:
    return [leaf for part in x for leaf in _leaves(part)] if isinstance(x, (list, tuple)) else [x]


def _real(x: Any) -> Tensor:
    """``x`` as a floating tensor; integers become float64, as where NumPy divides them."""
    x = asarray(x)
    return x if x.dtype.kind in "fc" else astype(x, np.float64)


def _tracked(*xs: Tensor) -> bool:
    return builtins.any(x.requires_grad or type(x._data) is Dual for x in xs)


def _along(axis: int, *at: Any) -> tuple[Any, ...]:
    return (slice(None),) * axis + at


# Elementwise


def cbrt(x: Any, /) -> Tensor:
    """``∛x``, of negative numbers too; the derivative at 0, which is infinite, counts as 0.

    >>> import gpugrad as gg
    >>> gg.cbrt(gg.asarray([-8.0, 27.0])).tolist()
    [-2.0, 3.0]
    """
    x = _real(x)
    root = ops.sign(x) * ops.abs(x) ** (1 / 3)
    # 1/3 is not a third: one Newton step y − (y³ − x) / 3y² brings back the last bits.
    square = root * root
    usual = ops.isfinite(x) & (square > 0)
    step = (root * square - x) / ops.where(usual, 3 * square, 1)
    return root - ops.where(usual, step, 0)


def exp2(x: Any, /) -> Tensor:
    """``2ˣ``."""
    return ops.pow(2.0, _real(x))


def logaddexp2(x1: Any, x2: Any, /) -> Tensor:
    """``log₂(2ˣ¹ + 2ˣ²)`` without overflow."""
    x1, x2 = together(x1, x2)
    log2 = float(np.log(2))
    return ops.logaddexp(_real(x1) * log2, _real(x2) * log2) * (1 / log2)


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
    return ops.abs(_real(x))


def deg2rad(x: Any, /) -> Tensor:
    """Degrees to radians, ``x · π/180``."""
    return _real(x) * float(np.pi / 180)


def rad2deg(x: Any, /) -> Tensor:
    """Radians to degrees, ``x · 180/π``."""
    return _real(x) * float(180 / np.pi)


radians, degrees = deg2rad, rad2deg


def sinc(x: Any, /) -> Tensor:
    """``sin(πx) / πx``, and 1 at 0, where all derivatives are right too.

    >>> import gpugrad as gg
    >>> gg.grad(gg.grad(gg.sinc))(0.0)  # −π²/3
    -3.2898681336964524
    """
    y = _real(x) * float(np.pi)
    near = ops.abs(y) < 0.5
    square = ops.where(near, y * y, 0)
    series: Any = 1 / 355687428096000  # of sin(y)/y in y²: the coefficients are 1/(2k+1)!
    for denominator in (-1307674368000, 6227020800, -39916800, 362880, -5040, 120, -6, 1):
        series = series * square + 1 / denominator
    away = ops.where(near, 1, y)
    return ops.where(near, series, ops.sin(away) / away)


def heaviside(x1: Any, x2: Any, /) -> Tensor:
    """0 where ``x1 < 0``, 1 where ``x1 > 0``, ``x2`` where it is 0; flat in ``x1``."""
    x1, x2 = together(x1, x2)
    x1, x2 = _real(x1), _real(x2)
    return ops.where(x1 == 0, x2, (ops.sign(x1) + 1) * 0.5)


def fmax(x1: Any, x2: Any, /) -> Tensor:
    """The larger of both, and the other one where one is NaN; a tie shares the gradient evenly."""
    return _but_nan(ops.maximum, *together(x1, x2))


def fmin(x1: Any, x2: Any, /) -> Tensor:
    """The smaller of both, and the other one where one is NaN; a tie shares the gradient evenly."""
    return _but_nan(ops.minimum, *together(x1, x2))


def _but_nan(op: Any, a: Tensor, b: Tensor) -> Tensor:
    return ops.where(ops.isnan(a), b, ops.where(ops.isnan(b), a, op(a, b)))


def fmod(x1: Any, x2: Any, /) -> Tensor:
    """Remainder of ``x1 / x2`` with the sign of x1: ``x1 − trunc(x1/x2)·x2``."""
    x1, x2 = together(x1, x2)
    below = x1 < 0
    rest = ops.remainder(ops.where(below, -x1, x1), ops.abs(x2))
    return ops.where(below, -rest, rest)


def around(a: Any, decimals: int = 0) -> Tensor:
    """Rounded to ``decimals`` places, halves to even; the derivative is 0."""
    a = asarray(a)
    if not decimals:
        return ops.round(a)
    scale = 10.0 ** builtins.abs(decimals)
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
    if y.dtype.kind != "f":
        return y
    limits = np.finfo(y.dtype)
    above = float(limits.max) if posinf is None else posinf
    below = float(limits.min) if neginf is None else neginf
    known = ops.where(ops.isnan(y), nan, y)
    return ops.where(y == np.inf, above, ops.where(y == -np.inf, below, known))


# Reductions


def amax(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """NumPy's name of `max`."""
    return functions.max(a, axis=axis, keepdims=keepdims)


def amin(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """NumPy's name of `min`."""
    return functions.min(a, axis=axis, keepdims=keepdims)


def ptp(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Largest minus smallest value over ``axis``; ties share the gradient evenly."""
    return amax(a, axis, keepdims=keepdims) - amin(a, axis, keepdims=keepdims)


def average(
    a: Any, axis: Axis = None, weights: Any = None, returned: bool = False, *, keepdims: Any = False
) -> Any:
    """``Σwa / Σw`` over ``axis``, differentiable in both; with ``returned`` also ``Σw``.

    ``weights`` have the shape of ``a``, or the sizes of the axes that are averaged over.

    >>> import gpugrad as gg
    >>> gg.average(gg.asarray([1.0, 4.0]), weights=[2.0, 1.0]).item()
    2.0
    """
    if weights is None:
        a = _real(a)
        mean = functions.mean(a, axis=axis, keepdims=keepdims)
        total = functions.full_like(mean, a.size / builtins.max(mean.size, 1))
        return (mean, total) if returned else mean
    a, w = map(_real, together(a, weights))
    if w.shape != a.shape:
        given = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
        axes = [normalize_axis("average", i, a.ndim) for i in given]
        if w.shape != tuple([a.shape[i] for i in axes]):
            got = f"a: {a.shape}, weights: {w.shape}, axis: {axis}"
            hint = "weights of a's shape, or one for each place along axis"
            raise ShapeError(message("average", "weights do not fit", got, hint))
        w = functions.permute_dims(w, tuple(np.argsort(axes).tolist()))
        sizes = tuple([d if i in axes else 1 for i, d in enumerate(a.shape)])
        w = functions.broadcast_to(functions.reshape(w, sizes), a.shape)
    total = functions.sum(w, axis=axis, keepdims=keepdims)
    mean = functions.sum(a * w, axis=axis, keepdims=keepdims) / total
    return (mean, functions.broadcast_to(total, mean.shape)) if returned else mean


def cov(
    m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: int | None = None
) -> Tensor:
    """Covariance matrix ``(X − X̄)(X − X̄)ᵀ / (n − ddof)`` of variables in rows, n observations each.

    ``ddof`` is 1, or 0 with ``bias``; ``rowvar=False`` means variables in columns; ``y`` adds more.
    """
    x = _variables(m, rowvar)
    if y is not None:
        x = functions.concat(together(x, _variables(y, rowvar)), axis=0)
    degrees = x.shape[1] - (ddof if ddof is not None else 0 if bias else 1)
    x = x - functions.mean(x, axis=1, keepdims=True)
    c = functions.matmul(x, conjugate(x).T) * (1 / degrees if degrees > 0 else np.nan)
    return c.squeeze()


def _variables(m: Any, rowvar: bool) -> Tensor:
    x = _real(m)
    if x.ndim > 2:
        raise ShapeError(message("cov", "takes at most two axes", x.shape))
    x = atleast_2d(x) if x.ndim < 2 else x
    return x.T if not rowvar and asarray(m).ndim == 2 else x


def corrcoef(x: Any, y: Any = None, rowvar: bool = True) -> Tensor:
    """Correlation matrix ``cᵢⱼ / √(cᵢᵢcⱼⱼ)`` of variables in rows, as `cov` arranges them."""
    c = cov(x, y, rowvar)
    if not c.ndim:
        return c / c
    spread = ops.sqrt(diag(c))
    return functions.clip(c / spread[:, None] / spread[None, :], -1, 1)


# Order statistics

# (α, β) of the sample quantiles that interpolate: Hyndman and Fan 1996, table 1.
_METHODS = {
    "hazen": (0.5, 0.5),
    "interpolated_inverted_cdf": (0.0, 1.0),
    "linear": (1.0, 1.0),
    "median_unbiased": (1 / 3, 1 / 3),
    "normal_unbiased": (3 / 8, 3 / 8),
    "weibull": (0.0, 0.0),
}
_ROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "higher": np.ceil,
    "lower": np.floor,
    "midpoint": lambda at: (np.floor(at) + np.ceil(at)) / 2,
    "nearest": np.rint,
}


def median(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Middle value over ``axis``, the mean of the two middle ones of an even number.

    The gradient goes to the values in the middle; among equal ones, to those the sort put there.

    >>> import gpugrad as gg
    >>> gg.grad(gg.median)(gg.asarray([5.0, 1.0, 3.0, 9.0])).tolist()
    [0.5, 0.0, 0.5, 0.0]
    """
    rows, shape = _sorted_rows("median", a, axis, keepdims)
    n = rows.shape[-1]
    middle = functions.mean(rows[..., (n - 1) // 2 : n // 2 + 1], axis=-1)
    return functions.reshape(_nan_wins(rows, middle), shape)


def percentile(
    a: Any, q: Any, axis: Axis = None, *, method: str = "linear", keepdims: bool = False
) -> Tensor:
    """`quantile` of ``q / 100``."""
    return quantile(a, np.true_divide(_levels(q), 100), axis, method=method, keepdims=keepdims)


def quantile(
    a: Any, q: Any, axis: Axis = None, *, method: str = "linear", keepdims: bool = False
) -> Tensor:
    """The value below which the part ``q`` of the values over ``axis`` lies; q has no derivative.

    With sorted values s₀ … sₙ₋₁ and ``v = q(n − 1)`` it is ``s⌊v⌋ + (v − ⌊v⌋)(s⌊v⌋₊₁ − s⌊v⌋)``; the
    gradient follows these weights. The axes of ``q`` come first in the result. ``method`` is one of
    NumPy's that interpolate, or lower, higher, midpoint, nearest.

    >>> import gpugrad as gg
    >>> gg.quantile(gg.asarray([1.0, 2.0, 4.0]), [0.5, 0.75]).tolist()
    [2.0, 3.0]
    """
    levels = _levels(q)
    if levels.size and not (levels.min() >= 0 and levels.max() <= 1):
        raise BoundsError(message("quantile", "q is a part of the whole", q, "0 ≤ q ≤ 1"))
    rows, shape = _sorted_rows("quantile", a, axis, keepdims)
    n = rows.shape[-1]
    if method in _METHODS:
        alpha, beta = _METHODS[method]
        at = n * levels + (alpha + levels * (1 - alpha - beta)) - 1
        at = np.clip(at, 0, n - 1)
    elif method in _ROUNDINGS:
        at = _ROUNDINGS[method](levels * (n - 1))
    else:
        hint = ", ".join(sorted({*_METHODS, *_ROUNDINGS}))
        raise DtypeError(message("quantile", "not a method that is supported", method, hint))
    below = np.floor(at).astype(np.intp).reshape(-1)
    rest = (at.reshape(-1) - below).astype(rows.dtype)
    low, high = rows[..., below], rows[..., np.minimum(below + 1, n - 1)]
    rest = asarray(rest, device=rows.device)
    between = ops.where(rest == 0, low, low + (high - low) * rest)
    found = functions.moveaxis(_nan_wins(rows, between, np.newaxis), -1, 0)
    return functions.reshape(found, (*levels.shape, *shape))


def _levels(q: Any) -> Any:
    if isinstance(q, Tensor):
        q = q.numpy()  # refuses what is on the tape
    return np.asarray(q, np.float64)


def _sorted_rows(name: str, a: Any, axis: Axis, keepdims: bool) -> tuple[Tensor, tuple[int, ...]]:
    """The values over ``axis`` sorted along a last axis, and the shape of the result."""
    x = _real(a)
    axes = normalize_axes(name, axis, x.ndim)
    rest = tuple([i for i in range(x.ndim) if i not in axes])
    lead = tuple([x.shape[i] for i in rest])
    n = int(np.prod([x.shape[i] for i in axes], dtype=np.int64))
    if not n:
        raise ShapeError(message(name, "an empty axis has no such value", x.shape))
    rows = functions.reshape(functions.permute_dims(x, (*rest, *axes)), (*lead, n))
    kept = tuple([1 if i in axes else d for i, d in enumerate(x.shape)]) if keepdims else lead
    return functions.sort(rows, axis=-1), kept


def _nan_wins(rows: Tensor, value: Tensor, *at: Any) -> Tensor:
    """NaN where there is one, which sorting brought to the end."""
    return ops.where(ops.isnan(rows[(..., -1, *at)].detach()), np.nan, value)


# Reductions that pass over NaN


def nansum(a: Any, axis: Axis = None, dtype: Any = None, *, keepdims: bool = False) -> Tensor:
    """Sum of the values that are not NaN; NaN entries get gradient 0, here and below.

    >>> import gpugrad as gg
    >>> gg.grad(gg.nansum)(gg.asarray([1.0, float("nan")])).tolist()
    [1.0, 0.0]
    """
    return functions.sum(_present(a)[0], axis=axis, dtype=dtype, keepdims=keepdims)


def nanmean(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Mean of the values that are not NaN; NaN where there is none."""
    x, there = _present(_real(a))
    total = functions.sum(x, axis=axis, keepdims=keepdims)
    return total / _degrees(there, axis, keepdims, x.dtype)


def nanvar(a: Any, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """Variance of the n values that are not NaN, ``Σ(x − x̄)² / (n − ddof)``."""
    x, there = _present(_real(a))
    apart = _centred(x, there, axis)
    total = functions.sum(apart * apart, axis=axis, keepdims=keepdims)
    return total / _degrees(there, axis, keepdims, x.dtype, ddof)


def nanstd(a: Any, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """Square root of `nanvar`; the derivative where all values are equal is 0."""
    x, there = _present(_real(a))
    length = functions.norm(_centred(x, there, axis), axis=axis, keepdims=keepdims)
    return length / ops.sqrt(_degrees(there, axis, keepdims, x.dtype, ddof))


def nanmax(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Largest value that is not NaN; NaN where there is none; ties share the gradient evenly."""
    return _nan_extreme(functions.max, -np.inf, a, axis, keepdims)


def nanmin(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Smallest value that is not NaN; NaN where there is none; ties share the gradient evenly."""
    return _nan_extreme(functions.min, np.inf, a, axis, keepdims)


def _present(a: Any) -> tuple[Tensor, Tensor]:
    """``a`` with 0 for NaN, and where it is not NaN."""
    x = asarray(a)
    if x.dtype.kind not in "fc":
        return x, functions.ones_like(x, dtype=np.bool_)
    gone = ops.isnan(x.detach())
    return ops.where(gone, 0, x), ~gone


def _degrees(there: Tensor, axis: Axis, keepdims: bool, dtype: Any, ddof: float = 0) -> Tensor:
    n = astype(functions.sum(there, axis=axis, keepdims=keepdims), dtype) - ddof
    return ops.where(n > 0, n, np.nan)


def _centred(x: Tensor, there: Tensor, axis: Axis) -> Tensor:
    mean = functions.sum(x, axis=axis, keepdims=True) / _degrees(there, axis, True, x.dtype)
    return ops.where(there, x - mean, 0)


def _nan_extreme(f: Any, worst: float, a: Any, axis: Axis, keepdims: bool) -> Tensor:
    x = asarray(a)
    if x.dtype.kind not in "f":
        return f(x, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]
    gone = ops.isnan(x.detach())
    none = functions.all(gone, axis=axis, keepdims=keepdims)
    best = f(ops.where(gone, worst, x), axis=axis, keepdims=keepdims)
    return ops.where(none, np.nan, best)


# Running sums, differences, integrals


def cumsum(a: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """Running sum along ``axis``, of the flattened array by default."""
    x, axis = _flat_unless(a, axis)
    return functions.cumulative_sum(x, axis=axis, dtype=dtype)


def cumprod(a: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """Running product along ``axis``, of the flattened array by default."""
    x, axis = _flat_unless(a, axis)
    return functions.cumulative_prod(x, axis=axis, dtype=dtype)


def _flat_unless(a: Any, axis: int | None) -> tuple[Tensor, int]:
    x = asarray(a)
    return (functions.reshape(x, (-1,)), 0) if axis is None else (x, axis)


def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Tensor:
    """Differences of neighbours in the flattened array, between ``to_begin`` and ``to_end``."""
    x = functions.reshape(asarray(ary), (-1,))
    steps = [x[1:] - x[:-1]]
    if to_begin is not None:
        steps.insert(0, ravel(together(x, to_begin)[1]))
    if to_end is not None:
        steps.append(ravel(together(x, to_end)[1]))
    return astype(functions.concat(steps), x.dtype)


def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Tensor:
    """``Σ (yᵢ + yᵢ₊₁)(xᵢ₊₁ − xᵢ) / 2`` along ``axis``, differentiable in the places ``x`` too.

    >>> import gpugrad as gg
    >>> gg.trapezoid(gg.asarray([1.0, 2.0, 4.0]), dx=0.5).item()
    2.25
    """
    if x is not None:
        y, x = together(y, x)
    y = asarray(y)
    axis = normalize_axis("trapezoid", axis, y.ndim)
    if x is not None:
        at = axis if x.ndim == y.ndim else x.ndim - 1
        dx = x[_along(at, slice(1, None))] - x[_along(at, slice(None, -1))]
        if x.ndim == 1:
            dx = functions.reshape(dx, (-1,) + (1,) * (y.ndim - 1 - axis))
    sides = y[_along(axis, slice(1, None))] + y[_along(axis, slice(None, -1))]
    return functions.sum(dx * sides * 0.5, axis=axis)


def gradient(f: Any, *varargs: Any, axis: Axis = None, edge_order: int = 1) -> Any:
    """Central differences of the samples ``f`` along each axis, one-sided at the ends.

    ``varargs`` are the spacings: none, one for all axes, or for each axis a number or the places.
    One tensor for one axis, a tuple for several.
    """
    x = _real(f)
    given = axis if isinstance(axis, tuple) else None if axis is None else (axis,)
    axes = (
        range(x.ndim) if given is None else [normalize_axis("gradient", i, x.ndim) for i in given]
    )
    spacings = [1.0] * len(axes) if not varargs else list(varargs)
    if len(spacings) == 1 and np.ndim(spacings[0]) == 0:
        spacings *= len(axes)
    if len(spacings) != len(axes):
        got = f"{len(spacings)} for {len(axes)} axes"
        raise ShapeError(message("gradient", "one spacing an axis", got, "one for all, or as many"))
    if edge_order not in (1, 2):
        raise ShapeError(message("gradient", "edge_order is 1 or 2", edge_order))
    slopes = [_slope(x, h, i, edge_order) for h, i in zip(spacings, axes, strict=True)]
    return slopes[0] if len(slopes) == 1 else tuple(slopes)


def _slope(f: Tensor, spacing: Any, axis: int, edge_order: int) -> Tensor:
    n = f.shape[axis]
    if n < edge_order + 1:
        hint = f"at least {edge_order + 1} samples along each axis"
        raise ShapeError(message("gradient", "too few samples", f.shape, hint))
    f, h = together(f, spacing)
    if not h.ndim:
        h = functions.broadcast_to(h, (n - 1,))
    elif h.shape == (n,):
        h = h[1:] - h[:-1]
    else:
        got = f"{h.shape} for {n} samples"
        raise ShapeError(message("gradient", "one place a sample", got))
    f = functions.moveaxis(f, axis, -1)
    before, after = h[:-1], h[1:]
    steps = (f[..., 1:] - f[..., :-1]) / h
    # The slope of the parabola through three samples, here in its middle and below at its ends.
    middle = (steps[..., :-1] * after + steps[..., 1:] * before) / (before + after)
    first, last = steps[..., :1], steps[..., -1:]
    if edge_order == 2:
        bends = (steps[..., 1:] - steps[..., :-1]) / (before + after)
        first = first - bends[..., :1] * h[:1]
        last = last + bends[..., -1:] * h[-1:]
    return functions.moveaxis(functions.concat([first, middle, last], axis=-1), -1, axis)


# Signals and curves


def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None) -> Tensor:
    """The broken line through the points (xp, fp), xp rising, read at ``x``.

    Outside it is ``left`` and ``right``, by default the first and last value. Differentiable in x,
    xp and fp; at a corner the slope in x is that of the piece to the right.

    >>> import gpugrad as gg
    >>> gg.grad(lambda x: gg.interp(x, [0.0, 1.0, 3.0], [0.0, 5.0, 1.0]))(2.0)
    -2.0
    """
    x, xp, fp = map(_real, together(x, xp, fp))
    n = xp.size
    if xp.ndim != 1 or xp.shape != fp.shape or not n:
        got = f"xp: {xp.shape}, fp: {fp.shape}"
        raise ShapeError(message("interp", "xp and fp are equally long and not empty", got))
    if n == 1:
        y = functions.broadcast_to(fp[0], x.shape)
    else:
        piece = functions.searchsorted(xp.detach(), x.detach(), side="right") - 1
        piece = functions.clip(piece, 0, n - 2)
        x0, f0, f1 = xp[piece], fp[piece], fp[piece + 1]
        width = xp[piece + 1] - x0
        none = width == 0
        y = f0 + (f1 - f0) * ((x - x0) / ops.where(none, 1, width))
        y = ops.where(none, f1, y)
    y = ops.where(x < xp[0], fp[0] if left is None else left, y)
    return ops.where(x > xp[-1], fp[-1] if right is None else right, y)


def convolve(a: Any, v: Any, mode: str = "full") -> Tensor:
    """``cₖ = Σⱼ aⱼ vₖ₋ⱼ`` of two 1-d arrays; mode full, same or valid.

    Takes memory for the product of their sizes.

    >>> import gpugrad as gg
    >>> gg.convolve(gg.asarray([1, 2, 3]), gg.asarray([0, 1, 10])).tolist()
    [0, 1, 12, 23, 30]
    """
    a, v = together(a, v)
    if a.ndim > 1 or v.ndim > 1 or not a.size or not v.size:
        raise ShapeError(message("convolve", "takes two 1-d arrays", (a.shape, v.shape)))
    a, v = atleast_1d(a), atleast_1d(v)
    if a.size < v.size:
        a, v = v, a
    n, m = a.size, v.size
    starts = {"full": 0, "same": (m - 1) // 2, "valid": m - 1}
    sizes = {"full": n + m - 1, "same": n, "valid": n - m + 1}
    if mode not in starts:
        raise ShapeError(message("convolve", "unknown mode", mode, "full, same or valid"))
    # Rows a·vₖ with m zeros behind each, read as rows one shorter: row k moves k places.
    rows = functions.concat([a[None, :] * v[:, None], _zeros((m, m), a, v)], axis=1)
    moved = functions.reshape(functions.reshape(rows, (-1,))[: m * (n + m - 1)], (m, n + m - 1))
    start = starts[mode]
    return functions.sum(moved[:, start : start + sizes[mode]], axis=0)


def _zeros(shape: tuple[int, ...], *like: Tensor) -> Tensor:
    dtype = np.result_type(*[x.dtype for x in like])
    return functions.zeros(shape, dtype=dtype, device=like[0].device)


def correlate(a: Any, v: Any, mode: str = "valid") -> Tensor:
    """``cₖ = Σⱼ aₖ₊ⱼ v̄ⱼ`` of two 1-d arrays; mode full, same or valid."""
    a, v = together(a, v)
    backwards = conjugate(functions.flip(v))
    if mode != "same" or a.size >= v.size:
        return convolve(a, backwards, mode)
    # The middle of an even number of places: NumPy counts it from the longer array.
    return functions.flip(convolve(functions.flip(a), functions.flip(backwards), mode))


def pad(array: Any, pad_width: Any, mode: str = "constant", *, constant_values: Any = 0) -> Tensor:
    """``array`` with ``pad_width`` places added before and after each axis.

    ``pad_width`` is one number, one pair (before, after), or a pair for each axis. ``mode`` is
    constant, edge, reflect, symmetric or wrap; all but constant repeat values, and so add up their
    gradients.

    >>> import gpugrad as gg
    >>> gg.pad(gg.asarray([1, 2, 3]), (2, 1), mode="reflect").tolist()
    [3, 2, 1, 2, 3, 2]
    """
    x = asarray(array)
    try:
        widths = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2)).tolist()
        values = np.broadcast_to(np.asarray(constant_values), (x.ndim, 2))
    except ValueError as error:
        got = f"{pad_width} for {x.ndim} axes"
        hint = "n, (before, after), or a pair for each axis"
        raise ShapeError(message("pad", str(error), got, hint)) from None
    if mode not in ("constant", "edge", "reflect", "symmetric", "wrap"):
        hint = "constant, edge, reflect, symmetric or wrap"
        raise DtypeError(message("pad", "not a mode that is supported", mode, hint))
    for axis, (before, after) in enumerate(widths):
        if builtins.min(before, after) < 0:
            raise ShapeError(message("pad", "widths are not negative", pad_width))
        if not before and not after:
            continue
        if mode == "constant":
            sides = []
            for width, value in zip((before, after), values[axis], strict=True):
                shape = (*x.shape[:axis], width, *x.shape[axis + 1 :])
                side = np.broadcast_to(value.astype(x.dtype), shape)
                sides.append(asarray(side, device=x.device))
            x = functions.concat([sides[0], x, sides[1]], axis=axis)
        else:
            places = np.pad(np.arange(x.shape[axis]), (before, after), mode=mode)  # type: ignore[call-overload]
            x = x[_along(axis, places)]
    return x


def polyval(p: Any, x: Any) -> Tensor:
    """``p₀xⁿ⁻¹ + … + pₙ₋₁``, the highest power first, by Horner's rule.

    >>> import gpugrad as gg
    >>> gg.grad(lambda x: gg.polyval([1.0, 0.0, 5.0], x))(3.0)
    6.0
    """
    p, x = together(p, x)
    y = functions.zeros_like(x)
    for coefficient in p:
        y = y * x + coefficient
    return y


def vander(x: Any, N: int | None = None, increasing: bool = False) -> Tensor:
    """Matrix of the powers of ``x``: columns ``xᴺ⁻¹ … x⁰``, or the other way if ``increasing``."""
    x = asarray(x)
    if x.ndim != 1:
        raise ShapeError(message("vander", "takes a 1-d array", x.shape))
    powers = [functions.ones_like(x)]
    while len(powers) < (x.size if N is None else N):
        powers.append(powers[-1] * x)
    if N == 0 or not powers:
        return functions.zeros((x.size, 0), dtype=x.dtype, device=x.device)
    return functions.stack(powers if increasing else powers[::-1], axis=1)


def cross(
    a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None
) -> Tensor:
    """``a × b`` of vectors of three along ``axisa`` and ``axisb``; the products along ``axisc``."""
    a, b = together(a, b)
    if axis is not None:
        axisa = axisb = axisc = axis
    a, b = functions.moveaxis(a, axisa, -1), functions.moveaxis(b, axisb, -1)
    if a.shape[-1:] != (3,) or b.shape[-1:] != (3,):
        hint = "vectors of three; with third entry 0 for two"
        raise ShapeError(message("cross", "vectors have three entries", (a.shape, b.shape), hint))
    after, before = np.array([1, 2, 0]), np.array([2, 0, 1])
    y = a[..., after] * b[..., before] - a[..., before] * b[..., after]
    return functions.moveaxis(y, -1, axisc)


def diag(v: Any, k: int = 0) -> Tensor:
    """The ``k``-th diagonal of a matrix, or the matrix that has the vector ``v`` there."""
    x = asarray(v)
    if x.ndim not in (1, 2):
        raise ShapeError(message("diag", "takes a vector or a matrix", x.shape))
    row, column = builtins.max(-k, 0), builtins.max(k, 0)
    if x.ndim == 2:
        i = np.arange(builtins.max(0, builtins.min(x.shape[0] - row, x.shape[1] - column)))
        return x[i + row, i + column]
    i = np.arange(x.size)
    size = x.size + builtins.abs(k)
    out: Tensor = functions.zeros((size, size), dtype=x.dtype, device=x.device)
    out[i + row, i + column] = x
    return out


# Joining and splitting


def concatenate(arrays: Sequence[Any], axis: int | None = 0, *, dtype: Any = None) -> Tensor:
    """``arrays`` one after the other along ``axis``; with None, all flattened first.

    >>> import gpugrad as gg
    >>> gg.concatenate([[1.0, 2.0], gg.zeros(1)], 0).tolist()
    [1.0, 2.0, 0.0]
    """
    return _cast(functions.concat(together(*arrays), axis=axis), dtype)


def hstack(tup: Sequence[Any], *, dtype: Any = None) -> Tensor:
    """``tup`` side by side: along the second axis, vectors along the first."""
    xs = [atleast_1d(x) for x in together(*tup)]
    return _cast(functions.concat(xs, axis=0 if xs and xs[0].ndim == 1 else 1), dtype)


def vstack(tup: Sequence[Any], *, dtype: Any = None) -> Tensor:
    """``tup`` below each other: along the first axis, vectors as rows."""
    return _cast(functions.concat([atleast_2d(x) for x in together(*tup)], axis=0), dtype)


def dstack(tup: Sequence[Any]) -> Tensor:
    """``tup`` behind each other: along the third axis."""
    return functions.concat([atleast_3d(x) for x in together(*tup)], axis=2)


def column_stack(tup: Sequence[Any]) -> Tensor:
    """``tup`` side by side, vectors as columns."""
    xs = together(*tup)
    columns = [functions.reshape(x, (-1, 1)) if x.ndim < 2 else x for x in xs]
    return functions.concat(columns, axis=1)


def append(arr: Any, values: Any, axis: int | None = None) -> Tensor:
    """``values`` after ``arr`` along ``axis``; flattened both by default."""
    return functions.concat(together(arr, values), axis=axis)


def _cast(x: Tensor, dtype: Any) -> Tensor:
    return x if dtype is None else astype(x, dtype)


def array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    """Pieces of ``ary`` along ``axis``: so many, the first ones one longer, or cut at indices."""
    x = asarray(ary)
    axis = normalize_axis("array_split", axis, x.ndim)
    n = x.shape[axis]
    if isinstance(indices_or_sections, (int, np.integer)):
        count = int(indices_or_sections)
        if count < 1:
            raise ShapeError(message("array_split", "at least one piece", count))
        sizes = [n // count + (i < n % count) for i in range(count)]
        cuts = np.cumsum(sizes[:-1]).tolist()
    else:
        cuts = [int(i) for i in indices_or_sections]
    ends = zip([0, *cuts], [*cuts, n], strict=True)
    return [x[_along(axis, slice(start, stop))] for start, stop in ends]


def split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    """`array_split` into equal pieces, or cut at indices.

    >>> import gpugrad as gg
    >>> [part.tolist() for part in gg.split(gg.arange(4), 2)]
    [[0, 1], [2, 3]]
    """
    x = asarray(ary)
    size = x.shape[normalize_axis("split", axis, x.ndim)]
    sections = indices_or_sections
    if isinstance(sections, (int, np.integer)) and (sections < 1 or size % sections):
        got = f"{size} places in {sections}"
        raise ShapeError(message("split", "pieces are equally long", got, "array_split"))
    return array_split(x, sections, axis)


def hsplit(ary: Any, indices_or_sections: Any) -> list[Tensor]:
    """`split` along the second axis, of a vector along the first."""
    x = asarray(ary)
    return split(x, indices_or_sections, 0 if x.ndim == 1 else 1)


def vsplit(ary: Any, indices_or_sections: Any) -> list[Tensor]:
    """`split` along the first of at least two axes."""
    x = asarray(ary)
    if x.ndim < 2:
        raise ShapeError(message("vsplit", "needs at least two axes", x.shape))
    return split(x, indices_or_sections, 0)


def dsplit(ary: Any, indices_or_sections: Any) -> list[Tensor]:
    """`split` along the third axis."""
    return split(ary, indices_or_sections, 2)


# Shape and places


def ravel(a: Any, order: str = "C") -> Tensor:
    """All values in one axis, in C order."""
    if order not in ("C", "K", "A"):
        raise DtypeError(message("ravel", "only C order", order, "gg.ravel(x.T)"))
    return functions.reshape(asarray(a), (-1,))


def transpose(a: Any, axes: Any = None) -> Tensor:
    """``a`` with its axes in the order ``axes``, reversed by default."""
    a = asarray(a)
    return functions.permute_dims(a, tuple(range(a.ndim))[::-1] if axes is None else tuple(axes))


def swapaxes(a: Any, axis1: int, axis2: int) -> Tensor:
    """``a`` with two axes exchanged."""
    a = asarray(a)
    order = list(range(a.ndim))
    i, j = (normalize_axis("swapaxes", axis, a.ndim) for axis in (axis1, axis2))
    order[i], order[j] = order[j], order[i]
    return functions.permute_dims(a, tuple(order))


def rollaxis(a: Any, axis: int, start: int = 0) -> Tensor:
    """``a`` with ``axis`` moved to where it stands before axis ``start``; `moveaxis` is clearer."""
    a = asarray(a)
    axis = normalize_axis("rollaxis", axis, a.ndim)
    start = start + a.ndim if start < 0 else start
    order = [i for i in range(a.ndim) if i != axis]
    order.insert(start - (axis < start), axis)
    return functions.permute_dims(a, tuple(order))


def atleast_1d(*arys: Any) -> Any:
    """Each as a tensor of at least one axis; a tuple of several."""
    return _each(lambda x: x if x.ndim else functions.reshape(x, (1,)), arys)


def atleast_2d(*arys: Any) -> Any:
    """Each as a tensor of at least two axes, vectors as rows; a tuple of several."""
    return _each(lambda x: x if x.ndim > 1 else functions.reshape(x, (1, -1)), arys)


def atleast_3d(*arys: Any) -> Any:
    """Each as a tensor of at least three axes, new ones last; a tuple of several."""

    def three(x: Tensor) -> Tensor:
        shape = (1, x.size, 1) if x.ndim < 2 else (*x.shape, 1)
        return x if x.ndim > 2 else functions.reshape(x, shape)

    return _each(three, arys)


def _each(f: Callable[[Tensor], Tensor], arys: tuple[Any, ...]) -> Any:
    made = tuple([f(asarray(a)) for a in arys])
    return made[0] if len(made) == 1 else made


def flipud(m: Any) -> Tensor:
    """Rows in reverse order."""
    return functions.flip(m, axis=0)


def fliplr(m: Any) -> Tensor:
    """Columns in reverse order."""
    return functions.flip(m, axis=1)


def rot90(m: Any, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Tensor:
    """``m`` turned by ``k`` right angles, from the first of ``axes`` towards the second."""
    first, second = axes
    if k % 4 == 0:
        return asarray(m)
    if k % 4 == 2:
        return functions.flip(m, axis=(first, second))
    if k % 4 == 1:
        return swapaxes(functions.flip(m, axis=second), first, second)
    return functions.flip(swapaxes(m, first, second), axis=second)


def compress(condition: Any, a: Any, axis: int | None = None) -> Tensor:
    """The places along ``axis`` where the 1-d ``condition`` is true."""
    x, axis = _flat_unless(a, axis)
    axis = normalize_axis("compress", axis, x.ndim)
    tensor = isinstance(condition, Tensor)
    return x[_along(axis, flatnonzero(condition) if tensor else np.flatnonzero(condition))]


def delete(arr: Any, obj: Any, axis: int | None = None) -> Tensor:
    """``arr`` without the places ``obj`` (integers, a slice or a mask) along ``axis``."""
    x, axis = _flat_unless(arr, axis)
    axis = normalize_axis("delete", axis, x.ndim)
    return x[_along(axis, np.delete(np.arange(x.shape[axis]), host(obj)))]


def host(x: Any) -> Any:
    """A tensor's values as a NumPy array, off the tape; anything else as it is."""
    return x.detach().to("cpu").numpy() if isinstance(x, Tensor) else x


def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Tensor:
    """At each place the choice of the first condition that is true, or ``default``."""
    if len(condlist) != len(choicelist) or not condlist:
        got = f"{len(condlist)} and {len(choicelist)}"
        raise ShapeError(message("select", "as many choices as conditions, at least one", got))
    *choices, y = together(*choicelist, default)
    for condition, choice in zip(condlist[::-1], choices[::-1], strict=True):
        y = functions.where(condition, choice, y)
    return y


def apply_along_axis(
    func1d: Callable[..., Any], axis: int, arr: Any, *args: Any, **kwargs: Any
) -> Tensor:
    """``func1d(row, …)`` for each 1-d ``row`` along ``axis``, its result in the row's place.

    >>> import gpugrad as gg
    >>> gg.apply_along_axis(gg.sum, 1, gg.ones((2, 3))).tolist()
    [3.0, 3.0]
    """
    x = asarray(arr)
    axis = normalize_axis("apply_along_axis", axis, x.ndim)
    x = functions.moveaxis(x, axis, -1)
    lead = x.shape[:-1]
    rows = functions.reshape(x, (-1, x.shape[-1]))
    if not rows.shape[0]:
        raise ShapeError(message("apply_along_axis", "there is no row", x.shape))
    made = functions.stack([asarray(func1d(row, *args, **kwargs)) for row in rows])
    inner = made.ndim - 1
    made = functions.reshape(made, (*lead, *made.shape[1:]))
    last = tuple(range(made.ndim - inner, made.ndim))
    return functions.moveaxis(made, last, tuple(range(axis, axis + inner)))


# Made from numbers


def identity(n: int, dtype: Any = None) -> Tensor:
    """The ``n × n`` unit matrix, float32 by default."""
    return functions.eye(n, dtype=dtype)


def tri(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Tensor:
    """Ones at and below the ``k``-th diagonal, zeros above, float32 by default."""
    shape = (N, N if M is None else M)
    return functions.tril(functions.ones(shape, dtype=dtype), k=k)


def line(start: Any, stop: Any, num: int = 50, endpoint: bool = True, axis: int = 0) -> Tensor:
    """`linspace` between tensors: differentiable in both ends, which may have any shape."""
    start, stop = functions.broadcast_arrays(*_ends(start, stop))
    part = _parts(num, endpoint, start)
    y = start * (1 - part) + stop * part
    return functions.moveaxis(y, 0, axis)


def _ends(*ends: Any) -> list[Tensor]:
    """Floating tensors; where none has a dtype, of gpugrad's default one."""
    if not builtins.any(hasattr(x, "dtype") for x in ends):
        return [asarray(x, np.float32) for x in ends]
    return [_real(x) for x in together(*ends)]


def _parts(num: int, endpoint: bool, like: Tensor) -> Tensor:
    """0 … 1 in ``num`` steps along a new first axis before those of ``like``."""
    part = np.linspace(0, 1, num, endpoint).astype(like.dtype)
    return asarray(part.reshape((num,) + (1,) * like.ndim), device=like.device)


def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0, axis: int = 0
) -> Tensor:
    """``base`` to the powers ``linspace(start, stop, num)``, differentiable in all three.

    >>> import gpugrad as gg
    >>> gg.logspace(0.0, 2.0, 3).tolist()
    [1.0, 10.0, 100.0]
    """
    start, stop, base = _ends(start, stop, base)
    return functions.moveaxis(ops.pow(base, line(start, stop, num, endpoint)), 0, axis)


def geomspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, axis: int = 0) -> Tensor:
    """``num`` values from ``start`` to ``stop``, each the same multiple of the one before."""
    start, stop = functions.broadcast_arrays(*_ends(start, stop))
    y = start * (stop / start) ** _parts(num, endpoint, start)
    return functions.moveaxis(y, 0, axis)


# Counting and comparing: no derivative


def isclose(
    a: Any, b: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Tensor:
    """Where ``|a − b| ≤ atol + rtol·|b|``, or both are the same infinity."""
    a, b = [x.detach() for x in together(a, b)]
    finite = ops.isfinite(a) & ops.isfinite(b)
    b0 = ops.where(finite, b, 0)
    near = ops.abs(ops.where(finite, a, 0) - b0) <= atol + rtol * ops.abs(b0)
    same = ops.where(finite, near, a == b)
    return same | (ops.isnan(a) & ops.isnan(b)) if equal_nan else same


def allclose(
    a: Any, b: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Whether `isclose` holds everywhere."""
    return bool(functions.all(isclose(a, b, rtol, atol, equal_nan)))


def array_equal(a1: Any, a2: Any, equal_nan: bool = False) -> bool:
    """Whether shapes and all values are equal."""
    a, b = [x.detach() for x in together(a1, a2)]
    if a.shape != b.shape:
        return False
    same = a == b
    if equal_nan:
        same = same | ((a != a) & (b != b))
    return bool(functions.all(same))


def argwhere(a: Any) -> Tensor:
    """The indices of the values that are not 0, one row each."""
    a = asarray(a)
    if not a.ndim:
        return functions.zeros((int(bool(a)), 0), dtype=np.int64, device=a.device)
    return functions.stack(list(functions.nonzero(a)), axis=1)


def flatnonzero(a: Any) -> Tensor:
    """The indices of the values that are not 0, in the flattened array."""
    return functions.nonzero(ravel(a))[0]


def bincount(x: Any, weights: Any = None, minlength: int = 0) -> Tensor:
    """How often each integer occurs in ``x``; with ``weights`` the sum of its weights.

    Differentiable in ``weights``.

    >>> import gpugrad as gg
    >>> gg.bincount(gg.asarray([0, 2, 2]), weights=[1.0, 2.0, 3.0]).tolist()
    [1.0, 0.0, 5.0]
    """
    written = isinstance(weights, Tensor) and not hasattr(x, "dtype")
    x = asarray(x, device=weights.device if written else None)
    if x.ndim != 1 or x.dtype.kind not in "iu":
        got = f"{x.dtype}{list(x.shape)}"
        raise DtypeError(message("bincount", "takes a vector of integers", got))
    if x.size and int(functions.min(x)) < 0:
        raise BoundsError(message("bincount", "counts integers ≥ 0", int(functions.min(x))))
    size = builtins.max(int(functions.max(x)) + 1 if x.size else 0, minlength)
    if weights is None:
        weights = functions.ones_like(x, dtype=np.int64)
    elif not hasattr(weights, "dtype"):
        weights = asarray(weights, device=x.device)
    weights = weights if asarray(weights).dtype == np.int64 else _real(weights)
    if weights.shape != x.shape:
        got = f"{weights.shape} for {x.shape}"
        raise ShapeError(message("bincount", "one weight for each integer", got))
    return ops.scatter(weights, x, key=(ARRAY,), shape=(size,))


def digitize(x: Any, bins: Any, right: bool = False) -> Tensor:
    """For each value the index of the bin, between rising or falling edges, that it lies in."""
    values, edges = [v.detach() for v in together(x, bins)]
    if edges.size > 1 and bool(edges[0] > edges[-1]):
        side = "right" if right else "left"
        return edges.size - functions.searchsorted(functions.flip(edges), values, side=side)
    return functions.searchsorted(edges, values, side="left" if right else "right")


def histogram(
    a: Any, bins: Any = 10, range: Any = None, density: Any = None, weights: Any = None
) -> tuple[Tensor, Tensor]:
    """Counts in ``bins`` and the bins' edges. Raises on what is being differentiated."""
    x, *rest = [asarray(v) for v in (a, bins, weights) if v is not None]
    if _tracked(x, *rest):
        hint = "x.detach(), or gg.bincount(i, weights=w), which is differentiable in w"
        raise GradientError(message("histogram", "counts have no derivative", hint=hint))
    xp = backend.of(x._data).xp
    bins, weights = (v._data if isinstance(v, Tensor) else v for v in (bins, weights))
    counts, edges = xp.histogram(x._data, bins, range, density=density, weights=weights)
    return Tensor(counts), Tensor(edges)
