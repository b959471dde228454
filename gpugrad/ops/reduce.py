"""Reductions and running sums. Imports op, aval, errors and the ops below.

``axis`` is a sorted tuple of non-negative axes. Half precision accumulates in float32.
"""

from typing import Any

import numpy as np

from gpugrad.aval import Aval, Shape, promote
from gpugrad.errors import ShapeError, message
from gpugrad.op import Op
from gpugrad.ops.elementwise import exp, real, where
from gpugrad.ops.index import setitem
from gpugrad.ops.shape import astype, broadcast_to, concat, flip, reshape
from gpugrad.rules import conjugate, total


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


def _accumulate(name: str, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    reduce = getattr(x, name)  # the method: np.sum and its like spend more than a small sum takes
    if x.dtype.char == "e":
        return reduce(axis=axis, keepdims=keepdims, dtype=np.float32).astype(np.float16)
    return reduce(axis=axis, keepdims=keepdims)


def _kept(g: Any, shape: Shape, axis: tuple[int, ...]) -> Any:
    """``g`` with the reduced axes back as size 1."""
    kept = _reduced(shape, axis, True)
    return g if g.shape == kept else reshape(g, shape=kept)


def _spread(g: Any, shape: Shape, axis: tuple[int, ...]) -> Any:
    if (type(g) is np.ndarray or isinstance(g, np.generic)) and g.size == 1:  # as from a loss
        one = np.asarray(g)
        everywhere = np.ndarray(shape, one.dtype, one, 0, (0,) * len(shape))
        everywhere.flags.writeable = False
        return everywhere
    return broadcast_to(_kept(g, shape, axis), shape=shape)


def _count(shape: Shape, axis: tuple[int, ...]) -> int:
    n = 1
    for i in axis:
        n *= shape[i]
    return n


sum_ = Op(
    "sum",
    lambda xp, x, *, axis, keepdims: _accumulate("sum", x, axis, keepdims),
    _sum_dtype,
    vjp=[lambda g, like, *, axis: _spread(g, like.shape, axis)],
    jvp="linear",
    kind="reduction",
    precision="single",
)


def _mean(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    if n := _count(x.shape, axis):
        if x.dtype.char in "fd":  # the method would spend more than a small mean takes
            return x.sum(axis=axis, keepdims=keepdims) / n
        return _accumulate("mean", x, axis, keepdims)
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
    precision="single",
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
    ones = setitem(rows[:, :1], 1, key=(Ellipsis,), reuse=False)
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
    lambda xp, x, *, axis, keepdims: _accumulate("prod", x, axis, keepdims),
    _sum_dtype,
    vjp=[
        lambda g, x, *, axis: _kept(g, x.shape, axis) * conjugate(_others(x, axis)) if x.size else x
    ],
    jvp=_prod_tangent,
    kind="reduction",
    precision="single",
)


def _norm(xp: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    wide = x.astype(np.float32) if x.dtype == np.float16 else x
    if x.dtype.kind == "c":
        return xp.sqrt(xp.sum((x * xp.conj(x)).real, axis=axis, keepdims=keepdims))
    return xp.sqrt(xp.sum(wide * wide, axis=axis, keepdims=keepdims)).astype(x.dtype)


def _real_dtype(x: Aval, *, axis: tuple[int, ...], keepdims: bool) -> Aval:
    dtype = np.empty(0, x.dtype).real.dtype if x.dtype.kind == "c" else x.dtype
    return Aval(_reduced(x.shape, axis, keepdims), dtype)


def _unit(x: Any, y: Any, axis: tuple[int, ...]) -> Any:
    kept = _kept(y, x.shape, axis)
    return x / where(kept == 0, np.inf, kept)  # at 0 all derivatives are 0


def _norm_tangent(dx: Any, x: Any, y: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    return sum_(real(dx * conjugate(_unit(x, y, axis))), axis=axis, keepdims=keepdims)


norm = Op(
    "norm",
    lambda xp, x, *, axis, keepdims: _norm(xp, x, axis, keepdims),
    _real_dtype,
    vjp=[lambda g, x, y, *, axis: _kept(g, x.shape, axis) * _unit(x, y, axis)],
    jvp=_norm_tangent,
    kind="reduction",
    precision="single",
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
    kept = _kept(y, x.shape, axis)
    return exp(x - where(kept == -np.inf, 0, kept))  # of nothing at all, −∞ throughout, it is 0


def _lse_tangent(dx: Any, x: Any, y: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    return sum_(dx * _softmax_of(x, y, axis), axis=axis, keepdims=keepdims)


logsumexp = Op(
    "logsumexp",
    lambda xp, x, *, axis, keepdims: _logsumexp(xp, x, axis, keepdims),
    _nonempty("logsumexp"),
    vjp=[lambda g, x, y, *, axis: _kept(g, x.shape, axis) * conjugate(_softmax_of(x, y, axis))],
    jvp=_lse_tangent,
    kind="reduction",
    precision="single",
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
    precision="single",
)


def _shifted(x: Any, axis: int, first: float) -> Any:
    """``x`` one place on along ``axis``, with ``first`` in front."""
    n = x.shape[axis]
    lead = (slice(None),) * axis
    head = setitem(x[(*lead, slice(0, 1))], first, key=(Ellipsis,), reuse=False)
    return concat(head, x[(*lead, slice(0, n - 1))], axis=axis, offsets=(0, 1, n))


def _recurrence(xp: Any, a: Any, b: Any, axis: int) -> Any:
    """By doubling: after step s, place i holds the composition of the maps i−s+1 … i."""
    dtype = xp.result_type(a, b)
    wide = np.float32 if dtype == np.float16 else dtype
    a = xp.array(xp.moveaxis(a, axis, -1), wide, order="C")
    y = xp.array(xp.moveaxis(b, axis, -1), wide, order="C")
    step = 1
    while step < y.shape[-1]:
        y[..., step:] += a[..., step:] * y[..., :-step]
        a[..., step:] *= a[..., :-step].copy()
        step *= 2
    return xp.moveaxis(y, -1, axis).astype(dtype, copy=False)


def _later(g: Any, a: Any, axis: int) -> Any:
    """The same recurrence run backwards: ``s[i] = g[i] + conj(a[i+1])·s[i+1]``."""
    back = (axis,)
    factor = _shifted(flip(conjugate(a), axis=back), axis, 0.0)
    return flip(recurrence(factor, flip(g, axis=back), axis=axis), axis=back)


# y[i] = a[i]·y[i−1] + b[i] along ``axis``, from y[−1] = 0; a and b have the same shape.
recurrence = Op(
    "recurrence",
    lambda xp, a, b, *, axis: _recurrence(xp, a, b, axis),
    lambda a, b, *, axis: Aval(a.shape, promote("recurrence", (a, b))),
    vjp=[
        lambda g, a, y, *, axis: _later(g, a, axis) * conjugate(_shifted(y, axis, 0.0)),
        lambda g, a, *, axis: _later(g, a, axis),
    ],
    jvp=lambda da, db, a, y, *, axis: recurrence(
        a, total(_given(None if da is None else da * _shifted(y, axis, 0.0), db)), axis=axis
    ),
)


def _given(*terms: Any) -> list[Any]:
    return [term for term in terms if term is not None]


# Never y/x: the product of the others is made of products, so zeros are no special case.
cumprod = Op(
    "cumprod",
    lambda xp, x, *, axis: _running(xp.cumprod, x, axis),
    lambda x, *, axis: Aval(x.shape, np.empty(0, x.dtype).sum().dtype),
    vjp=[
        lambda g, x, y, *, axis: (
            _later(g, x, axis) * conjugate(_shifted(y, axis, 1.0)) if x.size else x
        )
    ],
    jvp=lambda dx, x, y, *, axis: (
        recurrence(x, dx * _shifted(y, axis, 1.0), axis=axis) if x.size else x
    ),
    precision="single",
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
