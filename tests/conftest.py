"""Devices under test, and the count of what was skipped for want of one."""

from collections.abc import Iterator

import pytest

import gpugrad as gg


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", help='where device tests run: "cpu" (default) or "cuda"'
    )


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device of ``--device``; fails, rather than skips, when it was asked for and is absent."""
    name = request.config.getoption("--device")
    with gg.config.override(device=name):
        yield name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--device") != "cpu":
        return
    skip = pytest.mark.skip(reason="needs a CUDA device: run with --device cuda")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """CPU green must never look like GPU coverage."""
    config = terminalreporter.config
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "gpu" in r.keywords]
    device = config.getoption("--device")
    terminalreporter.write_line(f"device: {device}; GPU tests skipped: {len(skipped)}")
