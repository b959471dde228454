"""Matrix products by cuBLASLt, called through ctypes. Imports errors only.

CuPy refuses its own cuBLAS calls while a stream is being captured; these may be captured, choose
their algorithm once, and take ``alpha`` from device memory. The library comes with CuPy's ``[ctk]``
extra or with a CUDA toolkit.
"""

import ctypes
import sys
import threading
from collections.abc import Iterable
from ctypes import byref, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpugrad.errors import DeviceError, GpugradError, message

WORKSPACE_BYTES = 32 << 20  # what cuBLAS itself takes on compute capability 9.0

# Values of the library's enumerations (cublasLt.h, library_types.h of CUDA 12 and 13).
_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1, np.dtype(np.float16): 2}
_COMPUTE = {np.dtype(np.float32): 68, np.dtype(np.float64): 70, np.dtype(np.float16): 68}
_ROUNDED = {"float32": 68, "tf32": 77, "bfloat16": 75}
_DESC_POINTER_MODE, _DESC_TRANSA, _DESC_TRANSB = 2, 3, 4
_DESC_EPILOGUE, _DESC_BIAS_POINTER = 7, 8
_EPILOGUES = {"bias": 4, "sums": 512}  # BIAS, BGRADB
_POINTERS_ON_DEVICE = 1
_TRANSPOSED = 1
_PREFERENCE_WORKSPACE, _PREFERENCE_REDUCTIONS = 1, 3
_PREFERENCE_ALIGNMENTS = (5, 6, 7, 8)  # of A, B, C, D
# Split sums end in the workspace, in a fixed order; in place they would end in the order in which
# blocks finish, and two runs could differ.
_REDUCTIONS = 2 | 4


class _Algorithm(ctypes.Structure):
    _fields_ = (("data", c_uint64 * 8),)


class _Found(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t"""

    _fields_ = (
        ("algorithm", _Algorithm),
        ("workspace_bytes", c_size_t),
        ("status", c_int),
        ("waves", ctypes.c_float),
        ("reserved", c_int * 4),
    )


_P = c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasLtCreate": (_P,),
    "cublasLtMatmulDescCreate": (_P, c_int, c_int),
    "cublasLtMatmulDescSetAttribute": (_P, c_int, _P, c_size_t),
    "cublasLtMatrixLayoutCreate": (_P, c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatmulPreferenceCreate": (_P,),
    "cublasLtMatmulPreferenceSetAttribute": (_P, c_int, _P, c_size_t),
    "cublasLtMatmulPreferenceDestroy": (_P,),
    "cublasLtMatmulAlgoGetHeuristic": (_P, _P, _P, _P, _P, _P, _P, c_int, _P, _P),
    "cublasLtMatmul": (_P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, c_size_t, _P),
}


class Product(NamedTuple):
    """``c = alpha · a @ b + beta · c`` for row-major (m, n), as far as it is known before a call.

    ``ta`` and ``tb`` say that a lies as (k, m) and b as (n, k); ``lda``, ``ldb``, ``ldc`` are steps
    from row to row, in elements; ``alignments`` those of the addresses of a, b and c, in bytes.
    """

    m: int
    n: int
    k: int
    ta: bool
    tb: bool
    lda: int
    ldb: int
    ldc: int
    dtype: np.dtype[Any]
    scalars_on_device: bool
    alignments: tuple[int, int, int]
    rounded_to: str = "float32"  # operands, in multiplying float32 matrices
    epilogue: str = ""  # "bias": adds a vector to rows of c; "sums": gives sums over columns of a
    vector_alignment: int = 0  # of the epilogue's vector, in bytes
    rank: int = 0  # which of the algorithms that the library proposes, the best first


class Matmul:
    """A `Product` with its descriptors and algorithm, ready to be enqueued.

    Raises `GpugradError` where the library proposes no algorithm of that rank.
    """

    def __init__(self, library: "CublasLt", product: Product) -> None:
        p = product
        self._library = library
        self._lock = threading.Lock()
        self._epilogue = p.epilogue
        kind = _TYPES[p.dtype]
        compute = _ROUNDED[p.rounded_to] if p.dtype == np.float32 else _COMPUTE[p.dtype]
        scale = 1 if p.dtype == np.float64 else 0
        self._number = ctypes.c_double if scale else ctypes.c_float
        self._operation = c_void_p()
        library.call("cublasLtMatmulDescCreate", byref(self._operation), compute, scale)
        # The library's matrices are column-major: what it is asked for is cᵀ = bᵀ @ aᵀ.
        flags = [(_DESC_TRANSA, p.tb and _TRANSPOSED), (_DESC_TRANSB, p.ta and _TRANSPOSED)]
        if p.scalars_on_device:
            flags.append((_DESC_POINTER_MODE, _POINTERS_ON_DEVICE))
        for name, value in flags:
            self._set(name, c_int32(value))
        if p.epilogue:
            self._set(_DESC_EPILOGUE, c_int32(_EPILOGUES[p.epilogue]))
            # Its alignment, which is all that it is asked for by now.
            self._set(_DESC_BIAS_POINTER, c_void_p(p.vector_alignment))
        self._a = self._layout(kind, *((p.m, p.k) if p.ta else (p.k, p.m)), p.lda)
        self._b = self._layout(kind, *((p.k, p.n) if p.tb else (p.n, p.k)), p.ldb)
        self._c = self._layout(kind, p.n, p.m, p.ldc)
        found = self._find(p)
        self._algorithm = found.algorithm
        self.workspace_bytes = int(found.workspace_bytes)

    def _layout(self, kind: int, rows: int, cols: int, step: int) -> c_void_p:
        layout = c_void_p()
        create = "cublasLtMatrixLayoutCreate"
        self._library.call(create, byref(layout), kind, rows, cols, max(step, rows))
        return layout

    def _set(self, name: int, value: Any) -> None:
        """Set an attribute of the operation to a number of ctypes."""
        set_to, size = "cublasLtMatmulDescSetAttribute", ctypes.sizeof(value)
        self._library.call(set_to, self._operation, name, byref(value), size)

    def _find(self, p: Product) -> _Found:
        library, preference = self._library, c_void_p()
        library.call("cublasLtMatmulPreferenceCreate", byref(preference))
        a, b, c = p.alignments
        settings: list[tuple[int, Any]] = [
            (_PREFERENCE_WORKSPACE, c_uint64(WORKSPACE_BYTES)),
            (_PREFERENCE_REDUCTIONS, c_uint32(_REDUCTIONS)),
        ]
        settings += zip(_PREFERENCE_ALIGNMENTS, map(c_uint32, (b, a, c, c)), strict=True)
        for name, value in settings:
            set_to = "cublasLtMatmulPreferenceSetAttribute"
            library.call(set_to, preference, name, byref(value), ctypes.sizeof(value))
        found, count = (_Found * (p.rank + 1))(), c_int()
        places = (self._operation, self._b, self._a, self._c, self._c, preference)
        library.call(
            "cublasLtMatmulAlgoGetHeuristic",
            *(library.handle, *places, len(found), byref(found), byref(count)),
        )
        library.call("cublasLtMatmulPreferenceDestroy", preference)
        if count.value <= p.rank or found[p.rank].status:
            raise GpugradError(message("matmul", "cuBLASLt knows no algorithm for it", p))
        return found[p.rank]

    def __call__(
        self,
        alpha: Any,
        a: int,
        b: int,
        beta: Any,
        c: int,
        workspace: int,
        stream: int,
        vector: int = 0,
    ) -> None:
        """Enqueue it; addresses as integers, and so the scalars when they are on the device."""
        if not isinstance(alpha, int):
            alpha, beta = byref(self._number(alpha)), byref(self._number(beta))
        with self._lock:  # from when the vector is set until it has been taken
            if self._epilogue:
                self._set(_DESC_BIAS_POINTER, c_void_p(vector))
            self._library.call(
                "cublasLtMatmul",
                *(self._library.handle, self._operation, alpha, b, self._b, a, self._a, beta),
                *(c, self._c, c, self._c, byref(self._algorithm), workspace),
                *(self.workspace_bytes, stream),
            )


class CublasLt:
    """One handle of the library, for the device that is current when it is made."""

    def __init__(self, library: Any) -> None:
        self._functions = {}
        for name, types in _SIGNATURES.items():
            function = self._functions[name] = getattr(library, name)
            function.argtypes, function.restype = types, c_int
        library.cublasLtGetVersion.restype = c_size_t
        self.version = int(library.cublasLtGetVersion())
        self.handle = c_void_p()
        self.call("cublasLtCreate", byref(self.handle))
        self.matmul = lru_cache(maxsize=4096)(lambda product: Matmul(self, product))

    def call(self, name: str, *args: Any) -> None:
        status = self._functions[name](*args)
        if status:
            hint = "gpugrad doctor; CUBLASLT_LOG_LEVEL=2 shows the library's own words"
            raise GpugradError(message("cublas", f"{name} failed", f"status {status}", hint))


def load(cuda_major: int) -> CublasLt:
    """The library of this CUDA version, 12 or 13.

    Raises `DeviceError` where it is missing, saying what to install.
    """
    errors = []
    for name in _names(cuda_major):
        try:
            return CublasLt(ctypes.CDLL(name))
        except OSError as error:
            errors.append(str(error))
    rule = "cuBLASLt cannot be loaded, which a captured step multiplies matrices with"
    hint = f'pip install "cupy-cuda{cuda_major}x[ctk]"'
    raise DeviceError(message("cublas", rule, "; ".join(errors), hint))


def _names(cuda_major: int) -> Iterable[str]:
    try:  # what CuPy itself asks where its libraries are
        from cuda import pathfinder

        yield str(pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path)
    except Exception:  # not installed, or its own several errors for a library it cannot find
        pass
    if sys.platform == "win32":
        yield f"cublasLt64_{cuda_major}.dll"
    else:
        yield f"libcublasLt.so.{cuda_major}"


def alignment(address: int) -> int:
    """The largest power of two up to 256 that divides ``address``, in bytes."""
    return min(address & -address, 256) or 256
