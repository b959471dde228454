"""How long each step of a recording takes, on copies of all that it works on. Imports recording."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpugrad.compiler.emit import Emitter
from gpugrad.compiler.nodes import Call, Node
from gpugrad.compiler.record import data_of, is_array
from gpugrad.compiler.recording import Recording
from gpugrad.compiler.segments import Segment
from gpugrad.errors import GpugradError
from gpugrad.tensor import Tensor
from gpugrad.tree import flatten

_ROUNDS = 12


def times(recording: Recording, args: Any) -> dict[Node, float]:
    """Seconds that each node takes run on its own, the least of several rounds.

    Nothing that the recorded function could see is changed: parameters, results and temporaries are
    copies, generators are put back. Raises what the step itself would raise on these arguments.
    Nothing is measured on a GPU, where a step is one graph.
    """
    if not recording.moving:
        return {}
    memories = _copies(recording, [data_of(x) for x in flatten(args)[0] if is_array(x)])
    runs: list[tuple[Node, Callable[[], Any]]] = []
    for segment in recording.plan.segments:
        for node in segment.nodes:
            if not isinstance(node, Call):
                runs.append((node, _alone(recording, segment, node, memories).run))
            else:
                runs.append((node, _called(recording, node, memories)))
    found = {node: float("inf") for node, _ in runs}
    with _unmoved(runs), np.errstate(all="ignore"):
        for i in range(_ROUNDS):
            try:
                for node, run in runs:
                    start = time.perf_counter()
                    run()
                    found[node] = min(found[node], time.perf_counter() - start)
            except GpugradError:
                if not i:
                    raise
                break  # so many steps on one batch, with a rate that is not made for it
    return found


def _copies(recording: Recording, arrays: Sequence[Any]) -> list[Any]:
    """Memory for every base, with what a run would find there."""
    memories: list[Any] = [np.zeros_like(recording.memory.bound[0])]
    for i, buffer in enumerate(recording.plan.bases[1:], 1):
        assert buffer is not None
        if buffer.kind == "arg":
            memories.append(np.array(arrays[buffer.index], order="C"))
        elif buffer.kind == "captured":
            held: Any = recording.program.captured[buffer.index].holder
            holder = held if type(held) is Tensor else held.look()
            memories.append(np.array(holder._data, order="C"))
        elif buffer.kind == "scalar":
            memories.append(np.array([recording.getters[buffer.index]()], buffer.dtype))
        elif buffer.kind == "constant":
            memories.append(recording.memory.bound[i])
        else:
            memories.append(np.zeros(buffer.size, buffer.dtype))
    return memories


def _alone(recording: Recording, segment: Segment, node: Node, memories: Sequence[Any]) -> Any:
    """An engine for one node of a segment, bound to ``memories``."""
    plan = recording.plan
    inside = segment.mode == "rows"
    instructions = tuple(Emitter(plan, plan.rows, inside).all([node]))
    plain = (segment.mode, instructions, segment.batch, segment.chunk, segment.zeroed)
    engine = recording.engine((plain,), len(plan.bases), plan.private_bytes, plan.threads)
    for i, memory in enumerate(memories):
        engine.bind(i, memory.ctypes.data if recording.native else memory)
    return engine


def _called(recording: Recording, node: Call, memories: Sequence[Any]) -> Callable[[], None]:
    return lambda: recording._call(node, lambda view: recording.memory.array_on(memories, view))


@contextmanager
def _unmoved(runs: Sequence[tuple[Node, Any]]) -> Iterator[None]:
    """Generators that calls draw from are afterwards where they were."""
    drawn = [
        node.eqn.params["generator"]
        for node, _ in runs
        if isinstance(node, Call) and "generator" in node.eqn.params
    ]
    before = [generator.state for generator in drawn]
    try:
        yield
    finally:
        for generator, state in zip(drawn, before, strict=True):
            generator.state = state
