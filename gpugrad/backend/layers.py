"""Products of narrow matrices, each of what the one before gave, that are one launch of mlp.cuh.

With what follows on each place by place, its sums over rows, and the gradients of the weights.
Imports mlp for what it takes, layer, operands.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gpugrad.backend.kernels import mlp
from gpugrad.backend.layer import Layer, Value, followed, layer_of
from gpugrad.backend.operands import (
    READ_INSIDE,
    Range,
    Touched,
    conflict_of,
    dense,
    meet,
    moved,
    range_of,
    read_once,
    touched,
)

Known = dict[int, tuple[Any, Touched]]  # by id, which a step has while it is here


class Gradient(NamedTuple):
    """A product that gives the gradient of a layer's weights."""

    below: Any
    width: int
    out: Any
    place: Range  # of out
    flipped: bool | None  # None: either way, it is a vector
    alpha: float
    scale: Any
    add: bool


class Run(NamedTuple):
    """A step ("layers", …): instructions and products that are one launch, and what they are."""

    kind: str
    steps: tuple[Any, ...]
    layers: tuple[Layer, ...]
    gradients: tuple[Gradient | None, ...]  # of each layer, and of one behind the last
    kept: tuple[tuple[bool, ...], ...] = ()  # of each layer's outs, what anybody else reads

    @property
    def widths(self) -> list[int]:
        """Of what goes in and of each layer, and of the one behind that has a gradient only."""
        behind = self.gradients[-1]
        widths = [self.layers[0].inputs, *[layer.outputs for layer in self.layers]]
        return widths if behind is None else [*widths, behind.width]

    @property
    def below(self) -> int | None:
        """Which of the layers' more is what the gradients of their weights take, if one is."""
        pairs = list(zip(self.layers, self.gradients[:-1], strict=True))
        for i in range(len(self.layers[0].more)):
            if all(g is not None and _same(layer.more[i : i + 1], g.below) for layer, g in pairs):
                return i
        return None

    def fits(self) -> bool:
        summed = any(self.gradients) or any(layer.total is not None for layer in self.layers)
        most = mlp.most_summed(self.widths) if summed else mlp.MOST_LAYERS
        return len(self.widths) - 1 <= most


def with_layers(steps: Sequence[Any]) -> list[Any]:
    """The steps, where those that can be one launch of mlp.cuh are one ("layers", …).

    A later one moves up to the earlier, and before both what it needs.
    """
    order: list[Any] = []
    known: Known = {}
    for step in steps:
        layer = layer_of(step)
        for i, joined, update in _joined(order, step, layer):
            needed = _needed(order, i, joined.steps[-1], known)
            if needed is not None:
                before = [order[j] for j in needed]
                behind = [other for j, other in enumerate(order) if j > i and j not in needed]
                order[i:] = [*before, joined, *behind, *update]
                break
        else:
            order.append(step if layer is None else Run("layers", (step,), (layer,), (None, None)))
    # A product that is alone is not worth a launch of this kind.
    order = [s.steps[0] if isinstance(s, Run) and len(s.steps) == 1 else s for s in order]
    return [_marked(order, i) for i in range(len(order))]


def _needed(order: Sequence[Any], i: int, step: Any, known: Known) -> list[int] | None:
    """What must come before ``step`` of all behind number i; None where that must be behind i."""

    def apart(earlier: Any, later: Any) -> bool:
        for one in (earlier, later):
            if id(one) not in known:
                known[id(one)] = one, touched(one)
        return not conflict_of(known[id(earlier)][1], known[id(later)][1])

    needed: list[int] = []
    later = [step]
    for j in reversed(range(i + 1, len(order))):
        if not all(apart(order[j], other) for other in later):
            later.append(order[j])
            needed.insert(0, j)
    return needed if all(apart(order[i], order[j]) for j in needed) else None


def _joined(
    order: Sequence[Any], step: Any, layer: Layer | None
) -> Iterator[tuple[int, Run, list[Any]]]:
    """Runs that ``step`` could be part of, by their number, each with it; the latest first.

    Of a gradient and the update that follows on it only the gradient: the update is left over.
    """
    gemm, update = (step[1], [step[2]]) if step[0] == "product" else (step, [])
    for i in reversed(range(len(order))):
        run = order[i]
        if not isinstance(run, Run):
            continue
        joined: list[tuple[Run | None, Any, list[Any]]] = []
        if gemm[0] == "gemm":
            joined.append((_with_gradient(run, gemm), gemm, update))
        if layer is not None:
            joined.append((_with_layer(run, layer), step, []))
        if step[0] == "chain":
            joined.append((_with_chain(run, step), step, []))
        for found, part, rest in joined:
            if found is not None and found.fits():
                yield i, found._replace(steps=(*run.steps, part)), rest


# Several


def _same(operands: Sequence[Any], place: Any) -> bool:
    """Whether the one operand, if there is one, is what lies at ``place``, in its type."""
    return any(o[:2] == place[:2] and o[4] == place[4] for o in operands)


def _with_layer(run: Run, new: Layer) -> Run | None:
    """The run, going on with a layer of what its last one gives."""
    last = run.layers[-1].going_on(new.x)
    if last is None or (new.dtype, new.rows, new.inputs) != (last.dtype, last.rows, last.outputs):
        return None
    layers = (*run.layers[:-1], last)
    if {True, False} <= {layer.turned for layer in (*layers, new)}:
        return None
    if any(layer.function() != last.function() for layer in layers):
        return None  # only the last may have another
    behind = run.gradients[-1]
    if behind is not None and behind.width != new.outputs:
        return None
    joined = run._replace(layers=(*layers, new), gradients=(*run.gradients, None))
    return joined if _rows_apart(joined) else None


def _with_chain(run: Run, chain: Any) -> Run | None:
    """The run, with a chain on what its last layer gives, or sums over rows of what any does."""
    operands, stores = chain[4], chain[7]
    for i, layer in enumerate(run.layers):
        last = i == len(run.layers) - 1
        if (stores and not last) or all(o[:2] != to[:2] for o in operands for _, to in layer.outs):
            continue
        new = followed(layer, chain)
        if new is None or (not last and new.outs[0] != layer.outs[0]):
            return None
        joined = run._replace(layers=(*run.layers[:i], new, *run.layers[i + 1 :]))
        behind = run.gradients[-1]
        if last and behind is not None:
            return None  # it takes what the chain may write over
        return joined if _rows_apart(joined, i) else None
    return None


def _with_gradient(run: Run, gemm: Any) -> Run | None:
    """The run, with the gradient of a layer's weights."""
    _, dtype, ta, tb, m, n, k, alpha, scale, a, b, beta, c, _ = gemm
    # A vector lies either way.
    if not (ta or m == 1) or (tb and n > 1) or (dtype, k) != run.layers[0][:2]:
        return None
    dense_a = dense(a, *((k, m) if ta else (m, k)))
    dense_b = dense(b, *((n, k) if tb else (k, n)))
    if beta not in (0, 1) or not (dense_a and dense_b and dense(c, m, n)):
        return None
    if min(m, n) < 1 or max(m, n) > mlp.MOST:
        return None
    if (scale is not None and scale[4] != "f8") or c[4] != dtype:
        return None
    flips = {g.flipped for g in run.gradients if g is not None} - {None}
    for flipped, d, inputs, below, outputs in [(False, a, m, b, n), (True, b, n, a, m)]:
        if not flips <= {flipped} and min(m, n) > 1:
            continue
        found = _place(run, d, inputs)
        if found is None:
            continue
        i, layers = found
        if run.gradients[i] is not None or (i < len(layers) and layers[i].outputs != outputs):
            continue
        flip = flipped if min(m, n) > 1 else None
        # What lies below is what it was before; sums and gradients are written in any order.
        given = [r for layer in layers for r in _given(layer, layer.outs)]
        others = [g.place for g in run.gradients if g is not None]
        totals = [range_of(x.total, 1, x.outputs) for x in layers if x.total is not None]
        place = range_of(c, m, n)
        if meet([range_of(below, k, outputs)], given) or meet([place], totals + others):
            continue
        new = Gradient(below, outputs, c, place, flip, alpha, scale, bool(beta))
        gradients = (*run.gradients[:i], new, *run.gradients[i + 1 :])
        return run._replace(layers=layers, gradients=gradients)
    return None


def _place(run: Run, d: Any, width: int) -> tuple[int, tuple[Layer, ...]] | None:
    """The number of the layer that ``d`` goes into, and the layers, ``d`` going on to it."""
    first = run.layers[0]
    if d[:2] == first.x[:2] and width == first.inputs:
        return 0, run.layers
    for i, layer in enumerate(run.layers, 1):
        going_on = layer.going_on(d)
        if going_on is not None and width == layer.outputs:
            if i < len(run.layers) and going_on != layer:
                return None
            return i, (*run.layers[: i - 1], going_on, *run.layers[i:])
    return None


def _rows_apart(run: Run, i: int = -1) -> bool:
    """Whether blocks that each take some rows through all layers can have layer i among them.

    What one block writes, no other may read or write: they run in any order. What is passed on and
    read by nobody else is not written.
    """
    new = run.layers[i]
    others = [layer for layer in run.layers if layer is not new]
    beside = [r for layer in others for r in _beside(layer, layer.more)]
    reads = [range_of(run.layers[0].x, new.rows, run.layers[0].inputs), *beside]
    writes = [r for x in others for r in _given(x, [o for o in x.outs if not read_once(o[1])])]
    values = [r for layer in others for r in _given(layer, layer.outs)]
    for gradient, layer in zip(run.gradients, (*run.layers, None), strict=True):
        if gradient is not None:
            writes.append(gradient.place)
            # What lies below may be overwritten by the layer itself, place by place.
            if layer is not new or all(gradient.below[:2] != to[:2] for _, to in layer.outs):
                reads.append(range_of(gradient.below, new.rows, gradient.width))
    apart = [o for o in new.more if all(o[:2] != to[:2] for _, to in new.outs)]
    own = _beside(new, apart)
    return not (meet(_given(new, new.outs), reads + writes + own) or meet(values + writes, own))


def _beside(layer: Layer, more: Sequence[Any]) -> list[Range]:
    """What a layer reads beside x: its weights, and of ``more``."""
    w = (layer.outputs, layer.inputs) if layer.turned else (layer.inputs, layer.outputs)
    rest = [range_of(o, 1 if layer.columns(o) else layer.rows, layer.outputs) for o in more]
    return [range_of(layer.w, *w), *rest]


def _given(layer: Layer, outs: Sequence[tuple[Value, Any]]) -> list[Range]:
    """What comes out of a layer: its sums, and of ``outs``."""
    values = [range_of(to, layer.rows, layer.outputs) for _, to in outs]
    return values if layer.total is None else [*values, range_of(layer.total, 1, layer.outputs)]


# What need not reach memory


def _marked(order: Sequence[Any], i: int) -> Any:
    """Step number i, a run with what is kept of it. Only what is not is marked as read inside."""
    step = order[i]
    dropped: set[Any] = set()
    if isinstance(step, Run):
        step = step._replace(kept=_kept(step, order[i + 1 :]))
        for layer, kept in zip(step.layers, step.kept, strict=True):
            dropped |= {to[:2] for (_, to), k in zip(layer.outs, kept, strict=True) if not k}

    def marked(operand: Any, rows: int, cols: int, written: bool) -> Any:
        return operand if operand[:2] in dropped else (*operand[:5], operand[5] & ~READ_INSIDE)

    def part(one: Any) -> Any:
        if one[0] == "product":
            return (one[0], *map(part, one[1:]))
        return moved(one, marked) if one[0] in ("gemm", "chain") else one

    return (
        step._replace(steps=tuple(map(part, step.steps))) if isinstance(step, Run) else part(step)
    )


def _kept(run: Run, later: Sequence[Any]) -> tuple[tuple[bool, ...], ...]:
    """For each layer and each of its outs, whether anything beyond the launch reads it."""
    reads_and_writes = [touched(step) for step in later]

    def kept(layer: Layer, out: int) -> bool:
        to = layer.outs[out][1]
        if read_once(to) and not out and layer is not run.layers[-1]:
            return False
        if not to[5] & READ_INSIDE:
            return True
        place = range_of(to, layer.rows, layer.outputs)
        for reads, writes in reads_and_writes:
            if meet([place], reads):
                return True
            if any(w[0] == place[0] and w[1] <= place[1] and place[2] <= w[2] for w in writes):
                return False
        return False

    return tuple(tuple(kept(x, out) for out in range(len(x.outs))) for x in run.layers)
