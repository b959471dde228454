"""Abstract values: what is known of an array before it is computed. Imports errors only.

The shape rules live here; dtype rules are NumPy's own (`numpy.result_type`, Python scalars weak).
"""

from collections.abc import Iterable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gpugrad.errors import AxisError, DtypeError, ShapeError, message

Shape = tuple[int, ...]


class Aval(NamedTuple):
    """Shape and dtype of a value. A weak Python scalar has its Python type as dtype."""

    shape: Shape
    dtype: Any

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    def __str__(self) -> str:
        name = self.dtype.__name__ if self.dtype in WEAK else self.dtype.name
        return f"{name}{list(self.shape)}"


# A sample of each weak type, for NumPy's promotion to look at.
WEAK: dict[type, Any] = {bool: True, int: 1, float: 1.0, complex: 1j}


def aval_of(x: Any) -> Aval:
    """Aval of anything with ``.shape`` and ``.dtype``, or of a Python scalar."""
    return Aval((), type(x)) if type(x) in WEAK else Aval(tuple(x.shape), x.dtype)


def promote(op: str, avals: Iterable[Aval]) -> Any:
    """Result dtype of mixing ``avals`` under NumPy 2 promotion."""
    avals = list(avals)
    try:
        return np.result_type(*(WEAK.get(a.dtype, a.dtype) for a in avals))
    except TypeError:
        raise DtypeError(message(op, "dtypes have no common type", listing(avals))) from None


def broadcast(op: str, names: Iterable[str], avals: Iterable[Aval]) -> Shape:
    """The shape ``avals`` broadcast to; the error names each argument's shape."""
    avals = list(avals)
    try:
        return np.broadcast_shapes(*(a.shape for a in avals))
    except ValueError:
        got = ", ".join(f"{n}: {a.shape}" for n, a in zip(names, avals, strict=True))
        hint = "reshape(...) or expand_dims(...) so that each trailing size is equal or 1"
        raise ShapeError(message(op, "shapes do not broadcast", got, hint)) from None


def listing(avals: Iterable[Aval]) -> str:
    return ", ".join(map(str, avals))


def normalize_axis(op: str, axis: int, ndim: int) -> int:
    """``axis`` counted from the front; raises when it is outside ``-ndim..ndim-1``."""
    if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool):
        raise DtypeError(message(op, "axis must be an integer", repr(axis)))
    if not -ndim <= axis < ndim:
        hint = f"an axis in {-ndim}..{ndim - 1}" if ndim else "axis=None"
        raise AxisError(message(op, "axis is outside the array", f"axis {axis}, ndim {ndim}", hint))
    return int(axis) % ndim


def normalize_axes(op: str, axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """``axis`` as a sorted tuple counted from the front; ``None`` means all."""
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(normalize_axis(op, a, ndim) for a in given)
    if len(set(axes)) != len(axes):
        raise ShapeError(message(op, "an axis is named twice", axis))
    return tuple(sorted(axes))
