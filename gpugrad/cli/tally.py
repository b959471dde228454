"""Numbers that compiled steps leave on a device, fetched for many steps at a time.

May import namespace.
"""

import numpy as np
from numpy.typing import NDArray

import gpugrad as gg
from gpugrad.errors import GradientError

STEPS = 64  # most between two fetches, each of which waits for the device


class Tally:
    """Room for ``columns`` numbers of each of the last `STEPS` steps."""

    def __init__(self, columns: int, device: str) -> None:
        self._numbers = gg.zeros((STEPS, columns), dtype=np.float64, device=device)
        self._places = gg.arange(STEPS, device=device)
        self._next = gg.asarray(0, device=device)
        self._fetched = 0

    def add(self, *numbers: gg.Tensor) -> None:
        """Keep 0-d tensors, exactly if float64 can; part of what a step does, and recorded."""
        row = gg.stack([gg.astype(x, np.float64) for x in numbers])
        here = (self._places == self._next).reshape((STEPS, 1))
        self._numbers[...] = gg.where(here, row, self._numbers)
        self._next[...] = gg.where(self._next == STEPS - 1, 0, self._next + 1)

    def fetch(self, steps: int) -> NDArray[np.float64]:
        """What the next ``steps`` of those not fetched yet have left, (steps, columns)."""
        try:
            kept = self._numbers.to("cpu").numpy()
        except GradientError:  # once for a norm that was not finite, which is among the numbers
            kept = self._numbers.to("cpu").numpy()
        places = np.arange(self._fetched, self._fetched + steps) % STEPS
        self._fetched += steps
        taken: NDArray[np.float64] = kept[places]
        return taken
