"""The native CPU core, where it could be built: finds a BLAS for it and says what is in use.

May import: the standard library, NumPy, `gpugrad._native`, config. Nothing imports this module
before a program is to be run natively, so that importing gpugrad never loads the core.
"""

import ctypes
import importlib
import os
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from gpugrad.config import flags

_FORMAT = 1  # of what is handed over; kernels/cpu/module.c has the same

try:
    from gpugrad import _native
    from gpugrad._native import Program, Replay
except ImportError as error:
    _absent = f"the native core is not there: {error}"
else:
    # An editable install keeps the core it was built with when the sources move on.
    _built = getattr(_native, "FORMAT", 0)
    _absent = "" if _built == _FORMAT else "the native core is of another version: install again"

__all__ = ["Program", "Replay", "available", "describe", "threads", "why_not"]


class _Blas(NamedTuple):
    path: str
    config: str
    int_bits: int


# Extensions that are linked to a BLAS: a symbol looked up in one is found in what it is linked to.
_LINKED = ("numpy._core._multiarray_umath", "scipy.linalg._fblas")
_NAMES = (
    ("scipy_cblas_{}gemm64_", 64),
    ("cblas_{}gemm64_", 64),
    ("scipy_cblas_{}gemm", 32),
    ("cblas_{}gemm", 32),
)
_THREADS = (
    ("scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"),
    ("openblas_set_num_threads64_", "openblas_get_num_threads64_"),
    ("scipy_openblas_set_num_threads", "scipy_openblas_get_num_threads"),
    ("openblas_set_num_threads", "openblas_get_num_threads"),
    ("MKL_Set_Num_Threads", "MKL_Get_Max_Threads"),
)
_CONFIGS = (
    "scipy_openblas_get_config64_",
    "openblas_get_config64_",
    "scipy_openblas_get_config",
    "openblas_get_config",
)


def available() -> bool:
    """Whether programs can be run natively here and now (``GPUGRAD_NATIVE=0`` says no)."""
    return not why_not()


def why_not() -> str:
    """What stands in the way of running natively; empty when nothing does."""
    if not flags.native:
        return "GPUGRAD_NATIVE is 0"
    if _absent:
        return _absent
    return "" if _blas() else "no BLAS with a cblas interface is loaded"


def describe() -> dict[str, Any]:
    """What runs programs: instruction set, BLAS (path, build, bits of its integers), threads."""
    blas = None if _absent else _blas()
    return {
        "available": available(),
        "why_not": why_not(),
        "isa": None if _absent else _native.isas()[0],
        "blas": blas.path if blas else None,
        "blas_config": blas.config if blas else None,
        "blas_int_bits": blas.int_bits if blas else None,
        "threads": threads(),
    }


def threads() -> int:
    """Threads a program is planned for: ``GPUGRAD_NUM_THREADS``, else the cores we may use."""
    if flags.num_threads:
        return min(flags.num_threads, 256)
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), 256)
    return min(os.cpu_count() or 1, 256)


@cache
def _blas() -> _Blas | None:
    """Finds a BLAS and hands it to the core; the one NumPy is linked to comes first."""
    sample = np.empty((3, 5), np.float32)
    _native.set_array(sample, sample.ctypes.data)
    for name in _LINKED:
        try:
            library = _library(importlib.import_module(name).__file__)
        except (ImportError, OSError):
            continue
        for pattern, bits in _NAMES:
            sgemm, dgemm = (_address(library, pattern.format(kind)) for kind in "sd")
            if sgemm and dgemm:
                set_get = ([_address(library, n) for n in names] for names in _THREADS)
                set_threads, get_threads = next((a for a in set_get if all(a)), (0, 0))
                _native.set_gemm(sgemm, dgemm, bits, set_threads, get_threads)
                return _Blas(_path_of(sgemm), _config(library), bits)
    return None


# Kept, and its functions with it: each that is dropped leaves a cycle for the collector.
_library = cache(ctypes.CDLL)


def _address(library: ctypes.CDLL, name: str) -> int:
    """Where a function lies; 0 when the library has none of that name."""
    try:
        function = getattr(library, name)
    except AttributeError:
        return 0
    return ctypes.c_void_p.from_buffer(function).value or 0


def _config(library: ctypes.CDLL) -> str:
    """What an OpenBLAS says of itself: version, kernels, most threads."""
    for name in _CONFIGS:
        if _address(library, name):
            get = getattr(library, name)
            get.restype = ctypes.c_char_p
            return str(get().decode())
    return ""


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("file_base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("symbol_base", ctypes.c_void_p),
    )


def _path_of(address: int) -> str:
    """The library an address belongs to."""
    info = _DlInfo()
    if not _library(None).dladdr(ctypes.c_void_p(address), ctypes.byref(info)) or not info.file:
        return ""
    return str(os.fsdecode(info.file))
