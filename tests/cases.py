"""The case table: one row an op, from which test_ops.py drives every check.

A new op touches two places: its declaration and its row here. `test_every_op_has_a_case` fails when
the row is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gpugrad as gg
from gpugrad.late import ops
from gpugrad.ops.index import ARRAY

rng = np.random.default_rng(7)


@dataclass(frozen=True)
class Case:
    """``f`` on tensors against ``ref`` on arrays; ``smooth`` cases have derivatives to check."""

    op: str
    f: Callable[..., Any]
    ref: Callable[..., Any]
    args: tuple[Any, ...]
    note: str = ""
    smooth: bool = True
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        shapes = "x".join(str(np.shape(a)).replace(" ", "") for a in self.args)
        return f"{self.op}-{self.note}{shapes}"


def real(*shape: int) -> Any:
    return rng.uniform(-2, 2, shape) + 0.05


def positive(*shape: int) -> Any:
    return rng.uniform(0.3, 2.5, shape)


def unit(*shape: int) -> Any:
    return rng.uniform(-0.85, 0.85, shape)


def above_one(*shape: int) -> Any:
    return rng.uniform(1.2, 3, shape)


def apart(*shape: int) -> Any:
    """Values no two of which are close: no ties within reach of a difference."""
    n = int(np.prod(shape))
    return (rng.permutation(n) - n / 3 + 0.25).reshape(shape)


def bools(*shape: int) -> Any:
    return rng.integers(0, 2, shape).astype(bool)


def ints(*shape: int) -> Any:
    return rng.integers(1, 9, shape)


def strided(a: Any) -> Any:
    """The same values behind odd strides: every second column, rows reversed."""
    wide = np.repeat(a[::-1], 2, axis=-1)
    return wide[::-1, ::2]


def logistic(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


# Elementwise: (reference, domain). Each becomes cases of several shapes and layouts.

UNARY: dict[str, tuple[Any, Any]] = {
    "abs": (np.abs, real),
    "acos": (np.arccos, unit),
    "acosh": (np.arccosh, above_one),
    "asin": (np.arcsin, unit),
    "asinh": (np.arcsinh, real),
    "atan": (np.arctan, real),
    "atanh": (np.arctanh, unit),
    "conj": (np.conj, real),
    "cos": (np.cos, real),
    "cosh": (np.cosh, real),
    "exp": (np.exp, real),
    "expm1": (np.expm1, real),
    "imag": (np.imag, real),
    "log": (np.log, positive),
    "log10": (np.log10, positive),
    "log1p": (np.log1p, positive),
    "log2": (np.log2, positive),
    "negative": (np.negative, real),
    "positive": (np.positive, real),
    "real": (np.real, real),
    "reciprocal": (np.reciprocal, positive),
    "sigmoid": (logistic, real),
    "sin": (np.sin, real),
    "sinh": (np.sinh, real),
    "sqrt": (np.sqrt, positive),
    "square": (np.square, real),
    "tan": (np.tan, unit),
    "tanh": (np.tanh, real),
    # flat between their jumps
    "ceil": (np.ceil, real),
    "floor": (np.floor, real),
    "round": (np.round, real),
    "sign": (np.sign, real),
    "trunc": (np.trunc, real),
    # without derivative
    "isfinite": (np.isfinite, real),
    "isinf": (np.isinf, real),
    "isnan": (np.isnan, real),
    "logical_not": (np.logical_not, bools),
    "signbit": (np.signbit, real),
    "bitwise_invert": (np.invert, ints),
}

BINARY: dict[str, tuple[Any, Any, Any]] = {
    "add": (np.add, real, real),
    "atan2": (np.arctan2, positive, positive),
    "copysign": (np.copysign, real, real),
    "divide": (np.divide, real, positive),
    "floor_divide": (np.floor_divide, real, positive),
    "fmod": (np.fmod, real, positive),
    "hypot": (np.hypot, positive, positive),
    "logaddexp": (np.logaddexp, real, real),
    "maximum": (np.maximum, apart, real),
    "minimum": (np.minimum, apart, real),
    "multiply": (np.multiply, real, real),
    "nextafter": (np.nextafter, real, real),
    "pow": (np.power, positive, real),
    "remainder": (np.remainder, real, positive),
    "subtract": (np.subtract, real, real),
    "bitwise_and": (np.bitwise_and, ints, ints),
    "bitwise_left_shift": (np.left_shift, ints, ints),
    "bitwise_or": (np.bitwise_or, ints, ints),
    "bitwise_right_shift": (np.right_shift, ints, ints),
    "bitwise_xor": (np.bitwise_xor, ints, ints),
    "equal": (np.equal, ints, ints),
    "greater": (np.greater, real, real),
    "greater_equal": (np.greater_equal, ints, ints),
    "less": (np.less, real, real),
    "less_equal": (np.less_equal, ints, ints),
    "logical_and": (np.logical_and, bools, bools),
    "logical_or": (np.logical_or, bools, bools),
    "logical_xor": (np.logical_xor, bools, bools),
    "not_equal": (np.not_equal, ints, ints),
}

WITHOUT_DERIVATIVE = {
    "adagrad",
    "adam",
    "all",
    "any",
    "argmax",
    "argmin",
    "argsort",
    "isin",
    "one_hot",
    "rmsprop",
    "searchsorted",
    "sgd",
    "sgd_momentum",
    "stays",
    *(name for name, op in vars(ops).items() if op.kind == "elementwise" and op.rules is None),
}

CASES: list[Case] = []


def case(op: str, f: Any, ref: Any, *args: Any, note: str = "") -> None:
    CASES.append(Case(op, f, ref, args, note, op not in WITHOUT_DERIVATIVE))


for name, (ref, domain) in UNARY.items():
    f = getattr(gg, name)
    for shape in [(3, 4), (), (1,), (0, 3)]:
        case(name, f, ref, domain(*shape))
    case(name, f, ref, strided(domain(3, 4)), note="strided-")

for name, (ref, left, right) in BINARY.items():
    f = getattr(gg, name)
    for a, b in [((3, 4), (3, 4)), ((3, 1), (1, 4)), ((4,), (2, 3, 4)), ((), (2,)), ((0, 2), (2,))]:
        case(name, f, ref, left(*a), right(*b))
    case(name, f, ref, strided(left(3, 4)), right(3, 4).T.copy().T, note="strided-")

for mode in (real, positive):
    case("pow", lambda x: x**2, lambda x: x**2, mode(3), note="square-")
    case("pow", lambda x: x**3, lambda x: x**3, mode(3), note="cube-")
case("pow", lambda x: x**-0.5, lambda x: x**-0.5, positive(3), note="root-")
case("pow", lambda x: 2.0**x, lambda x: 2.0**x, real(3), note="base-")
case(
    "refuse",
    lambda x: ops.refuse(x, x > 9, owner="pow", rule="", hint="") * x,
    lambda x: x * x,
    real(3),
)

TURN = np.arange(64) * (2 * np.pi / 64)
mask = bools(3, 4)
case(
    "where",
    lambda a, b: gg.where(gg.asarray(mask), a, b),
    lambda a, b: np.where(mask, a, b),
    real(3, 4),
    real(4),
)
case(
    "where",
    lambda a: gg.where(gg.asarray(mask), a, 0.0),
    lambda a: np.where(mask, a, 0.0),
    real(3, 1),
)
case("gcd", gg.gcd, np.gcd, ints(3, 4), ints(4))
case("lcm", gg.lcm, np.lcm, ints(3, 1), ints(4))
case(
    "ldexp", lambda x: gg.ldexp(x, gg.asarray([3, -2])), lambda x: np.ldexp(x, [3, -2]), real(3, 2)
)
case("exponent", lambda x: ops.exponent(x), lambda x: np.frexp(x)[1], real(3, 4))
for order in (0, 1, 3):
    case(
        "bessel_i",
        lambda x, n=order: ops.bessel_i(x, order=n),
        lambda x, n=order: np.mean(np.exp(x[..., None] * np.cos(TURN)) * np.cos(n * TURN), axis=-1),
        real(3, 4),
        note=f"{order}-",
    )
case("clip", lambda x: gg.clip(x, -1, 1), lambda x: np.clip(x, -1, 1), real(3, 4))
case("clip", lambda x: gg.clip(x, min=0.1), lambda x: np.clip(x, 0.1, None), real(5))
case("clip", gg.clip, np.clip, real(3, 4), real(4) - 2, real(4) + 2)
case("astype", lambda x: x.astype(np.float64), lambda x: x.astype(np.float64), real(3), note="up-")
# Rounding to float32 leaves no slope for a small difference to find: value only.
CASES.append(
    Case(
        "astype",
        lambda x: x.astype(np.float32),
        lambda x: x.astype("f4"),
        (real(3),),
        "down-",
        False,
    )
)

# Activations

case("relu", gg.nn.relu, lambda x: np.maximum(x, 0), real(3, 4))
case("leaky_relu", gg.nn.leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x), real(3, 4))
case("elu", gg.nn.elu, lambda x: np.where(x > 0, x, np.expm1(x)), real(3, 4))
case("softplus", gg.nn.softplus, lambda x: np.log1p(np.exp(x)), real(3, 4))
case("silu", gg.nn.silu, lambda x: x * logistic(x), real(3, 4))
case(
    "gelu",
    gg.nn.gelu,
    lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    real(3, 4),
)


def softmax(x: Any, axis: int = -1) -> Any:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


for axis in (0, -1):
    case(
        "softmax",
        lambda x, a=axis: gg.nn.softmax(x, a),
        lambda x, a=axis: softmax(x, a),
        real(3, 4),
    )
    case(
        "log_softmax",
        lambda x, a=axis: gg.nn.log_softmax(x, a),
        lambda x, a=axis: np.log(softmax(x, a)),
        real(3, 4),
    )

labels = np.array([0, 3, 1])
case(
    "cross_entropy",
    lambda z: gg.nn.cross_entropy(z, labels, "none"),
    lambda z: -np.log(softmax(z))[np.arange(3), labels],
    real(3, 4),
)
case(
    "bce_with_logits",
    lambda z, t: gg.nn.bce_with_logits(z, t, "none"),
    lambda z, t: -t * np.log(logistic(z)) - (1 - t) * np.log(1 - logistic(z)),
    real(3, 4),
    rng.uniform(0, 1, (3, 4)),
)

# Reductions

AXES = [(None, (3, 4)), (0, (3, 4)), (-1, (2, 3, 4)), ((0, 2), (2, 3, 4)), (None, ())]


def reduction(name: str, domain: Any, ref: Any = None, empty: bool = True) -> None:
    f, ref = getattr(gg, name), ref or getattr(np, name)
    for axis, shape in AXES:
        for keep in (False, True):
            case(
                name,
                lambda x, a=axis, k=keep: f(x, axis=a, keepdims=k),
                lambda x, a=axis, k=keep: ref(x, axis=a, keepdims=k),
                domain(*shape),
                note=f"axis{axis}{'-keep' if keep else ''}-".replace(" ", ""),
            )
    case(
        name,
        lambda x: f(x, axis=0),
        lambda x: ref(x, axis=0),
        strided(domain(3, 4)),
        note="strided-",
    )
    if empty:
        case(name, lambda x: f(x, axis=0), lambda x: ref(x, axis=0), domain(0, 3), note="empty-")


def np_norm(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))


def np_logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


reduction("sum", real)
reduction("prod", real)
reduction("mean", real, empty=False)
reduction("max", apart, empty=False)
reduction("min", apart, empty=False)
reduction("norm", real, np_norm, empty=False)
reduction("logsumexp", real, np_logsumexp, empty=False)
reduction("any", bools)
reduction("all", bools)
case("prod", gg.prod, np.prod, np.array([1.5, 0.0, -2.0]), note="one-zero-")
case("prod", gg.prod, np.prod, np.array([0.0, 3.0, 0.0]), note="two-zeros-")
case("sum", gg.var, np.var, real(3, 4), note="var-")
case("norm", gg.std, np.std, real(3, 4), note="std-")
case(
    "sum",
    lambda x: gg.var(x, axis=0, correction=1),
    lambda x: np.var(x, axis=0, ddof=1),
    real(3, 4),
    note="var1-",
)
for axis in (None, 0, 1):
    for name in ("argmax", "argmin"):
        case(
            name,
            lambda x, n=name, a=axis: getattr(gg, n)(x, axis=a),
            lambda x, n=name, a=axis: getattr(np, n)(x, axis=a),
            apart(3, 4),
            note=f"axis{axis}-",
        )
case("cumsum", lambda x: gg.cumulative_sum(x, axis=1), lambda x: np.cumsum(x, axis=1), real(3, 4))
case(
    "cumsum",
    lambda x: gg.cumulative_sum(x, include_initial=True),
    lambda x: np.concatenate([[0], np.cumsum(x)]),
    real(4),
    note="initial-",
)

# Shape

case("reshape", lambda x: gg.reshape(x, (2, -1)), lambda x: x.reshape(2, -1), real(3, 4))
case(
    "reshape",
    lambda x: x.reshape(-1),
    lambda x: x.reshape(-1),
    strided(real(3, 4)),
    note="strided-",
)
case(
    "reshape",
    lambda x: gg.squeeze(x, 1),
    lambda x: np.squeeze(x, 1),
    real(3, 1, 2),
    note="squeeze-",
)
case(
    "reshape",
    lambda x: gg.expand_dims(x, axis=(0, 2)),
    lambda x: x[None, :, None],
    real(3),
    note="expand-",
)
case(
    "broadcast_to",
    lambda x: gg.broadcast_to(x, (2, 3, 4)),
    lambda x: np.broadcast_to(x, (2, 3, 4)),
    real(3, 1),
)
case(
    "broadcast_to",
    lambda x: gg.meshgrid(x, x)[1] * 1,
    lambda x: np.meshgrid(x, x)[1],
    real(3),
    note="mesh-",
)
case(
    "permute_dims",
    lambda x: gg.permute_dims(x, (2, 0, 1)),
    lambda x: x.transpose(2, 0, 1),
    real(2, 3, 4),
)
case("permute_dims", lambda x: x.T @ x, lambda x: x.T @ x, real(3, 2), note="T-")
case("permute_dims", lambda x: x.mT, lambda x: np.swapaxes(x, -1, -2), real(2, 3, 4), note="mT-")
case(
    "permute_dims",
    lambda x: gg.moveaxis(x, 0, -1),
    lambda x: np.moveaxis(x, 0, -1),
    real(2, 3, 4),
    note="move-",
)
case("flip", lambda x: gg.flip(x, axis=1), lambda x: np.flip(x, 1), real(3, 4))
case("flip", gg.flip, np.flip, real(3, 4), note="all-")
case("roll", lambda x: gg.roll(x, 2, axis=1), lambda x: np.roll(x, 2, 1), real(3, 4))
case("roll", lambda x: gg.roll(x, -1), lambda x: np.roll(x, -1), real(3, 4), note="flat-")
case(
    "concat",
    lambda a, b: gg.concat([a, b], axis=1),
    lambda a, b: np.concatenate([a, b], 1),
    real(3, 1),
    real(3, 2),
)
case(
    "concat",
    lambda a, b: gg.stack([a, b, a], axis=1),
    lambda a, b: np.stack([a, b, a], 1),
    real(3),
    real(3),
    note="stack-",
)
case(
    "concat",
    lambda a, b: gg.concat([a, b]),
    lambda a, b: np.concatenate([a, b]),
    real(0, 2),
    real(2, 2),
    note="empty-",
)
case("triangle", gg.tril, np.tril, real(3, 4), note="lower-")
case("triangle", lambda x: gg.triu(x, k=1), lambda x: np.triu(x, 1), real(2, 3, 3), note="upper-")
case("to_device", lambda x: ops.to_device(x, device="cpu", source=x.device), lambda x: x, real(3))
case("boundary", lambda x: ops.boundary(x), lambda x: x, real(3))

# Matrices

for a, b in [((3, 4), (4, 2)), ((4,), (4, 2)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4, 2)),
             ((5, 1, 3, 4), (2, 4, 2)), ((0, 4), (4, 2)), ((3, 0), (0, 2))]:  # fmt: skip
    case("matmul", gg.matmul, np.matmul, real(*a), real(*b))
case("matmul", gg.matmul, np.matmul, real(4, 3).T, strided(real(4, 2)), note="strided-")
case("matmul", lambda x: x @ x.T, lambda x: x @ x.T, real(3, 2), note="twice-")
for shape in [(5, 4), (4,), (2, 3, 4), (0, 4)]:
    case("linear", gg.nn.linear, lambda x, w, b: x @ w.T + b, real(*shape), real(3, 4), real(3))
case("matmul", gg.nn.linear, lambda x, w: x @ w.T, real(5, 4), real(3, 4), note="nobias-")

# Indexing

rows, columns = np.array([0, 2, 0, -1]), np.array([1, 1, 1, 0])
INDICES: dict[str, Any] = {
    "integer": 1,
    "slice": slice(1, None, 2),
    "negative-step": (slice(None, None, -1), 0),
    "ellipsis": (..., 1),
    "newaxis": (None, slice(1, 3), None),
    "duplicates": rows,
    "pairs": (rows, columns),
    "outer": (rows[:, None], columns[None, :]),
    "mixed": (slice(0, 2), rows),
    "apart": (rows, None, columns),
    "mask": np.array([True, False, True]),
    "full-mask": np.arange(12).reshape(3, 4) % 2 == 0,
    "no-rows": np.array([], dtype=int),
    "scalar-array": np.array(2),
}
for note, index in INDICES.items():
    case("getitem", lambda x, i=index: x[i], lambda x, i=index: x[i], real(3, 4), note=f"{note}-")
    if note == "mixed":
        continue
    case(
        "scatter",
        lambda x, i=index: gg.grad(lambda t: (t[i] * 2).sum())(x) * x,
        lambda x, i=index: _counts(x, i) * 2 * x,
        real(3, 4),
        note=f"{note}-",
    )


def _counts(x: Any, index: Any) -> Any:
    counts = np.zeros_like(x)
    np.add.at(counts, index, 1)
    return counts


def _written(x: Any, v: Any, index: Any) -> Any:
    x = np.array(x)
    x[index] = v
    return x


def _write(x: Any, v: Any, index: Any) -> Any:
    x = x * 1
    x[index] = v
    return x


for note, index, shape in [
    ("integer", 1, (4,)),
    ("slice", slice(0, 2), (2, 4)),
    ("scalar", (0, 1), ()),
    ("broadcast", (slice(None), 2), ()),
    ("array", np.array([2, 0]), (2, 4)),
    ("mask", np.array([True, False, True]), (4,)),
]:
    case(
        "setitem",
        lambda x, v, i=index: _write(x, v, i),
        lambda x, v, i=index: _written(x, v, i),
        real(3, 4),
        real(*shape),
        note=f"{note}-",
    )
case(
    "getitem",
    lambda x: gg.take(x, rows, axis=1),
    lambda x: np.take(x, rows, 1),
    real(2, 3),
    note="take-",
)
case(
    "stays",
    lambda i: ops.stays(i, key=(ARRAY,), shape=(4,)),
    lambda i: np.array([False, True, False, True]),
    np.array([1, 0, 1, 1]),
)
case(
    "one_hot",
    lambda t: ops.one_hot(t, classes=4, dtype=np.float64),
    lambda t: np.eye(4)[t],
    np.array([0, 3, 1]),
)

# Optimiser updates: one step from zero state (test_optim.py has the long runs)


def _updated(op: str, states: int, scalars: tuple[Any, ...], **settings: Any) -> Any:
    def f(p: Any, g: Any) -> Any:
        state = [gg.zeros_like(p) for _ in range(states)]
        return getattr(ops, op)(p, g, *state, *scalars, reuse=False, weight_decay=0.0, **settings)[
            0
        ]

    return f


case("sgd", _updated("sgd", 0, (0.1,)), lambda p, g: p - 0.1 * g, real(3), real(3))
case(
    "sgd_momentum",
    _updated("sgd_momentum", 1, (0.1, 0.9), nesterov=True),
    lambda p, g: p - 0.1 * 1.9 * g,
    real(3),
    real(3),
)
case(
    "adam",
    _updated("adam", 2, (0.1, 1, 0.9, 0.999, 0.0), decoupled=False),
    lambda p, g: p - 0.1 * np.sign(g),
    real(3),
    real(3),
)
case(
    "rmsprop",
    _updated("rmsprop", 1, (0.1,), alpha=0.75, eps=0.0),
    lambda p, g: p - 0.1 * 2 * np.sign(g),
    real(3),
    real(3),
)
case(
    "adagrad",
    _updated("adagrad", 1, (0.1,), eps=0.0),
    lambda p, g: p - 0.1 * np.sign(g),
    real(3),
    real(3),
)

# Recurrences

case(
    "recurrence",
    lambda a, b: ops.recurrence(a, b, axis=1),
    lambda a, b: np.stack(
        [
            sum((a[:, k + 1 : i + 1].prod(1) * b[:, k] for k in range(i + 1)), np.zeros(2))
            for i in range(5)
        ],
        1,
    ),
    real(2, 5),
    real(2, 5),
)
for note, x in {
    "": real(2, 5),
    "one-zero-": np.array([[1.5, 0.0, -2.0, 0.5]]),
    "two-zeros-": np.array([[0.0, 3.0, 0.0, 2.0]]),
    "empty-": real(2, 0),
}.items():
    case(
        "cumprod",
        lambda x: ops.cumprod(x, axis=1),
        lambda x: np.cumprod(x, axis=1),
        x,
        note=note,
    )

# Order and search

for descending in (False, True):
    case(
        "argsort",
        lambda x, d=descending: gg.argsort(x, axis=0, descending=d),
        lambda x, d=descending: np.argsort(-x if d else x, 0, kind="stable"),
        apart(4, 3),
        note="down-" if descending else "",
    )
    case(
        "getitem",
        lambda x, d=descending: gg.sort(x, axis=0, descending=d),
        lambda x, d=descending: np.sort(x, 0)[::-1] if d else np.sort(x, 0),
        apart(4, 3),
        note="sort-down-" if descending else "sort-",
    )
for side in ("left", "right"):
    case(
        "searchsorted",
        lambda a, v, s=side: gg.searchsorted(a, v, side=s),
        lambda a, v, s=side: np.searchsorted(a, v, s),
        np.array([1, 2, 2, 5]),
        ints(3, 4),
        note=f"{side}-",
    )
case("isin", gg.isin, np.isin, ints(3, 4), ints(2))
case(
    "getitem",
    lambda x: gg.take_along_axis(x, np.array([[0, 2, 2], [1, 0, 1]]), axis=1),
    lambda x: np.take_along_axis(x, np.array([[0, 2, 2], [1, 0, 1]]), 1),
    real(2, 3),
    note="along-",
)
case(
    "broadcast_to",
    lambda x: gg.repeat(x, 3, axis=1),
    lambda x: np.repeat(x, 3, 1),
    real(2, 3),
    note="repeat-",
)
case(
    "getitem",
    lambda x: gg.repeat(x, np.array([2, 0, 1]), axis=1),
    lambda x: np.repeat(x, [2, 0, 1], 1),
    real(2, 3),
    note="repeats-",
)
case(
    "broadcast_to",
    lambda x: gg.tile(x, (2, 1, 3)),
    lambda x: np.tile(x, (2, 1, 3)),
    real(2, 3),
    note="tile-",
)
case(
    "subtract",
    lambda x: gg.diff(x, axis=0, n=2, prepend=x[:1]),
    lambda x: np.diff(x, axis=0, n=2, prepend=x[:1]),
    real(4, 3),
    note="diff-",
)
case(
    "getitem",
    lambda x: gg.unstack(x, axis=1)[2],
    lambda x: x[:, 2],
    real(2, 3),
    note="unstack-",
)

from cases_linalg import CASES as more  # noqa: E402  (it is written with what stands above)

CASES.extend(more)
