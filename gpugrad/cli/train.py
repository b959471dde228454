"""``gpugrad train``: an MLP on digits, IDX, npz or CSV; interrupted and resumed at any batch.

May import the rest of cli, nn, backend, data and io.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import gpugrad as gg
from gpugrad import io
from gpugrad.cli import building, checkpoint, options, prepare
from gpugrad.cli.building import Run
from gpugrad.cli.loop import Diverged, Metrics
from gpugrad.cli.options import option, switch, words
from gpugrad.cli.report import Reporter, label, reporter, value_text
from gpugrad.cli.settings import Settings
from gpugrad.errors import CheckpointError, MissingDependency, message

SAVE_EPOCHS_S, SAVE_BATCHES_S = 1.0, 30.0  # least time between saves, after an epoch and within one


@dataclass(frozen=True)
class Output:
    """What a run leaves and shows."""

    out: str | None = option(
        "run",
        words,
        "checkpoint: a .safetensors file or a folder for it",
        "PATH",
        default=None,
        shown="runs/<data>",
    )
    report: bool = option("run", switch, "write report.html beside the checkpoint", default=True)
    json: bool = option("run", switch, "end with one JSON object on stdout", default=False)
    quiet: bool = option("run", switch, "show no progress, only the end", default=False)


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser = commands.add_parser(
        "train",
        help="train an MLP on handwritten digits or your own data",
        description="Train an MLP on scikit-learn's handwritten digits, or on --data: classes with "
        "cross-entropy, numbers with the mean squared error. Ctrl-C saves, and --resume goes on to "
        "the same bits. Defaults are in parentheses.",
        epilog="example: gpugrad train --data prices.csv --patience 20 --out runs/prices",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    options.add_arguments(parser, Settings, Output)
    parser.add_argument(
        "--config",
        metavar="PATH",
        help="options from a TOML file, under their long names: lr = 0.1. Others given here win",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print all options as such a file, as they would be used, and do nothing else",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="go on from this checkpoint (--out); --epochs, --lr, --patience, --device and --out "
        "may change",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train as the arguments say; the exit code."""
    told: dict[str, Any] = options.given(args, Settings, Output)
    if hasattr(args, "config"):
        told = {**options.read("train", args.config, Settings, Output), **told}
    output = Output(**{**options.defaults(Output), **_part(Output, told)})
    given = _part(Settings, told)
    place = output.out or f"runs/{prepare.name_of(given.get('data'))}"
    source, saved = None, None
    if hasattr(args, "resume"):
        source = checkpoint.path_of(args.resume or place)
        saved = checkpoint.read(source)
        place = output.out or str(source)
    plan = building.Plan.of(given, source, saved)
    if hasattr(args, "print_config"):
        _print_config({**_part(Output, told), **asdict(plan.settings)}, output.json)
        return 0
    this = building.build(plan, saved, checkpoint.path_of(place))
    stream = sys.stderr if output.json else sys.stdout
    try:
        # Diverged says more than NumPy's warnings.
        with stopping() as stop, _blas_threads(this), _rounding(this), np.errstate(all="ignore"):
            notes = [_headline(this), *_open(this, source)]
            if not output.quiet:
                print(*notes, sep="\n", file=stream, flush=True)
            started = time.perf_counter()
            with reporter(stream, this.loop, output.quiet) as report:
                interrupted = train(this, stop, report)
            seconds = time.perf_counter() - started
            test = {} if interrupted else this.loop.evaluate()
    except Diverged as error:
        where = f"epoch {error.epoch + 1}, batch {error.batch + 1}"
        print(
            f"gpugrad: training diverged in {where}: {error.what}. The last good checkpoint is "
            f"{this.path}. Try a lower --lr than {this.settings.lr:g}.",
            file=sys.stderr,
        )
        return 1
    result = summary(this, test, seconds, bool(interrupted))
    print(json.dumps(result) if output.json else _ending(this, result), flush=True)
    if output.report:
        where = _report(this, result)
        if not output.quiet:
            print(where, file=stream, flush=True)
    return 128 + interrupted if interrupted else 0


def _report(run: Run, result: Mapping[str, Any]) -> str:
    """Write the page, and say where it is or what stood in the way: the training is done."""
    from gpugrad.cli import training_page  # deferred: only now is matplotlib needed

    path = training_page.beside(run.path)
    try:
        training_page.write(path, run.loop, run.settings, run.data, run.scalers, result)
    except MissingDependency as error:
        return f"no report      {error}"
    except OSError as error:
        return f"no report      {path} cannot be written: {error.strerror or error}"
    return f"report         {path}"


# Multiplications in a layer below which a second BLAS thread brings nothing on an idle machine
# (measured: 64 × 128 × 64, equal), while on a busy one its waiting made an epoch 15 times slower.
_SMALL_PRODUCT = 4_000_000


def _blas_threads(run: Run) -> AbstractContextManager[Any]:
    """One BLAS thread for a small net; the choice depends on the net alone, as the bits do."""
    widest = max(a * b for a, b in pairwise(run.loop.model.sizes))
    if run.settings.batch_size * widest > _SMALL_PRODUCT:
        return nullcontext()
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(1, "blas")  # type: ignore[no-any-return]


def _rounding(run: Run) -> AbstractContextManager[Any]:
    """What float32 products may be rounded to; float16 is the loop's."""
    precision = run.settings.precision
    rounded = precision in ("tf32", "bfloat16")
    return gg.config.override(matmul=precision) if rounded else nullcontext()


def train(run: Run, stop: "Stop", report: Reporter) -> int:
    """Train to the end or a signal, saving on the way and at the end; the signal, or 0."""
    interrupted, warned = 0, False
    for position in run.loop:
        report.update(run.loop)
        if not (position.batch or warned) and (warned := run.loop.exploded):
            loss, lr = position.history[-1]["loss"], run.settings.lr
            print(
                f"gpugrad: the loss of epoch {position.epoch} is {loss:.3g}, and was "
                f"{run.loop.first_loss:.3g} at first. Try a lower --lr than {lr:g}.",
                file=sys.stderr,
            )
        if interrupted := stop.signal:
            break
        pause = SAVE_BATCHES_S if position.batch else SAVE_EPOCHS_S
        if time.perf_counter() - run.saved_at > pause:
            run.save()
    if run.loop.samples:
        run.save()
    return interrupted


def _part(holder: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: told[f.name] for f in fields(holder) if f.name in told}


def _print_config(values: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({options.key(name): value for name, value in values.items()}))
        return
    print(f"# gpugrad {gg.__version__}: gpugrad train --config <this file>")
    print(options.written(values, Settings, Output))


def summary(run: Run, test: Metrics, seconds: float, interrupted: bool) -> dict[str, Any]:
    """What ``--json`` prints. Losses are of standardised targets; seconds are of this session."""
    position, loop = run.loop.position, run.loop
    command = [*_invocation(), "train", "--resume", str(run.path)]
    if loop.stopped_early:
        command += ["--patience", str(2 * (loop.patience or 1))]
    elif not interrupted:
        command += ["--epochs", str(2 * position.epoch)]
    return {
        "status": "interrupted" if interrupted else "finished",
        "test": {**test, "rows": len(run.loop.test)},
        "epoch": position.epoch,
        "batch": position.batch,
        "best_epoch": loop.best_epoch,
        "stopped_early": loop.stopped_early,
        "checkpoint": str(run.path),
        "resume": shlex.join(command),
        "device": run.device,
        "seconds": seconds,
        "samples_per_s": run.loop.samples / max(seconds, 1e-9),
        "data": run.data,
        "config": asdict(run.settings),
        "history": position.history,
    }


def _open(run: Run, source: Path | None) -> list[str]:
    """Save before the first batch, so that what cannot be written shows now; what to tell."""
    notes = []
    if finished := run.loop.finished:
        more = "patience" if run.loop.stopped_early else "epochs"
        epochs = run.loop.position.epoch
        notes.append(f"already trained for {epochs} epochs; a higher --{more} goes on")
    if run.path != source:
        _make_folder(run.path)
        if run.path.exists():
            notes.append(f"the checkpoint of an earlier run is now {_set_aside(run.path)}")
    if run.path != source or not finished:
        run.save()
    return notes


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        rule = f"the folder of {path} cannot be made"
        raise CheckpointError(
            message("train", rule, error.strerror or error, "another --out")
        ) from error


def _set_aside(path: Path) -> Path:
    """Copy the checkpoint at ``path`` to a second name; a file of another kind is left alone."""
    try:
        checkpoint.read(path)
    except CheckpointError as error:
        rule = f"{path} exists, is no checkpoint of this command, and is left alone"
        raise CheckpointError(message("train", rule, error, "another --out")) from error
    kept = path.with_suffix(".previous.safetensors")
    io.save(kept, *io.read(path))
    return kept


class Stop:
    """Remembers the first SIGINT or SIGTERM; the second does what it always does."""

    signal = 0

    def __call__(self, number: int, frame: object) -> None:
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Signals ask the block to end, by ``stop.signal``; only the main thread can receive them."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _invocation() -> list[str]:
    """How this command was called, so that what is printed can be pasted."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("gpugrad", "__main__.py"):
        return [sys.executable, "-m", "gpugrad"]
    found = shutil.which("gpugrad")
    if called.stem == "gpugrad" and not (found and os.path.samefile(found, called)):
        return [str(called)]
    return ["gpugrad"]


def _headline(run: Run) -> str:
    s, loop = run.settings, run.loop
    sizes = "-".join(map(str, (run.data["features"], *s.hidden, run.data["outputs"])))
    chosen = f", {len(loop.valid)} to choose by" if loop.valid is not None else ""
    rows = f"{len(loop.train)} rows to train on{chosen}, {len(loop.test)} to test"
    norm = f" {s.norm} norm" if s.norm != "none" else ""
    model = f"MLP {sizes} {s.activation}{norm}, {s.optimizer} lr {s.lr:g}"
    model += f" {s.schedule}" if s.schedule != "constant" else ""
    model += f", {s.precision}" if s.precision != "float32" else ""
    p = loop.position
    start = f", going on after {p.epoch}" if p.epoch or p.batch else ""
    told = "".join(f"  {note}\n" for note in run.data["notes"])
    name = run.data["name"]
    return f"{name}: {rows}\n{told}{model}, {s.epochs} epochs{start}, on {run.device}"


def _ending(run: Run, result: Mapping[str, Any]) -> str:
    rows = []
    if result["status"] == "interrupted":
        batch = f"{result['batch']} of {run.loop.batches} batches"
        rows.append(("interrupted", f"after {result['epoch']} epochs and {batch}; saved"))
    elif result["best_epoch"] is not None:
        word = "stopped early" if result["stopped_early"] else "finished"
        best, epoch = result["best_epoch"], result["epoch"]
        rows.append((word, f"after {epoch} epochs, with the weights of epoch {best}"))
    for name, value in result["test"].items():
        if name in ("accuracy", "r2", "rmse"):
            rows.append((f"test {label(name)}", value_text(name, value)))
    rows.append(("checkpoint", result["checkpoint"]))
    rows.append(("go on with", result["resume"]))
    return "\n".join(f"{name:14} {text}" for name, text in rows)
