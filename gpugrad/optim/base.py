"""What every optimiser has: parameters, live settings, state. Imports tensor and module."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from gpugrad.errors import CheckpointError, DtypeError, GpugradError, GradientError, message
from gpugrad.late import functions
from gpugrad.nn.module import Module
from gpugrad.state import grad_mode, state
from gpugrad.tensor import Tensor, sole_owner


class Optimizer:
    """Base: parameters, a learning rate that may be changed between steps, and state.

    ``params`` is an iterable of tensors that require gradients, or a module. A parameter without a
    gradient is left alone. `step` rebinds the parameters: values saved for backward never change.
    """

    # Names of the state arrays; each is shaped like its parameter.
    _slots: ClassVar[tuple[str, ...]] = ()
    # Names of the settings that an update reads anew, in the order it takes them.
    _numbers: ClassVar[tuple[str, ...]] = ("lr",)
    # To a compiled step, which never bakes them in.
    _live = frozenset({"lr", "steps", "skips_counted", "momentum", "betas", "eps", "_at_once"})

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
        at_least(self._name, lr=lr)
        self.lr = lr
        self.initial_lr: float | None = None  # what schedules start from, once there is one
        self.steps = [0] * len(self.params)  # updates of each, for Adam's bias correction
        self.state = {name: [_zeros(p) for p in self.params] for name in self._slots}
        self._at_once = _AtOnce()
        # Updates that a GradScaler undid in compiled steps; those taken off ``steps`` again.
        self.skips = functions.zeros((), dtype=np.float32, device=self.params[0].device)
        self.skips_counted = 0

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
        elif state.special or not self._at_once.step(self):
            self._step_one_by_one()

    def _step_one_by_one(self) -> None:
        numbers = [getattr(self, name) for name in self._numbers]
        numbers = [x.item() if isinstance(x, Tensor) else x for x in numbers]
        with grad_mode(False):
            for i, p in enumerate(self.params):
                g = p.grad
                if g is None:
                    continue
                own = [self.state[name][i] for name in self._slots]
                self.steps[i] += 1
                reuse = all(map(sole_owner, (p, *own)))
                if state.special:  # somebody watches every op
                    self._apply(p, g, own, self.steps[i], numbers, reuse)
                    continue
                arrays = [x._data for x in own]
                new = self._update(p._data, g._data, arrays, self.steps[i], numbers, reuse)
                for handle, array in zip((p, *own), new, strict=True):
                    handle._data, handle._node = array, handle._leaf

    def _traced_step(self, trace: Any) -> None:
        """The same in a program: numbers and counts are read anew at every run.

        A number that the step itself has set, to a 0-d tensor of its own, is that.
        """
        values = {name: getattr(self, name) for name in self._numbers}
        numbers = [
            trace.read(x) if isinstance(x, Tensor) else trace.scalar(partial(getattr, self, name))
            for name, x in values.items()
        ]
        updated = []
        with grad_mode(False):
            for i, p in enumerate(self.params):
                g = p.grad
                if g is not None:
                    own = [self.state[name][i] for name in self._slots]
                    self._apply(p, g, own, self._traced_count(trace, i), numbers, False)
                    updated.append(i)
        trace.after(lambda: self._count(updated))

    def _traced_count(self, trace: Any, i: int) -> Any:
        earlier = trace.count((id(self), i))  # a program may make several steps
        return trace.scalar(lambda: self.steps[i] + 1 + earlier)

    def _count(self, updated: list[int]) -> None:
        for i in updated:
            self.steps[i] += 1

    def _apply(
        self, p: Tensor, g: Tensor, state: list[Tensor], t: Any, numbers: Any, reuse: bool
    ) -> None:
        new = self._update(p, g, state, t, numbers, reuse)
        for handle, value in zip((p, *state), new, strict=True):
            handle._assign(value)

    def _update(
        self, p: Any, g: Any, state: list[Any], t: Any, numbers: Any, reuse: bool
    ) -> tuple[Any, ...]:
        """New values of ``p`` and its state after its ``t``-th update, with ``numbers`` as set.

        All of them tensors or all of them bare arrays, which ``reuse`` has written in place.
        """
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_at_once": _AtOnce()}  # native code is not copied

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


# Steps after which an optimiser's update is recorded: that costs as much as a hundred of them.
_WORTH_IT = 20
_PATIENCE = 3  # recordings that stopped fitting, after which it is left alone


class _AtOnce:
    """The update of all parameters as one native program, for an optimiser that is used for long.

    The bits are those of the updates one by one, for a chain rounds as NumPy does; only a parameter
    of a single value is computed in float64.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.failures = 0
        self.recording: Any = None

    def step(self, optimizer: Optimizer) -> bool:
        """Whether the step was made."""
        recording = self.recording
        if recording is not None:
            if recording.replay() is not NotImplemented:
                return True
            if not recording.changed():
                recording.run((), ())
                return True
            self.recording = None
            self.failures += 1
        self.steps += 1
        if self.steps % _WORTH_IT == 0 and self.failures < _PATIENCE:
            self._record(optimizer)
        return False

    def _record(self, optimizer: Optimizer) -> None:
        from gpugrad.compiler.recording import Recording  # deferred: import gpugrad stays quick

        # A subclass of somebody else's may do what a recording would do only once.
        ours = type(optimizer).__module__.startswith("gpugrad.")
        if not ours or any(p.device != "cpu" for p in optimizer.params):
            self.failures = _PATIENCE
            return
        try:
            with grad_mode(False):
                recording = Recording(optimizer.step, None, (), {}, ())
        except GpugradError:
            self.failures = _PATIENCE
            return
        if recording.replay is None:
            self.failures = _PATIENCE
        else:
            self.recording = recording


def _zeros(p: Tensor) -> Tensor:
    """Where an average starts; those of half precision are kept in float32."""
    wide = np.float32 if p.dtype == np.float16 else p.dtype
    return functions.zeros_like(p.detach(), dtype=wide)


def at_least(op: str, **values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise DtypeError(message(op, f"{name} is a number ≥ 0", value))
