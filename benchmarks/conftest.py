"""What the benchmarks share: the devices there are, and rates beside the machine's own.

Run: pytest benchmarks --benchmark-enable. Beside other libraries: gpugrad bench.
"""

from collections.abc import Callable
from typing import Any

import pytest

from gpugrad import backend
from gpugrad.bench import runner
from gpugrad.bench.contenders import ceilings
from gpugrad.bench.worker import Timed, problem


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name == "cuda" and not backend.cuda_available():
        pytest.skip("no CUDA device can be used here")
    return name


@pytest.fixture(scope="session")
def copy_rate() -> Callable[[str], float]:
    """Bytes a second, read and written, of a copy on a device; measured once."""
    known: dict[str, float] = {}

    def rate(device: str) -> float:
        if device not in known:
            copy = Timed(ceilings.Copy(problem({}, device=device, cores=runner.cores())), 0.1)
            known[device] = ceilings.COPY_BYTES / min(copy.samples(0.5))
        return known[device]

    return rate


@pytest.fixture
def beside_copy(benchmark: Any, copy_rate: Callable[[str], float]) -> Callable[[int, str], None]:
    """Note a kernel's GB/s, from the bytes it must move, and the part of the copy rate it is."""

    def note(count: int, device: str) -> None:
        benchmark.extra_info["bytes"] = count
        if benchmark.stats is None:  # --benchmark-disable
            return
        rate = count / benchmark.stats.stats.median
        benchmark.extra_info["GB/s"] = round(rate / 1e9, 2)
        benchmark.extra_info["of copy"] = round(rate / copy_rate(device), 3)

    return note
