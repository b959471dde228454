"""Draws from numpy.random.Philox: kernels/cuda/philox.cuh. Imports launch and printer."""

from functools import lru_cache
from typing import Any, NamedTuple

from gpugrad.backend.kernels.printer import TYPES
from gpugrad.backend.launch import Launch, Loader, ceil_div, kernel_source

_THREADS = 128
# A thread makes at least four words; more blocks than fill a GPU would only be slower.
_MOST_BLOCKS = 4096
STATE_BYTES = 96


class Plan(NamedTuple):
    """How to draw ``n`` numbers."""

    code: str
    n: int
    workspace_bytes: int = 0

    def launch(self, loader: Loader, state: Any, out: Any) -> None:
        """Enqueue it. ``state`` is the twelve words of `gpugrad.random.Generator.state`, on the
        device; ``out`` takes what ``numpy.random.Generator.random`` would give, in its order.
        """
        if not self.n:
            return
        text = philox_text(self.code)
        per_word = 2 if self.code == "f4" else 1
        blocks = ceil_div(ceil_div(self.n, per_word), 4) + 1
        grid = (min(ceil_div(blocks, _THREADS), _MOST_BLOCKS), 1, 1)
        Launch(text, "random_draw", grid, (_THREADS, 1, 1))(loader, state, out, self.n)


def plan(code: str, n: int) -> Plan:
    """How to draw ``n`` uniforms in [0, 1), "f4" of 24 bits or "f8" of 53, or raw words "u8"."""
    return Plan(code, n)


@lru_cache(maxsize=8)
def philox_text(code: str) -> str:
    kind = TYPES[code]
    return f"""{kernel_source("philox.cuh")}
extern "C" __global__ void __launch_bounds__({_THREADS})
    random_draw(const word_t* state, {kind}* out, index_t n) {{
    philox_draw(state, out, n);
}}
GG_EXPORT(random_draw)
"""
