"""From a path to the arrays a model trains on: load, fingerprint, split, standardise.

May import gpugrad.data and errors.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gpugrad import data
from gpugrad.data import Dataset, Scaler
from gpugrad.data.rows import blocks


def name_of(path: str | None) -> str:
    """What a run on this data is called: the file or folder without its endings."""
    if path is None:
        return "digits"
    return os.path.basename(os.path.abspath(path)).partition(".")[0] or "data"


def load(path: str | None, target: str | None, drop: Sequence[str]) -> Dataset:
    return data.digits() if path is None else data.load(path, target, drop=drop)


def describe(dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint keeps of its data; equal ``sha256`` means equal rows in equal order."""
    digest = hashlib.sha256(repr((dataset.classes, dataset.x.shape, dataset.y.shape)).encode())
    for part in (dataset, dataset.test):
        if part is not None:
            for block in (*blocks(part.x), part.y):
                digest.update(block.data)
    return {
        "name": dataset.name,
        "rows": len(dataset),
        "features": dataset.x.shape[1],
        "outputs": len(dataset.classes) or (dataset.y.shape[1] if dataset.y.ndim == 2 else 1),
        "classes": list(dataset.classes),
        "feature_names": list(dataset.features),
        "columns": [column.stored() for column in dataset.columns],
        "notes": list(dataset.notes),
        "sha256": digest.hexdigest(),
    }


def fit_scalers(train: Dataset) -> dict[str, Scaler]:
    """How to standardise: ``x``, where features need it, and ``y`` for regression.

    Features of a table always are; those of other sources unless every training value
    lies in 0..1, as pixels do. Only the training part is looked at.
    """
    scalers = {}
    if train.columns or any(b.min() < 0 or b.max() > 1 for b in blocks(train.x)):
        scalers["x"] = Scaler.fit(train.x)
    if not train.classes:
        scalers["y"] = Scaler.fit(train.y.reshape(len(train), -1))
    return scalers


def scaled(part: Dataset, scalers: dict[str, Scaler]) -> Dataset:
    """``part`` as the model sees it; regression targets become (n, outputs)."""
    x = scalers["x"].apply(part.x) if "x" in scalers else part.x
    y = scalers["y"].apply(part.y.reshape(len(part), -1)) if "y" in scalers else part.y
    return replace(part, x=x, y=y, test=None)
