"""Data to train on: files, scikit-learn's digits, splits, minibatches, standardisation.

Only ``prefetch`` knows tensors. scikit-learn is imported inside ``digits`` alone.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from gpugrad.data.columns import Column
from gpugrad.data.dataset import Dataset, Scaler, batch_count, batches
from gpugrad.data.files import Array, error, missing, reading
from gpugrad.data.idx import load_folder
from gpugrad.data.loader import prefetch
from gpugrad.data.npy import holds_npy, load_npy, load_npy_inputs
from gpugrad.data.npz import load_npz, load_npz_inputs
from gpugrad.data.parquet import load_parquet, read_parquet
from gpugrad.data.rows import Rows
from gpugrad.data.table import Known, load_csv, read_csv
from gpugrad.errors import MissingDependency, message

__all__ = [
    "Column",
    "Dataset",
    "Rows",
    "Scaler",
    "batch_count",
    "batches",
    "digits",
    "load",
    "load_inputs",
    "prefetch",
]


def digits() -> Dataset:
    """scikit-learn's 8×8 handwritten digits: 1797 rows of 64 pixels in 0..1, ten classes.

    Raises MissingDependency without scikit-learn. Source: Alpaydin and Kaynak, Optical Recognition
    of Handwritten Digits, UCI, 1998 (its test part).

    >>> digits()
    <Dataset digits: 1797 rows, 64 features, 10 classes>
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as cause:
        rule = "the digits come with scikit-learn"
        hint = 'pip install "gpugrad[train]"'
        raise MissingDependency(message("data.digits", rule, cause, hint)) from cause
    bunch = load_digits()
    names = tuple(str(name) for name in bunch.target_names)
    columns = tuple(bunch.feature_names)
    return Dataset(bunch.data / 16, bunch.target, names, "digits", columns)


def load(
    path: str | os.PathLike[str],
    target: str | None = None,
    columns: Sequence[Column] = (),
    classes: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> Dataset:
    """Read a dataset from files: IDX, ``.npy``, ``.npz``, ``.csv``, ``.csv.gz``, ``.parquet``.

    IDX: MNIST's four names (the t10k part is optional), or one file of images and one of labels;
    plain or gzip; give the folder. npz: keys x and y, or x_train, y_train, x_test, y_test;
    ``target`` is the key of labels called otherwise. npy: files named as those keys, given by their
    folder, or by the one of the inputs; these stay there until they are read (`Rows`). csv: a
    header line, and the column ``target``, or the last, to predict. Semicolons or tabs may stand
    for its commas; with semicolons 1,5 is 1.5. parquet: its columns likewise, of numbers, text,
    truths or dates.

    Of a table's other columns, numbers are taken as they are, a missing one as the median with a
    second column that says where; text of at most 50 kinds becomes a 0/1 for each; other text is
    left out, and so is each column named in ``drop``. ``notes`` of the result tell what was done,
    ``columns`` keeps it for other files.

    Images are flattened. uint8 inputs of IDX, npy and npz are pixels, divided by 255 unless none
    exceeds 1. Labels there: integers, bools and text are classes, floats regression. A table's is
    classes if at least half of it is text, or if it holds integers of at most 20 distinct values;
    other numbers (so also ``3.0``) are regression. Classes are named by the values in the file, in
    sorted order. With ``columns`` and ``classes`` of a dataset that was read from another table,
    they mean here what they meant there, though a class be absent; without classes the target is
    numbers then.

    Raises DataError for whatever is missing, cut off, malformed or not finite, naming file, line
    and column or bytes; MissingDependency for parquet without pyarrow. Formats:
    http://yann.lecun.com/exdb/mnist, numpy.lib.format, RFC 4180, https://parquet.apache.org.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "xor.csv")
    >>> _ = path.write_text("a,b,xor\\n0,0,no\\n0,1,yes\\n1,0,yes\\n1,1,no\\n")
    >>> data = load(path)
    >>> data, data.y
    (<Dataset xor: 4 rows, 2 features, 2 classes>, array([0, 1, 1, 0]))
    """
    path = Path(path)
    with reading(path):
        return _load(path, target, Known(columns, tuple(classes)) if columns else None, drop)


def load_inputs(path: str | os.PathLike[str], columns: Sequence[Column] = ()) -> Array | Rows:
    """Rows to predict for, without labels: (n, features), of the files `load` takes, but IDX.

    npz: the array called x. npy: the file, or a folder's x; it stays unread, as `Rows`. A
    table: what `Dataset.columns` of the training data makes of its columns, which are found by
    name; others, a target among them, are left out. Raises as `load`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "new.csv")
    >>> _ = path.write_text("b,id,a\\n1,7,x\\n,8,y\\n")
    >>> load_inputs(path, [Column("a", categories=("x", "y")), Column("b", fill=5.0)]).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 5.0]]
    """
    path = Path(path)
    with reading(path):
        if path.is_dir() and holds_npy(path):
            return load_npy_inputs(path)
        if not path.exists():
            raise missing(path)
        kinds = ".npz, .npy, .csv, .csv.gz or .parquet"
        if not path.is_file():
            raise error(path, "is no file", hint=kinds)
        name = path.name.lower()
        if name.endswith(".npz"):
            return load_npz_inputs(path)
        if name.endswith(".npy"):
            return load_npy_inputs(path)
        if name.endswith((".csv", ".csv.gz", ".parquet")):
            if not columns:
                rule = "the model knows no column names, so it cannot choose them here"
                raise error(path, rule, hint="an .npz")
            return (read_parquet if name.endswith(".parquet") else read_csv)(path, columns)
        raise error(path, f"{kinds} is taken", path.name)


def _load(path: Path, target: str | None, known: Known | None, drop: Sequence[str]) -> Dataset:
    name = path.name.lower()
    if not path.exists():
        raise missing(path)
    if path.is_file() and name.endswith((".csv", ".csv.gz")):
        return load_csv(path, target, known, drop)
    if path.is_file() and name.endswith(".parquet"):
        return load_parquet(path, target, known, drop)
    if drop:
        rule = "only the columns of a table, .csv or .parquet, have names to leave out"
        raise error(path, rule, ", ".join(drop))
    if (path.is_dir() and holds_npy(path)) or (path.is_file() and name.endswith(".npy")):
        return load_npy(path, target)
    if path.is_dir():
        if target is not None:
            raise error(path, "IDX files have no named target", f"target={target!r}")
        return load_folder(path)
    if path.is_file() and name.endswith(".npz"):
        return load_npz(path, target)
    hint = "its folder" if "idx" in name else ""
    kinds = "a folder of IDX or .npy files, .npz, .npy, .csv, .csv.gz or .parquet"
    raise error(path, f"{kinds} is taken", path.name, hint)
