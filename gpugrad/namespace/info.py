"""What the namespace can do, as the array API asks, and the limits of dtypes. Imports constants."""

import sys
from typing import Any, NamedTuple

import numpy as np

from gpugrad import backend
from gpugrad.config import flags
from gpugrad.errors import DeviceError, DtypeError, message
from gpugrad.namespace.constants import DTYPES, dtype_of, isdtype
from gpugrad.tensor import Tensor


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
    f = np.finfo(dtype_of(type))
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
    dtype = dtype_of(type)
    i = np.iinfo(dtype)
    return IntegerInfo(i.bits, int(i.max), int(i.min), np.dtype(dtype))


class Info:
    """Capabilities, devices and dtypes of the namespace."""

    def capabilities(self) -> dict[str, Any]:
        """Whether shapes may depend on values, and how many axes a tensor may have."""
        return {
            "boolean indexing": True,
            "data-dependent shapes": True,
            "max dimensions": 64,
        }

    def default_device(self) -> str:
        """Where tensors are made unless ``device=`` says otherwise."""
        return backend.get(flags.device).device

    def devices(self) -> tuple[str, ...]:
        """The CPU and every CUDA device that can be used."""
        names = ["cpu"]
        while backend.cuda_available():
            try:
                names.append(backend.get(f"cuda:{len(names) - 1}").device)
            except DeviceError:
                break
        return tuple(names)

    def default_dtypes(self, *, device: str | None = None) -> dict[str, Any]:
        """What Python numbers become: float32, complex64 and int64, on every device."""
        names = {
            "real floating": "float32",
            "complex floating": "complex64",
            "integral": "int64",
            "indexing": "int64",
        }
        return {kind: DTYPES[name] for kind, name in names.items()}

    def dtypes(
        self, *, device: str | None = None, kind: str | tuple[str, ...] | None = None
    ) -> dict[str, Any]:
        """The standard's dtypes by name, all or those of ``kind`` (one, or a tuple of kinds)."""
        if kind is None:
            return dict(DTYPES)
        try:
            return {name: dtype for name, dtype in DTYPES.items() if isdtype(dtype, kind)}
        except (TypeError, ValueError):
            hint = '"bool", "integral", "real floating", "complex floating", "numeric" …'
            raise DtypeError(message("dtypes", "unknown kind", kind, hint)) from None


_info = Info()


def __array_namespace_info__() -> Info:
    """What this namespace can do.

    >>> import gpugrad as gg
    >>> gg.__array_namespace_info__().default_dtypes()["real floating"]
    dtype('float32')
    """
    return _info


def array_namespace(api_version: str | None) -> Any:
    """The module whose functions take tensors: this package."""
    if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12", "2025.12"):
        raise ValueError(message("__array_namespace__", "unknown version", api_version))
    return sys.modules[Tensor.__module__.partition(".")[0]]
