"""Several narrow layers in one launch: kernels/cuda/mlp.cuh. From sm_80 on, float32.

The forward pass of an MLP, and the gradients between its layers. Imports launch and printer.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpugrad.backend.kernels import printer
from gpugrad.backend.kernels.chain import Line
from gpugrad.backend.launch import Launch, Loader, address, ceil_div, kernel_source
from gpugrad.errors import ShapeError, message

MIN_ARCH = 80
MOST = 128  # columns of a layer
_THREADS = 256
_FILES = ("ops.cuh", "mma.cuh", "mlp.cuh")


class Function(NamedTuple):
    """An elementwise code of two values, acc and one more: values 0 and 1, constants, lines."""

    constants: tuple[float, ...]
    lines: tuple[Line, ...]


class Plan(NamedTuple):
    """How to launch some layers."""

    rows: int
    widths: tuple[int, ...]
    between: str
    last: str
    forward: bool
    exact: bool
    workspace_bytes: int = 0

    def launch(
        self, loader: Loader, x: Any, weights: Sequence[Any], more: Sequence[Any],
        outs: Sequence[Any],
    ) -> None:  # fmt: skip
        """Enqueue it on dense arrays or addresses; an out that is None is not kept."""
        if not self.rows:
            return
        layers = len(weights)
        net = np.zeros(1, net_dtype(layers))
        for name, pointers in (("w", weights), ("more", more), ("out", outs)):
            net[name][0] = [0 if p is None else address(loader, p) for p in pointers]
        net["width"][0, : layers + 1] = self.widths
        narrow = max(self.widths) <= MOST // 2
        text = mlp_text(layers, narrow, self.forward, self.exact, self.between, self.last)
        grid = (ceil_div(self.rows, _rows(narrow)), 1, 1)
        Launch(text, "mlp", grid, (_THREADS, 1, 1))(loader, net, x, self.rows)


def plan(
    rows: int, widths: Sequence[int], between: Function, last: Function, *,
    forward: bool = True, exact: bool = True,
) -> Plan:  # fmt: skip
    """How to launch ``len(widths) − 1`` layers, of ``widths`` from what goes in to what comes out.

    Forward: ``y[l] = f(y[l−1] @ w[l].T, b[l])``, ``w[l]`` of (out, in), f being ``last`` in the
    last layer and ``between`` in the others. Else: ``d[l] = f(d[l−1] @ w[l], y[l])``, ``w[l]`` that
    of the layer which the gradient comes from. ``exact`` is as in `gemm.plan`.
    Raises `ShapeError` for a width over 128.
    """
    if not 1 <= min(widths) <= max(widths) <= MOST:
        rule = f"fused layers are 1..{MOST} wide"
        raise ShapeError(message("mlp", rule, tuple(widths), "a product a layer"))
    texts = _printed("between", between), _printed("last", last)
    return Plan(rows, tuple(widths), *texts, forward, exact)


def net_dtype(layers: int) -> np.dtype[np.void]:
    """The struct `Net` of mlp.cuh."""
    pointers = [(name, "u8", layers) for name in ("w", "more", "out")]
    return np.dtype([*pointers, ("width", "i4", layers + 1)], align=True)


def _rows(narrow: bool) -> int:
    """As many as 40 KiB of shared memory hold, and 32 accumulators a thread."""
    return 128 if narrow else 64


def _printed(name: str, function: Function) -> str:
    """``function`` as a CUDA function of that name."""
    names = ["v0", "v1", *(printer.literal(c, "f4") for c in function.constants)]
    body = ""
    for op, *arguments in function.lines:
        names.append(f"v{len(names)}")
        given = ", ".join(names[a] for a in arguments if a >= 0)
        body += f"    const float {names[-1]} = op_{op}({given});\n"
    head = f"__device__ __forceinline__ float {name}(float v0, float v1) {{\n"
    return f"{head}{body}    return {names[-1] if function.lines else 'v0'};\n}}\n"


@lru_cache(maxsize=64)
def mlp_text(layers: int, narrow: bool, forward: bool, exact: bool, between: str, last: str) -> str:
    sizes = {"LAYERS": layers, "ROWS": _rows(narrow), "TILES": 1 if narrow else 2}
    constants = "".join(f"constexpr int {name} = {value};\n" for name, value in sizes.items())
    flags = f"{str(forward).lower()}, {str(exact).lower()}"
    return f"""{constants}{kernel_source(*_FILES)}{between}{last}
extern "C" __global__ void __launch_bounds__({_THREADS})
    mlp(const __grid_constant__ Net net, const float* x, index_t rows) {{
    run_mlp<{flags}>(net, x, rows);
}}
GG_EXPORT(mlp)
"""
