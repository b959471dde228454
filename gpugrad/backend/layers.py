"""Products of narrow matrices, each of what the one before gave, that are one launch of mlp.cuh.

Imports mlp for what it takes, operands.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from gpugrad.backend.kernels import mlp
from gpugrad.backend.operands import Range, conflict, dense, meet, place_in, range_of, read_once


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
    even = [dense(a, m, k), dense(b, *((n, k) if tb else (k, n))), dense(out, m, n)]
    if not all(even) or more[4] != "f4" or not (columns or dense(more, m, n)):
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
            if conflict(order[i], step):
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
    reads = [range_of(layers[0].x, new.rows, layers[0].inputs)]
    reads += [r for layer in (*layers, new) for r in _beside(layer)]
    writes = [r for layer in layers for r in _given(layer, not read_once(layer.out))]
    values = [r for layer in layers for r in _given(layer)]
    return not (meet(_given(new), reads + writes) or meet(values, _beside(new)))


def _beside(layer: Layer) -> list[Range]:
    """What a layer reads beside x, but for what it overwrites place by place."""
    w = layer.w, *((layer.outputs, layer.inputs) if layer.turned else (layer.inputs, layer.outputs))
    more = (layer.more, 1 if layer.columns else layer.rows, layer.outputs)
    return [range_of(*part) for part in (w, more) if part[0][:2] != layer.out[:2]]


def _given(layer: Layer, kept: bool = True) -> list[Range]:
    """What comes out of a layer, its values only where they are ``kept``."""
    values = [range_of(layer.out, layer.rows, layer.outputs)] if kept else []
    return values if layer.total is None else [*values, range_of(layer.total, 1, layer.outputs)]
