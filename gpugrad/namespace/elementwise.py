"""Public elementwise functions: the ops of the same names, for anything that can be an array.

Imports ops and lifting.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpugrad.aval import WEAK
from gpugrad.errors import DtypeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray
from gpugrad.namespace.lifting import together
from gpugrad.ops import elementwise as _declared  # noqa: F401  (declares the ops)
from gpugrad.tensor import Tensor


def operands(*xs: Any) -> Sequence[Any]:
    """What an op takes: tensors, numbers (weak) and NumPy arrays as they are, the rest lifted."""
    lifted = []
    for x in xs:
        if type(x) not in _TAKEN:
            if isinstance(x, (list, tuple)):
                return together(*xs)
            x = asarray(x)
        lifted.append(x)
    return lifted


_TAKEN = {Tensor, np.ndarray, *WEAK}


def _lifted(op: Any, summary: str) -> Callable[..., Tensor]:

    def unary(x: Any, /) -> Tensor:
        return op(x if type(x) is Tensor else asarray(x))  # type: ignore[no-any-return]

    def binary(x1: Any, x2: Any, /) -> Tensor:
        if type(x1) is Tensor and type(x2) is Tensor:
            return op(x1, x2)  # type: ignore[no-any-return]
        x1, x2 = operands(x1, x2)
        if type(x1) is not Tensor and type(x2) is not Tensor:
            x1 = asarray(x1)
        return op(x1, x2)  # type: ignore[no-any-return]

    function: Callable[..., Tensor] = unary if len(op.inputs) == 1 else binary
    function.__name__ = function.__qualname__ = op.name
    function.__module__ = __name__
    function.__doc__ = summary
    return function


_SUMMARIES = {
    "abs": "Absolute value; the derivative at 0 is 0.",
    "acos": "Inverse cosine, in radians; the derivative at ±1 is infinite.",
    "acosh": "Inverse hyperbolic cosine; the derivative at 1 is infinite.",
    "add": "``x1 + x2``.",
    "asin": "Inverse sine, in radians; the derivative at ±1 is infinite.",
    "asinh": "Inverse hyperbolic sine.",
    "atan": "Inverse tangent, in radians.",
    "atan2": "Angle of the point (x2, x1) in radians, in [-π, π]; all derivatives at (0, 0) are 0.",
    "atanh": "Inverse hyperbolic tangent.",
    "bitwise_and": "``x1 & x2``, of integers or booleans.",
    "bitwise_invert": "``~x``, of integers or booleans.",
    "bitwise_left_shift": "``x1 << x2``, of integers.",
    "bitwise_or": "``x1 | x2``, of integers or booleans.",
    "bitwise_right_shift": "``x1 >> x2``, of integers.",
    "bitwise_xor": "``x1 ^ x2``, of integers or booleans.",
    "ceil": "Smallest integer not below x; the derivative is 0.",
    "conj": "Complex conjugate; the identity for real numbers.",
    "copysign": "``|x1|`` with the sign of x2; the derivative at 0 is 0.",
    "cos": "Cosine of x in radians.",
    "cosh": "Hyperbolic cosine.",
    "divide": "``x1 / x2``.",
    "equal": "``x1 == x2``.",
    "exp": "``eˣ``.",
    "expm1": "``eˣ − 1``, accurate near 0.",
    "floor": "Largest integer not above x; the derivative is 0.",
    "floor_divide": "``x1 // x2``; the derivative is 0.",
    "fmod": "Remainder of ``x1 / x2`` with the sign of x1.",
    "gcd": "Greatest common divisor of integers.",
    "greater": "``x1 > x2``.",
    "greater_equal": "``x1 >= x2``.",
    "hypot": "``√(x1² + x2²)`` without overflow; all derivatives at the origin are 0.",
    "imag": "Imaginary part of a complex number.",
    "isfinite": "Whether a value is neither infinite nor NaN.",
    "isinf": "Whether a value is infinite.",
    "isnan": "Whether a value is NaN.",
    "lcm": "Least common multiple of integers.",
    "ldexp": "``x1 · 2ˣ²`` for integers x2.",
    "less": "``x1 < x2``.",
    "less_equal": "``x1 <= x2``.",
    "log": "Natural logarithm.",
    "log10": "Logarithm to base 10.",
    "log1p": "``log(1 + x)``, accurate near 0.",
    "log2": "Logarithm to base 2.",
    "logaddexp": "``log(eˣ¹ + eˣ²)`` without overflow; the derivative where both are −∞ is 0.",
    "logical_and": "Whether both are true.",
    "logical_not": "Whether x is false.",
    "logical_or": "Whether one of both is true.",
    "logical_xor": "Whether exactly one is true.",
    "maximum": "The larger of both; a tie shares the gradient evenly.",
    "minimum": "The smaller of both; a tie shares the gradient evenly.",
    "multiply": "``x1 · x2``.",
    "negative": "``−x``.",
    "nextafter": "The next floating number after x1 towards x2; its derivative is that of x1.",
    "not_equal": "``x1 != x2``.",
    "positive": "``+x``.",
    "pow": """``x1 ** x2``.

    Where x1 is 0 all derivatives in x2 are 0. Where it is negative there is none: `GradientError`,
    or NaN in forward mode, which `where` can discard.
    """,
    "real": "Real part of a complex number; the identity for real numbers.",
    "reciprocal": "``1 / x``.",
    "remainder": "``x1 % x2``, with the sign of x2; at a jump the derivative is that above it.",
    "round": "Nearest integer, halves to even; the derivative is 0.",
    "sigmoid": "``1 / (1 + e⁻ˣ)``, finite and without overflow for every x.",
    "sign": "−1, 0 or 1, of a complex number ``x / |x|``; its derivative is 0 for real x.",
    "signbit": "Whether x is negative, −0 included.",
    "sin": "Sine of x in radians.",
    "sinh": "Hyperbolic sine.",
    "sqrt": "``√x``; the derivative at 0 is infinite, of complex numbers a `GradientError`.",
    "square": "``x²``.",
    "subtract": "``x1 − x2``.",
    "tan": "Tangent of x in radians.",
    "tanh": "Hyperbolic tangent.",
    "trunc": "Integer part of x; the derivative is 0.",
}

_module = sys.modules[__name__]
for _name, _summary in _SUMMARIES.items():
    setattr(_module, _name, _lifted(getattr(ops, _name), _summary))

__all__ = [*_SUMMARIES, "clip", "where"]


def where(condition: Any, x1: Any = None, x2: Any = None, /) -> Any:
    """``x1`` where ``condition``, else ``x2``, all broadcast together.

    The side that was not selected gets a gradient of exactly 0, even where its own derivative is
    infinite or NaN. Without x1 and x2 it is `nonzero`.

    >>> import gpugrad as gg
    >>> x = gg.asarray([0.0, 4.0], requires_grad=True)
    >>> gg.where(x > 0, gg.sqrt(x), 0.0).sum().backward()
    >>> x.grad.tolist()
    [0.0, 0.25]
    """
    if x1 is None and x2 is None:
        return functions.nonzero(condition)
    if x1 is None or x2 is None:
        raise DtypeError(message("where", "takes both branches or none", "one"))
    if not type(condition) is type(x1) is type(x2) is Tensor:
        (condition,), (x1, x2) = operands(condition), operands(x1, x2)
        if not any(type(x) is Tensor for x in (condition, x1, x2)):
            condition = asarray(condition)
    if type(x1) in WEAK and type(x2) in WEAK:
        x1 = asarray(x1)
    return ops.where(condition, x1, x2)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Tensor:
    """``x`` limited to ``min..max``; the gradient passes where x is inside, bounds included.

    >>> import gpugrad as gg
    >>> gg.clip(gg.asarray([-1.0, 0.5, 2.0]), 0, 1).tolist()
    [0.0, 0.5, 1.0]
    """
    values = asarray(x)
    if values.dtype.kind not in "iuf":
        raise DtypeError(message("clip", "only real numbers have an order", values.dtype))
    if min is None and max is None:
        return asarray(values, copy=True)
    if values.dtype.kind == "f":
        lowest, highest = -np.inf, np.inf
    else:
        limits = np.iinfo(values.dtype)
        lowest, highest = int(limits.min), int(limits.max)
    bounds = (lowest if min is None else min, highest if max is None else max)
    return ops.clip(*operands(values, *bounds))
