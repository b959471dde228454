"""Loss scaling for training in float16. Imports base and tensor."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpugrad.errors import CheckpointError, DtypeError, GradientError, message
from gpugrad.late import functions
from gpugrad.optim.base import Optimizer
from gpugrad.state import grad_mode, state
from gpugrad.tensor import Tensor, value_of
from gpugrad.tree import flatten


class GradScaler:
    """Scales the loss so that small gradients survive float16, and the gradients back.

    ``scale`` starts at ``init_scale``. Where a gradient is not finite the optimiser makes no step,
    its state and step counts stay as they were, and ``scale ← scale · backoff_factor``; after
    ``growth_interval`` steps in a row without one ``scale ← scale · growth_factor``, unless that is
    infinite. PyTorch's names and rules; ``enabled=False`` does nothing but call the optimiser.
    Micikevicius et al., Mixed precision training, 2018, section 3.2.

    Inside a compiled step all of it is part of the program, and nothing waits for a value: call
    ``update`` in the step too. ``device`` is where the scale lives, that of the parameters.

    >>> import gpugrad as gg
    >>> w = gg.asarray([1.0, 2.0], requires_grad=True)
    >>> optimizer, scaler = gg.optim.SGD([w], lr=0.25), GradScaler(1024.0, growth_interval=1)
    >>> for x in ([1.0, 1.0], [1.0, float("inf")]):
    ...     optimizer.zero_grad()
    ...     with gg.autocast():
    ...         loss = (w * gg.asarray(x)).sum()
    ...     scaler.scale(loss).backward()
    ...     scaler.step(optimizer)
    ...     scaler.update()
    ...     print(w.tolist(), scaler.get_scale())
    [0.75, 1.75] 2048.0
    [0.75, 1.75] 1024.0
    """

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
        *,
        device: str | None = None,
    ) -> None:
        for name, value, fits in (
            ("init_scale is a number > 0", init_scale, 0 < init_scale < float("inf")),
            ("growth_factor is a number > 1", growth_factor, growth_factor > 1),
            ("backoff_factor is in 0..1, both excluded", backoff_factor, 0 < backoff_factor < 1),
            ("growth_interval is at least 1", growth_interval, growth_interval >= 1),
        ):
            if not fits:
                raise DtypeError(message("GradScaler", name, value))
        self.growth_factor, self.backoff_factor = float(growth_factor), float(backoff_factor)
        self.growth_interval, self.enabled = int(growth_interval), enabled
        self._scale = functions.asarray(np.float32(init_scale), device=device)
        # Steps since the scale changed; a float, as all that a program does without Python.
        self._tracker = functions.asarray(np.float32(0), device=device)
        # Of each optimiser since the last update: what is found, and whether it has stepped.
        self._seen: dict[int, tuple[Tensor, bool]] = {}

    def is_enabled(self) -> bool:
        return self.enabled

    def get_scale(self) -> float:
        """What the loss is multiplied by now; 1 when not enabled."""
        return float(self._scale.item()) if self.enabled else 1.0

    def scale(self, outputs: Any) -> Any:
        """``outputs``, a tensor or lists, tuples and dicts of them, times the scale."""
        if not self.enabled:
            return outputs
        leaves, rebuild = flatten(outputs)
        return rebuild([x * functions.astype(self._scale, x.dtype) for x in leaves])

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of ``optimizer`` by the scale: to clip them before `step`, say.

        Where one is not finite all become 0, and `step` will do nothing.

        Raises GradientError for gradients in float16, whose parameters should be float32, for none
        at all, and the second time before `update`.
        """
        if not self.enabled:
            return
        if id(optimizer) in self._seen:
            rule = "the gradients of this optimiser were unscaled since the last update()"
            raise GradientError(message("GradScaler.unscale_", rule, hint="update() once a step"))
        grads = [(p, p.grad) for p in optimizer.params if p.grad is not None]
        if not grads:
            rule, hint = "no parameter has a gradient", "scaler.scale(loss).backward() before"
            raise GradientError(message("GradScaler.unscale_", rule, hint=hint))
        with grad_mode(False):
            wrong: Any = 0.0  # how many; sums are native to compiled steps, `all` is not
            inverse = 1 / self._scale
            for p, g in grads:
                if g.dtype == np.float16:
                    rule = "gradients in float16 lose what the scale has saved"
                    hint = "float32 parameters and gg.autocast"
                    raise GradientError(message("GradScaler.unscale_", rule, g.dtype, hint))
                p.grad = g * functions.astype(inverse, g.dtype)
                odd = functions.logical_not(functions.isfinite(p.grad))
                wrong = wrong + functions.sum(functions.astype(odd, np.float32))
            found = wrong > 0
            if state.trace is not None or found.item():
                for p, _ in grads:
                    p.grad = functions.where(found, 0.0, p.grad)
            self._seen[id(optimizer)] = found, False

    def step(self, optimizer: Optimizer) -> None:
        """``optimizer.step()`` with gradients that are unscaled and finite, or nothing.

        Raises GradientError as `unscale_`, which it calls if nobody did, and the second time before
        `update`.
        """
        if not self.enabled:
            optimizer.step()
            return
        if id(optimizer) not in self._seen:
            self.unscale_(optimizer)
        found, stepped = self._seen[id(optimizer)]
        if stepped:
            rule = "this optimiser has stepped since the last update()"
            raise GradientError(message("GradScaler.step", rule, hint="update() once a step"))
        self._seen[id(optimizer)] = found, True
        if state.trace is not None:
            _step_unless(found, optimizer, state.trace)
        elif not found.item():
            optimizer.step()

    def update(self, new_scale: float | None = None) -> None:
        """Adapt the scale to what the steps since the last time have found, or set it.

        Raises GradientError when there was no step.
        """
        if not self.enabled:
            return
        with grad_mode(False), np.errstate(over="ignore"):
            if new_scale is not None:
                self._scale._assign(functions.full_like(self._scale, new_scale))
            elif not self._seen:
                rule = "no gradients were looked at since the last update()"
                raise GradientError(message("GradScaler.update", rule, hint="step(optimizer)"))
            else:
                self._adapt([found for found, _ in self._seen.values()])
        self._seen.clear()

    def _adapt(self, founds: list[Tensor]) -> None:
        found = founds[0]
        for other in founds[1:]:
            found = functions.logical_or(found, other)
        steps, scale = self._tracker + 1, self._scale
        due = steps == self.growth_interval
        larger = scale * self.growth_factor
        grown = functions.where(
            functions.logical_and(due, functions.isfinite(larger)), larger, scale
        )
        self._scale._assign(functions.where(found, scale * self.backoff_factor, grown))
        self._tracker._assign(functions.where(functions.logical_or(found, due), 0.0, steps))

    def state_dict(self) -> dict[str, Any]:
        """PyTorch's keys; empty when not enabled."""
        if not self.enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": int(self._tracker.item()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; on any mismatch raise, and change nothing."""
        if not self.enabled:
            return
        if state.keys() != self.state_dict().keys():
            odd = sorted(self.state_dict().keys() ^ state.keys())
            rule = "the state is not that of an enabled GradScaler"
            raise CheckpointError(message("GradScaler", rule, f"differences: {odd}"))
        try:
            new = GradScaler(
                *(state["scale"], state["growth_factor"], state["backoff_factor"]),
                state["growth_interval"],
            )
            tracker = int(state["_growth_tracker"])
        except (TypeError, ValueError) as error:
            rule = "the state holds numbers in their ranges"
            raise CheckpointError(message("GradScaler", rule, error)) from error
        self.growth_factor, self.backoff_factor = new.growth_factor, new.backoff_factor
        self.growth_interval = new.growth_interval
        self._scale._assign(functions.full_like(self._scale, state["scale"]))
        self._tracker._assign(functions.full_like(self._tracker, tracker))


def _step_unless(found: Tensor, optimizer: Optimizer, trace: Any) -> None:
    """In a program: the step, with gradients of 0 where ``found``, and then everything put back."""
    updated = [i for i, p in enumerate(optimizer.params) if p.grad is not None]
    handles = [optimizer.params[i] for i in updated]
    handles += [values[i] for values in optimizer.state.values() for i in updated]
    with grad_mode(False):
        before = [Tensor(value_of(x)) for x in handles]
        optimizer.step()
        for x, old in zip(handles, before, strict=True):
            x._assign(functions.where(found, old, x.detach()))
        optimizer.skips._assign(optimizer.skips + functions.astype(found, np.float32))

    def count() -> None:
        new = int(optimizer.skips.item()) - optimizer.skips_counted
        if new:
            optimizer.skips_counted += new
            for i in updated:
                optimizer.steps[i] -= new

    trace.after(count)
