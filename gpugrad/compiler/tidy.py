"""Finished chains tidied: each value computed where it costs least, and not where nobody reads it.

Imports chains, draft, expr and nodes.
"""

import math

import numpy as np

from gpugrad.compiler.chains import rounds
from gpugrad.compiler.draft import Draft
from gpugrad.compiler.expr import Expr, lines, substituted
from gpugrad.compiler.nodes import Chain, Node
from gpugrad.compiler.views import Buffer, whole

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


def tidy(draft: Draft) -> None:
    _sink(draft)
    _drop_unread(draft)
    _hoist(draft)


def _sink(draft: Draft) -> None:
    """A cheap value that one later chain alone reads is computed there, not kept for it.

    ``y·(1 − y)`` is known as soon as y is, and would be written and read again otherwise.
    """
    seen = {draft.at(y).buffer for y in draft.program.results}
    readers_of: dict[Buffer, list[Node]] = {}
    for node in draft.nodes:
        for buffer in {view.buffer for view in node.reads}:
            readers_of.setdefault(buffer, []).append(node)
    for chain in [node for node in draft.nodes if isinstance(node, Chain)]:
        for buffer in list(chain.stores)[::-1]:
            readers = readers_of.get(buffer, [])
            if buffer in seen or len(readers) != 1 or rounds(buffer.dtype):
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
            _move(draft, chain, reader, buffer, readers_of)
            after = {view.buffer for view in reader.reads}
            for b in before - after:
                readers_of[b].remove(reader)
            for b in after - before:
                readers_of.setdefault(b, []).append(reader)


def _move(
    draft: Draft, chain: Chain, reader: Chain, buffer: Buffer, readers_of: dict[Buffer, list[Node]]
) -> None:
    kept = {
        id(chain.values[b]): view
        for b, view in chain.stores.items()
        if b is not buffer and readers_of.get(b) and not rounds(b.dtype)
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
            given[id(expr)] = reader.builder.operand(draft.one(view), view.size == 1)
        elif expr.op != "const":
            cost += 1 if expr.op in _CHEAP else 100
            stack.extend(expr.args)
    if cost > 4:
        return
    (new,) = substituted([chain.values[buffer]], reader.builder, given)
    view = chain.stores.pop(buffer)
    del chain.values[buffer]
    leaf = reader.builder.operand(draft.one(view), view.size == 1)
    buffers = list(reader.values)
    roots = [*reader.values.values(), *[r.expr for r in reader.reductions]]
    moved = substituted(roots, reader.builder, {id(leaf): new})
    reader.values = dict(zip(buffers, moved, strict=False))
    reader.reductions = [
        r._replace(expr=e) for r, e in zip(reader.reductions, moved[len(buffers) :], strict=True)
    ]


def _drop_unread(draft: Draft) -> None:
    """Stores that nobody outside their chain reads; values that nobody sees at all."""
    seen = {draft.at(y).buffer for y in draft.program.results}
    changed = True
    while changed:
        read = seen.union(v.buffer for node in draft.nodes for v in node.reads)
        changed = False
        for node in list(draft.nodes):
            if not isinstance(node, Chain):
                continue
            for buffer in [b for b in node.stores if b not in read]:
                del node.stores[buffer]
                changed = True
            before = len(node.reductions)
            node.reductions = [r for r in node.reductions if r.out.buffer in read]
            changed |= before != len(node.reductions)
            if not node.stores and not node.reductions:
                draft.nodes.remove(node)


def _hoist(draft: Draft) -> None:
    """What is the same for all elements is computed once, in float64, as eager code does."""
    for chain in [node for node in draft.nodes if isinstance(node, Chain)]:
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
            draft.maker[view.buffer] = first
            given[key] = chain.builder.operand(draft.one(view), True)
        draft.nodes.insert(draft.nodes.index(chain), first)
        buffers = list(chain.values)
        roots = [*chain.values.values(), *[r.expr for r in chain.reductions]]
        new = substituted(roots, chain.builder, given)
        chain.values = dict(zip(buffers, new, strict=False))
        chain.reductions = [
            r._replace(expr=e) for r, e in zip(chain.reductions, new[len(buffers) :], strict=True)
        ]


def _is_live(expr: Expr) -> bool:
    return any(e.op == "in" and e.value.buffer.kind == "scalar" for e in lines([expr]))
