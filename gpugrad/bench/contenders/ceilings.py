"""The rates nothing here can beat: a large matrix product, and a copy through all of memory."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

SIDE = 2048
GEMM_FLOP = 2 * SIDE**3
COPY_VALUES = 1 << 25  # 128 MiB of float32, beyond any cache
COPY_BYTES = 8 * COPY_VALUES  # read and written


def _place(problem: Any) -> tuple[Any, Any]:
    """The array module of the device, and what waits for it."""
    if problem.device == "cpu":
        return np, None
    from gpugrad import backend

    place = backend.get(problem.device)
    return place.xp, place.synchronize


class Gemm:
    """``a @ b`` of 2048 × 2048 float32 values."""

    def __init__(self, problem: Any) -> None:
        self.xp, sync = _place(problem)
        if sync is not None:
            self.sync = sync
        self.a, self.b, self.out = (self.xp.ones((SIDE, SIDE), "f4") for _ in range(3))

    def step(self) -> None:
        self.xp.matmul(self.a, self.b, out=self.out)

    def value(self) -> float:
        return float(self.out[0, 0])


class Copy:
    """128 MiB from one array to another, on a CPU by ``problem.cores`` threads."""

    def __init__(self, problem: Any) -> None:
        xp, sync = _place(problem)
        source, target = xp.ones(COPY_VALUES, "f4"), xp.zeros(COPY_VALUES, "f4")
        self.target = target
        if sync is not None:
            self.sync = sync
            self.step = lambda: xp.copyto(target, source)
            return
        count = problem.cores
        pool = ThreadPoolExecutor(count)
        parts = list(zip(np.array_split(target, count), np.array_split(source, count), strict=True))

        def step() -> None:
            for _ in pool.map(lambda part: np.copyto(*part), parts):
                pass

        self.step = step

    def value(self) -> float:
        return float(self.target[-1])
