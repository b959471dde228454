"""Every CUDA file: would the tests notice a fault in it, does it compile for every GPU?

Nothing here has run on a GPU. What a CPU can show is that the text computes the right numbers in
every order of threads, stays in bounds, and compiles without spills; and, by breaking the text one
barrier or bounds check at a time, that the tests would notice.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kernel_checks
import pytest
from cuda_on_cpu.launcher import (
    ORDERS,
    Emulator,
    EmulatorError,
    sanitizer_environment,
    why_unavailable,
)

from gpugrad.backend import launch

needs_emulator = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")

# One row per file that can be broken: runs its kernels on arrays of their own, on shapes that reach
# all branches and loops.
CHECKS: dict[str, Callable[[launch.Loader], None]] = {
    "reduce.cuh": kernel_checks.check_chain,
    "chain.cuh": kernel_checks.check_chain,
    "common.cuh": kernel_checks.check_chain,
    "softmax.cuh": kernel_checks.check_softmax,
    "rows.cuh": kernel_checks.check_softmax,
    "argmax.cuh": kernel_checks.check_argmax,
    "transpose.cuh": kernel_checks.check_transpose,
    "philox.cuh": kernel_checks.check_philox,
    "gather.cuh": kernel_checks.check_gather,
    "scatter.cuh": kernel_checks.check_scatter,
    "scalars.cu": kernel_checks.check_scalars,
    "gemm.cuh": kernel_checks.check_gemm,
    "mlp.cuh": kernel_checks.check_mlp,
}
# Nothing in them can run out of bounds or wait: the tests of what they compute are enough.
PLAIN = {"mma.cuh", "ops.cuh"}

# What is broken, one match at a time: conditions that then always or never hold, and barriers and
# waits that are left out. A loop without its end would never return: it runs one step too far.
ALWAYS = r"""(?x) (?<! [\w.] ) (?:
    first\ \+\ row\ <\ rows | (?:first_)?col\ \+\ \w+\ <\ result\.count
    | row\ <\ (?:rows|result\.count|m|k) | col\ <\ (?:cols|n) | deep\ <\ k | j\ <\ (?:count|n)
    | first\ >\ 0
    | k\ <\ count | word\ >=\ 0 | count\ ==\ WIDTH | (\w+)\ >=\ 0\ &&\ \1\ <\ \w+
    ) (?! [\w.] | ;\ [\w+] )"""
NEVER = r"""(?x)
    (?: cols\ -\ col | n\ -\ col | left ) \ <\ (?: WIDTH | CHUNK | Code::WIDTH ) (?= \ \? )
    | left\ <=\ 0 | outer\ \+\ row\ >=\ outers"""
FAULTS = {
    ALWAYS: "(gg_broken == {number} || ({found}))",
    NEVER: "(gg_broken != {number} && ({found}))",
    r"\bsplit < splits(?=;)": "split < splits + (gg_broken == {number})",
    r"(?:__syncthreads\(\)|wait_copies<STAGES - 2>\(\));": "if (gg_broken != {number}) {found}",
}
SHARED_SIZES = {
    r"(TileTotals\[WARPS_DOWN\]\[COLS)\]": r"\1 - 1]",
    r"(__shared__ .*[A-Z])\];": r"\1 - 1];",
    r"tile\[TILE\]\[TILE ": "tile[TILE - 1][TILE ",
}


def text_of(file: str) -> str:
    return (launch.kernel_folder() / file).read_text()


def with_faults() -> tuple[dict[str, str], dict[str, tuple[str, int]]]:
    """Each file's text with a switch at every place; (file, number) of the places, by name."""
    texts, places = {}, {}
    number = 0
    for file in CHECKS:
        lines = text_of(file).split("\n")
        for i, line in enumerate(lines):
            code, slashes, comment = line.partition("//")
            found = [
                (m, form) for pattern, form in FAULTS.items() for m in re.finditer(pattern, code)
            ]
            for match, form in sorted(found, key=lambda pair: -pair[0].start()):
                number += 1
                switch = form.format(number=number, found=match.group())
                code = code[: match.start()] + switch + code[match.end() :]
                places[f"{file}:{i + 1}:{match.start()} {match.group()}"] = (file, number)
            lines[i] = code + slashes + comment
        texts[file] = "\n".join(lines)
    return texts, places


SWITCHED, PLACES = with_faults()
MISSING_BARRIERS = {name: place for name, place in PLACES.items() if name.endswith(";")}
MISSING_BOUNDS_CHECKS = {name: p for name, p in PLACES.items() if name not in MISSING_BARRIERS}
INTACT = {f"{file} intact": (file, 0) for file in CHECKS}


def short_arrays() -> dict[str, tuple[str, str]]:
    """(file, its text with one array in shared memory too short), by a name telling which."""
    found = {}
    for file in CHECKS:
        text = text_of(file)
        for pattern, replacement in SHARED_SIZES.items():
            for match in re.finditer(pattern, text):
                broken = text[: match.start()] + match.expand(replacement) + text[match.end() :]
                found[f"{file} {match.group()}"] = (file, broken)
    return found


SHORT_SHARED_ARRAYS = short_arrays()


class Broken(Emulator):
    """Runs texts with one fault: its number, or another text for a file."""

    fault: tuple[str, int | str]

    def kernel(self, source: str, name: str):
        file, broken = self.fault
        if isinstance(broken, str):
            return super().kernel(source.replace(text_of(file), broken), name)
        for file, switched in SWITCHED.items():
            source = source.replace(text_of(file), switched)
        kernel = super().kernel(source, name)
        self._libraries[source].gg_break(broken)
        return kernel


def test_there_is_something_to_break() -> None:
    files = {entry.name for entry in launch.kernel_folder().iterdir()}
    assert files == CHECKS.keys() | PLAIN
    assert len(MISSING_BARRIERS) >= 11
    assert len(MISSING_BOUNDS_CHECKS) >= 37
    assert len(SHORT_SHARED_ARRAYS) >= 6


@needs_emulator
@pytest.mark.parametrize("name", MISSING_BARRIERS)
def test_a_missing_barrier_is_noticed(built: Path, name: str) -> None:
    noticed = []
    for order in ORDERS:
        loader = Broken(built, order=order)
        loader.fault = MISSING_BARRIERS[name]
        try:
            CHECKS[loader.fault[0]](loader)
        except (AssertionError, EmulatorError):
            noticed.append(order)
    assert noticed


def run_sanitized(folder: Path) -> None:
    """In a process under AddressSanitizer: each fault of ``folder`` in a fork of its own."""
    for path in sorted(folder.glob("*.fault")):
        child = os.fork()
        if child == 0:
            with open(path.with_suffix(".log"), "w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            for order in ORDERS:
                loader = Broken(folder, order=order, sanitize=True)
                loader.fault = tuple(json.loads(path.read_text()))
                CHECKS[loader.fault[0]](loader)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        path.with_suffix(".status").write_text(str(status))


@pytest.fixture(scope="module")
def sanitized(built: Path) -> dict[str, tuple[int, str]]:
    """(exit status, what it printed) of every fault under AddressSanitizer."""
    try:
        environment = sanitizer_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    except EmulatorError as error:
        pytest.skip(str(error))
    folders = [built / f"sanitized{i}" for i in range(min(2, os.cpu_count() or 1))]
    for folder in folders:
        folder.mkdir()
    checks = list(dict.fromkeys(CHECKS.values()))
    paths = {}
    faults = INTACT | MISSING_BOUNDS_CHECKS | SHORT_SHARED_ARRAYS
    for number, (name, fault) in enumerate(faults.items()):
        # All faults of a check in one folder, where its kernels are built once.
        folder = folders[checks.index(CHECKS[fault[0]]) % len(folders)]
        paths[name] = folder / f"{number:03}.fault"
        paths[name].write_text(json.dumps(fault))

    def run(folder: Path) -> None:
        call = "import sys, pathlib, test_kernels as t; t.run_sanitized(pathlib.Path(sys.argv[1]))"
        command = [sys.executable, "-c", call, str(folder)]
        subprocess.run(command, env=environment, check=True, timeout=300)

    with ThreadPoolExecutor(len(folders)) as pool:
        list(pool.map(run, folders))
    return {
        name: (int(p.with_suffix(".status").read_text()), p.with_suffix(".log").read_text())
        for name, p in paths.items()
    }


@needs_emulator
@pytest.mark.parametrize("name", INTACT)
def test_address_sanitizer_finds_nothing(sanitized, name: str) -> None:
    status, log = sanitized[name]
    assert status == 0, log


@needs_emulator
@pytest.mark.parametrize("name", MISSING_BOUNDS_CHECKS)
def test_a_missing_bounds_check_is_noticed(sanitized, name: str) -> None:
    status, log = sanitized[name]
    assert status != 0
    assert "AddressSanitizer" in log or "Error: " in log


@needs_emulator
@pytest.mark.parametrize("name", SHORT_SHARED_ARRAYS)
def test_a_shared_array_too_short_is_noticed(sanitized, name: str) -> None:
    status, log = sanitized[name]
    assert status != 0
    assert "AddressSanitizer: global-buffer-overflow" in log


# ---- the files -----------------------------------------------------------------------------------


def test_source_is_complete_in_itself() -> None:
    """CuPy's kernel cache sees the text alone."""
    text = launch.kernel_source("reduce.cuh", "chain.cuh")
    assert text.startswith(f'#line 1 "{launch.HEADER}"\n{text_of(launch.HEADER)}')
    assert text.endswith(text_of("chain.cuh"))
    assert "#include" not in text
    assert launch.kernel_source("reduce.cuh", "chain.cuh") is text


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
    """(text, arch) -> {kernel: (spilled bytes, registers)}, as ptxas tells it."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed: kernels were not compiled for any GPU")
    folder = tmp_path_factory.mktemp("nvcc")
    query = [nvcc, "--list-gpu-arch"]
    known = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()
    archs = [arch for arch in launch.ARCHS if f"compute_{arch}" in known]
    usage: dict[tuple[str, int], dict] = {}
    for name, text in kernel_checks.texts().items():
        source = folder / f"{name}.cu"
        source.write_text(text)
        flags = [*launch.OPTIONS, "-Xptxas=-v", "-Werror=all-warnings", "-fatbin"]
        # One PTX for all: what a kernel needs it needs of the lowest.
        lowest = max(launch.ARCHS[0], kernel_checks.min_arch(name))
        codes = ",".join(f"sm_{arch}" for arch in archs if arch >= lowest)
        target = f"-gencode=arch=compute_{lowest},code=[{codes}]"
        command = [nvcc, *flags, target, str(source), "-o", str(folder / "out.fatbin")]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        for kernel, arch, stored, loaded, registers in re.findall(
            r"Compiling entry function '(\w+)' for 'sm_(\d+)'.*?"
            r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
            result.stderr + result.stdout,
            re.DOTALL,
        ):
            kernels = usage.setdefault((name, int(arch)), {})
            kernels[kernel] = (int(stored) + int(loaded), int(registers))
    return usage


MEANT = [
    (name, arch)
    for name in kernel_checks.texts()
    for arch in launch.ARCHS
    if arch >= kernel_checks.min_arch(name)
]


@pytest.mark.parametrize(("name", "arch"), MEANT)
def test_compiles_without_spills(resource_usage, name: str, arch: int) -> None:
    if (name, arch) not in resource_usage:
        pytest.skip(f"this nvcc does not know sm_{arch}")
    exported = set(re.findall(r"^GG_EXPORT\((\w+)\)", kernel_checks.texts()[name], re.MULTILINE))
    assert resource_usage[name, arch].keys() == exported
    for kernel, (spilled_bytes, registers) in resource_usage[name, arch].items():
        assert spilled_bytes == 0, kernel
        assert registers <= MAX_REGISTERS, kernel
