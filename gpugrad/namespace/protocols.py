"""NumPy calling us: its functions on tensors run as ours, or raise; none detaches silently.

Ours is found by NumPy's name, the arguments are sorted out by NumPy's own signature. Imports the
NumPy names beside it, aval, operators, rules and errors.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from gpugrad.errors import DtypeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace import ON_DEMAND, info
from gpugrad.namespace import numpy as composed
from gpugrad.namespace.adapted import ADAPTED
from gpugrad.namespace.array import spread
from gpugrad.namespace.lifting import as_written, host, leaves, together
from gpugrad.namespace.numpy import calculus
from gpugrad.namespace.numpy.elementwise import conjugate
from gpugrad.node import Dual
from gpugrad.op import is_foreign
from gpugrad.operators import refuse_numpy
from gpugrad.rules import is_variadic, names
from gpugrad.tensor import Tensor

# Ufuncs


def array_ufunc(ufunc: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """``np.sin(t)``, ``array * t``: the op of that name. ``array += t`` arrives with ``out``."""
    name = ufunc.__name__
    if "out" in options:
        hint = f"a = a {name} t, which makes a a tensor, or t.detach().numpy()"
        rule = "a NumPy array cannot hold a tensor's result in place"
        raise DtypeError(message(name, rule, hint=hint))
    for x in inputs:
        if type(x) is not Tensor and type(x) is not np.ndarray and is_foreign(x):
            return NotImplemented  # its library is asked next, and may have tensors inside
    for x in inputs:
        if type(x) is list or type(x) is tuple:
            inputs = tuple(_written(inputs))
            break
    if method == "__call__":
        ours = _called(name)
        if options and ours is not None:
            ours = _with_options(ours, name, options)
    else:
        ours = _METHODS[method](name, options) if method in _METHODS else None
    if ours is not None:
        return ours(*inputs)
    if method == "at" and isinstance(inputs[0], Tensor):
        hint = "x[i] = f(x[i], v), where an index that occurs twice counts once"
        raise DtypeError(message(f"{name}.at", "only add.at and subtract.at", hint=hint))
    if method == "__call__":
        return _on_values(ufunc, name, inputs, options)
    return _on_values(getattr(ufunc, method), f"{name}.{method}", inputs, options)


def _called(name: str) -> Any:
    if name in _BY_HAND:
        return _BY_HAND[name]
    known = getattr(ops, composed.ALIASES.get(name, name), None)
    return known if known is not None else getattr(functions, name, None)


def _matvec(a: Any, x: Any) -> Tensor:
    return functions.matmul(a, functions.asarray(x)[..., None])[..., 0]


def _vecmat(x: Any, a: Any) -> Tensor:
    return functions.matmul(conjugate(functions.asarray(x))[..., None, :], a)[..., 0, :]


# Ufuncs that are not one op. What an op of NumPy's name is for, `ops` knows.
_BY_HAND: dict[str, Callable[..., Any]] = {
    "conjugate": lambda x: conjugate(functions.asarray(x)),
    "matmul": lambda a, b: functions.matmul(a, b),
    "matvec": _matvec,
    "vecdot": lambda a, b, axis=-1: functions.vecdot(a, b, axis=axis),
    "vecmat": _vecmat,
}

# What these options are when they are left out.
_NEUTRAL = {"where": True, "casting": "same_kind", "order": "K", "subok": True, "keepdims": False}


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that ask for something."""
    return {
        key: value
        for key, value in options.items()
        if value is not None
        and value is not np._NoValue
        and (key not in _NEUTRAL or value is not _NEUTRAL[key])
    }


def _with_options(ours: Any, name: str, options: dict[str, Any]) -> Any:
    """``ours`` doing what the options say, or None."""
    given = _given(options)
    if not given:
        return ours
    if given.keys() == {"axis"} and name == "vecdot":
        return lambda *xs: ours(*xs, **given)
    if given.keys() == {"dtype"} and np.dtype(given["dtype"]).kind in "fc":
        return lambda *xs: ours(
            *[functions.astype(functions.asarray(x), given["dtype"]) for x in xs]
        )
    return None


_REDUCTIONS = {
    "add": "sum",
    "fmax": "nanmax",
    "fmin": "nanmin",
    "logaddexp": "logsumexp",
    "logical_and": "all",
    "logical_or": "any",
    "maximum": "max",
    "minimum": "min",
    "multiply": "prod",
}


def _reduce(name: str, options: dict[str, Any]) -> Any:
    axis = options.get("axis", 0)  # None means all, so it is no `_given` option
    given = {key: value for key, value in _given(options).items() if key != "axis"}
    if name not in _REDUCTIONS:
        return None
    ours = ADAPTED.get(_REDUCTIONS[name])
    allowed = {"keepdims"} if ours is None else set(names(ours)[0])
    if not given.keys() <= allowed:
        return None
    run = ours or getattr(functions, _REDUCTIONS[name])
    return lambda x: run(functions.asarray(x), axis=axis, **given)


def _accumulate(name: str, options: dict[str, Any]) -> Any:
    given = {"axis": 0} | _given(options)
    running = {"add": calculus.cumsum, "multiply": calculus.cumprod}.get(name)
    if running is None or not given.keys() <= {"axis", "dtype"}:
        return None
    return lambda x: running(x, **given)


def _outer(name: str, options: dict[str, Any]) -> Any:
    ours = None if name in _BY_HAND else _called(name)
    if ours is None or _given(options):
        return None

    def outer(a: Any, b: Any) -> Any:
        a, b = together(a, b)
        return ours(functions.reshape(a, a.shape + (1,) * b.ndim), b)

    return outer


def _at(name: str, options: dict[str, Any]) -> Any:
    """``np.add.at(x, i, v)``: an index that occurs twice counts twice."""
    if name not in ("add", "subtract") or options:
        return None

    def at(x: Any, index: Any, values: Any) -> None:
        if not isinstance(x, Tensor):
            _on_values(getattr(np, name).at, f"{name}.at", (x, index, values), {})
            return
        v = together(x, values)[1]
        if not np.can_cast(v.dtype, x.dtype, "same_kind"):
            got = f"{v.dtype} into {x.dtype}"
            raise DtypeError(message(f"{name}.at", "the values would lose their kind", got))
        v = functions.broadcast_to(functions.astype(v, x.dtype), x.detach()[index].shape)
        x._assign(getattr(ops, name)(x, spread(v, index, x)))

    return at


_METHODS: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "accumulate": _accumulate,
    "at": _at,
    "outer": _outer,
    "reduce": _reduce,
}


# Functions


class _Plan(NamedTuple):
    """What is known of one of NumPy's functions before its first call."""

    name: str
    ours: Callable[..., Any] | None
    takes: frozenset[str] | None  # our parameters; None: whatever comes
    order: tuple[str, ...] | None  # NumPy's parameters; None: it does not say, being written in C
    required: int
    defaults: dict[str, Any]
    converts: bool  # whether Python's floats are for us to convert


@cache
def _plan(func: Any) -> _Plan:
    home = func.__module__.partition(".")[2]
    name = f"{home}.{func.__name__}" if home else func.__name__
    ours = ADAPTED.get(name) or _of_that_name(home, func.__name__)
    if ours is None:
        return _Plan(name, None, None, None, 0, {}, False)
    positional, keywords = names(ours)
    takes = None if ours.__code__.co_flags & _TAKES_ANY else frozenset((*positional, *keywords))
    converts = not ours.__module__.startswith(composed.__name__)
    python: Any = getattr(func, "__wrapped__", func)
    if not hasattr(python, "__code__") or is_variadic(python):
        return _Plan(name, ours, takes, None, 0, {"out": None, "dtype": None}, converts)
    order, usual = names(python)[0], python.__defaults__ or ()
    required = len(order) - len(usual)
    defaults = dict(zip(order[required:], usual, strict=True)) | (python.__kwdefaults__ or {})
    return _Plan(name, ours, takes, order, required, defaults, converts)


_TAKES_ANY = 0x08  # the flag of code with a ``**kwargs``


def _of_that_name(home: str, name: str) -> Any:
    """Our function of NumPy's name; linalg and fft are looked up when they are asked for."""
    if not home:
        return getattr(functions, name, None)
    return getattr(getattr(info.array_namespace(None), home, None), name, None)


def array_function(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``np.sum(t)``, ``np.concatenate([t, u])``: our function, called with NumPy's arguments."""
    plan = _plan(func)
    name = plan.name
    instead = _stand_in if name in _OF_SHAPES else host if name in _PRINTING else None
    if instead is not None:
        return func(*map(instead, args), **{key: instead(x) for key, x in kwargs.items()})
    if plan.ours is None or (
        ON_DEMAND.get(name) == "numpy.writing" and not isinstance(args[0], Tensor)
    ):
        return _on_values(func, name, args, kwargs)
    positional, options = _arguments(plan, args, kwargs)
    if plan.converts and not _PLAIN.isdisjoint(map(type, positional)):
        positional = _written(positional)
    return plan.ours(*positional, **options)


_PLAIN = {float, list, tuple}

# Options that change how NumPy works but not what it returns.
_HARMLESS = ("assume_unique", "copy", "kind", "optimize", "overwrite_input", "stable")

_HINTS = {
    "out": "y = f(x): a result is a tensor of its own",
    "where": "gg.where(mask, x, 0) before",
    "initial": "gg.maximum(initial, f(x)), or initial + f(x), after",
}


def _arguments(
    plan: _Plan, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """A call of NumPy's function as its required arguments by position, and options by name.

    Options that have NumPy's own default are left out, and so are harmless ones that ours does not
    take. Raises `DtypeError` at any other that it does not take.
    """
    first, named = list(args), kwargs
    if plan.order is not None:
        named = dict(zip(plan.order, args, strict=False)) | kwargs
        first = [named.pop(key) for key in plan.order[: plan.required]]
    options = {}
    for key, value in named.items():
        if value is np._NoValue or (key in plan.defaults and value is plan.defaults[key]):
            continue
        if plan.takes is None or key in plan.takes:
            options[key] = value
        elif key not in _HARMLESS:
            hint = _HINTS.get(key, f"without {key}, or x.detach().numpy()")
            raise DtypeError(message(plan.name, f"{key}= is not supported on tensors", hint=hint))
    return first, options


def _written(args: Any) -> list[Any]:
    """Arguments with Python's floats in the tensors' dtype and on their device, exact as in NumPy.

    On its own a list of floats would become float32.
    """
    typed = [x for x in leaves(args) if isinstance(x, (Tensor, np.ndarray))]
    dtype = np.result_type(*[x.dtype for x in typed]) if typed else None
    if dtype is None or dtype.kind not in "fc":
        return list(args)
    device = next((x.device for x in typed if isinstance(x, Tensor)), None)

    def exact(x: Any) -> Any:
        if type(x) is not list and type(x) is not tuple:
            return functions.asarray(x, dtype, device) if type(x) is float else x
        kinds = set(map(type, leaves(x)))
        if float in kinds and kinds <= {bool, int, float}:
            return functions.asarray(as_written(x, dtype), device=device)
        return type(x)(map(exact, x))

    return [exact(x) for x in args]


def _on_values(function: Any, name: str, args: Any, kwargs: Any) -> Any:
    """What we have no derivative for runs on plain values; with a tensor on the tape it raises."""

    def value(x: Any) -> Any:
        if isinstance(x, Tensor):
            if x.requires_grad or type(x._data) is Dual or x.device != "cpu":
                raise refuse_numpy(name)
            return x.numpy()
        if isinstance(x, (list, tuple)):
            return type(x)(map(value, x))
        return x

    return function(*map(value, args), **{key: value(x) for key, x in kwargs.items()})


# These look at shapes and dtypes alone, so an array of the same shape can take a tensor's place.
_OF_SHAPES = {
    "can_cast",
    "common_type",
    "diag_indices_from",
    "einsum_path",
    "iscomplexobj",
    "isrealobj",
    "ndim",
    "result_type",
    "shape",
    "size",
    "tril_indices_from",
    "triu_indices_from",
}


def _stand_in(x: Any) -> Any:
    return np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, Tensor) else x


_PRINTING = {"array2string", "array_repr", "array_str"}
