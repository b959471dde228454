"""Planning: order, in-place writes, memory, and how the work is cut over threads. Imports lower.

A plan is a list of segments; those that are not single Python calls are instructions for the
native core (kernels/cpu) or its NumPy twin (backend/twin.py).
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from gpugrad.compiler.emit import Emitter
from gpugrad.compiler.lower import Lowering
from gpugrad.compiler.nodes import (
    Call,
    Chain,
    Concat,
    Copy,
    Gemm,
    Node,
)
from gpugrad.compiler.program import Program
from gpugrad.compiler.rows import SERIAL_FLOP, Rows, flop
from gpugrad.compiler.trace import Slot, Traced
from gpugrad.compiler.views import Buffer, View, in_rows, whole

_ALIGN = 64

# Memory that is used again orders what could run side by side. This much stays in any GPU's L2.
_APART_BYTES = 16 << 20
_FAR = 64  # how many groups are looked back for a chain of the same code
_NARROW = 128  # columns of a layer that a launch takes together with others


class Segment(NamedTuple):
    """Instructions that run together, or one call of an op's forward."""

    mode: str  # serial, rows, split, call
    instructions: list[Any]
    nodes: list[Node]
    batch: int = 0
    chunk: int = 0
    zeroed: tuple[tuple[int, int, int], ...] = ()  # (offset, bytes, base) of accumulators


class Grad(NamedTuple):
    """How to compute a gradient after a run: a sum of views, or a product of two."""

    slot: Slot
    views: tuple[View, ...]
    gemm: Gemm | None
    shape: tuple[int, ...]

    @property
    def reads(self) -> tuple[View, ...]:
        return self.views if self.gemm is None else (self.gemm.a, self.gemm.b)


class Plan:
    """What to run for a program. ``bases`` lists the memory it addresses, the arena first."""

    def __init__(
        self,
        program: Program,
        threads: int,
        native: bool,
        side_by_side: bool = False,
        layers_at_once: bool = False,
    ) -> None:
        """``side_by_side``: for a device that runs several nodes at once. Where the order allows
        it chains of one code follow one another, and a small arena uses no memory twice.
        ``layers_at_once``: for one that runs several narrow layers in one launch.
        """
        self.program = program
        self.side_by_side = side_by_side
        self.threads = threads
        self.lowering = low = Lowering(program)
        self.nodes = low.nodes
        self.alias: dict[Buffer, Buffer] = {}  # a value that is written straight to its place
        self.results: list[tuple[Buffer, Traced]] = []
        self.rebound: list[tuple[Slot, Buffer]] = []  # new values that need memory of their own
        self.written: set[int] = set()  # captured inputs that are overwritten
        self.bases: list[Buffer | None] = [None]
        self._index: dict[Buffer, int] = {}
        self._after: dict[int, list[Node]] = {}  # by id: nodes that must run before
        self.offset: dict[Buffer, int] = {}
        self.private_bytes = 0
        self._place_results()
        self.nodes = self._ordered(self.nodes)
        self.rows = Rows(self) if native and threads > 1 else None
        if self.rows is not None and not self.rows.worth_it():
            self.rows = None
        self.folded: dict[Buffer, Gemm] = {}
        if self.rows is None:
            self._fold_updates()
        else:
            self._gather(self.rows)
        if side_by_side:
            self.nodes = self._side_by_side(self.nodes)
        if layers_at_once:
            self.nodes = self._weights_last(self.nodes)
        self.grads = self._gradients()
        self.segments: list[Segment] = []
        if self.rows is not None:
            self._by_rows(self.rows)
        else:
            self._by_layers()

    # Where results go

    def _place_results(self) -> None:
        program, low = self.program, self.lowering
        numbers = {id(slot): i for i, slot in enumerate(program.captured)}
        readers: dict[Buffer, list[Node]] = {}
        for node in low.nodes:
            for view in node.reads:
                readers.setdefault(view.buffer, []).append(node)
        targets = []
        for slot, var in program.writes:
            i = numbers.get(id(slot))
            same = slot.var is not None and slot.var.aval == var.aval
            if i is None or not same or slot.var is None:
                target = Buffer("result", var.dtype, math.prod(var.shape), len(self.results))
                self.results.append((target, var))
                self.rebound.append((slot, target))
                targets.append((var, target))
            elif slot.var is not var:
                self.written.add(i)
                targets.append((var, low.at(slot.var).buffer))
        # A value that is itself about to be overwritten is put aside first.
        for k, (var, target) in enumerate(targets):
            source = low.at(var)
            if source.buffer.kind == "captured":
                aside = whole(Buffer("temp", var.dtype, source.size), var.shape)
                low.add(Copy(source, aside))
                low.view[var] = aside
            targets[k] = (var, target)
        for var, target in targets:
            self._send(low.at(var), target, readers)
        for var in program.outputs:
            target = Buffer("result", var.dtype, math.prod(var.shape), len(self.results))
            self.results.append((target, var))
            self._send(low.at(var), target, readers)

    def _send(self, source: View, target: Buffer, readers: dict[Buffer, list[Node]]) -> None:
        """Have ``source`` computed right into ``target`` if that is safe, else copied there."""
        low = self.lowering
        if in_rows(source.strides, source.shape) is None:
            source = low.dense(source)
        maker = low.maker.get(source.buffer)
        place = whole(target, source.shape)
        old = readers.get(target, [])
        if (
            source.buffer.kind == "temp"
            and source.buffer not in self.alias
            and source.contiguous
            and source.size == source.buffer.size
            and maker is not None
            and not isinstance(maker, Call)
            and not (isinstance(maker, Gemm) and maker in old)
            and _in_step(maker, target, source)
            and not low.leads(maker, [n for n in old if n is not maker])
        ):
            self.alias[source.buffer] = target
            self._after.setdefault(id(maker), []).extend(n for n in old if n is not maker)
            return
        copy = Copy(source, place)
        copy.place = len(self.program.eqns)
        low.nodes.append(copy)
        self._after.setdefault(id(copy), []).extend(old)

    # Order

    def _ordered(self, nodes: Sequence[Node]) -> list[Node]:
        """Dependencies first; among what is ready, calls first, then as it was written."""
        maker = self.lowering.maker
        waiting: dict[int, set[int]] = {}
        next_of: dict[int, list[Node]] = {}
        for node in nodes:
            before = [maker.get(v.buffer) for v in node.reads] + self._after.get(id(node), [])
            ids = {id(b) for b in before if b is not None and b is not node}
            waiting[id(node)] = ids
            for i in ids:
                next_of.setdefault(i, []).append(node)
        rank = {id(node): i for i, node in enumerate(nodes)}

        def key(node: Node) -> tuple[bool, int, int]:
            return (not isinstance(node, Call), node.place, rank[id(node)])

        ready = sorted((n for n in nodes if not waiting[id(n)]), key=key)
        order: list[Node] = []
        while ready:
            node = ready.pop(0)
            order.append(node)
            fresh = []
            for other in next_of.get(id(node), []):
                waiting[id(other)].discard(id(node))
                if not waiting[id(other)]:
                    fresh.append(other)
            if fresh:
                ready = sorted([*ready, *fresh], key=key)
        assert len(order) == len(nodes), "a circle in the plan"
        return order

    def _side_by_side(self, nodes: Sequence[Node]) -> list[Node]:
        """Chains of one code together, so that memory is laid out for one launch of all."""
        groups: list[list[Node]] = []
        for node in nodes:
            for group in reversed(groups[-_FAR:]):
                if any(self._in_the_way(one, node) for one in group):
                    groups.append([node])
                    break
                if isinstance(node, Chain) and group[0].label == node.label and node.label:
                    group.append(node)
                    break
            else:
                groups.append([node])
        return [node for group in groups for node in group]

    def _weights_last(self, nodes: Sequence[Node]) -> list[Node]:
        """Gradients of narrow weights after those between layers, which then follow one another.

        What they read lives longer for it.
        """
        order: list[Node] = []
        late: list[Node] = []
        for node in nodes:
            if isinstance(node, Gemm) and node.a.shape[1] > max(node.c.shape) <= _NARROW:
                late.append(node)
                continue
            due = [i + 1 for i, one in enumerate(late) if self._in_the_way(one, node)]
            count = max(due, default=0)
            order += [*late[:count], node]
            late = late[count:]
        return order + late

    def _in_the_way(self, earlier: Node, later: Node) -> bool:
        """Whether ``later`` cannot come before ``earlier``."""

        def buffers(views: Iterable[View]) -> set[Buffer]:
            return {self.home(view).buffer for view in views}

        reads, writes = buffers(later.reads), buffers(later.writes)
        before = buffers(earlier.writes)
        return not (before.isdisjoint(reads | writes) and writes.isdisjoint(buffers(earlier.reads)))

    # Updates that ride on the product that makes their gradient

    def _fold_updates(self) -> None:
        """``p − lr·(a @ b)`` written to p becomes one product with beta = 1."""
        low = self.lowering
        readers: dict[Buffer, list[Node]] = {}
        for node in self.nodes:
            for view in node.reads:
                readers.setdefault(view.buffer, []).append(node)
        for node in list(self.nodes):
            match = _sgd_update(node) if isinstance(node, Chain) else None
            if match is None:
                continue
            p, rate, factor, g = match
            (target,) = [self.alias.get(view.buffer) for view in node.writes]
            gemm = low.maker.get(g.buffer)
            if target is not p.buffer or not isinstance(gemm, Gemm) or gemm.beta or gemm.count > 1:
                continue
            if readers[g.buffer] != [node] or g.buffer in self.alias or not g.contiguous:
                continue
            if gemm.c.size != g.size or g.offset or g.buffer.dtype != p.buffer.dtype:
                continue
            if low.leads(gemm, [n for n in readers[p.buffer] if n is not node]):
                continue
            self.folded[g.buffer] = Gemm(gemm.a, gemm.b, gemm.c)
            gemm.alpha, gemm.scale, gemm.beta = -factor, rate, 1.0
            gemm.c = View(p.buffer, gemm.c.shape, gemm.c.strides, 0)
            self.nodes.remove(node)
            for view in node.writes:
                low.maker[view.buffer] = gemm
            self._after.setdefault(id(gemm), []).extend(
                [n for n in readers[p.buffer] if n is not node]
            )
        if self.folded:
            self.nodes = self._ordered(self.nodes)

    def _gradients(self) -> list[Grad]:
        grads = []
        for slot, var in self.program.grads:
            view = self.lowering.at(var)
            gemm = self.folded.get(view.buffer)
            grads.append(Grad(slot, (view,), gemm, var.shape))
        return grads

    # Memory

    def home(self, view: View) -> View:
        """``view`` where its values really lie."""
        target = self.alias.get(view.buffer)
        return view if target is None else view._replace(buffer=target)

    def _pinned(self) -> set[Buffer]:
        """Buffers that must keep their values until the next run."""
        pinned: set[Buffer] = set()
        for grad in self.grads:
            pinned.update(self.home(view).buffer for view in grad.reads)
        return pinned

    @cached_property
    def read_once(self) -> set[Buffer]:
        """What one node alone reads; a device that runs it with the one before may leave it out."""
        if not self.side_by_side:
            return set()
        pinned = self._pinned()
        readers = Counter(b for node in self.nodes for b in {view.buffer for view in node.reads})
        found = {b for b, count in readers.items() if count == 1 and b.kind == "temp"}
        return found - pinned - self.alias.keys()

    @cached_property
    def read_inside(self) -> set[Buffer]:
        """What only instructions read; a device may leave out what none of them still would."""
        if not self.side_by_side or any(isinstance(node, Call) for node in self.nodes):
            return set()
        homes = {self.home(view).buffer for node in self.nodes for view in node.writes}
        return {b for b in homes if b.kind == "temp"} - self._pinned()

    def _arena(self, order: Sequence[Node], own: Iterable[Buffer] = ()) -> None:
        """Offsets for all temporaries: first fit over their lifetimes."""
        first: dict[Buffer, int] = {}
        last: dict[Buffer, int] = {}
        for step, node in enumerate(order):
            for view in (*node.writes, *node.reads):
                buffer = self.home(view).buffer
                if buffer.kind == "temp":
                    first.setdefault(buffer, step)
                    last[buffer] = step
        for buffer in self._pinned():
            if buffer in last:
                last[buffer] = len(order)
        free: list[tuple[int, int]] = []  # (start, end), in order
        end = -(-self.private_bytes * self.threads // _ALIGN) * _ALIGN
        skip = set(own)
        readers: dict[Buffer, set[int]] = {}
        for step, node in enumerate(order):
            for view in node.reads:
                readers.setdefault(self.home(view).buffer, set()).add(step)
        apart = self.side_by_side and sum(b.nbytes for b in first) <= _APART_BYTES
        dying: dict[int, list[Buffer]] = {}
        for buffer, step in last.items():
            if buffer not in skip:
                dying.setdefault(step, []).append(buffer)
        born: dict[int, list[Buffer]] = {}
        for buffer, step in first.items():
            if buffer not in skip:
                born.setdefault(step, []).append(buffer)
        for step, node in enumerate(order):
            gone = dying.get(step, [])
            if apart:  # what others read too would have to wait for them
                gone = [b for b in gone if len(readers[b]) == 1]
            heirs = self._inherit(node, gone, born.get(step, []))
            for buffer in born.get(step, []):
                if buffer in heirs:
                    self.offset[buffer] = self.offset[heirs[buffer]]
                    continue
                need = max(_ALIGN, -(-buffer.nbytes // _ALIGN) * _ALIGN)
                at = _take(free, need)
                if at is None:
                    at, end = end, end + need
                self.offset[buffer] = at
            for buffer in gone:
                if buffer not in heirs.values() and not apart:
                    size = max(_ALIGN, -(-buffer.nbytes // _ALIGN) * _ALIGN)
                    _give(free, self.offset[buffer], size)
        self.arena_bytes = end

    def _inherit(
        self, node: Node, gone: Sequence[Buffer], born: Sequence[Buffer]
    ) -> dict[Buffer, Buffer]:
        """Values a chain may write over an operand that nobody needs afterwards."""
        heirs: dict[Buffer, Buffer] = {}
        if not isinstance(node, Chain):
            return heirs
        for buffer in born:
            store = node.stores.get(buffer)
            for old in gone:
                if store is None or old in heirs.values() or old.nbytes != buffer.nbytes:
                    continue
                views = [v for v in node.reads if v.buffer is old]
                same = all(v.contiguous and v.shape == store.shape and not v.offset for v in views)
                if views and same and old.dtype == buffer.dtype:
                    heirs[buffer] = old
                    break
        return heirs

    def base(self, buffer: Buffer) -> int:
        if buffer.kind == "temp":
            return 0
        if buffer not in self._index:
            self._index[buffer] = len(self.bases)
            self.bases.append(buffer)
        return self._index[buffer]

    # Layer by layer

    def _by_layers(self) -> None:
        self._arena(self.nodes)
        for run in _runs(self.nodes):
            if isinstance(run[0], Call):
                self.segments.append(Segment("call", [], run))
                continue
            work = sum(map(flop, run))
            mode = "split" if self.threads > 1 and work > SERIAL_FLOP else "serial"
            emit = Emitter(self)
            self.segments.append(Segment(mode, emit.all(run), run))

    # The batch cut over threads

    def _gather(self, rows: "Rows") -> None:
        """Each thread has its part of a sum over rows: who reads it needs them added.

        A chain adds what it loads; for the others a chain does it first.
        """
        whole_sums: dict[Buffer, Buffer] = {}
        for node in rows.later:
            for name, view in _operands(node):
                buffer = view.buffer
                if buffer not in rows.reduced or isinstance(node, Chain):
                    continue
                if buffer not in whole_sums:
                    whole_sums[buffer] = Buffer("temp", buffer.dtype, buffer.size)
                _replace(node, name, view._replace(buffer=whole_sums[buffer]))
        for buffer, total in whole_sums.items():
            flat = (buffer.size,)
            rows.later.insert(0, _identity(whole(buffer, flat), whole(total, flat)))
        for node in rows.during:
            for view in node.writes:
                if view.buffer in rows.reduced and view.buffer in self.alias:
                    target = whole(self.alias.pop(view.buffer), view.shape)
                    rows.later.append(_identity(view, target))

    def _by_rows(self, rows: "Rows") -> None:
        private = rows.private()
        for buffer in private:
            self.offset[buffer] = self.private_bytes
            self.private_bytes += -(-rows.bytes_of(buffer) // _ALIGN) * _ALIGN
        self._arena([*rows.before, *rows.during, *rows.later], private)
        for part, mode in ((rows.before, "serial"), (rows.during, "rows"), (rows.later, "split")):
            for run in _runs(part):
                if isinstance(run[0], Call):
                    self.segments.append(Segment("call", [], run))
                elif mode == "rows":
                    emit = Emitter(self, rows, inside=True)
                    zeroed = tuple(
                        (self.offset[b], rows.bytes_of(b), 0) for b in private if b in rows.reduced
                    )
                    instructions = emit.all(run)
                    self.segments.append(
                        Segment("rows", instructions, run, rows.batch, rows.chunk, zeroed)
                    )
                else:
                    emit = Emitter(self, rows)
                    small = sum(map(flop, run)) < SERIAL_FLOP // 20
                    kind = "serial" if small else mode
                    self.segments.append(Segment(kind, emit.all(run), run))


def _in_step(node: Node, target: Buffer, source: View) -> bool:
    """Whether ``node`` may write ``target`` while it reads it: only at the place it is at."""
    for view in node.reads:
        if view.buffer is target:
            if not isinstance(node, Chain):
                return False
            if view.shape != source.shape or not view.contiguous or view.offset:
                return False
    if isinstance(node, Chain) and source.buffer not in node.stores:
        return not any(view.buffer is target for view in node.reads)
    return True


def _operands(node: Node) -> list[tuple[Any, View]]:
    """The views a node reads, and under which attribute, or number among its inputs."""
    if isinstance(node, Call):
        return [(i, x) for i, x in enumerate(node.inputs) if isinstance(x, View)]
    if isinstance(node, Concat):
        return list(enumerate(node.reads))
    names = ("a", "b", "scale", "source", "x", "z", "t")
    found = [(name, getattr(node, name, None)) for name in names]
    return [(name, view) for name, view in found if isinstance(view, View)]


def _replace(node: Node, name: Any, view: View) -> None:
    if isinstance(node, Call):
        node.inputs[name] = view
    elif isinstance(node, Concat):
        node.parts[name] = (view, node.parts[name][1])
    else:
        setattr(node, name, view)


def _identity(source: View, target: View) -> Chain:
    """A copy as a chain, which adds up what the threads have of a sum."""
    chain = Chain(target.shape, target.buffer.dtype)
    chain.values[target.buffer] = chain.builder.operand(source, source.size == 1)
    chain.stores[target.buffer] = target
    return chain


def _sgd_update(node: Chain) -> tuple[View, View | None, float, View] | None:
    """p, rate, factor and g of ``p − rate·factor·g``."""
    if len(node.stores) != 1 or node.reductions:
        return None
    ((buffer, _),) = node.stores.items()
    expr = node.values[buffer]
    if expr.op != "sub" or expr.args[0].op != "in" or expr.args[1].op != "mul":
        return None
    p = expr.args[0].value
    for scale, g in (expr.args[1].args, expr.args[1].args[::-1]):
        if g.op != "in" or g.scalar or p.size == 1:
            continue
        if scale.op == "const":
            return p, None, scale.value, g.value
        if scale.op == "in" and scale.value.buffer.kind == "scalar":
            return p, scale.value, 1.0, g.value
    return None


def _take(free: list[tuple[int, int]], need: int) -> int | None:
    for i, (start, stop) in enumerate(free):
        if stop - start >= need:
            if stop - start == need:
                del free[i]
            else:
                free[i] = (start + need, stop)
            return start
    return None


def _give(free: list[tuple[int, int]], start: int, size: int) -> None:
    free.append((start, start + size))
    free.sort()
    merged: list[tuple[int, int]] = []
    for a, b in free:
        if merged and merged[-1][1] == a:
            merged[-1] = (merged[-1][0], b)
        else:
            merged.append((a, b))
    free[:] = merged


def _runs(nodes: Sequence[Node]) -> list[list[Node]]:
    """Stretches without a call, and each call on its own."""
    runs: list[list[Node]] = []
    for node in nodes:
        if isinstance(node, Call) or not runs or isinstance(runs[-1][0], Call):
            runs.append([node])
        else:
            runs[-1].append(node)
    return runs
