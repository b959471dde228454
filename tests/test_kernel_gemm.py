"""Matrix products with fused code on CUDA, by the emulator, against NumPy. No GPU is involved."""

from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu.launcher import ORDERS, Emulator, why_unavailable

from gpugrad.backend import launch
from gpugrad.backend.kernels import gemm
from gpugrad.errors import GpugradError

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")

# Of 2^-24, float32's own; what the inputs are rounded to.
ROUNDING = {"f4": 2.0**-20, "tf32": 2.0**-10, "f2": 2.0**-20, "B2": 2.0**-20}


def stored(values: np.ndarray, code: str) -> np.ndarray:
    """As the kernel reads it: bfloat16 are the upper halves of floats."""
    if code == "B2":
        return (values.astype("f4").view("u4") >> 16).astype("u2")
    return values.astype(code)


def read(values: np.ndarray, code: str) -> np.ndarray:
    if code == "B2":
        return (values.astype("u4") << 16).view("f4").astype("f8")
    return values.astype("f8")


def matrix(rng, rows: int, cols: int, code: str, turned: bool, pad: int, skew: int) -> tuple:
    """Memory that ends with the last element, its step, and the float64 values."""
    shape = (cols, rows) if turned else (rows, cols)
    step = shape[1] + pad
    values = stored(rng.standard_normal(shape), code)
    memory = np.zeros(skew + (shape[0] - 1) * step + shape[1], values.dtype)[skew:]
    item = memory.itemsize
    np.lib.stride_tricks.as_strided(memory, shape, (step * item, item))[...] = values
    exact = read(values, code)
    return memory, step, exact.T if turned else exact


def check_linear(
    loader: launch.Loader, m: int, n: int, k: int, code: str = "f4", *, ta: bool = False,
    tb: bool = True, pad: int = 0, skew: int = 0, out: str = "f4",
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """y = tanh(a @ b + bias), and the sums of z = a @ b + bias over rows."""
    rng = np.random.default_rng([m, n, k])
    dtype, exact = ("f4", False) if code == "tf32" else (code, True)
    a, a_step, a64 = matrix(rng, m, k, dtype, ta, pad, skew)
    b, b_step, b64 = matrix(rng, k, n, dtype, tb, pad, skew)
    bias = rng.standard_normal(n).astype("f4")
    y, total = np.zeros((m, n), out), np.zeros(n, "f4")
    plan = gemm.plan(
        dtype, m, n, k, (a_step, ta), (b_step, tb), [(0, 1, "f4")], (),
        [("add", 0, 1, -1), ("tanh", 2, -1, -1)], [(3, (n, 1, out))],
        [("sum", "rows", 2, (0, 1, "f4"), 1.0, False)], exact=exact,
    )  # fmt: skip
    workspace = loader.empty((plan.workspace_bytes,), np.dtype("u1"))
    plan.launch(loader, a, b, [bias], [y], [total], workspace)
    z = a64 @ b64 + bias
    allowed = ROUNDING[code] * (np.abs(a64) @ np.abs(b64) + np.abs(bias)) + 1e-6
    assert np.all(np.abs(y - np.tanh(z)) <= allowed + (2**-10 if out == "f2" else 0))
    assert np.all(np.abs(total - z.sum(0)) <= allowed.sum(0))
    return y, total


@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 1), (32, 32, 16), (33, 31, 17), (70, 65, 100), (5, 130, 0)]
)
def test_linear(emulator: Emulator, m: int, n: int, k: int) -> None:
    check_linear(emulator, m, n, k)


@pytest.mark.parametrize(
    ("code", "ta", "tb"),
    [
        *[("f4", ta, tb) for ta in (False, True) for tb in (False, True)],
        *[("f2", True, False), ("f2", False, True), ("B2", True, False), ("tf32", False, True)],
    ],
)
def test_linear_of_every_layout_and_dtype(built: Path, code: str, ta: bool, tb: bool) -> None:
    pad = -(-40 // 8) * 8 - 40 if code in ("f2", "B2") else 0
    check_linear(Emulator(built), 40, 40, 48, code, ta=ta, tb=tb, pad=pad)


@pytest.mark.parametrize("code", ["f4", "f2"])
@pytest.mark.parametrize(("pad", "skew"), [(1, 0), (2, 2)])
def test_linear_of_any_alignment(built: Path, code: str, pad: int, skew: int) -> None:
    check_linear(Emulator(built), 34, 38, 21, code, pad=pad, skew=skew, tb=pad != 2)


@pytest.mark.parametrize("number", range(3))
def test_every_tile(built: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code, out in [("EXACT_TILES", "f4", "f4"), ("TILES", "f2", "f2")]:
        tile = getattr(gemm, name)[number]
        monkeypatch.setattr(gemm, name, (tile,))
        m, n = tile.rows + 5, tile.cols + 3
        check_linear(Emulator(built), m, n, 70, code, tb=code == "f4", out=out)


def test_gradient_behind_an_activation(built: Path) -> None:
    """dz = (dy @ w) * y * (1 - y), db its sums over rows: from y, in place of it."""
    rng = np.random.default_rng(0)
    m, n, k = 70, 34, 20
    dy, w = rng.standard_normal((m, k)).astype("f4"), rng.standard_normal((k, n)).astype("f4")
    y = rng.random((m, n)).astype("f4")
    want = dy.astype("f8") @ w * y * (1 - y.astype("f8"))
    db = np.zeros(n, "f4")
    lines = [("sub", 2, 1, -1), ("mul", 3, 1, -1), ("mul", 0, 4, -1)]
    place = (n, 1, "f4")
    total = ("sum", "rows", 5, (0, 1, "f4"), 1.0, False)
    plan = gemm.plan(
        "f4", m, n, k, (k, False), (n, False), [place], (1.0,), lines, [(5, place)], [total]
    )
    loader = Emulator(built)
    plan.launch(
        loader, dy, w, [y], [y], [db], loader.empty((plan.workspace_bytes,), np.dtype("u1"))
    )
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(db, want.sum(0), rtol=1e-5, atol=1e-4)


def test_products_are_bitwise_repeatable(built: Path) -> None:
    results = {
        tuple(part.tobytes() for part in check_linear(Emulator(built, order=order), 70, 65, 100))
        for order in ORDERS
    }
    assert len(results) == 1


def test_infinite_inputs_never_give_a_number(built: Path) -> None:
    a, b, y = np.ones((3, 8), "f4"), np.ones((8, 3), "f4"), np.zeros((3, 3), "f4")
    a[0, 1], a[1, 2] = np.inf, np.nan
    for exact in (True, False):
        place = (3, 1, "f4")
        plan = gemm.plan(
            "f4", 3, 3, 8, (8, False), (3, False), [], (), [], [(0, place)], exact=exact
        )
        plan.launch(Emulator(built), a, b, [], [y])
        assert not np.isfinite(y[:2]).any()
        np.testing.assert_array_equal(y[2], 8)


def test_gemm_of_nothing_and_refusals(built: Path) -> None:
    x = np.zeros(1, "f4")
    nothing = gemm.plan("f4", 0, 3, 4, (4, False), (3, False), [], (), [], [(0, (3, 1, "f4"))])
    nothing.launch(Emulator(built), x, x, [], [x])
    total = ("sum", "cols", 0, (1, 0, "f4"), 1.0, False)
    with pytest.raises(
        GpugradError, match=r"\[gemm\] a product's totals run over rows; got .*cols"
    ):
        gemm.plan("f4", 3, 3, 4, (4, False), (3, False), [], (), [], [], [total])


def test_tiles_cover_a_product() -> None:
    for m in (1, 32, 33, 4096, 1 << 22):
        for n in (1, 10, 64, 4096):
            plan = gemm.plan("f4", m, n, 64, (64, False), (64, True), [], (), [], [])
            assert plan.blocks * plan.tile.rows * plan.tile.cols >= m * n
            assert plan.blocks < 2**31
    large = gemm.plan("f4", 4096, 4096, 64, (64, False), (64, True), [], (), [], [])
    small = gemm.plan("f4", 128, 512, 784, (784, False), (784, True), [], (), [], [])
    assert (large.tile, small.tile) == (gemm.EXACT_TILES[0], gemm.EXACT_TILES[-1])
