"""NumPy's ``.npz``: a zip of arrays, read without pickle and without trusting its sizes.

May import numpy, gpugrad.errors and its siblings dataset and files.
"""

import io
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gpugrad.data.dataset import Dataset
from gpugrad.data.files import Array, error, from_arrays, nearest, pixels, read_up_to
from gpugrad.errors import DataError

INPUTS = ("x", "X", "x_train", "X_train")
_LABELS = ("y", "Y", "y_train", "Y_train")


def load_npz(path: Path, target: str | None) -> Dataset:
    """The Dataset under the keys x and y, or x_train, y_train, x_test, y_test (Keras' mnist.npz).

    ``target`` is the key of the labels where it is not one of these.
    """
    with _opened(path) as archive:
        parts = choose_parts(path, _keys(archive), lambda key: _read(path, archive, key), target)
    return from_arrays(path, parts)


def load_npz_inputs(path: Path) -> Array:
    """The array under the key x or x_train, without labels: (n, features)."""
    with _opened(path) as archive:
        x = _read(path, archive, choose(path, _keys(archive), INPUTS, "inputs"))
    if x.ndim == 0 or x.dtype.kind not in "fiub":
        raise error(path, "inputs are real numbers, one row each", f"{x.dtype} {x.shape}")
    return np.asarray(pixels([x.reshape(len(x), -1 if x.size else 0)])[0])


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DataError:
        raise
    except Exception as cause:  # zipfile raises a dozen kinds on damaged archives
        raise error(path, "not a whole .npz archive", cause, "fetching it again") from cause


def _keys(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist()]


def choose_parts(
    path: Path,
    keys: list[str],
    read: Callable[[str], Array],
    target: str | None,
    inputs: str | None = None,
) -> list[tuple[Array, Array]]:
    """``(x, y)`` of the training part and, where there is one, of the test part.

    ``target`` and ``inputs`` are the keys of what is called otherwise.
    """
    x = choose(path, keys, INPUTS, "inputs") if inputs is None else inputs
    if target is not None and target not in keys:
        raise error(path, f"no array is called {target!r}", keys, nearest(target, keys))
    y = choose(path, keys, _LABELS, "labels") if target is None else target
    tests = [f"{key.removesuffix('_train')}_test" for key in (x, y)]
    present = [key for key in tests if key in keys]
    if len(present) == 1:
        raise error(path, f"a test part is both {tests[0]!r} and {tests[1]!r}", keys)
    pairs = [(x, y), (tests[0], tests[1])] if present else [(x, y)]
    return [(read(x), read(y)) for x, y in pairs]


def choose(path: Path, keys: list[str], names: tuple[str, ...], what: str) -> str:
    found = [key for key in keys if key in names]
    if len(found) != 1:
        hint = "target='<key>'" if what == "labels" else "naming them x and y"
        raise error(path, f"one array of {what} is called {', '.join(names)}", keys, hint)
    return found[0]


def _read(path: Path, archive: zipfile.ZipFile, key: str) -> Array:
    # Not numpy.load: it allocates what the array's header asks for before reading a byte.
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as member:
        data = read_up_to(member, info.file_size + 1)
    header = io.BytesIO(data)
    version = np.lib.format.read_magic(header)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(header)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(header)
    if dtype.hasobject:
        rule = f"{key!r} holds Python objects, which only unpickling could read"
        raise error(path, rule, dtype, "saving it as numbers or as text")
    expected = math.prod(shape) * dtype.itemsize
    if len(data) - header.tell() != expected:
        got = f"{len(data) - header.tell()} bytes"
        raise error(path, f"{key!r} is {shape} {dtype}, {expected} bytes", got)
    array = np.frombuffer(data, dtype, offset=header.tell())
    return array.reshape(shape, order="F" if fortran else "C")
