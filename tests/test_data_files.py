"""Rows that stay in .npy files, and tables in Parquet."""

import datetime
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpugrad import cli
from gpugrad.data import Column, Dataset, Rows, Scaler, batches, load, load_inputs
from gpugrad.data import rows as rows_module
from gpugrad.errors import DataError, MissingDependency


def folder_of(tmp_path, **arrays):
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def table(n=40, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 5)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


# .npy


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i2", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_gives_what_the_array_gives(tmp_path, dtype, order, monkeypatch):
    monkeypatch.setattr(rows_module, "_BLOCK", 15)  # three rows at a time
    x = np.asarray(np.random.default_rng(0).uniform(0, 200, (10, 5)), dtype, order=order)
    y = np.arange(10) % 3
    mapped = load(folder_of(tmp_path, X=x, y=y))
    np.savez(tmp_path / "same.npz", x=x, y=y)
    held = load(tmp_path / "same.npz")
    assert isinstance(mapped.x, Rows)
    assert mapped.classes == held.classes
    there, here = (
        [*batches(data, 3, seed=1, epoch=2), *[(part.x, part.y) for part in data.split(0.3)]]
        for data in (mapped, held)
    )
    for a, b in zip(sum(there, ()), sum(here, ()), strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(np.asarray(a), b)
    fitted, expected = Scaler.fit(mapped.x), Scaler.fit(held.x)
    np.testing.assert_allclose(fitted.mean, expected.mean, 1e-6)
    np.testing.assert_allclose(fitted.scale, expected.scale, 1e-6)
    scaled = expected.apply(mapped.x)
    assert isinstance(scaled, Rows)
    assert np.array_equal(scaled[2:7], expected.apply(held.x)[2:7])


@pytest.mark.skipif(sys.platform == "win32", reason="files with holes are a Unix matter")
def test_a_file_larger_than_any_memory(tmp_path):
    n, features = 1 << 20, 1 << 16
    for name, shape in (("X", (n, features)), ("y", (n,))):
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        with open(tmp_path / f"{name}.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            file.truncate(start + 4 * int(np.prod(shape)))  # 256 GB of hole
            if name == "X":
                file.seek(start + 4 * (features * 123_456 + 7))
                file.write(np.float32(2.5).tobytes())
    data = load(tmp_path)
    assert data.x[np.array([5, 123_456])][:, 7].tolist() == [0, 2.5]
    train, _ = data.split(0.5)
    x, y = next(batches(train, 4, seed=0, epoch=0))
    assert x.shape == (4, features)
    assert y.shape == (4,)


def test_batches_read_the_rows_they_need_and_no_others():
    read = []

    class Source(np.ndarray):
        def __getitem__(self, index):
            read.append(np.arange(len(self))[index])
            return np.asarray(self)[index]

    data = Dataset(Rows(np.zeros((9, 2)).view(Source)), np.arange(9.0))
    _, test = data.split(0.4, seed=3)
    assert read == []
    seen = [y for _, y in batches(test, 2, seed=0, epoch=0)]
    assert [r.tolist() for r in read] == [y.astype(int).tolist() for y in seen]


def test_npy_by_its_own_name_with_a_test_part_and_a_target(tmp_path):
    x, y = table()
    folder_of(tmp_path, feats=x, feats_test=x[:9], kind=y, kind_test=y[:9], other=y[:3])
    data = load(tmp_path / "feats.npy", target="kind")
    assert len(data.test) == 9
    assert repr(data) == "<Dataset feats: 40 rows, 5 features, 2 classes, test part of 9>"
    assert repr(data.x) == f"<Rows 40 × 5 of {tmp_path / 'feats.npy'}>"
    images = folder_of(tmp_path, x=np.full((4, 2, 3), 51, np.uint8), y=np.arange(4.0))
    assert np.array_equal(load(images).x[:], np.full((4, 6), 0.2, np.float32))


def test_npy_inputs(tmp_path):
    x, _ = table()
    folder_of(tmp_path, x=x)
    for path in (tmp_path, tmp_path / "x.npy"):
        assert np.array_equal(load_inputs(path)[3:5], x[3:5])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array([[1.0, 2.0], [1.0, np.nan], [1.0, 2.0]]), ["x.npy", "nan in row 1, column 1"]),
        (np.array([[1.0], [1e39], [2.0]]), ["1e+39 in row 1, column 0"]),
        (np.zeros((2, 1)), ["one label per input", "(2, 1)", "(3,)"]),
        (np.zeros((3, 0)), ["at least one row and one feature"]),
        (np.array(["a", "b", "c"]), ["real numbers"]),
        (np.array([None] * 3), ["x.npy", "not a whole .npy file of numbers or text"]),
        (np.asfortranarray(np.zeros((3, 2, 2))), ["Fortran order", "ascontiguousarray"]),
    ],
    ids=["nan", "huge", "rows", "columns", "text", "objects", "fortran"],
)
def test_npy_refuses(tmp_path, x, words):
    folder_of(tmp_path, y=np.arange(3.0))
    np.save(tmp_path / "x.npy", x, allow_pickle=True)
    with pytest.raises(DataError) as caught:
        list(batches(load(tmp_path), 2, seed=0, epoch=0))
    for word in words:
        assert word in str(caught.value)


def test_npy_cut_or_grown(tmp_path):
    folder_of(tmp_path, x=np.ones((30, 3)), y=np.arange(30.0))
    whole = (tmp_path / "x.npy").read_bytes()
    for blob in (b"", whole[:5], whole[:100], whole[:-1], whole + b"!", b"PK" + whole):
        (tmp_path / "x.npy").write_bytes(blob)
        with pytest.raises(DataError, match=r"x\.npy"):
            load(tmp_path)


def test_npy_folders_that_lack_something(tmp_path):
    folder_of(tmp_path, x=np.ones((3, 1)))
    with pytest.raises(DataError, match="one array of labels"):
        load(tmp_path)
    with pytest.raises(DataError, match="no array is called 'z'"):
        load(tmp_path, target="z")
    with pytest.raises(DataError, match=r"z.npy: does not exist"):
        load_inputs(tmp_path / "z.npy")


def command(capsys, *args):
    assert cli.main([str(arg) for arg in args]) == 0
    return capsys.readouterr().out


def test_the_command_trains_on_npy_as_on_npz(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = table(60)
    folder_of(tmp_path, x=x, y=y)
    np.savez("same.npz", x=x, y=y)
    found = []
    for data in (".", "same.npz"):
        flags = ["--epochs", "2", "--hidden", "4", "--json", "--out", f"{data}.run"]
        found.append(json.loads(command(capsys, "train", "--data", data, *flags))["test"])
    assert found[0] == found[1]
    run = next(Path().glob("..run/*.safetensors"))
    assert command(capsys, "predict", run, "--data", "x.npy").count("\n") == 61
    assert "accuracy" in command(capsys, "evaluate", run, "--data", ".")


# Parquet


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for call in (load, lambda path: load_inputs(path, [Column("a", fill=0.0)])):
        with pytest.raises(MissingDependency, match=r"pip install .gpugrad\[parquet\]"):
            call(tmp_path / "a.parquet")


@pytest.fixture
def arrow():
    parquet = pytest.importorskip("pyarrow.parquet")
    return SimpleNamespace(write=parquet.write_table, **vars(sys.modules["pyarrow"]))


def written(arrow, path, **columns):
    arrow.write(arrow.table(columns), path)
    return path


def messy(arrow):
    return {
        "size": arrow.array([1, None, 3, 4], arrow.int16()),
        "price": arrow.array([1.5, 2.5, float("nan"), 4.5]),
        "colour": arrow.array(["red", None, "blue", " red"]).dictionary_encode(),
        "sold": arrow.array([True, False, None, True]),
        "zip": arrow.array(["01", "02", "01", "02"]),
        "void": arrow.nulls(4),
        "kind": arrow.array(["a", "b", "a", "b"]),
    }


def test_parquet_is_a_csv_with_types(tmp_path, arrow):
    data = load(written(arrow, tmp_path / "t.parquet", **messy(arrow)))
    text = "size,price,colour,sold,void,kind\n1,1.5,red,True,,a\n,2.5,,False,,b\n"
    text += "3,nan,blue,,,a\n4,4.5, red,True,,b\n"
    (tmp_path / "t.csv").write_text(text)
    csv = load(tmp_path / "t.csv")
    zips = [i for i, name in enumerate(data.features) if name.startswith("zip=")]
    assert [data.features[i] for i in zips] == ["zip=01", "zip=02"]
    assert data.x[:, zips].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert np.array_equal(np.delete(data.x, zips, 1), csv.x)
    assert [name for name in data.features if "zip" not in name] == list(csv.features)
    assert (data.classes, data.y.tolist()) == (csv.classes, csv.y.tolist())
    assert [note for note in data.notes if "zip" not in note] == list(csv.notes)
    assert load_inputs(tmp_path / "t.parquet", data.columns).tolist() == data.x.tolist()
    assert load_inputs(tmp_path / "t.parquet", csv.columns).tolist() == csv.x.tolist()


@pytest.mark.parametrize(
    ("target", "classes", "y"),
    [
        ([2, 1, 2, 10], ("1", "2", "10"), [1, 0, 1, 2]),
        ([2.0, 1.0, 2.0, 10.0], (), [2, 1, 2, 10]),
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
        ([datetime.date(2020, 1, 1), datetime.date(2019, 1, 1)] * 2, None, [1, 0, 1, 0]),
    ],
)
def test_parquet_targets(tmp_path, arrow, target, classes, y):
    path = written(
        arrow, tmp_path / "t.parquet", answer=arrow.array(target), x=arrow.array([1.0] * 4)
    )
    data = load(path, target="answer")
    assert data.classes == (("2019-01-01", "2020-01-01") if classes is None else classes)
    assert data.y.tolist() == y


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (lambda a: {"x": [1.0]}, ["a feature and a target"]),
        (lambda a: {"x": a.array([], a.float64()), "y": a.array([], a.int8())}, ["no rows"]),
        (lambda a: {"x": [[1], [2]], "y": [0, 1]}, ["column 'x' is neither numbers", "list<"]),
        (lambda a: {"x": [b"1", b"2"], "y": [0, 1]}, ["column 'x' is neither", "binary"]),
        (lambda a: {"x": [1.0, 1e39], "y": [0, 1]}, ["1e+39 in row 1, column 'x'"]),
        (lambda a: {"x": [1.0, 2.0], "y": [1, None]}, ["every row has a target", "row 1"]),
        (lambda a: {"x": [1.0, 2.0], " x": [0, 1]}, ["column names are unique"]),
    ],
)
def test_parquet_refuses(tmp_path, arrow, columns, words):
    path = written(arrow, tmp_path / "t.parquet", **columns(arrow))
    with pytest.raises(DataError) as caught:
        load(path)
    for word in ["t.parquet", *words]:
        assert word in str(caught.value)


def test_parquet_names_the_column_that_is_not_there(tmp_path, arrow):
    path = written(arrow, tmp_path / "t.parquet", **messy(arrow))
    with pytest.raises(DataError, match=r"no column is called 'prise'.*try 'price'"):
        load_inputs(path, [Column("prise", fill=1.0)])
    with pytest.raises(DataError, match=r"no column is called 'knd'.*try 'kind'"):
        load(path, target="knd")
    with pytest.raises(DataError, match=r"no column is called 'prise'.*try 'price'"):
        load(path, drop=["prise"])


def test_parquet_columns_that_cannot_be_read_may_be_left_out(tmp_path, arrow):
    lists = {"tags": arrow.array([[1], [2], []]), "a": [1.0, 2.0, 4.0], "t": ["x", "y", "x"]}
    path = written(arrow, tmp_path / "t.parquet", **lists)
    assert load(path, drop=["tags"]).x.tolist() == [[1.0], [2.0], [4.0]]


def test_parquet_cut_or_damaged(tmp_path, arrow):
    path = written(arrow, tmp_path / "t.parquet", **messy(arrow))
    whole = path.read_bytes()
    for blob in (b"", b"PAR1", whole[:-9], whole[9:], b"a,b\n1,2\n"):
        path.write_bytes(blob)
        with pytest.raises(DataError, match="not a whole Parquet file"):
            load(path)


def test_parquet_of_another_kind_of_column_than_was_trained_on(tmp_path, arrow):
    path = written(arrow, tmp_path / "t.parquet", **messy(arrow))
    with pytest.raises(DataError, match="column 'colour' holds numbers; got 'red' in row 0"):
        load_inputs(path, [Column("colour", fill=1.0)])
