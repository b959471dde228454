"""Derivative rules: from what a declaration writes to what the scheduler calls. Imports late only.

A rule reads exactly what it names. In ``vjp=lambda g, y: g * y`` the output is saved for backward
and the input is not; ``like`` is the aval of the input the rule is for; keyword-only names are
parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpugrad.late import ops

# rule(g, saved, like, params) -> cotangent of one input; saved is (inputs…, output)
Rule = Callable[[Any, Sequence[Any], Any, dict[str, Any]], Any]
# push(tangents, y, xs, params) -> tangent of the output; a missing tangent is None
Push = Callable[[Sequence[Any], Any, Sequence[Any], dict[str, Any]], Any]


def names(function: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Positional (``*rest`` last, under its bare name) and keyword-only parameter names.

    By hand, because importing `inspect` would cost more than all of our own modules.
    """
    code = function.__code__
    end = code.co_argcount + code.co_kwonlyargcount
    positional = code.co_varnames[: code.co_argcount]
    if code.co_flags & 0x04:
        positional += (code.co_varnames[end],)
    return positional, code.co_varnames[code.co_argcount : end]


def is_variadic(function: Callable[..., Any]) -> bool:
    return bool(function.__code__.co_flags & 0x04)


# Where a rule finds what it names: in ``saved`` by position, or one of these.
LIKE, REST, OUTPUT = -10, -11, -1


def reading(
    function: Callable[..., Any],
    args: Sequence[str],
    keys: Sequence[str],
    inputs: Sequence[str],
    variadic: bool = False,
) -> tuple[Rule, tuple[int, ...]]:
    """``function(g, *args, **keys)`` as a Rule, and what of ``saved`` it reads."""
    slots = {name: i for i, name in enumerate(inputs)} | {"y": OUTPUT, "like": LIKE}
    fixed = len(inputs) - variadic
    if variadic:
        slots[inputs[-1]] = REST
    at = tuple(slots[name] for name in args)
    reads = tuple(i for i in at if i != LIKE)
    rule: Rule
    if keys or min(at, default=0) <= LIKE:

        def rule(g: Any, saved: Sequence[Any], like: Any, params: dict[str, Any]) -> Any:
            values = [like if i == LIKE else saved[fixed:-1] if i == REST else saved[i] for i in at]
            return function(g, *values, **{key: params[key] for key in keys})

    elif not at:

        def rule(g: Any, saved: Sequence[Any], like: Any, params: dict[str, Any]) -> Any:
            return function(g)

    elif len(at) == 1:
        (only,) = at

        def rule(g: Any, saved: Sequence[Any], like: Any, params: dict[str, Any]) -> Any:
            return function(g, saved[only])

    else:

        def rule(g: Any, saved: Sequence[Any], like: Any, params: dict[str, Any]) -> Any:
            return function(g, *[saved[i] for i in at])

    return rule, reads


class Joint:
    """One rule ``(g, saved, node) -> cotangents`` that serves all inputs in one call.

    ``reads`` says for each input what its cotangent reads of ``saved``. A bare g that the rule
    ``overwrites`` is its own: it may return it as a cotangent, to be overwritten further on.
    """

    def __init__(
        self,
        rule: Callable[..., Sequence[Any]],
        reads: Sequence[tuple[int, ...]] = (),
        overwrites: bool = False,
    ) -> None:
        self.rule = rule
        self.reads = reads
        self.overwrites = overwrites


class EveryInput:
    """One rule ``(g, index, **params)`` for all inputs of a variadic op, indexed like a list."""

    def __init__(self, rule: Callable[..., Any]) -> None:
        self.rule = rule

    def __getitem__(self, i: int) -> Rule:
        return lambda g, saved, like, params: self.rule(g, i, **params)


def from_partials(
    name: str,
    partials: Sequence[Callable[..., Any] | int | None],
    inputs: Sequence[str],
    singular: bool,
) -> tuple[list[tuple[Rule | None, tuple[int, ...]]], Push]:
    """vjp rules and the jvp of an elementwise op: both multiply by the local partial derivative.

    Of complex numbers the vjp takes its conjugate: a gradient is then dL/dRe + i·dL/dIm.
    """
    rules = [_from_partial(name, partial, inputs, singular, True) for partial in partials]
    pushes = [_from_partial(name, partial, inputs, singular, False) for partial in partials]

    def push(tangents: Sequence[Any], y: Any, xs: Sequence[Any], params: dict[str, Any]) -> Any:
        values = (*xs, y)
        return total(
            rule(dx, values, None, params)
            for (rule, _), dx in zip(pushes, tangents, strict=True)
            if rule is not None and dx is not None
        )

    return rules, push


def _from_partial(
    name: str,
    partial: Callable[..., Any] | int | None,
    inputs: Sequence[str],
    singular: bool,
    pulls: bool,
) -> tuple[Rule | None, tuple[int, ...]]:
    if partial is None:
        return None, ()
    if isinstance(partial, int):
        return reading((lambda g: g) if partial == 1 else (lambda g: -g), (), (), inputs)
    d: Callable[..., Any] = partial
    args, keys = names(d)
    if args[:1] == ("g",):
        return reading(d, args[1:], keys, inputs)

    def times(g: Any, *values: Any, **params: Any) -> Any:
        factor = d(*values, **params)
        if pulls and g.dtype.kind == "c":
            factor = conjugate(factor)
            if singular:
                g = _with_direction(name, g, factor, values)
        return scaled(g, factor) if singular else g * factor

    if keys or len(args) != 1:
        return reading(times, args, keys, inputs)

    # The common case once more without the layers between: it is most of what the tape costs.
    (arg,) = args
    at = OUTPUT if arg == "y" else list(inputs).index(arg)

    def rule(g: Any, saved: Sequence[Any], like: Any, params: dict[str, Any]) -> Any:
        value = saved[at]
        if singular and type(value) not in (int, float):
            return times(g, value)
        factor = d(value)
        if pulls and g.dtype.kind == "c":
            factor = conjugate(factor)
        return g * factor

    return rule, (at,)


def _with_direction(name: str, g: Any, factor: Any, values: Sequence[Any]) -> Any:
    """``g``; an error at a complex pole or branch point, where the partial is ∞ and NaN at once.

    In reverse mode alone: of a tangent nobody knows here whether a ``where`` will discard it.
    """
    if type(factor) in (int, float, complex) or _is_finite(factor):
        return g
    bad = ops.logical_and(ops.logical_not(ops.isfinite(factor)), g != 0)
    for value in values:
        if hasattr(value, "shape"):  # one that is not finite itself has been seen before
            bad = ops.logical_and(bad, ops.isfinite(value))
    rule = "at a pole or branch point a complex derivative is infinite, in no direction"
    return ops.refuse(g, bad, owner=name, rule=rule, hint="gg.where(...), or a point beside it")


def scaled(g: Any, factor: Any) -> Any:
    """``g * factor`` with 0·∞ = 0."""
    product = g * factor
    if type(factor) in (int, float, complex):
        return product
    if _is_finite(product):
        return product  # one cheap look instead of more arrays
    # Only 0·∞ is touched: elsewhere the product's own derivative is needed for the next order.
    return ops.where(ops.logical_and(ops.isnan(product), g == 0), 0, product)


def _is_finite(x: Any) -> bool:
    """Whether a host value is finite throughout; what cannot be told cheaply counts as not."""
    while hasattr(x, "_data"):  # a Tensor, and under it the value without tangents
        x = x._data
        while hasattr(x, "primal"):
            x = x.primal
    return isinstance(x, (np.ndarray, np.generic)) and bool(np.isfinite(x.sum()))


def conjugate(x: Any) -> Any:
    """Conjugate of a Tensor, an array or a number; what is real comes back as it is."""
    if hasattr(x, "dtype"):
        return ops.conj(x) if x.dtype.kind == "c" else x
    return x.conjugate()


def forward_rule(op: Any, jvp: str | Callable[..., Any] | None) -> Push | None:
    """``"linear"``, ``"multilinear"`` or a function of what it names, as a Push."""
    push: Push
    if jvp == "linear":
        # Linear in its first input; whatever follows (indices, say) has no derivative.
        def push(tangents: Sequence[Any], y: Any, xs: Sequence[Any], params: dict[str, Any]) -> Any:
            return None if tangents[0] is None else op(tangents[0], *xs[1:], **params)

    elif jvp == "multilinear":

        def push(tangents: Sequence[Any], y: Any, xs: Sequence[Any], params: dict[str, Any]) -> Any:
            return total(
                op(*xs[:i], dx, *xs[i + 1 :], **params)
                for i, dx in enumerate(tangents)
                if dx is not None
            )

    elif callable(jvp):
        args, keys = names(jvp)

        def push(tangents: Sequence[Any], y: Any, xs: Sequence[Any], params: dict[str, Any]) -> Any:
            known = {"y": y}
            for name, x, dx in zip(op.inputs, xs, tangents, strict=False):
                known[name], known["d" + name] = x, dx
            known["xs"], known["tangents"] = xs, tangents
            return jvp(*[known[name] for name in args], **{key: params[key] for key in keys})

    else:
        return None
    return push


def total(terms: Any) -> Any:
    """Sum of what there is, None of nothing."""
    result = None
    for term in terms:
        result = term if result is None else result + term
    return result
