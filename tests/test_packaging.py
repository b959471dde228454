"""Wheel, sdist and editable installs all work, also without a C compiler, and bring the kernels."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = sorted(p.name for p in (ROOT / "kernels" / "cuda").iterdir())

CHECK = """
import sys
import numpy, gpugrad
from gpugrad.backend import launch, native
assert gpugrad.grad(lambda x: x * x)(3.0) == 6.0
assert sorted(p.name for p in launch.kernel_folder().iterdir()) == {kernels}
assert 'run_chain' in launch.kernel_source('chain.cuh')
absent = native.why_not().startswith('the native core is not there')
assert absent == {absent}, native.why_not()
print(gpugrad.__file__)
"""

# The native core is an optional part: without a compiler everything else is installed.
COMPILER = shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0])
NO_COMPILER = {**os.environ, "CC": "/bin/false"}


def run(*command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Output of a command; what it printed goes into the failure."""
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout without what tests and builds leave in it."""
    copy = tmp_path_factory.mktemp("source") / "gpugrad"
    copy.mkdir()
    leftovers = shutil.ignore_patterns("__pycache__", "_native*.so")
    for name in ("gpugrad", "kernels"):
        shutil.copytree(ROOT / name, copy / name, ignore=leftovers)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An sdist, the wheel made from the checkout, and the wheel made from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    build = (
        "import sys; from setuptools import build_meta as b;"
        "print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"
    )
    run(sys.executable, "-c", build, "sdist", out, cwd=source)
    run(sys.executable, "-c", build, "wheel", out, cwd=source)
    (sdist,) = out.glob("*.tar.gz")
    shutil.unpack_archive(sdist, out / "unpacked", filter="data")
    (unpacked,) = (out / "unpacked").iterdir()
    run(sys.executable, "-c", build, "wheel", out / "unpacked", cwd=unpacked)
    (wheel,) = out.glob("*.whl")
    (again,) = (out / "unpacked").glob("*.whl")
    return {"wheel": wheel, "from sdist": again}


def fresh_python(folder: Path) -> Path:
    """A venv that sees this one's packages (NumPy, setuptools) but not its gpugrad."""
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    site = run(python, "-c", "import site; print(site.getsitepackages()[0])").strip()
    for own in Path(site).glob("setuptools*"):  # the one venv brings may be too old for pyproject
        shutil.rmtree(own)
    wanted = ("numpy", "numpy.libs", "setuptools", "_distutils_hack", "pkg_resources")
    for package in filter(lambda p: p.endswith("site-packages"), sys.path):
        for entry in Path(package).iterdir():
            target = Path(site) / entry.name
            named = entry.name in wanted or entry.name.startswith(("numpy-", "setuptools-"))
            if named and not target.exists():
                target.symlink_to(entry)
    return python


def check(python: Path, tmp_path: Path, absent: bool = not COMPILER) -> Path:
    """Use the installed package from an unrelated folder."""
    code = CHECK.format(kernels=KERNELS, absent=absent)
    where = run(python, "-I", "-W", "error", "-c", code, cwd=tmp_path)
    return Path(where.strip())


@pytest.mark.parametrize("kind", ["wheel", "from sdist"])
def test_wheel(kind: str, built: dict[str, Path], tmp_path: Path) -> None:
    names = zipfile.ZipFile(built[kind]).namelist()
    assert "gpugrad/py.typed" in names
    assert {f"gpugrad/kernels/cuda/{name}" for name in KERNELS} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "kernels"))]
    assert any(name.startswith("gpugrad/_native.") and name.endswith(".so") for name in names) == (
        COMPILER is not None
    )
    python = fresh_python(tmp_path / "venv")
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", built[kind])
    assert ROOT not in check(python, tmp_path).parents
    assert run(tmp_path / "venv" / "bin" / "gpugrad", "--version").startswith("gpugrad ")


@pytest.mark.parametrize("editable", [True, False])
def test_without_a_compiler(editable: bool, source: Path, tmp_path: Path) -> None:
    own = tmp_path / "source"  # without what a build with a compiler has left
    shutil.copytree(
        source, own, ignore=shutil.ignore_patterns("build", "*.egg-info", "_native*.so")
    )
    python = fresh_python(tmp_path / "venv")
    options = ["-q", "--no-deps", "--no-index", "--no-build-isolation"] + ["-e"] * editable
    run(python, "-m", "pip", "install", *options, own, env=NO_COMPILER)
    assert (own in check(python, tmp_path, absent=True).parents) == editable


def test_plain_checkout(source: Path, tmp_path: Path) -> None:
    """Without any install, from the folder itself; this venv's own install would lend its core."""
    code = CHECK.format(kernels=KERNELS, absent=True)
    assert run(fresh_python(tmp_path / "venv"), "-c", code, cwd=source)
