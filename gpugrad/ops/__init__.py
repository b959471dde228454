"""Declarations of every op, one file a family. Importing this package declares them all."""

from gpugrad.ops import elementwise, fft, index, linalg, matrix, nn, reduce, shape, sort, update

__all__ = [
    "elementwise",
    "fft",
    "index",
    "linalg",
    "matrix",
    "nn",
    "reduce",
    "shape",
    "sort",
    "update",
]
