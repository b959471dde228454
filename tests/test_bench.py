"""`gpugrad bench`: what is timed, what is refused, and what the record and the page hold."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpugrad.bench import report, runner, suites
from gpugrad.bench.contenders import CONTENDERS, Contender
from gpugrad.cli import main

SHAPE, OTHER = "4:3-5-2", "6:3-2"
OWN = ("gpugrad", "numpy", "gpugrad-8-steps")

CRASH = """
import os, sys
class Mlp:
    def __init__(self, problem): print("about to break", file=sys.stderr)
    def step(self): os._exit(7)
"""

# Never trains; its loss is near the right one.
WRONG = """
import numpy as np
class Mlp:
    def __init__(self, problem): self.problem, self.steps = problem, 0
    def step(self): pass
    def value(self): return 0.7
"""


def bench(*arguments: str) -> int:
    return main(["bench", "--quick", "--rounds", "1", *arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run with contenders that work, break, cheat, and are not there."""
    out = tmp_path_factory.mktemp("bench")
    extra = {
        "crash": Contender("Crash", str(out / "crash.py"), (), kinds=("Mlp",)),
        "wrong": Contender("Wrong", str(out / "wrong.py"), ()),
        "absent": Contender("Absent", str(out / "absent.py"), ("no_such_library",)),
        "gpugrad-8-steps": replace(CONTENDERS["gpugrad-8-steps"], devices=("cpu",)),
    }
    (out / "crash.py").write_text(CRASH)
    (out / "wrong.py").write_text(WRONG)
    (out / "absent.py").write_text("import no_such_library\n")
    with pytest.MonkeyPatch.context() as patch:
        for name, contender in extra.items():
            patch.setitem(CONTENDERS, name, contender)
        patch.setenv("OPENBLAS_CORETYPE", "Prescott")
        names = ",".join(["gpugrad", "numpy", *extra])
        shapes = f"{SHAPE},{OTHER},tape:5"
        code = bench("--shapes", shapes, "--contenders", names, "--out", str(out))
        assert code == 1
        yield out


@pytest.fixture(scope="module")
def record(folder: Path) -> Any:
    return json.loads((folder / "bench.json").read_text())


def by_status(record: Any, status: str) -> list[tuple[str, str]]:
    return [(r["contender"], r["case"]) for r in record["results"] if r["status"] == status]


def test_every_case_is_timed_by_all_that_can(record: Any) -> None:
    timed = list(dict.fromkeys(by_status(record, "timed")))  # once for each number of threads
    pairs = [(name, shape) for shape in (SHAPE, OTHER) for name in OWN]
    assert timed == [*pairs, ("gpugrad", "tape:5")]
    threads = [r["options"]["threads"] for r in record["results"] if r["contender"] == "numpy"]
    assert threads == runner.thread_counts(runner.cores()) * 2
    for result in record["results"]:
        if result["status"] == "timed":
            assert len(result["rounds"]) == 1
            assert min(result["rounds"][0]) > 0
            assert result["repeats"] >= 1
            assert result["versions"]["numpy"] == np.__version__


def test_record_says_where_and_when(record: Any) -> None:
    assert record["schema"] == 1
    assert record["status"] == "failed"
    assert record["machine"]["cores"] >= 1
    assert record["device"] == "cpu"
    assert record["unset"] == {"OPENBLAS_CORETYPE": "Prescott"}
    time.strptime(record["date"], "%Y-%m-%dT%H:%M:%S%z")
    for name in ("gemm", "copy"):
        assert report.ceiling(record, name) > 1e8


def test_blas_variables_do_not_reach_a_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "1024")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    inherited = runner.environment("cpu")
    assert "OPENBLAS_L2_SIZE" not in inherited
    assert inherited["OMP_NUM_THREADS"] == "1"


def test_crash_shows_its_last_lines_and_spares_the_others(record: Any) -> None:
    assert by_status(record, "failed") == [("crash", SHAPE), ("crash", OTHER)]
    why = next(r["why"] for r in record["results"] if r["contender"] == "crash")
    assert why == "about to break\nexit code 7"


def test_wrong_losses_are_not_timed(record: Any) -> None:
    assert by_status(record, "wrong") == [("wrong", SHAPE), ("wrong", OTHER)]
    result = next(r for r in record["results"] if r["contender"] == "wrong")
    assert "rounds" not in result
    assert "float64 NumPy computes" in result["why"]


def test_absent_is_listed_once_with_what_to_install(record: Any) -> None:
    assert by_status(record, "absent") == [("absent", SHAPE)]
    names = {"crash": "Crash", "wrong": "Wrong", "absent": "Absent"}
    with pytest.MonkeyPatch.context() as patch:
        for name, label in names.items():
            patch.setitem(CONTENDERS, name, Contender(label, "", ("no_such_library",)))
        assert "Absent is not installed: pip install no_such_library" in report.troubles(record)


def test_summary_has_time_rates_memory_and_parts(record: Any) -> None:
    row = record["summary"][0]
    assert (row["case"], row["contender"]) == (SHAPE, "gpugrad")
    assert 0 < row["s_least"] <= row["s"] <= row["s_most"]
    assert 1e7 < row["peak_bytes"] < 1e9
    assert set(row["phases_s"]) == {"forward", "backward", "update"}
    assert 0 < row["of_gemm"] < 1
    assert "flop_per_s" not in record["summary"][-1]  # the tape's ops


def test_page_stands_alone(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 6  # three plots, each for wide and narrow pages
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]+)', page)
    assert {link for link in links if not link.startswith("#")} == {"data:,"}
    assert "<script" not in page
    ids = re.findall(r'\bid="((?!DejaVu)[^"]+)"', page)  # a glyph is the same wherever it is from
    named = [name for name in ids if re.search(r"p[0-9a-f]{8}", name)]
    assert len(named) == len(set(named))


def test_without_matplotlib_the_tables_remain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ["--contenders", "numpy", "--optimizer", "adam", "--out", str(tmp_path), "--json"]
    assert bench("--shapes", SHAPE, *options) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["summary"][0]["contender"] == "numpy"
    assert 'pip install "gpugrad[bench]"' in shown.err
    assert "NumPy by hand" in shown.err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--contenders", "numpy,nunpy"], "nunpy; try gpugrad, "),
        (["--shapes", "128:784"], "128:784; try 32:2-16-16-2"),
        (["--shapes", "0:3-2"], "0:3-2"),
        (["--suite", "conv"], "conv; try mlp, gpu, tape"),
        (["--contenders", "torch-max-autotune"], "no such contender on cpu"),
    ],
)
def test_unknown_names_are_refused(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert bench(*arguments, "--out", str(tmp_path / "out")) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_interrupted_run_leaves_its_rounds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gpugrad", "bench", "--quick", "--rounds", "100000"]
    command += ["--shapes", SHAPE, "--contenders", "numpy", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    saved, end = tmp_path / "bench.json", time.monotonic() + 60
    while not saved.exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert str(saved) in errors
    record = json.loads(saved.read_text())
    assert record["status"] == "interrupted"
    assert record["results"][0]["rounds"]
    assert record["summary"]


def test_answer_is_what_a_step_by_hand_gives() -> None:
    """The reference against central differences of its own loss: three SGD steps."""
    case = suites.Mlp(4, (3, 5, 2))
    data = {
        name: np.asarray(a, "f8") if a.dtype.kind == "f" else a for name, a in case.data().items()
    }
    losses = case.answer(data, "sgd")
    assert abs(losses[1] / losses[0] - 1) > 10 * case.tolerance  # a missing update would show
    for t in range(1, suites.CHECKED_STEPS):
        slopes = {}
        for name, array in data.items():
            if name[:4] not in ("weig", "bias"):
                continue
            slopes[name] = np.zeros_like(array)
            for place in np.ndindex(array.shape):
                ends = []
                for h in (1e-6, -1e-6):
                    moved = array.copy()
                    moved[place] += h
                    ends.append(case.answer({**data, name: moved}, "sgd")[0])
                slopes[name][place] = (ends[0] - ends[1]) / 2e-6
        data = {
            k: v - suites.RATES["sgd"] * slopes.get(k, 0) if k in slopes else v
            for k, v in data.items()
        }
        assert case.answer(data, "sgd")[0] == pytest.approx(losses[t], rel=1e-7)


def test_work_is_counted_by_hand() -> None:
    case = suites.Mlp.parse("2:3-4-5")
    assert case is not None
    # forward 3·4 + 4·5, weights the same, inputs 4·5 only; two FLOP each, two rows
    assert case.flop == 2 * 2 * (12 + 20 + 12 + 20 + 20)
    assert case.parameters == 12 + 4 + 20 + 5
    assert case.bytes == 4 * (2 * 3 + 2 * 2 * (4 + 5) + 2 * 41)
    assert suites.find(case.name) == case


def test_parent_memory_is_not_counted_as_the_childs() -> None:
    """Linux hands ru_maxrss down through fork and exec; a contender starts from nothing."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs /proc")
    code = (
        "import numpy, subprocess, sys; a = numpy.ones(50_000_000); "
        "print(subprocess.run([sys.executable, '-c', 'from gpugrad.bench.worker import peak_bytes;"
        " print(peak_bytes())'], capture_output=True, text=True, check=True).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200e6
