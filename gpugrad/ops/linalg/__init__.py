"""Matrix functions, over the last two axes. Importing this package declares their ops.

Half precision computes in float32. What has no result raises `LinAlgError`, on every device. The
gradient of a Hermitian argument is Hermitian. Where a derivative does not exist a rule gives the
subgradient written beside it or raises `GradientError`; it never gives NaN.
"""

from gpugrad.ops.linalg import determinants, eigen, factors, singular, systems
from gpugrad.ops.linalg.matrices import adjoint

__all__ = ["adjoint", "determinants", "eigen", "factors", "singular", "systems"]
