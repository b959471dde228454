"""The training loop: no arguments, no files, no printing. May import nn, optim, data, namespace."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpugrad as gg
from gpugrad import nn, optim
from gpugrad.data import Dataset, batch_count, batches

Metrics = dict[str, float]


class Diverged(Exception):
    """The loss or a weight is no longer a finite number. ``epoch`` and ``batch`` count from 0."""

    def __init__(self, what: str, epoch: int, batch: int) -> None:
        super().__init__(what)
        self.what, self.epoch, self.batch = what, epoch, batch


@dataclass
class Position:
    """How far a run has come: whole epochs, batches of the current one, and its running sums."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0  # Σ loss × rows
    correct: int = 0
    history: list[Metrics] = field(default_factory=list)


class Loop:
    """Trains ``model`` on ``train``, one batch for each turn of ``for position in loop``.

    The iteration may be left after any batch. A new Loop with the same ``position``, model,
    optimiser and generator states goes on to the same bits. After the last batch of an epoch the
    history has one entry more (loss and accuracy while training, and `evaluate` with ``test_``
    before its names) and ``position.batch`` is 0.

    ``averaged`` is the model to use and to judge: its weights follow those being trained, after
    epoch e by ``a ← d·a + (1 − d)·w`` with ``d = min(average, (e + 1)/(e + 10))``, e from 0, which
    takes out the noise of single batches (Polyak and Juditsky 1992). ``average=0`` copies them.

    Without classes, targets are (n, outputs), and ``target_scale`` is what one unit of each stands
    for. Raises `Diverged` when the loss of a step is not finite; the step has been made then.
    ``compiled`` steps run as one program (`gpugrad.compile`).
    """

    def __init__(
        self,
        model: nn.MLP,
        optimizer: optim.Optimizer,
        train: Dataset,
        test: Dataset,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        device: str = "cpu",
        average: float = 0.0,
        compiled: bool = True,
        target_scale: NDArray[np.float32] | float = 1.0,
        position: Position | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.average, self.averaged = average, copy.deepcopy(model)
        self.train, self.test = train, test
        self.batch_size, self.epochs, self.seed, self.device = batch_size, epochs, seed, device
        self.target_scale = target_scale
        self.position = position or Position()
        self.batches = batch_count(len(train), batch_size)
        self.samples = 0  # seen by this Loop
        self._loss = nn.cross_entropy if train.classes else nn.mse
        self._learn = gg.compile(self._update) if compiled else self._update

    def __iter__(self) -> Iterator[Position]:
        p = self.position
        while p.epoch < self.epochs:
            for x, y in batches(
                self.train, self.batch_size, seed=self.seed, epoch=p.epoch, start=p.batch
            ):
                self._step(x, y)
                if p.batch == self.batches:
                    self._finish_epoch()
                yield p

    def _step(self, x: Any, y: Any) -> None:
        p = self.position
        loss, *correct = self._learn(
            gg.asarray(x, device=self.device), gg.asarray(y, device=self.device)
        )
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value}", p.epoch, p.batch)
        p.batch += 1
        p.loss_sum += value * len(x)
        p.correct += sum(int(n.item()) for n in correct)
        self.samples += len(x)

    def _update(self, x: gg.Tensor, y: gg.Tensor) -> tuple[gg.Tensor, ...]:
        """One step of the optimiser; the loss before it and, of classes, how many were right."""
        self.optimizer.zero_grad()
        outputs = self.model(x)
        loss = self._loss(outputs, y)
        loss.backward()
        self.optimizer.step()
        if not self.train.classes:
            return (loss.detach(),)
        return loss.detach(), (gg.argmax(outputs.detach(), axis=1) == y).sum()

    def _finish_epoch(self) -> None:
        p, n = self.position, len(self.train)
        self._average()
        entry: Metrics = {"epoch": p.epoch + 1, "loss": p.loss_sum / n}
        if self.train.classes:
            entry["accuracy"] = p.correct / n
        entry |= {f"test_{name}": value for name, value in self.evaluate().items()}
        p.history.append(entry)
        p.epoch, p.batch, p.loss_sum, p.correct = p.epoch + 1, 0, 0.0, 0

    def _average(self) -> None:
        e = self.position.epoch
        d = min(self.average, (e + 1) / (e + 10))
        new = self.model.state_dict()
        if d:
            old = self.averaged.state_dict()
            new = {name: d * old[name] + (1 - d) * value for name, value in new.items()}
        self.averaged.load_state_dict(new)

    def evaluate(self) -> Metrics:
        """What ``averaged`` reaches on ``test``, as `metrics`; raises `Diverged` for no number."""
        outputs = predict(self.averaged, self.test.x, self.device)
        found = metrics(outputs, self.test, self.target_scale)
        if not math.isfinite(found["loss"]):
            p = self.position
            what = f"the loss on the test part is {found['loss']}"
            raise Diverged(what, p.epoch, max(p.batch - 1, 0))
        return found


def metrics(
    outputs: NDArray[np.float32], data: Dataset, target_scale: NDArray[np.float32] | float = 1.0
) -> Metrics:
    """Loss and accuracy of logits, or loss, rmse and r2 of numbers.

    ``rmse = √mean((ŷ − y)²)`` is in the units of the source, of which one unit of y stands for
    ``target_scale``; ``r2 = 1 − Σ(ŷ − y)²/Σ(y − ȳ)²`` is averaged over the outputs, and left out
    when a target does not vary.
    """
    y = data.y
    if data.classes:
        loss = nn.cross_entropy(outputs, y).item()
        return {"loss": loss, "accuracy": float(np.mean(outputs.argmax(axis=1) == y))}
    squares = np.square(outputs.astype(np.float64) - y)
    rmse = math.sqrt(np.mean(squares * np.square(target_scale, dtype=np.float64)))
    spread = np.square(y - y.mean(axis=0, dtype=np.float64)).sum(axis=0)
    r2 = {"r2": float(np.mean(1 - squares.sum(axis=0) / spread))} if spread.all() else {}
    return {"loss": nn.mse(outputs, y).item(), "rmse": rmse, **r2}


def predict(model: nn.Module, x: NDArray[np.float32], device: str = "cpu") -> NDArray[np.float32]:
    """The model's outputs for all rows, in host memory, without dropout and off the tape."""
    model.eval()
    with gg.no_grad():
        rows = range(0, len(x), 4096)
        parts = [model(gg.asarray(x[i : i + 4096], device=device)).to("cpu").numpy() for i in rows]
    model.train()
    return np.concatenate(parts)
