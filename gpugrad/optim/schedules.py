"""Learning-rate schedules with PyTorch's names and values. Imports base.

Each is a function of how many steps were made, so resuming takes one number; `lr` stays live inside
a compiled step.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from gpugrad.errors import CheckpointError, DtypeError, ShapeError, message
from gpugrad.optim.base import Optimizer, at_least


class Schedule:
    """Base: sets the optimiser's ``lr`` to ``lr_at(0)`` when made, to ``lr_at(n)`` by n steps.

    Schedules of one optimiser start from the same rate: the one it had when the first was made.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            rule = "a schedule belongs to an optimiser"
            raise DtypeError(message(self._name, rule, type(optimizer).__name__))
        if optimizer.initial_lr is None:
            optimizer.initial_lr = optimizer.lr
        self.optimizer = optimizer
        self.last_epoch = 0  # steps made, PyTorch's name
        self._set()

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def base_lr(self) -> float:
        """Where all schedules of this optimiser start from."""
        assert self.optimizer.initial_lr is not None
        return self.optimizer.initial_lr

    @base_lr.setter
    def base_lr(self, value: float) -> None:
        self.optimizer.initial_lr = float(value)

    def lr_at(self, n: int) -> float:
        """The rate after ``n`` steps; asking changes nothing."""
        raise NotImplementedError

    def _set(self) -> None:
        self.optimizer.lr = self.lr_at(self.last_epoch)

    def step(self) -> None:
        """Go on by one: after each epoch, or each batch, whatever the schedule was made for."""
        self.last_epoch += 1
        self._set()

    def get_last_lr(self) -> list[float]:
        """The optimiser's rate now, in a list, as PyTorch has one for each group."""
        return [self.optimizer.lr]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; the settings are those the schedule is made with."""
        return {name: getattr(self, name) for name in self._kept()}

    def _kept(self) -> tuple[str, ...]:
        return ("base_lr", "last_epoch")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, and set the rate that belongs to it."""
        names = self._kept()
        if set(names) != state.keys():
            odd = sorted(set(names) ^ state.keys())
            rule = "the state is of another schedule"
            raise CheckpointError(message(self._name, rule, f"differences: {odd}"))
        for name in names:
            setattr(self, name, state[name])
        self._set()


class LambdaLR(Schedule):
    """``lr = base · factor(n)`` for any function of the number of steps.

    >>> import gpugrad as gg
    >>> optimizer = gg.optim.SGD([gg.asarray([1.0], requires_grad=True)], lr=1.0)
    >>> schedule = gg.optim.LambdaLR(optimizer, lambda n: 1 / (1 + n))
    >>> schedule.step()
    >>> optimizer.lr
    0.5
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]) -> None:
        self.lr_lambda = lr_lambda
        super().__init__(optimizer)

    def lr_at(self, n: int) -> float:
        return self.base_lr * self.lr_lambda(n)


class StepLR(Schedule):
    """``lr = base · gamma^⌊n / step_size⌋``.

    >>> import gpugrad as gg
    >>> optimizer = gg.optim.SGD([gg.asarray([1.0], requires_grad=True)], lr=1.0)
    >>> schedule = gg.optim.StepLR(optimizer, step_size=2, gamma=0.5)
    >>> [schedule.lr_at(n) for n in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        _whole("StepLR", 1, step_size=step_size)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def lr_at(self, n: int) -> float:
        return float(self.base_lr * self.gamma ** (n // self.step_size))


class ExponentialLR(Schedule):
    """``lr = base · gammaⁿ``.

    >>> import gpugrad as gg
    >>> optimizer = gg.optim.SGD([gg.asarray([1.0], requires_grad=True)], lr=1.0)
    >>> [gg.optim.ExponentialLR(optimizer, gamma=0.5).lr_at(n) for n in range(3)]
    [1.0, 0.5, 0.25]
    """

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        at_least("ExponentialLR", gamma=gamma)
        self.gamma = gamma
        super().__init__(optimizer)

    def lr_at(self, n: int) -> float:
        return float(self.base_lr * self.gamma**n)


class LinearLR(Schedule):
    """``lr = base · factor``, which goes from one factor to another in ``total_iters``: a warm-up.

    >>> import gpugrad as gg
    >>> optimizer = gg.optim.SGD([gg.asarray([1.0], requires_grad=True)], lr=1.0)
    >>> schedule = gg.optim.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> [schedule.lr_at(n) for n in range(4)]
    [0.5, 0.75, 1.0, 1.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        if not (0 < start_factor <= 1 and 0 <= end_factor <= 1):
            got = (start_factor, end_factor)
            raise DtypeError(message("LinearLR", "factors are in 0..1, the first above 0", got))
        _whole("LinearLR", 1, total_iters=total_iters)
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = total_iters
        super().__init__(optimizer)

    def lr_at(self, n: int) -> float:
        done = min(n, self.total_iters) / self.total_iters
        return self.base_lr * (self.start_factor + (self.end_factor - self.start_factor) * done)


class CosineAnnealingLR(Schedule):
    """``lr = eta_min + ½ (base − eta_min) (1 + cos(πn / T_max))``. Loshchilov, Hutter 2017, eq. 5.

    Beyond ``T_max`` it rises again, as PyTorch's.

    >>> import gpugrad as gg
    >>> optimizer = gg.optim.SGD([gg.asarray([1.0], requires_grad=True)], lr=1.0)
    >>> schedule = gg.optim.CosineAnnealingLR(optimizer, T_max=2)
    >>> [round(schedule.lr_at(n), 3) for n in range(3)]
    [1.0, 0.5, 0.0]
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        _whole("CosineAnnealingLR", 1, T_max=T_max)
        at_least("CosineAnnealingLR", eta_min=eta_min)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def lr_at(self, n: int) -> float:
        return _cosine(self.base_lr, self.eta_min, n / self.T_max)


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


def _linear(start: float, end: float, part: float) -> float:
    return start + (end - start) * part


class OneCycleLR(Schedule):
    """Up to ``max_lr`` and down again in ``total_steps``, while momentum goes down and up.

    From ``max_lr / div_factor`` to ``max_lr`` in the first ``pct_start`` of the steps, then to
    ``1 / final_div_factor`` of the start; ``three_phase`` comes back to the start in between.
    Momentum is that of SGD, or the first beta of Adam. One step for each batch; more than
    ``total_steps`` raise `ShapeError`. Smith, Topin 2018.

    >>> import gpugrad as gg
    >>> optimizer = gg.optim.Adam([gg.asarray([1.0], requires_grad=True)])
    >>> schedule = gg.optim.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    >>> [round(schedule.lr_at(n), 2) for n in (0, 2, 6, 9)]
    [0.04, 1.0, 0.39, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                hint = "total_steps, or epochs and steps_per_epoch"
                raise ShapeError(message("OneCycleLR", "a cycle has a length", hint=hint))
            total_steps = epochs * steps_per_epoch
        _whole("OneCycleLR", 1, total_steps=total_steps)
        if not 0 <= pct_start <= 1:
            raise DtypeError(message("OneCycleLR", "pct_start is in 0..1", pct_start))
        if anneal_strategy not in _ANNEAL:
            hint = " or ".join(map(repr, _ANNEAL))
            rule = "unknown anneal_strategy"
            raise DtypeError(message("OneCycleLR", rule, repr(anneal_strategy), hint))
        self.total_steps = total_steps
        self._anneal = _ANNEAL[anneal_strategy]
        start = max_lr / div_factor
        rates = [start, max_lr, start / final_div_factor]
        momenta = [max_momentum, base_momentum, max_momentum]
        turns = [0.0, pct_start * total_steps - 1, total_steps - 1.0]
        if three_phase:
            rates.insert(2, start)
            momenta.append(max_momentum)
            turns.insert(2, 2 * pct_start * total_steps - 2)
        self._turns = turns
        self._rates, self._momenta = rates, momenta if cycle_momentum else None
        if cycle_momentum and not {"momentum", "beta1"} & set(optimizer._numbers):
            rule = "the optimiser has no momentum to cycle"
            hint = "cycle_momentum=False, or SGD(momentum=0.9)"
            raise DtypeError(message("OneCycleLR", rule, type(optimizer).__name__, hint))
        super().__init__(optimizer)

    def lr_at(self, n: int) -> float:
        return self._between(self._rates, n)

    def momentum_at(self, n: int) -> float | None:
        """The momentum after ``n`` steps; None when it is not cycled."""
        return None if self._momenta is None else self._between(self._momenta, n)

    def _between(self, values: Sequence[float], n: int) -> float:
        if n > self.total_steps:
            got = f"step {n} of {self.total_steps}"
            raise ShapeError(
                message("OneCycleLR", "the cycle is over", got, "a larger total_steps")
            )
        phases = len(values) - 1
        for i, (begin, end) in enumerate(pairwise(self._turns)):
            if n <= end or i == phases - 1:
                part = (n - begin) / (end - begin) if end != begin else 1.0
                return self._anneal(values[i], values[i + 1], part)
        raise AssertionError("a schedule has phases")

    def _set(self) -> None:
        super()._set()
        momentum = self.momentum_at(self.last_epoch)
        if momentum is not None and "momentum" in self.optimizer._numbers:
            self.optimizer.momentum = momentum  # type: ignore[attr-defined]
        elif momentum is not None:
            betas = self.optimizer.betas  # type: ignore[attr-defined]
            self.optimizer.betas = (momentum, betas[1])  # type: ignore[attr-defined]


_ANNEAL = {"cos": _cosine, "linear": _linear}


class SequentialLR(Schedule):
    """One schedule after the other, each from its own beginning; a new one at each milestone.

    >>> import gpugrad as gg
    >>> optimizer = gg.optim.SGD([gg.asarray([1.0], requires_grad=True)], lr=1.0)
    >>> warmup = gg.optim.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    >>> decay = gg.optim.ExponentialLR(optimizer, gamma=0.5)
    >>> schedule = gg.optim.SequentialLR(optimizer, [warmup, decay], milestones=[2])
    >>> [schedule.lr_at(n) for n in range(5)]
    [0.5, 0.75, 1.0, 0.5, 0.25]
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[Schedule], milestones: Sequence[int]
    ) -> None:
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        for inner in self.schedulers:
            if not isinstance(inner, Schedule) or isinstance(
                inner, (ReduceLROnPlateau, OneCycleLR)
            ):
                rule = "only schedules of the rate by the number of steps can follow one another"
                raise DtypeError(message("SequentialLR", rule, type(inner).__name__))
            if inner.optimizer is not optimizer:
                raise DtypeError(message("SequentialLR", "the schedules have one optimiser"))
        if len(milestones) != len(schedulers) - 1 or self.milestones != sorted(set(milestones)):
            got = f"{len(schedulers)} schedules, milestones {self.milestones}"
            rule = "one rising milestone between each two schedules"
            raise ShapeError(message("SequentialLR", rule, got))
        super().__init__(optimizer)

    def lr_at(self, n: int) -> float:
        i = bisect_right(self.milestones, n)
        return self.schedulers[i].lr_at(n - (self.milestones[i - 1] if i else 0))


class ReduceLROnPlateau(Schedule):
    """``lr ← factor · lr`` when a metric has not improved for more than ``patience`` steps.

    Improved means below ``best (1 − threshold)`` (``mode="min"``, ``threshold_mode="rel"``),
    ``best − threshold`` (``"abs"``), or above the mirror image for ``"max"``. After a reduction
    ``cooldown`` steps do not count; changes smaller than ``eps`` are not made.

    >>> import gpugrad as gg
    >>> optimizer = gg.optim.SGD([gg.asarray([1.0], requires_grad=True)], lr=1.0)
    >>> schedule = gg.optim.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    >>> for loss in (1.0, 1.0, 1.0):
    ...     schedule.step(loss)
    >>> optimizer.lr
    0.5
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if not 0 <= factor < 1:
            raise DtypeError(message("ReduceLROnPlateau", "factor is in 0..1, below 1", factor))
        for name, value, known in (
            ("mode", mode, ("min", "max")),
            ("threshold_mode", threshold_mode, ("rel", "abs")),
        ):
            if value not in known:
                hint = " or ".join(map(repr, known))
                raise DtypeError(message("ReduceLROnPlateau", f"unknown {name}", repr(value), hint))
        _whole("ReduceLROnPlateau", 0, patience=patience, cooldown=cooldown)
        self.mode, self.factor, self.patience = mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.min_lr, self.eps = cooldown, min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = 0
        super().__init__(optimizer)

    def lr_at(self, n: int) -> float:
        rule = "the rate follows a metric, not the number of steps"
        raise DtypeError(message("ReduceLROnPlateau", rule, hint="optimizer.lr"))

    def _set(self) -> None:
        pass  # the rate is the optimiser's own, and is saved with it

    def _kept(self) -> tuple[str, ...]:
        return (*super()._kept(), "best", "num_bad_epochs", "cooldown_counter")

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        """Go on by one, with the loss or score that was reached."""
        value = float(metrics)
        self.last_epoch += 1
        if self._improves(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            new = max(self.optimizer.lr * self.factor, self.min_lr)
            if self.optimizer.lr - new > self.eps:
                self.optimizer.lr = new
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _improves(self, value: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "abs":
            return sign * value > sign * self.best + self.threshold
        return sign * value > sign * (self.best * (1 + sign * self.threshold))


def _whole(op: str, least: int, **values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise DtypeError(message(op, f"{name} is an integer ≥ {least}", repr(value)))
