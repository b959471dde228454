"""The graph: Node, where its gradient goes, and values with tangents. Imports aval and state.

Pointers run Tensor → Node → Node and Node → array, never Node → Tensor, so nothing here forms a
reference cycle.
"""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpugrad.aval import Shape
from gpugrad.errors import DtypeError, message
from gpugrad.state import state

if TYPE_CHECKING:
    from gpugrad.tensor import Tensor

ids = itertools.count()


class Sink:
    """Where a node's finished gradient goes: kept as ``grad``, after passing through ``hooks``.

    A compiled step leaves a function there that computes the gradient when somebody looks.
    """

    __slots__ = ("grad", "hooks")

    def __init__(self) -> None:
        self.grad: Tensor | Callable[[], Tensor] | None = None
        self.hooks: dict[int, Callable[[Tensor], Tensor | None]] = {}

    def look(self) -> "Tensor | None":
        """The gradient, computed if it was not yet."""
        if state.trace is not None:
            state.trace.touch(self, reads=True)
        grad = self.grad
        if callable(grad):
            grad = self.grad = grad()
        return grad

    def keep(self, grad: "Tensor | None") -> None:
        """Put ``grad`` in the place of what was there."""
        if state.trace is not None:
            state.trace.touch(self, reads=False)
        self.grad = grad


class Node:
    """One recorded op: what backward needs, and nothing that points back at a Tensor.

    A leaf has ``op`` None. ``saved`` holds the arrays the rules may read, None once they are freed.
    """

    __slots__ = (
        "__weakref__",
        "dtype",
        "id",
        "op",
        "params",
        "parents",
        "saved",
        "shape",
        "sink",
        "trail",
    )

    trail: tuple[str, Any]  # set under GPUGRAD_CHECK only: where called, checksums of `saved`

    def __init__(
        self,
        op: Any,
        params: dict[str, Any],
        parents: "tuple[Node | None, ...]",
        saved: tuple[Any, ...] | None,
        shape: Shape,
        dtype: Any,
    ) -> None:
        self.id = next(ids)
        self.op = op
        self.params = params
        self.parents = parents
        self.saved = saved
        self.shape = shape
        self.dtype = dtype
        self.sink: Sink | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)


class _Part:
    name = "part"


PART = _Part()  # the op of a node that stands for one output of an op with several


class Tangled(tuple[Any, ...]):
    """What a node saved while a forward pass was open: some of it may carry tangents."""

    __slots__ = ()


def leaf(shape: Shape, dtype: Any) -> Node:
    """A node without an op: where gradients arrive."""
    if np.dtype(dtype).kind not in "fc":
        hint = f"x.astype(gg.float32) or dtype=gg.float32; {dtype} has no derivative"
        raise DtypeError(
            message("requires_grad", "only floating tensors have gradients", dtype, hint)
        )
    node = Node(None, {}, (), (), shape, dtype)
    node.sink = Sink()
    return node


class Dual:
    """A value with a tangent, for forward mode; ``primal`` is an array or a Dual of lower level."""

    __slots__ = ("level", "primal", "tangent")

    def __init__(self, level: int, primal: Any, tangent: "Tensor") -> None:
        self.level = level
        self.primal = primal
        self.tangent = tangent

    @property
    def shape(self) -> Shape:
        return self.primal.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> Any:
        return self.primal.dtype

    @property
    def ndim(self) -> int:
        return self.primal.ndim  # type: ignore[no-any-return]


def concrete(value: Any) -> Any:
    """The array under any tangents."""
    while type(value) is Dual:
        value = value.primal
    return value


def live(value: Any) -> Any:
    """``value`` without the tangents of forward passes that have ended."""
    while type(value) is Dual and value.level not in state.levels:
        value = value.primal
    return value
