"""Elementwise ops, each declared by its partial derivatives. Imports op, rules, alike, errors.

Where a function has a corner the subgradient is written beside it. ``singular`` marks a partial
that can be infinite; there a cotangent of exactly 0 stays 0.
"""

import math
from typing import Any

import numpy as np

from gpugrad.backend import alike
from gpugrad.backend.numpy import sigmoid as host_sigmoid
from gpugrad.errors import GradientError, message
from gpugrad.op import Op, data_of, elementwise, still
from gpugrad.rules import conjugate, scaled, total


def pick(c: Any, a: Any, b: Any) -> Any:
    """``where``, named apart so that rules above its declaration can use it."""
    return where(c, a, b)


# Arithmetic

add = elementwise("add", lambda xp, a, b: xp.add(a, b), [1, 1])
sub = elementwise("subtract", lambda xp, a, b: xp.subtract(a, b), [1, -1])
mul = elementwise(
    "multiply",
    lambda xp, a, b: xp.multiply(a, b),
    [lambda b: b, lambda a: a],
    singular=True,
)
div = elementwise(
    "divide",
    lambda xp, a, b: xp.true_divide(a, b),
    [lambda b: _inverse(b), lambda b, y: -y / b],
    singular=True,
)


def _inverse(b: Any) -> Any:
    return 1 / b if _is_array(b) or b else math.inf  # Python would raise at 0


neg = elementwise("negative", lambda xp, x: xp.negative(x), [-1])
positive = elementwise("positive", lambda xp, x: xp.positive(x), [1])
reciprocal = elementwise("reciprocal", lambda xp, x: 1 / x, [lambda y: -y * y], singular=True)
square = elementwise("square", lambda xp, x: xp.square(x), [lambda x: 2 * x], singular=True)
power = elementwise(
    "pow",
    lambda xp, a, b: alike.power(xp, a, b),
    [
        lambda a, b: _dpow(a, b),
        lambda g, a, y: _to_exponent(g, a, y),
    ],
    singular=True,
    jvp=lambda da, db, a, b, y: total(
        term
        for term in (
            None if da is None else scaled(da, _dpow(a, b)),
            None if db is None else scaled(db, _dexponent(a, y)),
        )
        if term is not None
    ),
)
floor_divide = elementwise(
    "floor_divide",
    lambda xp, a, b: alike.floor_divide(xp, a, b),
    [lambda g: g * 0, lambda g: g * 0],
)
remainder = elementwise(
    "remainder",
    lambda xp, a, b: alike.remainder(xp, a, b),
    [1, lambda a, b: -floor(a / b)],
)
fmod = elementwise(
    "fmod",
    lambda xp, a, b: xp.fmod(a, b),
    [1, lambda a, b: -trunc(a / b)],
)
absolute = elementwise(  # 0 at 0
    "abs",
    lambda xp, x: xp.abs(x),
    [lambda x: sign(x)],
    jvp=lambda dx, x: real(dx * conjugate(sign(x))),
)


def _sign(xp: Any, x: Any) -> Any:
    if x.dtype.kind != "c":
        return xp.sign(x)
    size = xp.abs(x)  # CuPy's own sign of a complex number is that of its real part
    return xp.where(size == 0, 0, x / xp.where(size == 0, 1, size)).astype(x.dtype, copy=False)


def _turn(d: Any, x: Any, y: Any) -> Any:
    """Of a complex x only the angle counts: what of ``d`` is across x, divided by ``|x|``."""
    if x.dtype.kind != "c":
        return d * 0
    size = absolute(x)
    return where(size == 0, 0, (d - y * real(d * conj(y))) / where(size == 0, 1, size))


sign = elementwise("sign", _sign, [lambda g, x, y: _turn(g, x, y)])
copysign = elementwise(
    "copysign",
    lambda xp, a, b: xp.copysign(a, b),
    [lambda a, y: sign(a) * sign(y), lambda g: g * 0],  # 0 at 0
)
nextafter = elementwise("nextafter", lambda xp, a, b: xp.nextafter(a, b), [1, lambda g: g * 0])


# x · 2ⁿ, and the n with which x · 2⁻ⁿ lies in [½, 1): exact, where 2ⁿ alone would overflow
ldexp = elementwise("ldexp", lambda xp, x, n: xp.ldexp(x, n), [lambda g, n: ldexp(g, n), None])
exponent = elementwise("exponent", lambda xp, x: xp.frexp(x)[1])


def _rounded(name: str) -> Any:
    """Integers are whole already; some versions of NumPy would return floats."""

    def forward(xp: Any, x: Any) -> Any:
        return getattr(xp, name)(x) if x.dtype.kind in "fc" else x

    return elementwise(name, forward, [lambda g: g * 0])


floor = _rounded("floor")
ceil = _rounded("ceil")
trunc = _rounded("trunc")
rint = elementwise("round", lambda xp, x: xp.round(x), [lambda g: g * 0])


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape")


def _dpow(a: Any, b: Any) -> Any:
    """d(aᵇ)/da, without 0·∞ at b = 0."""
    if _is_array(b):
        b = where(a == 0, data_of(b), b)  # at base 0 all derivatives in the exponent are 0
        flat = logical_and(a == 0, b == 0)
        return where(flat, 0, b * a ** where(flat, 1, b - 1))
    return 0.0 if b == 0 else b if b == 1 else b * a ** (b - 1)


def _dexponent(a: Any, y: Any) -> Any:
    if y.dtype.kind == "c":
        a = a + 0j  # the logarithm of a negative number is complex
    return where(a == 0, 0, y * log(where(a == 0, 1, a)))


def _to_exponent(g: Any, a: Any, y: Any) -> Any:
    if y.dtype.kind != "c":
        moves = logical_and(still(a) < 0, still(g) != 0)
        rule = "a power of a negative number is no function of its exponent"
        hint = "abs(x) ** p, or p.detach()"
        # Where it was NaN already, the forward pass has said so.
        bad = logical_and(moves, still(y) == still(y))
        g = refuse(g, bad, owner="pow", rule=rule, hint=hint)
    return scaled(g, conjugate(_dexponent(a, y)))


# Complex numbers. The gradient of a real loss is dL/dRe + i·dL/dIm, as PyTorch's.

conj = elementwise("conj", lambda xp, x: xp.conj(x), [lambda g: conj(g)])
real = elementwise("real", lambda xp, x: xp.real(x), [lambda g: real(g)])
imag = elementwise("imag", lambda xp, x: xp.imag(x), [lambda g: g * 1j], jvp=lambda dx: imag(dx))

# Exponentials and logarithms

exp = elementwise("exp", lambda xp, x: xp.exp(x), [lambda y: y], singular=True)


def _expm1(xp: Any, x: Any) -> Any:
    y = xp.expm1(x)
    # Of infinite complex numbers NumPy's expm1 makes NaN where its exp does not.
    return xp.where(xp.isnan(y), xp.exp(x) - 1, y) if x.dtype.kind == "c" else y


expm1 = elementwise("expm1", _expm1, [lambda y: y + 1], singular=True)
log = elementwise("log", lambda xp, x: xp.log(x), [lambda x: 1 / x], singular=True)
log1p = elementwise("log1p", lambda xp, x: xp.log1p(x), [lambda x: 1 / (1 + x)], singular=True)
log2 = elementwise("log2", lambda xp, x: xp.log2(x), [lambda x: 1 / math.log(2) / x], singular=True)
log10 = elementwise(
    "log10", lambda xp, x: xp.log10(x), [lambda x: 1 / math.log(10) / x], singular=True
)
sqrt = elementwise("sqrt", lambda xp, x: xp.sqrt(x), [lambda y: 0.5 / y], singular=True)
logaddexp = elementwise(
    "logaddexp",
    lambda xp, a, b: xp.logaddexp(a, b),
    [lambda a, b, y: _part(a, b, y), lambda a, b, y: _part(b, a, y)],
)


def _part(a: Any, b: Any, y: Any) -> Any:
    """e^a / (e^a + e^b); of nothing at all, where both are −∞, it is 0."""
    return sigmoid(pick(y == -math.inf, -math.inf, a - b))


def _bessel(xp: Any, x: Any, order: int) -> Any:
    """The mean of ``exp(x cos t) cos(order t)`` over half a turn.

    The trapezoid rule is exact for periodic functions, but for terms that with this many places
    are beneath rounding wherever the result is finite. ``exp(|x|)`` is taken out, in two halves:
    it overflows before the result does.
    """
    size = xp.abs(x.astype(np.float32) if x.dtype == np.float16 else x)
    total = size * 0
    for t in (np.arange(_PLACES) + 0.5) * (np.pi / _PLACES):
        total += float(np.cos(order * t)) * xp.exp(size * float(-2 * np.sin(t / 2) ** 2))
    half = xp.exp(size * 0.5)
    y = (total * (1 / _PLACES)) * half * half
    return (xp.where(x < 0, -y, y) if order % 2 else y).astype(x.dtype, copy=False)


_PLACES = 120
bessel_i = elementwise(
    "bessel_i",
    lambda xp, x, *, order: _bessel(xp, x, order),
    [lambda x, *, order: (bessel_i(x, order=order - 1) + bessel_i(x, order=order + 1)) * 0.5],
)

# Trigonometry

sin = elementwise("sin", lambda xp, x: xp.sin(x), [lambda x: cos(x)])
cos = elementwise("cos", lambda xp, x: xp.cos(x), [lambda x: -sin(x)])
tan = elementwise("tan", lambda xp, x: xp.tan(x), [lambda y: 1 + y * y], singular=True)
sinh = elementwise("sinh", lambda xp, x: xp.sinh(x), [lambda x: cosh(x)], singular=True)
cosh = elementwise("cosh", lambda xp, x: xp.cosh(x), [lambda x: sinh(x)], singular=True)
tanh = elementwise("tanh", lambda xp, x: xp.tanh(x), [lambda y: 1 - y * y])
asin = elementwise(
    "asin", lambda xp, x: xp.arcsin(x), [lambda x: 1 / sqrt(1 - x * x)], singular=True
)
acos = elementwise(
    "acos", lambda xp, x: xp.arccos(x), [lambda x: -1 / sqrt(1 - x * x)], singular=True
)
atan = elementwise("atan", lambda xp, x: xp.arctan(x), [lambda x: 1 / (1 + x * x)])
asinh = elementwise("asinh", lambda xp, x: xp.arcsinh(x), [lambda x: 1 / sqrt(1 + x * x)])
acosh = elementwise(
    # Divided twice: √(x−1)√(x+1) has a derivative of 0·∞ at 1, and √(x²−1) another complex branch.
    "acosh",
    lambda xp, x: xp.arccosh(x),
    [lambda x: 1 / sqrt(x - 1) / sqrt(x + 1)],
    singular=True,
)
atanh = elementwise(
    "atanh", lambda xp, x: xp.arctanh(x), [lambda x: 1 / (1 - x * x)], singular=True
)
atan2 = elementwise(
    "atan2",
    lambda xp, a, b: xp.arctan2(a, b),
    [lambda a, b: _across(b, hypot(a, b)), lambda a, b: -_across(a, hypot(a, b))],
)
hypot = elementwise(
    "hypot",
    lambda xp, a, b: xp.hypot(a, b),
    [lambda a, y: a / _length(y), lambda b, y: b / _length(y)],
)


def _length(y: Any) -> Any:
    """∞ for 0: at the origin all derivatives of hypot and atan2 are 0."""
    return pick(y == 0, math.inf, y)


def _across(a: Any, y: Any) -> Any:
    return a / _length(y) / _length(y)  # y² could under- or overflow


# Selection. Ties share the gradient evenly.

where = elementwise(
    "where",
    lambda xp, c, a, b: alike.where(xp, c, a, b),
    [None, lambda g, c: where(c, g, 0), lambda g, c: where(c, 0, g)],
)
maximum = elementwise(
    "maximum",
    lambda xp, a, b: xp.maximum(a, b),
    [
        lambda g, a, b: where(a == b, g * 0.5, where(a > b, g, 0)),
        lambda g, a, b: where(a == b, g * 0.5, where(b > a, g, 0)),
    ],
)
minimum = elementwise(
    "minimum",
    lambda xp, a, b: xp.minimum(a, b),
    [
        lambda g, a, b: where(a == b, g * 0.5, where(a < b, g, 0)),
        lambda g, a, b: where(a == b, g * 0.5, where(b < a, g, 0)),
    ],
)
clip = elementwise(
    "clip",
    lambda xp, x, lo, hi: alike.clip(xp, x, lo, hi),
    [  # the bounds themselves belong to the inside, as in PyTorch
        lambda g, x, lo, hi: where((x >= lo) & (x <= hi), g, 0),
        lambda g, x, lo: where(x < lo, g, 0),
        lambda g, x, hi: where(x > hi, g, 0),
    ],
)

# What a rule refuses


def _refuse(x: Any, bad: Any, owner: str, rule: str, hint: str) -> Any:
    if bad.any():
        raise GradientError(message(owner, rule, hint=hint))
    return x


# x itself; an error where ``bad`` is true of a value. An op, so that a compiled step, which has no
# values while it is recorded, looks at each replay.
refuse = Op(
    "refuse",
    lambda xp, x, bad, *, owner, rule, hint: _refuse(x, bad, owner, rule, hint),
    lambda x, bad, *, owner, rule, hint: x,
    vjp=[lambda g: g, None],
    jvp=lambda dx: dx,
)

# Comparison and logic: no derivative

equal = elementwise("equal", lambda xp, a, b: xp.equal(a, b))
not_equal = elementwise("not_equal", lambda xp, a, b: xp.not_equal(a, b))
less = elementwise("less", lambda xp, a, b: xp.less(a, b))
less_equal = elementwise("less_equal", lambda xp, a, b: xp.less_equal(a, b))
greater = elementwise("greater", lambda xp, a, b: xp.greater(a, b))
greater_equal = elementwise("greater_equal", lambda xp, a, b: xp.greater_equal(a, b))
logical_and = elementwise("logical_and", lambda xp, a, b: xp.logical_and(a, b))
logical_or = elementwise("logical_or", lambda xp, a, b: xp.logical_or(a, b))
logical_xor = elementwise("logical_xor", lambda xp, a, b: xp.logical_xor(a, b))
logical_not = elementwise("logical_not", lambda xp, x: xp.logical_not(x))
bitwise_and = elementwise("bitwise_and", lambda xp, a, b: xp.bitwise_and(a, b))
bitwise_or = elementwise("bitwise_or", lambda xp, a, b: xp.bitwise_or(a, b))
bitwise_xor = elementwise("bitwise_xor", lambda xp, a, b: xp.bitwise_xor(a, b))
bitwise_invert = elementwise("bitwise_invert", lambda xp, x: xp.invert(x))
bitwise_left_shift = elementwise("bitwise_left_shift", lambda xp, a, b: xp.left_shift(a, b))
bitwise_right_shift = elementwise("bitwise_right_shift", lambda xp, a, b: xp.right_shift(a, b))
gcd = elementwise("gcd", lambda xp, a, b: xp.gcd(a, b))
lcm = elementwise("lcm", lambda xp, a, b: xp.lcm(a, b))
signbit = elementwise("signbit", lambda xp, x: xp.signbit(x))
isfinite = elementwise("isfinite", lambda xp, x: xp.isfinite(x))
isinf = elementwise("isinf", lambda xp, x: xp.isinf(x))
isnan = elementwise("isnan", lambda xp, x: xp.isnan(x))

# Activations


def _logistic(xp: Any, x: Any) -> Any:
    if type(x) is np.ndarray and x.ndim and x.dtype.kind == "f":
        return host_sigmoid(x)
    # exp overflows to inf below -88 (float32), and 1/(1+inf) is the right answer, 0.
    with np.errstate(over="ignore"):
        return 1 / (1 + xp.exp(-x))


sigmoid = elementwise("sigmoid", _logistic, [lambda y: y * (1 - y)])
relu = elementwise("relu", lambda xp, x: xp.maximum(x, 0), [lambda g, y: g * (y > 0)])  # 0 at 0
leaky_relu = elementwise(
    "leaky_relu",
    lambda xp, x, *, slope: xp.where(x > 0, x, x * slope),
    [lambda g, x, *, slope: where(x > 0, g, g * slope)],
)
elu = elementwise(
    "elu",
    lambda xp, x, *, alpha: xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0))),
    [lambda g, x, *, alpha: where(x > 0, g, g * (alpha * exp(where(x < 0, x, 0))))],
)
softplus = elementwise("softplus", lambda xp, x: xp.logaddexp(x, x * 0), [lambda x: sigmoid(x)])
silu = elementwise("silu", lambda xp, x: x * _logistic(xp, x), [lambda x, y: _dsilu(sigmoid(x), y)])


def _dsilu(s: Any, y: Any) -> Any:
    return s + y * (1 - s)


_GELU = math.sqrt(2 / math.pi)


def _gelu_tanh(xp: Any, x: Any) -> Any:
    """tanh √(2/π)(x + 0.044715 x³); beyond ±10 it is ±1, and x³ would overflow half precision."""
    x = xp.clip(x, -10, 10)
    return xp.tanh(_GELU * (x + 0.044715 * x * x * x))


gelu = elementwise(  # the tanh form: NumPy has no erf
    "gelu",
    lambda xp, x: 0.5 * x * (1 + _gelu_tanh(xp, x)),
    [lambda x: _dgelu(x, clip(x, -10, 10))],
)


def _dgelu(x: Any, c: Any) -> Any:
    t = tanh(_GELU * (c + 0.044715 * c * c * c))
    return 0.5 * (1 + t) + 0.5 * c * (1 - t * t) * (_GELU * (1 + 3 * 0.044715 * c * c))


# max(z, 0) − z·t + log(1 + exp(−|z|)): no exp of a positive number, so nothing overflows
bce_with_logits = elementwise(
    "bce_with_logits",
    lambda xp, z, t: xp.maximum(z, 0) - z * t + xp.log1p(xp.exp(-xp.abs(z))),
    [lambda z, t: sigmoid(z) - t, lambda z: -z],
)

# What `gpugrad.autocast` computes in float32: PyTorch's list, and what it has no op for.
for _op in (
    *(reciprocal, square, power, exp, expm1, log, log1p, log2, log10, logaddexp),
    *(tan, sinh, cosh, asin, acos, softplus, bce_with_logits),
):
    _op.precision = "single"
