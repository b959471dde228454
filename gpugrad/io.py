"""Checkpoints: named arrays in one safetensors file, written atomically and never pickled.

May import numpy, gpugrad.errors and gpugrad.tensor; safetensors only when a file is touched.
"""

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpugrad.errors import CheckpointError, MissingDependency, message
from gpugrad.tensor import Tensor

Array = NDArray[Any]
StrPath = str | os.PathLike[str]

_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}

_FOREIGN = {
    b"PK\x03\x04": "a zip archive, as torch.save and numpy.savez write",
    b"\x80": "a Python pickle, which gpugrad never opens",
    b"\x1f\x8b": "gzip data",
    b"version https://git-lfs": "a Git LFS pointer instead of the file",
}


def save(
    path: StrPath,
    tensors: Mapping[str, Tensor | ArrayLike],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named arrays and text to one safetensors file, all of it or nothing.

    Each value is a Tensor on any device, or what ``numpy.asarray`` takes: any shape, 0-d and empty
    included, of dtype bool, (u)int8 to 64, float16, 32, 64 or (safetensors ≥ 0.7) complex64. The
    bytes go to ``.gpugrad-*.tmp`` in the same folder, reach the disk, and take the old file's place
    in one rename; a killed process can leave that temporary behind, never half a checkpoint. A
    symbolic link is followed and the permission bits of an old file are kept.

    Raises CheckpointError, the old file untouched, when a value or a name cannot be stored or the
    disk refuses; MissingDependency without safetensors. Format: the safetensors spec.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> save(path, {"w": np.eye(2, dtype=np.float32)}, {"epoch": "3"})
    >>> load(path)["w"].shape, load_metadata(path)
    ((2, 2), {'epoch': '3'})
    """
    blob = _serialise(path, tensors, metadata)
    try:
        replace_file(path, blob)
    except OSError as error:
        rule = f"{path} could not be written, and what was there is untouched"
        hint = "another path, or free space and write permission there"
        raise _error("save", rule, error.strerror or error, hint) from error


def replace_file(path: StrPath, blob: bytes) -> None:
    """Put ``blob`` at ``path`` as `save` does its file, all of it or nothing; raises OSError."""
    target = Path(os.path.realpath(path))
    temporary = target.parent / f".gpugrad-{secrets.token_hex(8)}.tmp"
    mode = _mode_of(target)
    try:
        with open(temporary, "xb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def load(path: StrPath) -> dict[str, Tensor]:
    """Read a safetensors file into Tensors on the CPU, keyed by name in sorted order.

    Shapes and dtypes are the file's. bfloat16, which NumPy lacks, becomes float32 without loss;
    another dtype NumPy lacks (float8, float4) raises. The format holds no checksum: a file that
    is cut off, or damaged in its header, raises; a flipped bit among the numbers goes unseen.

    Raises CheckpointError for a file that is missing, cut off, or not safetensors;
    MissingDependency without safetensors.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "bias.safetensors")
    >>> save(path, {"b": np.float64(0.5)})
    >>> load(path)["b"].numpy()
    array(0.5)
    """
    return {name: Tensor(array) for name, array in read(path)[0].items()}


def load_arrays(path: StrPath) -> dict[str, Array]:
    """Read a safetensors file into writable NumPy arrays; dtypes and errors as for ``load``.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "w.safetensors")
    >>> save(path, {"w": np.arange(3)})
    >>> load_arrays(path)
    {'w': array([0, 1, 2])}
    """
    return read(path)[0]


def load_metadata(path: StrPath) -> dict[str, str]:
    """Read the text stored beside the arrays, empty when there is none; errors as for ``load``.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "w.safetensors")
    >>> save(path, {}, {"activation": "sigmoid"})
    >>> load_metadata(path)
    {'activation': 'sigmoid'}
    """
    return read(path)[1]


def read(path: StrPath) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays and metadata of one file from one read, so they belong together; errors as ``load``.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "w.safetensors")
    >>> save(path, {"w": np.ones(1)}, {"epoch": "1"})
    >>> read(path)
    ({'w': array([1.])}, {'epoch': '1'})
    """
    safetensors = _library()
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _error("load", f"{path} is not a file", hint="the .safetensors file itself")
        blob = Path(path).read_bytes()
    except OSError as error:
        hint = "the path of a file that save wrote"
        raise _error("load", f"{path} could not be read", error.strerror or error, hint) from error
    try:
        entries = safetensors.deserialize(blob)
    except safetensors.SafetensorError as error:
        rule = f"{path} is not a whole safetensors file"
        hint = "an earlier checkpoint, or copying the file again"
        raise _error("load", rule, _damage(blob, str(error)), hint) from error
    arrays = {name: _array(path, name, entry) for name, entry in entries}
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    return dict(sorted(arrays.items())), header.get("__metadata__") or {}


def _error(op: str, rule: str, got: object = None, hint: str = "") -> CheckpointError:
    return CheckpointError(message(f"io.{op}", rule, got, hint))


def _library() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        rule = "checkpoints need the safetensors package"
        hint = 'pip install "gpugrad[train]"'
        raise MissingDependency(message("io", rule, error, hint)) from error
    return safetensors


def _serialise(
    path: StrPath, tensors: Mapping[str, Tensor | ArrayLike], metadata: Mapping[str, str] | None
) -> bytes:
    safetensors = _library()
    arrays: dict[str, Array] = {}
    for name, value in tensors.items():
        # The library writes a tensor of this name into the metadata slot: a file nobody can open.
        if name == "__metadata__":
            raise _error("save", f"{path}: the name {name!r} is the format's own", hint="another")
        if isinstance(value, Tensor):
            value = value.detach().to("cpu").numpy()
        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise _error("save", f"{path}: {name!r} is not an array", error) from error
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _DTYPES.values():
            rule = f"{path}: {name!r} has a dtype safetensors cannot store"
            hint = "astype to bool, (u)int8-64, float16/32/64 or complex64"
            raise _error("save", rule, array.dtype, hint)
        # The library stores the raw buffer, so strides would scramble the values (safetensors
        # #825). ascontiguousarray would turn 0-d into 1-d.
        arrays[name] = np.asarray(array, dtype, order="C")
    try:
        blob: bytes = safetensors.numpy.save(arrays, dict(metadata) if metadata else None)
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        rule = f"{path}: safetensors cannot store these names, values or metadata"
        raise _error("save", rule, error, "text for names and metadata") from error
    return blob


def _mode_of(target: Path) -> int | None:
    """The permission bits a plain open() would have kept; raises OSError where it would have."""
    if not target.exists():
        return None
    if not target.is_file():
        raise OSError("not a regular file")
    # A rename only asks the folder, and would replace a file its owner made read-only.
    if not os.access(target, os.W_OK):
        raise PermissionError(f"{target} is read-only")
    return stat.S_IMODE(target.stat().st_mode)


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself durable. The new file is already whole and in place, so systems that
    # cannot sync a folder (Windows, some network shares) are no failure.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _array(path: StrPath, name: str, entry: Mapping[str, Any]) -> Array:
    code, shape, data = entry["dtype"], entry["shape"], entry["data"]
    stored = np.dtype("<u2") if code == "BF16" else _DTYPES.get(code)
    if stored is None:
        hint = "converting the file to float32 where it was made"
        raise _error("load", f"{path}: {name!r} has a dtype NumPy lacks", code, hint)
    try:
        array: Array = np.ndarray(shape, stored, data)
    except ValueError as error:
        rule = f"{path}: NumPy cannot hold {name!r} of shape {shape}"
        raise _error("load", rule, error) from error
    if code == "BF16":  # the upper half of a float32
        array = array.astype(np.uint32)
        array <<= 16  # in place: a 0-d result would come back as a scalar
        array = array.view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _damage(blob: bytes, error: str) -> str:
    """What is wrong with bytes that safetensors refused."""
    size = f"{len(blob)} bytes"
    if len(blob) < 9:
        return f"{size}, cut off or empty"
    if blob[8:9] != b"{":
        kinds = [kind for start, kind in _FOREIGN.items() if blob.startswith(start)]
        return kinds[0] if kinds else f"{size} that do not begin with a safetensors header"
    end = 8 + int.from_bytes(blob[:8], "little")
    if end > len(blob):
        return f"{size}, cut off inside a header that ends at byte {end}"
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        header = json.loads(blob[8:end])
        header.pop("__metadata__", None)
        end += max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != len(blob):
            return f"{size} where the header promises {end}"
    return error
