"""Softmax cross-entropy with its gradient: equations that are one pass over the logits.

Imports draft, nodes and program.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpugrad.compiler.draft import HALF
from gpugrad.compiler.nodes import CrossEntropy
from gpugrad.compiler.program import Program, uniform
from gpugrad.compiler.trace import Eqn, Traced
from gpugrad.compiler.views import View


class Loss:
    """The equations around one `cross_entropy`, found by what they read."""

    def __init__(self, loss: Eqn) -> None:
        self.loss: Eqn | None = loss
        self.softmax: Eqn | None = None
        self.one_hot: Eqn | None = None
        self.residual: Eqn | None = None
        self.scaled: Eqn | None = None
        self.scale = 1.0
        self.share = False  # the softmax is read by others too

    @property
    def eqns(self) -> list[Eqn]:
        if self.residual is None:
            return [self.loss] if self.loss is not None else []
        found = (self.loss, self.one_hot, self.softmax, self.residual, self.scaled)
        return [eqn for eqn in found if eqn is not None]

    def lower(self, into: Any, eqn: Eqn) -> None:
        if eqn is not self.loss:
            return  # done with the first
        z, t = eqn.inputs
        logits = into._matrix(into.at(into.single(z)))
        if logits.strides[1] != 1:
            logits = into.dense(logits)
        node = CrossEntropy(logits, into.at(t))
        made: list[tuple[Traced, Traced]] = []

        def place(eqn: Eqn) -> View:
            (y,) = eqn.outputs
            made.append((single(y), y))
            view: View = into.new(made[-1][0])
            return view

        node.loss = place(eqn)
        last = self.scaled or self.residual
        if last is not None and self.residual is not None:
            node.residual = place(last)
            node.scale = self.scale
            if self.share and self.softmax is not None:
                node.probability = place(self.softmax)
        into.add(node)
        for result, y in made:
            into.cast(result, y)


def losses(program: Program, floats: Sequence[Any]) -> dict[Eqn, Loss]:
    readers: dict[Traced, list[Eqn]] = {}
    for eqn in program.eqns:
        for x in eqn.inputs:
            if type(x) is Traced:
                readers.setdefault(x, []).append(eqn)
    seen = set(program.results)
    found: dict[Eqn, Loss] = {}
    for eqn in program.eqns:
        if eqn.op.name != "cross_entropy" or eqn.inputs[0].dtype not in floats:
            continue
        z, t = eqn.inputs
        if type(t) is not Traced or t.dtype.kind not in "iu":
            continue
        loss = Loss(eqn)
        for softmax in readers[z]:
            if softmax.op.name != "softmax" or softmax.params["axis"] != 1:
                continue
            for one_hot in readers[t]:
                if one_hot.op.name != "one_hot" or one_hot.params["classes"] != z.shape[1]:
                    continue
                p, o = softmax.outputs[0], one_hot.outputs[0]
                both = [e for e in readers[p] if e.op.name == "subtract" and e.inputs == (p, o)]
                if len(both) == 1 and readers[o] == both and o not in seen:
                    loss.softmax, loss.one_hot, loss.residual = softmax, one_hot, both[0]
                    loss.share = p in seen or readers[p] != both
        if loss.residual is not None:
            _scaled(program, loss, readers, seen)
        found.update(dict.fromkeys(loss.eqns, loss))
    return found


def _scaled(program: Program, loss: Loss, readers: dict[Traced, list[Eqn]], seen: set[Any]) -> None:
    """A product with one constant rides on the pass."""
    assert loss.residual is not None
    (r,) = loss.residual.outputs
    uses = readers.get(r, [])
    if r in seen or len(uses) != 1 or uses[0].op.name != "multiply":
        return
    for x in uses[0].inputs:
        if type(x) is Traced and x in program.constants:
            value = uniform(program.constants[x])
            if value is not None and uses[0].outputs[0].shape == r.shape:
                loss.scaled, loss.scale = uses[0], float(value)


def single(x: Traced) -> Traced:
    """What stands for ``x`` in a kernel that does not know half precision."""
    return Traced(x.shape, np.dtype(np.float32), x.device) if x.dtype == HALF else x
