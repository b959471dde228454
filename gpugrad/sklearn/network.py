"""The networks behind the estimators: parameters, losses, one compiled step. Imports nn and optim.

Several networks of one layout are trained as one: the first layers side by side in one matrix, so
that they are one product, the others stacked. Weights are (in, out), as scikit-learn's.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpugrad import backend, nn, optim
from gpugrad.compiler import compile
from gpugrad.errors import ShapeError, message
from gpugrad.late import functions
from gpugrad.nn.activations import activation_layer
from gpugrad.random import Generator
from gpugrad.state import grad_mode
from gpugrad.tensor import Tensor

Array = Any
Layers = tuple[Sequence[Array], Sequence[Array]]  # coefs and intercepts of one network


@dataclass(frozen=True)
class Spec:
    """What networks compute and minimise, and where."""

    activation: str | Callable[[Tensor], Tensor]
    output: str  # scikit-learn's out_activation_: identity, logistic, softmax or exp
    loss: str | Callable[..., Any]
    dropout: float
    device: str


def host(x: Any) -> Any:
    """Tensors and CuPy arrays as NumPy arrays; all else as it is."""
    if isinstance(x, Tensor):
        x = x.detach()._data
    return backend.of(x).to_numpy(x) if backend.is_cupy(x) else x


def predict(spec: Spec, layers: Layers, x: Array) -> Array:
    """What one network says of the rows of ``x``, in host memory."""
    activation = activation_layer(spec.activation)
    with grad_mode(False):
        h = functions.asarray(x, device=spec.device)
        for i, (w, b) in enumerate(zip(*layers, strict=True)):
            if i:
                h = activation(h)
            place = functions.asarray(w, device=spec.device)
            h = h @ place + functions.asarray(b, device=spec.device)
        return np.array(host(_OUTPUTS[spec.output](h)))


class Networks:
    """Networks of one layout on one device, and the step that trains them."""

    def __init__(self, spec: Spec, layers: Sequence[Layers], seed: int) -> None:
        self.spec = spec
        self.count = len(layers)
        self.outputs = layers[0][0][-1].shape[1]
        self.dtype = layers[0][0][0].dtype
        self.activation = activation_layer(spec.activation)
        self.dropout = nn.Dropout(spec.dropout, generator=Generator(seed))
        arrays = self._joined(layers)
        self.weights, self.biases = ([self._parameter(a) for a in part] for part in arrays)
        shape = (self.count,) if self.count > 1 else ()
        self.alpha = self._tensor(np.zeros(shape, self.dtype))  # L2 penalty
        self.paces: list[
            Tensor
        ] = []  # of each parameter's steps; none: all as the optimiser has them
        self.total = self._tensor(np.zeros(shape, self.dtype))  # losses · rows since `start_epoch`
        self.use([])
        self.sums = compile(self._sums)

    def _tensor(self, array: Array) -> Tensor:
        return functions.asarray(array, device=self.spec.device, copy=True)

    def _parameter(self, array: Array) -> Tensor:
        tensor = self._tensor(array)
        tensor.requires_grad = True
        return tensor

    # Parameters, between members and the one program

    def _joined(self, layers: Sequence[Layers]) -> tuple[list[Array], list[Array]]:
        if self.count == 1:
            return list(layers[0][0]), list(layers[0][1])
        weights = [np.stack(ws) for ws in zip(*[coefs for coefs, _ in layers], strict=True)]
        biases = [np.concatenate(bs) for bs in zip(*[b for _, b in layers], strict=True)]
        weights[0] = np.concatenate(list(weights[0]), axis=1)
        return weights, biases

    def use(self, optimizers: Sequence[optim.Optimizer]) -> None:
        """Train with these from now on, by a step recorded anew."""
        self.optimizers = list(optimizers)
        self.step = compile(self._step)

    def penalise(self, alphas: Sequence[float]) -> None:
        """Set each network's L2 penalty."""
        self.alpha[...] = np.array(alphas, self.dtype).reshape(self.alpha.shape)

    def pace(self, rates: Sequence[float]) -> None:
        """Have each network take steps of its own learning rate; the optimiser's is the largest."""
        self.paces = []
        if len(set(rates)) < 2:
            return
        parts = np.array(rates, self.dtype) / max(rates)
        for p in self.parameters:
            if p.ndim == 3:
                self.paces.append(self._tensor(parts[:, None, None]))
            else:  # networks side by side in the last axis
                self.paces.append(self._tensor(np.repeat(parts, p.shape[-1] // self.count)))

    def load(self, layers: Sequence[Layers]) -> None:
        """Take over the members' coefs and intercepts."""
        arrays = self._joined(layers)
        with grad_mode(False):
            for tensors, part in zip((self.weights, self.biases), arrays, strict=True):
                for tensor, array in zip(tensors, part, strict=True):
                    tensor._assign(self._tensor(array))

    def layers(self, member: int = 0) -> tuple[list[Array], list[Array]]:
        """Coefs and intercepts of one member, as new arrays in host memory."""
        weights, biases = ([host(p) for p in part] for part in (self.weights, self.biases))
        if self.count == 1:
            return [np.array(w) for w in weights], [np.array(b) for b in biases]
        first = np.split(weights[0], self.count, axis=1)
        coefs = [first[member], *[w[member] for w in weights[1:]]]
        intercepts = [np.split(b, self.count)[member] for b in biases]
        return [np.array(w, order="C") for w in coefs], [np.array(b) for b in intercepts]

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases]

    # Forward

    def logits(self, x: Tensor) -> Tensor:
        """The last layer before its activation: (rows, outputs), or (rows, networks, outputs)."""
        h = x
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i:
                h = self.dropout(self.activation(h))
            h = self._times(h, w) + b
        return h.reshape((h.shape[0], self.count, -1)) if self.count > 1 else h

    def _times(self, h: Tensor, w: Tensor) -> Tensor:
        """``h w``: of networks side by side (rows, networks · width) each by its own weights."""
        if w.ndim == 2:
            return h @ w
        rows = h.shape[0]
        apart = functions.permute_dims(h.reshape((rows, self.count, -1)), (1, 0, 2))
        return functions.permute_dims(apart @ w, (1, 0, 2)).reshape((rows, -1))

    # Loss

    def _weighted(self, x: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
        """Σ weight · loss over the rows, for each network."""
        losses = self._rows(self.logits(x), y)
        if losses.ndim > (self.count > 1):
            if w is not None:
                losses = losses * (w.reshape((-1, 1)) if self.count > 1 else w)
            return losses.sum(axis=0)
        if w is not None:
            rule = "a loss that is one number cannot be weighted by rows"
            hint = "to return the loss of each row"
            raise ShapeError(message("sample_weight", rule, hint=hint))
        return losses * y.shape[0]

    def _losses(self, x: Any, y: Any, w: Any, inverse: Any) -> tuple[Tensor, Tensor]:
        """What is minimised, and what is reported, of each network; ``inverse`` is 1 / Σ w."""
        data = self._weighted(x, y, w)
        penalty = self._penalty() * (self.alpha * 0.5)
        return (data + penalty) * inverse, ((data * self._share + penalty) * inverse).detach()

    @property
    def _share(self) -> float:
        """scikit-learn reports the mean squared error over the outputs, but descends their sum."""
        return 1 / self.outputs if self.spec.loss == "squared_error" else 1.0

    def _rows(self, z: Tensor, y: Tensor) -> Tensor:
        """The loss of each row, (rows,) or (rows, networks)."""
        if callable(self.spec.loss):
            return self._own_loss(self.spec.loss, _OUTPUTS[self.spec.output](z), y)
        if self.count > 1:
            y = functions.expand_dims(y, axis=1)
        if self.spec.output == "softmax":
            labels = functions.broadcast_to(y, z.shape[:-1]).reshape(-1)
            flat = z.reshape((-1, z.shape[-1]))
            return nn.cross_entropy(flat, labels, reduction="none").reshape(z.shape[:-1])
        if self.spec.output == "logistic":
            each = nn.bce_with_logits(z, functions.broadcast_to(y, z.shape), reduction="none")
        elif self.spec.output == "exp":  # the deviance's y log(y/p) − y + p, with p = eᶻ
            known = y * functions.log(functions.where(y > 0, y, 1.0)) - y
            each = known - y * z + functions.exp(z)
        else:
            each = 0.5 * functions.square(z - y)
        return each.sum(axis=-1)

    def _own_loss(self, loss: Callable[..., Any], p: Tensor, y: Tensor) -> Tensor:
        """What the user's function gives for each row, or for all of them together."""
        if self.count > 1:
            parts = [self._own_loss_of_one(loss, p[:, k], y) for k in range(self.count)]
            return functions.stack(parts, axis=-1)
        return self._own_loss_of_one(loss, p, y)

    def _own_loss_of_one(self, loss: Callable[..., Any], p: Tensor, y: Tensor) -> Tensor:
        value = functions.asarray(loss(y, p))
        if value.ndim and value.shape[0] != y.shape[0]:
            got = f"{value.shape} for {y.shape[0]} rows"
            hint = "a loss for each row, or one number"
            raise ShapeError(message("loss", "the loss has a shape of its own", got, hint))
        return value.reshape((value.shape[0], -1)).sum(axis=1) if value.ndim > 1 else value

    def _penalty(self) -> Tensor:
        """Σ w² of each network."""
        first, *rest = [functions.square(w) for w in self.weights]
        if self.count == 1:
            sums = [w.sum() for w in (first, *rest)]
        else:
            parts = [first.sum(axis=0), *rest]
            sums = [part.reshape((self.count, -1)).sum(axis=1) for part in parts]
        total = sums[0]
        for more in sums[1:]:
            total = total + more
        return total

    # Training

    def start_epoch(self) -> None:
        self.dropout.train()
        self.total[...] = 0

    def epoch_losses(self, rows: int) -> list[float]:
        """The mean loss of each network since `start_epoch`."""
        return np.atleast_1d(host(self.total) / rows).tolist()  # type: ignore[no-any-return]

    def _step(self, x: Array, y: Array, w: Array | None, inverse: Array, count: Array) -> None:
        given = (x, y, w, inverse, count)
        x, y, w, inverse, count = (None if a is None else functions.asarray(a) for a in given)
        for p in self.parameters:
            p.grad = None
        loss, reported = self._losses(x, y, w, inverse)
        loss.sum().backward()
        before = [p.detach() for p in self.parameters]
        for optimizer in self.optimizers:
            optimizer.step()
        if self.paces:
            with grad_mode(False):
                for p, old, part in zip(self.parameters, before, self.paces, strict=True):
                    p[...] = old + part * (p - old)
        self.total += reported * count

    def value(self, batches: Iterable[Any]) -> tuple[float, float, list[Array]]:
        """Of one network, over all rows: what is minimised, what is reported, and the gradients."""
        loss, weight = 0.0, 0.0
        gradients: list[Array] = [0.0 for _ in self.parameters]
        for x, y, w in batches:
            part, *grads = self.sums(x, y) if w is None else self.sums(x, y, w)
            loss += part.item()
            weight += y.shape[0] if w is None else float(w.sum())
            gradients = [
                a + host(g).astype(np.float64) for a, g in zip(gradients, grads, strict=True)
            ]
        alpha = self.alpha.item()
        weights = [host(w).astype(np.float64) for w in self.weights]
        for i, w in enumerate(weights):
            gradients[i] += alpha * w
        penalty = 0.5 * alpha * sum(float(np.vdot(w, w)) for w in weights)
        reported = (loss * self._share + penalty) / weight
        return (loss + penalty) / weight, reported, [g / weight for g in gradients]

    def _sums(self, x: Array, y: Array, w: Array | None = None) -> tuple[Tensor, ...]:
        """The losses of these rows together, and their gradients in the order of `parameters`."""
        x, y, w = (None if a is None else functions.asarray(a) for a in (x, y, w))
        for p in self.parameters:
            p.grad = None
        loss = self._weighted(x, y, w)
        loss.backward()
        grads: list[Any] = [p.grad for p in self.parameters]
        for p in self.parameters:
            p.grad = None
        return loss.detach(), *grads


_OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": nn.identity,
    "logistic": nn.sigmoid,
    "softmax": nn.softmax,
    "exp": lambda z: functions.exp(z),
}
