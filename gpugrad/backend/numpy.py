"""The CPU backend on NumPy: the reference twin of every fused kernel.

Imports config and errors, and the native core once there is work for it.
"""

import contextlib
from types import ModuleType
from typing import Any

import numpy as np

from gpugrad.config import flags
from gpugrad.errors import BoundsError, message

Array = np.ndarray[Any, Any]

_ANYWHERE = contextlib.nullcontext()


class NumpyBackend:
    """Arrays in host memory, kernels written in NumPy."""

    device = "cpu"
    xp: ModuleType = np

    def here(self) -> contextlib.nullcontext[None]:
        return _ANYWHERE

    def strict(self) -> contextlib.nullcontext[None]:
        return _ANYWHERE

    def asarray(self, obj: Any, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(obj, dtype=dtype, copy=copy)

    def to_numpy(self, array: Array) -> Array:
        return array

    def synchronize(self) -> None:
        """Nothing to wait for: NumPy calls return when they are done."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return np.empty(shape, dtype)

    def memory(self, nbytes: int) -> Array:
        room = np.zeros(nbytes + 64, np.uint8)
        start = -room.ctypes.data % 64
        return room[start : start + nbytes]

    def view(self, memory: Array, start: int, shape: Any, dtype: Any, steps: Any) -> Array:
        flat = np.frombuffer(memory, np.uint8) if memory.size else memory
        return np.ndarray(shape, dtype, flat, start, steps)

    def copy_into(self, target: Array, source: Array) -> None:
        np.copyto(target, source, casting="unsafe")

    def sigmoid_bwd(self, dy: Array, y: Array) -> tuple[Array, Array]:
        return sigmoid_bwd(dy, y)

    def linear_bwd(
        self, activation: str, g: Array, y: Array | None, x: Array | None, w: Array | None
    ) -> tuple[Array, Array | None, Array | None, Array] | None:
        return linear_bwd(activation, g, y, x, w)

    def scatter_add(self, out: Array, index: Any, values: Array) -> None:
        np.add.at(out, index, values)

    def check_indices(self, op: str, indices: Array, size: int) -> None:
        if indices.size and not (-size <= indices.min() and indices.max() < size):
            raise out_of_range(op, indices.min(), indices.max(), size)


def out_of_range(op: str, low: Any, high: Any, size: int) -> BoundsError:
    """The error for indices ``low..high`` into an axis of ``size``, the same on every device."""
    hint = f"values in {-size}..{size - 1}" if size else "a non-empty array"
    return BoundsError(message(op, "an index is outside its axis", f"values {low}..{high}", hint))


_TAKEN = (np.dtype(np.float32), np.dtype(np.float64))  # by the core; of this machine's byte order

# The native core's calls, None where there is no core. Looked up once for each setting of the flag:
# loading it is not part of importing gpugrad.
_found: dict[bool, Any] = {}


def _core() -> Any:
    wanted = flags.native
    if wanted not in _found:
        from gpugrad.backend import native  # deferred, as said

        _found[wanted] = None
        if native.available():
            from gpugrad.backend import direct

            _found[wanted] = direct
    return _found[wanted]


def _is_label(dtype: Any) -> bool:
    return bool(dtype.kind in "iu" and dtype.isnative)


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(−x))`` of an array of floats.

    >>> sigmoid(np.zeros(2)).tolist()
    [0.5, 0.5]
    """
    core = _core()
    if core is not None and x.dtype in _TAKEN and x.size:
        y = core.elementwise("sigmoid", x)
        if y is not NotImplemented:
            return y  # type: ignore[no-any-return]
    y = np.negative(x)  # one array, not four: a third of the time at a few MiB
    with np.errstate(over="ignore"):  # to inf below -88 in float32: 1/(1+inf) is right, 0
        np.exp(y, out=y)
    y += 1
    return np.reciprocal(y, out=y)


_HALF = np.dtype(np.float16)


def product(a: Array, b: Array) -> Array:
    """``a @ b``; of half precision in float32, rounded once: NumPy's own has no BLAS.

    >>> product(np.ones((1, 4096), np.float16), np.ones((4096, 1), np.float16)).tolist()
    [[4096.0]]
    """
    if a.dtype is _HALF and b.dtype is _HALF:
        return product(a.astype(np.float32), b.astype(np.float32)).astype(np.float16)
    return np.matmul(a, b)  # type: ignore[no-any-return]


def linear(x: Array, w: Array, b: Array) -> Array:
    """``x wᵀ + b``; x (…, k), w (n, k), b (n,).

    >>> linear(np.ones((1, 2)), np.ones((3, 2)), np.zeros(3)).tolist()
    [[2.0, 2.0, 2.0]]
    """
    core = _core()
    if core is not None and x.ndim == w.ndim == 2 and x.dtype in _TAKEN:
        (m, k), (n, inner), dtype = x.shape, w.shape, x.dtype
        alike = w.dtype is dtype and b.dtype is dtype
        if alike and k == inner and b.shape == (n,) and m and n and k:
            y = core.linear(x, w, b)
            if y is not NotImplemented:
                return y  # type: ignore[no-any-return]
    y = product(x, w.T)
    return np.add(y, b, out=y) if b.dtype == y.dtype else y + b


def linear_bwd(
    activation: str, g: Array, y: Array | None, x: Array | None, w: Array | None
) -> tuple[Array, Array | None, Array | None, Array] | None:
    """Backward of ``y = activation(z)``, ``z = x wᵀ + b``, in one call: (dz, dx, dw, db).

    ``activation`` is sigmoid, tanh or relu, or ``""`` with y None: then dz is g. g and y (m, n).
    dx is computed where w (n, k) is given, dw where x (m, k) is. None, with nothing computed, where
    there is no native core or it cannot take the arrays: `sigmoid_bwd` and products do the same.
    """
    core, dtype = _core(), g.dtype
    if core is None or dtype not in _TAKEN or not g.size:
        return None
    for a in (y, x, w):
        if a is not None and (a.dtype is not dtype or not a.size):
            return None
    result = core.linear_bwd(activation, g, y, x, w)
    return None if result is NotImplemented else result


def cross_entropy(z: Array, t: Array) -> Any:
    """``logsumexp(z) − z[t]`` of each row, ("label", value, classes), or None as `linear_bwd`.

    z (m, n) of floats, t (m,) of whole numbers.
    """
    core = _core()
    if core is None or not z.size or z.dtype not in _TAKEN or not _is_label(t.dtype):
        return None
    result = core.cross_entropy(z, t)
    return None if result is NotImplemented else result


def cross_entropy_bwd(g: Array, z: Array, t: Array) -> Any:
    """``(softmax(z) − one_hot(t)) · g`` for g (m,), or None as `linear_bwd`."""
    core = _core()
    if core is None or z.dtype not in _TAKEN or not z.size:
        return None
    if g.dtype is not z.dtype or not _is_label(t.dtype):
        return None
    if not any(g.strides):
        g = g[:1]
    result = core.cross_entropy_bwd(g, z, t)
    return None if result is NotImplemented else result


# Rows of dz handled at a time. Of 64 KiB to 2 MiB this was fastest, or within noise of it, from
# (16384, 64) to (8192, 1024) on a core with 1 MiB of L2; a product with ones beat sum(axis=0).
_BLOCK_BYTES = 1 << 20


def sigmoid_bwd(dy: Array, y: Array) -> tuple[Array, Array]:
    """Backward of ``y = sigmoid(z)``, ``z = x @ w + b``, in one pass.

    ``dz = dy · y · (1 − y)`` of shape (m, n) and ``db = Σ_rows dz`` of shape (n,). Half precision
    multiplies and sums in float32.

    >>> dz, db = sigmoid_bwd(np.ones((2, 1)), np.full((2, 1), 0.5))
    >>> dz.ravel().tolist(), db.tolist()
    ([0.25, 0.25], [0.5])
    """
    at_once = linear_bwd("sigmoid", dy, y, None, None)
    if at_once is not None:
        return at_once[0], at_once[3]
    m, n = y.shape
    dtype = y.dtype if y.dtype is dy.dtype else np.result_type(dy, y)
    if dtype.char == "e":
        dz, db = sigmoid_bwd(dy.astype(np.float32), y.astype(np.float32))
        return dz.astype(dtype), db.astype(dtype)
    rows = max(1, _BLOCK_BYTES // max(1, n * dtype.itemsize))
    if m <= rows:
        dz = 1 - y
        dz *= y
        dz *= dy
        return dz, dz.sum(axis=0)
    dz, db, ones = np.empty((m, n), dtype), np.zeros(n, dtype), np.ones(rows, dtype)
    for start in range(0, m, rows):
        part = slice(start, start + rows)
        block = dz[part]
        np.subtract(1, y[part], out=block)
        block *= y[part]
        block *= dy[part]
        db += ones[: len(block)] @ block
    return dz, db
