"""How the columns of a table became features: what a checkpoint keeps. Imports nothing of ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """How one column of a table becomes numbers; what a model needs to read another table.

    A column of numbers is itself, ``fill`` where a value is missing, and with ``flagged`` a second
    one that is 1 there. A column of text is a 0/1 for each of ``categories``; a missing value is
    the category "", where some were missing when the column was first read. Neither: left out.
    """

    name: str
    fill: float | None = None
    flagged: bool = False
    categories: tuple[str, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        if self.categories:
            return tuple(f"{self.name}={c or 'missing'}" for c in self.categories)
        if self.fill is None:
            return ()
        return (self.name, f"{self.name} missing") if self.flagged else (self.name,)

    def stored(self) -> dict[str, Any]:
        """For JSON; ``Column(**stored)`` is the column again, once lists are tuples."""
        return {**vars(self), "categories": list(self.categories)}

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> "Column":
        return cls(**{**stored, "categories": tuple(stored["categories"])})
