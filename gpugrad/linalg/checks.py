"""What arguments of matrix functions have to be. Imports creation."""

from typing import Any

import numpy as np

from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.namespace.creation import asarray
from gpugrad.tensor import Tensor


def floats(op: str, x: Any) -> Tensor:
    """``x`` as a tensor of floating or complex numbers."""
    values = asarray(x)
    if values.dtype.kind not in "fc":
        hint = "x.astype(gg.float32)"
        raise DtypeError(message(op, "takes floating or complex matrices", values.dtype, hint))
    return values


def tolerance_of(op: str, x: Tensor, rtol: Any) -> Any:
    """``rtol`` as a number or a tensor of one for each matrix; by default what rounding makes."""
    if x.ndim < 2:
        raise ShapeError(message(op, "takes matrices (…, m, n)", x.shape))
    if rtol is None:
        return max(x.shape[-2:]) * float(np.finfo(x.dtype).eps)
    if isinstance(rtol, (int, float)):
        return float(rtol)
    return asarray(rtol, device=x.device).detach()
