"""Tensor: a mutable handle to an immutable value. Imports backend, methods, node and state."""

import sys
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from gpugrad import backend
from gpugrad.aval import Aval, Shape
from gpugrad.errors import DtypeError, GradientError, message
from gpugrad.late import functions
from gpugrad.methods import Methods
from gpugrad.node import PART, Dual, Node, Sink, concrete, ids, leaf
from gpugrad.state import state

_ndarray = np.ndarray


class Tensor(Methods):
    """An array on a device that remembers how it was computed.

    Made by `gpugrad.asarray` and by every function of the namespace. The handle is mutable, its
    value is not: ``x += 1`` and ``x[0] = 1`` point ``x`` at a new value, so nothing that was saved
    for backward ever changes.
    """

    __slots__ = ("__weakref__", "_data", "_leaf", "_node")

    def __init__(self, data: Any, node: Node | None = None, leaf: Node | None = None) -> None:
        self._data = data
        self._node = node
        # The leaf this handle stands for. It outlives in-place writes, so x.grad stays reachable.
        self._leaf = leaf

    # What it is

    @property
    def shape(self) -> Shape:
        return self._data.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> Any:
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return len(self._data.shape)

    @property
    def size(self) -> int:
        return Aval(self._data.shape, None).size

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize  # type: ignore[no-any-return]

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize  # type: ignore[no-any-return]

    @property
    def device(self) -> str:
        """``"cpu"``, ``"cuda"`` or ``"cuda:1"``."""
        return backend.of(concrete(self._data)).device

    def __repr__(self) -> str:
        values = np.array2string(
            self._host(), separator=", ", prefix="Tensor(", threshold=100, edgeitems=3
        )
        tape = ""
        if self._node is not None:
            tape = ", requires_grad" if self._node.op is None else f", op={self._node.op.name}"
        return f"Tensor({values}, shape={self.shape}, {self.dtype}, {self.device}{tape})"

    # Values out

    def _host(self) -> Any:
        array = concrete(self._data)
        return backend.of(array).to_numpy(array)

    def numpy(self, copy: bool = False) -> Any:
        """The values as a NumPy array: a read-only view on the CPU, or a writable ``copy``.

        Raises `GradientError` while the tensor is on the tape, where a NumPy result would silently
        lose its gradient.
        """
        self._stay("x.detach().numpy()")
        host = self._host()
        if copy:
            return np.array(host)
        view = host.view()
        view.flags.writeable = False
        return view

    def _stay(self, hint: str) -> None:
        if self._node is not None or type(self._data) is Dual:
            rule = "a tensor that is being differentiated would lose its derivative as an array"
            raise GradientError(message("numpy", rule, hint=hint))

    def item(self) -> Any:
        """The value of a one-element tensor as a Python scalar."""
        if self.size != 1:
            raise DtypeError(message("item", "only a one-element tensor is a scalar", self.shape))
        return self._host().item()

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        return self._host().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        # How NumPy reads a list of tensors, and every library that knows arrays alone.
        self._stay("x.detach().numpy() for a value, gg.asarray([...]) for a list with tensors")
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def _number(self, kind: str) -> Any:
        # math.sin(x) calls float(x): inside a differentiated function that would be a constant.
        if state.transforms and (self._node is not None or type(self._data) is Dual):
            rule = "a Python number has no derivative, so this would be silently zero"
            hint = "the gg function instead of math's, or x.item() where a constant is meant"
            raise GradientError(message(kind, rule, self, hint))
        return self.item()

    def __float__(self) -> float:
        return float(self._number("float"))

    def __int__(self) -> int:
        return int(self._number("int"))

    def __complex__(self) -> complex:
        return complex(self._number("complex"))

    def __bool__(self) -> bool:
        if self.size != 1:
            hint = "gg.any(x) or gg.all(x)"
            raise DtypeError(message("bool", "many values are not one truth", self.shape, hint))
        return bool(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise DtypeError(message("index", "only integers are indices", self.dtype))
        return int(self.item())

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: Any = None,
        copy: bool | None = None,
    ) -> Any:
        host = self.numpy()  # refuses what is on the tape
        given = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy}
        options = {key: value for key, value in given.items() if value is not None}
        if type(self._data) is not np.ndarray:
            return self._data.__dlpack__(**options)
        try:
            return host.__dlpack__(**options)
        except BufferError:  # an importer that knows no read-only memory gets memory of its own
            return host.copy().__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return concrete(self._data).__dlpack_device__()

    # Differentiation

    @property
    def requires_grad(self) -> bool:
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, on: bool) -> None:
        if self._node is not None and self._node.op is not None:
            rule = "only a leaf can be switched; this tensor was computed"
            raise GradientError(message("requires_grad", rule, hint="x.detach()"))
        if not on:
            self._node = self._leaf = None
        elif self._node is None:
            self._node = self._leaf = leaf(self.shape, self.dtype)

    @property
    def is_leaf(self) -> bool:
        return self._node is None or self._node.op is None

    def _sink(self) -> Sink | None:
        node = self._leaf or self._node
        return None if node is None else node.sink

    @property
    def grad(self) -> "Tensor | None":
        """The gradient that `backward` accumulated here; None before, or where none is kept."""
        sink = self._sink()
        return None if sink is None else sink.look()

    @grad.setter
    def grad(self, value: "Tensor | None") -> None:
        sink = self._sink()
        if sink is None:
            rule = "this tensor keeps no gradient"
            raise GradientError(message("grad", rule, hint="requires_grad=True or retain_grad()"))
        if value is not None and value.shape != self.shape:
            raise GradientError(
                message("grad", "a gradient has the shape of its tensor", (value.shape, self.shape))
            )
        sink.keep(value)

    def retain_grad(self) -> Self:
        """Keep the gradient of this computed tensor too, so that `grad` shows it after backward."""
        self._wanted_sink("retain_grad")
        return self

    def register_hook(self, hook: "Callable[[Tensor], Tensor | None]") -> Callable[[], None]:
        """Call ``hook(gradient)`` as soon as this tensor's gradient is complete.

        What the hook returns, unless None, takes the gradient's place. Hooks run in the order they
        were registered; the returned function removes this one.
        """
        hooks = self._wanted_sink("register_hook").hooks
        key = next(ids)
        hooks[key] = hook
        return lambda: hooks.pop(key, None) and None

    def _wanted_sink(self, op: str) -> Sink:
        node = self._leaf or self._node
        if node is None:
            raise GradientError(message(op, "no gradient arrives here", hint="requires_grad=True"))
        if node.sink is None:
            node.sink = Sink()
        return node.sink

    def backward(
        self,
        gradient: "Tensor | Any | None" = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> None:
        """Add the gradient of this tensor to ``.grad`` of every leaf it was computed from.

        ``gradient`` is the cotangent, of this tensor's shape; a scalar needs none. The graph is
        freed as it is read unless ``retain_graph``; ``create_graph`` records the backward pass so
        that it can be differentiated again. The gradient then holds the graph that leads to its
        leaf, a cycle: set ``x.grad = None`` when done, or use `gpugrad.grad`, which makes none.
        """
        functions.backward(self, gradient, retain_graph, create_graph)

    def detach(self) -> "Tensor":
        """The same value, off the tape."""
        return Tensor(concrete(value_of(self)))

    # Rebinding

    def _assign(self, value: "Tensor") -> Self:
        """Point this handle at ``value``: how every in-place operation ends."""
        if state.trace is not None:
            state.trace.rebinding(self)
        self._data = value_of(value)
        self._node = value._node if state.grad else self._leaf
        return self

    def __copy__(self) -> "Tensor":
        copy = Tensor(value_of(self), None if self.is_leaf else self._node)
        if self.is_leaf:  # the copy of a leaf is a leaf of its own
            copy.requires_grad = self.requires_grad
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tensor":
        array = concrete(self._data)
        copy = memo[id(self)] = Tensor(backend.of(array).asarray(array, copy=True))
        copy.requires_grad = self._leaf is not None
        return copy

    def __reduce__(self) -> Any:
        return _rebuild, (self._host(), self.device, self._leaf is not None)


def _rebuild(array: Any, device: str, requires_grad: bool) -> Tensor:
    return functions.asarray(array, device=device, requires_grad=requires_grad)


def parts(values: tuple[Any, ...], node: Node | None) -> "tuple[Tensor, ...]":
    """The outputs of an op with several, each on a node of its own behind the op's ``node``."""
    if node is None:
        return tuple([Tensor(value) for value in values])
    return tuple(
        [
            Tensor(v, Node(PART, {"index": i}, (node,), (), v.shape, v.dtype))
            if v.dtype.kind in "fc"
            else Tensor(v)
            for i, v in enumerate(values)
        ]
    )


def value_of(x: Tensor) -> Any:
    """What ``x`` holds, for another handle to hold too; while tracing, its place in the program."""
    if state.trace is not None and type(x._data) is not Dual:
        return state.trace.read(x)
    return x._data


def made(array: Any) -> Tensor:
    """A tensor of a new array that nothing else holds; while tracing, a constant."""
    return Tensor(array) if state.trace is None else state.trace.constant(array)


# Reusing a buffer


def _references(handle: Tensor) -> int:
    return sys.getrefcount(handle._data)


# What `_references` reports when only the handle holds the array; it differs between Pythons.
_ALONE = _references(Tensor(np.empty(1)))


def sole_owner(handle: Tensor, held: int = 0) -> bool:
    """Whether nothing else (node, view, other handle, user) can see this handle's buffer.

    ``held`` is how many references the caller itself has in its variables.
    """
    data = handle._data
    if type(data) is Dual or data.base is not None or not data.flags.c_contiguous:
        return False
    if type(data) is _ndarray and not (data.flags.owndata and data.flags.writeable):
        return False
    del data
    return _references(handle) <= _ALONE + held
