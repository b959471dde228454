"""The native CPU core, gpugrad._native. Optional: without a C compiler NumPy does its work.

All else is in pyproject.toml.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

# -ffp-contract=off: a chain rounds as NumPy does; where FMA is wanted, the code says so.
FLAGS = ["-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
SOURCES = sorted(path.as_posix() for path in Path("kernels/cpu").glob("*.c"))

native = Extension(
    "gpugrad._native",
    sources=SOURCES,
    depends=sorted(path.as_posix() for path in Path("kernels/cpu").glob("*.h")),
    extra_compile_args=[*FLAGS, "-fvisibility=hidden"],
    extra_link_args=["-pthread"],
    optional=True,
)

# POSIX threads, and the vector types of GCC and clang.
setup(ext_modules=[native] if os.name == "posix" else [])
