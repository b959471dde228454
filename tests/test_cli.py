"""The command: what it prints and leaves behind, and that a resumed run ends in the same bits."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import io
from gpugrad.cli import arguments, main, report
from gpugrad.cli import loop as loops
from gpugrad.data import Dataset, Scaler, batch_count

ROOT = Path(__file__).parents[1]
DEFAULT = Path("runs/points/checkpoint.safetensors")
QUICK = ("--data", "points.npz", "--hidden", "7,5", "--batch-size", "16", "--epochs", "3")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and terminals")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A working directory with small data: points.npz of 3 classes, prices.csv of numbers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpugrad.cli.training_page.write", lambda *what: None)  # seconds each
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = rng.normal(size=(90, 4)).astype(np.float32) + 3 * np.eye(3, 4, dtype=np.float32)[y]
    np.savez("points.npz", x=x, y=y)
    rows = rng.normal(size=(60, 2))
    prices = 5e4 + 1e3 * rows @ [2.0, -1.0]
    lines = [f"{a},{b},{p}" for (a, b), p in zip(rows, prices, strict=True)]
    Path("prices.csv").write_text("\n".join(["size,age,price", *lines]) + "\n")
    return tmp_path


@pytest.fixture
def cli(capsys):
    """Runs the command here; the exit code, stdout and stderr."""

    def call(*args):
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def refused(cli):
    """Runs ``gpugrad train`` and expects exit code 2, one line on stderr holding every word."""

    def call(*args, words):
        code, out, err = cli("train", *args)
        assert code == 2
        assert out == ""
        assert err.startswith("gpugrad: [")
        assert err.count("\n") == 1
        assert [word for word in words if word not in err] == [], err

    return call


def command(*args, **options):
    """The command as a process of its own, one BLAS thread as here."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, *map(str, args)],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        env=environment,
        text=True,
        **options,
    )


def same_run(a, b):
    """Every tensor equal in dtype and bits, and the same history."""
    (left, meta_left), (right, meta_right) = io.read(a), io.read(b)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        assert left[name].tobytes() == right[name].tobytes(), name
    one, other = (json.loads(meta["gpugrad"])["position"] for meta in (meta_left, meta_right))
    assert one == other


def interrupt_at(monkeypatch, batch, number=signal.SIGINT):
    """Raise a signal while the given batch, counted from 1 in this process, is computed."""
    seen = 0
    step = loops.Loop._step

    def signalled(self, x, y):
        nonlocal seen
        seen += 1
        if seen == batch:
            signal.raise_signal(number)
        step(self, x, y)

    monkeypatch.setattr(loops.Loop, "_step", signalled)


# What a run says and leaves


def test_default_run_learns_the_digits(cli):
    code, out, err = cli("train", "--json", "--device", "cpu")
    result = json.loads(out)
    assert code == 0
    assert result["test"]["accuracy"] >= 0.97
    assert result["config"]["activation"] == "sigmoid"
    assert result["checkpoint"] == str(Path("runs/digits/checkpoint.safetensors"))
    assert result["history"][-1]["test_accuracy"] == result["test"]["accuracy"]
    assert len(result["history"]) == result["epoch"] == result["config"]["epochs"]
    assert result["device"] == "cpu"
    assert result["seconds"] > 0
    assert result["samples_per_s"] > 0
    assert "epoch 140/140" in err


def test_ends_with_accuracy_checkpoint_and_command(cli):
    code, out, err = cli("train", *QUICK, "--device", "cpu")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("points: 72 rows to train on, 18 to test")
    assert lines[1] == "MLP 4-7-5-3 sigmoid, adam lr 0.01, 3 epochs, on cpu"
    assert [line.split()[1] for line in lines[2:5]] == ["1/3", "2/3", "3/3"]
    for part in ("loss", "accuracy", "samples/s", "ETA"):
        assert part in lines[2]
    assert re.fullmatch(r"test accuracy  \d+\.\d\d %", lines[5])
    assert lines[6].split() == ["checkpoint", str(DEFAULT)]
    assert lines[7] == f"go on with     gpugrad train --resume {DEFAULT} --epochs 6"
    assert len(lines) == 9


def test_printed_command_goes_on_even_with_odd_names(cli):
    _, out, _ = cli("train", *QUICK, "--out", "my runs/it's one", "--json", "--quiet")
    words = shlex.split(json.loads(out)["resume"])
    assert words[:2] == ["gpugrad", "train"]
    code, out, _ = cli(*words[1:])
    assert code == 0
    assert "6/6" in out
    assert "going on after 3" in out


@pytest.mark.parametrize("epochs", [1, 20, 21, 139])
def test_at_most_twenty_lines(cli, epochs):
    _, out, _ = cli("train", *QUICK[:-1], epochs)
    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    assert len(lines) <= 20
    assert f"{epochs}/{epochs}" in lines[-1]


def test_quiet_and_json(cli):
    code, out, err = cli("train", *QUICK, "--quiet")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["test", "checkpoint", "go"]
    code, out, err = cli("train", *QUICK, "--quiet", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["data"]["classes"] == ["0", "1", "2"]


def test_regression_reports_in_the_units_of_the_source(cli):
    code, out, _ = cli("train", "--data", "prices.csv", "--json", "--quiet", "--dropout", 0)
    result = json.loads(out)
    assert code == 0
    assert result["test"]["r2"] > 0.98
    assert 1 < result["test"]["rmse"] < 500
    assert "accuracy" not in result["test"]
    _, out, _ = cli("train", "--data", "prices.csv", "--target", "age", "--epochs", 2)
    assert "test R²" in out
    assert "test RMSE" in out


def test_constant_target_has_no_r2(cli):
    Path("flat.csv").write_text("a,b\n" + "".join(f"{i},1.5\n" for i in range(20)))
    code, out, _ = cli("train", "--data", "flat.csv", "--epochs", 2, "--json", "--quiet")
    assert code == 0
    assert set(json.loads(out)["test"]) == {"loss", "rmse", "rows"}


def test_idx_folder_with_its_own_test_part(cli, tmp_path):
    folder = tmp_path / "tiny.v1"
    folder.mkdir()
    for part, n in (("train", 40), ("t10k", 10)):
        images, labels = np.zeros((n, 2, 2), np.uint8), np.arange(n, dtype=np.uint8) % 2
        images[labels == 1] = 255
        head = b"\0\0\x08\x03" + b"".join(int(k).to_bytes(4, "big") for k in images.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = b"\0\0\x08\x01" + n.to_bytes(4, "big")
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    code, out, _ = cli("train", "--data", folder, "--json", "--quiet", "--epochs", 40)
    result = json.loads(out)
    assert code == 0
    assert result["test"] == {**result["test"], "accuracy": 1.0, "rows": 10}
    assert result["checkpoint"] == str(Path("runs/tiny/checkpoint.safetensors"))
    assert not any(name.startswith("scaler") for name in io.load(result["checkpoint"]))


def test_features_are_standardised_by_the_training_part(cli):
    cli("train", *QUICK, "--quiet")
    kept = io.load_arrays(DEFAULT)
    archive = np.load("points.npz")
    data = Dataset(archive["x"], archive["y"], ("0", "1", "2")).split(0.2, 0)[0]
    expected = Scaler.fit(data.x)
    np.testing.assert_array_equal(kept["scaler.x.mean"], expected.mean)
    np.testing.assert_array_equal(kept["scaler.x.scale"], expected.scale)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_every_optimizer_learns(cli, optimizer):
    args = ("--data", "points.npz", "--optimizer", optimizer, "--epochs", 40)
    code, out, _ = cli("train", *args, "--json", "--quiet")
    assert code == 0
    assert json.loads(out)["test"]["accuracy"] > 0.8


def test_averaged_weights_are_the_model(cli):
    cli("train", *QUICK, "--out", "a", "--average", 0, "--quiet")
    last = io.load_arrays("a/checkpoint.safetensors")
    cli("train", *QUICK, "--out", "b", "--quiet")
    averaged = io.load_arrays("b/checkpoint.safetensors")
    for name in (name for name in last if name.startswith("trained.")):
        model = name.replace("trained", "model")
        np.testing.assert_array_equal(last[name], last[model])
        np.testing.assert_array_equal(last[name], averaged[name])
        assert (averaged[name] != averaged[model]).any()


def test_same_seed_same_bits(cli):
    for out, seed in (("a", 5), ("b", 5), ("c", 6)):
        cli("train", *QUICK, "--seed", seed, "--out", f"{out}.safetensors", "--quiet")
    same_run("a.safetensors", "b.safetensors")
    with pytest.raises(AssertionError):
        same_run("a.safetensors", "c.safetensors")


def test_an_earlier_checkpoint_is_kept(cli):
    cli("train", *QUICK, "--seed", 1, "--quiet")
    before = DEFAULT.read_bytes()
    _, out, _ = cli("train", *QUICK, "--seed", 2)
    kept = DEFAULT.with_name("checkpoint.previous.safetensors")
    assert f"is now {kept}" in out
    assert kept.read_bytes() == before
    assert DEFAULT.read_bytes() != before


@pytest.mark.parametrize(
    "name", ["train", "predict", "evaluate", "export", "graph", "bench", "doctor"]
)
def test_every_command_has_help_with_an_example_that_can_be_typed(cli, name):
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    for option in ("--json", "--device"):
        assert option in out
    example = " ".join(out[out.index("example:") :].split()).removeprefix("example: gpugrad ")
    assert arguments().parse_args(shlex.split(example)).run.__module__ == f"gpugrad.cli.{name}"
    assert name in cli("--help")[1]


def test_version_help_and_no_command(cli):
    assert cli("--version") == (0, f"gpugrad {gg.__version__}\n", "")
    code, out, _ = cli("train", "--help")
    assert code == 0
    for option in ("--data", "--resume", "--hidden", "--json"):
        assert option in out
    code, out, err = cli()
    assert (code, out) == (2, "")
    assert "COMMAND" in err


def test_import_is_light():
    code = (
        "import sys, gpugrad.cli; heavy = {'rich', 'sklearn', 'safetensors', 'cupy', 'scipy'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    out, err = command("-c", code).communicate(timeout=60)
    assert (out, err) == ("[]\n", "")


# Going on


@pytest.mark.parametrize("batch", [1, 3, 5, 7, 15])
def test_interrupted_at_any_batch_and_resumed_is_the_same(cli, monkeypatch, batch):
    cli("train", *QUICK, "--out", "whole.safetensors", "--quiet")
    with monkeypatch.context() as patch:
        interrupt_at(patch, batch)
        code, out, err = cli("train", *QUICK, "--out", "parts.safetensors")
    assert (code, err) == (130, "")
    assert f"after {batch // 5} epochs and {batch % 5} of 5 batches; saved" in out
    words = shlex.split(out.splitlines()[-2].removeprefix("go on with"))
    assert words == ["gpugrad", "train", "--resume", "parts.safetensors"]
    assert cli(*words[1:])[0] == 0
    same_run("whole.safetensors", "parts.safetensors")


@pytest.mark.parametrize(
    "more",
    [
        ("--optimizer", "sgd", "--activation", "relu", "--clip-norm", "0.1"),
        ("--schedule", "cosine", "--warmup", "1", "--norm", "batch", "--clip-norm", "1"),
        ("--schedule", "onecycle", "--norm", "layer", "--optimizer", "adamw"),
        ("--schedule", "step", "--decay-every", "1", "--decay-factor", "0.5", "--no-compile"),
        ("--schedule", "plateau", "--decay-every", "1", "--lr", "1", "--epochs", "6"),
        ("--patience", "2", "--lr", "1", "--epochs", "9", "--validation", "0.3"),
        ("--precision", "float16", "--lr", "0.1"),
    ],
    ids=" ".join,
)
def test_interrupted_again_and_again_is_the_same(cli, monkeypatch, more):
    args = (*QUICK, *more, "--device", "cpu")
    cli("train", *args, "--out", "whole", "--quiet")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        assert cli("train", *args, "--out", "parts")[0] == 130
    while True:
        with monkeypatch.context() as patch:
            interrupt_at(patch, 3)
            if cli("train", "--resume", "parts")[0] == 0:
                break
    same_run("whole/checkpoint.safetensors", "parts/checkpoint.safetensors")


def test_sigterm_saves_and_json_says_interrupted(cli, monkeypatch):
    interrupt_at(monkeypatch, 2, signal.SIGTERM)
    code, out, _ = cli("train", *QUICK, "--json", "--quiet")
    result = json.loads(out)
    assert code == 143
    assert (result["status"], result["epoch"], result["batch"]) == ("interrupted", 0, 2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_interrupt_stops_at_once(cli, monkeypatch):
    interrupt_at(monkeypatch, 1)
    monkeypatch.setattr(gg.Tensor, "item", lambda self: signal.raise_signal(signal.SIGINT))
    code, out, err = cli("train", *QUICK)
    assert code == 130
    assert err == "gpugrad: stopped\n"
    assert "saved" not in out


def test_more_epochs_later_is_the_same_as_at_once(cli):
    cli("train", *QUICK, "--out", "whole", "--epochs", 6, "--quiet")
    cli("train", *QUICK, "--out", "parts", "--quiet")
    assert cli("train", "--resume", "parts", "--epochs", 6)[0] == 0
    same_run("whole/checkpoint.safetensors", "parts/checkpoint.safetensors")


@posix
def test_killed_at_any_moment_and_resumed_is_the_same(cli):
    """SIGKILL at random moments of a process that saves after every single batch."""
    args = ("train", *QUICK[:-1], "120")
    cli(*args, "--out", "whole.safetensors", "--quiet")
    setup = "from gpugrad.cli import train, main; train.SAVE_EPOCHS_S = train.SAVE_BATCHES_S = 0.0;"
    rng = np.random.default_rng()
    parts = Path("parts.safetensors")
    words, kills, stamp = [*args, "--out", str(parts)], 0, None
    for _ in range(5):
        process = command("-c", f"{setup} raise SystemExit(main({words}))")
        while process.poll() is None and (not parts.exists() or parts.stat().st_mtime_ns == stamp):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        kills += process.poll() is None
        process.kill()
        process.communicate(timeout=60)
        stamp = parts.stat().st_mtime_ns
        words = ["train", "--resume", str(parts)]
    assert kills
    assert cli(*words)[0] == 0
    same_run("whole.safetensors", parts)


def test_resume_without_path_uses_the_default_place_or_out(cli):
    cli("train", *QUICK, "--quiet")
    code, out, _ = cli("train", "--data", "points.npz", "--resume", "--epochs", 4)
    assert code == 0
    assert "going on after 3" in out
    cli("train", *QUICK, "--out", "here", "--quiet")
    code, out, _ = cli("train", *QUICK[:-1], 5, "--out", "here", "--resume")
    assert code == 0
    assert "going on after 3" in out


def test_resume_at_the_end_says_so_and_evaluates(cli):
    cli("train", *QUICK, "--quiet")
    before = DEFAULT.read_bytes()
    for epochs in (3, 2):
        code, out, _ = cli("train", "--resume", DEFAULT, "--epochs", epochs)
        assert code == 0
        assert "already trained for 3 epochs" in out
        assert "test accuracy" in out
    assert DEFAULT.read_bytes() == before


def test_resume_may_change_out_lr_device_and_moved_data(cli):
    cli("train", *QUICK, "--quiet")
    before = DEFAULT.read_bytes()
    Path("points.npz").rename("moved.npz")
    changes = ("--epochs", 4, "--lr", 0.5, "--device", "cpu", "--data", "moved.npz")
    code, out, _ = cli("train", "--resume", DEFAULT, *changes, "--out", "new", "--json", "--quiet")
    result = json.loads(out)
    assert code == 0
    assert result["config"]["lr"] == 0.5
    assert io.load("new/checkpoint.safetensors")["optimizer.lr"].item() == 0.5
    assert DEFAULT.read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value", "stored"),
    [
        ("--hidden", "9", "7,5"),
        ("--activation", "tanh", "sigmoid"),
        ("--seed", "4", "0"),
        ("--batch-size", "8", "16"),
        ("--optimizer", "sgd", "adam"),
        ("--test-fraction", "0.5", "0.2"),
        ("--dropout", "0.5", "0.25"),
        ("--momentum", "0.5", "None"),
    ],
)
def test_resume_keeps_what_decides_the_run(cli, refused, option, value, stored):
    cli("train", *QUICK, "--quiet")
    before = DEFAULT.read_bytes()
    words = [f"{option} {stored}", f"got {value}", "without --resume"]
    refused("--resume", DEFAULT, option, value, words=words)
    assert DEFAULT.read_bytes() == before


def test_resume_refuses_other_data(cli, refused):
    cli("train", *QUICK, "--quiet")
    archive = dict(np.load("points.npz"))
    archive["x"][0, 0] += 1
    np.savez("points.npz", **archive)
    words = ["trained on other data", "points, 90 rows, 4 features, 3 classes", "--data"]
    refused("--resume", DEFAULT, words=words)


def test_the_loop_works_in_another_thread(cli):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["train", *QUICK, "--quiet"])))
    thread.start()
    thread.join()
    assert codes == [0]


# What goes wrong


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--hidden", "0"), ["--hidden", "widths of at least 1, such as 128,64", "'0'"]),
        (("--hidden", "8,,8"), ["--hidden", "'8,,8'"]),
        (("--lr", "-1"), ["--lr", "above 0", "'-1'"]),
        (("--lr", "nan"), ["--lr", "'nan'"]),
        (("--epochs", "0"), ["--epochs", "'0'"]),
        (("--epochs", "1.5"), ["--epochs", "'1.5'"]),
        (("--batch-size", "0"), ["--batch-size", "'0'"]),
        (("--seed", "-1"), ["--seed", "'-1'"]),
        (("--dropout", "1"), ["--dropout", "'1'"]),
        (("--test-fraction", "1"), ["--test-fraction", "between 0 and 1"]),
        (("--activation", "sigmoyd"), ["--activation", "'sigmoyd'", "relu", "sigmoid"]),
        (("--optimizer", "lion"), ["--optimizer", "'lion'", "adamw", "sgd"]),
        (("--momentum", "0.9"), ["--momentum", "sgd"]),
        (("--target", "x"), ["--target", "--data"]),
        (("--drop", "x"), ["--drop", "--data"]),
        (("--drop", "x,,y", "--data", "prices.csv"), ["--drop", "names, such as id,date"]),
        (("--drop", "sise", "--data", "prices.csv"), ["'sise'", "try 'size'"]),
        (("--drop", "price", "--data", "prices.csv"), ["the target, 'price'"]),
        (("--drop", "size,age", "--data", "prices.csv"), ["nothing to learn from"]),
        (("--drop", "x", "--data", "points.npz"), ["columns of a table"]),
        (("--nonsense",), ["[train]", "--nonsense;", "gpugrad train --help"]),
        (("--optimiser", "adam"), ["[train]", "try --optimizer, or gpugrad train --help"]),
        (("--batch_size=8",), ["no option --batch_size;", "--batch-size"]),
        (("prices.csv",), ["[train]", "got prices.csv"]),
        (("--device", "tpu"), ["tpu", "cuda"]),
        (("--resume",), ["no checkpoint at", "runs", "gpugrad train"]),
        (("--data", "absent.csv"), ["absent.csv", "does not exist"]),
        (("--data", "prices.csv", "--target", "prize"), ["prices.csv", "prize", "price"]),
        (
            ("--data", "points.npz", "--test-fraction", "1e-9", "--out", "points.npz"),
            ["points.npz"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_arguments(refused, place, args, words):
    refused(*args, words=words)
    assert sorted(p.name for p in place.iterdir()) == ["points.npz", "prices.csv"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3\n", ["line 3"]),
        ("a,b\n1,2\ninf,4\n", ["inf", "line 3", "'a'"]),
        ("a,b\n", ["bad.csv"]),
        ("", ["bad.csv"]),
    ],
)
def test_bad_tables(refused, place, text, words):
    Path("bad.csv").write_text(text)
    refused("--data", "bad.csv", words=words)
    assert not Path("runs").exists()


def test_cut_off_archive_and_wrong_labels(refused):
    whole = Path("points.npz").read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    refused("--data", "cut.npz", words=["cut.npz"])
    np.savez("rows.npz", x=np.ones((4, 2)), y=np.arange(3))
    refused("--data", "rows.npz", words=["[data.load] rows.npz", "(4, 2)", "(3,)"])
    assert not Path("runs").exists()


def test_cuda_without_a_device(refused):
    if gg.cuda_available():
        pytest.skip("a CUDA device is here")
    refused("--device", "cuda", words=["CUDA", "gpugrad[cuda13]", "gpugrad[cuda12]"])


@pytest.mark.parametrize(
    ("module", "args"), [("sklearn.datasets", ()), ("safetensors", ("--data", "points.npz"))]
)
def test_missing_extra(refused, monkeypatch, module, args):
    monkeypatch.setitem(sys.modules, module, None)
    refused(*args, words=['pip install "gpugrad[train]"'])


def test_without_rich_a_terminal_gets_lines(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, out, _ = cli("train", *QUICK)
    assert code == 0
    assert "epoch 3/3" in out


def test_checkpoints_that_are_none(cli, refused):
    cli("train", *QUICK, "--quiet")
    blob = DEFAULT.read_bytes()
    Path("cut.safetensors").write_bytes(blob[:-100])
    refused("--resume", "cut.safetensors", words=["cut.safetensors", "promises"])
    io.save("other.safetensors", {"w": np.ones(2)})
    refused("--resume", "other.safetensors", words=["other.safetensors", "not a training run"])
    refused("--resume", "points.npz", words=["points.npz"])
    refused("--resume", "prices.csv/x.safetensors", words=["no checkpoint"])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda r, t: r.update(format=99), ["format 1", "99"]),
        (lambda r, t: r.pop("position"), ["damaged", "position"]),
        (lambda r, t: r["position"].update(epoch="x"), ["damaged"]),
        (lambda r, t: r["settings"].pop("lr"), ["damaged"]),
        (lambda r, t: r["settings"].update(hidden=[9, 5]), ["another architecture", "0.weight"]),
        (lambda r, t: t.pop("rng"), ["damaged", "rng"]),
        (lambda r, t: t.pop("scaler.x.mean"), ["damaged", "x.mean"]),
        (lambda r, t: t.pop("optimizer.steps"), ["steps"]),
        (lambda r, t: t.pop("trained.0.bias"), ["another architecture", "0.bias"]),
    ],
)
def test_damaged_checkpoints(cli, refused, edit, words):
    cli("train", *QUICK, "--quiet")
    tensors, metadata = io.read(DEFAULT)
    record = json.loads(metadata["gpugrad"])
    edit(record, tensors)
    io.save(DEFAULT, tensors, {"gpugrad": json.dumps(record)})
    refused("--resume", DEFAULT, words=words)


def test_out_is_checked_before_training(refused, monkeypatch):
    monkeypatch.setattr(loops.Loop, "_step", lambda *_: pytest.fail("trained first"))
    refused(*QUICK, "--out", "prices.csv/run", words=["prices.csv", "another --out"])
    io.save("weights.safetensors", {"w": np.ones(2)})
    before = Path("weights.safetensors").read_bytes()
    refused(*QUICK, "--out", "weights.safetensors", words=["left alone", "another --out"])
    assert Path("weights.safetensors").read_bytes() == before


def test_full_disk_keeps_the_last_checkpoint(cli, refused, monkeypatch):
    cli("train", *QUICK, "--quiet")
    before = DEFAULT.read_bytes()
    real, left = os.fsync, 1

    def fsync(handle):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        # one sync for the file, one (suppressed when it fails) for the folder
        refused("--resume", DEFAULT, "--epochs", 4, "--quiet", words=["No space left", "untouched"])
    assert [p.name for p in DEFAULT.parent.iterdir()] == [DEFAULT.name]
    assert len(DEFAULT.read_bytes()) == len(before)
    cli("train", *QUICK, "--out", "whole.safetensors", "--epochs", 4, "--quiet")
    assert cli("train", "--resume", DEFAULT, "--epochs", 4)[0] == 0
    same_run("whole.safetensors", DEFAULT)


@pytest.mark.parametrize(
    "args",
    [
        ("--activation", "relu", "--lr", "1e4", "--optimizer", "sgd"),
        ("--activation", "sigmoid", "--lr", "1e38", "--optimizer", "sgd"),
    ],
)
def test_divergence(cli, args):
    code, _, err = cli("train", "--data", "prices.csv", "--epochs", 5, *args)
    assert code == 1
    assert re.search(r"diverged in epoch \d, batch \d: ", err)
    assert "lower --lr" in err
    tensors = io.load_arrays("runs/prices/checkpoint.safetensors")
    assert all(np.isfinite(value).all() for value in tensors.values())


def test_traceback_only_when_asked_for(cli, monkeypatch):
    assert "Traceback" not in cli("train", "--data", "absent.csv")[2]
    monkeypatch.setenv("GPUGRAD_DEBUG", "1")
    code, _, err = cli("train", "--data", "absent.csv")
    assert code == 2
    assert "Traceback" in err


# As a process: pipes, a terminal, signals from outside


def test_output_that_can_show_only_ascii():
    args = ("-m", "gpugrad", "train", "--data", "prices.csv", "--epochs", "2")
    out, err = command(*args, env={"PYTHONIOENCODING": "ascii"}).communicate(timeout=60)
    assert err == ""
    assert "test R? " in out


@posix
def test_reader_that_leaves_early():
    args = shlex.join([sys.executable, "-m", "gpugrad", "train", *QUICK[:-1], "300"])
    script = f"{args} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == ""
    first, code = done.stdout.splitlines()
    assert first.startswith("points:")
    assert code == "141"


@posix
def test_lines_arrive_while_it_trains_and_ctrl_c_saves():
    process = command("-m", "gpugrad", "train", *QUICK[:-1], "1000000")
    assert process.stdout.readline().startswith("points:")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert "interrupted" in out
    assert f"-m gpugrad train --resume {DEFAULT}" in out
    assert DEFAULT.exists()


@posix
@pytest.mark.parametrize("columns", [100, 60])
def test_bar_on_a_terminal(columns):
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {"TERM": "xterm-256color", "COLUMNS": str(columns)}
    process = command(
        "-m", "gpugrad", "train", *QUICK[:-1], "50", stdout=slave, stderr=slave, env=env
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # Linux: the other side is closed
            break
        if not piece:
            break
        seen += piece
    os.close(master)
    assert process.wait(timeout=60) == 0
    text = seen.decode()
    assert "epoch 50/50" in text
    assert "loss" in text
    assert ("━" in text) == (columns == 100)
    assert ("ETA 0:00" in text) == (columns == 100)
    assert text.count("\n") <= 7  # the bar redraws its own line
    assert "test accuracy" in text
    assert "\x1b[?25h" in text  # the cursor is back


# The parts


def test_clock_counts_what_is_left(monkeypatch):
    now = 0.0
    monkeypatch.setattr(report.time, "perf_counter", lambda: now)
    data = Dataset(np.eye(10), np.arange(10) % 2, ("a", "b"))
    model = gg.nn.MLP([10, 2])
    position = loops.Position(epoch=1, batch=1)
    loop = loops.Loop(
        model,
        gg.optim.SGD(model),
        data,
        data,
        batch_size=5,
        epochs=100,
        seed=0,
        position=position,
    )
    clock = report.Clock(loop)
    now, loop.samples = 1.0, 5
    assert clock(loop) == "5 samples/s  ETA 3:16"  # 985 rows were left, 980 are


def test_loop_metrics_are_the_textbook_ones():
    rng = np.random.default_rng(1)
    data = Dataset(rng.normal(size=(11, 3)), rng.normal(size=(11, 2)))
    model = gg.nn.MLP([3, 2])
    loop = loops.Loop(
        model,
        gg.optim.SGD(model),
        data,
        data,
        batch_size=4,
        epochs=2,
        seed=0,
        target_scale=np.array([2.0, 3.0], np.float32),
    )
    assert len(list(loop)) == 2 * batch_count(11, 4)
    assert loop.samples == 22
    got = loop.evaluate()
    residual = loops.predict(loop.averaged, data.x).astype(float) - data.y
    assert got["loss"] == pytest.approx(np.mean(residual**2))
    assert got["rmse"] == pytest.approx(np.sqrt(np.mean((residual * [2, 3]) ** 2)))
    spread = ((data.y - data.y.mean(axis=0)) ** 2).sum(axis=0)
    assert got["r2"] == pytest.approx(np.mean(1 - (residual**2).sum(axis=0) / spread))
    assert [entry["epoch"] for entry in loop.position.history] == [1, 2]
