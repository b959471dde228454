"""Joining and splitting. Imports `arranging`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpugrad.aval import normalize_axis
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import functions
from gpugrad.namespace.creation import asarray, astype
from gpugrad.namespace.lifting import along, together
from gpugrad.namespace.numpy.arranging import atleast_1d, atleast_2d, atleast_3d
from gpugrad.tensor import Tensor


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


def block(arrays: Any) -> Tensor:
    """Nested lists of blocks put together: the innermost side by side, the next below each other.

    >>> import gpugrad as gg
    >>> gg.block([[gg.eye(2), gg.zeros((2, 1))], [gg.ones((1, 3))]]).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    """
    blocks = iter(together(*_innermost(arrays)))
    nested = _filled(arrays, blocks)
    depth = _depth(arrays)
    ndim = max(depth, *(x.ndim for x in _innermost(nested)))

    def joined(part: Any, level: int) -> Tensor:
        if not isinstance(part, list):
            return functions.reshape(part, (1,) * (ndim - part.ndim) + part.shape)
        return functions.concat([joined(p, level - 1) for p in part], axis=-level)

    return joined(nested, depth)


def _innermost(x: Any) -> list[Any]:
    return [leaf for part in x for leaf in _innermost(part)] if isinstance(x, list) else [x]


def _filled(x: Any, values: Any) -> Any:
    return [_filled(part, values) for part in x] if isinstance(x, list) else next(values)


def _depth(x: Any) -> int:
    if not isinstance(x, list):
        return 0
    depths = {_depth(part) for part in x}
    if len(depths) != 1:
        raise ShapeError(message("block", "lists are nested equally deep, and not empty", x))
    return 1 + depths.pop()


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
    return [x[along(axis, slice(start, stop))] for start, stop in ends]


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


class _Brackets:
    """``r_[a, 0.5, 1:4]`` one after the other along the first axis, ``c_[a, b]`` side by side.

    In the brackets stand arrays, numbers, and slices for ranges, ``0:1:5j`` for five numbers from 0
    to 1. Side by side is along the last axis, vectors as columns.

    >>> import gpugrad as gg
    >>> gg.r_[gg.zeros(1), 0.5, 1:3].tolist(), gg.c_[gg.ones(2), gg.zeros(2)].tolist()
    ([0.0, 0.5, 1.0, 2.0], [[1.0, 0.0], [1.0, 0.0]])
    """

    def __init__(self, name: str, columns: bool) -> None:
        self.name = name
        self.columns = columns

    def __repr__(self) -> str:
        return f"gpugrad.{self.name}"

    def __getitem__(self, key: Any) -> Tensor:
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, str) for part in parts):
            hint = "gg.concatenate or gg.stack"
            raise DtypeError(message(self.name, "takes no directives", parts, hint))
        xs = together(
            *[np.r_[part].tolist() if isinstance(part, slice) else part for part in parts]
        )
        if not self.columns:
            return functions.concat([atleast_1d(x) for x in xs], axis=0)
        columns = [functions.reshape(x, (-1, 1)) if x.ndim < 2 else x for x in xs]
        return functions.concat(columns, axis=-1)


# NumPy's own run on values only: they read what stands in the brackets as arrays.
r_ = _Brackets("r_", columns=False)
c_ = _Brackets("c_", columns=True)
