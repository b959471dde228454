"""The arena: where temporaries lie in the one memory they share. Imports nodes and order."""

from collections.abc import Collection, Iterable, Sequence

from gpugrad.compiler.nodes import Chain, Node
from gpugrad.compiler.order import Home
from gpugrad.compiler.views import Buffer

_ALIGN = 64
# Memory that is used again orders what could run side by side. This much stays in any GPU's L2.
_APART_BYTES = 16 << 20


def padded(nbytes: int) -> int:
    return -(-nbytes // _ALIGN) * _ALIGN


def laid_out(
    order: Sequence[Node],
    home: Home,
    pinned: Collection[Buffer],
    own: Iterable[Buffer],
    start: int,
    side_by_side: bool,
) -> tuple[dict[Buffer, int], int]:
    """Offsets from ``start`` on for all temporaries, first fit over their lifetimes, and the end.

    What is ``pinned`` is kept to the end of the run; what threads have of their ``own`` lies
    elsewhere; a small arena for nodes that run ``side_by_side`` uses no memory twice.
    """
    offset: dict[Buffer, int] = {}
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for step, node in enumerate(order):
        for view in (*node.writes, *node.reads):
            buffer = home(view).buffer
            if buffer.kind == "temp":
                first.setdefault(buffer, step)
                last[buffer] = step
    for buffer in pinned:
        if buffer in last:
            last[buffer] = len(order)
    free: list[tuple[int, int]] = []  # (start, end), in order
    end = padded(start)
    skip = set(own)
    readers: dict[Buffer, set[int]] = {}
    for step, node in enumerate(order):
        for view in node.reads:
            readers.setdefault(home(view).buffer, set()).add(step)
    apart = side_by_side and sum(b.nbytes for b in first) <= _APART_BYTES
    dying: dict[int, list[Buffer]] = {}
    for buffer, step in last.items():
        if buffer not in skip:
            dying.setdefault(step, []).append(buffer)
    born: dict[int, list[Buffer]] = {}
    for buffer, step in first.items():
        if buffer not in skip:
            born.setdefault(step, []).append(buffer)
    for step, node in enumerate(order):
        gone = dying.get(step, [])
        if apart:  # what others read too would have to wait for them
            gone = [b for b in gone if len(readers[b]) == 1]
        heirs = _inherit(node, gone, born.get(step, []))
        for buffer in born.get(step, []):
            if buffer in heirs:
                offset[buffer] = offset[heirs[buffer]]
                continue
            need = max(_ALIGN, padded(buffer.nbytes))
            at = _take(free, need)
            if at is None:
                at, end = end, end + need
            offset[buffer] = at
        for buffer in gone:
            if buffer not in heirs.values() and not apart:
                size = max(_ALIGN, padded(buffer.nbytes))
                _give(free, offset[buffer], size)
    return offset, end


def _inherit(node: Node, gone: Sequence[Buffer], born: Sequence[Buffer]) -> dict[Buffer, Buffer]:
    """Values a chain may write over an operand that nobody needs afterwards."""
    heirs: dict[Buffer, Buffer] = {}
    if not isinstance(node, Chain):
        return heirs
    for buffer in born:
        store = node.stores.get(buffer)
        for old in gone:
            if store is None or old in heirs.values() or old.nbytes != buffer.nbytes:
                continue
            views = [v for v in node.reads if v.buffer is old]
            same = all(v.contiguous and v.shape == store.shape and not v.offset for v in views)
            if views and same and old.dtype == buffer.dtype:
                heirs[buffer] = old
                break
    return heirs


def _take(free: list[tuple[int, int]], need: int) -> int | None:
    for i, (start, stop) in enumerate(free):
        if stop - start >= need:
            if stop - start == need:
                del free[i]
            else:
                free[i] = (start + need, stop)
            return start
    return None


def _give(free: list[tuple[int, int]], start: int, size: int) -> None:
    free.append((start, start + size))
    free.sort()
    merged: list[tuple[int, int]] = []
    for a, b in free:
        if merged and merged[-1][1] == a:
            merged[-1] = (merged[-1][0], b)
        else:
            merged.append((a, b))
    free[:] = merged
