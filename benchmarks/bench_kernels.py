"""Fused kernels, as the tape calls them, with achieved GB/s beside the measured copy rate."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpugrad import backend


@pytest.mark.benchmark(group="fused kernels, float32")
@pytest.mark.parametrize("shape", [(128, 512), (16384, 64), (1024, 2048), (4096, 4096)], ids=str)
def test_sigmoid_bwd(
    benchmark: Any, beside_copy: Callable[[int, str], None], shape: tuple[int, int], device: str
) -> None:
    place = backend.get(device)
    rng = np.random.default_rng(0)
    dy = place.asarray(rng.standard_normal(shape, "f4"))
    y = place.asarray(rng.random(shape, "f4"))

    def kernel() -> None:
        place.sigmoid_bwd(dy, y)
        place.synchronize()

    benchmark(kernel)
    beside_copy(3 * dy.nbytes, device)  # dy and y read, dz written
