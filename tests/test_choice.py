"""Ways to do a step on the device: each right, the fastest chosen, and kept for other processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_graph import LABELS, X, close, net, state, training

import gpugrad as gg
from gpugrad import backend
from gpugrad.backend import choice, operands

NAMES = ("plain", "own", "epilogue", "algorithm 1")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_REPEATS", 2)
    monkeypatch.setattr(choice, "_ROUNDS", 2)


@pytest.fixture
def known(cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> choice.Known:
    """What is known of the device: nothing so far, and a file of the test's own."""
    known = choice.Known(tmp_path / "caches" / "choices.json", "this one")
    monkeypatch.setattr(backend.get(cuda), "known", known)
    return known


def preferring(name: str) -> Callable[..., choice.Times]:
    """A clock on which one way takes half of what all others take."""

    def times(device: Any, work: Any) -> choice.Times:
        for launch in work.values():
            launch()
        return {each: 1.0 if each == name else 2.0 for each in work}

    return times


def trained(optimizer: Callable[..., Any] = gg.optim.Adam, **options: Any) -> tuple[Any, Any]:
    model = net(**options)
    step = gg.compile(training(model, optimizer(model, lr=0.02)))
    losses = [step(gg.asarray(X), gg.asarray(LABELS)).item() for _ in range(4)]
    return [np.array(losses), *state(model)], step.stats()["launches"]


@pytest.mark.parametrize("optimizer", [gg.optim.SGD, gg.optim.Adam])
def test_training_is_the_same_whichever_way_is_the_fastest(
    cuda: str, optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, launches = trained(optimizer)
    expected = {
        "plain": set(launches),
        "own": {"layers"},
        "epilogue": {"bias", "sums"},
        "algorithm 1": {"algorithm"},
    }
    for name in NAMES:
        monkeypatch.setattr(choice, "_times", preferring(name))
        monkeypatch.setattr(backend.get(cuda), "known", choice.Known(None, "this one"))
        with gg.config.override(fuse_products="auto"):
            found, launches = trained(optimizer)
        close(found, wanted)
        assert expected[name] <= set(launches), name


def test_what_measures_is_not_part_of_the_step(known: choice.Known) -> None:
    """By the real clock, whichever way it finds: no state is changed, and each way is there."""
    wanted, _ = trained()
    with gg.config.override(fuse_products="auto"):
        found, _ = trained()
    close(found, wanted)
    tried = {name for times in known.times.values() for name in times}
    assert tried == set(NAMES)
    assert all(0 < t < 10 for times in known.times.values() for t in times.values())


def test_the_file_makes_others_choose_the_same(
    known: choice.Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_times", preferring("own"))
    with gg.config.override(fuse_products="auto"):
        wanted, launches = trained()
        file = tmp_path / "caches" / "choices.json"
        assert json.loads(file.read_text())["this one"] == known.times
        assert [path.name for path in file.parent.iterdir()] == ["choices.json"]

        def fails(*args: Any) -> None:
            raise AssertionError("measured again")

        monkeypatch.setattr(choice, "measured", fails)
        later = choice.Known(file, "this one")
        monkeypatch.setattr(backend.get("cuda"), "known", later)
        assert trained()[1] == launches
        close(trained()[0], wanted)
        other = choice.Known(file, "another")
        assert not other.times
        other.fastest("a", lambda: {"plain": 1.0})
    assert list(json.loads(file.read_text())) == ["this one", "another"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"this one": {}}'])
def test_a_file_that_is_none_is_written_anew(tmp_path: Path, text: str) -> None:
    file = tmp_path / "choices.json"
    file.write_text(text)
    known = choice.Known(file, "this one")
    assert known.fastest("a", lambda: {"plain": 1.0, "own": 0.5}) == "own"
    assert json.loads(file.read_text()) == {"this one": {"a": {"plain": 1.0, "own": 0.5}}}


def test_where_nothing_can_be_written_it_is_known_to_the_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    known = choice.Known(tmp_path / "file" / "choices.json", "this one")
    assert known.fastest("a", lambda: {"plain": 1.0, "own": 0.5}) == "own"
    assert known.fastest("a", lambda: {}) == "own"


def test_only_what_gains_something_replaces_the_plain_way() -> None:
    known = choice.Known(None, "")
    assert known.fastest("a", lambda: {"plain": 1.0, "own": 0.98}) == "plain"
    assert known.fastest("b", lambda: {"plain": 1.0, "own": 0.9, "epilogue": 0.8}) == "epilogue"
    assert known.fastest("c", lambda: {}) == "plain"  # it could not be measured


def test_a_way_that_gives_something_else_is_not_taken(
    known: choice.Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = trained()
    monkeypatch.setattr(choice, "_times", preferring("own"))
    program = choice.Program

    def broken(device: Any, steps: Any, *rest: Any) -> Any:
        """One that leaves out what it should do, where that is a kernel of ours."""
        return program(device, [s for s in steps if s[0] not in ("product", "layers")], *rest)

    monkeypatch.setattr(choice, "Program", broken)
    with (
        gg.config.override(fuse_products="auto"),
        pytest.warns(RuntimeWarning, match="gives other values"),
    ):
        found, launches = trained()
    close(found, wanted)
    assert {"product", "layers"}.isdisjoint(launches)


@pytest.mark.parametrize("impossible", [{"product", "layers"}, {"gemm"}])
def test_a_way_that_cannot_be_done_is_not_taken(
    known: choice.Known, impossible: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the libraries refuse, or has no room; or nothing can be measured at all."""
    wanted, _ = trained()
    monkeypatch.setattr(choice, "_times", preferring("own"))
    program = choice.Program

    def refused(device: Any, steps: Any, *rest: Any) -> Any:
        if impossible & {kind for kind, *_ in steps}:
            raise MemoryError("no room")
        return program(device, steps, *rest)

    monkeypatch.setattr(choice, "Program", refused)
    with gg.config.override(fuse_products="auto"):
        found, launches = trained()
    close(found, wanted)
    assert {"product", "layers"}.isdisjoint(launches)
    kept = json.loads(known.file.read_text()) if known.file and known.file.exists() else {}
    assert all(times for times in kept.get("this one", {}).values())


def test_steps_are_measured_on_memory_of_their_own() -> None:
    """What overlaps still does, addresses are as well aligned; where it lay does not matter."""

    def gemm(at: int, base: int) -> Any:
        a, b, c = ((base, at + 4 * start, 4, 1, "f4", 0) for start in (0, 20, 100))
        return ("gemm", "f4", True, False, 4, 4, 4, 1.0, (7, 8, 0, 0, "f8", 0), a, b, 1.0, c, None)

    def chain(at: int, base: int) -> Any:
        y, z = ((base, at + 4 * start, 4, 1, "f4", flag) for start, flag in ((100, 4), (102, 0)))
        bias = (5, 0, 0, 1, "f4", 0)
        sums = (("sum", "rows", 2, (6, 0, 0, 1, "f4", 0), 1.0, False),)
        return ("chain", "f4", 4, 4, (y, bias), (), (("add", 0, 1, -1),), ((2, z),), sums, False)

    some, memories = choice.apart([gemm(520, 0), chain(520, 0)])
    same, _ = choice.apart([gemm(520 + 256, 3), chain(520 + 256, 3)])
    assert some == same
    assert some != choice.apart([gemm(524, 0), chain(524, 0)])[0]
    c, y, z = some[0][12], some[1][4][0], some[1][7][0][1]
    assert c == (*y[:-1], 0)
    assert (z[0], z[1] - y[1]) == (y[0], 8)

    def sizes(ranges: Any) -> list[tuple[int, int]]:
        return [(start % 256, stop - start) for _, start, stop in ranges]

    before = [gemm(520, 0), chain(520, 0)]
    for old, new in zip(before, some, strict=True):
        assert list(map(sizes, operands.touched(old))) == list(map(sizes, operands.touched(new)))
    assert [(m.dtype, m.result, m.factor) for m in memories if m] == [
        *(("f8", False, False), ("f4", False, True), ("f4", False, True)),
        *(("f4", True, False), ("f4", False, False), ("f4", True, False)),
    ]
    rng = np.random.default_rng(0)
    for memory in memories:
        assert memory is not None
        values = memory.values(memory.filled(rng))
        assert 0 < np.abs(values).max() <= 1
        assert (values.min() < 0) == memory.factor
    mixed = (*chain(0, 0)[:4], ((0, 0, 4, 1, "f4", 0), (0, 4, 0, 1, "i4", 0)), *chain(0, 0)[5:])
    assert None in choice.apart([mixed])[1]
