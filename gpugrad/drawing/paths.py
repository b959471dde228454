"""The derivative as a sum over paths, and factored. Imports graph.

Along a path the local partials multiply, over all paths the products add up: the chain rule. There
can be exponentially many paths; the factored form, which every mode of differentiation evaluates
in some order, names each edge once. After Olah 2015, "Calculus on Computational Graphs".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from math import prod

from gpugrad.drawing.graph import Edge, Graph
from gpugrad.drawing.record import number

LETTERS = "αβγδεζηθικλμνξπρστυφχψω"  # without omicron, which looks like an o
_PATHS = 12  # more are counted, not written out


@dataclass(frozen=True)
class Sum:
    terms: "tuple[Term, ...]"


@dataclass(frozen=True)
class Product:
    factors: "tuple[Term, ...]"


Term = Sum | Product | Edge


def lettered(graph: Graph) -> Graph:
    """``graph`` with a letter at each edge, if all are numbers and there are letters enough."""
    if len(graph.edges) > len(LETTERS):
        return graph
    if any(e.partial is None or e.partial.size != 1 for e in graph.edges):
        return graph
    named = [replace(e, letter=x) for e, x in zip(graph.edges, LETTERS, strict=False)]
    return replace(graph, edges=named)


def formulas(graph: Graph, start: int, end: int) -> list[str]:
    """∂end/∂start in letters and numbers: the sum over paths, then factored where that differs."""
    if not all(e.letter for e in graph.edges):
        return []
    names = {v.key: v.name for v in graph.vertices}
    what = f"∂{names[end]}/∂{names[start]}"
    paths = count(graph, start, end)
    if start == end or not paths:
        return []
    short = factored(graph, start, end)
    value = number(_value(short))
    lines = []
    if paths <= _PATHS:
        total = Sum(tuple(_product(path) for path in every_path(graph, start, end)))
        lines.append(f"{what} = {_letters(total)} = {_numbers(total)} = {value}")
        if paths == 1:
            lines = [f"{what} = {_letters(short)} = {_numbers(short)} = {value}"]
        elif _letters(short) != _letters(total):
            lines.append(f"{' ' * len(what)} = {_letters(short)} = {_numbers(short)}")
    else:
        lines.append(f"{what}, {paths:,} paths, = {_letters(short)} = {_numbers(short)} = {value}")
    return lines


def count(graph: Graph, start: int, end: int) -> int:
    """How many paths lead from ``start`` to ``end``; each is counted, none is walked."""
    ways = {start: 1}
    for v in graph.vertices:
        if v.key in ways:
            for e in graph.out_of(v.key):
                ways[e.target] = ways.get(e.target, 0) + ways[v.key]
    return ways.get(end, 0)


def every_path(graph: Graph, start: int, end: int) -> list[list[Edge]]:
    """The paths from ``start`` to ``end``, as lists of edges."""
    found: list[list[Edge]] = []
    stack: list[list[Edge]] = [[]]
    while stack:
        path = stack.pop()
        at = path[-1].target if path else start
        if at == end:
            found.append(path)
        else:
            stack += [[*path, e] for e in reversed(graph.out_of(at)) if _leads(graph, e, end)]
    return found


def factored(graph: Graph, start: int, end: int) -> Term:
    """∂end/∂start as nested sums and products in which no edge occurs twice where that can be.

    Between two values that every path meets the sums stand alone, so they multiply.
    """
    order = [v.key for v in graph.vertices]
    total = cache(lambda a, b: count(graph, a, b))

    def term(a: int, b: int) -> Term:
        between = order[order.index(a) + 1 : order.index(b)]
        waists = [v for v in between if total(a, v) * total(v, b) == total(a, b)]
        if waists:
            stops = [a, *waists, b]
            return _product([term(c, d) for c, d in pairwise(stops)])
        ways: dict[int, list[Edge]] = {}
        for e in graph.out_of(a):
            if e.target == b or total(e.target, b):
                ways.setdefault(e.target, []).append(e)
        terms: list[Term] = []
        for m, edges in ways.items():
            if m == b:
                terms += edges
            else:
                terms.append(_product([_sum(edges), term(m, b)]))
        return _sum(terms)

    return term(start, end)


def _leads(graph: Graph, e: Edge, end: int) -> bool:
    return e.target == end or count(graph, e.target, end) > 0


def _sum(terms: Sequence[Term]) -> Term:
    return terms[0] if len(terms) == 1 else Sum(tuple(terms))


def _product(factors: Sequence[Term]) -> Term:
    flat: list[Term] = []
    for f in factors:
        flat += f.factors if isinstance(f, Product) else [f]
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def _letters(term: Term) -> str:
    return _written(term, lambda e: e.letter, "")


def _numbers(term: Term) -> str:
    def one(e: Edge) -> str:
        text = number(_number(e))
        return f"({text})" if text.startswith("−") else text

    return _written(term, one, "·")


def _written(term: Term, edge: Callable[[Edge], str], times: str) -> str:
    if isinstance(term, Edge):
        return edge(term)
    if isinstance(term, Sum):
        return " + ".join(_written(t, edge, times) for t in term.terms)
    parts = [(f, _written(f, edge, times)) for f in term.factors]
    return times.join(f"({text})" if isinstance(f, Sum) else text for f, text in parts)


def _number(e: Edge) -> float:
    assert e.partial is not None
    return e.partial.array.reshape(()).item()  # type: ignore[no-any-return]


def _value(term: Term) -> float:
    if isinstance(term, Edge):
        return _number(term)
    if isinstance(term, Sum):
        return sum(map(_value, term.terms))
    return prod(map(_value, term.factors))
