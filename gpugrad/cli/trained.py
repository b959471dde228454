"""A checkpoint as something to use: rows as they are in a file in, probabilities or numbers out.

May import cli.checkpoint, settings and loop, nn and data.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpugrad as gg
from gpugrad import backend, nn
from gpugrad.cli import checkpoint, loop
from gpugrad.data import Column, Dataset, Rows, Scaler
from gpugrad.errors import DataError, message


class Trained(nn.Module):
    """The model of one checkpoint, with its standardisation before and its meaning after it.

    ``forward`` takes rows (n, features) in the units of the data. It gives probabilities
    (n, classes), or numbers (n, outputs) in the units of the data.
    """

    def __init__(self, path: Path, device: str) -> None:
        saved = checkpoint.read(path)
        self.settings, self.scalers = saved.settings, saved.scalers
        self.data = saved.data
        self.classes = tuple(saved.data["classes"])
        self.columns = [Column.restored(column) for column in saved.data.get("columns", [])]
        self.features = tuple(saved.data["feature_names"])
        self.device = device
        sizes = [saved.data["features"], *saved.settings.hidden, saved.data["outputs"]]
        settings = saved.settings
        # Dropout does nothing here, but layers are numbered with it.
        self.model = nn.MLP(
            sizes,
            settings.activation,
            norm=settings.norm,
            dropout=settings.dropout,
            device=device,
        )
        self.model.load_state_dict(saved.model)
        self.scale = {
            name: [gg.asarray(part, device=device) for part in (scaler.mean, scaler.scale)]
            for name, scaler in saved.scalers.items()
        }

    def forward(self, x: Any) -> gg.Tensor:
        rows: gg.Tensor = gg.asarray(x)
        if "x" in self.scale:
            mean, scale = self.scale["x"]
            rows = (rows - mean) / scale
        z = self.model(rows)
        if self.classes:
            return nn.softmax(z)
        mean, scale = self.scale["y"]
        numbers: gg.Tensor = z * scale + mean
        return numbers

    def predict(self, x: NDArray[Any] | Rows) -> NDArray[np.float32]:
        """What `forward` gives for all rows, in host memory."""
        wanted = self.data["features"]
        if x.shape[1] != wanted:
            got = f"{x.shape[1]} columns"
            raise DataError(message("predict", f"the model was trained on {wanted}", got))
        return loop.predict(self, x, self.device)

    def metrics(self, data: Dataset) -> loop.Metrics:
        """Loss and accuracy, or loss, rmse and r2, on ``data``; losses of standardised targets."""
        data = self._as_trained(data)
        x = self.scalers["x"].apply(data.x) if "x" in self.scalers else data.x
        outputs = loop.predict(self.model, x, self.device)
        if self.classes:
            return loop.metrics(outputs, data)
        y: Scaler = self.scalers["y"]
        targets = y.apply(data.y.reshape(len(data), -1))
        return loop.metrics(outputs, replace(data, y=targets, test=None), y.scale)

    def _as_trained(self, data: Dataset) -> Dataset:
        """``data`` with its labels as the model knows them."""
        if data.x.shape[1] != self.data["features"]:
            got = f"{data.x.shape[1]}, the model's: {self.data['features']}"
            raise DataError(message("evaluate", f"{data.name}: another number of features", got))
        if bool(data.classes) != bool(self.classes):
            if data.classes and all(map(_number, data.classes)):  # few different whole numbers
                values = np.array(data.classes, np.float64)[data.y]
                return replace(data, y=values, classes=(), test=None)
            kinds = ("classes", "numbers") if data.classes else ("numbers", "classes")
            rule = f"{data.name}: the target is {kinds[0]}, and the model predicts {kinds[1]}"
            raise DataError(message("evaluate", rule, hint="--target <another column>"))
        if unknown := sorted(set(data.classes) - set(self.classes)):
            rule = f"{data.name}: classes the model was not trained on"
            raise DataError(message("evaluate", rule, ", ".join(unknown)))
        if data.classes != self.classes:
            labels = np.array([self.classes.index(name) for name in data.classes])
            return replace(data, y=labels[data.y], classes=self.classes, test=None)
        return data


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint and the device, of each command that uses a trained model."""
    parser.add_argument(
        "checkpoint", help="the .safetensors that gpugrad train left, or the folder it is in"
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (cpu)")


def load(args: argparse.Namespace) -> Trained:
    """The model that the arguments name."""
    backend.get(args.device)  # raises DeviceError, saying what to install
    return Trained(checkpoint.path_of(args.checkpoint), args.device)
