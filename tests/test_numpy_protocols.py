"""Plain NumPy code on tensors: the same function body on arrays and on tensors, value and slope.

Each row of the tables is written with `numpy` alone and knows nothing of gpugrad.
"""

import inspect
import math

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.errors import DtypeError, GradientError
from gpugrad.namespace import numpy as names

rng = np.random.default_rng(11)


def real(*shape):
    return rng.uniform(-2, 2, shape)


def positive(*shape):
    return rng.uniform(0.4, 2.5, shape)


def apart(*shape):
    """Values no two of which are close, so that a small difference changes no order."""
    n = math.prod(shape)
    return (rng.permutation(n) * 0.7 - n / 3 + 0.2).reshape(shape)


def with_nan(*shape):
    x = apart(*shape)
    x.flat[1] = x.flat[4] = np.nan
    return x


METHODS = [
    "linear",
    "lower",
    "higher",
    "nearest",
    "midpoint",
    "hazen",
    "weibull",
    "median_unbiased",
    "normal_unbiased",
    "interpolated_inverted_cdf",
]
MASK = np.array([[True, False, True, True], [False, False, True, False], [True, True, False, True]])
POSITIVE_DEFINITE = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
COLUMN = np.array([[2], [0], [1]])
RISING = np.array([0.1, 1.0, 2.2, 2.9, 4.0])


def halved(row):
    return row[: row.size // 2] * np.sum(row)


# id: (function, arguments); every argument is differentiated, to second order.
SMOOTH = {
    # ufuncs, called
    "sin": (np.sin, real(3, 4)),
    "absolute": (np.absolute, real(4)),
    "arccos": (np.arccos, rng.uniform(-0.8, 0.8, 4)),
    "arcsin": (np.arcsin, rng.uniform(-0.8, 0.8, 4)),
    "arctan": (np.arctan, real(4)),
    "arccosh": (np.arccosh, positive(4) + 1),
    "arcsinh": (np.arcsinh, real(4)),
    "arctanh": (np.arctanh, rng.uniform(-0.8, 0.8, 4)),
    "arctan2": (np.arctan2, positive(4), positive(4)),
    "cbrt": (np.cbrt, np.array([-8.0, -0.3, 0.2, 27.0, 64.0, 1e9])),
    "ceil": (np.ceil, real(4)),
    "conjugate": (np.conjugate, real(4)),
    "copysign": (np.copysign, real(4), real(4)),
    "deg2rad": (np.deg2rad, 90 * real(4)),
    "degrees": (np.degrees, real(4)),
    "divide": (np.divide, real(3, 4), positive(4)),
    "divmod": (np.divmod, real(4), positive(4)),
    "exp": (np.exp, real(4)),
    "exp2": (np.exp2, real(4)),
    "expm1": (np.expm1, real(4)),
    "fabs": (np.fabs, real(4)),
    "float_power": (np.float_power, positive(4), real(4)),
    "floor": (np.floor, real(4)),
    "fmax": (np.fmax, apart(4), real(4)),
    "fmin": (np.fmin, apart(4), real(4)),
    "fmod": (np.fmod, np.array([-7.3, 7.3, -2.2, 0.4]), np.array([2.0, -2.0, -1.5, 3.0])),
    "heaviside": (lambda x: np.heaviside(x, 0.5), real(4)),
    "hypot": (np.hypot, positive(4), positive(4)),
    "log": (np.log, positive(4)),
    "log10": (np.log10, positive(4)),
    "log1p": (np.log1p, positive(4)),
    "log2": (np.log2, positive(4)),
    "logaddexp": (np.logaddexp, real(4), real(4)),
    "logaddexp2": (np.logaddexp2, real(4), real(4)),
    "matmul": (np.matmul, real(3, 4), real(4)),
    "maximum": (np.maximum, apart(4), real(4)),
    "mod": (np.mod, real(4), positive(4)),
    "modf": (np.modf, real(4)),
    "multiply": (np.multiply, real(3, 1), real(4)),
    "negative": (np.negative, real(4)),
    "positive": (np.positive, real(4)),
    "power": (np.power, positive(4), real(4)),
    "rad2deg": (np.rad2deg, real(4)),
    "radians": (np.radians, 90 * real(4)),
    "reciprocal": (np.reciprocal, positive(4)),
    "rint": (np.rint, real(4)),
    "sign": (np.sign, real(4)),
    "sqrt": (np.sqrt, positive(4)),
    "square": (np.square, real(4)),
    "subtract": (np.subtract, real(4), real(4)),
    "tanh": (np.tanh, real(4)),
    "true_divide": (np.true_divide, real(4), positive(4)),
    "trunc": (np.trunc, real(4)),
    "vecdot": (lambda a, b: np.vecdot(a, b), real(3, 4), real(4)),
    "vecdot axis": (lambda a, b: np.vecdot(a, b, axis=0), real(3, 2), real(3, 2)),
    "index of tuples": (lambda x: x[(0, 1, 0), (3, 3, 2)], real(2, 4)),
    "array on the left": (lambda x: np.ones((2, 4)) * x - np.float64(2.5) / (x * x), positive(4)),
    "list operand": (lambda x: np.add(x, [0.1, 0.2, 0.3]) * [1, 2, 3], real(3)),
    "dtype": (lambda x: np.sin(x, dtype=np.float64), real(4)),
    "neutral options": (lambda x: np.sin(x, where=True, casting="same_kind"), real(4)),
    # ufuncs, by their methods
    "add.reduce": (np.add.reduce, real(3, 4)),
    "add.reduce all": (lambda x: np.add.reduce(x, None, None, None, True), real(3, 4)),
    "multiply.reduce": (lambda x: np.multiply.reduce(x, axis=1), real(3, 4)),
    "maximum.reduce": (np.maximum.reduce, apart(3, 4)),
    "minimum.reduce": (lambda x: np.minimum.reduce(x, axis=(0, 1)), apart(3, 4)),
    "logaddexp.reduce": (np.logaddexp.reduce, real(3, 4)),
    "add.accumulate": (lambda x: np.add.accumulate(x, 1), real(3, 4)),
    "multiply.accumulate": (np.multiply.accumulate, real(4)),
    "add.outer": (np.add.outer, real(2, 3), real(4)),
    "multiply.outer": (np.multiply.outer, real(3), real(4)),
    "subtract.outer array": (lambda x: np.subtract.outer(np.arange(3.0), x), real(4)),
    "arctan2.outer": (np.arctan2.outer, positive(2), positive(3)),
    # reductions
    "sum": (np.sum, real(3, 4)),
    "sum axis": (lambda x: np.sum(x, 1), real(3, 4)),
    "sum keywords": (lambda x: np.sum(a=x, axis=(0, 1), keepdims=True, out=None), real(3, 4)),
    "sum dtype": (lambda x: np.sum(x, 0, np.float64), real(3, 4)),
    "prod": (lambda x: np.prod(x, axis=0), real(3, 4)),
    "mean": (lambda x: np.mean(x, 0), real(3, 4)),
    "average": (np.average, real(3, 4)),
    "average weights": (lambda x, w: np.average(x, 1, w), real(3, 4), positive(4)),
    "average full": (lambda x, w: np.average(x, weights=w), real(3, 4), positive(3, 4)),
    "average returned": (
        lambda x, w: np.average(x, axis=(1, 0), weights=w, returned=True),
        real(3, 4),
        positive(4, 3),
    ),
    "max": (lambda x: np.max(x, 1), apart(3, 4)),
    "amin": (lambda x: np.amin(x, axis=0, keepdims=True), apart(3, 4)),
    "ptp": (lambda x: np.ptp(x, 1), apart(3, 4)),
    "var": (lambda x: np.var(x, 0, ddof=1), real(3, 4)),
    "std": (lambda x: np.std(x, axis=1, keepdims=True), real(3, 4)),
    "std correction": (lambda x: np.std(x, axis=1, correction=1), real(3, 4)),
    "cumsum": (np.cumsum, real(3, 4)),
    "cumsum axis": (lambda x: np.cumsum(x, 1), real(3, 4)),
    "cumprod": (lambda x: np.cumprod(x, axis=0), real(3, 4)),
    "cumulative_sum": (lambda x: np.cumulative_sum(x, axis=1, include_initial=True), real(3, 4)),
    "nansum": (np.nansum, real(3, 4)),
    "nanmean": (lambda x: np.nanmean(x, 0), real(3, 4)),
    "nanvar": (lambda x: np.nanvar(x, axis=1, ddof=1), real(3, 4)),
    "nanstd": (lambda x: np.nanstd(x, 0, keepdims=True), real(3, 4)),
    "nanmax": (lambda x: np.nanmax(x, axis=1), apart(3, 4)),
    "nanmin": (np.nanmin, apart(3, 4)),
    # order statistics
    "median": (np.median, apart(3, 4)),
    "median axis": (lambda x: np.median(x, 0, keepdims=True), apart(3, 4)),
    "median axes": (lambda x: np.median(x, axis=(0, 2)), apart(2, 3, 2)),
    "percentile": (lambda x: np.percentile(x, 30, 1), apart(3, 4)),
    "percentile many": (lambda x: np.percentile(x, [[10, 90], [50, 77]], axis=0), apart(5, 2)),
    "quantile keepdims": (lambda x: np.quantile(x, [0.2, 1], (0, 1), keepdims=True), apart(3, 4)),
    **{
        f"quantile {method}": (lambda x, m=method: np.quantile(x, [0.05, 0.4], method=m), apart(7))
        for method in METHODS
    },
    "sort": (np.sort, apart(3, 4)),
    "sort flat": (lambda x: np.sort(x, axis=None, kind="stable"), apart(3, 4)),
    # differences, integrals, curves, signals
    "diff": (lambda x: np.diff(x, 2, 0), real(4, 3)),
    "ediff1d": (lambda x: np.ediff1d(x, [9.0], to_begin=0.1), real(2, 3)),
    "trapezoid": (lambda y: np.trapezoid(y, dx=0.1), real(3, 4)),
    "trapezoid x": (lambda y, x: np.trapezoid(y, x, axis=0), real(4, 2), positive(4).cumsum()),
    "trapezoid x middle": (lambda y, x: np.trapezoid(y, x, axis=1), real(2, 4, 3), real(4)),
    "trapezoid xy": (np.trapezoid, real(3, 4), real(3, 4)),
    "gradient": (np.gradient, real(5)),
    "gradient spacing": (lambda f: np.gradient(f, 0.5, edge_order=2), real(5)),
    "gradient axes": (lambda f: np.gradient(f, 0.5, 2.0), real(3, 4)),
    "gradient places": (lambda f, x: np.gradient(f, x, axis=1), real(3, 5), RISING),
    "gradient places 2": (lambda f, x: np.gradient(f, x, edge_order=2), real(5), RISING),
    "interp": (np.interp, np.array([-1.0, 1.3, 1.7, 2.5, 9.0]), RISING, real(5)),
    "interp ends": (
        lambda f: np.interp([[-0.1, 0.7], [1.1, 3.0]], [0.1, 1, 2], f, left=-3, right=7.5),
        real(3),
    ),
    "interp one": (lambda x, f: np.interp(x, [1.0], f), real(3), real(1)),
    **{
        f"{f.__name__} {mode}{n}{m}": (lambda a, v, f=f, mode=mode: f(a, v, mode), real(n), real(m))
        for f in (np.convolve, np.correlate)
        for mode in ("full", "same", "valid")
        for n, m in [(5, 3), (3, 5), (4, 4), (6, 2), (2, 6), (3, 4), (1, 3)]
    },
    "pad": (lambda x: np.pad(x, 1), real(3, 4)),
    "pad constant": (
        lambda x: np.pad(x, ((1, 0), (2, 3)), "constant", constant_values=((1, 2), (0.1, 4))),
        real(3, 4),
    ),
    **{f"pad {m}": (lambda x, m=m: np.pad(x, ((1, 2), (4, 0)), mode=m), real(3, 4))
       for m in ("edge", "reflect", "symmetric", "wrap")},
    "polyval": (np.polyval, real(4), real(2, 3)),
    "vander": (np.vander, real(4)),
    "vander increasing": (lambda x: np.vander(x, 3, increasing=True), real(4)),
    "cross": (np.cross, real(2, 3), real(3)),
    "cross axis": (lambda a, b: np.cross(a, b, axis=0), real(3, 2), real(3, 2)),
    "cross axes": (lambda a, b: np.cross(a, b, axisa=0, axisc=0), real(3, 2), real(2, 3)),
    "sinc": (np.sinc, np.array([-1.3, -0.05, 0.1, 0.159, 0.16, 2.5])),
    "nan_to_num": (np.nan_to_num, real(3)),
    "around": (lambda x: np.around(x, 1), real(4)),
    "round": (lambda x: np.round(100 * x, decimals=-1), real(4)),
    "fix": (np.fix, real(4)),
    "clip": (lambda x: np.clip(x, -0.5, 0.5), real(4)),
    "clip names": (lambda x: np.clip(x, min=-0.5, max=None), real(4)),
    "clip a_max": (lambda x: np.clip(x, a_min=None, a_max=np.array([0.1, 0.2, 0.3])), real(3)),
    "real": (np.real, real(4)),
    # joining and splitting
    "concatenate": (lambda a, b: np.concatenate([a, b], 1), real(2, 3), real(2, 1)),
    "concatenate flat": (lambda a, b: np.concatenate((a, b), axis=None), real(2, 3), real(2)),
    "concatenate list": (lambda a: np.concatenate([[0.1], a, np.ones(2)], axis=0), real(3)),
    "stack": (lambda a, b: np.stack([a, b, np.ones(3)], axis=1), real(3), real(3)),
    "stack numbers": (lambda a: np.stack([a[0], 0.1, a[1]]), real(3)),
    "hstack": (lambda a: np.hstack([a, [0.1, 0.2], a]), real(3)),
    "hstack matrix": (lambda a, b: np.hstack((a, b)), real(2, 3), real(2, 1)),
    "vstack": (lambda a, b: np.vstack([a, b]), real(3), real(2, 3)),
    "dstack": (lambda a, b: np.dstack([a, b]), real(3), real(1, 3)),
    "column_stack": (lambda a, b: np.column_stack([a, b]), real(3), real(3, 2)),
    "append": (lambda a: np.append(a, 0.1), real(2, 3)),
    "append axis": (lambda a, b: np.append(a, b, axis=0), real(2, 3), real(1, 3)),
    "split": (lambda a: np.split(a, 2, axis=1), real(3, 4)),
    "split at": (lambda a: np.split(a, [1, 3]), real(5)),
    "array_split": (lambda a: np.array_split(a, 3), real(7)),
    "hsplit": (lambda a: np.hsplit(a, 2), real(3, 4)),
    "vsplit": (lambda a: np.vsplit(a, [1]), real(3, 4)),
    "dsplit": (lambda a: np.dsplit(a, 2), real(1, 2, 4)),
    "unstack": (lambda a: np.unstack(a, axis=1), real(2, 3)),
    "array like": (lambda a: np.array([[a[0], 0.1], [1, a[1] * a[0]]], like=a), real(2)),
    "full_like": (lambda a: np.full_like(a, a[0]) * np.full_like(a, 0.1), real(3)),
    "full like": (lambda a: np.full((2, 3), a, like=a), real(3)),
    # shape and places
    "atleast_1d": (lambda a, b: np.atleast_1d(a, b), real(), real(2)),
    "atleast_2d": (np.atleast_2d, real(3)),
    "atleast_3d": (lambda a, b: np.atleast_3d(a, b), real(3), real(2, 3)),
    "reshape": (lambda a: np.reshape(a, (2, -1)), real(3, 4)),
    "reshape keyword": (lambda a: np.reshape(a, shape=(6, 2), order="C"), real(3, 4)),
    "ravel": (np.ravel, real(3, 4)),
    "transpose": (np.transpose, real(2, 3, 4)),
    "transpose axes": (lambda a: np.transpose(a, [1, 2, 0]), real(2, 3, 4)),
    "permute_dims": (lambda a: np.permute_dims(a, axes=(1, 0, 2)), real(2, 3, 4)),
    "matrix_transpose": (np.matrix_transpose, real(2, 3, 4)),
    "swapaxes": (lambda a: np.swapaxes(a, 0, -1), real(2, 3, 4)),
    "moveaxis": (lambda a: np.moveaxis(a, [0, 1], [-1, 0]), real(2, 3, 4)),
    "rollaxis": (lambda a: np.rollaxis(a, 2), real(2, 3, 4)),
    "rollaxis start": (lambda a: np.rollaxis(a, 0, 3), real(2, 3, 4)),
    "expand_dims": (lambda a: np.expand_dims(a, (0, 2)), real(3)),
    "squeeze": (np.squeeze, real(1, 3, 1)),
    "squeeze axis": (lambda a: np.squeeze(a, axis=0), real(1, 3, 1)),
    "broadcast_to": (lambda a: np.broadcast_to(a, (2, 3)), real(3)),
    "broadcast_arrays": (lambda a, b: np.broadcast_arrays(a, b), real(3), real(2, 1)),
    "meshgrid": (lambda a, b: np.meshgrid(a, b, indexing="ij"), real(3), real(2)),
    "flip": (lambda a: np.flip(a, 0), real(3, 4)),
    "flipud": (np.flipud, real(3, 4)),
    "fliplr": (np.fliplr, real(3, 4)),
    **{f"rot90 {k}": (lambda a, k=k: np.rot90(a, k), real(3, 4)) for k in (-1, 0, 1, 2)},
    "rot90 axes": (lambda a: np.rot90(a, 1, (2, 1)), real(2, 3, 4)),
    "roll": (lambda a: np.roll(a, (1, 2), (0, 1)), real(3, 4)),
    "tile": (lambda a: np.tile(a, (2, 3)), real(2)),
    "repeat": (lambda a: np.repeat(a, 2, axis=0), real(2, 2)),
    "take": (lambda a: np.take(a, [[0, 5], [7, 0]]), real(3, 4)),
    "take axis": (lambda a: np.take(a, [2, 0], axis=1), real(3, 4)),
    "take_along_axis": (lambda a: np.take_along_axis(a, COLUMN, axis=1), real(3, 4)),
    "compress": (lambda a: np.compress([True, False, True], a, axis=1), real(3, 4)),
    "delete": (lambda a: np.delete(a, [0, 2], axis=1), real(3, 4)),
    "delete slice": (lambda a: np.delete(a, slice(1, 3)), real(3, 4)),
    "where": (lambda a, b: np.where(MASK, a, b), real(3, 4), real(4)),
    "where number": (lambda a: np.where(MASK, a, 0.1), real(3, 4)),
    "select": (lambda a: np.select([MASK, ~MASK[:, ::-1]], [a, a * a], 0.1), real(3, 4)),
    "diag": (np.diag, real(3)),
    "diag k": (lambda a: np.diag(a, -1), real(3)),
    "diag of": (lambda a: np.diag(a, 2), real(3, 5)),
    "tril": (lambda a: np.tril(a, -1), real(3, 4)),
    "triu": (lambda a: np.triu(a, k=1), real(3, 4)),
    "apply_along_axis": (lambda a: np.apply_along_axis(halved, 1, a), real(2, 4, 2)),
    "apply_along_axis number": (lambda a: np.apply_along_axis(np.sum, 0, a), real(2, 3)),
    "copy": (np.copy, real(3)),
    "bincount": (lambda w: np.bincount([0, 3, 3, 1], w, 6), real(4)),
    "bincount weights": (lambda w: np.bincount([0, 3, 3, 1], weights=w), real(4)),
    "linspace": (lambda a, b: np.linspace(a, b, 5), real(), real(2)),
    "linspace half": (lambda a: np.linspace(0.1, a, num=4, endpoint=False, axis=1), real(3)),
    "logspace": (lambda a, b: np.logspace(a, b, 4, base=2.0), real(), real()),
    "geomspace": (lambda a, b: np.geomspace(a, b, num=5), positive(), positive()),
    # statistics of matrices, products
    "cov": (np.cov, real(3, 5)),
    "cov vector": (np.cov, real(5)),
    "cov two": (lambda x, y: np.cov(x, y, bias=True), real(5), real(5)),
    "cov columns": (lambda x: np.cov(x, rowvar=False, ddof=0), real(5, 3)),
    "corrcoef": (np.corrcoef, real(3, 5)),
    "corrcoef two": (lambda x, y: np.corrcoef(x, y), real(5), real(5)),
    "dot": (np.dot, real(2, 3, 4), real(2, 4, 3)),
    "inner": (np.inner, real(2, 3), real(4, 3)),
    "outer": (np.outer, real(3), real(4)),
    "vdot": (np.vdot, real(2, 3), real(2, 3)),
    "kron": (np.kron, real(2, 2), real(2, 3)),
    "tensordot": (lambda a, b: np.tensordot(a, b, axes=([0], [1])), real(3, 2), real(4, 3)),
    "tensordot number": (lambda a, b: np.tensordot(a, b, 1), real(2, 3), real(3, 2)),
    "einsum": (lambda a, b: np.einsum("ij,jk->ki", a, b, optimize=True), real(2, 3), real(3, 2)),
    "trace": (np.trace, real(3, 3)),
    "diagonal": (lambda a: np.diagonal(a, 1), real(3, 4)),
    # linalg and fft
    "linalg.norm": (np.linalg.norm, real(3, 4)),
    "linalg.norm axis": (lambda x: np.linalg.norm(x, axis=1, keepdims=True), real(3, 4)),
    "linalg.norm 1": (lambda x: np.linalg.norm(x, 1), real(4)),
    "linalg.norm fro": (lambda x: np.linalg.norm(x, "fro", axis=(1, 2)), real(2, 3, 4)),
    "linalg.det": (np.linalg.det, real(3, 3)),
    "linalg.slogdet": (lambda x: np.linalg.slogdet(x)[1], POSITIVE_DEFINITE),
    "linalg.inv": (np.linalg.inv, POSITIVE_DEFINITE),
    "linalg.solve": (np.linalg.solve, POSITIVE_DEFINITE, real(3)),
    "linalg.cholesky": (lambda x: np.linalg.cholesky((x + x.T) / 2), POSITIVE_DEFINITE),
    "linalg.eigh": (lambda x: np.linalg.eigh((x + x.T) / 2)[0], POSITIVE_DEFINITE),
    "linalg.eigvalsh": (lambda x: np.linalg.eigvalsh((x + x.T) / 2), POSITIVE_DEFINITE),
    "linalg.svd": (lambda x: np.linalg.svd(x, full_matrices=False).S, real(3, 4)),
    "linalg.svd values": (lambda x: np.linalg.svd(x, compute_uv=False), real(3, 4)),
    "linalg.qr": (lambda x: abs(np.linalg.qr(x)[1]), real(4, 3)),
    "linalg.pinv": (np.linalg.pinv, real(4, 3)),
    "linalg.matrix_power": (lambda x: np.linalg.matrix_power(x, 3), real(3, 3)),
    "linalg.diagonal": (lambda x: np.linalg.diagonal(x, offset=1), real(2, 3, 4)),
    "linalg.lstsq": (lambda a, b: np.linalg.lstsq(a, b)[0], real(5, 3), real(5)),
    "linalg.matmul": (np.linalg.matmul, real(2, 3), real(3)),
    "linalg.matrix_norm": (lambda x: np.linalg.matrix_norm(x, keepdims=True), real(2, 3, 4)),
    "linalg.matrix_transpose": (np.linalg.matrix_transpose, real(2, 3, 4)),
    "linalg.multi_dot": (lambda a, b: np.linalg.multi_dot([a, b, a]), real(2, 3), real(3, 2)),
    "linalg.multi_dot vectors": (
        lambda a, b, c: np.linalg.multi_dot([a, b, b.T, c]),
        *(real(3), real(3, 2), real(3)),
    ),
    "linalg.cond": (np.linalg.cond, POSITIVE_DEFINITE),
    "linalg.cond -2": (lambda x: np.linalg.cond(x, -2), real(3, 4)),
    "linalg.cond 1": (lambda x: np.linalg.cond(x, 1), POSITIVE_DEFINITE),
    "linalg.eigh upper": (
        lambda x: np.abs(np.linalg.eigh(np.triu(x) + np.triu(x, 1).T, "U")[1]),
        POSITIVE_DEFINITE,
    ),
    "linalg.eigvalsh upper": (
        lambda x: np.linalg.eigvalsh(np.triu(x) + np.triu(x, 1).T, UPLO="U"),
        POSITIVE_DEFINITE,
    ),
    "linalg.norm nuc axis": (lambda x: np.linalg.norm(x, "nuc", axis=(0, 1)), real(3, 4, 2)),
    "linalg.norm axis swapped": (
        lambda x: np.linalg.norm(x, 1, axis=(2, 0), keepdims=True),
        apart(3, 2, 4),
    ),
    "linalg.tensorinv": (
        lambda x: np.linalg.tensorinv(np.reshape(x, (4, 2, 2)), ind=1),
        real(4, 4) + 3 * np.eye(4),
    ),
    "linalg.tensorsolve": (
        lambda a, b: np.linalg.tensorsolve(np.reshape(a, (2, 2, 4)), b),
        *(real(4, 4) + 3 * np.eye(4), real(2, 2)),
    ),
    "linalg.tensorsolve axes": (
        lambda a, b: np.linalg.tensorsolve(np.reshape(a, (2, 4, 2)), b, axes=(1,)),
        *(real(4, 4) + 3 * np.eye(4), real(2, 2)),
    ),
    "linalg.norm nuc": (lambda x: np.linalg.norm(x, "nuc"), real(3, 4)),
    "linalg.norm 2": (lambda x: np.linalg.norm(x, 2), real(3, 4)),
    "linalg.norm inf": (lambda x: np.linalg.norm(x, np.inf, axis=0), apart(3, 4)),
    "linalg.outer": (np.linalg.outer, real(2), real(3)),
    "linalg.svdvals": (np.linalg.svdvals, real(3, 4)),
    "linalg.tensordot": (lambda a, b: np.linalg.tensordot(a, b, axes=1), real(2, 3), real(3, 2)),
    "linalg.trace": (lambda x: np.linalg.trace(x, offset=1), real(2, 3, 3)),
    "linalg.vecdot": (np.linalg.vecdot, real(2, 3), real(3)),
    "linalg.vector_norm": (lambda x: np.linalg.vector_norm(x, axis=1, ord=3), real(3, 4)),
    "linalg.cross": (np.linalg.cross, real(2, 3), real(2, 3)),
    "fft.fft": (lambda x: np.abs(np.fft.fft(x, axis=0)) ** 2, real(5, 2)),
    "fft.fftn": (lambda x: np.abs(np.fft.fftn(x, axes=(0, 1))) ** 2, real(3, 2)),
    "fft.fft2": (lambda x: np.real(np.fft.ifft2(np.fft.fft2(x) ** 2)), real(3, 4)),
    "fft.fft2 axes": (lambda x: np.abs(np.fft.fft2(x, (2, 5), (0, 2))), real(3, 2, 4)),
    "fft.rfft2": (lambda x: np.fft.irfft2(np.fft.rfft2(x, norm="ortho"), s=(3, 4)), real(3, 4)),
    "fft.rfftn": (lambda x: np.imag(np.fft.rfftn(x)) + np.real(np.fft.rfftn(x)), real(3, 4)),
    "fft.ifft": (lambda x: np.real(np.fft.ifft(x, n=3)), real(4)),
    "fft.hfft": (lambda x: np.fft.hfft(x, 5), real(3)),
    "fft.fftshift": (lambda x: np.fft.ifftshift(np.fft.fftshift(x, axes=0) * x), real(3, 4)),
    "fft.rfft": (lambda x: np.fft.irfft(np.fft.rfft(x) * np.array([1.0, 0.5, 0.1]), n=5), real(5)),
}  # fmt: skip

if np.lib.NumpyVersion(np.__version__) < "2.1.0":
    for name in ("clip names", "cumulative_sum", "reshape keyword", "unstack"):
        del SMOOTH[name]

# Integers, booleans and Python's own truth: no derivative, and none is lost.
WITHOUT_DERIVATIVE = {
    "allclose": lambda x: np.allclose(x, x * 1.0000001),
    "all": lambda x: np.all(x > 0, axis=1),
    "any": lambda x: np.any(x > 0, 0),
    "argmax": lambda x: np.argmax(x, 1),
    "argmin": lambda x: np.argmin(x, keepdims=True),
    "argsort": lambda x: np.argsort(x, axis=None),
    "argwhere": lambda x: np.argwhere(x > 0),
    "array_equal": lambda x: np.array_equal(x, x * 1),
    "array_equal nan": lambda x: np.array_equal(x / 0 * 0, x / 0 * 0, equal_nan=True),
    "bincount": lambda x: np.bincount(np.argmax(x, axis=0)),
    "count_nonzero": lambda x: np.count_nonzero(x > 0, axis=0),
    "digitize": lambda x: np.digitize(x, [-1.0, 0.1, 1.0]),
    "digitize falling": lambda x: np.digitize(x, [1.0, 0.1, -1.0], right=True),
    "flatnonzero": lambda x: np.flatnonzero(x > 0),
    "isclose": lambda x: np.isclose(x, [[0.2, 0.9, 1.6, 2.3]], rtol=0, atol=1),
    "iscomplexobj": np.iscomplexobj,
    "isfinite": np.isfinite,
    "isin": lambda x: np.isin(x, [x.tolist()[0][1], 0.1], assume_unique=True),
    "logical_and.reduce": lambda x: np.logical_and.reduce(x > 0),
    "ndim": np.ndim,
    "nonzero": lambda x: np.nonzero(x > 0),
    "result_type": lambda x: np.result_type(x, np.float32),
    "searchsorted": lambda x: np.searchsorted([-1.0, 0.1, 2], x[0], "right"),
    "shape": np.shape,
    "signbit": np.signbit,
    "size": lambda x: np.size(x, 1),
    "size keyword": lambda x: np.size(a=x),
    "tril_indices_from": np.tril_indices_from,
    "unique": lambda x: np.unique(np.sign(x), return_index=True, return_counts=True),
    "unique one": lambda x: np.unique(x > 0),
    "can_cast": lambda x: np.can_cast(x, np.float32),
    "linalg.matrix_rank": np.linalg.matrix_rank,
    "where": lambda x: np.where(x > 0),
    "zeros_like": lambda x: np.zeros_like(x, dtype=np.float32),
    "ones_like": np.ones_like,
    "zeros": lambda x: np.zeros((2, 3), like=x),
}


def parts(y):
    return list(y) if isinstance(y, (tuple, list)) else [y]


def joined(*ys):
    """All values of all outputs in one vector, whose derivative says everything."""
    return np.concatenate([np.ravel(part) for y in ys for part in parts(y)])


# Written with NumPy arrays beside the argument, which stay where they are.
ON_THE_HOST = {
    "array on the left", "clip a_max", "concatenate list", "fft.rfft", "select", "stack",
    "subtract.outer array", "where", "where number",
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_value(name, device):
    if device != "cpu" and name in ON_THE_HOST:
        pytest.skip("takes NumPy arrays too")
    f, *args = SMOOTH[name]
    want = f(*args)
    for tracked in (False, True):
        got = f(*[gg.asarray(x, device=device, requires_grad=tracked) for x in args])
        assert len(parts(got)) == len(parts(want))
        for y, z in zip(parts(got), parts(want), strict=True):
            assert isinstance(y, gg.Tensor)
            assert (y.dtype, y.shape, y.device) == (np.asarray(z).dtype, np.shape(z), device)
            np.testing.assert_allclose(y.detach().to("cpu").numpy(), z, rtol=1e-12, atol=1e-14)
        assert any(y.requires_grad for y in parts(got)) == tracked


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives(name):
    f, *args = SMOOTH[name]
    gg.testing.gradcheck(lambda *xs: joined(f(*xs)) * 1.0, args, rtol=2e-4, atol=2e-5)


# What is written with float64 arrays beside the argument, or asks for float64.
WIDENS = {
    "array on the left", "clip a_max", "concatenate list", "dtype", "fft.rfft", "float_power",
    "list operand", "stack", "subtract.outer array", "sum dtype",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in SMOOTH if name not in WIDENS])
def test_float32_stays(name):
    f, *args = SMOOTH[name]
    for y in parts(f(*[gg.asarray(x.astype(np.float32)) for x in args])):
        assert y.dtype == np.float32


@pytest.mark.parametrize("name", WITHOUT_DERIVATIVE)
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value)")
def test_without_derivative(name):
    f = WITHOUT_DERIVATIVE[name]
    a = apart(3, 4)
    want = f(a)
    for tracked in (False, True):
        got = f(gg.asarray(a, requires_grad=tracked))
        for y, z in zip(parts(got), parts(want), strict=True):
            assert not getattr(y, "requires_grad", False)
            assert isinstance(y, gg.Tensor) or type(y) is type(z)
            assert np.asarray(y).dtype == np.asarray(z).dtype
            np.testing.assert_array_equal(y, z)


# Where NumPy's values are special


@pytest.mark.parametrize("name", ["nansum", "nanmean", "nanvar", "nanstd", "nanmax", "nanmin"])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_nan_functions_pass_over_nan(name, axis):
    f = getattr(np, name)
    x = with_nan(3, 4)
    y, pullback = gg.vjp(lambda t: f(t, axis=axis), x)
    np.testing.assert_allclose(y, f(x, axis=axis), rtol=1e-12)
    (g,) = pullback(np.ones_like(y))
    assert (g[np.isnan(x)] == 0).all()
    rest = np.flatnonzero(~np.isnan(x))

    def of_the_rest(t):
        filled = np.full_like(x, np.nan)
        filled.flat[rest] = t if isinstance(t, np.ndarray) else 0
        full = np.where(np.isnan(x), x, 0.0) + np.reshape(np.bincount(rest, t, x.size), x.shape)
        return f(full, axis=axis)

    gg.testing.gradcheck(of_the_rest, [x.flat[rest]])


@pytest.mark.filterwarnings("ignore:(All-NaN|Mean of empty|Degrees of freedom)")
@pytest.mark.parametrize("name", ["nansum", "nanmean", "nanvar", "nanstd", "nanmax", "nanmin"])
def test_nan_functions_of_nothing_else(name):
    x = np.array([[np.nan, np.nan], [1.0, 2.0]])
    got = getattr(np, name)(gg.asarray(x), axis=1)
    np.testing.assert_array_equal(got, getattr(np, name)(x, axis=1))


def test_nan_wins_in_order_statistics():
    x = with_nan(3, 4)
    for f in (np.median, lambda t, axis: np.percentile(t, [20, 60], axis=axis)):
        np.testing.assert_allclose(f(gg.asarray(x), axis=1), f(x, axis=1), rtol=1e-12)


def test_median_follows_the_middle_values():
    x = np.array([5.0, 1.0, 3.0, 9.0])
    assert gg.grad(np.median)(x).tolist() == [0.5, 0, 0.5, 0]
    assert gg.grad(np.median)(x[:3]).tolist() == [0, 0, 1]
    assert gg.grad(lambda t: np.percentile(t, 25))(x).tolist() == [0, 0.25, 0.75, 0]
    ties = gg.grad(np.median)(np.array([2.0, 2.0, 2.0]))
    assert sorted(ties.tolist()) == [0, 0, 1]


def test_ptp_shares_ties():
    assert gg.grad(np.ptp)(np.array([1.0, 3.0, 3.0, 1.0])).tolist() == [-0.5, 0.5, 0.5, -0.5]


def test_nan_to_num_has_no_slope_where_it_replaces():
    x = np.array([1.0, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(np.nan_to_num(gg.asarray(x)), np.nan_to_num(x))
    want = np.nan_to_num(x, nan=7, posinf=8, neginf=9)
    np.testing.assert_array_equal(np.nan_to_num(gg.asarray(x), nan=7, posinf=8, neginf=9), want)
    g = gg.grad(lambda t: np.sum(np.nan_to_num(t, posinf=1.0, neginf=1.0)))(x)
    assert g.tolist() == [1, 0, 0, 0]


def test_elementwise_extremes():
    x = np.array([-np.inf, -1.5, -0.0, 0.0, 2.0, np.inf, np.nan])
    for f in (np.cbrt, np.exp2, np.fabs, np.sinc, np.rad2deg):
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(f(gg.asarray(x)), f(x), rtol=1e-15)
    with np.errstate(invalid="ignore"):
        for f in (np.fmax, np.fmin, np.fmod, np.logaddexp2, np.heaviside, np.copysign):
            got = f.outer(gg.asarray(x), gg.asarray(x))
            np.testing.assert_allclose(got, f.outer(x, x), rtol=1e-12, err_msg=f.__name__)
        for got, want in zip(np.modf(gg.asarray(x)), np.modf(x), strict=True):
            np.testing.assert_array_equal(got, want)


def test_slopes_at_zero():
    assert gg.grad(np.cbrt)(0.0) == 0
    assert gg.grad(np.sinc)(0.0) == 0
    assert gg.grad(gg.grad(np.sinc))(0.0) == pytest.approx(-(math.pi**2) / 3, rel=1e-14)
    assert gg.grad(lambda x: np.fmod(x, 2.0))(0.0) == 1


def test_interp_outside_and_at_its_corners():
    xp, fp = np.array([0.0, 1.0, 1.0, 3.0]), np.array([0.0, 5.0, 7.0, 1.0])
    x = np.array([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, np.nan])
    np.testing.assert_allclose(np.interp(gg.asarray(x), xp, fp), np.interp(x, xp, fp))
    g = gg.grad(lambda t: np.sum(np.interp(t, xp[[0, 2, 3]], fp[[0, 2, 3]])))(x[:-1])
    assert g.tolist() == [0, 7, -3, -3, -3, 0]


def test_split_refuses_what_does_not_divide():
    with pytest.raises(ValueError, match="equally long"):
        np.split(gg.zeros(5), 2)


# What lists and numbers written in Python count as


def test_floats_in_lists_are_exact_beside_float64():
    t = gg.asarray(np.array([0.1, 0.2]))
    for y in (np.concatenate([[0.1], t]), np.stack([t, [0.1, 0.3]])[1], np.add([0.1, 0.1], t * 0)):
        assert y.dtype == np.float64
        assert y.tolist()[0] == 0.1
    assert np.searchsorted(t, 0.1).item() == 0
    assert np.full_like(t, 0.1).tolist() == [0.1, 0.1]
    assert np.isin(t, 0.1).tolist() == [True, False]
    assert gg.hstack([t, 0.1]).tolist() == [0.1, 0.2, 0.1]


def test_numpys_own_numbers_are_not_weak():
    t = gg.asarray([0.5, 1.5])
    assert np.where(t > 1, t, np.float64(0.1)).tolist() == [0.1, 1.5]


def test_numbers_are_weak_beside_float32():
    t = gg.asarray([0.5, 1.5])
    made = [
        np.fmod(t, 2),
        gg.append(t, 1),
        np.concatenate([t, [0.1]]),
        gg.fmax(t, 0.1),
        np.trapezoid(t, dx=0.1),
        np.interp(t, [0.0, 2.0], [0.0, 1]),
        gg.polyval([1, 2], t),
    ]
    assert {y.dtype.name for y in made} == {"float32"}


def test_integers_count_as_float64_where_numpy_divides():
    a = np.array([[1, 2], [4, 9]])
    for f in (np.mean, np.median, np.std, np.var, np.average, np.nanmean, np.cov, np.cbrt, np.exp2,
              lambda x: np.percentile(x, 30), np.gradient, np.deg2rad, np.fabs):  # fmt: skip
        for got, want in zip(parts(f(gg.asarray(a))), parts(f(a)), strict=True):
            assert got.dtype == np.float64
            np.testing.assert_allclose(got, want, rtol=1e-14)


def test_integers_stay_integers():
    a = np.array([3, 1, 2])
    for f in (np.cumsum, np.ptp, np.sort, lambda x: np.convolve(x, x), lambda x: np.pad(x, 1),
              np.diag, np.ediff1d, np.nansum, np.nanmax, lambda x: np.round(x, -1), np.add.reduce,
              lambda x: np.polyval(x, x), np.vander, np.diff):  # fmt: skip
        got, want = f(gg.asarray(a)), f(a)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


# What is refused


def leaf():
    return gg.asarray(np.array([1.0, 2.0]), requires_grad=True)


OPTIONS = {
    "out": lambda t: np.sum(t, out=np.ones(())),
    "out by position": lambda t: np.sum(t, 0, None, np.ones(())),
    "out of a function": lambda t: np.concatenate([t, t], out=np.ones(4)),
    "out of a ufunc": lambda t: np.sin(t, out=np.ones(2)),
    "where": lambda t: np.sum(t, where=np.array([True, False])),
    "initial": lambda t: np.max(t, initial=3.0),
    "order": lambda t: np.reshape(t, (2, 1), order="F"),
    "weights": lambda t: np.percentile(t, 3, method="inverted_cdf", weights=np.ones(2)),
    "method": lambda t: np.percentile(t, 3, method="inverted_cdf"),
    "period": lambda t: np.interp(t, [0.0, 1.0], [0.0, 1.0], period=1.0),
    "pad mode": lambda t: np.pad(t, 1, "linear_ramp", end_values=3),
    "fweights": lambda t: np.cov(t, fweights=[1, 2]),
    "mode": lambda t: np.take(t, [5], mode="clip"),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_are_refused(name):
    for t in (leaf(), leaf() * 1, leaf().detach()):
        with pytest.raises(DtypeError, match="; try "):
            OPTIONS[name](t)


def into_array(t):
    a = np.ones(2)
    a += t
    return a


IN_PLACE = {
    "a += t": into_array,
    "copyto": lambda t: np.copyto(t, 1.0),
    "put": lambda t: np.put(t, [0], 1.0),
    "place": lambda t: np.place(t, np.array([True, False]), [1.0]),
    "putmask": lambda t: np.putmask(t, np.array([True, False]), 1.0),
    "put_along_axis": lambda t: np.put_along_axis(t, np.array([0]), 1.0, 0),
    "fill_diagonal": lambda t: np.fill_diagonal(np.stack([t, t]), 1.0),
    "add.at": lambda t: np.add.at(t, [0], 1.0),
    "add out": lambda t: np.add(t, 1, out=t),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_writing_into_a_tensor_is_refused(name):
    for t in (leaf(), leaf().detach()):
        with pytest.raises(DtypeError, match="; try "):
            IN_PLACE[name](t)
        assert t.tolist() == [1, 2]


def copied(t):
    a = np.ones(2)
    np.copyto(a, t)
    return a


LOST = {
    "asarray": np.asarray,
    "array": lambda t: np.array([t[0], t[1]]),
    "rows": lambda t: np.array([t, t]),
    "full": lambda t: np.full(2, t),
    "copyto": copied,
    "add.at": lambda t: np.add.at(np.ones(2), [0, 1], t),
    "add.reduceat": lambda t: np.add.reduceat(t, [0, 1]),
    "maximum.accumulate": np.maximum.accumulate,
    "subtract.reduce": np.subtract.reduce,
    "add.reduce where": lambda t: np.add.reduce(t, where=np.array([True, False])),
    "add.reduce initial": lambda t: np.add.reduce(t, initial=1.0),
    "sin where": lambda t: np.sin(t, where=np.array([True, False])),
    "frexp": np.frexp,
    "spacing": np.spacing,
    "histogram": np.histogram,
    "histogram weights": lambda t: np.histogram(np.ones(2), weights=t),
    "insert": lambda t: np.insert(t, 0, 1.0),
    "partition": lambda t: np.partition(t, 1),
    "unwrap": np.unwrap,
    "poly": np.poly,
    "lexsort": lambda t: np.lexsort([t]),
    "percentile q": lambda t: np.percentile(np.ones(3), t),
    "save": lambda t: np.save("/dev/null", t),
    "vectorize": lambda t: np.vectorize(lambda x: x * 2)(t),
    "sliding_window_view": lambda t: np.lib.stride_tricks.sliding_window_view(t, 2),
}


@pytest.mark.parametrize("name", LOST)
def test_nothing_leaves_the_tape_unseen(name):
    f = LOST[name]
    for t in (leaf(), leaf() * 1):
        with pytest.raises((GradientError, ValueError)) as caught:
            f(t)
        error = caught.value
        assert isinstance(error, GradientError) or isinstance(error.__cause__, GradientError)
        assert "; try " in str(error) or "; try " in str(error.__cause__)
    with pytest.raises((GradientError, ValueError)):
        gg.grad(lambda t: gg.sum(f(t)))(np.array([1.0, 2.0]))
    with pytest.raises((GradientError, ValueError)):
        gg.jvp(f, (np.array([1.0, 2.0]),), (np.ones(2),))


def test_an_array_cannot_take_a_tensor_that_is_differentiated():
    def written(t):
        a = np.ones(2)
        a[0] = t[0]
        return np.sum(a * t)

    with pytest.raises(ValueError, match="array element") as caught:
        gg.grad(written)(np.array([1.0, 2.0]))
    assert isinstance(caught.value.__cause__, GradientError)


@pytest.mark.parametrize("name", ["frexp", "spacing", "insert", "partition", "maximum.accumulate"])
def test_off_the_tape_numpy_does_it(name):
    a = np.array([1.0, 2.0])
    got, want = LOST[name](gg.asarray(a)), LOST[name](a)
    assert type(got) is type(want)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("call", [
    lambda t: np.take(t, [0], axis=1),
    lambda t: np.linalg.norm(np.outer(t, t), 1, axis=(2, 3)),
    lambda t: np.swapaxes(t, 0, 1),
    lambda t: np.median(t, 1),
    lambda t: np.cumsum(t, 3),
    lambda t: np.split(t, 2, 1),
])  # fmt: skip
def test_axes_outside_the_array(call):
    with pytest.raises(ValueError, match="axis is outside"):
        call(leaf())


def test_outer_of_what_is_no_elementwise_function():
    with pytest.raises((TypeError, RuntimeError, ValueError)):
        np.matmul.outer(leaf().detach(), np.ones(2))


def test_printing_is_no_loss():
    t = leaf()
    assert np.array2string(t) == "[1. 2.]"
    assert np.array_str(t, precision=1) == "[1. 2.]"


def test_a_tensor_is_changed_in_place_by_an_array():
    a, t = np.array([1.0, 2.0]), leaf()
    y = t * 1
    y += a
    y *= a
    y[0] = np.sum(t)
    y.sum().backward()
    assert t.grad.tolist() == [1, 1 + 2]
    assert a.tolist() == [1, 2]


def test_arrays_are_not_changed():
    a = apart(3, 4)
    a.flags.writeable = False
    for f, *args in SMOOTH.values():
        if len(args) == 1 and args[0].shape == (3, 4):
            f(gg.asarray(a))


# The names on gg


def test_no_name_is_defined_twice():
    import gpugrad.namespace as namespace

    assert len(set(namespace.__all__)) == len(namespace.__all__)


def test_names_are_the_same_under_numpy_and_gg():
    missing = [name for name in names.__all__ if not callable(getattr(gg, name))]
    assert not missing
    assert [name for name in names.__all__ if not hasattr(np, name)] == []


@pytest.mark.parametrize("name", sorted(set(names.__all__) - set(names.ALIASES)))
def test_signatures_are_numpys(name):
    """Our parameters are NumPy's, in its order, with its defaults; some of the last are missing."""
    ours = inspect.signature(getattr(gg, name)).parameters
    try:
        theirs = inspect.signature(getattr(np, name)).parameters
    except ValueError:  # written in C
        return
    if isinstance(getattr(np, name), np.ufunc):
        assert len(ours) == getattr(np, name).nin
        return
    kinds = {p.kind for p in theirs.values()}
    order = list(theirs)
    by_position = [key for key, p in ours.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert (
        by_position == order[: len(by_position)]
        or inspect.Parameter.VAR_POSITIONAL in kinds
        or (set(by_position) <= set(order) and "dtype" in order)
    )
    for key, p in ours.items():
        if key == "dtype":
            assert p.default is None  # in the dtype of the argument, else float32
        elif key not in theirs:
            assert inspect.Parameter.VAR_KEYWORD in kinds, key
        elif theirs[key].default is not np._NoValue:
            assert p.default == theirs[key].default or p.default is theirs[key].default, key


def test_names_on_gg_take_an_axis_by_position():
    x = apart(3, 4)
    for name in ("amax", "amin", "ptp", "median", "nanmean", "cumsum", "average", "nansum"):
        np.testing.assert_allclose(getattr(gg, name)(gg.asarray(x), 1), getattr(np, name)(x, 1))


def test_gg_defaults_to_float32():
    made = [
        gg.logspace(0, 1, 3),
        gg.geomspace(1.0, 8.0, 4),
        gg.identity(2),
        gg.tri(2),
        gg.median([1.0]),
    ]
    assert {y.dtype.name for y in made} == {"float32"}


# Programs written with NumPy alone


def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


X = rng.normal(size=(20, 3))
LABELS = (X @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=20) > 0).astype(float)


def logistic_loss(w):
    z = np.dot(X, w)
    return np.mean(np.logaddexp(0, z) - LABELS * z) + 0.05 * np.linalg.norm(w) ** 2


def gaussian_log_likelihood(p):
    mean, spread = p[:3], np.exp(p[3:])
    z = (X - mean) / spread
    return np.sum(-0.5 * z**2 - np.log(spread) - 0.5 * np.log(2 * np.pi))


def correlated_log_likelihood(p):
    low = np.tril(np.outer(p[:3], p[:3])) + 2 * np.identity(3)
    z = np.linalg.solve(low, (X - np.median(X, axis=0)).T)
    return -0.5 * np.sum(z * z) - X.shape[0] * np.sum(np.log(np.diag(low)))


def k_means_distance(centres):
    centres = np.reshape(centres, (2, 3))
    squares = np.sum((X[:, np.newaxis, :] - centres) ** 2, axis=-1)
    return np.mean(np.min(squares, axis=1))


def recurrent_network(w):
    inputs = np.linspace(-1, 1, 7)
    states = np.zeros_like(w, shape=None)
    trace = np.empty_like(w[:1] * inputs)
    for i, u in enumerate(inputs):
        states = np.tanh(w * states[::-1] + u)
        trace[i] = np.sum(states)
    return np.var(trace) + np.sum(np.abs(np.diff(trace)))


def lotka_volterra_by_euler(p):
    y = np.array([1.0, 0.5])
    path = [y]
    for _ in range(30):
        prey, hunters = path[-1][0], path[-1][1]
        slope = np.stack([p[0] * prey - p[1] * prey * hunters, p[2] * prey * hunters - hunters])
        path.append(path[-1] + 0.05 * slope)
    return np.trapezoid(np.vstack(path)[:, 1], dx=0.05)


def polynomial_misfit(c):
    x = np.linspace(-1, 1, 15)
    return np.mean((np.polyval(c, x) - np.sin(3 * x)) ** 2) + 1e-3 * np.sum(np.polyval(c[:-1], c))


def mean_correlation(p):
    turned = X * p[:3] + np.roll(X, 1, axis=1) * p[::-1][:3]
    c = np.cov(turned, rowvar=False)
    spread = np.sqrt(np.diag(c))
    return np.sum((c / np.outer(spread, spread)) ** 2) + np.sum(np.corrcoef(turned.T)[0] ** 2)


def cross_entropy_by_hand(w):
    z = X @ np.reshape(w, (3, 2))
    e = np.exp(z - np.max(z, axis=1, keepdims=True))
    p = e / np.sum(e, axis=1, keepdims=True)
    return -np.mean(np.log(np.take_along_axis(p, LABELS.astype(int)[:, None], axis=1)))


def smoothed_signal(v):
    kernel = np.exp(-(np.arange(-2, 3) ** 2) / 2)
    smooth = np.convolve(np.pad(v, 2, mode="reflect"), kernel / np.sum(kernel), "valid")
    power = np.abs(np.fft.rfft(smooth)) ** 2
    return np.sum(power[1:]) + np.interp(1.5, np.arange(v.size), smooth) + np.percentile(smooth, 40)


def robust_summary(v):
    centre = np.median(v)
    spread = np.median(np.abs(v - centre))
    z = np.clip((v - centre) / spread, -2, 2)
    return np.average(z**2, weights=np.arange(1.0, 1 + v.size)) + np.ptp(v)


PROGRAMS = {
    f.__name__: (f, x)
    for f, x in [
        (rosenbrock, real(4)),
        (logistic_loss, real(3)),
        (gaussian_log_likelihood, 0.3 * real(6)),
        (correlated_log_likelihood, real(3)),
        (k_means_distance, real(6)),
        (recurrent_network, real(3)),
        (lotka_volterra_by_euler, np.array([1.1, 0.8, 0.6])),
        (polynomial_misfit, real(4)),
        (mean_correlation, real(4)),
        (cross_entropy_by_hand, real(6)),
        (smoothed_signal, apart(6)),
        (robust_summary, real(7)),
    ]
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    """Value, gradient, directional derivative, Hessian: three ways to each, and arrays come out."""
    f, x = PROGRAMS[name]
    value, slope = gg.value_and_grad(f)(x)
    assert isinstance(value, float)
    assert isinstance(slope, np.ndarray)
    assert value == pytest.approx(float(f(x)), rel=1e-12)
    direction = rng.normal(size=x.shape)
    ahead, behind = (float(f(x + h * direction)) for h in (1e-6, -1e-6))
    along = gg.jvp(f, (x,), (direction,))[1]
    assert along == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-6)
    assert along == pytest.approx(float(slope @ direction), rel=1e-9, abs=1e-12)
    hessian = gg.hessian(f)(x)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-8, atol=1e-9)
    bent = (gg.grad(f)(x + 1e-6 * direction) - gg.grad(f)(x - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(hessian @ direction, bent, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(hessian @ direction, gg.hvp(f, (x,), (direction,))[0], atol=1e-9)


def test_tensors_through_a_program_stay_tensors():
    t = gg.asarray(np.array([0.5, -0.5, 0.1]), requires_grad=True)
    loss = logistic_loss(t)
    loss.backward()
    np.testing.assert_allclose(t.grad.numpy(), gg.grad(logistic_loss)(t.detach().numpy()))


# What scipy.optimize.minimize(jac=True) wants


@pytest.mark.parametrize("name", PROGRAMS)
def test_value_and_grad_is_what_optimizers_take(name):
    f, x = PROGRAMS[name]
    fun = gg.value_and_grad(f)
    value, slope = fun(x)
    assert isinstance(value, (float, np.floating))
    assert type(slope) is np.ndarray
    assert (slope.dtype, slope.shape) == (np.float64, x.shape)
    assert slope.flags.writeable
    assert slope.flags.c_contiguous
    before = x.copy()
    slope *= 0  # an optimizer may work in the memory it was handed
    np.testing.assert_array_equal(x, before)
    again = fun(x)[1]
    assert np.abs(again).max() > 0


def test_scipy_minimize():
    optimize = pytest.importorskip("scipy.optimize")
    both = gg.value_and_grad(rosenbrock)
    for method in ("BFGS", "L-BFGS-B", "CG", "TNC"):
        found = optimize.minimize(both, np.full(4, -1.2), jac=True, method=method)
        np.testing.assert_allclose(found.x, 1, atol=1e-2)
    bend = gg.hessian(rosenbrock)
    found = optimize.minimize(both, np.zeros(4), jac=True, hess=bend, method="trust-exact")
    np.testing.assert_allclose(found.x, 1, atol=1e-3)

    def misfit(c):
        return np.polyval(c, np.arange(5.0)) - 1

    found = optimize.least_squares(misfit, np.zeros(2), jac=gg.jacobian(misfit))
    np.testing.assert_allclose(found.x, [0, 1], atol=1e-8)
