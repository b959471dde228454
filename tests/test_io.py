"""Checkpoints: what goes in comes out, and a failure never costs the file that was there."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpugrad import io
from gpugrad.errors import CheckpointError, MissingDependency
from gpugrad.tensor import Tensor

DTYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]
SHARED_FOLDER = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def raw_file(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# Round trips


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3, 2), (0,), (2, 0, 3)])
def test_round_trip(path, dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    io.save(path, {"a": array})
    loaded = io.load_arrays(path)["a"]
    assert same(loaded, array)
    assert loaded.flags.writeable


TEXT = st.text(st.characters(codec="utf-8"), max_size=6)


@SHARED_FOLDER
@given(
    st.dictionaries(
        TEXT.filter(lambda name: name != "__metadata__"),
        hnp.arrays(st.sampled_from(DTYPES).map(np.dtype), hnp.array_shapes(min_dims=0, min_side=0)),
        max_size=3,
    ),
    st.dictionaries(TEXT, TEXT, max_size=3),
)
def test_round_trip_of_anything(tmp_path, arrays, metadata):
    path = tmp_path / "any.safetensors"
    io.save(path, arrays, metadata)
    loaded, text = io.read(path)
    assert loaded.keys() == arrays.keys()
    assert all(same(loaded[k], arrays[k]) for k in arrays)
    assert text == metadata


def test_complex_is_stored_where_safetensors_can(path):
    array = np.array([1 + 2j, -1j], np.complex64)
    if tuple(map(int, safetensors.__version__.split(".")[:2])) < (0, 7):
        with pytest.raises(CheckpointError, match="complex64"):
            io.save(path, {"a": array})
    else:
        io.save(path, {"a": array})
        assert same(io.load_arrays(path)["a"], array)


def test_tensors_in_tensors_out(path):
    io.save(path, {"w": Tensor(np.eye(2, dtype=np.float32)), "b": [1.0, 2.0], "s": np.float32(3)})
    loaded = io.load(path)
    assert all(isinstance(t, Tensor) for t in loaded.values())
    assert list(loaded) == ["b", "s", "w"]
    assert same(loaded["w"].numpy(), np.eye(2, dtype=np.float32))
    assert loaded["s"].shape == ()


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[::2, ::-1],
        lambda a: np.asfortranarray(a),
        lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: a.astype(">f8"),
        lambda a: a.view(),
    ],
    ids=["transposed", "strided", "fortran", "broadcast", "big-endian", "view"],
)
def test_layout_does_not_matter(path, view):
    array = view(np.arange(12.0).reshape(4, 3))
    io.save(path, {"a": array})
    np.testing.assert_array_equal(io.load_arrays(path)["a"], array)
    assert io.load_arrays(path)["a"].dtype == np.float64


def test_other_readers_see_the_same(path):
    io.save(path, {"w": np.arange(6.0).reshape(2, 3).T}, {"k": "v"})
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"k": "v"}
        np.testing.assert_array_equal(file.get_tensor("w"), np.arange(6.0).reshape(2, 3).T)


def test_reads_what_others_wrote(path):
    safetensors.numpy.save_file({"0.weight": np.ones((2, 3), np.float16)}, path)
    assert same(io.load_arrays(path)["0.weight"], np.ones((2, 3), np.float16))
    assert io.load_metadata(path) == {}


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_bfloat16_becomes_float32(path, shape):
    bits = np.array([0x3F80, 0xC000, 0x7F80, 0x0001], "<u2")
    entry = {"dtype": "BF16", "shape": shape, "data_offsets": [0, 8]}
    loaded = io.load_arrays(raw_file(path, {"w": entry}, bits.tobytes()))["w"]
    expected = np.array([1, -2, np.inf, 2.0**-133], np.float32)
    assert same(loaded, expected.reshape(shape))


def test_scalar_bfloat16_stays_an_array(path):
    entry = {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]}
    loaded = io.load_arrays(raw_file(path, {"w": entry}, b"\x80\x3f"))["w"]
    assert isinstance(loaded, np.ndarray)
    assert same(loaded, np.array(1, np.float32))


# What cannot be saved


class Stubborn:
    def __array__(self, dtype=None, copy=None):
        raise TypeError("implicit conversion is not allowed")


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        ({"w": np.array([None])}, None, ["'w'", "dtype", "object"]),
        ({"w": "text"}, None, ["'w'", "dtype", "<U4"]),
        ({"w": np.ones(1, np.complex128)}, None, ["'w'", "complex128"]),
        ({"w": np.zeros(1, "M8[s]")}, None, ["'w'", "datetime64"]),
        ({"w": np.zeros(1, [("a", "f4")])}, None, ["'w'", "dtype"]),
        ({"w": [[1], [1, 2]]}, None, ["'w'", "not an array"]),
        ({"w": Stubborn()}, None, ["'w'", "not an array", "implicit conversion"]),
        ({"__metadata__": np.ones(1)}, None, ["__metadata__", "format's own"]),
        ({1: np.ones(1)}, None, ["names, values or metadata"]),
        ({"\ud800": np.ones(1)}, None, ["names, values or metadata"]),
        ({"w": np.ones(1)}, {"epoch": 1}, ["names, values or metadata"]),
        ({"w": np.ones(1)}, {1: "epoch"}, ["names, values or metadata"]),
    ],
)
def test_unsaveable_leaves_the_old_file(path, tensors, metadata, words):
    io.save(path, {"old": np.arange(3)})
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        io.save(path, tensors, metadata)
    assert all(word in str(caught.value) for word in [str(path), *words])
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]


# Disks that refuse


def fail_with(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("fresh", [True, False])
def test_full_disk_leaves_the_old_file(path, monkeypatch, call, fresh):
    if not fresh:
        io.save(path, {"w": np.zeros(1000)})
    before = None if fresh else path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_with(28))
        with pytest.raises(CheckpointError) as caught:
            io.save(path, {"w": np.ones(1000)})
    assert "No space left" in str(caught.value)
    assert "untouched" in str(caught.value)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert names(path.parent) == ([] if fresh else [path.name])
    assert fresh or path.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk_of_the_kernel(path, monkeypatch):
    io.save(path, {"w": np.zeros(10)})
    before = path.read_bytes()
    full = partial(open, "/dev/full", "wb")
    monkeypatch.setattr(io, "open", lambda name, mode: full(), raising=False)
    with pytest.raises(CheckpointError, match="No space left"):
        io.save(path, {"w": np.ones(10)})
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]


LIMITED = """
import resource, signal, sys
import numpy as np
from gpugrad import io
from gpugrad.errors import CheckpointError
io.save(sys.argv[1], {"w": np.zeros(10)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    io.save(sys.argv[1], {"w": np.ones(100_000)})
except CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file size limits")
def test_a_write_that_stops_half_way(path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert names(path.parent) == [path.name]
    np.testing.assert_array_equal(io.load_arrays(path)["w"], np.zeros(10))


SAVING = """
import sys
import numpy as np
from gpugrad import io
step = 0
while True:
    io.save(sys.argv[1], {"w": np.full(200_000, step)}, {"step": str(step)})
    if step == 0:
        print("saved", flush=True)
    step += 1
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_while_saving(path):
    for delay in (0.02, 0.037, 0.051):
        child = subprocess.Popen([sys.executable, "-c", SAVING, str(path)], stdout=subprocess.PIPE)
        with child:
            assert child.stdout.readline() == b"saved\n"
            threading.Event().wait(delay)
            child.send_signal(signal.SIGKILL)
        arrays, metadata = io.read(path)
        assert set(arrays["w"]) == {int(metadata["step"])}


def test_interrupted_while_saving(path, monkeypatch):
    def interrupt(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        io.save(path, {"w": np.ones(1)})
    assert names(path.parent) == []


def test_a_folder_that_cannot_be_synced_is_no_failure(path, monkeypatch):
    sync = os.fsync

    def files_only(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    io.save(path, {"w": np.ones(1)})
    assert io.load_arrays(path)["w"] == 1


def test_saves_from_many_threads(path):
    def work(value):
        for _ in range(5):
            io.save(path, {"w": np.full(5000, value)})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(io.load_arrays(path)["w"])) == 1
    assert names(path.parent) == [path.name]


# Where the file goes


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_open(path, mask):
    before = os.umask(mask)
    try:
        plain = path.with_name("plain")
        plain.touch()
        io.save(path, {})
    finally:
        os.umask(before)
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    io.save(path, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_read_only_file_is_respected(path, monkeypatch):
    io.save(path, {"w": np.zeros(1)})
    monkeypatch.setattr(os, "access", lambda name, mode: False)  # root may write everywhere
    with pytest.raises(CheckpointError, match="read-only"):
        io.save(path, {"w": np.ones(1)})
    assert io.load_arrays(path)["w"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need privileges")
def test_a_link_is_followed(path):
    real = path.with_name("real.safetensors")
    path.symlink_to(real)
    io.save(path, {"w": np.ones(1)})
    assert path.is_symlink()
    assert io.load_arrays(real)["w"] == 1


def test_no_such_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"could not be written.*No such file"):
        io.save(tmp_path / "absent" / "m.safetensors", {})


def test_onto_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="not a regular file"):
        io.save(tmp_path, {})
    with pytest.raises(CheckpointError, match="is not a file"):
        io.load(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in the file system")
def test_a_pipe_is_refused_at_once(path):
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is not a file"):
        io.load(path)
    with pytest.raises(CheckpointError, match="not a regular file"):
        io.save(path, {})


def test_without_the_package(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (lambda: io.save(path, {}), lambda: io.load(path)):
        with pytest.raises(MissingDependency, match=r'pip install "gpugrad\[train\]"'):
            call()


# Damaged files


def test_missing(path):
    with pytest.raises(CheckpointError, match=r"model\.safetensors could not be read.*No such"):
        io.load(path)


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (b"", ["0 bytes", "cut off or empty"]),
        (b"\x08\0\0", ["3 bytes", "cut off or empty"]),
        (b"PK\x03\x04" + bytes(50), ["zip", "torch.save"]),
        (b"\x80\x04\x95" + bytes(50), ["pickle"]),
        (b"\x1f\x8b" + bytes(50), ["gzip"]),
        (b"version https://git-lfs.github.com/spec/v1\n", ["Git LFS"]),
        (b"these are not the bytes you seek", ["do not begin with a safetensors header"]),
        (b"\xff" * 7 + b"\x7f{", ["cut off inside a header"]),
        (b"\x08\0\0\0\0\0\0\0{garbage", ["header"]),
        (b"\x02\0\0\0\0\0\0\0{}more", ["14 bytes", "promises 10"]),
    ],
)
def test_not_a_checkpoint(path, blob, words):
    path.write_bytes(blob)
    with pytest.raises(CheckpointError) as caught:
        io.load(path)
    assert all(word in str(caught.value) for word in [str(path), "try", *words])


def test_cut_off_in_the_data_names_both_sizes(path):
    io.save(path, {"w": np.arange(100.0)}, {"k": "v"})
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=f"{len(whole) - 1} bytes.*promises {len(whole)}"):
        io.load(path)


@pytest.mark.parametrize(
    ("entry", "data", "words"),
    [
        ({"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}, b"ab", "'w'.*NumPy lacks"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, b"abcd", "not a whole"),
        ({"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}, b"abcd", "not a whole"),
        ({"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}, b"abcd", "cannot hold 'w'"),
        ({"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}, b"", "cannot hold 'w'"),
    ],
)
def test_headers_that_lie(path, entry, data, words):
    with pytest.raises(CheckpointError, match=words):
        io.load(raw_file(path, {"w": entry}, data))


def test_null_metadata_is_none(path):
    assert io.load_metadata(raw_file(path, {"__metadata__": None})) == {}


ORIGINAL = {"layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2)}


@SHARED_FOLDER
@given(st.data())
def test_truncated_anywhere(tmp_path, data):
    path = tmp_path / "cut.safetensors"
    io.save(path, ORIGINAL, {"k": "v"})
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError):
        io.load(path)


@SHARED_FOLDER
@given(st.data())
def test_corrupted_anywhere(tmp_path, data):
    """The format has no checksum: damage among the numbers shows only there, all other raises."""
    path = tmp_path / "bent.safetensors"
    io.save(path, ORIGINAL, {"k": "v"})
    whole = path.read_bytes()
    blob = bytearray(whole)
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at : at + 3] = data.draw(st.binary(min_size=1, max_size=4))
    path.write_bytes(blob)
    try:
        loaded = io.load_arrays(path)
    except CheckpointError:
        return
    assert sum(array.nbytes for array in loaded.values()) <= len(blob)
    header = 8 + int.from_bytes(whole[:8], "little")
    if blob[:header] == whole[:header]:
        assert {k: a.shape for k, a in loaded.items()} == {"layer.weight": (2, 3), "b": (2,)}


@SHARED_FOLDER
@given(st.binary(max_size=200))
def test_random_bytes(tmp_path, blob):
    path = tmp_path / "random.safetensors"
    path.write_bytes(blob)
    with pytest.raises(CheckpointError):
        io.load(path)
