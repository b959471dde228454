"""Instructions: each node written as the tuple that runs it. Imports nodes, expr and lower.

For the native core, its twin (backend/twin.py) and the CUDA executor (backend/graph.py) alike.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from gpugrad.compiler.expr import lines
from gpugrad.compiler.nodes import (
    ArgMax,
    Chain,
    Concat,
    Copy,
    CrossEntropy,
    Draw,
    Finite,
    Gather,
    Gemm,
    Node,
    Reduction,
    Softmax,
)
from gpugrad.compiler.views import View, aligned, in_rows

CHUNKED, PRIVATE = 1, 2
# For the CUDA executor alone: one instruction reads it; nobody but instructions does.
READ_ONCE, READ_INSIDE = 4, 8


class Emitter:
    """Writes a node as the tuple the native core takes (see kernels/cpu/program.h)."""

    def __init__(self, plan: Any, rows: Any = None, inside: bool = False) -> None:
        self.plan = plan
        self.rows = rows
        self.inside = inside  # in the segment that runs on a part of the rows at a time

    def all(self, nodes: Sequence[Node]) -> list[tuple[Any, ...]]:
        """The instructions of nodes, in their order: one each, and a copy for each part of one."""
        each: list[tuple[Any, ...]] = []
        for node in nodes:
            if isinstance(node, Concat):
                each += [copy for part in node.parts for copy in self._copies(*part)]
            elif isinstance(node, Copy):
                each += self._copies(node.source, node.target)
            else:
                write: Any = getattr(self, f"_{type(node).__name__.lower()}")
                each.append(write(node))
        return each

    def operand(
        self, view: View, row: int, col: int, thread: int = 0, follows: bool = True
    ) -> tuple[Any, ...]:
        """``follows``: inside the rows segment it moves on with the chunk, if it has rows."""
        buffer = view.buffer
        flags = 0
        if self.rows is not None and self.rows.is_private(buffer):
            offset = self.plan.offset[buffer] + thread * self.plan.private_bytes
            flags = PRIVATE if self.inside else 0
        else:
            buffer = self.plan.home(view).buffer
            offset = self.plan.offset.get(buffer, 0)
            if self.inside and row and follows:
                flags = CHUNKED
            else:
                flags = READ_ONCE if view.buffer in self.plan.read_once else 0
                flags |= READ_INSIDE if buffer in self.plan.read_inside else 0
        offset += view.offset * buffer.dtype.itemsize
        return (self.plan.base(buffer), offset, row, col, _code(buffer.dtype), flags)

    def _gemm(self, node: Gemm) -> tuple[Any, ...]:
        dtype = _code(node.c.buffer.dtype)
        (m, k), n = node.a.shape, node.b.shape[1]
        rows, beta = None, node.beta
        if self.inside and self.rows is not None:
            rows = "k" if node.c.buffer in self.rows.reduced else "m"
            beta = 1.0 if rows == "k" else beta
        # A vector can be read either way: the axis that is cut must be the one in steps of a row.
        ta, a = self._matrix(node.a, {"k": True, "m": False}.get(rows or ""))
        tb, b = self._matrix(node.b, False if rows == "k" else None)
        scale = None if node.scale is None else self.operand(node.scale, 0, 0)
        c = self.operand(node.c, node.c.strides[0], 1, follows=self._batched(node.c))
        stack = (node.count, *node.steps) if node.count > 1 else ()
        return ("gemm", dtype, ta, tb, m, n, k, node.alpha, scale, a, b, beta, c, rows, *stack)

    def _matrix(self, view: View, turned: bool | None) -> tuple[bool, tuple[Any, ...]]:
        """Whether a matrix lies transposed in memory (None: whichever fits), and its operand."""
        (m, n), (down, right) = view.shape, view.strides
        if turned is None:
            turned = not (right == 1 and (down >= n or m == 1))
        if not turned:
            return False, self.operand(view, max(down, n), 1, follows=self._batched(view))
        flipped = View(view.buffer, (n, m), (right, down), view.offset)
        return True, self.operand(flipped, max(right, m), 1, follows=self._batched(view))

    def _batched(self, view: View) -> bool:
        return self.rows is not None and view.buffer in self.rows.batched

    def _chain(self, node: Chain) -> tuple[Any, ...]:
        batch = self.rows.batch if self.inside and self.rows is not None else 0
        shape = node.shape
        if batch and len(shape) == 1:
            shape = (*shape, 1)
        rows, cols = math.prod(shape[:-1]), shape[-1] if shape else 1
        chunked = bool(batch)

        def placed(view: View, thread: int = 0) -> tuple[Any, ...]:
            row, col = _strides(view, node.shape, bool(batch))
            return self.operand(view, row, col, thread)

        order = lines(node.roots)
        loads: list[tuple[Any, ...]] = []
        numbers: dict[int, int] = {}
        sums: dict[int, list[int]] = {}
        for expr in order:
            if expr.op != "in":
                continue
            view = expr.value
            split = not self.inside and self.rows is not None and view.buffer in self.rows.reduced
            if split:
                sums[id(expr)] = list(range(len(loads), len(loads) + self.plan.threads))
                loads += [placed(view, t) for t in range(self.plan.threads)]
            else:
                numbers[id(expr)] = len(loads)
                loads.append(placed(view))
        constants = [e for e in order if e.op == "const"]
        for i, expr in enumerate(constants):
            numbers[id(expr)] = len(loads) + i
        code: list[tuple[str, int, int, int]] = []
        first = len(loads) + len(constants)
        for key, parts in sums.items():
            total = parts[0]
            for part in parts[1:]:
                code.append(("add", total, part, -1))
                total = first + len(code) - 1
            numbers[key] = total
        for expr in order:
            if expr.op in ("in", "const"):
                continue
            args = [numbers[id(a)] for a in expr.args] + [-1, -1]
            code.append((expr.op, args[0], args[1], args[2]))
            numbers[id(expr)] = first + len(code) - 1
        stores = tuple(
            (numbers[id(node.values[b])], placed(view)) for b, view in node.stores.items()
        )
        reductions = tuple(self._reduction(node, r, numbers) for r in node.reductions)
        values = tuple(e.value for e in constants)
        dtype = _code(node.dtype)
        program = (tuple(loads), values, tuple(code), stores, reductions)
        return ("chain", dtype, rows, cols, *program, chunked)

    def _reduction(self, node: Chain, r: Reduction, numbers: dict[int, int]) -> tuple[Any, ...]:
        over_rows = r.axis == "rows"
        summed = self.inside and self.rows is not None and r.out.buffer in self.rows.reduced
        axis = r.axis
        place = self.operand(r.out, int(axis == "cols"), int(over_rows))
        return (r.kind, axis, numbers[id(r.expr)], place, r.scale, summed)

    def _crossentropy(self, node: CrossEntropy) -> tuple[Any, ...]:
        n, classes = node.z.shape

        def rows(view: View | None) -> Any:
            return None if view is None else self.operand(view, view.shape[-1], 1)

        loss = None if node.loss is None else self.operand(node.loss, 1, 1)
        t = self.operand(node.t, node.t.strides[0], 1)
        z = self.operand(node.z, node.z.strides[0], 1)
        dtype = _code(node.z.buffer.dtype)
        more = (rows(node.residual), rows(node.probability), node.scale, self.inside)
        return ("cross_entropy", dtype, n, classes, z, t, loss, *more)

    def _softmax(self, node: Softmax) -> tuple[Any, ...]:
        n, classes = node.x.shape
        x, y = (self.operand(v, v.strides[0], 1) for v in (node.x, node.y))
        return ("softmax", _code(node.x.buffer.dtype), n, classes, x, y, node.log, self.inside)

    def _argmax(self, node: ArgMax) -> tuple[Any, ...]:
        rows, cols = node.x.shape
        x, out = self.operand(node.x, node.x.strides[0], 1), self.operand(node.out, 1, 1)
        return (node.label, _code(node.x.buffer.dtype), rows, cols, x, out, self.inside)

    def _finite(self, node: Finite) -> tuple[Any, ...]:
        return ("finite", self.operand(node.x, 0, 0))

    def _gather(self, node: Gather) -> tuple[Any, ...]:
        (size, cols), rows = node.x.shape, node.t.shape[0]
        x, out = (self.operand(view, cols, 1) for view in (node.x, node.out))
        t = self.operand(node.t, node.t.strides[0], 1)
        return ("gather", node.x.buffer.dtype.itemsize, size, rows, cols, x, t, out)

    def _draw(self, node: Draw) -> tuple[Any, ...]:
        state, out = (self.operand(view, 1, 1) for view in (node.state, node.out))
        return ("uniform", _code(node.out.buffer.dtype), node.out.size, state, out)

    def _copies(self, source: View, target: View) -> Iterator[tuple[Any, ...]]:
        """What is only moved is words of its size; one of 16 bytes is two, moved one by one."""
        size, shape = target.buffer.dtype.itemsize, target.shape
        rows, cols = math.prod(shape[:-1]), shape[-1] if shape else 1
        words = max(1, size // 8)
        for k in range(words):
            places = []
            for view in (source, target):
                row, col = _strides(view, shape, False)
                base, offset, *_ = self.operand(view, row, col)
                places.append(
                    (base, offset + 8 * k, words * row, words * col, f"u{size // words}", 0)
                )
            yield ("copy", size // words, rows, cols, *places, False)


def _strides(view: View, shape: tuple[int, ...], batch: bool) -> tuple[int, int]:
    """The steps of ``view`` between rows and columns of ``shape``, in elements."""
    steps = aligned(view, shape)
    if batch and len(steps) == 1:
        return steps[0], 0
    found = in_rows(steps, shape)
    assert found is not None, "rows that do not follow one another"
    return found


def _code(dtype: Any) -> str:
    return "b1" if dtype.kind == "b" else f"{dtype.kind}{dtype.itemsize}"
