"""Nested lists, tuples and dicts of leaves, taken apart and put together. Imports nothing."""

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


def map_leaves(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """``f`` of each leaf, and of the leaves at the same place in ``others``."""
    leaves, rebuild = flatten(tree)
    rest = [flatten(other)[0] for other in others]
    return rebuild(f(*group) for group in zip(leaves, *rest, strict=True))


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
        return type(tree)((key, _rebuild(value, new)) for key, value in tree.items())
    if isinstance(tree, (list, tuple)):
        parts = [_rebuild(value, new) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return None if tree is None else next(new)
