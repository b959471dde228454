"""GPUGRAD_CHECK: stop where a NaN or Inf first appears, and where a borrowed array was changed.

Imports errors, backend and tensor.
"""

import sys
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import WEAK
from gpugrad.errors import GradientError, NonFiniteError, message
from gpugrad.node import Node, concrete
from gpugrad.state import state
from gpugrad.tensor import Tensor

_HERE = __file__.rpartition("check.py")[0]
_NUMPY = np.__file__.rpartition("__init__.py")[0]


def users_line() -> str:
    """``file:line`` of the innermost frame that is neither ours nor NumPy's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_HERE, _NUMPY)):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def called_at(node: Node) -> str:
    """Where a node's op was called, if that was noted."""
    trail = getattr(node, "trail", None)
    return "" if trail is None else f", called at {trail[0]}"


def after(op: Any, xs: tuple[Any, ...], y: Any) -> None:
    """Look at what a forward op gave; note where it was called and what it saved."""
    if state.in_backward:
        return
    outputs = [part for part in (y if type(y) is tuple else (y,)) if type(part) is Tensor]
    if not outputs:
        return
    line = users_line()
    for part in outputs:
        if not _finite(part):
            raise _non_finite(op, xs, part, line)
    node = outputs[0]._node
    if node is not None:
        if type(y) is tuple:
            (node,) = node.parents
        if node is not None:
            node.trail = (line, _checksums(node.saved))


def before(node: Node) -> None:
    """Compare what a node saved with what it was."""
    trail = getattr(node, "trail", None)
    if trail is not None and _checksums(node.saved) != trail[1]:
        rule = "an array changed between forward and backward, so the gradient would be wrong"
        hint = "gg.tensor(a), which copies, or a change after backward()"
        got = f"an input or output of {node.op.name}{called_at(node)}"
        raise GradientError(message("backward", rule, got, hint))


def _finite(x: Any) -> bool:
    data = concrete(x._data) if type(x) is Tensor else np.asarray(x) if type(x) in WEAK else x
    if getattr(data, "dtype", np.dtype(bool)).kind not in "fc":
        return True
    return bool(backend.of(data).xp.isfinite(data).all())


def _non_finite(op: Any, xs: tuple[Any, ...], y: Tensor, line: str) -> NonFiniteError:
    given = ", ".join(f"{tuple(x.shape)} {x.dtype}" if hasattr(x, "shape") else repr(x) for x in xs)
    data = concrete(y._data)
    xp = backend.of(data).xp
    what = "NaN" if bool(xp.isnan(data).any()) else "Inf"
    origin = "out of finite inputs" if all(map(_finite, xs)) else "its inputs had it already"
    rule = f"the first {what} of the forward pass is in this output of shape {y.shape} ({origin})"
    return NonFiniteError(message(op.name, rule, f"inputs {given} at {line}"))


def _checksums(saved: Any) -> tuple[int, ...]:
    values: list[Any] = []
    for value in saved or ():
        values.extend(value if type(value) is tuple else (value,))
    arrays = [concrete(value) for value in values if hasattr(value, "shape")]
    hosts = [np.ascontiguousarray(backend.of(a).to_numpy(a)) for a in arrays]
    return tuple(hash(host.tobytes()) for host in hosts)
