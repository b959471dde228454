"""Module: a thing with parameters. Imports tensor and the namespace's functions."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Self

from gpugrad.errors import CheckpointError, message
from gpugrad.late import functions
from gpugrad.state import grad_mode
from gpugrad.tensor import Tensor


class Module:
    """Base of layers and models: holds tensors and other modules as plain attributes.

    A tensor attribute that requires a gradient is a parameter, any other tensor a buffer; both are
    saved. Lists, tuples and dicts of them count too; a computed tensor that is kept (an activation,
    say) does not, nor does a way back up to a module that is above. Subclasses define ``forward``.

    Examples
    --------
    >>> import gpugrad as gg
    >>> class Scale(gg.nn.Module):
    ...     def __init__(self):
    ...         self.factor = gg.asarray(2.0, requires_grad=True)
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> model = Scale()
    >>> model(gg.asarray([3.0])).tolist(), list(model.state_dict())
    ([6.0], ['factor'])
    """

    training = True

    def forward(self, *args: Any) -> Any:
        """The computation; calling the module calls this."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward(self, x)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def _members(self) -> Iterator[tuple[str, Any]]:
        """Named attributes that may hold tensors or modules."""
        yield from vars(self).items()

    def _walk(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Every tensor and module below, with its dotted name."""
        above: tuple[int, ...] = (id(self),)
        stack = [(prefix + name, value, above) for name, value in self._members()][::-1]
        while stack:
            name, value, above = stack.pop()
            if id(value) in above:
                continue
            if isinstance(value, Module) or (isinstance(value, Tensor) and _is_state(value)):
                yield name, value
            if isinstance(value, Module):
                inner = value._members()
            elif isinstance(value, dict):
                inner = iter([(str(key), part) for key, part in value.items()])
            elif isinstance(value, (list, tuple)):
                inner = iter([(str(i), part) for i, part in enumerate(value)])
            else:
                continue
            below = (*above, id(value))
            stack.extend([(f"{name}.{key}", part, below) for key, part in inner][::-1])

    def modules(self) -> Iterator["Module"]:
        """This module and all below it."""
        yield self
        yield from (value for _, value in self._walk() if isinstance(value, Module))

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Dotted names and tensors of the parameters; one shared by two layers comes once."""
        seen: set[int] = set()
        for name, value in self._walk():
            if isinstance(value, Tensor) and value.requires_grad and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def parameters(self) -> Iterator[Tensor]:
        """The tensors an optimiser trains."""
        return (value for _, value in self.named_parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """Every tensor below, parameters and buffers, by its dotted name; off the tape."""
        return {name: v.detach() for name, v in self._walk() if isinstance(v, Tensor)}

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Take over the values in ``state``; on any mismatch raise, and change nothing.

        Names and shapes must be those of `state_dict`; values are cast to the dtypes here and moved
        to the devices here. Raises `CheckpointError` with every difference listed.
        """
        own = {name: value for name, value in self._walk() if isinstance(value, Tensor)}
        problems = [f"missing: {name}" for name in own.keys() - state.keys()]
        for name in state.keys() - own.keys():
            close = difflib.get_close_matches(name, own, 1)
            problems.append(f"unknown: {name}" + (f" (is it {close[0]}?)" if close else ""))
        new = {}
        for name in own:
            if name not in state:
                continue
            value = functions.asarray(state[name], device=own[name].device)
            if value.shape != own[name].shape:
                problems.append(f"{name}: shape {value.shape}, here {own[name].shape}")
            new[name] = functions.astype(value.detach(), own[name].dtype)
        if problems:
            rule = "the checkpoint is of another architecture: " + "; ".join(sorted(problems))
            hint = "the model it was saved from"
            raise CheckpointError(message("load_state_dict", rule, hint=hint))
        with grad_mode(False):
            for name, value in new.items():
                own[name]._assign(functions.tensor(value))
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> Self:
        """Switch layers that behave differently while training (dropout), here and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """``train(False)``."""
        return self.train(False)

    def to(self, device: str) -> Self:
        """Move every tensor below to ``device``. Gradients stay behind."""
        for _, value in list(self._walk()):
            if isinstance(value, Tensor):
                value._data = functions.to_device(value.detach(), device)._data
                value.requires_grad, wanted = False, value.requires_grad
                value.requires_grad = wanted
        return self

    def __repr__(self) -> str:
        inner = [
            f"  ({name}): " + repr(value).replace("\n", "\n  ")
            for name, value in self._members()
            if isinstance(value, Module)
        ]
        head = f"{type(self).__name__}({self._describe()})"
        return head if not inner else "\n".join([head[:-1], *inner, ")"])

    def _describe(self) -> str:
        return ""


def _is_state(x: Tensor) -> bool:
    """A leaf, or one that was written to on the tape, but nothing that was only computed."""
    return x.is_leaf or x._leaf is not None
