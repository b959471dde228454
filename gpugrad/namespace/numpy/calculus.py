"""Running sums, differences, integrals, signals and curves. Imports the rooms beside it."""

from typing import Any

import numpy as np

from gpugrad.aval import normalize_axis
from gpugrad.errors import ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray, astype
from gpugrad.namespace.lifting import Axis, along, flat_unless, floating, together
from gpugrad.namespace.numpy.arranging import atleast_1d, ravel
from gpugrad.namespace.numpy.elementwise import conjugate
from gpugrad.tensor import Tensor


def cumsum(a: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """Running sum along ``axis``, of the flattened array by default."""
    x, axis = flat_unless(a, axis)
    return functions.cumulative_sum(x, axis=axis, dtype=dtype)


def cumprod(a: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """Running product along ``axis``, of the flattened array by default."""
    x, axis = flat_unless(a, axis)
    return functions.cumulative_prod(x, axis=axis, dtype=dtype)


def nancumsum(a: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """`cumsum` with 0 for NaN."""
    return cumsum(_instead(a, 0), axis, dtype)


def nancumprod(a: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """`cumprod` with 1 for NaN."""
    return cumprod(_instead(a, 1), axis, dtype)


def _instead(a: Any, value: int) -> Tensor:
    x = asarray(a)
    return ops.where(ops.isnan(x.detach()), value, x) if x.dtype.kind in "fc" else x


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
        dx = x[along(at, slice(1, None))] - x[along(at, slice(None, -1))]
        if x.ndim == 1:
            dx = functions.reshape(dx, (-1,) + (1,) * (y.ndim - 1 - axis))
    sides = y[along(axis, slice(1, None))] + y[along(axis, slice(None, -1))]
    return functions.sum(dx * sides * 0.5, axis=axis)


def gradient(f: Any, *varargs: Any, axis: Axis = None, edge_order: int = 1) -> Any:
    """Central differences of the samples ``f`` along each axis, one-sided at the ends.

    ``varargs`` are the spacings: none, one for all axes, or for each axis a number or the places.
    One tensor for one axis, a tuple for several.
    """
    x = floating(f)
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


def interp(
    x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None
) -> Tensor:
    """The broken line through the points (xp, fp), xp rising, read at ``x``.

    Outside it is ``left`` and ``right``, by default the first and last value. Differentiable in x,
    xp and fp; at a corner the slope in x is that of the piece to the right. With ``period`` the
    line goes on periodically, and xp may be in any order.

    >>> import gpugrad as gg
    >>> gg.grad(lambda x: gg.interp(x, [0.0, 1.0, 3.0], [0.0, 5.0, 1.0]))(2.0)
    -2.0
    """
    x, xp, fp = map(floating, together(x, xp, fp))
    n = xp.size
    if xp.ndim != 1 or xp.shape != fp.shape or not n:
        got = f"xp: {xp.shape}, fp: {fp.shape}"
        raise ShapeError(message("interp", "xp and fp are equally long and not empty", got))
    if period is not None:
        period = abs(period)
        x, xp = x % period, xp % period
        order = functions.argsort(xp)
        xp, fp = xp[order], fp[order]
        xp = functions.concat([xp[-1:] - period, xp, xp[:1] + period])
        fp = functions.concat([fp[-1:], fp, fp[:1]])
        n, left, right = n + 2, None, None
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
    y = moved[:, start : start + sizes[mode]]
    return functions.sum(y, axis=0, dtype=y.dtype)


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
    after, before = [1, 2, 0], [2, 0, 1]
    y = a[..., after] * b[..., before] - a[..., before] * b[..., after]
    return functions.moveaxis(y, -1, axisc)
