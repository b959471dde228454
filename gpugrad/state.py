"""Per-thread state: whether ops are recorded, in which precision, who watches. Imports config."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from gpugrad.config import flags, on_change
from gpugrad.errors import DtypeError, message

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
        self.autocast: Any = None  # the dtype that products are computed in, where it is one
        # Whether something other than plain evaluation wants to see every op: what `observed`
        # says, or an open autocast.
        self.special = flags.check

    def observed(self) -> bool:
        """Whether a level of forward mode, a trace, a watcher or GPUGRAD_CHECK sees every op."""
        return bool(flags.check or self.levels or self.watchers or self.trace)

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
    state.special = state.observed() or state.autocast is not None


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


@contextmanager
def precision(dtype: Any) -> Iterator[None]:
    """Products in ``dtype`` for the length of the block, in this thread; None: as they come."""
    before = state.autocast, state.special
    state.autocast = dtype
    state.special = dtype is not None or state.observed()
    try:
        yield
    finally:
        state.autocast, state.special = before


def autocast(dtype: Any = "float16", enabled: bool = True) -> AbstractContextManager[None]:
    """Inside the ``with`` block matrix products take float16 operands and give float16 results.

    They sum in float32. Ops that float16 is too coarse or too short for (exp, log, powers, sums,
    means, norms, softmax, the losses) take and give float32 instead; all others take what comes, of
    two precisions the wider. float64, integers and complex numbers stay as they are. Which op does
    what is part of its declaration and follows PyTorch's lists. Parameters stay float32 and get
    float32 gradients, since the casts are on the tape. A backward pass computes in the precisions
    of the forward pass, wherever it is called.

    Blocks nest, the inner one counting; ``enabled=False`` is a block without casts. It decorates
    functions too, and a compiled step that runs under another setting is recorded anew. It is for
    GPUs: a CPU computes float16 in float32 and rounds, which is tens of times slower than float32.
    Small gradients vanish in float16 unless the loss is scaled: `gpugrad.optim.GradScaler`.

    Raises DtypeError for another dtype; bfloat16 is one that NumPy does not have. Micikevicius et
    al., Mixed precision training, 2018; https://pytorch.org/docs/stable/amp.html.

    >>> import gpugrad as gg
    >>> model = gg.nn.Linear(2, 1)
    >>> with gg.autocast():
    ...     y = model(gg.ones((3, 2)))
    ...     loss = y.sum()
    >>> loss.backward()
    >>> y.dtype.name, loss.dtype.name, model.weight.grad.dtype.name
    ('float16', 'float32', 'float32')
    """
    name = dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or dtype.__name__
    if name != "float16":
        rule = "products are computed in float16"
        if name == "bfloat16":
            rule += "; NumPy, which holds all arrays of the CPU, has no bfloat16"
        raise DtypeError(message("autocast", rule, name, 'gg.autocast("float16")'))
    return precision(np.dtype(np.float16) if enabled else None)
