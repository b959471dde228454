"""Batches made ready while the one before is computed with. Imports backend, tensor and tree."""

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gpugrad import backend
from gpugrad.config import flags
from gpugrad.errors import DataError, DeviceError, message
from gpugrad.late import functions
from gpugrad.tree import flatten

_PATIENCE_S = 1.0  # for a thread to end that may hang in the user's own iterator


def prefetch(batches: Iterable[Any], device: str | None = None, depth: int = 2) -> Iterator[Any]:
    """The same batches in the same order, as Tensors, made by a thread ``depth`` ahead.

    A batch is an array, or lists, tuples and dicts of arrays. The thread draws from ``batches``, so
    that reading and indexing happen there, and brings the arrays to ``device`` (without one, where
    new tensors go): to CUDA through pinned memory, on a stream of its own. Worth it where a batch
    takes time to make, as rows of a mapped file do; a batch of a small array in memory is made
    faster than a thread can be told to.

    What ``batches`` raises is raised where its batch would have come. Leaving the loop ends the
    thread. Raises DataError for a ``depth`` below 1, and DeviceError in a forked process, where
    there is no such thread.

    >>> import numpy as np
    >>> import gpugrad as gg
    >>> data = gg.data.Dataset(np.eye(4), np.arange(4.0))
    >>> for x, y in prefetch(gg.data.batches(data, 3, seed=0, epoch=0)):
    ...     print(type(x).__name__, x.shape, y.shape)
    Tensor (3, 4) (3,)
    Tensor (1, 4) (1,)
    """
    if depth < 1:
        raise DataError(message("prefetch", "depth is at least 1", depth))
    return _consume(batches, _placing(flags.device if device is None else device, depth), depth)


def _consume(batches: Iterable[Any], place: Callable[[Any], Any], depth: int) -> Iterator[Any]:
    # The thread must not hold this generator: its end is what ends the thread.
    room, ready = threading.Semaphore(depth), queue.SimpleQueue[Any]()
    stopped = threading.Event()
    arguments = (batches, place, room, ready, stopped)
    thread = threading.Thread(target=_produce, args=arguments, name="prefetch", daemon=True)
    thread.start()
    process = os.getpid()
    try:
        while True:
            if os.getpid() != process:
                rule, hint = "its thread stayed in the process that forked", "prefetch in this one"
                raise DeviceError(message("prefetch", rule, f"process {os.getpid()}", hint))
            taken, error = ready.get()
            if error is not None:
                raise error
            if taken is None:
                return
            room.release()
            yield taken()
    finally:
        stopped.set()
        room.release()
        # The garbage collector may end this generator from within the thread.
        if os.getpid() == process and thread is not threading.current_thread():
            thread.join(_PATIENCE_S)


def _produce(
    batches: Iterable[Any],
    place: Callable[[Any], Any],
    room: threading.Semaphore,
    ready: "queue.SimpleQueue[Any]",
    stopped: threading.Event,
) -> None:
    """Puts (take, None) for each batch, (None, error) for one that failed, (None, None) at the end.

    ``take()``, called by who consumes, gives the batch.
    """
    try:
        source = iter(batches)
        while room.acquire() and not stopped.is_set():
            try:
                batch = next(source)
            except StopIteration:
                break
            ready.put((place(batch), None))
        ready.put((None, None))
    except BaseException as error:
        ready.put((None, error))


def _placing(device: str, depth: int) -> Callable[[Any], Callable[[], Any]]:
    """What brings a batch to ``device`` from within the thread, and gives what gives it there."""
    target = backend.get(device)
    upload = getattr(target, "upload", None)
    if upload is None:
        return _placed_here
    send = upload(depth + 1)

    def place(batch: Any) -> Callable[[], Any]:
        leaves, rebuild = flatten(batch)
        arrive = send([functions.asarray(leaf, device="cpu").numpy() for leaf in leaves])
        return lambda: rebuild(map(functions.asarray, arrive()))

    return place


def _placed_here(batch: Any) -> Callable[[], Any]:
    leaves, rebuild = flatten(batch)
    # Copies: who makes the batches may fill the same arrays again for the next one.
    placed = rebuild([functions.asarray(leaf, device="cpu", copy=True) for leaf in leaves])
    return lambda: placed
