"""Nodes of the user's own: `Function`, and `checkpoint`. Imports tape, transforms and tensor."""

from collections.abc import Callable, Sequence
from functools import wraps
from types import SimpleNamespace
from typing import Any

from gpugrad.errors import DtypeError, GradientError, ShapeError, message
from gpugrad.late import functions
from gpugrad.node import Dual, Node
from gpugrad.op import is_array
from gpugrad.rules import Joint
from gpugrad.state import grad_mode, precision, state
from gpugrad.tape import gradients
from gpugrad.tensor import Tensor, parts
from gpugrad.transforms import box
from gpugrad.tree import flatten


def _own_op(name: str, rule: Callable[..., Sequence[Any]]) -> Any:
    """What a node of the user's needs of an op."""
    return SimpleNamespace(name=name, rules=Joint(rule), fusions=[], jvp=None)


class Context:
    """What `Function.forward` leaves for `backward`: saved tensors, and any attribute set on it."""

    def __init__(self) -> None:
        self._saved: tuple[Tensor, ...] = ()
        self.needs_grad: tuple[bool, ...] = ()

    def save(self, *tensors: Tensor) -> None:
        """Keep tensors (inputs or outputs) for backward."""
        self._saved = tensors

    save_for_backward = save  # PyTorch's spelling

    @property
    def saved(self) -> tuple[Tensor, ...]:
        """The tensors kept by `save`."""
        return self._saved

    saved_tensors = saved


class Function:
    """A differentiable operation of your own, called as ``MyFunction.apply(x, …)``.

    ``forward(ctx, *args)`` gets tensors (and whatever else was passed) outside the tape and returns
    a tensor, or a tuple of them; ``ctx.save(…)`` keeps some for backward. ``backward(ctx, *gs)``
    gets a cotangent for each output and returns one for each argument, None where there is
    none. Written with gpugrad's functions, ``backward`` can itself be differentiated.

    Examples
    --------
    >>> import gpugrad as gg
    >>> class Cube(gg.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save(x)
    ...         return x**3
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         (x,) = ctx.saved
    ...         return g * 3 * x**2
    >>> gg.grad(Cube.apply)(2.0), gg.grad(gg.grad(Cube.apply))(2.0)
    (12.0, 12.0)
    """

    @staticmethod
    def forward(ctx: Context, *args: Any) -> Any:
        """The value."""
        raise NotImplementedError("define forward(ctx, *args)")

    @staticmethod
    def backward(ctx: Context, *gs: Tensor) -> Any:
        """The cotangents of the arguments."""
        raise NotImplementedError("define backward(ctx, *gs)")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run `forward` and put it on the tape."""
        name = cls.__name__
        args = tuple([functions.asarray(x) if is_array(x) else x for x in args])
        nodes = tuple([x._node if isinstance(x, Tensor) else None for x in args])
        if any(isinstance(x, Tensor) and type(x._data) is Dual for x in args):
            rule = "forward mode cannot go through a Function, which has a backward only"
            raise GradientError(message(name, rule, hint="gg.grad or gg.vjp"))
        ctx = Context()
        ctx.needs_grad = tuple(node is not None for node in nodes)
        with grad_mode(False):
            out = cls.forward(ctx, *args)
        several = isinstance(out, tuple)
        outputs = out if several else (out,)
        for y in outputs:
            if not isinstance(y, Tensor):
                rule = "forward returns tensors"
                raise DtypeError(message(name, rule, type(y).__name__, "gg.asarray(...)"))
        if not state.grad or not any(ctx.needs_grad):
            return out
        # Saved handles: an output among them would close a circle, so only its number is kept.
        kept: list[Tensor | int] = []
        for x in ctx._saved:
            number = next((i for i, y in enumerate(outputs) if y is x), None)
            kept.append(x if number is None else number)
        ctx._saved = ()
        values = tuple(y._data for y in outputs)

        def backward(g: Any, saved: Any, node: Node) -> Sequence[Any]:
            return _run_backward(cls, ctx, kept, g, saved, node)

        node = Node(
            _own_op(name, backward),
            {},
            nodes,
            (*[None] * len(nodes), values),
            tuple(v.shape for v in values),
            tuple(v.dtype for v in values),
        )
        results = parts(values, node)
        return results if several else results[0]


def _run_backward(
    cls: type[Function], ctx: Context, kept: list[Tensor | int], g: Any, saved: Any, node: Node
) -> Sequence[Any]:
    outputs = saved[-1]
    ctx._saved = tuple(_boxed(outputs[x]) if isinstance(x, int) else x for x in kept)
    try:
        whole = [
            functions.zeros_like(_boxed(y)) if c is None else c
            for y, c in zip(outputs, g, strict=True)
        ]
        given = cls.backward(ctx, *map(_boxed, whole))
    finally:
        ctx._saved = ()
    cotangents = given if isinstance(given, (tuple, list)) else (given,)
    if len(cotangents) != len(node.parents):
        got = f"{len(cotangents)} for {len(node.parents)}"
        hint = "None for arguments without a derivative"
        rule = "backward returns one cotangent for each argument"
        raise GradientError(message(cls.__name__, rule, got, hint))
    for c, parent in zip(cotangents, node.parents, strict=True):
        if parent is not None and c is not None and tuple(c.shape) != parent.shape:
            got = f"{tuple(c.shape)} for {parent.shape}"
            raise ShapeError(
                message(cls.__name__, "a cotangent has the shape of its argument", got)
            )
    return list(cotangents)


def _boxed(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else Tensor(x)


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """``f`` whose inner values are not kept for backward but computed again when they are needed.

    Memory for time: Griewank and Walther 2000; Chen et al. 2016. ``f`` must compute the same again
    (draw random numbers outside, or from a generator made inside). Tensors it captures get their
    gradients too.

    >>> import gpugrad as gg
    >>> gg.grad(gg.checkpoint(lambda x: gg.sin(gg.exp(x))))(0.0) == gg.grad(
    ...     lambda x: gg.sin(gg.exp(x))
    ... )(0.0)
    True
    """

    @wraps(f)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        leaves, rebuild = flatten(args)
        tracked = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.requires_grad]
        dual = any(isinstance(x, Tensor) and type(x._data) is Dual for x in leaves)
        if not state.grad or dual or state.levels:
            return f(*args, **kwargs)  # forward mode keeps nothing anyway

        def run(values: Sequence[Tensor]) -> tuple[list[Tensor], list[Node], Any]:
            boxes = [box("checkpoint", x) for x in values]
            inner = list(leaves)
            for i, boxed in zip(tracked, boxes, strict=True):
                inner[i] = boxed
            inputs = [boxed._node for boxed in boxes if boxed._node is not None]
            with grad_mode(True), precision(cast):
                out, rebuild_out = flatten(f(*rebuild(inner), **kwargs))
            return out, inputs, rebuild_out

        given, cast = [leaves[i] for i in tracked], state.autocast
        start = Node(None, {}, (), (), (), None).id
        out, inputs, rebuild_out = run([x.detach() for x in given])
        captured = _captured([y._node for y in out if y._node is not None], inputs, start)
        if not any(y.requires_grad for y in out):
            return rebuild_out(out)
        values = tuple(y._data for y in out)

        def backward(g: Any, saved: Any, node: Node) -> Sequence[Any]:
            # When this pass is recorded the inputs stay tied to the tape, for a second derivative.
            again, nodes, _ = run(given if state.grad else [x.detach() for x in given])
            seeds = [
                (y._node, _boxed(c))
                for y, c in zip(again, g, strict=True)
                if y._node is not None and c is not None
            ]
            return gradients(seeds, [*nodes, *captured])

        node = Node(
            _own_op("checkpoint", backward),
            {},
            (*[x._node for x in given], *captured),
            (),
            tuple(v.shape for v in values),
            tuple(v.dtype for v in values),
        )
        on_tape = parts(values, node)
        return rebuild_out(
            [part if y.requires_grad else y for y, part in zip(out, on_tape, strict=True)]
        )

    return checkpointed


def _captured(roots: Sequence[Node], inputs: Sequence[Node], start: int) -> list[Node]:
    """Nodes older than ``start`` that flow into ``roots``: tensors the function captured."""
    stack, seen = list(roots), set(roots) | set(inputs)
    captured = []
    while stack:
        node = stack.pop()
        if node.id < start:
            captured.append(node)
            continue
        for parent in node.parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return captured
