"""Which device the tests run on, and a count of what a run without a GPU does not show."""

import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cupy_stand_in
import pytest
from cuda_on_cpu.launcher import ORDERS, Emulator

import gpugrad as gg


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help='"cpu" (default), "cuda" or "cuda:1"')
    parser.addoption(
        "--cuda-stand-in",
        action="store_true",
        help="with --device cuda: CuPy's place is taken by NumPy and the kernel emulator",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Measuring for each of thousands of small steps would take the time, and not always choose one
    # way; tests of other ways ask for them.
    os.environ["GPUGRAD_FUSE_PRODUCTS"] = "0"
    gg.config.flags.fuse_products = False
    caches = tempfile.TemporaryDirectory(prefix="gpugrad-")
    config.add_cleanup(caches.cleanup)
    os.environ["GPUGRAD_CACHE_DIR"] = caches.name
    if config.getoption("--cuda-stand-in"):
        cupy_stand_in.install()


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device under test, also the default one inside the test. Fails where it is absent."""
    name = request.config.getoption("--device")
    with gg.config.override(device=name):
        gg.zeros(1)
        yield name


@pytest.fixture
def cuda(device: str) -> str:
    """The device under test, where it is not the CPU."""
    if device == "cpu":
        pytest.skip("graphs are CUDA's")
    return device


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where CUDA kernels built for the CPU are kept for the session."""
    return tmp_path_factory.mktemp("cuda_on_cpu")


@pytest.fixture(params=ORDERS, ids=lambda order: f"order{order}")
def emulator(request: pytest.FixtureRequest, built: Path) -> Emulator:
    """The CPU emulator of CUDA, in each of its orders of threads."""
    return Emulator(built, order=request.param)


# Doctests of what an optional package does.
_EXAMPLES_NEED = {"gpugrad.onnx": "onnx", "gpugrad.nn.interchange.to_torch": "torch"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With another device than the CPU only the tests that use it are worth running."""
    absent = {name: need for name, need in _EXAMPLES_NEED.items() if find_spec(need) is None}
    for item in items:
        for name, need in absent.items():
            if isinstance(item, pytest.DoctestItem) and item.name.startswith(name):
                item.add_marker(pytest.mark.skip(f"{need} is not installed"))
    used = [item for item in items if "device" in getattr(item, "fixturenames", ())]
    if config.getoption("--device") == "cpu":
        config.stash[_LEFT] = len(used)
        return
    config.stash[_LEFT] = 0
    config.hook.pytest_deselected(items=[item for item in items if item not in set(used)])
    items[:] = used


_LEFT = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells the process that writes the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left"] = session.config.stash.get(_LEFT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    node.config.stash[_LEFT] = getattr(node, "workeroutput", {}).get("left", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """CPU green must never look like GPU coverage."""
    config = terminalreporter.config
    device = config.getoption("--device")
    where = f"device: {device}"
    if config.getoption("--cuda-stand-in"):
        where += " (NumPy and the kernel emulator standing in for CuPy: no GPU was used)"
    terminalreporter.write_line(where)
    left = config.stash.get(_LEFT, 0)
    if left:
        terminalreporter.write_line(f"GPU tests skipped: {left} (run them with --device cuda)")
