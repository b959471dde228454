"""What a CUDA program launches: its instructions, several of them in one launch, on two streams.

Instructions are what kernels/cpu/program.h says. Imports gemm for what it takes, layers, operands.
"""

from collections.abc import Callable, Sequence
from typing import Any

from gpugrad.backend.kernels import gemm
from gpugrad.backend.layers import with_layers
from gpugrad.backend.operands import (
    conflict,
    conflict_of,
    dense,
    meet,
    place_in,
    range_of,
    read_once,
    touched,
)

Join = Callable[[Any, Any], Any]


def stepped(instructions: Sequence[Any], fuse_products: bool) -> list[Any]:
    """The instructions; several that are one launch are a "product", "layers" or a "group"."""
    return grouped(fused(instructions) if fuse_products else instructions)


def fused(instructions: Sequence[Any]) -> list[Any]:
    """The instructions, where products with what follows on them are a "product" or "layers"."""
    return with_layers(with_chains(instructions))


def parts_of(step: Any) -> list[Any]:
    """The instructions that a step is made of, in order."""
    kind, *rest = step
    if kind in ("layers", "group"):
        return [part for one in rest[0] for part in parts_of(one)]
    if kind in ("product", "epilogue"):
        return list(rest[:2])
    return [rest[0]] if kind == "algorithm" else [step]


def _joined(steps: Sequence[Any], join: Join) -> list[Any]:
    """The steps, where ``join`` makes one of an earlier and a later one, if it does not give None.

    The later one moves up to the earlier, over what it has nothing to do with.
    """
    order: list[Any] = []
    for step in steps:
        for i in reversed(range(len(order))):
            both = join(order[i], step)
            if both is not None:
                order[i] = both
                break
            if conflict(order[i], step):
                order.append(step)
                break
        else:
            order.append(step)
    return order


# Products with a chain behind them


def with_chains(instructions: Sequence[Any]) -> list[Any]:
    """The instructions, where a product and the chain that follows on it are ("product", …)."""

    def join(earlier: Any, later: Any) -> Any:
        return ("product", earlier, later) if _follows(earlier, later) else None

    return _joined(instructions, join)


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
        return bool(o[:2] == c[:2] and o[4] == "f4" and dense(o, m, n))

    places = [*operands, *[to for _, to in stores]]
    over = [meet([range_of(o, rows, cols)], [range_of(c, m, n)]) for o in places]
    if list(map(own, places)) != over or sum(over[: len(operands)]) != 1 or c[2] != n:
        return False
    reads, _ = touched(product)
    _, writes = touched(chain)
    return not meet(writes, reads)


# What cuBLASLt does beside a product


def bias_of(gemm_: Any, chain: Any) -> tuple[Any, Any] | None:
    """Bias and place of the result, where a product's chain adds a vector to each row, no more."""
    _, _, _, _, m, n, _, _, _, _, _, _, c, _ = gemm_
    _, _, _, _, operands, _, lines, stores, reductions, _ = chain
    if len(operands) != 2 or len(lines) != 1 or len(stores) != 1 or reductions:
        return None
    bias, ((_, out),) = operands[1 - place_in(operands, c)], stores
    (op, *values), kept = lines[0], out[:2] == c[:2] or read_once(c)
    vector = bias[2] == 0 and (bias[3] == 1 or n == 1) and bias[4] == out[4] == "f4"
    if op != "add" or sorted(values[:2]) != [0, 1] or not (kept and vector and dense(out, m, n)):
        return None
    return bias, out


def with_sums(steps: Sequence[Any]) -> list[Any]:
    """The steps, where aᵀ @ b and sums over the rows of a are one ("epilogue", …, "sums").

    So are the gradients of a layer's weights and bias.
    """

    def join(earlier: Any, later: Any) -> Any:
        for product, chain in ((earlier, later), (later, earlier)):
            one = product[1] if product[0] == "algorithm" else product
            if one[0] == "gemm" and chain[0] == "chain" and _sums_of(one, chain):
                return ("epilogue", one, chain, "sums")
        return None

    return _joined(steps, join)


def _sums_of(gemm_: Any, chain: Any) -> bool:
    """Whether all that ``chain`` does is to sum the rows of ``gemm_``'s a, which lies turned."""
    _, dtype, ta, _, m, _, k, _, _, a, _, _, _, _ = gemm_
    _, chain_dtype, rows, cols, operands, _, _, stores, reductions, _ = chain
    if not ta or stores or len(operands) != 1 or operands[0][:5] != a[:5] or len(reductions) != 1:
        return False
    kind, axis, value, to, scale, add = reductions[0]
    plain = (kind, axis, value, scale, add) == ("sum", "rows", 0, 1, False)
    same = dtype == chain_dtype == to[4] == "f4" and (rows, cols) == (k, m)
    return bool(plain and same and (to[3] == 1 or m == 1) and not conflict(gemm_, chain))


# Two streams


def branches(steps: Sequence[Any]) -> list[tuple[int, list[int]]]:
    """For each step its stream, 0 or 1, and the step of the other stream it waits for, if any.

    Matrix products off the longest path go to the second stream: the gradients of the weights,
    while the first goes on to the layer below. So does every other one of several that could begin
    together.
    """
    all_touched = [touched(step) for step in steps]
    needs = [
        [j for j in range(i) if conflict_of(all_touched[j], now)]
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
        if step[0] in ("gemm", "algorithm", "product", "epilogue"):
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
        if any(conflict(one, chain) for one in group):
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
