"""A record: a function run once, on tensors that have no values. Imports guards, program and trace.

What it did becomes a program; what a replay could not repeat is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.compiler.guards import Watch, names_used
from gpugrad.compiler.program import Program
from gpugrad.compiler.trace import Slot, Trace, Traced, tracing
from gpugrad.config import flags
from gpugrad.errors import GpugradError, GradientError, TraceError, message
from gpugrad.node import Node, Sink
from gpugrad.tape import reachable
from gpugrad.tensor import Tensor
from gpugrad.tree import flatten


def is_array(x: Any) -> bool:
    return type(x) is Tensor or isinstance(x, np.ndarray) or backend.is_cupy(x)


def data_of(x: Any) -> Any:
    return x._data if type(x) is Tensor else x


class Record:
    """What one run of a function did: its program, what it returned, and what it saw of Python."""

    def __init__(self, f: Any, args: Any, kwargs: Any, leaves: Sequence[Any]) -> None:
        devices = [backend.of(data_of(x)).device for x in leaves if is_array(x)]
        trace = Trace(devices[0] if devices else flags.device)
        given: list[Traced] = []
        boxes: list[Any] = []
        for x in leaves:
            if is_array(x):
                data = data_of(x)
                var = Traced(tuple(data.shape), data.dtype, backend.of(data).device)
                given.append(var)
                boxes.append(Tensor(var))
            else:
                boxes.append(x)
        _, rebuild = flatten((args, kwargs))
        inner_args, inner_kwargs = rebuild(boxes)
        self.watch = Watch([f, *[x for x in leaves if not is_array(x)]])
        try:
            with tracing(trace), names_used() as names:
                out = _traced_call(f, inner_args, inner_kwargs)
                results, self.rebuild = flatten(out)
                outputs = [trace.read(y) for y in results if type(y) is Tensor]
                writes = [
                    (trace.captured.get(i) or _unread(x, old), trace.read(x))
                    for i, (x, *old) in trace.assigned.items()
                ]
                grads, self.cleared = _gradients(trace)
            _refuse(self.watch, results, trace, leaves, boxes, given)
        finally:
            trace.undo()
        self.results = [None if type(y) is Tensor else y for y in results]
        self.is_tensor = [type(y) is Tensor for y in results]
        self.effects = trace.effects
        self.empty = trace.empty
        self.program = Program(trace, given, outputs, writes, grads).simplify()
        self.watch = self.watch.narrowed(names)

    def structured(self, made: Sequence[Any]) -> Any:
        """What the function returns, with these arrays as its tensors."""
        values = iter(made)
        filled = [
            Tensor(next(values)) if tensor else y
            for y, tensor in zip(self.results, self.is_tensor, strict=True)
        ]
        return self.rebuild(filled)


def _refuse(
    watch: Watch,
    results: Sequence[Any],
    trace: Trace,
    leaves: Sequence[Any],
    boxes: Sequence[Any],
    arguments: Sequence[Traced],
) -> None:
    """Raise for what a replay could not repeat."""
    changed = watch.changed()
    if changed:
        watch.restore()
        rule = f"the step changes a Python value, which would happen only once: {changed}"
        hint = "to return what is needed and change Python's values outside the step"
        raise TraceError(message("compile", rule, hint=hint))
    drawn = watch.drawn()
    if drawn:
        rule = f"the step draws from {drawn}, which would happen only once"
        hint = "a gg.random.Generator, which draws anew at every call"
        raise TraceError(message("compile", rule, hint=hint))
    given = iter(arguments)
    for x, boxed in zip(leaves, boxes, strict=True):
        if is_array(x) and boxed._data is not next(given):
            rule = "the step writes to an argument in place"
            hint = "x = x + 1 inside the step instead, and return it"
            raise TraceError(message("compile", rule, f"{np.shape(x)}", hint))
    for y in results:
        if type(y) is Tensor and y._node is not None and _open(y._node):
            rule = "a result still carries its graph, which a replay does not record"
            hint = "y.detach(), a step that calls backward() itself, or with gg.no_grad()"
            raise TraceError(message("compile", rule, f"a result of shape {y.shape}", hint))
    for x, *_ in trace.assigned.values():
        if x._node is not None and x._node is not x._leaf and _open(x._node):
            rule = "a tensor from outside is rebound to a value that still carries its graph"
            hint = "x.detach() before it is kept for the next step"
            raise TraceError(message("compile", rule, f"shape {x.shape}", hint))


def _traced_call(f: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        return f(*args, **kwargs)
    except (TypeError, AttributeError) as error:
        if isinstance(error, GpugradError) or "'Traced'" not in str(error):
            raise
        rule = f"the step does what needs values, which are not there while it is recorded: {error}"
        hint = "the step uncompiled, or this part of it outside"
        raise TraceError(message("compile", rule, hint=hint)) from error


def _gradients(trace: Trace) -> tuple[list[tuple[Slot, Traced]], list[Sink]]:
    """Sinks that the trace left a gradient in, and those it emptied."""
    kept, cleared = [], []
    for sink, before in trace.sinks.values():
        now = sink.grad
        if now is None:
            cleared.append(sink)
        elif now is not before:
            assert type(now) is Tensor
            kept.append((Slot(sink, None, None), trace.read(now)))
    return kept, cleared


def _unread(x: Tensor, old: Sequence[Any]) -> Slot:
    """The place of a tensor that is rebound without having been read."""
    slot = Slot(x, None, None)
    slot.data, slot.node = old
    return slot


def _open(node: Node) -> bool:
    """Whether a graph is still there: backward could go through it."""
    try:
        reachable([node])
    except GradientError:
        return False
    return True
