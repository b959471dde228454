"""Rows of the case table for linalg, einsum and fft. Matrices are well conditioned, gaps are wide.

Every function of several outputs is seen through one that does not depend on the choice of signs
and phases; every complex result through its real and imaginary parts or absolute values.
"""

from typing import Any

import numpy as np
from cases import Case, real

import gpugrad as gg
from gpugrad.late import ops

CASES: list[Case] = []
la, nla = gg.linalg, np.linalg


def case(op: str, f: Any, ref: Any, *args: Any, note: str = "") -> None:
    CASES.append(Case(op, f, ref, args, note))


def regular(*shape: int) -> Any:
    """Far from singular, singular values apart."""
    n = shape[-1]
    return 0.3 * real(*shape) + np.diag(1.0 + np.arange(n))


def tall(*shape: int) -> Any:
    m, n = shape[-2:]
    return 0.3 * real(*shape) + np.eye(m, n) * (1.0 + np.arange(n))


def sym(x: Any) -> Any:
    return (x + (x.mT if isinstance(x, gg.Tensor) else np.swapaxes(x, -1, -2))) * 0.5


def definite(x: Any) -> Any:
    """Positive definite for any x."""
    if isinstance(x, gg.Tensor):
        return x @ x.mT + gg.eye(x.shape[-1], dtype=x.dtype)
    return x @ np.swapaxes(x, -1, -2) + np.eye(x.shape[-1])


# Systems, inverses, determinants

for shape in [(3, 3), (2, 3, 3), (1, 1), (0, 3, 3)]:
    case("inv", la.inv, nla.inv, regular(*shape))
    case("det", la.det, nla.det, regular(*shape))
    case("slogdet", lambda x: la.slogdet(x)[1] * 1, lambda x: nla.slogdet(x)[1], regular(*shape))
    case(
        "slogdet",
        lambda x: la.slogdet(x).sign * la.slogdet(-x).logabsdet,
        lambda x: nla.slogdet(x)[0] * nla.slogdet(-x)[1],
        regular(*shape),
        note="sign-",
    )
for a, b in [((3, 3), (3, 2)), ((3, 3), (3,)), ((2, 3, 3), (3, 1)), ((3, 3), (2, 3, 2))]:
    case("solve", la.solve, nla.solve, regular(*a), real(*b))
case(
    "solve", lambda a: la.solve(a, a.mT), lambda a: nla.solve(a, a.T), regular(3, 3), note="twice-"
)
for shape in [(3, 3), (4, 2), (2, 2, 4)]:
    matrix = np.swapaxes(tall(*shape[:-2], shape[-1], shape[-2]), -1, -2)
    case("pinv", la.pinv, nla.pinv, matrix if shape[-1] > shape[-2] else tall(*shape))
case(
    "cofactors",
    ops.cofactors,
    lambda x: nla.det(x)[..., None, None] * np.swapaxes(nla.inv(x), -1, -2),
    regular(2, 3, 3),
)


def _cofactors_along(x: Any, e: Any) -> Any:
    """d cof(x)[e] by the product rule on det(x) x⁻ᵀ."""
    b = nla.inv(x)
    t = np.trace(b @ e, axis1=-2, axis2=-1)[..., None, None]
    d = nla.det(x)[..., None, None]
    return d * np.swapaxes(t * b - b @ e @ b, -1, -2)


case("cofactors_along", ops.cofactors_along, _cofactors_along, regular(3, 3), real(3, 3))
case("matmul", lambda x: la.matrix_power(x, 3), lambda x: nla.matrix_power(x, 3), regular(3, 3))
case("inv", lambda x: la.matrix_power(x, -2), lambda x: nla.matrix_power(x, -2), regular(2, 3, 3))
case(
    "pinv",
    lambda a, b: la.lstsq(a, b).x,
    lambda a, b: nla.lstsq(a, b, rcond=None)[0],
    tall(4, 2),
    real(4),
    note="lstsq-",
)
case(
    "pinv",
    lambda a, b: la.lstsq(a, b).residuals,
    lambda a, b: nla.lstsq(a, b, rcond=None)[1],
    tall(4, 2),
    real(4, 2),
    note="lstsq-",
)

# Decompositions

for shape in [(3, 3), (2, 3, 3), (1, 1)]:
    case(
        "cholesky",
        lambda x: la.cholesky(definite(x)),
        lambda x: nla.cholesky(definite(x)),
        real(*shape) * 0.5,
    )
    case(
        "cholesky",
        lambda x: la.cholesky(definite(x), upper=True),
        lambda x: np.swapaxes(nla.cholesky(definite(x)), -1, -2),
        real(*shape) * 0.5,
        note="upper-",
    )
    case(
        "eigvalsh",
        lambda x: la.eigvalsh(sym(x)),
        lambda x: nla.eigvalsh(sym(x)),
        regular(*shape),
    )
    case(
        "eigh",
        lambda x: _weighted(*la.eigh(sym(x))),
        lambda x: _weighted(*nla.eigh(sym(x))),
        regular(*shape),
    )
    case(
        "eigh",
        lambda x: la.eigh(sym(x)).eigenvectors ** 2,
        lambda x: nla.eigh(sym(x))[1] ** 2,
        regular(*shape),
        note="vectors-",
    )


def _weighted(w: Any, v: Any) -> Any:
    """A function of a symmetric matrix: V diag(w² + w) Vᵀ."""
    vt = v.mT if isinstance(v, gg.Tensor) else np.swapaxes(v, -1, -2)
    return (v * (w * w + w)[..., None, :]) @ vt


def _skewed(u: Any, s: Any, vh: Any) -> Any:
    """U diag(s³ + 1) Vh: the signs cancel."""
    return (u * (s * s * s + 1)[..., None, :]) @ vh


for shape in [(3, 3), (4, 2), (2, 2, 3), (1, 1)]:
    wide = shape[-1] > shape[-2]
    matrix = tall(*shape[:-2], shape[-1], shape[-2])
    matrix = np.swapaxes(matrix, -1, -2) if wide else tall(*shape)
    case("svdvals", la.svdvals, lambda x: nla.svd(x, compute_uv=False), matrix)
    case(
        "svd",
        lambda x: _skewed(*la.svd(x, full_matrices=False)),
        lambda x: _skewed(*nla.svd(x, full_matrices=False)),
        matrix,
    )
    case(
        "svd",
        lambda x: la.svd(x, full_matrices=False).U ** 2,
        lambda x: nla.svd(x, full_matrices=False)[0] ** 2,
        matrix,
        note="U-",
    )
    case(
        "svd",
        lambda x: la.svd(x, full_matrices=False).Vh ** 2,
        lambda x: nla.svd(x, full_matrices=False)[2] ** 2,
        matrix,
        note="Vh-",
    )
    case("qr", lambda x: la.qr(x).Q * 1, lambda x: nla.qr(x)[0], matrix, note="Q-")
    case("qr", lambda x: la.qr(x).R * 1, lambda x: nla.qr(x)[1], matrix, note="R-")
case(
    "qr",
    lambda x: la.qr(x, mode="complete").R * 1,
    lambda x: nla.qr(x, mode="complete")[1],
    regular(3, 3),
    note="complete-",
)


def _lengths(w: Any, v: Any) -> Any:
    """Σᵢ |wᵢ|² Σⱼ |vⱼᵢ|⁴: no phase, no order."""
    size, weight = abs(v), abs(w)
    return ((size * size * size * size).sum(-2) * weight * weight).sum(-1)


for shape in [(3, 3), (2, 3, 3)]:
    case(
        "eig",
        lambda x: _lengths(*la.eig(x)).astype(x.dtype),
        lambda x: _lengths(*nla.eig(x)),
        regular(*shape),
    )
    case(
        "eigvals",
        lambda x: (abs(la.eigvals(x)) ** 3).sum(-1).astype(x.dtype),
        lambda x: (abs(nla.eigvals(x)) ** 3).sum(-1),
        regular(*shape),
    )
turning = np.array([[0.5, 2.0, 0.1], [-1.5, 0.3, 0.2], [0.3, -0.1, 2.5]])  # two complex, one real
case(
    "eig",
    lambda x: _lengths(*la.eig(x)).astype(x.dtype),
    lambda x: _lengths(*nla.eig(x)),
    turning,
    note="complex-",
)
case(
    "eigvals",
    lambda x: (abs(la.eigvals(x)) ** 3).sum(-1).astype(x.dtype),
    lambda x: (abs(nla.eigvals(x)) ** 3).sum(-1),
    turning,
    note="complex-",
)
case(
    "over",
    lambda x, d: ops.over(x, d * d + 1, x, owner="eigh", free=False),
    lambda x, d: x / (d * d + 1),
    real(3, 3),
    real(3, 3),
)
case(
    "once",
    lambda x: ops.once(x, np.zeros(3, bool), owner="eigh") * x,
    lambda x: x * x,
    real(3, 3),
)

# Norms

for p in (1, 2, 3, 0.5, -1, -2.5, np.inf, -np.inf, 2.0):
    case(
        "norm",
        lambda x, p=p: la.vector_norm(x, axis=-1, ord=p),
        lambda x, p=p: nla.vector_norm(x, axis=-1, ord=p),
        real(2, 3),
        note=f"ord{p}-",
    )
for p in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf):
    case(
        "norm",
        lambda x, p=p: la.matrix_norm(x, ord=p, keepdims=True),
        lambda x, p=p: nla.matrix_norm(x, ord=p, keepdims=True),
        tall(2, 3, 2),
        note=f"matrix-{p}-",
    )
case("norm", lambda x: la.norm(x), lambda x: nla.norm(x), real(2, 3), note="all-")
case(
    "norm",
    lambda x: la.norm(x, "nuc", axis=(0, 2), keepdims=True),
    lambda x: nla.norm(x, "nuc", axis=(0, 2), keepdims=True),
    np.swapaxes(tall(2, 3, 2), 0, 1),
    note="axes-",
)

# Products and diagonals

case("diagonal", la.diagonal, lambda x: np.diagonal(x, 0, -2, -1), real(2, 3, 4))
for k in (-2, 1, 3, 5):
    case(
        "diagonal",
        lambda x, k=k: gg.diagonal(x, k),
        lambda x, k=k: np.diagonal(x, k),
        real(3, 4),
        note=f"k{k}-",
    )
    case("diagonal", lambda x, k=k: gg.trace(x, k), lambda x, k=k: np.trace(x, k), real(3, 4, 2),
         note=f"trace{k}-")  # fmt: skip
case("diagonal_matrix", lambda d: ops.diagonal_matrix(d, k=0, shape=(3, 3)), np.diag, real(3))
case(
    "diagonal_matrix",
    lambda d: ops.diagonal_matrix(d, k=-1, shape=(4, 3)),
    lambda d: np.stack([np.diag(row, -1)[:, :3] for row in d]),
    real(2, 3),
    note="k-1-",
)
case("multiply", la.cross, np.cross, real(2, 3), real(3), note="cross-")
case(
    "multiply",
    lambda a, b: la.cross(a, b, axis=0),
    lambda a, b: np.cross(a, b, axis=0),
    real(3, 2),
    real(3, 2),
    note="cross0-",
)
case("multiply", gg.outer, np.outer, real(2, 2), real(3), note="outer-")
for a, b in [((2,), (3,)), ((2, 3), (2, 2)), ((3,), (2, 2)), ((), (2, 2))]:
    case("multiply", gg.kron, np.kron, real(*a), real(*b), note="kron-")
case("multiply", gg.vecdot, np.vecdot, real(2, 3), real(3), note="vecdot-")
case("matmul", gg.vdot, np.vdot, real(2, 3), real(2, 3), note="vdot-")
for a, b in [((3,), (3,)), ((2, 3), (4, 3)), ((), (3,)), ((2, 1, 3), (3,))]:
    case("matmul", gg.inner, np.inner, real(*a), real(*b), note="inner-")
for a, b in [((3,), (3,)), ((2, 3), (3,)), ((2, 3), (3, 2)), ((2, 2, 3), (2, 3, 2)), ((2,), ()),
             ((2, 2, 3), (3,))]:  # fmt: skip
    case("matmul", gg.dot, np.dot, real(*a), real(*b), note="dot-")
for axes in (0, 1, 2, ((0, 1), (1, 0)), ((-1,), (0,)), (1, 0)):
    case(
        "matmul",
        lambda a, b, x=axes: gg.tensordot(a, b, axes=x),
        lambda a, b, x=axes: np.tensordot(a, b, axes=x),
        real(3, 3),
        real(3, 3),
        note=f"tensordot{axes}-".replace(" ", ""),
    )
for spec, *shapes in [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 2)),
    ("ba", (2, 3)),
    ("ij->", (2, 3)),
    ("ii", (3, 3)),
    ("ii->i", (3, 3)),
    ("iij->ji", (2, 2, 3)),
    ("iii->i", (2, 2, 2)),
    ("i,i->i", (3,), (3,)),
    ("i,j->ji", (2,), (3,)),
    ("ij,ij->", (2, 3), (2, 3)),
    ("ij,ik->j", (2, 3), (2, 2)),
    ("bij,bjk->bik", (2, 2, 3), (2, 3, 2)),
    ("...ij,...jk->...ik", (2, 2, 3), (3, 2)),
    ("...i,...i", (2, 3), (1, 3)),
    ("i...->...", (2, 3)),
    ("i...i", (2, 3, 2)),
    ("ij,jk,kl->il", (2, 3), (3, 2), (2, 2)),
    ("ab,bc,cd,ad->", (2, 3), (3, 2), (2, 3), (2, 3)),
    ("ii,i->", (3, 3), (3,)),
    ("ij,j->ij", (2, 3), (1,)),
    (",i->i", (), (3,)),
    ("i,->", (3,), ()),
]:
    case(
        "matmul",
        lambda *xs, s=spec: gg.einsum(s, *xs),
        lambda *xs, s=spec: np.einsum(s, *xs),
        *[real(*shape) for shape in shapes],
        note=f"einsum {spec} ",
    )
case("matmul", lambda x: gg.einsum("ij,ij->i", x, x), lambda x: np.einsum("ij,ij->i", x, x),
     real(2, 3), note="einsum twice ")  # fmt: skip

# Fourier transforms: complex results are seen through their parts


def parts(y: Any, x: Any) -> Any:
    """Real and imaginary part, weighted; in the dtype of x."""
    if not isinstance(x, gg.Tensor):
        return y.real * 0.5 + y.imag
    return (gg.real(y) * 0.5 + gg.imag(y)).astype(x.dtype)


def mixed(x: Any) -> Any:
    """Complex values made of real ones."""
    return x * (1 + 0.5j) + 1j * x * x


for norm in ("backward", "ortho", "forward"):
    for name in ("fft", "ifft", "rfft", "ihfft", "fftn", "ifftn", "rfftn"):
        op = {"rfft": "rfft", "ihfft": "rfft", "rfftn": "rfft"}.get(name, "fft")
        case(
            op,
            lambda x, n=name, m=norm: parts(getattr(gg.fft, n)(x, norm=m), x),
            lambda x, n=name, m=norm: parts(getattr(np.fft, n)(x, norm=m), x),
            real(2, 5 if norm == "ortho" else 4) * 0.3,
            note=f"{name}-{norm}-",
        )
    for name in ("irfft", "hfft", "irfftn"):
        case(
            "irfft",
            lambda x, n=name, m=norm: getattr(gg.fft, n)(mixed(x), norm=m).astype(x.dtype),
            lambda x, n=name, m=norm: getattr(np.fft, n)(mixed(x), norm=m),
            real(2, 3) * 0.3,
            note=f"{name}-{norm}-",
        )
for name, n in [("fft", 3), ("fft", 6), ("rfft", 3), ("rfft", 6), ("ihfft", 3)]:
    case(
        "rfft" if name != "fft" else "fft",
        lambda x, f=name, n=n: parts(getattr(gg.fft, f)(x, n=n, axis=0), x),
        lambda x, f=name, n=n: parts(getattr(np.fft, f)(x, n=n, axis=0), x),
        real(4, 2) * 0.3,
        note=f"{name}{n}-",
    )
for name, n in [("irfft", 5), ("irfft", 8), ("irfft", 1), ("hfft", 3)]:
    case(
        "irfft",
        lambda x, f=name, n=n: getattr(gg.fft, f)(mixed(x), n=n, axis=0).astype(x.dtype),
        lambda x, f=name, n=n: getattr(np.fft, f)(mixed(x), n=n, axis=0),
        real(3, 2) * 0.3,
        note=f"{name}{n}-",
    )
case(
    "fft",
    lambda x: abs(gg.fft.fft(mixed(x))).astype(x.dtype),
    lambda x: abs(np.fft.fft(mixed(x))),
    real(4) * 0.3,
    note="power-",
)
case("roll", gg.fft.fftshift, np.fft.fftshift, real(3, 4), note="fftshift-")
case("roll", lambda x: gg.fft.ifftshift(x, axes=0), lambda x: np.fft.ifftshift(x, 0), real(3, 4),
     note="ifftshift-")  # fmt: skip
