"""Options: each declared once, as a dataclass field, for the command line, TOML and checkpoints.

An option's key in TOML is its long name: ``--weight-decay 0.1`` is ``weight-decay = 0.1``.
Imports errors.
"""

import argparse
import difflib
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from gpugrad.errors import GpugradError, message


class UsageError(GpugradError):
    """Arguments the command cannot follow."""


class Kind(NamedTuple):
    """The values an option takes; called with text, as argparse does."""

    wanted: str
    read: Callable[[str], Any]  # of text; ValueError where it is no such value
    fits: Callable[[Any], bool]
    types: tuple[type, ...]  # in TOML
    example: str

    def __call__(self, text: str) -> Any:
        try:
            value = self.read(text)
            good = self.fits(value)
        except ValueError:
            good = False
        if not good:
            raise argparse.ArgumentTypeError(f"needs {self.wanted}; got {text!r}")
        return value

    def taken(self, value: Any) -> Any:
        """What a value of TOML means; ValueError where it is none."""
        if type(value) not in self.types:
            raise ValueError
        if type(value) is list:
            value = tuple(value)
        elif float in self.types:
            value = float(value)
        if not self.fits(value):
            raise ValueError
        return value


def _whole(least: int) -> Kind:
    wanted = f"an integer of at least {least}"
    return Kind(wanted, int, lambda x: x >= least, (int,), str(max(least, 10)))


def _real(wanted: str, fits: Callable[[float], bool]) -> Kind:
    return Kind(wanted, float, lambda x: math.isfinite(x) and fits(x), (float, int), "0.1")


def _widths(value: tuple[Any, ...]) -> bool:
    return len(value) > 0 and all(type(n) is int and n >= 1 for n in value)


count, from_zero = _whole(1), _whole(0)
positive = _real("a number above 0", lambda x: x > 0)
nonnegative = _real("a number of at least 0", lambda x: x >= 0)
below_one = _real("a number of at least 0 and below 1", lambda x: 0 <= x < 1)
fraction = _real("a number between 0 and 1", lambda x: 0 < x < 1)
widths = Kind(
    "widths of at least 1, such as 128,64",
    lambda text: tuple(map(int, text.split(","))),
    _widths,
    (list,),
    "[128, 64]",
)
names = Kind(
    "names, such as id,date",
    lambda text: tuple(name.strip() for name in text.split(",")),
    lambda value: all(type(name) is str and name for name in value),
    (list,),
    '["id", "date"]',
)
words = Kind("text", str, lambda x: True, (str,), '"…"')
switch = Kind("true or false", bool, lambda x: True, (bool,), "true")


def one_of(names: Iterable[str]) -> Kind:
    known = list(names)
    wanted = f"one of {', '.join(known)}"
    return Kind(wanted, str, lambda x: x in known, (str,), json.dumps(known[0]))


def option(
    group: str, kind: Kind, help: str, metavar: str = "", *, default: Any = MISSING, shown: str = ""
) -> Any:
    """A dataclass field that is an option. ``shown`` is its default in words."""
    if not shown and default not in (MISSING, None) and kind is not switch:
        shown = ",".join(map(str, default)) if kind is widths else f"{default}"
    told = f"{help} ({shown})" if shown else help
    known = {"group": group, "kind": kind, "help": told, "metavar": metavar, "default": default}
    return field(metadata=known)


def key(name: str) -> str:
    """``weight_decay`` as it is written on the command line and in TOML."""
    return name.replace("_", "-")


def declared(*holders: Any) -> list[Field[Any]]:
    return [f for holder in holders for f in fields(holder)]


def defaults(holder: Any) -> dict[str, Any]:
    """Those that depend on nothing."""
    known = {f.name: f.metadata["default"] for f in fields(holder)}
    return {name: value for name, value in known.items() if value is not MISSING}


def add_arguments(parser: argparse.ArgumentParser, *holders: Any) -> None:
    """An argument for each field; what is not given leaves no trace."""
    groups: dict[str, Any] = {}
    for f in declared(*holders):
        about = f.metadata
        if about["group"] not in groups:
            groups[about["group"]] = parser.add_argument_group(about["group"])
        how: dict[str, Any] = {"type": about["kind"], "metavar": about["metavar"] or None}
        if about["kind"] is switch:
            how = {"action": argparse.BooleanOptionalAction}
        help = about["help"].replace("%", "%%")
        groups[about["group"]].add_argument(f"--{key(f.name)}", help=help, **how)


def given(args: argparse.Namespace, *holders: Any) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {f.name: getattr(args, f.name) for f in declared(*holders) if hasattr(args, f.name)}


def read(command: str, path: str, *holders: Any) -> dict[str, Any]:
    """The options in a TOML file. Raises UsageError for what is no option, or no value of one."""
    try:
        found = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        rule = f"{path} cannot be read"
        raise UsageError(message(command, rule, error.strerror or error)) from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise UsageError(message(command, f"{path} is no TOML", error)) from error
    known = {key(f.name): f for f in declared(*holders)}
    values = {}
    for name, value in found.items():
        if name not in known:
            close = difflib.get_close_matches(key(name.lower()), known, 1)
            rule = f"{path}: there is no option {name!r}"
            if type(value) is dict:
                rule = f"{path}: options stand on their own, not in tables"
            got = f"[{name}]" if type(value) is dict else None
            hint = close[0] if close else f"gpugrad {command} --help"
            raise UsageError(message(command, rule, got, hint))
        kind = known[name].metadata["kind"]
        try:
            values[known[name].name] = kind.taken(value)
        except ValueError:
            rule = f"{path}: {name} needs {kind.wanted}"
            hint = f"{name} = {kind.example}"
            raise UsageError(message(command, rule, _toml(value), hint)) from None
    return values


def written(values: Mapping[str, Any], *holders: Any) -> str:
    """``values`` as TOML that `read` gives back; what is None is left out."""
    lines: list[str] = []
    group = ""
    for f in declared(*holders):
        if values.get(f.name) is None:
            continue
        if f.metadata["group"] != group:
            group = f.metadata["group"]
            lines.append(f"# {group}" if not lines else f"\n# {group}")
        lines.append(f"{key(f.name)} = {_toml(values[f.name])}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """In ASCII, since what a shell writes into a file may not be UTF-8."""
    if isinstance(value, str):
        return '"' + "".join(map(_escaped, value)) + '"'
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, (int, float)) else str(value)


def _escaped(c: str) -> str:
    if " " <= c <= "~" and c not in '"\\':
        return c
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
