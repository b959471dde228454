"""Gradients scaled down before a step. Imports tensor, ops and module."""

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpugrad.late import functions
from gpugrad.nn.module import Module
from gpugrad.ops.update import norm_error
from gpugrad.optim.base import at_least
from gpugrad.state import grad_mode, state
from gpugrad.tensor import Tensor


def clip_grad_norm(params: Module | Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients so that their joint Euclidean norm is at most ``max_norm``.

    Returns the norm before. Raises `GradientError` when it is not finite, and changes nothing then;
    in a step compiled for a GPU a later call or read raises, when the step has been made.
    Pascanu et al. 2013, algorithm 1.
    """
    at_least("clip_grad_norm", max_norm=max_norm)
    if isinstance(params, Tensor):  # iterating it would give its rows, which have no gradient
        params = [params]
    listed = params.parameters() if isinstance(params, Module) else params
    found = [(p, p.grad) for p in {id(p): p for p in listed}.values() if p.grad is not None]
    if state.trace is not None:
        return _clip_traced(found, max_norm)  # type: ignore[no-any-return]
    total = math.hypot(*[functions.norm(g.astype(np.float64)).item() for _, g in found])
    if not math.isfinite(total):
        raise norm_error(total)
    if total > max_norm:
        with grad_mode(False):
            for p, g in found:
                p.grad = g * (float(max_norm) / (total + 1e-6))
    return total


def _clip_traced(found: list[tuple[Tensor, Tensor]], max_norm: float) -> Any:
    """The same in a step that is being traced: the norm is a tensor, looked at in every run."""
    with grad_mode(False):
        squares = [functions.sum(functions.square(g.astype(np.float64))) for _, g in found]
        total = functions.sqrt(functions.sum(functions.stack(squares)))
        total = state.trace.record(_FINITE, (total,), {})
        factor = functions.minimum(1.0, float(max_norm) / (total + 1e-6))
        # As eager code does: below the limit a gradient keeps its bits.
        factor = functions.where(total > max_norm, factor, 1.0)
        for p, g in found:
            p.grad = g * factor.astype(g.dtype)
    return total


def _finite(xp: Any, total: Any) -> Any:
    if not xp.isfinite(total):
        raise norm_error(float(total))
    return total


_FINITE = SimpleNamespace(
    name="finite", kind="effect", rules=None, forward=_finite, aval=lambda total: total
)
