"""NumPy calling us: ufuncs on tensors stay on the tape, or raise; they never detach silently.

Imports ops and creation.
"""

import sys
from typing import Any

import numpy as np

from gpugrad.errors import DtypeError, message
from gpugrad.late import functions, ops
from gpugrad.operators import refuse_numpy
from gpugrad.tensor import Tensor

# NumPy's names where they are not ours.
_UFUNCS = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "power": "pow",
    "right_shift": "bitwise_right_shift",
    "rint": "round",
    "true_divide": "divide",
}


def array_ufunc(ufunc: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """``np.sin(t)``, ``array * t``: the op of that name. ``array += t`` arrives with ``out``."""
    name = ufunc.__name__
    if method != "__call__":
        raise refuse_numpy(f"{name}.{method}")
    if "out" in options:
        hint = f"a = a {name} t, which makes a a tensor, or t.detach().numpy()"
        rule = "a NumPy array cannot hold a tensor's result in place"
        raise DtypeError(message(name, rule, hint=hint))
    if ufunc is np.matmul:
        return functions.matmul(*inputs)
    op = getattr(ops, _UFUNCS.get(name, name), None)
    if op is None or options:
        raise refuse_numpy(name)
    return op(*inputs)


def array_namespace(api_version: str | None) -> Any:
    """The module whose functions take tensors: this package."""
    if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12", "2025.12"):
        raise ValueError(message("__array_namespace__", "unknown version", api_version))
    return sys.modules[Tensor.__module__.partition(".")[0]]
