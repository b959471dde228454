"""The guide beyond its doctests: links, commands, pictures, examples.

That every Python block runs is pytest's own doing: it collects docs/*.md and README.md.
"""

import argparse
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpugrad import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PICTURES = ROOT / "docs" / "pictures"


def anchors(page: Path) -> set[str]:
    """The fragments GitHub gives the headings of a page."""
    lines = re.sub(r"```.*?```", "", page.read_text(), flags=re.S).splitlines()
    titles = [line.lstrip("# ") for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not fragment or fragment in anchors(path), target


def test_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    unnamed = [page.name for page in PAGES[1:] if f"({page.name}" not in index]
    examples = [path.name for path in (ROOT / "docs" / "examples").glob("*.py")]
    unnamed += [name for name in examples if f"(examples/{name})" not in index]
    assert unnamed == ["README.md"]


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every call of ``gpugrad`` in the page's shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part.partition(" > ")[0], comments=True)
                if words and words[0].rpartition("/")[2] == "gpugrad":
                    yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real parser, which is stopped before it runs anything."""
    parse = argparse.ArgumentParser.parse_args
    parsed: list[str] = []

    def only_parse(parser: argparse.ArgumentParser, args: list[str]) -> argparse.Namespace:
        found = parse(parser, args)
        parsed.append(args[0])
        found.run = lambda _: 0
        return found

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    given = list(commands(page))
    assert [cli.main(argv) for argv in given] == [0] * len(given)
    assert parsed == [argv[0] for argv in given if "--help" not in argv]


def test_a_wrong_command_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\n.venv/bin/gpugrad train --hiden 3  # a comment\n```\n")
    (argv,) = commands(page)
    assert cli.main(argv) == 2


# What each example must find when it is run quickly.
EXAMPLES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "cartpole": lambda found: found["last"] > 150 > 50 > found["first"],
    "ensemble": lambda found: (
        found["together"] < 0.8 * found["alone"] and found["gap"] > 2.5 * found["spread"]
    ),
    "oscillator": lambda found: found["error"] < 0.02,
    "own_op": lambda found: found["gap"] < 2e-7 and found["error"] < 0.01,
    "tabular": lambda found: found["friedman"]["net"] > found["friedman"]["line"] + 0.1,
    "vanishing": lambda found: (
        found["sigmoid"]["relative"] < 1e-6
        and found["sigmoid"]["accuracy"] < 0.3
        and found["relu, weights scaled to it"]["accuracy"] > 0.8
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_finds_what_it_promises(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(ROOT / "docs" / "examples" / f"{name}.py"))
    found = example["main"](["--quick"])
    assert EXAMPLES[name](found), found
    assert capsys.readouterr().out


def test_every_example_is_run() -> None:
    assert EXAMPLES.keys() == {path.stem for path in (ROOT / "docs" / "examples").iterdir()}


def words(svg: str) -> list[str]:
    return sorted(re.findall(r">([^<>]+)</t", svg))


def test_pictures_are_those_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same names and same words in them; where boxes stand may change."""
    monkeypatch.chdir(ROOT)  # from where they name their lines
    runpy.run_path(str(PICTURES / "draw.py"))["main"](tmp_path)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in PICTURES.glob("*.svg")}
    assert drawn.keys() == kept.keys()
    for name, text in drawn.items():
        assert words(text) == words(kept[name]), name
        assert any(f"(pictures/{name})" in page.read_text() for page in PAGES), name
