"""Ops outside a compiled step as one call of the native core each, on NumPy arrays.

One call where NumPy would make three to ten, on all cores where the work is worth it. A function
gives NotImplemented, with nothing done, for arrays the core cannot take as they lie (another order,
another byte order, a subclass); shapes and dtypes are the caller's to check. Imports native, and is
imported only once there is work for it.
"""

import math
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from gpugrad.backend import native
from gpugrad.backend.twin import SLOPES

Array = np.ndarray[Any, Any]
Operand = tuple[int, int, int, int, str, int]
Instruction = tuple[Any, ...]

# From here on the work is shared among the cores: below, waking them costs more than it brings.
_SPLIT_VALUES = 16_384  # of a pass over memory
_SPLIT_FLOP = 4_000_000  # of products
_LARGE = 1 << 18  # values of an array that is worth keeping for the next of its kind
_MOST_ROOM = 128 << 20  # bytes of such arrays, in use or not


class _Programs(threading.local):
    """Programs are bound to arrays as they are run: each thread has its own."""

    def __init__(self) -> None:
        self.elementwise = _kept(_elementwise)
        self.linear = _kept(_linear)
        self.linear_bwd = _kept(_linear_bwd)
        self.cross_entropy = _kept(_cross_entropy)
        self.cross_entropy_bwd = _kept(_cross_entropy_bwd)


def _kept(make: Callable[..., Any]) -> Callable[..., Any]:
    return lru_cache(maxsize=128)(make)


class _Rooms(threading.local):
    """Large arrays that were given away, to be given again once nobody else holds them.

    Memory that goes back to the system costs a page fault for every 4 KiB when it is next written:
    a step of 16384 rows through layers of 64 took 36 ms with them, 25 ms without.
    """

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self.nbytes = 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        arrays = self.arrays
        for i in range(len(arrays)):
            fits = arrays[i].shape == shape and arrays[i].dtype == dtype
            if fits and _references(arrays, i) == _KEPT_ALONE:
                arrays.append(arrays.pop(i))
                return arrays[-1]
        arrays.append(np.empty(shape, dtype))
        self.nbytes += arrays[-1].nbytes
        while self.nbytes > _MOST_ROOM and len(arrays) > 1:
            self.nbytes -= arrays.pop(0).nbytes
        return arrays[-1]


def _references(arrays: list[Array], i: int) -> int:
    return sys.getrefcount(arrays[i])


# What `_references` reports when only the list holds the array; it differs between Pythons.
_KEPT_ALONE = _references([np.empty(1)], 0)


def _empty(shape: tuple[int, ...], dtype: Any) -> Array:
    if math.prod(shape) < _LARGE:
        return np.empty(shape, dtype)
    return _rooms.empty(shape, dtype)


def elementwise(op: str, x: Array) -> Any:
    """``op``, one of the core's opcodes, of each value."""
    y = _empty(x.shape, x.dtype)
    if _programs.elementwise(op, x.size, x.dtype.char).on(x, y) is NotImplemented:
        return NotImplemented
    return y


def linear(x: Array, w: Array, b: Array) -> Any:
    """``x wᵀ + b`` of (m, k), (n, k) and (n,)."""
    (m, k), n = x.shape, w.shape[0]
    y = _empty((m, n), x.dtype)
    if _programs.linear(m, n, k, x.dtype.char).on(x, w, b, y) is NotImplemented:
        return NotImplemented
    return y


def linear_bwd(activation: str, g: Array, y: Array | None, x: Array | None, w: Array | None) -> Any:
    """(dz, dx, dw, db) of ``y = activation(z)``, ``z = x wᵀ + b``, for the cotangent g of y.

    Without an activation (``""``, y None) dz is g. dx is None without w, dw without x.
    """
    m, n = g.shape
    dtype = g.dtype
    dz, db = g, np.empty(n, dtype)
    arrays, made = [g], [db]
    if y is not None:
        dz = _empty((m, n), dtype)
        arrays.append(y)
        made.append(dz)
    dx = dw = None
    k = 0
    if w is not None:
        k = w.shape[1]
        dx = _empty((m, k), dtype)
        arrays.append(w)
        made.append(dx)
    if x is not None:
        k = x.shape[1]
        dw = np.empty((n, k), dtype)
        arrays.append(x)
        made.append(dw)
    program = _programs.linear_bwd(activation, m, n, k, w is not None, x is not None, dtype.char)
    if program.on(*arrays, *made) is NotImplemented:
        return NotImplemented
    return dz, dx, dw, db


def cross_entropy(z: Array, t: Array) -> Any:
    """``logsumexp(z) − z[t]`` of each row, or ("label", value, classes) for a label out of range.

    z is (m, n), t (m,) of whole numbers.
    """
    loss = np.empty(len(z), z.dtype)
    wrong = _programs.cross_entropy(*z.shape, z.dtype.char, t.dtype.str[1:]).on(z, t, loss)
    return loss if wrong is None else wrong


def cross_entropy_bwd(g: Array, z: Array, t: Array) -> Any:
    """``(softmax(z) − one_hot(t)) · g`` with g (m,), or of one value for all rows."""
    dz = np.empty_like(z)
    key = (*z.shape, g.size == 1, z.dtype.char, t.dtype.str[1:])
    wrong = _programs.cross_entropy_bwd(*key).on(z, t, g, dz)
    return dz if wrong is None else wrong


# The programs


def _matrix(base: int, cols: int, code: str) -> Operand:
    return (base, 0, cols, 1, code, 0)


def _row(base: int, code: str) -> Operand:
    return (base, 0, 0, 1, code, 0)


def _column(base: int, code: str, step: int = 1) -> Operand:
    return (base, 0, step, 0, code, 0)


def _program(bases: int, split: bool, *instructions: Instruction) -> Any:
    threads = native.threads() if split else 1
    mode = "split" if threads > 1 else "serial"
    return native.Program(((mode, instructions, 0, 0, ()),), bases, 0, threads)


def _chain(
    code: str,
    rows: int,
    cols: int,
    given: tuple[Operand, ...],
    lines: tuple[Any, ...],
    store: Operand | None,
    constants: tuple[float, ...] = (),
    sums: Operand | None = None,
) -> Instruction:
    """Stores the last value of ``lines``, or of ``given``, and its sums over the rows."""
    last = len(given) + len(constants) + len(lines) - 1
    stores = () if store is None else ((last, store),)
    reductions = () if sums is None else (("sum", "rows", last, sums, 1.0, False),)
    return ("chain", code, rows, cols, given, constants, lines, stores, reductions, False)


def _gemm(
    code: str, a: Operand, ta: bool, b: Operand, tb: bool, c: Operand, m: int, n: int, k: int
) -> Instruction:
    return ("gemm", code, ta, tb, m, n, k, 1.0, None, a, b, 0.0, c, None)


def _elementwise(op: str, size: int, char: str) -> Any:
    code = _CODES[char]
    x, y = (_matrix(base, size, code) for base in (0, 1))
    chain = _chain(code, 1, size, (x,), ((op, 0, -1, -1),), y)
    return _program(2, size >= _SPLIT_VALUES, chain)


def _linear(m: int, n: int, k: int, char: str) -> Any:
    code = _CODES[char]
    x, w, y = _matrix(0, k, code), _matrix(1, k, code), _matrix(3, n, code)
    product = _gemm(code, x, False, w, True, y, m, n, k)
    shifted = _chain(code, m, n, (y, _row(2, code)), (("add", 0, 1, -1),), y)
    return _program(4, 2 * m * n * k >= _SPLIT_FLOP, product, shifted)


def _linear_bwd(
    activation: str, m: int, n: int, k: int, wants_dx: bool, wants_dw: bool, char: str
) -> Any:
    code = _CODES[char]
    given = ["g"] + ["y"] * bool(activation) + ["w"] * wants_dx + ["x"] * wants_dw
    made = ["db"] + ["dz"] * bool(activation) + ["dx"] * wants_dx + ["dw"] * wants_dw
    base = {name: i for i, name in enumerate([*given, *made])}
    g, db = _matrix(0, n, code), _row(base["db"], code)
    instructions = []
    dz = g
    if activation:
        constants, lines = SLOPES[activation]
        dz, y = _matrix(base["dz"], n, code), _matrix(1, n, code)
        instructions.append(_chain(code, m, n, (g, y), lines, dz, constants, db))
    else:
        instructions.append(_chain(code, m, n, (g,), (), None, (), db))
    if wants_dx:
        w, dx = _matrix(base["w"], k, code), _matrix(base["dx"], k, code)
        instructions.append(_gemm(code, dz, False, w, False, dx, m, k, n))
    if wants_dw:
        x, dw = _matrix(base["x"], k, code), _matrix(base["dw"], k, code)
        instructions.append(_gemm(code, dz, True, x, False, dw, n, k, m))
    split = 2 * m * n * k * (wants_dx + wants_dw) >= _SPLIT_FLOP or m * n >= _SPLIT_VALUES
    return _program(len(base), split, *instructions)


def _cross_entropy(m: int, n: int, char: str, label: str) -> Any:
    code = _CODES[char]
    z, t, loss = _matrix(0, n, code), _column(1, label), _column(2, code)
    rows = ("cross_entropy", code, m, n, z, t, loss, None, None, 1.0, False)
    return _program(3, m * n >= _SPLIT_VALUES, rows)


def _cross_entropy_bwd(m: int, n: int, one: bool, char: str, label: str) -> Any:
    code = _CODES[char]
    z, t, dz = _matrix(0, n, code), _column(1, label), _matrix(3, n, code)
    g = _column(2, code, 0 if one else 1)
    rows = ("cross_entropy", code, m, n, z, t, None, dz, None, 1.0, False)
    scaled = _chain(code, m, n, (dz, g), (("mul", 0, 1, -1),), dz)
    return _program(4, m * n >= _SPLIT_VALUES, rows, scaled)


_CODES = {"f": "f4", "d": "f8"}
_programs = _Programs()
_rooms = _Rooms()
