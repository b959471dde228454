"""Tensor autodiff for NumPy and CuPy arrays: one tape, two array libraries.

>>> import gpugrad as gg
>>> gg.grad(lambda x: x * x)(3.0)
6.0
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpugrad import config, errors, fuse, namespace, ops, tape
from gpugrad.backend import cuda_available, memory_stats
from gpugrad.function import Function, checkpoint
from gpugrad.namespace import *  # noqa: F403
from gpugrad.namespace.creation import tensor as array
from gpugrad.state import autocast, enable_grad, is_grad_enabled, no_grad
from gpugrad.tensor import Tensor
from gpugrad.transforms import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp

if TYPE_CHECKING:
    from gpugrad import data, fft, io, linalg, nn, onnx, optim, random, testing
    from gpugrad.drawing import draw

__version__ = "0.1.0"
__array_api_version__ = "2025.12"

__all__ = [
    "Function",
    "Tensor",
    "array",
    "autocast",
    "checkpoint",
    "config",
    "cuda_available",
    "data",
    "draw",
    "enable_grad",
    "errors",
    "fft",
    "grad",
    "hessian",
    "hvp",
    "io",
    "is_grad_enabled",
    "jacobian",
    "jvp",
    "linalg",
    "memory_stats",
    "nn",
    "no_grad",
    "onnx",
    "optim",
    "random",
    "testing",
    "value_and_grad",
    "vjp",
    *namespace.__all__,
    *namespace.ON_DEMAND,
]

del fuse, ops, tape  # imported for what they declare

# Imported when first asked for: what they need costs as much as the rest of the package.
_ON_DEMAND = ("data", "fft", "io", "linalg", "nn", "onnx", "optim", "random", "testing")


def __getattr__(name: str) -> Any:
    if name == "compile":
        return import_module("gpugrad.compiler").compile
    if name == "draw":
        return import_module("gpugrad.drawing").draw
    if name in _ON_DEMAND:
        return import_module(f"gpugrad.{name}")
    if name in namespace.ON_DEMAND:
        value = globals()[name] = getattr(namespace, name)
        return value
    raise errors.no_attribute("module 'gpugrad'", name)


def __dir__() -> list[str]:
    return __all__
