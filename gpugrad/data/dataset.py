"""A dataset, its split into parts, its minibatches, its standardisation.

May import numpy, gpugrad.errors, gpugrad.random and its siblings columns and rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpugrad.data.columns import Column
from gpugrad.data.rows import Rows, blocks
from gpugrad.errors import BoundsError, DataError, message
from gpugrad.random import Generator

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Rows of features and what to predict from them, checked when made.

    ``x`` is float32 (n, features) and C-contiguous; other real dtypes are converted. With
    ``classes``, their names in label order, ``y`` is int64 labels (n,); without, float32 targets
    (n,) or (n, outputs). ``features`` names the columns, or is empty. ``test`` is the source's own
    test part. ``columns`` says how a table's columns became features, and ``notes`` what of that is
    worth telling. Arrays are kept as read-only views. Rows and columns count from 0. An ``x`` that
    is `Rows` stays in its file, and is checked as it is read.

    Raises DataError for no rows, no columns, lengths or names that do not fit, a single class, and
    NaN, infinity or what float32 cannot hold; BoundsError for a label outside the classes.

    >>> Dataset(np.zeros((4, 2)), np.array([0, 1, 1, 0]), classes=("no", "yes"), name="xor")
    <Dataset xor: 4 rows, 2 features, 2 classes>
    """

    x: Array | Rows
    y: Array
    classes: tuple[str, ...] = ()
    name: str = "data"
    features: tuple[str, ...] = ()
    test: "Dataset | None" = None
    columns: tuple[Column, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        x = self.x if isinstance(self.x, Rows) else np.asarray(self.x)
        if x.ndim != 2 or x.dtype.kind not in "fiub":
            raise self._error("x is real numbers of shape (n, features)", f"{x.dtype} {x.shape}")
        if 0 in x.shape:
            raise self._error("at least one row and one feature are needed", x.shape)
        if len(self.features) not in (0, x.shape[1]):
            raise self._error(
                "one name per feature", f"{len(self.features)} names, {x.shape[1]} features"
            )
        y = np.asarray(self.y)
        if y.ndim not in ((1,) if self.classes else (1, 2)):
            shape = "(n,)" if self.classes else "(n,) or (n, outputs)"
            raise self._error(f"y has shape {shape}", y.shape)
        if len(y) != len(x):
            raise self._error("x and y have the same number of rows", f"{len(x)} and {len(y)}")
        if not isinstance(x, Rows):
            self._set("x", self._float32("x", x))
        self._set("y", self._labels(y) if self.classes else self._targets(y))
        if self.test is not None and self._layout() != self.test._layout():
            raise self._error(
                "the test part has the same features, outputs and classes",
                f"{self._layout()}, in the test part {self.test._layout()}",
            )

    def _layout(self) -> tuple[int, tuple[int, ...], tuple[str, ...]]:
        return self.x.shape[1], self.y.shape[1:], self.classes

    def _set(self, field: str, array: Array) -> None:
        view = np.ascontiguousarray(array).view()
        view.flags.writeable = False
        object.__setattr__(self, field, view)

    def _error(self, rule: str, got: object, hint: str = "") -> DataError:
        return DataError(message("Dataset", f"{self.name}: {rule}", got, hint))

    def _float32(self, field: str, array: Array) -> Array:
        with np.errstate(over="ignore"):
            converted = np.asarray(array, np.float32)
        bad = ~np.isfinite(converted)
        if bad.any():
            row, *column = (int(i) for i in np.unravel_index(bad.argmax(), bad.shape))
            where = f"row {row}"
            if column:
                named = field == "x" and self.features
                where += f", column {self.features[column[0]] if named else column[0]}"
            raise self._error(
                f"{field} must be finite in float32", f"{array[row, *column]} in {where}"
            )
        return converted

    def _labels(self, y: Array) -> Array:
        if len(self.classes) == 1:
            raise self._error("at least two classes are needed", f"only {self.classes[0]!r}")
        if y.dtype.kind not in "iu":
            raise self._error(
                "labels are integers", y.dtype, "y.astype(int), or classes=() to regress"
            )
        bad = (y < 0) | (y >= len(self.classes))
        if bad.any():
            row = int(bad.argmax())
            raise BoundsError(
                message(
                    "Dataset",
                    f"{self.name}: labels are 0 to {len(self.classes) - 1}",
                    f"{y[row]} in row {row}",
                )
            )
        return y.astype(np.int64, copy=False)

    def _targets(self, y: Array) -> Array:
        if y.dtype.kind != "f":
            raise self._error(
                "targets without classes are floats", y.dtype, "classes=(...), or y.astype(float)"
            )
        return self._float32("y", y)

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        kind = f"{len(self.classes)} classes" if self.classes else "regression"
        test = f", test part of {len(self.test)}" if self.test is not None else ""
        return f"<Dataset {self.name}: {len(self)} rows, {self.x.shape[1]} features, {kind}{test}>"

    def split(self, test_fraction: float = 0.2, seed: int = 0) -> "tuple[Dataset, Dataset]":
        """A training and a test part: disjoint, together everything, the same for the same seed.

        The source's own test part is used where there is one, whatever the arguments. Otherwise
        each class (or, for regression, the whole) gives the rounded fraction of its rows, and
        both sides at least one of a class that has two. Rows keep their order.

        Raises DataError for a fraction outside (0, 1), or when a side would have no rows.

        >>> train, test = Dataset(np.eye(10), np.arange(10.0)).split(0.3, seed=1)
        >>> len(train), len(test)
        (7, 3)
        """
        if self.test is not None:
            return self, self.test
        if not 0 < test_fraction < 1:
            raise self._error("test_fraction is between 0 and 1", test_fraction, "0.2")
        order = Generator(seed, device="cpu").permutation(len(self)).numpy()
        groups = [order]
        if self.classes:
            order = order[np.argsort(self.y[order], kind="stable")]
            counts = np.bincount(self.y, minlength=len(self.classes))
            groups = np.split(order, np.cumsum(counts)[:-1])
        held_out = np.zeros(len(self), bool)
        for rows in groups:
            if len(rows) > 1:
                count = min(max(round(len(rows) * test_fraction), 1), len(rows) - 1)
                held_out[rows[:count]] = True
        if not held_out.any():
            raise self._error("a split needs two rows of some class", f"{len(self)} rows")
        return self._take(~held_out), self._take(held_out)

    def _take(self, rows: Array) -> "Dataset":
        x = self.x.part(rows) if isinstance(self.x, Rows) else self.x[rows]
        return replace(self, x=x, y=self.y[rows])


def batch_count(n: int, batch_size: int) -> int:
    """How many minibatches ``n`` rows make, the last of them perhaps smaller.

    Raises DataError for ``batch_size`` below 1.

    >>> batch_count(10, 4)
    3
    """
    if batch_size < 1:
        raise DataError(message("batches", "batch_size is at least 1", batch_size))
    return -(-n // batch_size)


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The rows 0 to n − 1 as `batches` goes through them."""
    order: NDArray[np.int64]
    order = Generator(seed, device="cpu", stream=epoch).permutation(n).numpy()
    return order


def batches(
    data: Dataset,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    start: int = 0,
) -> Iterator[tuple[Array, Array]]:
    """Minibatches ``(x, y)`` of one epoch, as fresh NumPy arrays of the dataset's dtypes.

    The order depends on ``seed`` and ``epoch`` alone, so ``start``, the index of the first batch
    wanted, continues an interrupted epoch exactly. The last batch may be smaller.

    Raises DataError for ``batch_size`` below 1, BoundsError for a ``start`` or ``epoch`` outside
    its range; both at the call, not at the first batch.

    >>> data = Dataset(np.eye(5), np.arange(5.0))
    >>> [len(x) for x, y in batches(data, 2, seed=0, epoch=3)]
    [2, 2, 1]
    """
    count = batch_count(len(data), batch_size)
    if not 0 <= start <= count:
        raise BoundsError(message("batches", f"start is 0 to {count}", start))
    if epoch < 0:
        raise BoundsError(message("batches", "epoch counts from 0", epoch))
    order = epoch_order(len(data), seed, epoch) if shuffle else np.arange(len(data))
    chunks = (order[i * batch_size : (i + 1) * batch_size] for i in range(start, count))
    return ((data.x[rows], data.y[rows]) for rows in chunks)


@dataclass(frozen=True, eq=False)
class Scaler:
    """Standardisation ``(x - mean) / scale``, column by column, as one training set gave it.

    ``mean`` and ``scale`` are float32 (features,). Computed in float64; ``scale`` is the
    population standard deviation, and 1 for a column that does not vary.

    >>> scaler = Scaler.fit([[1.0, 5.0], [3.0, 5.0]])
    >>> scaler.apply([[5.0, 5.0]])
    array([[3., 0.]], dtype=float32)
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def fit(cls, x: ArrayLike | Rows) -> Self:
        """Mean and scale of the columns of ``x`` (n, features); DataError unless finite, n ≥ 1."""
        x = x if isinstance(x, Rows) else np.asarray(x, np.float64)
        if x.ndim != 2 or len(x) == 0 or not all(np.isfinite(b).all() for b in blocks(x)):
            raise DataError(
                message("Scaler.fit", "x is finite, of shape (n ≥ 1, features)", x.shape)
            )
        mean = sum(b.sum(0, np.float64) for b in blocks(x)) / len(x)
        squares = sum(np.square(b - mean).sum(0) for b in blocks(x))
        scale = np.sqrt(squares / len(x)).astype(np.float32)
        # Rounding gives a constant column a tiny deviation, and float32 may flush one to zero.
        constant = np.all([(b == x[:1]).all(axis=0) for b in blocks(x)], axis=0)
        scale[constant | (scale == 0)] = 1
        return cls(mean.astype(np.float32), scale)

    @overload
    def apply(self, x: Rows) -> Rows: ...
    @overload
    def apply(self, x: ArrayLike) -> NDArray[np.float32]: ...
    def apply(self, x: ArrayLike | Rows) -> NDArray[np.float32] | Rows:
        """``x`` (n, features) standardised, as float32; DataError for another column count."""
        if not isinstance(x, Rows):
            x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise DataError(
                message("Scaler.apply", f"x is of shape (n, {len(self.mean)})", x.shape)
            )
        if isinstance(x, Rows):
            return x.through(self.apply)
        # In float64, so that large float32 values cannot overflow on the way.
        scaled: Array = np.subtract(x, self.mean, dtype=np.float64) / self.scale
        return scaled.astype(np.float32)
