"""The reverse-mode scheduler: walks the tape once, newest node first. Imports ops and fuse.

No recursion, neither to run nor to free: a graph of a million ops is an ordinary case.
"""

import threading
from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np

from gpugrad import backend, check
from gpugrad.aval import Shape
from gpugrad.config import flags
from gpugrad.errors import GradientError, ShapeError, message
from gpugrad.late import functions, ops
from gpugrad.node import PART, Node, Tangled, concrete, live
from gpugrad.ops.index import Piece
from gpugrad.rules import Joint
from gpugrad.state import precision, state
from gpugrad.tensor import Tensor, parts

Cotangent = Any  # a bare array, or a Tensor while the pass itself is being recorded


def backward(
    root: Tensor,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Accumulate d(root)/d(leaf) into ``.grad`` of every leaf. See `Tensor.backward`."""
    if root._node is None:
        hint = "gg.asarray(..., requires_grad=True) on what should get a gradient"
        raise GradientError(message("backward", "this tensor depends on no leaf", root, hint))
    cotangent = seed("backward", root, gradient)
    retain = create_graph if retain_graph is None else retain_graph
    run([(root._node, cotangent)], retain, create_graph)


def seed(name: str, root: Tensor, gradient: Any = None) -> Tensor:
    """The cotangent a pass starts from: ``gradient``, or 1 for a scalar."""
    if gradient is None:
        if root.size != 1:
            hint = f"{name}(gradient=...) of that shape, or reduce first: loss.sum().{name}()"
            raise GradientError(message(name, "only a scalar has one gradient", root.shape, hint))
        if root.dtype.kind == "c":
            rule = "a complex number has a gradient for each of its two parts"
            hint = "gg.real(y), gg.imag(y) or gg.abs(y) of it, or gg.vjp with a cotangent"
            raise GradientError(message(name, rule, root.dtype, hint))
        if type(root._data) is np.ndarray:
            return Tensor(np.ones(root._data.shape, root._data.dtype))
        return functions.ones_like(root.detach())
    # Copied: it may become somebody's gradient as it is, and an array stays the caller's.
    copy = None if isinstance(gradient, Tensor) else True
    cotangent = functions.asarray(gradient, written(gradient, root), root.device, copy)
    if cotangent.shape != root.shape:
        got = f"gradient: {cotangent.shape}, tensor: {root.shape}"
        raise ShapeError(message(name, "the gradient has the tensor's shape", got))
    return functions.astype(cotangent, root.dtype)


def written(x: Any, like: Tensor) -> Any:
    """The dtype to read ``x`` in: what is written in Python would pass through float32 on its own.

    0.1 in float32 is not 0.1 beside a float64 tensor.
    """
    return None if hasattr(x, "dtype") else like.dtype


def reachable(
    roots: Iterable[Node], stop: Container[Node] = ()
) -> tuple[list[Node], dict[Node, int]]:
    """Ops that lead to ``roots``, newest first, and how many cotangents each node will receive.

    Nothing behind a node in ``stop`` is visited.
    """
    stack = list(roots)
    found = []
    uses = dict.fromkeys(stack, 0)
    while stack:
        node = stack.pop()
        if node.op is None or node in stop:
            continue
        if node.saved is None:  # before anything is delivered
            raise _freed(node)
        found.append(node)
        for parent in node.parents:
            if parent is None:
                continue
            if parent in uses:
                uses[parent] += 1
            else:
                uses[parent] = 1
                stack.append(parent)
    found.sort(key=_id, reverse=True)  # creation order is topological
    return found, uses


def _id(node: Node) -> int:
    return node.id


def run(
    seeds: Sequence[tuple[Node, Tensor]], retain_graph: bool = False, create_graph: bool = False
) -> None:
    """One reverse pass from ``seeds`` (node, cotangent) into the sinks of all leaves."""
    nodes, uses = reachable([node for node, _ in seeds])
    Pass(uses, frozenset(), create_graph, retain_graph).run(seeds, nodes)


def gradients(
    seeds: Sequence[tuple[Node, Tensor]], wanted: Sequence[Node], retain_graph: bool = False
) -> list[Tensor | None]:
    """The gradients of ``wanted`` alone; no sink is touched. None where no path leads.

    The pass is recorded when anything else that is being differentiated flows in, be it a leaf
    captured by the function or an outer transform: its gradient then still depends on that.
    """
    targets = frozenset(wanted)
    nodes, uses = reachable([node for node, _ in seeds], targets)
    outer = any(n.op is None and n not in targets for n in uses)
    outer = outer or any(p is not None for n in targets for p in n.parents)
    outer = outer or any(c._node is not None for _, c in seeds)
    needed = set(targets)
    for node in reversed(nodes):
        if any(p in needed for p in node.parents):
            needed.add(node)
    # Count again: only cotangents that lead to a target will be sent.
    uses = dict.fromkeys(needed, 0)
    nodes = [node for node in nodes if node in needed]
    for node in nodes:
        for parent in node.parents:
            if parent in needed:
                uses[parent] += 1
    tape = Pass(uses, targets, outer and state.grad, retain_graph or outer)
    tape.run([(node, c) for node, c in seeds if node in needed], nodes)
    return [tape.results.get(node) for node in wanted]


_accumulating = threading.RLock()


class Pass:
    """The state of one reverse pass: cotangents so far, and which of them it may write to.

    Each leaf is served, its hooks called, as soon as its last cotangent has arrived.
    """

    def __init__(
        self, uses: dict[Node, int], targets: frozenset[Node], create_graph: bool, retain: bool
    ) -> None:
        self.uses = uses  # cotangents each node will receive; counted down for leaves and targets
        self.targets = targets
        self.create_graph = create_graph
        # Rules run on Tensors when the pass is recorded or carries tangents, else on bare arrays.
        self.record = create_graph or bool(state.levels or state.watchers or state.trace)
        self.check = flags.check
        self.retain = retain or create_graph
        # A traced graph that backward went through is gone, even where nothing had to be saved.
        self.frees_all = state.trace is not None
        self.cotangents: dict[Node, Cotangent] = {}
        self.owned: set[Node] = set()
        self.results: dict[Node, Tensor] = {}

    def run(self, seeds: Sequence[tuple[Node, Tensor]], nodes: Sequence[Node]) -> None:
        if state.autocast is not None:  # the rules follow the precisions of the forward pass
            with precision(None):
                self.run(seeds, nodes)
            return
        for node, _ in seeds:
            self.uses[node] += 1
        before = state.grad, state.in_backward
        state.grad, state.in_backward = self.create_graph, True
        place = backend.of(concrete(seeds[0][1]._data)) if seeds else backend.get("cpu")
        try:
            with np.errstate(all="ignore"), place.here():
                self._walk(seeds, nodes)
        finally:
            state.grad, state.in_backward = before

    def _walk(self, seeds: Sequence[tuple[Node, Tensor]], nodes: Sequence[Node]) -> None:
        for node, cotangent in seeds:
            self.receive(node, cotangent if self.record else cotangent._data)
        cotangents = self.cotangents
        for node in nodes:
            g = cotangents.pop(node, None)
            if g is not None:
                self.step(node, g)
        # Leaves still waiting for a cotangent that no rule sends (∂where/∂condition, say).
        for node in list(cotangents):
            self.deliver(node, cotangents.pop(node))

    def step(self, node: Node, g: Cotangent) -> None:
        """Send ``g`` through ``node`` to its parents."""
        if node.sink is not None:
            g = self.deliver(node, g)
            self.owned.discard(node)  # the sink keeps it
        if node.op is PART:
            self.gather(node, g)
            return
        if type(g) is dict:  # of several outputs, in their order; None where nothing flows back
            g = tuple([g.get(i) for i in range(len(node.shape))])
        saved: Any = node.saved
        if self.check:
            check.before(node)
        if self.record:
            if saved:
                saved = _as_tensors(node, saved)
        else:
            if type(saved) is Tangled:  # no forward pass is open: its tangents are of no use now
                saved = node.saved = tuple([_off(value) for value in saved])
            if node.op.fusions and flags.fuse and self.fused(node, g):
                return
        rules = node.op.rules
        uses = self.uses
        if type(rules) is Joint:
            if rules.overwrites and not self.record:
                g = self.writable(node, g)
            for parent, c in zip(node.parents, rules.rule(g, saved, node), strict=True):
                if parent is not None and parent in uses and c is not None:
                    c = c if self.record or type(c) is not Tensor else c._data
                    self.receive(parent, c, rules.overwrites)
        else:
            params = node.params
            for i, parent in enumerate(node.parents):
                if parent is not None and parent in uses:
                    rule = rules[i]
                    if rule is not None:
                        self.receive(parent, rule(g, saved, parent, params))
        if (saved or self.frees_all) and not self.retain:
            node.saved = None

    def gather(self, node: Node, g: Cotangent) -> None:
        """Keep the cotangent of one output until those of its siblings have come."""
        (parent,) = node.parents
        if parent in self.uses:
            given = self.cotangents.setdefault(parent, {})
            i = node.params["index"]  # more nodes than one stand for an output that a rule has read
            given[i] = given[i] + g if i in given else g

    def fused(self, node: Node, g: Cotangent) -> bool:
        """Run the first row of the fusion table that matches at ``node``, if one does."""
        dtype = node.dtype
        if len(node.shape) != 2 or dtype.char not in "fd" or g.dtype != dtype:
            return False
        for row in node.op.fusions:
            cotangents = row.backward(node, g, self)
            if cotangents is not None:
                for parent, c in cotangents:
                    self.receive(parent, c)
                if not self.retain:
                    node.saved = None
                    if row.swallows:
                        node.parents[0].saved = None  # type: ignore[union-attr]
                return True
        return False

    def inner(self, node: Node) -> bool:
        """Whether a fused row may swallow this value: used once, and wanted by nobody."""
        return (
            self.uses[node] == 1
            and node.sink is None
            and node not in self.targets
            and node not in self.cotangents
            and type(node.saved) is tuple
        )

    def receive(self, node: Node, c: Cotangent, owned: bool = False) -> None:
        """Add ``c`` to the cotangent: borrow the first unless it is owned, then add in place."""
        cotangents = self.cotangents
        before = cotangents.get(node)
        if type(c) is Piece:
            c = self.with_piece(node, before, c)
        else:
            if c.shape != node.shape:
                c = sum_to(c, node.shape)
            if c.dtype is not node.dtype and c.dtype != node.dtype:
                c = ops.astype(c, dtype=node.dtype)
            if before is None:
                if owned:
                    self.owned.add(node)
            elif self.record:
                c = before + c
            elif node in self.owned and type(before) is np.ndarray:
                c = np.add(before, c, out=before)
            else:
                c = before + c
                self.owned.add(node)
        if node.op is None or node in self.targets:
            left = self.uses[node] = self.uses[node] - 1
            if left == 0:
                cotangents.pop(node, None)
                self.deliver(node, c)
                return
        cotangents[node] = c

    def with_piece(self, node: Node, before: Cotangent, piece: Piece) -> Cotangent:
        """The cotangent after adding ``piece`` in place."""
        if before is None:
            after = backend.of(piece.g).xp.zeros(node.shape, node.dtype)
        else:
            after = self.writable(node, before)
        self.owned.add(node)
        piece.add_to(after)
        return after

    def writable(self, node: Node, g: Cotangent) -> Cotangent:
        """The cotangent of ``node`` as an array of the pass's own."""
        if node in self.owned and not isinstance(g, np.generic):
            return g
        return backend.of(g).xp.array(g)

    def deliver(self, node: Node, g: Cotangent) -> Cotangent:
        """Hooks first, then keep: in ``results`` if it was asked for, else in the node's sink."""
        if type(g) is np.ndarray:
            value = Tensor(g)
        else:
            value = g if type(g) is Tensor else Tensor(backend.of(g).xp.asarray(g))
        if value._node is not None and not self.create_graph:
            value = value.detach()  # a rule gave one of its inputs back
        sink = node.sink
        if sink is not None and sink.hooks:
            for hook in list(sink.hooks.values()):
                replaced = hook(value)
                if replaced is not None:
                    value = _checked_hook(replaced, value)
        if node in self.targets:
            self.results[node] = value
        elif sink is not None and not self.targets:
            with _accumulating:  # a leaf may be shared by passes of several threads
                before = sink.look()
                sink.keep(value if before is None else before + value)
        return value if self.record else value._data


def _checked_hook(replaced: Any, value: Tensor) -> Tensor:
    replaced = functions.asarray(replaced, device=value.device)
    if replaced.shape != value.shape or replaced.dtype != value.dtype:
        got = f"{replaced.shape} {replaced.dtype} for {value.shape} {value.dtype}"
        raise ShapeError(message("hook", "a hook returns a gradient like the one it got", got))
    return replaced  # type: ignore[no-any-return]


def _as_tensors(node: Node, saved: tuple[Any, ...]) -> tuple[Any, ...]:
    """Saved values as Tensors that stand where they stood on the tape."""
    places = (*node.parents, node)
    return tuple(
        [
            parts(tuple([live(part) for part in value]), place)
            if type(value) is tuple
            else Tensor(live(value), place)
            if hasattr(value, "shape")
            else value
            for value, place in zip(saved, places, strict=True)
        ]
    )


def _off(value: Any) -> Any:
    """Without tangents; the output of an op with several is a tuple."""
    return tuple(map(concrete, value)) if type(value) is tuple else concrete(value)


def _freed(node: Node) -> GradientError:
    rule = (
        f"the graph was freed by an earlier backward (first missing: {node.op.name}, {node.shape}"
        f"{check.called_at(node)})"
    )
    hint = "backward(retain_graph=True) the first time, or compute the loss again"
    return GradientError(message("backward", rule, hint=hint))


def sum_to(g: Cotangent, shape: Shape) -> Cotangent:
    """Undo broadcasting: the only place where it is undone."""
    lead = len(g.shape) - len(shape)
    axis = tuple(range(lead)) + tuple(
        i + lead for i, d in enumerate(shape) if d == 1 and g.shape[i + lead] != 1
    )
    if axis:
        g = ops.sum(g, axis=axis, keepdims=False)
    if g.shape == shape:
        return g
    # A rule may return a smaller cotangent that still has to be spread (∂ of a constant).
    return (
        ops.reshape(g, shape=shape)
        if _size(g) == _size(shape)
        else ops.broadcast_to(g, shape=shape)
    )


def _size(x: Any) -> int:
    shape = x if isinstance(x, tuple) else x.shape
    return int(np.prod(shape, dtype=np.int64))


functions.backward = backward
