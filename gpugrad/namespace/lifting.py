"""What NumPy's callers write as tensors: numbers, nested lists, optional axes. Imports creation."""

from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import WEAK
from gpugrad.config import flags
from gpugrad.late import functions
from gpugrad.namespace.creation import asarray, astype
from gpugrad.state import state
from gpugrad.tensor import Tensor, made

Axis = int | tuple[int, ...] | None


def together(*arrays: Any) -> list[Tensor]:
    """``arrays`` as tensors; numbers written in Python take the dtype of those that have one.

    Alone they would become float32, and 0.1 in float32 is not 0.1 beside a float64 tensor.
    """
    if all(hasattr(x, "dtype") for x in arrays):
        return [x if type(x) is Tensor else asarray(x) for x in arrays]
    typed = [x for x in leaves(arrays) if hasattr(x, "dtype")]
    if not typed:
        return [asarray(x) for x in arrays]
    common = np.result_type(*[x.dtype for x in typed])
    device = next((x.device for x in typed if isinstance(x, Tensor)), None)
    return [
        asarray(x) if hasattr(x, "dtype") else _beside(as_written(x, common), device)
        for x in arrays
    ]


def _beside(x: Any, device: str | None) -> Tensor:
    """What is left of a list: an array of its numbers, or a list that holds tensors."""
    return constant(x, device) if isinstance(x, np.ndarray) else asarray(x, device=device)


def constant(values: Any, device: str | None) -> Tensor:
    """An array that a function makes itself, of shapes and written numbers alone.

    In a step that is being traced it is a constant, where any other array would have to be an
    argument.
    """
    return made(backend.get(flags.device if device is None else device).asarray(values))


def as_written(x: Any, dtype: Any) -> Any:
    """Python numbers, also in nested lists, as an array: their values weak beside ``dtype``."""
    kinds = set(map(type, leaves(x)))
    if not kinds or not kinds <= WEAK.keys():
        return x
    widest = max(kinds, key=_WIDTH.index)
    return np.asarray(x, np.result_type(dtype, WEAK[widest]))


_WIDTH = list(WEAK)


def leaves(x: Any) -> list[Any]:
    """What stands in nested lists, in order."""
    return [leaf for part in x for leaf in leaves(part)] if isinstance(x, (list, tuple)) else [x]


def floating(x: Any) -> Tensor:
    """``x`` as a floating tensor; integers become float64, as where NumPy divides them."""
    x = asarray(x)
    return x if x.dtype.kind in "fc" else astype(x, np.float64)


def along(axis: int, *at: Any) -> tuple[Any, ...]:
    return (slice(None),) * axis + at


def flat_unless(a: Any, axis: int | None) -> tuple[Tensor, int]:
    x = asarray(a)
    return (functions.reshape(x, (-1,)), 0) if axis is None else (x, axis)


def host(x: Any) -> Any:
    """A tensor's values as a NumPy array, off the tape; anything else as it is."""
    if isinstance(x, Tensor):
        return x.detach().to("cpu").numpy()
    if state.trace is not None and isinstance(x, np.ndarray):
        raise state.trace.outside(x)
    return x
