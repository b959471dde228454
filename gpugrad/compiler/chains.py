"""Chains: elementwise equations over one space, and sums of them, gathered into one pass.

An equation joins the chain that makes what it reads where no other node lies between. Imports
draft, expr and nodes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpugrad.compiler.draft import FLOATS, HALF, Draft
from gpugrad.compiler.expr import WHOLE, Expr, Unsupported, lines, symbolic
from gpugrad.compiler.nodes import Chain, Reduction
from gpugrad.compiler.trace import Eqn, Traced
from gpugrad.compiler.views import Buffer, Shape, View, aligned, in_rows, whole

_LONGEST = 200  # expressions of a chain: more would not stay in a core's L1
_INT64 = np.dtype(np.int64)


def pointwise(draft: Draft, eqn: Eqn) -> None:
    """Have a chain compute an elementwise equation."""
    computes_whole = draft.on_device and _is_whole(eqn)
    dtype = _INT64 if computes_whole else _compute_dtype(eqn, draft.floats)
    shape = eqn.outputs[0].shape
    params = eqn.params
    forward = eqn.op.pointwise
    if eqn.op.name == "astype":
        if eqn.inputs[0].dtype == eqn.outputs[0].dtype:
            draft.view[eqn.outputs[0]] = draft.at(eqn.inputs[0])
            return
        forward = _cast(eqn)
        params = {}
    inputs = [
        draft.uniform.get(x, None)
        if x in draft.uniform
        else draft.at(x)
        if type(x) is Traced
        else x
        for x in eqn.inputs
    ]
    if any(isinstance(x, complex) for x in inputs):
        raise Unsupported("complex numbers")
    join(draft, shape, dtype, inputs, forward, eqn.outputs, params)


def reduction(draft: Draft, eqn: Eqn) -> None:
    """Have a chain compute a sum, mean or extremum, over what it has at hand if it makes that."""
    (x,), (y,) = eqn.inputs, eqn.outputs
    counts = type(x) is Traced and x.dtype == np.bool_ and eqn.op.name == "sum"
    counts = counts and not draft.on_device
    whole_sum = draft.on_device and _is_whole(eqn)
    if not (counts or whole_sum) and (
        type(x) is not Traced or y.dtype not in draft.floats or x.dtype != y.dtype
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
    view = draft.at(x)
    maker = draft.maker.get(view.buffer)
    split = max(1, min(lead, n - 1)) if n > 1 else 0
    dtype = np.dtype(np.float64) if counts else _INT64 if whole_sum else wide(x.dtype)
    offered = isinstance(maker, Chain) and _offers(draft, maker, [view]) and n <= 2
    if isinstance(maker, Chain) and offered and maker.dtype == dtype:
        home, expr = maker, maker.values[view.buffer]
    else:
        flat = draft.dense(view) if n > 2 else view
        shape = x.shape
        if n > 2:
            rows = math.prod(x.shape[:split])
            shape = (rows, math.prod(x.shape[split:]))
            flat = whole(flat.buffer, shape)._replace(offset=flat.offset)
        aligned(flat, shape)
        home = Chain(shape, dtype)
        expr = home.builder.operand(draft.one(flat), flat.size == 1)
        draft.add(home)
    if n == 1:
        axis = "all"
    count = math.prod(x.shape[i] for i in axes)
    scale = 1.0 / count if eqn.op.name == "mean" else 1.0
    kind = "sum" if eqn.op.name == "mean" else eqn.op.name
    out = whole(Buffer("temp", dtype, math.prod(y.shape)), y.shape) if counts else draft.new(y)
    home.reductions.append(Reduction(kind, axis, expr, out, scale))
    draft.maker[out.buffer] = home
    if counts:  # added up in float64, which is exact, and then whole
        join(draft, y.shape, dtype, [out], lambda xp, x: x, [y])


def join(
    draft: Draft,
    shape: Shape,
    dtype: Any,
    inputs: Sequence[Any],
    forward: Any,
    outputs: Sequence[Traced],
    params: dict[str, Any] | None = None,
) -> None:
    """Put an elementwise equation into the chain of one of its inputs, or a new one."""
    floats = {x.buffer.dtype for x in inputs if isinstance(x, View)} & {*FLOATS, HALF}
    if floats == {HALF}:  # as NumPy does with a number beside such arrays
        inputs = [x if isinstance(x, View) else float(np.float16(x)) for x in inputs]
    inputs = [_fitting(draft, x, shape) if isinstance(x, View) else x for x in inputs]
    home = _home(draft, shape, dtype, inputs)
    exprs = _exprs(draft, home, dtype, inputs, forward, params or {})
    if home not in draft.nodes:
        if len(home.builder) > 4 * _LONGEST:
            raise Unsupported("an expression too long for one chain")
        draft.add(home)
    for y, expr in zip(outputs, exprs, strict=True):
        view = draft.new(y)
        home.values[view.buffer] = _halved(home, expr) if y.dtype == HALF else expr
        home.stores[view.buffer] = view
        draft.maker[view.buffer] = home


def _fitting(draft: Draft, view: View, shape: Shape) -> View:
    """``view``, or a copy of it spread out, so that it has rows in a space of ``shape``."""
    strides = aligned(view, shape)
    if in_rows(strides, shape) is not None:
        return view
    return draft.dense(View(view.buffer, shape, strides, view.offset))


def _exprs(
    draft: Draft,
    home: Chain,
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
            expr = home.builder.operand(draft.one(x), x.size == 1)
        kind = x.buffer.dtype if x.buffer.kind != "scalar" else np.dtype(dtype)
        given.append((expr, wide(kind), x.shape))
    if isinstance(forward, str):
        return [home.builder.make(forward, *[expr for expr, _, _ in given])]
    exprs = symbolic(forward, home.builder, given, params)
    if dtype == _INT64:
        odd = {e.op for e in lines(exprs)} - {*WHOLE, "in", "const"}
        if odd:
            raise Unsupported(f"{', '.join(sorted(odd))} of whole numbers")
    return exprs


def _home(draft: Draft, shape: Shape, dtype: Any, inputs: Sequence[Any]) -> Chain:
    """The chain an equation over ``shape`` can join; those of several inputs become one."""
    views = [x for x in inputs if isinstance(x, View)]
    makers = [draft.maker[x.buffer] for x in views if x.buffer in draft.maker]
    found: Chain | None = None
    for x in views:
        node = draft.maker.get(x.buffer)
        if not isinstance(node, Chain) or node is found:
            continue
        if node.shape != shape or node.dtype != dtype or not _offers(draft, node, inputs):
            continue
        if len(node.builder) + (len(found.builder) if found else 0) > _LONGEST:
            continue
        others = [m for m in makers if m is not node]
        if draft.leads(node, others):
            continue
        if found is None:
            found = node
        else:
            first, second = (node, found) if draft.leads(node, [found]) else (found, node)
            if not _apart(draft, first, second):
                continue
            first.take(second)
            draft.nodes.remove(second)
            for buffer, maker in draft.maker.items():
                if maker is second:
                    draft.maker[buffer] = first
            found = first
            makers = [first if m is second else m for m in makers]
    return found if found is not None else Chain(shape, dtype)


def _offers(draft: Draft, node: Chain, inputs: Sequence[Any]) -> bool:
    """Whether all that ``inputs`` take from ``node`` is there element by element."""
    views = [x for x in inputs if isinstance(x, View) and draft.maker.get(x.buffer) is node]
    return all(node.stores.get(x.buffer) == x and not rounds(x.buffer.dtype) for x in views)


def _apart(draft: Draft, first: Chain, second: Chain) -> bool:
    """Whether no path leads from ``first`` to ``second`` through a third node or a sum."""
    between = []
    for view in second.reads:
        maker = draft.maker.get(view.buffer)
        if maker is first:
            if not _offers(draft, first, [view]):
                return False
        elif maker is not None:
            between.append(maker)
    return not draft.leads(first, between) and first not in between


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
            return source if target == HALF and source == np.float64 else wide(target)
        if target == np.bool_ and source in known:
            return wide(source)
        raise Unsupported(f"a cast from {source} to {target}")
    floats = {d for d in given if d in known}
    if not given <= {*known, np.dtype(bool)} or not outs <= set(known):
        other = sorted(str(d) for d in (given | outs) - {*known, np.dtype(bool)})
        raise Unsupported(f"dtype {', '.join(other)}")
    if outs:
        return wide(max(outs, key=lambda d: d.itemsize))
    return wide(max(floats, key=lambda d: d.itemsize)) if floats else np.dtype(np.float32)


def _cast(eqn: Eqn) -> Any:
    if eqn.outputs[0].dtype == np.bool_:
        return lambda xp, x: xp.not_equal(x, 0)
    return lambda xp, x: x


def _is_whole(eqn: Eqn) -> bool:
    """Whether all there is are integers, whose int64 has the same bits, and truths."""
    values = [x for x in (*eqn.inputs, *eqn.outputs) if type(x) is Traced]
    dtypes = {x.dtype for x in values}
    if any(d is float or d.kind not in "iub" or d == np.uint64 for d in dtypes):
        return False
    return any(d.kind != "b" for d in dtypes)


def wide(dtype: Any) -> Any:
    """What a chain computes in for values of this dtype."""
    return np.dtype(np.float32) if dtype == HALF else dtype


def rounds(dtype: Any) -> bool:
    """Whether storing a value loses something of what a chain computes with: read it from there."""
    return bool(dtype.kind in "iu" and dtype.itemsize < 8)


def _halved(chain: Chain, expr: Expr) -> Expr:
    """``expr`` rounded to half precision, where it is not."""
    is_half = expr.op == "half" or (expr.op == "in" and expr.value.buffer.dtype == HALF)
    return expr if is_half else chain.builder.make("half", expr)
