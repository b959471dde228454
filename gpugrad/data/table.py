"""Tables: what their columns and target become; CSV (RFC 4180, UTF-8; ; or a tab between) itself.

May import numpy, gpugrad.errors and its siblings cells, columns, dataset and files.
"""

import csv
import io
import math
from array import array
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpugrad.data.cells import COMMA_NUMBER, Cells
from gpugrad.data.columns import Column
from gpugrad.data.dataset import Dataset
from gpugrad.data.files import Array, error, nearest, opened

# An integer target with more distinct values than this is a quantity, not a class.
MOST_INTEGER_CLASSES = 20

_SHOWN = 10  # of the columns that are missing
_LONGEST_LINE = 1 << 26  # characters; what is longer is no CSV and would fill the memory
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Known(NamedTuple):
    """What an earlier table's columns and target meant; no classes: numbers."""

    columns: Sequence[Column]
    classes: tuple[str, ...]


def load_csv(
    path: Path, target: str | None, known: Known | None = None, drop: Sequence[str] = ()
) -> Dataset:
    """The Dataset in one CSV file whose column ``target``, or the last, is to be predicted.

    Of the other columns, without those to ``drop``, `Cells.understood` says what they become. The
    target is read as follows. Mostly text: classes, in sorted order. Integers with at most 20
    distinct values: classes, in numeric order. Other numbers: regression; so writing an integer
    target as ``3.0`` makes it regression, writing it as text makes it classes. Mostly numbers with
    some text among them is an error, there and in other columns. What is ``known`` is not asked
    again, and of its columns alone the cells are looked at.
    """
    with _opened(path) as text:
        rows = _rows(path, text)
        line, header = next(rows, (0, []))
        if not header:
            raise error(path, "the file is empty", hint="a header line and rows under it")
        names, column = _columns(path, line, header, target)
        kept = kept_names(path, names, header[column], known, drop)
        cells, answers = _cells(path, rows, names, len(header), column, kept)
    return dataset_of(path, cells, header[column], answers, known)


def dataset_of(
    path: Path, cells: list[Cells], target: str, answers: list[str], known: Known | None
) -> Dataset:
    """The Dataset of a table's columns, and of the texts in its column ``target``."""
    name = path.name.partition(".")[0]
    if known is not None:
        used = [column for column in known.columns if column.features]
        y = _known_answers(path, cells[0].place, target, answers, known.classes)
        features = tuple(feature for column in used for feature in column.features)
        x = encoded(cells, used)
        return Dataset(x, y, known.classes, name, features, columns=tuple(known.columns))
    understood = [each.understood() for each in cells]
    columns = tuple(column for column, _ in understood)
    features = tuple(feature for column in columns for feature in column.features)
    if not features:
        got = "; ".join(note for _, note in understood) or "no column beside the target"
        raise error(path, "there is nothing to learn from", got)
    y, classes = _answers(path, cells[0].place, target, answers)
    return Dataset(
        np.concatenate([c.encoded(column) for c, column in zip(cells, columns, strict=True)], 1),
        *(y, classes, name, features),
        columns=columns,
        notes=tuple(note for _, note in understood if note),
    )


def read_csv(path: Path, columns: Sequence[Column]) -> Array:
    """The features of a file, encoded as those ``columns`` were that a model was trained on.

    Float64 (rows, features). Other columns, a target among them, are not looked at. Raises
    DataError for a column that is not there, and for text among what were numbers.
    """
    with _opened(path) as text:
        rows = _rows(path, text)
        line, header = next(rows, (0, []))
        if not header:
            raise error(path, "the file is empty", hint="a header line and rows under it")
        _names(path, line, header)
        used = used_columns(path, header, columns)
        kept = {column.name for column in used}
        cells, _ = _cells(path, rows, tuple(header), len(header), None, kept)
    return encoded(cells, used)


def used_columns(path: Path, header: Sequence[str], columns: Sequence[Column]) -> list[Column]:
    """Those of ``columns`` that become features; raises unless all are in ``header``."""
    used = [column for column in columns if column.features]
    _all_known(path, [column.name for column in used], header)
    return used


def kept_names(
    path: Path, names: Sequence[str], target: str, known: Known | None, drop: Sequence[str]
) -> set[str]:
    """Those of the columns beside ``target`` that are looked at; raises for what is not there."""
    if known is not None:
        return {column.name for column in used_columns(path, names, known.columns)}
    if target in drop:
        raise error(path, f"the target, {target!r}, cannot be left out", hint="another target")
    _all_known(path, drop, names)
    return set(names) - set(drop)


def _all_known(path: Path, wanted: Sequence[str], header: Sequence[str]) -> None:
    if missing := [name for name in wanted if name not in header]:
        shown = ", ".join(map(repr, missing[:_SHOWN]))
        more = f" and {len(missing) - _SHOWN} others" if len(missing) > _SHOWN else ""
        rule = f"no column is called {shown}{more}"
        near = [hint for name in missing[:_SHOWN] if (hint := nearest(name, header))]
        raise error(path, rule, list(header), ", ".join(dict.fromkeys(near)))


def encoded(cells: list[Cells], columns: Sequence[Column]) -> Array:
    """The features that ``columns`` make of a table's cells."""
    known = {each.name: each for each in cells}
    return np.concatenate([known[column.name].encoded(column) for column in columns], axis=1)


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOWrapper]:
    with (
        opened(path) as raw,
        io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        yield text


def _cells(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    names: Sequence[str],
    width: int,
    column: int | None,
    kept: Container[str],
) -> tuple[list[Cells], list[str]]:
    """The cells of the columns that are ``kept``, and those of ``column``."""
    values = array("d")
    words: list[dict[int, str]] = [{} for _ in names]
    answers: list[str] = []
    lines: list[int] = []
    for line, row in rows:
        if len(row) != width:
            raise error(
                path, f"every row has the header's {width} columns", f"{len(row)} in line {line}"
            )
        if column is not None:
            answers.append(row.pop(column).strip())
        try:
            if "_" in "".join(row):  # float() would take 1_5 for 15
                raise ValueError
            values.extend(map(float, row))
        except ValueError:
            del values[len(lines) * len(names) :]
            for k, cell in enumerate(row):
                number = _number(cell)
                values.append(float(cell) if number else math.nan)
                if not number:
                    words[k][len(lines)] = cell.strip()
        lines.append(line)
    if not lines:
        raise error(path, "no rows under the header")
    table = np.frombuffer(values).reshape(len(lines), len(names))

    def place(row: int) -> str:
        return f"line {lines[row]}"

    found = [
        Cells(path, name, table[:, k].copy(), words[k], place)
        for k, name in enumerate(names)
        if name in kept
    ]
    return found, answers


def _rows(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the physical line of the file it starts on.

    Between columns stands what the first line has most of: comma, semicolon or tab. Spreadsheets
    write semicolons where the comma is the decimal point, so 1,5 is 1.5 there.
    """
    lines = _lines(path, text)
    first = next(lines, "")
    between = max(",;\t", key=first.count)
    reader = csv.reader(chain([first], lines), strict=True, delimiter=between)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as cause:
            raise error(path, f"line {line} is not CSV", cause) from cause
        if between == ";":
            row = [c.replace(",", ".") if COMMA_NUMBER.fullmatch(c) else c for c in row]
        if row:
            yield line, row


def _lines(path: Path, text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise error(path, f"line {number} is longer than {_LONGEST_LINE} characters")
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError as cause:
                byte = ord(line[cause.start]) - 0xDC00
                got = f"byte 0x{byte:02x} in line {number}"
                raise error(path, "the text is not UTF-8", got, "saving it as UTF-8") from cause
        yield line


def _columns(
    path: Path, line: int, header: list[str], target: str | None
) -> tuple[tuple[str, ...], int]:
    """The names of the feature columns, and the index of the target's."""
    if len(header) < 2:
        got = f"one column in line {line}"
        raise error(path, "a feature and a target column are needed", got, "commas between columns")
    _names(path, line, header)
    column = target_index(path, header, target)
    return tuple(header[:column] + header[column + 1 :]), column


def target_index(path: Path, header: list[str], target: str | None) -> int:
    """Which of the columns is ``target``; without one, the last."""
    if target is not None and target not in header:
        raise error(path, f"no column is called {target!r}", header, nearest(target, header))
    return len(header) - 1 if target is None else header.index(target)


def unique_names(path: Path, header: list[str], where: str) -> None:
    """Check that all columns have names of their own; spaces around them go."""
    header[:] = [name.strip() for name in header]
    if "" in header:
        got = f"none for column {header.index('') + 1} {where}"
        raise error(path, "every column has a name", got, "to_csv(index=False) in pandas")
    if repeated := [name for name, count in Counter(header).items() if count > 1]:
        raise error(path, "column names are unique", f"{repeated[0]!r} twice {where}")


def _names(path: Path, line: int, header: list[str]) -> None:
    where = f"in line {line}"
    unique_names(path, header, where)
    if all(map(_number, header)) and header != [str(i) for i in range(len(header))]:
        raise error(path, "the first line names the columns", f"only numbers {where}")


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _answers(
    path: Path, place: Callable[[int], str], name: str, answers: list[str]
) -> tuple[Array, tuple[str, ...]]:
    """The target column as labels and the names of their classes, or as float targets and none."""
    _all_there(path, place, name, answers)
    words = [i for i, answer in enumerate(answers) if not _number(answer)]
    keys: list[Any] = answers  # str, or int so that 10 sorts after 9
    if 2 * len(words) < len(answers):
        y = _numbers(path, place, name, answers, "a target column is all numbers or all text")
        if not all(map(_whole, answers)) or len(set(y)) > MOST_INTEGER_CLASSES:
            return y, ()
        keys = [int(answer) for answer in answers]
    classes = sorted(set(keys))
    if len(classes) == 1:
        got = f"{classes[0]!r} in every row of column {name!r}"
        raise error(path, "at least two classes are needed", got)
    if 2 * len(classes) > len(answers) and len(classes) > MOST_INTEGER_CLASSES:
        got = f"{len(classes)} different texts in {len(answers)} rows"
        hint = "target='<another column>'"
        if all(COMMA_NUMBER.fullmatch(answers[row]) for row in words):
            got, hint = f"{got}, such as {answers[words[0]]!r}", "a point in numbers, no comma"
        raise error(path, f"column {name!r} holds no classes", got, hint)
    index = {key: label for label, key in enumerate(classes)}
    return np.array([index[key] for key in keys]), tuple(str(key) for key in classes)


def _known_answers(
    path: Path,
    place: Callable[[int], str],
    name: str,
    answers: list[str],
    classes: tuple[str, ...],
) -> Array:
    """The target column as labels of ``classes``, or as numbers if there are none."""
    _all_there(path, place, name, answers)
    if not classes:
        rule = f"the target is numbers, and column {name!r} holds something else"
        return _numbers(path, place, name, answers, rule)
    label = {known: i for i, known in enumerate(classes)}
    # Whole numbers were read as such: 07 is the class 7.
    named = [a if a in label or not _whole(a) else str(int(a)) for a in answers]
    if unknown := sorted(set(named) - label.keys()):
        rule = f"column {name!r} holds classes that are not known"
        got = f"{', '.join(unknown[:10])}; known are {', '.join(classes[:10])}"
        raise error(path, rule, got, "target='<another column>'")
    return np.array([label[a] for a in named])


def _all_there(path: Path, place: Callable[[int], str], name: str, answers: list[str]) -> None:
    if "" in answers:
        gone = f"{answers.count('')} of {len(answers)} missing in column {name!r}"
        got = f"{gone}, the first in {place(answers.index(''))}"
        raise error(path, "every row has a target", got, "leaving those rows out")


def _numbers(
    path: Path, place: Callable[[int], str], name: str, answers: list[str], rule: str
) -> Array:
    """The target column as finite numbers; ``rule`` is what another text in it breaks."""
    word = next((i for i, answer in enumerate(answers) if not _number(answer)), None)
    if word is not None:
        raise error(path, rule, f"{answers[word]!r} in {place(word)}, column {name!r}")
    y = np.array(answers, np.float64)
    bad = ~(np.abs(y) <= _FLOAT32_MAX)
    if bad.any():
        row = int(bad.argmax())
        got = f"{y[row]} in {place(row)}, column {name!r}"
        raise error(path, "numbers are finite and fit float32", got, "filling or dropping it")
    return y


def _whole(answer: str) -> bool:
    return answer.lstrip("+-").isdecimal()
