"""Made from numbers: ranges, and matrices of ones. Imports `lifting`."""

from typing import Any

import numpy as np

from gpugrad.errors import BoundsError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray
from gpugrad.namespace.lifting import constant, floating, together
from gpugrad.state import state
from gpugrad.tensor import Tensor


def identity(n: int, dtype: Any = None) -> Tensor:
    """The ``n × n`` unit matrix, float32 by default."""
    return functions.eye(n, dtype=dtype)


def tri(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Tensor:
    """Ones at and below the ``k``-th diagonal, zeros above, float32 by default."""
    shape = (N, N if M is None else M)
    return functions.tril(functions.ones(shape, dtype=dtype), k=k)


def line(start: Any, stop: Any, num: int = 50, endpoint: bool = True, axis: int = 0) -> Tensor:
    """`linspace` between tensors: differentiable in both ends, which may have any shape."""
    start, stop = functions.broadcast_arrays(*_ends(start, stop))
    part = _parts(num, endpoint, start)
    y = start * (1 - part) + stop * part
    return functions.moveaxis(y, 0, axis)


def _ends(*ends: Any) -> list[Tensor]:
    """Floating tensors; where none has a dtype, of gpugrad's default one."""
    if not any(hasattr(x, "dtype") for x in ends):
        return [asarray(x, np.float32) for x in ends]
    return [floating(x) for x in together(*ends)]


def _parts(num: int, endpoint: bool, like: Tensor) -> Tensor:
    """0 … 1 in ``num`` steps along a new first axis before those of ``like``."""
    part = np.linspace(0, 1, num, endpoint).astype(like.dtype)
    return constant(part.reshape((num,) + (1,) * like.ndim), like.device)


def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0, axis: int = 0
) -> Tensor:
    """``base`` to the powers ``linspace(start, stop, num)``, differentiable in all three.

    >>> import gpugrad as gg
    >>> gg.logspace(0.0, 2.0, 3).tolist()
    [1.0, 10.0, 100.0]
    """
    start, stop, base = _ends(start, stop, base)
    return functions.moveaxis(ops.pow(base, line(start, stop, num, endpoint)), 0, axis)


def geomspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, axis: int = 0) -> Tensor:
    """``num`` values from ``start`` to ``stop``, each the same multiple of the one before.

    Neither end can be 0: `BoundsError`.
    """
    start, stop = functions.broadcast_arrays(*_ends(start, stop))
    if state.trace is None and bool(functions.any((start == 0) | (stop == 0))):
        rule, got = "no multiple leads to or from 0", f"start: {start}, stop: {stop}"
        raise BoundsError(message("geomspace", rule, got, "gg.linspace"))
    y = start * (stop / start) ** _parts(num, endpoint, start)
    return functions.moveaxis(y, 0, axis)
