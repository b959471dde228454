"""Optimiser updates: several tensors in, their new values out, no derivative. Imports op and aval.

``reuse`` lets the new values take the place of the old ones in memory. On a CPU the arrays are
passed through in blocks that stay in cache, so the ten steps of an update cost fewer trips to
memory. Learning rate, momentum and the like are inputs, never parameters: a compiled step must
see them change.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gpugrad.aval import Aval
from gpugrad.errors import GradientError, message
from gpugrad.op import Op

# Values a block. Of 4k to 4M, Adam on 4M float32 values took 7.5 ms with this, 9.1 ms unblocked.
_BLOCK = 1 << 17

# step(xp, p, g, *state, *scalars, **settings) writes p and state
Step = Callable[..., None]


def _update(name: str, states: int, step: Step) -> Op:
    """Declare ``(p, *states)`` after one ``step`` on gradient ``g``."""

    def forward(xp: Any, p: Any, g: Any, *rest: Any, reuse: bool, **settings: Any) -> Any:
        scalars = rest[states:]
        written = [p, *rest[:states]]
        if not reuse:
            written = [xp.array(a, order="C") for a in written]
        gradient = xp.ascontiguousarray(g)
        if gradient.dtype.char == "e":  # g² underflows, and so does 1e-8
            gradient = gradient.astype(np.float32)
        if p.ndim and (xp is not np or p.size <= _BLOCK):
            step(xp, written[0], gradient, *written[1:], *scalars, **settings)
            return tuple(written)
        flat = [a.reshape(-1) for a in (written[0], gradient, *written[1:])]
        for start in range(0, p.size, _BLOCK):
            step(xp, *[a[start : start + _BLOCK] for a in flat], *scalars, **settings)
        return tuple(written)

    def aval(p: Aval, g: Aval, *rest: Aval, **settings: Any) -> Any:
        return (p, *rest[:states])

    def pointwise(xp: Any, p: Any, g: Any, *rest: Any, reuse: bool, **settings: Any) -> Any:
        step(xp, p, g, *rest, **settings)
        return (p, *rest[:states])

    op = Op(name, forward, aval)
    op.pointwise = pointwise
    return op


def _sgd(xp: Any, p: Any, g: Any, lr: Any, *, weight_decay: float) -> None:
    if weight_decay:
        g = g + weight_decay * p
    p -= lr * g


def _momentum(
    xp: Any,
    p: Any,
    g: Any,
    v: Any,
    lr: Any,
    momentum: Any,
    *,
    nesterov: bool,
    weight_decay: float,
) -> None:
    if weight_decay:
        g = g + weight_decay * p
    v *= momentum
    v += g
    p -= lr * (g + momentum * v) if nesterov else lr * v


def _adam(
    xp: Any,
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    lr: Any,
    t: Any,
    beta1: Any,
    beta2: Any,
    eps: Any,
    *,
    weight_decay: float,
    decoupled: bool,
) -> None:
    if weight_decay:
        if decoupled:
            p *= 1 - lr * weight_decay
        else:
            g = g + weight_decay * p
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    s = g * g
    s *= 1 - beta2
    v += s
    xp.sqrt(v, out=s)
    s /= (1 - beta2**t) ** 0.5
    s += eps
    xp.divide(m, s, out=s)
    s *= lr / (1 - beta1**t)
    p -= s


def _rmsprop(
    xp: Any, p: Any, g: Any, v: Any, lr: Any, *, alpha: float, eps: float, weight_decay: float
) -> None:
    if weight_decay:
        g = g + weight_decay * p
    v *= alpha
    v += (1 - alpha) * g * g
    p -= lr * g / (xp.sqrt(v) + eps)


def _adagrad(xp: Any, p: Any, g: Any, v: Any, lr: Any, *, eps: float, weight_decay: float) -> None:
    if weight_decay:
        g = g + weight_decay * p
    v += g * g
    p -= lr * g / (xp.sqrt(v) + eps)


sgd = _update("sgd", 0, _sgd)
momentum = _update("sgd_momentum", 1, _momentum)
adam = _update("adam", 2, _adam)
rmsprop = _update("rmsprop", 1, _rmsprop)
adagrad = _update("adagrad", 1, _adagrad)


def norm_error(total: float) -> GradientError:
    """The error for gradients whose joint norm is ``total``."""
    return GradientError(message("clip_grad_norm", "a gradient is not finite", total))
