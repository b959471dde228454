"""Numbers that a captured step reads from device memory: kernels/cuda/scalars.cu.

Imports launch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpugrad.backend.launch import Launch, Loader, address, kernel_source

Array = Any
FILE = "scalars.cu"
NUMBERS = 64  # NUMBERS in scalars.cu
FACTORS = 64  # FACTORS in scalars.cu
_NUMBERS_BY_VALUE = np.dtype([("at", np.float64, NUMBERS)])
_FACTOR = [("rate", "u8"), ("factor", "f8"), ("beta", "f8"), ("to", "u8"), ("single", "i8")]
_FACTORS_BY_VALUE = np.dtype([("at", _FACTOR, FACTORS)])


def send(loader: Loader, values: "np.ndarray[Any, Any]", target: Array) -> None:
    """Enqueue that ``target``, float64 on the device, becomes what ``values`` is now."""
    at = address(loader, target)
    for start in range(0, len(values), NUMBERS):
        part = values[start : start + NUMBERS]
        numbers = np.zeros(1, _NUMBERS_BY_VALUE)
        numbers["at"][0, : len(part)] = part
        launch = Launch(kernel_source(FILE), "send_f64", (1, 1, 1), (NUMBERS, 1, 1))
        launch(loader, numbers, at + 8 * start, len(part))


class Factor(NamedTuple):
    """``to[0] = factor · rate[0]``, ``to[1] = beta``, as float32 (``single``) or float64."""

    rate: int  # address of a float64
    factor: float
    beta: float
    to: int  # address
    single: bool


def factors(loader: Loader, wanted: Sequence[Factor]) -> None:
    """Enqueue what matrix products take as alpha and beta from device memory."""
    for start in range(0, len(wanted), FACTORS):
        part = wanted[start : start + FACTORS]
        values = np.zeros(1, _FACTORS_BY_VALUE)
        values["at"][0, : len(part)] = [tuple(f) for f in part]
        launch = Launch(kernel_source(FILE), "alpha_beta", (1, 1, 1), (FACTORS, 1, 1))
        launch(loader, values, len(part))


def check_finite(loader: Loader, x: Any, status: Any) -> None:
    """Enqueue that ``status[1]`` holds the bits of the float64 ``x`` where it is not finite."""
    Launch(kernel_source(FILE), "finite_f64", (1, 1, 1), (1, 1, 1))(loader, x, status)
