"""What a picture is made from: a function run once and watched, or a tensor on the tape as it is.

The tape gives the structure; the watcher adds what the tape does not keep: every value, constants,
times, names and the layer an op ran in. Imports nn, check and transforms.
"""

import functools
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import WEAK, Shape
from gpugrad.check import users_line
from gpugrad.errors import DtypeError, GradientError, message
from gpugrad.late import functions
from gpugrad.nn import Module
from gpugrad.node import PART, Node, concrete
from gpugrad.op import is_array
from gpugrad.state import state
from gpugrad.tensor import Tensor
from gpugrad.transforms import box, differentiating
from gpugrad.tree import flatten

_FEW = 16  # entries of an array that a picture keeps one by one


@dataclass(frozen=True)
class Glance:
    """What a picture keeps of an array: all of a small one, the range of a large one."""

    shape: Shape
    dtype: Any
    array: Any  # a copy, or None where there are more than a few entries
    low: float
    high: float
    rms: float  # √ of the mean square
    not_finite: int

    @classmethod
    def of(cls, value: Any) -> "Glance":
        """Look at an array of any device, or a Tensor."""
        data = concrete(value._data) if type(value) is Tensor else value
        host = np.asarray(backend.of(data).to_numpy(data))
        wide = np.abs(host) if host.dtype.kind == "c" else host.astype(np.float64)
        finite = wide[np.isfinite(wide)]
        low, high = (finite.min(), finite.max()) if finite.size else (np.nan, np.nan)
        peak = max(abs(low), abs(high)) or 1.0  # divided by first: no square overflows
        rms = peak * np.sqrt(np.mean((finite / peak) ** 2)) if finite.size else np.nan
        few = host.copy() if host.size <= _FEW else None
        bad = int(host.size - finite.size)
        return cls(host.shape, host.dtype, few, float(low), float(high), float(rms), bad)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def brief(self) -> str:
        """A number, up to three of them, or the shape."""
        if self.array is None or self.size > 3 or len(self.shape) > 1 or not self.size:
            return shape_text(self.shape)
        if self.size == 1:
            return number(self.array.reshape(()))
        return f"[{', '.join(map(number, self.array))}]"

    def strength(self) -> str:
        """As `brief`, but the root mean square of what it would show only the shape of."""
        text = self.brief()
        return text if text[0] != "(" and self.size else f"rms {number(self.rms)}"

    def full(self) -> str:
        """All entries of a small array, the range of a large one."""
        if self.array is not None:
            text = np.array2string(
                self.array, separator=", ", formatter={"all": number}, max_line_width=72
            )
        else:
            sign = "|x|" if np.dtype(self.dtype).kind == "c" else ""
            text = f"{sign}{number(self.low)} … {number(self.high)}, rms {number(self.rms)}"
        return f"{text}, {self.not_finite} not finite" if self.not_finite else text


def shape_text(shape: Shape) -> str:
    """``(64, 32)``, a number's as ``()``."""
    return f"({', '.join(map(str, shape))})"


def number(x: Any) -> str:
    """Four digits of a number, with a minus sign as wide as the plus."""
    kind = np.asarray(x).dtype.kind
    return (str(x) if kind in "biu" else format(x, ".4g")).replace("-", "−")


@dataclass(frozen=True)
class Layer:
    """One call of a module that holds no others."""

    call: int
    name: str
    text: str


@dataclass
class Seen:
    """What was seen of one op while it ran."""

    values: tuple[Glance, ...]  # one for each output
    constants: dict[int, str]  # operands that are not on the tape, by place
    seconds: float | None  # where times were asked for
    line: str
    layer: Layer | None


@dataclass
class Recording:
    """The tape between ``inputs`` and ``outputs``, with what was seen of it."""

    inputs: dict[Node, str]
    outputs: dict[Node, str]
    values: dict[Node, Glance]
    device: str
    names: dict[Node, str] = field(default_factory=dict)
    seen: dict[Node, Seen] = field(default_factory=dict)
    title: str = ""


def of_tensor(x: Tensor, names: Mapping[str, Any]) -> Recording:
    """The tape behind ``x``; ``names`` are the variables that may hold parts of it."""
    if x._node is None:
        rule = "this tensor is not on the tape: it depends on nothing that requires a gradient"
        hint = "gg.asarray(..., requires_grad=True) before computing it, or gg.draw(f, arguments)"
        raise GradientError(message("draw", rule, x, hint))
    named = dict(_named(names))
    return Recording(
        {}, {x._node: named.get(x._node, "y")}, {x._node: Glance.of(x)}, x.device, named
    )


def of_function(
    f: Callable[..., Any], args: tuple[Any, ...], names: Mapping[str, Any], times: bool
) -> Recording:
    """Run ``f(*args)`` once, on fresh handles of its floating arguments, and watch."""
    if state.trace is not None or state.levels:
        rule = "inside a compiled step or forward mode there are no plain values to show"
        raise GradientError(message("draw", rule, hint="gg.draw outside of it"))
    called = parameters(f, args)
    leaves, rebuild = flatten(args)
    known = [path for name, x in zip(called, args, strict=True) for path in paths(name, x)]
    inner: list[Any] = []
    inputs: dict[Node, str] = {}
    values: dict[Node, Glance] = {}
    constants: dict[int, str] = {}
    for path, x in zip(known, leaves, strict=True):
        if isinstance(x, Tensor) or is_array(x):
            x = functions.asarray(x)
            if x.dtype.kind not in "fc":
                constants[id(x._data)] = path
        if type(x) in (float, complex) or (isinstance(x, Tensor) and x.dtype.kind in "fc"):
            x = box("draw", x)
            node = x._node
            assert node is not None  # a box is on the tape
            inputs[node], values[node] = path, Glance.of(x)
        inner.append(x)
    watch = _Watch(_code(f), constants, times)
    with differentiating(), state.watched_by(watch):
        watch.mark = time.perf_counter()
        result = f(*rebuild(inner))
    title = title_of(f)
    outputs: dict[Node, str] = {}
    device = ""
    own = dict(_named({} if watch.frame is None else watch.frame.f_locals))
    for path, y in zip(paths(title, result), flatten(result)[0], strict=True):
        if isinstance(y, Tensor) and y._node is not None:
            outputs[y._node] = own.get(y._node, path)
            values[y._node] = Glance.of(y)
            device = y.device
    if not outputs:
        rule = "nothing that f returned depends on a floating argument or parameter"
        hint = "2.0 instead of 2, and gg functions inside f"
        raise GradientError(message("draw", rule, type(result).__name__, hint))
    named = {**dict(_named(names)), **watch.parameters(), **own}
    return Recording(inputs, outputs, values, device, named, watch.seen, title)


class _Watch:
    """Called after every op; walks up the stack for the layer and the frame of ``code``."""

    def __init__(self, code: Any, constants: dict[int, str], times: bool) -> None:
        self.code = code
        self.constants = constants
        self.times = times
        self.seen: dict[Node, Seen] = {}
        self.frame: FrameType | None = None
        self.mark = 0.0
        self._calls: list[FrameType] = []  # kept, so that no later frame takes one's identity
        self._tops: list[Module] = []

    def __call__(self, op: Any, xs: tuple[Any, ...], y: Any) -> None:
        parts = y if type(y) is tuple else (y,)
        seconds = None
        if self.times:
            if type(parts[0]) is Tensor:
                backend.of(concrete(parts[0]._data)).synchronize()
            seconds = time.perf_counter() - self.mark
        node = next((p._node for p in parts if type(p) is Tensor and p._node is not None), None)
        layer = self.layer()
        if node is not None:
            places = enumerate(xs)
            constants = {
                i: self.constant(x) for i, x in places if getattr(x, "_node", None) is None
            }
            values = tuple(map(Glance.of, parts))
            self.seen[owner(node)] = Seen(
                values, constants, seconds, _seen_from_here(users_line()), layer
            )
        self.mark = time.perf_counter()

    def constant(self, x: Any) -> str:
        """What to call an operand that is not on the tape."""
        data = concrete(x._data) if type(x) is Tensor else x
        if id(data) in self.constants:
            return self.constants[id(data)]
        if type(data) in WEAK:
            return number(data)
        return Glance.of(data).brief() if hasattr(data, "shape") else type(data).__name__

    def layer(self) -> Layer | None:
        """The outermost call on the stack of a module without inner ones.

        The outermost, because whatever runs during that call belongs to it: a layer drawn as one
        box can then never be both before and after another.
        """
        calls = []
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            if frame.f_code is _CALL:
                calls.append(frame)
            elif frame.f_code is self.code:
                self.frame = frame
            frame = frame.f_back
        for call in reversed(calls):
            module = call.f_locals["self"]
            if call is calls[-1] and not any(top is module for top in self._tops):
                self._tops.append(module)
            if sum(1 for _ in module.modules()) == 1:
                self._calls.append(call)
                text = f"{type(module).__name__}({module._describe()})"
                return Layer(id(call), self.name(module), text)
        return None

    def name(self, module: Module) -> str:
        """Dotted, below the module that was called first."""
        walks = [found for top in self._tops for found in top._walk()]
        return next((name for name, value in walks if value is module), "")

    def parameters(self) -> dict[Node, str]:
        """Parameters of the one model that was called; of several, variables tell them apart."""
        if len(self._tops) != 1:
            return {}
        return {n: name for name, t in self._tops[0].named_parameters() if (n := _of(t))}


def _seen_from_here(line: str) -> str:
    """``file:line`` below the working directory, or without any folder: a picture is given away."""
    file, _, number = line.rpartition(":")
    path = Path(os.path.abspath(file))
    here = Path.cwd()
    return f"{path.relative_to(here).as_posix() if here in path.parents else path.name}:{number}"


_CALL = Module.__call__.__code__


def owner(node: Node) -> Node:
    """The node that holds the op: of one output among several, the op's own."""
    return node.parents[0] if node.op is PART else node  # type: ignore[return-value]


def _of(x: Tensor) -> Node | None:
    return x._node or x._leaf


def _named(variables: Mapping[str, Any]) -> Iterator[tuple[Node, str]]:
    """Nodes of the tensors in ``variables``, and of the parameters of modules there."""
    for name, value in variables.items():
        if name.startswith("_") or name == "self":
            continue
        if type(value) is Tensor and (node := _of(value)) is not None:
            yield node, name
        elif isinstance(value, Module):
            for dotted, parameter in value.named_parameters():
                if (node := _of(parameter)) is not None:
                    yield node, f"{name}.{dotted}"


def paths(name: str, tree: Any) -> Iterator[str]:
    """What to call each leaf of ``tree``, in the order of `flatten`."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from paths(f"{name}.{key}", value)
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from paths(f"{name}[{i}]", value)
    elif tree is not None:
        yield name


def function_of(f: Callable[..., Any]) -> Any:
    """The Python function that ``f`` is in the end."""
    f = f.func if isinstance(f, functools.partial) else f
    return inspect.unwrap(f.forward if isinstance(f, Module) else f)


def _code(f: Callable[..., Any]) -> Any:
    return getattr(function_of(f), "__code__", None)


def title_of(f: Callable[..., Any]) -> str:
    name = type(f).__name__ if isinstance(f, Module) else getattr(function_of(f), "__name__", "f")
    return name if name.isidentifier() else "f"


def parameters(f: Callable[..., Any], args: tuple[Any, ...]) -> list[str]:
    """The names under which ``f`` knows ``args``."""
    try:
        signature = inspect.signature(f.forward if isinstance(f, Module) else f)
    except (TypeError, ValueError):  # written in C
        return [f"x{i}" for i in range(len(args))]
    try:
        bound = signature.bind(*args).arguments
    except TypeError as error:
        hint = f"gg.draw(f, ...) with what f takes: {signature}"
        raise DtypeError(
            message("draw", f"these arguments do not fit: {error}", hint=hint)
        ) from None
    names: list[str] = []
    for name, value in bound.items():
        rest = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        names += [f"{name}[{i}]" for i in range(len(value))] if rest else [name]
    return names
