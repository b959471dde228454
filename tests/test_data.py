"""Data files: every honest one loads, every other one is refused by name, place and reason."""

import csv
import gzip
import io
import json
import struct
import sys
import zipfile
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpugrad.data import Dataset, Scaler, batch_count, batches, digits, load, load_inputs
from gpugrad.data.columns import Column
from gpugrad.data.idx import TYPES, read_idx
from gpugrad.data.table import read_csv
from gpugrad.errors import BoundsError, DataError, MissingDependency

SHARED_FOLDER = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def refuse(call, *words, error=DataError):
    """``call`` raises ``error`` with each of ``words`` in the message."""
    with pytest.raises(error) as caught:
        call()
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in {caught.value}"


# Dataset


def small(**changes):
    fields = {
        "x": np.arange(12.0).reshape(6, 2),
        "y": np.array([0, 1, 2, 0, 1, 2]),
        "classes": ("a", "b", "c"),
        "name": "small",
    }
    return Dataset(**(fields | changes))


def test_dataset_converts_and_freezes():
    given_x = np.arange(12.0).reshape(2, 6).T
    data = small(x=given_x, y=np.array([0, 1, 2, 0, 1, 2], np.uint8))
    assert data.x.dtype == np.float32
    assert data.x.flags.c_contiguous
    assert data.y.dtype == np.int64
    assert len(data) == 6
    assert repr(data) == "<Dataset small: 6 rows, 2 features, 3 classes>"
    assert given_x.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        data.x[0, 0] = 1
    with pytest.raises(FrozenInstanceError):
        data.name = "other"


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 3)])
def test_regression_targets(shape):
    data = small(y=np.ones(shape), classes=())
    assert data.y.dtype == np.float32
    assert data.y.shape == shape
    assert "regression" in repr(data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": np.zeros(6)}, ["(n, features)", "(6,)"]),
        ({"x": np.zeros((6, 2), complex)}, ["real numbers", "complex128"]),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, ["at least one row", "(0, 2)"]),
        ({"x": np.zeros((6, 0))}, ["one feature", "(6, 0)"]),
        ({"x": np.zeros((5, 2))}, ["same number of rows", "5 and 6"]),
        ({"y": np.zeros((6, 2), int)}, ["y has shape (n,)", "(6, 2)"]),
        ({"y": np.zeros((6, 1, 1)), "classes": ()}, ["(n, outputs)", "(6, 1, 1)"]),
        ({"y": np.zeros(6)}, ["labels are integers", "float64"]),
        ({"classes": ()}, ["targets without classes are floats", "int64"]),
        ({"classes": ("a",), "y": np.zeros(6, int)}, ["at least two classes", "'a'"]),
        ({"features": ("p",)}, ["one name per feature", "1 names, 2 features"]),
        (
            {"test": Dataset(np.ones((1, 3)), np.ones(1))},
            ["features, outputs and classes", "(2, (), ", "test part (3, "],
        ),
        ({"x": np.array([[0, 1e39]] * 6)}, ["finite in float32", "1e+39", "row 0, column 1"]),
    ],
)
def test_dataset_refuses(changes, words):
    refuse(lambda: small(**changes), "small", *words)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("features", "column"), [((), "column 1"), (("p", "q"), "column q")])
def test_dataset_names_where_it_is_not_finite(value, features, column):
    x = np.zeros((6, 2))
    x[3, 1] = x[4, 0] = value
    refuse(lambda: small(x=x, features=features), "finite", str(value), "row 3", column)


def test_dataset_names_the_bad_target():
    y = np.array([0, 1, 2, np.nan, 4, 5])
    refuse(lambda: small(y=y, classes=()), "y must be finite", "row 3")


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_dataset_names_the_label_out_of_range(label):
    y = np.array([0, 1, label, 0, 1, 2])
    refuse(lambda: small(y=y), "0 to 2", f"got {label} in row 2", error=BoundsError)


def test_dataset_sees_a_label_that_int64_would_wrap():
    y = np.array([0, 1, 2**64 - 1, 0, 1, 2], np.uint64)
    refuse(lambda: small(y=y), "row 2", error=BoundsError)


# Split


def ids(data):
    return set(data.x[:, 0].astype(int))


@SHARED_FOLDER
@given(st.data())
def test_split_is_stratified_disjoint_and_complete(data):
    counts = data.draw(st.lists(st.integers(1, 30), min_size=2, max_size=5))
    counts[0] = max(counts[0], 2)
    fraction = data.draw(st.floats(0.05, 0.95))
    seed = data.draw(st.integers(0, 2**32))
    y = np.repeat(np.arange(len(counts)), counts)
    whole = Dataset(np.arange(len(y))[:, None], y, tuple(map(str, range(len(counts)))))
    train, test = whole.split(fraction, seed)
    assert not ids(train) & ids(test)
    assert ids(train) | ids(test) == ids(whole)
    for label, count in enumerate(counts):
        kept = int((train.y == label).sum())
        assert kept >= 1
        assert kept < count or count == 1
        assert abs(count - kept - count * fraction) <= 1 or count == 1
    again = whole.split(fraction, seed)
    np.testing.assert_array_equal(again[1].x, test.x)
    assert train.classes == whole.classes


def test_split_depends_on_the_seed():
    data = Dataset(np.arange(100.0)[:, None], np.zeros(100))
    assert ids(data.split(seed=0)[1]) != ids(data.split(seed=1)[1])
    assert len(data.split()[1]) == 20


def test_split_keeps_x_and_y_together():
    data = Dataset(np.arange(50.0)[:, None], np.arange(50.0))
    for part in data.split(0.3):
        np.testing.assert_array_equal(part.x[:, 0], part.y)


def test_split_returns_the_source_s_own_test_part():
    test = small(name="own")
    data = small(test=test)
    assert data.split(0.5, 3) == (data, test)
    assert "test part of 6" in repr(data)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_split_refuses_fractions(fraction):
    refuse(lambda: small().split(fraction), "between 0 and 1", str(fraction))


def test_split_needs_two_rows():
    one = Dataset(np.ones((1, 1)), np.ones(1))
    refuse(one.split, "two rows")
    refuse(small(x=np.ones((3, 1)), y=np.arange(3)).split, "two rows of some class", "3 rows")


# Minibatches


@pytest.mark.parametrize(("n", "size", "count"), [(10, 5, 2), (10, 4, 3), (1, 8, 1), (0, 8, 0)])
def test_batch_count(n, size, count):
    assert batch_count(n, size) == count


def numbered(n):
    return Dataset(np.arange(float(n))[:, None], np.arange(float(n)))


@SHARED_FOLDER
@given(st.integers(1, 40), st.integers(1, 50), st.booleans(), st.integers(0, 5))
def test_batches_cover_each_row_once(n, size, shuffle, epoch):
    got = list(batches(numbered(n), size, seed=1, epoch=epoch, shuffle=shuffle))
    assert len(got) == batch_count(n, size)
    assert all(len(x) == size for x, _ in got[:-1])
    order = np.concatenate([y for _, y in got])
    np.testing.assert_array_equal(np.concatenate([x for x, _ in got])[:, 0], order)
    np.testing.assert_array_equal(order if not shuffle else np.sort(order), np.arange(n))


def test_batches_resume_exactly():
    data = numbered(23)
    whole = list(batches(data, 5, seed=7, epoch=2))
    for start in range(6):
        rest = list(batches(data, 5, seed=7, epoch=2, start=start))
        assert len(rest) == 5 - start
        for (x, y), (wx, wy) in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(x, wx)
            np.testing.assert_array_equal(y, wy)


def test_batches_depend_on_seed_and_epoch():
    orders = {
        tuple(next(batches(numbered(30), 30, seed=seed, epoch=epoch))[1])
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_batches_are_copies_of_the_right_dtype():
    for shuffle in (True, False):
        x, y = next(batches(small(), 4, seed=0, epoch=0, shuffle=shuffle))
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        assert x.flags.c_contiguous
        x[:] = 0


@pytest.mark.parametrize("size", [0, -1])
def test_batches_refuse_sizes(size):
    refuse(lambda: batches(small(), size, seed=0, epoch=0), "batch_size", str(size))
    refuse(lambda: batch_count(3, size), "batch_size", str(size))


def test_batches_refuse_starts_and_epochs():
    call = lambda **kw: batches(small(), 4, seed=0, **kw)  # noqa: E731
    refuse(lambda: call(epoch=0, start=3), "start is 0 to 2", "got 3", error=BoundsError)
    refuse(lambda: call(epoch=0, start=-1), "start", "-1", error=BoundsError)
    refuse(lambda: call(epoch=-1), "epoch", "-1", error=BoundsError)
    assert list(call(epoch=0, start=2)) == []


# Standardisation


def test_scaler():
    x = np.random.default_rng(0).normal(5, 3, (200, 4)).astype(np.float32)
    x[:, 2] = 0.1
    scaler = Scaler.fit(x)
    z = scaler.apply(x)
    assert z.dtype == scaler.mean.dtype == scaler.scale.dtype == np.float32
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(z[:, [0, 1, 3]].std(axis=0), 1, rtol=1e-5)
    assert scaler.scale[2] == 1
    np.testing.assert_array_equal(z[:, 2], 0)


def test_scaler_is_computed_in_float64():
    x = np.array([[1e4 + 0.1], [1e4 - 0.1]] * 1000, np.float32)
    np.testing.assert_allclose(Scaler.fit(x).scale, x.astype(np.float64).std(), rtol=1e-6)


@pytest.mark.parametrize("x", [[[3e38], [-3e38]], [[1e-45], [0.0]], [[1e-30], [2e-30]]])
def test_scaler_of_extremes_stays_finite(x):
    x = np.array(x, np.float32)
    assert np.isfinite(Scaler.fit(x).apply(x)).all()


def test_scaler_refuses():
    refuse(lambda: Scaler.fit(np.zeros((0, 2))), "n ≥ 1", "(0, 2)")
    refuse(lambda: Scaler.fit(np.zeros(3)), "(3,)")
    refuse(lambda: Scaler.fit([[np.nan]]), "finite")
    refuse(lambda: Scaler.fit(np.zeros((2, 3))).apply(np.zeros((2, 4))), "(n, 3)", "(2, 4)")


# Digits


def test_digits():
    data = digits()
    assert data.x.shape == (1797, 64)
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert data.classes == tuple("0123456789")
    assert len(data.features) == 64
    assert sorted(np.bincount(data.split()[1].y)) == [35, 35, 36, 36, 36, 36, 36, 36, 36, 37]


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    refuse(digits, 'pip install "gpugrad[train]"', error=MissingDependency)


# What load takes


@pytest.mark.parametrize("name", ["notes.txt", "table.csv.zip", "train-images-idx3-ubyte", "a.np"])
def test_load_lists_what_it_takes(tmp_path, name):
    (tmp_path / name).write_text("?")
    hints = ["its folder"] if "idx" in name else []
    refuse(lambda: load(tmp_path / name), "IDX", ".npz", ".csv", ".csv.gz", name, *hints)


def test_load_suggests_the_nearest_name(tmp_path):
    (tmp_path / "iris.csv").write_text("a,b\n")
    refuse(lambda: load(tmp_path / "irs.csv"), "irs.csv: does not exist", "try 'iris.csv'")
    refuse(lambda: load(str(tmp_path / "no" / "where")), "does not exist")
    refuse(lambda: load_inputs(tmp_path / "Iris.csv.gz"), "does not exist", "try 'iris.csv'")
    with pytest.raises(DataError, match=r"exist$"):  # that both end in .csv is no likeness
        load(tmp_path / "irn.csv")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "quite_different")
    assert "try" not in str(caught.value)


def test_load_of_a_folder_takes_no_target(tmp_path):
    refuse(lambda: load(tmp_path, target="y"), "no named target", "'y'")


# IDX


CODES = {dtype.newbyteorder("="): code for code, dtype in TYPES.items()}


def idx_bytes(array, shape=None):
    shape = array.shape if shape is None else shape
    head = bytes([0, 0, CODES[array.dtype.newbyteorder("=")], len(shape)])
    big = array.astype(array.dtype.newbyteorder(">"))
    return head + struct.pack(f">{len(shape)}I", *shape) + big.tobytes()


def write_idx(path, array, shape=None):
    data = idx_bytes(array, shape)
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) * 10
LABELS = np.array([7, 3], np.uint8)


@SHARED_FOLDER
@given(
    hnp.arrays(
        st.sampled_from(list(CODES)),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0),
    ),
    st.booleans(),
)
def test_idx_round_trip(tmp_path, array, compressed):
    got = read_idx(write_idx(tmp_path / ("a.gz" if compressed else "a"), array))
    assert got.dtype == array.dtype
    assert got.dtype.isnative
    assert got.shape == array.shape
    assert got.tobytes() == array.tobytes()


NAMES = {
    "plain": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "dot": ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
    "emnist": ("emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte"),
}


@pytest.mark.parametrize("spelling", NAMES)
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("test_part", ["t10k", "test", None])
def test_idx_folder_of_mnist(tmp_path, spelling, suffix, test_part):
    images, labels = (name + suffix for name in NAMES[spelling])
    write_idx(tmp_path / images, IMAGES)
    write_idx(tmp_path / labels, LABELS)
    if test_part:
        write_idx(tmp_path / images.replace("train", test_part), IMAGES[:1])
        write_idx(tmp_path / labels.replace("train", test_part), np.array([5], np.uint8))
    (tmp_path / "README").write_text("hello")
    data = load(tmp_path)
    assert data.name == tmp_path.name
    np.testing.assert_array_equal(data.x, IMAGES.reshape(2, 12) / np.float32(255))
    assert data.classes == (("3", "5", "7") if test_part else ("3", "7"))
    assert [data.classes[i] for i in data.y] == ["7", "3"]
    assert (data.test is not None) == bool(test_part)
    if test_part:
        np.testing.assert_array_equal(data.test.x, data.x[:1])
        assert [data.classes[i] for i in data.test.y] == ["5"]


def test_idx_pair_of_any_name(tmp_path):
    write_idx(tmp_path / "pictures", IMAGES.astype(np.float32))
    write_idx(tmp_path / "answers.gz", np.array([0.5, 1.5]))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").touch()
    data = load(tmp_path)
    np.testing.assert_array_equal(data.x, IMAGES.reshape(2, 12))
    np.testing.assert_array_equal(data.y, [0.5, 1.5])
    assert data.classes == ()


def test_idx_plain_file_goes_before_its_compressed_twin(tmp_path):
    for name in NAMES["plain"]:
        array = IMAGES if "images" in name else LABELS
        write_idx(tmp_path / name, array)
        (tmp_path / f"{name}.gz").write_bytes(b"\x1f\x8bdamaged")
    assert len(load(tmp_path)) == 2


def test_idx_images_of_zeros_and_ones_stay(tmp_path):
    write_idx(tmp_path / "a", IMAGES % 2)
    write_idx(tmp_path / "b", LABELS)
    np.testing.assert_array_equal(load(tmp_path).x, IMAGES.reshape(2, 12) % 2)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["begins with bytes 00 00"]),
        (b"\0\0\x08", ["begins with bytes 00 00", "00 00 08"]),
        (b"\x89PNG\r\n", ["begins with bytes 00 00", "89 50 4e 47"]),
        (b"\0\0\x0a\x01\0\0\0\x01a", ["08 09 0b 0c 0d 0e", "type 0a"]),
        (b"\0\0\x08\x03\0\0\0\x01", ["cut off inside its header of 16 bytes", "8 bytes"]),
        (idx_bytes(IMAGES)[:-1], ["24 bytes", "got 23 bytes", "(2, 3, 4) uint8"]),
        (idx_bytes(IMAGES) + b"!", ["24 bytes", "got more"]),
        (idx_bytes(IMAGES, (1, 3, 4)), ["12 bytes", "got more"]),
        (idx_bytes(IMAGES, (3, 3, 4)), ["36 bytes", "got 24 bytes"]),
        (idx_bytes(IMAGES, (2**32 - 1,) * 3), [f"{(2**32 - 1) ** 3} bytes", "got 24 bytes"]),
        (idx_bytes(IMAGES, (1,) * 69 + (24,)), ["NumPy cannot hold"]),
        (idx_bytes(IMAGES[:0], (0, 2**32 - 1, 2**32 - 1, 5)), ["NumPy cannot hold"]),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_idx_refuses(tmp_path, data, words, compressed):
    path = tmp_path / "some-file"
    path.write_bytes(gzip.compress(data) if compressed else data)
    refuse(lambda: read_idx(path), "some-file", *words)


def test_idx_gzip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(idx_bytes(LABELS) + bytes(1 << 26), 1))
    taken = []
    read = gzip.GzipFile.read

    def counted(self, size=-1):
        assert size >= 0
        taken.append(size)
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    refuse(lambda: read_idx(path), "2 bytes", "got more")
    assert sum(taken) < 100


@pytest.mark.parametrize("keep", [3, 12, 30, -9, -1])
def test_idx_truncated_gzip(tmp_path, keep):
    path = write_idx(tmp_path / "a.gz", IMAGES)
    path.write_bytes(path.read_bytes()[:keep])
    refuse(lambda: read_idx(path), "a.gz", "gzip data is cut off")


def test_idx_damaged_gzip(tmp_path):
    path = write_idx(tmp_path / "a.gz", IMAGES)
    blob = bytearray(path.read_bytes())
    blob[-8] ^= 1
    path.write_bytes(blob)
    refuse(lambda: read_idx(path), "could not be read", "CRC")


def test_idx_counts_must_agree(tmp_path):
    for name, array in zip(NAMES["plain"], (IMAGES, LABELS[:1]), strict=True):
        write_idx(tmp_path / name, array)
    refuse(lambda: load(tmp_path), *NAMES["plain"], "2 images", "1 labels")


def test_idx_named_files_must_hold_what_they_say(tmp_path):
    for name, array in zip(NAMES["plain"], (LABELS, LABELS), strict=True):
        write_idx(tmp_path / name, array)
    refuse(lambda: load(tmp_path), NAMES["plain"][0], "at least two dimensions", "1 and 1")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["train-images-idx3-ubyte"], ["no file of train labels", "train-images-idx3-ubyte"]),
        (["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"], ["train images or train labels"]),
        ([*NAMES["plain"], "t10k-images-idx3-ubyte"], ["no file of test labels"]),
        ([*NAMES["plain"], NAMES["dot"][0]], ["one file of train images", *NAMES["plain"][:1]]),
        (["one-images", "two-images", "labels"], ["one-images", "two-images", "labels"]),
        (["images"], ["one of labels", "labels []"]),
        ([], ["MNIST's four IDX files", "of 0 files"]),
    ],
)
def test_idx_folders_that_lack_something(tmp_path, files, words):
    for name in files:
        write_idx(tmp_path / name, IMAGES if "images" in name else LABELS)
    refuse(lambda: load(tmp_path), str(tmp_path), *words)


def test_idx_without_rows(tmp_path):
    write_idx(tmp_path / "a", IMAGES[:0])
    write_idx(tmp_path / "b", LABELS[:0])
    refuse(lambda: load(tmp_path), "at least one row")


@SHARED_FOLDER
@given(st.data())
def test_idx_cut_anywhere(tmp_path, data):
    compressed = data.draw(st.booleans())
    path = write_idx(tmp_path / ("cut.gz" if compressed else "cut"), IMAGES)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError):
        read_idx(path)


def bend(data, whole):
    """``whole`` with one to four bytes of it replaced by as many or fewer, or some inserted."""
    at = data.draw(st.integers(0, len(whole) - 1))
    width = data.draw(st.integers(0, 4))
    return whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + width :]


@SHARED_FOLDER
@given(st.data())
def test_idx_damaged_anywhere(tmp_path, data):
    """Plain IDX has no checksum: damage among the pixels shows there; gzip has one."""
    compressed = data.draw(st.booleans())
    path = write_idx(tmp_path / ("bent.gz" if compressed else "bent"), IMAGES)
    path.write_bytes(bend(data, path.read_bytes()))
    try:
        array = read_idx(path)
    except DataError:
        return
    assert array.nbytes <= IMAGES.nbytes
    if compressed and path.read_bytes()[:2] == b"\x1f\x8b":
        np.testing.assert_array_equal(array, IMAGES)


# npz


X = np.arange(8.0).reshape(4, 2)
Y = np.array([1, 0, 1, 0])


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("X", "y"), ("x_train", "y_train")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, x, y, save):
    save(tmp_path / "a.npz", **{x: X, y: Y})
    data = load(tmp_path / "a.npz")
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, Y)
    assert data.classes == ("0", "1")
    assert data.name == "a"
    assert data.test is None


def test_npz_of_keras(tmp_path):
    np.savez(
        tmp_path / "mnist.npz",
        x_train=IMAGES,
        y_train=LABELS,
        x_test=IMAGES[:1],
        y_test=LABELS[1:],
    )
    data = load(tmp_path / "mnist.npz")
    np.testing.assert_array_equal(data.x, IMAGES.reshape(2, 12) / np.float32(255))
    assert [data.classes[i] for i in data.y] == ["7", "3"]
    assert [data.classes[i] for i in data.test.y] == ["3"]
    assert data.split() == (data, data.test)


@pytest.mark.parametrize(
    ("y", "classes", "labels"),
    [
        (np.array([-1, 1, 1, -1], np.int8), ("-1", "1"), [0, 1, 1, 0]),
        (np.array([10, 9, 10, 9], np.uint16), ("9", "10"), [1, 0, 1, 0]),
        (np.array([True, False, True, True]), ("0", "1"), [1, 0, 1, 1]),
        (np.array(["cat", "ant", "cat", "bee"]), ("ant", "bee", "cat"), [2, 0, 2, 1]),
        (Y[:, None], ("0", "1"), Y),
        (np.array([0.0, 1, 2, 3]), (), [0, 1, 2, 3]),
        (np.array([1.0, 0, 1, 0], np.float16), (), [1, 0, 1, 0]),
        (X, (), X),
        (X[:, :1], (), X[:, :1]),
        (np.asfortranarray(X), (), X),
    ],
)
def test_npz_targets(tmp_path, y, classes, labels):
    np.savez(tmp_path / "a.npz", x=X, y=y)
    data = load(tmp_path / "a.npz")
    assert data.classes == classes
    np.testing.assert_array_equal(data.y, labels)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (IMAGES, IMAGES.reshape(2, 12) / np.float32(255)),
        (IMAGES % 2, IMAGES.reshape(2, 12) % 2),
        (IMAGES.astype(np.int16), IMAGES.reshape(2, 12)),
        (np.asfortranarray(IMAGES), IMAGES.reshape(2, 12) / np.float32(255)),
        (np.array([True, False]), [[1], [0]]),
        (np.array([1.5, 2.5], ">f8"), [[1.5], [2.5]]),
    ],
)
def test_npz_inputs(tmp_path, x, expected):
    np.savez(tmp_path / "a.npz", x=x, y=[0, 1])
    np.testing.assert_array_equal(load(tmp_path / "a.npz").x, expected)


def test_npz_target_names_the_labels(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, coarse=Y, fine=Y + 5)
    assert load(tmp_path / "a.npz", target="fine").classes == ("5", "6")
    refuse(lambda: load(tmp_path / "a.npz"), "labels", "coarse", "fine", "target=")
    refuse(lambda: load(tmp_path / "a.npz", target="coarze"), "'coarze'", "fine", "try 'coarse'")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": X, "y": Y}, ["inputs", "x_train", "['images', 'y']"]),
        ({"x": X, "X": X, "y": Y}, ["one array of inputs"]),
        ({"x": X}, ["labels", "['x']"]),
        ({"x_train": X, "y_train": Y, "x_test": X}, ["'y_test'", "x_test"]),
        ({"x": X, "y": Y[:3]}, ["one label per input", "(4, 2)", "(3,)"]),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y[:1]}, ["test part", "(1,)"]),
        ({"x": np.float32(1), "y": Y}, ["training part", "()"]),
        ({"x": X.astype(complex), "y": Y}, ["real numbers", "complex128"]),
        ({"x": X.astype(str), "y": Y}, ["real numbers", "<U"]),
        ({"x": X, "y": Y.astype("S1")}, ["integers, text, or floats", "|S1"]),
        ({"x": X, "y": np.eye(4, dtype=int)}, ["(n,)", "(4, 4)", "argmax"]),
        ({"x": X, "y": np.zeros(4, int)}, ["at least two classes"]),
        ({"x": X * np.nan, "y": Y}, ["finite", "row 0, column 0"]),
        ({"x": X, "y": np.array([1, None, 2, 3], object)}, ["'y'", "Python objects"]),
        ({"x": X, "y": Y, "x_test": X.astype("f4"), "y_test": Y}, ["same kind", "float32"]),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y * 1.0}, ["same kind", "float64"]),
        ({"x": X, "y": Y, "x_test": X[:, :1], "y_test": Y}, ["same features"]),
        ({"x": X[:0], "y": Y[:0]}, ["at least one row"]),
    ],
)
def test_npz_refuses(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    refuse(lambda: load(tmp_path / "a.npz"), *words)


def test_npz_header_is_not_believed(tmp_path):
    member = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", member.getvalue() + bytes(32))
        archive.writestr("y.npy", member.getvalue())
    refuse(lambda: load(tmp_path / "a.npz"), "'x'", f"{8 * 10**13} bytes", "got 32 bytes")


def test_npz_of_header_version_2(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, array in (("x", X), ("y", Y)):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, version=(2, 0))
    np.testing.assert_array_equal(load(tmp_path / "a.npz").x, X)


def test_npz_not_a_zip(tmp_path):
    (tmp_path / "a.npz").write_text("hello")
    refuse(lambda: load(tmp_path / "a.npz"), "a.npz", "not a whole .npz archive")


@SHARED_FOLDER
@given(st.data())
def test_npz_cut_or_damaged(tmp_path, data):
    path = tmp_path / "bent.npz"
    np.savez(path, x=X, y=Y)
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        path.write_bytes(bend(data, whole))
    try:
        loaded = load(path)
    except DataError:
        return
    np.testing.assert_array_equal(loaded.x, X)
    np.testing.assert_array_equal(loaded.y, Y)


# CSV


def csv_file(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "T.CSV"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_csv(tmp_path, name, newline, bom):
    text = bom + newline.join(["h, w ,kind", "1, 2.5,dog", "-3e2,4,cat", "", "5,6,dög", ""])
    data = load(csv_file(tmp_path, text, name))
    np.testing.assert_array_equal(data.x, np.array([[1, 2.5], [-300, 4], [5, 6]], np.float32))
    assert data.features == ("h", "w")
    assert data.classes == ("cat", "dog", "dög")
    assert list(data.y) == [1, 0, 2]
    assert data.name in ("t", "T")


def test_csv_target_by_name(tmp_path):
    path = csv_file(tmp_path, "kind,a,b\nx,1,2\ny,3,4\n")
    data = load(path, target="kind")
    assert data.features == ("a", "b")
    assert data.classes == ("x", "y")
    np.testing.assert_array_equal(data.x, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("targets", "classes", "y"),
    [
        (["10", "9", "10"], ("9", "10"), [1, 0, 1]),
        (["-1", "+1", "01"], ("-1", "1"), [0, 1, 1]),
        (["1.0", "2.0", "1.0"], (), [1, 2, 1]),
        (["1", "2", "2.5"], (), [1, 2, 2.5]),
        ([str(i) for i in range(20)] * 2, tuple(map(str, range(20))), [*range(20)] * 2),
        ([str(i) for i in range(21)] * 2, (), [*range(21)] * 2),
        (["b", "a", "1"], ("1", "a", "b"), [2, 1, 0]),
        (["no", " no ", "yes"], ("no", "yes"), [0, 0, 1]),
    ],
)
def test_csv_targets(tmp_path, targets, classes, y):
    lines = "\n".join(f"{i},{target}" for i, target in enumerate(targets))
    data = load(csv_file(tmp_path, f"a,t\n{lines}\n"))
    assert data.classes == classes
    assert data.y.dtype == (np.int64 if classes else np.float32)
    np.testing.assert_array_equal(data.y, y)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("\n\n", ["empty"]),
        ("a,t\n", ["no rows"]),
        ("a,t\n1,x\n2\n", ["2 columns", "got 1 in line 3"]),
        ("a,t\n1,x\n\n2,y,z\n", ["2 columns", "got 3 in line 4"]),
        ('"q\nr",a,t\n1,2,"x\ny\nz"\n1,x\n', ["3 columns", "got 2 in line 6"]),
        ("a,b,a\n1,2,3\n", ["unique", "'a' twice in line 1"]),
        (",a,t\n0,1,x\n", ["every column has a name", "column 1 in line 1", "index=False"]),
        ("a|t\n1|2\n", ["feature and a target column", "one column in line 1", "commas"]),
        ("1.5,2,3\n4,5,6\n", ["the first line names the columns", "line 1"]),
        ("a,t\n1,x\nred,y\n2,x", ["numbers or mostly text", "'red' in line 3, column 'a'"]),
        ("a,t\n1_5,x\n2,y\n3,y", ["numbers or mostly text", "'1_5' in line 2, column 'a'"]),
        ("a,t\n,x\nNA,y\n", ["nothing to learn from", "a: no value in 2 rows"]),
        ("a,b,t\n1,2,x\n-inf,1,y\n", ["finite", "-inf in line 3, column 'a'"]),
        ("a,b,t\n1,2,x\n1e39,1,y\n", ["float32", "1e+39 in line 3, column 'a'"]),
        ("a,t\n1,x\n2,\n", ["every row has a target", "1 of 2 missing in column 't'", "line 3"]),
        ("a,t\n1,1.5\n2,nan\n", ["finite", "nan in line 3, column 't'"]),
        ("a,t\n1,1.5\n2,1e999\n", ["finite", "inf in line 3, column 't'"]),
        ("a,t\n1,1.5\n2,2.5\n3,2.S\n", ["all numbers or all text", "'2.S' in line 4"]),
        ("a,t\n1,x\n2,x\n", ["at least two classes", "'x' in every row of column 't'"]),
        ("a,t\n1,4\n2,4\n", ["at least two classes", "4"]),
        ('a,t\n1,"x\n', ["line 2 is not CSV", "unexpected end"]),
        ('a,t\n1,"x"y\n', ["line 2 is not CSV"]),
        ("a,t\n1," + "x" * 200_000, ["line 2 is not CSV", "field limit"]),
        ("a,t\n1,ä\n2,ö\n".encode("latin-1"), ["not UTF-8", "0xe4 in line 2"]),
        ("a,t\n1,x\n".encode("utf-16"), ["not UTF-8", "0xff in line 1"]),
        ("a,t\n" + "\n".join(f"1,name{i}" for i in range(21)), ["no classes", "21 different"]),
        (
            "a,t\n" + "\n".join(f'1,"{max(i, 5)},{i % 3}"' for i in range(40)),
            ["'t' holds no classes", "37 different texts in 40 rows, such as '5,0'", "a point"],
        ),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_csv_refuses(tmp_path, text, words, name):
    path = csv_file(tmp_path, text, name)
    refuse(lambda: load(path), str(path), *words)


def test_csv_messy(tmp_path):
    """Missing numbers and words, categories, names, a constant: each said, none silent."""
    rows = [
        f"{i},{i % 3 or ''},{['red', 'green', 'blue'][i % 3]},p{i},4,{i * 0.5}" for i in range(9)
    ]
    rows[4] = "?,1, NA,p4,4,2.0"
    text = "\n".join(["age,dose,colour,name,unit,score", *rows])
    data = load(csv_file(tmp_path, text))
    assert data.features == (
        *("age", "age missing", "dose", "dose missing"),
        *("colour=blue", "colour=green", "colour=red", "colour=missing", "unit"),
    )
    np.testing.assert_array_equal(data.x[4], [4, 1, 1, 0, 0, 0, 0, 1, 4])  # median of the others
    np.testing.assert_array_equal(data.x[3], [3, 0, 1.5, 1, 0, 0, 1, 0, 4])
    assert data.notes == (
        "age: 1 of 9 values missing, filled with the median, 4, and a column says where",
        "dose: 3 of 9 values missing, filled with the median, 1.5, and a column says where",
        "colour: 3 categories, one column each, and one for the 1 missing",
        "name: 9 different texts in 9 rows, left out",
        "unit: 4 in every row, so nothing is learnt from it",
    )


def test_csv_of_a_spreadsheet(tmp_path):
    """Semicolons stand where the comma is the decimal point; with tabs a comma is text."""
    lines = ["a,b;c;t", "1,5;red, blue;x", "-2,25;green;y", "3;red, blue;x"]
    data = load(csv_file(tmp_path, "\n".join(lines)))
    np.testing.assert_array_equal(data.x, [[1.5, 0, 1], [-2.25, 1, 0], [3, 0, 1]])
    assert data.features == ("a,b", "c=green", "c=red, blue")
    data = load(csv_file(tmp_path, "\n".join(lines).replace(";", "\t")))
    assert data.notes[0].startswith("a,b: 3 different texts in 3 rows, left out")


def test_csv_says_that_a_comma_makes_text(tmp_path):
    data = load(csv_file(tmp_path, 'a,b,t\n"1,5",1,x\n"2,5",2,y\n"3,5",4,x\n'))
    assert data.notes[0].endswith("left out; as a number, 1,5 has a point and no comma")


def test_csv_as_another_was_read(tmp_path):
    """A second file is encoded as the first was: its own medians and categories do not matter."""
    first = load(csv_file(tmp_path, "a,c,t\n1,x,0.5\n3,y,1.5\n,y,2.5\n8,x,1.0\n"))
    other = csv_file(tmp_path, "c,more,a\ny,1,7\nz,2,\n,3,1e3\n", "other.csv")
    np.testing.assert_array_equal(
        read_csv(other, first.columns), [[7, 0, 0, 1], [3, 1, 0, 0], [1000, 0, 0, 0]]
    )
    kept = tuple(Column.restored(json.loads(json.dumps(c.stored()))) for c in first.columns)
    assert kept == first.columns
    refuse(lambda: read_csv(csv_file(tmp_path, "a,d\n1,x\n"), kept), "called 'c'", "'d'")
    refuse(lambda: read_csv(csv_file(tmp_path, "a,c\nten,x\n"), kept), "'a' holds numbers", "'ten'")


def test_csv_whose_columns_and_classes_are_known(tmp_path):
    """One row of one class is read as the whole table was, and what is not known raises."""
    first = load(csv_file(tmp_path, "a,c,t\n1,x,8\n3,y,9\n,y,10\n8,x,9\n"))
    later = csv_file(tmp_path, "t,c,a,more\n09,y,,5\n", "later.csv")
    data = load(later, "t", first.columns, first.classes)
    assert (data.classes, data.y.tolist()) == (("8", "9", "10"), [1])
    assert (data.features, data.columns) == (first.features, first.columns)
    np.testing.assert_array_equal(data.x, [[3, 1, 0, 1]])
    assert load(later, "t", first.columns).y.tolist() == [9.0]
    odd = csv_file(tmp_path, "a,c,t\n1,x,11\n2,x,few\n", "odd.csv")
    refuse(lambda: load(odd, "t", first.columns, first.classes), "11, few; known are 8, 9, 10")
    refuse(lambda: load(odd, "t", first.columns), "the target is numbers", "'few' in line 3")
    short = csv_file(tmp_path, "a,t\n1,8\n", "short.csv")
    refuse(lambda: load(short, "t", first.columns, first.classes), "no column is called 'c'")


def test_columns_left_out_are_never_looked_at(tmp_path):
    """Neither where they are dropped nor in a later file, whatever they hold there."""
    rows = ["id,odd,a,t", *(f"{1000 + 2 * i},inf,{i % 5},{i / 2}" for i in range(9))]
    whole = csv_file(tmp_path, "\n".join(rows))
    refuse(lambda: load(whole), "'odd'")
    data = load(whole, drop=["odd"])
    assert data.features == ("id", "a")
    (note,) = data.notes
    assert note.startswith("id: ")
    assert note.endswith("looks like a row number; --drop id leaves it out")
    data = load(whole, drop=["id", "odd"])
    assert (data.features, data.notes) == (("a",), ())
    for text in ("a,t\n3,1.5\n", "odd,id,a,t\ninf,x,3,1.5\n"):
        later = csv_file(tmp_path, text, "later.csv")
        assert read_csv(later, data.columns).tolist() == [[3]]
        assert load(later, "t", data.columns).x.tolist() == [[3]]
    refuse(lambda: load(whole, drop=["ID", "ood"]), "'ID', 'ood'", "try 'odd'")
    refuse(lambda: load(whole, drop=["t"]), "the target, 't'")
    refuse(lambda: load(whole, "a", drop=["t", "id", "odd"]), "nothing to learn from")


def test_all_missing_columns_are_named(tmp_path):
    many = [Column(f"c{i:02}", fill=0.0) for i in range(14)]
    path = csv_file(tmp_path, "c00,c99\n1,2\n")
    refuse(lambda: read_csv(path, many[:4]), "is called 'c01', 'c02', 'c03'; got ['c00', 'c99']")
    refuse(lambda: read_csv(path, many), "'c10' and 3 others")


def test_csv_columns_called_by_number(tmp_path):
    assert load(csv_file(tmp_path, "0,1\n5,a\n6,b\n")).features == ("0",)


def test_csv_suggests_the_nearest_column(tmp_path):
    path = csv_file(tmp_path, "width,species\n1,a\n2,b\n")
    refuse(lambda: load(path, target="specie"), "'specie'", "width", "try 'species'")


def test_csv_without_line_breaks_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("gpugrad.data.table._LONGEST_LINE", 1000)
    path = csv_file(tmp_path, "a,t\n" + "1" * 5000)
    refuse(lambda: load(path), "line 2 is longer than 1000 characters")


def test_csv_gzip_cut_off(tmp_path):
    path = csv_file(tmp_path, "a,t\n" + "1,x\n2,y\n" * 100, "t.csv.gz")
    path.write_bytes(path.read_bytes()[:-10])
    refuse(lambda: load(path), "gzip data is cut off")


def test_csv_that_cannot_be_opened(tmp_path, monkeypatch):
    path = csv_file(tmp_path, "a,t\n")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gpugrad.data.files.open", denied, raising=False)
    refuse(lambda: load(path), "could not be read", "Permission denied")


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@SHARED_FOLDER
@given(st.lists(st.tuples(FINITE, FINITE, st.sampled_from(["a", 'b "q"', "c,\nd"])), min_size=1))
def test_csv_round_trip(tmp_path, rows):
    rows += [(0.0, 0.0, "a"), (0.0, 0.0, "c,\nd")]
    with open(tmp_path / "r.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("p", "q", "t"), *rows])
    data = load(tmp_path / "r.csv")
    np.testing.assert_array_equal(data.x, np.array([row[:2] for row in rows], np.float32))
    assert [data.classes[label] for label in data.y] == [row[2] for row in rows]


@SHARED_FOLDER
@given(st.data())
def test_csv_damaged_anywhere(tmp_path, data):
    compressed = data.draw(st.booleans())
    path = csv_file(tmp_path, "a,t\n1,x\n2,y\n3,x\n", "d.csv.gz" if compressed else "d.csv")
    path.write_bytes(bend(data, path.read_bytes()))
    try:
        load(path)
    except DataError:
        return


@SHARED_FOLDER
@given(st.binary(max_size=100), st.sampled_from(["r.csv", "r.npz", "r.csv.gz"]))
def test_random_bytes(tmp_path, blob, name):
    path = tmp_path / name
    path.write_bytes(blob)
    with pytest.raises(DataError):
        load(path)
