"""Program: a traced step as a list of equations, simplified and printed. Imports trace only."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gpugrad.aval import WEAK
from gpugrad.compiler.trace import Eqn, Slot, Trace, Traced

# Ops that only say where values lie. Their equations cost nothing once planned.
LAYOUT = frozenset({"reshape", "permute_dims", "broadcast_to"})
_FOLD_BYTES = 1 << 16  # constants larger than this are not computed ahead


class Program:
    """``outputs`` and ``writes`` in terms of ``inputs``, by ``eqns`` in an order that can be run.

    ``writes`` pairs what was captured with its new value; ``grads`` a sink with its gradient.
    """

    def __init__(
        self,
        trace: Trace,
        arguments: Sequence[Traced],
        outputs: Sequence[Traced],
        writes: Sequence[tuple[Slot, Traced]],
        grads: Sequence[tuple[Slot, Traced]],
    ) -> None:
        self.arguments = list(arguments)
        self.outputs = list(outputs)
        self.writes = list(writes)
        self.grads = list(grads)
        self.constants = dict(trace.constants)
        self.scalars = list(trace.scalars)
        self.captured = [slot for slot in trace.captured.values() if slot.var is not None]
        self.eqns = list(trace.eqns)
        self.traced = len(self.eqns)  # equations before anything was taken out

    @property
    def devices(self) -> list[str]:
        """Where its arrays are; numbers are everywhere."""
        given = [*self.arguments, *[slot.var for slot in self.captured if slot.var is not None]]
        every = [*given, *self.constants, *[y for eqn in self.eqns for y in eqn.outputs]]
        return sorted({var.device for var in every if var.ndim} or {var.device for var in every})

    @property
    def results(self) -> list[Traced]:
        """Every value that somebody outside will see."""
        pairs = (*self.writes, *self.grads)
        return [*self.outputs, *[var for _, var in pairs]]

    def simplify(self) -> "Program":
        """Dead code out, constants computed ahead, common subexpressions computed once."""
        self._remove_dead()
        self._fold()
        self._share()
        self._remove_dead()
        self._forget_inputs()
        return self

    def _remove_dead(self) -> None:
        live = set(self.results)
        kept = []
        for eqn in reversed(self.eqns):
            if eqn.op.kind == "effect" or any(y in live for y in eqn.outputs):
                kept.append(eqn)
                live.update(x for x in eqn.inputs if type(x) is Traced)
        self.eqns = kept[::-1]

    def _forget_inputs(self) -> None:
        """Inputs that nothing reads any more need not be looked up at every call."""
        used = {x for eqn in self.eqns for x in eqn.inputs if type(x) is Traced}
        used.update(self.results)
        self.captured = [slot for slot in self.captured if slot.var in used]
        self.scalars = [(var, get) for var, get in self.scalars if var in used]
        self.constants = {var: a for var, a in self.constants.items() if var in used}

    def _replace(self, new: dict[Traced, Traced]) -> None:
        def at(x: Any) -> Any:
            return new.get(x, x) if type(x) is Traced else x

        for eqn in self.eqns:
            eqn.inputs = tuple([at(x) for x in eqn.inputs])
        self.outputs = [at(y) for y in self.outputs]
        self.writes = [(slot, at(y)) for slot, y in self.writes]
        self.grads = [(slot, at(y)) for slot, y in self.grads]

    def _fold(self) -> None:
        """Compute what depends on constants alone. One value repeated stays one value."""
        kept = []
        for eqn in self.eqns:
            values = [self.constants.get(x) if type(x) is Traced else x for x in eqn.inputs]
            if eqn.op.kind == "effect" or any(v is None for v in values):
                kept.append(eqn)
                continue
            results = _folded(eqn, values)
            if results is None:
                kept.append(eqn)
                continue
            self.constants.update(zip(eqn.outputs, results, strict=True))
        self.eqns = kept

    def _share(self) -> None:
        known: dict[Any, Eqn] = {}
        new: dict[Traced, Traced] = {}
        constants: dict[Any, Traced] = {}
        for var, array in self.constants.items():
            value = uniform(array)
            if value is not None and array.dtype.kind in "fiub":
                what = (var.shape, var.dtype, _bits(value))
                if what in constants:
                    new[var] = constants[what]
                constants.setdefault(what, var)
        kept = []
        for eqn in self.eqns:
            eqn.inputs = tuple([new.get(x, x) if type(x) is Traced else x for x in eqn.inputs])
            key = None if eqn.op.kind == "effect" else _key(eqn)
            before = None if key is None else known.get(key)
            if before is None:
                kept.append(eqn)
                if key is not None:
                    known[key] = eqn
            else:
                new.update(zip(eqn.outputs, before.outputs, strict=True))
        self.eqns = kept
        self._replace(new)

    # In words

    def __repr__(self) -> str:
        names = _Names()
        given = [names.typed(x) for x in self.arguments]
        lines = [f"{{ lambda {' '.join(given) or '()'} ."]
        for slot in self.captured:
            kind = "gradient" if not hasattr(slot.holder, "_data") else "captured"
            lines.append(f"    {kind} {names.typed(slot.var)}")
        lines += [f"    scalar {names.typed(var)}" for var, _ in self.scalars]
        for var, array in self.constants.items():
            lines.append(f"    constant {names.typed(var)} = {_short(array)}")
        for eqn in self.eqns:
            params = ", ".join(f"{k}={_param(v)}" for k, v in eqn.params.items())
            right = " ".join(
                [eqn.op.name + (f"[{params}]" if params else ""), *map(names, eqn.inputs)]
            )
            lines.append(f"    {' '.join(map(names.typed, eqn.outputs))} = {right}")
        lines.append(f"  in ({', '.join(map(names, self.outputs))})")
        for slot, var in self.writes:
            lines.append(f"     {names(slot.var) if slot.var else 'new'} <- {names(var)}")
        for _, var in self.grads:
            lines.append(f"     .grad <- {names(var)}")
        return "\n".join([*lines, "}"])


class _Names:
    """a, b, … z, aa, ab, …, in the order of first mention."""

    def __init__(self) -> None:
        self._known: dict[Traced, str] = {}

    def __call__(self, x: Any) -> str:
        if type(x) is not Traced:
            return repr(x)
        if x not in self._known:
            n, name = len(self._known), ""
            while n >= 0:
                n, letter = divmod(n, 26)
                name, n = chr(97 + letter) + name, n - 1
            self._known[x] = name
        return self._known[x]

    def typed(self, x: Any) -> str:
        sizes = ",".join(map(str, x.shape))
        kind = x.dtype.__name__ if x.dtype in WEAK else f"{x.dtype.kind}{x.dtype.itemsize * 8}"
        return f"{self(x)}:{kind}[{sizes}]"


def _short(array: Any) -> str:
    value = uniform(array)
    return "…" if value is None else repr(value)


def _param(value: Any) -> str:
    text = value.name if isinstance(value, np.dtype) else repr(value)
    return text if len(text) < 40 else text[:37] + "…"


def uniform(array: Any) -> Any:
    """The one value that ``array`` repeats, as a Python number; None when there are several."""
    if not array.size or array.dtype.kind not in "fiub":
        return None
    flat = array if not array.ndim else array[(0,) * array.ndim]
    if array.ndim and any(array.strides[i] for i in range(array.ndim) if array.shape[i] > 1):
        if array.size > 4096:
            return None
        same = array == flat
        if not same.all():
            return None
    return flat.item()


def _bits(value: Any) -> Any:
    return value.hex() if isinstance(value, float) else value


def _folded(eqn: Eqn, values: Sequence[Any]) -> list[Any] | None:
    """The outputs of ``eqn`` on constants, or None where that should wait for the run."""
    single = [uniform(v) if hasattr(v, "shape") else v for v in values]
    (y,) = eqn.outputs if len(eqn.outputs) == 1 else (None,)
    simple = eqn.op.kind == "elementwise" or eqn.op.name in LAYOUT
    if y is not None and simple and all(v is not None for v in single):
        if eqn.op.name in LAYOUT:
            value = np.asarray(single[0], dtype=y.dtype)
        else:
            scalars = [
                v if not hasattr(v, "shape") else np.asarray(s, dtype=v.dtype)
                for v, s in zip(values, single, strict=True)
            ]
            with np.errstate(all="ignore"):
                value = np.asarray(eqn.op.forward(np, *scalars, **eqn.params))
        return [np.broadcast_to(value, y.shape)]
    if sum(math.prod(out.shape) * 8 for out in eqn.outputs) > _FOLD_BYTES:
        return None
    with np.errstate(all="ignore"):
        results = eqn.op.forward(np, *values, **eqn.params)
    many = results if isinstance(results, tuple) else (results,)
    return [np.asarray(r) for r in many]


def _key(eqn: Eqn) -> Any:
    inputs = [
        x if type(x) is Traced else (type(x), _bits(x)) if not isinstance(x, complex) else repr(x)
        for x in eqn.inputs
    ]
    try:
        key = (eqn.op, tuple(inputs), tuple(sorted(_hashable(eqn.params))))
        hash(key)
    except TypeError:
        return None
    return key


def _hashable(params: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return [
        (name, repr(value) if isinstance(value, (slice, tuple)) else str(value))
        for name, value in params.items()
    ]
