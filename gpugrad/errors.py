"""Every exception gpugrad raises on purpose. Imports NumPy alone.

A message reads ``[op] rule that broke; got …; try …``. Each class also derives from the built-in a
NumPy user would catch.
"""

import numpy as np

# What other libraries' names are here, for the words of an AttributeError.
ELSEWHERE = {
    "add_": "x += y",
    "at": "x[i] = v",
    "cat": "gg.concat",
    "clone": "gg.asarray(x, copy=True)",
    "cpu": 'x.to("cpu")',
    "cuda": 'x.to("cuda")',
    "elementwise_grad": "gg.grad(lambda x: gg.sum(f(x)))",
    "from_numpy": "gg.asarray",
    "gather": "gg.take_along_axis",
    "hessian_vector_product": "gg.hvp",
    "jacfwd": 'gg.jacobian(f, mode="forward")',
    "jacrev": "gg.jacobian",
    "jit": "gg.compile",
    "make_jvp": "gg.jvp",
    "make_vjp": "gg.vjp",
    "manual_seed": "gg.nn.manual_seed, or a gg.random.Generator",
    "permute": "gg.permute_dims",
    "relu": "gg.nn.relu",
    "softmax": "gg.nn.softmax",
    "stop_gradient": "x.detach()",
    "t": "x.T",
    "unsqueeze": "x[None], or gg.expand_dims",
    "view": "x.reshape",
}


def no_attribute(owner: str, name: str) -> AttributeError:
    """What to raise for a name that is not there, with what it is called here if it is known."""
    hint = f"; try {ELSEWHERE[name]}" if name in ELSEWHERE else ""
    return AttributeError(f"{owner} has no attribute {name!r}{hint}")


class GpugradError(Exception):
    """Base of all errors gpugrad raises on purpose."""


class ShapeError(GpugradError, ValueError):
    """Shapes that do not fit the operation."""


class DtypeError(GpugradError, TypeError):
    """A dtype, or a kind of object, the operation does not take."""


class BoundsError(GpugradError, IndexError):
    """An index or a label outside its range."""


class AxisError(ShapeError, BoundsError):
    """An axis the array does not have; a ValueError and an IndexError, as NumPy's."""


class DeviceError(GpugradError, RuntimeError):
    """A device that is absent, unusable, or mixed with another."""


class DeviceMemoryError(DeviceError, MemoryError):
    """The device has no room for what was asked of it."""


class GradientError(GpugradError, RuntimeError):
    """A derivative that cannot be taken: not recorded, already freed, or not a scalar."""


class LinAlgError(GpugradError, np.linalg.LinAlgError):
    """A matrix for which the result does not exist: singular, or not positive definite."""


class TraceError(GpugradError, RuntimeError):
    """A step that cannot be compiled: it depends on values, or on what is no argument of it."""


class NonFiniteError(GpugradError, FloatingPointError):
    """A NaN or Inf in the forward pass, found because GPUGRAD_CHECK is on."""


class DataError(GpugradError, ValueError):
    """A data file that is missing, cut off or malformed."""


class CheckpointError(GpugradError, ValueError):
    """A checkpoint that is cut off, unreadable, or of another architecture."""


class MissingDependency(GpugradError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def message(op: str, rule: str, got: object = None, hint: str = "") -> str:
    """``[op] rule; got …; try …``, the one shape every message has."""
    parts = [f"[{op}] {rule}"]
    if got is not None:
        parts.append(f"got {got}")
    if hint:
        parts.append(f"try {hint}")
    return "; ".join(parts)
