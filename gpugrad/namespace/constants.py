"""Constants, dtypes and dtype questions. Imports aval and tensor."""

import builtins
import math
from typing import Any

import numpy as np

from gpugrad.aval import WEAK
from gpugrad.tensor import Tensor

__all__ = [
    "bool",
    "can_cast",
    "complex64",
    "complex128",
    "e",
    "float16",
    "float32",
    "float64",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "isdtype",
    "nan",
    "newaxis",
    "pi",
    "result_type",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]

e, pi, inf, nan, newaxis = math.e, math.pi, math.inf, math.nan, None

bool = np.dtype(np.bool_)
int8, int16, int32, int64 = (np.dtype(f"i{n}") for n in (1, 2, 4, 8))
uint8, uint16, uint32, uint64 = (np.dtype(f"u{n}") for n in (1, 2, 4, 8))
float16, float32, float64 = (np.dtype(f"f{n}") for n in (2, 4, 8))
complex64, complex128 = np.dtype("c8"), np.dtype("c16")


# The standard's dtypes by name; half precision is ours besides.
DTYPES = {
    d.name: d
    for d in (
        *(bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64),
        *(float32, float64, complex64, complex128),
    )
}

# What numbers written in Python become. NumPy's own choice is float64.
_PYTHON = {builtins.bool: bool, int: int64, float: float32, complex: complex64}


def dtype_of(x: Any) -> Any:
    return x.dtype if isinstance(x, (Tensor, np.ndarray)) else x if type(x) in WEAK else np.dtype(x)


def result_type(*arrays_and_dtypes: Any) -> Any:
    """The dtype an operation on these gives; Python scalars are weak.

    >>> import gpugrad as gg
    >>> gg.result_type(gg.float32, 1.0)
    dtype('float32')
    """
    if all(type(x) in WEAK for x in arrays_and_dtypes):
        arrays_and_dtypes = tuple([_PYTHON[type(x)] for x in arrays_and_dtypes])
    return np.result_type(*map(dtype_of, arrays_and_dtypes))


def can_cast(from_: Any, to: Any, /) -> Any:
    """Whether a value of one dtype always fits the other."""
    return np.can_cast(dtype_of(from_), to)


def isdtype(dtype: Any, kind: Any) -> Any:
    """Whether ``dtype`` is of a kind: a dtype, ``"bool"``, ``"real floating"``, ``"integral"`` …"""
    return np.isdtype(np.dtype(dtype), kind)
