"""What a CUDA program launches: its instructions, several of them in one launch, on two streams.

Instructions are what kernels/cpu/program.h says. Imports gemm and mlp for what they take, twin.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpugrad.backend.kernels import gemm, mlp
from gpugrad.backend.twin import DTYPES

Range = tuple[int, int, int]  # memory, first byte, byte after the last
Touched = tuple[list[Range], list[Range]]  # read, written
_READ_ONCE = 4  # flag of an operand: one instruction alone reads it


def stepped(instructions: Sequence[Any], fuse_products: bool) -> list[Any]:
    """The instructions; several that are one launch are a "product", "layers" or a "group"."""
    if fuse_products:
        instructions = with_layers(with_chains(instructions))
    return grouped(instructions)


# Products with a chain behind them


def with_chains(instructions: Sequence[Any]) -> list[Any]:
    """The instructions, where a product and the chain that follows on it are one ("product", …).

    The chain moves up to the product, over what it has nothing to do with.
    """
    order: list[Any] = []
    for instruction in instructions:
        for i in reversed(range(len(order))):
            if _follows(order[i], instruction):
                order[i] = ("product", order[i], instruction)
                break
            if _conflict(order[i], instruction):
                order.append(instruction)
                break
        else:
            order.append(instruction)
    return order


def _follows(product: Any, chain: Any) -> bool:
    """Whether ``chain`` goes over what ``product`` gives, place by place, and touches no factor."""
    if product[0] != "gemm" or chain[0] != "chain":
        return False
    _, dtype, _, _, m, n, k, alpha, scale, _, _, beta, c, _ = product
    _, chain_dtype, rows, cols, operands, _, _, stores, reductions, _ = chain
    plain = alpha == 1 and scale is None and beta == 0 and dtype == chain_dtype == "f4"
    if (
        not (plain and gemm.suits(m, n, k))
        or (rows, cols) != (m, n)
        or any(r[1] != "rows" for r in reductions)
    ):
        return False

    def own(o: Any) -> bool:
        return bool(o[:2] == c[:2] and o[4] == "f4" and _dense(o, m, n))

    places = [*operands, *[to for _, to in stores]]
    over = [_meet([_range(o, rows, cols)], [_range(c, m, n)]) for o in places]
    if list(map(own, places)) != over or sum(over[: len(operands)]) != 1 or c[2] != n:
        return False
    reads, _ = touched(product)
    _, writes = touched(chain)
    return not _meet(writes, reads)


def place_in(operands: Sequence[Any], product: Any) -> int:
    """Which operand of a ("product", …)'s chain is what the product gives."""
    return [o[:2] for o in operands].index(product[:2])


def read_once(operand: Any) -> bool:
    """Whether what is written there need not be, if its one reader is part of the same launch."""
    return bool(operand[5] & _READ_ONCE)


def _dense(operand: Any, rows: int, cols: int) -> bool:
    """Whether it lies row after row; a step that is never taken may be anything."""
    _, _, row, col, _, _ = operand
    return (row == cols or rows == 1) and (col == 1 or cols == 1)


# Layers, each of what the one before gave


class Layer(NamedTuple):
    """A ("product", …) as a layer of mlp.cuh."""

    rows: int
    inputs: int
    outputs: int
    turned: bool | None  # w lies as (outputs, inputs); None: either way, it is a vector
    columns: bool  # more has a value a column
    x: Any
    w: Any
    more: Any
    out: Any
    total: Any  # sums of out over rows, or None
    function: tuple[tuple[float, ...], tuple[Any, ...]]  # see mlp.Function


def layer_of(product: Any) -> Layer | None:
    """What mlp.cuh takes of a step, or None where that is not all it does."""
    if product[0] != "product":
        return None
    _, (_, _, ta, tb, m, n, k, _, _, a, b, _, c, _), chain = product
    _, _, _, _, operands, constants, lines, stores, reductions, _ = chain
    if ta or max(k, n) > mlp.MOST or (len(operands), len(stores)) != (2, 1) or not lines:
        return None
    at, ((value, out),) = place_in(operands, c), stores
    more = operands[1 - at]
    columns = not more[2] and (more[3] == 1 or n == 1)
    if out[:2] != c[:2] and not read_once(c):
        return None  # somebody else reads the product itself
    dense = [_dense(a, m, k), _dense(b, *((n, k) if tb else (k, n))), _dense(out, m, n)]
    if not all(dense) or more[4] != "f4" or not (columns or _dense(more, m, n)):
        return None
    if value != 1 + len(constants) + len(lines):
        return None  # not the last line
    total = None
    for kind, _, of, to, scale, add in reductions:
        if total is not None or (kind, of, scale, add) != ("sum", value, 1, False):
            return None
        if to[4] != "f4" or not (to[3] == 1 or n == 1):
            return None
        total = to

    def moved(number: int) -> int:
        return number ^ at if number in (0, 1) else number

    function = tuple(constants), tuple((op, *map(moved, values)) for op, *values in lines)
    return Layer(m, k, n, tb if min(k, n) > 1 else None, columns, a, b, more, out, total, function)


def with_layers(steps: Sequence[Any]) -> list[Any]:
    """The steps, where a product on what a product gave is one ("layers", both, as layers) with it.

    The later one moves up to the earlier, over what it has nothing to do with.
    """
    order: list[Any] = []
    for step in steps:
        layer = layer_of(step)
        for i in reversed(range(len(order))):
            products, layers = _run(order[i])
            if layer is not None and layers and _continues(layers, layer):
                order[i] = ("layers", (*products, step), (*layers, layer))
                break
            if _conflict(order[i], step):
                order.append(step)
                break
        else:
            order.append(step)
    return order


def _run(step: Any) -> tuple[tuple[Any, ...], tuple[Layer, ...]]:
    """The products of a step and what they are as layers; nothing where it has none."""
    if step[0] == "layers":
        return step[1:]  # type: ignore[no-any-return]
    layer = layer_of(step)
    return ((), ()) if layer is None else ((step,), (layer,))


def _continues(layers: Sequence[Layer], new: Layer) -> bool:
    """Whether blocks that each take some rows through ``layers`` can go on with ``new``."""
    last = layers[-1]
    if len(layers) == mlp.MOST_LAYERS:
        return False
    if (new.rows, new.columns) != (last.rows, last.columns):
        return False
    if {True, False} <= {layer.turned for layer in (*layers, new)}:
        return False
    if new.x[:2] != last.out[:2] or new.inputs != last.outputs:
        return False
    if any(layer.function != last.function for layer in layers):
        return False  # only the last may have another
    # What one block writes, no other may read or write: they run in any order.
    reads = [_range(layers[0].x, new.rows, layers[0].inputs)]
    reads += [r for layer in (*layers, new) for r in _beside(layer)]
    writes = [r for layer in layers for r in _given(layer, not read_once(layer.out))]
    values = [r for layer in layers for r in _given(layer)]
    return not (_meet(_given(new), reads + writes) or _meet(values, _beside(new)))


def _beside(layer: Layer) -> list[Range]:
    """What a layer reads beside x, but for what it overwrites place by place."""
    w = layer.w, *((layer.outputs, layer.inputs) if layer.turned else (layer.inputs, layer.outputs))
    more = (layer.more, 1 if layer.columns else layer.rows, layer.outputs)
    return [_range(*part) for part in (w, more) if part[0][:2] != layer.out[:2]]


def _given(layer: Layer, kept: bool = True) -> list[Range]:
    """What comes out of a layer, its values only where they are ``kept``."""
    values = [_range(layer.out, layer.rows, layer.outputs)] if kept else []
    return values if layer.total is None else [*values, _range(layer.total, 1, layer.outputs)]


# Two streams


def branches(steps: Sequence[Any]) -> list[tuple[int, list[int]]]:
    """For each step its stream, 0 or 1, and the step of the other stream it waits for, if any.

    Matrix products off the longest path go to the second stream: the gradients of the weights,
    while the first goes on to the layer below. So does every other one of several that could begin
    together.
    """
    all_touched = [touched(step) for step in steps]
    needs = [
        [j for j in range(i) if _conflict_of(all_touched[j], now)]
        for i, now in enumerate(all_touched)
    ]
    start = [0] * len(steps)
    for i, earlier in enumerate(needs):
        start[i] = 1 + max((start[j] for j in earlier), default=0)
    rest = [1] * len(steps)
    for i in reversed(range(len(steps))):
        for j in needs[i]:
            rest[j] = max(rest[j], 1 + rest[i])
    longest = max((s + r for s, r in zip(start, rest, strict=True)), default=0)
    plan: list[tuple[int, list[int]]] = []
    turns = [0] * (len(steps) + 1)
    for i, step in enumerate(steps):
        branch = 0
        if step[0] in ("gemm", "product"):
            branch = 1 if start[i] + rest[i] < longest else turns[start[i]] % 2
            turns[start[i]] += 1
        others = [j for j in needs[i] if plan[j][0] != branch]
        plan.append((branch, others[-1:]))
    return plan


# Several updates of one kind in one launch

_FAR = 64  # how many instructions are looked back for a chain of the same code


def grouped(instructions: Sequence[Any]) -> list[Any]:
    """The instructions, where chains of one code have become one ("group", chains).

    An optimiser's update is the same few lines for every parameter. A chain joins an earlier one
    where it depends on nothing that stands between them, and nothing there on what it overwrites.
    """
    order: list[list[Any]] = []
    for instruction in instructions:
        group = _to_join(order, instruction) if _even_sweep(instruction) else None
        if group is None:
            order.append([instruction])
        else:
            group.append(instruction)
    return [each[0] if len(each) == 1 else ("group", tuple(each)) for each in order]


def _to_join(order: Sequence[list[Any]], chain: Any) -> list[Any] | None:
    group: list[Any]
    for group in reversed(order[-_FAR:]):
        if any(_conflict(one, chain) for one in group):
            return None
        if _even_sweep(group[0]) and _code(group[0]) == _code(chain):
            return group
    return None


def _even_sweep(instruction: Any) -> bool:
    """Whether it is a chain without sums over arrays that lie one value after the other."""
    if instruction[0] != "chain" or instruction[8]:
        return False
    _, _, rows, cols, operands, _, _, stores, *_ = instruction

    def even(operand: Any) -> bool:
        _, _, row, col, _, _ = operand
        return bool((col == 1 or cols == 1) and (row == cols or rows == 1))

    one_value = [o for o in operands if not (o[2] or o[3])]
    return all(even(o) for o in operands if o not in one_value) and all(even(s) for _, s in stores)


def _code(chain: Any) -> tuple[Any, ...]:
    _, dtype, _, _, operands, constants, lines, stores, _, _ = chain
    shapes = [(bool(o[2] or o[3]), o[4]) for o in operands]
    return dtype, shapes, constants, lines, [(value, to[4]) for value, to in stores]


def _conflict(earlier: Any, later: Any) -> bool:
    """Whether the order of the two matters."""
    return _conflict_of(touched(earlier), touched(later))


def _conflict_of(earlier: Touched, later: Touched) -> bool:
    (reads, writes), (reads_2, writes_2) = earlier, later
    return _meet(writes, [*reads_2, *writes_2]) or _meet(reads, writes_2)


def _meet(some: Sequence[Range], others: Sequence[Range]) -> bool:
    return any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in some for b in others)


def touched(instruction: Any) -> Touched:
    """What an instruction reads and what it writes."""
    kind, *rest = instruction
    if kind in ("group", "layers"):
        each = [touched(one) for one in rest[0]]
        return [r for reads, _ in each for r in reads], [w for _, writes in each for w in writes]
    if kind == "product":
        (reads, writes), (more_reads, more_writes) = map(touched, rest)
        return reads + more_reads, writes + more_writes
    if kind == "gemm":
        _, ta, tb, m, n, k, _, scale, a, b, beta, c, _ = rest
        reads = [_range(a, *((k, m) if ta else (m, k))), _range(b, *((n, k) if tb else (k, n)))]
        reads += [_range(scale, 1, 1)] if scale is not None else []
        writes = [_range(c, m, n)]
        return reads + (writes if beta else []), writes
    if kind == "chain":
        _, rows, cols, operands, _, _, stores, reductions, _ = rest
        writes = [_range(to, rows, cols) for _, to in stores]
        writes += [_range(r[3], rows, cols) for r in reductions]
        return [_range(o, rows, cols) for o in operands], writes
    if kind == "gather":
        _, size, rows, cols, x, t, out = rest
        return [_range(x, size, cols), _range(t, rows, 1)], [_range(out, rows, cols)]
    if kind == "uniform":
        _, n, state, out = rest
        return [_range(state, 1, 12)], [_range(out, 1, n)]
    if kind == "cross_entropy":
        _, rows, cols, z, t, loss, residual, probability, *_ = rest
        writes = [_range(o, rows, cols) for o in (residual, probability) if o is not None]
        writes += [] if loss is None else [_range(loss, rows, 1)]
        return [_range(z, rows, cols), _range(t, rows, 1)], writes
    _, rows, cols, source, target, *_ = rest  # softmax and copy
    return [_range(source, rows, cols)], [_range(target, rows, cols)]


def _range(operand: Any, rows: int, cols: int) -> Range:
    base, offset, row, col, code, _ = operand
    item = np.dtype(DTYPES.get(code, code)).itemsize
    return base, offset, offset + (max(rows - 1, 0) * row + max(cols - 1, 0) * col + 1) * item
