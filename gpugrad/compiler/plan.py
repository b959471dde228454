"""Planning: where results go, what rides on what, order, memory, and the segments to run.

Imports lower, and order, arena, rows and segments, which each do their part.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from gpugrad.compiler.arena import laid_out, padded
from gpugrad.compiler.lower import Lowering
from gpugrad.compiler.nodes import Call, Chain, Copy, Gemm, Node
from gpugrad.compiler.order import alike_together, ordered, weights_last
from gpugrad.compiler.program import Program
from gpugrad.compiler.rows import Rows
from gpugrad.compiler.segments import Segment, by_layers, by_rows
from gpugrad.compiler.trace import Slot, Traced
from gpugrad.compiler.views import Buffer, View, in_rows, whole


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
        self.after: dict[int, list[Node]] = {}  # by id: nodes that must run before
        self.offset: dict[Buffer, int] = {}
        self.private_bytes = 0
        self._place_results()
        self.nodes = ordered(self.nodes, low.maker, self.after)
        self.rows = Rows(self) if native and threads > 1 else None
        if self.rows is not None and not self.rows.worth_it():
            self.rows = None
        self.folded: dict[Buffer, Gemm] = {}
        if self.rows is None:
            self._fold_updates()
        else:
            self.rows.gather()
        if side_by_side:
            self.nodes = alike_together(self.nodes, self.home)
        if layers_at_once:
            self.nodes = weights_last(self.nodes, self.home)
        self.grads = self._gradients()
        if self.rows is None:
            self._lay_out(self.nodes)
            self.segments = by_layers(self)
        else:
            self.segments = self._by_rows(self.rows)

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
            self.after.setdefault(id(maker), []).extend(n for n in old if n is not maker)
            return
        copy = Copy(source, place)
        copy.place = len(self.program.eqns)
        low.nodes.append(copy)
        self.after.setdefault(id(copy), []).extend(old)

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
            self.after.setdefault(id(gemm), []).extend(
                [n for n in readers[p.buffer] if n is not node]
            )
        if self.folded:
            self.nodes = ordered(self.nodes, low.maker, self.after)

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

    def pinned(self) -> set[Buffer]:
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
        pinned = self.pinned()
        readers = Counter(b for node in self.nodes for b in {view.buffer for view in node.reads})
        found = {b for b, count in readers.items() if count == 1 and b.kind == "temp"}
        return found - pinned - self.alias.keys()

    @cached_property
    def read_inside(self) -> set[Buffer]:
        """What only instructions read; a device may leave out what none of them still would."""
        if not self.side_by_side or any(isinstance(node, Call) for node in self.nodes):
            return set()
        homes = {self.home(view).buffer for node in self.nodes for view in node.writes}
        return {b for b in homes if b.kind == "temp"} - self.pinned()

    def _lay_out(self, order: Sequence[Node], own: Sequence[Buffer] = ()) -> None:
        start = self.private_bytes * self.threads
        found, self.arena_bytes = laid_out(
            order, self.home, self.pinned(), own, start, self.side_by_side
        )
        self.offset |= found

    def _by_rows(self, rows: Rows) -> list[Segment]:
        private = rows.private()
        for buffer in private:
            self.offset[buffer] = self.private_bytes
            self.private_bytes += padded(rows.bytes_of(buffer))
        self._lay_out([*rows.before, *rows.during, *rows.later], private)
        return by_rows(self, rows, private)

    def base(self, buffer: Buffer) -> int:
        if buffer.kind == "temp":
            return 0
        if buffer not in self._index:
            self._index[buffer] = len(self.bases)
            self.bases.append(buffer)
        return self._index[buffer]


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
