"""NumPy's names beyond the array API, composed of functions that differentiate already.

Signatures and defaults are NumPy's; ``out``, ``where`` and ``initial`` are not taken, and what
NumPy has behind them is keyword-only. One room a family; they import creation, ops, aval, backend
and errors.
"""

from typing import Any

from gpugrad.late import functions
from gpugrad.namespace.numpy import (
    arranging,
    calculus,
    choosing,
    counting,
    elementwise,
    joining,
    order,
    polynomials,
    ranges,
    sets,
    statistics,
    writing,
)
from gpugrad.namespace.numpy.arranging import *  # noqa: F403
from gpugrad.namespace.numpy.calculus import *  # noqa: F403
from gpugrad.namespace.numpy.choosing import *  # noqa: F403
from gpugrad.namespace.numpy.counting import *  # noqa: F403
from gpugrad.namespace.numpy.elementwise import *  # noqa: F403
from gpugrad.namespace.numpy.joining import *  # noqa: F403
from gpugrad.namespace.numpy.order import *  # noqa: F403
from gpugrad.namespace.numpy.polynomials import *  # noqa: F403
from gpugrad.namespace.numpy.ranges import *  # noqa: F403
from gpugrad.namespace.numpy.sets import *  # noqa: F403
from gpugrad.namespace.numpy.statistics import *  # noqa: F403
from gpugrad.namespace.numpy.writing import *  # noqa: F403

_ROOMS = (
    *(arranging, calculus, choosing, counting, elementwise, joining, order),
    *(polynomials, ranges, sets, statistics, writing),
)

# Other names of functions there are
ALIASES = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "bitwise_not": "bitwise_invert",
    "fix": "trunc",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "mod": "remainder",
    "power": "pow",
    "right_shift": "bitwise_right_shift",
    "rint": "round",
    "true_divide": "divide",
}

__all__ = [*ALIASES, *(name for room in _ROOMS for name in room.__all__)]


def __getattr__(name: str) -> Any:
    if name in ALIASES:  # looked up late: what they stand for may be declared after this module
        return getattr(functions, ALIASES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
