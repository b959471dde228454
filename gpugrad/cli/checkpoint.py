"""A training run in one safetensors file, written atomically: enough to go on to the same bits.

Tensors: ``model.*`` the weights to use; ``averaged.*`` where those are of an earlier epoch;
``trained.*`` those to train on from; ``optimizer.*``; ``scaler.*``; ``rng``. Settings, data and
position are JSON in the metadata.
May import gpugrad.io and cli.loop, settings.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpugrad import io
from gpugrad.cli.loop import Diverged, Loop, Position
from gpugrad.cli.settings import Settings
from gpugrad.data import Scaler
from gpugrad.errors import CheckpointError, message
from gpugrad.random import Generator

Array = NDArray[Any]

FORMAT = 1
KEY = "gpugrad"  # of the metadata


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a file. ``data`` is what `prepare.describe` said of the dataset."""

    settings: Settings
    data: dict[str, Any]
    position: Position
    model: dict[str, Array]
    averaged: dict[str, Array]
    trained: dict[str, Array]
    optimizer: dict[str, Array]
    scalers: dict[str, Scaler]
    rng: list[int]
    loss_scale: dict[str, Any]  # of a run in float16

    def restore(self, loop: Loop, generator: Generator, lr: float) -> None:
        """Put weights, optimiser, random state and position into a run that was built alike."""
        loop.model.load_state_dict(self.trained)
        loop.averaged.load_state_dict(self.averaged or self.model)
        if loop.best is not None:
            loop.best.load_state_dict(self.model)
        loop.optimizer.load_state_dict(self.optimizer)
        generator.state = self.rng
        loop.scaler.load_state_dict(self.loss_scale)
        loop.go_on(self.position, lr)


def path_of(place: str) -> Path:
    """The file itself if ``place`` ends in .safetensors, else the checkpoint in that folder."""
    path = Path(place)
    return path if path.suffix == ".safetensors" else path / "checkpoint.safetensors"


def read(path: Path) -> Checkpoint:
    """The checkpoint at ``path``; CheckpointError when it is not one that this version wrote."""
    if not path.exists():
        rule, hint = f"there is no checkpoint at {path}", "the one that gpugrad train printed"
        raise CheckpointError(message("checkpoint", rule, hint=hint))
    tensors, metadata = io.read(path)
    if KEY not in metadata:
        rule = f"{path} holds tensors, but not a training run of gpugrad"
        raise CheckpointError(message("checkpoint", rule, hint="a file that gpugrad train wrote"))
    try:
        stored = json.loads(metadata[KEY])
        if stored["format"] != FORMAT:
            rule = f"{path}: this gpugrad reads checkpoints of format {FORMAT}"
            hint = f"gpugrad {stored['version']}, which wrote it"
            raise CheckpointError(message("checkpoint", rule, stored["format"], hint))
        position = Position(**stored["position"])
        if min(position.epoch, position.batch) < 0:
            raise ValueError(f"epoch {position.epoch}, batch {position.batch}")
        scaler = _part("scaler.", tensors)
        names = {name.partition(".")[0] for name in scaler}
        return Checkpoint(
            Settings.stored(stored["settings"]),
            dict(stored["data"]),
            position,
            _part("model.", tensors),
            _part("averaged.", tensors),
            _part("trained.", tensors),
            _part("optimizer.", tensors),
            {name: Scaler(scaler[f"{name}.mean"], scaler[f"{name}.scale"]) for name in names},
            tensors["rng"].tolist(),
            stored.get("loss_scale", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        rule = f"{path}: the record of the run is damaged"
        got, hint = f"{type(error).__name__}: {error}", "an earlier checkpoint"
        raise CheckpointError(message("checkpoint", rule, got, hint)) from error


def _part(prefix: str, tensors: dict[str, Array]) -> dict[str, Array]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def write(
    path: Path,
    settings: Settings,
    data: Mapping[str, Any],
    loop: Loop,
    generator: Generator,
    scalers: Mapping[str, Scaler],
) -> None:
    """Store the run as it stands; for weights that are not finite raise Diverged instead."""
    from gpugrad import __version__

    p = loop.position
    trained = loop.model.state_dict()
    for name, value in trained.items():
        if not np.isfinite(value.to("cpu").numpy()).all():
            raise Diverged(f"{name} holds values that are not finite", p.epoch, max(p.batch - 1, 0))
    groups = {
        "model": loop.chosen.state_dict(),
        "averaged": {} if loop.best is None else loop.averaged.state_dict(),
        "trained": trained,
        "optimizer": loop.optimizer.state_dict(),
    }
    tensors: dict[str, Any] = {f"{g}.{name}": x for g in groups for name, x in groups[g].items()}
    for name, scaler in scalers.items():
        tensors |= {f"scaler.{name}.mean": scaler.mean, f"scaler.{name}.scale": scaler.scale}
    tensors["rng"] = np.array(generator.state, np.uint64)
    record = {
        "format": FORMAT,
        "version": __version__,
        "settings": asdict(settings),
        "data": dict(data),
        "position": asdict(p),
        "loss_scale": loop.scaler.state_dict(),
    }
    io.save(path, tensors, {KEY: json.dumps(record)})
