"""The CUDA executor: the instructions of a plan as launches, captured into one CUDA graph.

Takes what kernels/cpu/program.h says, as the native core and its twin (backend/twin.py) do; twin's
docstrings apply. Imports cublas, launch, kernels and errors; the device is handed in.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpugrad.backend import cublas
from gpugrad.backend.kernels import (
    chain,
    copy,
    cross_entropy,
    gather,
    gemm,
    philox,
    scalars,
    softmax,
)
from gpugrad.backend.twin import DTYPES

Array = Any
Enqueue = Callable[[], None]
Range = tuple[int, int, int]  # memory, first byte, byte after the last
Touched = tuple[list[Range], list[Range]]  # read, written

# A graph holds addresses. Where they keep changing, capturing anew costs more than it saves.
_CAPTURES = 8


class Program:
    """Instructions on ``bases`` bound memories of one device.

    The first run after a binding has changed enqueues launch by launch, which also compiles
    kernels and chooses algorithms; the second captures the same launches; from then on a run is one
    graph launch. Nothing is allocated while capturing, and the program holds what the graph uses.
    """

    references = 1  # to each bound array

    def __init__(
        self, device: Any, segments: Sequence[Any], bases: int, tf32: bool, fuse_products: bool
    ) -> None:
        self._device = device
        self._tf32 = tf32
        instructions = [i for segment in segments for i in segment[1]]
        self._steps = grouped(with_chains(instructions) if fuse_products else instructions)
        self._streams = branches(self._steps)
        self._memory: list[Any] = [None] * bases
        self._launches: list[Enqueue] = []
        self._statuses: list[tuple[Array, str, int]] = []
        self._ready = self._ran = False
        self._graph: Any = None
        self._captures = 0
        self.why_uncaptured = ""

    def bind(self, i: int, array: Array) -> None:
        """Memory ``i`` is that of ``array``, which is contiguous."""
        before = self._memory[i]
        self._memory[i] = array
        if before is None or self._device.address(before) != self._device.address(array):
            self._ready = False

    def run(self) -> Any:
        """Enqueue all instructions; what earlier runs found wrong with their data, or None."""
        wrong = self.wrong()
        if wrong is not None:
            return wrong
        with self._device.here():
            if not self._ready:
                self._graph = None
                self._launches = self._prepared()
                self._ready, self._ran = True, False
            if self._graph is None and self._ran and not self.why_uncaptured:
                self._capture()
            if self._graph is not None:
                self._graph.launch()
            else:
                self._enqueue()
                self._ran = True
        return None

    @property
    def checks(self) -> bool:
        """Whether anything can be wrong with the data."""
        return any(kind in ("cross_entropy", "gather") for kind, *_ in self._steps)

    def wrong(self) -> Any:
        """What finished launches found wrong with the data since this was last asked, or None."""
        for words, kind, limit in self._statuses:
            low, high = words.tolist()
            if low or high:
                words[:] = 0
                return kind, low or high, limit
        return None

    @property
    def captured(self) -> bool:
        return self._graph is not None

    def _enqueue(self) -> None:
        scalars.factors(self._device, self._factored)
        for launch in self._launches:
            launch()

    def _capture(self) -> None:
        if self._captures == _CAPTURES:
            self.why_uncaptured = f"the memory it works on has moved {_CAPTURES} times"
            return
        self._captures += 1
        self._graph = self._device.capture(self._enqueue_apart)

    def _enqueue_apart(self, streams: Sequence[Any]) -> None:
        """Enqueue on two streams, with waits where one needs what the other does."""
        main, side = streams
        awaited = {j for _, after in self._streams for j in after}
        with main:
            scalars.factors(self._device, self._factored)
        events = {-1: main.record()}
        side.wait_event(events[-1])
        for i, (launch, (branch, after)) in enumerate(
            zip(self._launches, self._streams, strict=True)
        ):
            with streams[branch]:
                for j in after:
                    streams[branch].wait_event(events[j])
                launch()
                if i in awaited:
                    events[i] = streams[branch].record()
        main.wait_event(side.record())

    # Instructions as launches

    def _prepared(self) -> list[Enqueue]:
        self._workspace_bytes = [0, 0]
        self._statuses = []
        # alpha and beta of the products whose alpha is a number on the device
        self._factors = self._device.memory(16 * len(self._steps))
        self._factored: list[scalars.Factor] = []
        launches = [
            getattr(self, f"_{kind}")(number, *rest)
            for number, (kind, *rest) in enumerate(self._steps)
        ]
        self._workspaces = list(map(self._device.memory, self._workspace_bytes))
        return launches

    def _at(self, operand: Sequence[Any]) -> int:
        """Where an operand's values begin on the device."""
        base, offset, *_ = operand
        return int(self._device.address(self._memory[base])) + int(offset)

    def _room(self, number: int, nbytes: int) -> Callable[[], int]:
        """A workspace of so many bytes: that of the stream, which runs one launch at a time."""
        branch, _ = self._streams[number]
        self._workspace_bytes[branch] = max(self._workspace_bytes[branch], nbytes)
        return lambda: int(self._device.address(self._workspaces[branch]))

    def _gemm(
        self, number: int, dtype: str, ta: bool, tb: bool, m: int, n: int, k: int, alpha: float,
        scale: Any, a: Any, b: Any, beta: float, c: Any, rows: None,
    ) -> Enqueue:  # fmt: skip
        device = self._device
        at_a, at_b, at_c = (self._at(x) for x in (a, b, c))
        aligned = (cublas.alignment(at_a), cublas.alignment(at_b), cublas.alignment(at_c))
        product = cublas.Product(
            *(m, n, k, ta, tb, a[2], b[2], c[2], np.dtype(dtype), scale is not None, aligned),
            tf32=self._tf32,
        )
        matmul = device.cublas.matmul(product)
        room = self._room(number, matmul.workspace_bytes)
        if scale is None:
            return lambda: matmul(alpha, at_a, at_b, beta, at_c, room(), device.stream())
        at = int(device.address(self._factors)) + 16 * number
        single = dtype != "f8"  # of half precision too
        self._factored.append(scalars.Factor(self._at(scale), alpha, beta, at, single))
        beta_at = at + (4 if single else 8)
        return lambda: matmul(at, at_a, at_b, beta_at, at_c, room(), device.stream())

    def _product(self, number: int, product: Any, chain: Any) -> Enqueue:
        """A product and the chain on what it gives, in one launch of our own."""
        _, dtype, ta, tb, m, n, k, _, _, a, b, _, c, _ = product
        _, _, _, _, operands, constants, lines, stores, reductions, _ = chain
        at = [o[:2] for o in operands].index(c[:2])
        others = [o for i, o in enumerate(operands) if i != at]
        # The product comes first among the code's values, before the other operands.
        place = [*range(1, at + 1), 0, *range(at + 1, len(operands))]

        def moved(value: int) -> int:
            return place[value] if 0 <= value < len(operands) else value

        code = [(op, *map(moved, values)) for op, *values in lines]
        kept = [(moved(value), to) for value, to in stores]
        if all(to[:2] != c[:2] for _, to in stores):  # somebody may still read the product itself
            kept.append((0, c))
        sums = [(kind, axis, moved(v), to, by, add) for kind, axis, v, to, by, add in reductions]
        plan = gemm.plan(
            *(dtype, m, n, k, (a[2], ta), (b[2], tb), [_steps(o) for o in others], constants, code),
            [(value, _steps(to)) for value, to in kept],
            [(kind, axis, v, _steps(to), by, add) for kind, axis, v, to, by, add in sums],
            exact=not self._tf32,
        )
        room = self._room(number, plan.workspace_bytes)
        left, right = self._at(a), self._at(b)
        places, targets, totals = (
            [self._at(o) for o in each]
            for each in (others, [to for _, to in kept], [r[3] for r in sums])
        )
        return lambda: plan.launch(self._device, left, right, places, targets, totals, room())

    def _chain(
        self, number: int, dtype: str, rows: int, cols: int, operands: Any, constants: Any,
        lines: Any, stores: Any, reductions: Any, chunked: bool,
    ) -> Enqueue:  # fmt: skip
        plan = chain.plan(
            *(dtype, rows, cols, [_steps(o) for o in operands], constants, lines),
            [(value, _steps(to)) for value, to in stores],
            [(kind, axis, v, _steps(to), by, add) for kind, axis, v, to, by, add in reductions],
        )
        room = self._room(number, plan.workspace_bytes)
        places = [self._at(o) for o in operands]
        targets = [self._at(to) for _, to in stores]
        totals = [self._at(to) for _, _, _, to, _, _ in reductions]
        return lambda: plan.launch(self._device, places, targets, totals, room())

    def _group(self, number: int, chains: Sequence[Any]) -> Enqueue:
        """Several chains of one code, each on arrays of its own: one launch."""
        _, dtype, _, _, operands, constants, lines, stores, _, _ = chains[0]
        plan = chain.group_plan(
            *(dtype, [(int(any(o[2:4])), o[4]) for o in operands], constants, lines),
            [(value, to[4]) for value, to in stores],
            [rows * cols for _, _, rows, cols, *_ in chains],
        )
        places = [[self._at(o) for o in c[4]] for c in chains]
        targets = [[self._at(to) for _, to in c[7]] for c in chains]
        return lambda: plan.launch(self._device, places, targets)

    def _softmax(
        self, number: int, dtype: str, rows: int, cols: int, x: Any, y: Any, log: bool,
        chunked: bool,
    ) -> Enqueue:  # fmt: skip
        plan = softmax.plan(dtype, rows, cols, x[2], y[2], log)
        source, target = self._at(x), self._at(y)
        return lambda: plan.launch(self._device, source, target)

    def _cross_entropy(
        self, number: int, dtype: str, rows: int, cols: int, z: Any, t: Any, loss: Any,
        residual: Any, probability: Any, scale: float, chunked: bool,
    ) -> Enqueue:  # fmt: skip
        outs = (loss, residual, probability)
        loss_step, *row_steps = (None if o is None else o[2] for o in outs)
        plan = cross_entropy.plan(
            *(dtype, rows, cols, z[2], (t[2], t[4]), loss_step, *row_steps, scale)
        )
        logits, labels = self._at(z), self._at(t)
        targets = [None if o is None else self._at(o) for o in outs]
        status = self._status("label", cols)
        return lambda: plan.launch(self._device, logits, labels, status, *targets)

    def _gather(
        self, number: int, itemsize: int, size: int, rows: int, cols: int, x: Any, t: Any, out: Any
    ) -> Enqueue:
        plan = gather.plan(itemsize, size, rows, cols, x[2], (t[2], t[4]), out[2])
        source, numbers, target = (self._at(o) for o in (x, t, out))
        status = self._status("index", size)
        return lambda: plan.launch(self._device, source, numbers, target, status)

    def _status(self, kind: str, limit: int) -> int:
        """Where a kernel writes the lowest and the highest number that is outside its range."""
        words = self._device.seen_by_both(16).view(np.int64)
        self._statuses.append((words, kind, limit))
        return int(words.ctypes.data)

    def _uniform(self, number: int, dtype: str, n: int, state: Any, out: Any) -> Enqueue:
        plan = philox.plan(dtype, n)
        words, target = self._at(state), self._at(out)
        return lambda: plan.launch(self._device, words, target)

    def _copy(
        self, number: int, itemsize: int, rows: int, cols: int, source: Any, target: Any,
        chunked: bool,
    ) -> Enqueue:  # fmt: skip
        plan = copy.plan(itemsize, rows, cols, source[2:4], target[2:4])
        from_, to = self._at(source), self._at(target)
        return lambda: plan.launch(self._device, from_, to)


def _steps(operand: Sequence[Any]) -> tuple[int, int, str]:
    _, _, row, col, code, _ = operand
    return row, col, code


# Products with a chain behind them


def with_chains(instructions: Sequence[Any]) -> list[Any]:
    """The instructions, where a product and the chain that follows on it are one ("product", …).

    The chain moves up to the product, over what it has nothing to do with.
    """
    order: list[Any] = []
    for instruction in instructions:
        for i in reversed(range(len(order))):
            if _follows(order[i], instruction):
                order[i] = ("product", order[i], instruction)
                break
            if _conflict(order[i], instruction):
                order.append(instruction)
                break
        else:
            order.append(instruction)
    return order


def _follows(product: Any, chain: Any) -> bool:
    """Whether ``chain`` goes over what ``product`` gives, place by place, and touches no factor."""
    if product[0] != "gemm" or chain[0] != "chain":
        return False
    _, dtype, _, _, m, n, _, alpha, scale, _, _, beta, c, _ = product
    _, chain_dtype, rows, cols, operands, _, _, stores, reductions, _ = chain
    plain = alpha == 1 and scale is None and beta == 0 and dtype == chain_dtype == "f4"
    if not plain or (rows, cols) != (m, n) or any(r[1] != "rows" for r in reductions):
        return False
    own = [c[0], c[1], n, 1, "f4"]
    product_range = _range(c, m, n)
    for o in operands:
        if _meet([_range(o, rows, cols)], [product_range]) and list(o[:5]) != own:
            return False
    if [list(o[:5]) for o in operands].count(own) != 1 or c[2] != n:
        return False
    reads, _ = touched(product)
    _, writes = touched(chain)
    same = [list(to[:5]) == own for _, to in stores]
    over = [_meet([_range(to, rows, cols)], [product_range]) for _, to in stores]
    return same == over and not _meet(writes, reads)


# Two streams


def branches(steps: Sequence[Any]) -> list[tuple[int, list[int]]]:
    """For each step its stream, 0 or 1, and the step of the other stream it waits for, if any.

    Matrix products off the longest path go to the second stream: the gradients of the weights,
    while the first goes on to the layer below.
    """
    all_touched = [touched(step) for step in steps]
    needs = [
        [j for j in range(i) if _conflict_of(all_touched[j], now)]
        for i, now in enumerate(all_touched)
    ]
    start = [0] * len(steps)
    for i, earlier in enumerate(needs):
        start[i] = 1 + max((start[j] for j in earlier), default=0)
    rest = [1] * len(steps)
    for i in reversed(range(len(steps))):
        for j in needs[i]:
            rest[j] = max(rest[j], 1 + rest[i])
    longest = max((s + r for s, r in zip(start, rest, strict=True)), default=0)
    plan: list[tuple[int, list[int]]] = []
    for i, step in enumerate(steps):
        branch = int(step[0] in ("gemm", "product") and start[i] + rest[i] < longest)
        others = [j for j in needs[i] if plan[j][0] != branch]
        plan.append((branch, others[-1:]))
    return plan


# Several updates of one kind in one launch

_FAR = 64  # how many instructions are looked back for a chain of the same code


def grouped(instructions: Sequence[Any]) -> list[Any]:
    """The instructions, where chains of one code have become one ("group", chains).

    An optimiser's update is the same few lines for every parameter. A chain joins an earlier one
    where it depends on nothing that stands between them, and nothing there on what it overwrites.
    """
    order: list[list[Any]] = []
    for instruction in instructions:
        group = _to_join(order, instruction) if _even_sweep(instruction) else None
        if group is None:
            order.append([instruction])
        else:
            group.append(instruction)
    return [each[0] if len(each) == 1 else ("group", tuple(each)) for each in order]


def _to_join(order: Sequence[list[Any]], chain: Any) -> list[Any] | None:
    group: list[Any]
    for group in reversed(order[-_FAR:]):
        if any(_conflict(one, chain) for one in group):
            return None
        if _even_sweep(group[0]) and _code(group[0]) == _code(chain):
            return group
    return None


def _even_sweep(instruction: Any) -> bool:
    """Whether it is a chain without sums over arrays that lie one value after the other."""
    if instruction[0] != "chain" or instruction[8]:
        return False
    _, _, rows, cols, operands, _, _, stores, *_ = instruction

    def even(operand: Any) -> bool:
        _, _, row, col, _, _ = operand
        return bool((col == 1 or cols == 1) and (row == cols or rows == 1))

    one_value = [o for o in operands if not (o[2] or o[3])]
    return all(even(o) for o in operands if o not in one_value) and all(even(s) for _, s in stores)


def _code(chain: Any) -> tuple[Any, ...]:
    _, dtype, _, _, operands, constants, lines, stores, _, _ = chain
    shapes = [(bool(o[2] or o[3]), o[4]) for o in operands]
    return dtype, shapes, constants, lines, [(value, to[4]) for value, to in stores]


def _conflict(earlier: Any, later: Any) -> bool:
    """Whether the order of the two matters."""
    return _conflict_of(touched(earlier), touched(later))


def _conflict_of(earlier: Touched, later: Touched) -> bool:
    (reads, writes), (reads_2, writes_2) = earlier, later
    return _meet(writes, [*reads_2, *writes_2]) or _meet(reads, writes_2)


def _meet(some: Sequence[Range], others: Sequence[Range]) -> bool:
    return any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in some for b in others)


def touched(instruction: Any) -> Touched:
    """What an instruction reads and what it writes."""
    kind, *rest = instruction
    if kind == "group":
        each = [touched(chain) for chain in rest[0]]
        return [r for reads, _ in each for r in reads], [w for _, writes in each for w in writes]
    if kind == "product":
        (reads, writes), (more_reads, more_writes) = map(touched, rest)
        return reads + more_reads, writes + more_writes
    if kind == "gemm":
        _, ta, tb, m, n, k, _, scale, a, b, beta, c, _ = rest
        reads = [_range(a, *((k, m) if ta else (m, k))), _range(b, *((n, k) if tb else (k, n)))]
        reads += [_range(scale, 1, 1)] if scale is not None else []
        writes = [_range(c, m, n)]
        return reads + (writes if beta else []), writes
    if kind == "chain":
        _, rows, cols, operands, _, _, stores, reductions, _ = rest
        writes = [_range(to, rows, cols) for _, to in stores]
        writes += [_range(r[3], rows, cols) for r in reductions]
        return [_range(o, rows, cols) for o in operands], writes
    if kind == "gather":
        _, size, rows, cols, x, t, out = rest
        return [_range(x, size, cols), _range(t, rows, 1)], [_range(out, rows, cols)]
    if kind == "uniform":
        _, n, state, out = rest
        return [_range(state, 1, 12)], [_range(out, 1, n)]
    if kind == "cross_entropy":
        _, rows, cols, z, t, loss, residual, probability, *_ = rest
        writes = [_range(o, rows, cols) for o in (residual, probability) if o is not None]
        writes += [] if loss is None else [_range(loss, rows, 1)]
        return [_range(z, rows, cols), _range(t, rows, 1)], writes
    _, rows, cols, source, target, *_ = rest  # softmax and copy
    return [_range(source, rows, cols)], [_range(target, rows, cols)]


def _range(operand: Any, rows: int, cols: int) -> Range:
    base, offset, row, col, code, _ = operand
    item = np.dtype(DTYPES.get(code, code)).itemsize
    return base, offset, offset + (max(rows - 1, 0) * row + max(cols - 1, 0) * col + 1) * item
