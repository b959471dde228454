"""Several narrow layers in one launch: kernels/cuda/mlp.cuh. From sm_80 on.

The forward pass of an MLP, and the gradients between its layers, with their column sums and the
gradients of the weights. Imports launch, printer and chain.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpugrad.backend.kernels import printer
from gpugrad.backend.kernels.chain import BLOCK_THREADS, FOLD_LANES, Line
from gpugrad.backend.kernels.printer import TYPES
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
MOST_MORE, MOST_OUTS = 3, 3  # of a layer
FILL_BLOCKS = 132  # as many as a large GPU has processors
_FILES = ("ops.cuh", "reduce.cuh", "mma.cuh", "mlp.cuh")

COLUMNS, MATRIX, BELOW = "columns", "matrix", "below"


class Function(NamedTuple):
    """An elementwise code on what a product gives, and what is kept of it.

    Its values are numbered: the product's is 0, then come ``more``, constants, lines.
    """

    more: tuple[tuple[str, str], ...]  # dtype and COLUMNS, MATRIX or BELOW (what Gradient.below is)
    constants: tuple[float, ...]
    lines: tuple[Line, ...]
    outs: tuple[tuple[int, str], ...]  # value and dtype; the first goes on to the next layer


class Gradient(NamedTuple):
    """``out = alpha * scale * x.T @ below``, x being what goes into a layer; see `Plan.launch`."""

    below: Any
    out: Any
    alpha: float = 1.0
    scale: Any = None  # of one float64 on the device, or None
    add: bool = False  # to what is in out


class Shape(NamedTuple):
    """All that a text depends on beside the functions."""

    dtype: str
    layers: int
    rows: int
    narrow: bool
    warps: int
    more: int
    outs: int
    turned: bool
    exact: bool
    sums: bool
    gradients: bool
    flipped: bool
    ends: bool

    @property
    def constants(self) -> dict[str, int]:
        across = 16 if self.warps == 16 and not self.narrow else 8
        tiles = (MOST // 2 if self.narrow else MOST) // (8 * across)
        sizes = {"LAYERS": self.layers, "ROWS": self.rows, "WARPS": self.warps}
        return sizes | {
            "WARPS_ACROSS": across, "TILES": tiles, "MORE": self.more, "OUTS": self.outs,
        }  # fmt: skip


def most_summed(widths: Sequence[int]) -> int:
    """How many layers of a launch may have sums: their parts must fit a thread's registers."""
    return 5 if max(widths) <= MOST // 2 else 2


class Plan:
    """How to launch some layers."""

    def __init__(
        self, rows: int, widths: tuple[int, ...], between: str, last: str, shape: Shape
    ) -> None:
        self.rows, self.widths = rows, widths
        self.shape = shape
        self.text = shape, between, last  # see `mlp_text`
        tiles = max(1, ceil_div(rows, shape.rows))
        self.blocks = min(tiles, FILL_BLOCKS) if shape.sums else tiles

    @cached_property
    def _parts(self) -> tuple[list[int], list[int], int]:
        """Where in the workspace the parts of each total and each gradient begin; its bytes."""
        wide = self.shape.constants["WARPS_ACROSS"]
        splits = self.blocks * (self.shape.warps // wide)
        counts = [splits * width for width in self.widths[1:]]
        if self.shape.gradients:
            pairs = zip(self.widths[:-1], self.widths[1:], strict=True)
            counts += [self.blocks * k * n for k, n in pairs]
        ends = np.cumsum([0, *[ceil_div(4 * c, ALIGNMENT_BYTES) * ALIGNMENT_BYTES for c in counts]])
        starts = ends[:-1].tolist()
        layers = self.shape.layers
        return starts[:layers], starts[layers:], int(ends[-1])

    @property
    def workspace_bytes(self) -> int:
        """What `launch` needs for parts of sums."""
        return self._parts[2] if self.shape.sums else 0

    def launch(
        self, loader: Loader, x: Any, weights: Sequence[Any], more: Sequence[Sequence[Any]],
        outs: Sequence[Sequence[Any]], totals: Sequence[Any] = (),
        gradients: Sequence[Gradient | None] = (), workspace: Any = 0,
    ) -> None:  # fmt: skip
        """Enqueue it on dense arrays or addresses; an out that is None is not kept.

        ``more`` and ``outs`` are each layer's, as its function has them, None where that is BELOW.
        ``totals`` take the sums over rows of each layer, ``gradients`` are of its weights; either
        may be None. ``workspace`` is `workspace_bytes` aligned to 16.
        """
        shape = self.shape

        def at(pointer: Any) -> int:
            return 0 if pointer is None else address(loader, pointer)

        net = np.zeros(1, net_dtype(shape))
        # A last layer that has its gradient only is none of these.
        for i, (w, given, kept) in enumerate(zip(weights, more, outs, strict=True)):
            net["w"][0, i] = at(w)
            net["more"][0, i, : len(given)] = list(map(at, given))
            net["out"][0, i, : len(kept)] = list(map(at, kept))
        net["width"][0, : shape.layers + 1] = self.widths
        text = mlp_text(*self.text)
        threads = (32 * shape.warps, 1, 1)
        launch = Launch(text, "mlp", (self.blocks, 1, 1), threads)
        if not shape.sums:
            launch(loader, net, x, self.rows)
            return
        sums = np.zeros(1, sums_dtype(shape))
        total_parts, gradient_parts, _ = self._parts
        room = address(loader, workspace)
        for i, total in enumerate(totals):
            sums["total"][0, i] = at(total)
            sums["total_parts"][0, i] = room + total_parts[i]
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                below, out, alpha, scale, add = gradient
                values = (at(below), at(out), room + gradient_parts[i], at(scale), alpha, add)
                names = ("below", "grad", "grad_parts", "scale", "alpha", "add")
                for name, value in zip(names, values, strict=True):
                    sums[name][0, i] = value
        launch(loader, net, sums, x, self.rows)
        most = max(self.widths)
        count = most * most if shape.gradients else most
        grid = (ceil_div(count, FOLD_LANES), shape.layers * (1 + shape.gradients), 1)
        block = (FOLD_LANES, BLOCK_THREADS // FOLD_LANES, 1)
        Launch(text, "mlp_fold", grid, block)(loader, net, sums, self.blocks)


def plan(
    rows: int, widths: Sequence[int], between: Function, last: Function, *,
    dtype: str = "f4", turned: bool = True, exact: bool = True, sums: bool = False,
    gradients: bool = False, flipped: bool = False, ends: bool = False,
) -> Plan:  # fmt: skip
    """How to launch ``len(widths) − 1`` layers, of ``widths`` from what goes in to what comes out.

    ``y[l] = f(y[l−1] @ w[l].T, more[l])``, f being ``last`` in the last layer and ``between`` in
    the others; ``w[l]`` is (out, in), or (in, out) where not ``turned``. So the gradients between
    layers are ``d[l] = f(d[l−1] @ w[l], y[l])``. There may be ``sums`` over rows of each layer, and
    ``gradients`` ``d[l−1].T @ y[l]`` of its weights, or their transposes where ``flipped``; with
    ``ends`` the last layer has its gradient only. ``dtype`` is that of all matrices: "f4", "f2" or
    "B2" (bfloat16); sums are in float32 and so are the functions. ``exact`` is as in `gemm.plan`.

    Raises `ShapeError` for a width over 128, more than 64 layers, or more than 5 with sums or
    gradients, 2 where one is wider than 64.
    """
    layers = len(widths) - 1
    sums = sums or gradients
    most = most_summed(widths) if sums else MOST_LAYERS
    if not 1 <= min(widths) <= max(widths) <= MOST or layers > most:
        kind = "summed" if sums else "fused"
        rule = f"at most {most} {kind} layers, 1..{MOST} wide"
        raise ShapeError(message("mlp", rule, tuple(widths), "a product a layer"))
    more = max(1, len(between.more), len(last.more))
    outs = max(len(between.outs), len(last.outs))
    if more > MOST_MORE or outs > MOST_OUTS:
        rule = f"a layer takes {MOST_MORE} and keeps {MOST_OUTS} matrices"
        raise ShapeError(message("mlp", rule, f"{more} and {outs}", "a product a layer"))
    narrow = max(widths) <= MOST // 2
    # At most what 40 KiB of shared memory hold, and what leaves registers for the parts of sums;
    # less where processors are left without a block.
    sizes = ((64, 32) if narrow else (16,)) if sums else (128, 64, 32, 16)[not narrow :]
    height = next((s for s in sizes if ceil_div(rows, s) >= FILL_BLOCKS), sizes[-1])
    texts = _printed("between", between, dtype), _printed("last", last, dtype)
    exact = exact and dtype == "f4"
    shape = Shape(
        *(dtype, layers, height, narrow, 16 if sums else 8, more, outs),
        *(turned, exact, sums, gradients, flipped, ends),
    )
    return Plan(rows, tuple(widths), *texts, shape)


def net_dtype(shape: Shape) -> np.dtype[np.void]:
    """The struct `Net` of mlp.cuh."""
    layers = shape.layers
    fields = [("w", "u8", layers), ("more", "u8", (layers, shape.more))]
    fields += [("out", "u8", (layers, shape.outs)), ("width", "i4", layers + 1)]
    return np.dtype(fields, align=True)


def sums_dtype(shape: Shape) -> np.dtype[np.void]:
    """The struct `Sums` of mlp.cuh."""
    names = ("total", "total_parts", "below", "grad", "grad_parts", "scale")
    fields = [(name, "u8", shape.layers) for name in names]
    return np.dtype(
        [*fields, ("alpha", "f8", shape.layers), ("add", "i4", shape.layers)], align=True
    )


def _printed(name: str, function: Function, dtype: str) -> str:
    """``function`` as a static CUDA function of that name."""
    element = TYPES[dtype]
    names = [f"v{i}" for i in range(1 + len(function.more))]
    names += [printer.literal(c, "f4") for c in function.constants]
    body = []
    for j, (code, how) in enumerate(function.more):
        at = f"static_cast<const {TYPES[code]}*>(net.more[l][{j}])"
        read = "below" if how == BELOW else f"{at}[{'col' if how == COLUMNS else 'at'}]"
        body.append(f"const float v{1 + j} = float({read});")
    for op, *arguments in function.lines:
        names.append(f"v{len(names)}")
        given = ", ".join(names[a] for a in arguments if a >= 0)
        body.append(f"const float {names[-1]} = op_{op}({given});")
    for j, (value, code) in enumerate(function.outs):
        kind = TYPES[code]
        to = f"static_cast<{kind}*>(net.out[l][{j}])[at]"
        body.append(f"if (net.out[l][{j}]) {to} = static_cast<{kind}>({names[value]});")
    body.append(f"return float({element}({names[function.outs[0][0]]}));")
    taken = f"const Net<{element}>& net, int l, index_t at, int col, float below, float v0"
    lines = "".join(f"        {line}\n" for line in body)
    return f"    static __device__ __forceinline__ float {name}({taken}) {{\n{lines}    }}\n"


@lru_cache(maxsize=64)
def mlp_text(shape: Shape, between: str, last: str) -> str:
    """Kernels ``mlp`` and, for sums over rows, ``mlp_fold``."""
    sizes = "".join(f"constexpr int {name} = {size};\n" for name, size in shape.constants.items())
    flags = (shape.turned, shape.exact, shape.sums, shape.gradients, shape.flipped, shape.ends)
    element = TYPES[shape.dtype]
    given = f"const __grid_constant__ Net<{element}> net"
    summed = f"const __grid_constant__ Sums<{element}> sums"
    text = f"""{sizes}{kernel_source(*_FILES)}#line 1 "code.cu"
struct Code {{
{between}{last}}};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    mlp({given}, {f"{summed}, " if shape.sums else ""}const {element}* x, index_t rows) {{
    {"" if shape.sums else f"const Sums<{element}> sums = {{}};"}
    run_mlp<{element}, Code, {", ".join(str(flag).lower() for flag in flags)}>(net, sums, x, rows);
}}
GG_EXPORT(mlp)
"""
    if not shape.sums:
        return text
    return f"""{text}
extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    mlp_fold({given}, {summed}, index_t blocks) {{
    end_mlp(net, sums, blocks);
}}
GG_EXPORT(mlp_fold)
"""
