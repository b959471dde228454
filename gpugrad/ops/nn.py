"""Softmax and the losses built on it. Imports op, aval, errors and the ops below."""

from typing import Any

import numpy as np

from gpugrad.aval import Aval
from gpugrad.backend import numpy as host
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.op import Op
from gpugrad.ops.elementwise import exp
from gpugrad.ops.index import check_range, label_error, one_hot
from gpugrad.ops.reduce import sum_


def _exps(xp: Any, x: Any, axis: int) -> tuple[Any, Any, Any]:
    """x − max, its exp, and the sum of that; half precision sums in float32."""
    wide = np.float32 if x.dtype.char == "e" else None
    if xp is np:  # what the methods come to, without their Python: a third of it on small arrays
        shifted = x - np.maximum.reduce(x, axis, keepdims=True)
        e = np.exp(shifted)
        return shifted, e, np.add.reduce(e, axis, wide, keepdims=True)
    shifted = x - x.max(axis=axis, keepdims=True)
    e = xp.exp(shifted)
    return shifted, e, e.sum(axis=axis, keepdims=True, dtype=wide)


def _softmax(xp: Any, x: Any, axis: int) -> Any:
    _, e, total = _exps(xp, x, axis)
    return (e / total).astype(x.dtype, copy=False)


def _log_softmax(xp: Any, x: Any, axis: int) -> Any:
    shifted, _, total = _exps(xp, x, axis)
    return (shifted - xp.log(total)).astype(x.dtype, copy=False)


def _same(x: Aval, *, axis: int) -> Aval:
    if x.shape[axis] == 0:
        raise ShapeError(message("softmax", "an empty axis has no probabilities", x.shape))
    return x


def _softmax_move(d: Any, y: Any, *, axis: int) -> Any:
    """The Jacobian y(δ − y) is symmetric: one rule pushes tangents and pulls cotangents."""
    return y * (d - sum_(d * y, axis=(axis,), keepdims=True))


softmax = Op(
    "softmax",
    lambda xp, x, *, axis: _softmax(xp, x, axis),
    _same,
    vjp=[lambda g, y, *, axis: _softmax_move(g, y, axis=axis)],
    jvp=lambda dx, y, *, axis: _softmax_move(dx, y, axis=axis),
    precision="single",
)

log_softmax = Op(
    "log_softmax",
    lambda xp, x, *, axis: _log_softmax(xp, x, axis),
    _same,
    vjp=[lambda g, y, *, axis: g - exp(y) * sum_(g, axis=(axis,), keepdims=True)],
    jvp=lambda dx, y, *, axis: dx - sum_(exp(y) * dx, axis=(axis,), keepdims=True),
    precision="single",
)


def _cross_entropy(xp: Any, z: Any, t: Any) -> Any:
    if type(z) is np.ndarray:
        loss = host.cross_entropy(z, t)
        if type(loss) is tuple:
            _, label, classes = loss
            raise label_error("cross_entropy", label, classes)
        if loss is not None:
            return loss
    check_range("cross_entropy", t, z.shape[-1])
    shifted, _, total = _exps(xp, z, -1)
    picked = shifted[xp.arange(z.shape[0]), t]
    return (xp.log(total[:, 0]) - picked).astype(z.dtype, copy=False)


def _cross_entropy_aval(z: Aval, t: Aval) -> Aval:
    if np.dtype(t.dtype).kind not in "iu":
        hint = "integer labels, or -(p * gg.nn.log_softmax(z)).sum(-1) for probabilities"
        raise DtypeError(message("cross_entropy", "labels are integers", t.dtype, hint))
    if z.ndim != 2 or t.shape != z.shape[:1] or not z.shape[1]:
        got = f"logits: {z.shape}, labels: {t.shape}"
        hint = "logits: (n, classes), labels: (n,)"
        raise ShapeError(message("cross_entropy", "one label for each row of logits", got, hint))
    return Aval(t.shape, z.dtype)


def _residual(z: Any, t: Any) -> Any:
    """∂loss/∂z = softmax(z) − one_hot(t)."""
    return softmax(z, axis=1) - one_hot(t, classes=z.shape[1], dtype=z.dtype)


def _pulled(g: Any, z: Any, t: Any) -> Any:
    if type(z) is not np.ndarray or type(g) is not np.ndarray:
        return g.reshape((-1, 1)) * _residual(z, t)
    dz = host.cross_entropy_bwd(g, z, t)
    if dz is not None:
        return dz
    p = _softmax(np, z, 1)  # of the backward pass alone: written to
    p[np.arange(len(p)), t] -= 1
    p *= g.reshape((-1, 1))
    return p


# Loss of each row: logsumexp(z) − z[t].
cross_entropy = Op(
    "cross_entropy",
    _cross_entropy,
    _cross_entropy_aval,
    vjp=[lambda g, z, t: _pulled(g, z, t), None],
    jvp=lambda dz, z, t: sum_(dz * _residual(z, t), axis=(1,), keepdims=False),
    precision="single",
)
