"""NumPy calling us: ufuncs on tensors stay on the tape, or raise; they never detach silently.

Imports ops and creation.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from gpugrad.errors import DtypeError, message
from gpugrad.late import functions, ops
from gpugrad.operators import refuse_numpy
from gpugrad.tensor import Dual, Tensor

# NumPy's names where they are not ours.
_UFUNCS = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "power": "pow",
    "right_shift": "bitwise_right_shift",
    "rint": "round",
    "true_divide": "divide",
}


def array_ufunc(ufunc: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """``np.sin(t)``, ``array * t``: the op of that name. ``array += t`` arrives with ``out``."""
    name = ufunc.__name__
    if method != "__call__":
        return _on_values(getattr(ufunc, method), f"{name}.{method}", inputs, options)
    if "out" in options:
        hint = f"a = a {name} t, which makes a a tensor, or t.detach().numpy()"
        rule = "a NumPy array cannot hold a tensor's result in place"
        raise DtypeError(message(name, rule, hint=hint))
    if ufunc is np.matmul:
        return functions.matmul(*inputs)
    op = getattr(ops, _UFUNCS.get(name, name), None)
    if op is None or options:
        return _on_values(ufunc, name, inputs, options)
    return op(*inputs)


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


def array_function(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``np.sum(t)``, ``np.concatenate([t, u])``: our function, called with NumPy's arguments."""
    adapt = _FUNCTIONS.get(func)
    if adapt is None:
        return _on_values(func, func.__name__, args, kwargs)
    given = {key: value for key, value in kwargs.items() if value is not np._NoValue}
    try:
        return adapt(*args, **given)
    except TypeError as error:
        if isinstance(error, DtypeError) or "argument" not in str(error):
            raise
        hint = "the arguments gpugrad's function takes"
        raise DtypeError(message(func.__name__, str(error), hint=hint)) from None


def _reduction(name: str, **renamed: str) -> Callable[..., Any]:
    def adapt(a: Any, axis: Any = None, **kwargs: Any) -> Any:
        ours = {renamed.get(key, key): value for key, value in kwargs.items()}
        return getattr(functions, name)(a, axis=axis, **ours)

    return adapt


# NumPy's function -> ours under NumPy's signature. What is not here raises, and never detaches.
_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.all: _reduction("all"),
    np.amax: _reduction("max"),
    np.amin: _reduction("min"),
    np.any: _reduction("any"),
    np.argmax: _reduction("argmax"),
    np.argmin: _reduction("argmin"),
    np.broadcast_to: lambda array, shape: functions.broadcast_to(array, shape),
    np.clip: lambda a, a_min=None, a_max=None: functions.clip(a, a_min, a_max),
    np.concatenate: lambda arrays, axis=0: functions.concat(arrays, axis=axis),
    np.cumsum: _reduction("cumulative_sum"),
    np.dot: lambda a, b: functions.matmul(a, b),
    np.expand_dims: lambda a, axis: functions.expand_dims(a, axis=axis),
    np.flip: lambda m, axis=None: functions.flip(m, axis=axis),
    np.max: _reduction("max"),
    np.mean: _reduction("mean"),
    np.min: _reduction("min"),
    np.ndim: lambda a: len(a.shape),
    np.moveaxis: lambda a, source, destination: functions.moveaxis(a, source, destination),
    np.ones_like: lambda a, dtype=None: functions.ones_like(a, dtype=dtype),
    np.prod: _reduction("prod"),
    np.ravel: lambda a: functions.reshape(a, (-1,)),
    np.reshape: lambda a, shape: functions.reshape(a, shape),
    np.roll: lambda a, shift, axis=None: functions.roll(a, shift, axis=axis),
    np.shape: lambda a: a.shape,
    np.squeeze: lambda a, axis=None: functions.asarray(a).squeeze(axis),
    np.stack: lambda arrays, axis=0: functions.stack(arrays, axis=axis),
    np.std: _reduction("std", ddof="correction"),
    np.sum: _reduction("sum"),
    np.take: lambda a, indices, axis=None: functions.take(a, indices, axis=axis),
    np.transpose: lambda a, axes=None: functions.asarray(a).transpose(*(axes or ())),
    np.tril: lambda m, k=0: functions.tril(m, k=k),
    np.triu: lambda m, k=0: functions.triu(m, k=k),
    np.var: _reduction("var", ddof="correction"),
    np.where: lambda condition, x, y: functions.where(condition, x, y),
    np.zeros_like: lambda a, dtype=None: functions.zeros_like(a, dtype=dtype),
}


def array_namespace(api_version: str | None) -> Any:
    """The module whose functions take tensors: this package."""
    if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12", "2025.12"):
        raise ValueError(message("__array_namespace__", "unknown version", api_version))
    return sys.modules[Tensor.__module__.partition(".")[0]]
