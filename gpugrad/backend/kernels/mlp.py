"""Several narrow layers in one launch: kernels/cuda/mlp.cuh. From sm_80 on, float32.

The forward pass of an MLP, and the gradients between its layers with their column sums. Imports
launch, printer and chain.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpugrad.backend.kernels import printer
from gpugrad.backend.kernels.chain import BLOCK_THREADS, FOLD_LANES, Line
from gpugrad.backend.launch import (
    ALIGNMENT_BYTES,
    Launch,
    Loader,
    address,
    ceil_div,
    kernel_source,
)
from gpugrad.errors import ShapeError, message

MIN_ARCH = 80
MOST = 128  # columns of a layer
MOST_LAYERS = 64  # pointers to them and what they give fit a launch's parameters
FILL_BLOCKS = 132  # as many as a large GPU has processors
_THREADS = 256
_FILES = ("ops.cuh", "reduce.cuh", "mma.cuh", "mlp.cuh")


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
    turned: bool
    columns: bool
    exact: bool

    @property
    def narrow(self) -> bool:
        return max(self.widths) <= MOST // 2

    @property
    def block_rows(self) -> int:
        """At most what 40 KiB of shared memory hold, and 32 accumulators a thread; less where
        that leaves processors without a block.
        """
        sizes = (128, 64, 32, 16) if self.narrow else (64, 32, 16)
        return next((s for s in sizes if ceil_div(self.rows, s) >= FILL_BLOCKS), sizes[-1])

    @property
    def splits(self) -> int:
        return max(1, ceil_div(self.rows, self.block_rows))

    @property
    def workspace_bytes(self) -> int:
        """What `launch` needs for partial sums, if it is to give sums of all layers."""
        return sum(map(self._part_bytes, self.widths[1:]))

    def _part_bytes(self, width: int) -> int:
        room = ceil_div(4 * self.splits * width, ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return room if self.splits > 1 else 0

    def launch(
        self, loader: Loader, x: Any, weights: Sequence[Any], more: Sequence[Any],
        outs: Sequence[Any], totals: Sequence[Any] = (), workspace: Any = 0,
    ) -> None:  # fmt: skip
        """Enqueue it on dense arrays or addresses; an out that is None is not kept.

        ``totals`` take the sums over rows of each layer, or are None. ``workspace`` is
        `workspace_bytes` aligned to 16.
        """
        layers = len(weights)
        totals = [*totals, *[None] * (layers - len(totals))]
        ends = np.cumsum([self._part_bytes(width) for width in self.widths])
        parts = [address(loader, workspace) + int(end - ends[0]) for end in ends[:-1]]
        net = np.zeros(1, net_dtype(layers))
        pointers = {"w": weights, "more": more, "out": outs, "total": totals, "partial": parts}
        for name, places in pointers.items():
            net[name][0] = [0 if p is None else address(loader, p) for p in places]
        net["width"][0, : layers + 1] = self.widths
        text = mlp_text(
            *(layers, self.block_rows, self.narrow, self.turned, self.columns, self.exact),
            *(self.between, self.last),
        )
        Launch(text, "mlp", (self.splits, 1, 1), (_THREADS, 1, 1))(loader, net, x, self.rows)
        if self.splits > 1 and any(total is not None for total in totals):
            grid = (ceil_div(max(self.widths[1:]), FOLD_LANES), layers, 1)
            block = (FOLD_LANES, BLOCK_THREADS // FOLD_LANES, 1)
            Launch(text, "mlp_fold", grid, block)(loader, net, self.splits)


def plan(
    rows: int, widths: Sequence[int], between: Function, last: Function, *,
    turned: bool = True, columns: bool = True, exact: bool = True,
) -> Plan:  # fmt: skip
    """How to launch ``len(widths) − 1`` layers, of ``widths`` from what goes in to what comes out.

    ``y[l] = f(y[l−1] @ w[l].T, more[l])``, f being ``last`` in the last layer and ``between`` in
    the others; ``w[l]`` is (out, in), or (in, out) where not ``turned``; ``more[l]`` has a value
    for each of the layer's ``columns``, or else as many as ``y[l]``. So the gradients between
    layers are ``d[l] = f(d[l−1] @ w[l], y[l])``. ``exact`` is as in `gemm.plan`.
    Raises `ShapeError` for a width over 128 or more than 64 layers.
    """
    if not 1 <= min(widths) <= max(widths) <= MOST or len(widths) > MOST_LAYERS + 1:
        rule = f"at most {MOST_LAYERS} fused layers, 1..{MOST} wide"
        raise ShapeError(message("mlp", rule, tuple(widths), "a product a layer"))
    texts = _printed("between", between), _printed("last", last)
    return Plan(rows, tuple(widths), *texts, turned, columns, exact)


def net_dtype(layers: int) -> np.dtype[np.void]:
    """The struct `Net` of mlp.cuh."""
    pointers = [(name, "u8", layers) for name in ("w", "more", "out", "total", "partial")]
    return np.dtype([*pointers, ("width", "i4", layers + 1)], align=True)


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
def mlp_text(
    layers: int, rows: int, narrow: bool, turned: bool, columns: bool, exact: bool, between: str,
    last: str,
) -> str:  # fmt: skip
    """Kernels ``mlp`` and, for sums over rows of several blocks, ``mlp_fold``."""
    sizes = {"LAYERS": layers, "ROWS": rows, "TILES": 1 if narrow else 2}
    constants = "".join(f"constexpr int {name} = {value};\n" for name, value in sizes.items())
    flags = ", ".join(str(flag).lower() for flag in (turned, columns, exact))
    return f"""{constants}{kernel_source(*_FILES)}{between}{last}
extern "C" __global__ void __launch_bounds__({_THREADS})
    mlp(const __grid_constant__ Net net, const float* x, index_t rows) {{
    run_mlp<{flags}>(net, x, rows);
}}
GG_EXPORT(mlp)

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    mlp_fold(const __grid_constant__ Net net, index_t splits) {{
    end_mlp(net, splits);
}}
GG_EXPORT(mlp_fold)
"""
