"""``gpugrad bench``: arguments, what is shown while it runs, and the files it leaves.

May import gpugrad.bench, errors and cli.options.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpugrad.cli.options import UsageError, count
from gpugrad.errors import MissingDependency, message


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser = commands.add_parser(
        "bench",
        help="time training steps beside NumPy, PyTorch, JAX and autograd",
        description="Time whole training steps, and what the tape costs, beside other libraries, "
        "each in a process of its own. Prints tables, saves every time as JSON and a report with "
        "plots as one HTML page. Contenders that are not installed are left out. Defaults are in "
        "parentheses.",
        epilog="example: gpugrad bench --suite mlp --contenders gpugrad,torch --quick",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--suite", default="mlp,tape", metavar="NAME,…", help="which cases (mlp,tape)"
    )
    parser.add_argument(
        "--shapes", metavar="CASE,…", help="these cases instead, as 128:784-128-10 or tape:1000"
    )
    parser.add_argument("--contenders", metavar="NAME,…", help="(all that the device can run)")
    parser.add_argument(
        "--optimizer", choices=["sgd", "adam"], default="sgd", help="of the steps (sgd)"
    )
    parser.add_argument("--rounds", type=count, metavar="N", help="(7)")
    parser.add_argument(
        "--quick", action="store_true", help="two short rounds: to see that it works"
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (cpu)")
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PATH",
        help="interpreter in which the other libraries are installed (this one)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder for bench.json and report.html (runs/bench-<time>)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the JSON on stdout, the tables on stderr"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure as the arguments say; the exit code."""
    # Deferred: the other subcommands need none of it.
    from gpugrad.bench import report, runner

    plan = plan_of(args)
    out = Path(args.out or time.strftime("runs/bench-%Y%m%d-%H%M%S"))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            message("bench", f"the folder {out} cannot be made", error.strerror, "another --out")
        ) from error
    stream = sys.stderr if args.json else sys.stdout
    target = out / "bench.json"

    redrawn = sys.stderr.isatty()

    def tell(line: str) -> None:
        print(f"\r{line}\x1b[K" if redrawn else line, end="" if redrawn else "\n", file=sys.stderr)
        sys.stderr.flush()

    def save(record: Mapping[str, Any]) -> None:
        text = json.dumps({**record, "summary": report.summary(record)}, indent=1)
        part = target.with_suffix(".part")
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(target)

    load, cores = (os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0), runner.cores()
    if load > cores / 2:
        tell(
            f"gpugrad: other programs are running (load {load:.1f} on {cores} cores): expect noise"
        )
    try:
        record = runner.run(plan, tell, save)
    except KeyboardInterrupt:
        tell(f"gpugrad: stopped; what was measured is in {target}")
        return 130
    rows = report.summary(record)
    print(file=stream)
    report.show(record, rows, stream)
    print(f"\nall times   {target}", file=stream)
    try:
        (out / "report.html").write_text(report.page(record, rows), encoding="utf-8")
        print(f"report      {out / 'report.html'}", file=stream)
    except MissingDependency as error:
        print(f"no report   {error}", file=stream)
    if args.json:
        print(target.read_text(encoding="utf-8"), end="")
    return 1 if record["status"] == "failed" else 0


def plan_of(args: argparse.Namespace) -> Any:
    """The plan the arguments describe. Raises `UsageError` for names that mean nothing."""
    from gpugrad import backend
    from gpugrad.bench import runner, suites
    from gpugrad.bench.contenders import CONTENDERS

    backend.get(args.device)  # raises DeviceError, saying what to install
    if args.shapes:
        wanted = _split(args.shapes)
        known = [case.name for cases in suites.SUITES.values() for case in cases]
        _refuse("shape", [n for n in wanted if suites.find(n) is None], [*known, "batch:in-…-out"])
        cases = [case for name in wanted if (case := suites.find(name))]
    else:
        wanted = _split(args.suite)
        _refuse("suite", [n for n in wanted if n not in suites.SUITES], list(suites.SUITES))
        cases = [case for name in wanted for case in suites.SUITES[name]]
    kind = args.device.partition(":")[0]
    able = [name for name, c in CONTENDERS.items() if kind in c.devices]
    names = _split(args.contenders) if args.contenders else able
    _refuse(f"contender on {kind}", [n for n in names if n not in able], able)
    return runner.Plan(
        cases=tuple(cases),
        contenders=tuple(dict.fromkeys(names)),
        rounds=args.rounds or (2 if args.quick else 7),
        round_s=0.02 if args.quick else 0.3,
        sample_s=0.002 if args.quick else 0.015,
        device=args.device,
        optimizer=args.optimizer,
        python=args.python,
    )


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _refuse(what: str, unknown: Sequence[str], known: Sequence[str]) -> None:
    if unknown:
        names = ", ".join(unknown)
        raise UsageError(message("bench", f"no such {what}", names, ", ".join(known)))
