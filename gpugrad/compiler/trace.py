"""Tracing: run a function on values that are not there yet, and write down what it does.

A Trace stands in `state.trace`; `bind` hands it every op. Imports tensor, op, check and backend.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import WEAK, Aval, Shape, aval_of
from gpugrad.check import users_line
from gpugrad.errors import DeviceError, TraceError, message
from gpugrad.node import Node, Sink
from gpugrad.state import state
from gpugrad.tensor import Tensor, parts


class Traced:
    """A value of a traced program: what an array will be, without its contents."""

    __slots__ = ("device", "dtype", "eqn", "shape")

    base = True  # nobody may write to it in place

    def __init__(self, shape: Shape, dtype: Any, device: str, eqn: "Eqn | None" = None) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self.eqn = eqn

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def aval(self) -> Aval:
        return Aval(self.shape, self.dtype)

    @property
    def backend(self) -> "_NoValues":
        return _NoValues(self.device)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise _unknown()

    def __getattr__(self, name: str) -> Any:
        raise _MissingError(message("compile", f"a traced value has no {name}", hint=_HINT))


class _MissingError(TraceError, AttributeError):
    """What only an array has was asked of a value that is not there yet."""


_HINT = (
    "gg.where(...) for a branch on a value, and return the tensor from the step to look at it; "
    "it is recorded once and has no values until it runs"
)


class _NoValues:
    """What `backend.of` gives for a traced value: a device, and an error for whoever looks."""

    def __init__(self, device: str) -> None:
        self.device = device
        place = backend.get(device)
        self.xp, self.here = place.xp, place.here

    def to_numpy(self, array: Any) -> Any:
        raise _unknown()

    def asarray(self, obj: Any, dtype: Any = None, copy: bool | None = None) -> Any:
        return backend.get(self.device).asarray(obj, dtype, copy)


def _unknown() -> TraceError:
    rule = f"the value of a tensor was asked for while a step was being traced, at {users_line()}"
    return TraceError(message("compile", rule, hint=_HINT))


class Eqn:
    """One line of a program: ``outputs = op(inputs, params)``; an input is a Traced or a number."""

    __slots__ = ("inputs", "line", "op", "outputs", "params")

    def __init__(self, op: Any, inputs: tuple[Any, ...], params: dict[str, Any]) -> None:
        self.op = op
        self.inputs = inputs
        self.params = params
        self.outputs: tuple[Traced, ...] = ()


class Slot:
    """Where a captured input is found at every call, and where its new value goes.

    ``holder`` is a tensor, or the sink whose gradient is meant.
    """

    __slots__ = ("data", "holder", "leaf", "node", "var")

    def __init__(self, holder: Tensor | Sink, tensor: Tensor | None, var: Traced | None) -> None:
        self.holder = holder
        self.data = None if tensor is None else tensor._data
        self.node = None if tensor is None else tensor._node
        self.leaf = None if tensor is None else tensor._leaf
        self.var = var


class Trace:
    """What one run of a function did: its equations, what it read, and what it rebound."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.eqns: list[Eqn] = []
        self.constants: dict[Traced, Any] = {}
        self.scalars: list[tuple[Traced, Callable[[], float]]] = []
        self.captured: dict[int, Slot] = {}  # by id of the tensor, which the slot keeps alive
        self.assigned: dict[int, tuple[Tensor, Any, Node | None]] = {}
        self.sinks: dict[int, tuple[Sink, Any]] = {}
        self.empty: list[Sink] = []  # sinks that were seen to hold no gradient
        self.effects: list[Callable[[], None]] = []
        self.inputs: list[Traced] = []
        self._counts: dict[Any, int] = {}
        self._kept: list[Any] = []

    # What `bind` and the handles call

    def record(self, op: Any, xs: tuple[Any, ...], params: dict[str, Any]) -> Any:
        """Write ``op`` down; its outputs as tensors, on the tape where gradients are wanted."""
        operands, nodes = [], []
        tracked = 0
        for i, x in enumerate(xs):
            node = None
            if type(x) is Tensor:
                operands.append(self.read(x))
                node = x._node
            elif type(x) in WEAK or type(x) is Traced:
                operands.append(x)
            else:
                operands.append(self._bare(op, x))
            nodes.append(node)
            if node is not None:
                tracked |= 1 << i
        device = self._device_of(op, operands, params)
        out = op.aval(*[aval_of(x) for x in operands], **params)
        eqn = Eqn(op, tuple(operands), params)
        many = not isinstance(out, Aval)
        eqn.outputs = tuple(
            [Traced(a.shape, a.dtype, device, eqn) for a in (out if many else (out,))]
        )
        self.eqns.append(eqn)
        y: Any = eqn.outputs if many else eqn.outputs[0]
        node = None
        if tracked and state.grad and op.rules is not None:
            node = op.record(nodes, list(operands), y, params, tracked)
        return parts(y, node) if many else Tensor(y, node)

    def _device_of(self, op: Any, operands: list[Any], params: dict[str, Any]) -> str:
        """Where the result of ``op`` will be; numbers go where the arrays are."""
        if "device" in params:
            target: str = params["device"]
            return target
        devices = {x.device for x in operands if type(x) is Traced and x.ndim}
        if len(devices) > 1:
            hint = "x.to(device); nothing is copied between devices silently"
            rule = "tensors on different devices"
            raise DeviceError(message(op.name, rule, sorted(devices), hint))
        return devices.pop() if devices else self.device

    def read(self, x: Tensor) -> Traced:
        """The traced value of a tensor; one from before the trace becomes an input."""
        data = x._data
        if type(data) is Traced:
            return data
        slot = self.captured.get(id(x))
        if slot is None:
            if x._node is not None and x._node.op is not None and state.grad:
                rule = "a tensor that was computed outside the step still carries its graph"
                hint = "x.detach(), or compute it inside the step"
                raise TraceError(message("compile", rule, f"{x.shape} at {users_line()}", hint))
            var = Traced(data.shape, data.dtype, x.device)
            slot = self.captured[id(x)] = Slot(x, x, var)
            self._kept.append(x)
        assert slot.var is not None
        return slot.var

    def _bare(self, op: Any, array: Any) -> Traced:
        if np.ndim(array) and not (state.in_backward or state.levels):
            raise self.outside(array)
        return self._constant(np.asarray(array) if isinstance(array, np.generic) else array)

    def outside(self, array: Any) -> TraceError:
        """The error for an array that comes from neither the arguments nor a tensor."""
        rule = "an array that is no argument enters the step, and would stay what it is now"
        hint = "it as an argument of the step, or a tensor made before: t = gg.asarray(a)"
        got = f"{type(array).__name__} of shape {np.shape(array)} at {users_line()}"
        return TraceError(message("compile", rule, got, hint))

    def _constant(self, array: Any) -> Traced:
        owner = backend.of(array)
        var = Traced(array.shape, array.dtype, owner.device)
        self.constants[var] = owner.to_numpy(array)
        return var

    def constant(self, array: Any) -> Tensor:
        """A tensor of a new array, the same at every call."""
        return Tensor(self._constant(array))

    def scalar(self, get: Callable[[], float]) -> Traced:
        """A number that ``get`` gives anew at every call; as weak as a Python float."""
        var = Traced((), float, self.device)
        self.scalars.append((var, get))
        return var

    def count(self, key: Any) -> int:
        """How many times this was asked before, for ``key``."""
        self._counts[key] = self._counts.get(key, -1) + 1
        return self._counts[key]

    def after(self, effect: Callable[[], None]) -> None:
        """Call ``effect`` after every run of the program."""
        self.effects.append(effect)

    def rebinding(self, x: Tensor) -> None:
        """``x`` is about to be pointed at another value."""
        if type(x._data) is not Traced and id(x) not in self.assigned:
            self.assigned[id(x)] = (x, x._data, x._node)
            self._kept.append(x)

    def touch(self, sink: Sink, reads: bool) -> None:
        """The gradient in ``sink`` is about to be read or replaced."""
        if id(sink) in self.sinks:
            return
        before = sink.grad
        self.sinks[id(sink)] = (sink, before)
        if before is None and reads:
            self.empty.append(sink)
        if type(before) is Tensor and type(before._data) is not Traced:
            var = Traced(before.shape, before.dtype, before.device)
            self.captured[id(before)] = Slot(sink, before, var)

    def undo(self) -> None:
        """Everything that was rebound points again at what it did before the trace."""
        for x, data, node in self.assigned.values():
            x._data, x._node = data, node
        for sink, before in self.sinks.values():
            sink.grad = before


@contextmanager
def tracing(trace: Trace) -> Iterator[None]:
    """Ops of this thread go to ``trace`` for the length of the block."""
    before = state.trace, state.special
    state.trace, state.special = trace, True
    try:
        yield
    finally:
        state.trace, state.special = before
