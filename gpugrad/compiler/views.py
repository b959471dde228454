"""Where values lie: memory, views of it, and their strides in other shapes. Imports expr."""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from gpugrad.compiler.expr import Unsupported

Shape = tuple[int, ...]


class Buffer:
    """Memory for ``size`` values. ``kind``: arg, captured, scalar, draw, constant or temp."""

    __slots__ = ("dtype", "index", "kind", "size")

    def __init__(self, kind: str, dtype: Any, size: int, index: int = 0) -> None:
        self.kind = kind
        self.dtype = np.dtype(dtype)
        self.size = size
        self.index = index

    @property
    def nbytes(self) -> int:
        return self.size * int(self.dtype.itemsize)


class View(NamedTuple):
    """Where the values of an array lie in a buffer; offset and strides count elements."""

    buffer: Buffer
    shape: Shape
    strides: Shape
    offset: int = 0

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def contiguous(self) -> bool:
        return self.strides == contiguous(self.shape) or self.size <= 1


def contiguous(shape: Shape) -> Shape:
    strides, step = [], 1
    for d in reversed(shape):
        strides.append(step)
        step *= d
    return tuple(strides[::-1])


def whole(buffer: Buffer, shape: Shape) -> View:
    return View(buffer, shape, contiguous(shape))


def aligned(view: View, shape: Shape) -> Shape:
    """The strides of ``view`` in a space of ``shape``; 0 where it repeats."""
    lead = len(shape) - len(view.shape)
    if lead < 0:
        raise Unsupported("an operand with more axes than the result")
    strides = [
        0 if have == 1 else stride for have, stride in zip(view.shape, view.strides, strict=True)
    ]
    for have, want in zip(view.shape, shape[lead:], strict=True):
        if have not in (1, want):
            raise Unsupported("shapes that do not broadcast")
    return (0,) * lead + tuple(strides)


def in_rows(strides: Shape, shape: Shape) -> tuple[int, int] | None:
    """Steps between rows and columns, the last axis being the columns; None if rows are uneven."""
    if not strides:
        return 0, 0
    lead = [(d, s) for d, s in zip(shape[:-1], strides[:-1], strict=True) if d != 1]
    for (_, s), (e, t) in pairwise(lead):
        if s != t * e:
            return None
    return (lead[-1][1] if lead else 0), strides[-1]


def reshaped(view: View, shape: Shape) -> Shape | None:
    """Strides of ``view`` in another shape, where no copy is needed."""
    if view.contiguous:
        return contiguous(shape)
    kept = [(d, s) for d, s in zip(view.shape, view.strides, strict=True) if d != 1]
    wanted = [d for d in shape if d != 1]
    if [d for d, _ in kept] != wanted:
        if all(s == 0 for _, s in kept):
            return (0,) * len(shape)
        return None
    strides = iter([s for _, s in kept])
    return tuple(0 if d == 1 else next(strides) for d in shape)
