"""The CUDA kernels without a GPU: run on the CPU by `cuda_on_cpu`, compiled by nvcc where it is.

Nothing here has run on a GPU. What a CPU can show is that the text computes the right numbers in
every order of threads, stays in bounds, and compiles without spills; and, by breaking the text one
barrier or bounds check at a time, that these tests would notice.
"""

import mmap
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu.launcher import (
    ORDERS,
    Emulator,
    EmulatorError,
    sanitizer_environment,
    why_unavailable,
)

from gpugrad.backend import launch
from gpugrad.backend import numpy as twin
from gpugrad.errors import DtypeError, GpugradError, ShapeError

DTYPES = ("float16", "float32", "float64")
SHAPES = [
    (1, 1),
    (1, 7),
    (5, 3),
    (77, 33),
    (64, 36),
    (128, 512),
    (256, 24),
    (257, 24),  # the first height with more than one row block
    (300, 100),
    (1000, 64),
    (3000, 1),
    (2, 1000),
    (4096, 10),
]

needs_emulator = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_on_cpu")


@pytest.fixture(params=ORDERS, ids=lambda order: f"order{order}")
def emulator(request: pytest.FixtureRequest, cache: Path) -> Emulator:
    return Emulator(cache, order=request.param)


# ---- sigmoid_bwd against NumPy -------------------------------------------------------------------


def sigmoid_case(m: int, n: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([m, n])
    y = 1 / (1 + np.exp(-3 * rng.standard_normal((m, n))))
    return rng.standard_normal((m, n)).astype(dtype), y.astype(dtype)


def check_sigmoid_bwd(loader: launch.Loader, dy: np.ndarray, y: np.ndarray) -> None:
    """Compare with float64 arithmetic, within the roundings the kernel is allowed."""
    inputs = dy.tobytes(), y.tobytes()
    dz, db = launch.sigmoid_bwd(loader, dy, y)
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


@needs_emulator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_sigmoid_bwd_matches_float64(emulator: Emulator, m: int, n: int, dtype: str) -> None:
    check_sigmoid_bwd(emulator, *sigmoid_case(m, n, dtype))


@needs_emulator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(16384, 64), (128, 4096)])
def test_sigmoid_bwd_tall_and_wide(cache: Path, m: int, n: int, dtype: str) -> None:
    check_sigmoid_bwd(Emulator(cache), *sigmoid_case(m, n, dtype))


@needs_emulator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(0, 5), (5, 0), (0, 0)])
def test_sigmoid_bwd_of_nothing(cache: Path, m: int, n: int, dtype: str) -> None:
    dz, db = launch.sigmoid_bwd(Emulator(cache), np.empty((m, n), dtype), np.empty((m, n), dtype))
    assert dz.shape == (m, n)
    assert dz.dtype == db.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(db, np.zeros(n))


@needs_emulator
@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_bwd_of_saturated_y(cache: Path, dtype: str) -> None:
    dy, y = sigmoid_case(300, 24, dtype)
    y[::2, ::3] = 0
    y[1::2, ::3] = 1
    y[0, 1::3] = np.finfo(dtype).smallest_subnormal
    y[1, 1::3] = 1 - np.finfo(dtype).epsneg
    check_sigmoid_bwd(Emulator(cache), dy, y)
    dz, db = launch.sigmoid_bwd(Emulator(cache), dy, y)
    assert not dz[:, ::3].any()
    assert not db[::3].any()


@needs_emulator
@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_bwd_agrees_with_its_twin(cache: Path, dtype: str) -> None:
    dy, y = sigmoid_case(300, 33, dtype)
    dz, db = launch.sigmoid_bwd(Emulator(cache), dy, y)
    want_dz, want_db = twin.sigmoid_bwd(dy, y)
    assert (dz.dtype, db.dtype) == (want_dz.dtype, want_db.dtype)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(dz, want_dz, rtol=4 * eps, atol=eps**2)
    np.testing.assert_allclose(db, want_db, rtol=0, atol=eps * np.abs(dz).sum(0).max())


@needs_emulator
@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_bwd_keeps_nan_and_inf_in_their_column(cache: Path, dtype: str) -> None:
    dy, y = sigmoid_case(300, 24, dtype)
    dy[7, 3], dy[8, 5], y[9, 11] = np.nan, -np.inf, np.nan
    dz, db = launch.sigmoid_bwd(Emulator(cache), dy, y)
    assert np.argwhere(~np.isfinite(dz)).tolist() == [[7, 3], [8, 5], [9, 11]]
    assert np.flatnonzero(~np.isfinite(db)).tolist() == [3, 5, 11]
    assert np.isneginf([dz[8, 5], db[5]]).all()


def awkward_layouts(array: np.ndarray) -> Iterator[np.ndarray]:
    """The same matrix where the kernels cannot read it as it lies."""
    m, n = array.shape
    yield np.asfortranarray(array)
    yield np.repeat(array, 2, axis=0)[::2]
    yield np.ascontiguousarray(array[::-1])[::-1]
    off_by_one = np.empty(m * n + 1, array.dtype)[1:].reshape(m, n)  # contiguous, not aligned
    off_by_one[...] = array
    yield off_by_one


@needs_emulator
@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_bwd_copies_what_it_cannot_read(cache: Path, dtype: str) -> None:
    dy, y = sigmoid_case(40, 16, dtype)
    want = [part.tobytes() for part in launch.sigmoid_bwd(Emulator(cache), dy, y)]
    for strange_dy, strange_y in zip(awkward_layouts(dy), awkward_layouts(y), strict=True):
        for pair in ((strange_dy, y), (dy, strange_y)):
            got = launch.sigmoid_bwd(Emulator(cache), *pair)
            assert [part.tobytes() for part in got] == want
    broadcast = np.broadcast_to(dy[:1], dy.shape)
    check_sigmoid_bwd(Emulator(cache), broadcast, y)


@needs_emulator
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(77, 33), (1000, 64)])
def test_sigmoid_bwd_is_bitwise_repeatable(cache: Path, m: int, n: int, dtype: str) -> None:
    """In any order of threads and blocks, as often as it runs."""
    dy, y = sigmoid_case(m, n, dtype)
    results = {
        tuple(part.tobytes() for part in launch.sigmoid_bwd(Emulator(cache, order=order), dy, y))
        for order in ORDERS
        for _ in range(3)
    }
    assert len(results) == 1


@needs_emulator
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
    cache: Path, dy: np.ndarray, y: np.ndarray, error: type[GpugradError]
) -> None:
    with pytest.raises(error, match=r"^\[sigmoid_bwd\] .*; got dy .*, y "):
        launch.sigmoid_bwd(Emulator(cache), dy, y)


@needs_emulator
def test_sigmoid_bwd_offsets_are_64_bit(cache: Path) -> None:
    """An array of 2^32 + 2^29 elements, of which memory holds only the pages one block touches."""
    m, n, columns = 9, 1 << 29, 64

    def sparse(rows: int, dtype: str) -> np.ndarray:
        size_bytes = rows * n * np.dtype(dtype).itemsize
        no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named from Python 3.13
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        try:
            return np.frombuffer(mmap.mmap(-1, size_bytes, flags=flags), dtype).reshape(rows, n)
        except OSError as error:
            pytest.skip(f"the system refuses {size_bytes} bytes of address space: {error}")

    dy, y, dz, partial = (sparse(m, "f2"), sparse(m, "f2"), sparse(m, "f2"), sparse(1, "f4"))
    dy[:, :columns], y[:, :columns] = sigmoid_case(m, columns, "float16")
    plan = launch.sigmoid_bwd_plan(m, n, dy.dtype)
    assert plan.stage_1.block[0] * 8 == columns
    replace(plan.stage_1, grid=(1, 1, 1))(Emulator(cache), dy, y, dz, partial, m, n)
    y64 = y[:, :columns].astype("f8")
    want = dy[:, :columns] * y64 * (1 - y64)
    np.testing.assert_allclose(dz[:, :columns], want, rtol=3e-3, atol=1e-7)
    np.testing.assert_allclose(partial[0, :columns], want.sum(0), rtol=1e-4, atol=1e-6)


@needs_emulator
def test_portable_fibers_give_the_same_bits(cache: Path) -> None:
    dy, y = sigmoid_case(300, 33, "float32")
    portable = Emulator(cache, extra_flags=["-DGG_UCONTEXT"])
    for got, want in zip(
        launch.sigmoid_bwd(portable, dy, y),
        launch.sigmoid_bwd(Emulator(cache), dy, y),
        strict=True,
    ):
        assert got.tobytes() == want.tobytes()


# ---- Would these tests notice? -------------------------------------------------------------------


def check_sigmoid_bwd_file(loader: launch.Loader) -> None:
    """Every kernel of sigmoid_bwd.cu, on small shapes that reach all its branches and loops."""
    for dtype in DTYPES:
        for m, n in [(5, 3), (40, 24), (300, 24), (5000, 5)]:
            check_sigmoid_bwd(loader, *sigmoid_case(m, n, dtype))


# One row per kernel file: what the mutations below must make fail.
FILE_CHECKS = {"sigmoid_bwd.cu": check_sigmoid_bwd_file}


# What is broken, one match at a time. A loop without its end would never return, and one that never
# returns may lose its loads to the optimiser: it runs one row too far instead.
BARRIERS = {r"__syncthreads\(\);": ""}
BOUNDS_CHECKS = {r"\bcolumn < n\b": "true", r"\brow < (\w+);": r"row <= \1;"}
SHARED_SIZES = {r"(__shared__ .*)\];": r"\1 - 1];"}


def mutants(replacements: dict[str, str]) -> dict[str, tuple[str, str]]:
    """(kernel file, its text with one match replaced), by a name telling which."""
    found = {}
    for file in launch.KERNEL_FILES:
        text = launch.kernel_source(file)
        for pattern, replacement in replacements.items():
            for number, match in enumerate(re.finditer(pattern, text), start=1):
                broken = text[: match.start()] + match.expand(replacement) + text[match.end() :]
                found[f"{file} {match.group()} {number}"] = (file, broken)
    return found


MISSING_BARRIERS = mutants(BARRIERS)
MISSING_BOUNDS_CHECKS = mutants(BOUNDS_CHECKS)
SHORT_SHARED_ARRAYS = mutants(SHARED_SIZES)
INTACT = {f"{file} intact": (file, launch.kernel_source(file)) for file in launch.KERNEL_FILES}


class TextUnderTest(Emulator):
    """Runs `text`, whatever source it is given."""

    text: str

    def kernel(self, source: str, name: str):
        return super().kernel(self.text, name)


def test_there_is_something_to_break() -> None:
    assert FILE_CHECKS.keys() == set(launch.KERNEL_FILES)
    assert len(MISSING_BARRIERS) == 1
    assert len(MISSING_BOUNDS_CHECKS) == 6
    assert len(SHORT_SHARED_ARRAYS) == 1


@needs_emulator
@pytest.mark.parametrize("name", MISSING_BARRIERS)
def test_a_missing_barrier_is_noticed(cache: Path, name: str) -> None:
    file, text = MISSING_BARRIERS[name]
    noticed = []
    for order in ORDERS:
        loader = TextUnderTest(cache, order=order)
        loader.text = text
        try:
            FILE_CHECKS[file](loader)
        except (AssertionError, EmulatorError):
            noticed.append(order)
    assert noticed


def check_sanitized(file: str, text_path: str, cache: str) -> None:
    """Run in a process of its own, under AddressSanitizer."""
    for order in ORDERS:
        loader = TextUnderTest(Path(cache), order=order, sanitize=True)
        loader.text = Path(text_path).read_text()
        FILE_CHECKS[file](loader)


@pytest.fixture(scope="module")
def sanitized(cache: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """The outcome of every text that runs under AddressSanitizer, all run side by side."""
    try:
        environment = sanitizer_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    except EmulatorError as error:
        pytest.skip(str(error))
    texts = INTACT | MISSING_BOUNDS_CHECKS | SHORT_SHARED_ARRAYS

    def run(name: str) -> subprocess.CompletedProcess[str]:
        file, text = texts[name]
        library = Emulator(cache, sanitize=True).build(text)
        path = library.with_suffix(".cu")
        path.write_text(text)
        call = "import sys, test_kernels; test_kernels.check_sanitized(*sys.argv[1:])"
        command = [sys.executable, "-c", call, file, str(path), str(cache)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(texts, pool.map(run, texts), strict=True))


@needs_emulator
@pytest.mark.parametrize("name", INTACT)
def test_address_sanitizer_finds_nothing(sanitized, name: str) -> None:
    assert sanitized[name].returncode == 0, sanitized[name].stderr


@needs_emulator
@pytest.mark.parametrize("name", MISSING_BOUNDS_CHECKS)
def test_a_missing_bounds_check_is_noticed(sanitized, name: str) -> None:
    assert sanitized[name].returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in sanitized[name].stderr


@needs_emulator
@pytest.mark.parametrize("name", SHORT_SHARED_ARRAYS)
def test_a_shared_array_too_short_is_noticed(sanitized, name: str) -> None:
    assert sanitized[name].returncode != 0
    assert "AddressSanitizer: global-buffer-overflow" in sanitized[name].stderr


# ---- Launch geometry -----------------------------------------------------------------------------


def all_plans() -> Iterator[tuple[int, int, np.dtype, launch.SigmoidBwdPlan]]:
    sizes = (1, 2, 3, 8, 31, 64, 100, 256, 257, 4096, 100_003, 1 << 26, 3_000_000_000)
    for dtype in map(np.dtype, DTYPES):
        for m in sizes:
            for n in sizes:
                yield m, n, dtype, launch.sigmoid_bwd_plan(m, n, dtype)


def test_every_launch_is_one_cuda_takes() -> None:
    for m, n, _, plan in all_plans():
        for stage in (plan.stage_1, plan.stage_2):
            if stage is None:
                continue
            x, y, z = stage.grid
            assert 1 <= x < 2**31, (m, n)
            assert 1 <= y < 2**16
            assert z == stage.block[2] == 1
            lanes, rows, _ = stage.block
            assert lanes * rows == launch.BLOCK_THREADS
            assert 32 % lanes == 0  # block_column_sum relies on it
            assert stage.shared_bytes == 0


def test_launches_cover_the_matrix_without_idle_blocks() -> None:
    for m, n, dtype, plan in all_plans():
        width = int(plan.stage_1.kernel.rpartition("_x")[2])
        assert n % width == 0
        assert width * dtype.itemsize in (launch.ALIGNMENT_BYTES, dtype.itemsize)
        lanes, rows, _ = plan.stage_1.block
        column_blocks, row_blocks, _ = plan.stage_1.grid
        assert (column_blocks - 1) * lanes * width < n <= column_blocks * lanes * width
        assert (row_blocks - 1) * rows < m
        assert plan.partial_shape == (row_blocks, n)
        if plan.stage_2 is None:
            assert row_blocks == 1
            assert plan.partial_dtype == dtype  # stage 1 writes db itself
        else:
            assert (plan.stage_2.grid[0] - 1) * plan.stage_2.block[0] < n
            assert n <= plan.stage_2.grid[0] * plan.stage_2.block[0]


def test_tall_and_wide_both_fill_a_gpu() -> None:
    for m, n in [(16384, 64), (128, 4096), (4096, 4096)]:
        x, y, _ = launch.sigmoid_bwd_plan(m, n, np.dtype(np.float32)).stage_1.grid
        assert 128 <= x * y <= 1024


def test_block_size_is_the_kernels_own() -> None:
    text = launch.kernel_source("sigmoid_bwd.cu")
    assert f"constexpr int BLOCK_THREADS = {launch.BLOCK_THREADS};" in text


def test_kernel_files_are_all_listed() -> None:
    names = {entry.name for entry in launch.kernel_folder().iterdir()}
    assert {name for name in names if name.endswith(".cu")} == set(launch.KERNEL_FILES)


@pytest.mark.parametrize("file", launch.KERNEL_FILES)
def test_source_is_complete_in_itself(file: str) -> None:
    """CuPy's kernel cache sees the text alone."""
    text = launch.kernel_source(file)
    header = (launch.kernel_folder() / launch.HEADER).read_text()
    assert text.startswith(f'#line 1 "{launch.HEADER}"\n{header}')
    assert "#include" not in text
    assert launch.kernel_source(file) is text


def test_kernels_are_found_when_installed(tmp_path: Path) -> None:
    """A wheel puts kernels/ inside the package; there is no checkout beside it."""
    package = Path(launch.__file__).parents[1]
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, tmp_path / "gpugrad", ignore=ignore)
    installed = tmp_path / "gpugrad" / "kernels" / "cuda"
    if not installed.exists():
        shutil.copytree(str(launch.kernel_folder()), installed)
    call = "from gpugrad.backend import launch; print(launch.kernel_folder())"
    command = [sys.executable, "-c", call]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(result.stdout.strip()) == installed


# ---- nvcc ----------------------------------------------------------------------------------------

MAX_REGISTERS = 128


@pytest.fixture(scope="module")
def resource_usage(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict]:
    """(file, arch) -> {kernel: (spilled bytes, registers)}, as ptxas tells it."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed: kernels were not compiled for any GPU")
    folder = tmp_path_factory.mktemp("nvcc")
    query = [nvcc, "--list-gpu-arch"]
    known = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()
    archs = [arch for arch in launch.ARCHS if f"compute_{arch}" in known]
    usage: dict[tuple[str, int], dict] = {}
    for file in launch.KERNEL_FILES:
        (folder / file).write_text(launch.kernel_source(file))
        targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        flags = [*launch.OPTIONS, "-Xptxas=-v", "-Werror=all-warnings", "-fatbin"]
        command = [nvcc, *flags, *targets, str(folder / file), "-o", str(folder / "out.fatbin")]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        for kernel, arch, stored, loaded, registers in re.findall(
            r"Compiling entry function '(\w+)' for 'sm_(\d+)'.*?"
            r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
            result.stderr + result.stdout,
            re.DOTALL,
        ):
            kernels = usage.setdefault((file, int(arch)), {})
            kernels[kernel] = (int(stored) + int(loaded), int(registers))
    return usage


@pytest.mark.parametrize("arch", launch.ARCHS)
@pytest.mark.parametrize("file", launch.KERNEL_FILES)
def test_compiles_without_spills(resource_usage, file: str, arch: int) -> None:
    if (file, arch) not in resource_usage:
        pytest.skip(f"this nvcc does not know sm_{arch}")
    for kernel, (spilled_bytes, registers) in resource_usage[file, arch].items():
        assert spilled_bytes == 0, kernel
        assert registers <= MAX_REGISTERS, kernel


def test_nvcc_sees_exactly_the_kernels_that_are_launched(resource_usage) -> None:
    stages = [stage for *_, plan in all_plans() for stage in (plan.stage_1, plan.stage_2) if stage]
    for (file, _), kernels in resource_usage.items():
        assert kernels.keys() == {stage.kernel for stage in stages if stage.file == file}
