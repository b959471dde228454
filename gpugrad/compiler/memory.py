"""Memory: the array that each base of a plan is now. Imports nodes, plan and views.

Arguments are taken in, tensors looked up, and let go where another recording wants them.
"""

import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

from gpugrad.compiler.nodes import STATE_WORDS
from gpugrad.compiler.plan import Plan
from gpugrad.compiler.views import View
from gpugrad.tensor import Tensor, sole_owner

_on_device: WeakSet["Memory"] = WeakSet()


class Memory:
    """What is ``bound`` to each base, for the engines of a recording too."""

    def __init__(
        self,
        plan: Plan,
        place: Any,
        engines: Sequence[Any],
        numbers: Any,
        by_array: bool,
        moving: bool,
    ) -> None:
        """``moving``: arguments and results are worked on where they lie, at other addresses in
        every run; else at fixed places, as a CUDA graph needs it.
        """
        self.plan, self.place, self.moving = plan, place, moving
        self.lock = threading.Lock()  # of a run; a native replay is one itself
        self.bound: list[Any] = [None] * len(plan.bases)
        self._arrays: dict[tuple[View, int], Any] = {}
        # References of our own to a bound array: in `bound`, and whatever the engine keeps.
        self._by_array = by_array
        self._engines = engines
        self._held = 1 + sum(getattr(engine, "references", 0) for engine in engines)
        self._copied_in: set[int] = set()  # memories of arguments that do not stay in one place
        self.bases = {
            kind: {b.index: i for i, b in enumerate(plan.bases) if b is not None and b.kind == kind}
            for kind in ("arg", "captured", "result")
        }
        self.bind(0, place.memory(plan.arena_bytes))
        for i, buffer in enumerate(plan.bases):
            if buffer is None:
                continue
            if buffer.kind == "constant":
                self.bind(i, place.asarray(plan.lowering.constants[buffer.index]))
            elif buffer.kind == "scalar":
                self.bind(i, numbers[buffer.index : buffer.index + 1])
            elif buffer.kind == "draw":
                at = len(plan.program.scalars) + STATE_WORDS * buffer.index
                self.bind(i, numbers[at : at + STATE_WORDS])
            elif not moving and buffer.kind == "result":
                self.bind(i, place.empty((buffer.size,), buffer.dtype))
        # Gradients that nobody has looked at are computed from these.
        self._needed_later = {
            plan.base(plan.home(v).buffer) for grad in plan.grads for v in grad.reads
        }
        if not moving:
            _on_device.add(self)

    def bind(self, base: int, array: Any) -> None:
        self.bound[base] = array
        for engine in self._engines:
            engine.bind(base, array if self._by_array else array.ctypes.data)

    def take_in(self, base: int, array: Any) -> None:
        """An argument that lies where it lay before is used there; one that moves is copied in."""
        if base not in self._copied_in:
            bound, place = self.bound[base], self.place
            if array.flags.c_contiguous and (
                bound is None or place.address(bound) == place.address(array)
            ):
                if bound is not array:
                    self.bind(base, array)
                return
            self._copied_in.add(base)
            self.bind(base, place.empty(array.shape, array.dtype))
        self.place.copy_into(self.bound[base], array)

    def look_up(self, slots: Sequence[Any]) -> None:
        """Bind what captured tensors hold now: a copy where others see what is overwritten."""
        for _, slot, written, base in slots:
            if base is None:
                continue
            held: Any = slot.holder
            holder = held if type(held) is Tensor else held.look()
            array = holder._data
            bound = self.bound[base]
            # References of our own: what is bound, and variables here.
            ours = self._held + 2 if array is bound else 1
            if written and not self.moving and not sole_owner(holder, ours):
                self._have_let_go(array)
            if not written or sole_owner(holder, ours):
                if array is not bound and array.flags.c_contiguous:
                    self.bind(base, array)
                if self.bound[base] is array:
                    continue
            copy = self.copied(array)
            if written:  # somebody else can see the old values
                holder._data = copy
            self.bind(base, copy)

    def _have_let_go(self, array: Any) -> None:
        """Have the memory of other recordings hold ``array`` no longer.

        Steps take turns on the same parameters where the last batch of an epoch is smaller: copies
        at each turn would move them, and with them every graph.
        """
        for other in list(_on_device):
            if other is not self:
                other.let_go(array)

    def let_go(self, array: Any) -> None:
        """Hold a tensor's array no longer, if no run is under way: the next one looks it up."""
        if self.lock.acquire(blocking=False):
            try:
                for base in set(self.bases["captured"].values()) - self._needed_later:
                    if self.bound[base] is array:
                        self.bound[base] = None
                        for engine in self._engines:
                            engine.let_go(base)
            finally:
                self.lock.release()

    def copied(self, array: Any) -> Any:
        copy = self.place.empty(array.shape, array.dtype)
        self.place.copy_into(copy, array)
        return copy

    def array(self, view: View, thread: int = 0) -> Any:
        """The values of ``view``, as an array on the memory that is bound now."""
        array = self._arrays.get((view, thread))
        if array is None:
            array = self.array_on(self.bound, view, thread)
            if self.plan.home(view).buffer.kind == "temp":  # always in the arena
                self._arrays[view, thread] = array
        return array

    def array_on(self, memories: Sequence[Any], view: View, thread: int = 0) -> Any:
        """The values of ``view`` where ``memories`` stand for the plan's bases."""
        plan = self.plan
        private = plan.rows is not None and plan.rows.is_private(view.buffer)
        buffer = view.buffer if private else plan.home(view).buffer
        start = plan.offset.get(buffer, 0) + (thread * plan.private_bytes if private else 0)
        size = buffer.dtype.itemsize
        memory = memories[plan.base(buffer)]
        steps = tuple(s * size for s in view.strides)
        start += view.offset * size
        return self.place.view(memory, start, view.shape, buffer.dtype, steps)
