"""The CUDA executor: the instructions of a plan as launches, captured into one CUDA graph.

Takes what kernels/cpu/program.h says, as the native core and its twin (backend/twin.py) do; twin's
docstrings apply. Imports cublas, kernels, steps and what it joins; the device is handed in.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpugrad.backend import cublas
from gpugrad.backend.kernels import (
    argmax,
    chain,
    copy,
    cross_entropy,
    gather,
    gemm,
    mlp,
    philox,
    scalars,
    softmax,
)
from gpugrad.backend.layers import Run
from gpugrad.backend.operands import place_in, read_once
from gpugrad.backend.steps import bias_of, branches

Array = Any
Enqueue = Callable[[], None]

# A graph holds addresses. Where they keep changing, capturing anew costs more than it saves.
_CAPTURES = 8


class Program:
    """Instructions on ``bases`` bound memories of one device.

    The first run after a binding has changed enqueues launch by launch, which also compiles
    kernels and chooses algorithms; the second captures the same launches; from then on a run is one
    graph launch. Nothing is allocated while capturing, and the program holds what the graph uses.
    """

    references = 1  # to each bound array

    def __init__(self, device: Any, steps: Sequence[Any], bases: int, matmul: str) -> None:
        self._device = device
        self._rounded_to = matmul
        self._exact = matmul == "float32"
        self._steps = steps
        self._streams = branches(self._steps)
        self._memory: list[Any] = [None] * bases
        self._addresses = [-1] * bases
        self._launches: list[Enqueue] = []
        self._statuses: list[tuple[Array, str, int]] = []
        self._ready = self._ran = False
        self._graph: Any = None
        self._captures = 0
        self.why_uncaptured = ""

    def bind(self, i: int, array: Array) -> None:
        """Memory ``i`` is that of ``array``, which is contiguous."""
        self._memory[i] = array
        address = self._device.address(array)
        if self._addresses[i] != address:
            self._addresses[i] = address
            self._ready = False

    def let_go(self, i: int) -> None:
        """Hold memory ``i`` no longer, which is bound again before the next run."""
        self._memory[i] = None

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
        return any(kind in ("cross_entropy", "gather", "finite") for kind, *_ in self._steps)

    def wrong(self) -> Any:
        """What finished launches found wrong with the data since this was last asked, or None."""
        for words, kind, limit in self._statuses:
            low, high = words.tolist()
            if low or high:
                words[:] = 0
                return kind, low or high, limit
        return None

    def repeated(self, count: int) -> Any:
        """A graph of so many runs, after a first one."""

        def enqueue(streams: Sequence[Any]) -> None:
            for _ in range(count):
                self._enqueue_apart(streams)

        with self._device.here():
            return self._device.capture(enqueue)

    @property
    def kinds(self) -> list[str]:
        """What each step is, in order."""
        return [step[3] if step[0] == "epilogue" else step[0] for step in self._steps]

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
        return int(self._addresses[base]) + int(offset)

    def _room(self, number: int, nbytes: int) -> Callable[[], int]:
        """A workspace of so many bytes: that of the stream, which runs one launch at a time."""
        branch, _ = self._streams[number]
        self._workspace_bytes[branch] = max(self._workspace_bytes[branch], nbytes)
        return lambda: int(self._device.address(self._workspaces[branch]))

    def _gemm(self, number: int, *gemm: Any) -> Enqueue:
        return self._matmul(number, gemm)

    def _algorithm(self, number: int, gemm: Any, rank: int) -> Enqueue:
        """A product by one of the algorithms that cuBLASLt does not think the best."""
        return self._matmul(number, gemm[1:], rank=rank)

    def _epilogue(self, number: int, gemm: Any, chain: Any, epilogue: str) -> Enqueue:
        """A product by cuBLASLt with more than that in one launch."""
        if epilogue == "bias":
            bias, out = bias_of(gemm, chain) or (None, None)
            return self._matmul(number, (*gemm[1:12], out, None), epilogue, bias)
        ((_, _, _, to, _, _),) = chain[8]
        return self._matmul(number, gemm[1:], epilogue, to)

    def _matmul(
        self, number: int, gemm: Any, epilogue: str = "", vector: Any = None, rank: int = 0
    ) -> Enqueue:
        dtype, ta, tb, m, n, k, alpha, scale, a, b, beta, c, _ = gemm
        device = self._device
        at_a, at_b, at_c = (self._at(x) for x in (a, b, c))
        at_vector = 0 if vector is None else self._at(vector)
        aligned = (cublas.alignment(at_a), cublas.alignment(at_b), cublas.alignment(at_c))
        product = cublas.Product(
            *(m, n, k, ta, tb, a[2], b[2], c[2], np.dtype(dtype), scale is not None, aligned),
            *(self._rounded_to, epilogue, cublas.alignment(at_vector) if epilogue else 0, rank),
        )
        matmul = device.cublas.matmul(product)
        room = self._room(number, matmul.workspace_bytes)
        if scale is None:
            return lambda: matmul(alpha, at_a, at_b, beta, at_c, room(), device.stream(), at_vector)
        at = int(device.address(self._factors)) + 16 * number
        single = dtype != "f8"  # of half precision too
        self._factored.append(scalars.Factor(self._at(scale), alpha, beta, at, single))
        beta_at = at + (4 if single else 8)
        return lambda: matmul(at, at_a, at_b, beta_at, at_c, room(), device.stream(), at_vector)

    def _product(self, number: int, product: Any, chain: Any) -> Enqueue:
        """A product and the chain on what it gives, in one launch of our own."""
        _, dtype, ta, tb, m, n, k, _, _, a, b, _, c, _ = product
        _, _, _, _, operands, constants, lines, stores, reductions, _ = chain
        at = place_in(operands, c)
        others = [o for i, o in enumerate(operands) if i != at]
        # The product comes first among the code's values, before the other operands.
        place = [*range(1, at + 1), 0, *range(at + 1, len(operands))]

        def moved(value: int) -> int:
            return place[value] if 0 <= value < len(operands) else value

        code = [(op, *map(moved, values)) for op, *values in lines]
        kept = [(moved(value), to) for value, to in stores]
        if all(to[:2] != c[:2] for _, to in stores) and not read_once(c):
            kept.append((0, c))
        sums = [(kind, axis, moved(v), to, by, add) for kind, axis, v, to, by, add in reductions]
        plan = gemm.plan(
            *(dtype, m, n, k, (a[2], ta), (b[2], tb), [_steps(o) for o in others], constants, code),
            [(value, _steps(to)) for value, to in kept],
            [(kind, axis, v, _steps(to), by, add) for kind, axis, v, to, by, add in sums],
            exact=self._exact,
        )
        room = self._room(number, plan.workspace_bytes)
        left, right = self._at(a), self._at(b)
        places, targets, totals = (
            [self._at(o) for o in each]
            for each in (others, [to for _, to in kept], [r[3] for r in sums])
        )
        return lambda: plan.launch(self._device, left, right, places, targets, totals, room())

    def _layers(self, number: int, *parts: Any) -> Enqueue:
        """Products of narrow matrices, each of what the one before gave, with all that is in one
        launch with them.
        """
        run = Run("layers", *parts)
        layers, below = run.layers, run.below
        totals = [None if one.total is None else self._at(one.total) for one in layers]
        plan = mlp.plan(
            *(layers[0].rows, run.widths, layers[0].function(below), layers[-1].function(below)),
            dtype=layers[0].dtype, turned=any(one.turned for one in layers), exact=self._exact,
            sums=any(total is not None for total in totals), gradients=any(run.gradients),
            flipped=any(g is not None and g.flipped for g in run.gradients),
            ends=run.gradients[-1] is not None,
        )  # fmt: skip
        x = self._at(layers[0].x)
        weights = [self._at(one.w) for one in layers]
        more = [
            [None if i == below else self._at(o) for i, o in enumerate(one.more)] for one in layers
        ]
        outs = [
            [self._at(to) if kept else None for (_, to), kept in zip(one.outs, each, strict=True)]
            for one, each in zip(layers, run.kept, strict=True)
        ]
        gradients = [
            g
            and mlp.Gradient(
                *(self._at(g.below), self._at(g.out), g.alpha),
                *(g.scale and self._at(g.scale), g.add),
            )
            for g in run.gradients
        ]
        room = self._room(number, plan.workspace_bytes)
        return lambda: plan.launch(self._device, x, weights, more, outs, totals, gradients, room())

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

    def _argmax(
        self, number: int, dtype: str, rows: int, cols: int, x: Any, out: Any, chunked: bool,
        *, least: bool = False,
    ) -> Enqueue:  # fmt: skip
        plan = argmax.plan(dtype, rows, cols, x[2], out[2], least)
        source, target = self._at(x), self._at(out)
        return lambda: plan.launch(self._device, source, target)

    def _argmin(self, number: int, *rest: Any) -> Enqueue:
        return self._argmax(number, *rest, least=True)

    def _finite(self, number: int, x: Any) -> Enqueue:
        value, status = self._at(x), self._status("finite", 0)
        return lambda: scalars.check_finite(self._device, value, status)

    def _status(self, kind: str, limit: int) -> int:
        """Where a kernel writes the lowest and the highest number that is outside its range, or,
        of "finite", the bits of one that is infinite or NaN.
        """
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
