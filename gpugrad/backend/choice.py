"""Which of several ways to do a step is the fastest on this device: measured once, then known.

A product and what follows on it can be cuBLASLt's and a second kernel, cuBLASLt's with an epilogue,
or one kernel of ours. Each way runs on memory of its own, must give what the plain one gives, and
is timed in a CUDA graph, where it will run. Imports graph, operands and steps.
"""

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpugrad.backend.graph import Program
from gpugrad.backend.operands import READ_INSIDE, moved, range_of, read_once
from gpugrad.backend.steps import bias_of, fused, grouped, parts_of, with_sums
from gpugrad.backend.twin import DTYPES
from gpugrad.errors import message

Times = dict[str, float]  # seconds of each way that was tried

PLAIN = "plain"
_ALGORITHMS = 4  # of cuBLASLt for a product, as it ranks them
_REPEATS, _ROUNDS = 20, 5
_WORTH = 0.97  # of the plain way's time: what another must stay below
_ALIGNMENT = 256  # bytes to which addresses are as before
_KEPT = 10_000  # choices of one device in the file


def fastest(device: Any, instructions: Sequence[Any], matmul: str) -> list[Any]:
    """The instructions as steps for `graph.Program`, each done as is fastest on ``device``."""
    steps: Sequence[Any] = instructions
    for joined in (fused, with_sums):  # which takes what the first has left
        steps = [s for step in joined(steps) for s in _chosen(device, step, matmul)]
    return grouped(steps)


def _chosen(device: Any, step: Any, matmul: str) -> list[Any]:
    if step[0] not in ("layers", "product", "epilogue", "gemm"):
        return [step]
    alone, memories = apart(parts_of(step))
    key = hashlib.sha256(repr((alone, matmul)).encode()).hexdigest()[:32]

    def measure() -> Times:
        whole = with_sums(fused(alone))
        if len(whole) != 1 or any(m is None for m in memories):
            return {PLAIN: 0.0}
        return measured(device, _ways(device, whole[0], matmul), memories, matmul)

    return _ways(device, step, matmul)[device.known.fastest(key, measure)]


def _ways(device: Any, step: Any, matmul: str) -> dict[str, list[Any]]:
    """All ways to do a step, by name: the steps that each takes."""
    kind, *rest = step
    if kind == "gemm":
        others = {f"algorithm {i}": [("algorithm", step, i)] for i in range(1, _ALGORITHMS)}
        return {PLAIN: [step]} | others
    parts = rest[0] if kind == "layers" else parts_of(step)
    ways = {PLAIN: [s for part in parts for s in _chosen(device, part, matmul)]}
    ways["epilogue" if kind == "epilogue" else "own"] = [step]
    if kind == "product" and bias_of(*rest) is not None:
        ways["epilogue"] = [("epilogue", *rest, "bias")]
    return ways


# Steps on memory of their own


class Memory(NamedTuple):
    """What some operands lie in: bytes before the first and of all, their dtype."""

    start: int
    nbytes: int
    dtype: str
    result: bool  # somebody else reads what is written there
    factor: bool  # of a matrix product

    def filled(self, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Bytes of random numbers: factors between −1 and 1, others between 0 and 1."""
        dtype = np.dtype(DTYPES.get(self.dtype, self.dtype))
        count = (self.nbytes - self.start) // dtype.itemsize
        some = min(count, 999_983)
        floats = rng.uniform(-1 if self.factor else 0, 1, some)
        numbers = floats if dtype.kind == "f" else rng.integers(0, 2, some)
        memory = np.zeros(self.nbytes, np.uint8)
        memory[self.start :] = np.resize(numbers.astype(dtype), count).view(np.uint8)
        return memory

    def values(self, memory: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return memory[self.start :].view(DTYPES.get(self.dtype, self.dtype)).astype(np.float64)


class _Place(NamedTuple):
    base: int
    start: int
    stop: int
    dtype: str
    result: bool
    factor: bool


def _places(instruction: Any, later: Set[tuple[int, int]]) -> list[_Place]:
    """Those of its operands. ``later`` is where those of the instructions after it begin."""
    places: list[_Place] = []

    def see(operand: Any, rows: int, cols: int, written: bool) -> Any:
        passed_on = operand[5] & READ_INSIDE or (read_once(operand) and operand[:2] in later)
        factor = instruction[0] == "gemm" and not written and rows * cols > 1
        at = range_of(operand, rows, cols)
        places.append(_Place(*at, operand[4], written and not passed_on, factor))
        return operand

    moved(instruction, see)
    return places


def apart(instructions: Sequence[Any]) -> tuple[list[Any], list[Memory | None]]:
    """The instructions on as little memory as they need, and that; None is of several dtypes.

    What overlapped does so still. The same for all steps that do the same.
    """
    seen: list[_Place] = []
    for instruction in reversed(instructions):
        seen = _places(instruction, {(p.base, p.start) for p in seen}) + seen
    rooms: list[list[_Place]] = []
    end = -1
    for place in sorted(seen):
        if not rooms or place.base != rooms[-1][0].base or place.start >= end:
            rooms.append([])
            end = place.stop
        rooms[-1].append(place)
        end = max(end, place.stop)
    # In the order in which they are come across, wherever they were.
    rooms.sort(key=lambda room: min(map(seen.index, room)))
    shifts: dict[tuple[int, int], tuple[int, int]] = {}
    memories: list[Memory | None] = []
    for i, room in enumerate(rooms):
        first = min(p.start for p in room)
        before = first % _ALIGNMENT
        shifts |= {(p.base, p.start): (i, p.start - first + before) for p in room}
        nbytes = before + max(p.stop for p in room) - first
        result, factor = any(p.result for p in room), any(p.factor for p in room)
        memory = Memory(before, nbytes, room[0].dtype, result, factor)
        memories.append(memory if len({p.dtype for p in room}) == 1 else None)

    def move(operand: Any, rows: int, cols: int, written: bool) -> Any:
        return (*shifts[operand[:2]], *operand[2:])

    return [moved(instruction, move) for instruction in instructions], memories


# Measuring


def measured(
    device: Any, ways: Mapping[str, list[Any]], memories: Sequence[Any], matmul: str
) -> Times:
    """Seconds that each way takes, but for those that cannot be done or give something else."""
    rng = np.random.default_rng(0)
    filled = [memory.filled(rng) for memory in memories]
    wanted: list[np.ndarray[Any, Any]] = []
    programs, graphs = [], {}
    for name, steps in ways.items():
        try:
            arrays = [device.asarray(array, copy=True) for array in filled]
            program = Program(device, steps, len(arrays), matmul)
            for i, array in enumerate(arrays):
                program.bind(i, array)
            program.run()
            results = [
                memory.values(device.to_numpy(array))
                for memory, array in zip(memories, arrays, strict=True)
                if memory.result
            ]
            wanted = wanted or results
            coarse = matmul != "float32" or any(memory.dtype == "f2" for memory in memories)
            if not all(map(partial(_alike, coarse), results, wanted)):
                rule = f"{name}, a way to do {_shown(steps)}, gives other values than the plain one"
                hint = "reporting this with what gpugrad doctor --gpu says; it is not used"
                warnings.warn(message("choice", rule, hint=hint), RuntimeWarning, stacklevel=2)
                continue
            graphs[name] = program.repeated(_REPEATS)
            programs.append(program)  # whose memory the graph works on
        except Exception:
            # A way may not be possible here: cuBLASLt proposes nothing, there is no room for it.
            device.synchronize()  # raises where more was lost than this way
            if name == PLAIN:
                return {}
    with device.here():
        return _times(device, {name: graph.launch for name, graph in graphs.items()})


def _shown(steps: Sequence[Any]) -> str:
    parts = [part for step in steps for part in parts_of(step)]
    shapes = ["×".join(map(str, part[4:7])) for part in parts if part[0] == "gemm"]
    return f"{' and '.join(step[0] for step in steps)} ({', '.join(shapes)})"


def _alike(coarse: bool, found: Any, wanted: Any) -> bool:
    """Whether but for rounding two results are one, in all but a few places near a threshold."""
    good = np.isfinite(wanted)
    tolerance = (2e-2 if coarse else 1e-3) * (1 + np.abs(wanted[good]).max(initial=0))
    same = np.isclose(found, wanted, 0, tolerance, equal_nan=True)
    return bool(np.mean(~same) <= 1e-3) if same.size else True


def _times(device: Any, work: Mapping[str, Callable[[], Any]]) -> Times:
    """Seconds of one of the ``_REPEATS`` that each piece of work is: the best of several rounds."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(_ROUNDS):
        for name, launch in work.items():
            device.synchronize()
            start = time.perf_counter()
            launch()
            device.synchronize()
            best[name] = min(best[name], (time.perf_counter() - start) / _REPEATS)
    return best


class Known:
    """What was measured on a device, in a file that makes other processes choose the same."""

    def __init__(self, file: Path | None, device: str) -> None:
        self.file, self._device = file, device
        self._lock = threading.RLock()
        self.times: dict[str, Times] = self._read().get(device, {})

    def fastest(self, key: str, measure: Callable[[], Times]) -> str:
        """The fastest way; only one that gains something is taken in place of the plain one."""
        with self._lock:
            times = self.times.get(key)
            if times is None:
                times = self.times[key] = measure()
                if times:
                    self._write(key, times)
        if not times:
            return PLAIN
        best = min(times, key=times.__getitem__)
        return best if times[best] < _WORTH * times[PLAIN] else PLAIN

    def _read(self) -> dict[str, dict[str, Times]]:
        try:
            text = "{}" if self.file is None else self.file.read_text(encoding="utf-8")
            known = json.loads(text)
            return known if isinstance(known, dict) else {}
        except (OSError, ValueError):
            return {}

    def _write(self, key: str, times: Times) -> None:
        """Add one to the file, in which other processes may have written since; or leave it."""
        if self.file is None:
            return
        known = self._read()
        own = known.setdefault(self._device, {})
        own[key] = times
        for old in list(own)[:-_KEPT]:
            del own[old]
        partly = self.file.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partly.write_text(json.dumps(known, indent=0) + "\n", encoding="utf-8")
            partly.replace(self.file)


def file() -> Path:
    """Where choices are kept: in GPUGRAD_CACHE_DIR, or else the user's folder of caches."""
    given = os.environ.get("GPUGRAD_CACHE_DIR")
    if given:
        return Path(given) / "choices.json"
    if sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "gpugrad" / "choices.json"
