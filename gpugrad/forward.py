"""Forward mode: values carry tangents through the ops. Imports tensor.

Levels nest: a Dual of level n holds a primal that may itself be a Dual of an outer, lower level, so
that a derivative of a derivative never confuses the two.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gpugrad.late import functions
from gpugrad.node import Dual
from gpugrad.state import state
from gpugrad.tensor import Tensor, value_of

_levels = itertools.count()


@contextmanager
def forward_level() -> Iterator[int]:
    """An open level of forward mode, in this thread."""
    level = next(_levels)
    before = state.special
    state.levels.append(level)
    state.special = True
    try:
        yield level
    finally:
        state.levels.remove(level)
        state.special = before


def push(
    f: Callable[..., Sequence[Any]], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Run ``f`` once and give its outputs and their tangents."""
    with forward_level() as level:
        duals = [
            Tensor(Dual(level, value_of(x), dx), x._node)
            for x, dx in zip(primals, tangents, strict=True)
        ]
        pairs = [_unpack(y, level) for y in f(*duals)]
    return [y for y, _ in pairs], [dy for _, dy in pairs]


def _unpack(y: Tensor, level: int) -> tuple[Tensor, Tensor]:
    data = y._data
    if type(data) is Dual and data.level == level:
        return Tensor(data.primal, y._node), data.tangent
    return y, functions.zeros_like(y.detach())
