"""A recorded step: its record, plan and memory, and how it is replayed. Imports the rest here."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.backend import native, twin
from gpugrad.backend.numpy import out_of_range
from gpugrad.compiler.guards import UNSET
from gpugrad.compiler.memory import Memory
from gpugrad.compiler.nodes import STATE_WORDS, Call
from gpugrad.compiler.plan import Grad, Plan
from gpugrad.compiler.record import Record, data_of, is_array
from gpugrad.compiler.segments import Segment
from gpugrad.compiler.trace import Slot
from gpugrad.compiler.views import View
from gpugrad.config import flags
from gpugrad.errors import TraceError, message
from gpugrad.node import Sink
from gpugrad.ops.index import label_error
from gpugrad.ops.update import norm_error
from gpugrad.state import state
from gpugrad.tensor import Tensor


class Uncompiled(TraceError):
    """Why a step has to run as it is written."""

    def __init__(self, reason: str) -> None:
        super().__init__(message("compile", f"the step cannot be one program: {reason}"))
        self.reason = reason


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
        self.record = Record(function, args, kwargs, leaves)
        self.program = self.record.program
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
        self._lock: Any = self.replay or self.memory.lock

    # Preparing

    def _build(self, engine: Any, by_array: bool, moving: bool) -> None:
        plan = self.plan
        self.moving = moving
        self.getters = [get for _, get in self.program.scalars]
        self.draws = plan.lowering.draws
        self.scalars = np.zeros(max(1, len(self.getters) + STATE_WORDS * len(self.draws)))
        self._sent = b""
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
        self._engines = [run for run in self.runs if not isinstance(run, Call)]
        self.memory = Memory(plan, self.place, self._engines, self.numbers, by_array, moving)
        bases = self.memory.bases
        self.slots = [
            (i, slot, i in plan.written, bases["captured"].get(i))
            for i, slot in enumerate(self.program.captured)
        ]
        shapes = [(var.shape, np.dtype(var.dtype)) for _, var in plan.results]
        self.fresh = [
            (shape, dtype, bases["result"].get(i)) for i, (shape, dtype) in enumerate(shapes)
        ]
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

    def _replay(self) -> Any:
        """The whole call in C, for steps that need no Python in between; None for others."""
        plan, record, n = self.plan, self.record, len(self.kinds)
        read = [slot for slot in self.slots if slot[3] is not None]
        plain = all(
            type(slot.holder) is Tensor or not written for _, slot, written, _ in self.slots
        )
        bound = all(base is not None for *_, base in self.fresh)
        if plan.rebound or not (self.flat and plain and bound and self._engines):
            return None
        at = self.memory.bases["arg"]
        one = len(record.results) == 1 and record.is_tensor[0] and record.rebuild([0]) == 0
        return native.Replay(
            tuple(partial(self._call, r) if isinstance(r, Call) else r for r in self.runs),
            Tensor,
            Sink,
            self.memory.bound,
            tuple(
                (kind, at.get(i, -1), np.empty(shape, dtype))
                for i, (kind, shape, dtype) in zip(range(n), self.kinds, strict=True)
            ),
            tuple(
                (slot.holder, slot.node, base, written, _sample(slot))
                for _, slot, written, base in read
            ),
            tuple((place.holder, place.keys, place.values) for place in record.watch.places),
            UNSET,
            tuple(record.empty),
            tuple(self.getters),
            self.scalars.ctypes.data,
            tuple(partial(self._take, k) for k in range(len(self.draws))),
            tuple((partial(np.empty, shape, dtype), base) for shape, dtype, base in self.fresh),
            tuple(record.cleared),
            tuple((sink_of(grad), _Later(self, grad)) for grad in plan.grads),
            tuple(record.effects),
            None if one else record.structured,
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
        if any(sink.grad is not None for sink in self.record.empty):
            return "a gradient that the step adds to is there, and was not before"
        return self.record.watch.changed()

    # Running

    def run(self, arrays: Sequence[Any], leaves: Sequence[Any]) -> Any:
        """Replay on these arguments."""
        with self._lock, self.place.here():
            return self._run(arrays)

    def _run(self, arrays: Sequence[Any]) -> Any:
        memory = self.memory
        for i, at in memory.bases["arg"].items():
            array = arrays[i]
            if not self.moving:
                memory.take_in(at, array)
            elif memory.bound[at] is not array:
                memory.bind(at, array if array.flags.c_contiguous else np.ascontiguousarray(array))
        memory.look_up(self.slots)
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
                memory.bind(base, array)
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
                    self.place.copy_into(array, memory.bound[base].reshape(shape))
        return self._finish(made)

    def _take(self, k: int) -> None:
        """Leave draw ``k`` what its generator is at now; the generator goes on behind it."""
        draw = self.draws[k]
        at = len(self.getters) + STATE_WORDS * k
        words = draw.generator.take(draw.out.size, draw.out.buffer.dtype)
        self.scalars[at : at + STATE_WORDS] = words.view(np.float64)

    def _call(self, node: Call, array: Callable[[View], Any] | None = None) -> None:
        """Run an op's own forward, on the arrays that ``array`` gives for views."""
        array = array or self.memory.array
        values = [array(x) if type(x) is View else x for x in node.inputs]
        with np.errstate(all="ignore"):
            results = node.eqn.op.forward(self.place.xp, *values, **node.eqn.params)
        many = results if isinstance(results, tuple) else (results,)
        for view, result in zip(node.outputs, many, strict=True):
            self.place.copy_into(array(view), result)

    def _finish(self, made: Sequence[Any]) -> Any:
        plan = self.plan
        for slot, buffer in plan.rebound:
            holder: Any = slot.holder
            holder._data = made[buffer.index]
        for sink in self.record.cleared:
            sink.grad = None
        for grad in plan.grads:
            sink_of(grad).grad = _Later(self, grad)
        for effect in self.record.effects:
            effect()
        return self.record.structured(made[len(plan.rebound) :])

    def gradient(self, grad: Grad) -> Tensor:
        """What the latest run computed for a parameter."""
        with self.place.here():
            return self._gradient(grad)

    def _gradient(self, grad: Grad) -> Tensor:
        array = self.memory.array
        if grad.gemm is not None:
            product = self.place.xp.matmul(array(grad.gemm.a), array(grad.gemm.b))
            return Tensor(product.reshape(grad.shape))
        (view,) = grad.views
        rows = self.plan.rows
        split = rows is not None and view.buffer in rows.reduced
        parts = [array(view, t) for t in range(self.plan.threads if split else 1)]
        total = self.memory.copied(parts[0])
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
