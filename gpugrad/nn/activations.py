"""Activations as modules, and their names. Imports module and functional."""

from collections.abc import Callable
from typing import Any

from gpugrad.errors import DtypeError, message
from gpugrad.nn import functional
from gpugrad.nn.module import Module
from gpugrad.tensor import Tensor


class _Activation(Module):
    """A function of one tensor, and its keyword arguments."""

    def __init__(self, function: Callable[..., Tensor], **settings: Any) -> None:
        self.function = function
        self.settings = settings

    def forward(self, x: Any) -> Tensor:
        return self.function(x, **self.settings)

    def _describe(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


class Identity(_Activation):
    """``x``."""

    def __init__(self) -> None:
        super().__init__(functional.identity)


class Sigmoid(_Activation):
    """``1 / (1 + e⁻ˣ)``."""

    def __init__(self) -> None:
        super().__init__(functional.sigmoid)


class Tanh(_Activation):
    """Hyperbolic tangent."""

    def __init__(self) -> None:
        super().__init__(functional.tanh)


class ReLU(_Activation):
    """``max(x, 0)``."""

    def __init__(self) -> None:
        super().__init__(functional.relu)


class LeakyReLU(_Activation):
    """``x`` or ``negative_slope · x``."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__(functional.leaky_relu, negative_slope=negative_slope)


class ELU(_Activation):
    """``x`` or ``alpha (eˣ − 1)``."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(functional.elu, alpha=alpha)


class GELU(_Activation):
    """``x Φ(x)``, tanh form."""

    def __init__(self) -> None:
        super().__init__(functional.gelu)


class SiLU(_Activation):
    """``x σ(x)``."""

    def __init__(self) -> None:
        super().__init__(functional.silu)


class Softplus(_Activation):
    """``log(1 + eˣ)``."""

    def __init__(self) -> None:
        super().__init__(functional.softplus)


class Softmax(_Activation):
    """``eˣ / Σ eˣ`` along ``axis``."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__(functional.softmax, axis=axis)


class LogSoftmax(_Activation):
    """``log softmax`` along ``axis``."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__(functional.log_softmax, axis=axis)


# What an activation is called, here and on the command line.
ACTIVATIONS: dict[str, Callable[[], Module]] = {
    "sigmoid": Sigmoid,
    "logistic": Sigmoid,
    "tanh": Tanh,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "gelu": GELU,
    "silu": SiLU,
    "softplus": Softplus,
    "identity": Identity,
}


def activation_layer(activation: str | Callable[[Tensor], Tensor]) -> Module:
    if isinstance(activation, type):
        return activation_layer(activation())
    if isinstance(activation, Module):
        return activation
    if callable(activation):
        return _Activation(activation)
    if activation not in ACTIVATIONS:
        hint = ", ".join(sorted(ACTIVATIONS)) + ", or a function"
        raise DtypeError(message("MLP", "unknown activation", repr(activation), hint))
    return ACTIVATIONS[activation]()
