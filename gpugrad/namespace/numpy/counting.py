"""Comparing, searching and counting: without derivative but for `bincount`. Imports `lifting`."""

from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.errors import BoundsError, DtypeError, GradientError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray
from gpugrad.namespace.lifting import floating, together
from gpugrad.namespace.numpy.arranging import ravel
from gpugrad.ops.index import ARRAY
from gpugrad.tensor import Dual, Tensor

__all__ = [
    "allclose",
    "argwhere",
    "array_equal",
    "bincount",
    "digitize",
    "flatnonzero",
    "histogram",
    "isclose",
]


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
    size = max(int(functions.max(x)) + 1 if x.size else 0, minlength)
    if weights is None:
        weights = functions.ones_like(x, dtype=np.int64)
    elif not hasattr(weights, "dtype"):
        weights = asarray(weights, device=x.device)
    weights = weights if asarray(weights).dtype == np.int64 else floating(weights)
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


def _tracked(*xs: Tensor) -> bool:
    return any(x.requires_grad or type(x._data) is Dual for x in xs)
