"""The native core's twin: the same instructions (see kernels/cpu/program.h), run by NumPy.

What kernels/cpu is tested against, and what runs where it was not built. Imports errors only.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CHUNKED, PRIVATE = 1, 2


def _truth(f: Callable[..., Any]) -> Callable[..., Any]:
    """A function of floats that are 0 or 1, giving such floats."""
    return lambda *xs, out: np.copyto(out, f(*xs), casting="unsafe")


def _mulz(g: Array, f: Array, out: Array) -> None:
    zero = g == 0
    np.multiply(g, f, out=out)
    out[zero & np.isnan(out)] = 0


def _sigmoid(x: Array, out: Array) -> None:
    np.negative(x, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    np.divide(1, out, out=out)


def _half(x: Array, out: Array) -> None:
    with np.errstate(over="ignore"):
        out[...] = x.astype(np.float16)


def _where(c: Array, a: Array, b: Array, out: Array) -> None:
    np.copyto(out, np.where(c != 0, a, b))


# What each opcode means.
NUMPY: dict[str, Callable[..., Any]] = {
    "neg": np.negative,
    "abs": np.absolute,
    "sqrt": np.sqrt,
    "square": np.square,
    "recip": np.reciprocal,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "log10": np.log10,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "rint": np.rint,
    "sign": np.sign,
    "not": _truth(lambda a: a == 0),
    "isnan": _truth(np.isnan),
    "isinf": _truth(np.isinf),
    "isfinite": _truth(np.isfinite),
    "half": _half,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "atan2": np.arctan2,
    "hypot": np.hypot,
    "max": np.maximum,
    "min": np.minimum,
    "copysign": np.copysign,
    "remainder": np.remainder,
    "lt": _truth(np.less),
    "le": _truth(np.less_equal),
    "gt": _truth(np.greater),
    "ge": _truth(np.greater_equal),
    "eq": _truth(np.equal),
    "ne": _truth(np.not_equal),
    "and": _truth(lambda a, b: (a != 0) & (b != 0)),
    "or": _truth(lambda a, b: (a != 0) | (b != 0)),
    "xor": _truth(lambda a, b: (a != 0) ^ (b != 0)),
    "mulz": _mulz,
    "where": _where,
}

# dy/dz by y, as code over g (value 0), y (1) and the constants after them.
SLOPES: dict[str, tuple[tuple[float, ...], tuple[tuple[str, int, int, int], ...]]] = {
    "sigmoid": ((1.0,), (("sub", 2, 1, -1), ("mul", 3, 1, -1), ("mul", 4, 0, -1))),
    "tanh": ((1.0,), (("mul", 1, 1, -1), ("sub", 2, 3, -1), ("mul", 4, 0, -1))),
    "relu": ((0.0,), (("gt", 1, 2, -1), ("mul", 3, 0, -1))),
}

DTYPES = {"b1": np.dtype(bool)}


def _dtype(code: str) -> Any:
    return DTYPES.get(code) or np.dtype(code)


class Place:
    """Which thread and which rows a chunk belongs to."""

    def __init__(self, thread: int, start: int, rows: int) -> None:
        self.thread, self.start, self.rows = thread, start, rows


class Program:
    """``segments`` on ``bases`` bound memories; the same interface as the native one."""

    references = 1  # to each bound array

    def __init__(
        self, segments: Sequence[Any], bases: int, private_bytes: int, threads: int
    ) -> None:
        self._segments = segments
        self._memory: list[Any] = [None] * bases
        self._private, self._threads = private_bytes, threads
        self._plan = list(self._schedule())
        self._calls: list[Any] = [None] * len(self._plan)
        self._moved: set[int] = set()

    def bind(self, i: int, array: Array) -> None:
        """Memory ``i`` is that of ``array``, which is contiguous."""
        self._memory[i] = np.frombuffer(array, np.uint8) if array.size else np.zeros(1, np.uint8)
        self._moved.add(i)

    def run(self) -> Any:
        """Run all instructions; what is wrong with the data, or None."""
        if self._moved:
            for k, (instruction, place) in enumerate(self._plan):
                if self._calls[k] is None or not self._moved.isdisjoint(_bases(instruction)):
                    self._calls[k] = self._call(instruction, place)
            self._moved.clear()
        with np.errstate(all="ignore"):
            for call in self._calls:
                wrong = call()
                if wrong is not None:
                    return wrong
        return None

    def _schedule(self) -> Iterator[tuple[Sequence[Any], Place]]:
        for mode, instructions, batch, chunk, zeroed in self._segments:
            if mode != "rows":
                yield from ((i, Place(0, 0, 0)) for i in instructions)
                continue
            count = -(-batch // chunk)
            for t in range(self._threads):
                for offset, nbytes, base in zeroed:
                    yield ("zero", (base, offset, nbytes, 1, "u1", PRIVATE)), Place(t, 0, 0)
                for c in range(t * count // self._threads, (t + 1) * count // self._threads):
                    place = Place(t, c * chunk, min(chunk, batch - c * chunk))
                    yield from ((i, place) for i in instructions)

    def _call(self, instruction: Sequence[Any], place: Place) -> Callable[[], Any]:
        make: Callable[..., Callable[[], Any]] = getattr(self, f"_{instruction[0]}")
        return make(place, *instruction[1:])

    def _zero(self, place: Place, what: Any) -> Callable[[], Any]:
        memory = self._at(what, 1, what[2], place)
        return lambda: memory.fill(0)

    def _at(self, operand: Sequence[Any], rows: int, cols: int, place: Place) -> Array:
        """The (rows, cols) values of an operand, as a view."""
        base, offset, row, col, code, flags = operand
        dtype = _dtype(code)
        if flags & CHUNKED:
            offset += place.start * row * dtype.itemsize
        if flags & PRIVATE:
            offset += place.thread * self._private
        steps = (row * dtype.itemsize, col * dtype.itemsize)
        size = dtype.itemsize + steps[0] * max(rows - 1, 0) + steps[1] * max(cols - 1, 0)
        memory = self._memory[base][offset : offset + size]
        return np.ndarray((rows, cols), dtype, memory, 0, steps)

    def _gemm(
        self, place: Place, dtype: str, ta: bool, tb: bool, m: int, n: int, k: int, alpha: float,
        scale: Any, a: Any, b: Any, beta: float, c: Any, rows: str | None, count: int = 1,
        *steps: int,
    ) -> Callable[[], Any]:  # fmt: skip
        if count > 1:
            size = _dtype(dtype).itemsize
            products = []
            for i in range(count):
                x, y, z = (
                    (o[0], o[1] + i * step * size, *o[2:])
                    for o, step in zip((a, b, c), steps, strict=True)
                )
                one = self._gemm(place, dtype, ta, tb, m, n, k, alpha, scale, x, y, beta, z, None)
                products.append(one)
            return lambda: [product() for product in products] and None
        m = place.rows if rows == "m" else m
        k = place.rows if rows == "k" else k
        left = self._at(a, *((k, m) if ta else (m, k)), place)
        right = self._at(b, *((n, k) if tb else (k, n)), place)
        left, right = left.T if ta else left, right.T if tb else right
        out = self._at(c, m, n, place)
        factor = None if scale is None else self._at(scale, 1, 1, place)
        if alpha == 1 and beta == 0 and factor is None:

            def plain() -> None:
                np.matmul(left, right, out=out)

            return plain
        product = np.empty((m, n), _dtype(dtype))

        def call() -> None:
            np.matmul(left, right, out=product)
            if alpha != 1 or factor is not None:
                by = alpha if factor is None else alpha * factor.item()
                np.multiply(product, product.dtype.type(by), out=product)
            if beta == 0:
                np.copyto(out, product)
            else:
                if beta != 1:
                    np.multiply(out, out.dtype.type(beta), out=out)
                np.add(out, product, out=out)

        return call

    def _argmax(
        self, place: Place, dtype: str, rows: int, cols: int, x: Any, out: Any, chunked: bool,
        *, choose: Callable[..., Any] = np.argmax,
    ) -> Callable[[], Any]:  # fmt: skip
        rows = place.rows if chunked else rows
        values, numbers = self._at(x, rows, cols, place), self._at(out, rows, 1, place)

        def call() -> None:
            choose(values, axis=1, out=numbers[:, 0])

        return call

    def _argmin(self, place: Place, *rest: Any) -> Callable[[], Any]:
        return self._argmax(place, *rest, choose=np.argmin)

    def _uniform(self, place: Place, dtype: str, n: int, state: Any, out: Any) -> Callable[[], Any]:
        words, numbers = self._at(state, 1, 12, place)[0], self._at(out, 1, n, place)[0]
        source = np.random.Philox(0)
        generator = np.random.Generator(source)

        def call() -> None:
            source.state = {
                "bit_generator": "Philox",
                "state": {"counter": words[:4], "key": words[4:6]},
                "buffer": words[6:10],
                "buffer_pos": int(words[10]) & 0xFFFFFFFF,
                "has_uint32": int(words[10]) >> 32,
                "uinteger": int(words[11]),
            }
            generator.random(n, _dtype(dtype), out=numbers)

        return call

    def _chain(
        self, place: Place, code: str, rows: int, cols: int, operands: Any, constants: Any,
        lines: Any, stores: Any, reductions: Any, chunked: bool,
    ) -> Callable[[], Any]:  # fmt: skip
        dtype = _dtype(code)
        rows = place.rows if chunked else rows
        size = (rows, cols)
        # An operand of one element computes on one element: its line of code is one value.
        values: list[Array] = []
        first: list[Callable[[], Any]] = []
        for operand in operands:
            r = 1 if operand[2] == 0 else rows
            c = 1 if operand[3] == 0 else cols
            source = self._at(operand, r, c, place)
            if source.dtype == dtype:
                values.append(source)
            else:
                cast = np.empty((r, c), dtype)
                values.append(cast)
                first.append(_copying(source, cast))
        values += [np.full((1, 1), v, dtype) for v in constants]
        steps: list[tuple[Callable[..., Any], tuple[Array, ...], Array]] = []
        last = {v: i for i, line in enumerate(lines) for v in line[1:] if v >= 0}
        kept = {v for v, _ in stores} | {r[2] for r in reductions}
        loads = len(values)
        spare: list[Array] = []
        for i, (op, *args) in enumerate(lines):
            xs = [values[v] for v in args if v >= 0]
            shape = np.broadcast_shapes(*[x.shape for x in xs])
            free = next((s for s in spare if s.shape == shape), None)
            if free is not None:
                spare = [s for s in spare if s is not free]
            out = np.empty(shape, dtype) if free is None else free
            steps.append((NUMPY[op], tuple(xs), out))
            values.append(out)
            for v in {v for v in args if v >= loads and v not in kept and last[v] == i}:
                spare.append(values[v])
        ends = [self._reduced(place, values[r[2]], size, r) for r in reductions]
        ends += [_copying(values[v], self._at(to, rows, cols, place)) for v, to in stores]

        def call() -> None:
            for load in first:
                load()
            for f, xs, out in steps:
                f(*xs, out=out)
            for end in ends:
                end()

        return call

    def _reduced(
        self, place: Place, value: Array, size: tuple[int, int], reduction: Any
    ) -> Callable[[], Any]:
        kind, axis, _, operand, scale, accumulate = reduction
        rows = size[0] if axis == "cols" else 1
        cols = size[1] if axis == "rows" else 1
        out = self._at(operand, rows, cols, place)
        reduce: Any = {"sum": np.sum, "max": np.max, "min": np.min}[kind]
        over = {"rows": 0, "cols": 1, "all": (0, 1)}[axis]

        def call() -> None:
            result = reduce(np.broadcast_to(value, size), axis=over, keepdims=True)
            if scale != 1:
                result = result * value.dtype.type(scale)
            np.copyto(out, out + result if accumulate else result, casting="unsafe")

        return call

    def _cross_entropy(
        self, place: Place, code: str, rows: int, cols: int, z: Any, t: Any, loss: Any,
        residual: Any, probability: Any, scale: float, chunked: bool,
    ) -> Callable[[], Any]:  # fmt: skip
        rows = place.rows if chunked else rows
        logits = self._at(z, rows, cols, place)
        labels = self._at(t, rows, 1, place)
        outs = [
            None if o is None else self._at(o, rows, cols, place) for o in (residual, probability)
        ]
        losses = None if loss is None else self._at(loss, rows, 1, place)
        each = np.arange(rows)

        def call() -> Any:
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= cols:
                return ("label", low if low < 0 else high, cols)
            shifted = logits - logits.max(axis=1, keepdims=True)
            picked = shifted[each, labels[:, 0]]
            p = np.exp(shifted)
            total = p.sum(axis=1, keepdims=True)
            if losses is not None:
                losses[:, 0] = np.log(total[:, 0]) - picked
            p /= total
            if outs[1] is not None:
                outs[1][...] = p
            if outs[0] is not None:
                p[each, labels[:, 0]] -= 1
                np.multiply(p, p.dtype.type(scale), out=outs[0])
            return None

        return call

    def _softmax(
        self, place: Place, code: str, rows: int, cols: int, x: Any, y: Any, log: bool,
        chunked: bool,
    ) -> Callable[[], Any]:  # fmt: skip
        rows = place.rows if chunked else rows
        source, target = self._at(x, rows, cols, place), self._at(y, rows, cols, place)

        def call() -> None:
            shifted = source - source.max(axis=1, keepdims=True)
            e = np.exp(shifted)
            total = e.sum(axis=1, keepdims=True)
            np.copyto(target, shifted - np.log(total) if log else e / total)

        return call

    def _copy(
        self, place: Place, itemsize: int, rows: int, cols: int, source: Any, target: Any,
        chunked: bool,
    ) -> Callable[[], Any]:  # fmt: skip
        rows = place.rows if chunked else rows
        a, b = self._at(source, rows, cols, place), self._at(target, rows, cols, place)
        return lambda: np.copyto(b, a)


def _copying(source: Array, target: Array) -> Callable[[], Any]:
    return lambda: np.copyto(target, source, casting="unsafe")


def _bases(instruction: Sequence[Any]) -> set[int]:
    """The memories that an instruction addresses: its operands are the tuples of six."""
    found: set[int] = set()
    stack = list(instruction)
    while stack:
        part = stack.pop()
        if type(part) is tuple:
            if len(part) == 6 and type(part[4]) is str and type(part[0]) is int:
                found.add(part[0])
            else:
                stack.extend(part)
    return found
