"""Running a program on a part of the batch at a time, where it can be. Imports nodes and views."""

import math
from typing import Any

from gpugrad.compiler.nodes import (
    ArgMax,
    Call,
    Chain,
    Concat,
    Copy,
    CrossEntropy,
    Draw,
    Gemm,
    Node,
    Softmax,
)
from gpugrad.compiler.views import Buffer, View, aligned, whole

# Where a batch is cut over the threads, a chunk of it and the weights should stay in one L2. On two
# Zen cores (AVX2) cutting paid with 100 KiB of weights (216 µs a step for 267), made no difference
# with 70 KiB and cost a quarter with 400 KiB: every thread reads all of them for each chunk.
_L2_BYTES = 1 << 20
_ROWS_WEIGHT_BYTES = 192 << 10
# Below this many multiplications a second thread costs more than it brings.
SERIAL_FLOP = 8_000_000


class Rows:
    """Whether, and how, a program can be run on a part of the batch at a time.

    A buffer is ``batched`` when row i of it depends on row i of the arguments alone, ``reduced``
    when it is a sum over rows.
    """

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.batched: set[Buffer] = set()
        self.reduced: set[Buffer] = set()
        self.before: list[Node] = []
        self.during: list[Node] = []
        self.later: list[Node] = []
        sizes = [a.shape[0] for a in plan.program.arguments if a.shape and a.shape[0] > 1]
        self.batch = max(set(sizes), key=sizes.count) if sizes else 0
        self.possible = self.batch > 1 and self._classify()
        self.chunk = 0

    def _classify(self) -> bool:
        plan = self.plan
        for var in plan.program.arguments:
            if var.shape[:1] == (self.batch,):
                self.batched.add(plan.lowering.view[var].buffer)
        late: set[int] = set()  # nodes that come after the rows, by id
        maker = plan.lowering.maker
        for node in plan.nodes:
            reads = [view.buffer for view in node.reads]
            needed = [maker.get(b) for b in reads] + plan.after.get(id(node), [])
            touched = any(b in self.batched for b in reads)
            moved = isinstance(node, (Call, Concat, Copy))
            if any(id(n) in late for n in needed) or any(b in self.reduced for b in reads):
                if touched and not moved:
                    return False  # rows that need a sum over all rows first
            elif touched and not moved:
                if not self._inside(node):
                    return False
                self.during.append(node)
                continue
            elif not touched and not any(n in self.during for n in needed):
                self.before.append(node)
                if isinstance(node, (Call, Draw)):
                    for view in node.writes:
                        if view.shape[:1] == (self.batch,):
                            self.batched.add(view.buffer)
                continue
            self.later.append(node)
            late.add(id(node))
        return any(isinstance(node, Gemm) for node in self.during)

    def _by_row(self, view: View) -> bool:
        """Whether the first axis of ``view`` is the batch, row by row in memory."""
        if view.buffer not in self.batched or view.shape[:1] != (self.batch,):
            return False
        return view.contiguous and not view.offset and view.size == view.buffer.size

    def _by_column(self, view: View) -> bool:
        if view.buffer not in self.batched or len(view.shape) != 2 or view.offset:
            return False
        return view.shape[1] == self.batch and view.strides == (1, view.shape[0])

    def _inside(self, node: Node) -> bool:
        """Mark what ``node`` writes; False when it cannot run on a part of the rows."""
        if isinstance(node, Gemm):
            if node.count > 1:
                return False
            if self._by_row(node.a) and node.b.buffer not in self.batched:
                self.batched.add(node.c.buffer)
                return True
            if self._by_column(node.a) and self._by_row(node.b):
                self.reduced.add(node.c.buffer)
                return True
            return False
        if isinstance(node, Chain):
            if node.shape[:1] != (self.batch,) or len(node.shape) > 2:
                return False
            for view in node.reads:
                strides = aligned(view, node.shape)
                if view.buffer in self.batched and not (self._by_row(view) and strides[0]):
                    return False
                if strides[0] and not view.contiguous:
                    return False
            for r in node.reductions:
                if r.axis == "cols":
                    self.batched.add(r.out.buffer)
                elif r.kind == "sum":
                    self.reduced.add(r.out.buffer)
                else:
                    return False
            self.batched.update(node.stores)
            return True
        if isinstance(node, CrossEntropy):
            if not (self._by_row(node.z) and self._by_row(node.t)):
                return False
        elif isinstance(node, (Softmax, ArgMax)):
            if not self._by_row(node.x):
                return False
        else:
            return False
        self.batched.update(view.buffer for view in node.writes)
        return True

    def worth_it(self) -> bool:
        """By shape alone, so that the same net gives the same bits on every run."""
        if not self.possible:
            return False
        gemms = [n for n in self.during if isinstance(n, Gemm)]
        weights = sum(n.b.size for n in gemms if n.c.buffer in self.batched) * 4
        work = sum(map(flop, self.during))
        if work < SERIAL_FLOP or weights > _ROWS_WEIGHT_BYTES:
            return False
        per_row = sum(
            v.shape[-1] for n in self.during for v in n.writes if v.buffer in self.batched
        )
        fits = _L2_BYTES // max(1, 4 * per_row)
        share = -(-self.batch // self.plan.threads)
        self.chunk = max(min(share, 32), min(share, 512, fits))
        return bool(self.batch >= 16 * self.plan.threads)

    def gather(self) -> None:
        """Each thread has its part of a sum over rows: who reads it needs them added.

        A chain adds what it loads; for the others a chain does it first.
        """
        whole_sums: dict[Buffer, Buffer] = {}
        for node in self.later:
            for name, view in _operands(node):
                buffer = view.buffer
                if buffer not in self.reduced or isinstance(node, Chain):
                    continue
                if buffer not in whole_sums:
                    whole_sums[buffer] = Buffer("temp", buffer.dtype, buffer.size)
                _replace(node, name, view._replace(buffer=whole_sums[buffer]))
        for buffer, total in whole_sums.items():
            flat = (buffer.size,)
            self.later.insert(0, _identity(whole(buffer, flat), whole(total, flat)))
        for node in self.during:
            for view in node.writes:
                if view.buffer in self.reduced and view.buffer in self.plan.alias:
                    target = whole(self.plan.alias.pop(view.buffer), view.shape)
                    self.later.append(_identity(view, target))

    def private(self) -> list[Buffer]:
        """Buffers each thread has for itself: accumulators, and rows nobody sees afterwards."""
        plan = self.plan
        seen = {plan.home(v).buffer for n in (*self.before, *self.later) for v in n.reads}
        seen |= {v.buffer for n in self.later for v in n.reads} | plan.pinned()
        inside: list[Buffer] = []
        for node in self.during:
            for view in node.writes:
                buffer = view.buffer
                if buffer in inside:
                    continue
                if buffer in self.reduced or (
                    buffer in self.batched and buffer not in seen and buffer not in plan.alias
                ):
                    inside.append(buffer)
        self._private = set(inside)
        return inside

    def is_private(self, buffer: Buffer) -> bool:
        return buffer in self._private

    def bytes_of(self, buffer: Buffer) -> int:
        if buffer in self.reduced:
            return buffer.nbytes
        return buffer.nbytes // self.batch * self.chunk


def flop(node: Node) -> int:
    if isinstance(node, Gemm):
        return 2 * node.count * node.a.shape[0] * node.a.shape[1] * node.b.shape[1]
    if isinstance(node, Chain):
        return 4 * math.prod(node.shape) * max(1, len(node.roots))
    return 20 * sum(view.size for view in node.writes)


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
