"""What NumPy answers, of CuPy arrays too, where CuPy's own functions answer otherwise.

``xp`` is an array module or what traces a step; on anything but CuPy arrays these are its own
functions. Imports the backends' lookup.
"""

from typing import Any

import numpy as np

from gpugrad.backend import is_cupy


def _kind(xp: Any, a: Any, b: Any) -> str:
    """The kind that two operands meet in, "i" or "f", where one is CuPy's; "" for all else."""
    if xp is np or not (is_cupy(a) or is_cupy(b)):
        return ""
    kinds = {x.dtype.kind if hasattr(x, "dtype") else np.dtype(type(x)).kind for x in (a, b)}
    return "i" if kinds <= set("bui") else "f" if kinds <= set("buif") else ""


def power(xp: Any, a: Any, b: Any) -> Any:
    """``a ** b``; ValueError for whole numbers to negative powers, of which CuPy makes 0."""
    if _kind(xp, a, b) == "i" and bool((b < 0).any() if hasattr(b, "any") else b < 0):
        raise ValueError("Integers to negative integer powers are not allowed.")
    # The operator, not xp.power: NumPy squares and roots by shortcut only there.
    return a**b


def clip(xp: Any, x: Any, low: Any, high: Any) -> Any:
    """``xp.clip``; a bound that is NaN, which CuPy's passes over, gives NaN."""
    return xp.clip(x, low, high) if xp is np else xp.minimum(xp.maximum(x, low), high)


def where(xp: Any, condition: Any, a: Any, b: Any) -> Any:
    """``xp.where``; CuPy's takes no truth that is Python's own."""
    if type(condition) is bool and xp is not np and (is_cupy(a) or is_cupy(b)):
        condition = np.bool_(condition)
    return xp.where(condition, a, b)


def remainder(xp: Any, a: Any, b: Any) -> Any:
    """``xp.remainder``; CuPy's is a − ⌊a / b⌋·b: rounded thrice, and NaN where b is infinite."""
    if _kind(xp, a, b) != "f":
        return xp.remainder(a, b)
    rest = xp.fmod(a, b)
    rest = xp.where(_signs_differ(rest, b), rest + b, rest)
    return xp.where(rest == 0, xp.copysign(rest, b), rest)


def floor_divide(xp: Any, a: Any, b: Any) -> Any:
    """``xp.floor_divide``; CuPy's is ⌊a / b⌋, and 1 / 0.1 rounds up to 10."""
    if _kind(xp, a, b) != "f":
        return xp.floor_divide(a, b)
    rest = xp.fmod(a, b)
    quotient = (a - rest) / b
    quotient = xp.where(_signs_differ(rest, b), quotient - 1, quotient)  # nearly a whole number
    return xp.where(b == 0, a / b, xp.round(quotient))


def _signs_differ(rest: Any, b: Any) -> Any:
    return (rest != 0) & ((rest < 0) != (b < 0))
