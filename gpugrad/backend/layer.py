"""A product of narrow matrices and the code on what it gives, as mlp.cuh takes a layer.

Imports mlp for what it takes, operands.
"""

from typing import Any, NamedTuple

from gpugrad.backend.kernels import mlp
from gpugrad.backend.operands import dense, meet, range_of, read_once

Value = tuple[str, float]  # "product", or the number of a "more" or a "line", or a "constant"
_PRODUCT: Value = ("product", 0)


class Layer(NamedTuple):
    """A product and a code on what it gives, as mlp.cuh takes them."""

    dtype: str
    rows: int
    inputs: int
    outputs: int
    turned: bool | None  # w lies as (outputs, inputs); None: either way, it is a vector
    x: Any
    w: Any
    more: tuple[Any, ...]  # other operands of the code
    lines: tuple[tuple[Any, ...], ...]  # opcode and values
    outs: tuple[tuple[Value, Any], ...]  # what is kept of it where; the first goes on
    total: Any  # sums of that over rows, or None

    def columns(self, operand: Any) -> bool:
        """Whether it has a value a column."""
        return not operand[2] and (operand[3] == 1 or self.outputs == 1)

    def function(self, below: int | None = None) -> mlp.Function:
        """The code; ``more`` number ``below``, if any, is what the weights' gradient takes."""
        constants = list(
            dict.fromkeys(v for _, *vs in self.lines for v in vs if v[0] == "constant")
        )
        first = 1 + len(self.more)
        number = {_PRODUCT: 0} | {c: first + i for i, c in enumerate(constants)}
        number |= {("more", i): 1 + i for i in range(len(self.more))}
        first += len(constants)
        number |= {("line", i): first + i for i in range(len(self.lines))}
        lines = [(op, *[number[v] for v in values], -1, -1)[:4] for op, *values in self.lines]
        how = [mlp.COLUMNS if self.columns(o) else mlp.MATRIX for o in self.more]
        if below is not None:
            how[below] = mlp.BELOW
        return mlp.Function(
            tuple((o[4], h) for o, h in zip(self.more, how, strict=True)),
            tuple(c for _, c in constants),
            tuple(lines),
            tuple((number[value], to[4]) for value, to in self.outs),
        )

    def going_on(self, place: Any) -> "Layer | None":
        """The same, where what is kept at ``place`` goes on."""
        for value, to in self.outs:
            if to[:2] == place[:2] and to[4] == self.dtype:
                if self.total is not None and value != self.outs[0][0]:
                    return None
                rest = [out for out in self.outs if out[1] is not to]
                return self._replace(outs=((value, to), *rest))
        return None


def layer_of(step: Any) -> Layer | None:
    """What mlp.cuh takes of a step, or None where that is not all it does."""
    if step[0] == "product":
        layer = _of_product(step[1])
        return None if layer is None else followed(layer, step[2])
    return _of_product(step) if step[0] == "gemm" and step[1] in ("f4", "f2") else None


def _of_product(gemm: Any) -> Layer | None:
    _, dtype, ta, tb, m, n, k, alpha, scale, a, b, beta, c, _ = gemm
    plain = not ta and alpha == 1 and scale is None and beta == 0
    if not plain or not 1 <= min(k, n) <= max(k, n) <= mlp.MOST:
        return None
    if not (dense(a, m, k) and dense(b, *((n, k) if tb else (k, n))) and dense(c, m, n)):
        return None
    turned = tb if min(k, n) > 1 else None
    layer = Layer(dtype, m, k, n, turned, a, b, (), (), ((_PRODUCT, c),), None)
    return layer if dtype == "f4" else _rounded(layer)


def _rounded(layer: Layer) -> Layer:
    """The layer, the last of what it keeps being rounded to its place's type."""
    *rest, (value, to) = layer.outs
    if to[4] != "f2" or (value[0] == "line" and layer.lines[int(value[1])][0] == "half"):
        return layer
    lines = (*layer.lines, ("half", value))
    return layer._replace(lines=lines, outs=(*rest, (("line", len(layer.lines)), to)))


def followed(layer: Layer, chain: Any) -> Layer | None:
    """The layer with a chain behind it, if that reads what the layer gives place by place."""
    _, dtype, rows, cols, operands, constants, lines, stores, reductions, _ = chain
    if dtype != "f4" or (rows, cols) != (layer.rows, layer.outputs):
        return None
    types = ("b1", "f4", layer.dtype)
    outs = {(*to[:2], to[4]): value for value, to in layer.outs if to[4] != "b1"}
    values: list[Value] = []
    more = list(layer.more)
    for o in operands:
        if o[4] not in types or not (dense(o, rows, cols) or layer.columns(o)):
            return None
        own = outs.get((*o[:2], o[4])) if dense(o, rows, cols) else None
        if own is None:
            if any(_meet_at(o, to, layer) for _, to in layer.outs):
                return None
            if o not in more:
                more.append(o)
            own = ("more", more.index(o))
        values.append(own)
    if all(value[0] == "more" for value in values) or len(more) > mlp.MOST_MORE:
        return None
    code = list(layer.lines)
    values += [("constant", c) for c in constants]
    for op, *arguments in lines:
        code.append((op, *[values[a] for a in arguments if a >= 0]))
        values.append(("line", len(code) - 1))
    read = [o[:2] for o in operands]
    kept = [out for out in layer.outs if not (read_once(out[1]) and out[1][:2] in read)]
    layer = layer._replace(more=tuple(more), lines=tuple(code), outs=tuple(kept))
    for value, to in stores:
        if to[4] not in types or not dense(to, rows, cols):
            return None
        places = [*[place for _, place in layer.outs], *[o for o in more if not layer.columns(o)]]
        over = [place for place in places if _meet_at(place, to, layer)]
        over += [o for o in more if layer.columns(o) and _meet_at(o, to, layer)]
        if any(place[:2] != to[:2] or place[4] != to[4] for place in over):
            return None
        rest = [out for out in layer.outs if out[1][:2] != to[:2]]
        layer = _rounded(layer._replace(outs=(*rest, (values[value], to))))
    if not 1 <= len(layer.outs) <= mlp.MOST_OUTS:
        return None
    for kind, axis, of, to, scale, add in reductions:
        plain = (kind, axis, scale, add) == ("sum", "rows", 1, False)
        head = [out for out in layer.outs if out[0] == values[of] and out[1][4] == layer.dtype]
        if not (plain and head) or layer.total is not None:
            return None
        if to[4] != layer.dtype or not (to[3] == 1 or cols == 1):
            return None
        rest = [out for out in layer.outs if out is not head[0]]
        layer = layer._replace(outs=(head[0], *rest), total=to)
    return layer


def _meet_at(a: Any, b: Any, layer: Layer) -> bool:
    return meet(*[[range_of(o, layer.rows, layer.outputs)] for o in (a, b)])
