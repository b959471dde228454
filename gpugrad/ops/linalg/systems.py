"""Linear systems and inverses. Imports op, rules, `matrices` and `gaps`."""

from typing import Any

import numpy as np

from gpugrad.aval import Aval, broadcast, promote
from gpugrad.errors import ShapeError, message
from gpugrad.op import Op, still
from gpugrad.ops.elementwise import real
from gpugrad.ops.linalg.gaps import once
from gpugrad.ops.linalg.matrices import adjoint, call, columns, on_square, product, square, trace
from gpugrad.ops.matrix import matmul
from gpugrad.ops.shape import batch_of
from gpugrad.rules import OUTPUT, Joint, total


def _solve(xp: Any, a: Any, b: Any) -> Any:
    shape = _solve_aval(Aval(a.shape, a.dtype), Aval(b.shape, b.dtype)).shape
    if xp is not np:  # CuPy does not broadcast here
        a = xp.broadcast_to(a, shape[:-2] + a.shape[-2:])
        b = xp.broadcast_to(b, shape)
    return call(xp, "solve", a, b)


def _solve_aval(a: Aval, b: Aval) -> Aval:
    batch = square("solve", a)
    if b.ndim < 2 or b.shape[-2] != a.shape[-1]:
        rule, hint = "b needs as many rows as a", "a: (…, n, n) and b: (…, n, k)"
        raise ShapeError(message("solve", rule, f"a: {a.shape}, b: {b.shape}", hint))
    avals = [Aval(batch, a.dtype), Aval(b.shape[:-2], b.dtype)]
    return Aval((*broadcast("solve", "ab", avals), *b.shape[-2:]), promote("solve", (a, b)))


def _solve_cotangents(g: Any, saved: Any, node: Any) -> tuple[Any, Any]:
    a, _, y = saved
    gb = solve(adjoint(a), g)
    return None if node.parents[0] is None else -matmul(gb, adjoint(y)), gb


def _solve_tangent(da: Any, db: Any, a: Any, y: Any) -> Any:
    return solve(a, total(t for t in (db, None if da is None else -matmul(da, y)) if t is not None))


solve = Op(
    "solve",
    _solve,
    _solve_aval,
    vjp=Joint(_solve_cotangents, reads=[(0, OUTPUT), (0,)]),  # gb is a step on the way to ga
    jvp=_solve_tangent,
)

inv = Op(
    "inv",
    *on_square("inv"),
    vjp=[lambda g, y: -product(adjoint(y), g, adjoint(y))],
    jvp=lambda dx, y: -product(y, dx, y),
)


def _pinv(xp: Any, x: Any, rtol: Any) -> Any:
    batch_of("pinv", x)
    u, s, vh = call(xp, "svd", x, full_matrices=False)
    if not s.size:
        return xp.zeros((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype)
    keep = s > s[..., :1] * (xp.asarray(rtol)[..., None] if hasattr(rtol, "shape") else rtol)
    scaled = adjoint(vh) * columns(xp.where(keep, 1 / xp.where(keep, s, 1), 0))
    return xp.matmul(scaled, adjoint(u)).astype(x.dtype, copy=False)


def _known_rank(x: Any, y: Any) -> Any:
    """``y``, which may be differentiated again only where its rank cannot fall."""
    rank = real(trace(matmul(still(x), still(y))))  # of a projector
    return once(y, rank < min(x.shape[-2:]) - 0.5, owner="pinv")


def _pinv_tangent(dx: Any, x: Any, y: Any) -> Any:
    y = _known_rank(x, y)
    yh, dh = adjoint(y), adjoint(dx)
    left = product(y, yh, dh)
    right = product(dh, yh, y)
    return -product(y, dx, y) + left - product(left, x, y) + right - product(y, x, right)


def _pinv_cotangent(g: Any, x: Any, y: Any) -> Any:
    y = _known_rank(x, y)
    yh, gh = adjoint(y), adjoint(g)
    left = product(gh, y, yh)
    right = product(yh, y, gh)
    return -product(yh, g, yh) + left - product(x, y, left) + right - product(right, y, x)


# Golub and Pereyra (1973), eq. 4.12: holds while the rank, as ``rtol`` sees it, stays what it is.
pinv = Op(
    "pinv",
    _pinv,
    lambda x, rtol: Aval((*batch_of("pinv", x), x.shape[-1], x.shape[-2]), x.dtype),
    vjp=[_pinv_cotangent, None],
    jvp=lambda dx, x, y: None if dx is None else _pinv_tangent(dx, x, y),
)
