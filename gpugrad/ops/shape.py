"""Ops that move values without changing them. Imports op, aval and errors only."""

import math
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import Aval, Shape, promote
from gpugrad.errors import ShapeError, message
from gpugrad.op import Op, elementwise

# Cotangents come back through `sum_to` and in the input's dtype: the scheduler sees to both, so
# broadcasting and casting have the identity as rule.


def _reshape_aval(x: Aval, *, shape: tuple[int, ...]) -> Aval:
    known = math.prod(d for d in shape if d != -1)
    holes = shape.count(-1)
    if holes > 1 or min(shape, default=0) < -1:
        hint = "-1 for the one size to be worked out"
        raise ShapeError(message("reshape", "sizes are ≥ 0, at most one of them -1", shape, hint))
    if holes and (not known or x.size % known):
        hint = f"sizes whose product divides {x.size}"
        raise ShapeError(message("reshape", "no size fits the -1", f"{x.shape} to {shape}", hint))
    shape = tuple(x.size // known if d == -1 else d for d in shape)
    if math.prod(shape) != x.size:
        got = f"{x.shape} ({x.size} values) to {shape} ({math.prod(shape)})"
        hint = "-1 for one size"
        raise ShapeError(message("reshape", "the number of values must not change", got, hint))
    return Aval(shape, x.dtype)


reshape = Op(
    "reshape",
    lambda xp, x, *, shape: x.reshape(shape),
    _reshape_aval,
    vjp=[lambda g, like: reshape(g, shape=like.shape)],
    jvp="linear",
    kind="view",
)


def _broadcast_aval(x: Aval, *, shape: tuple[int, ...]) -> Aval:
    fits = len(shape) >= x.ndim and all(
        have in (1, want) for have, want in zip(x.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        rule = "each size must be equal, or 1 in the input"
        hint = "expand_dims or reshape first"
        raise ShapeError(message("broadcast_to", rule, f"{x.shape} to {shape}", hint))
    return Aval(shape, x.dtype)


broadcast_to = Op(
    "broadcast_to",
    lambda xp, x, *, shape: xp.broadcast_to(x, shape),
    _broadcast_aval,
    vjp=[lambda g: g],
    jvp="linear",
    kind="view",
)

permute_dims = Op(
    "permute_dims",
    lambda xp, x, *, axes: x.transpose(axes),
    lambda x, *, axes: Aval(tuple(x.shape[i] for i in axes), x.dtype),
    vjp=[lambda g, *, axes: permute_dims(g, axes=tuple(np.argsort(axes).tolist()))],
    jvp="linear",
    kind="view",
)

flip = Op(
    "flip",
    lambda xp, x, *, axis: xp.flip(x, axis),
    lambda x, *, axis: x,
    vjp=[lambda g, *, axis: flip(g, axis=axis)],
    jvp="linear",
    kind="view",
)

roll = Op(
    "roll",
    lambda xp, x, *, shift, axis: xp.roll(x, shift, axis),
    lambda x, *, shift, axis: x,
    vjp=[lambda g, *, shift, axis: roll(g, shift=tuple(-s for s in shift), axis=axis)],
    jvp="linear",
    kind="opaque",
)


def _astype(x: Any, dtype: Any) -> Any:
    if x.dtype.kind == "c" and np.dtype(dtype).kind not in "cb":
        x = x.real  # what a cotangent or tangent of a real value means
    return x.astype(dtype)


astype = elementwise("astype", lambda xp, x, *, dtype: _astype(x, dtype), [lambda g: g])


def _concat_aval(*xs: Aval, axis: int, offsets: tuple[int, ...]) -> Aval:
    rest = {x.shape[:axis] + x.shape[axis + 1 :] for x in xs}
    if len(rest) != 1:
        got = ", ".join(str(x.shape) for x in xs)
        hint = "another axis, or stack(...) for a new one"
        raise ShapeError(message("concat", f"all axes but axis {axis} must be equal", got, hint))
    shape = (*xs[0].shape[:axis], offsets[-1], *xs[0].shape[axis + 1 :])
    return Aval(shape, promote("concat", xs))


def _section(g: Any, i: int, axis: int, offsets: tuple[int, ...]) -> Any:
    return g[(slice(None),) * axis + (slice(offsets[i], offsets[i + 1]),)]


def _concat_tangent(tangents: Any, xs: Any, *, axis: int, offsets: tuple[int, ...]) -> Any:
    filled = [x * 0 if dx is None else dx for x, dx in zip(xs, tangents, strict=True)]
    return concat(*filled, axis=axis, offsets=offsets)


# offsets[i] is where input i starts along ``axis``; the last one is the total.
concat = Op(
    "concat",
    lambda xp, *xs, axis, offsets: xp.concatenate(xs, axis=axis),
    _concat_aval,
    vjp=_section,
    jvp=_concat_tangent,
    kind="opaque",
)


def _triangle(xp: Any, x: Any, k: int, lower: bool) -> Any:
    return (xp.tril if lower else xp.triu)(x, k)


triangle = Op(
    "triangle",
    lambda xp, x, *, k, lower: _triangle(xp, x, k, lower),
    lambda x, *, k, lower: x,
    vjp=[lambda g, *, k, lower: triangle(g, k=k, lower=lower)],
    jvp="linear",
)


def batch_of(name: str, x: Any) -> Shape:
    """The batch shape of matrices; anything else raises."""
    shape: Shape = x.shape
    if len(shape) < 2:
        raise ShapeError(message(name, "takes matrices (…, m, n)", shape))
    return shape[:-2]


def _diagonal_aval(x: Aval, *, k: int) -> Aval:
    batch = batch_of("diagonal", x)
    m, n = x.shape[-2:]
    return Aval((*batch, max(0, min(m, n - k) if k >= 0 else min(m + k, n))), x.dtype)


diagonal = Op(
    "diagonal",
    lambda xp, x, *, k: xp.diagonal(x, k, -2, -1),
    _diagonal_aval,
    vjp=[lambda g, like, *, k: diagonal_matrix(g, k=k, shape=like.shape[-2:])],
    jvp="linear",
    kind="view",
)


def with_diagonal(xp: Any, d: Any, k: int, shape: Shape) -> Any:
    y = xp.zeros((*d.shape[:-1], *shape), d.dtype)
    place = xp.arange(d.shape[-1])
    y[..., place + max(-k, 0), place + max(k, 0)] = d
    return y


diagonal_matrix = Op(
    "diagonal_matrix",
    lambda xp, d, *, k, shape: with_diagonal(xp, d, k, shape),
    lambda d, *, k, shape: Aval((*d.shape[:-1], *shape), d.dtype),
    vjp=[lambda g, *, k: diagonal(g, k=k)],
    jvp="linear",
)

# The one way from device to device; the gradient takes the same way back.
to_device = Op(
    "to_device",
    lambda xp, x, *, device, source: (
        backend.get(device).asarray(backend.of(x).to_numpy(x))
        if device == "cpu"
        else backend.get(device).asarray(x)
    ),
    lambda x, *, device, source: x,
    vjp=[lambda g, *, device, source: to_device(g, device=source, source=device)],
    jvp="linear",
)
