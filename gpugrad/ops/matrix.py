"""Matrix products. Imports op, rules, aval and errors only."""

from typing import Any

import numpy as np

from gpugrad.aval import Aval, broadcast, promote
from gpugrad.backend.numpy import linear as host_linear
from gpugrad.backend.numpy import product
from gpugrad.errors import ShapeError, message
from gpugrad.op import Op
from gpugrad.rules import conjugate, total


def _matmul_aval(a: Aval, b: Aval) -> Aval:
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        rule = "the last axis of a must match the second-last of b"
        hint = "a: (…, m, k) and b: (…, k, n)"
        raise ShapeError(message("matmul", rule, f"a: {a.shape}, b: {b.shape}", hint))
    batch = broadcast("matmul", "ab", [Aval(a.shape[:-2], a.dtype), Aval(b.shape[:-2], b.dtype)])
    return Aval((*batch, a.shape[-2], b.shape[-1]), promote("matmul", (a, b)))


matmul = Op(
    "matmul",
    lambda xp, a, b: product(a, b) if xp is np else xp.matmul(a, b),
    _matmul_aval,
    vjp=[lambda g, b: matmul(g, _mh(b)), lambda g, a: matmul(_mh(a), g)],
    jvp="multilinear",
    kind="contraction",
    precision="half",
)


def _mh(x: Any) -> Any:
    """Conjugate transpose of the last two axes, of a Tensor or an array (CuPy has no ``.mT``)."""
    return conjugate(x.T if x.ndim == 2 else x.swapaxes(-1, -2))


def _linear(xp: Any, x: Any, w: Any, b: Any) -> Any:
    if type(x) is np.ndarray:
        return host_linear(x, w, b)
    y = xp.matmul(x, w.T)
    return xp.add(y, b, out=y) if b.dtype == y.dtype else y + b


def _linear_aval(x: Aval, w: Aval, b: Aval) -> Aval:
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1] or b.shape != w.shape[:1]:
        got = f"x: {x.shape}, w: {w.shape}, b: {b.shape}"
        hint = "x: (…, in), w: (out, in), b: (out,)"
        raise ShapeError(message("linear", "x has as many columns as w takes", got, hint))
    return Aval((*x.shape[:-1], w.shape[0]), promote("linear", (x, w, b)))


def _rows(x: Any) -> Any:
    return x if x.ndim == 2 else x.reshape((-1, x.shape[-1]))


# y = x wᵀ + b with w stored (out, in) as PyTorch's, so that dw comes out in w's own layout.
linear = Op(
    "linear",
    _linear,
    _linear_aval,
    vjp=[
        lambda g, w: _times(g, conjugate(w)),
        lambda g, x: matmul(_rows(g).T, conjugate(_rows(x))),
        lambda g: g,
    ],
    jvp=lambda dx, dw, db, x, w: total(
        term
        for term in (
            None if dx is None else _product(dx, w),
            None if dw is None else _product(x, dw),
            db,
        )
        if term is not None
    ),
    kind="contraction",
    precision="half",
)


def _times(g: Any, w: Any) -> Any:
    return matmul(g, w) if g.ndim > 1 else matmul(g.reshape((1, -1)), w).reshape((-1,))


def _product(x: Any, w: Any) -> Any:
    return matmul(_rows(x), w.T).reshape((*x.shape[:-1], w.shape[0]))
