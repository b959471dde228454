"""``gg.linalg``: the array API's linear algebra extension, and what NumPy has besides.

Every function takes stacks of matrices, real or complex, and keeps their precision. A matrix that
has no result raises `LinAlgError`; a derivative that does not exist raises `GradientError` or is
the subgradient that is documented. Imports ops and namespace.
"""

from gpugrad.errors import LinAlgError
from gpugrad.linalg.decompositions import (
    EighResult,
    EigResult,
    QRResult,
    SVDResult,
    cholesky,
    eig,
    eigh,
    eigvals,
    eigvalsh,
    qr,
    svd,
    svdvals,
)
from gpugrad.linalg.measures import (
    SlogdetResult,
    det,
    matrix_norm,
    matrix_rank,
    norm,
    slogdet,
    vector_norm,
)
from gpugrad.linalg.products import cross, diagonal, matrix_power, multi_dot, outer, trace
from gpugrad.linalg.systems import (
    LstsqResult,
    cond,
    inv,
    lstsq,
    pinv,
    solve,
    tensorinv,
    tensorsolve,
)
from gpugrad.namespace.array import matmul, matrix_transpose
from gpugrad.namespace.linalg import tensordot, vecdot

__all__ = [
    "EigResult",
    "EighResult",
    "LinAlgError",
    "LstsqResult",
    "QRResult",
    "SVDResult",
    "SlogdetResult",
    "cholesky",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "inv",
    "lstsq",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "multi_dot",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "tensorinv",
    "tensorsolve",
    "trace",
    "vecdot",
    "vector_norm",
]
