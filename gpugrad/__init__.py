"""Tensor autodiff for NumPy and CuPy arrays: one tape, two array libraries.

    >>> import gpugrad as gg
    >>> gg.grad(lambda x: x * x)(3.0)
    6.0
"""

from gpugrad import config, errors, late, namespace, ops, tape
from gpugrad.fuse import TABLE as FUSIONS
from gpugrad.namespace import *  # noqa: F403
from gpugrad.tensor import Tensor, grad_mode, state
from gpugrad.transforms import grad, jvp, value_and_grad, vjp

__version__ = "0.1.0"
