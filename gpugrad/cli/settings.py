"""What decides a training run: the options, their defaults, and what may change later.

May import gpugrad.nn, optim, data and errors, and cli.options.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from gpugrad import nn, optim
from gpugrad.cli.options import (
    UsageError,
    below_one,
    count,
    defaults,
    fraction,
    from_zero,
    key,
    names,
    nonnegative,
    one_of,
    option,
    positive,
    switch,
    widths,
    words,
)
from gpugrad.data import Dataset
from gpugrad.errors import message

# Learning rates that train digits well; what an optimiser is called on the command line.
OPTIMIZERS: dict[str, tuple[type[optim.Optimizer], dict[str, float]]] = {
    "sgd": (optim.SGD, {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.0}),
    "adam": (optim.Adam, {"lr": 0.01, "weight_decay": 0.0}),
    "adamw": (optim.AdamW, {"lr": 0.01, "weight_decay": 0.01}),
    "rmsprop": (optim.RMSprop, {"lr": 0.005, "weight_decay": 0.0}),
    "adagrad": (optim.Adagrad, {"lr": 0.1, "weight_decay": 0.0}),
}
_RATES = ", ".join(f"{name} {known['lr']:g}" for name, (_, known) in OPTIMIZERS.items())
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
SCHEDULES = ("constant", "step", "cosine", "onecycle", "plateau")

# A resumed run may change these; ``data`` may have moved, and its contents are compared.
CHANGEABLE = {"data", "epochs", "lr", "patience", "device", "compile"}
# What a checkpoint means that was written before there were these options.
_EARLIER = {
    "drop": (),
    "compile": False,
    "norm": "none",
    "schedule": "constant",
    "warmup": 0,
    "decay_every": None,
    "decay_factor": None,
    "clip_norm": None,
    "precision": "float32",
    "validation": 0.0,
    "patience": None,
}


@dataclass(frozen=True)
class Settings:
    """Everything that, with the data, decides the weights. ``data`` is a path, None for digits."""

    data: str | None = option(
        "data",
        words,
        "folder (IDX, .npy), .npz, .csv or .parquet",
        "PATH",
        default=None,
        shown="digits",
    )
    target: str | None = option(
        "data", words, "CSV column or npz key to predict", "NAME", default=None, shown="last, y"
    )
    drop: tuple[str, ...] = option(
        "data", names, "columns of the table to leave out", "NAME,NAME", default=(), shown="none"
    )
    test_fraction: float = option(
        "data",
        fraction,
        "rows kept for testing where the data brings no test part",
        "F",
        default=0.2,
    )
    validation: float = option(
        "data",
        below_one,
        "part of the rows to train on that is kept to choose by",
        "F",
        shown="0.1 for --patience and plateau, else 0",
    )
    hidden: tuple[int, ...] = option("model", widths, "widths", "N,N", default=(128, 64))
    activation: str = option(
        "model",
        one_of(sorted(nn.ACTIVATIONS)),
        ", ".join(sorted(nn.ACTIVATIONS)),
        "NAME",
        default="sigmoid",
    )
    norm: str = option(
        "model",
        one_of(nn.NORMS),
        "normalise before each activation: batch, layer",
        "NAME",
        default="none",
    )
    dropout: float = option("model", below_one, "", "P", shown="0.25 for classes, 0.1 for numbers")
    optimizer: str = option(
        "training", one_of(OPTIMIZERS), ", ".join(OPTIMIZERS), "NAME", default="adam"
    )
    lr: float = option("training", positive, "learning rate", "LR", shown=_RATES)
    momentum: float | None = option("training", below_one, "of sgd", "M", shown="0.9")
    weight_decay: float = option("training", nonnegative, "", "W", shown="0.01 for adamw, else 0")
    schedule: str = option(
        "training",
        one_of(SCHEDULES),
        "how the rate changes: step, cosine, onecycle, plateau; of cosine and onecycle --epochs "
        "is the length",
        "NAME",
        default="constant",
    )
    warmup: int = option(
        "training", from_zero, "epochs in which the rate first rises to --lr", "N", default=0
    )
    decay_every: int | None = option(
        "training",
        count,
        "epochs before step and, without improvement, plateau lower the rate",
        "N",
        shown="a third of all for step, 5",
    )
    decay_factor: float | None = option(
        "training", fraction, "what they multiply it by", "F", shown="0.1"
    )
    clip_norm: float | None = option(
        "training",
        positive,
        "longest gradient, longer ones are scaled down",
        "L",
        default=None,
        shown="no limit",
    )
    precision: str = option(
        "training",
        one_of(PRECISIONS),
        "of matrix products: float32; tf32 and bfloat16, to which a GPU may round their operands; "
        "float16 with a scaled loss. Faster on a GPU alone",
        "NAME",
        default="float32",
    )
    average: float = option(
        "training",
        below_one,
        "part of the averaged weights kept each epoch; 0 to use the last ones",
        "D",
        default=0.9,
    )
    patience: int | None = option(
        "training",
        count,
        "stop after N epochs without a better loss on the validation part, and "
        "use the weights of the best",
        "N",
        default=None,
        shown="never",
    )
    batch_size: int = option("training", count, "", "N", default=64)
    epochs: int = option(
        "training",
        count,
        "in all, counting those before --resume",
        "N",
        shown="enough to see 250,000 rows, 10 to 200",
    )
    seed: int = option("training", from_zero, "", "N", default=0)
    device: str = option("training", words, "auto, cpu, cuda or cuda:N", "NAME", default="auto")
    compile: bool = option(
        "training", switch, "run each step as one compiled program, or op by op", default=True
    )

    @classmethod
    def fresh(cls, given: Mapping[str, Any], data: Dataset) -> "Settings":
        """The given options, completed for ``data``.

        Without ``epochs`` about 250,000 rows are seen, in 10 to 200 epochs; without ``dropout`` it
        is 0.25 for classes and 0.1 for regression. Raises UsageError for an option that would do
        nothing beside the others.
        """
        wanted = {**defaults(cls), **given}
        schedule = wanted["schedule"]
        epochs = wanted.get("epochs", min(max(round(25_000 / len(data)) * 10, 10), 200))
        choosing = wanted["patience"] is not None or schedule == "plateau"
        decays = {
            "step": {"decay_every": max(1, round(epochs / 3)), "decay_factor": 0.1},
            "plateau": {"decay_every": 5, "decay_factor": 0.1},
        }
        found = {
            "epochs": epochs,
            "dropout": 0.25 if data.classes else 0.1,
            "validation": 0.1 if choosing else 0.0,
            "momentum": None,
            **decays.get(schedule, {"decay_every": None, "decay_factor": None}),
            **OPTIMIZERS[wanted["optimizer"]][1],
        }
        own = cls(**{**found, **wanted})
        _refuse("momentum", found["momentum"] is None, given, f"--optimizer {own.optimizer}", "sgd")
        for name in ("decay_every", "decay_factor"):
            there = f"--schedule {schedule}"
            _refuse(name, schedule not in decays, given, there, "--schedule step or plateau")
        if own.warmup and schedule in ("onecycle", "plateau"):
            _refuse("warmup", True, given, f"--schedule {schedule}", "constant, step or cosine")
        if choosing and not own.validation:
            rule = "--patience and plateau look at a validation part"
            raise UsageError(message("train", rule, "--validation 0", "--validation 0.1"))
        return own

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> "Settings":
        """Settings from their JSON; ValueError or TypeError when it is not that."""
        values = {**_EARLIER, **values}
        if values.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"the settings are {sorted(values)}")
        lists = {"hidden": tuple(map(int, values["hidden"])), "drop": tuple(values["drop"])}
        return cls(**{**values, **lists})

    def resumed(self, given: Mapping[str, Any], path: object) -> "Settings":
        """These settings with the changes a resumed run may make; UsageError for any other."""
        free = CHANGEABLE - ({"patience"} if self.patience is None else set())
        for name, value in given.items():
            own = getattr(self, name)
            if name not in free and value != own:
                option = f"--{key(name)}"
                rule = f"{path} was trained with {option} {shown(own)}, and a resumed run keeps it"
                hint = f"leaving {option} out, or starting anew without --resume"
                raise UsageError(message("train", rule, shown(value), hint))
        return replace(self, **{name: given[name] for name in given.keys() & free})

    def optimiser(self, model: nn.Module) -> optim.Optimizer:
        make, options = OPTIMIZERS[self.optimizer]
        return make(model, **{name: getattr(self, name) for name in options})

    def rates(self, optimizer: optim.Optimizer, batches: int) -> optim.Schedule | None:
        """The schedule of the rate, by batches, of which an epoch has as many as given.

        Plateau's is by epochs. The momentum stays what it is.
        """
        first, total = self.warmup * batches, self.epochs * batches
        if self.schedule == "plateau":
            assert self.decay_factor is not None
            assert self.decay_every is not None
            patience = self.decay_every - 1
            return optim.ReduceLROnPlateau(optimizer, factor=self.decay_factor, patience=patience)
        if self.schedule == "onecycle":
            return optim.OneCycleLR(optimizer, self.lr, total, cycle_momentum=False)
        after: optim.Schedule | None = None
        if self.schedule == "cosine":
            after = optim.CosineAnnealingLR(optimizer, max(total - first, 1))
        elif self.schedule == "step":
            assert self.decay_factor is not None
            assert self.decay_every is not None
            after = optim.StepLR(optimizer, self.decay_every * batches, self.decay_factor)
        if not first:
            return after
        rising = optim.LinearLR(optimizer, 1 / first, total_iters=first)
        return rising if after is None else optim.SequentialLR(optimizer, [rising, after], [first])


def _refuse(name: str, useless: bool, given: Mapping[str, Any], beside: str, belongs: str) -> None:
    if useless and name in given:
        rule = f"--{key(name)} does nothing with {beside}"
        raise UsageError(message("train", rule, given[name], belongs))


def shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
