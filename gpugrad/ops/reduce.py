"""Reductions and running sums. Imports op, aval, errors and the ops below.

``axis`` is a sorted tuple of non-negative axes. Half precision accumulates in float32.
"""

from typing import Any

import numpy as np

from gpugrad.aval import Aval, Shape
from gpugrad.errors import ShapeError, message
from gpugrad.op import Op
from gpugrad.ops.elementwise import exp, where
from gpugrad.ops.shape import astype, broadcast_to, concat, flip, reshape


def _reduced(shape: Shape, axis: tuple[int, ...], keepdims: bool) -> Shape:
    return tuple(1 if i in axis else d for i, d in enumerate(shape) if keepdims or i not in axis)


def _keeps_dtype(x: Aval, *, axis: tuple[int, ...], keepdims: bool) -> Aval:
    return Aval(_reduced(x.shape, axis, keepdims), x.dtype)


def _sum_dtype(x: Aval, *, axis: tuple[int, ...], keepdims: bool) -> Aval:
    dtype = np.empty(0, x.dtype).sum().dtype  # bool and small integers widen, as in NumPy
    return Aval(_reduced(x.shape, axis, keepdims), dtype)


def _nonempty(name: str) -> Any:
    def aval(x: Aval, *, axis: tuple[int, ...], keepdims: bool) -> Aval:
        if any(x.shape[i] == 0 for i in axis):
            raise ShapeError(message(name, "an empty axis has no such value", x.shape))
        return _keeps_dtype(x, axis=axis, keepdims=keepdims)

    return aval


def _accumulate(reduce: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    if x.dtype == np.float16:
        return reduce(x, axis=axis, keepdims=keepdims, dtype=np.float32).astype(np.float16)
    return reduce(x, axis=axis, keepdims=keepdims)


def _kept(g: Any, shape: Shape, axis: tuple[int, ...]) -> Any:
    """``g`` with the reduced axes back as size 1."""
    kept = _reduced(shape, axis, True)
    return g if g.shape == kept else reshape(g, shape=kept)


def _spread(g: Any, shape: Shape, axis: tuple[int, ...]) -> Any:
    return broadcast_to(_kept(g, shape, axis), shape=shape)


def _count(shape: Shape, axis: tuple[int, ...]) -> int:
    n = 1
    for i in axis:
        n *= shape[i]
    return n


sum_ = Op(
    "sum",
    lambda xp, x, *, axis, keepdims: _accumulate(xp.sum, x, axis, keepdims),
    _sum_dtype,
    vjp=[lambda g, like, *, axis: _spread(g, like.shape, axis)],
    jvp="linear",
    kind="reduction",
)


def _mean(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    if _count(x.shape, axis):
        return _accumulate(xp.mean, x, axis, keepdims)
    return xp.full(_reduced(x.shape, axis, keepdims), xp.nan, x.dtype)  # NumPy would also warn


def _mean_cotangent(g: Any, shape: Shape, axis: tuple[int, ...]) -> Any:
    # Not g / n: n may be beyond half precision, 1/n is not.
    return _spread(g * (1 / max(1, _count(shape, axis))), shape, axis)


mean = Op(
    "mean",
    lambda xp, x, *, axis, keepdims: _mean(xp, x, axis, keepdims),
    _keeps_dtype,
    vjp=[lambda g, like, *, axis: _mean_cotangent(g, like.shape, axis)],
    jvp="linear",
    kind="reduction",
)


def _share(x: Any, y: Any, axis: tuple[int, ...]) -> Any:
    """1 at the extreme value, split evenly among ties."""
    hit = astype(x == _kept(y, x.shape, axis), dtype=x.dtype)
    return hit / sum_(hit, axis=axis, keepdims=True)


def _extreme(name: str) -> Op:
    def tangent(dx: Any, x: Any, y: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
        return sum_(dx * _share(x, y, axis), axis=axis, keepdims=keepdims)

    return Op(
        name,
        lambda xp, x, *, axis, keepdims: getattr(xp, name)(x, axis=axis, keepdims=keepdims),
        _nonempty(name),
        vjp=[lambda g, x, y, *, axis: _kept(g, x.shape, axis) * _share(x, y, axis)],
        jvp=tangent,
        kind="reduction",
    )


max_ = _extreme("max")
min_ = _extreme("min")


def _others(x: Any, axis: tuple[int, ...]) -> Any:
    """At each place the product of all the other values along ``axis``.

    Made of products alone, never y/x, so zeros are no special case at any order of derivative.
    """
    rest = tuple(i for i in range(x.ndim) if i not in axis)
    order = (*rest, *axis)
    moved = x.transpose(order)
    rows = reshape(moved, shape=(_count(x.shape, rest), _count(x.shape, axis)))
    product = _before(rows) * flip(_before(flip(rows, axis=(1,))), axis=(1,))
    return reshape(product, shape=moved.shape).transpose(tuple(np.argsort(order).tolist()))


def _before(rows: Any) -> Any:
    """Product of all values before each place in its row, by doubling strides."""
    n = rows.shape[1]
    ones = rows[:, :1] * 0 + 1
    scan = concat(ones, rows[:, :-1], axis=1, offsets=(0, 1, n))
    step = 1
    while step < n:
        head = broadcast_to(ones, shape=(rows.shape[0], step))
        shifted = concat(head, scan[:, :-step], axis=1, offsets=(0, step, n))
        scan = scan * shifted
        step *= 2
    return scan


def _prod_tangent(dx: Any, x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    return sum_(dx * _others(x, axis), axis=axis, keepdims=keepdims)


prod = Op(
    "prod",
    lambda xp, x, *, axis, keepdims: _accumulate(xp.prod, x, axis, keepdims),
    _sum_dtype,
    vjp=[lambda g, x, *, axis: _kept(g, x.shape, axis) * _others(x, axis) if x.size else x],
    jvp=_prod_tangent,
    kind="reduction",
)


def _norm(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    wide = x.astype(np.float32) if x.dtype == np.float16 else x
    return xp.sqrt(xp.sum(wide * wide, axis=axis, keepdims=keepdims)).astype(x.dtype)


def _unit(x: Any, y: Any, axis: tuple[int, ...]) -> Any:
    kept = _kept(y, x.shape, axis)
    return x / where(kept == 0, 1, kept)  # the subgradient at 0 is 0


def _norm_tangent(dx: Any, x: Any, y: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    return sum_(dx * _unit(x, y, axis), axis=axis, keepdims=keepdims)


norm = Op(
    "norm",
    lambda xp, x, *, axis, keepdims: _norm(xp, x, axis, keepdims),
    _keeps_dtype,
    vjp=[lambda g, x, y, *, axis: _kept(g, x.shape, axis) * _unit(x, y, axis)],
    jvp=_norm_tangent,
    kind="reduction",
)


def _logsumexp(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    top = xp.max(x, axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):  # log 0 is -inf: the sum of no probability at all
        wide = np.float32 if x.dtype == np.float16 else None
        total = xp.sum(xp.exp(x - top), axis=axis, keepdims=True, dtype=wide)
        y = (xp.log(total) + top).astype(x.dtype, copy=False)
    return y if keepdims else y.reshape(_reduced(x.shape, axis, False))


def _softmax_of(x: Any, y: Any, axis: tuple[int, ...]) -> Any:
    return exp(x - _kept(y, x.shape, axis))


def _lse_tangent(dx: Any, x: Any, y: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    return sum_(dx * _softmax_of(x, y, axis), axis=axis, keepdims=keepdims)


logsumexp = Op(
    "logsumexp",
    lambda xp, x, *, axis, keepdims: _logsumexp(xp, x, axis, keepdims),
    _nonempty("logsumexp"),
    vjp=[lambda g, x, y, *, axis: _kept(g, x.shape, axis) * _softmax_of(x, y, axis)],
    jvp=_lse_tangent,
    kind="reduction",
)


def _running(accumulate: Any, x: Any, axis: int) -> Any:
    if x.dtype == np.float16:
        return accumulate(x, axis=axis, dtype=np.float32).astype(np.float16)
    return accumulate(x, axis=axis)


cumsum = Op(
    "cumsum",
    lambda xp, x, *, axis: _running(xp.cumsum, x, axis),
    lambda x, *, axis: Aval(x.shape, np.empty(0, x.dtype).sum().dtype),
    vjp=[lambda g, *, axis: flip(cumsum(flip(g, axis=(axis,)), axis=axis), axis=(axis,))],
    jvp="linear",
)

# No derivative


def _arg_aval(x: Aval, *, axis: int, keepdims: bool) -> Aval:
    if x.shape[axis] == 0:
        raise ShapeError(message("argmax", "an empty axis has no such index", x.shape))
    return Aval(_reduced(x.shape, (axis,), keepdims), np.dtype(np.int64))


argmax = Op(
    "argmax",
    lambda xp, x, *, axis, keepdims: xp.argmax(x, axis=axis, keepdims=keepdims),
    _arg_aval,
    kind="reduction",
)
argmin = Op(
    "argmin",
    lambda xp, x, *, axis, keepdims: xp.argmin(x, axis=axis, keepdims=keepdims),
    _arg_aval,
    kind="reduction",
)


def _bool_aval(x: Aval, *, axis: tuple[int, ...], keepdims: bool) -> Aval:
    return Aval(_reduced(x.shape, axis, keepdims), np.dtype(bool))


any_ = Op(
    "any",
    lambda xp, x, *, axis, keepdims: xp.any(x, axis=axis, keepdims=keepdims),
    _bool_aval,
    kind="reduction",
)
all_ = Op(
    "all",
    lambda xp, x, *, axis, keepdims: xp.all(x, axis=axis, keepdims=keepdims),
    _bool_aval,
    kind="reduction",
)
