"""Builds CUDA kernels with g++ and runs them on the CPU: a Loader for tests. No GPU is involved.

It stands where CuPy stands for `gpugrad.backend.launch` and hands arguments over as cuLaunchKernel
takes them, so geometry, argument packing and the kernels' own text are the ones a GPU would get.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
HEADERS = ("emulator.h", "cuda_names.h")
# Kernels carry pragmas for nvcc, and few of them use every helper.
QUIET = ("-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-variable")
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-Wall", "-Werror", *QUIET)
# Built in two thirds of the time: unoptimised, checks not written out at each access.
FAST_BUILD = ("-O0", "--param", "asan-instrumentation-with-call-threshold=0")
SANITIZER_FLAGS = ("-fsanitize=address", "-fsanitize-sections=gg_shared", *FAST_BUILD)
ORDERS = (0, 1, 2)  # threads and blocks ascending, descending, shuffled


class EmulatorError(RuntimeError):
    """The text does not compile, or a launch broke a rule of CUDA."""


def why_unavailable() -> str | None:
    """The reason this machine cannot emulate, for a visible skip."""
    if not sys.platform.startswith("linux"):
        return "the CUDA emulator needs Linux"
    if shutil.which("g++") is None:
        return "the CUDA emulator needs g++, which is not installed"
    return None


def sanitizer_environment() -> dict[str, str]:
    """The environment in which Python can load libraries built with `sanitize`."""
    query = ["g++", "-print-file-name=libasan.so"]
    library = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    if not Path(library).is_absolute():
        raise EmulatorError("[emulator] g++ comes without AddressSanitizer")
    return {**os.environ, "LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0"}


class Emulator:
    """A `gpugrad.backend.launch.Loader` on NumPy arrays; libraries are kept in the folder `cache`.

    `order` picks one of ORDERS (default: the environment's GG_ORDER, else 0). With `sanitize`,
    accesses out of bounds end the process, which must run under `sanitizer_environment()`.
    """

    def __init__(
        self,
        cache: Path,
        *,
        order: int | None = None,
        sanitize: bool = False,
        extra_flags: Sequence[str] = (),
    ) -> None:
        self.cache = cache
        self.order = int(os.environ.get("GG_ORDER", "0")) if order is None else order
        if self.order not in ORDERS:
            raise ValueError(f"[emulator] order is one of {ORDERS}; got {self.order}")
        self.flags = FLAGS + (SANITIZER_FLAGS if sanitize else ()) + tuple(extra_flags)
        self._libraries: dict[str, ctypes.PyDLL] = {}

    def kernel(self, source: str, name: str) -> "EmulatedKernel":
        if source not in self._libraries:
            self._libraries[source] = self._load(self.build(source))
        library = self._libraries[source]
        number = library.gg_find_kernel(name.encode())
        if number < 0:
            raise EmulatorError(f"[emulator] the source exports no kernel {name!r}")
        return EmulatedKernel(library.gg_launch, number, self.order)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An array full of NaN, so that an element no kernel wrote shows."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = 0xFF
        return array

    def address(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def build(self, source: str) -> Path:
        """The library made from `source`, from the cache when the same text was built before."""
        text = f'#include "cuda_names.h"\nnamespace {{\n{source}\n}}\n'
        headers = [(FOLDER / name).read_text() for name in HEADERS]
        key = hashlib.sha256("\0".join([text, *headers, *self.flags]).encode())
        library = self.cache / f"{key.hexdigest()[:32]}.so"
        if library.exists():
            return library
        self.cache.mkdir(parents=True, exist_ok=True)
        self._compile(library, ["-shared", f"-I{self._headers(headers)}", "-x", "c++", "-"], text)
        return library

    def _headers(self, texts: list[str]) -> Path:
        """A folder with the headers compiled once for all kernels, which halves a build."""
        key = hashlib.sha256("\0".join([*texts, *self.flags]).encode()).hexdigest()[:32]
        compiled = self.cache / key / f"{HEADERS[-1]}.gch"
        if not compiled.exists():
            compiled.parent.mkdir(parents=True, exist_ok=True)
            self._compile(compiled, ["-x", "c++-header", str(FOLDER / HEADERS[-1])])
        return compiled.parent

    def _compile(self, to: Path, arguments: Sequence[str], text: str = "") -> None:
        partial = to.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
        command = ["g++", *self.flags, *arguments, f"-I{FOLDER}", "-o", str(partial)]
        # AddressSanitizer, loaded with this process, would slow the compiler down threefold.
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        result = subprocess.run(
            command, input=text, capture_output=True, text=True, env=environment
        )
        if result.returncode != 0:
            raise EmulatorError(f"[emulator] g++ refuses the kernel:\n{result.stderr}")
        partial.replace(to)  # others may be building the same

    _stacks: int | None = None  # of all libraries in this process

    @staticmethod
    def _load(path: Path) -> ctypes.PyDLL:
        # PyDLL keeps the interpreter lock during a call: the emulator's state is global.
        library = ctypes.PyDLL(str(path))
        library.gg_find_kernel.argtypes = [ctypes.c_char_p]
        library.gg_use_stacks.restype = ctypes.c_void_p
        library.gg_use_stacks.argtypes = [ctypes.c_void_p]
        Emulator._stacks = library.gg_use_stacks(Emulator._stacks)
        library.gg_launch.restype = ctypes.c_char_p
        library.gg_launch.argtypes = [
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_uint),
            ctypes.POINTER(ctypes.c_uint),
            ctypes.c_size_t,
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.POINTER(ctypes.c_size_t),
            ctypes.c_size_t,
            ctypes.c_int,
        ]
        return library


class EmulatedKernel:
    """One kernel of one library, called as a cupy.RawKernel is."""

    def __init__(self, launch: Any, number: int, order: int) -> None:
        self._launch = launch
        self._number = number
        self._order = order

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        *,
        shared_mem: int = 0,
    ) -> None:
        cells = [_argument(value) for value in args]
        pointers = [cell.ctypes.data for cell in cells]
        sizes = [cell.nbytes for cell in cells]
        error = self._launch(
            self._number,
            _three(grid),
            _three(block),
            shared_mem,
            (ctypes.c_void_p * len(cells))(*pointers),
            (ctypes.c_size_t * len(cells))(*sizes),
            len(cells),
            self._order,
        )
        if error is not None:
            raise EmulatorError(f"[emulator] {error.decode()}")


def _argument(value: Any) -> np.ndarray:
    """The bytes of one kernel argument: an array's address; a scalar or a structure as it is."""
    if isinstance(value, np.ndarray) and value.dtype.names:
        return value
    if isinstance(value, np.ndarray):
        return np.array(value.ctypes.data, np.uintp)
    if isinstance(value, np.generic):
        return np.array(value)
    raise TypeError(f"[emulator] arguments are arrays and NumPy scalars; got {value!r}")


def _three(extent: tuple[int, ...]) -> Any:
    return (ctypes.c_uint * 3)(*extent, *(1,) * (3 - len(extent)))
