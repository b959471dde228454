"""``report.html``: what a training run was, how it went and what came of it, on one page.

May import page, nn and cli.loop; needs matplotlib for plots.
"""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpugrad as gg
from gpugrad import nn, page
from gpugrad.cli.loop import Loop, predict
from gpugrad.cli.report import label, value_text
from gpugrad.cli.settings import Settings
from gpugrad.data import Scaler

Array = NDArray[Any]

# Okabe and Ito 2008, told apart by colour-blind readers.
TRAIN, VALID, TEST = "#0072B2", "#009E73", "#D55E00"
_MOST_CLASSES = 30  # of a confusion matrix that can be read
_MOST_POINTS = 2000


def beside(checkpoint: Path) -> Path:
    """Where the report of a run goes whose checkpoint this is."""
    if checkpoint.name == "checkpoint.safetensors":
        return checkpoint.with_name("report.html")
    return checkpoint.with_suffix(".html")


def write(
    path: Path,
    loop: Loop,
    settings: Settings,
    data: Mapping[str, Any],
    scalers: Mapping[str, Scaler],
    result: Mapping[str, Any],
) -> None:
    """Write the page. Raises `MissingDependency` without matplotlib, OSError as files do."""
    page.need_plots("train", "train")
    text = page.document(
        f"gpugrad train, {data['name']}", _parts(loop, settings, data, scalers, result)
    )
    part = path.with_suffix(".html.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _parts(
    loop: Loop,
    settings: Settings,
    data: Mapping[str, Any],
    scalers: Mapping[str, Scaler],
    result: Mapping[str, Any],
) -> list[str]:
    history = loop.position.history
    parts = [f"<h1>gpugrad train, {html.escape(str(data['name']))}</h1>"]
    parts.append(f"<p>{html.escape(_opening(loop, result))}</p>")
    parts += [f"<p>{html.escape(note)}</p>" for note in data.get("notes", ())]
    figures: list[tuple[str, str, Callable[[Any, bool], None], tuple[float, float]]] = []
    for name, title, caption in _CURVES:
        if any(name in entry or f"test_{name}" in entry for entry in history):
            draw = partial(_curve, history, name, loop.best_epoch)
            figures.append((title, caption, draw, (3.6, 3.4)))
    flow = _flow(loop)
    if flow is not None:
        caption = (
            "Root mean square of the gradient at each layer's output, one batch, by that of the "
            "last layer's: a thousandth or less is called vanishing, a thousand times exploding."
        )
        height = 1.2 + 0.32 * len(flow.layers)
        kinds = {name: type(layer).__name__ for name, layer in loop.model._walk()}
        names = [f"{layer.name} {kinds.get(layer.name, '')}" for layer in flow.layers]
        draw = partial(_draw_flow, flow, names)
        figures.append(("Gradient flow", caption, draw, (height, height)))
    if history:
        figures += _answers(loop, data, scalers)
    parts += [page.figure(page.drawn(*figure)) for figure in figures]
    if history:
        parts.append(_table(history))
    pairs = [(label(name), _shown(value)) for name, value in vars(settings).items()]
    parts.append(page.facts("Configuration", pairs))
    chosen = f", {len(loop.valid)} to choose by" if loop.valid is not None else ""
    rows = f"{len(loop.train)} to train on{chosen}, {len(loop.test)} to test"
    timing = [
        ("rows", rows),
        ("features", ", ".join(data["feature_names"][:40]) or str(data["features"])),
        ("model", repr(loop.model)),
        ("device", str(result["device"])),
        ("time", f"{result['seconds']:.2f} s, {result['samples_per_s']:,.0f} rows a second"),
        ("checkpoint", str(result["checkpoint"])),
        ("go on with", str(result["resume"])),
        ("gpugrad", gg.__version__),
    ]
    parts.append(page.facts("This run", timing))
    return parts


_CURVES = (
    ("loss", "Loss", "Mean over the rows, while training and on rows that are kept apart."),
    ("accuracy", "Accuracy", "Share of rows that are right, while training and on others."),
    ("r2", "R²", "Share of the targets' variance that is explained, on rows kept apart."),
    ("rmse", "RMSE", "Root mean square of the errors on rows kept apart, in the targets' units."),
    ("lr", "Learning rate", "As it was in the last batch of each epoch."),
)


def _opening(loop: Loop, result: Mapping[str, Any]) -> str:
    p = loop.position
    state = "finished" if result["status"] == "finished" else "was interrupted"
    if loop.stopped_early:
        state = "stopped early"
    text = f"This run {state} after {p.epoch} of {loop.epochs} epochs"
    if loop.best_epoch is not None:
        text += f", with the weights of epoch {loop.best_epoch}"
    test = {k: v for k, v in result["test"].items() if k in ("accuracy", "r2", "rmse")}
    if test:
        shown = ", ".join(f"{label(name)} {value_text(name, v)}" for name, v in test.items())
        text += f"; on rows it never saw: {shown}"
    return f"{text}."


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _curve(
    history: Sequence[Mapping[str, float]], name: str, best: int | None, canvas: Any, wide: bool
) -> None:
    axes = canvas.subplots()
    parts = (("", "training", TRAIN), ("valid_", "validation", VALID), ("test_", "test", TEST))
    for prefix, text, colour in parts:
        points = [(e["epoch"], e[prefix + name]) for e in history if prefix + name in e]
        if points:
            mark = "o" if len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), color=colour, label=text, marker=mark)
    if best is not None and name != "lr":
        axes.axvline(best, color="#57606a", linewidth=1, linestyle="--", label=f"epoch {best}")
    axes.set(xlabel="epoch", ylabel="learning rate" if name == "lr" else label(name))
    if len(history) == 1:  # room around it, or there would be parts of epochs
        axes.set_xlim(history[0]["epoch"] - 1, history[0]["epoch"] + 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    if name != "lr":
        axes.legend()


def _flow(loop: Loop) -> nn.GradientFlow | None:
    """The gradient at every layer for one batch; nothing in the run is changed by looking."""
    rows = slice(0, min(loop.batch_size, len(loop.train)))
    kept = [p.grad for p in loop.model.parameters()]
    loop.model.eval()  # without dropout, whose draws belong to the run
    try:
        with nn.gradient_flow(loop.model) as flow:
            x, y = (gg.asarray(a[rows], device=loop.device) for a in (loop.train.x, loop.train.y))
            (nn.cross_entropy if loop.train.classes else nn.mse)(loop.model(x), y).backward()
    finally:
        loop.model.train()
        for p, g in zip(loop.model.parameters(), kept, strict=True):
            p.grad = g
    return flow if any(math.isfinite(layer.relative) for layer in flow.layers) else None


def _draw_flow(flow: nn.GradientFlow, names: Sequence[str], canvas: Any, wide: bool) -> None:
    axes = canvas.subplots()
    places = range(len(flow.layers))
    sizes = [layer.relative for layer in flow.layers]
    good = ["#D55E00" if layer.verdict else "#0072B2" for layer in flow.layers]
    axes.barh(places, sizes, color=good, height=0.7)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="gradient, relative to the last layer's")
    for place, layer in zip(places, flow.layers, strict=True):
        axes.annotate(f" {layer.verdict}", (layer.relative, place), va="center", fontsize=9)
    axes.margins(x=0.15)
    if not wide:  # numbers between the powers of ten would run into one another
        axes.xaxis.set_minor_formatter("")
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)


def _answers(loop: Loop, data: Mapping[str, Any], scalers: Mapping[str, Scaler]) -> list[Any]:
    """What the test rows were given: a confusion matrix, or predictions against targets."""
    found = predict(loop.chosen, loop.test.x, loop.device)
    if loop.train.classes:
        classes = list(data["classes"])
        if len(classes) > _MOST_CLASSES:
            return []
        counts = np.zeros((len(classes), len(classes)), int)
        np.add.at(counts, (loop.test.y, found.argmax(axis=1)), 1)
        caption = "Rows of the test part: their class downwards, the model's answer across."
        size = 1.6 + 0.36 * len(classes)
        draw = partial(_confusion, counts, classes)
        return [("Confusion", caption, draw, (min(size, 8.0), min(size, 4.6)))]
    scale, mean = scalers["y"].scale, scalers["y"].mean
    wanted, found = loop.test.y * scale + mean, found * scale + mean
    caption = "Each point a row of the test part, target against prediction; on the line is right."
    if len(wanted) > _MOST_POINTS:
        step = -(-len(wanted) // _MOST_POINTS)
        wanted, found = wanted[::step], found[::step]
        caption += f" One row in {step} is shown."
    return [("Predictions", caption, partial(_points, wanted, found), (4.6, 4.2))]


def _confusion(counts: Array, classes: Sequence[str], canvas: Any, wide: bool) -> None:
    axes = canvas.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [name if len(name) <= 14 else f"{name[:13]}…" for name in classes]
    longest = max(map(len, names))
    axes.set_xticks(range(len(names)), names, rotation=90 if longest > 2 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="answer", ylabel="class")
    small = 9 if len(names) <= (16 if wide else 10) else 5
    for (row, col), count in np.ndenumerate(counts):
        if count:
            colour = "white" if share[row, col] > 0.5 else "#1b1f24"
            axes.text(col, row, str(count), ha="center", va="center", color=colour, fontsize=small)


def _points(wanted: Array, found: Array, canvas: Any, wide: bool) -> None:
    axes = canvas.subplots()
    for k in range(wanted.shape[1]):
        name = f"output {k}" if wanted.shape[1] > 1 else None
        axes.scatter(wanted[:, k], found[:, k], s=10, alpha=0.6, linewidths=0, label=name)
    ends = [min(wanted.min(), found.min()), max(wanted.max(), found.max())]
    axes.plot(ends, ends, color="#57606a", linewidth=1)
    axes.set(xlabel="target", ylabel="prediction")
    axes.grid(color="#e5e5e5", linewidth=0.6)
    if wanted.shape[1] > 1:
        axes.legend()


def _table(history: Sequence[Mapping[str, float]]) -> str:
    names = [name for name in history[-1] if name != "epoch"]
    step = -(-len(history) // 20)
    shown = [e for e in history if (e["epoch"] - history[-1]["epoch"]) % step == 0]
    rows = [
        [str(int(entry["epoch"])), *[value_text(n, entry[n]) if n in entry else "" for n in names]]
        for entry in shown
    ]
    note = "Every epoch." if step == 1 else f"One epoch in {step}, and the last."
    return page.table("Epochs", note, ["epoch", *map(label, names)], rows)
