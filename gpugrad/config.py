"""The few flags. Each is an environment variable at start and a context manager afterwards.

=================  =======  ==========================================================
variable           default  meaning
=================  =======  ==========================================================
``GPUGRAD_FUSE``   ``1``    use the fusion table in backward; ``0`` runs op by op
``GPUGRAD_DEVICE`` ``cpu``  where new tensors are created when no device is given
=================  =======  ==========================================================
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Flags(threading.local):
    """Values are per thread, so one thread's ``override`` never changes another's results."""

    def __init__(self) -> None:
        self.fuse = os.environ.get("GPUGRAD_FUSE", "1") != "0"
        self.device = os.environ.get("GPUGRAD_DEVICE", "cpu")


flags = _Flags()


@contextmanager
def override(**values: object) -> Iterator[None]:
    """Set flags for the length of a ``with`` block, in this thread.

    >>> with override(fuse=False):
    ...     flags.fuse
    False
    """
    unknown = values.keys() - vars(flags).keys()
    if unknown:
        raise TypeError(
            f"no such flag: {', '.join(sorted(unknown))}; flags are {list(vars(flags))}"
        )
    before = {name: getattr(flags, name) for name in values}
    vars(flags).update(values)
    try:
        yield
    finally:
        vars(flags).update(before)
