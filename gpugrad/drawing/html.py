"""The picture as one interactive page that needs no network. Imports svg.

Each view is an SVG of its own; the page switches between them, pans, zooms, and shows the details
that each vertex and edge carries in its title.
"""

from collections.abc import Sequence
from html import escape

from gpugrad.drawing import svg
from gpugrad.drawing.graph import Graph


def draw(views: Sequence[Graph], chosen: int = 0) -> str:
    """The page for ``views``, opened at the one at ``chosen``."""
    tabs, figures = [], []
    for i, view in enumerate(views):
        here = "true" if i == chosen else "false"
        tabs.append(
            f'<button role="tab" aria-selected="{here}" data-view="{i}">'
            f"{escape(view.label or view.mode)}</button>"
        )
        hidden = "" if i == chosen else " hidden"
        figures.append(f'<div class="view" id="view{i}"{hidden}>{svg.draw(view)}</div>')
    heading = escape(views[chosen].title or "Computation")
    return _PAGE.format(
        title=heading,
        tabs="\n".join(tabs),
        figures="\n".join(figures),
        style=_STYLE,
        script=_SCRIPT,
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"/>
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<div role="tablist">
{tabs}
</div>
<div class="zoom">
<button data-zoom="1.25" title="closer (+)">+</button>
<button data-zoom="0.8" title="further away (−)">−</button>
<button data-zoom="0" title="all of it (0)">fit</button>
</div>
</header>
<main tabindex="0" aria-label="drag to move, wheel to zoom">
{figures}
</main>
<pre id="details" aria-live="polite">
Point at a value or an edge to see all that is known of it.
</pre>
<script>{script}</script>
</body>
</html>
"""

_STYLE = """
:root{color-scheme:light dark}
body{margin:0;display:grid;grid-template-rows:auto 1fr auto;height:100vh;
 font:14px system-ui,sans-serif;background:#fff;color:#0f172a}
header{display:flex;flex-wrap:wrap;gap:8px 16px;align-items:center;padding:8px 12px;
 border-bottom:1px solid #94a3b8}
h1{font-size:16px;margin:0}
[role=tablist],.zoom{display:flex;flex-wrap:wrap;gap:4px}
.zoom{margin-left:auto}
button{font:inherit;padding:3px 10px;border:1px solid #94a3b8;border-radius:6px;
 background:none;color:inherit;cursor:pointer}
button[aria-selected=true]{background:#1e3a8a;color:#fff}
main{overflow:hidden;cursor:grab;touch-action:none;min-height:0}
main.moving{cursor:grabbing}
.view{height:100%}
.view svg{width:100%;height:100%;display:block}
.vertex:focus{outline:none}
.vertex:focus rect,.vertex:hover rect{stroke-width:2.5}
#details{margin:0;padding:8px 12px;height:9.5em;overflow:auto;border-top:1px solid #94a3b8;
 font:12.5px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;white-space:pre-wrap}
@media(prefers-color-scheme:dark){body{background:#0f172a;color:#f1f5f9}
 button[aria-selected=true]{background:#bfdbfe;color:#0f172a}}
"""

_SCRIPT = """
const main = document.querySelector('main'), details = document.getElementById('details');
const views = [...document.querySelectorAll('.view')];
const tabs = [...document.querySelectorAll('[data-view]')];
const READABLE = 0.7;
let svg;

function box() { return svg.viewBox.baseVal; }

// All of it, but never larger than life: a picture of three values need not fill the window.
// And never smaller than `least`: what is then too tall begins at its top.
function fit(least = 0) {
  const b = box(), r = svg.getBoundingClientRect();
  const w = +svg.getAttribute('width'), h = +svg.getAttribute('height');
  const scale = Math.max(Math.min(r.width / w, r.height / h, 1.25), least);
  b.width = r.width / scale; b.height = r.height / scale;
  b.x = (w - b.width) / 2; b.y = Math.min((h - b.height) / 2, 0);
}

function zoom(factor, px, py) {
  const b = box(), r = svg.getBoundingClientRect();
  const u = px === undefined ? 0.5 : (px - r.left) / r.width;
  const v = py === undefined ? 0.5 : (py - r.top) / r.height;
  factor = Math.min(Math.max(factor, b.width / 1e5), b.width / 40);
  b.x += u * b.width * (1 - 1 / factor); b.y += v * b.height * (1 - 1 / factor);
  b.width /= factor; b.height /= factor;
}

function move(dx, dy) {
  const b = box(), r = svg.getBoundingClientRect();
  b.x -= dx * b.width / r.width; b.y -= dy * b.height / r.height;
}

function show(i) {
  views.forEach((view, k) => { view.hidden = k !== i; });
  tabs.forEach((tab, k) => tab.setAttribute('aria-selected', k === i));
  svg = views[i].querySelector('svg');
  fit(READABLE);
}

function tell(event) {
  const group = event.target.closest && event.target.closest('.vertex, .edge');
  if (group) details.textContent = (group.querySelector('title') || group.said).textContent;
}

// The browser's own tooltip would cover what the panel below says.
for (const group of document.querySelectorAll('.vertex, .edge')) {
  group.said = group.querySelector('title');
  group.said.remove();
  group.setAttribute('aria-label', group.said.textContent);
}

tabs.forEach((tab, i) => tab.addEventListener('click', () => show(i)));
for (const button of document.querySelectorAll('[data-zoom]')) {
  const factor = +button.dataset.zoom;
  button.addEventListener('click', () => { if (factor) zoom(factor); else fit(); });
}
main.addEventListener('wheel', (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
}, { passive: false });
main.addEventListener('pointerdown', (event) => {
  main.classList.add('moving');
  main.setPointerCapture(event.pointerId);
});
main.addEventListener('pointermove', (event) => {
  if (main.classList.contains('moving')) move(event.movementX, event.movementY);
});
for (const kind of ['pointerup', 'pointercancel']) {
  main.addEventListener(kind, () => main.classList.remove('moving'));
}
main.addEventListener('pointerover', tell);
main.addEventListener('focusin', tell);
main.addEventListener('keydown', (event) => {
  const steps = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
  if (steps[event.key]) { move(...steps[event.key]); event.preventDefault(); }
  else if (event.key === '+' || event.key === '=') zoom(1.25);
  else if (event.key === '-') zoom(0.8);
  else if (event.key === '0') fit();
});
addEventListener('resize', () => fit(READABLE));
show(tabs.findIndex((tab) => tab.getAttribute('aria-selected') === 'true'));
"""
