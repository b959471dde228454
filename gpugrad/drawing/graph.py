"""The drawn graph: vertices with values, edges with local partials, layers as one vertex.

Everything here is a copy: a picture keeps no tape alive. Imports record and derive.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gpugrad.check import called_at
from gpugrad.drawing.derive import pull
from gpugrad.drawing.record import Glance, Layer, Recording, Seen, number, owner, shape_text
from gpugrad.errors import GradientError, message
from gpugrad.late import functions
from gpugrad.node import PART, Node, concrete
from gpugrad.tensor import Tensor

LARGEST = 1500  # vertices; more than this nobody can see
PROGRAM = "program"  # the mode of a compiled step's picture, beside those of a computation

_INFIX = {
    "add": "+",
    "subtract": "−",
    "multiply": "·",
    "divide": "/",
    "matmul": "@",
    "pow": "**",
    "less": "<",
    "greater": ">",
}


@dataclass(frozen=True)
class Vertex:
    """One value of the computation, or a whole layer of it."""

    key: int
    name: str
    kind: str  # "input", "parameter", "op" or "layer"; in a program "pass", "fused" or "call"
    text: str  # how it was computed
    shape: tuple[int, ...]
    dtype: Any
    value: Glance | None = None  # None where the tape did not keep it
    derivative: Glance | None = None
    symbol: str = ""  # of the derivative: "∂e/∂b"
    seconds: float | None = None
    bytes: int | None = None  # of the outputs
    line: str = ""
    layer: Layer | None = None
    output: bool = False
    members: tuple["Vertex", ...] = ()
    notes: tuple[str, ...] = ()  # what else is to be said of it, a line each

    @property
    def title(self) -> str:
        return f"{self.name} = {self.text}" if self.text else self.name


@dataclass(frozen=True)
class Edge:
    """``target`` was computed from ``source``, as its operand at ``place``."""

    source: int
    target: int
    place: int
    partial: Glance | None = None  # ∂target/∂source where it is one array of entries
    letter: str = ""
    text: str = ""  # what it carries, where that is no derivative


@dataclass(frozen=True)
class Graph:
    """Vertices in the order in which they were computed, edges by their source in that order."""

    vertices: Sequence[Vertex]
    edges: Sequence[Edge]
    title: str = ""
    mode: str = "values"
    label: str = ""  # what tells this view from another of the same computation
    formulas: Sequence[str] = field(default=())
    notes: Sequence[str] = field(default=())

    @property
    def heading(self) -> str:
        return f"{self.title or 'Computation'}: {self.label or self.mode}"

    def vertex(self, name: str) -> Vertex:
        """The vertex called ``name``; KeyError when there is none."""
        for v in self.vertices:
            if v.name == name:
                return v
        raise KeyError(name)

    def into(self, key: int) -> list[Edge]:
        return [e for e in self.edges if e.target == key]

    def out_of(self, key: int) -> list[Edge]:
        return [e for e in self.edges if e.source == key]


def nodes_of(recording: Recording) -> list[Node]:
    """The nodes to draw, oldest first. One that holds several outputs is left to its parts."""
    stack, found = list(recording.outputs), set(recording.outputs)
    while stack:
        node = stack.pop()
        if node.op is None or node in recording.inputs:
            continue
        holder = owner(node)
        if holder.saved is None:
            rule = (
                "backward has freed the graph of this tensor "
                f"(first missing: {holder.op.name}{called_at(holder)})"
            )
            hint = "backward(retain_graph=True), or gg.draw before backward"
            raise GradientError(message("draw", rule, hint=hint))
        for parent in holder.parents:
            if parent is not None and parent not in found:
                found.add(parent)
                stack.append(parent)
        if len(found) > LARGEST:
            rule = f"more than {LARGEST} values lead here, which nobody could see"
            raise GradientError(message("draw", rule, hint="a part of it, or fewer steps"))
    return sorted(found, key=lambda node: node.id)


def operands(node: Node, recording: Recording) -> tuple[Node | None, ...]:
    """What ``node`` was computed from; nothing for an input."""
    return () if node in recording.inputs or node.op is None else owner(node).parents


def build(recording: Recording, nodes: Sequence[Node]) -> Graph:
    """The graph of ``nodes``, with values and local partials."""
    names = _names(recording, nodes)
    values = _values(recording, nodes)
    vertices, edges = [], []
    order = {node: i for i, node in enumerate(nodes)}
    for node in nodes:
        parents = operands(node, recording)
        seen = recording.seen.get(owner(node)) if parents else None
        text, kind = "", "op"
        if parents:
            text = _text(node, [None if p is None else names[p] for p in parents], seen)
        else:
            kind = "input" if node in recording.inputs or not recording.inputs else "parameter"
        vertices.append(
            Vertex(
                node.id,
                names[node],
                kind,
                text,
                tuple(node.shape),
                node.dtype,
                values.get(node),
                seconds=seen.seconds if seen else None,
                bytes=sum(_bytes(v) for v in seen.values) if seen else None,
                line=seen.line if seen else "",
                layer=seen.layer if seen else None,
                output=node in recording.outputs,
            )
        )
        partials = _partials(node, parents, recording.device)
        edges += [
            Edge(p.id, node.id, i, partials[i]) for i, p in enumerate(parents) if p is not None
        ]
    at = {node.id: i for node, i in order.items()}
    edges.sort(key=lambda e: (at[e.source], at[e.target], e.place))
    return Graph(vertices, edges, recording.title)


def _bytes(value: Glance) -> int:
    return value.size * int(np.dtype(value.dtype).itemsize)


def _names(recording: Recording, nodes: Sequence[Node]) -> dict[Node, str]:
    """Names of inputs, outputs and variables; the rest is v1, v2, … in order."""
    found: dict[Node, str] = {}
    taken: set[str] = set()
    for node in nodes:
        for known in (recording.inputs, recording.outputs, recording.names):
            if node in known:
                name = known[node]
                while name in taken:
                    name += "′"
                taken.add(name)
                found[node] = name
                break
    count = 0
    leaves = 0
    for node in nodes:
        while node not in found:
            if operands(node, recording):
                count += 1
                name = f"v{count}"
            else:
                leaves += 1
                name = f"x{leaves}"
            if name not in taken:
                found[node] = name
    return found


def _values(recording: Recording, nodes: Sequence[Node]) -> dict[Node, Glance]:
    """What was seen, else what an op saved for its backward: its inputs and its output."""
    found = dict(recording.values)

    def note(node: Node | None, value: Any) -> None:
        value = concrete(value._data) if type(value) is Tensor else concrete(value)
        if node is not None and node not in found and hasattr(value, "shape"):
            found[node] = Glance.of(value)

    for node in nodes:
        holder = owner(node)
        place = node.params["index"] if node.op is PART else 0
        if holder in recording.seen:
            found.setdefault(node, recording.seen[holder].values[place])
        elif holder.saved and operands(node, recording):
            *inputs, y = holder.saved
            for parent, value in zip(holder.parents, inputs, strict=True):
                note(parent, value)
            note(node, y[place] if type(y) is tuple else y)
    return found


def _text(node: Node, names: Sequence[str | None], seen: Seen | None) -> str:
    holder = owner(node)
    saved = holder.saved or ()
    words = []
    for i, name in enumerate(names):
        if name is None:
            kept = saved[i] if i < len(saved) - 1 else None
            kept = concrete(kept._data) if type(kept) is Tensor else kept
            if seen is not None:
                name = seen.constants.get(i)
            elif type(kept) in (bool, int, float, complex):
                name = number(kept)
            elif hasattr(kept, "shape"):
                name = Glance.of(kept).brief()
        words.append(name or "constant")
    text = phrase(holder.op.name, words)
    return f"{text}[{node.params['index']}]" if node.op is PART and len(holder.shape) > 1 else text


def phrase(op: str, words: Sequence[str]) -> str:
    """``a + b`` or ``exp(a)``."""
    if op in _INFIX and len(words) == 2:
        return f"{words[0]} {_INFIX[op]} {words[1]}"
    return f"−{words[0]}" if op == "negative" else f"{op}({', '.join(words)})"


def _partials(node: Node, parents: Sequence[Node | None], device: str) -> list[Glance | None]:
    """The local partial for each operand, where one array holds all of it.

    Of a number it is the cotangent of 1; of an elementwise op on equal shapes the Jacobian is
    diagonal, and the cotangent of ones is that diagonal.
    """
    if not any(p is not None for p in parents):
        return [None] * len(parents)
    single = node.shape == () or set(node.shape) == {1}
    elementwise = getattr(node.op, "kind", "") == "elementwise"
    if not (single or elementwise):
        return [None] * len(parents)
    pulled = pull(node, functions.ones(node.shape, dtype=node.dtype, device=device))
    return [
        Glance.of(c)
        if c is not None and p is not None and (single or p.shape == node.shape)
        else None
        for c, p in zip(pulled, parents, strict=True)
    ]


def derived(
    graph: Graph,
    mode: str,
    label: str,
    symbol: str,
    derivatives: dict[int, Glance],
    formulas: Sequence[str] = (),
) -> Graph:
    """``graph`` with a derivative at each vertex; ``symbol`` has the vertex's name for ``{}``."""
    vertices = [
        replace(v, derivative=derivatives.get(v.key), symbol=symbol.format(v.name))
        for v in graph.vertices
    ]
    return replace(graph, vertices=vertices, mode=mode, label=label, formulas=formulas)


def collapsed(graph: Graph) -> Graph:
    """Each call of a layer as one vertex, its parameters inside."""
    home = {v.key: v.layer.call for v in graph.vertices if v.layer is not None}
    for v in graph.vertices:  # a parameter belongs to the one layer that reads it
        readers = {home.get(e.target) for e in graph.out_of(v.key)}
        if v.kind == "parameter" and len(readers) == 1 and None not in readers:
            home[v.key] = readers.pop()  # type: ignore[assignment]
    members: dict[int, list[Vertex]] = {}
    for v in graph.vertices:
        if v.key in home:
            members.setdefault(home[v.key], []).append(v)
    calls = Counter(_layer_text(inner) for inner in members.values())
    repeated: Counter[str] = Counter()
    last = {call: inner[-1].key for call, inner in members.items()}
    vertices, edges = [], []
    for v in graph.vertices:
        if v.key not in home:
            vertices.append(v)
        elif v.key == last[home[v.key]]:
            inner = members[home[v.key]]
            text = _layer_text(inner)
            repeated[text] += 1
            if calls[text] > 1:
                text += f", call {repeated[text]}"
            vertices.append(_as_layer(text, v, inner))
    moved = {key: last[call] for key, call in home.items()}
    joined: set[tuple[int, int]] = set()
    for e in graph.edges:
        source, target = moved.get(e.source, e.source), moved.get(e.target, e.target)
        if e.source not in moved and e.target not in moved:
            edges.append(e)
        elif source != target and (source, target) not in joined:
            joined.add((source, target))
            edges.append(replace(e, source=source, target=target, partial=None))
    return replace(graph, vertices=vertices, edges=edges, formulas=())


def _layer_text(inner: Iterable[Vertex]) -> str:
    layer = next(v.layer for v in inner if v.layer is not None)
    return f"{layer.name}: {layer.text}" if layer.name else layer.text


def _as_layer(text: str, out: Vertex, inner: Sequence[Vertex]) -> Vertex:
    """``out`` standing for all of ``inner``: its value and derivative, their times and bytes."""
    ops = [v for v in inner if v.layer is not None]
    times = [v.seconds for v in ops if v.seconds is not None]
    return replace(
        out,
        kind="layer",
        text=text,
        seconds=sum(times) if times else None,
        bytes=sum(v.bytes or 0 for v in ops),
        members=tuple(inner),
    )


def details(v: Vertex, graph: Graph) -> list[str]:
    """Everything known of a vertex, a line each: what a tooltip shows."""
    lines = [v.title, f"{v.kind}, {shape_text(v.shape)} {np.dtype(v.dtype).name}"]
    if v.value is not None:
        lines.append(f"value: {v.value.full()}")
    elif graph.mode != PROGRAM:
        lines.append("value: not kept by the tape")
    if v.derivative is not None:
        lines.append(f"{v.symbol}: {v.derivative.full()}")
    names = {u.key: u.name for u in graph.vertices}
    lines += [
        f"local ∂{v.name}/∂{names[e.source]}: {e.partial.full()}"
        for e in graph.into(v.key)
        if e.partial is not None
    ]
    for inner in v.members:
        text = f"  {inner.title} {shape_text(inner.shape)}"
        if inner.derivative is not None:
            text += f", {inner.symbol} {inner.derivative.strength()}"
        lines.append(text)
    lines += v.notes
    if v.seconds is not None:
        how = "run on its own" if graph.mode == PROGRAM else "time since the op before"
        lines.append(f"{cost(v)} ({how})")
    elif v.bytes is not None:
        lines.append(cost(v))
    if v.line:
        lines.append(v.line)
    return lines


def cost(v: Vertex) -> str:
    """``4 KiB, 12 µs``; what is not known is left out."""
    known = []
    if v.bytes is not None:
        known.append(bytes_text(v.bytes))
    if v.seconds is not None:
        known.append(seconds_text(v.seconds))
    return ", ".join(known)


def bytes_text(n: float) -> str:
    unit = "B"
    for larger in ("KiB", "MiB", "GiB"):
        if n >= 1000:
            n, unit = n / 1024, larger
    return f"{n:.3g} {unit}"


def seconds_text(seconds: float) -> str:
    time, scale = seconds * 1e6, "µs"
    for longer in ("ms", "s"):
        if time >= 1000:
            time, scale = time / 1000, longer
    return f"{time:.3g} {scale}"
