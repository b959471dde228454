"""Sets: distinct values in ascending order, still on the tape. Imports the rooms beside it."""

from typing import Any

import numpy as np

from gpugrad.aval import normalize_axis
from gpugrad.late import functions
from gpugrad.namespace.creation import asarray, astype
from gpugrad.namespace.lifting import along, together
from gpugrad.namespace.numpy.arranging import ravel
from gpugrad.namespace.searching import runs
from gpugrad.op import data_of
from gpugrad.tensor import Tensor


def unique(
    ar: Any,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
    *,
    equal_nan: bool = True,
) -> Any:
    """The distinct values in ascending order; with ``axis`` the distinct slices along it.

    ``return_index`` adds where each first occurs, ``return_inverse`` which one each place holds,
    ``return_counts`` how often each occurs.

    >>> import gpugrad as gg
    >>> [part.tolist() for part in gg.unique([5, 2, 5], return_counts=True)]
    [[2, 5], [1, 2]]
    """
    x = asarray(ar)
    if axis is None:
        flat = ravel(x)
        first, inverse, counts = runs(data_of(flat), equal_nan)
        values, inverse = flat[first], functions.reshape(inverse, x.shape)
    else:
        axis = normalize_axis("unique", axis, x.ndim)
        rows = functions.reshape(functions.moveaxis(x.detach(), axis, 0), (x.shape[axis], -1))
        first, inverse, counts = runs(data_of(rows))
        values = x[along(axis, first)]
    wanted = [True, return_index, return_inverse, return_counts]
    parts = [values, first, inverse, counts]
    chosen = [part for part, want in zip(parts, wanted, strict=True) if want]
    return chosen[0] if len(chosen) == 1 else tuple(chosen)


def union1d(ar1: Any, ar2: Any) -> Tensor:
    """The distinct values of both together."""
    return unique(functions.concat([ravel(x) for x in together(ar1, ar2)]))  # type: ignore[no-any-return]


def intersect1d(
    ar1: Any, ar2: Any, assume_unique: bool = False, return_indices: bool = False
) -> Any:
    """The distinct values that both have; ``return_indices`` adds where each has them first."""
    pair = together(ar1, ar2)
    common = np.result_type(*[x.dtype for x in pair])
    (a, at), (b, bt) = (unique(astype(x, common), return_index=True) for x in pair)
    here = functions.isin(a, b)
    if not return_indices:
        return a[here]
    return a[here], at[here], bt[functions.isin(b, a)]


def setdiff1d(ar1: Any, ar2: Any, assume_unique: bool = False) -> Tensor:
    """The distinct values of ``ar1`` that ``ar2`` lacks; in its own order if ``assume_unique``."""
    a, b = together(ar1, ar2)
    a = ravel(a) if assume_unique else unique(a)
    return a[functions.isin(a, b, invert=True)]


def setxor1d(ar1: Any, ar2: Any, assume_unique: bool = False) -> Tensor:
    """The distinct values that exactly one of both has."""
    both = functions.concat([unique(x) for x in together(ar1, ar2)])
    values, counts = unique(both, return_counts=True)
    return values[counts == 1]  # type: ignore[no-any-return]
