"""The layers. Imports module, functional and random."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import functions
from gpugrad.nn import functional
from gpugrad.nn.activations import activation_layer
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


NORMS = ("none", "batch", "layer")  # of `MLP`


class MLP(Sequential):
    """A multi-layer perceptron: linear layers of ``sizes``, an activation after all but the last.

    Its parameters are named as those of the `Sequential` it is.

    Parameters
    ----------
    sizes : inputs, hidden widths, outputs; at least two.
    activation : a name (see ``gg.nn.ACTIVATIONS``) or a function of a tensor.
    norm : "batch" or "layer": what stands before each activation; or "none".
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
        norm: str = "none",
        dropout: float = 0.0,
        generator: Generator | None = None,
        dtype: Any = np.float32,
        device: str | None = None,
    ) -> None:
        if len(sizes) < 2:
            hint = "[inputs, hidden…, outputs]"
            raise ShapeError(message("MLP", "sizes name at least two layers", list(sizes), hint))
        if norm not in NORMS:
            rule, hint = "unknown norm", ", ".join(map(repr, NORMS))
            raise DtypeError(message("MLP", rule, repr(norm), hint))
        self.sizes = list(sizes)
        generator = _default_generator() if generator is None else generator
        layers: list[Module] = []
        for i, (a, b) in enumerate(pairwise(sizes)):
            if i:
                if norm != "none":
                    make = BatchNorm1d if norm == "batch" else LayerNorm
                    layers.append(make(a, dtype=dtype, device=device))
                layers.append(activation_layer(activation))
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
        keep = self.generator.bernoulli(1 - self.p, values.shape, device=values.device)
        return values * (keep.astype(values.dtype) / (1 - self.p))

    def _describe(self) -> str:
        return f"p={self.p}"


class Embedding(Module):
    """A table of ``num_embeddings`` rows, looked up by integer codes; (…,) to (…, embedding_dim).

    Rows start normal, drawn from ``generator``; the one at ``padding_idx`` stays zero. For a
    categorical column of a table: its codes, and the vectors beside the numeric columns.

    >>> import gpugrad as gg
    >>> colour, size = gg.asarray([2, 0, 2]), gg.asarray([[1.5], [0.1], [0.7]])
    >>> table = gg.nn.Embedding(3, 4)
    >>> gg.concat([table(colour), size], axis=1).shape
    (3, 5)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        generator: Generator | None = None,
        dtype: Any = np.float32,
        device: str | None = None,
    ) -> None:
        if min(num_embeddings, embedding_dim) < 1:
            got = f"{num_embeddings} of {embedding_dim}"
            raise ShapeError(message("Embedding", "a table has rows and columns", got))
        if padding_idx is not None and not 0 <= padding_idx < num_embeddings:
            got = f"{padding_idx} of {num_embeddings}"
            raise ShapeError(message("Embedding", "padding_idx is a row of the table", got))
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx
        draw = _default_generator() if generator is None else generator
        rows = draw.normal(size=(num_embeddings, embedding_dim), dtype=dtype)
        if padding_idx is not None:
            rows[padding_idx] = 0
        self.weight = functions.asarray(rows, device=device, requires_grad=True)

    def forward(self, indices: Any) -> Tensor:
        rows = functional.embedding(indices, self.weight)
        if self.padding_idx is None:
            return rows
        padding = functions.asarray(indices, device=rows.device) == self.padding_idx
        return functions.where(padding.reshape((*padding.shape, 1)), rows.detach(), rows)

    def _describe(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class LayerNorm(Module):
    """`layer_norm` over the last axes, of ``normalized_shape``, with a learnt scale and shift.

    >>> import gpugrad as gg
    >>> gg.nn.LayerNorm(4)(gg.asarray([[1.0, 2.0, 3.0, 4.0]])).mean().item()
    0.0
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
        device: str | None = None,
    ) -> None:
        one = isinstance(normalized_shape, int)
        shape: Any = (normalized_shape,) if one else tuple(normalized_shape)  # type: ignore[arg-type]
        self.normalized_shape, self.eps = shape, eps
        self.weight, self.bias = _affine(shape, elementwise_affine, bias, dtype, device)

    def forward(self, x: Any) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def _describe(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class BatchNorm1d(Module):
    """`batch_norm` of ``num_features`` columns, (n, c) or (n, c, l), with running statistics.

    `train` normalises by the batch and moves the running mean and variance towards it by
    ``momentum`` (None: their average over all batches so far); `eval` normalises by them.

    >>> import gpugrad as gg
    >>> layer = gg.nn.BatchNorm1d(1)
    >>> _ = layer(gg.asarray([[1.0], [3.0]]))
    >>> round(layer.running_mean.item(), 3), round(layer.running_var.item(), 3)
    (0.2, 1.1)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: Any = np.float32,
        device: str | None = None,
    ) -> None:
        shape = (num_features,)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight, self.bias = _affine(shape, affine, affine, dtype, device)
        self.running_mean = self.running_var = self.num_batches_tracked = None
        if track_running_stats:
            self.running_mean = functions.zeros(shape, dtype=dtype, device=device)
            self.running_var = functions.ones(shape, dtype=dtype, device=device)
            self.num_batches_tracked = functions.zeros((), dtype=np.int64, device=device)

    def forward(self, x: Any) -> Tensor:
        values = functional.identity(x)
        if values.ndim > 1 and values.shape[1] != self.num_features:
            got = f"{values.shape}, for {self.num_features}"
            raise ShapeError(message("BatchNorm1d", "another number of columns", got))
        momentum: Any = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            if momentum is None:
                momentum = 1 / self.num_batches_tracked.astype(np.float32)
        return functional.batch_norm(
            values,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            momentum,
            self.eps,
        )

    def _describe(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


def _affine(
    shape: tuple[int, ...], scale: bool, shift: bool, dtype: Any, device: str | None
) -> tuple[Tensor | None, Tensor | None]:
    """Parameters that change nothing yet."""
    if min(shape, default=0) < 1:
        raise ShapeError(message("norm", "there are columns to normalise", shape))

    def parameter(value: float) -> Tensor:
        full = functions.full(shape, value, dtype=dtype, device=device)
        return functions.asarray(full, requires_grad=True)

    return parameter(1.0) if scale else None, parameter(0.0) if scale and shift else None
