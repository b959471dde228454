"""What values of a compiled step are called: as the function and its surroundings call them.

Imports compiler, record and nn.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from gpugrad.compiler.program import Program, uniform
from gpugrad.compiler.trace import Slot, Traced
from gpugrad.drawing.record import function_of, number
from gpugrad.nn import Module
from gpugrad.tensor import Tensor


class Names:
    """What to call the values of a program: as the function and its surroundings call them."""

    def __init__(
        self, program: Program, arguments: Sequence[str], places: Sequence[Mapping[str, Any]]
    ) -> None:
        self.program = program
        self.known: dict[Traced, str] = {}
        taken: set[str] = set()
        holders = {id(slot.holder) for slot in program.captured}
        self._held: dict[int, str] = {}
        for variables in places:
            for found, name in _tensors(variables, holders):
                self._held.setdefault(found, name)
        for i, var in enumerate(program.arguments):
            self._name(var, arguments[i] if i < len(arguments) else f"x{i}", taken)
        for slot in program.captured:
            assert slot.var is not None
            self._name(slot.var, self.holder(slot), taken)
        for var, get in program.scalars:
            self.known[var] = _scalar(get)
        self._written = {var for _, var in program.writes}
        for slot, var in program.writes:
            old = self.known[slot.var] if slot.var in self.known else self.holder(slot)
            self.known.setdefault(var, f"{old}′")

    def _name(self, var: Traced, name: str, taken: set[str]) -> None:
        base, n = name, 1
        while name in taken:
            n += 1
            name = f"{base} {n}"
        taken.add(name)
        self.known[var] = name

    def holder(self, slot: Slot) -> str:
        if type(slot.holder) is not Tensor:
            return "gradient"
        return self._held.get(id(slot.holder), "captured")

    def given(self) -> Iterator[tuple[Traced, str]]:
        """Arguments and what is captured, with their names."""
        for var in self.program.arguments:
            yield var, self.known[var]
        for slot in self.program.captured:
            assert slot.var is not None
            yield slot.var, self.known[slot.var]

    def scalars(self) -> Iterator[tuple[Traced, str]]:
        return ((var, self.known[var]) for var, _ in self.program.scalars)

    def is_written(self, var: Traced) -> bool:
        return var in self._written

    def word(self, x: Any) -> str:
        if type(x) is not Traced:
            return number(x)
        if x in self.known:
            return self.known[x]
        value = uniform(self.program.constants[x]) if x in self.program.constants else None
        return "constant" if value is None else number(value)


def _scalar(get: Any) -> str:
    """``lr``, where a number is an attribute that is looked up."""
    plain = isinstance(get, partial) and get.func is getattr and len(get.args) > 1
    return str(get.args[1]) if plain else "count"


def seen_by(f: Callable[..., Any]) -> dict[str, Any]:
    """The variables that a function can see besides its own."""
    own = getattr(getattr(f, "__self__", None), "__dict__", {})
    f = function_of(f)
    if not inspect.isfunction(getattr(f, "__func__", f)):
        return dict(own)
    found = inspect.getclosurevars(f)
    return {**found.globals, **found.nonlocals, **own}


def _tensors(variables: Mapping[str, Any], wanted: set[int]) -> Iterator[tuple[int, str]]:
    """Names of the ``wanted`` tensors, by identity; a lone module's without its own name."""
    modules: dict[int, tuple[str, dict[str, Tensor]]] = {}
    for name, value in variables.items():
        if type(value) is Tensor and id(value) in wanted:
            yield id(value), name
        elif isinstance(value, Module):
            inside = {n: t for n, t in value._walk() if isinstance(t, Tensor)}
            if any(id(t) in wanted for t in inside.values()):
                modules.setdefault(id(value), (name, inside))
    named: dict[int, str] = {}
    for name, inside in modules.values():
        for dotted, t in inside.items():
            named.setdefault(id(t), dotted if len(modules) == 1 else f"{name}.{dotted}")
    yield from named.items()
    for value in variables.values():
        slots, trained = getattr(value, "state", None), getattr(value, "params", None)
        if isinstance(slots, dict) and isinstance(trained, list):  # an optimiser
            for slot, tensors in slots.items():
                for p, t in zip(trained, tensors, strict=False):
                    yield id(t), f"{slot} of {named.get(id(p), 'a parameter')}"
