"""Backward of activation(x wᵀ + b) for eager arrays: a fused chain. Imports launch, chain, twin."""

from functools import lru_cache

import numpy as np

from gpugrad.backend.kernels import chain
from gpugrad.backend.launch import Array, Loader
from gpugrad.backend.twin import SLOPES
from gpugrad.errors import DtypeError, ShapeError, message

CODES = {np.dtype(np.float16): "f2", np.dtype(np.float32): "f4", np.dtype(np.float64): "f8"}


@lru_cache(maxsize=1024)
def _plan(
    activation: str, code: str, m: int, n: int, dy: tuple[int, int], y: tuple[int, int]
) -> chain.Plan:
    constants, lines = SLOPES[activation]
    dz = 1 + len(constants) + len(lines)
    return chain.plan(
        "f4" if code == "f2" else code,
        m,
        n,
        [(*dy, code), (*y, code)],
        constants,
        lines,
        [(dz, (n, 1, code))],
        [("sum", "rows", dz, (0, 1, code), 1.0, False)],
    )


def activation_bwd(loader: Loader, activation: str, dy: Array, y: Array) -> tuple[Array, Array]:
    """Gradients through y = activation(z), z = x @ w + b, in one pass over memory.

    dz = dy * activation'(z), told by y, of sigmoid, tanh or relu; db = dz.sum(axis=0). NumPy twin
    `gpugrad.backend.numpy.sigmoid_bwd`, and the ops' own rules.

    dy, y: (m, n) arrays of one dtype, float16, float32 or float64, on the loader's device, with any
    strides. Returns dz (m, n) and db (n,) in that dtype. Half precision multiplies and sums in
    float32. The same shape, strides and alignment give the same bits every time. Raises ShapeError
    or DtypeError. All memory comes from `loader.empty`.
    """
    if dy.ndim != 2 or dy.shape != y.shape:
        rule = "dy and y must be matrices of one shape"
        raise ShapeError(message(f"{activation}_bwd", rule, f"dy {dy.shape}, y {y.shape}"))
    if dy.dtype != y.dtype or dy.dtype not in CODES:
        rule = "dy and y must share one dtype of float16, float32, float64"
        got = f"dy {dy.dtype}, y {y.dtype}"
        raise DtypeError(message(f"{activation}_bwd", rule, got, "astype on both"))
    (m, n), item = dy.shape, dy.dtype.itemsize
    steps = [(a.strides[0] // item, a.strides[1] // item) for a in (dy, y)]
    plan = _plan(activation, CODES[dy.dtype], m, n, *steps)
    dz, db = loader.empty((m, n), dy.dtype), loader.empty((n,), dy.dtype)
    workspace = loader.empty((plan.workspace_bytes,), np.dtype(np.uint8))
    plan.launch(loader, [dy, y], [dz], [db], workspace)
    return dz, db
