"""From the cells of a table's column to numbers: categories as 0/1, missing values filled.

May import numpy and its siblings columns and files.
"""

import re
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from gpugrad.data.columns import Column
from gpugrad.data.files import Array, error

# A text column with more different values than this is a name or a remark, not a category.
MOST_CATEGORIES = 50
MISSING = {"", "?", "na", "n/a", "nan", "null", "none"}
COMMA_NUMBER = re.compile(r"\s*[+-]?\d+,\d+\s*")  # 1,5 to some, 1,500 to others
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Cells:
    """The cells of one column: ``numbers``, NaN where there is none, and ``words`` by row.

    ``place`` says where in the file a row is.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        numbers: Array,
        words: Mapping[int, str],
        place: Callable[[int], str],
    ) -> None:
        self.path, self.name, self.numbers, self.place = path, name, numbers, place
        self.words = {row: w for row, w in words.items() if w.lower() not in MISSING}
        self.missing = np.isnan(numbers)
        self.missing[list(self.words)] = False
        bad = ~self.missing & ~(np.abs(numbers) <= _FLOAT32_MAX)
        bad[list(self.words)] = False
        if bad.any():
            row = int(bad.argmax())
            got = f"{numbers[row]} in {self._place(row)}"
            raise error(path, "numbers are finite and fit float32", got, "filling or dropping it")

    def _place(self, row: int) -> str:
        return f"{self.place(row)}, column {self.name!r}"

    def understood(self) -> tuple[Column, str]:
        """What this column is, and what to tell about it; nothing of most columns."""
        rows, gone = len(self.numbers), int(self.missing.sum())
        present = rows - gone
        if not present:
            return Column(self.name), f"{self.name}: no value in {rows} rows, left out"
        if not self.words:
            values = self.numbers[~self.missing]
            fill = float(np.float32(statistics.median(values.tolist())))
            note = ""
            if gone:
                note = f"{self.name}: {gone} of {rows} values missing, filled with the median, "
                note += f"{fill:g}, and a column says where"
            elif (values == values[0]).all():
                note = f"{self.name}: {values[0]:g} in every row, so nothing is learnt from it"
            elif _counted(values):
                note = f"{self.name}: a whole number that grows from row to row looks like a row "
                note += f"number; --drop {self.name} leaves it out"
            return Column(self.name, fill, bool(gone)), note
        if 2 * len(self.words) < present:
            row = min(self.words)
            got = f"{self.words[row]!r} in {self._place(row)}"
            hint = f"a number, or nothing if it is missing; or {self.name!r} as text in most rows"
            raise error(self.path, "a column is all numbers or mostly text", got, hint)
        texts = self._texts()
        kinds = sorted({t for t in texts if t})
        if len(kinds) > MOST_CATEGORIES or (len(kinds) == present > 2):
            note = f"{self.name}: {len(kinds)} different texts in {rows} rows, left out"
            if all(map(COMMA_NUMBER.fullmatch, self.words.values())):
                note += f"; as a number, {texts[min(self.words)]} has a point and no comma"
            return Column(self.name), note
        found = tuple(kinds) + (("",) if gone else ())
        note = f"{self.name}: {len(kinds)} categories, one column each"
        if gone:
            note += f", and one for the {gone} missing"
        if len(found) == 1:
            note = f"{self.name}: {kinds[0]!r} in every row, so nothing is learnt from it"
        return Column(self.name, categories=found), note

    def _texts(self) -> list[str]:
        """Every cell as text; numbers among words are such."""
        return [
            self.words.get(row, "" if self.missing[row] else f"{value:g}")
            for row, value in enumerate(self.numbers.tolist())
        ]

    def encoded(self, column: Column) -> Array:
        """These cells as ``column`` understands them, of shape (rows, len(column.features))."""
        if column.categories:
            names = np.array(column.categories)
            found: Array = np.array(self._texts())[:, None] == names
            return found.astype(np.float64)
        if column.fill is None:
            return np.empty((len(self.numbers), 0))
        if self.words:
            row = min(self.words)
            got = f"{self.words[row]!r} in {self._place(row)}"
            raise error(self.path, f"column {self.name!r} holds numbers", got)
        values = np.where(self.missing, column.fill, self.numbers)
        parts = [values, self.missing] if column.flagged else [values]
        return np.stack(parts, axis=1)


def _counted(values: Array) -> bool:
    """Whether these are whole numbers, each above the one before; three may be so by chance."""
    whole = len(values) > 3 and (values == np.floor(values)).all()
    return bool(whole and (np.diff(values) > 0).all())
