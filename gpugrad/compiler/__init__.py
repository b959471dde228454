"""`compile`: a step recorded once, planned as one program, and replayed.

`trace` writes down what a step does, `program` simplifies it, `lower` makes few passes (`nodes`)
over memory (`views`) of it in a `draft`: `chains` of `expr`, evened out by `tidy`, and a `loss`.
`plan` says where results go, `order` what runs after what, `arena` where memory lies, `rows` how
the batch is cut over threads; `segments` hold what runs together, written by `emit`. A `recording`
is the `record` of one run with that plan and the `memory` to replay it on; `guards` knows what must
not have changed, `timing` what a pass takes. May import everything below nn.
"""

import threading
import types
import warnings
from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any

from gpugrad.compiler.program import Program
from gpugrad.compiler.record import data_of, is_array
from gpugrad.compiler.recording import Recording, Uncompiled
from gpugrad.config import flags
from gpugrad.state import state
from gpugrad.tensor import Tensor
from gpugrad.tree import flatten

_STORM = 8  # traces of one function, from which on it is said why
_KEPT = 16  # recordings of one function for one kind of arguments; the oldest goes first


def compile(f: Callable[..., Any] | None = None, *, threads: int | None = None) -> Any:
    """``f`` recorded once, planned as one program, and replayed at every further call.

    For a whole training step: forward, ``backward()``, optimiser. What the step reads (parameters,
    buffers, optimiser state) is looked up at every call, and what it rebinds is written back, so
    state works as it does uncompiled. Arrays and tensors among the arguments are inputs, numbers
    and other values part of the recording: another number, shape, dtype, ``train()``/``eval()`` or
    attribute that the step reads records it anew. ``lr`` and step counts are read anew every time.

    ``f`` is called once for each recording, with tensors that have no values yet: asking for one
    (``float(loss)``, ``if x > 0``, ``print``) raises `TraceError`, and so do a change of a Python
    object and a draw from a generator that is not `gg.random`'s, which would happen only then. A
    gradient that the step leaves in ``.grad`` is
    computed when it is looked at, from the batch as it is then.

    Parameters
    ----------
    f : the step; may return a tensor, nested containers of them, numbers, or nothing.
    threads : how many CPU threads to use; by default GPUGRAD_NUM_THREADS, or all cores.

    Examples
    --------
    >>> import gpugrad as gg
    >>> w = gg.asarray([1.0, 2.0], requires_grad=True)
    >>> optimizer = gg.optim.SGD([w], lr=0.25)
    >>> @gg.compile
    ... def step(x):
    ...     optimizer.zero_grad()
    ...     loss = (w * x).sum()
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> step(gg.asarray([1.0, 1.0])).item(), w.tolist()
    (3.0, [0.75, 1.75])
    >>> step(gg.asarray([1.0, 1.0])).item(), w.tolist()
    (2.5, [0.5, 1.5])
    """
    if f is None:
        return lambda g: compile(g, threads=threads)
    return Compiled(f, threads)


class Compiled:
    """A function that `compile` made; call it as the function itself."""

    def __init__(self, f: Callable[..., Any], threads: int | None) -> None:
        update_wrapper(self, f)
        self.function = f
        self.threads = threads
        self._known: dict[Any, list[Recording]] = {}
        self._latest: Recording | None = None
        self._lock = threading.RLock()
        self._traces = 0
        self._reasons: list[str] = []
        self._eager = ""
        self._impossible: dict[Any, Uncompiled] = {}

    def __get__(self, holder: Any, owner: Any = None) -> Any:
        return self if holder is None else types.MethodType(self, holder)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if state.special and state.observed():  # by another trace, forward mode, a watcher
            return self.function(*args, **kwargs)
        latest = self._latest
        if latest is not None and not kwargs:
            replay = latest.replay
            if (
                replay is not None
                and state.grad is latest.grad
                and state.autocast is latest.autocast
                and flags.device == latest.flags[0]
            ):
                out = replay(*args)
                if out is not NotImplemented:
                    return out
            arrays = latest.accepts(args)
            if arrays is not None:
                return latest.run(arrays, args)
        leaves, _ = flatten((args, kwargs))
        why = _why_eager(leaves)
        if why:
            self._eager = why
            return self.function(*args, **kwargs)
        try:
            recording = self._find(args, kwargs, leaves)
        except Uncompiled as why_not:
            self._eager = why_not.reason
            return self.function(*args, **kwargs)
        self._latest = recording
        arrays = [data_of(x) for x in leaves if is_array(x)]
        return recording.run(arrays, leaves)

    def _find(self, args: Any, kwargs: Any, leaves: Sequence[Any]) -> Recording:
        """A recording that fits the arguments and the state of Python, made if there is none."""
        key = _signature(args, kwargs, leaves)
        with self._lock:
            if key in self._impossible:
                raise self._impossible[key]
            reason = "a new shape, dtype, structure or number among the arguments"
            for recording in reversed(self._known.get(key, [])):
                changed = recording.changed()
                if not changed:
                    return recording
                reason = changed
            try:
                recording = Recording(self.function, self.threads, args, kwargs, leaves)
            except Uncompiled as why:
                self._impossible[key] = why
                raise
            same = self._known.setdefault(key, [])
            same.append(recording)
            del same[:-_KEPT]
            if self._traces:
                self._reasons.append(reason)
            self._traces += 1
            if self._traces == _STORM:
                name = getattr(self.function, "__name__", "step")
                text = (
                    f"{name} was recorded {_STORM} times, which costs more than running it "
                    f"uncompiled; latest reason: {reason}. Pass numbers that change as 0-d arrays, "
                    "and keep shapes the same."
                )
                warnings.warn(text, RuntimeWarning, stacklevel=3)
            return recording

    def program(self, *args: Any, **kwargs: Any) -> Program:
        """The program for these arguments, recorded if need be and not run."""
        return self.recording(*args, **kwargs).program

    def recording(self, *args: Any, **kwargs: Any) -> Recording:
        """What would be replayed for these arguments: a program with its plan and memory."""
        leaves, _ = flatten((args, kwargs))
        return self._find(args, kwargs, leaves)

    def stats(self) -> dict[str, Any]:
        """What the latest recording became, and how often the function was recorded."""
        own: dict[str, Any] = {"recordings": self._traces, "reasons": list(self._reasons)}
        if self._eager:
            own["ran uncompiled"] = self._eager
        return own if self._latest is None else own | self._latest.stats()


def _why_eager(leaves: Sequence[Any]) -> str:
    """What about the arguments only the function itself can do; empty when they can be inputs."""
    for x in leaves:
        if type(x) is Tensor and x._node is not None and state.grad:
            return "an argument requires a gradient"
    return ""


def _signature(args: Any, kwargs: Any, leaves: Sequence[Any]) -> Any:
    """What two calls must share to share a recording."""
    parts: list[Any] = [state.grad, state.autocast, flags.device, flags.matmul, flags.fuse_products]
    parts.append(_structure((args, kwargs)))
    for x in leaves:
        if is_array(x):
            data = data_of(x)
            parts.append((type(x) is Tensor, data.shape, data.dtype))
        elif isinstance(x, (bool, int, float, complex, str, bytes)):
            parts.append((type(x), x if x == x else "nan"))
        else:
            parts.append(id(x))  # the recording keeps it alive
    return tuple(parts)


def _structure(tree: Any) -> Any:
    if isinstance(tree, dict):
        return (type(tree), *[(key, _structure(value)) for key, value in tree.items()])
    if isinstance(tree, (list, tuple)):
        return (type(tree), *map(_structure, tree))
    return None if tree is None else 0
