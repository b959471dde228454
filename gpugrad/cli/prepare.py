"""From a path to the arrays a model trains on: load, fingerprint, split, standardise.

May import gpugrad.data and errors.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpugrad import data
from gpugrad.data import Dataset, Scaler


def name_of(path: str | None) -> str:
    """What a run on this data is called: the file or folder without its endings."""
    if path is None:
        return "digits"
    return os.path.basename(os.path.abspath(path)).partition(".")[0] or "data"


def load(path: str | None, target: str | None) -> Dataset:
    return data.digits() if path is None else data.load(path, target)


def describe(dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint keeps of its data; equal ``sha256`` means equal rows in equal order."""
    digest = hashlib.sha256(repr((dataset.classes, dataset.x.shape, dataset.y.shape)).encode())
    for part in (dataset, dataset.test):
        if part is not None:
            digest.update(part.x)
            digest.update(part.y)
    return {
        "name": dataset.name,
        "rows": len(dataset),
        "features": dataset.x.shape[1],
        "outputs": len(dataset.classes) or (dataset.y.shape[1] if dataset.y.ndim == 2 else 1),
        "classes": list(dataset.classes),
        "feature_names": list(dataset.features),
        "sha256": digest.hexdigest(),
    }


@dataclass(frozen=True)
class Prepared:
    """A training and a test part as the model sees them, and the scalers that made them so."""

    train: Dataset
    test: Dataset
    scalers: dict[str, Scaler]  # "x", and "y" for regression

    @property
    def target_scale(self) -> NDArray[np.float32] | float:
        return self.scalers["y"].scale if "y" in self.scalers else 1.0


def prepare(train: Dataset, test: Dataset, table: bool) -> Prepared:
    """Standardise by the training part alone.

    Features of a ``table`` (CSV) always are; those of other sources unless every training value
    lies in 0..1, as pixels do. Regression targets always are, and become (n, outputs).
    """
    scalers = {}
    if table or train.x.min() < 0 or train.x.max() > 1:
        scalers["x"] = Scaler.fit(train.x)
    if not train.classes:
        scalers["y"] = Scaler.fit(train.y.reshape(len(train), -1))
    return Prepared(_scaled(train, scalers), _scaled(test, scalers), scalers)


def _scaled(part: Dataset, scalers: dict[str, Scaler]) -> Dataset:
    x = scalers["x"].apply(part.x) if "x" in scalers else part.x
    y = scalers["y"].apply(part.y.reshape(len(part), -1)) if "y" in scalers else part.y
    return replace(part, x=x, y=y, test=None)
