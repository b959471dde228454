"""The eager backward of activations on CUDA, by the emulator. No GPU is involved."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu.launcher import ORDERS, Emulator, why_unavailable

from gpugrad.backend import launch
from gpugrad.backend import numpy as twin
from gpugrad.backend.kernels.activation import activation_bwd
from gpugrad.errors import DtypeError, GpugradError, ShapeError

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")

DTYPES = ("float16", "float32", "float64")
SHAPES = [(5, 3), (64, 36), (300, 100)]


def sigmoid_bwd(loader: launch.Loader, dy: np.ndarray, y: np.ndarray) -> tuple:
    return activation_bwd(loader, "sigmoid", dy, y)


def sigmoid_case(m: int, n: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([m, n])
    y = 1 / (1 + np.exp(-3 * rng.standard_normal((m, n))))
    return rng.standard_normal((m, n)).astype(dtype), y.astype(dtype)


def check_sigmoid_bwd(loader: launch.Loader, dy: np.ndarray, y: np.ndarray) -> None:
    """Compare with float64 arithmetic, within the roundings the kernel is allowed."""
    inputs = dy.tobytes(), y.tobytes()
    dz, db = sigmoid_bwd(loader, dy, y)
    assert (dy.tobytes(), y.tobytes()) == inputs
    assert (dz.shape, dz.dtype) == (dy.shape, dy.dtype)
    assert (db.shape, db.dtype) == (dy.shape[1:], dy.dtype)

    y64 = y.astype(np.float64)
    want = dy * y64 * (1 - y64)
    stored = np.finfo(dy.dtype)
    summed = np.finfo(np.float64 if dy.dtype == np.float64 else np.float32)
    tiny = float(stored.smallest_subnormal)
    np.testing.assert_allclose(dz, want, rtol=3 * float(stored.eps), atol=tiny)
    db_error = np.abs(db - want.sum(0))
    allowed = 16 * float(summed.eps) * np.abs(want).sum(0)
    assert np.all(db_error <= allowed + float(stored.eps) * np.abs(want.sum(0)) + tiny)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_sigmoid_bwd_matches_float64(emulator: Emulator, m: int, n: int, dtype: str) -> None:
    check_sigmoid_bwd(emulator, *sigmoid_case(m, n, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(0, 5), (5, 0), (0, 0)])
def test_sigmoid_bwd_of_nothing(built: Path, m: int, n: int, dtype: str) -> None:
    dz, db = sigmoid_bwd(Emulator(built), np.empty((m, n), dtype), np.empty((m, n), dtype))
    assert dz.shape == (m, n)
    assert dz.dtype == db.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(db, np.zeros(n))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_bwd_of_saturated_y(built: Path, dtype: str) -> None:
    dy, y = sigmoid_case(300, 24, dtype)
    y[::2, ::3] = 0
    y[1::2, ::3] = 1
    y[0, 1::3] = np.finfo(dtype).smallest_subnormal
    y[1, 1::3] = 1 - np.finfo(dtype).epsneg
    check_sigmoid_bwd(Emulator(built), dy, y)
    dz, db = sigmoid_bwd(Emulator(built), dy, y)
    assert not dz[:, ::3].any()
    assert not db[::3].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_bwd_agrees_with_its_twin(built: Path, dtype: str) -> None:
    dy, y = sigmoid_case(300, 33, dtype)
    dz, db = sigmoid_bwd(Emulator(built), dy, y)
    want_dz, want_db = twin.sigmoid_bwd(dy, y)
    assert (dz.dtype, db.dtype) == (want_dz.dtype, want_db.dtype)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(dz, want_dz, rtol=4 * eps, atol=eps**2)
    np.testing.assert_allclose(db, want_db, rtol=0, atol=eps * np.abs(dz).sum(0).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_bwd_keeps_nan_and_inf_in_their_column(built: Path, dtype: str) -> None:
    dy, y = sigmoid_case(300, 24, dtype)
    dy[7, 3], dy[8, 5], y[9, 11] = np.nan, -np.inf, np.nan
    dz, db = sigmoid_bwd(Emulator(built), dy, y)
    assert np.argwhere(~np.isfinite(dz)).tolist() == [[7, 3], [8, 5], [9, 11]]
    assert np.flatnonzero(~np.isfinite(db)).tolist() == [3, 5, 11]
    assert np.isneginf([dz[8, 5], db[5]]).all()


def awkward_layouts(array: np.ndarray) -> Iterator[np.ndarray]:
    """The same matrix, not C-ordered or not aligned."""
    m, n = array.shape
    yield np.asfortranarray(array)
    yield np.repeat(array, 2, axis=0)[::2]
    yield np.ascontiguousarray(array[::-1])[::-1]
    off_by_one = np.empty(m * n + 1, array.dtype)[1:].reshape(m, n)  # contiguous, not aligned
    off_by_one[...] = array
    yield off_by_one


def test_sigmoid_bwd_reads_any_layout(built: Path) -> None:
    dy, y = sigmoid_case(40, 16, "float32")
    for strange_dy, strange_y in zip(awkward_layouts(dy), awkward_layouts(y), strict=True):
        check_sigmoid_bwd(Emulator(built), strange_dy, y)
        check_sigmoid_bwd(Emulator(built), dy, strange_y)
    check_sigmoid_bwd(Emulator(built), np.broadcast_to(dy[:1], dy.shape), y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(77, 33), (1000, 8)])
def test_sigmoid_bwd_is_bitwise_repeatable(built: Path, m: int, n: int, dtype: str) -> None:
    """In any order of threads and blocks, as often as it runs."""
    dy, y = sigmoid_case(m, n, dtype)
    results = {
        tuple(part.tobytes() for part in sigmoid_bwd(Emulator(built, order=order), dy, y))
        for order in ORDERS
        for _ in range(3)
    }
    assert len(results) == 1


@pytest.mark.parametrize(
    ("dy", "y", "error"),
    [
        (np.zeros((2, 3), "f4"), np.zeros((3, 2), "f4"), ShapeError),
        (np.zeros((2, 3), "f4"), np.zeros((1, 3), "f4"), ShapeError),
        (np.zeros(3, "f4"), np.zeros(3, "f4"), ShapeError),
        (np.zeros((2, 3), "f4"), np.zeros((2, 3), "f8"), DtypeError),
        (np.zeros((2, 3), "i4"), np.zeros((2, 3), "i4"), DtypeError),
        (np.zeros((2, 3), ">f4"), np.zeros((2, 3), ">f4"), DtypeError),
    ],
)
def test_sigmoid_bwd_refuses(
    built: Path, dy: np.ndarray, y: np.ndarray, error: type[GpugradError]
) -> None:
    with pytest.raises(error, match=r"^\[sigmoid_bwd\] .*; got dy .*, y "):
        sigmoid_bwd(Emulator(built), dy, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_and_relu_bwd(built: Path, dtype: str) -> None:
    """What the ops' own rules say, 0 at 0 of relu."""
    rng = np.random.default_rng(0)
    dy, z = rng.standard_normal((2, 64, 36)).astype(dtype)
    z[0, :5] = 0
    t = np.tanh(z)
    wanted = {"tanh": (t, dy * (1 - np.square(t, dtype="f8"))), "relu": (z, dy * (z > 0))}
    eps = float(np.finfo(dtype).eps)
    for activation, (y, want) in wanted.items():
        dz, db = activation_bwd(Emulator(built), activation, dy, y)
        np.testing.assert_allclose(dz, want, rtol=0, atol=8 * eps)
        np.testing.assert_allclose(db, want.sum(0), rtol=0, atol=64 * eps)
