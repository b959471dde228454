"""Who computes it: one small file a library, which imports that library and not gpugrad's own code.

A file is loaded by `bench.worker`, which says what it must define. Imports nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Contender:
    """A row of the table: how to start one contender, and what to call it."""

    label: str
    file: str
    modules: tuple[str, ...]  # what must be installed; their versions are recorded
    options: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = ("Mlp",)
    devices: tuple[str, ...] = ("cpu", "cuda")
    own: bool = False  # runs in this interpreter, beside this gpugrad
    # Does best on a number of threads that must be found; who takes it: an option, or its BLAS.
    threads: str = ""
    look: tuple[str, str] = ("#7F7F7F", "*")  # colour and mark in plots

    @property
    def path(self) -> Path:
        return Path(__file__).parent / self.file

    @property
    def install(self) -> str:
        return "pip install " + " ".join(self.modules)


_BOTH = ("Mlp", "Chain")
_TORCH = ("torch.py", ("torch",))

# Colours: Okabe and Ito 2008, told apart by colour-blind readers.
CONTENDERS = {
    "gpugrad": Contender(
        "gpugrad",
        "gpugrad.py",
        ("gpugrad",),
        kinds=_BOTH,
        own=True,
        threads="blas",
        look=("#0072B2", "o"),
    ),
    "gpugrad-compiled": Contender(
        "gpugrad compiled",
        "gpugrad.py",
        ("gpugrad",),
        {"compiled": True},
        own=True,
        threads="blas",
        look=("#D55E00", "s"),
    ),
    # eight steps in one CUDA graph
    "gpugrad-8-steps": Contender(
        "gpugrad compiled, 8 steps a call",
        "gpugrad.py",
        ("gpugrad",),
        {"compiled": True, "steps": 8},
        devices=("cuda",),
        own=True,
        look=("#F0E442", "h"),
    ),
    "numpy": Contender(
        "NumPy by hand",
        "numpy.py",
        ("numpy",),
        devices=("cpu",),
        own=True,
        threads="blas",
        look=("#000000", "x"),
    ),
    "torch": Contender("PyTorch", *_TORCH, kinds=_BOTH, threads="option", look=("#009E73", "D")),
    "torch-compile": Contender(
        "torch.compile", *_TORCH, {"mode": "default"}, threads="option", look=("#56B4E9", "^")
    ),
    # the two modes that capture CUDA graphs
    "torch-reduce-overhead": Contender(
        "torch.compile reduce-overhead",
        *_TORCH,
        {"mode": "reduce-overhead"},
        devices=("cuda",),
        look=("#8C6BB1", "v"),
    ),
    "torch-max-autotune": Contender(
        "torch.compile max-autotune",
        *_TORCH,
        {"mode": "max-autotune"},
        devices=("cuda",),
        look=("#7F7F7F", "P"),
    ),
    "jax": Contender("JAX jit", "jax.py", ("jax",), look=("#CC79A7", "*")),
    "autograd": Contender(
        "HIPS autograd",
        "autograd.py",
        ("autograd",),
        kinds=_BOTH,
        devices=("cpu",),
        threads="blas",
        look=("#E69F00", "<"),
    ),
}

# What the machine can do, measured beside what the contenders make of it.
CEILINGS = {
    "gemm": Contender("float32 GEMM", "ceilings.py", ("numpy",), kinds=("Gemm",), own=True),
    "copy": Contender("copy", "ceilings.py", ("numpy",), kinds=("Copy",), own=True),
}
