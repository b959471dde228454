"""IDX files, the format of MNIST: http://yann.lecun.com/exdb/mnist, "the IDX file format".

May import numpy, gpugrad.errors and its siblings dataset and files.
"""

import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from gpugrad.data.dataset import Dataset
from gpugrad.data.files import Array, error, from_arrays, opened, read_up_to

TYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}

# train-images-idx3-ubyte[.gz], t10k-labels.idx1-ubyte, emnist-letters-test-images-idx3-ubyte.gz
_MNIST = re.compile(r"(?:^|[-_.])(train|t10k|test)[-_.](images|labels)[-_.]idx\d-ubyte(?:\.gz)?$")


def read_idx(path: Path) -> Array:
    """The array in one IDX file, plain or gzip, in the machine's byte order.

    Raises DataError for a header that is not IDX's, and for more or fewer bytes than it promises.
    """
    with opened(path) as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0":
            raise error(path, "an IDX file begins with bytes 00 00, type, ndim", magic.hex(" "))
        if magic[2] not in TYPES:
            known = " ".join(f"{code:02x}" for code in TYPES)
            raise error(path, f"IDX types are {known}", f"type {magic[2]:02x}")
        dtype, ndim = TYPES[magic[2]], magic[3]
        dims = file.read(4 * ndim)
        if len(dims) < 4 * ndim:
            got = f"{4 + len(dims)} bytes"
            raise error(path, f"cut off inside its header of {4 + 4 * ndim} bytes", got)
        shape = struct.unpack(f">{ndim}I", dims)
        expected = math.prod(shape) * dtype.itemsize
        data = read_up_to(file, expected + 1)
    if len(data) != expected:
        got = f"{len(data)} bytes" if len(data) < expected else "more"
        raise error(path, f"the header says {shape} {dtype.name}, {expected} bytes of data", got)
    try:
        array = np.frombuffer(data, dtype).reshape(shape)
    except ValueError as cause:  # more dimensions than NumPy has
        raise error(path, "NumPy cannot hold an array of this shape", shape) from cause
    native: Array = array.astype(dtype.newbyteorder("="), copy=False)
    return native


def load_folder(folder: Path) -> Dataset:
    """The Dataset in a folder of IDX files, by MNIST's names, else its one pair of files."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    named: dict[str, list[Path]] = {}
    for path in files:
        if match := _MNIST.search(path.name.lower()):
            part = "train" if match[1] == "train" else "test"
            named.setdefault(f"{part} {match[2]}", []).append(path)
    if not named:
        return _load_pair(folder, files)
    wanted = ["train images", "train labels"]
    if any(role.startswith("test") for role in named):
        wanted += ["test images", "test labels"]
    if missing := [role for role in wanted if role not in named]:
        got = [p.name for found in named.values() for p in found]
        raise error(folder, f"no file of {' or '.join(missing)}", got)
    chosen = [_one(folder, role, named[role]) for role in wanted]
    return _load(folder, list(zip(chosen[::2], chosen[1::2], strict=True)))


def _one(folder: Path, role: str, paths: list[Path]) -> Path:
    """The one file of this role; a plain file goes before its compressed twin."""
    if len({path.name.removesuffix(".gz") for path in paths}) > 1:
        raise error(folder, f"one file of {role} is needed", [path.name for path in paths])
    return min(paths, key=lambda path: path.suffix == ".gz")


def _load_pair(folder: Path, files: list[Path]) -> Dataset:
    images: list[Path] = []
    labels: list[Path] = []
    for path in files:
        with opened(path) as file:
            magic = file.read(4)
        if len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in TYPES:
            (labels if magic[3] == 1 else images).append(path)
    if len(images) != 1 or len(labels) != 1:
        raise error(
            folder,
            "a folder holds MNIST's four IDX files, or one of images and one of labels",
            f"images {[p.name for p in images]}, labels {[p.name for p in labels]}, "
            f"of {len(files)} files",
        )
    return _load(folder, [(images[0], labels[0])])


def _load(folder: Path, pairs: list[tuple[Path, Path]]) -> Dataset:
    parts = []
    for images, labels in pairs:
        x, y = read_idx(images), read_idx(labels)
        if x.ndim < 2 or y.ndim != 1:
            got = f"{x.ndim} and {y.ndim} in {labels.name}"
            raise error(images, "images have at least two dimensions, labels one", got)
        if len(x) != len(y):
            got = f"{len(x)} images, {len(y)} labels in {labels.name}"
            raise error(images, "one label per image", got)
        parts.append((x, y))
    return from_arrays(folder, parts)
