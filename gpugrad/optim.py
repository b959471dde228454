"""Optimisers. Their update rules are PyTorch's, step for step. Imports tensor, ops and module."""

import math
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from gpugrad.errors import CheckpointError, DtypeError, GradientError, message
from gpugrad.late import functions, ops
from gpugrad.nn.module import Module
from gpugrad.state import grad_mode, state
from gpugrad.tensor import Tensor, sole_owner

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm"]


class Optimizer:
    """Base: parameters, a learning rate that may be changed between steps, and state.

    ``params`` is an iterable of tensors that require gradients, or a module. A parameter without a
    gradient is left alone. `step` rebinds the parameters: values saved for backward never change.
    """

    # Names of the state arrays; each is shaped like its parameter.
    _slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: Module | Iterable[Tensor], lr: float) -> None:
        listed = params.parameters() if isinstance(params, Module) else params
        self.params = list({id(p): p for p in listed}.values())  # one listed twice is one parameter
        if not self.params:
            raise GradientError(message(self._name, "there is nothing to train", "no parameters"))
        for p in self.params:
            if not isinstance(p, Tensor) or not p.requires_grad or not p.is_leaf:
                hint = "gg.asarray(..., requires_grad=True)"
                rule = "parameters are leaf tensors that require a gradient"
                raise GradientError(message(self._name, rule, repr(p), hint))
        _at_least(self._name, lr=lr)
        self.lr = lr
        self.steps = [0] * len(self.params)  # updates of each, for Adam's bias correction
        self.state = {name: [_zeros(p) for p in self.params] for name in self._slots}

    @property
    def _name(self) -> str:
        return type(self).__name__

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        if state.trace is not None:
            self._traced_step(state.trace)
            return
        with grad_mode(False):
            for i, p in enumerate(self.params):
                g = p.grad
                if g is not None:
                    own = [self.state[name][i] for name in self._slots]
                    self.steps[i] += 1
                    reuse = all(map(sole_owner, (p, *own)))
                    self._apply(p, g, own, self.lr, self.steps[i], reuse)

    def _traced_step(self, trace: Any) -> None:
        """The same in a program: learning rate and counts are read anew at every run."""
        lr = trace.scalar(lambda: self.lr)
        updated = []
        with grad_mode(False):
            for i, p in enumerate(self.params):
                g = p.grad
                if g is not None:
                    own = [self.state[name][i] for name in self._slots]
                    self._apply(p, g, own, lr, self._traced_count(trace, i), False)
                    updated.append(i)
        trace.after(lambda: self._count(updated))

    def _traced_count(self, trace: Any, i: int) -> Any:
        earlier = trace.count((id(self), i))  # a program may make several steps
        return trace.scalar(lambda: self.steps[i] + 1 + earlier)

    def _count(self, updated: list[int]) -> None:
        for i in updated:
            self.steps[i] += 1

    def _apply(
        self, p: Tensor, g: Tensor, state: list[Tensor], lr: Any, t: Any, reuse: bool
    ) -> None:
        new = self._update(p, g, state, lr, t, reuse)
        for handle, value in zip((p, *state), new, strict=True):
            handle._assign(value)

    def _update(
        self, p: Tensor, g: Tensor, state: list[Tensor], lr: Any, t: Any, reuse: bool
    ) -> tuple[Tensor, ...]:
        """New values of ``p`` and its state after its ``t``-th update, with learning rate lr."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """``lr``, ``steps`` of each parameter, each state array as ``<name>.<parameter number>``.

        Values as they are now: later steps do not change them.
        """
        arrays = {name: x.detach() for name, x in self._named_state().items()}
        return {"lr": self.lr, "steps": list(self.steps), **arrays}

    def _named_state(self) -> dict[str, Tensor]:
        return {f"{name}.{i}": x for name, xs in self.state.items() for i, x in enumerate(xs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; on any mismatch raise, and change nothing."""
        own = self._named_state()
        names = own.keys() | {"lr", "steps"}
        if names != state.keys():
            odd = sorted(names ^ state.keys())
            rule = "the state is of another optimiser or model"
            raise CheckpointError(message(self._name, rule, f"differences: {odd}"))
        new = {}
        for key in own:
            value = functions.tensor(state[key], device=own[key].device).detach()
            if value.shape != own[key].shape:
                got = f"{key}: {value.shape}, here {own[key].shape}"
                raise CheckpointError(message(self._name, "the state has other shapes", got))
            new[key] = functions.astype(value, own[key].dtype)
        try:
            lr, steps = float(state["lr"]), [int(n) for n in state["steps"]]
        except (TypeError, ValueError) as error:
            rule = "lr is a number, and steps one count a parameter"
            raise CheckpointError(message(self._name, rule, error)) from error
        if len(steps) != len(self.params):
            got = f"{len(steps)} for {len(self.params)} parameters"
            raise CheckpointError(message(self._name, "one step count a parameter", got))
        for key, value in new.items():
            own[key]._assign(value)
        self.lr, self.steps = lr, steps


class SGD(Optimizer):
    """Stochastic gradient descent.

    ``g ← g + weight_decay·p``; with momentum ``v ← momentum·v + g`` and ``g ← v``, or
    ``g + momentum·v`` with nesterov; then ``p ← p − lr·g``. Sutskever et al. 2013.

    >>> import gpugrad as gg
    >>> w = gg.asarray([1.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> gg.optim.SGD([w], lr=0.25).step()
    >>> w.tolist()
    [0.5]
    """

    def __init__(
        self,
        params: Module | Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        _at_least("SGD", momentum=momentum, weight_decay=weight_decay)
        if nesterov and not momentum:
            raise DtypeError(message("SGD", "nesterov needs a momentum", "momentum=0", "0.9"))
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        if momentum:
            self._slots = ("momentum",)  # type: ignore[misc]
        super().__init__(params, lr)

    def _update(
        self, p: Tensor, g: Tensor, state: list[Tensor], lr: Any, t: Any, reuse: bool
    ) -> Any:
        if not state:
            return ops.sgd(p, g, lr, weight_decay=self.weight_decay, reuse=reuse)
        return ops.sgd_momentum(
            p,
            g,
            *state,
            lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            reuse=reuse,
        )


class Adam(Optimizer):
    """Adam: Kingma and Ba 2015, algorithm 1. ``weight_decay`` adds to the gradient (L2).

    >>> import gpugrad as gg
    >>> w = gg.asarray([1.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> gg.optim.Adam([w], lr=0.5).step()
    >>> round(w.item(), 5)
    0.5
    """

    _slots: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    _decoupled = False

    def __init__(
        self,
        params: Module | Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise DtypeError(message(self._name, "betas are in 0..1, below 1", betas))
        _at_least(self._name, eps=eps, weight_decay=weight_decay)
        self.betas, self.eps, self.weight_decay = tuple(betas), eps, weight_decay
        super().__init__(params, lr)

    def _update(
        self, p: Tensor, g: Tensor, state: list[Tensor], lr: Any, t: Any, reuse: bool
    ) -> Any:
        return ops.adam(
            p,
            g,
            *state,
            lr,
            t,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            decoupled=self._decoupled,
            reuse=reuse,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay, ``p ← p − lr·weight_decay·p``. Loshchilov, Hutter 2019."""

    _decoupled = True

    def __init__(
        self,
        params: Module | Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class RMSprop(Optimizer):
    """``v ← alpha·v + (1 − alpha)·g²``, ``p ← p − lr·g/(√v + eps)``. Hinton, lecture 6e, 2012."""

    _slots: ClassVar[tuple[str, ...]] = ("square_avg",)

    def __init__(
        self,
        params: Module | Iterable[Tensor],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        _at_least("RMSprop", alpha=alpha, eps=eps, weight_decay=weight_decay)
        self.settings = {"alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, lr)

    def _update(
        self, p: Tensor, g: Tensor, state: list[Tensor], lr: Any, t: Any, reuse: bool
    ) -> Any:
        return ops.rmsprop(p, g, *state, lr, **self.settings, reuse=reuse)


class Adagrad(Optimizer):
    """``v ← v + g²``, ``p ← p − lr·g/(√v + eps)``. Duchi et al. 2011."""

    _slots: ClassVar[tuple[str, ...]] = ("sum",)

    def __init__(
        self,
        params: Module | Iterable[Tensor],
        lr: float = 1e-2,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ) -> None:
        _at_least("Adagrad", eps=eps, weight_decay=weight_decay)
        self.settings = {"eps": eps, "weight_decay": weight_decay}
        super().__init__(params, lr)

    def _update(
        self, p: Tensor, g: Tensor, state: list[Tensor], lr: Any, t: Any, reuse: bool
    ) -> Any:
        return ops.adagrad(p, g, *state, lr, **self.settings, reuse=reuse)


def clip_grad_norm(params: Module | Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients so that their joint Euclidean norm is at most ``max_norm``.

    Returns the norm before. Raises `GradientError` when it is not finite, and changes nothing then.
    Pascanu et al. 2013, algorithm 1.
    """
    _at_least("clip_grad_norm", max_norm=max_norm)
    if isinstance(params, Tensor):  # iterating it would give its rows, which have no gradient
        params = [params]
    listed = params.parameters() if isinstance(params, Module) else params
    found = [(p, p.grad) for p in {id(p): p for p in listed}.values() if p.grad is not None]
    if state.trace is not None:
        return _clip_traced(found, max_norm)  # type: ignore[no-any-return]
    total = math.hypot(*[functions.norm(g.astype(np.float64)).item() for _, g in found])
    if not math.isfinite(total):
        raise GradientError(message("clip_grad_norm", "a gradient is not finite", total))
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
        raise GradientError(message("clip_grad_norm", "a gradient is not finite", float(total)))
    return total


_FINITE = SimpleNamespace(
    name="finite", kind="effect", rules=None, forward=_finite, aval=lambda total: total
)


def _zeros(p: Tensor) -> Tensor:
    """Where an average starts; those of half precision are kept in float32."""
    wide = np.float32 if p.dtype == np.float16 else p.dtype
    return functions.zeros_like(p.detach(), dtype=wide)


def _at_least(op: str, **values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise DtypeError(message(op, f"{name} is a number ≥ 0", value))
