"""Lowering: equations become few nodes, each one pass over memory.

Elementwise equations and sums are gathered into chains (`chains`), matrix products are `Gemm`; what
has no native form is a `Call` of the op's own `forward`. Reshapes, transposes and broadcasts are
`View`s and cost nothing. Imports draft, chains, tidy and loss.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpugrad.compiler.chains import join, pointwise, reduction, wide
from gpugrad.compiler.draft import Draft
from gpugrad.compiler.expr import Unsupported
from gpugrad.compiler.loss import losses, single
from gpugrad.compiler.nodes import (
    STATE_WORDS,
    ArgMax,
    Call,
    Concat,
    Draw,
    Finite,
    Gather,
    Gemm,
    Softmax,
)
from gpugrad.compiler.program import LAYOUT, Program
from gpugrad.compiler.tidy import tidy
from gpugrad.compiler.trace import Eqn, Traced
from gpugrad.compiler.views import Buffer, View, aligned, contiguous, in_rows, reshaped, whole


class Lowering(Draft):
    """The draft of a whole program: each of its equations made nodes."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.unfused: dict[str, str] = {}  # ops that stayed calls, and why
        self.draws: list[Draw] = []
        self._numbers: set[Traced] = set()  # of rows or columns: far below 2**53
        self._other_draws = any(eqn.op.name == "draw" for eqn in program.eqns)
        self._losses = losses(program, self.floats)
        for self.place, eqn in enumerate(program.eqns):
            self._lower(eqn)
        tidy(self)

    def _lower(self, eqn: Eqn) -> None:
        if eqn in self._losses:
            self._losses[eqn].lower(self, eqn)
            return
        try:
            name = eqn.op.name
            if name in LAYOUT:
                self._layout(eqn)
            elif name == "getitem" and len(eqn.inputs) == 1:
                self._slice(eqn)
            elif name == "getitem" and self.on_device:
                self._gather(eqn)
            elif name == "setitem":
                self._overwrite(eqn)
            elif name in ("matmul", "linear"):
                self._product(eqn)
            elif name in ("sum", "mean", "max", "min"):
                reduction(self, eqn)
            elif name in ("softmax", "log_softmax"):
                self._softmax(eqn)
            elif name == "concat":
                self._concat(eqn)
            elif name in ("argmax", "argmin"):
                self._argmax(eqn)
            elif name == "finite" and self.on_device:
                self.view[eqn.outputs[0]] = self.at(eqn.inputs[0])
                self.add(Finite(self.at(eqn.inputs[0])))
            elif name in ("equal", "not_equal") and self._whole_and_small(eqn.inputs):
                inputs, (y,) = [self.at(x) for x in eqn.inputs], eqn.outputs
                join(self, y.shape, np.dtype(np.float64), inputs, eqn.op.forward, [y])
            elif getattr(eqn.op, "pointwise", None) is not None:
                pointwise(self, eqn)
            elif name == "uniform":
                self._draw(eqn)
            else:
                raise Unsupported("no native form")
        except Unsupported as why:
            self._call(eqn, str(why))

    def _call(self, eqn: Eqn, why: str) -> None:
        inputs = [self.at(x) if type(x) is Traced else x for x in eqn.inputs]
        self.add(Call(eqn, inputs, [self.new(y) for y in eqn.outputs], why))
        self.unfused[eqn.op.name] = why

    def _layout(self, eqn: Eqn) -> None:
        (x,), (y,) = eqn.inputs, eqn.outputs
        if x in self.uniform:
            self.uniform[y] = self.uniform[x]
        view = self.at(x)
        if eqn.op.name == "permute_dims":
            axes = eqn.params["axes"]
            strides = tuple(view.strides[i] for i in axes)
            self.view[y] = View(view.buffer, y.shape, strides, view.offset)
        elif eqn.op.name == "broadcast_to":
            lead = len(y.shape) - len(view.shape)
            kept = [
                0 if have == 1 and want != 1 else stride
                for have, want, stride in zip(view.shape, y.shape[lead:], view.strides, strict=True)
            ]
            self.view[y] = View(view.buffer, y.shape, (0,) * lead + tuple(kept), view.offset)
        else:
            kept_strides = reshaped(view, y.shape)
            if kept_strides is None:
                view, kept_strides = self.dense(view), contiguous(y.shape)
            self.view[y] = View(view.buffer, y.shape, kept_strides, view.offset)

    def _concat(self, eqn: Eqn) -> None:
        (y,), axis = eqn.outputs, eqn.params["axis"]
        given = [self.at(x) if type(x) is Traced else None for x in eqn.inputs]
        views = [x for x in given if x is not None and x.buffer.dtype == y.dtype]
        if len(views) < len(given) or not y.size:
            raise Unsupported("operands of another dtype than the result")
        steps = contiguous(y.shape)
        if any(in_rows(steps, view.shape) is None for view in views):
            raise Unsupported("parts whose rows do not follow one another")
        views = [v if in_rows(v.strides, v.shape) is not None else self.dense(v) for v in views]
        out = self.new(y)
        parts, offset = [], 0
        for view in views:
            parts.append((view, View(out.buffer, view.shape, steps, offset)))
            offset += view.shape[axis] * steps[axis]
        self.add(Concat([p for p in parts if p[0].size], out))

    def _gather(self, eqn: Eqn) -> None:
        """``x[t]`` where t is one row of integers; other indices are calls."""
        (y,), x, t = eqn.outputs, self.at(eqn.inputs[0]), self.at(eqn.inputs[1])
        single = len(eqn.params["key"]) == 1 and len(t.shape) == 1 and t.buffer.dtype.kind in "iu"
        if not single or not y.size or y.dtype.itemsize > 8:
            raise Unsupported("an index of several parts")
        x, cols = self.dense(x), math.prod(y.shape[1:])
        rows = View(x.buffer, (x.shape[0], cols), (cols, 1), x.offset)
        out = self.new(y)
        self.add(Gather(rows, t, whole(out.buffer, (y.shape[0], cols))))

    def _draw(self, eqn: Eqn) -> None:
        (y,) = eqn.outputs
        if self._other_draws:  # they take theirs in the middle of a run, these before it
            raise Unsupported("beside draws that are made in Python")
        state = whole(Buffer("draw", np.uint64, STATE_WORDS, len(self.draws)), (STATE_WORDS,))
        node = Draw(state, self.new(y), eqn.params["generator"])
        self.draws.append(node)
        self.add(node)

    def _slice(self, eqn: Eqn) -> None:
        """``x[1:, None, 3]``: NumPy itself says where the values lie, of a view as of an array."""
        (x,), (y,) = eqn.inputs, eqn.outputs
        view = self.at(x)
        key = eqn.params["key"]
        room = np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), view.shape, view.strides)
        part = room[key if Ellipsis in key else (*key, Ellipsis)]  # with it never a bare number
        if min(part.strides, default=0) < 0:
            raise Unsupported("steps backwards")
        start = part.__array_interface__["data"][0] - room.__array_interface__["data"][0]
        self.view[y] = View(view.buffer, y.shape, part.strides, view.offset + start)

    def _overwrite(self, eqn: Eqn) -> None:
        """``x[...] = v`` is v; a write to a part is a call."""
        v, (y,), key = eqn.inputs[1], eqn.outputs, eqn.params["key"]
        if len(key) != 1 or key[0] is not Ellipsis or type(v) is not Traced or v.aval != y.aval:
            raise Unsupported("a write to a part, or of another shape or dtype")
        value = self.at(v)
        if value.buffer.kind != "temp":  # two that change places: one would overwrite the other
            raise Unsupported("a write of values from outside")
        self.view[y] = value

    def _product(self, eqn: Eqn) -> None:
        (y,) = eqn.outputs
        x, w = self.at(eqn.inputs[0]), self.at(eqn.inputs[1])
        if y.dtype not in self.floats or any(v.buffer.dtype != y.dtype for v in (x, w)):
            raise Unsupported("operands of another dtype than the product")
        if eqn.op.name == "linear":
            w = View(w.buffer, w.shape[::-1], w.strides[::-1], w.offset)
        if not x.size or not w.size:
            raise Unsupported("an empty product")
        if len(w.shape) != 2:
            self._products(x, w, y)
            return
        rows = math.prod(x.shape[:-1])
        if len(x.shape) != 2:
            x = self.dense(x)
            x = whole(x.buffer, (rows, x.shape[-1]))._replace(offset=x.offset)
        x, w = self._matrix(x), self._matrix(w)
        shape = (rows, w.shape[1])
        if eqn.op.name == "matmul":
            out = self.new(y)
            self.add(Gemm(x, w, whole(out.buffer, shape)))
            return
        product = whole(Buffer("temp", y.dtype, math.prod(shape)), y.shape)
        self.add(Gemm(x, w, whole(product.buffer, shape)))
        join(self, y.shape, wide(y.dtype), [product, self.at(eqn.inputs[2])], "add", [y])

    def _products(self, x: View, w: View, y: Traced) -> None:
        """A stack of products (…, m, k) @ (…, k, n)."""
        if len(y.shape) != 3 or self.on_device:
            raise Unsupported("a stack of matrices")
        count, m, n = y.shape
        x, w = self._stack(x, count), self._stack(w, count)
        # Members that lie side by side, in columns of one matrix, make members that do.
        side_by_side = x.strides[2] == 1 and x.strides[0] < x.strides[1]
        strides = (n, count * n, 1) if side_by_side else (m * n, n, 1)
        out = View(Buffer("temp", y.dtype, count * m * n), y.shape, strides)
        self.view[y] = out
        first = [View(v.buffer, v.shape[1:], v.strides[1:], v.offset) for v in (x, w, out)]
        gemm = Gemm(*first)
        gemm.count, gemm.steps = count, (x.strides[0], w.strides[0], strides[0])
        self.add(gemm)

    def _stack(self, view: View, count: int) -> View:
        """``view`` as (count, rows, columns) of matrices that a BLAS takes."""
        if len(view.shape) < 3 or view.shape[0] != count:
            steps = aligned(view, (count, *view.shape[-2:]))
            view = View(view.buffer, (count, *view.shape[-2:]), steps, view.offset)
        (_, m, n), (_, down, right) = view.shape, view.strides
        rows = right == 1 and (down >= n or m == 1)
        columns = down == 1 and (right >= m or n == 1)
        return view if rows or columns else self.dense(view)

    def _matrix(self, view: View) -> View:
        """A matrix that a BLAS takes: one unit stride, the other at least as long as a row."""
        (m, n), (down, right) = view.shape, view.strides
        rows = right == 1 and (down >= n or m == 1)
        columns = down == 1 and (right >= m or n == 1)
        return view if rows or columns else self.dense(view)

    def _softmax(self, eqn: Eqn) -> None:
        (x,), (y,) = eqn.inputs, eqn.outputs
        if y.dtype not in self.floats or eqn.params["axis"] != len(y.shape) - 1:
            raise Unsupported("an axis that is not the last, or another dtype")
        n = y.shape[-1]
        shape = (math.prod(y.shape) // n, n)
        source = self.dense(self.at(self.single(x)))
        result = single(y)
        out = self.new(result)
        log = eqn.op.name == "log_softmax"
        self.add(
            Softmax(source._replace(shape=shape, strides=(n, 1)), whole(out.buffer, shape), log)
        )
        self.cast(result, y)

    def single(self, x: Traced) -> Traced:
        """``x``, or what is half precision cast to float32."""
        wide = single(x)
        self.cast(x, wide)
        return wide

    def cast(self, x: Traced, y: Traced) -> None:
        """Have ``y`` be ``x`` in its own dtype, where it is not ``x`` itself."""
        if x is not y:
            join(self, y.shape, np.dtype(np.float32), [self.at(x)], lambda xp, x: x, [y])

    def _argmax(self, eqn: Eqn) -> None:
        (x,), (y,) = eqn.inputs, eqn.outputs
        least = eqn.op.name == "argmin"
        taken = self.on_device or (x.dtype in self.floats and not least)
        if not taken or x.dtype.kind == "c" or not x.shape:
            raise Unsupported("no native form")
        if eqn.params["axis"] != len(x.shape) - 1 or 0 in x.shape:
            raise Unsupported("an axis that is not the last")
        cols = x.shape[-1]
        rows = math.prod(x.shape) // cols
        source, out = self.dense(self.at(x)), self.new(y)
        source = source._replace(shape=(rows, cols), strides=(cols, 1))
        self.add(ArgMax(source, whole(out.buffer, (rows,)), least))
        self._numbers.add(y)

    def _whole_and_small(self, xs: Sequence[Any]) -> bool:
        """Whether whole numbers may be compared as float64: where one is below 2**53 for sure.

        A larger one is rounded to nothing smaller than that, and stays as unequal as it was.
        """
        if self.on_device or any(type(x) is not Traced or x.dtype is float for x in xs):
            return False
        kinds = all(x.dtype.kind in "iu" for x in xs)
        return kinds and any(x in self._numbers or x.dtype.itemsize < 8 for x in xs)
