"""Order and search: indices and truths, none with a derivative. Imports op, aval and errors only.

A sorted array is a selection at `argsort`'s indices, so its gradient follows the permutation.
"""

from typing import Any

import numpy as np

from gpugrad.aval import Aval, promote
from gpugrad.errors import ShapeError, message
from gpugrad.op import Op


def _argsort(xp: Any, x: Any, axis: int, descending: bool) -> Any:
    if not descending:
        return xp.argsort(x, axis=axis, kind="stable").astype(np.int64, copy=False)
    # Sorted backwards and read backwards, equal values keep their order.
    order = xp.argsort(xp.flip(x, axis), axis=axis, kind="stable")
    return (x.shape[axis] - 1 - xp.flip(order, axis)).astype(np.int64, copy=False)


argsort = Op(
    "argsort",
    lambda xp, x, *, axis, descending: _argsort(xp, x, axis, descending),
    lambda x, *, axis, descending: Aval(x.shape, np.dtype(np.int64)),
)


def _searchsorted_aval(a: Aval, v: Aval, *, side: str) -> Aval:
    if a.ndim != 1:
        rule = "the sorted values have one axis"
        raise ShapeError(message("searchsorted", rule, a.shape))
    promote("searchsorted", (a, v))
    return Aval(v.shape, np.dtype(np.int64))


searchsorted = Op(
    "searchsorted",
    lambda xp, a, v, *, side: xp.searchsorted(a, v, side).astype(np.int64, copy=False),
    _searchsorted_aval,
)

isin = Op(
    "isin",
    lambda xp, a, b, *, invert: xp.isin(a, b, invert=invert),
    lambda a, b, *, invert: Aval(a.shape, np.dtype(bool)),
)
