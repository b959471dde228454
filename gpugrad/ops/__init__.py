"""Declarations of every op, one room a family. Importing this package declares those of tensors.

Those of `linalg` and `fft` are declared when ``gpugrad.linalg`` and ``gpugrad.fft`` are first used.
"""

from gpugrad.ops import elementwise, index, matrix, nn, reduce, shape, sort, update

__all__ = ["elementwise", "index", "matrix", "nn", "reduce", "shape", "sort", "update"]
