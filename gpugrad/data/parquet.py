"""Parquet, by pyarrow: its columns take the way of a CSV's, by their types instead of their looks.

May import numpy, gpugrad.errors and its siblings; pyarrow only when a file is touched.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpugrad.data.cells import Cells
from gpugrad.data.columns import Column
from gpugrad.data.dataset import Dataset
from gpugrad.data.files import Array, error
from gpugrad.data.table import (
    Known,
    dataset_of,
    encoded,
    kept_names,
    target_index,
    unique_names,
    used_columns,
)
from gpugrad.errors import MissingDependency, message


def load_parquet(
    path: Path, target: str | None, known: Known | None = None, drop: Sequence[str] = ()
) -> Dataset:
    """The Dataset in a Parquet file whose column ``target``, or the last, is to be predicted.

    As `load_csv`, but a column's type says what it is: text is text, though it looks like numbers.
    """
    with _opened(path) as (arrow, file, header):
        if len(header) < 2:
            raise error(path, "a feature and a target column are needed", f"columns {header}")
        column = target_index(path, header, target)
        name = header[column]
        kept = kept_names(path, header[:column] + header[column + 1 :], name, known, drop)
        pairs = list(zip(header, file.read().columns, strict=True))
        _, answers = pairs.pop(column)
        found = [_cells(arrow, path, *pair) for pair in pairs if pair[0] in kept]
        answers = _texts(_plain(arrow, path, name, answers))
    return dataset_of(path, found, name, answers, known)


def read_parquet(path: Path, columns: Sequence[Column]) -> Array:
    """The features of a file as `read_csv` gives them; other columns are not read."""
    with _opened(path) as (arrow, file, header):
        used = used_columns(path, header, columns)
        stored = dict(zip(header, file.schema_arrow.names, strict=True))
        table = file.read([stored[column.name] for column in used])
        found = [_cells(arrow, path, c.name, table.column(stored[c.name])) for c in used]
    return encoded(found, used)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any, list[str]]]:
    """pyarrow, the open file, and the names of its columns."""
    try:
        import pyarrow as arrow
        from pyarrow.parquet import ParquetFile
    except ImportError as cause:
        rule, hint = "Parquet is read by pyarrow", 'pip install "gpugrad[parquet]"'
        raise MissingDependency(message("data.load", f"{path}: {rule}", cause, hint)) from cause
    try:
        with ParquetFile(path) as file:
            header = list(file.schema_arrow.names)
            unique_names(path, header, "in the schema")
            if not file.metadata.num_rows:
                raise error(path, "no rows")
            yield arrow, file, header
    except (arrow.ArrowException, OSError) as cause:
        raise error(path, "not a whole Parquet file", cause, "fetching it again") from cause


def _plain(arrow: Any, path: Path, name: str, column: Any) -> Any:
    """``column`` as numbers, truths or text; dates are text."""
    kind, is_a = column.type, arrow.types
    if is_a.is_dictionary(kind):
        return _plain(arrow, path, name, column.cast(kind.value_type))
    if any(fits(kind) for fits in (is_a.is_timestamp, is_a.is_date, is_a.is_time, is_a.is_null)):
        return column.cast(arrow.string())  # Python's own times have no nanoseconds
    taken = (is_a.is_integer, is_a.is_floating, is_a.is_decimal, is_a.is_boolean)
    if not any(fits(kind) for fits in (*taken, is_a.is_string, is_a.is_large_string)):
        rule = f"column {name!r} is neither numbers, text, truths nor dates"
        raise error(path, rule, kind, "leaving it out of the file")
    return column


def _cells(arrow: Any, path: Path, name: str, column: Any) -> Cells:
    """A column of numbers as float64, NaN where it is null; any other as its texts."""
    column = _plain(arrow, path, name, column)
    numbers, words = np.full(len(column), np.nan), {}
    kind, is_a = column.type, arrow.types
    if is_a.is_integer(kind) or is_a.is_floating(kind) or is_a.is_decimal(kind):
        numbers = np.array(column.cast(arrow.float64(), safe=False).to_numpy())
    else:
        words = dict(enumerate(_texts(column)))
    return Cells(path, name, numbers, words, lambda row: f"row {row}")


def _texts(column: Any) -> list[str]:
    """Each value as a CSV would have it, "" where there is none."""
    values = column.to_pylist()
    return ["" if v is None or v != v else str(v).strip() for v in values]
