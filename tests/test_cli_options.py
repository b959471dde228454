"""Options of ``gpugrad train``: from TOML and back, and what the newer ones do."""

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import io
from gpugrad.cli import loop as loops
from gpugrad.cli import main

QUICK = ("--data", "points.npz", "--hidden", "7,5", "--batch-size", "16", "--epochs", "3")
CHECKPOINT = Path("runs/points/checkpoint.safetensors")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpugrad.cli.training_page.write", lambda *what: None)  # seconds each
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = rng.normal(size=(90, 4)).astype(np.float32) + 3 * np.eye(3, 4, dtype=np.float32)[y]
    np.savez("points.npz", x=x, y=y)
    return tmp_path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*args: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        return main([str(arg) for arg in args]), *capsys.readouterr()

    return call


@pytest.fixture
def trained(cli: Any) -> Any:
    """What ``--json`` says of a run with these options."""

    def call(*args: Any) -> dict[str, Any]:
        code, out, _ = cli("train", *QUICK, "--json", "--quiet", *args)
        assert code == 0
        found: dict[str, Any] = json.loads(out)
        return found

    return call


def toml(text: str) -> str:
    Path("run.toml").write_text(text, encoding="utf-8")
    return "run.toml"


# TOML


def test_printed_config_gives_the_same_run(cli: Any, place: Path) -> None:
    strange = ("--out", 'a"b\\ü😀', "--schedule", "step", "--lr", "1e-05", "--no-compile")
    code, text, err = cli("train", *QUICK, *strange, "--print-config")
    assert (code, err) == (0, "")
    assert [p.name for p in place.iterdir()] == ["points.npz"]
    assert text.isascii()
    found = tomllib.loads(text)
    assert found["out"] == 'a"b\\ü😀'
    assert (found["hidden"], found["lr"], found["compile"]) == ([7, 5], 1e-5, False)
    again = cli("train", "--config", toml(text), "--print-config")[1]
    assert again == text
    as_json = json.loads(cli("train", "--config", "run.toml", "--print-config", "--json")[1])
    del as_json["json"]
    assert {k: v for k, v in as_json.items() if v is not None} == found
    cli("train", "--config", "run.toml", "--quiet", "--out", "a.safetensors")
    cli("train", *QUICK, *strange, "--quiet", "--out", "b.safetensors")
    one, other = io.load_arrays("a.safetensors"), io.load_arrays("b.safetensors")
    assert all(one[name].tobytes() == other[name].tobytes() for name in one | other)


def test_the_command_line_wins_over_the_file(cli: Any) -> None:
    path = toml("lr = 1\nhidden = [3]\ncompile = false\nquiet = true\njson = true\n")
    code, out, err = cli("train", *QUICK, "--config", path, "--compile")
    assert (code, err) == (0, "")
    config = json.loads(out)["config"]
    assert (config["lr"], config["hidden"], config["compile"]) == (1.0, [7, 5], True)


def test_a_resumed_run_takes_the_config_it_was_started_with(cli: Any) -> None:
    path = toml("data = 'points.npz'\nepochs = 2\nhidden = [3]\npatience = 50\n")
    assert cli("train", "--config", path, "--quiet")[0] == 0
    code, out, _ = cli("train", "--config", path, "--resume", "--epochs", 3)
    assert (code, "going on after 2" in out) == (0, True)
    code, _, err = cli("train", "--config", toml("hidden = [4]"), "--resume", CHECKPOINT)
    assert (code, "trained with --hidden 3" in err) == (2, True)
    text = cli("train", "--resume", CHECKPOINT, "--epochs", 4, "--print-config")[1]
    assert (tomllib.loads(text)["hidden"], tomllib.loads(text)["epochs"]) == ([3], 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weight-decy = 0.1", ["'weight-decy'", "try weight-decay"]),
        ("batch_size = 8", ["'batch_size'", "try batch-size"]),
        ("no-compile = true", ["'no-compile'", "try compile"]),
        ("zzz = 1", ["'zzz'", "--help"]),
        ("[model]\nlr = 1", ["not in tables", "[model]"]),
        ("epochs = 2.5", ["epochs needs an integer of at least 1", "got 2.5", "epochs = 10"]),
        ("epochs = '3'", ['got "3"']),
        ("epochs = true", ["epochs needs", "got true"]),
        ("lr = 'fast'", ["lr needs a number above 0", 'got "fast"']),
        ("lr = nan", ["lr needs", "got nan"]),
        ("hidden = 64", ["hidden needs widths", "got 64", "hidden = [128, 64]"]),
        ("hidden = [64, 0]", ["got [64, 0]"]),
        ("hidden = [true]", ["got [true]"]),
        ("activation = 'sigmoyd'", ["activation needs one of elu", "sigmoyd"]),
        ("compile = 1", ["compile needs true or false", "got 1"]),
        ("data = ['points.npz']", ["data needs text"]),
        ("lr = \nseed = 1", ["run.toml is no TOML", "line 1"]),
    ],
)
def test_mistakes_in_a_file(cli: Any, place: Path, text: str, words: list[str]) -> None:
    code, out, err = cli("train", "--config", toml(text))
    assert (code, out) == (2, "")
    assert err.startswith("gpugrad: [train] run.toml")
    assert err.count("\n") == 1
    assert [word for word in words if word not in err] == [], err
    assert sorted(p.name for p in place.iterdir()) == ["points.npz", "run.toml"]


def test_files_that_cannot_be_read(cli: Any) -> None:
    Path("latin.toml").write_bytes(b"data = '\xe4'")
    for name in ("gone.toml", "latin.toml"):
        code, _, err = cli("train", "--config", name)
        assert (code, name in err, err.count("\n")) == (2, True, 1)


# Schedules, clipping, early stopping, norms


def rates(result: dict[str, Any]) -> list[float]:
    return [entry["lr"] for entry in result["history"]]


def test_schedules_go_by_batches(trained: Any) -> None:
    n = 5 * 4  # batches
    got = rates(trained("--epochs", 4, "--schedule", "cosine", "--lr", 0.1))
    want = [0.05 * (1 + math.cos(math.pi * k / n)) for k in (4, 9, 14, 19)]
    assert got == pytest.approx(want)
    got = rates(trained("--epochs", 4, "--warmup", 2, "--lr", 0.1))
    assert got == pytest.approx([0.046, 0.091, 0.1, 0.1])
    got = rates(trained("--epochs", 4, "--schedule", "step", "--decay-every", 2, "--lr", 0.1))
    assert got == pytest.approx([0.1, 0.1, 0.01, 0.01])
    got = rates(trained("--epochs", 4, "--schedule", "onecycle", "--lr", 0.1))
    assert max(got) < 0.1 < 2 * max(got)
    assert got[-1] < 1e-5
    assert "lr" not in trained()["history"][0]


def test_plateau_lowers_the_rate_where_the_loss_stays(trained: Any) -> None:
    more = ("--schedule", "plateau", "--decay-every", 2, "--decay-factor", 0.5, "--lr", 3)
    history = trained("--epochs", 12, *more)["history"]
    best, waited, lr = math.inf, 0, 3.0
    for entry in history:
        assert entry["lr"] == pytest.approx(lr)
        better = entry["valid_loss"] < best * (1 - 1e-4)
        best, waited = (entry["valid_loss"], 0) if better else (best, waited + 1)
        if waited == 2:
            lr, waited = lr / 2, 0
    assert lr < 3


@pytest.mark.parametrize("compiled", ["--compile", "--no-compile"])
def test_gradients_are_clipped(trained: Any, compiled: str) -> None:
    """By so much that nothing is learnt: no gradient, no step of sgd."""
    common = ("--optimizer", "sgd", "--momentum", 0, "--average", 0, "--epochs", 1, compiled)
    trained("--clip-norm", 1e-12, *common)
    still = io.load_arrays(CHECKPOINT)
    start = gg.nn.MLP([4, 7, 5, 3], dropout=0.25, generator=gg.random.Generator(0)).state_dict()
    for name, value in start.items():
        np.testing.assert_allclose(still[f"trained.{name}"], value.numpy(), atol=1e-6)
    trained("--clip-norm", 1e9, *common)
    free = io.load_arrays(CHECKPOINT)
    trained(*common)
    assert (
        free["trained.0.weight"].tobytes()
        == io.load_arrays(CHECKPOINT)["trained.0.weight"].tobytes()
    )


def test_a_gradient_without_end_is_divergence(cli: Any) -> None:
    settings = ("--clip-norm", 1, "--lr", 1e38, "--optimizer", "sgd", "--activation", "relu")
    code, _, err = cli("train", *QUICK, *settings)
    assert (code, "diverged in epoch" in err) == (1, True)


def test_a_loss_that_explodes_is_warned_of_once(cli: Any) -> None:
    big = ("--data", "y.csv", "--lr", 1e9)
    rows = "".join(f"{i % 7},{i % 5 / 2}\n" for i in range(90))
    Path("y.csv").write_text(f"x,y\n{rows}")
    code, _, err = cli("train", *big, "--epochs", 4, "--quiet", "--json")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("gpugrad: the loss of epoch 1 is ")
    assert err.endswith("Try a lower --lr than 1e+09.\n")
    assert cli("train", *QUICK, "--quiet")[2] == ""


def test_stops_early_with_the_weights_of_the_best_epoch(cli: Any, trained: Any) -> None:
    more = ("--patience", 3, "--epochs", 60, "--lr", 0.3, "--optimizer", "rmsprop")
    result = trained(*more)
    losses = [entry["valid_loss"] for entry in result["history"]]
    best = losses.index(min(losses)) + 1
    assert (result["best_epoch"], result["epoch"]) == (best, best + 3)
    assert result["stopped_early"]
    assert result["test"]["loss"] == result["history"][best - 1]["test_loss"]
    said = json.loads(cli("evaluate", CHECKPOINT.parent, "--json")[1])
    assert said["loss"] == pytest.approx(result["test"]["loss"])
    kept = io.load_arrays(CHECKPOINT)
    assert (kept["model.0.weight"] != kept["averaged.0.weight"]).any()
    words = result["resume"].split()
    assert words[-2:] == ["--patience", "6"]
    code, out, _ = cli("train", "--resume", CHECKPOINT)
    assert (code, "a higher --patience goes on" in out) == (0, True)
    longer = json.loads(cli(*words[words.index("train") :], "--json", "--quiet")[1])
    whole = trained(*more, "--patience", 6, "--out", "whole")
    for key in ("history", "best_epoch", "epoch"):
        assert longer[key] == whole[key]
    out = cli("train", *QUICK, *more)[1]
    assert f"after {best + 3} epochs, with the weights of epoch {best}" in out


def test_rows_to_choose_by_are_not_trained_on(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    step = loops.Loop._step

    def watched(self: loops.Loop, x: Any, y: Any) -> None:
        seen.append((self.train, self.valid, self.test))
        step(self, x, y)

    monkeypatch.setattr(loops.Loop, "_step", watched)
    out = cli("train", *QUICK, "--patience", 2)[1]
    assert "66 rows to train on, 6 to choose by, 18 to test" in out
    parts = [{row.tobytes() for row in part.x} for part in seen[0]]
    assert [len(part) for part in parts] == [66, 6, 18]
    assert len(set.union(*parts)) == 90


def test_products_may_be_rounded_while_training(trained: Any, monkeypatch: Any) -> None:
    """On a GPU; on the CPU it makes no difference."""
    asked, evaluate = [], loops.Loop.evaluate

    def noted(self: Any, *what: Any) -> Any:
        asked.append(gg.config.flags.matmul)
        return evaluate(self, *what)

    monkeypatch.setattr(loops.Loop, "evaluate", noted)
    plain, rounded = (trained("--precision", name) for name in ("float32", "tf32"))
    assert rounded["test"] == plain["test"]
    assert (set(asked), gg.config.flags.matmul) == ({"float32", "tf32"}, "float32")


def test_half_precision_learns_compiled_or_not(trained: Any) -> None:
    found = []
    for compiled in ("--compile", "--no-compile"):
        result = trained("--precision", "float16", "--epochs", 20, compiled)
        assert result["config"]["precision"] == "float16"
        assert result["test"]["accuracy"] > 0.8
        found.append([entry["loss"] for entry in result["history"]])
    np.testing.assert_allclose(*found, rtol=0.02)
    assert abs(found[0][-1] / trained("--epochs", 20)["history"][-1]["loss"] - 1) < 0.1
    clipped = trained("--precision", "float16", "--epochs", 20, "--clip-norm", 5)
    assert abs(clipped["history"][-1]["loss"] / found[0][-1] - 1) < 0.1


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_norms_learn_and_are_evaluated_alike(cli: Any, trained: Any, norm: str) -> None:
    result = trained("--norm", norm, "--epochs", 20)
    assert result["test"]["accuracy"] > 0.8
    said = json.loads(cli("evaluate", CHECKPOINT, "--json")[1])
    assert said["loss"] == pytest.approx(result["test"]["loss"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--decay-every", 2), ["--decay-every does nothing with --schedule constant"]),
        (("--decay-factor", 0.5, "--schedule", "cosine"), ["--schedule step or plateau"]),
        (("--warmup", 2, "--schedule", "onecycle"), ["--warmup does nothing", "cosine"]),
        (("--patience", 2, "--validation", 0), ["validation part"]),
        (("--clip-norm", 0), ["--clip-norm", "above 0"]),
        (("--precision", "float8"), ["--precision", "float16"]),
        (("--schedule", "cosin"), ["--schedule", "cosine"]),
        (("--norm", "batch", "--batch-size", 71), ["72 rows in batches of 71", "--batch-size"]),
    ],
)
def test_options_that_do_not_fit(cli: Any, place: Path, args: Any, words: Any) -> None:
    code, out, err = cli("train", *QUICK, *args)
    assert (code, out) == (2, "")
    assert [word for word in words if word not in err] == [], err
    assert [p.name for p in place.iterdir()] == ["points.npz"]


def test_a_norm_nobody_knows() -> None:
    with pytest.raises(gg.errors.DtypeError, match=r"\[MLP\] unknown norm; got 'group'"):
        gg.nn.MLP([2, 3, 1], norm="group")
