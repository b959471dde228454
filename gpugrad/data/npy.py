"""NumPy's ``.npy`` files, mapped instead of read: they may be larger than the memory.

May import numpy, gpugrad.errors and its siblings.
"""

import os
from pathlib import Path

import numpy as np

from gpugrad.data.dataset import Dataset
from gpugrad.data.files import Array, error, from_arrays, pixels
from gpugrad.data.npz import INPUTS, choose, choose_parts
from gpugrad.data.rows import Rows


def load_npy(path: Path, target: str | None) -> Dataset:
    """The Dataset of a folder with X.npy and y.npy (or x_train.npy, …), or beside one X.npy.

    Names are the keys of an npz. Inputs stay mapped, as `Rows`; labels are read.
    """
    folder = path if path.is_dir() else path.parent
    keys = _keys(folder)
    inputs = None if path.is_dir() else path.stem
    parts = choose_parts(folder, keys, lambda key: _mapped(folder / f"{key}.npy"), target, inputs)
    return from_arrays(path, [(x, np.array(y)) for x, y in parts])


def load_npy_inputs(path: Path) -> Array | Rows:
    """The rows of one file, or of X.npy in a folder."""
    if path.is_dir():
        path = path / f"{choose(path, _keys(path), INPUTS, 'inputs')}.npy"
    x = _mapped(path)
    if x.ndim == 0 or x.dtype.kind not in "fiub":
        raise error(path, "inputs are real numbers, one row each", f"{x.dtype} {x.shape}")
    return pixels([x.reshape(len(x), -1 if x.size else 0)])[0]


def holds_npy(folder: Path) -> bool:
    return bool(_keys(folder))


def _keys(folder: Path) -> list[str]:
    return sorted(name.removesuffix(".npy") for name in os.listdir(folder) if name[-4:] == ".npy")


def _mapped(path: Path) -> Array:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, SyntaxError, EOFError) as cause:
        raise error(path, "not a whole .npy file of numbers or text", cause) from cause
    expected = array.offset + array.nbytes
    if path.stat().st_size != expected and array.size:
        raise error(path, f"{array.shape} {array.dtype}, {expected} bytes", path.stat().st_size)
    if array.ndim > 2 and not array.flags.c_contiguous:
        rule, hint = "rows do not lie together in the file", "saving numpy.ascontiguousarray(x)"
        raise error(path, rule, "Fortran order", hint)
    return array
