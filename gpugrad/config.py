"""The few flags. Each is an environment variable at start and a context manager afterwards.

=========================  =======  ====================================================
variable                   default  meaning
=========================  =======  ====================================================
``GPUGRAD_FUSE``           ``1``    use the fusion table in backward; ``0`` runs op by op
``GPUGRAD_DEVICE``         ``cpu``  where new tensors are created when no device is given
``GPUGRAD_CHECK``          ``0``    stop at the first NaN or Inf of the forward pass, and at
                                    an array that changed between forward and backward; slow
``GPUGRAD_NATIVE``         ``1``    run compiled steps, layers, losses and updates in the native
                                    CPU core where it could be built; ``0`` leaves all to NumPy
``GPUGRAD_NUM_THREADS``    ``0``    threads of the native core; ``0``: one for each core
``GPUGRAD_FUSE_PRODUCTS``  ``auto`` products of compiled steps on CUDA, with what follows on
                                    them, and layers up to 128 wide: ``1`` in kernels of our own
                                    (compute capability 8.0 and up), ``0`` cuBLASLt's, ``auto``
                                    as is fastest here, which is measured when a step is
                                    recorded and kept in ``GPUGRAD_CACHE_DIR``
``GPUGRAD_MATMUL``         ``float32`` what float32 matrix products of compiled steps on CUDA may
                                    round their operands to: ``tf32`` (10 bits) and
                                    ``bfloat16`` (7 bits) are several times as fast; sums and
                                    results stay float32
=========================  =======  ====================================================
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Flags of several values.
_VALUES: dict[str, tuple[object, ...]] = {
    "matmul": ("float32", "tf32", "bfloat16"),
    "fuse_products": (False, True, "auto"),
}


def _one_of(name: str, value: Any) -> Any:
    if value not in _VALUES.get(name, (value,)):
        raise ValueError(f"[config] {name} is one of {_VALUES[name]}; got {value!r}")
    return value


class _Flags(threading.local):
    """Values are per thread, so one thread's ``override`` never changes another's results."""

    def __init__(self) -> None:
        self.fuse = os.environ.get("GPUGRAD_FUSE", "1") != "0"
        self.device = os.environ.get("GPUGRAD_DEVICE", "cpu")
        self.check = os.environ.get("GPUGRAD_CHECK", "0") == "1"
        self.native = os.environ.get("GPUGRAD_NATIVE", "1") != "0"
        fuse = os.environ.get("GPUGRAD_FUSE_PRODUCTS", "auto")
        self.fuse_products = _one_of("fuse_products", {"0": False, "1": True}.get(fuse, fuse))
        self.matmul = _one_of("matmul", os.environ.get("GPUGRAD_MATMUL", "float32"))
        self.num_threads = int(os.environ.get("GPUGRAD_NUM_THREADS", "0") or 0)


flags = _Flags()
on_change: list[Callable[[], None]] = []  # called in the thread whose flags have changed


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
    vars(flags).update({name: _one_of(name, value) for name, value in values.items()})
    for changed in on_change:
        changed()
    try:
        yield
    finally:
        vars(flags).update(before)
        for changed in on_change:
            changed()
