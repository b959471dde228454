"""``gpugrad graph``: runs, functions and compiled steps to pictures; mistakes in one line."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpugrad.cli import main

FUNCTIONS = """
import gpugrad as gg
print("loading")
def f(a, b):
    print("running")
    c = a + b
    d = b + 1
    e = c * d
    return e
def mean(w, x):
    return (w @ x).mean()
def wrong(x):
    return {}[x]
def endless(x):
    return x * float("inf")
class Box:
    def square(x):
        return x * x
@gg.compile
def step(x):
    return gg.sigmoid(x).sum().detach()
net = gg.nn.MLP([4, 3, 2], generator=gg.random.Generator(0))
three = 3
"""


@pytest.fixture(autouse=True, scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A working directory with a file of functions and two trained models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("graph"))
        Path("own.py").write_text(FUNCTIONS)
        Path("broken.py").write_text("1 / 0\n")
        Path("words.py").write_text("def f(:\n")
        Path("leaves.py").write_text("raise SystemExit(3)\n")
        Path("package").mkdir()
        Path("package/inner.py").write_text("def double(x):\n    return x * 2\n")
        rng = np.random.default_rng(0)
        np.savez("points.npz", x=rng.normal(size=(60, 4)).astype("f4"), y=np.arange(60) % 3)
        x = rng.normal(size=(40, 2))
        lines = [f"{a},{b},{a - b}" for a, b in x]
        Path("sums.csv").write_text("\n".join(["a,b,y", *lines]))
        common = ("--epochs", "1", "--quiet", "--no-report", "--hidden", "5")
        assert main(["train", "--data", "points.npz", "--norm", "batch", *common]) == 0
        assert (
            main(["train", "--data", "sums.csv", "--no-compile", "--clip-norm", "1", *common]) == 0
        )
        yield


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*args: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        return main(["graph", *map(str, args)]), *capsys.readouterr()

    return call


@pytest.fixture
def drawn(cli: Any) -> Any:
    """The one JSON object that ``--json`` prints."""

    def call(*args: Any) -> dict[str, Any]:
        code, out, _ = cli(*args, "--json")
        assert code == 0
        found: dict[str, Any] = json.loads(out, parse_constant=pytest.fail)
        return found

    return call


def test_a_function_to_each_kind_of_file(cli: Any, tmp_path: Path) -> None:
    for name in ("f.svg", "f.html", "f.dot"):
        code, out, _ = cli("own.py:f", "--args", "2.0,1.0", "--out", tmp_path / name)
        assert code == 0
        assert "5 values, 5 edges" in out
        assert "∂e/∂b = βδ + γε = 1·2 + 1·3 = 5" in out
        assert "loading" not in out
        assert "running" not in out
    ElementTree.parse(tmp_path / "f.svg")
    assert (tmp_path / "f.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert (tmp_path / "f.dot").read_text("utf-8").startswith("digraph")


def test_nodes_and_edges(drawn: Any) -> None:
    found = drawn("own.py:f", "--args", "2.0,1.0")
    derivatives = {node["name"]: node["derivative"] for node in found["nodes"]}
    assert derivatives == {"a": 2, "b": 5, "c": 2, "d": 3, "e": 1}
    names = {node["id"]: node["name"] for node in found["nodes"]}
    edges = {(names[e["from"]], names[e["to"]]): e["partial"] for e in found["edges"]}
    assert edges == {("a", "c"): 1, ("b", "c"): 1, ("b", "d"): 1, ("c", "e"): 2, ("d", "e"): 3}
    assert (found["mode"], found["file"]) == ("reverse", None)
    assert not Path("graph.html").exists()


def test_mode_and_names_are_those_of_draw(drawn: Any) -> None:
    found = drawn("own.py:f", "--args", "2.0,1.0", "--mode", "forward", "--wrt", "b")
    assert found["nodes"][-1]["derivative"] == 5
    assert drawn("own.py:f", "--args", "2.0,1.0", "--mode", "values")["nodes"][0]["value"] == 2
    assert found["nodes"][-1]["seconds"] is None
    assert drawn("own.py:f", "--args", "2.0,1.0", "--times")["nodes"][-1]["seconds"] > 0


def test_arguments(drawn: Any) -> None:
    found = drawn("own.py:mean", "--args", "3x4, 4x")
    assert [node["shape"] for node in found["nodes"][:2]] == [[3, 4], [4]]
    assert [node["dtype"] for node in found["nodes"][:2]] == ["float32", "float32"]
    found = drawn("own.py:f", "--args", "2.0,1")  # an integer is a constant
    assert [node["name"] for node in found["nodes"]] == ["a", "c", "e"]
    assert drawn("package.inner:double", "--args", "1.5")["nodes"][-1]["value"] == 3
    assert drawn("own.py:Box.square", "--args", "3.0")["nodes"][-1]["value"] == 9
    assert drawn("own.py:endless", "--args", "3.0")["nodes"][-1]["value"] == "inf"
    assert [node["kind"] for node in drawn("own.py:net", "--args", "2x4")["nodes"]].count(
        "layer"
    ) == 3


def test_a_trained_model(cli: Any, drawn: Any) -> None:
    code, out, _ = cli("runs/points")
    picture = Path("runs/points/graph.html")
    assert (code, str(picture) in out) == (0, True)
    page = picture.read_text("utf-8")
    assert "Linear(4, 5)" in page
    assert "BatchNorm1d" in page
    found = drawn("runs/points/checkpoint.safetensors")
    assert found["title"] == "loss"
    layers = [node["text"] for node in found["nodes"] if node["kind"] == "layer"]
    assert len(layers) == 4  # dropout does nothing here
    opened = drawn("runs/points", "--no-collapse")
    assert sum(node["kind"] == "parameter" for node in opened["nodes"]) == 6
    assert drawn("runs/sums")["nodes"][-1]["derivative"] == 1


@pytest.mark.parametrize("run", ["points", "sums"])
def test_the_training_step_of_a_run(drawn: Any, run: str) -> None:
    """Compiled though the run was not, with its clipping; nothing on disk is changed."""
    checkpoint = Path("runs", run, "checkpoint.safetensors")
    before = checkpoint.read_bytes()
    found = drawn(checkpoint.parent, "--mode", "program")
    assert found["mode"] == "program"
    kinds = {node["kind"] for node in found["nodes"]}
    assert {"parameter", "fused", "pass", "call"} <= kinds
    passes = [node for node in found["nodes"] if node["kind"] in ("fused", "pass")]
    assert all(node["seconds"] > 0 for node in passes)
    assert all(node["bytes"] > 0 for node in passes)
    assert any("0.weight′" in node["name"] for node in passes)
    left = {"points": "add (dtype int64)", "sums": "finite (no native form)"}[run]
    assert left in found["notes"][-1]
    assert checkpoint.read_bytes() == before


def test_a_compiled_function(cli: Any, tmp_path: Path) -> None:
    code, out, _ = cli("own.py:step", "--args", "4x3", "--out", tmp_path / "s.svg")
    assert code == 0
    assert "equations in 1 pass over memory" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nothing",), ["there is no run", "file.py:name"]),
        (("packag",), ["try package"]),
        (("gone.py:f",), ["no file gone.py"]),
        (("absent:f",), ["absent cannot be imported", "No module named 'absent'"]),
        (("broken.py:f",), ["broken.py cannot be imported", "ZeroDivisionError", "broken.py:1"]),
        (("words.py:f",), ["SyntaxError"]),
        (("leaves.py:f",), ["SystemExit"]),
        (("own.py:ff",), ["there is no 'ff' in own.py", "try f"]),
        (("own.py:three",), ["three in own.py is no function", "int"]),
        (("own.py:f",), ["missing a required argument: 'a'"]),
        (("own.py:f", "--args", "2,1"), ["2.0 instead of 2"]),
        (("own.py:f", "--args", "two,1"), ["'two'", "3x4"]),
        (("own.py:f", "--args", "99999x99999,1.0"), ["too large"]),
        (("own.py:wrong", "--args", "1.0"), ["own.py:wrong raised", "Error at", "own.py:13"]),
        (("own.py:f", "--args", "2.0,1.0", "--mode", "back"), ["--mode", "reverse"]),
        (("own.py:f", "--args", "2.0,1.0", "--wrt", "q"), ["no input is called 'q'"]),
        (("own.py:f", "--args", "2.0,1.0", "--mode", "program"), ["gg.compile"]),
        (("own.py:step", "--args", "4x3", "--wrt", "x"), ["no derivatives to choose"]),
        (("own.py:f", "--args", "2.0,1.0", "--out", "f.png"), [".svg", "f.png"]),
        (("own.py:f", "--args", "2.0,1.0", "--out", "gone/f.svg"), ["cannot be written"]),
        (("own.py:f", "--device", "tpu"), ["tpu"]),
        (("runs/points", "--args", "1.0"), ["--args belongs to a function"]),
        (("runs",), ["no checkpoint at"]),
        (("package/x.safetensors",), ["no checkpoint at"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_told_in_one_line(cli: Any, args: Any, words: Any) -> None:
    code, out, err = cli(*args)
    err = err.replace("loading\n", "").replace("running\n", "")
    assert (code, out) == (2, "")
    assert err.startswith("gpugrad: [")
    assert err.count("\n") == 1
    assert [word for word in words if word not in err] == [], err
