"""Cross-entropy of rows of logits with labels: kernels/cuda/softmax.cuh. Imports softmax, launch.

Takes what an instruction ("cross_entropy", ...) of gpugrad/compiler/emit.py says, but pointers;
twin: `gpugrad.backend.twin.Program`.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpugrad.backend.kernels.printer import TYPES
from gpugrad.backend.kernels.softmax import FILES, RowsPlan
from gpugrad.backend.launch import Loader, address, kernel_source

STATUS_BYTES = 16


class Plan(NamedTuple):
    """How to launch one cross-entropy."""

    matrix: RowsPlan  # steps of z, residual, probability; 0 where there is none
    t_step: int
    t_code: str
    loss_step: int
    scale: float
    workspace_bytes: int = 0

    def launch(
        self, loader: Loader, z: Any, t: Any, status: Any,
        loss: Any = None, residual: Any = None, probability: Any = None,
    ) -> None:  # fmt: skip
        """Enqueue it on arrays or addresses; an output that is None is not computed.

        ``status`` is two int64 in device or pinned host memory, 0 before the first launch.
        Afterwards it holds the lowest label below 0 and the highest from cols on that were met in
        any launch; 0: none. Their rows have a loss of NaN and a residual of 0. `bad_label` says
        what the twin does.
        """
        if not self.matrix.rows:
            return
        matrices = [p for p in (z, residual, probability) if p is not None]
        width = self.matrix.width([address(loader, p) for p in matrices])
        text = cross_entropy_text(self.matrix.dtype, self.t_code, width)
        z_row, residual_row, probability_row = self.matrix.steps
        arguments: list[Any] = [
            z,
            z_row,
            t,
            self.t_step,
            loss,
            self.loss_step,
            residual,
            residual_row,
        ]
        arguments += [probability, probability_row, np.float64(self.scale), status]
        arguments = [0 if a is None else a for a in arguments]
        launch = self.matrix.launch(text, "cross_entropy", width)
        launch(loader, *arguments, self.matrix.rows, self.matrix.cols)


def plan(
    dtype: str, rows: int, cols: int, z_row: int, t: tuple[int, str], loss: int | None,
    residual: int | None, probability: int | None, scale: float = 1.0,
) -> Plan:  # fmt: skip
    """How to launch ("cross_entropy", dtype, rows, cols, ...).

    ``t`` is the labels' step and integer dtype, ``loss`` the losses' step; ``z_row``, ``residual``
    and ``probability`` are steps between rows. None: not wanted.
    """
    matrix = RowsPlan(dtype, rows, cols, (z_row, residual or 0, probability or 0))
    return Plan(matrix, *t, loss or 0, scale)


def bad_label(status: Any, classes: int) -> tuple[str, int, int] | None:
    """What the twin returns for the two numbers of a status: None when every label was right."""
    low, high = int(status[0]), int(status[1])
    return ("label", low or high, classes) if low or high else None


@lru_cache(maxsize=64)
def cross_entropy_text(dtype: str, t_code: str, width: int) -> str:
    real, label = TYPES[dtype], TYPES[t_code]
    matrices = [
        f"{real}* {name}, index_t {name}_step" for name in ("loss", "residual", "probability")
    ]
    return f"""{kernel_source(*FILES)}
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    cross_entropy(const {real}* z, index_t z_step, const {label}* t, index_t t_step,
                  {", ".join(matrices)},
                  double scale, index_t* status, index_t rows, index_t cols) {{
    cross_entropy_rows<{width}>(z, z_step, t, t_step, loss, loss_step, residual, residual_step,
                                probability, probability_step, {real}(scale), status, rows, cols);
}}
GG_EXPORT(cross_entropy)
"""
