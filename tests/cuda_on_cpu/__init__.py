"""CUDA kernels on the CPU, for tests: see `emulator.h` and `launcher.py`."""
