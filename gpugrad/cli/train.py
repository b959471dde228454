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
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpugrad import backend, io, nn
from gpugrad.cli import checkpoint, prepare
from gpugrad.cli import settings as types
from gpugrad.cli.checkpoint import Checkpoint
from gpugrad.cli.loop import Diverged, Loop, Metrics
from gpugrad.cli.report import Reporter, label, reporter, value_text
from gpugrad.cli.settings import OPTIMIZERS, Settings, UsageError
from gpugrad.data import Scaler
from gpugrad.errors import CheckpointError, MissingDependency, message
from gpugrad.random import Generator

SAVE_EPOCHS_S, SAVE_BATCHES_S = 1.0, 30.0  # least time between saves, after an epoch and within one


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser = commands.add_parser(
        "train",
        help="train an MLP on handwritten digits or your own data",
        description="Train an MLP on scikit-learn's handwritten digits, or on --data: classes with "
        "cross-entropy, numbers with the mean squared error. Ctrl-C saves, and --resume goes on to "
        "the same bits. Defaults are in parentheses.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", metavar="PATH", help="IDX folder, .npz or .csv (digits)")
    data.add_argument("--target", metavar="NAME", help="CSV column or npz key to predict (last, y)")
    data.add_argument(
        "--test-fraction",
        type=types.fraction,
        metavar="F",
        help="rows kept for testing where the data brings no test part (0.2)",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--hidden", type=types.widths, metavar="N,N", help="widths (128,64)")
    activations = sorted(nn.ACTIVATIONS)
    model.add_argument(
        "--activation",
        choices=activations,
        metavar="NAME",
        help=f"{', '.join(activations)} (sigmoid)",
    )
    model.add_argument(
        "--dropout", type=types.below_one, metavar="P", help="(0.25 for classes, 0.1 for numbers)"
    )
    training = parser.add_argument_group("training")
    rates = ", ".join(f"{name} {options['lr']:g}" for name, (_, options) in OPTIMIZERS.items())
    training.add_argument(
        "--optimizer",
        choices=list(OPTIMIZERS),
        metavar="NAME",
        help=f"{', '.join(OPTIMIZERS)} (adam)",
    )
    training.add_argument("--lr", type=types.positive, help=f"learning rate ({rates})")
    training.add_argument("--momentum", type=types.below_one, metavar="M", help="of sgd (0.9)")
    training.add_argument(
        "--weight-decay", type=types.nonnegative, metavar="W", help="(0.01 for adamw, else 0)"
    )
    training.add_argument(
        "--average",
        type=types.below_one,
        metavar="D",
        help="part of the averaged weights kept each epoch; 0 to use the last ones (0.9)",
    )
    training.add_argument("--batch-size", type=types.count, metavar="N", help="(64)")
    training.add_argument(
        "--epochs",
        type=types.count,
        metavar="N",
        help="in all, counting those before --resume (enough to see 250,000 rows, 10 to 200)",
    )
    training.add_argument("--seed", type=types.seed, metavar="N", help="(0)")
    training.add_argument("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N (auto)")
    training.add_argument(
        "--no-compile",
        dest="compile",
        action="store_false",
        help="run each step op by op instead of as one compiled program",
    )
    run_ = parser.add_argument_group("run")
    run_.add_argument(
        "--out",
        default=None,
        metavar="PATH",
        help="checkpoint: a .safetensors file or a folder for it (runs/<data>)",
    )
    run_.add_argument(
        "--resume",
        nargs="?",
        const="",
        default=None,
        metavar="PATH",
        help="go on from this checkpoint (--out); --epochs, --lr, --device and --out may change",
    )
    run_.add_argument(
        "--no-report",
        dest="report",
        action="store_false",
        default=True,
        help="write no report.html beside the checkpoint",
    )
    run_.add_argument(
        "--json", action="store_true", default=False, help="end with one JSON object on stdout"
    )
    run_.add_argument(
        "--quiet", action="store_true", default=False, help="show no progress, only the end"
    )
    parser.set_defaults(run=run)


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


def run(args: argparse.Namespace) -> int:
    """Train as the arguments say; the exit code."""
    given = {f.name: getattr(args, f.name) for f in fields(Settings) if hasattr(args, f.name)}
    place = args.out or f"runs/{prepare.name_of(given.get('data'))}"
    source, saved = None, None
    if args.resume is not None:
        source = checkpoint.path_of(args.resume or place)
        saved = _found(source)
        place = args.out or str(source)
    this = build(given, source, saved, checkpoint.path_of(place))
    stream = sys.stderr if args.json else sys.stdout
    try:
        # Diverged says more than NumPy's warnings.
        with stopping() as stop, _blas_threads(this), np.errstate(all="ignore"):
            notes = [_headline(this), *_open(this, source)]
            if not args.quiet:
                print(*notes, sep="\n", file=stream, flush=True)
            started = time.perf_counter()
            with reporter(stream, this.loop, args.quiet) as report:
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
    print(json.dumps(result) if args.json else _ending(this, result), flush=True)
    if args.report:
        told = _report(this, result)
        if not args.quiet:
            print(told, file=stream, flush=True)
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


def train(run: Run, stop: "Stop", report: Reporter) -> int:
    """Train to the end or a signal, saving on the way and at the end; the signal, or 0."""
    interrupted = 0
    for position in run.loop:
        report.update(run.loop)
        if interrupted := stop.signal:
            break
        pause = SAVE_BATCHES_S if position.batch else SAVE_EPOCHS_S
        if time.perf_counter() - run.saved_at > pause:
            run.save()
    if run.loop.samples:
        run.save()
    return interrupted


def build(
    given: Mapping[str, Any], source: Path | None, saved: Checkpoint | None, path: Path
) -> Run:
    """Data, model, optimiser and loop: fresh ones, or those of ``saved``, read from ``source``."""
    wanted = {"data": None, "target": None, "device": "auto", **given}
    if saved is not None:
        wanted = vars(saved.settings.resumed(given, source))
    elif "target" in given and "data" not in given:
        raise UsageError(message("train", "--target belongs to --data", given["target"]))
    device = _device(wanted["device"])
    dataset = prepare.load(wanted["data"], wanted["target"])
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
    train, test = dataset.split(settings.test_fraction, settings.seed)
    table = settings.data is not None and settings.data.lower().endswith((".csv", ".csv.gz"))
    scalers = prepare.fit_scalers(train, table) if saved is None else saved.scalers
    generator = Generator(settings.seed, device="cpu")
    model = nn.MLP(
        [data["features"], *settings.hidden, data["outputs"]],
        settings.activation,
        dropout=settings.dropout,
        generator=generator,
        device=device,
    )
    loop = Loop(
        model,
        settings.optimiser(model),
        prepare.scaled(train, scalers),
        prepare.scaled(test, scalers),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=settings.seed,
        device=device,
        average=settings.average,
        compiled=settings.compile,
        target_scale=scalers["y"].scale if "y" in scalers else 1.0,
    )
    if saved is not None:
        saved.restore(loop, generator)
        loop.optimizer.lr = settings.lr
    return Run(settings, data, loop, generator, scalers, device, path)


def summary(run: Run, test: Metrics, seconds: float, interrupted: bool) -> dict[str, Any]:
    """What ``--json`` prints. Losses are of standardised targets; seconds are of this session."""
    position = run.loop.position
    command = [*_invocation(), "train", "--resume", str(run.path)]
    if not interrupted:
        command += ["--epochs", str(2 * position.epoch)]
    return {
        "status": "interrupted" if interrupted else "finished",
        "test": {**test, "rows": len(run.loop.test)},
        "epoch": position.epoch,
        "batch": position.batch,
        "checkpoint": str(run.path),
        "resume": shlex.join(command),
        "device": run.device,
        "seconds": seconds,
        "samples_per_s": run.loop.samples / max(seconds, 1e-9),
        "data": run.data,
        "config": asdict(run.settings),
        "history": position.history,
    }


def _found(path: Path) -> Checkpoint:
    if not path.exists():
        hint = "the path of a checkpoint after --resume, or a run without --resume"
        raise CheckpointError(message("train", f"there is no checkpoint at {path}", hint=hint))
    return checkpoint.read(path)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if backend.cuda_available() else "cpu"
    backend.get(name)  # raises DeviceError, saying what to install
    return name


def _open(run: Run, source: Path | None) -> list[str]:
    """Save before the first batch, so that what cannot be written shows now; what to tell."""
    notes = []
    if finished := run.loop.position.epoch >= run.settings.epochs:
        epochs = run.loop.position.epoch
        notes.append(f"already trained for {epochs} epochs; a higher --epochs goes on")
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


def _size(data: Mapping[str, Any]) -> str:
    classes = data.get("classes")
    kind = f"{len(classes)} classes" if classes else f"{data.get('outputs')} numbers to predict"
    return f"{data.get('name')}, {data.get('rows')} rows, {data.get('features')} features, {kind}"


def _headline(run: Run) -> str:
    s, loop = run.settings, run.loop
    sizes = "-".join(map(str, (run.data["features"], *s.hidden, run.data["outputs"])))
    rows = f"{len(loop.train)} rows to train on, {len(loop.test)} to test"
    model = f"MLP {sizes} {s.activation}, {s.optimizer} lr {s.lr:g}"
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
    for name, value in result["test"].items():
        if name in ("accuracy", "r2", "rmse"):
            rows.append((f"test {label(name)}", value_text(name, value)))
    rows.append(("checkpoint", result["checkpoint"]))
    rows.append(("go on with", result["resume"]))
    return "\n".join(f"{name:14} {text}" for name, text in rows)
