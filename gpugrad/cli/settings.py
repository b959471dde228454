"""What decides a training run: the options, their types, their defaults, and what may change later.

May import gpugrad.nn, optim, data and errors.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from gpugrad import nn, optim
from gpugrad.data import Dataset
from gpugrad.errors import GpugradError, message


class UsageError(GpugradError):
    """Arguments the command cannot follow."""


# Learning rates that train digits well; what an optimiser is called on the command line.
OPTIMIZERS: dict[str, tuple[type[optim.Optimizer], dict[str, float]]] = {
    "sgd": (optim.SGD, {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.0}),
    "adam": (optim.Adam, {"lr": 0.01, "weight_decay": 0.0}),
    "adamw": (optim.AdamW, {"lr": 0.01, "weight_decay": 0.01}),
    "rmsprop": (optim.RMSprop, {"lr": 0.005, "weight_decay": 0.0}),
    "adagrad": (optim.Adagrad, {"lr": 0.1, "weight_decay": 0.0}),
}

# A resumed run may change these; ``data`` may have moved, and its contents are compared.
CHANGEABLE = {"data", "epochs", "lr", "device", "compile"}


@dataclass(frozen=True)
class Settings:
    """Everything that, with the data, decides the weights. ``data`` is a path, None for digits."""

    data: str | None
    target: str | None
    test_fraction: float
    hidden: tuple[int, ...]
    activation: str
    dropout: float
    optimizer: str
    lr: float
    momentum: float | None
    weight_decay: float
    average: float
    batch_size: int
    epochs: int
    seed: int
    device: str
    compile: bool

    @classmethod
    def fresh(cls, given: Mapping[str, Any], data: Dataset) -> "Settings":
        """The given options, completed for ``data``.

        Without ``epochs`` about 250,000 rows are seen, in 10 to 200 epochs; without ``dropout`` it
        is 0.25 for classes and 0.1 for regression. Raises UsageError for a momentum outside sgd.
        """
        optimizer = given.get("optimizer", "adam")
        defaults: dict[str, Any] = {
            "data": None,
            "target": None,
            "test_fraction": 0.2,
            "hidden": (128, 64),
            "activation": "sigmoid",
            "dropout": 0.25 if data.classes else 0.1,
            "optimizer": optimizer,
            "momentum": None,
            "average": 0.9,
            "batch_size": 64,
            "epochs": min(max(round(25_000 / len(data)) * 10, 10), 200),
            "seed": 0,
            "device": "auto",
            "compile": True,
            **OPTIMIZERS[optimizer][1],
        }
        if "momentum" in given and defaults["momentum"] is None:
            rule = f"--momentum belongs to --optimizer sgd; {optimizer} has none"
            raise UsageError(message("train", rule, given["momentum"]))
        return cls(**{**defaults, **given})

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> "Settings":
        """Settings from their JSON; ValueError or TypeError when it is not that."""
        values = {"compile": False, **values}  # written before steps were compiled
        if values.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"the settings are {sorted(values)}")
        return cls(**{**values, "hidden": tuple(map(int, values["hidden"]))})

    def resumed(self, given: Mapping[str, Any], path: object) -> "Settings":
        """These settings with the changes a resumed run may make; UsageError for any other."""
        for name, value in given.items():
            own = getattr(self, name)
            if name not in CHANGEABLE and value != own:
                option = "--" + name.replace("_", "-")
                rule = f"{path} was trained with {option} {_shown(own)}, and a resumed run keeps it"
                hint = f"leaving {option} out, or starting anew without --resume"
                raise UsageError(message("train", rule, _shown(value), hint))
        return replace(self, **{name: given[name] for name in given.keys() & CHANGEABLE})

    def optimiser(self, model: nn.Module) -> optim.Optimizer:
        make, options = OPTIMIZERS[self.optimizer]
        return make(model, **{name: getattr(self, name) for name in options})


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# Types of arguments, for argparse, which adds the option's name to the message.


def number(text: str, kind: type, rule: str, fits: Callable[[Any], bool]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"{rule} is needed; got {text!r}")
    return value


def count(text: str) -> Any:
    return number(text, int, "an integer of at least 1", lambda x: x >= 1)


def seed(text: str) -> Any:
    return number(text, int, "an integer of at least 0", lambda x: x >= 0)


def positive(text: str) -> Any:
    return number(text, float, "a number above 0", lambda x: x > 0)


def nonnegative(text: str) -> Any:
    return number(text, float, "a number of at least 0", lambda x: x >= 0)


def below_one(text: str) -> Any:
    return number(text, float, "a number of at least 0 and below 1", lambda x: 0 <= x < 1)


def fraction(text: str) -> Any:
    return number(text, float, "a number between 0 and 1", lambda x: 0 < x < 1)


def widths(text: str) -> tuple[int, ...]:
    return tuple(map(count, text.split(",")))
