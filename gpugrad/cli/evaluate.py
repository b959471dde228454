"""``gpugrad evaluate``: how good a trained model is. May import cli.trained, prepare and report."""

import argparse
import json
from typing import Any

from gpugrad.cli import prepare, trained
from gpugrad.cli.report import label, show, value_text
from gpugrad.data import load


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser = commands.add_parser(
        "evaluate",
        help="judge a trained model, on its test part or on other data",
        description="Loss and accuracy, or loss, RMSE and R², on the rows that were kept for "
        "testing when the model was trained, or on all rows of --data, "
        "and whether it was trained on these.",
        epilog="example: gpugrad evaluate runs/digits --json",
        allow_abbrev=False,
    )
    trained.add_arguments(parser)
    parser.add_argument(
        "--data", metavar="PATH", help="folder (IDX, .npy), .npz, .csv, .parquet (test part)"
    )
    parser.add_argument("--target", metavar="NAME", help="CSV column or npz key (as trained)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Judge as the arguments say; the exit code."""
    model = trained.load(args)
    settings = model.settings
    target = settings.target if args.target is None else args.target
    more: dict[str, Any] = {}
    if args.data is None:
        whole = prepare.load(settings.data, target, settings.drop)
        _, rows = whole.split(settings.test_fraction, settings.seed)
        what = f"the test part of {whole.name}"
    else:
        rows = load(args.data, target, model.columns, model.classes)
        what = rows.name
        more["trained_on"] = prepare.describe(rows)["sha256"] == model.data.get("sha256")
        if more["trained_on"]:
            _, held = rows.split(settings.test_fraction, settings.seed)
            more["test"] = {"rows": len(held), **model.metrics(held)}
    found = model.metrics(rows)
    if args.json:
        print(json.dumps({"data": what, "rows": len(rows), **found, **more}))
        return 0
    lines = [("on", f"{what}, {len(rows)} rows")]
    lines += [(label(name), value_text(name, value)) for name, value in found.items()]
    if test := more.get("test"):
        shown = show({name: value for name, value in test.items() if name != "rows"})
        text = f"it was trained on rows of these; on the {test['rows']} kept for testing: {shown}"
        lines.append(("note", text))
    print("\n".join(f"{name:10} {text}" for name, text in lines))
    return 0
