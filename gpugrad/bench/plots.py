"""The report's plots, as SVG to stand in a page. Imports contenders and page; needs matplotlib."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gpugrad.bench.contenders import CONTENDERS
from gpugrad.page import Figure, drawn, need_plots

PHASES = {"forward": "#0072B2", "backward": "#E69F00", "update": "#009E73"}

Rows = Sequence[Mapping[str, Any]]


def figures(record: Mapping[str, Any], rows: Rows) -> list[Figure]:
    """Every plot there is data for. Raises `MissingDependency` without matplotlib."""
    need_plots("bench", "bench")
    cases = {case["name"]: case for case in record["cases"] if "flop" in case}
    rows = [row for row in rows if row["case"] in cases]
    if not rows:
        return []
    made = []
    for title, caption, draw, height in (
        (
            "Time against size",
            "A step's time over the FLOP of its matrix products. The grey line is what the "
            "products alone take at the measured GEMM rate. Bars span the rounds.",
            _sizes,
            (5.0, 5.6),
        ),
        (
            "Forward, backward, update",
            "Medians of the parts timed one by one, each waited for; contenders that run the step "
            "as one call cannot be split.",
            _split,
            _split_height(cases, rows),
        ),
        (
            "Roofline",
            "FLOP/s over FLOP a byte, with bytes the least a step must move: input read, "
            "activations and weights written and read. The roof is the measured copy and GEMM.",
            _roofline,
            (5.0, 5.6),
        ),
    ):
        one = partial(draw, record, cases, rows)
        made.append(drawn(title, caption, one, height))
    return made


Cases = Mapping[str, Mapping[str, Any]]


def _named(rows: Rows) -> list[str]:
    present = {row["contender"] for row in rows}
    return [name for name in CONTENDERS if name in present]


def _style(name: str) -> dict[str, Any]:
    colour, mark = CONTENDERS[name].look
    return {"color": colour, "marker": mark, "label": CONTENDERS[name].label}


def _sizes(record: Mapping[str, Any], cases: Cases, rows: Rows, canvas: Any, wide: bool) -> None:
    axes = canvas.subplots()
    for name in _named(rows):
        own = sorted((r for r in rows if r["contender"] == name), key=lambda r: _flop(cases, r))
        times = [r["s"] for r in own]
        spread = [
            [r["s"] - r["s_least"] for r in own],
            [r["s_most"] - r["s"] for r in own],
        ]
        axes.errorbar(
            [_flop(cases, r) for r in own],
            times,
            yerr=spread,
            linewidth=1.2,
            elinewidth=0.8,
            markersize=5,
            **_style(name),
        )
    flops = sorted(case["flop"] for case in cases.values())
    measured = record["ceilings"]["gemm"]
    rate = measured["work"] / min(measured["s"])
    axes.plot(flops, [f / rate for f in flops], color="#999999", linewidth=1, linestyle="--")
    _log_axes(axes, ("FLOP a step", ""), ("time of a step", "s"))
    _legend(canvas, axes, wide)


def _flop(cases: Cases, row: Mapping[str, Any]) -> float:
    return float(cases[row["case"]]["flop"])


def _split_rows(rows: Rows) -> list[Mapping[str, Any]]:
    return [row for row in rows if row.get("phases_s")]


def _split_height(cases: Cases, rows: Rows) -> tuple[float, float]:
    """Inches for two columns of panels, and for one."""
    bars = max(1, len({row["contender"] for row in _split_rows(rows)}))
    panel = 0.6 + 0.28 * bars
    return 0.5 + panel * -(-len(cases) // 2), 0.6 + panel * len(cases)


def _split(record: Mapping[str, Any], cases: Cases, rows: Rows, canvas: Any, wide: bool) -> None:
    from matplotlib.ticker import EngFormatter

    own = _split_rows(rows)
    columns = 2 if wide else 1
    panels = canvas.subplots(-(-len(cases) // columns), columns, squeeze=False).ravel()
    names = _named(own)
    for panel in panels[len(cases) :]:
        panel.set_axis_off()
    for panel, case in zip(panels, cases, strict=False):
        for place, name in enumerate(names):
            row = next((r for r in own if (r["case"], r["contender"]) == (case, name)), None)
            left = 0.0
            for phase, value in (row["phases_s"] if row else {}).items():
                panel.barh(place, value, left=left, color=PHASES[phase], height=0.7)
                left += value
        panel.set_yticks(range(len(names)), [CONTENDERS[n].label for n in names])
        panel.invert_yaxis()
        panel.set_title(case, fontsize=10, loc="left")
        panel.xaxis.set_major_formatter(EngFormatter("s"))
        panel.tick_params(axis="x", labelsize=8)
        panel.locator_params(axis="x", nbins=4)
    handles = [_patch(colour) for colour in PHASES.values()]
    canvas.legend(handles, list(PHASES), loc="outside upper center", ncols=3)


def _patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour)


def _roofline(record: Mapping[str, Any], cases: Cases, rows: Rows, canvas: Any, wide: bool) -> None:
    axes = canvas.subplots()
    peak, copy = (
        record["ceilings"][name]["work"] / min(record["ceilings"][name]["s"])
        for name in ("gemm", "copy")
    )
    at = [case["flop"] / case["bytes"] for case in cases.values()]
    bend = peak / copy
    reach = sorted([min(*at, bend) / 2, bend, max(*at, bend) * 2])
    axes.plot(reach, [min(peak, x * copy) for x in reach], color="#555555", linewidth=1.5)
    for name in _named(rows):
        own = [r for r in rows if r["contender"] == name]
        axes.plot(
            [cases[r["case"]]["flop"] / cases[r["case"]]["bytes"] for r in own],
            [r["flop_per_s"] for r in own],
            linestyle="none",
            markersize=6,
            **_style(name),
        )
    _log_axes(axes, ("FLOP a byte", ""), ("rate", "FLOP/s"))
    _legend(canvas, axes, wide)


def _log_axes(axes: Any, x: tuple[str, str], y: tuple[str, str]) -> None:
    """Both axes logarithmic, labelled at powers of ten; each is (label, unit)."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    axes.set(xscale="log", yscale="log", xlabel=x[0], ylabel=y[0])
    for axis, (_, unit) in ((axes.xaxis, x), (axes.yaxis, y)):
        axis.set_major_formatter(EngFormatter(unit))
        axis.set_minor_formatter(NullFormatter())  # its labels would overlap
        low, high = axis.get_view_interval()
        if math.floor(math.log10(high)) - math.ceil(math.log10(low)) < 1:  # fewer than two labels
            axis.set_view_interval(
                10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
            )
    axes.grid(which="major", color="#e5e5e5", linewidth=0.6)


def _legend(canvas: Any, axes: Any, wide: bool) -> None:
    handles, labels = axes.get_legend_handles_labels()
    place, columns = ("outside right upper", 1) if wide else ("outside upper center", 2)
    canvas.legend(handles, labels, loc=place, ncols=columns)
