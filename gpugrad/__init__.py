"""Tensor autodiff for NumPy and CuPy arrays: one tape, two array libraries.

>>> import gpugrad as gg
>>> gg.grad(lambda x: x * x)(3.0)
6.0
"""

from gpugrad import config, errors, fuse, namespace, ops, tape
from gpugrad import data as data
from gpugrad import io as io
from gpugrad import nn as nn
from gpugrad import optim as optim
from gpugrad import random as random
from gpugrad import testing as testing
from gpugrad.backend import cuda_available
from gpugrad.namespace import *  # noqa: F403
from gpugrad.tensor import Tensor, enable_grad, is_grad_enabled, no_grad
from gpugrad.transforms import grad, jvp, value_and_grad, vjp

__version__ = "0.1.0"

__all__ = [
    "Tensor",
    "config",
    "cuda_available",
    "data",
    "enable_grad",
    "errors",
    "grad",
    "io",
    "is_grad_enabled",
    "jvp",
    "nn",
    "no_grad",
    "optim",
    "random",
    "testing",
    "value_and_grad",
    "vjp",
    *namespace.__all__,
]

del fuse, ops, tape  # imported for what they declare
