"""The training loop: no arguments, no files, no printing.

May import nn, optim, data, namespace, cli.tally.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpugrad as gg
from gpugrad import nn, optim
from gpugrad.cli import tally
from gpugrad.data import Dataset, Rows, batch_count, batches, prefetch
from gpugrad.data.dataset import epoch_order
from gpugrad.errors import GradientError

Metrics = dict[str, float]

_SHARE = 0.25  # of a device's free memory that the data may take


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

    On a GPU, if arrays in memory take no more than a quarter of what is free there, the data lie
    there, and compiled steps pick their rows by number. Nothing waits for their losses: they are
    looked at together, 64 steps at most, at the end of an epoch and for ``position``. `Diverged`
    comes as late, and says which batch it was; steps after that have been made too.
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
        self._position = position or Position()
        self.batches = batch_count(len(train), batch_size)
        self.samples = 0  # seen by this Loop
        self.first_loss: float | None = None  # of the first batch that this Loop saw
        self._loss = nn.cross_entropy if train.classes else nn.mse
        self._there = tuple(
            gg.asarray(part, device=device)
            for part in ((train.x, train.y) if compiled and _fits(train, device) else ())
        )
        self._tally = tally.Tally(1 + bool(train.classes) + bool(clip_norm), device)
        self._unseen: list[int] = []  # rows of the steps whose numbers are still on the device
        step: Callable[..., Any] = self._update_there if self._there else self.update
        self.learn = gg.compile(step) if compiled else step

    def __iter__(self) -> Iterator[Position]:
        """``position`` after each batch; its sums may be behind until ``loop.position``."""
        p = self._position
        while not self.finished:
            for given in self._batches():
                self._step(*given)
                if p.batch == self.batches:
                    self._finish_epoch()
                if self.rates is not None and self._plateau is None:
                    self.rates.step()
                yield p

    @property
    def position(self) -> Position:
        """How far the run has come, with everything its steps have found; waits for them."""
        self._look()
        return self._position

    @position.setter
    def position(self, position: Position) -> None:
        self._position = position

    @property
    def at(self) -> tuple[int, int]:
        """Whole epochs, and batches of the current one; waits for nothing."""
        return self._position.epoch, self._position.batch

    @property
    def chosen(self) -> nn.MLP:
        """The model to use."""
        return self.averaged if self.best is None else self.best

    @property
    def best_epoch(self) -> int | None:
        """That of the lowest loss on ``valid``, where that decides."""
        if not (self.patience and self._position.history):
            return None
        return int(min(self._position.history, key=lambda entry: entry["valid_loss"])["epoch"])

    @property
    def stopped_early(self) -> bool:
        best, (epoch, batch) = self.best_epoch, self.at
        waited = best is not None and epoch - best >= (self.patience or 0)
        return waited and not batch and epoch < self.epochs

    @property
    def finished(self) -> bool:
        return self._position.epoch >= self.epochs or self.stopped_early

    @property
    def exploded(self) -> bool:
        """Whether the loss of the last epoch is a million times what the first batch had."""
        if self.first_loss is None or not self._position.history:
            return False
        return self._position.history[-1]["loss"] > 1e6 * max(self.first_loss, 1e-6)

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

    def _batches(self) -> Iterator[tuple[gg.Tensor, ...]]:
        """What `learn` takes for each batch that is left of the epoch."""
        (epoch, batch), n = self.at, len(self.train)
        if self._there:
            order = gg.asarray(epoch_order(n, self.seed, epoch), device=self.device)
            starts = range(batch * self.batch_size, n, self.batch_size)
            return ((order[start : start + self.batch_size],) for start in starts)
        made: Iterator[Any] = batches(
            self.train, self.batch_size, seed=self.seed, epoch=epoch, start=batch
        )
        if isinstance(self.train.x, Rows):  # a read may wait for the disk
            made = prefetch(made, self.device)
        return (tuple(gg.asarray(part, device=self.device) for part in xy) for xy in made)

    def _step(self, *given: gg.Tensor) -> None:
        p, rows = self._position, len(given[0])
        try:
            found = self.learn(*given)
        except GradientError as error:  # of clipping
            if self.clip_norm is None:
                raise
            self._look()
            raise Diverged("the gradient is not finite", p.epoch, p.batch) from error
        p.batch += 1
        self.samples += rows
        if self._there:
            self._unseen.append(rows)
            if len(self._unseen) == tally.STEPS:
                self._look()
        else:
            self._take_in(p.batch - 1, rows, [float(number) for number in found])

    def _look(self) -> None:
        """Take in what the steps since the last look have left on the device."""
        if self._unseen:
            unseen, self._unseen = self._unseen, []
            first = self._position.batch - len(unseen)
            found = self._tally.fetch(len(unseen)).tolist()
            for batch, (rows, numbers) in enumerate(zip(unseen, found, strict=True), first):
                self._take_in(batch, rows, numbers)

    def _take_in(self, batch: int, rows: int, found: list[float]) -> None:
        """What a batch's step has found: loss, right answers of classes, norm where clipped."""
        p, loss = self._position, found[0]
        if self.clip_norm is not None and not math.isfinite(found[-1]):
            raise Diverged("the gradient is not finite", p.epoch, batch)
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss}", p.epoch, batch)
        if self.first_loss is None:
            self.first_loss = loss
        p.loss_sum += loss * rows
        if self.train.classes:
            p.correct += int(found[1])

    def _update_there(self, rows: gg.Tensor) -> None:
        """`update` on these rows of the data on the device, where it leaves what it finds."""
        self._tally.add(*self.update(*[part[rows] for part in self._there]))

    def update(self, x: gg.Tensor, y: gg.Tensor) -> tuple[Any, ...]:
        """One step of the optimiser: the loss before it, of classes how many were right, and the
        gradient's norm where it is clipped.
        """
        self.optimizer.zero_grad()
        with gg.autocast(enabled=self.scaler.enabled):
            outputs = self.model(x)
            loss = self._loss(outputs, y)
        self.scaler.scale(loss).backward()
        norm: tuple[Any, ...] = ()
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            norm = (optim.clip_grad_norm(self.model, self.clip_norm),)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not self.train.classes:
            return loss.detach(), *norm
        return loss.detach(), (gg.argmax(outputs.detach(), axis=1) == y).sum(), *norm

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
        e = self._position.epoch
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
            p = self._position
            part = "test" if data is self.test else "validation"
            what = f"the loss on the {part} part is {found['loss']}"
            raise Diverged(what, p.epoch, max(p.batch - 1, 0))
        return found


def _fits(data: Dataset, device: str) -> bool:
    """Whether the data may lie on a GPU for the whole run."""
    if device == "cpu" or isinstance(data.x, Rows):
        return False
    stats = gg.memory_stats(device)
    return bool(data.x.nbytes + data.y.nbytes <= _SHARE * (stats["free"] + stats["kept"]))


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
