"""The CPU backend on NumPy: the reference twin of every fused kernel. Imports errors only."""

from types import ModuleType
from typing import Any

import numpy as np

from gpugrad.errors import BoundsError, message

Array = np.ndarray[Any, Any]


class NumpyBackend:
    """Arrays in host memory, kernels written in NumPy."""

    device = "cpu"
    xp: ModuleType = np

    def asarray(self, obj: Any, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(obj, dtype=dtype, copy=copy)

    def to_numpy(self, array: Array) -> Array:
        return array

    def synchronize(self) -> None:
        """Nothing to wait for: NumPy calls return when they are done."""

    def sigmoid_bwd(self, dy: Array, y: Array) -> tuple[Array, Array]:
        return sigmoid_bwd(dy, y)

    def scatter_add(self, out: Array, index: Any, values: Array) -> None:
        np.add.at(out, index, values)

    def check_indices(self, op: str, indices: Array, size: int) -> None:
        if indices.size and not (-size <= indices.min() and indices.max() < size):
            got = f"values {indices.min()}..{indices.max()}"
            hint = f"values in {-size}..{size - 1}" if size else "a non-empty array"
            raise BoundsError(message(op, "an index is outside its axis", got, hint))


# Rows handled at a time: dy, y and dz of one block stay in a 1 MiB L2 cache.
_BLOCK_BYTES = 1 << 18


def sigmoid_bwd(dy: Array, y: Array) -> tuple[Array, Array]:
    """Backward of ``y = sigmoid(z)``, ``z = x @ w + b``, in one pass.

    ``dz = dy · y · (1 − y)`` of shape (m, n) and ``db = Σ_rows dz`` of shape (n,). Half precision
    accumulates in float32.

    >>> dz, db = sigmoid_bwd(np.ones((2, 1)), np.full((2, 1), 0.5))
    >>> dz.ravel().tolist(), db.tolist()
    ([0.25, 0.25], [0.5])
    """
    m, n = y.shape
    dz = np.empty(y.shape, np.result_type(dy, y))
    total = np.zeros(n, np.float32 if dz.dtype == np.float16 else dz.dtype)
    rows = max(1, _BLOCK_BYTES // max(1, n * dz.itemsize))
    for start in range(0, m, rows):
        part = slice(start, start + rows)
        block = dz[part]
        np.subtract(1, y[part], out=block)
        block *= y[part]
        block *= dy[part]
        total += block.sum(axis=0, dtype=total.dtype)
    return dz, total.astype(dz.dtype, copy=False)
