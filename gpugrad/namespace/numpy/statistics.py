"""Averages, spreads and correlations, also of values with NaN among them. Imports `lifting`."""

from typing import Any

import numpy as np

from gpugrad.aval import normalize_axis
from gpugrad.errors import BoundsError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray, astype
from gpugrad.namespace.lifting import Axis, floating, together
from gpugrad.namespace.numpy.arranging import atleast_2d
from gpugrad.namespace.numpy.choosing import diag
from gpugrad.namespace.numpy.elementwise import conjugate
from gpugrad.tensor import Tensor


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
        a = floating(a)
        mean = functions.mean(a, axis=axis, keepdims=keepdims)
        total = functions.full_like(mean, a.size / max(mean.size, 1))
        return (mean, total) if returned else mean
    a, w = map(floating, together(a, weights))
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
    m: Any,
    y: Any = None,
    rowvar: bool = True,
    bias: bool = False,
    ddof: int | None = None,
    fweights: Any = None,
    aweights: Any = None,
    *,
    dtype: Any = None,
) -> Tensor:
    """Covariance matrix ``(X − X̄)(X − X̄)ᵀ / (n − ddof)`` of variables in rows, n observations each.

    ``ddof`` is 1, or 0 with ``bias``; ``rowvar=False`` means variables in columns; ``y`` adds more.
    ``fweights`` says how often each observation occurred, ``aweights`` how much it weighs: with w
    their product and v = Σw the divisor is ``v − ddof · Σw·aweights / v``, differentiable in both.
    """
    given = together(m) if y is None else together(m, y)
    x = functions.concat([_variables(v, rowvar) for v in given], axis=0)
    dtype = x.dtype if dtype is None else dtype
    x = astype(x, dtype)
    less = ddof if ddof is not None else 0 if bias else 1
    factors = [
        asarray(factor, dtype=None if hasattr(factor, "dtype") else x.dtype, device=x.device)
        for factor in (fweights, aweights)
        if factor is not None
    ]
    if not factors:
        degrees: Any = x.shape[1] - less
        x = x - functions.mean(x, axis=1, keepdims=True)
        c = functions.matmul(x, conjugate(x).T) * (1 / degrees if degrees > 0 else np.nan)
        return c.squeeze()
    if any(factor.shape != (x.shape[1],) for factor in factors):
        got = f"{[factor.shape for factor in factors]} for {x.shape[1]} observations"
        raise ShapeError(message("cov", "one weight for each observation", got))
    w = factors[0] if len(factors) == 1 else factors[0] * factors[1]
    v = functions.sum(w)
    degrees = v - less if aweights is None else v - less * functions.sum(w * factors[-1]) / v
    x = x - functions.sum(x * w, axis=1, keepdims=True) / v
    c = functions.matmul(x, conjugate(x * w).T) / ops.where(degrees > 0, degrees, np.nan)
    return astype(c, dtype).squeeze()


def _variables(m: Any, rowvar: bool) -> Tensor:
    x = floating(m)
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
    c = c / spread[:, None] / spread[None, :]
    if c.dtype.kind != "c":
        return functions.clip(c, -1, 1)
    both = [functions.clip(part, -1, 1) for part in (ops.real(c), ops.imag(c))]
    return astype(both[0] + both[1] * 1j, c.dtype)


# Reductions that pass over NaN


def nansum(a: Any, axis: Axis = None, dtype: Any = None, *, keepdims: bool = False) -> Tensor:
    """Sum of the values that are not NaN; NaN entries get gradient 0, here and below.

    >>> import gpugrad as gg
    >>> gg.grad(gg.nansum)(gg.asarray([1.0, float("nan")])).tolist()
    [1.0, 0.0]
    """
    return functions.sum(_present(a)[0], axis=axis, dtype=dtype, keepdims=keepdims)


def nanprod(a: Any, axis: Axis = None, dtype: Any = None, *, keepdims: bool = False) -> Tensor:
    """Product of the values that are not NaN; 1 where there is none."""
    x, there = _present(a)
    return functions.prod(ops.where(there, x, 1), axis=axis, dtype=dtype, keepdims=keepdims)


def nanmean(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Mean of the values that are not NaN; NaN where there is none."""
    return mean_of(*_present(floating(a)), axis, keepdims)


def nanvar(a: Any, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """Variance of the n values that are not NaN, ``Σ(x − x̄)² / (n − ddof)``."""
    return var_of(*_present(floating(a)), axis, keepdims, ddof)


def nanstd(a: Any, axis: Axis = None, *, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """Square root of `nanvar`; the derivative where all values are equal is 0."""
    return std_of(*_present(floating(a)), axis, keepdims, ddof)


def nanmax(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Largest value that is not NaN; NaN where there is none; ties share the gradient evenly."""
    return _nan_extreme(functions.max, -np.inf, a, axis, keepdims)


def nanmin(a: Any, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Smallest value that is not NaN; NaN where there is none; ties share the gradient evenly."""
    return _nan_extreme(functions.min, np.inf, a, axis, keepdims)


def nanargmax(a: Any, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
    """Index of the first largest value that is not NaN; raises where there is none."""
    return _nan_place(amax, -np.inf, a, axis, keepdims)


def nanargmin(a: Any, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
    """Index of the first smallest value that is not NaN; raises where there is none."""
    return _nan_place(amin, np.inf, a, axis, keepdims)


def _present(a: Any) -> tuple[Tensor, Tensor]:
    """``a`` with 0 for NaN, and where it is not NaN."""
    x = asarray(a)
    if x.dtype.kind not in "fc":
        return x, functions.ones_like(x, dtype=np.bool_)
    gone = ops.isnan(x.detach())
    return ops.where(gone, 0, x), ~gone


# Of the values of x that are ``there``; the others are 0.


def mean_of(x: Tensor, there: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    total = functions.sum(x, axis=axis, keepdims=keepdims)
    return total / _degrees(there, axis, keepdims, x.dtype)


def var_of(x: Tensor, there: Tensor, axis: Axis, keepdims: bool, ddof: float) -> Tensor:
    apart = ops.abs(_centred(x, there, axis)) if x.dtype.kind == "c" else _centred(x, there, axis)
    total = functions.sum(apart * apart, axis=axis, keepdims=keepdims)
    return total / _degrees(there, axis, keepdims, total.dtype, ddof)


def std_of(x: Tensor, there: Tensor, axis: Axis, keepdims: bool, ddof: float) -> Tensor:
    length = functions.norm(_centred(x, there, axis), axis=axis, keepdims=keepdims)
    return length / ops.sqrt(_degrees(there, axis, keepdims, length.dtype, ddof))


def _degrees(there: Tensor, axis: Axis, keepdims: bool, dtype: Any, ddof: float = 0) -> Tensor:
    n = astype(functions.sum(there, axis=axis, keepdims=keepdims), dtype) - ddof
    return ops.where(n > 0, n, np.nan)


def _centred(x: Tensor, there: Tensor, axis: Axis) -> Tensor:
    # Counted from one of them, equal values are exactly their mean.
    x = ops.where(there, x - _lowest(x.detach(), there, axis), 0)
    mean = functions.sum(x, axis=axis, keepdims=True) / _degrees(there, axis, True, x.dtype)
    return ops.where(there, x - mean, 0)


def _lowest(x: Tensor, there: Tensor, axis: Axis) -> Any:
    if x.dtype.kind == "c":
        return _lowest(ops.real(x), there, axis) + 1j * _lowest(ops.imag(x), there, axis)
    return functions.min(ops.where(there, x, np.inf), axis=axis, keepdims=True) if x.size else 0


def _nan_extreme(f: Any, worst: float, a: Any, axis: Axis, keepdims: bool) -> Tensor:
    x = asarray(a)
    if x.dtype.kind not in "f":
        return f(x, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]
    gone = ops.isnan(x.detach())
    none = functions.all(gone, axis=axis, keepdims=keepdims)
    best = f(ops.where(gone, worst, x), axis=axis, keepdims=keepdims)
    return ops.where(none, np.nan, best)


def _nan_place(f: Any, worst: float, a: Any, axis: int | None, keepdims: bool) -> Tensor:
    x, there = _present(asarray(a).detach())
    if not bool(functions.all(functions.any(there, axis=axis))):
        raise BoundsError(message("nanargmax", "all values are NaN", x.shape))
    # NaN gives way to any number, also to an infinite one
    best = f(ops.where(there, x, worst) if x.dtype.kind == "f" else x, axis, keepdims=True)
    return functions.argmax(there & (x == best), axis=axis, keepdims=keepdims)
