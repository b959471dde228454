"""Segments: stretches of a plan's nodes as the instructions an executor runs together.

Those that are not single Python calls are for the native core (kernels/cpu), its NumPy twin
(backend/twin.py) or the CUDA executor (backend/graph.py). Imports emit, nodes and rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from gpugrad.compiler.emit import Emitter
from gpugrad.compiler.nodes import Call, Node
from gpugrad.compiler.rows import SERIAL_FLOP, Rows, flop
from gpugrad.compiler.views import Buffer


class Segment(NamedTuple):
    """Instructions that run together, or one call of an op's forward."""

    mode: str  # serial, rows, split, call
    instructions: list[Any]
    nodes: list[Node]
    batch: int = 0
    chunk: int = 0
    zeroed: tuple[tuple[int, int, int], ...] = ()  # (offset, bytes, base) of accumulators


def by_layers(plan: Any) -> list[Segment]:
    """One node after the other, each on all threads where there is enough to do."""
    segments: list[Segment] = []
    for run in _runs(plan.nodes):
        if isinstance(run[0], Call):
            segments.append(Segment("call", [], run))
            continue
        work = sum(map(flop, run))
        mode = "split" if plan.threads > 1 and work > SERIAL_FLOP else "serial"
        emit = Emitter(plan)
        segments.append(Segment(mode, emit.all(run), run))
    return segments


def by_rows(plan: Any, rows: Rows, private: Sequence[Buffer]) -> list[Segment]:
    """The batch cut over threads, a chunk of rows at a time; ``private`` is each thread's own."""
    segments: list[Segment] = []
    for part, mode in ((rows.before, "serial"), (rows.during, "rows"), (rows.later, "split")):
        for run in _runs(part):
            if isinstance(run[0], Call):
                segments.append(Segment("call", [], run))
            elif mode == "rows":
                emit = Emitter(plan, rows, inside=True)
                zeroed = tuple(
                    (plan.offset[b], rows.bytes_of(b), 0) for b in private if b in rows.reduced
                )
                instructions = emit.all(run)
                segments.append(Segment("rows", instructions, run, rows.batch, rows.chunk, zeroed))
            else:
                emit = Emitter(plan, rows)
                small = sum(map(flop, run)) < SERIAL_FLOP // 20
                kind = "serial" if small else mode
                segments.append(Segment(kind, emit.all(run), run))
    return segments


def _runs(nodes: Sequence[Node]) -> list[list[Node]]:
    """Stretches without a call, and each call on its own."""
    runs: list[list[Node]] = []
    for node in nodes:
        if isinstance(node, Call) or not runs or isinstance(runs[-1][0], Call):
            runs.append([node])
        else:
            runs[-1].append(node)
    return runs
