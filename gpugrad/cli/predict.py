"""``gpugrad predict``: a CSV of predictions for rows without answers. May import cli.trained."""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from gpugrad.cli import trained
from gpugrad.cli.options import UsageError
from gpugrad.data import load_inputs
from gpugrad.errors import message


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser = commands.add_parser(
        "predict",
        help="predict with a trained model",
        description="Predict for the rows of a CSV, whose columns are found by name, or of an .npz "
        "with an array x. Prints CSV: the class and the probability of each, or the numbers.",
        epilog="example: gpugrad predict runs/prices --data new.csv --out prices.csv",
        allow_abbrev=False,
    )
    trained.add_arguments(parser)
    parser.add_argument(
        "--data", required=True, metavar="PATH", help=".csv, .parquet, .npz or .npy"
    )
    parser.add_argument("--out", metavar="PATH", help="write the CSV there instead")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON array, an object a row, instead"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict as the arguments say; the exit code."""
    model = trained.load(args)
    x = load_inputs(args.data, model.columns)
    values = model.predict(x).tolist()
    with _output(args.out) as stream:
        records = [_record(model, row) for row in values]
        if args.json:
            lines = ",\n".join(map(json.dumps, records))
            print(f"[\n{lines}\n]", file=stream)
        else:
            writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
    if args.out:
        told = f"{len(values)} predictions in {args.out}"
        print(json.dumps({"file": args.out, "rows": len(values)}) if args.json else told)
    return 0


def _record(model: trained.Trained, row: list[float]) -> dict[str, Any]:
    """One row's prediction by name; float32 as the shortest text that is the same number."""
    short = [float(f"{value:.9g}") for value in row]
    if model.classes:
        named = {f"p_{name}": p for name, p in zip(model.classes, short, strict=True)}
        return {"prediction": model.classes[short.index(max(short))], **named}
    if len(short) == 1:
        return {"prediction": short[0]}
    return {f"prediction_{i}": value for i, value in enumerate(short)}


@contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    if path is None:
        yield sys.stdout
        return
    try:
        with open(path, "w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        rule, got = f"{path} cannot be written", error.strerror or error
        raise UsageError(message("predict", rule, got, "another --out")) from error
