"""Per-thread state: whether ops are recorded, and who watches them. Imports config."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from gpugrad.config import flags, on_change

Watcher = Callable[[Any, tuple[Any, ...], Any], None]


class _State(threading.local):
    """Per thread: whether ops are recorded, and which forward-mode levels are open."""

    def __init__(self) -> None:
        self.grad = True
        self.levels: list[int] = []
        self.transforms = 0  # functions being differentiated right now
        self.watchers: list[Watcher] = []
        self.in_backward = False
        self.trace: Any = None  # the Trace that ops are written to instead of being run
        # Whether something other than plain evaluation wants to see every op: an open level of
        # forward mode, a trace, a watcher, GPUGRAD_CHECK.
        self.special = flags.check

    @contextmanager
    def watched_by(self, watcher: "Watcher") -> Iterator[None]:
        """Call ``watcher(op, inputs, output)`` after every op, in this thread."""
        before = self.special
        self.watchers.append(watcher)
        self.special = True
        try:
            yield
        finally:
            self.watchers.remove(watcher)
            self.special = before


state = _State()


def _recheck() -> None:
    state.special = bool(flags.check or state.levels or state.watchers or state.trace)


on_change.append(_recheck)


@contextmanager
def grad_mode(on: bool) -> Iterator[None]:
    """Record (or do not record) ops for the length of the block, in this thread."""
    before, state.grad = state.grad, on
    try:
        yield
    finally:
        state.grad = before


def no_grad() -> AbstractContextManager[None]:
    """Inside the ``with`` block nothing is recorded: updates, evaluation.

    >>> import gpugrad as gg
    >>> x = gg.asarray(2.0, requires_grad=True)
    >>> with gg.no_grad():
    ...     (x * x).requires_grad
    False
    """
    return grad_mode(False)


def enable_grad() -> AbstractContextManager[None]:
    """Inside the ``with`` block ops are recorded, even within `no_grad`."""
    return grad_mode(True)


def is_grad_enabled() -> bool:
    """Whether ops are being recorded in this thread."""
    return state.grad
