"""pytest-benchmark suites; `pytest benchmarks --benchmark-enable`."""
