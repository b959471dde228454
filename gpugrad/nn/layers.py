"""The layers. Imports module, functional and random."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import functions
from gpugrad.nn import functional
from gpugrad.nn.module import Module
from gpugrad.random import Generator
from gpugrad.tensor import Tensor


class Linear(Module):
    """``y = x Wᵀ + b``; ``x`` (…, in), ``W`` (out, in), ``b`` (out,).

    Both start uniform in ±1/√in, PyTorch's default, drawn from ``generator`` (weight first).

    >>> import gpugrad as gg
    >>> gg.nn.Linear(3, 2)(gg.ones((5, 3))).shape
    (5, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        generator: Generator | None = None,
        dtype: Any = np.float32,
        device: str | None = None,
    ) -> None:
        if min(in_features, out_features) < 1:
            got = f"{in_features} to {out_features}"
            raise ShapeError(message("Linear", "a layer has at least one input and output", got))
        self.in_features, self.out_features = in_features, out_features
        draw = _default_generator() if generator is None else generator
        bound = 1 / math.sqrt(in_features)

        def parameter(*shape: int) -> Tensor:
            values = draw.uniform(-bound, bound, shape, dtype)
            return functions.asarray(values, device=device, requires_grad=True)

        self.weight = parameter(out_features, in_features)
        self.bias = parameter(out_features) if bias else None

    def forward(self, x: Any) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def _describe(self) -> str:
        return f"{self.in_features}, {self.out_features}" + (
            ", bias=False" if self.bias is None else ""
        )


# Layers made without a generator draw from one stream, so that two of them differ.
_shared: list[Generator] = []


def _default_generator() -> Generator:
    if not _shared:
        _shared.append(Generator(0))
    return _shared[0]


def manual_seed(seed: int) -> None:
    """Restart the stream that layers made without a generator draw from."""
    _shared[:] = [Generator(seed)]


class Sequential(Module):
    """Layers one after the other, named "0", "1", … as in PyTorch.

    >>> import gpugrad as gg
    >>> model = gg.nn.Sequential(gg.nn.Linear(4, 3), gg.nn.ReLU(), gg.nn.Linear(3, 1))
    >>> list(model.state_dict())
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    def __init__(self, *layers: Module) -> None:
        self.layers = list(layers)

    def _members(self) -> Iterator[tuple[str, Any]]:
        yield from ((name, value) for name, value in vars(self).items() if name != "layers")
        yield from ((str(i), layer) for i, layer in enumerate(self.layers))

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, i: int) -> Module:
        return self.layers[i]

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)


class MLP(Sequential):
    """A multi-layer perceptron: linear layers of ``sizes``, an activation after all but the last.

    Its parameters are named as those of the `Sequential` it is.

    Parameters
    ----------
    sizes : inputs, hidden widths, outputs; at least two.
    activation : a name (see ``gg.nn.ACTIVATIONS``) or a function of a tensor.
    dropout : probability of dropping a hidden value while training.
    generator : where the starting weights come from.

    Examples
    --------
    >>> import gpugrad as gg
    >>> model = gg.nn.MLP([64, 32, 10], activation="tanh")
    >>> model(gg.ones((8, 64))).shape
    (8, 10)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str | Callable[[Tensor], Tensor] = "sigmoid",
        *,
        dropout: float = 0.0,
        generator: Generator | None = None,
        dtype: Any = np.float32,
        device: str | None = None,
    ) -> None:
        if len(sizes) < 2:
            hint = "[inputs, hidden…, outputs]"
            raise ShapeError(message("MLP", "sizes name at least two layers", list(sizes), hint))
        self.sizes = list(sizes)
        generator = _default_generator() if generator is None else generator
        layers: list[Module] = []
        for i, (a, b) in enumerate(pairwise(sizes)):
            if i:
                layers.append(_activation_layer(activation))
                if dropout:
                    layers.append(Dropout(dropout, generator=generator))
            layers.append(Linear(a, b, generator=generator, dtype=dtype, device=device))
        super().__init__(*layers)


class Dropout(Module):
    """While training, zero each value with probability ``p`` and scale the rest by 1/(1 − p).

    Srivastava et al. 2014, scaled at training time so that evaluation is the identity.
    """

    def __init__(self, p: float = 0.5, *, generator: Generator | None = None) -> None:
        if not 0.0 <= p < 1.0:
            raise DtypeError(message("Dropout", "p is in 0..1, below 1", p))
        self.p = p
        self.generator = _default_generator() if generator is None else generator

    def forward(self, x: Any) -> Tensor:
        values = functional.identity(x)
        if not self.training or not self.p:
            return values
        keep = self.generator.bernoulli(1 - self.p, values.shape).to(values.device)
        return values * (keep.astype(values.dtype) / (1 - self.p))

    def _describe(self) -> str:
        return f"p={self.p}"


# Activations as modules


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


def _activation_layer(activation: str | Callable[[Tensor], Tensor]) -> Module:
    if isinstance(activation, type):
        return _activation_layer(activation())
    if isinstance(activation, Module):
        return activation
    if callable(activation):
        return _Activation(activation)
    if activation not in ACTIVATIONS:
        hint = ", ".join(sorted(ACTIVATIONS)) + ", or a function"
        raise DtypeError(message("MLP", "unknown activation", repr(activation), hint))
    return ACTIVATIONS[activation]()
