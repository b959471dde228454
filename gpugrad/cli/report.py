"""What a training run shows while it runs: a bar on a terminal, else lines, else nothing.

May import cli.loop; rich only for the bar.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

from gpugrad.cli.loop import Loop

LINES = 20  # at most, for a run of any length


class Reporter(Protocol):
    """Told about every batch."""

    def update(self, loop: Loop) -> None: ...


class Silent:
    def update(self, loop: Loop) -> None:
        pass


class Clock:
    """Samples a second of this run so far, and the time to its end at that rate."""

    def __init__(self, loop: Loop) -> None:
        self._start = time.perf_counter()
        self._total = max(loop.epochs - loop.position.epoch, 0) * len(loop.train)
        self._total -= min(loop.position.batch * loop.batch_size, self._total)

    def __call__(self, loop: Loop) -> str:
        rate = loop.samples / max(time.perf_counter() - self._start, 1e-9)
        minutes, seconds = divmod(round((self._total - loop.samples) / rate), 60)
        return f"{rate:,.0f} samples/s  ETA {minutes}:{seconds:02}"


class Lines:
    """A line after an epoch, evenly chosen when there are many, and after the last."""

    def __init__(self, stream: TextIO, loop: Loop) -> None:
        self._stream, self._clock = stream, Clock(loop)
        self._every = -(-max(loop.epochs - loop.position.epoch, 1) // LINES)

    def update(self, loop: Loop) -> None:
        epoch, batch = loop.at
        if batch or (epoch % self._every and not loop.finished):
            return
        p = loop.position
        width = len(str(loop.epochs))
        values = {name: value for name, value in p.history[-1].items() if name != "epoch"}
        text = f"epoch {p.epoch:{width}}/{loop.epochs}  {show(values)}  {self._clock(loop)}"
        print(text, file=self._stream, flush=True)


class Bar:
    """One line, redrawn ten times a second: how far, loss, accuracy, speed, time to the end."""

    def __init__(self, progress: Any, loop: Loop) -> None:
        self._progress, self._clock = progress, Clock(loop)
        self._task = progress.add_task("", total=loop.epochs * loop.batches, text="")
        self._due = 0.0

    def update(self, loop: Loop) -> None:
        now = time.perf_counter()
        if now < self._due and not loop.finished:
            return
        self._due = now + 0.1
        p = loop.position
        if not p.history or 4 * p.batch > loop.batches:  # a few batches alone would flicker
            rows = min(p.batch * loop.batch_size, len(loop.train))
            values = {"loss": p.loss_sum / rows}
            if loop.train.classes:
                values["accuracy"] = p.correct / rows
        else:
            values = {k: p.history[-1][k] for k in ("loss", "accuracy") if k in p.history[-1]}
        done = p.epoch * loop.batches + p.batch
        epoch = f"epoch {min(p.epoch + 1, loop.epochs)}/{loop.epochs}"
        text = f"{show(values)}  {self._clock(loop)}"
        self._progress.update(self._task, completed=done, description=epoch, text=text)
        self._progress.refresh()


@contextmanager
def reporter(stream: TextIO, loop: Loop, quiet: bool) -> Iterator[Reporter]:
    """The reporter that suits ``stream``; lines where rich is not installed."""
    if quiet:
        yield Silent()
    elif stream.isatty() and (progress := _rich(stream)) is not None:
        with progress:
            yield Bar(progress, loop)
    else:
        yield Lines(stream, loop)


def _rich(stream: TextIO) -> Any:
    """A rich progress line across the terminal, or None where rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column
    except ImportError:
        return None
    console = Console(file=stream)
    whole = Column(no_wrap=True)
    columns = [
        TextColumn("{task.description}", table_column=whole),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TextColumn("{task.fields[text]}", table_column=whole),
    ]
    if console.width < 80:  # the numbers alone fill it
        columns = [TextColumn("{task.description}  {task.fields[text]}", table_column=whole)]
    return Progress(*columns, console=console, auto_refresh=False, expand=True)


def show(values: Mapping[str, float]) -> str:
    """``loss 0.1234  accuracy 97.50 %`` and the like."""
    return "  ".join(f"{label(name)} {value_text(name, value)}" for name, value in values.items())


def label(name: str) -> str:
    """``test_r2`` as people read it: ``test R²``."""
    for short, whole in (("_", " "), ("r2", "R²"), ("rmse", "RMSE"), ("valid ", "validation ")):
        name = name.replace(short, whole)
    return name


def value_text(name: str, value: float) -> str:
    if name.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    if name == "lr":
        return f"{value:.3g}"
    return f"{value:.4f}" if 0.001 <= abs(value) < 1000 else f"{value:.3e}"
