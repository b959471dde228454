"""An op's declaration, and `bind`: the one place where an op is run and recorded.

Imports aval, backend, rules and tensor.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np

from gpugrad import backend, check
from gpugrad.aval import WEAK, Aval, aval_of, broadcast, listing
from gpugrad.config import flags
from gpugrad.errors import DeviceError, DtypeError, GpugradError, GradientError, message
from gpugrad.late import functions, ops
from gpugrad.node import Dual, Node, Tangled, concrete
from gpugrad.rules import (
    OUTPUT,
    REST,
    EveryInput,
    Joint,
    Rule,
    forward_rule,
    from_partials,
    is_variadic,
    names,
    reading,
)
from gpugrad.state import state
from gpugrad.tensor import Tensor, parts, value_of

_ndarray = np.ndarray


class Op:
    """A differentiable operation: value, shape rule and both derivative rules, in one place.

    Parameters
    ----------
    name : its name, also as ``late.ops.<name>``; DtypeError for that of an op of another module.
    forward : ``forward(xp, *arrays, **params)``; ``xp`` is the array module.
    aval : ``aval(*avals, **params) -> Aval``; raises what is wrong with the shapes.
    vjp : one rule an input (None where there is no derivative), or one function
        ``(g, index, **params)`` for an op of any number of inputs, or a `Joint` rule. None: not
        differentiable.
    jvp : ``"linear"`` (in its first input), ``"multilinear"`` (product rule), or a function of the
        tangents ``d<input>``, the inputs and ``y`` that it names.
    kind : elementwise, contraction, reduction, view or opaque; what fusion and planning go by.
    precision : what float32 and float16 inputs become under `gpugrad.autocast`: "half" or "single";
        None leaves them.
    """

    def __init__(
        self,
        name: str,
        forward: Callable[..., Any],
        aval: Callable[..., Aval],
        vjp: Sequence[Callable[..., Any] | None] | Callable[..., Any] | Joint | None = None,
        jvp: str | Callable[..., Any] | None = None,
        kind: str = "opaque",
        precision: str | None = None,
    ) -> None:
        taken = vars(ops).get(name)
        if taken is not None and taken.forward.__module__ != forward.__module__:
            rule = f"an op of {taken.forward.__module__} has that name"
            raise DtypeError(message("Op", rule, repr(name), "another name"))
        self.name = name
        self.precision = precision
        self.forward = forward
        self.aval = aval
        self.kind = kind
        self.inputs = names(forward)[0][1:]
        self.variadic = is_variadic(forward)
        self.rules: Sequence[Rule | None] | EveryInput | Joint | None = None
        self.reads: Sequence[tuple[int, ...]] = []
        if isinstance(vjp, Joint):
            self.rules, self.reads = vjp, vjp.reads
        elif callable(vjp):
            self.rules = EveryInput(vjp)
        elif vjp is not None:
            self.set_rules([self._compile(rule) for rule in vjp])
        self.jvp = forward_rule(self, jvp)
        self._keeps: dict[int, Callable[[list[Any]], tuple[Any, ...]]] = {}
        self.fusions: list[Any] = []  # rows of the fusion table whose pattern ends in this op
        # What it does to each element, as a forward of its own; None for ops that do not.
        self.pointwise = forward if kind == "elementwise" else None
        setattr(ops, name, self)

    def _compile(self, rule: Callable[..., Any] | None) -> tuple[Rule | None, tuple[int, ...]]:
        if rule is None:
            return None, ()
        args, keys = names(rule)
        return reading(rule, args[1:], keys, self.inputs, self.variadic)

    def set_rules(self, rules: Sequence[tuple[Rule | None, tuple[int, ...]]]) -> None:
        self.rules = [rule for rule, _ in rules]
        self.reads = [reads for _, reads in rules]

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __call__(self, *xs: Any, **params: Any) -> Any:
        """Run on ``xs``, and record when one of them is on the tape.

        Tensors in give a Tensor. Bare arrays in give a bare array: a derivative rule is written
        once and runs on either.
        """
        if state.special:
            return _bind_special(self, xs, params)
        if Tensor not in map(type, xs):
            return _evaluate(self, xs, params)
        values = []
        nodes = []
        data = None
        tracked, bit = 0, 1
        for x in xs:
            if type(x) is Tensor:
                data = x._data
                values.append(data)
                node = x._node
                nodes.append(node)
                if node is not None:
                    tracked |= bit
            else:
                if type(x) not in WEAK:
                    x = _admit(x, xs)
                    if x is NotImplemented:
                        return x
                values.append(x)
                nodes.append(None)
            bit += bit
        try:
            if type(data) is _ndarray:
                y = self.forward(np, *values, **params)
            else:
                owner = backend.of(data)
                with owner.here():
                    y = self.forward(owner.xp, *values, **params)
        except Exception as error:
            if Dual in map(type, values):  # a tensor that outlived the forward pass it came from
                return self(*[_lived(x) for x in xs], **params)
            raise _explain(self, values, params, error) from error
        if type(y) is not _ndarray:
            if type(y) is tuple:
                y = tuple(
                    [np.asarray(part) if isinstance(part, np.generic) else part for part in y]
                )
                recorded = tracked and state.grad and self.rules is not None
                node = self.record(nodes, values, y, params, tracked) if recorded else None
                return parts(y, node)
            if isinstance(y, np.generic):  # NumPy's 0-d results; a Tensor holds arrays only
                y = np.asarray(y)
        if tracked and state.grad and self.rules is not None:
            return Tensor(y, self.record(nodes, values, y, params, tracked))
        return Tensor(y)

    def record(
        self,
        nodes: list[Node | None],
        values: list[Any],
        y: Any,
        params: dict[str, Any],
        tracked: int,
    ) -> Node:
        """The node of an output ``y``, holding what the rules of its tracked inputs read."""
        values.append(y)
        values.append(None)
        saved = self.keep(tracked, len(nodes))(values)
        if type(y) is tuple:
            shapes, dtypes = tuple([p.shape for p in y]), tuple([p.dtype for p in y])
            return Node(self, params, tuple(nodes), saved, shapes, dtypes)
        return Node(self, params, tuple(nodes), saved, y.shape, y.dtype)

    def keep(self, tracked: int, count: int) -> Callable[[list[Any]], tuple[Any, ...]]:
        """Picks out of [inputs…, output, None] what the rules of the tracked inputs read."""
        mask = tracked | 1 << count  # the top bit tells calls of different lengths apart
        known = self._keeps.get(mask)
        if known is not None:
            return known
        wanted: set[int] = set()
        for k, reads in enumerate(self.reads[:count]):
            if tracked >> k & 1:
                wanted.update(count if i == OUTPUT else i for i in reads if i != REST)
                if REST in reads:
                    wanted.update(range(len(self.inputs) - 1, count))
        picks = [i if i in wanted else count + 1 for i in range(count + 1)]
        pick: Any = itemgetter(*picks) if wanted else _nothing
        self._keeps[mask] = pick
        return pick  # type: ignore[no-any-return]


def _nothing(values: list[Any]) -> tuple[Any, ...]:
    return ()


def _admit(x: Any, xs: tuple[Any, ...]) -> Any:
    """An operand that is no tensor and no number. Numbers in a list are weak, as bare ones are.

    NotImplemented for what has arithmetic of its own: from an operator of Tensor, Python then asks
    the other operand.
    """
    if isinstance(x, (list, tuple)):
        lifted = functions.asarray(x)
        if lifted._node is not None or type(lifted._data) is Dual:
            rule = "an operand written as a list of tensors would leave the tape"
            raise GradientError(message("list", rule, hint="gg.asarray([...]), which stays on it"))
        beside = next((other.dtype for other in xs if type(other) is Tensor), lifted.dtype)
        weak = lifted.dtype == np.float32 and beside.kind == "f"
        return functions.asarray(x, dtype=beside)._data if weak else lifted._data
    if type(x) is _ndarray:
        return x if x.dtype.kind in "biufc" else functions.asarray(x)._data
    return NotImplemented if is_foreign(x) else x


def _lived(x: Any) -> Any:
    return Tensor(concrete(x._data), x._node) if type(x) is Tensor else x


def _evaluate(op: Op, xs: tuple[Any, ...], params: dict[str, Any]) -> Any:
    """``op`` on bare arrays, giving a bare array."""
    for x in xs:
        if type(x) is not _ndarray and type(x) not in WEAK:
            values = [x if type(x) in WEAK else _admit(x, xs) for x in xs]
            some = next(value for value in values if type(value) not in WEAK)
            owner = backend.of(some)
            with owner.here():
                return op.forward(owner.xp, *values, **params)
    return op.forward(np, *xs, **params)


def _explain(op: Op, values: list[Any], params: dict[str, Any], error: Exception) -> Exception:
    """What to raise for a ``forward`` that failed: the words of the rule that was broken."""
    if isinstance(error, GpugradError):
        return error
    device: Any = next((backend.of(v) for v in values if backend.is_cupy(v)), None)
    if device is not None and isinstance(error, MemoryError):
        explained: Exception = device.explained(error)
        return explained
    strange = [type(v).__name__ for v in values if type(v) not in WEAK and not is_array(v)]
    if strange:
        hint = "gg.asarray(...) on what is not an array"
        return DtypeError(message(op.name, "takes tensors, arrays and numbers", strange, hint))
    devices = {backend.of(v).device for v in values if type(v) not in WEAK}
    if len(devices) > 1:
        hint = "x.to(device); nothing is copied between devices silently"
        return DeviceError(message(op.name, "tensors on different devices", sorted(devices), hint))
    avals = [aval_of(value) for value in values]
    try:
        op.aval(*avals, **params)
    except GpugradError as rule:
        return rule
    except Exception:  # the rule itself cannot say: NumPy's own words are the best there are
        return error
    if isinstance(error, (TypeError, ValueError)):
        return DtypeError(message(op.name, str(error), listing(avals)))
    return error


def is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic)) or backend.is_cupy(value)


def is_foreign(x: Any) -> bool:
    """Whether ``x`` is an array of another library: labelled, sparse, with units, of a frame."""
    kind = type(x)
    known = _foreign.get(kind)
    if known is None:
        announced = hasattr(kind, "__array_ufunc__") or hasattr(kind, "__array_priority__")
        known = _foreign[kind] = announced and kind is not Tensor and not is_array(x)
    return known


_foreign: dict[type, bool] = {}


# Forward mode


def _bind_special(op: Op, xs: tuple[Any, ...], params: dict[str, Any]) -> Any:
    """Strip the innermost level, run the op below it, and push the tangents through ``op.jvp``."""
    if op.precision is not None and state.autocast is not None:
        xs = _cast(xs, np.dtype(np.float32) if op.precision == "single" else state.autocast)
    level = max([x._data.level for x in xs if _level(x) >= 0], default=-1)
    xs = tuple([x if type(x) is Tensor or type(x) in WEAK else _admit(x, xs) for x in xs])
    for x in xs:
        if x is NotImplemented:
            return x
    if level < 0:
        if state.trace is not None:
            return state.trace.record(op, xs, params)
        state.special = False
        try:
            y = op(*xs, **params)
        finally:
            state.special = True
        if flags.check:
            check.after(op, xs, y)
        for watcher in state.watchers:
            watcher(op, xs, y)
        return y
    primals = [Tensor(x._data.primal, x._node) if _level(x) == level else x for x in xs]
    tangents = [x._data.tangent if _level(x) == level else None for x in xs]
    y = op(*primals, **params)
    if op.jvp is None:
        return y
    with np.errstate(all="ignore"):  # infinite slopes are no accident here, as in backward
        tangent = op.jvp(tangents, y, primals, params)
    if tangent is None:
        return y
    if type(y) is tuple:
        duals: Any = tuple([_dual(level, p, t) for p, t in zip(y, tangent, strict=True)])
        node = next((p._node.parents[0] for p in y if p._node is not None), None)
    else:
        duals, node = _dual(level, y, tangent), y._node
    if node is not None:  # a backward pass inside this level must see the tangents too
        values = [value_of(x) if type(x) is Tensor else x for x in xs]
        tracked = sum(1 << i for i, parent in enumerate(node.parents) if parent is not None)
        node.saved = Tangled(op.keep(tracked, len(xs))([*values, duals, None]))
    return parts(duals, node) if type(duals) is tuple else Tensor(duals, node)


def _cast(xs: tuple[Any, ...], dtype: Any) -> tuple[Any, ...]:
    """``xs`` in ``dtype``, where they are float16 and float32 throughout; numbers stay weak."""
    floats = {x.dtype for x in xs if hasattr(x, "dtype") and x.dtype.kind in "fc"}
    if not floats <= _CASTABLE or floats == {dtype}:
        return xs
    return tuple(
        [
            ops.astype(x, dtype=dtype) if hasattr(x, "dtype") and x.dtype in _CASTABLE else x
            for x in xs
        ]
    )


_CASTABLE = {np.dtype(np.float16), np.dtype(np.float32)}


def _dual(level: int, y: Tensor, tangent: Tensor | None) -> Any:
    """The value of ``y`` with its tangent, which has its shape and dtype."""
    if tangent is None:
        return y._data
    if tangent.shape != y.shape:
        tangent = functions.broadcast_to(tangent, y.shape)
    if tangent.dtype != y.dtype:
        tangent = ops.astype(tangent, dtype=y.dtype)
    return Dual(level, y._data, tangent)


def _level(x: Any) -> int:
    return x._data.level if type(x) is Tensor and type(x._data) is Dual else -1


# Elementwise ops


def elementwise(
    name: str,
    forward: Callable[..., Any],
    partials: Sequence[Callable[..., Any] | int | None] | None = None,
    *,
    singular: bool = False,
    jvp: Callable[..., Any] | None = None,
) -> Op:
    """Declare ``y[i] = f(x[i], …)`` by its partial derivatives; vjp and jvp both follow from them.

    A partial is a function of what it names, 1, -1, or None where there is no derivative; one that
    names ``g`` first is the product itself. With
    ``singular`` a partial may be infinite, and a cotangent of exactly 0 stays 0 there: this keeps
    NaN out of the unselected side of ``where``. A cotangent is multiplied by the conjugate of the
    partial; ``jvp`` is for a function of complex numbers that has no one complex derivative.
    """
    inputs = names(forward)[0][1:]

    def aval(*avals: Aval, **params: Any) -> Aval:
        dtypes = tuple(a.dtype for a in avals)
        shape = broadcast(name, inputs, avals)
        try:
            return Aval(shape, _dtype(forward, dtypes, tuple(params.items())))
        except TypeError:
            hint = "x.astype(...) to a dtype it is defined for"
            rule = "not defined for these dtypes"
            raise DtypeError(message(name, rule, listing(avals), hint)) from None

    op = Op(name, forward, aval, kind="elementwise")
    if partials is not None:
        rules, push = from_partials(name, partials, inputs, singular)
        op.set_rules(rules)
        op.jvp = push if jvp is None else forward_rule(op, jvp)
    return op


@lru_cache(maxsize=4096)
def _dtype(forward: Callable[..., Any], dtypes: tuple[Any, ...], params: Any) -> Any:
    """The dtype rule of an elementwise op is ``forward`` itself, run on nothing."""
    samples = [WEAK[d] if d in WEAK else np.ones((), d) for d in dtypes]
    with np.errstate(all="ignore"):
        return np.asarray(forward(np, *samples, **dict(params))).dtype


def still(x: Any) -> Any:
    """What ``x`` is now, for a rule to compare: a Tensor off the tape, an array as it is."""
    return x.detach() if type(x) is Tensor else x


def data_of(x: Any) -> Any:
    """The bare array of a Tensor, and anything else as it is."""
    return concrete(x._data) if type(x) is Tensor else x
