"""One HTML page that needs nothing else: facts, tables, plots. Needs matplotlib for plots.

A plot is drawn twice, for a wide and for a narrow page: scaled down, its words would be unreadable.
Imports errors.
"""

import html
import importlib.util
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gpugrad.errors import MissingDependency, message

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 0 auto;
  max-width: 68rem; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem }
p { margin: .25rem 0 .75rem; max-width: 46rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #d8dde3; text-align: right;
  white-space: nowrap }
th { color: #57606a; font-weight: 600 }
th:first-child, td:first-child { text-align: left }
.facts td { white-space: normal; overflow-wrap: anywhere; text-align: left; vertical-align: top }
.facts td:first-child { color: #57606a; white-space: nowrap }
figure { margin: 1rem 0 }
figure svg { width: 100%; height: auto; display: block }
figcaption { font-size: .9rem; color: #57606a }
.narrow { display: none }
@media (max-width: 640px) {
  .wide { display: none } .narrow { display: block }
  .figures, .figures tbody, .figures tr { display: block }
  .figures thead { display: none }
  .figures tr { padding: .5rem 0 }
  .figures td { display: flex; justify-content: space-between; padding: .1rem 0 }
  .figures td:first-child { font-weight: 600 }
  .figures td:empty { display: none }
  .figures td[data-name]::before { content: attr(data-name); color: #57606a }
}
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f8fa; padding: .75rem }
"""

WIDTHS_INCHES = (9.0, 4.2)


class Figure(NamedTuple):
    """A plot, for a wide and for a narrow page, with the words around it."""

    title: str
    caption: str
    wide: str
    narrow: str


def document(title: str, parts: Sequence[str]) -> str:
    """The page; ``parts`` are HTML."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title>"
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>'
    )
    return "\n".join([head, *parts, "</body></html>", ""])


def figure(drawn: Figure) -> str:
    return (
        f"<h2>{html.escape(drawn.title)}</h2><figure>"
        f'<div class="wide">{drawn.wide}</div><div class="narrow">{drawn.narrow}</div>'
        f"<figcaption>{html.escape(drawn.caption)}</figcaption></figure>"
    )


def table(title: str, note: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column names the row; on a narrow page the others become lines under it."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr><td>{html.escape(row[0])}</td>"
        + "".join(
            f'<td data-name="{html.escape(name)}">{html.escape(text)}</td>'
            for name, text in zip(header[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f"<h2>{html.escape(title)}</h2><p>{html.escape(note)}</p>"
        f'<div class="scroll"><table class="figures"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(title: str, pairs: Sequence[tuple[str, str]]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>" for name, text in pairs
    )
    return f'<h2>{html.escape(title)}</h2><table class="facts">{rows}</table>'


def need_plots(what: str, extra: str) -> None:
    """Raise `MissingDependency` where matplotlib is not installed, naming what brings it."""
    if importlib.util.find_spec("matplotlib") is None:
        rule, hint = "the report's plots need matplotlib", f'pip install "gpugrad[{extra}]"'
        raise MissingDependency(message(what, rule, hint=hint))


def drawn(
    title: str, caption: str, draw: Callable[[Any, bool], None], heights_inches: tuple[float, float]
) -> Figure:
    """``draw(canvas, wide)`` on a canvas of each width."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    versions = []
    for width, height in zip(WIDTHS_INCHES, heights_inches, strict=True):
        settings: Any = {
            "svg.hashsalt": f"{title} {width}",  # ids must differ between drawings of a page
            "svg.fonttype": "path",  # a reader's own font could overflow
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
        with matplotlib.rc_context(settings):
            canvas = Canvas(figsize=(width, height), layout="constrained")
            draw(canvas, width > 6)
            versions.append(_svg(canvas, title))
    return Figure(title, caption, *versions)


def _svg(canvas: Any, title: str) -> str:
    text = io.StringIO()
    canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
