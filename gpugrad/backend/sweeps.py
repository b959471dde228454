"""Passes over large arrays by the native core, for what is run outside a compiled step.

The same loops, on all cores, where NumPy would go over memory several times on one. Imports native,
and is imported only once an array is large enough.
"""

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gpugrad.backend import native

Array = np.ndarray[Any, Any]


class _Programs(threading.local):
    """Programs are bound to arrays as they are run: each thread has its own."""

    def __init__(self) -> None:
        self.made = lru_cache(maxsize=256)(_program)


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(−x))`` of a C-ordered float32 or float64 array."""
    y = np.empty_like(x)
    _run(_programs.made("sigmoid", 1, x.size, x.dtype.str[1:], native.threads()), (x, y))
    return y


def sigmoid_bwd(dy: Array, y: Array) -> tuple[Array, Array]:
    """``dz = dy · y · (1 − y)`` and its column sums, of C-ordered matrices of one dtype."""
    dz, db = np.empty_like(y), np.empty(y.shape[1], y.dtype)
    program = _programs.made("sigmoid_bwd", *y.shape, y.dtype.str[1:], native.threads())
    _run(program, (dy, y, dz, db))
    return dz, db


def _run(program: Any, arrays: Sequence[Array]) -> None:
    for i, array in enumerate(arrays):
        program.bind(i, array.ctypes.data)
    program.run()


def _program(kind: str, rows: int, cols: int, code: str, threads: int) -> Any:
    def place(base: int) -> tuple[Any, ...]:
        return (base, 0, cols, 1, code, 0)

    given: tuple[Any, ...] = (place(0),)
    constants: tuple[float, ...] = ()
    lines: tuple[Any, ...] = (("sigmoid", 0, -1, -1),)
    stores: tuple[Any, ...] = ((1, place(1)),)
    sums: tuple[Any, ...] = ()
    if kind == "sigmoid_bwd":
        given, constants = (place(0), place(1)), (1.0,)
        lines = (("sub", 2, 1, -1), ("mul", 3, 1, -1), ("mul", 4, 0, -1))
        stores = ((5, place(2)),)
        sums = (("sum", "rows", 5, (3, 0, 0, 1, code, 0), 1.0, False),)
    chain = ("chain", code, rows, cols, given, constants, lines, stores, sums, False)
    mode = "split" if threads > 1 else "serial"
    return native.Program(
        ((mode, (chain,), 0, 0, ()),), len(given) + len(stores) + len(sums), 0, threads
    )


_programs = _Programs()
