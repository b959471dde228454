"""Declarations of every op, one file a family. Importing this package declares them all."""

from gpugrad.ops import elementwise, index, matrix, nn, reduce, shape, update

__all__ = ["elementwise", "index", "matrix", "nn", "reduce", "shape", "update"]
