"""Derivatives along the drawn graph, all by the ops' own rules on the tape. Imports tape.

A picture wants the cotangent of every value on the way, which a backward pass forgets; so the pass
is walked here one op at a time, each through `tape.gradients` on a stand-in of its node.
"""

from collections.abc import Mapping, Sequence

from gpugrad.errors import GradientError, message
from gpugrad.late import functions
from gpugrad.node import PART, Node, leaf
from gpugrad.state import grad_mode
from gpugrad.tape import gradients
from gpugrad.tensor import Tensor

Operands = Mapping[Node, Sequence[Node | None]]


def pull(node: Node, g: Tensor) -> list[Tensor | None]:
    """The cotangents that ``g`` sends to each operand of ``node``.

    An operand that occurs twice gets two. The node itself, its sink and its graph stay untouched.
    """
    holder = node.parents[0] if node.op is PART else node
    assert holder is not None
    ends = tuple([None if p is None else leaf(p.shape, p.dtype) for p in holder.parents])
    alike = Node(holder.op, holder.params, ends, holder.saved, holder.shape, holder.dtype)
    if node.op is PART:
        alike = Node(PART, node.params, (alike,), (), node.shape, node.dtype)
    found = iter(gradients([(alike, g)], [end for end in ends if end is not None], True))
    return [None if end is None else next(found) for end in ends]


def push(node: Node, place: int, tangent: Tensor) -> Tensor:
    """The tangent of ``node`` when its operand at ``place`` moves by ``tangent``.

    A vjp is linear in its cotangent, so the derivative of ``⟨vjp(g), tangent⟩`` in ``g`` is the jvp
    (Townsend 2017, "A new trick for calculating Jacobian vector products"). It needs what the tape
    kept and nothing else. Raises `GradientError` for a rule that leaves the tape.
    """
    at = leaf(node.shape, node.dtype)
    ones = functions.ones(node.shape, dtype=node.dtype, device=tangent.device)
    with grad_mode(True):
        c = pull(node, Tensor(ones._data, at))[place]
    if c is None:
        return functions.zeros_like(ones)
    if c._node is None:
        holder = node.parents[0] if node.op is PART else node
        name = "" if holder is None else holder.op.name
        rule = f"the backward of {name} leaves the tape, so forward mode cannot pass it"
        raise GradientError(message("draw", rule, hint='mode="reverse"'))
    (found,) = gradients([(c._node, tangent)], [at])
    return functions.zeros_like(ones) if found is None else found.detach()


def reverse(nodes: Sequence[Node], operands: Operands, root: Node, g: Tensor) -> dict[Node, Tensor]:
    """d root/d node for each of ``nodes`` (oldest first) that ``root`` depends on."""
    found = {root: g}
    for node in reversed(nodes):
        if node in found and any(p is not None for p in operands[node]):
            for parent, c in zip(operands[node], pull(node, found[node]), strict=True):
                if parent is not None and c is not None:
                    found[parent] = found[parent] + c if parent in found else c
    return found


def forward(
    nodes: Sequence[Node], operands: Operands, start: Node, v: Tensor
) -> dict[Node, Tensor]:
    """d node/d start along ``v`` for each of ``nodes`` (oldest first) that depends on ``start``."""
    found = {start: v}
    for node in nodes:
        for place, parent in enumerate(operands[node]):
            if parent is not None and parent in found and node is not start:
                t = push(node, place, found[parent])
                found[node] = found[node] + t if node in found else t
    return found
