"""Constants, dtypes and dtype questions. Imports aval and tensor."""

import builtins
import math
from typing import Any, NamedTuple

import numpy as np

from gpugrad.aval import WEAK
from gpugrad.tensor import Tensor

__all__ = [
    "bool",
    "can_cast",
    "complex64",
    "complex128",
    "e",
    "finfo",
    "float16",
    "float32",
    "float64",
    "iinfo",
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


def _dtype(x: Any) -> Any:
    return x.dtype if isinstance(x, (Tensor, np.ndarray)) else x if type(x) in WEAK else np.dtype(x)


def result_type(*arrays_and_dtypes: Any) -> Any:
    """The dtype an operation on these gives; Python scalars are weak.

    >>> import gpugrad as gg
    >>> gg.result_type(gg.float32, 1.0)
    dtype('float32')
    """
    if all(type(x) in WEAK for x in arrays_and_dtypes):
        arrays_and_dtypes = tuple([_PYTHON[type(x)] for x in arrays_and_dtypes])
    return np.result_type(*map(_dtype, arrays_and_dtypes))


def can_cast(from_: Any, to: Any, /) -> Any:
    """Whether a value of one dtype always fits the other."""
    return np.can_cast(_dtype(from_), to)


def isdtype(dtype: Any, kind: Any) -> Any:
    """Whether ``dtype`` is of a kind: a dtype, ``"bool"``, ``"real floating"``, ``"integral"`` …"""
    return np.isdtype(np.dtype(dtype), kind)


class FloatInfo(NamedTuple):
    """Limits of a floating dtype, as Python numbers."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: Any


class IntegerInfo(NamedTuple):
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: Any


def finfo(type: Any, /) -> FloatInfo:
    """Limits of a floating dtype: bits, eps, max, min, smallest_normal; of a complex one's parts.

    >>> import gpugrad as gg
    >>> gg.finfo(gg.float32).bits
    32
    """
    f = np.finfo(_dtype(type))
    eps, highest, lowest, normal = (
        float(value) for value in (f.eps, f.max, f.min, f.smallest_normal)
    )
    return FloatInfo(int(f.bits), eps, highest, lowest, normal, np.dtype(f.dtype))


def iinfo(type: Any, /) -> IntegerInfo:
    """Limits of an integer dtype: bits, max, min.

    >>> import gpugrad as gg
    >>> gg.iinfo(gg.int8).max
    127
    """
    dtype = _dtype(type)
    i = np.iinfo(dtype)
    return IntegerInfo(i.bits, int(i.max), int(i.min), np.dtype(dtype))
