"""Polynomials as vectors of coefficients, the highest power first. Imports the rooms beside it."""

import warnings
from typing import Any

import numpy as np

from gpugrad.errors import ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace.creation import asarray, astype
from gpugrad.namespace.lifting import constant, floating, host, together
from gpugrad.namespace.numpy.arranging import atleast_1d
from gpugrad.namespace.numpy.calculus import convolve
from gpugrad.namespace.numpy.choosing import trim_zeros
from gpugrad.state import state
from gpugrad.tensor import Tensor


def polyval(p: Any, x: Any) -> Tensor:
    """``p₀xⁿ⁻¹ + … + pₙ₋₁``, the highest power first, by Horner's rule.

    >>> import gpugrad as gg
    >>> gg.grad(lambda x: gg.polyval([1.0, 0.0, 5.0], x))(3.0)
    6.0
    """
    p, x = together(p, x)
    y = functions.zeros_like(x)
    for coefficient in p:
        y = y * x + coefficient
    return y


def vander(x: Any, N: int | None = None, increasing: bool = False) -> Tensor:
    """Matrix of the powers of ``x``: columns ``xᴺ⁻¹ … x⁰``, or the other way if ``increasing``."""
    x = asarray(x)
    if x.ndim != 1:
        raise ShapeError(message("vander", "takes a 1-d array", x.shape))
    if x.dtype.kind in "biu":  # powers of small integers would not fit
        x = astype(x, np.promote_types(x.dtype, np.int64))
    powers = [functions.ones_like(x)]
    while len(powers) < (x.size if N is None else N):
        powers.append(powers[-1] * x)
    if N == 0 or not powers:
        return functions.zeros((x.size, 0), dtype=x.dtype, device=x.device)
    return functions.stack(powers if increasing else powers[::-1], axis=1)


def polyadd(a1: Any, a2: Any) -> Tensor:
    """Sum of two polynomials."""
    a, b = _equally_long(a1, a2)
    return a + b


def polysub(a1: Any, a2: Any) -> Tensor:
    """Difference of two polynomials."""
    a, b = _equally_long(a1, a2)
    return a - b


def _equally_long(a1: Any, a2: Any) -> tuple[Tensor, Tensor]:
    a, b = (atleast_1d(x) for x in together(a1, a2))
    size = max(a.size, b.size)
    a, b = (
        x
        if x.size == size
        else functions.concat([functions.zeros(size - x.size, dtype=x.dtype, device=x.device), x])
        for x in (a, b)
    )
    return a, b


def polymul(a1: Any, a2: Any) -> Tensor:
    """Product of two polynomials; zeros in front are left out.

    >>> import gpugrad as gg
    >>> gg.polymul([1, 1], [1, -1]).tolist()
    [1, 0, -1]
    """
    a, b = map(_without_zeros, together(a1, a2))
    return convolve(a, b)


def _without_zeros(x: Tensor) -> Tensor:
    x = atleast_1d(x)
    kept = trim_zeros(x, "f")
    return kept if kept.size else functions.zeros_like(x[:1])


def polydiv(u: Any, v: Any) -> tuple[Tensor, Tensor]:
    """Quotient and remainder of two polynomials, zeros in front of the remainder left out.

    >>> import gpugrad as gg
    >>> [part.tolist() for part in gg.polydiv([1.0, 0.0, 5.0], [1.0, -1.0])]
    [[1.0, 1.0], [6.0]]
    """
    u, v = (floating(atleast_1d(x)) for x in together(u, v))
    quotient, rest = [], u
    for _ in range(u.size - v.size + 1):
        factor = rest[0] / v[0]
        quotient.append(factor)
        rest = functions.concat([rest[1 : v.size] - factor * v[1:], rest[v.size :]])
    if not quotient:
        quotient.append(u[0] * v[0] * 0)
    if not rest.size:
        rest = u[:1] * 0
    zero = np.isclose(host(rest[:-1]), 0, rtol=1e-14)
    return functions.stack(quotient), rest[int(np.argmin([*zero, False])) :]


def polyder(p: Any, m: int = 1) -> Tensor:
    """``m``-th derivative of a polynomial."""
    x: Tensor = atleast_1d(p)
    if m < 0:
        raise ShapeError(message("polyder", "the number of times is ≥ 0", m, "gg.polyint"))
    for _ in range(m):
        x = x[:-1] * constant(np.arange(x.size - 1, 0, -1, dtype=x.dtype), x.device)
    return x


def polyint(p: Any, m: int = 1, k: Any = None) -> Tensor:
    """``m``-th antiderivative of a polynomial; ``k`` are the constants, 0 by default."""
    x = floating(atleast_1d(p))
    if m < 0:
        raise ShapeError(message("polyint", "the number of times is ≥ 0", m, "gg.polyder"))
    constants = atleast_1d(together(x, 0.0 if k is None else k)[1])
    if constants.size not in (1, m):
        raise ShapeError(message("polyint", "one constant for each time, or for all", k))
    for i in range(m):
        over = constant(np.arange(x.size, 0, -1, dtype=x.dtype), x.device)
        x = functions.concat([x / over, constants[i : i + 1] if i < constants.size else constants])
    return x


def roots(p: Any) -> Tensor:
    """Where a polynomial is 0, as complex numbers: eigenvalues of its companion matrix.

    Differentiable where the roots are distinct.

    >>> import gpugrad as gg
    >>> sorted(gg.roots([1.0, 0.0, -4.0]).tolist(), key=lambda z: z.real)
    [(-2+0j), (2+0j)]
    """
    x = floating(p)
    if x.ndim != 1:
        raise ShapeError(message("roots", "takes a vector of coefficients", x.shape))
    kept = trim_zeros(x)
    none = x.size - trim_zeros(x, "b").size if kept.size else 0
    complex_ = np.result_type(x.dtype, np.complex64)
    zeros = functions.zeros(none, dtype=complex_, device=x.device)
    if kept.size < 2:
        return zeros
    first = -kept[1:] / kept[0]
    below = np.eye(kept.size - 2, kept.size - 1, dtype=x.dtype)
    companion = functions.concat([first[None, :], constant(below, x.device)], axis=0)
    found = _linalg().eigvals(companion)
    return functions.concat([found, zeros])


def _linalg() -> Any:
    package: Any = functions.array_namespace(None)
    return package.linalg


def poly(seq_of_zeros: Any) -> Tensor:
    """Coefficients of the polynomial with these roots, or of a matrix's characteristic one.

    >>> import gpugrad as gg
    >>> gg.poly([1.0, 2.0]).tolist()
    [1.0, -3.0, 2.0]
    """
    x = atleast_1d(seq_of_zeros)
    if x.ndim == 2 and x.shape[0] == x.shape[1] and x.shape[0]:
        zeros = _linalg().eigvals(floating(x))
    elif x.ndim == 1:
        zeros = floating(x) if x.dtype.kind in "biu" and x.size else x
    else:
        raise ShapeError(message("poly", "takes a vector of roots or a square matrix", x.shape))
    one = functions.ones(1, dtype=zeros.dtype, device=zeros.device)
    product = one
    for zero in zeros:
        product = convolve(product, functions.concat([one, -zero[None]]))
    if zeros.dtype.kind == "c":
        values = host(zeros)
        if np.array_equal(np.sort(values), np.sort(values.conj())):
            return ops.real(product)
    return product


def polyfit(
    x: Any,
    y: Any,
    deg: int,
    rcond: float | None = None,
    full: bool = False,
    w: Any = None,
    cov: Any = False,
) -> Any:
    """Coefficients of the polynomial of degree ``deg`` nearest to the points (x, y).

    It minimises ``Σ (wᵢ(yᵢ − p(xᵢ)))²`` and is differentiable in x, y and w. ``full`` adds the sum
    of squares, rank, singular values and ``rcond``; ``cov`` the covariance of the coefficients.

    >>> import gpugrad as gg
    >>> [round(c, 4) for c in gg.polyfit([0.0, 1.0, 2.0], [1.0, 3.0, 7.0], 2).tolist()]
    [1.0, 1.0, 1.0]
    """
    x, y = (floating(v) for v in together(x, y))
    if deg < 0 or x.ndim != 1 or y.ndim not in (1, 2) or not x.size or x.shape[0] != y.shape[0]:
        got = f"x: {x.shape}, y: {y.shape}, deg: {deg}"
        raise ShapeError(message("polyfit", "x is a vector, y has as many rows, deg ≥ 0", got))
    linalg = _linalg()
    powers, wanted = vander(x, deg + 1), y
    if w is not None:
        weights = floating(together(x, w)[1])
        if weights.shape != x.shape:
            raise ShapeError(message("polyfit", "one weight for each point", weights.shape))
        powers = powers * weights[:, None]
        wanted = (wanted.T * weights).T if y.ndim == 2 else wanted * weights
    if rcond is None:
        rcond = x.size * float(np.finfo(x.dtype).eps)
    scale = functions.norm(powers, axis=0)
    powers = powers / scale
    c = linalg.pinv(powers, rtol=rcond) @ wanted
    c = c / (scale if y.ndim == 1 else scale[:, None])
    if full:
        return c, *linalg.lstsq(powers, wanted, rcond=rcond)[1:], rcond
    if state.trace is None and int(linalg.matrix_rank(powers, rtol=rcond)) != deg + 1:
        rule = "Polyfit may be poorly conditioned"
        warnings.warn(rule, np.exceptions.RankWarning, stacklevel=2)
    if not cov:
        return c
    spread = linalg.inv(powers.T @ powers) / functions.outer(scale, scale)
    if cov == "unscaled":
        return c, spread
    if x.size <= deg + 1:
        got = f"{x.size} points for {deg + 1} coefficients"
        raise ShapeError(message("polyfit", "too few points for a covariance", got))
    rest = wanted - powers @ (c * scale if y.ndim == 1 else c * scale[:, None])
    factor = functions.sum(rest * rest, axis=0) / (x.size - deg - 1)
    return c, spread * factor if y.ndim == 1 else spread[:, :, None] * factor
