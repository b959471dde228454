"""Nested lists, tuples and dicts of leaves, taken apart and put together. Imports nothing."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

Rebuild = Callable[[Iterable[Any]], Any]


def flatten(tree: Any) -> tuple[list[Any], Rebuild]:
    """The leaves of ``tree`` and a function that builds the same structure from new ones.

    Lists, tuples (named ones too), dicts and None are structure; everything else is a leaf.

    >>> leaves, rebuild = flatten({"a": 1, "b": (2, [3])})
    >>> leaves, rebuild(x * 10 for x in leaves)
    ([1, 2, 3], {'a': 10, 'b': (20, [30])})
    """
    leaves: list[Any] = []
    _collect(tree, leaves)

    def rebuild(new: Iterable[Any]) -> Any:
        return _rebuild(tree, iter(new))

    return leaves, rebuild


def match(tree: Any, other: Any) -> list[Any]:
    """The leaves of ``other`` in the order of ``tree``: dicts by key, lists and tuples by place.

    Raises ValueError where the structures differ, saying where.

    >>> match({"a": 1, "b": 2}, {"b": 20, "a": 10})
    [10, 20]
    """
    found: list[Any] = []
    _match(tree, other, found, "")
    return found


def _match(tree: Any, other: Any, found: list[Any], path: str) -> None:
    where = path or "at the top"
    if isinstance(tree, dict):
        if not isinstance(other, dict) or tree.keys() != other.keys():
            keys = sorted(map(str, other)) if isinstance(other, dict) else type(other).__name__
            raise ValueError(f"{where}: {keys} for a dict with keys {sorted(map(str, tree))}")
        for key, value in tree.items():
            _match(value, other[key], found, f"{path}[{key!r}]")
    elif isinstance(tree, (list, tuple)):
        if not isinstance(other, (list, tuple)) or len(tree) != len(other):
            given = len(other) if isinstance(other, (list, tuple)) else type(other).__name__
            raise ValueError(f"{where}: {given} for {len(tree)} entries")
        for i, (value, part) in enumerate(zip(tree, other, strict=True)):
            _match(value, part, found, f"{path}[{i}]")
    elif tree is not None:
        found.append(other)


def _collect(tree: Any, leaves: list[Any]) -> None:
    if isinstance(tree, dict):
        for value in tree.values():
            _collect(value, leaves)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            _collect(value, leaves)
    elif tree is not None:
        leaves.append(tree)


def _rebuild(tree: Any, new: Any) -> Any:
    if isinstance(tree, dict):
        filled = copy.copy(tree)  # a defaultdict stays one
        for key, value in tree.items():
            filled[key] = _rebuild(value, new)
        return filled
    if isinstance(tree, (list, tuple)):
        parts = [_rebuild(value, new) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return None if tree is None else next(new)
