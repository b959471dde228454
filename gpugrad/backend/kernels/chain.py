"""Fused elementwise code with reductions: kernels/cuda/chain.cuh on the text of `printer`.

Takes what an instruction ("chain", ...) of gpugrad/compiler/emit.py says, but pointers; twin:
`gpugrad.backend.twin.Program`. Imports launch, printer and errors.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gpugrad.backend.kernels import printer
from gpugrad.backend.kernels.printer import LINE, ONE, ROW, STRIDED, Code, Place, Total
from gpugrad.backend.launch import (
    ALIGNMENT_BYTES,
    Launch,
    Loader,
    address,
    ceil_div,
    power_of_two_from,
)
from gpugrad.errors import GpugradError, message

BLOCK_THREADS = 256  # BLOCK_THREADS in reduce.cuh
_WIDEST = 16
# About eight waves of 256 blocks: enough to keep a large GPU busy to the end.
_MAP_BLOCKS = 2048
# Bounds the blocks of a reduction, and with them the partial results to be folded.
_REDUCE_BLOCKS = 512
_PACKS_PER_THREAD = 4
# Up to this height one block takes the whole column, which spares the second launch. Eight lanes of
# 16 bytes fill a 128-byte line; so few make many blocks of a matrix that is not tall.
_SHORT_ROWS = 256
_SHORT_LANES = 8
FOLD_LANES = 8  # 8 float32 are one 32-byte sector

Line = tuple[str, int, int, int]  # opcode and the numbers of its values; -1: none
Steps = tuple[int, int, str]  # between rows, between columns, both in elements; dtype


class Geometry(NamedTuple):
    """Blocks and threads of one launch."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]

    @property
    def splits(self) -> dict[str, int]:
        """In how many parts a reduction over each axis comes."""
        across, down, _ = self.grid
        return {"rows": down, "cols": across, "all": across * down}


def geometry(rows: int, cols: int, width: int, axes: frozenset[str]) -> Geometry:
    """How to cover (rows, cols) by packs of ``width`` columns, where ``axes`` are reduced.

    Depends on nothing else, so the additions happen in the same order on every device.
    """
    packs = max(1, ceil_div(cols, width))
    rows = max(1, rows)
    if not axes:
        across = ceil_div(packs, BLOCK_THREADS)
        lanes = ceil_div(packs, across)
        height = min(rows, BLOCK_THREADS // lanes)
        across = min(across, _MAP_BLOCKS)
        down = min(ceil_div(rows, height), max(1, _MAP_BLOCKS // across))
        return Geometry((across, down, 1), (lanes, height, 1))

    lanes = BLOCK_THREADS if axes == {"all"} else 32
    if "rows" in axes and rows <= _SHORT_ROWS:
        lanes = _SHORT_LANES
    lanes = min(lanes, power_of_two_from(packs))
    height = BLOCK_THREADS // lanes
    across, down = ceil_div(packs, lanes), ceil_div(rows, height)
    if "rows" in axes:
        if rows <= _SHORT_ROWS:
            down = 1
        down = min(ceil_div(down, _PACKS_PER_THREAD), ceil_div(_REDUCE_BLOCKS, across))
    elif "cols" in axes:
        down = min(down, _REDUCE_BLOCKS if "all" in axes else _MAP_BLOCKS)
        across = min(ceil_div(across, _PACKS_PER_THREAD), ceil_div(_REDUCE_BLOCKS, down))
    else:
        blocks = min(ceil_div(across * down, _PACKS_PER_THREAD), _REDUCE_BLOCKS)
        across = min(across, blocks)
        down = min(down, max(1, blocks // across))
    return Geometry((across, down, 1), (lanes, height, 1))


class Reduction(NamedTuple):
    """A reduction of an instruction, its place without the pointer."""

    kind: str  # sum, max, min
    axis: str  # rows, cols, all
    value: int
    place: Steps
    scale: float
    accumulate: bool


Part = tuple[int, int, int]  # of a reduction: where in the workspace, results, splits


class Plan:
    """How to launch one chain. `launch` picks the widest loads that the pointers allow."""

    def __init__(
        self, dtype: str, rows: int, cols: int, operands: Sequence[Steps],
        constants: Sequence[float], lines: Sequence[Line], stores: Sequence[tuple[int, Steps]],
        reductions: Sequence[Reduction],
    ) -> None:  # fmt: skip
        space = _Space(rows, cols, [*operands, *[to for _, to in stores]], reductions)
        self.rows, self.cols = space.rows, space.cols
        self._axes = frozenset(space.axes)
        self._totals = [
            r._replace(axis=axis) for r, axis in zip(reductions, space.axes, strict=True)
        ]
        self._steps = [(row, col) for row, col, _ in space.places]
        inputs = len(operands)
        self._places = [place_of(p, i < inputs) for i, p in enumerate(space.places)]
        values = [value for value, _ in stores]
        self._code = Code(
            dtype,
            1,
            tuple(self._places[:inputs]),
            tuple(printer.literal(c, dtype) for c in constants),
            tuple((op, a, b, c) for op, a, b, c in lines),
            tuple(zip(values, self._places[inputs:], strict=True)),
            totals_of(self._totals),
        )
        self._item = np.dtype(dtype).itemsize
        self._variants: dict[int, tuple[list[Part], Launch, Launch | None]] = {}
        # What a launch is given beside pointers, made once: this is paid for at every eager call.
        self._size = np.int64(self.rows), np.int64(self.cols)
        self._given = [
            tuple(map(np.int64, steps[: len(place.steps)]))
            for steps, place in zip(self._steps, self._places, strict=True)
        ]
        self._given_totals = [
            (np.int64(step), np.float64(r.scale))
            for step, r in zip(space.total_steps, reductions, strict=True)
        ]
        count = sum(1 + len(place.steps) for place in self._places)
        if 8 * (count + 6 * len(reductions) + 2) > printer.PARAMETER_BYTES:
            rule = f"operands and stores must fit {printer.PARAMETER_BYTES} bytes of parameters"
            raise GpugradError(message("chain", rule, f"{len(self._places)} of them"))

    @cached_property
    def width(self) -> int:
        """The widest load that the steps allow, in elements; pointers may allow less."""
        width = widest(self._places)
        if self.rows > 1:
            for (row, _), place in zip(self._steps, self._places, strict=True):
                while place.how == LINE and row % width:
                    width //= 2
        return width

    @cached_property
    def workspace_bytes(self) -> int:
        """What `launch` needs for partial results, whichever width the pointers allow."""
        return max(self._parts(self._geometry(w))[1] for w in (1, 2, 4, 8, 16) if w <= self.width)

    def launch(
        self, loader: Loader, operands: Sequence[Any], stores: Sequence[Any],
        totals: Sequence[Any] = (), workspace: Any = 0,
    ) -> None:  # fmt: skip
        """Enqueue it. Pointers are arrays or addresses, as many as the plan has of each.

        ``workspace`` is `workspace_bytes` aligned to 16; nothing need be in it.
        """
        if not (self.rows * self.cols or totals):
            return
        pointers = [*operands, *stores]
        addresses = [address(loader, pointer) for pointer in pointers]
        width = aligned_width(self.width, zip(addresses, self._places, strict=True))
        parts, chain, fold = self._variant(width)
        arguments: list[Any] = []
        for pointer, steps in zip(pointers, self._given, strict=True):
            arguments += [pointer, *steps]
        at = address(loader, workspace)
        folded: list[Any] = []
        for pointer, (step, scale), (offset, count, splits) in zip(
            totals, self._given_totals, parts, strict=True
        ):
            total = [pointer, step, at + offset, scale]
            arguments += total
            folded += [*total, count, splits]
        chain(loader, *arguments, *self._size)
        if fold is not None:
            fold(loader, *folded)

    def _geometry(self, width: int) -> Geometry:
        return geometry(self.rows, self.cols, width, self._axes)

    def _parts(self, geometry: Geometry) -> tuple[list[Part], int]:
        """The part of each reduction, and the bytes of the workspace."""
        parts, end = [], 0
        for r in self._totals:
            count = {"rows": self.cols, "cols": self.rows, "all": 1}[r.axis]
            splits = geometry.splits[r.axis]
            parts.append((end, count, splits))
            if splits > 1:
                need = splits * count * self._item
                end += ceil_div(need, ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return parts, end

    def _variant(self, width: int) -> tuple[list[Part], Launch, Launch | None]:
        found = self._variants.get(width)
        if found is None:
            geometry = self._geometry(width)
            text = printer.chain_text(self._code._replace(width=width))
            parts, workspace = self._parts(geometry)
            fold = None
            if workspace:
                # A reduction in one part has its result already: no block folds it.
                most = max(count for _, count, _ in parts)
                grid = (ceil_div(most, FOLD_LANES), len(parts), 1)
                block = (FOLD_LANES, BLOCK_THREADS // FOLD_LANES, 1)
                fold = Launch(text, "chain_fold", grid, block)
            chain = Launch(text, "chain", geometry.grid, geometry.block)
            found = self._variants[width] = (parts, chain, fold)
        return found


def plan(
    dtype: str, rows: int, cols: int, operands: Sequence[Steps], constants: Sequence[float],
    lines: Sequence[Line], stores: Sequence[tuple[int, Steps]],
    reductions: Sequence[tuple[str, str, int, Steps, float, bool]] = (),
) -> Plan:  # fmt: skip
    """How to launch the instruction ("chain", dtype, rows, cols, ...).

    ``operands`` are (row step, column step, dtype), ``stores`` (value, the same of its place),
    ``reductions`` (kind, axis, value, the same, scale, accumulate). Raises `GpugradError` where
    there are more operands than a launch takes, or where a maximum should accumulate.
    """
    totals = [Reduction(*r) for r in reductions]
    return Plan(dtype, rows, cols, operands, constants, lines, stores, totals)


# ---- several instances of one code ---------------------------------------------------------------


class GroupPlan:
    """How to launch one elementwise code on several sets of arrays at once: an optimiser's update.

    Up to `printer.group_instances` of them go in one launch, their pointers in its parameters.
    """

    workspace_bytes = 0

    def __init__(self, code: Code, sizes: Sequence[int]) -> None:
        self._code = code
        self._sizes = tuple(sizes)
        self._places = [*code.operands, *[place for _, place in code.stores]]

    def launch(
        self, loader: Loader, operands: Sequence[Sequence[Any]], stores: Sequence[Sequence[Any]]
    ) -> None:
        """Enqueue it: for each instance, pointers of its operands and of its stores."""
        table = [
            [address(loader, p) for p in (*ins, *outs)]
            for ins, outs in zip(operands, stores, strict=True)
        ]
        width = aligned_width(
            widest(self._places),
            [pair for row in table for pair in zip(row, self._places, strict=True)],
        )
        text = printer.group_text(self._code._replace(width=width))
        most = printer.group_instances(len(self._places))
        for start in range(0, len(self._sizes), most):
            sizes = self._sizes[start : start + most]
            blocks = [min(ceil_div(n, BLOCK_THREADS * width), _MAP_BLOCKS) for n in sizes]
            if not sum(blocks):
                continue
            group = np.zeros(1, printer.group_dtype(len(self._places)))
            group["at"][0, : len(sizes)] = table[start : start + most]
            group["size"][0, : len(sizes)] = sizes
            group["first"] = sum(blocks)
            group["first"][0, : len(sizes)] = np.cumsum([0, *blocks[:-1]])
            grid = (sum(blocks), 1, 1)
            Launch(text, "chain_group", grid, (BLOCK_THREADS, 1, 1))(loader, group)


def group_plan(
    dtype: str, operands: Sequence[tuple[int, str]], constants: Sequence[float],
    lines: Sequence[Line], stores: Sequence[tuple[int, str]],
    sizes: Sequence[int],
) -> GroupPlan:  # fmt: skip
    """How to launch one code without reductions on ``len(sizes)`` sets of contiguous arrays.

    ``operands`` are (step, dtype): step 1 for an array of the instance's size, 0 for one element.
    ``stores`` are (value, dtype), of the instance's size.
    """
    code = Code(
        dtype,
        1,
        tuple(Place(item, LINE if step else ONE) for step, item in operands),
        tuple(printer.literal(c, dtype) for c in constants),
        tuple((op, a, b, c) for op, a, b, c in lines),
        tuple((value, Place(item, LINE)) for value, item in stores),
    )
    if not printer.group_instances(len(operands) + len(stores)):
        got = f"{len(operands) + len(stores)} of them"
        raise GpugradError(message("chain", "too many operands and stores for one launch", got))
    return GroupPlan(code, sizes)


# ---- helpers -------------------------------------------------------------------------------------


class _Space:
    """(rows, cols) and the steps of all places, with rows and columns chosen as suits a kernel.

    Where steps are even the space becomes one row; where columns are the long way through memory,
    or there is but one, rows and columns change places.
    """

    def __init__(
        self, rows: int, cols: int, places: Sequence[Steps], reductions: Sequence[Reduction]
    ) -> None:
        self.rows, self.cols = rows, cols
        self.places = [_stepping(p, rows, cols) for p in places]
        self.axes = [r.axis for r in reductions]
        self.total_steps = [
            {"rows": r.place[1], "cols": r.place[0], "all": 0}[r.axis] for r in reductions
        ]
        down = any(row == 1 for row, _, _ in self.places)
        if cols == 1 or (down and all(col != 1 for _, col, _ in self.places)):
            self.rows, self.cols = self.cols, self.rows
            self.places = [(col, row, code) for row, col, code in self.places]
            turned = {"rows": "cols", "cols": "rows", "all": "all"}
            self.axes = [turned[axis] for axis in self.axes]
        if self.rows == 1:
            self.axes = ["all" if axis == "cols" else axis for axis in self.axes]
        even = all(row == col * self.cols for row, col, _ in self.places)
        if even and set(self.axes) <= {"all"}:
            self.rows, self.cols = 1, self.rows * self.cols
            self.places = [_stepping((0, col, code), 1, self.cols) for _, col, code in self.places]


def totals_of(reductions: Sequence[Reduction]) -> tuple[Total, ...]:
    """What a text depends on of reductions."""
    for r in reductions:
        if r.accumulate and r.kind != "sum":
            raise GpugradError(message("chain", "only sums accumulate", r.kind))
    return tuple(Total(r.kind, r.axis, r.value, r.place[2], r.accumulate) for r in reductions)


def _stepping(place: Steps, rows: int, cols: int) -> Steps:
    """A step that is never taken is 0."""
    row, col, code = place
    return (row if rows > 1 else 0, col if cols > 1 else 0, code)


def place_of(place: Steps, operand: bool) -> Place:
    row, col, code = place
    if not col and operand:
        return Place(code, ROW if row else ONE)
    return Place(code, LINE if col in (0, 1) else STRIDED)  # a store with no step has one column


def _parameter_bytes(code: Code) -> int:
    places = [*code.operands, *[place for _, place in code.stores]]
    return 8 * (sum(1 + len(p.steps) for p in places) + 6 * len(code.totals) + 2)


def widest(places: Sequence[Place]) -> int:
    """The elements of a step by which the largest neighbours are one transaction."""
    sizes = [p.itemsize for p in places if p.how == LINE]
    return min(_WIDEST, ALIGNMENT_BYTES // max(sizes)) if sizes else 1


def aligned_width(width: int, pointers: Iterable[tuple[int, Place]]) -> int:
    """``width``, or less where a pointer is not aligned to so many elements."""
    for at, place in pointers:
        if place.how == LINE:
            while width > 1 and at % (place.itemsize * width):
                width //= 2
    return width
