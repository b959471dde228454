"""A recorded step: its program, plan and memory, and how it is replayed. Imports the rest here."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any
from weakref import WeakSet

import numpy as np

from gpugrad import backend
from gpugrad.backend import native, twin
from gpugrad.backend.numpy import out_of_range
from gpugrad.compiler.guards import UNSET, Watch, names_used
from gpugrad.compiler.nodes import STATE_WORDS, Call
from gpugrad.compiler.plan import Grad, Plan
from gpugrad.compiler.program import Program
from gpugrad.compiler.segments import Segment
from gpugrad.compiler.trace import Slot, Trace, Traced, tracing
from gpugrad.compiler.views import View
from gpugrad.config import flags
from gpugrad.errors import GpugradError, GradientError, TraceError, message
from gpugrad.node import Node, Sink
from gpugrad.ops.index import label_error
from gpugrad.ops.update import norm_error
from gpugrad.state import state
from gpugrad.tape import reachable
from gpugrad.tensor import Tensor, sole_owner
from gpugrad.tree import flatten


def is_array(x: Any) -> bool:
    return type(x) is Tensor or isinstance(x, np.ndarray) or backend.is_cupy(x)


def data_of(x: Any) -> Any:
    return x._data if type(x) is Tensor else x


class Uncompiled(TraceError):
    """Why a step has to run as it is written."""

    def __init__(self, reason: str) -> None:
        super().__init__(message("compile", f"the step cannot be one program: {reason}"))
        self.reason = reason


_on_device: WeakSet[Any] = WeakSet()  # recordings


class Recording:
    """One trace of a function: its program and plan, and what must still hold to replay it."""

    def __init__(
        self,
        function: Callable[..., Any],
        threads: int | None,
        args: Any,
        kwargs: Any,
        leaves: Sequence[Any],
    ) -> None:
        self.grad, self.autocast = state.grad, state.autocast
        self.flat = not kwargs and all(map(is_array, args))
        self.leaves = [None if is_array(x) else x for x in leaves]
        self.kinds = [(type(x), data_of(x).shape, data_of(x).dtype) for x in leaves if is_array(x)]
        self.flags = (flags.device, flags.matmul, flags.fuse_products)
        self._trace(function, args, kwargs, leaves)
        devices = self.program.devices or ["cpu"]
        if len(devices) > 1:
            raise Uncompiled(f"it works on several devices, {', '.join(devices)}")
        self.place: Any = backend.get(devices[0])
        on_device = devices[0] != "cpu"
        self.native = not on_device and native.available()
        threads = (threads or native.threads()) if self.native else 1
        at_once = on_device and bool(flags.fuse_products)
        self.plan = Plan(self.program, threads, self.native, on_device, at_once)
        engine: Any = native.Program if self.native else twin.Program
        if on_device:
            place: Any = self.place
            engine = place.program
        self.engine = engine
        self._build(engine, by_array=not self.native, moving=not on_device)
        self.replay = self._replay() if self.native else None
        self._lock: Any = self.replay or threading.Lock()

    # Recording

    def _trace(self, f: Any, args: Any, kwargs: Any, leaves: Sequence[Any]) -> None:
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
            self._refuse(results, trace, leaves, boxes, given)
        finally:
            trace.undo()
        self.results = [None if type(y) is Tensor else y for y in results]
        self.is_tensor = [type(y) is Tensor for y in results]
        self.effects = trace.effects
        self.empty = trace.empty
        self.program = Program(trace, given, outputs, writes, grads).simplify()
        self.watch = self.watch.narrowed(names)

    def _refuse(
        self,
        results: Sequence[Any],
        trace: Trace,
        leaves: Sequence[Any],
        boxes: Sequence[Any],
        arguments: Sequence[Traced],
    ) -> None:
        """Raise for what a replay could not repeat."""
        changed = self.watch.changed()
        if changed:
            self.watch.restore()
            rule = f"the step changes a Python value, which would happen only once: {changed}"
            hint = "to return what is needed and change Python's values outside the step"
            raise TraceError(message("compile", rule, hint=hint))
        drawn = self.watch.drawn()
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

    # Preparing

    def _build(self, engine: Any, by_array: bool, moving: bool) -> None:
        """``moving``: arguments and results are worked on where they lie, at other addresses in
        every run; else at fixed places, as a CUDA graph needs it.
        """
        plan = self.plan
        self.arena = self.place.memory(plan.arena_bytes)
        self.moving = moving
        self.getters = [get for _, get in self.program.scalars]
        self.draws = plan.lowering.draws
        self.scalars = np.zeros(max(1, len(self.getters) + STATE_WORDS * len(self.draws)))
        self._sent = b""
        self._copied_in: set[int] = set()  # memories of arguments that do not stay in one place
        self.numbers: Any = self.scalars if moving else self.place.numbers(len(self.scalars))
        calls = [s.nodes[0] for s in plan.segments if s.mode == "call"]
        read = [v for node in calls for v in (*node.reads, *node.writes)]
        for grad in plan.grads:
            read += grad.reads
        for view in read:
            plan.base(plan.home(view).buffer)
        self.runs: list[Any] = []
        for is_call, group in groupby(plan.segments, lambda s: s.mode == "call"):
            if is_call:
                self.runs += [s.nodes[0] for s in group]
            else:
                self.runs.append(self._engine(engine, list(group)))
        self.memory: list[Any] = [None] * len(plan.bases)
        self._arrays: dict[tuple[View, int], Any] = {}
        # References of our own to a bound array: in `memory`, and whatever the engine keeps.
        self._by_array = by_array
        self._engines = [run for run in self.runs if not isinstance(run, Call)]
        self._held = 1 + sum(getattr(run, "references", 0) for run in self._engines)
        self.bases = {
            kind: {b.index: i for i, b in enumerate(plan.bases) if b is not None and b.kind == kind}
            for kind in ("arg", "captured", "result")
        }
        self._bind(0, self.arena)
        for i, buffer in enumerate(plan.bases):
            if buffer is None:
                continue
            if buffer.kind == "constant":
                self._bind(i, self.place.asarray(plan.lowering.constants[buffer.index]))
            elif buffer.kind == "scalar":
                self._bind(i, self.numbers[buffer.index : buffer.index + 1])
            elif buffer.kind == "draw":
                at = len(self.getters) + STATE_WORDS * buffer.index
                self._bind(i, self.numbers[at : at + STATE_WORDS])
            elif not moving and buffer.kind == "result":
                self._bind(i, self.place.empty((buffer.size,), buffer.dtype))
        self.slots = [
            (i, slot, i in plan.written, self.bases["captured"].get(i))
            for i, slot in enumerate(self.program.captured)
        ]
        shapes = [(var.shape, np.dtype(var.dtype)) for _, var in plan.results]
        self.fresh = [
            (shape, dtype, self.bases["result"].get(i)) for i, (shape, dtype) in enumerate(shapes)
        ]

        # Gradients that nobody has looked at are computed from these.
        self._needed_later = {
            plan.base(plan.home(v).buffer) for grad in plan.grads for v in grad.reads
        }
        if not moving:
            _on_device.add(self)
        if not moving and any(engine.checks for engine in self._engines):
            self.place.on_read.add(self)

    def check(self) -> None:
        """Raise for what was wrong with the data of runs that have finished on the device."""
        for engine in self._engines:
            wrong = engine.wrong()
            if wrong is not None:
                _raise(wrong)

    def _engine(self, engine: Any, segments: Sequence[Segment]) -> Any:
        plain = [(s.mode, tuple(s.instructions), s.batch, s.chunk, s.zeroed) for s in segments]
        return engine(
            tuple(plain), len(self.plan.bases), self.plan.private_bytes, self.plan.threads
        )

    def _bind(self, base: int, array: Any) -> None:
        self.memory[base] = array
        for engine in self._engines:
            engine.bind(base, array if self._by_array else array.ctypes.data)

    def _replay(self) -> Any:
        """The whole call in C, for steps that need no Python in between; None for others."""
        plan, n = self.plan, len(self.kinds)
        read = [slot for slot in self.slots if slot[3] is not None]
        plain = all(
            type(slot.holder) is Tensor or not written for _, slot, written, _ in self.slots
        )
        bound = all(base is not None for *_, base in self.fresh)
        if plan.rebound or not (self.flat and plain and bound and self._engines):
            return None
        at = self.bases["arg"]
        one = len(self.results) == 1 and self.is_tensor[0] and self.rebuild([0]) == 0
        return native.Replay(
            tuple(partial(self._call, r) if isinstance(r, Call) else r for r in self.runs),
            Tensor,
            Sink,
            self.memory,
            tuple(
                (kind, at.get(i, -1), np.empty(shape, dtype))
                for i, (kind, shape, dtype) in zip(range(n), self.kinds, strict=True)
            ),
            tuple(
                (slot.holder, slot.node, base, written, _sample(slot))
                for _, slot, written, base in read
            ),
            tuple((place.holder, place.keys, place.values) for place in self.watch.places),
            UNSET,
            tuple(self.empty),
            tuple(self.getters),
            self.scalars.ctypes.data,
            tuple(partial(self._take, k) for k in range(len(self.draws))),
            tuple((partial(np.empty, shape, dtype), base) for shape, dtype, base in self.fresh),
            tuple(self.cleared),
            tuple((sink_of(grad), _Later(self, grad)) for grad in plan.grads),
            tuple(self.effects),
            None if one else self._structured,
            _raise,
        )

    # Whether it fits

    def accepts(self, args: Sequence[Any]) -> list[Any] | None:
        """The arrays of plain positional arguments when this recording fits them."""
        if not self.flat or len(args) != len(self.kinds) or state.grad is not self.grad:
            return None
        if state.autocast is not self.autocast:
            return None
        if (flags.device, flags.matmul, flags.fuse_products) != self.flags:
            return None
        arrays = []
        for x, (kind, shape, dtype) in zip(args, self.kinds, strict=True):
            if type(x) is not kind:
                return None
            if kind is Tensor:
                if x._node is not None:
                    return None
                x = x._data
            if x.shape != shape or x.dtype != dtype:
                return None
            arrays.append(x)
        return None if self.changed() else arrays

    def changed(self) -> str:
        """What is no longer as it was recorded, in words; empty when all is."""
        for _, slot, *_ in self.slots:
            difference = _slot_changed(slot)
            if difference:
                return difference
        if any(sink.grad is not None for sink in self.empty):
            return "a gradient that the step adds to is there, and was not before"
        return self.watch.changed()

    # Running

    def run(self, arrays: Sequence[Any], leaves: Sequence[Any]) -> Any:
        """Replay on these arguments."""
        with self._lock, self.place.here():
            return self._run(arrays)

    def _run(self, arrays: Sequence[Any]) -> Any:
        for i, at in self.bases["arg"].items():
            array = arrays[i]
            if not self.moving:
                self._take_in(at, array)
            elif self.memory[at] is not array:
                self._bind(at, array if array.flags.c_contiguous else np.ascontiguousarray(array))
        self._look_up()
        for i, get in enumerate(self.getters):
            self.scalars[i] = get()
        for k in range(len(self.draws)):
            self._take(k)
        if not self.moving and self.scalars.tobytes() != self._sent:
            self.place.send(self.scalars, self.numbers)
            self._sent = self.scalars.tobytes()
        made = []
        for shape, dtype, base in self.fresh:
            array = self.place.empty(shape, dtype)
            made.append(array)
            if base is not None and self.moving:
                self._bind(base, array)
        for run in self.runs:
            if isinstance(run, Call):
                self._call(run)
                continue
            wrong = run.run()
            if wrong is not None:
                _raise(wrong)
        if not self.moving:
            for array, (shape, _, base) in zip(made, self.fresh, strict=True):
                if base is not None:
                    self.place.copy_into(array, self.memory[base].reshape(shape))
        return self._finish(made)

    def _take(self, k: int) -> None:
        """Leave draw ``k`` what its generator is at now; the generator goes on behind it."""
        draw = self.draws[k]
        at = len(self.getters) + STATE_WORDS * k
        words = draw.generator.take(draw.out.size, draw.out.buffer.dtype)
        self.scalars[at : at + STATE_WORDS] = words.view(np.float64)

    def _take_in(self, base: int, array: Any) -> None:
        """An argument that lies where it lay before is used there; one that moves is copied in."""
        if base not in self._copied_in:
            bound, place = self.memory[base], self.place
            if array.flags.c_contiguous and (
                bound is None or place.address(bound) == place.address(array)
            ):
                if bound is not array:
                    self._bind(base, array)
                return
            self._copied_in.add(base)
            self._bind(base, place.empty(array.shape, array.dtype))
        self.place.copy_into(self.memory[base], array)

    def _look_up(self) -> None:
        for _, slot, written, base in self.slots:
            if base is None:
                continue
            held: Any = slot.holder
            holder = held if type(held) is Tensor else held.look()
            array = holder._data
            bound = self.memory[base]
            # References of our own: what is bound, and variables here.
            ours = self._held + 2 if array is bound else 1
            if written and not self.moving and not sole_owner(holder, ours):
                self._have_let_go(array)
            if not written or sole_owner(holder, ours):
                if array is not bound and array.flags.c_contiguous:
                    self._bind(base, array)
                if self.memory[base] is array:
                    continue
            copy = self._copied(array)
            if written:  # somebody else can see the old values
                holder._data = copy
            self._bind(base, copy)

    def _have_let_go(self, array: Any) -> None:
        """Have other recordings hold ``array`` no longer.

        Steps take turns on the same parameters where the last batch of an epoch is smaller: copies
        at each turn would move them, and with them every graph.
        """
        for other in list(_on_device):
            if other is not self:
                other.let_go(array)

    def let_go(self, array: Any) -> None:
        """Hold a tensor's array no longer, if no run is under way: the next one looks it up."""
        if self._lock.acquire(blocking=False):
            try:
                for base in set(self.bases["captured"].values()) - self._needed_later:
                    if self.memory[base] is array:
                        self.memory[base] = None
                        for engine in self._engines:
                            engine.let_go(base)
            finally:
                self._lock.release()

    def _copied(self, array: Any) -> Any:
        copy = self.place.empty(array.shape, array.dtype)
        self.place.copy_into(copy, array)
        return copy

    def _call(self, node: Call, array: Callable[[View], Any] | None = None) -> None:
        """Run an op's own forward, on the arrays that ``array`` gives for views."""
        array = array or self._array
        values = [array(x) if type(x) is View else x for x in node.inputs]
        with np.errstate(all="ignore"):
            results = node.eqn.op.forward(self.place.xp, *values, **node.eqn.params)
        many = results if isinstance(results, tuple) else (results,)
        for view, result in zip(node.outputs, many, strict=True):
            self.place.copy_into(array(view), result)

    def _array(self, view: View, thread: int = 0) -> Any:
        """The values of ``view``, as an array on the memory that is bound now."""
        array = self._arrays.get((view, thread))
        if array is None:
            array = self.array_on(self.memory, view, thread)
            if self.plan.home(view).buffer.kind == "temp":  # always in the arena
                self._arrays[view, thread] = array
        return array

    def array_on(self, memories: Sequence[Any], view: View, thread: int = 0) -> Any:
        """The values of ``view`` where ``memories`` stand for the plan's bases."""
        plan = self.plan
        private = plan.rows is not None and plan.rows.is_private(view.buffer)
        buffer = view.buffer if private else plan.home(view).buffer
        start = plan.offset.get(buffer, 0) + (thread * plan.private_bytes if private else 0)
        size = buffer.dtype.itemsize
        memory = memories[plan.base(buffer)]
        steps = tuple(s * size for s in view.strides)
        start += view.offset * size
        return self.place.view(memory, start, view.shape, buffer.dtype, steps)

    def _finish(self, made: Sequence[Any]) -> Any:
        plan = self.plan
        for slot, buffer in plan.rebound:
            holder: Any = slot.holder
            holder._data = made[buffer.index]
        for sink in self.cleared:
            sink.grad = None
        for grad in plan.grads:
            sink_of(grad).grad = _Later(self, grad)
        for effect in self.effects:
            effect()
        return self._structured(made[len(plan.rebound) :])

    def _structured(self, made: Sequence[Any]) -> Any:
        """What the function returns, with these arrays as its tensors."""
        values = iter(made)
        filled = [
            Tensor(next(values)) if tensor else y
            for y, tensor in zip(self.results, self.is_tensor, strict=True)
        ]
        return self.rebuild(filled)

    def gradient(self, grad: Grad) -> Tensor:
        """What the latest run computed for a parameter."""
        with self.place.here():
            return self._gradient(grad)

    def _gradient(self, grad: Grad) -> Tensor:
        if grad.gemm is not None:
            product = self.place.xp.matmul(self._array(grad.gemm.a), self._array(grad.gemm.b))
            return Tensor(product.reshape(grad.shape))
        (view,) = grad.views
        rows = self.plan.rows
        split = rows is not None and view.buffer in rows.reduced
        parts = [self._array(view, t) for t in range(self.plan.threads if split else 1)]
        total = self._copied(parts[0])
        for part in parts[1:]:
            total += part
        return Tensor(total.reshape(grad.shape))

    # In words

    def stats(self) -> dict[str, Any]:
        plan = self.plan
        modes = [segment.mode for segment in plan.segments]
        native_ops = [node for s in plan.segments if s.mode != "call" for node in s.nodes]
        return {
            "ops": self.program.traced,
            "equations": len(self.program.eqns),
            "steps": len(native_ops) + modes.count("call"),
            "calls": modes.count("call"),
            "segments": modes,
            "fused": [node.label for node in native_ops],
            "not fused": dict(plan.lowering.unfused),
            "arena_bytes": plan.arena_bytes,
            "threads": plan.threads,
            "kernels": self._kernels(),
        } | self._captured()

    def _kernels(self) -> str:
        if self.native:
            return "native"
        if not self.moving:
            return "cuda"
        return f"numpy ({native.why_not()})"

    def _captured(self) -> dict[str, Any]:
        """How much of the step is in CUDA graphs, and what keeps the rest out."""
        if self.moving:
            return {}
        launches = Counter(kind for engine in self._engines for kind in engine.kinds)
        own: dict[str, Any] = {"graphs": sum(engine.captured for engine in self._engines)}
        own["launches"] = dict(launches)
        reasons = {engine.why_uncaptured for engine in self._engines} - {""}
        return own | ({"not captured": sorted(reasons)} if reasons else {})


def _raise(wrong: Any) -> None:
    """Raise for what an engine found: ("label", value, classes), ("index", value, size) or
    ("finite", bits, 0).
    """
    kind, value, limit = wrong
    if kind == "finite":
        raise norm_error(float(np.int64(value).view(np.float64)))
    if kind == "index":
        raise out_of_range("index", value, value, limit)
    raise label_error("cross_entropy", value, limit)


def _traced_call(f: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        return f(*args, **kwargs)
    except (TypeError, AttributeError) as error:
        if isinstance(error, GpugradError) or "'Traced'" not in str(error):
            raise
        rule = f"the step does what needs values, which are not there while it is recorded: {error}"
        hint = "the step uncompiled, or this part of it outside"
        raise TraceError(message("compile", rule, hint=hint)) from error


class _Later:
    """A gradient that nobody has looked at yet."""

    __slots__ = ("grad", "recording")

    def __init__(self, recording: Recording, grad: Grad) -> None:
        self.recording = recording
        self.grad = grad

    def __call__(self) -> Tensor:
        return self.recording.gradient(self.grad)


def _sample(slot: Slot) -> Any:
    """An array as the gradient in a sink has to be; None for a tensor, whose array is known."""
    if type(slot.holder) is Tensor or slot.var is None:
        return None
    return np.empty(slot.var.shape, slot.var.dtype)


def sink_of(grad: Grad) -> Sink:
    sink = grad.slot.holder
    assert isinstance(sink, Sink)
    return sink


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


def _slot_changed(slot: Slot) -> str:
    holder = slot.holder
    if type(holder) is Tensor:
        if holder._node is not slot.node:
            return "a tensor of the step has joined or left the tape"
        tensor: Any = holder
    else:
        tensor = holder.look()  # type: ignore[union-attr]
        if tensor is None:
            return "a gradient that the step reads is not there"
    var = slot.var
    assert var is not None
    if tensor._data.shape != var.shape or tensor._data.dtype != var.dtype:
        now = f"{tensor.shape} {tensor.dtype}"
        return f"a tensor of the step went from {var.shape} {var.dtype} to {now}"
    return ""
