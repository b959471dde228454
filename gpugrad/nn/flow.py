"""How strong the gradient is at every layer: where it vanishes, where it explodes. Imports module.

Measured at the layers' outputs as the gradient passes, call by call: a recurrent cell is one layer
with many calls, and its parameters' gradients, summed over them, would not show it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpugrad.errors import DtypeError, TraceError, message
from gpugrad.late import functions
from gpugrad.nn.module import Module
from gpugrad.state import grad_mode, state
from gpugrad.tensor import Tensor
from gpugrad.tree import flatten


@dataclass
class LayerFlow:
    """The gradient at the output of one call of a layer."""

    name: str
    call: int  # how many times the layer was called before
    rms: float = math.nan  # √ of the mean square; NaN as long as no gradient has arrived
    zeros: float = math.nan  # share of values that are exactly 0
    relative: float = math.nan  # rms, by that of the last call a gradient arrived at
    verdict: str = ""  # "", "vanishing", "exploding", "not finite" or "no gradient"


@dataclass
class GradientFlow:
    """What `gradient_flow` saw, in the order of the calls; printing it gives a table."""

    low: float
    high: float
    layers: list[LayerFlow] = field(default_factory=list)

    def problems(self) -> list[LayerFlow]:
        """The calls whose gradient vanishes, explodes, is not finite or does not arrive."""
        return [layer for layer in self.layers if layer.verdict]

    def _judge(self) -> None:
        arrived = [layer for layer in self.layers if not math.isnan(layer.zeros)]
        last = arrived[-1].rms if arrived else math.nan
        for layer in self.layers:
            if math.isnan(layer.zeros):
                layer.verdict = "no gradient"
                continue
            layer.relative = layer.rms / last if last else math.nan
            if not math.isfinite(layer.rms):
                layer.verdict = "not finite"
            elif layer.rms == 0 or layer.relative < self.low:
                layer.verdict = "vanishing"
            elif layer.relative > self.high:
                layer.verdict = "exploding"
            else:
                layer.verdict = ""

    def __str__(self) -> str:
        called = [f"{layer.name}[{layer.call}]" for layer in self.layers]
        width = max([5, *map(len, called)])
        lines = [f"{'layer':{width}} {'gradient':>9} {'relative':>9} {'zeros':>6}"]
        for name, layer in zip(called, self.layers, strict=True):
            numbers = f"{layer.rms:9.2e} {layer.relative:9.2e} {layer.zeros:6.0%}"
            lines.append(f"{name:{width}} {numbers}  {layer.verdict}".rstrip())
        return "\n".join(lines)


@contextmanager
def gradient_flow(model: Module, low: float = 1e-3, high: float = 1e3) -> Iterator[GradientFlow]:
    """Watch forward and backward inside the ``with`` block, layer by layer.

    For each call of a module that holds no others: ``√mean(g²)`` for the gradient g at its output,
    and that relative to the last call's, which the loss reaches first. Below ``low`` of it the
    gradient is said to vanish on its way there, above ``high`` to explode. Glorot and Bengio 2010;
    Pascanu et al. 2013.

    Raises `TraceError` when no layer is called, as in a compiled step: run it uncompiled here.

    >>> import gpugrad as gg
    >>> deep = gg.nn.MLP([8] * 12, "sigmoid", generator=gg.random.Generator(0))
    >>> with gg.nn.gradient_flow(deep) as flow:
    ...     gg.nn.mse(deep(gg.ones((4, 8))), gg.zeros((4, 8))).backward()
    >>> flow.layers[0].verdict, flow.layers[-1].verdict
    ('vanishing', '')
    """
    if not 0 < low < 1 < high:
        raise DtypeError(message("gradient_flow", "low is in 0..1, high above 1", (low, high)))
    flow = GradientFlow(low, high)
    found = {id(m): (name, m) for name, m in reversed([("model", model), *model._walk()])}
    whole = [(name, m) for name, m in found.values() if isinstance(m, Module)]
    watched = [(name, m) for name, m in whole if not any(True for _ in _below(m))][::-1]
    for name, module in watched:
        vars(module)["forward"] = _watching(flow, name, module.forward)
    try:
        yield flow
    finally:
        for _, module in watched:
            del vars(module)["forward"]
    if not flow.layers:
        rule = "no layer of the model was called on the tape"
        raise TraceError(message("gradient_flow", rule, hint="the step uncompiled, in the block"))
    flow._judge()


def _below(module: Module) -> Iterator[Module]:
    return (value for _, value in module._walk() if isinstance(value, Module))


def _watching(flow: GradientFlow, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    calls = 0

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        y = forward(*args, **kwargs)
        if state.trace is not None:
            return y
        for part in flatten(y)[0]:
            if type(part) is Tensor and part._node is not None:
                layer = LayerFlow(name, calls)
                flow.layers.append(layer)
                part.register_hook(lambda g, layer=layer: _note(layer, g))  # type: ignore[misc]
        calls += 1
        return y

    return watched


def _note(layer: LayerFlow, g: Tensor) -> None:
    with grad_mode(False):
        wide = g.detach().astype(np.float64)  # the squares of small values leave float32
        layer.rms = math.sqrt(functions.mean(wide * wide).item()) if g.size else 0.0
        layer.zeros = functions.mean((wide == 0).astype(np.float64)).item() if g.size else 1.0
