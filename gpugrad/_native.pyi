"""The native CPU core (kernels/cpu): runs a planned program, a step of training say, in one call.

An operand is ``(base, offset_bytes, row, col, dtype, flags)``: ``row`` and ``col`` are strides in
elements, 0 broadcasts; flags 1 is CHUNKED (in a segment of rows the address moves with the chunk),
2 is PRIVATE (one copy a thread). Memory that is written may be read by the same instruction only
under the same base number with the same strides.

Instructions::

    ("gemm", dtype, ta, tb, m, n, k, alpha, alpha_operand, A, B, beta, C, rows)
        and for a stack: count, a_step, b_step, c_step, in elements
    ("chain", dtype, rows, cols, operands, constants, code, stores, reductions, chunked)
    ("cross_entropy", dtype, rows, cols, z, t, loss, residual, probability, scale, chunked)
    ("softmax", dtype, rows, cols, x, y, log, chunked)
    ("copy", itemsize, rows, cols, src, dst, chunked)
    ("uniform", dtype, n, state, out)
    ("argmax", dtype, rows, cols, x, out, chunked)

A segment is ``(mode, instructions, batch_rows, chunk_rows, zeroed)``, mode "serial", "rows" or
"split".
"""

from typing import Any

OPCODES: tuple[str, ...]
FORMAT: int

class Program:
    def __new__(
        cls, segments: tuple[Any, ...], n_bases: int, private_bytes: int, threads: int
    ) -> Program:
        """Check and prepare; ValueError says which instruction is wrong and how."""

    def bind(self, i: int, address: int, /) -> None:
        """Set base address ``i``."""

    def run(self) -> tuple[str, int, int] | None:
        """Run all segments; ``("label", value, classes)`` when a label was out of range.

        Nothing after the instruction, or the segment of rows, with the bad label has run then.
        """

    def on(self, *arrays: Any) -> Any:
        """`bind` an array to each base and `run`.

        NotImplemented, with nothing done, unless all are plain NumPy arrays in C order.
        """

class Replay:
    """Runs a recorded step again; NotImplemented where anything has changed. See recording.py."""

    def __new__(cls, *what: Any) -> Replay: ...
    def __call__(self, *args: Any) -> Any: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

def set_gemm(sgemm: int, dgemm: int, int_bits: int, set_threads: int, get_threads: int, /) -> None:
    """Addresses of cblas_sgemm and cblas_dgemm and their thread count's functions; 0 for none."""

def set_array(sample: Any, address: int, /) -> None:
    """A new (3, 5) float32 array and where its values lie, to learn how arrays lie in memory."""

def set_isa(name: str, /) -> str:
    """Build the programs that follow for this instruction set; returns the one before."""

def isas() -> tuple[str, ...]:
    """The compiled instruction sets this CPU has, best first."""
