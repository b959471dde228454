"""Nodes: the steps of a plan, each one pass over memory, and the memory they work on.

Imports expr and trace.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gpugrad.compiler.expr import Builder, Expr, lines, substituted
from gpugrad.compiler.trace import Eqn
from gpugrad.compiler.views import Buffer, Shape, View

STATE_WORDS = 12  # of `gpugrad.random.Generator.state`


class Node:
    """One step of the plan: what it reads and what it writes."""

    place = 0  # number of the equation it came from; ties in the order are decided by it
    label = ""

    @property
    def reads(self) -> list[View]:
        raise NotImplementedError

    @property
    def writes(self) -> list[View]:
        raise NotImplementedError


class Gemm(Node):
    """``c = alpha · a @ b + beta · c``, each a matrix view with one unit stride.

    Of a stack of ``count`` products a, b and c are the first; ``steps`` are from one to the next.
    """

    label = "gemm"

    def __init__(self, a: View, b: View, c: View) -> None:
        self.a, self.b, self.c = a, b, c
        self.alpha, self.beta = 1.0, 0.0
        self.scale: View | None = None  # a scalar that alpha is multiplied by
        self.count, self.steps = 1, (0, 0, 0)

    @property
    def reads(self) -> list[View]:
        more = [self.scale] if self.scale is not None else []
        return [self.a, self.b, *more, *([self.c] if self.beta else [])]

    @property
    def writes(self) -> list[View]:
        return [self.c]


class Reduction(NamedTuple):
    kind: str  # sum, max, min
    axis: str  # rows (over rows), cols, all
    expr: Expr
    out: View
    scale: float


class Chain(Node):
    """Elementwise expressions over one space, their stores, and reductions of them."""

    def __init__(self, shape: Shape, dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype
        self.builder = Builder()
        self.values: dict[Buffer, Expr] = {}  # what each buffer written here holds
        self.stores: dict[Buffer, View] = {}
        self.reductions: list[Reduction] = []
        self._read: tuple[list[Expr], list[View]] = ([], [])  # of these roots, these views

    @property
    def label(self) -> str:  # type: ignore[override]
        ops = [e.op for e in lines(self.roots) if e.op not in ("in", "const")]
        return "+".join([*ops, *[f"{r.kind}({r.axis})" for r in self.reductions]])

    @property
    def roots(self) -> list[Expr]:
        return [*[self.values[b] for b in self.stores], *[r.expr for r in self.reductions]]

    @property
    def reads(self) -> list[View]:
        roots = self.roots
        if roots != self._read[0]:
            self._read = roots, operands(roots)
        return self._read[1]

    @property
    def writes(self) -> list[View]:
        return [*self.stores.values(), *[r.out for r in self.reductions]]

    def take(self, other: "Chain") -> None:
        """Everything ``other`` computes, computed here."""
        given = {}
        for view in operands([*other.values.values(), *[r.expr for r in other.reductions]]):
            if view.buffer in self.values and view == self.stores.get(view.buffer):
                leaf = other.builder.operand(view, view.size == 1)
                given[id(leaf)] = self.values[view.buffer]
        exprs = [*other.values.values(), *[r.expr for r in other.reductions]]
        new = substituted(exprs, self.builder, given)
        for buffer, expr in zip(other.values, new, strict=False):
            self.values[buffer] = expr
        self.stores |= other.stores
        for r, expr in zip(other.reductions, new[len(other.values) :], strict=True):
            self.reductions.append(r._replace(expr=expr))


def operands(roots: Iterable[Expr]) -> list[View]:
    """The views that expressions read, each once, in the order of first use."""
    found: dict[int, View] = {}
    seen: set[int] = set()
    stack = list(roots)[::-1]
    while stack:
        expr = stack.pop()
        if id(expr) in seen:
            continue
        seen.add(id(expr))
        if expr.op == "in":
            found[id(expr.value)] = expr.value
        stack.extend(reversed(expr.args))
    return list(found.values())


class CrossEntropy(Node):
    """Losses of rows of logits ``z`` for labels ``t``; ``scale · (softmax(z) − one_hot(t))``."""

    label = "cross_entropy"

    def __init__(self, z: View, t: View) -> None:
        self.z, self.t = z, t
        self.loss: View | None = None
        self.residual: View | None = None
        self.probability: View | None = None
        self.scale = 1.0

    @property
    def reads(self) -> list[View]:
        return [self.z, self.t]

    @property
    def writes(self) -> list[View]:
        return [v for v in (self.loss, self.residual, self.probability) if v is not None]


class Softmax(Node):
    """Softmax, or its logarithm, of each row."""

    label = "softmax"

    def __init__(self, x: View, y: View, log: bool) -> None:
        self.x, self.y, self.log = x, y, log

    @property
    def reads(self) -> list[View]:
        return [self.x]

    @property
    def writes(self) -> list[View]:
        return [self.y]


class ArgMax(Node):
    """The number of each row's first largest value, or ``least`` value, or of its first NaN."""

    def __init__(self, x: View, out: View, least: bool) -> None:
        self.x, self.out, self.least = x, out, least

    @property
    def label(self) -> str:  # type: ignore[override]
        return "argmin" if self.least else "argmax"

    @property
    def reads(self) -> list[View]:
        return [self.x]

    @property
    def writes(self) -> list[View]:
        return [self.out]


class Gather(Node):
    """``out = x[t]``: rows of a matrix by number."""

    label = "gather"

    def __init__(self, x: View, t: View, out: View) -> None:
        self.x, self.t, self.out = x, t, out

    @property
    def reads(self) -> list[View]:
        return [self.x, self.t]

    @property
    def writes(self) -> list[View]:
        return [self.out]


class Finite(Node):
    """That the one value of ``x`` is finite; in a step that goes on in any case."""

    label = "finite"

    def __init__(self, x: View) -> None:
        self.x = x

    @property
    def reads(self) -> list[View]:
        return [self.x]

    @property
    def writes(self) -> list[View]:
        return []


class Draw(Node):
    """Uniforms in [0, 1) from what a generator gives at every run."""

    label = "uniform"

    def __init__(self, state: View, out: View, generator: Any) -> None:
        self.state, self.out, self.generator = state, out, generator

    @property
    def reads(self) -> list[View]:
        return [self.state]

    @property
    def writes(self) -> list[View]:
        return [self.out]


class Copy(Node):
    """``target = source``, of one shape."""

    label = "copy"

    def __init__(self, source: View, target: View) -> None:
        self.source, self.target = source, target

    @property
    def reads(self) -> list[View]:
        return [self.source]

    @property
    def writes(self) -> list[View]:
        return [self.target]


class Concat(Node):
    """Each source copied to its place in one array; ``parts`` are (source, target)."""

    label = "concat"

    def __init__(self, parts: Sequence[tuple[View, View]], out: View) -> None:
        self.parts, self.out = list(parts), out

    @property
    def reads(self) -> list[View]:
        return [source for source, _ in self.parts]

    @property
    def writes(self) -> list[View]:
        return [self.out]


class Call(Node):
    """The op's own `forward` on arrays: right for every op, and one Python call."""

    def __init__(self, eqn: Eqn, inputs: Sequence[Any], outputs: Sequence[View], why: str) -> None:
        self.eqn, self.inputs, self.outputs, self.why = eqn, list(inputs), list(outputs), why

    @property
    def label(self) -> str:  # type: ignore[override]
        return str(self.eqn.op.name)

    @property
    def reads(self) -> list[View]:
        return [x for x in self.inputs if isinstance(x, View)]

    @property
    def writes(self) -> list[View]:
        return self.outputs
