"""Where operands of a CUDA program's instructions lie, and which instructions may change places.

Instructions are what kernels/cpu/program.h says; steps.py joins them. Imports twin.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gpugrad.backend.twin import DTYPES

Range = tuple[int, int, int]  # memory, first byte, byte after the last
Touched = tuple[list[Range], list[Range]]  # read, written
_READ_ONCE = 4  # flags of an operand: one instruction alone reads it
READ_INSIDE = 8  # nobody but instructions does


def read_once(operand: Any) -> bool:
    """Whether what is written there need not be, if its one reader is part of the same launch."""
    return bool(operand[5] & _READ_ONCE)


def dense(operand: Any, rows: int, cols: int) -> bool:
    """Whether it lies row after row; a step that is never taken may be anything."""
    _, _, row, col, _, _ = operand
    return (row == cols or rows == 1) and (col == 1 or cols == 1)


def place_in(operands: Sequence[Any], product: Any) -> int:
    """Which operand of a ("product", …)'s chain is what the product gives."""
    return [o[:2] for o in operands].index(product[:2])


def conflict(earlier: Any, later: Any) -> bool:
    """Whether the order of the two matters."""
    return conflict_of(touched(earlier), touched(later))


def conflict_of(earlier: Touched, later: Touched) -> bool:
    (reads, writes), (reads_2, writes_2) = earlier, later
    return meet(writes, reads_2) or meet(writes, writes_2) or meet(reads, writes_2)


def meet(some: Sequence[Range], others: Sequence[Range]) -> bool:
    # Written out: several steps in one graph ask this a million times.
    for memory, start, end in some:
        for b in others:
            if memory == b[0] and start < b[2] and b[1] < end:
                return True
    return False


@lru_cache(maxsize=8192)
def touched(instruction: Any) -> Touched:
    """What an instruction reads and what it writes."""
    kind, *rest = instruction
    if kind in ("group", "layers"):
        each = [touched(one) for one in rest[0]]
        return [r for reads, _ in each for r in reads], [w for _, writes in each for w in writes]
    if kind == "algorithm":
        return touched(rest[0])
    if kind in ("product", "epilogue"):
        (reads, writes), (more_reads, more_writes) = map(touched, rest[:2])
        return reads + more_reads, writes + more_writes
    if kind in ("gemm", "chain"):
        ranges: Touched = [], []

        def place(operand: Any, rows: int, cols: int, written: bool) -> Any:
            ranges[written].append(range_of(operand, rows, cols))
            return operand

        moved(instruction, place)
        reads, writes = ranges
        return reads + (writes if kind == "gemm" and instruction[11] else []), writes
    if kind == "gather":
        _, size, rows, cols, x, t, out = rest
        return [range_of(x, size, cols), range_of(t, rows, 1)], [range_of(out, rows, cols)]
    if kind == "uniform":
        _, n, state, out = rest
        return [range_of(state, 1, 12)], [range_of(out, 1, n)]
    if kind == "cross_entropy":
        _, rows, cols, z, t, loss, residual, probability, *_ = rest
        writes = [range_of(o, rows, cols) for o in (residual, probability) if o is not None]
        writes += [] if loss is None else [range_of(loss, rows, 1)]
        return [range_of(z, rows, cols), range_of(t, rows, 1)], writes
    if kind == "finite":
        return [range_of(rest[0], 1, 1)], []
    _, rows, cols, source, target, *_ = rest
    if kind in ("argmax", "argmin"):
        return [range_of(source, rows, cols)], [range_of(target, rows, 1)]
    # softmax and copy
    return [range_of(source, rows, cols)], [range_of(target, rows, cols)]


def moved(instruction: Any, place: Callable[[Any, int, int, bool], Any]) -> Any:
    """A gemm or chain on other memory: ``place(operand, rows, cols, written)`` for each operand."""
    if instruction[0] == "gemm":
        kind, dtype, ta, tb, m, n, k, alpha, scale, a, b, beta, c, cut = instruction
        scale = None if scale is None else place(scale, 1, 1, False)
        a = place(a, *((k, m) if ta else (m, k)), False)
        b = place(b, *((n, k) if tb else (k, n)), False)
        c = place(c, m, n, True)
        return (kind, dtype, ta, tb, m, n, k, alpha, scale, a, b, beta, c, cut)
    kind, dtype, rows, cols, operands, constants, lines, stores, reductions, cut = instruction
    operands = tuple(place(o, rows, cols, False) for o in operands)
    stores = tuple((value, place(to, rows, cols, True)) for value, to in stores)
    reductions = tuple(
        (*first, place(to, rows, cols, True), scale, add) for *first, to, scale, add in reductions
    )
    return (kind, dtype, rows, cols, operands, constants, lines, stores, reductions, cut)


def range_of(operand: Any, rows: int, cols: int) -> Range:
    base, offset, row, col, code, _ = operand
    item = np.dtype(DTYPES.get(code, code)).itemsize
    return base, offset, offset + (max(rows - 1, 0) * row + max(cols - 1, 0) * col + 1) * item
