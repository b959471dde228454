"""predict, evaluate and export: what they say of a model that ``gpugrad train`` left."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpugrad.cli import main

POINTS = ("--data", "points.npz", "--hidden", "7,5", "--epochs", "40", "--quiet", "--out", "points")
FLOWERS = (
    "--norm",
    "batch",
    "--data",
    "flowers.csv",
    "--epochs",
    "40",
    "--quiet",
    "--out",
    "flowers",
)
PRICES = ("--data", "prices.csv", "--epochs", "40", "--quiet", "--out", "prices")


@pytest.fixture(autouse=True, scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A working directory with three trained models and their data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        rng = np.random.default_rng(0)
        y = np.arange(90) % 3
        x = (rng.normal(size=(90, 4)) + 3 * np.eye(3, 4)[y]).astype("f4")
        np.savez("points.npz", x=x, y=y)
        names = np.array(["lily", "rose", "tulip"])[y]
        table("flowers.csv", ["a", "b", "c", "d", "kind"], np.column_stack([x, names]))
        rows = rng.normal(size=(60, 2))
        prices = 5e4 + 1e3 * rows @ [2.0, -1.0]
        table("prices.csv", ["size", "age", "price"], np.column_stack([rows, prices]))
        for settings in (POINTS, FLOWERS, PRICES):
            assert main(["train", *settings]) == 0
        yield


def table(path: str, header: list[str], rows: Any) -> None:
    Path(path).write_text("\n".join([",".join(header), *[",".join(map(str, r)) for r in rows]]))


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*args: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        return main([str(arg) for arg in args]), *capsys.readouterr()

    return call


@pytest.mark.parametrize("settings", [POINTS, FLOWERS, PRICES], ids=["points", "flowers", "prices"])
def test_evaluate_says_what_train_said(cli: Any, settings: Any) -> None:
    said = json.loads(cli("train", *settings, "--json")[1])["test"]
    code, out, _ = cli("evaluate", settings[-1], "--json")
    found = json.loads(out)
    assert code == 0
    assert found.pop("data").startswith("the test part of")
    assert found == pytest.approx(said)
    text = cli("evaluate", settings[-1])[1]
    assert "RMSE" in text if "rmse" in said else "accuracy" in text


def test_evaluate_on_other_data(cli: Any) -> None:
    """Columns in another order and fewer classes are recognised by name."""
    rows = records(Path("flowers.csv").read_text())
    some = [r for r in rows if r["kind"] != "lily"]
    header = ["d", "b", "kind", "a", "c"]
    table("some.csv", header, [[r[name] for name in header] for r in some])
    found = json.loads(
        cli("evaluate", "flowers", "--data", "some.csv", "--target", "kind", "--json")[1]
    )
    written = records(cli("predict", "flowers", "--data", "some.csv")[1])
    guesses = [r["prediction"] for r in written]
    right = np.mean([g == r["kind"] for g, r in zip(guesses, some, strict=True)])
    assert found["rows"] == len(some) == 60
    assert not found["trained_on"]
    assert found["accuracy"] == pytest.approx(right)
    one = [r for r in some if r["kind"] == "rose"]
    table("one.csv", header, [[r[name] for name in header] for r in one])
    args = ("evaluate", "flowers", "--data", "one.csv", "--target", "kind", "--json")
    roses = [g for g, r in zip(guesses, some, strict=True) if r["kind"] == "rose"]
    assert json.loads(cli(*args)[1])["accuracy"] == pytest.approx(
        np.mean(np.array(roses) == "rose")
    )


@pytest.mark.parametrize("settings", [POINTS, FLOWERS, PRICES], ids=["points", "flowers", "prices"])
def test_evaluate_knows_the_rows_of_the_training(cli: Any, settings: Any) -> None:
    data, name = settings[settings.index("--data") + 1], settings[-1]
    args = ("evaluate", name, "--data", data)
    found = json.loads(cli(*args, "--json")[1])
    kept = json.loads(cli("evaluate", name, "--json")[1])
    assert (kept.pop("data"), found["trained_on"]) == (f"the test part of {name}", True)
    assert found["test"] == kept
    assert found["rows"] > kept["rows"]
    told = f"trained on rows of these; on the {kept['rows']} kept for testing: loss"
    assert told in cli(*args)[1]


def test_whole_numbers_that_look_like_classes_are_numbers_to_a_regressor(cli: Any) -> None:
    table("few.csv", ["size", "age", "price"], [[0.1, 0.2, 50000], [1.0, 0.0, 52000]] * 3)
    found = json.loads(cli("evaluate", "prices", "--data", "few.csv", "--json")[1])
    predicted = records(cli("predict", "prices", "--data", "few.csv")[1])
    errors = [
        float(r["prediction"]) - y for r, y in zip(predicted, [50000, 52000] * 3, strict=True)
    ]
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-3)


def test_predict_classes(cli: Any, tmp_path: Path) -> None:
    code, out, _ = cli("predict", "flowers", "--data", "flowers.csv")
    rows = records(out)
    assert code == 0
    assert list(rows[0]) == ["prediction", "p_lily", "p_rose", "p_tulip"]
    p = np.array([[float(r[f"p_{name}"]) for name in ("lily", "rose", "tulip")] for r in rows])
    np.testing.assert_allclose(p.sum(axis=1), 1, 1e-5)
    assert [r["prediction"] for r in rows] == [("lily", "rose", "tulip")[i] for i in p.argmax(1)]
    found = json.loads(cli("predict", "flowers", "--data", "flowers.csv", "--json")[1])
    assert [r["p_rose"] for r in found] == [float(r["p_rose"]) for r in rows]
    path = tmp_path / "out.json"
    told = cli("predict", "flowers", "--data", "flowers.csv", "--json", "--out", path)[1]
    assert json.loads(told) == {"file": str(path), "rows": 90}
    assert json.loads(path.read_text()) == found
    path = tmp_path / "out.csv"
    assert "90 predictions" in cli("predict", "flowers", "--data", "flowers.csv", "--out", path)[1]
    assert path.read_text() == out
    as_points = records(cli("predict", "points", "--data", "points.npz")[1])
    assert len(as_points) == 90
    assert {r["prediction"] for r in as_points} <= {"0", "1", "2"}


def test_tables_as_people_have_them(cli: Any) -> None:
    """Categories, missing values and a name: new tables mean what the one to train on meant."""
    rows = [
        [f"n{i}", "red" if i % 3 else "blue", "" if i % 7 == 0 else i, i % 2] for i in range(60)
    ]
    table("messy.csv", ["name", "colour", "size", "odd"], rows)
    settings = ("--data", "messy.csv", "--epochs", "3", "--quiet", "--out", "messy")
    said = json.loads(cli("train", *settings, "--json")[1])["test"]
    assert json.loads(cli("evaluate", "messy", "--json")[1])["accuracy"] == said["accuracy"]
    new = [["", "red", 4], [1, "green", ""], ["", "blue", ""]]  # no name; a colour never seen
    table("new.csv", ["other", "colour", "size"], new)
    assert len(records(cli("predict", "messy", "--data", "new.csv")[1])) == 3
    table("red.csv", ["size", "colour", "odd"], [[i, "red", i % 2] for i in range(8)])
    whole, part = (
        records(cli("predict", "messy", "--data", path)[1]) for path in ("messy.csv", "red.csv")
    )
    same = [float(r[4]["p_1"]) for r in (part, whole)]  # red, 4, in both
    assert same[0] == pytest.approx(same[1], rel=1e-5)
    found = json.loads(cli("evaluate", "messy", "--data", "red.csv", "--json")[1])
    right = [int(r["prediction"]) == i % 2 for i, r in enumerate(part)]
    assert found["accuracy"] == pytest.approx(np.mean(right))


def test_a_column_left_out_is_asked_for_by_no_command(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('drop = ["name", "size"]')
    settings = ("--data", "rows.csv", "--epochs", "2", "--quiet", "--json", "--out", "rows")
    table("rows.csv", ["name", "size", "hue", "t"], [[i, -i, i % 7, i / 2] for i in range(40)])
    by_file = json.loads(cli("train", *settings, "--config", path)[1])
    found = json.loads(cli("train", *settings, "--drop", "name, size")[1])
    assert found["history"] == by_file["history"]
    assert (found["data"]["feature_names"], found["config"]["drop"]) == (["hue"], ["name", "size"])
    said = json.loads(cli("evaluate", "rows", "--json")[1])
    assert said["rmse"] == pytest.approx(found["test"]["rmse"])
    assert "drop name,size" in cli("train", "--resume", "rows", "--drop", "hue")[2]
    assert cli("train", "--resume", "rows", "--epochs", 3, "--quiet", "--no-report")[0] == 0
    table("new.csv", ["t", "size", "hue"], [[1.5, "inf", 3], [2, "text", 4]])
    assert len(records(cli("predict", "rows", "--data", "new.csv")[1])) == 2
    code, out, _ = cli("evaluate", "rows", "--data", "new.csv", "--target", "t", "--json")
    assert (code, json.loads(out)["rows"]) == (0, 2)


def test_predict_numbers_in_the_units_of_the_data(cli: Any) -> None:
    rows = records(cli("predict", "prices", "--data", "prices.csv")[1])
    assert list(rows[0]) == ["prediction"]
    assert 4e4 < np.mean([float(r["prediction"]) for r in rows]) < 6e4


def test_export_gives_the_same_predictions(cli: Any) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    for name, data in (("flowers", "flowers.csv"), ("prices", "prices.csv")):
        code, out, _ = cli("export", name)
        assert code == 0
        path = Path(name, "model.onnx")
        assert str(path) in out
        assert json.loads(cli("export", name, "--json")[1])["file"] == str(path)
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        columns = json.loads(session.get_modelmeta().custom_metadata_map["columns"])
        given = records(Path(data).read_text())
        x = np.array([[r[c] for c in columns] for r in given], "f4")
        (got,) = session.run(None, {"input": x})
        want = [
            [float(v) for k, v in r.items() if k.startswith("p_") or name == "prices"]
            for r in records(cli("predict", name, "--data", data)[1])
        ]
        np.testing.assert_allclose(got, want, 1e-5, 1e-5)


REFUSED = {
    "no checkpoint": (("predict", "nowhere", "--data", "flowers.csv"), ["nowhere"]),
    "no data": (("predict", "flowers"), ["--data"]),
    "a missing column": (("predict", "flowers", "--data", "prices.csv"), ["'a'"]),
    "no file": (("predict", "flowers", "--data", "gone.csv"), ["gone.csv"]),
    "nameless columns": (("predict", "points", "--data", "flowers.csv"), [".npz"]),
    "other columns": (("predict", "prices", "--data", "points.npz"), ["trained on 2"]),
    "a folder to write to": (
        ("predict", "flowers", "--data", "flowers.csv", "--out", "flowers"),
        ["flowers cannot be written"],
    ),
    "other features": (("evaluate", "points", "--data", "prices.csv"), ["features"]),
    "other names": (("evaluate", "flowers", "--data", "prices.csv"), ["'a'"]),
    "numbers for classes": (
        ("evaluate", "prices", "--data", "named.csv"),
        ["the target is numbers", "'low' in line 2"],
    ),
    "an unknown class": (("evaluate", "flowers", "--data", "odd.csv"), ["daisy"]),
    "opset": (("export", "flowers", "--opset", "3"), ["17 to 21"]),
    "device": (("evaluate", "flowers", "--device", "tpu"), ["tpu"]),
}


@pytest.mark.parametrize(("args", "words"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(cli: Any, args: Any, words: Any) -> None:
    table("named.csv", ["size", "age", "price"], [[1, 2, "low"], [2, 3, "high"]])
    table("odd.csv", ["a", "b", "c", "d", "kind"], [[1, 2, 3, 4, "daisy"], [1, 2, 3, 4, "rose"]])
    code, out, err = cli(*args)
    assert (code, out) == (2, "")
    assert err.startswith("gpugrad: [")
    assert err.count("\n") == 1
    assert [word for word in words if word not in err] == [], err
