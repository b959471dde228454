"""The picture as DOT, the language of Graphviz, for whoever wants another layout. Imports graph."""

from html import escape

from gpugrad.drawing.graph import Graph, details
from gpugrad.drawing.record import shape_text

_COLOURS = {
    "input": "#e8f1fd",
    "parameter": "#eaf7ee",
    "op": "#f8fafc",
    "layer": "#f3effc",
    "pass": "#f8fafc",
    "fused": "#f3effc",
    "call": "#fdf0dc",
}


def draw(graph: Graph) -> str:
    """The DOT text of ``graph``: labels, tooltips, gradients in red."""
    told = "\n".join([graph.label, *graph.notes, *graph.formulas])
    lines = [
        f"digraph {_quoted(graph.title or 'computation')} {{",
        f"  label={_quoted(told)}; labeljust=l;",
        '  node [shape=box style="rounded,filled" fontname=monospace fontsize=11];',
        "  edge [fontname=monospace fontsize=10];",
    ]
    number = {v.key: f"n{i}" for i, v in enumerate(graph.vertices)}
    for v in graph.vertices:
        value = shape_text(v.shape) if v.value is None else v.value.brief()
        label = [escape(v.title), escape(value)]
        if v.derivative is not None:
            slope = escape(f"{v.symbol} = {v.derivative.strength()}")
            label.append(f'<font color="#b91c1c">{slope}</font>')
        label += [escape(note) for note in v.notes]
        tip = "\n".join(details(v, graph))
        lines.append(
            f"  {number[v.key]} [label=<{'<br/>'.join(label)}> tooltip={_quoted(tip)}"
            f' fillcolor="{_COLOURS[v.kind]}"];'
        )
    for e in graph.edges:
        known = e.partial is not None and e.partial.size == 1
        partial = e.partial.brief() if known and e.partial is not None else ""
        text = " = ".join(part for part in (e.letter, partial) if part)
        shown = f" [label={_quoted(text)}]" if text else ""
        lines.append(f"  {number[e.source]} -> {number[e.target]}{shown};")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
