"""``gpugrad graph``: a picture of a trained model, of its training step, or of a function.

May import the rest of cli, drawing, backend and data.
"""

import argparse
import difflib
import importlib
import importlib.util
import json
import math
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

import gpugrad as gg
from gpugrad import backend, nn
from gpugrad.cli import building, checkpoint
from gpugrad.cli.options import UsageError
from gpugrad.config import override
from gpugrad.data import batches
from gpugrad.drawing import MODES, Picture
from gpugrad.drawing.graph import Graph
from gpugrad.drawing.record import Glance
from gpugrad.errors import GpugradError, message

_ENDINGS = (".svg", ".html", ".dot")
_LARGEST = 1 << 28  # entries of an array that ``--args`` asks for


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser = commands.add_parser(
        "graph",
        help="draw a trained model, its training step, or a function",
        description="Draw the graph of a computation with its values, local partials and "
        "gradients: of the model that gpugrad train left, for one row of its data, or of a Python "
        "function or module. --mode program draws the compiled step instead: what was fused, bytes "
        "and time of each pass over memory. A function's file is run to find it.",
        epilog="example: gpugrad graph olah.py:f --args 2.0,1.0 --out f.svg",
        allow_abbrev=False,
    )
    parser.add_argument(
        "subject",
        help="a folder or checkpoint of gpugrad train, file.py:function or package.module:function",
    )
    parser.add_argument(
        "--args",
        metavar="A,A",
        help="what to call the function with: 2.0 an input, 2 a constant, 3x4 an array of that "
        "shape of random numbers, 5x one of one axis",
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        metavar="NAME",
        help=f"{', '.join(MODES)} (reverse"
        " for a number, values otherwise, program for a compiled function)",
    )
    parser.add_argument("--wrt", metavar="NAME", help="the input that is followed (each, or first)")
    parser.add_argument("--of", metavar="NAME", help="the output that is followed (the first)")
    parser.add_argument(
        "--collapse",
        action=argparse.BooleanOptionalAction,
        help="one box a layer, or every op (a box where there are layers)",
    )
    parser.add_argument(
        "--times", action="store_true", help="measure each op as it runs (always of a program)"
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        help=".svg, .html or .dot (graph.html, beside the checkpoint of a model)",
    )
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (cpu)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print nodes and edges as one JSON object; a file is then written only to --out",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw as the arguments say; the exit code."""
    backend.get(args.device)  # raises DeviceError, saying what to install
    if args.out is not None and Path(args.out).suffix.lower() not in _ENDINGS:
        rule = "a picture is an .svg, .html or .dot"
        raise UsageError(message("graph", rule, args.out, "--out graph.svg"))
    with redirect_stdout(sys.stderr):  # what a function prints is no part of the answer
        picture, folder = _picture(args)
    path = None
    if args.out is not None or not args.json:
        try:
            path = picture.save(args.out or folder / "graph.html")
        except OSError as error:
            rule = f"{args.out or folder / 'graph.html'} cannot be written"
            got = error.strerror or error
            raise UsageError(message("graph", rule, got, "another --out")) from error
    if args.json:
        print(json.dumps(_record(picture.graph, path), allow_nan=False))
        return 0
    graph = picture.graph
    n, m = len(graph.vertices), len(graph.edges)
    print(f"{graph.heading} ({n} value{'s' * (n != 1)}, {m} edge{'s' * (m != 1)})")
    print(*graph.notes, *graph.formulas, f"picture   {path}", sep="\n")
    return 0


def _picture(args: argparse.Namespace) -> tuple[Picture, Path]:
    """The picture, and the folder it would go to."""
    how = {name: getattr(args, name) for name in ("mode", "wrt", "of", "collapse", "times")}
    place = Path(args.subject)
    if place.suffix == ".safetensors" or place.is_dir():
        path = checkpoint.path_of(args.subject)
        if args.args is not None:
            rule = "--args belongs to a function; a model is drawn for a row of its data"
            raise UsageError(message("graph", rule, args.args))
        return _of_run(path, args.device, how), path.parent
    where, colon, name = args.subject.rpartition(":")
    if not (colon and where and name):
        rule = "there is no run of that name, and a function is file.py:name or module:name"
        near = [p.name for p in Path.cwd().iterdir() if p.is_dir()]
        close = difflib.get_close_matches(args.subject, near, 1)
        hint = close[0] if close else "runs/digits"
        raise UsageError(message("graph", rule, args.subject, hint))
    given = [_value(text.strip(), args.device) for text in (args.args or "").split(",") if text]
    function = _found(where, name)
    with _of_the_user(args.subject, "raised"), override(device=args.device):
        return gg.draw(function, *given, **how), Path()


def _of_run(path: Path, device: str, how: dict[str, Any]) -> Picture:
    """The loss of a trained model on the first row of its test part, or its training step."""
    saved = checkpoint.read(path)
    plan = building.Plan.of({"device": device}, path, saved)
    loop = building.build(plan, saved, path).loop
    if how["mode"] == "program":
        x, y = next(batches(loop.train, loop.batch_size, seed=loop.seed, epoch=0))
        step = gg.compile(loop.update)
        return gg.draw(step, gg.asarray(x, device=device), gg.asarray(y, device=device), **how)
    model, of = loop.chosen.eval(), nn.cross_entropy if loop.test.classes else nn.mse
    answer = gg.asarray(loop.test.y[:1], device=device)

    def loss(x: gg.Tensor) -> gg.Tensor:
        return of(model(x), answer)

    row = np.asarray(loop.test.x[:1], np.float32)
    return gg.draw(loss, gg.asarray(row, device=device), **how)


def _value(text: str, device: str) -> Any:
    """One of ``--args``."""
    if re.fullmatch(r"\d+x(\d+x)*\d*", text):
        shape = tuple(int(n) for n in text.split("x") if n)
        if math.prod(shape) > _LARGEST:
            raise UsageError(message("graph", "an array of --args is too large", text))
        return gg.random.Generator(0).normal(size=shape, dtype=np.float32).to(device)
    for kind in (int, float, complex):
        try:
            return kind(text)
        except ValueError:
            continue
    rule, hint = "--args takes numbers and shapes", "--args 2.0,1,3x4"
    raise UsageError(message("graph", rule, repr(text), hint))


def _found(where: str, name: str) -> Any:
    """What is called ``name`` in a file or a module."""
    with _of_the_user(where, "cannot be imported:"):
        if where.endswith(".py"):
            if not Path(where).is_file():
                raise UsageError(message("graph", f"there is no file {where}"))
            sys.path.insert(0, str(Path(where).resolve().parent))
            spec = importlib.util.spec_from_file_location(Path(where).stem, where)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        else:
            sys.path.insert(0, os.getcwd())
            module = importlib.import_module(where)
    try:
        found = reduce(getattr, name.split("."), module)
    except AttributeError:
        known = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        close = difflib.get_close_matches(name, known, 1) or known[:8]
        rule = f"there is no {name!r} in {where}"
        raise UsageError(message("graph", rule, hint=", ".join(close))) from None
    if not (callable(found) or isinstance(found, gg.Tensor)):
        rule = f"{name} in {where} is no function, module or tensor"
        raise UsageError(message("graph", rule, type(found).__name__))
    return found


@contextmanager
def _of_the_user(what: str, did: str) -> Iterator[None]:
    """Whatever the user's own code raises is told in a line, with the place in that code."""
    try:
        yield
    except GpugradError:
        raise
    except (Exception, SystemExit) as error:
        passed = (str(Path(gg.__file__).parent), str(Path(importlib.__file__).parent), "<")
        frames = traceback.extract_tb(error.__traceback__)
        outside = [f for f in frames if not f.filename.startswith(passed)]
        at = f" at {outside[-1].filename}:{outside[-1].lineno}" if outside else ""
        rule = f"{what} {did} {type(error).__name__}{at}"
        raise UsageError(message("graph", rule, error)) from error


def _record(graph: Graph, path: Path | None) -> dict[str, Any]:
    """The graph as plain values; edges name nodes by ``id``."""
    nodes = [
        {
            "id": v.key,
            "name": v.name,
            "kind": v.kind,
            "text": v.text,
            "shape": list(v.shape),
            "dtype": np.dtype(v.dtype).name,
            "value": _glance(v.value),
            "derivative": _glance(v.derivative),
            "seconds": v.seconds,
            "bytes": v.bytes,
            "output": v.output,
            "members": [inner.name for inner in v.members],
            "notes": list(v.notes),
            "line": v.line,
        }
        for v in graph.vertices
    ]
    edges = [
        {"from": e.source, "to": e.target, "place": e.place, "partial": _glance(e.partial)}
        for e in graph.edges
    ]
    return {
        "title": graph.title,
        "mode": graph.mode,
        "label": graph.label,
        "nodes": nodes,
        "edges": edges,
        "formulas": list(graph.formulas),
        "notes": list(graph.notes),
        "file": None if path is None else str(path),
    }


def _glance(x: Glance | None) -> Any:
    """A small array whole, the range of a large one; what is no number in JSON as text."""
    if x is None:
        return None
    if x.array is not None:
        return _plain(x.array.tolist())
    found = {"low": x.low, "high": x.high, "rms": x.rms, "not_finite": x.not_finite}
    return {name: _plain(value) for name, value in found.items()}


def _plain(x: Any) -> Any:
    if isinstance(x, list):
        return [_plain(value) for value in x]
    return str(x) if isinstance(x, complex) or not math.isfinite(x) else x
