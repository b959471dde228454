"""A compiled step as a graph: its passes over memory as they run, and the equations it was.

Imports compiler, graph and record.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpugrad.compiler import Compiled
from gpugrad.compiler.nodes import Call, Chain, Gather, Gemm, Node, Softmax
from gpugrad.compiler.program import Program, uniform
from gpugrad.compiler.record import data_of, is_array
from gpugrad.compiler.recording import Recording
from gpugrad.compiler.timing import times
from gpugrad.compiler.trace import Traced
from gpugrad.compiler.views import Buffer, View
from gpugrad.drawing.graph import (
    LARGEST,
    PROGRAM,
    Edge,
    Graph,
    Vertex,
    bytes_text,
    phrase,
    seconds_text,
)
from gpugrad.drawing.naming import Names, seen_by
from gpugrad.drawing.record import (
    Glance,
    number,
    parameters,
    paths,
    shape_text,
    title_of,
)
from gpugrad.errors import GradientError, message
from gpugrad.tree import flatten


def of_compiled(step: Compiled, args: tuple[Any, ...], around: Mapping[str, Any]) -> list[Graph]:
    """What runs for these arguments, each pass timed, and what was traced."""
    recording = step.recording(*args)
    called = parameters(step.function, args)
    known = [path for name, x in zip(called, args, strict=True) for path in paths(name, x)]
    leaves = flatten(args)[0]
    given = [(path, data_of(x)) for path, x in zip(known, leaves, strict=True) if is_array(x)]
    names = Names(recording.program, [path for path, _ in given], [seen_by(step.function), around])
    title = title_of(step.function)
    passes = _passes(recording, names, [x for _, x in given], times(recording, args), title)
    return [passes, _equations(recording.program, names, title)]


def of_program(program: Program, around: Mapping[str, Any]) -> Graph:
    """Its equations, named after the variables around."""
    return _equations(program, Names(program, [], [around]), "program")


def _equations(program: Program, names: Names, title: str) -> Graph:
    """One vertex each."""
    drawn = _Drawing()
    for var, name in names.given():
        kind = "input" if var in program.arguments else "parameter"
        drawn.input(var, name, kind, var.shape, var.dtype)
    returned = {id(y) for y in program.outputs}
    for i, eqn in enumerate(program.eqns, 1):
        words = [names.word(x) for x in eqn.inputs]
        first = next((y for y in eqn.outputs if y in names.known), eqn.outputs[0])
        names.known.setdefault(first, f"v{i}")
        for y in eqn.outputs:
            names.known.setdefault(y, names.known[first])
        drawn.add(
            names.known[first],
            "op",
            phrase(eqn.op.name, words),
            eqn.outputs,
            {x: _said(names.word(x), x) for x in eqn.inputs if type(x) is Traced},
            _bytes_of(eqn.outputs),
            output=any(id(y) in returned or names.is_written(y) for y in eqn.outputs),
        )
    return drawn.graph(title, f"as traced: {len(program.eqns)} equations", [])


def _passes(
    recording: Recording,
    names: Names,
    arrays: Sequence[Any],
    seconds: Mapping[Node, float],
    title: str,
) -> Graph:
    plan, program = recording.plan, recording.program
    nodes = [node for segment in plan.segments for node in segment.nodes]
    at = {id(var): plan.lowering.at(var).buffer for var, _ in names.given()}
    inner = _state(recording, nodes)
    drawn = _Drawing()
    called: dict[Buffer, str] = {}
    values = dict(zip(map(id, program.arguments), arrays, strict=True))
    for var, name in names.given():
        called[at[id(var)]] = name
        if at[id(var)] not in inner:
            value = Glance.of(values[id(var)]) if id(var) in values else None
            kind = "parameter" if value is None else "input"
            drawn.input(at[id(var)], name, kind, var.shape, var.dtype, value)
    for var, name in names.scalars():
        called[plan.lowering.at(var).buffer] = name
    outputs = [buffer for buffer, _ in plan.results[len(plan.rebound) :]]
    for i, buffer in enumerate(outputs):
        called[buffer] = f"{title}()" if len(outputs) == 1 else f"{title}()[{i}]"
    for slot, buffer in plan.rebound:
        called[buffer] = f"{names.holder(slot)}′"
    unnamed = 0

    def word(view: Any) -> str:
        if type(view) is not View:
            return number(view) if isinstance(view, (bool, int, float)) else str(view)
        return called.get(plan.home(view).buffer) or _constant(recording, view)

    for node in nodes:
        text, kind, notes = _words(node, word)
        writes = [plan.home(view).buffer for view in node.writes]
        named = [b for b in writes if b in called]
        shown = [b for b in named if b not in inner] or named
        name = called[shown[0]] if shown else ""
        if shown and shown[0].kind == "captured" and not name.endswith("′"):
            name += "′"
        if not name:
            unnamed += 1
            name = f"t{unnamed}"
        count = node.count if isinstance(node, Gemm) else 1  # of a stack of products
        view = node.writes[0] if node.writes else None
        if view is not None and count > 1:
            view = view._replace(shape=(count, *view.shape))
            notes = (f"{count} products",)
        known = [f"reads {_what(word(v), v)}" for v in _once(node.reads)]
        for part, buffer in zip(node.writes, writes, strict=True):
            known.append(f"writes {_what(called.get(buffer, name), part)}")
            if buffer not in inner:
                called[buffer] = name
        drawn.add(
            name,
            kind,
            text,
            writes,
            {plan.home(view).buffer: _what(word(view), view) for view in node.reads},
            count * sum(map(_bytes, _once([*node.reads, *node.writes]))),
            view,
            seconds=seconds.get(node),
            line="\n".join(known),
            output=any(b in outputs or b.kind == "captured" for b in writes),
            notes=notes,
        )
    many = f"{len(nodes)} pass{'es' * (len(nodes) != 1)} over memory"
    label = f"compiled: {len(program.eqns)} equations in {many}"
    return drawn.graph(title, label, _about(recording, seconds, drawn))


def _about(recording: Recording, seconds: Mapping[Node, float], drawn: "_Drawing") -> list[str]:
    """What is said below the picture."""
    stats = recording.stats()
    moved = sum(v.bytes or 0 for v in drawn.vertices if v.kind not in ("input", "parameter"))
    notes = [
        f"{bytes_text(moved)} read and written, {bytes_text(stats['arena_bytes'])} for what lies "
        f"between, {stats['kernels']}, {stats['threads']} threads"
    ]
    if seconds:
        whole = seconds_text(sum(seconds.values()))
        notes.append(f"run on their own the passes take {whole} together, the least of several")
    if not recording.moving:
        notes.append("on a GPU the step is a graph, and its passes have no times of their own")
    rows = recording.plan.rows
    if rows is not None:
        notes.append(f"the batch of {rows.batch} is cut over the threads, {rows.chunk} rows a time")
    left = [f"{op} ({why})" for op, why in stats["not fused"].items()]
    return [*notes, f"not fused: {', '.join(left)}"] if left else notes


def _state(recording: Recording, nodes: Sequence[Node]) -> set[Buffer]:
    """Captured memory that one pass alone reads, and updates: an optimiser's, inside that pass."""
    plan = recording.plan
    readers: dict[Buffer, set[int]] = {}
    writers: dict[Buffer, set[int]] = {}
    for node in nodes:
        for views, users in ((node.reads, readers), (node.writes, writers)):
            for view in views:
                users.setdefault(plan.home(view).buffer, set()).add(id(node))
    return {
        buffer
        for buffer, ids in readers.items()
        if buffer.kind == "captured" and len(ids) == 1 and writers.get(buffer) == ids
    }


def _words(node: Node, word: Callable[[Any], str]) -> tuple[str, str, tuple[str, ...]]:
    """What a pass computes, its kind, and further lines."""
    if isinstance(node, Call):
        words = [word(x) for x in node.inputs]
        return phrase(node.eqn.op.name, words), "call", (f"not fused: {node.why}",)
    if isinstance(node, Gemm):
        text = f"{_matrix(node.a, word)} @ {_matrix(node.b, word)}"
        factors = [word(node.scale)] if node.scale is not None else []
        if abs(node.alpha) != 1:
            factors.append(number(abs(node.alpha)))
        text = "·".join([*factors, f"({text})"]) if factors else text
        if node.beta:
            return f"{word(node.c)} {'−' if node.alpha < 0 else '+'} {text}", "fused", ()
        return f"−{text}" if node.alpha < 0 else text, "pass", ()
    if isinstance(node, Chain):
        ops = node.label.split("+")
        if len(ops) > 1:
            lines = textwrap.wrap(", ".join(ops), 34)
            return f"{len(ops)} ops in one pass", "fused", tuple(lines)
        return _only(node, ops[0], word), "pass", ()
    if isinstance(node, Gather):
        return f"{word(node.x)}[{word(node.t)}]", "pass", ()
    name = "log_softmax" if isinstance(node, Softmax) and node.log else node.label
    kind = "fused" if name == "cross_entropy" else "pass"
    return f"{name}({', '.join(map(word, node.reads))})", kind, ()


_SIGNS = {"add": "+", "sub": "−", "mul": "·", "div": "/"}


def _only(node: Chain, op: str, word: Callable[[Any], str]) -> str:
    """What a chain of a single op computes: that op, a sum, or nothing but a copy."""
    if node.reductions:
        name, _, over = op.rstrip(")").partition("(")
        text = f"{name}({', '.join(map(word, node.reads))})"
        return text if over == "all" else f"{text} over {over}"
    (expr,) = {id(root): root for root in node.roots}.values()
    words = [word(x.value) for x in expr.args]
    if op in _SIGNS:
        return f" {_SIGNS[op]} ".join(words)
    return f"{op or 'copy'}({', '.join(words or map(word, node.reads))})"


def _matrix(view: View, word: Callable[[Any], str]) -> str:
    turned = view.strides[0] == 1 < view.strides[1] and min(view.shape) > 1
    return word(view) + "ᵀ" * turned


def _constant(recording: Recording, view: View) -> str:
    if view.buffer.kind != "constant":
        return "…"
    value = uniform(recording.plan.lowering.constants[view.buffer.index])
    return "constant" if value is None else number(value)


def _what(name: str, view: View) -> str:
    return f"{name} {shape_text(view.shape)} {view.buffer.dtype.name}, {bytes_text(_bytes(view))}"


def _said(name: str, x: Traced) -> str:
    return f"{name} {shape_text(x.shape)} {np.dtype(x.dtype).name}"


def _bytes(view: View) -> int:
    return min(view.size, view.buffer.size) * int(view.buffer.dtype.itemsize)


def _bytes_of(outputs: Sequence[Traced]) -> int:
    return sum(y.size * np.dtype(y.dtype).itemsize for y in outputs)


def _once(views: Sequence[View]) -> list[View]:
    return list(dict.fromkeys(views))


class _Drawing:
    """Vertices in the order they come, each edge from who wrote what is read last."""

    def __init__(self) -> None:
        self.vertices: list[Vertex] = []
        self.edges: dict[tuple[int, int], Edge] = {}
        self._writer: dict[Any, int] = {}

    def input(
        self,
        what: Any,
        name: str,
        kind: str,
        shape: tuple[int, ...],
        dtype: Any,
        value: Glance | None = None,
    ) -> None:
        self._writer[what] = len(self.vertices)
        dtype = np.dtype(dtype)
        self.vertices.append(Vertex(len(self.vertices), name, kind, "", shape, dtype, value))

    def add(
        self,
        name: str,
        kind: str,
        text: str,
        writes: Sequence[Any],
        reads: Mapping[Any, str],
        size_bytes: int,
        view: View | None = None,
        **more: Any,
    ) -> None:
        key = len(self.vertices)
        if key >= LARGEST:
            rule = f"more than {LARGEST} passes, which nobody could see"
            raise GradientError(message("draw", rule, hint="a part of the step, or fewer layers"))
        for x, carried in reads.items():
            source = self._writer.get(x)
            if source is not None and source != key:
                self.edges.setdefault((source, key), Edge(source, key, 0, text=carried))
        shape, dtype = (
            ((), np.float32)
            if not writes
            else (writes[0].shape, writes[0].dtype)
            if view is None
            else (view.shape, view.buffer.dtype)
        )
        for y in writes:
            self._writer[y] = key
        self.vertices.append(Vertex(key, name, kind, text, shape, dtype, bytes=size_bytes, **more))

    def graph(self, title: str, label: str, notes: Sequence[str]) -> Graph:
        read = {source for source, _ in self.edges}
        kept = [v for v in self.vertices if v.key in read or v.kind not in ("input", "parameter")]
        edges = sorted(self.edges.values(), key=lambda e: (e.source, e.target))
        return Graph(kept, edges, title, PROGRAM, label, notes=notes)
