"""NumPy functions on arrays and on tensors: rows written with `numpy` alone.

`SMOOTH` is id: (function, arguments), every argument differentiated to second order.
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view as windows

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
    "inverted_cdf",
    "averaged_inverted_cdf",
    "closest_observation",
    "interpolated_inverted_cdf",
    "hazen",
    "weibull",
    "linear",
    "median_unbiased",
    "normal_unbiased",
    "lower",
    "higher",
    "midpoint",
    "nearest",
]
MASK = np.array([[True, False, True, True], [False, False, True, False], [True, True, False, True]])
POSITIVE_DEFINITE = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
COLUMN = np.array([[2], [0], [1]])
RISING = np.array([0.1, 1.0, 2.2, 2.9, 4.0])


COUNTS = np.array([1, 3, 2, 1, 2])


def written(f):
    """What an array becomes by ``f``, which writes into it; a tensor takes the same course."""

    def run(a, *rest):
        a = a * 1
        f(a, *rest)
        return a

    return run


def halved(row):
    return row[: row.size // 2] * np.sum(row)


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
    "add.reduce where": (lambda x: np.add.reduce(x, where=MASK, initial=2.0), real(3, 4)),
    "add.at": (written(lambda a, v: np.add.at(a, [0, 2, 0], v)), real(4), real(3)),
    "subtract.at": (written(lambda a, v: np.subtract.at(a, (0, [1, 1]), v)), real(2, 3), real()),
    "angle": (lambda x, y: np.angle(x + 1j * y, deg=True), real(4), positive(4)),
    "bessel": (np.i0, np.array([-30.0, -1.2, 1e-3, 4.0, 11.0])),
    "frexp": (lambda x: np.frexp(x)[0], np.array([-7.3, 0.26, 1.5, 3e30])),
    "ldexp": (lambda x: np.ldexp(x, [3, -2, 0, 1]), real(4)),
    "real_if_close": (lambda x: np.real_if_close(x * (1 + 1e-17j)), real(4)),
    "unwrap": (np.unwrap, np.array([0.1, 3.0, -3.1, -2.9, 9.0])),
    "unwrap period": (lambda x: np.unwrap(x, 2.0, 0, period=5.0), 4 * real(4, 3)),
    # reductions
    "sum": (np.sum, real(3, 4)),
    "sum where": (lambda x: np.sum(x, axis=1, where=MASK, initial=0.5), real(3, 4)),
    "prod where": (lambda x: np.prod(x, 0, where=MASK, initial=3.0), real(3, 4)),
    "max where": (lambda x: np.max(x, 1, where=MASK, initial=-9.0), apart(3, 4)),
    "min initial": (lambda x: np.min(x, initial=-1.05), apart(3, 4)),
    "mean where": (lambda x: np.mean(x, axis=0, where=MASK), real(3, 4)),
    "var where": (lambda x: np.var(x, axis=1, ddof=0.5, where=MASK), real(3, 4)),
    "std where": (lambda x: np.std(x, where=MASK, keepdims=True), real(3, 4)),
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
    "nancumprod": (lambda x: np.nancumprod(x, axis=1), real(3, 4)),
    "nancumsum": (np.nancumsum, real(3, 4)),
    "nanprod": (lambda x: np.nanprod(x, axis=1), real(3, 4)),
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
    **{
        f"nanquantile {m}": (lambda x, m=m: np.nanquantile(x, [0.1, 0.7], 1, method=m), apart(2, 6))
        for m in METHODS
    },
    "nanmedian": (lambda x: np.nanmedian(x, axis=0), apart(3, 4)),
    "nanpercentile": (lambda x: np.nanpercentile(x, 35, 1, keepdims=True), apart(3, 4)),
    "quantile weights": (
        lambda x: np.quantile(x, [0, 0.3, 0.9], 1, method="inverted_cdf", weights=[1, 0, 2.5, 1]),
        apart(3, 4),
    ),
    "partition": (lambda x: np.partition(x, range(4), axis=1), apart(3, 4)),
    "sort_complex": (lambda x, y: np.abs(np.sort_complex(x + 1j * y)), apart(4), real(4)),
    "union1d": (np.union1d, apart(3), apart(4) + 0.1),
    "unique": (np.unique, apart(3, 4)),
    "unique axis": (lambda x: np.unique(np.concatenate([x, x[:1]]), axis=0), apart(3, 2)),
    "intersect1d": (lambda x: np.intersect1d(x, np.concatenate([x[:2], [0.0]])), apart(4)),
    "setdiff1d": (lambda x, y: np.setdiff1d(np.concatenate([x, y]), y), apart(3), apart(2) + 0.1),
    "setxor1d": (lambda x, y: np.setxor1d(np.append(x, y), y[:1]), apart(3), apart(2) + 0.1),
    "sort": (np.sort, apart(3, 4)),
    "sort complex": (lambda x, y: np.abs(np.sort(x + 1j * y)), real(5), real(5)),
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
    "interp period": (
        lambda x, xp, f: np.interp(x, xp, f, period=3.0),
        np.array([-4.3, 0.4, 2.95, 7.7]),
        np.array([2.2, -0.7, 10.1]),
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
    "poly": (np.poly, real(3)),
    "poly matrix": (np.poly, POSITIVE_DEFINITE),
    "polyadd": (np.polyadd, real(2), real(4)),
    "polyder": (lambda p: np.polyder(p, 2), real(5)),
    "polydiv": (np.polydiv, real(5), positive(3)),
    "polydiv short": (np.polydiv, real(2), positive(3)),
    "polyfit": (lambda x, y: np.polyfit(x, y, 2), RISING, real(5)),
    "polyfit many": (lambda x, y, w: np.polyfit(x, y, 1, w=w), RISING, real(5, 2), positive(5)),
    "polyfit cov": (lambda x, y: np.polyfit(x, y, 1, cov=True), RISING, real(5)),
    "polyfit unscaled": (lambda x, y: np.polyfit(x, y, 1, cov="unscaled"), RISING, real(5)),
    "polyint": (lambda p: np.polyint(p, 2, [0.5, 2]), real(3)),
    "polymul": (np.polymul, real(2), real(3)),
    "polysub": (np.polysub, real(4), real(2)),
    "roots": (lambda p: np.sort(np.abs(np.roots(p))), np.array([1.0, -1.2, 0.3, 2.0])),
    "roots zeros": (
        lambda p: np.sort(np.abs(np.roots(np.concatenate([[0.0], p, [0.0]])))),
        np.array([1.0, -3.0, 2.0]),
    ),
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
    "block": (lambda a, b: np.block([[a, b[:, None]], [a[:1], 0.1]]), real(2, 2), real(2)),
    "block flat": (lambda a: np.block([a, 1.5, a]), real(2)),
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
    "ravel F": (lambda a: np.ravel(a, "F"), real(3, 4)),
    "reshape F": (lambda a: np.reshape(a, (2, -1), order="F"), real(3, 4)),
    "resize": (lambda a: np.resize(a, (2, 7)), real(2, 3)),
    "apply_over_axes": (lambda a: np.apply_over_axes(np.sum, a, [0, 2]), real(2, 3, 2)),
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
    "sliding_window_view": (lambda a: windows(a, 3), real(7)),
    "sliding_window_view axes": (lambda a: windows(a, (2, 3), axis=(1, 0)), real(4, 3, 2)),
    "take": (lambda a: np.take(a, [[0, 5], [7, 0]]), real(3, 4)),
    "take axis": (lambda a: np.take(a, [2, 0], axis=1), real(3, 4)),
    "take clip": (lambda a: np.take(a, [-2, 9], mode="clip"), real(3, 4)),
    "take wrap": (lambda a: np.take(a, [-2, 9], axis=1, mode="wrap"), real(3, 4)),
    "take_along_axis": (lambda a: np.take_along_axis(a, COLUMN, axis=1), real(3, 4)),
    "compress": (lambda a: np.compress([True, False, True], a, axis=1), real(3, 4)),
    "delete": (lambda a: np.delete(a, [0, 2], axis=1), real(3, 4)),
    "delete slice": (lambda a: np.delete(a, slice(1, 3)), real(3, 4)),
    "insert": (lambda a: np.insert(a, 1, 0.1), real(3)),
    "insert rows": (lambda a, v: np.insert(a, [0, 2], v, axis=0), real(2, 3), real(3)),
    "insert columns": (lambda a, v: np.insert(a, 1, v, axis=1), real(2, 3), real(2, 2)),
    "insert many": (lambda a, v: np.insert(a, [1], v), real(3), real(2)),
    "insert slice": (lambda a, v: np.insert(a, slice(0, 3, 2), v), real(4), real(2)),
    "insert mask": (lambda a: np.insert(a, np.array([True, False, True]), [7, 8]), real(3)),
    "trim_zeros": (lambda a: np.trim_zeros(np.pad(a, (2, 1))), positive(3)),
    "trim_zeros axis": (lambda a: np.trim_zeros(np.pad(a, 1), "f", axis=1), positive(2, 3)),
    "extract": (lambda a: np.extract(MASK, a), real(3, 4)),
    "choose": (lambda a, b: np.choose([[0, 1, 1], [1, 0, 0]], [a, b]), real(3), real(2, 3)),
    "choose wrap": (lambda a: np.choose([5, -2, 1], [a, a * a], mode="wrap"), real(3)),
    "piecewise": (
        lambda a: np.piecewise(
            a, [a < -0.5, a > 0.5], [lambda v, c: np.exp(v), lambda v, c: v * c, 0.1], 3
        ),
        real(3, 4),
    ),
    "piecewise one": (lambda a: np.piecewise(a, a > 0, [np.sqrt]), real(4)),
    "ix_": (lambda a: a[np.ix_([2, 0], [True, False, True, True])], real(3, 4)),
    "where": (lambda a, b: np.where(MASK, a, b), real(3, 4), real(4)),
    "where number": (lambda a: np.where(MASK, a, 0.1), real(3, 4)),
    "select": (lambda a: np.select([MASK, ~MASK[:, ::-1]], [a, a * a], 0.1), real(3, 4)),
    "diag": (np.diag, real(3)),
    "diag k": (lambda a: np.diag(a, -1), real(3)),
    "diag of": (lambda a: np.diag(a, 2), real(3, 5)),
    "diagflat": (lambda a: np.diagflat(a, 1), real(2, 2)),
    "tril": (lambda a: np.tril(a, -1), real(3, 4)),
    "triu": (lambda a: np.triu(a, k=1), real(3, 4)),
    "apply_along_axis": (lambda a: np.apply_along_axis(halved, 1, a), real(2, 4, 2)),
    "apply_along_axis number": (lambda a: np.apply_along_axis(np.sum, 0, a), real(2, 3)),
    "copy": (np.copy, real(3)),
    "bincount": (lambda w: np.bincount([0, 3, 3, 1], w, 6), real(4)),
    "histogram weights": (
        lambda w: np.histogram([0.1, 0.4, 0.9, 1.0, 7.0], 3, (0, 1), weights=w)[0], real(5)
    ),
    "histogram density": (
        lambda w: np.histogram([0.1, 0.4, 0.9, 1.0], [0, 0.5, 1], weights=w, density=True)[0],
        positive(4),
    ),
    "histogram2d": (
        lambda w: np.histogram2d([0.1, 0.4, 0.9], [3.0, 1, 2], (2, 3), weights=w)[0], real(3)
    ),
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
    "cov frequencies": (lambda x: np.cov(x, fweights=COUNTS), real(3, 5)),
    "cov weights": (lambda x, w: np.cov(x, aweights=w), real(3, 5), positive(5)),
    "cov both": (
        lambda x, w: np.cov(x, ddof=0, fweights=COUNTS, aweights=w), real(3, 5), positive(5)
    ),
    "corrcoef": (np.corrcoef, real(3, 5)),
    "corrcoef two": (lambda x, y: np.corrcoef(x, y), real(5), real(5)),
    "dot": (np.dot, real(2, 3, 4), real(2, 4, 3)),
    "inner": (np.inner, real(2, 3), real(4, 3)),
    "outer": (np.outer, real(3), real(4)),
    "vdot": (np.vdot, real(2, 3), real(2, 3)),
    "kron": (np.kron, real(2, 2), real(2, 3)),
    "tensordot": (lambda a, b: np.tensordot(a, b, axes=([0], [1])), real(3, 2), real(4, 3)),
    "tensordot number": (lambda a, b: np.tensordot(a, b, 1), real(2, 3), real(3, 2)),
    "einsum lists": (
        lambda a, b: np.einsum(a, [..., 3, 7], b, [7, 1], [..., 1, 3]), real(2, 2, 3), real(3, 2)
    ),
    "einsum": (lambda a, b: np.einsum("ij,jk->ki", a, b, optimize=True), real(2, 3), real(3, 2)),
    "trace": (np.trace, real(3, 3)),
    "diagonal": (lambda a: np.diagonal(a, 1), real(3, 4)),
    # what writes into its first argument
    "copyto": (written(lambda a, b: np.copyto(a, b, where=MASK)), real(3, 4), real(4)),
    "fill_diagonal": (written(np.fill_diagonal), real(3, 4), real(2)),
    "fill_diagonal wrap": (written(lambda a: np.fill_diagonal(a, 0.1, wrap=True)), real(7, 2)),
    "fill_diagonal cube": (written(np.fill_diagonal), real(2, 2, 2), real()),
    "place": (written(lambda a, v: np.place(a, MASK, v)), real(3, 4), real(2)),
    "put": (written(lambda a, v: np.put(a, [0, -1, 5], v)), real(3, 4), real(2)),
    "put wrap": (written(lambda a, v: np.put(a, [13, -1], v, mode="wrap")), real(3, 4), real(2)),
    "put clip": (written(lambda a, v: np.put(a, [13, 2], v, mode="clip")), real(3, 4), real()),
    "put_along_axis": (
        written(lambda a, v: np.put_along_axis(a, COLUMN, v, axis=1)), real(3, 4), real(3, 1)
    ),
    "putmask": (written(lambda a, v: np.putmask(a, MASK, v)), real(3, 4), real(5)),
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
    "linalg.norm nuc": (lambda x: np.linalg.norm(x, "nuc"), real(3, 4)),
    "linalg.norm 2": (lambda x: np.linalg.norm(x, 2), real(3, 4)),
    "linalg.norm inf": (lambda x: np.linalg.norm(x, np.inf, axis=0), apart(3, 4)),
    "linalg.outer": (np.linalg.outer, real(2), real(3)),
    "linalg.svdvals": (np.linalg.svdvals, real(3, 4)),
    "linalg.tensordot": (lambda a, b: np.linalg.tensordot(a, b, axes=1), real(2, 3), real(3, 2)),
    "linalg.trace": (lambda x: np.linalg.trace(x, offset=1), real(2, 3, 3)),
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
    "unique counts": lambda x: np.unique(
        np.sign(x), return_index=True, return_inverse=True, return_counts=True
    )[1:],
    "unique one": lambda x: np.unique(x > 0),
    "angle": lambda x: np.angle(x, deg=True),
    "all where": lambda x: np.all(x > 0, where=MASK, axis=1),
    "any initial": lambda x: np.logical_or.reduce(x > 99, initial=True),
    "argpartition": lambda x: np.argpartition(x, [0, 1, 2, 3], axis=1),
    "array_equiv": lambda x: np.array_equiv(x, x[None]),
    "bitwise_not": lambda x: np.bitwise_not(x > 0),
    "einsum_path": lambda x: np.einsum_path("ij,ij->i", x, x)[1],
    "frexp": lambda x: np.frexp(x)[1],
    "gcd": lambda x: np.gcd(np.argmax(x, axis=1), [4, 6, 9]),
    "iscomplex": np.iscomplex,
    "isneginf": np.isneginf,
    "isposinf": lambda x: np.isposinf(x * np.inf),
    "isreal": np.isreal,
    "lcm": lambda x: np.lcm(np.argmax(x, axis=1), 6),
    "lexsort": lambda x: np.lexsort((x[0], np.sign(x[1]))),
    "nanargmax": lambda x: np.nanargmax(x, axis=1),
    "nanargmin": lambda x: np.nanargmin(x),
    "ravel_multi_index": lambda x: np.ravel_multi_index(
        (np.argmax(x, 0), [0, 1, 2, 9]), (4, 5), mode=("raise", "clip")
    ),
    "spacing": np.spacing,
    "unravel_index": lambda x: np.unravel_index(np.argmax(x, axis=1), (2, 3)),
    "can_cast": lambda x: np.can_cast(x, np.float32),
    "linalg.matrix_rank": np.linalg.matrix_rank,
    "where": lambda x: np.where(x > 0),
    "zeros_like": lambda x: np.zeros_like(x, dtype=np.float32),
    "ones_like": np.ones_like,
    "zeros": lambda x: np.zeros((2, 3), like=x),
}
