"""Where everything stands: layers from inputs down to outputs. Imports nothing of the tape.

Sugiyama, Tagawa and Toda 1981: layers by longest path, one stand-in for each layer that an edge
passes, an order by barycentres with few crossings, then places. An edge's label is such a stand-in
too, so neither text nor edge can ever lie on a vertex.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

GAP = 22.0  # between neighbours in a layer
LANE = 14.0  # that an edge passing by takes
MARGIN = 16.0
_SWEEPS = 12


@dataclass(eq=False)
class Item:
    """A vertex, an edge's label, or an edge passing through a layer."""

    layer: int
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0  # of its centre
    y: float = 0.0
    above: "list[Item]" = field(default_factory=list)
    below: "list[Item]" = field(default_factory=list)
    passing: bool = False  # no vertex


@dataclass(frozen=True)
class Rect:
    """A box by its centre."""

    x: float
    y: float
    width: float
    height: float

    def overlaps(self, other: "Rect") -> bool:
        dx, dy = abs(self.x - other.x), abs(self.y - other.y)
        return (
            dx < (self.width + other.width) / 2 - 1e-6
            and dy < (self.height + other.height) / 2 - 1e-6
        )


@dataclass(frozen=True)
class Route:
    """The stations of an edge: from one to the next it is a straight line or a bend between layers.

    ``label`` is the box that the line leaves free.
    """

    points: Sequence[tuple[float, float]]
    label: Rect | None


@dataclass(frozen=True)
class Layout:
    boxes: dict[Hashable, Rect]
    routes: list[Route]
    width: float
    height: float


def arrange(
    sizes: Mapping[Hashable, tuple[float, float]],
    edges: Sequence[tuple[Hashable, Hashable]],
    labels: Sequence[tuple[float, float] | None],
) -> Layout:
    """Places for vertices of ``sizes`` (in topological order) and for edges with labels of a size.

    Nothing overlaps: boxes of vertices, of labels, and the lanes of edges between them.
    """
    ranks = _ranks(sizes, edges)
    step = 2 if any(labels) else 1  # labels stand in layers of their own
    vertices = {key: Item(ranks[key] * step, *size) for key, size in sizes.items()}
    layers: list[list[Item]] = [[] for _ in range(step * max(ranks.values(), default=0) + 1)]
    for item in vertices.values():
        layers[item.layer].append(item)
    chains: list[list[Item]] = []
    for (source, target), label in zip(edges, labels, strict=True):
        chain = [vertices[source]]
        for layer in range(chain[0].layer + 1, vertices[target].layer):
            first = len(chain) == 1 and label is not None
            size = label if first and label is not None else (LANE, 0.0)
            chain.append(Item(layer, *size, passing=True))
            layers[layer].append(chain[-1])
        chain.append(vertices[target])
        chains.append(chain)
        for a, b in pairwise(chain):
            a.below.append(b)
            b.above.append(a)
    _order(layers)
    _place(layers, chains)
    width = _fit(layers)
    bands, height = _stack(layers)
    routes = _route(chains, labels, bands)
    boxes = {key: Rect(v.x, v.y, v.width, v.height) for key, v in vertices.items()}
    return Layout(boxes, routes, width, height)


def _ranks(
    sizes: Mapping[Hashable, tuple[float, float]], edges: Sequence[tuple[Hashable, Hashable]]
) -> dict[Hashable, int]:
    """Longest path from an input; an input stands just above what first reads it."""
    into: dict[Hashable, list[Hashable]] = {key: [] for key in sizes}
    out: dict[Hashable, list[Hashable]] = {key: [] for key in sizes}
    for source, target in edges:
        into[target].append(source)
        out[source].append(target)
    ranks: dict[Hashable, int] = {}
    for key in sizes:
        ranks[key] = max((ranks[source] + 1 for source in into[key]), default=0)
    for key in sizes:
        if not into[key] and out[key]:
            ranks[key] = min(ranks[target] for target in out[key]) - 1
    return ranks


def _order(layers: list[list[Item]]) -> None:
    """Sort each layer by its neighbours' mean place, down and up; keep the best order seen."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        pairs = pairwise(layers if down else layers[::-1])
        for fixed, layer in pairs:
            place = {item: i for i, item in enumerate(fixed)}
            means = {}
            for i, item in enumerate(layer):
                near = [place[n] for n in (item.above if down else item.below)]
                means[item] = sum(near) / len(near) if near else float(i)
            layer.sort(key=means.__getitem__)
        crossings = _crossings(layers)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    for layer, order in zip(layers, best, strict=True):
        layer[:] = order


def _crossings(layers: list[list[Item]]) -> int:
    total = 0
    for upper, lower in pairwise(layers):
        place = {item: i for i, item in enumerate(lower)}
        seen: list[int] = []
        for item in upper:
            ends = sorted(place[n] for n in item.below)
            for end in ends:
                total += len(seen) - bisect_right(seen, end)
            for end in ends:
                insort(seen, end)
    return total


def _place(layers: list[list[Item]], chains: list[list[Item]]) -> None:
    """Centres near those of the neighbours, never closer than the boxes allow."""
    runs = {item: chain for chain in chains for item in chain[1:-1] if len(chain) > 4}
    light = {item for chain in chains for item in chain[:-1] if not chain[0].above}
    for layer in layers:
        x = 0.0
        for item in layer:
            item.x = x + item.width / 2
            x += item.width + GAP
        for item in layer:
            item.x -= x / 2

    def settle(down: bool, moves: Callable[[Item], bool]) -> None:
        for layer in layers if down else layers[::-1]:
            wanted, weights = [], []
            for item in layer:
                near = item.above if down else item.below
                if item in runs:  # the middle of all its stations: a long edge is straight
                    near = runs[item]
                if not near or not moves(item):
                    near = [item]
                # What is computed stands below what is computed, and inputs stand beside it.
                pulls = [0.1 if n in light and item not in runs else 1.0 for n in near]
                middle = sum(n.x * pull for n, pull in zip(near, pulls, strict=True)) / sum(pulls)
                wanted.append(middle)
                yields = near == [item] or not item.above
                weights.append(4.0 if item.passing else 0.1 if yields else 1.0)
            for item, x in zip(layer, _separated(layer, wanted, weights), strict=True):
                item.x = x

    for sweep in range(2 * _SWEEPS):
        settle(sweep % 2 == 0, lambda item: True)
    settle(True, lambda item: True)
    settle(False, lambda item: item in light)


def _separated(layer: list[Item], wanted: list[float], weights: list[float]) -> list[float]:
    """The places nearest to ``wanted`` (weighted least squares) in this order without overlap.

    With the least distances subtracted this is isotonic regression: pool adjacent violators.
    """
    offsets = [0.0]
    for a, b in pairwise(layer):
        gap = GAP if not (a.passing and b.passing) else GAP / 2
        offsets.append(offsets[-1] + (a.width + b.width) / 2 + gap)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, length = want - offset, 1
        while blocks and blocks[-1][0] > mean:
            before, heavy, more = blocks.pop()
            mean = (before * heavy + mean * weight) / (heavy + weight)
            weight, length = weight + heavy, length + more
        blocks.append((mean, weight, length))
    means = [mean for mean, _, length in blocks for _ in range(length)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _fit(layers: list[list[Item]]) -> float:
    """Move everything right of the margin; the width."""
    items = [item for layer in layers for item in layer]
    left = min((item.x - item.width / 2 for item in items), default=0.0)
    right = max((item.x + item.width / 2 for item in items), default=0.0)
    for item in items:
        item.x += MARGIN - left
    return right - left + 2 * MARGIN


def _stack(layers: list[list[Item]]) -> tuple[list[tuple[float, float]], float]:
    """Heights: the top and bottom of each layer, further apart where edges run far sideways."""
    bands: list[tuple[float, float]] = []
    y = MARGIN
    for layer in layers:
        if bands:
            far = max((abs(item.x - n.x) for item in layer for n in item.above), default=0.0)
            y += min(max(16.0, far / 7), 90.0)
        tall = max((item.height for item in layer), default=0.0)
        for item in layer:
            item.y = y + tall / 2
        bands.append((y, y + tall))
        y += tall
    return bands, y + MARGIN


def _route(
    chains: list[list[Item]],
    labels: Sequence[tuple[float, float] | None],
    bands: list[tuple[float, float]],
) -> list[Route]:
    ports = _ports(chains)
    routes = []
    for i, (chain, label) in enumerate(zip(chains, labels, strict=True)):
        source, *inner, target = chain
        start, end = ports[i]
        points = [(start, source.y + source.height / 2), (start, bands[source.layer][1])]
        box = None
        for item in inner:
            top, bottom = bands[item.layer]
            points += [(item.x, top), (item.x, bottom)]
            if box is None and label is not None:
                box = Rect(item.x, item.y, item.width, item.height)
        points += [(end, bands[target.layer][0]), (end, target.y - target.height / 2)]
        routes.append(Route(points, box))
    return routes


def _ports(chains: list[list[Item]]) -> list[tuple[float, float]]:
    """Where each edge leaves and arrives: side by side, in the order of where it goes."""
    ends: dict[Item, tuple[list[tuple[float, int]], list[tuple[float, int]]]] = {}
    for i, chain in enumerate(chains):
        ends.setdefault(chain[0], ([], []))[0].append((chain[1].x, i))
        ends.setdefault(chain[-1], ([], []))[1].append((chain[-2].x, i))
    ports = [[0.0, 0.0] for _ in chains]
    for item, sides in ends.items():
        for side, entries in enumerate(sides):
            entries.sort()
            room = item.width * 0.8
            pitch = min(18.0, room / max(len(entries), 1))
            for place, (_, i) in enumerate(entries):
                ports[i][side] = item.x + (place - (len(entries) - 1) / 2) * pitch
    return [(a, b) for a, b in ports]
