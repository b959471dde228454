"""Elementwise expressions: an op's own `forward`, run on symbols, says what to compute per element.

The one source of fused loops, on a CPU and on a GPU. Imports aval only.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Opcodes of one, two and three arguments; `NUMPY` in backend/twin.py says
# what each means.
UNARY = (
    *("neg", "abs", "sqrt", "square", "recip", "exp", "expm1", "log", "log1p", "log2", "log10"),
    *("tanh", "sigmoid", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh"),
    *("acosh", "atanh", "floor", "ceil", "trunc", "rint", "sign"),
    *("not", "isnan", "isinf", "isfinite", "half"),
)
BINARY = (
    *("add", "sub", "mul", "div", "pow", "atan2", "hypot", "max", "min", "copysign", "remainder"),
    *("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor", "mulz"),
)
TRUTHS = frozenset(
    ("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor", "not", "isnan", "isinf", "isfinite")
)
# Those that whole numbers have too, where a chain computes in int64.
WHOLE = frozenset(
    ("add", "sub", "mul", "neg", "abs", "square", "max", "min", "sign", "where")
) | TRUTHS.difference(("isnan", "isinf", "isfinite"))


class Expr:
    """A node: an opcode on other nodes, ``in`` for an operand, or ``const`` for a number."""

    __slots__ = ("args", "op", "scalar", "value")

    def __init__(self, op: str, args: "tuple[Expr, ...]", value: Any, scalar: bool) -> None:
        self.op = op
        self.args = args
        self.value = value  # the number of a const, the operand of an in
        self.scalar = scalar  # the same for all elements

    def __repr__(self) -> str:
        if self.op == "const":
            return f"{self.value:g}"
        if self.op == "in":
            return str(self.value)
        return f"{self.op}({', '.join(map(repr, self.args))})"


class Builder:
    """Makes expressions, equal ones only once, simplified where the result keeps its bits."""

    def __init__(self) -> None:
        self._known: dict[Any, Expr] = {}

    def __len__(self) -> int:
        return len(self._known)

    def const(self, value: float) -> Expr:
        key = ("const", float(value).hex())
        return self._one(key, lambda: Expr("const", (), float(value), True))

    def operand(self, value: Any, scalar: bool) -> Expr:
        return self._one(("in", id(value)), lambda: Expr("in", (), value, scalar))

    def make(self, op: str, *args: Expr) -> Expr:
        found = self._simpler(op, args)
        if found is not None:
            return found
        scalar = all(a.scalar for a in args)
        return self._one((op, *map(id, args)), lambda: Expr(op, args, None, scalar))

    def _one(self, key: Any, new: Callable[[], Expr]) -> Expr:
        expr = self._known.get(key)
        if expr is None:
            expr = self._known[key] = new()
        return expr

    def _simpler(self, op: str, args: tuple[Expr, ...]) -> Expr | None:
        if op == "mul":
            for one, other in (args, args[::-1]):
                if _is(one, 1.0):
                    return other
        elif op == "div" and _is(args[0], 1.0):
            below = args[1]
            if below.op == "add" and _is(below.args[0], 1.0) and below.args[1].op == "exp":
                (power,) = below.args[1].args
                if power.op == "neg":
                    return self.make("sigmoid", power.args[0])
        elif op == "where":
            return self._product_or_zero(*args)
        elif op == "mulz" and args[1].op == "const" and math.isfinite(args[1].value):
            return self.make("mul", *args)
        return None

    def _product_or_zero(self, c: Expr, a: Expr, b: Expr) -> Expr | None:
        """``where(isnan(g·f) & (g == 0), 0, g·f)``, what a singular partial records, as one."""
        if c.op != "and" or not _is(a, 0.0) or b.op != "mul":
            return None
        nan, zero = c.args
        if nan.op != "isnan" or nan.args[0] is not b or zero.op != "eq":
            return None
        g = zero.args[0]
        if not _is(zero.args[1], 0.0) or g not in b.args:
            return None
        return self.make("mulz", g, b.args[1] if b.args[0] is g else b.args[0])


def _is(x: Expr, value: float) -> bool:
    return x.op == "const" and bool(x.value == value)


class Unsupported(Exception):
    """What a `forward` does has no place in a fused loop."""


class Symbol:
    """Stands for an array in an op's `forward`; what is done to it is written down.

    In-place statements change what the symbol stands for, as they would change the array.
    """

    __slots__ = ("_builder", "dtype", "expr", "shape")
    __array_ufunc__ = None

    def __init__(self, builder: Builder, expr: Expr, dtype: Any, shape: tuple[int, ...]) -> None:
        self._builder = builder
        self.expr = expr
        self.dtype = dtype
        self.shape = shape

    def make(self, op: str, *args: Any) -> "Symbol":
        exprs, dtypes = [], []
        for a in args:
            if type(a) is Symbol:
                exprs.append(a.expr)
                dtypes.append(a.dtype)
            elif isinstance(a, (bool, int, float, np.floating)):
                exprs.append(self._builder.const(float(a)))
            else:
                raise Unsupported(f"{op} with {type(a).__name__}")
        numbers = [d for d in dtypes if d.kind != "b"]
        dtype = np.dtype(bool) if op in TRUTHS else np.result_type(*numbers or [np.float32])
        shape = np.broadcast_shapes(*[a.shape for a in args if type(a) is Symbol])
        return Symbol(self._builder, self._builder.make(op, *exprs), dtype, shape)

    def become(self, other: "Symbol") -> "Symbol":
        self.expr = other.expr
        return self

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def astype(self, dtype: Any, copy: bool = True) -> "Symbol":
        if np.dtype(dtype) != self.dtype:
            raise Unsupported("astype inside an op")
        return self

    def __bool__(self) -> bool:
        raise Unsupported("a branch on a value")

    def __pow__(self, other: Any) -> "Symbol":
        return self.make(*_power(self, other))

    def __rpow__(self, other: Any) -> "Symbol":
        return self.make("pow", other, self)


def _power(x: Any, n: Any) -> tuple[Any, ...]:
    """NumPy's own shortcuts for the powers that have them."""
    if isinstance(n, (int, float)):
        if n == 2:
            return "square", x
        if n == 0.5:
            return "sqrt", x
        if n == -1:
            return "recip", x
    return "pow", x, n


def _operators() -> None:
    """Give Symbol the operators of arrays."""

    def binary(op: str) -> Callable[..., Symbol]:
        return lambda self, other: self.make(op, self, other)

    def swapped(op: str) -> Callable[..., Symbol]:
        return lambda self, other: self.make(op, other, self)

    def in_place(op: str) -> Callable[..., Symbol]:
        return lambda self, other: self.become(self.make(op, self, other))

    for name, op in {"add": "add", "sub": "sub", "mul": "mul", "truediv": "div"}.items():
        setattr(Symbol, f"__{name}__", binary(op))
        setattr(Symbol, f"__r{name}__", swapped(op))
        setattr(Symbol, f"__i{name}__", in_place(op))
    for name in ("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor"):
        setattr(Symbol, f"__{name}__", binary(name))
    for name, op in {"neg": "neg", "abs": "abs", "invert": "not"}.items():
        setattr(Symbol, f"__{name}__", lambda self, op=op: self.make(op, self))


_operators()


class SymbolModule:
    """The array module an op's `forward` gets: the functions that have an opcode."""

    float16 = np.float16
    float32 = np.float32

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def __getattr__(self, name: str) -> Any:
        composed = _COMPOSED.get(name)
        if composed is not None:
            return lambda *args, **options: composed(self, *args, **options)
        op = _NUMPY_NAMES.get(name)
        if op is None:
            raise Unsupported(f"xp.{name}")

        def call(*args: Any, out: Symbol | None = None) -> Symbol:
            symbol = next((a for a in args if type(a) is Symbol), None)
            if symbol is None:
                raise Unsupported(f"xp.{name} of numbers")
            result = symbol.make(op, *args)
            return result if out is None else out.become(result)

        return call


_NUMPY_NAMES = {name: name for name in (*UNARY, *BINARY, "where")} | {
    "negative": "neg",
    "absolute": "abs",
    "reciprocal": "recip",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "arctan2": "atan2",
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "power": "pow",
    "maximum": "max",
    "minimum": "min",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "equal": "eq",
    "not_equal": "ne",
    "logical_and": "and",
    "logical_or": "or",
    "logical_xor": "xor",
    "logical_not": "not",
    "round": "rint",
}
for _wrong in (
    "max",
    "min",
    "sub",
    "mul",
    "div",
    "neg",
    "recip",
    "not",
    "and",
    "or",
    "xor",
    "mulz",
    "half",
):
    del _NUMPY_NAMES[_wrong]  # names that mean something else in NumPy, or nothing


def _clip(xp: Any, x: Any, low: Any, high: Any) -> Any:
    return xp.minimum(xp.maximum(x, low), high)


def _logaddexp(xp: Any, a: Any, b: Any) -> Any:
    # Equal infinities would give inf − inf.
    top, distance = xp.maximum(a, b), xp.abs(a - b)
    return xp.where(xp.equal(a, b), top + math.log(2), top + xp.log1p(xp.exp(-distance)))


def _on_truths(op: str) -> Callable[..., Any]:
    """A bitwise operation is a logical one on booleans, and has no opcode on integers."""

    def call(xp: Any, *xs: Any) -> Any:
        if any(getattr(x, "dtype", None) != np.bool_ for x in xs):
            raise Unsupported("bits of integers")
        return xs[0].make(op, *xs)

    return call


def _same(xp: Any, x: Any) -> Any:
    return x


_COMPOSED: dict[str, Callable[..., Any]] = {
    "clip": _clip,
    "logaddexp": _logaddexp,
    "positive": _same,
    "bitwise_and": _on_truths("and"),
    "bitwise_or": _on_truths("or"),
    "bitwise_xor": _on_truths("xor"),
    "invert": _on_truths("not"),
}


def symbolic(
    forward: Callable[..., Any],
    builder: Builder,
    operands: Sequence[Any],
    params: dict[str, Any],
) -> list[Expr]:
    """The expressions of ``forward``'s outputs. An operand is a number or (expr, dtype, shape).

    Raises `Unsupported` where ``forward`` does what no fused loop can.
    """
    args = [a if not isinstance(a, tuple) else Symbol(builder, *a) for a in operands]
    try:
        y = forward(SymbolModule(builder), *args, **params)
    except (AttributeError, TypeError, ValueError) as error:
        raise Unsupported(str(error)) from error
    results = y if isinstance(y, tuple) else (y,)
    if not all(type(r) is Symbol for r in results):
        raise Unsupported("a result that is no array")
    return [r.expr for r in results]


def lines(roots: Sequence[Expr]) -> list[Expr]:
    """All nodes below ``roots``, arguments before what uses them."""
    found: dict[int, Expr] = {}
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        expr, ready = stack.pop()
        if id(expr) in found:
            continue
        if ready:
            found[id(expr)] = expr
        else:
            stack.append((expr, True))
            stack.extend((a, False) for a in reversed(expr.args))
    return list(found.values())


def substituted(roots: Sequence[Expr], builder: Builder, given: dict[int, Expr]) -> list[Expr]:
    """``roots`` with the operands whose id is in ``given`` replaced, made anew by ``builder``."""
    new: dict[int, Expr] = {}
    for expr in lines(roots):
        if id(expr) in given:
            new[id(expr)] = given[id(expr)]
        elif expr.op == "in":
            new[id(expr)] = builder.operand(expr.value, expr.scalar)
        elif expr.op == "const":
            new[id(expr)] = builder.const(expr.value)
        else:
            new[id(expr)] = builder.make(expr.op, *[new[id(a)] for a in expr.args])
    return [new[id(root)] for root in roots]
