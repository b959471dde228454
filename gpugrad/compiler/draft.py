"""A draft: the nodes made so far and where values lie. Imports program, nodes and views."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpugrad.compiler.nodes import Call, Copy, Node
from gpugrad.compiler.program import Program, uniform
from gpugrad.compiler.trace import Eqn, Traced
from gpugrad.compiler.views import Buffer, Shape, View, contiguous, in_rows, whole

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
HALF = np.dtype(np.float16)
_COPY = SimpleNamespace(name="copy", forward=lambda xp, x: xp.ascontiguousarray(x))


class Draft:
    """``view[var]`` says where each value lies, ``uniform[var]`` which number it is everywhere,
    ``maker[buffer]`` which node writes it.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.view: dict[Traced, View] = {}
        self.nodes: list[Node] = []
        self.maker: dict[Buffer, Node] = {}
        self.constants: list[Any] = []
        self.uniform: dict[Traced, float] = {}
        self.place = 0  # number of the equation that is being made nodes
        self.on_device = program.devices[:1] not in ([], ["cpu"])
        # What chains and products take. Half precision is computed with in float32, each result
        # rounded.
        self.floats = (*FLOATS, HALF) if self.on_device else FLOATS
        self._materialised: dict[tuple[View, Shape], View] = {}
        self._views: dict[View, View] = {}
        for i, var in enumerate(program.arguments):
            self._given("arg", var, i)
        for i, slot in enumerate(program.captured):
            assert slot.var is not None
            self._given("captured", slot.var, i)
        for i, (var, _) in enumerate(program.scalars):
            self.view[var] = whole(Buffer("scalar", np.float64, 1, i), ())
        for var, array in program.constants.items():
            value = uniform(array)
            if value is not None and array.dtype.kind in "fb":
                self.uniform[var] = float(value)

    def _given(self, kind: str, var: Traced, index: int) -> None:
        buffer = Buffer(kind, var.dtype, math.prod(var.shape), index)
        self.view[var] = whole(buffer, var.shape)

    def at(self, var: Traced) -> View:
        """Where ``var`` lies; a constant is given memory when somebody asks."""
        view = self.view.get(var)
        if view is None:
            array = self.program.constants[var]
            buffer = Buffer("constant", var.dtype, array.size, len(self.constants))
            self.constants.append(np.ascontiguousarray(array))
            view = self.view[var] = whole(buffer, var.shape)
        return view

    def new(self, var: Traced) -> View:
        view = self.view[var] = whole(Buffer("temp", var.dtype, math.prod(var.shape)), var.shape)
        return view

    def add(self, node: Node) -> None:
        node.place = self.place
        self.nodes.append(node)
        for view in node.writes:
            self.maker[view.buffer] = node

    def dense(self, view: View) -> View:
        """The same values one after the other: ``view`` itself, or a copy."""
        if view.contiguous:
            return View(view.buffer, view.shape, contiguous(view.shape), view.offset)
        key = (view, view.shape)
        if key not in self._materialised:
            target = whole(Buffer("temp", view.buffer.dtype, view.size), view.shape)
            plain = in_rows(view.strides, view.shape) is not None
            call = Eqn(_COPY, (), {})
            self.add(Copy(view, target) if plain else Call(call, [view], [target], "strides"))
            self._materialised[key] = target
        return self._materialised[key]

    def one(self, view: View) -> View:
        """Equal views as one object, so that an operand is loaded once."""
        return self._views.setdefault(view, view)

    def leads(self, node: Node, others: Sequence[Node]) -> bool:
        """Whether one of ``others`` needs what ``node`` writes, however far down."""
        stack, seen = list(others), set(map(id, others))
        while stack:
            current = stack.pop()
            for view in current.reads:
                maker = self.maker.get(view.buffer)
                if maker is node:
                    return True
                if maker is not None and id(maker) not in seen:
                    seen.add(id(maker))
                    stack.append(maker)
        return False
