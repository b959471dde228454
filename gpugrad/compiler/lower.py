"""Lowering: equations become few nodes, each one pass over memory.

Elementwise equations over one space, and the sums that follow, are gathered into a `Chain`; matrix
products are `Gemm`; what has no native form is a `Call` of the op's own `forward`. Reshapes,
transposes and broadcasts are `View`s and cost nothing. Imports program, expr and nodes.
"""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpugrad.compiler.expr import WHOLE, Expr, Unsupported, lines, substituted, symbolic
from gpugrad.compiler.loss import HALF, losses, single
from gpugrad.compiler.nodes import (
    STATE_WORDS,
    ArgMax,
    Call,
    Chain,
    Concat,
    Copy,
    Draw,
    Finite,
    Gather,
    Gemm,
    Node,
    Reduction,
    Softmax,
)
from gpugrad.compiler.program import LAYOUT, Program, uniform
from gpugrad.compiler.trace import Eqn, Traced
from gpugrad.compiler.views import (
    Buffer,
    Shape,
    View,
    aligned,
    contiguous,
    in_rows,
    reshaped,
    whole,
)

_CHEAP = frozenset(
    [
        "add",
        "sub",
        "mul",
        "neg",
        "abs",
        "square",
        "max",
        "min",
        "lt",
        "le",
        "gt",
        "ge",
        "eq",
        "ne",
        "and",
        "or",
        "not",
        "half",
    ]
)
_LONGEST = 200  # expressions of a chain: more would not stay in a core's L1
_COPY = SimpleNamespace(name="copy", forward=lambda xp, x: xp.ascontiguousarray(x))
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_INT64 = np.dtype(np.int64)


class Lowering:
    """Turns a program's equations into nodes. ``view[var]`` says where each value lies."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.view: dict[Traced, View] = {}
        self.nodes: list[Node] = []
        self.maker: dict[Buffer, Node] = {}
        self.constants: list[Any] = []
        self.uniform: dict[Traced, float] = {}
        self.unfused: dict[str, str] = {}  # ops that stayed calls, and why
        self.draws: list[Draw] = []
        self._numbers: set[Traced] = set()  # of rows or columns: far below 2**53
        self._other_draws = any(eqn.op.name == "draw" for eqn in program.eqns)
        self._on_device = program.devices[:1] not in ([], ["cpu"])
        # What chains and products take. Half precision is computed with in float32, each result
        # rounded.
        self._floats = (*_FLOATS, HALF) if self._on_device else _FLOATS
        self._materialised: dict[tuple[View, Shape], View] = {}
        for i, var in enumerate(program.arguments):
            self._given("arg", var, i)
        for i, slot in enumerate(program.captured):
            assert slot.var is not None
            self._given("captured", slot.var, i)
        for i, (var, _) in enumerate(program.scalars):
            self.view[var] = whole(Buffer("scalar", np.float64, 1, i), ())
        for var, array in program.constants.items():
            value = uniform(array)
            if value is not None and array.dtype.kind in "fb":
                self.uniform[var] = float(value)
        self._losses = losses(program, self._floats)
        self._place = 0
        for self._place, eqn in enumerate(program.eqns):
            self._lower(eqn)
        self._sink()
        self._drop_unread()
        self._hoist()

    def _given(self, kind: str, var: Traced, index: int) -> None:
        buffer = Buffer(kind, var.dtype, math.prod(var.shape), index)
        self.view[var] = whole(buffer, var.shape)

    # Values

    def at(self, var: Traced) -> View:
        """Where ``var`` lies; a constant is given memory when somebody asks."""
        view = self.view.get(var)
        if view is None:
            array = self.program.constants[var]
            buffer = Buffer("constant", var.dtype, array.size, len(self.constants))
            self.constants.append(np.ascontiguousarray(array))
            view = self.view[var] = whole(buffer, var.shape)
        return view

    def new(self, var: Traced) -> View:
        view = self.view[var] = whole(Buffer("temp", var.dtype, math.prod(var.shape)), var.shape)
        return view

    def add(self, node: Node) -> None:
        node.place = self._place
        self.nodes.append(node)
        for view in node.writes:
            self.maker[view.buffer] = node

    def dense(self, view: View) -> View:
        """The same values one after the other: ``view`` itself, or a copy."""
        if view.contiguous:
            return View(view.buffer, view.shape, contiguous(view.shape), view.offset)
        key = (view, view.shape)
        if key not in self._materialised:
            target = whole(Buffer("temp", view.buffer.dtype, view.size), view.shape)
            plain = in_rows(view.strides, view.shape) is not None
            call = Eqn(_COPY, (), {})
            self.add(Copy(view, target) if plain else Call(call, [view], [target], "strides"))
            self._materialised[key] = target
        return self._materialised[key]

    # Equations

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
            elif name == "getitem" and self._on_device:
                self._gather(eqn)
            elif name == "setitem":
                self._overwrite(eqn)
            elif name in ("matmul", "linear"):
                self._product(eqn)
            elif name in ("sum", "mean", "max", "min"):
                self._reduction(eqn)
            elif name in ("softmax", "log_softmax"):
                self._softmax(eqn)
            elif name == "concat":
                self._concat(eqn)
            elif name in ("argmax", "argmin"):
                self._argmax(eqn)
            elif name == "finite" and self._on_device:
                self.view[eqn.outputs[0]] = self.at(eqn.inputs[0])
                self.add(Finite(self.at(eqn.inputs[0])))
            elif name in ("equal", "not_equal") and self._whole_and_small(eqn.inputs):
                inputs, (y,) = [self.at(x) for x in eqn.inputs], eqn.outputs
                self._chain(y.shape, np.dtype(np.float64), inputs, eqn.op.forward, [y])
            elif getattr(eqn.op, "pointwise", None) is not None:
                self._pointwise(eqn)
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
        if y.dtype not in self._floats or any(v.buffer.dtype != y.dtype for v in (x, w)):
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
        self._chain(y.shape, _wide(y.dtype), [product, self.at(eqn.inputs[2])], "add", [y])

    def _products(self, x: View, w: View, y: Traced) -> None:
        """A stack of products (…, m, k) @ (…, k, n)."""
        if len(y.shape) != 3 or self._on_device:
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
        if y.dtype not in self._floats or eqn.params["axis"] != len(y.shape) - 1:
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
            self._chain(y.shape, np.dtype(np.float32), [self.at(x)], lambda xp, x: x, [y])

    def _argmax(self, eqn: Eqn) -> None:
        (x,), (y,) = eqn.inputs, eqn.outputs
        least = eqn.op.name == "argmin"
        taken = self._on_device or (x.dtype in self._floats and not least)
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
        if self._on_device or any(type(x) is not Traced or x.dtype is float for x in xs):
            return False
        kinds = all(x.dtype.kind in "iu" for x in xs)
        return kinds and any(x in self._numbers or x.dtype.itemsize < 8 for x in xs)

    # Elementwise

    def _pointwise(self, eqn: Eqn) -> None:
        computes_whole = self._on_device and _is_whole(eqn)
        dtype = _INT64 if computes_whole else _compute_dtype(eqn, self._floats)
        shape = eqn.outputs[0].shape
        params = eqn.params
        forward = eqn.op.pointwise
        if eqn.op.name == "astype":
            if eqn.inputs[0].dtype == eqn.outputs[0].dtype:
                self.view[eqn.outputs[0]] = self.at(eqn.inputs[0])
                return
            forward = _cast(eqn)
            params = {}
        inputs = [
            self.uniform.get(x, None)
            if x in self.uniform
            else self.at(x)
            if type(x) is Traced
            else x
            for x in eqn.inputs
        ]
        if any(isinstance(x, complex) for x in inputs):
            raise Unsupported("complex numbers")
        self._chain(shape, dtype, inputs, forward, eqn.outputs, params)

    def _chain(
        self,
        shape: Shape,
        dtype: Any,
        inputs: Sequence[Any],
        forward: Any,
        outputs: Sequence[Traced],
        params: dict[str, Any] | None = None,
    ) -> None:
        """Put an elementwise equation into the chain of one of its inputs, or a new one."""
        floats = {x.buffer.dtype for x in inputs if isinstance(x, View)} & {*_FLOATS, HALF}
        if floats == {HALF}:  # as NumPy does with a number beside such arrays
            inputs = [x if isinstance(x, View) else float(np.float16(x)) for x in inputs]
        inputs = [self._fitting(x, shape) if isinstance(x, View) else x for x in inputs]
        home = self._home(shape, dtype, inputs)
        exprs = self._exprs(home, shape, dtype, inputs, forward, params or {})
        if home not in self.nodes:
            if len(home.builder) > 4 * _LONGEST:
                raise Unsupported("an expression too long for one chain")
            self.add(home)
        for y, expr in zip(outputs, exprs, strict=True):
            view = self.new(y)
            home.values[view.buffer] = _halved(home, expr) if y.dtype == HALF else expr
            home.stores[view.buffer] = view
            self.maker[view.buffer] = home

    def _fitting(self, view: View, shape: Shape) -> View:
        """``view``, or a copy of it spread out, so that it has rows in a space of ``shape``."""
        strides = aligned(view, shape)
        if in_rows(strides, shape) is not None:
            return view
        return self.dense(View(view.buffer, shape, strides, view.offset))

    def _exprs(
        self,
        home: Chain,
        shape: Shape,
        dtype: Any,
        inputs: Sequence[Any],
        forward: Any,
        params: dict[str, Any],
    ) -> list[Expr]:
        given: list[Any] = []
        for x in inputs:
            if not isinstance(x, View):
                if dtype == _INT64 and not (float(x).is_integer() and abs(x) <= 1 << 53):
                    raise Unsupported("a number that is not whole, or too large")
                given.append((home.builder.const(x), np.dtype(dtype), ()))
                continue
            if x.buffer in home.values and x == home.stores.get(x.buffer):
                expr = home.values[x.buffer]
            else:
                expr = home.builder.operand(self._one(x), x.size == 1)
            kind = x.buffer.dtype if x.buffer.kind != "scalar" else np.dtype(dtype)
            given.append((expr, _wide(kind), x.shape))
        if isinstance(forward, str):
            return [home.builder.make(forward, *[expr for expr, _, _ in given])]
        exprs = symbolic(forward, home.builder, given, params)
        if dtype == _INT64:
            odd = {e.op for e in lines(exprs)} - {*WHOLE, "in", "const"}
            if odd:
                raise Unsupported(f"{', '.join(sorted(odd))} of whole numbers")
        return exprs

    _views: dict[View, View]

    def _one(self, view: View) -> View:
        """Equal views as one object, so that an operand is loaded once."""
        if not hasattr(self, "_views"):
            self._views = {}
        return self._views.setdefault(view, view)

    def _home(self, shape: Shape, dtype: Any, inputs: Sequence[Any]) -> Chain:
        """The chain an equation over ``shape`` can join; those of several inputs become one."""
        views = [x for x in inputs if isinstance(x, View)]
        makers = [self.maker[x.buffer] for x in views if x.buffer in self.maker]
        found: Chain | None = None
        for x in views:
            node = self.maker.get(x.buffer)
            if not isinstance(node, Chain) or node is found:
                continue
            if node.shape != shape or node.dtype != dtype or not self._offers(node, inputs):
                continue
            if len(node.builder) + (len(found.builder) if found else 0) > _LONGEST:
                continue
            others = [m for m in makers if m is not node]
            if self._leads(node, others):
                continue
            if found is None:
                found = node
            else:
                first, second = (node, found) if self._leads(node, [found]) else (found, node)
                if not self._apart(first, second):
                    continue
                first.take(second)
                self.nodes.remove(second)
                for buffer, maker in self.maker.items():
                    if maker is second:
                        self.maker[buffer] = first
                found = first
                makers = [first if m is second else m for m in makers]
        return found if found is not None else Chain(shape, dtype)

    def _offers(self, node: Chain, inputs: Sequence[Any]) -> bool:
        """Whether all that ``inputs`` take from ``node`` is there element by element."""
        views = [x for x in inputs if isinstance(x, View) and self.maker.get(x.buffer) is node]
        return all(node.stores.get(x.buffer) == x and not _rounds(x.buffer.dtype) for x in views)

    def _leads(self, node: Node, others: Sequence[Node]) -> bool:
        """Whether one of ``others`` needs what ``node`` writes, however far down."""
        stack, seen = list(others), set(map(id, others))
        while stack:
            current = stack.pop()
            for view in current.reads:
                maker = self.maker.get(view.buffer)
                if maker is node:
                    return True
                if maker is not None and id(maker) not in seen:
                    seen.add(id(maker))
                    stack.append(maker)
        return False

    def _apart(self, first: Chain, second: Chain) -> bool:
        """Whether no path leads from ``first`` to ``second`` through a third node or a sum."""
        between = []
        for view in second.reads:
            maker = self.maker.get(view.buffer)
            if maker is first:
                if not self._offers(first, [view]):
                    return False
            elif maker is not None:
                between.append(maker)
        return not self._leads(first, between) and first not in between

    def _reduction(self, eqn: Eqn) -> None:
        (x,), (y,) = eqn.inputs, eqn.outputs
        counts = type(x) is Traced and x.dtype == np.bool_ and eqn.op.name == "sum"
        counts = counts and not self._on_device
        whole_sum = self._on_device and _is_whole(eqn)
        if not (counts or whole_sum) and (
            type(x) is not Traced or y.dtype not in self._floats or x.dtype != y.dtype
        ):
            raise Unsupported("a sum that changes the dtype")
        axes, n = eqn.params["axis"], len(x.shape)
        if not x.shape or 0 in x.shape or not axes:
            raise Unsupported("nothing to reduce")
        if len(axes) == n:
            axis = "all"
        elif axes == tuple(range(len(axes))):
            axis = "rows"
        elif axes == tuple(range(n - len(axes), n)):
            axis = "cols"
        else:
            raise Unsupported("axes that are neither the first nor the last")
        lead = len(axes) if axis == "rows" else n - len(axes) if axis == "cols" else 1
        view = self.at(x)
        maker = self.maker.get(view.buffer)
        split = max(1, min(lead, n - 1)) if n > 1 else 0
        dtype = np.dtype(np.float64) if counts else _INT64 if whole_sum else _wide(x.dtype)
        offered = isinstance(maker, Chain) and self._offers(maker, [view]) and n <= 2
        if isinstance(maker, Chain) and offered and maker.dtype == dtype:
            home, expr = maker, maker.values[view.buffer]
        else:
            flat = self.dense(view) if n > 2 else view
            shape = x.shape
            if n > 2:
                rows = math.prod(x.shape[:split])
                shape = (rows, math.prod(x.shape[split:]))
                flat = whole(flat.buffer, shape)._replace(offset=flat.offset)
            aligned(flat, shape)
            home = Chain(shape, dtype)
            expr = home.builder.operand(self._one(flat), flat.size == 1)
            self.add(home)
        if n == 1:
            axis = "all"
        count = math.prod(x.shape[i] for i in axes)
        scale = 1.0 / count if eqn.op.name == "mean" else 1.0
        kind = "sum" if eqn.op.name == "mean" else eqn.op.name
        out = whole(Buffer("temp", dtype, math.prod(y.shape)), y.shape) if counts else self.new(y)
        home.reductions.append(Reduction(kind, axis, expr, out, scale))
        self.maker[out.buffer] = home
        if counts:  # added up in float64, which is exact, and then whole
            self._chain(y.shape, dtype, [out], lambda xp, x: x, [y])

    def _drop_unread(self) -> None:
        """Stores that nobody outside their chain reads; values that nobody sees at all."""
        seen = {self.at(y).buffer for y in self.program.results}
        changed = True
        while changed:
            read = seen.union(v.buffer for node in self.nodes for v in node.reads)
            changed = False
            for node in list(self.nodes):
                if not isinstance(node, Chain):
                    continue
                for buffer in [b for b in node.stores if b not in read]:
                    del node.stores[buffer]
                    changed = True
                before = len(node.reductions)
                node.reductions = [r for r in node.reductions if r.out.buffer in read]
                changed |= before != len(node.reductions)
                if not node.stores and not node.reductions:
                    self.nodes.remove(node)

    def _sink(self) -> None:
        """A cheap value that one later chain alone reads is computed there, not kept for it.

        ``y·(1 − y)`` is known as soon as y is, and would be written and read again otherwise.
        """
        seen = {self.at(y).buffer for y in self.program.results}
        readers_of: dict[Buffer, list[Node]] = {}
        for node in self.nodes:
            for buffer in {view.buffer for view in node.reads}:
                readers_of.setdefault(buffer, []).append(node)
        for chain in [node for node in self.nodes if isinstance(node, Chain)]:
            for buffer in list(chain.stores)[::-1]:
                readers = readers_of.get(buffer, [])
                if buffer in seen or len(readers) != 1 or _rounds(buffer.dtype):
                    continue
                (reader,) = readers
                view = chain.stores[buffer]
                if not isinstance(reader, Chain) or reader is chain:
                    continue
                if reader.shape != chain.shape or reader.dtype != chain.dtype:
                    continue
                if any(v.buffer is buffer and v != view for v in reader.reads):
                    continue
                before = {view.buffer for view in reader.reads}
                self._move(chain, reader, buffer, readers_of)
                after = {view.buffer for view in reader.reads}
                for b in before - after:
                    readers_of[b].remove(reader)
                for b in after - before:
                    readers_of.setdefault(b, []).append(reader)

    def _move(
        self, chain: Chain, reader: Chain, buffer: Buffer, readers_of: dict[Buffer, list[Node]]
    ) -> None:
        kept = {
            id(chain.values[b]): view
            for b, view in chain.stores.items()
            if b is not buffer and readers_of.get(b) and not _rounds(b.dtype)
        }
        there = {v.buffer for v in reader.reads}
        given: dict[int, Expr] = {}
        cost = 0
        stack = [chain.values[buffer]]
        while stack:
            expr = stack.pop()
            view = kept.get(id(expr)) or (expr.value if expr.op == "in" else None)
            if view is not None:
                if id(expr) not in kept and view.buffer not in there and not expr.scalar:
                    return  # one more operand to read instead of the value itself
                given[id(expr)] = reader.builder.operand(self._one(view), view.size == 1)
            elif expr.op != "const":
                cost += 1 if expr.op in _CHEAP else 100
                stack.extend(expr.args)
        if cost > 4:
            return
        (new,) = substituted([chain.values[buffer]], reader.builder, given)
        view = chain.stores.pop(buffer)
        del chain.values[buffer]
        leaf = reader.builder.operand(self._one(view), view.size == 1)
        buffers = list(reader.values)
        roots = [*reader.values.values(), *[r.expr for r in reader.reductions]]
        moved = substituted(roots, reader.builder, {id(leaf): new})
        reader.values = dict(zip(buffers, moved, strict=False))
        reader.reductions = [
            r._replace(expr=e)
            for r, e in zip(reader.reductions, moved[len(buffers) :], strict=True)
        ]

    def _hoist(self) -> None:
        """What is the same for all elements is computed once, in float64, as eager code does."""
        for chain in [node for node in self.nodes if isinstance(node, Chain)]:
            if math.prod(chain.shape) <= 1:
                continue
            once: dict[int, Expr] = {}
            for expr in lines(chain.roots):
                if expr.scalar or expr.op in ("in", "const"):
                    continue
                for a in expr.args:
                    if a.scalar and a.op not in ("in", "const") and _is_live(a):
                        once[id(a)] = a
            if not once:
                continue
            first = Chain((), np.dtype(np.float64))
            first.place = chain.place
            made = substituted(list(once.values()), first.builder, {})
            given = {}
            for key, expr in zip(once, made, strict=True):
                view = whole(Buffer("temp", np.float64, 1), ())
                first.values[view.buffer] = expr
                first.stores[view.buffer] = view
                self.maker[view.buffer] = first
                given[key] = chain.builder.operand(self._one(view), True)
            self.nodes.insert(self.nodes.index(chain), first)
            buffers = list(chain.values)
            roots = [*chain.values.values(), *[r.expr for r in chain.reductions]]
            new = substituted(roots, chain.builder, given)
            chain.values = dict(zip(buffers, new, strict=False))
            chain.reductions = [
                r._replace(expr=e)
                for r, e in zip(chain.reductions, new[len(buffers) :], strict=True)
            ]


def _is_live(expr: Expr) -> bool:
    return any(e.op == "in" and e.value.buffer.kind == "scalar" for e in lines([expr]))


def _wide(dtype: Any) -> Any:
    """What a chain computes in for values of this dtype."""
    return np.dtype(np.float32) if dtype == HALF else dtype


def _is_whole(eqn: Eqn) -> bool:
    """Whether all there is are integers, whose int64 has the same bits, and truths."""
    values = [x for x in (*eqn.inputs, *eqn.outputs) if type(x) is Traced]
    dtypes = {x.dtype for x in values}
    if any(d is float or d.kind not in "iub" or d == np.uint64 for d in dtypes):
        return False
    return any(d.kind != "b" for d in dtypes)


def _rounds(dtype: Any) -> bool:
    """Whether storing a value loses something of what a chain computes with: read it from there."""
    return bool(dtype.kind in "iu" and dtype.itemsize < 8)


def _halved(chain: Chain, expr: Expr) -> Expr:
    """``expr`` rounded to half precision, where it is not."""
    is_half = expr.op == "half" or (expr.op == "in" and expr.value.buffer.dtype == HALF)
    return expr if is_half else chain.builder.make("half", expr)


def _compute_dtype(eqn: Eqn, known: Sequence[Any]) -> Any:
    """The dtype a chain computes this equation in; it takes the ``known`` floats."""
    outs = {y.dtype for y in eqn.outputs if y.dtype != np.bool_}
    given = {x.dtype for x in eqn.inputs if type(x) is Traced and x.dtype is not float}
    if eqn.op.name == "astype":
        source, target = eqn.inputs[0].dtype, eqn.outputs[0].dtype
        if target in known:
            if source.kind not in "fbiu" or (source.kind == "f" and source not in known):
                raise Unsupported(f"a cast from {source}")
            # Rounded once: not to float32 first.
            return source if target == HALF and source == np.float64 else _wide(target)
        if target == np.bool_ and source in known:
            return _wide(source)
        raise Unsupported(f"a cast from {source} to {target}")
    floats = {d for d in given if d in known}
    if not given <= {*known, np.dtype(bool)} or not outs <= set(known):
        other = sorted(str(d) for d in (given | outs) - {*known, np.dtype(bool)})
        raise Unsupported(f"dtype {', '.join(other)}")
    if outs:
        return _wide(max(outs, key=lambda d: d.itemsize))
    return _wide(max(floats, key=lambda d: d.itemsize)) if floats else np.dtype(np.float32)


def _cast(eqn: Eqn) -> Any:
    if eqn.outputs[0].dtype == np.bool_:
        return lambda xp, x: xp.not_equal(x, 0)
    return lambda xp, x: x
