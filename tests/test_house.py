"""The house keeps its order: layers, the one place CuPy is imported, what an import costs."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gpugrad"

# Rooms from the ground up. A module may import from its own room or from a lower one.
LAYERS = [
    ["errors", "late", "tree", "_native"],
    ["config", "aval", "rules"],
    ["state"],
    ["node"],
    ["backend"],
    ["operators"],
    ["methods"],
    ["tensor"],
    ["check"],
    ["op"],
    ["ops"],
    ["fuse", "forward"],
    ["tape", "namespace"],
    ["linalg", "fft"],
    ["transforms"],
    ["function"],
    ["compiler"],
    ["random", "testing", "io", "page"],
    ["nn", "data"],
    ["optim", "drawing"],
    ["__init__"],
    ["bench", "sklearn", "onnx"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of everything a module imports when it runs (not for type checking only)."""
    tree = ast.parse(path.read_text())
    typing_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for body in node.body
        for child in ast.walk(body)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def rooms_imported(path: Path) -> set[str]:
    own = room_of(path)
    rooms = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "gpugrad" and len(parts) > 1:
            rooms.add(parts[1] if parts[1] in FLOOR else "__init__")
    return rooms - {own}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = room_of(path)
    assert own in FLOOR, f"give {own} a layer in LAYERS"
    for room in rooms_imported(path):
        assert FLOOR[room] < FLOOR[own], f"{own} (layer {FLOOR[own]}) imports {room}"


def test_layer_check_can_fail(tmp_path: Path) -> None:
    """An upward import, a circle between neighbours and one hidden in a function are all seen."""
    upward = tmp_path / "aval.py"
    upward.write_text("def f():\n    from gpugrad.tensor import Tensor\n")
    assert "gpugrad.tensor.Tensor" in imports(upward)
    assert FLOOR["tensor"] > FLOOR["aval"]


def test_cupy_is_imported_in_one_file() -> None:
    places = [
        str(path.relative_to(PACKAGE))
        for path in modules()
        if any(name.split(".")[0] in ("cupy", "cupyx") for name in imports(path))
    ]
    assert places == ["backend/cupy.py"]


def in_fresh_python(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return run.stdout


def test_import_brings_numpy_and_nothing_else() -> None:
    code = """
import sys, numpy
before = set(sys.modules)
import gpugrad
new = {name.partition('.')[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names) - {'gpugrad'}))
print(sorted(new & {'inspect', 'dataclasses', 'csv', 'zipfile', 'argparse'} - before))
late = ('linalg', 'fft', 'namespace.protocols', 'namespace.linalg', 'namespace.numpy.joining')
print([name for name in late if f'gpugrad.{name}' in sys.modules])
gpugrad.hstack([gpugrad.linalg.norm([3.0, 4.0]), 1.0])
"""
    assert in_fresh_python(code).split("\n")[:3] == ["[]", "[]", "[]"]


def test_using_the_cpu_never_imports_cupy() -> None:
    code = """
import sys
sys.modules['cupy'] = None  # an import of it would raise
import gpugrad as gg
x = gg.asarray([1.0], requires_grad=True)
gg.sigmoid(x * 2).sum().backward()
print(x.grad.device)
"""
    assert in_fresh_python(code) == "cpu\n"


def test_everything_public_has_a_docstring() -> None:
    import gpugrad as gg

    for holder in (gg, gg.nn, gg.onnx, gg.optim, gg.random, gg.io, gg.data, gg.testing):
        for name in getattr(holder, "__all__", vars(holder)):
            if name.startswith("_"):
                continue
            thing = getattr(holder, name)
            if callable(thing) and getattr(thing, "__module__", "").startswith("gpugrad"):
                assert thing.__doc__, f"{holder.__name__}.{name}"


def test_python_api_names_exist() -> None:
    """`__all__` is what there is."""
    import gpugrad as gg

    for name in gg.__all__:
        assert hasattr(gg, name), name


def test_top_level_explains_the_program() -> None:
    allowed = {
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "benchmarks",
        "docs",
        "gpugrad",
        "kernels",
        "pyproject.toml",
        "setup.py",
        "tests",
    }
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in listing.stdout.split()}
    assert {name for name in top if not name.startswith(".")} <= allowed


def test_packages_are_listed() -> None:
    """Each folder with an __init__.py is in pyproject, else a wheel would lack it."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert found | {"gpugrad.kernels"} == set(listed)


def test_version_is_said_once() -> None:
    import gpugrad

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == gpugrad.__version__
    assert re.search(
        rf"^## {re.escape(gpugrad.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
