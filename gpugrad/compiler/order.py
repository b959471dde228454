"""Order: what nodes wait for, and which do better together. Imports nodes and views."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from gpugrad.compiler.nodes import Call, Chain, Gemm, Node
from gpugrad.compiler.views import Buffer, View

_FAR = 64  # how many groups are looked back for a chain of the same code
_NARROW = 128  # columns of a layer that a launch takes together with others
Home = Callable[[View], View]  # a view where its values really lie


def ordered(
    nodes: Sequence[Node], maker: Mapping[Buffer, Node], after: Mapping[int, list[Node]]
) -> list[Node]:
    """Dependencies first; among what is ready, calls first, then as it was written.

    ``after``: nodes that must run before another, by its id.
    """
    waiting: dict[int, set[int]] = {}
    next_of: dict[int, list[Node]] = {}
    for node in nodes:
        before = [maker.get(v.buffer) for v in node.reads] + after.get(id(node), [])
        ids = {id(b) for b in before if b is not None and b is not node}
        waiting[id(node)] = ids
        for i in ids:
            next_of.setdefault(i, []).append(node)
    rank = {id(node): i for i, node in enumerate(nodes)}

    def key(node: Node) -> tuple[bool, int, int]:
        return (not isinstance(node, Call), node.place, rank[id(node)])

    ready = sorted((n for n in nodes if not waiting[id(n)]), key=key)
    order: list[Node] = []
    while ready:
        node = ready.pop(0)
        order.append(node)
        fresh = []
        for other in next_of.get(id(node), []):
            waiting[id(other)].discard(id(node))
            if not waiting[id(other)]:
                fresh.append(other)
        if fresh:
            ready = sorted([*ready, *fresh], key=key)
    assert len(order) == len(nodes), "a circle in the plan"
    return order


def alike_together(nodes: Sequence[Node], home: Home) -> list[Node]:
    """Chains of one code together, so that memory is laid out for one launch of all."""
    groups: list[list[Node]] = []
    for node in nodes:
        for group in reversed(groups[-_FAR:]):
            if any(_in_the_way(one, node, home) for one in group):
                groups.append([node])
                break
            if isinstance(node, Chain) and group[0].label == node.label and node.label:
                group.append(node)
                break
        else:
            groups.append([node])
    return [node for group in groups for node in group]


def weights_last(nodes: Sequence[Node], home: Home) -> list[Node]:
    """Gradients of narrow weights after those between layers, which then follow one another.

    What they read lives longer for it.
    """
    order: list[Node] = []
    late: list[Node] = []
    for node in nodes:
        if isinstance(node, Gemm) and node.a.shape[1] > max(node.c.shape) <= _NARROW:
            late.append(node)
            continue
        due = [i + 1 for i, one in enumerate(late) if _in_the_way(one, node, home)]
        count = max(due, default=0)
        order += [*late[:count], node]
        late = late[count:]
    return order + late


def _in_the_way(earlier: Node, later: Node, home: Home) -> bool:
    """Whether ``later`` cannot come before ``earlier``."""

    def buffers(views: Iterable[View]) -> set[Buffer]:
        return {home(view).buffer for view in views}

    reads, writes = buffers(later.reads), buffers(later.writes)
    before = buffers(earlier.writes)
    return not (before.isdisjoint(reads | writes) and writes.isdisjoint(buffers(earlier.reads)))
