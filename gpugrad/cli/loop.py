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
from gpugrad.data import Dataset, Rows, batch_count, batches, prefetch
from gpugrad.errors import GradientError

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

    With ``valid`` its loss and accuracy join the history, as ``valid_``. With ``patience`` training
    ends after so many epochs without a lower ``valid_loss``, and the model to use is ``best``: what
    ``averaged`` was after the best epoch. ``rates`` moves the learning rate after each batch, or,
    where it follows ``valid_loss``, each epoch; ``clip_norm`` shortens the gradient of a step. With
    a ``scaler`` matrix products are in float16.

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
        valid: Dataset | None = None,
        rates: optim.Schedule | None = None,
        clip_norm: float | None = None,
        patience: int | None = None,
        scaler: optim.GradScaler | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.average, self.averaged = average, copy.deepcopy(model)
        self.best = copy.deepcopy(model) if patience else None
        self.train, self.test, self.valid = train, test, valid
        self.rates, self.clip_norm, self.patience = rates, clip_norm, patience
        self.scaler = scaler or optim.GradScaler(enabled=False)
        self._plateau = rates if isinstance(rates, optim.ReduceLROnPlateau) else None
        self.batch_size, self.epochs, self.seed, self.device = batch_size, epochs, seed, device
        self.target_scale = target_scale
        self.position = position or Position()
        self.batches = batch_count(len(train), batch_size)
        self.samples = 0  # seen by this Loop
        self.first_loss: float | None = None  # of the first batch that this Loop saw
        self._loss = nn.cross_entropy if train.classes else nn.mse
        self.learn = gg.compile(self.update) if compiled else self.update

    def __iter__(self) -> Iterator[Position]:
        p = self.position
        while not self.finished:
            made: Iterator[Any] = batches(
                self.train, self.batch_size, seed=self.seed, epoch=p.epoch, start=p.batch
            )
            if isinstance(self.train.x, Rows):  # a read may wait for the disk
                made = prefetch(made, self.device)
            for x, y in made:
                self._step(x, y)
                if p.batch == self.batches:
                    self._finish_epoch()
                if self.rates is not None and self._plateau is None:
                    self.rates.step()
                yield p

    @property
    def chosen(self) -> nn.MLP:
        """The model to use."""
        return self.averaged if self.best is None else self.best

    @property
    def best_epoch(self) -> int | None:
        """That of the lowest loss on ``valid``, where that decides."""
        if not (self.patience and self.position.history):
            return None
        return int(min(self.position.history, key=lambda entry: entry["valid_loss"])["epoch"])

    @property
    def stopped_early(self) -> bool:
        best, epoch = self.best_epoch, self.position.epoch
        waited = best is not None and epoch - best >= (self.patience or 0)
        return waited and not self.position.batch and epoch < self.epochs

    @property
    def finished(self) -> bool:
        return self.position.epoch >= self.epochs or self.stopped_early

    @property
    def exploded(self) -> bool:
        """Whether the loss of the last epoch is a million times what the first batch had."""
        if self.first_loss is None or not self.position.history:
            return False
        return self.position.history[-1]["loss"] > 1e6 * max(self.first_loss, 1e-6)

    def go_on(self, position: Position, lr: float) -> None:
        """Continue at ``position`` of a run that started with ``lr``.

        The rate is a function of both, and of what the history says for one that follows the loss.
        """
        self.position, self.optimizer.lr = position, lr
        if self.rates is None or position.epoch >= self.epochs:
            return
        if self._plateau is not None:
            for entry in position.history:
                self._plateau.step(entry["valid_loss"])
        else:
            steps = position.epoch * self.batches + position.batch
            self.rates.load_state_dict({"base_lr": lr, "last_epoch": steps})

    def _step(self, x: Any, y: Any) -> None:
        p = self.position
        rows = gg.asarray(x, device=self.device), gg.asarray(y, device=self.device)
        try:
            loss, *correct = self.learn(*rows)
        except GradientError as error:  # of clipping
            if self.clip_norm is None:
                raise
            raise Diverged("the gradient is not finite", p.epoch, p.batch) from error
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value}", p.epoch, p.batch)
        if self.first_loss is None:
            self.first_loss = value
        p.batch += 1
        p.loss_sum += value * len(x)
        p.correct += sum(int(n.item()) for n in correct)
        self.samples += len(x)

    def update(self, x: gg.Tensor, y: gg.Tensor) -> tuple[gg.Tensor, ...]:
        """One step of the optimiser; the loss before it and, of classes, how many were right."""
        self.optimizer.zero_grad()
        with gg.autocast(enabled=self.scaler.enabled):
            outputs = self.model(x)
            loss = self._loss(outputs, y)
        self.scaler.scale(loss).backward()
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            optim.clip_grad_norm(self.model, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not self.train.classes:
            return (loss.detach(),)
        return loss.detach(), (gg.argmax(outputs.detach(), axis=1) == y).sum()

    def _finish_epoch(self) -> None:
        p, n = self.position, len(self.train)
        self._average()
        entry: Metrics = {"epoch": p.epoch + 1, "loss": p.loss_sum / n}
        if self.train.classes:
            entry["accuracy"] = p.correct / n
        if self.valid is not None:
            entry |= self._judged(self.averaged, self.valid, "valid")
        entry |= self._judged(self.averaged, self.test, "test")
        if self.rates is not None:
            entry["lr"] = self.optimizer.lr
        p.history.append(entry)
        p.epoch, p.batch, p.loss_sum, p.correct = p.epoch + 1, 0, 0.0, 0
        if self._plateau is not None:
            self._plateau.step(entry["valid_loss"])
        if self.best is not None and self.best_epoch == p.epoch:
            self.best.load_state_dict(self.averaged.state_dict())

    def _judged(self, model: nn.MLP, data: Dataset, name: str) -> Metrics:
        return {f"{name}_{what}": value for what, value in self.evaluate(model, data).items()}

    def _average(self) -> None:
        e = self.position.epoch
        d = min(self.average, (e + 1) / (e + 10))
        new = self.model.state_dict()
        if d:
            old = self.averaged.state_dict()
            new |= {  # all but counts
                name: d * old[name] + (1 - d) * value
                for name, value in new.items()
                if value.dtype.kind == "f"
            }
        self.averaged.load_state_dict(new)

    def evaluate(self, model: nn.MLP | None = None, data: Dataset | None = None) -> Metrics:
        """What a model, by default ``chosen`` on ``test``, reaches, as `metrics`.

        Raises `Diverged` for no number.
        """
        data = self.test if data is None else data
        outputs = predict(self.chosen if model is None else model, data.x, self.device)
        found = metrics(outputs, data, self.target_scale)
        if not math.isfinite(found["loss"]):
            p = self.position
            part = "test" if data is self.test else "validation"
            what = f"the loss on the {part} part is {found['loss']}"
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


def predict(model: nn.Module, x: NDArray[Any] | Rows, device: str = "cpu") -> NDArray[np.float32]:
    """The model's outputs for all rows, in host memory, without dropout and off the tape."""
    model.eval()
    with gg.no_grad():
        rows = range(0, len(x), 4096)
        pieces = (np.asarray(x[i : i + 4096], np.float32) for i in rows)
        parts = [model(gg.asarray(piece, device=device)).to("cpu").numpy() for piece in pieces]
    model.train()
    return np.concatenate(parts)
