"""NumPy calling us: its functions on tensors run as ours, or raise; none detaches silently.

Ours is found by NumPy's name, the arguments are sorted out by NumPy's own signature. Imports the
NumPy names beside it, aval, operators, rules and errors.
"""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from gpugrad.aval import normalize_axis
from gpugrad.errors import DtypeError, message
from gpugrad.late import functions, ops
from gpugrad.namespace import numpy as composed
from gpugrad.namespace.lifting import as_written, host, together
from gpugrad.namespace.numpy.ranges import line
from gpugrad.operators import refuse_numpy
from gpugrad.rules import is_variadic, names
from gpugrad.tensor import Dual, Tensor

# Ufuncs


def array_ufunc(ufunc: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """``np.sin(t)``, ``array * t``: the op of that name. ``array += t`` arrives with ``out``."""
    name = ufunc.__name__
    if "out" in options:
        hint = f"a = a {name} t, which makes a a tensor, or t.detach().numpy()"
        rule = "a NumPy array cannot hold a tensor's result in place"
        raise DtypeError(message(name, rule, hint=hint))
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
        raise _in_place(f"{name}.at", "x[i] = x[i] + v, or gg.bincount(i, weights=v)")
    if method == "__call__":
        return _on_values(ufunc, name, inputs, options)
    return _on_values(getattr(ufunc, method), f"{name}.{method}", inputs, options)


def _called(name: str) -> Any:
    if name in _BY_HAND:
        return _BY_HAND[name]
    known = getattr(ops, composed.ALIASES.get(name, name), None)
    return known if known is not None else getattr(functions, name, None)


def _matvec(a: Any, x: Any) -> Tensor:
    return functions.matmul(a, _lifted(x)[..., None])[..., 0]


def _vecmat(x: Any, a: Any) -> Tensor:
    return functions.matmul(composed.conjugate(_lifted(x))[..., None, :], a)[..., 0, :]


def _modf(x: Any) -> tuple[Tensor, Tensor]:
    whole = functions.trunc(x)
    return functions.where(functions.isinf(x), 0.0, x - whole), whole


# Ufuncs that are not one op. What an op of NumPy's name is for, `ops` knows.
_BY_HAND: dict[str, Callable[..., Any]] = {
    "conjugate": lambda x: composed.conjugate(_lifted(x)),
    "divmod": lambda a, b: (ops.floor_divide(a, b), ops.remainder(a, b)),
    "matmul": lambda a, b: functions.matmul(a, b),
    "matvec": _matvec,
    "modf": _modf,
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
        return lambda *xs: ours(*[functions.astype(_lifted(x), given["dtype"]) for x in xs])
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
    allowed = {"keepdims", "dtype"} if name in ("add", "multiply") else {"keepdims"}
    if name not in _REDUCTIONS or not given.keys() <= allowed:
        return None
    return lambda x: getattr(functions, _REDUCTIONS[name])(_lifted(x), axis=axis, **given)


def _accumulate(name: str, options: dict[str, Any]) -> Any:
    given = {"axis": 0} | _given(options)
    running = {"add": composed.cumsum, "multiply": composed.cumprod}.get(name)
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


_METHODS: dict[str, Callable[[str, dict[str, Any]], Any]] = {
    "accumulate": _accumulate,
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
    ours = _ADAPTED.get(name) or _of_that_name(home, func.__name__)
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
    return getattr(getattr(array_namespace(None), home, None), name, None)


def array_function(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``np.sum(t)``, ``np.concatenate([t, u])``: our function, called with NumPy's arguments."""
    plan = _plan(func)
    name = plan.name
    if name in _IN_PLACE and args and isinstance(args[0], Tensor):
        raise _in_place(name, _IN_PLACE[name])
    instead = _stand_in if name in _OF_SHAPES else host if name in _PRINTING else None
    if instead is not None:
        return func(*map(instead, args), **{key: instead(x) for key, x in kwargs.items()})
    if plan.ours is None:
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
    typed = [x for x in _flat(args) if isinstance(x, (Tensor, np.ndarray))]
    dtype = np.result_type(*[x.dtype for x in typed]) if typed else None
    if dtype is None or dtype.kind not in "fc":
        return list(args)
    device = next((x.device for x in typed if isinstance(x, Tensor)), None)

    def exact(x: Any) -> Any:
        if type(x) is not list and type(x) is not tuple:
            return functions.asarray(x, dtype, device) if type(x) is float else x
        kinds = set(map(type, _flat(x)))
        if float in kinds and kinds <= {bool, int, float}:
            return functions.asarray(as_written(x, dtype), device=device)
        return type(x)(map(exact, x))

    return [exact(x) for x in args]


def _flat(x: Any) -> list[Any]:
    return [leaf for part in x for leaf in _flat(part)] if type(x) in (list, tuple) else [x]


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


# These write into their first argument, which as a tensor is immutable: instead of each, this.
_IN_PLACE = {
    "copyto": "x[...] = v",
    "fill_diagonal": "x[i, i] = v with i = np.arange(n)",
    "place": "x = gg.where(mask, v, x)",
    "put": "x[i] = v",
    "put_along_axis": "x[rows, i] = v",
    "putmask": "x = gg.where(mask, v, x)",
}


def _in_place(name: str, hint: str) -> DtypeError:
    return DtypeError(message(name, "NumPy cannot write into a tensor", hint=hint))


# These look at shapes and dtypes alone, so an array of the same shape can take a tensor's place.
_OF_SHAPES = {
    "can_cast",
    "common_type",
    "diag_indices_from",
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


# NumPy's name -> ours under NumPy's signature, where the function of that name has another one.


def _lifted(x: Any) -> Tensor:
    return functions.asarray(x)


def _mean(a: Any, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    return functions.mean(_floating(a, dtype), axis=axis, keepdims=keepdims)


def _spread(name: str) -> Callable[..., Tensor]:
    def spread(
        a: Any,
        axis: Any = None,
        dtype: Any = None,
        ddof: float = 0,
        keepdims: bool = False,
        correction: float = 0,
    ) -> Tensor:
        x = _floating(a, dtype)
        return getattr(functions, name)(  # type: ignore[no-any-return]
            x, axis=axis, correction=correction or ddof, keepdims=keepdims
        )

    return spread


def _floating(a: Any, dtype: Any) -> Tensor:
    """As NumPy has it for means: integers count as float64."""
    x = _lifted(a)
    wanted = dtype if dtype is not None else x.dtype if x.dtype.kind in "fc" else np.float64
    return functions.astype(x, wanted)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, min: Any = None, max: Any = None) -> Tensor:
    return functions.clip(a, a_min if min is None else min, a_max if max is None else max)


def _take(a: Any, indices: Any, axis: int | None = None) -> Tensor:
    x = _lifted(a) if axis is not None else composed.ravel(a)
    before = (slice(None),) * normalize_axis("take", axis or 0, x.ndim)
    return x[(*before, indices if isinstance(indices, Tensor) else np.asarray(indices))]


def _ordering(name: str) -> Callable[..., Tensor]:
    def ordering(a: Any, axis: int | None = -1) -> Tensor:
        x = composed.ravel(a) if axis is None else a
        return getattr(functions, name)(x, axis=-1 if axis is None else axis)  # type: ignore[no-any-return]

    return ordering


def _take_along_axis(arr: Any, indices: Any, axis: int | None = -1) -> Tensor:
    x = composed.ravel(arr) if axis is None else arr
    return functions.take_along_axis(x, indices, axis=-1 if axis is None else axis)


def _full_like(a: Any, fill_value: Any, dtype: Any = None, shape: Any = None) -> Tensor:
    x = _lifted(a)
    return _full(x.shape if shape is None else shape, fill_value, dtype or x.dtype, x.device)


def _full(shape: Any, fill_value: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if not isinstance(fill_value, Tensor):
        fill_value = functions.asarray(np.asarray(fill_value, dtype), device=device)
    elif dtype is not None:
        fill_value = functions.astype(fill_value, dtype)
    return functions.broadcast_to(fill_value, sizes)


def _moveaxis(a: Any, source: Any, destination: Any) -> Tensor:
    lists = [tuple(v) if isinstance(v, list) else v for v in (source, destination)]
    return functions.moveaxis(a, *lists)


def _linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0
) -> Tensor:
    y = line(start, stop, num, endpoint, axis)
    return y if dtype is None else functions.astype(y, dtype)


def _unique(
    ar: Any,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
) -> Any:
    found: Any = functions.unique_all(ar)
    if found.values.dtype.kind in "fc" and bool(functions.any(functions.isnan(found.values))):
        raise DtypeError(message("unique", "NaN has no order", hint="x[~np.isnan(x)]"))
    wanted = [True, return_index, return_inverse, return_counts]
    chosen = [part for part, want in zip(found, wanted, strict=True) if want]
    return chosen[0] if len(chosen) == 1 else tuple(chosen)


def _svd(a: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    linalg = array_namespace(None).linalg
    return linalg.svd(a, full_matrices=full_matrices) if compute_uv else linalg.svdvals(a)


def _made(name: str) -> Callable[..., Tensor]:
    """``np.zeros(3, like=t)``: NumPy's values as a tensor."""

    def made(*args: Any, **kwargs: Any) -> Tensor:
        return functions.asarray(getattr(np, name)(*args, **kwargs))

    return made


def _array(object: Any, dtype: Any = None) -> Tensor:
    """``np.array([[t, 0], [0, 1]], like=t)``: nested lists may hold tensors."""
    if type(object) in (list, tuple) and any(isinstance(leaf, Tensor) for leaf in _flat(object)):
        rows = [_array(part) if type(part) in (list, tuple) else part for part in object]
        object = functions.stack(together(*rows))
    x = functions.asarray(np.asarray(object) if not isinstance(object, Tensor) else object)
    return x if dtype is None else functions.astype(x, dtype)


_ADAPTED: dict[str, Callable[..., Any]] = {
    "argsort": _ordering("argsort"),
    "array": _array,
    "asanyarray": _array,
    "asarray": _array,
    "ascontiguousarray": _array,
    "clip": _clip,
    "copy": lambda a: functions.asarray(a, copy=True),
    "full": _full,
    "full_like": _full_like,
    "imag": lambda val: functions.imag(val) if val.dtype.kind == "c" else functions.zeros_like(val),
    "linalg.svd": _svd,
    "linspace": _linspace,
    "mean": _mean,
    "moveaxis": _moveaxis,
    "real": lambda val: functions.real(val) if val.dtype.kind == "c" else val,
    "round": composed.around,
    "sort": _ordering("sort"),
    "squeeze": lambda a, axis=None: _lifted(a).squeeze(axis),
    "std": _spread("std"),
    "take": _take,
    "take_along_axis": _take_along_axis,
    "unique": _unique,
    "var": _spread("var"),
    **{
        name: _made(name) for name in ("arange", "empty", "eye", "identity", "ones", "tri", "zeros")
    },
}


def array_namespace(api_version: str | None) -> Any:
    """The module whose functions take tensors: this package."""
    if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12", "2025.12"):
        raise ValueError(message("__array_namespace__", "unknown version", api_version))
    return sys.modules[Tensor.__module__.partition(".")[0]]
