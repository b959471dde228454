"""Rows that stay in their file until they are read. May import numpy and gpugrad.errors."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpugrad.errors import DataError, message

Array = NDArray[Any]

_BLOCK = 1 << 22  # values that are in memory at a time


class Rows:
    """What stands in for an array (n, features) of float32 whose file may exceed the memory.

    Indexing by a slice or by an array of integers reads those rows, as a new array; ``blocks``
    reads all of them one piece after another; ``numpy.asarray`` all at once. ``source`` is mapped:
    a ``numpy.memmap`` of real numbers, divided by ``unit`` when read.

    Raises DataError for a row that is not finite in float32, when it is read.
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(
        self,
        source: Array,
        unit: int = 1,
        order: Array | None = None,
        step: Callable[[Array], Array] | None = None,
    ) -> None:
        self._source, self._unit, self._order, self._step = source, unit, order, step
        self.shape = (len(source) if order is None else len(order), source.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<Rows {self.shape[0]} × {self.shape[1]} of {self._file()}>"

    def __getitem__(self, index: slice | Array) -> Array:
        if self._order is not None:
            index = self._order[index]
        stored = self._source[index]
        with np.errstate(over="ignore"):
            values: Array = stored.astype(np.float32, "C", subok=False)
        if self._unit != 1:
            values /= np.float32(self._unit)
        if self._step is not None:
            values = self._step(values)
        bad = ~np.isfinite(values)
        if bad.any():
            row, column = (int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
            place = np.arange(len(self._source))[index][row]
            rule = f"{self._file()}: numbers are finite and fit float32"
            got = f"{stored[row, column]} in row {place}, column {column}"
            raise DataError(message("data", rule, got))
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype)

    def _file(self) -> str:
        return str(getattr(self._source, "filename", None) or "a mapped file")

    def part(self, rows: Array) -> "Rows":
        """These rows alone, still unread; ``rows`` are integers or one bool for each."""
        order = np.arange(len(self)) if self._order is None else self._order
        return Rows(self._source, self._unit, order[rows], self._step)

    def through(self, step: Callable[[Array], Array]) -> "Rows":
        """The same rows, still unread, to be passed through ``step`` when they are."""
        before = self._step
        both = step if before is None else lambda values: step(before(values))
        return Rows(self._source, self._unit, self._order, both)


def blocks(x: "Array | Rows") -> Iterator[Array]:
    """``x`` (n, …) a bounded number of rows at a time."""
    rows = max(1, _BLOCK // max(1, int(np.prod(x.shape[1:]))))
    return (x[i : i + rows] for i in range(0, len(x), rows))
