"""What a traced function saw of Python: whether it is still so, and what the trace changed.

A step is recorded once, so every Python value it may have read (closure, globals, attributes,
lists) is remembered and compared at each call. Imports tensor only.
"""

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from gpugrad.tensor import Tensor

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_LIMIT = 20_000  # containers; beyond them nothing more is watched


_FOLLOWERS = ((sys.setprofile, sys.getprofile), (sys.settrace, sys.gettrace))


class _Everything(set[str]):
    """The names in code that nobody could follow."""

    def __contains__(self, name: object) -> bool:
        return True


class Names(NamedTuple):
    """Names that occur in code: in all that ran, and in what is not ours."""

    all: set[str]
    users: set[str]


class _Place:
    """One container: a dict of names, a list, a tuple, or a closure's cell."""

    __slots__ = ("holder", "keys", "label", "live", "values")

    def __init__(self, holder: Any, label: str, keys: Any, live: frozenset[str]) -> None:
        self.holder = holder
        self.label = label
        self.live = live
        self.keys = keys  # of a dict: those watched
        self.values = self.now()

    def now(self) -> list[Any]:
        holder = self.holder
        if type(holder) is types.CellType:
            try:
                return [holder.cell_contents]
            except ValueError:  # assigned later
                return [UNSET]
        if isinstance(holder, dict):
            return [holder.get(key, UNSET) for key in self.keys]
        return list(holder)

    def changed(self) -> str:
        """What is not as it was, in words; an equal number in another object is as it was."""
        now = self.now()
        if len(now) != len(self.values):
            return f"{self.label} went from {len(self.values)} entries to {len(now)}"
        for i, (a, b) in enumerate(zip(self.values, now, strict=True)):
            if a is b:
                continue
            if isinstance(a, _PLAIN) and type(a) is type(b) and a == b:
                self.values[i] = b
                continue
            if isinstance(self.holder, dict):
                return f"{self.label}{_named(self.keys[i])} went from {_short(a)} to {_short(b)}"
            where = "" if type(self.holder) is types.CellType else f"[{i}]"
            return f"{self.label}{where} went from {_short(a)} to {_short(b)}"
        return ""

    def restore(self) -> None:
        if isinstance(self.holder, list):
            self.holder[:] = self.values
        elif isinstance(self.holder, dict):
            for key, value in zip(self.keys, self.values, strict=True):
                if value is UNSET:
                    self.holder.pop(key, None)
                else:
                    self.holder[key] = value
        elif type(self.holder) is types.CellType:
            self.holder.cell_contents = self.values[0]


UNSET = object()


def _named(key: Any) -> str:
    return f".{key}" if isinstance(key, str) else f"[{key!r}]"


def _short(value: Any) -> str:
    text = "nothing" if value is UNSET else repr(value) if isinstance(value, _PLAIN) else ""
    return text if text and len(text) < 60 else f"a {type(value).__name__}"


class Watch:
    """The Python values that ``roots`` (functions, objects) can reach."""

    def __init__(self, roots: Any, names: Names | None = None) -> None:
        self._roots = roots
        self._names = names
        self.places: list[_Place] = []
        self._seen: set[int] = set()
        self._grown: list[tuple[Any, int, str]] = []  # dicts and their number of keys
        self._streams: list[tuple[Any, str, bytes]] = []  # random generators and where they are
        if names is None:
            for module, function in (("random", "random"), ("numpy.random", "rand")):
                if module in sys.modules:
                    shared = getattr(sys.modules[module], function).__self__
                    self._follow(shared, f"the generator that functions of {module} share")
        for root in roots:
            self._visit(root, getattr(root, "__name__", type(root).__name__))

    def changed(self) -> str:
        """The first value that is not as it was, in words; empty when all are."""
        for place in self.places:
            difference = place.changed()
            if difference:
                return difference
        for holder, count, label in self._grown:
            if len(holder) != count:
                return f"{label} went from {count} entries to {len(holder)}"
        return ""

    def drawn(self) -> str:
        """The first random generator not of ours that has been drawn from; empty if none was."""
        moved = (label for value, label, was in self._streams if _stream(value) != was)
        return next(moved, "")

    def restore(self) -> None:
        """Put back what the containers held."""
        for place in self.places:
            if place.changed():
                place.restore()
        for holder, count, _ in self._grown:
            for key in list(holder)[count:]:
                del holder[key]

    def narrowed(self, names: "Names") -> "Watch":
        """Of attributes and globals only those whose names occur in the code that ran.

        Of what is live only those that occur in the user's own code.
        """
        return Watch(self._roots, names)

    def _counts(self, key: Any, live: frozenset[str]) -> bool:
        if self._names is None or live is _ALL:
            return True
        return key in self._names.users or (key in self._names.all and key not in live)

    def _visit(self, value: Any, label: str) -> None:
        stack = [(value, label)]
        while stack and len(self.places) < _LIMIT:
            value, label = stack.pop()
            if isinstance(value, (*_PLAIN, Tensor)) or id(value) in self._seen:
                continue
            self._seen.add(id(value))
            if self._names is None:
                self._follow(value, label)
            stack.extend(self._inside(value, label))

    def _inside(self, value: Any, label: str) -> Iterator[tuple[Any, str]]:
        if isinstance(value, types.MethodType):
            yield value.__self__, label
            yield value.__func__, label
        elif isinstance(value, types.FunctionType):
            names = value.__code__.co_freevars
            for name, cell in zip(names, value.__closure__ or (), strict=True):
                yield from self._place(cell, name, None)
            if not _ours(value.__module__):
                known = [n for n in _names_in(value.__code__) if n in value.__globals__]
                found = [n for n in known if not isinstance(value.__globals__[n], _FIXED)]
                yield from self._place(value.__globals__, "", found)
            if value.__defaults__:
                yield value.__defaults__, f"{label} defaults"
        elif isinstance(value, (list, tuple)):
            yield from self._place(value, label, None)
        elif type(value) is dict:
            self._grow(value, label)
            yield from self._place(value, label, list(value), _ALL)
        elif not isinstance(value, (type, types.ModuleType)) and hasattr(value, "__dict__"):
            own = vars(value)
            if not _internal(type(value).__module__):
                self._grow(own, label)
                keys = dict.fromkeys([*own, *_defaults(type(value))])
                # What a compiled step reads anew at every call, never baked in.
                live: frozenset[str] = getattr(type(value), "_live", frozenset())
                yield from self._place(own, label, list(keys), live)

    def _follow(self, value: Any, label: str) -> None:
        if state := _stream(value):
            self._streams.append((value, label, state))

    def _grow(self, holder: Any, label: str) -> None:
        if self._names is None:  # new attributes matter while recording only
            self._grown.append((holder, len(holder), label))

    def _place(
        self, holder: Any, label: str, keys: Any, live: frozenset[str] = frozenset()
    ) -> Iterator[tuple[Any, str]]:
        if keys is not None:
            keys = [key for key in keys if self._counts(key, live)]
        place = _Place(holder, label, keys, live)
        if keys != []:
            self.places.append(place)
        for i, value in enumerate(place.values):
            if keys is not None and keys[i] in live:
                continue
            name = label
            if keys is not None:
                name = f"{label}{_named(keys[i])}" if label else str(keys[i])
            elif type(holder) is not types.CellType:
                name = f"{label}[{i}]"
            yield value, name


def _stream(value: Any) -> bytes:
    """Where a random generator of Python's or NumPy's is in its stream; empty for anything else."""
    kind = type(value)
    if kind.__module__ == "random" and kind.__name__ == "Random":
        return pickle.dumps(value.getstate())
    if kind.__module__.startswith("numpy.random"):
        bits = getattr(value, "_bit_generator", None)
        return b"" if bits is None else pickle.dumps(bits.state)
    return b""


_ALL = frozenset({""})  # marks a dict of the user's, of which every key counts
_FIXED = (type, types.ModuleType, types.BuiltinFunctionType)


def _defaults(kind: type) -> Iterator[str]:
    """Plain values on the class, which an attribute of the object may come to hide."""
    for base in kind.__mro__:
        yield from (k for k, v in vars(base).items() if isinstance(v, _PLAIN) and k[:2] != "__")


def _ours(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "gpugrad"


def _internal(module: str | None) -> bool:
    """Whether objects of classes from there hold nothing of the user's choosing."""
    if _ours(module):
        return not (module or "").startswith(("gpugrad.nn", "gpugrad.optim", "gpugrad.cli"))
    name = (module or "").partition(".")[0]
    return name in sys.stdlib_module_names - {"__main__"} or name in ("numpy", "cupy")


def _names_in(code: types.CodeType) -> list[str]:
    names = dict.fromkeys(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names.update(dict.fromkeys(_names_in(const)))
    return list(names)


@contextmanager
def names_used() -> Iterator[Names]:
    """Collects the names in all code that runs inside the block, and in all that is not ours."""
    names = Names(set(), set())
    seen: set[types.CodeType] = set()

    def note(frame: types.FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if event == "call" and code not in seen:
            seen.add(code)
            names.all.update(code.co_names)
            if not _ours(frame.f_globals.get("__name__")):
                names.users.update(code.co_names)

    # A profiler (cProfile, say) could not be put back once it is replaced; a debugger neither.
    free = [s for s, get in _FOLLOWERS if get() is None]
    if not free:
        yield Names(_Everything(), set())
        return
    follow = free[0]
    follow(note)
    try:
        yield names
    finally:
        follow(None)
