"""``gpugrad export``: a trained model as an ONNX file. May import cli.trained and gpugrad.onnx."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from gpugrad import onnx
from gpugrad.cli import trained
from gpugrad.cli.options import UsageError
from gpugrad.errors import message


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser = commands.add_parser(
        "export",
        help="write a trained model as an ONNX file",
        description="Write a model that takes rows in the units of its data, standardisation "
        "included, and gives the probability of each class, or the numbers. Names of columns and "
        "classes are in its metadata.",
        epilog="example: gpugrad export runs/digits --out digits.onnx",
        allow_abbrev=False,
    )
    trained.add_arguments(parser)
    parser.add_argument("--out", metavar="PATH", help="(model.onnx beside the checkpoint)")
    parser.add_argument("--opset", type=int, default=17, metavar="N", help="17 to 21 (17)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export as the arguments say; the exit code."""
    model = trained.load(args)
    file = onnx.export(model, np.zeros((1, model.data["features"]), np.float32), opset=args.opset)
    for key, value in (("classes", model.classes), ("columns", model.features)):
        file.metadata_props.add(key=key, value=json.dumps(value))
    place = Path(args.checkpoint)
    folder = place.parent if place.suffix == ".safetensors" else place
    path = Path(args.out) if args.out else folder / "model.onnx"
    try:
        path.write_bytes(file.SerializeToString())
    except OSError as error:
        rule = f"{path} cannot be written"
        raise UsageError(
            message("export", rule, error.strerror or error, "another --out")
        ) from error
    if args.json:
        about = {"file": str(path), "opset": args.opset, "features": model.data["features"]}
        print(json.dumps({**about, "columns": model.features, "classes": model.classes}))
        return 0
    outputs = f"{len(model.classes)} probabilities" if model.classes else "numbers"
    print(f"{path}: float32 (batch, {model.data['features']}) to {outputs}, opset {args.opset}")
    return 0
