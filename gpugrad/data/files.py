"""What every data file goes through: plain or gzip, and errors that name the file.

May import numpy, gpugrad.errors and gpugrad.data.dataset.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from gpugrad.data.dataset import Dataset
from gpugrad.data.rows import Rows, blocks
from gpugrad.errors import DataError, message

Array = NDArray[Any]


def error(path: Path, rule: str, got: object = None, hint: str = "") -> DataError:
    return DataError(message("data.load", f"{path}: {rule}", got, hint))


def nearest(name: str, names: Sequence[str]) -> str:
    """The name that was probably meant, as a hint; else nothing."""
    found = get_close_matches(name, names, n=1)
    return repr(found[0]) if found else ""


def missing(path: Path) -> DataError:
    """That there is no such file, and which one was probably meant.

    Compared without the endings: all that is alike of two tables may be ``.csv``.
    """
    folder = path.parent
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    short = path.name.partition(".")[0].lower()
    near = [
        name
        for name in names
        if get_close_matches(short, [name.partition(".")[0].lower()], cutoff=0.7)
    ]
    return error(path, "does not exist", hint=nearest(path.name, near))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the file system or the decompressor raises inside becomes a DataError about ``path``."""
    try:
        yield
    except EOFError as cause:
        raise error(path, "the gzip data is cut off", cause, "fetching it again") from cause
    except (OSError, zlib.error) as cause:
        raise error(path, "could not be read", cause) from cause


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed if it begins as gzip does (RFC 1952), whatever its name."""
    with reading(path):
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with cast(IO[bytes], gzip.open(path)) if compressed else open(path, "rb") as file:
            yield file


def read_up_to(file: IO[bytes], limit: int) -> bytearray:
    """At most ``limit`` bytes, a piece at a time: a false ``limit`` costs no memory."""
    data = bytearray()
    while piece := file.read(min(limit - len(data), 1 << 20)):
        data += piece
    return data


def from_arrays(path: Path, parts: list[tuple[Array, Array]]) -> Dataset:
    """A Dataset from the ``(x, y)`` of its training part and, where there is one, its test part.

    Inputs are flattened to (n, features); mapped ones are read later, as `Rows`. uint8 means
    pixels: divided by 255, unless no value exceeds 1. Integer, bool and text labels mean classes,
    the sorted distinct values of both parts. Float labels mean regression, even where every value
    is whole.
    """
    for part, (x, y) in zip(("training", "test"), parts, strict=False):
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            got = f"inputs {x.shape}, labels {y.shape}"
            raise error(path, f"the {part} part has one label per input", got)
        if x.dtype.kind not in "fiub":
            raise error(path, f"inputs of the {part} part are real numbers", x.dtype)
        if y.dtype.kind not in "fiubU":
            rule = f"labels of the {part} part are integers, text, or floats to regress"
            raise error(path, rule, y.dtype)
    xs = [x.reshape(len(x), -1 if x.size else 0) for x, _ in parts]
    ys = [y for _, y in parts]
    if len({x.dtype for x in xs}) > 1 or len({y.dtype.kind for y in ys}) > 1:
        got = ", ".join(f"{x.dtype} and {y.dtype}" for x, y in parts)
        raise error(path, "both parts have inputs and labels of the same kind", got)
    inputs = pixels(xs)
    classes: tuple[str, ...] = ()
    if ys[0].dtype.kind != "f":
        ys = [y.astype(np.uint8) if y.dtype.kind == "b" else y for y in ys]
        ys = [y[:, 0] if y.shape[1:] == (1,) else y for y in ys]
        if any(y.ndim > 1 for y in ys):
            got = " and ".join(str(y.shape) for y in ys)
            raise error(path, "labels are of shape (n,)", got, "argmax(axis=1) on one-hot rows")
        values, labels = np.unique(np.concatenate(ys), return_inverse=True)
        classes = tuple(str(value) for value in values)
        ys = np.split(labels, [len(ys[0])])[: len(ys)]
    name = path.name.partition(".")[0]
    data, *test = (
        Dataset(x, y, classes, part)
        for x, y, part in zip(inputs, ys, (name, f"{name} test"), strict=False)
    )
    return replace(data, test=test[0]) if test else data


def pixels(xs: list[Array]) -> list[Array | Rows]:
    """uint8 means pixels: as parts of 255, unless none exceeds 1. What is mapped stays so."""
    bright = xs[0].dtype == np.uint8 and any(b.max(initial=0) > 1 for x in xs for b in blocks(x))
    unit = 255 if bright else 1
    return [
        Rows(x, unit) if isinstance(x, np.memmap) else x / np.float32(unit) if bright else x
        for x in xs
    ]
