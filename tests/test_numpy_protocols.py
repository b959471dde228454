"""Plain NumPy code on tensors: the same function body on arrays and on tensors, value and slope.

The rows are in cases_numpy.py, which knows nothing of gpugrad.
"""

import inspect
import math
from importlib import import_module

import numpy as np
import pytest
from cases_numpy import SMOOTH, WITHOUT_DERIVATIVE, apart, real, rng, with_nan

import gpugrad as gg
from gpugrad import namespace
from gpugrad.errors import DtypeError, GradientError, TraceError
from gpugrad.namespace.numpy import ALIASES

NUMPYS = [name for name, room in namespace.ON_DEMAND.items() if room.startswith("numpy.")]


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


# What looks at values, or has arrays beside the arguments, which a compiled step cannot keep.
NOT_COMPILED = ON_THE_HOST | {
    "add.reduce where", "bincount", "bincount weights", "choose", "copyto", "cov both",
    "cov frequencies", "extract", "histogram density", "histogram weights", "histogram2d",
    "insert mask", "intersect1d", "ix_", "linalg.lstsq", "list operand", "max where", "mean where",
    "piecewise", "piecewise one", "place", "poly matrix", "polydiv", "polydiv short", "polymul",
    "prod where", "put_along_axis", "putmask", "quantile weights", "real_if_close", "roots",
    "roots zeros", "setdiff1d", "setxor1d", "std where", "sum where", "take_along_axis",
    "trim_zeros", "trim_zeros axis", "union1d", "unique", "unique axis", "var where",
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_compiled(name):
    f, *args = SMOOTH[name]
    args = [gg.asarray(x) for x in args]
    step = gg.compile(lambda *xs: joined(f(*xs)))
    if name in NOT_COMPILED:
        with pytest.raises(TraceError):
            step(*args)
        return
    step(*args)
    np.testing.assert_allclose(step(*args), joined(f(*args)), rtol=1e-9, atol=1e-12)


# What is written with float64 arrays beside the argument, or asks for float64.
WIDENS = {
    "array on the left", "clip a_max", "concatenate list", "dtype", "fft.rfft", "float_power",
    "histogram density", "list operand", "stack",
    "subtract.outer array", "sum dtype",
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


def test_distinct_values_stay_on_the_tape():
    x = gg.asarray([3.0, 1.0, 3.0], requires_grad=True)
    (gg.unique_values(x) * gg.asarray([1.0, 10.0])).sum().backward()
    assert x.grad.tolist() == [10, 1, 0]
    assert not gg.unique_counts(x).counts.requires_grad


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
              lambda x: np.percentile(x, 30), np.gradient, np.linalg.norm, np.deg2rad,
              np.fabs):  # fmt: skip
        for got, want in zip(parts(f(gg.asarray(a))), parts(f(a)), strict=True):
            assert got.dtype == np.float64
            np.testing.assert_allclose(got, want, rtol=1e-14)


def test_integers_stay_integers():
    a = np.array([3, 1, 2])
    for f in (np.cumsum, np.ptp, np.sort, lambda x: np.convolve(x, x), lambda x: np.pad(x, 1),
              np.diag, np.ediff1d, np.nansum, np.nanmax, lambda x: np.round(x, -1), np.add.reduce,
              lambda x: np.polyval(x, x), np.vander, np.diff,
              lambda x: np.convolve(x.astype(np.int8), x.astype(np.int8)),
              lambda x: np.intersect1d(x, x.astype(np.int8)),
              lambda x: np.diff(x > 1)):  # fmt: skip
        got, want = f(gg.asarray(a)), f(a)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "uint64", "f2", "f4"])
@pytest.mark.parametrize("name", [
    "cbrt", "deg2rad", "exp2", "fabs", "fmod", "frexp", "heaviside", "logaddexp2", "modf",
    "rad2deg", "spacing",
])  # fmt: skip
def test_ufuncs_have_numpys_dtypes(name, dtype):
    """Of small integers some are half precision."""
    f = getattr(np, name)
    both = [np.array([1, 0, 1], dtype)] * f.nin
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs = zip(parts(f(*map(gg.asarray, both))), parts(f(*both)), strict=True)
        for got, want in pairs:
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=1e-3)


@pytest.mark.parametrize("name", [
    "cbrt", "deg2rad", "fabs", "fmod", "heaviside", "i0", "isposinf", "logaddexp2", "modf",
    "spacing",
])  # fmt: skip
def test_real_functions_refuse_complex_numbers(name):
    z = gg.asarray([1j, 2.0])
    with pytest.raises(TypeError):
        getattr(np, name)(*[z] * getattr(getattr(np, name), "nin", 1))


# What is refused


def leaf():
    return gg.asarray(np.array([1.0, 2.0]), requires_grad=True)


OPTIONS = {
    "out": lambda t: np.sum(t, out=np.ones(())),
    "out by position": lambda t: np.sum(t, 0, None, np.ones(())),
    "out of a function": lambda t: np.concatenate([t, t], out=np.ones(4)),
    "out of a ufunc": lambda t: np.sin(t, out=np.ones(2)),
    "where": lambda t: np.max(t, where=np.array([True, False])),
    "order": lambda t: np.ravel(t, order="G"),
    "weights": lambda t: np.percentile(t, 3, weights=np.ones(2)),
    "method": lambda t: np.percentile(t, 3, method="cubic"),
    "pad mode": lambda t: np.pad(t, 1, "linear_ramp", end_values=3),
    "mean": lambda t: np.var(t, mean=0.0),
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
    "maximum.at": lambda t: np.maximum.at(t, [0], 1.0),
    "add out": lambda t: np.add(t, 1, out=t),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_writing_that_is_refused(name):
    for t in (leaf(), leaf().detach()):
        with pytest.raises(DtypeError, match="; try "):
            IN_PLACE[name](t)
        assert t.tolist() == [1, 2]


def test_writing_into_a_tensor_points_the_handle_at_a_new_value():
    x = gg.asarray(np.zeros((2, 2)), requires_grad=True)
    other = x * 1
    np.fill_diagonal(x, [3.0, 4.0])
    np.put(x, 1, 5)
    np.add.at(x, ([1, 1], [0, 0]), 1)
    assert x.tolist() == [[3, 5], [2, 4]]
    assert other.tolist() == [[0, 0], [0, 0]]
    (x * gg.asarray([[1.0, 10.0], [100.0, 1000.0]])).sum().backward()
    assert x.grad.tolist() == [[0, 0], [100, 0]]


@pytest.mark.parametrize("write", [
    lambda t: np.put(t, [2], 1.0),
    lambda t: np.put_along_axis(t, np.array([2]), 1.0, 0),
    lambda t: np.take(t, [2]),
    lambda t: np.partition(t, 2),
    lambda t: np.choose([2, 0], [t, t]),
    lambda t: np.ravel_multi_index((np.argmax(t) + 4,), (2,)),
    lambda t: np.unravel_index(np.argmax(t) + 4, (2,)),
])  # fmt: skip
def test_indices_outside(write):
    with pytest.raises((IndexError, ValueError), match=r"outside|out of bounds"):
        write(leaf())


def test_what_a_write_refuses():
    with pytest.raises(DtypeError, match="cast is not same_kind"):
        np.copyto(gg.asarray([1, 2]), gg.asarray([0.5, 1.5]))
    with pytest.raises(DtypeError, match="writes into a tensor"):
        gg.put(np.zeros(2), 0, 1.0)
    with pytest.raises(ValueError, match="at least two axes"):
        np.fill_diagonal(leaf(), 1.0)
    a = np.zeros(2)
    np.copyto(a, gg.asarray([1.0, 2.0]))
    np.add.at(a, [0, 0], gg.asarray([1.0, 1.0]))
    assert a.tolist() == [3, 2]


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
    "sin where": lambda t: np.sin(t, where=np.array([True, False])),
    "histogram": np.histogram,
    "histogram bins": lambda t: np.histogram(np.ones(2), bins=t),
    "bitwise_count of floats": lambda t: np.nextafter.reduce(t),
    "percentile q": lambda t: np.percentile(np.ones(3), t),
    "save": lambda t: np.save("/dev/null", t),
    "vectorize": lambda t: np.vectorize(lambda x: x * 2)(t),
    "as_strided": lambda t: np.lib.stride_tricks.as_strided(t, (1,)),
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


@pytest.mark.parametrize("name", ["add.reduceat", "maximum.accumulate"])
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
    every = [*namespace.__all__, *namespace.ON_DEMAND]
    assert len(set(every)) == len(every)


def test_names_are_the_same_under_numpy_and_gg():
    for name in [*NUMPYS, *ALIASES]:
        assert callable(getattr(gg, name)) or name in ("c_", "r_")
        assert hasattr(np, name)


@pytest.mark.parametrize("room", sorted(set(namespace.ON_DEMAND.values())))
def test_rooms_hold_what_the_table_says(room):
    """No public function of a room that the table forgets: it would be on no gg."""
    module = import_module(f"gpugrad.namespace.{room}")
    listed = {name for name, where in namespace.ON_DEMAND.items() if where == room}
    assert listed <= set(vars(module))
    helpers = {"array_namespace", "line", "runs", "mean_of", "var_of", "std_of"}
    defined = {
        name
        for name, thing in vars(module).items()
        if inspect.isfunction(thing) and thing.__module__ == module.__name__ and name[0] != "_"
    }
    assert defined - helpers <= listed


@pytest.mark.parametrize("name", sorted(set(NUMPYS) - {"c_", "r_"}))
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


BRACKETS = {
    "r_": lambda m, x, y: m.r_[x, 0.1, y, 1:4, 0:1:3j],
    "r_ rows": lambda m, x, y: m.r_[x[None, :], np.ones((2, 3))],
    "r_ alone": lambda m, x, y: m.r_[x],
    "c_": lambda m, x, y: m.c_[np.ones(3), x, x * 2],
    "c_ rows": lambda m, x, y: m.c_[x[None, :], y[None, :], 0.1],
    "c_ stacks": lambda m, x, y: m.c_[x.reshape(1, 3, 1), x.reshape(1, 3, 1)],
}


@pytest.mark.parametrize("name", BRACKETS)
def test_brackets(name):
    f, x, y = BRACKETS[name], real(3), real(2)
    got = f(gg, gg.asarray(x), gg.asarray(y))
    np.testing.assert_array_equal(got.numpy(), f(np, x, y), strict=True)
    gg.testing.gradcheck(lambda x, y: f(gg, x, y), (x, y))


def test_brackets_without_directives():
    with pytest.raises(DtypeError, match=r"\[r_\] takes no directives.*; try"):
        gg.r_["0,2", gg.ones(2)]
    assert repr(gg.c_) == "gpugrad.c_"


class Labelled(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of another library that holds any array, as xarray's do, and runs ufuncs on it."""

    def __init__(self, data):
        self.data = data

    dtype = property(lambda self: self.data.dtype)
    shape = property(lambda self: self.data.shape)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.data, dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        inner = [x.data if isinstance(x, Labelled) else x for x in inputs]
        return Labelled(getattr(ufunc, method)(*inner, **options))


WITH_LABELS = {
    "t * a": lambda t, a: t * a,
    "a * t": lambda t, a: a * t,
    "np.multiply": lambda t, a: np.multiply(t, a),
    "t - a": lambda t, a: t - a + a * t,
    "np.arctan2": lambda t, a: np.arctan2(t, a * t),
    "both": lambda t, a: (a * t) * (t * a),
    "t ** a": lambda t, a: t**a,
}


@pytest.mark.parametrize("name", WITH_LABELS)
def test_arrays_of_other_libraries(name):
    """Python and NumPy ask them too; a tensor never takes one for its own values."""
    f, a, t = WITH_LABELS[name], np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.5, 2.5])
    got = f(gg.asarray(t), Labelled(a))
    assert isinstance(got, Labelled)
    assert isinstance(got.data, gg.Tensor)
    np.testing.assert_allclose(got.data.numpy(), f(t, a))
    gg.testing.gradcheck(lambda t: f(t, Labelled(a)).data, (t,))
    gg.testing.gradcheck(lambda t: f(t, Labelled(a)).data, (t[0],))


def test_arrays_of_other_libraries_as_values():
    t, a = gg.ones(3), Labelled(np.arange(3.0))
    assert (t < a).data.tolist() == [False, False, True]
    for value in (gg.multiply(t, a), gg.asarray(a), gg.where(t > 0, a, t)):
        assert value.tolist() == [0, 1, 2]
        assert type(value._data) is np.ndarray
    with pytest.raises(DtypeError, match=r"\[\*=\] a tensor becomes.*Labelled.*; try"):
        t *= a
