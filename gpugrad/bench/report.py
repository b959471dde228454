"""From a record to what people read: a summary, tables for the terminal, one HTML page.

Imports contenders and plots; rich only for the terminal, where it is installed.
"""

import html
import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from gpugrad import page as html_page
from gpugrad.bench import plots
from gpugrad.bench.contenders import CONTENDERS

Record = Mapping[str, Any]
Summary = list[dict[str, Any]]


def summary(record: Record) -> Summary:
    """For each case and contender its best variant: seconds a unit, spread, work rates, memory."""
    rows: Summary = []
    for case in record["cases"]:
        for name in record["contenders"]:
            found = [
                _measured(result, case, record)
                for result in record["results"]
                if (result["case"], result["contender"]) == (case["name"], name)
                and result.get("rounds")
            ]
            if found:
                rows.append(min(found, key=lambda row: row["s"]))
    return rows


def _measured(result: Mapping[str, Any], case: Mapping[str, Any], record: Record) -> dict[str, Any]:
    medians = sorted(statistics.median(times) / case["per"] for times in result["rounds"])
    row = {
        "case": case["name"],
        "contender": result["contender"],
        "options": result["options"],
        "s": statistics.median(medians),
        "s_least": medians[0],
        "s_most": medians[-1],
        "peak_bytes": result.get("peak_bytes"),
    }
    if "flop" in case:
        row["flop_per_s"] = case["flop"] / row["s"]
        roof = attainable(record, case["flop"] / case["bytes"])
        row["of_gemm"] = row["flop_per_s"] / ceiling(record, "gemm")
        row["of_roof"] = row["flop_per_s"] / roof
        splits = result["splits"]
        if splits:
            row["phases_s"] = {
                phase: statistics.median(split[phase] for split in splits) for phase in splits[0]
            }
    return row


def ceiling(record: Record, name: str) -> float:
    """The best rate of any round: work a second."""
    measured = record["ceilings"][name]
    return float(measured["work"] / min(measured["s"]))


def attainable(record: Record, intensity: float) -> float:
    """FLOP/s that memory and arithmetic allow at ``intensity`` FLOP a byte."""
    return min(ceiling(record, "gemm"), intensity * ceiling(record, "copy"))


# Tables


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def seconds(value: float) -> str:
    """Three digits and a unit.

    >>> seconds(0.00012345)
    '123 µs'
    """
    scale, unit = next(pair for pair in _UNITS if value >= pair[0])
    digits = max(0, 2 - math.floor(math.log10(value / scale)))
    return f"{value / scale:.{digits}f} {unit}"


def tables(record: Record, rows: Summary) -> list[Table]:
    """Times, how many times as fast each gpugrad is, achieved fractions, memory."""
    cases = [case["name"] for case in record["cases"]]
    names = [n for n in record["contenders"] if any(row["contender"] == n for row in rows)]
    cell = {(row["case"], row["contender"]): row for row in rows}
    units = {case["name"]: case["unit"] for case in record["cases"]}

    def table(
        title: str, note: str, show: Any, columns: Sequence[str] = names, ending: Any = None
    ) -> Table:
        header = ["case", *[CONTENDERS[n].label for n in columns]]
        body = []
        for case in cases:
            shown = [show(cell[case, n]) if (case, n) in cell else "" for n in columns]
            if any(shown):
                body.append([case, *shown])
        return Table(title, note, header, body + ([ending] if ending and len(body) > 1 else []))

    counts = sorted({r["options"].get("threads", 1) for r in record["results"]})
    best = f" The best of {' or '.join(map(str, counts))} threads." if len(counts) > 1 else ""
    made = [
        table(
            "Time",
            f"Median of {record['rounds']} rounds, for one step or one op.{best}",
            lambda row: f"{seconds(row['s'])}" + ("/op" if units[row["case"]] == "op" else ""),
        )
    ]
    for base in ("gpugrad", "gpugrad-compiled"):
        others = [n for n in names if n != base]
        if base not in names or not others:
            continue
        ratio = _ratio_to(base, cell)
        means = []
        for name in others:
            found = [r for case in cases if (r := ratio(cell.get((case, name))))]
            means.append(f"{statistics.geometric_mean(found):.2f} ×" if found else "")
        made.append(
            table(
                f"{CONTENDERS[base].label}: so many times as fast",
                f"Time of the other, divided by that of {CONTENDERS[base].label}.",
                lambda row, ratio=ratio: f"{r:.2f} ×" if (r := ratio(row)) else "",
                others,
                ["geometric mean", *means],
            )
        )
    made.append(
        table(
            "Of what the machine can do",
            f"FLOP/s of the matrix products, as a part of min(GEMM, copy × FLOP/byte): GEMM "
            f"{ceiling(record, 'gemm') / 1e9:.0f} GFLOP/s (float32, 2048³), copy "
            f"{ceiling(record, 'copy') / 1e9:.1f} GB/s (read + written).",
            lambda row: f"{100 * row['of_roof']:.1f} %" if "of_roof" in row else "",
        )
    )
    made.append(
        table(
            "Peak memory",
            "Most MB resident in the contender's process, interpreter and libraries included.",
            lambda row: f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else "",
        )
    )
    return [made_ for made_ in made if made_.rows]


def _ratio_to(base: str, cell: Mapping[tuple[str, str], Mapping[str, Any]]) -> Any:
    def ratio(row: Mapping[str, Any] | None) -> float | None:
        ours = cell.get((row["case"], base)) if row else None
        return row["s"] / ours["s"] if row and ours else None

    return ratio


def troubles(record: Record) -> list[str]:
    """A line for each contender that was not timed, and the last lines of those that failed."""
    lines = []
    for result in record["results"]:
        contender, why = CONTENDERS[result["contender"]], result.get("why", "")
        options = "".join(f", {key} {value}" for key, value in result["options"].items())
        if result["status"] == "absent":
            lines.append(f"{contender.label} is not installed: {contender.install}")
        elif result["status"] == "skipped":
            lines.append(f"{contender.label} skipped: {why}")
        elif result["status"] in ("failed", "wrong"):
            what = "failed" if result["status"] == "failed" else "not timed, its losses are wrong"
            lines.append(f"{contender.label}{options} {what} on {result['case']}: {why}")
    return lines


def setting(record: Record) -> list[tuple[str, str]]:
    """Machine, versions and circumstances, by name."""
    machine = record["machine"]
    versions: dict[str, str] = {}
    for result in record["results"]:
        versions |= result.get("versions", {})
    memory = machine["memory_bytes"]
    shown = [
        ("processor", f"{machine['processor']}, {machine['cores']} cores"),
        ("graphics processor", machine.get("gpu", "")),
        ("memory", f"{memory / 2**30:.0f} GiB" if memory else ""),
        ("system", machine["system"]),
        ("load at start", f"{machine['load']:.2f}" if machine["load"] is not None else ""),
        ("BLAS of NumPy", blas_text(record)),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("gpugrad", record["gpugrad"] + (f" at {record['commit']}" if record["commit"] else "")),
        ("measured", f"{record['date']}, {record['optimizer']}, on {record['device']}"),
        ("environment", _assignments(record["environment"])),
        ("unset for all", _assignments(record["unset"])),
    ]
    return [(name, text) for name, text in shown if text]


def blas_text(record: Record) -> str:
    if not record["blas"]:
        return ""
    pools = record["blas"]["pools"]
    if pools is None:
        return "unknown: pip install threadpoolctl"
    found = [p for p in pools if p["internal_api"] in ("openblas", "mkl", "blis", "accelerate")]
    return ", ".join(
        f"{p['internal_api']} {p['version']}, {p['architecture'] or 'unnamed'} kernels, "
        f"{p['num_threads']} threads"
        for p in found
    )


def _assignments(variables: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in variables.items())


# Terminal


def show(record: Record, rows: Summary, stream: TextIO) -> None:
    """Print setting, tables and troubles."""
    for name, text in setting(record):
        print(f"{name:18} {text}", file=stream)
    for table in tables(record, rows):
        print(file=stream)
        _print_table(table, stream)
    for line in troubles(record):
        print(f"\n{line}", file=stream)


def _print_table(table: Table, stream: TextIO) -> None:
    wide = stream.isatty() and shutil.get_terminal_size().columns
    try:
        from rich.console import Console
        from rich.table import Table as Grid
    except ImportError:
        wide = 0
    if not wide:
        print(f"{table.title}. {table.note}", file=stream)
        lines = [table.header, *table.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            cells = [text.rjust(width) for text, width in zip(line, widths, strict=True)]
            cells[0] = line[0].ljust(widths[0])
            print("  ".join(cells).rstrip(), file=stream)
        return
    grid = Grid(title=table.title, caption=table.note, title_justify="left")
    for i, name in enumerate(table.header):
        grid.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*row)
    Console(file=stream).print(grid)


# Page


def page(record: Record, rows: Summary) -> str:
    """The report as one HTML page that needs nothing else. Raises what `plots` raises."""
    parts = ["<h1>gpugrad bench</h1>", f"<p>{html.escape(_opening_words(record))}</p>"]
    if lines := troubles(record):
        parts.append(f"<pre>{html.escape(chr(10).join(lines))}</pre>")
    made = [html_page.table(t.title, t.note, t.header, t.rows) for t in tables(record, rows)]
    figures = map(html_page.figure, plots.figures(record, rows))
    parts += [*made[:1], *figures, *made[1:], html_page.facts("Measured on", setting(record))]
    return html_page.document(f"gpugrad bench, {record['date']}", parts)


def _opening_words(record: Record) -> str:
    return (
        "One training step is forward, backward and update, waited for: sigmoid hidden layers, "
        f"softmax cross-entropy, {record['optimizer'].upper()}, float32, the same weights and data "
        "for all. A case is named batch:inputs-hidden…-outputs. Each contender ran in a process of "
        "its own, in turn with the others; before it was timed its losses were compared with those "
        "of float64 NumPy."
    )
