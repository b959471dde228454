"""From options, or a checkpoint, to a run that is ready to train.

May import cli.options, settings, prepare, checkpoint and loop, nn, backend and data.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gpugrad import backend, nn
from gpugrad.cli import checkpoint, prepare
from gpugrad.cli.checkpoint import Checkpoint
from gpugrad.cli.loop import Loop
from gpugrad.cli.options import UsageError
from gpugrad.cli.settings import Settings, shown
from gpugrad.data import Dataset, Scaler, batch_count
from gpugrad.errors import CheckpointError, message
from gpugrad.optim import GradScaler
from gpugrad.random import Generator


@dataclass
class Run:
    """Everything about one run, built and ready to train."""

    settings: Settings
    data: dict[str, Any]
    loop: Loop
    generator: Generator
    scalers: dict[str, Scaler]
    device: str
    path: Path
    saved_at: float = 0.0

    def save(self) -> None:
        checkpoint.write(
            self.path, self.settings, self.data, self.loop, self.generator, self.scalers
        )
        self.saved_at = time.perf_counter()


class Plan(NamedTuple):
    """What is to be trained, before anything is built."""

    settings: Settings
    dataset: Dataset
    data: dict[str, Any]  # as `prepare.describe` says it
    device: str

    @classmethod
    def of(cls, given: Mapping[str, Any], source: Path | None, saved: Checkpoint | None) -> "Plan":
        """A new run's, or that of ``saved``, read from ``source``, with what may change changed."""
        wanted = {"data": None, "target": None, "drop": (), "device": "auto", **given}
        if saved is not None:
            wanted = vars(saved.settings.resumed(given, source))
        elif wanted["data"] is None:
            for name in ("target", "drop"):
                if wanted[name]:
                    rule = f"--{name} belongs to --data"
                    raise UsageError(message("train", rule, shown(wanted[name])))
        device = _device(wanted["device"])
        dataset = prepare.load(wanted["data"], wanted["target"], wanted["drop"])
        data = prepare.describe(dataset)
        if saved is None:
            settings = Settings.fresh(given, dataset)
        elif data["sha256"] == saved.data.get("sha256"):
            settings = Settings(**wanted)
        else:
            rule = f"{source} was trained on other data: {_size(saved.data)}"
            hint = "--data with the file it was trained on"
            raise CheckpointError(message("train", rule, _size(data), hint))
        if settings.data is not None:  # a resumed run may start in another folder
            settings = replace(settings, data=os.path.abspath(settings.data))
        return cls(settings, dataset, data, device)


def build(plan: Plan, saved: Checkpoint | None, path: Path) -> Run:
    """Model, optimiser and loop for a plan: fresh ones, or as ``saved`` has them."""
    settings, dataset, data, device = plan
    train, test = dataset.split(settings.test_fraction, settings.seed)
    valid = None
    if settings.validation:
        train, valid = replace(train, test=None).split(settings.validation, settings.seed)
    if settings.norm == "batch" and (len(train) - 1) % settings.batch_size == 0:
        rule = "batch normalisation needs two rows in every batch, and the last has one"
        got, hint = f"{len(train)} rows in batches of {settings.batch_size}", "another --batch-size"
        raise UsageError(message("train", rule, got, hint))
    scalers = prepare.fit_scalers(train) if saved is None else saved.scalers
    generator = Generator(settings.seed, device="cpu")
    model = nn.MLP(
        [data["features"], *settings.hidden, data["outputs"]],
        settings.activation,
        norm=settings.norm,
        dropout=settings.dropout,
        generator=generator,
        device=device,
    )
    optimizer = settings.optimiser(model)
    loop = Loop(
        model,
        optimizer,
        prepare.scaled(train, scalers),
        prepare.scaled(test, scalers),
        valid=None if valid is None else prepare.scaled(valid, scalers),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=settings.seed,
        device=device,
        average=settings.average,
        compiled=settings.compile,
        target_scale=scalers["y"].scale if "y" in scalers else 1.0,
        rates=settings.rates(optimizer, batch_count(len(train), settings.batch_size)),
        clip_norm=settings.clip_norm,
        patience=settings.patience,
        scaler=GradScaler(device=device) if settings.precision == "float16" else None,
    )
    if saved is not None:
        saved.restore(loop, generator, settings.lr)
    return Run(settings, data, loop, generator, scalers, device, path)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if backend.cuda_available() else "cpu"
    backend.get(name)  # raises DeviceError, saying what to install
    return name


def _size(data: Mapping[str, Any]) -> str:
    classes = data.get("classes")
    kind = f"{len(classes)} classes" if classes else f"{data.get('outputs')} numbers to predict"
    return f"{data.get('name')}, {data.get('rows')} rows, {data.get('features')} features, {kind}"
