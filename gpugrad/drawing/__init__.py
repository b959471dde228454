"""`draw`: pictures of a computation with its values, local partials and gradients.

`record` runs and watches, `graph` is what is drawn, `derive` its derivatives, `paths` their sums;
`program` is what a compiled step became, in words of `naming`; `layout` places, `svg`, `html` and
`dot` write. May import everything up to nn.
"""

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpugrad.compiler import Compiled
from gpugrad.compiler.program import Program
from gpugrad.drawing import derive, dot, html, paths, program, record, svg
from gpugrad.drawing.graph import PROGRAM, Graph, build, collapsed, derived, nodes_of, operands
from gpugrad.drawing.record import Glance, Recording
from gpugrad.errors import DtypeError, GradientError, message
from gpugrad.io import replace_file
from gpugrad.late import functions
from gpugrad.node import Node
from gpugrad.state import grad_mode
from gpugrad.tensor import Tensor

MODES = ("values", "reverse", "forward", PROGRAM)
_SMALL = 40  # vertices up to which every mode is worth a view of its own


class Picture:
    """What `draw` made: ``views`` of one computation, opened at ``chosen``.

    A notebook shows it as it is.
    """

    def __init__(self, views: Sequence[Graph], chosen: int = 0) -> None:
        self.views = list(views)
        self.chosen = chosen

    @property
    def graph(self) -> Graph:
        """The view it opens at."""
        return self.views[self.chosen]

    def svg(self) -> str:
        """The chosen view as SVG; without any reference to a file or the network."""
        return svg.draw(self.graph)

    def html(self) -> str:
        """All views as one page: pan, zoom, switch, point at a value to see what is known of it."""
        return html.draw(self.views, self.chosen)

    def dot(self) -> str:
        """The chosen view in the language of Graphviz."""
        return dot.draw(self.graph)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture as the ending says, .svg, .html or .dot, all of it or nothing.

        Raises DtypeError for another ending, and OSError where the file cannot be written.
        """
        target = Path(path)
        writers = {".svg": self.svg, ".html": self.html, ".dot": self.dot}
        write = writers.get(target.suffix.lower())
        if write is None:
            rule = "a picture is saved as .svg, .html or .dot"
            raise DtypeError(message("draw", rule, repr(str(path)), f"{target.stem or 'x'}.svg"))
        replace_file(target, write().encode())
        return target

    def _repr_svg_(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return f'<div style="overflow:auto">{self.svg()}</div>'

    def __repr__(self) -> str:
        g = self.graph
        return (
            f"<Picture of {len(g.vertices)} values and {len(g.edges)} edges: {g.label or g.mode}>"
        )


def draw(
    subject: Tensor | Callable[..., Any] | Program,
    *args: Any,
    mode: str | None = None,
    wrt: str | None = None,
    of: str | None = None,
    collapse: bool | None = None,
    times: bool = False,
) -> Picture:
    """Draw a computation: its values, the local partials on its edges, and derivatives in red.

    Reverse mode shows d output / d value at each value, forward mode d value / d input. Where all
    is numbers, the sum over paths and its factored form are written out below: the chain rule as
    in Olah 2015, "Calculus on Computational Graphs". Larger values show shape and bytes; modules
    of `gpugrad.nn` are drawn as one box a layer. The same computation gives the same picture.

    Of a `gg.compile`d step the program is drawn that runs for these arguments: each pass over
    memory as a box, with what was fused in it, the bytes it reads and writes, and on the CPU its
    time on copies of all that it works on, so nothing is trained by looking. The html shows the
    equations of the trace too, as a picture of ``step.program(...)`` does.

    Parameters
    ----------
    subject : a function, an `nn.Module`, a tensor on the tape, a compiled step or a program. A
        function is called once, with whatever it does besides (random numbers drawn, statistics
        moved) done once.
    args : what to call it with. Floats, floating arrays and tensors are inputs, also within lists,
        tuples and dicts; integers are constants.
    mode : "values", "reverse" or "forward"; by default reverse, values where the output is no
        number; of a compiled step "program".
    wrt : the input whose derivative is followed (forward; by default the first) or written out
        (reverse; by default each), by its name in the picture.
    of : the output whose derivative is shown, by its name; by default the first.
    collapse : one box a layer (the default where there are layers), or every op.
    times : measure each op of a function as it runs; a program's passes always are.

    Names are those of the function's parameters and variables, and of the variables around the
    call of ``draw``. The html of a picture holds the other modes too.

    Raises `GradientError` for a tensor off the tape, a graph that backward has freed, a derivative
    that does not exist, and an unknown name; `TraceError` for a step that is no program.

    Examples
    --------
    >>> import gpugrad as gg
    >>> def f(a, b):
    ...     c = a + b
    ...     d = b + 1
    ...     e = c * d
    ...     return e
    >>> picture = gg.draw(f, 2.0, 1.0)
    >>> picture
    <Picture of 5 values and 5 edges: reverse mode: ∂e/∂(each value)>
    >>> picture.graph.vertex("b").derivative.brief()
    '5'
    >>> print(*picture.graph.formulas, sep="\\n")
    ∂e/∂a = αδ = 1·2 = 2
    ∂e/∂b = βδ + γε = 1·2 + 1·3 = 5
    """
    if mode not in (None, *MODES):
        hint = ", ".join(map(repr, MODES))
        raise GradientError(message("draw", "unknown mode", repr(mode), hint))
    around = sys._getframe(1).f_locals
    if isinstance(getattr(subject, "__func__", None), Compiled):  # a method of an object
        args, subject = (subject.__self__, *args), subject.__func__  # type: ignore[union-attr]
    if isinstance(subject, Program) or (isinstance(subject, Compiled) and mode in (None, PROGRAM)):
        if (wrt, of, collapse) != (None, None, None) or mode not in (None, PROGRAM):
            rule = "a program has no derivatives to choose"
            hint = 'gg.draw(step, ..., mode="reverse") for the function that was compiled'
            raise GradientError(message("draw", rule, hint=hint))
        if isinstance(subject, Program):
            return Picture([program.of_program(subject, around)])
        return Picture(program.of_compiled(subject, args, around))
    if mode == PROGRAM:
        rule, got = "only what gg.compile made has a program", type(subject).__name__
        raise GradientError(message("draw", rule, got, "gg.draw(gg.compile(f), ...)"))
    if isinstance(subject, Tensor):
        if args:
            hint = "gg.draw(f, ...) with the function it came from"
            raise DtypeError(message("draw", "a tensor takes no arguments", len(args), hint))
        if times:
            rule = "a tensor was computed before, so nothing can be timed"
            hint = "gg.draw(f, ..., times=True) with the function it came from"
            raise DtypeError(message("draw", rule, hint=hint))
        recording = record.of_tensor(subject, around)
    elif callable(subject):
        recording = record.of_function(subject, args, around, times)
    else:
        rule = "only a function, a module or a tensor can be drawn"
        raise DtypeError(message("draw", rule, type(subject).__name__, "gg.draw(f, 2.0)"))
    with grad_mode(False):
        return _views(_Subject(recording), mode, wrt, of, collapse)


class _Subject:
    """A recording with its graph, and the derivatives that can be shown on it."""

    def __init__(self, recording: Recording) -> None:
        self.nodes = nodes_of(recording)
        self.operands = {node: operands(node, recording) for node in self.nodes}
        self.device = recording.device
        self.graph = paths.lettered(build(recording, self.nodes))
        self.names = {v.key: v.name for v in self.graph.vertices}
        self.inputs = [n for n in self.nodes if not self.operands[n]]
        if recording.inputs:  # arguments first
            self.inputs.sort(key=lambda n: n not in recording.inputs)
        self.outputs = list(recording.outputs)

    def chosen(self, what: str, name: str | None, among: Sequence[Node]) -> Node:
        """The node called ``name``, by default the first."""
        if name is None:
            return among[0]
        names = [self.names[n.id] for n in among]
        if name not in names:
            close = difflib.get_close_matches(str(name), names, 1)
            rule = f"no {what} is called {name!r}" + (f" (is it {close[0]!r}?)" if close else "")
            raise GradientError(message("draw", rule, hint=", ".join(map(repr, names[:20]))))
        return among[names.index(name)]

    def one(self, node: Node) -> Tensor:
        return functions.ones(node.shape, dtype=node.dtype, device=self.device)

    def values(self) -> Graph:
        return derived(self.graph, "values", "values", "", {})

    def reverse(self, root: Node, towards: Sequence[Node]) -> Graph:
        name = self.names[root.id]
        found = derive.reverse(self.nodes, self.operands, root, self.one(root))
        written = [line for x in towards for line in paths.formulas(self.graph, x.id, root.id)]
        label = f"reverse mode: ∂{name}/∂(each value)"
        return self._derived("reverse", label, f"∂{name}/∂{{}}", found, written)

    def forward(self, start: Node, towards: Sequence[Node]) -> Graph:
        name = self.names[start.id]
        found = derive.forward(self.nodes, self.operands, start, self.one(start))
        written = [line for y in towards for line in paths.formulas(self.graph, start.id, y.id)]
        label = f"forward mode: ∂(each value)/∂{name}"
        return self._derived("forward", label, f"∂{{}}/∂{name}", found, written)

    def _derived(
        self, mode: str, label: str, symbol: str, found: dict[Node, Tensor], written: list[str]
    ) -> Graph:
        """With a zero where no path leads."""
        glances = {
            node.id: Glance.of(
                found[node] if node in found else functions.zeros_like(self.one(node))
            )
            for node in self.nodes
        }
        return derived(self.graph, mode, label, symbol, glances, written)


def _views(
    this: _Subject, mode: str | None, wrt: str | None, of: str | None, collapse: bool | None
) -> Picture:
    root = this.chosen("output", of, this.outputs)
    start = this.chosen("input", wrt, this.inputs)
    scalar = _is_number(root)
    if mode is None:
        mode = "reverse" if scalar else "values"
    if mode == "reverse" and not scalar:
        rule = "only a number has one gradient"
        got = f"{this.names[root.id]}: {tuple(root.shape)} {root.dtype}"
        raise GradientError(message("draw", rule, got, 'a loss or a sum of it, or mode="forward"'))
    if mode == "forward" and not _is_number(start):
        rule = "forward mode follows one number"
        got = f"{this.names[start.id]}: {tuple(start.shape)} {start.dtype}"
        hint = 'mode="reverse", or a function of the one number that changes'
        raise GradientError(message("draw", rule, got, hint))
    small = len(this.nodes) <= _SMALL
    towards = [start] if wrt is not None else this.inputs[:6]
    views, chosen = [this.values()], 0
    if scalar and (small or mode == "reverse"):
        chosen = len(views) if mode == "reverse" else 0
        views.append(this.reverse(root, towards))
    starts = [n for n in this.inputs[:6] if _is_number(n)] if small else []
    if mode == "forward" and start not in starts:
        starts.append(start)
    for x in starts:
        asked = mode == "forward" and x is start
        try:
            view = this.forward(x, [root])
        except GradientError:
            if asked:
                raise
            continue  # a rule that leaves the tape: this view was not asked for
        chosen = len(views) if asked else chosen
        views.append(view)
    layered = any(v.layer is not None for v in this.graph.vertices)
    if not layered or collapse is False:
        return Picture(views, chosen)
    shut = collapsed(views[chosen])
    return Picture([replace(shut, label=f"{shut.label}, by layer"), *views], 0)


def _is_number(node: Node) -> bool:
    return set(node.shape) <= {1} and node.dtype.kind == "f"
