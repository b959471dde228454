"""The picture as SVG: one text, no reference to anything outside it. Imports graph and layout.

Text is measured by counting: the font is monospaced, and a character is taken to be wider than in
any of the usual ones, so nothing is cut off where another font is used.
"""

import unicodedata
from collections.abc import Sequence
from html import escape

from gpugrad.drawing.graph import PROGRAM, Edge, Graph, Vertex, cost, details
from gpugrad.drawing.layout import MARGIN, Rect, Route, arrange
from gpugrad.drawing.record import shape_text

SIZE = 13.0  # px, of all text
LINE = 18.0
EM = 0.64  # width of a character; DejaVu Sans Mono, a wide one, has 0.602
_LONG = 34  # characters of a line in a box
_NOTES = 4  # lines of them

# Text on its ground has a contrast of at least 4.5 in both (WCAG AA). Gradients are also told by
# their ∂, not by red alone.
_LIGHT = {
    "ground": "#ffffff",
    "box": "#f8fafc",
    "input": "#e8f1fd",
    "parameter": "#eaf7ee",
    "layer": "#f3effc",
    "call": "#fdf0dc",
    "line": "#64748b",
    "text": "#0f172a",
    "soft": "#475569",
    "red": "#b91c1c",
}
_DARK = {
    "ground": "#0f172a",
    "box": "#1e293b",
    "input": "#17345c",
    "parameter": "#173d2b",
    "layer": "#33265c",
    "call": "#4d3714",
    "line": "#94a3b8",
    "text": "#f1f5f9",
    "soft": "#cbd5e1",
    "red": "#ff9b93",
}


class Plan:
    """What is written where: the lines of each box, the label of each edge, and the layout."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.texts = {v.key: _lines(v, graph.mode) for v in graph.vertices}
        self.labels = [_label(e) for e in graph.edges]
        self.layout = arrange(
            {key: _size([text for _, text in lines]) for key, lines in self.texts.items()},
            [(e.source, e.target) for e in graph.edges],
            [(width(text) + 8, LINE) if text else None for text in self.labels],
        )


def draw(graph: Graph) -> str:
    """The SVG text of ``graph``."""
    plan = Plan(graph)
    layout = plan.layout
    caption = _caption(graph, layout.width)
    wide = max(layout.width, *(width(text) + 2 * MARGIN for _, text in caption))
    tall = layout.height + (len(caption) * LINE + MARGIN if caption else 0)
    names = {v.key: v.name for v in graph.vertices}
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" class="gpugrad-picture" role="img" '
        f'width="{wide:.0f}" height="{tall:.0f}" viewBox="0 0 {wide:.0f} {tall:.0f}">',
        f"<title>{escape(graph.heading)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{wide:.0f}" height="{tall:.0f}"/>',
        f'<g transform="translate({(wide - layout.width) / 2:.1f} 0)">',
    ]
    for e, route, text in zip(graph.edges, layout.routes, plan.labels, strict=True):
        parts.append(_edge(e, route, text, names))
    parts += [_vertex(v, layout.boxes[v.key], plan.texts[v.key], graph) for v in graph.vertices]
    parts.append("</g>")
    for i, (kind, text) in enumerate(caption):
        y = layout.height + SIZE + i * LINE
        parts.append(_text(f"{kind} caption", MARGIN, y, text))
    return "\n".join([*parts, "</svg>"]) + "\n"


def width(text: str) -> float:
    """How wide ``text`` is at most, in px."""
    cells = sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
    return cells * SIZE * EM


def _size(lines: Sequence[str]) -> tuple[float, float]:
    return max(map(width, lines)) + 20, len(lines) * LINE + 12


def _short(text: str) -> str:
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"


def _lines(v: Vertex, mode: str) -> list[tuple[str, str]]:
    """What stands in a box, as (class, text)."""
    lines = [("name", _short(v.title))]
    brief = shape_text(v.shape) if v.value is None else v.value.brief()
    passes = mode == PROGRAM
    lines.append(("value", brief if v.value is not None or v.shape or passes else "not kept"))
    large = v.kind == "layer" or brief == shape_text(v.shape)
    if v.bytes is not None and (large or passes):
        lines.append(("soft", cost(v)))
    lines += [("soft", _short(note)) for note in v.notes[:_NOTES]]
    if v.derivative is not None:
        lines.append(("slope", _short(f"{v.symbol} = {v.derivative.strength()}")))
    return lines


def _label(e: Edge) -> str:
    if e.partial is None or e.partial.size != 1:
        return ""
    value = e.partial.brief()
    return f"{e.letter} = {value}" if e.letter else value


def _caption(graph: Graph, room: float) -> list[tuple[str, str]]:
    """What stands below: which derivative is shown, and the sums over paths, wrapped."""
    lines = [("soft", graph.label)] if graph.label else []
    cells = int(max(room, 560.0) / (SIZE * EM))
    for note in graph.notes:
        lines += [("soft", text) for text in _wrapped(note, cells)]
    for formula in graph.formulas:
        lines += [("slope", text) for text in _wrapped(formula, cells)]
    return lines


def _wrapped(text: str, cells: int) -> list[str]:
    """``text`` broken where it is longer than ``cells``: before " = ", " + " or a word."""
    lines = []
    while len(text) > cells:
        start = len(text) - len(text.lstrip()) + 1
        found = (text.rfind(mark, start, cells) for mark in (" = ", " + ", " "))
        at = next((place for place in found if place > cells // 3), cells)
        lines.append(text[:at])
        text = "    " + text[at:].lstrip()
    return [*lines, text]


def _vertex(v: Vertex, box: Rect, lines: Sequence[tuple[str, str]], graph: Graph) -> str:
    left, top = box.x - box.width / 2, box.y - box.height / 2
    ring = " output" if v.output else ""
    parts = [
        f'<g class="vertex {v.kind}{ring}" tabindex="0">',
        f"<title>{escape(chr(10).join(details(v, graph)))}</title>",
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" '
        'rx="7"/>',
    ]
    y = top + 6 + LINE / 2 + SIZE * 0.36
    for kind, text in lines:
        parts.append(_text(kind, box.x, y, text))
        y += LINE
    return "".join([*parts, "</g>"])


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _edge(e: Edge, route: Route, text: str, names: dict[int, str]) -> str:
    path = _path(route)
    label = ""
    if route.label is not None and text:
        label = _text("partial", route.label.x, route.label.y + SIZE * 0.36, text)
    what = f"∂{names[e.target]}/∂{names[e.source]}"
    known = e.text or (f"{what} = {e.partial.full()}" if e.partial is not None else what)
    return (
        f'<g class="edge"><title>{escape(known)}</title>'
        f'<path d="{path}"/>{_arrow(route)}{label}</g>'
    )


def _path(route: Route) -> str:
    """Straight within a layer, bent between two; left out behind the label."""
    points = route.points
    x, y = points[0]
    text = [f"M{x:.1f} {y:.1f}"]
    for i, (u, v) in enumerate(points[1:], 1):
        if i == 3 and route.label is not None:  # the label is the first station
            half = route.label.height / 2
            text.append(f"V{route.label.y - half:.1f}M{u:.1f} {route.label.y + half:.1f}V{v:.1f}")
        elif i % 2 == 1:
            text.append(f"V{v:.1f}")
        else:
            middle = (y + v) / 2
            text.append(f"C{x:.1f} {middle:.1f} {u:.1f} {middle:.1f} {u:.1f} {v:.1f}")
        x, y = u, v
    return "".join(text)


def _arrow(route: Route) -> str:
    x, y = route.points[-1]
    return f'<path class="head" d="M{x:.1f} {y:.1f}l-4 -7h8Z"/>'


def _style() -> str:
    """Rules under one class, so that they touch nothing else on the page.

    Colours are written out, not variables: other programs than browsers read SVG too.
    """
    fonts = "ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace"
    shape = {
        "text": f"font:{SIZE:g}px {fonts};text-anchor:middle;white-space:pre",
        ".caption": "text-anchor:start",
        ".name": "font-weight:600",
        ".vertex rect": "stroke-width:1",
        ".output rect": "stroke-width:2.5",
        ".edge path": "fill:none;stroke-width:1.3",
        ".edge .head": "stroke:none",
    }
    colours = {
        ".ground": "fill:{ground}",
        "text": "fill:{text}",
        ".soft": "fill:{soft}",
        ".partial": "fill:{soft}",
        ".slope": "fill:{red}",
        ".vertex rect": "fill:{box};stroke:{line}",
        ".input rect": "fill:{input}",
        ".parameter rect": "fill:{parameter}",
        ".layer rect": "fill:{layer}",
        ".fused rect": "fill:{layer}",
        ".call rect": "fill:{call}",
        ".edge path": "stroke:{line}",
        ".edge .head": "fill:{line}",
    }

    def written(rules: dict[str, str], scheme: dict[str, str]) -> str:
        return "".join(
            f".gpugrad-picture {name}{{{rule.format(**scheme)}}}" for name, rule in rules.items()
        )

    dark = f"@media(prefers-color-scheme:dark){{{written(colours, _DARK)}}}"
    return written(shape, {}) + written(colours, _LIGHT) + dark


_STYLE = _style()
