"""Runs contenders in turn, each in a process of its own, and keeps a record of everything timed.

Two BLAS or OpenMP pools in one process slow each other up to a hundredfold, and an exported
OPENBLAS_CORETYPE or OPENBLAS_L2_SIZE can halve a BLAS: hence the processes, and what they inherit.
Imports suites, contenders and backend.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, Self

import numpy as np

import gpugrad
from gpugrad import backend
from gpugrad.bench import suites
from gpugrad.bench.contenders import CEILINGS, CONTENDERS, Contender
from gpugrad.bench.contenders.ceilings import COPY_BYTES, GEMM_FLOP
from gpugrad.bench.suites import Case

UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
# Variables that steer a contender, by how their names begin; recorded.
STEERING = (
    "OPENBLAS_",
    "OMP_",
    "MKL_",
    "BLIS_",
    "GPUGRAD_",
    "CUDA_",
    "CUPY_",
    "JAX_",
    "XLA_",
    "TORCH",
)

# What a process is told how many threads its products may use by; the native core's too.
BLAS_THREADS = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "GPUGRAD_NUM_THREADS",
)

LIMIT_S = 1200  # for one answer; torch.compile may take minutes
PAUSE_S = 0.05  # idle threads of the contender before spin about this long


@dataclass(frozen=True)
class Plan:
    """What to measure, and how long."""

    cases: tuple[Case, ...]
    contenders: tuple[str, ...]
    rounds: int = 7
    round_s: float = 0.3  # of timing, for each contender in each round
    sample_s: float = 0.015  # least length of one sample
    device: str = "cpu"
    optimizer: str = "sgd"
    python: str = sys.executable  # of the contenders that are not gpugrad or NumPy


class Failed(Exception):
    """A worker that broke off; the message is the end of what it wrote."""


class Worker:
    """The process of one contender on one case; `ask` waits for its next answer."""

    def __init__(
        self,
        contender: Contender,
        options: Mapping[str, Any],
        case_kind: str,
        data: Path,
        plan: Plan,
        values: int,
    ) -> None:
        own, blas_threads = contender.own, {}
        if contender.threads == "blas" and "threads" in options:
            blas_threads = dict.fromkeys(BLAS_THREADS, str(options["threads"]))
            options = {}
        job = {
            "file": str(contender.path),
            "kind": case_kind,
            "options": {**contender.options, **options},
            "modules": contender.modules,
            "data": str(data),
            "device": plan.device,
            "cores": cores(),
            "optimizer": plan.optimizer,
            "lr": suites.RATES[plan.optimizer],
            "checked": values,
            "sample_s": plan.sample_s,
            "root": str(Path(gpugrad.__file__).parents[1]) if own else None,
        }
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        python = sys.executable if own else plan.python
        script = str(Path(__file__).with_name("worker.py"))
        self._process = subprocess.Popen(
            [python, script, json.dumps(job)],
            env=environment(plan.device) | blas_threads,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches the runner alone
        )

    def ask(self, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to ``request``, or the one every worker begins with. Raises `Failed`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = Timer(LIMIT_S, self._process.kill)
        late.daemon = True  # Ctrl-C may come before `try`, and must not wait for it
        late.start()
        try:
            if request is not None:
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late.cancel()
        if line:
            return json.loads(line)  # type: ignore[no-any-return]
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()[-8:]
        ending = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        raise Failed("\n".join([*lines, ending]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            if error[0] is not None:
                self._process.kill()
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def environment(device: str) -> dict[str, str]:
    """Of every worker: this process's, less what holds a BLAS back."""
    kept = {key: value for key, value in os.environ.items() if key not in UNSET}
    if device == "cpu":
        kept["JAX_PLATFORMS"] = "cpu"  # else JAX takes a GPU it finds
    return kept


def run(
    plan: Plan, tell: Callable[[str], None], save: Callable[[Mapping[str, Any]], None]
) -> dict[str, Any]:
    """Measure as planned; the record, which is handed to ``save`` after each round too.

    On Ctrl-C the record of the rounds so far has been saved, with status "interrupted".
    """
    record = opening(plan)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ceilings = _ceilings(plan, folder, stack)
            for case in plan.cases:
                for name, worker in ceilings.items():
                    times = worker.ask({"ask": "times", "for_s": plan.round_s})["times"]
                    record["ceilings"][name]["s"].append(statistics.median(times))
                    time.sleep(PAUSE_S)
                _run_case(plan, case, folder, record, tell, save)
            if ceilings:
                record["blas"] = ceilings["gemm"].ask({"ask": "about"})
        failed = any(r["status"] in ("failed", "wrong") for r in record["results"])
        record["status"] = "failed" if failed else "finished"
    except BaseException:
        record["status"] = "interrupted"
        raise
    finally:
        save(record)
    return record


def _ceilings(plan: Plan, folder: Path, stack: ExitStack) -> dict[str, Worker]:
    data = folder / "nothing.npz"
    np.savez(data)
    workers = {}
    for name, contender in CEILINGS.items():
        worker = Worker(contender, {}, contender.kinds[0], data, plan, values=1)
        workers[name] = stack.enter_context(worker)
        worker.ask()
    return workers


def _run_case(
    plan: Plan,
    case: Case,
    folder: Path,
    record: dict[str, Any],
    tell: Callable[[str], None],
    save: Callable[[Mapping[str, Any]], None],
) -> None:
    """Start every contender, one after the other, compare what they compute, then time in turn."""
    kind, data = type(case).__name__, folder / "case.npz"
    arrays = case.data()
    np.savez(data, **arrays)  # type: ignore[arg-type]
    wanted = case.answer(arrays, plan.optimizer)
    del arrays
    record["cases"].append(described(case))
    with ExitStack() as stack:
        running: list[tuple[dict[str, Any], Worker]] = []
        for name, contender, options in _entries(plan, kind, record):
            tell(f"{case.name}: starting {contender.label}{_variant(options)}")
            result: dict[str, Any] = {"case": case.name, "contender": name, "options": options}
            result["status"] = "starting"
            record["results"].append(result)
            worker = Worker(contender, options, kind, data, plan, suites.CHECKED_STEPS)
            stack.enter_context(worker)
            try:
                result |= worker.ask()
            except Failed as error:
                result |= {"status": "failed", "why": str(error)}
            if result["status"] == "built":
                problem = _difference(result["values"], wanted, case.tolerance)
                if problem:
                    result |= {"status": "wrong", "why": problem}
                else:
                    result |= {"status": "timed", "rounds": [], "splits": []}
                    running.append((result, worker))
            if result["status"] != "timed":
                tell(f"{case.name}: {contender.label} {result['status']}")
        for round_ in range(plan.rounds):
            tell(f"{case.name}: round {round_ + 1} of {plan.rounds}")
            for result, worker in list(running):
                try:
                    times = worker.ask({"ask": "times", "for_s": plan.round_s})
                    about = {}
                    if round_ + 1 == plan.rounds:
                        about = worker.ask({"ask": "about"})
                except Failed as error:
                    result |= {"status": "failed", "why": str(error)}
                    running.remove((result, worker))
                    continue
                result["rounds"].append([float(f"{t:.4g}") for t in times["times"]])
                result["repeats"] = times["repeats"]
                if times["split"]:
                    result["splits"].append(times["split"])
                result |= about
                time.sleep(PAUSE_S)
            save(record)


def _entries(
    plan: Plan, kind: str, record: Mapping[str, Any]
) -> Iterator[tuple[str, Contender, dict[str, Any]]]:
    """Contenders of this kind of case, one for each number of threads where that matters."""
    for name in plan.contenders:
        contender = CONTENDERS[name]
        if kind not in contender.kinds:
            continue
        variants: list[dict[str, Any]] = [{}]
        if contender.threads and plan.device == "cpu":
            # ten values need no second thread
            variants = [{"threads": n} for n in thread_counts(1 if kind == "Chain" else cores())]
        for options in variants:
            # asked anew each time: the one before may have found the library missing
            results = [r for r in record["results"] if r["contender"] == name]
            if not any(r["status"] in ("absent", "skipped") for r in results):
                yield name, contender, options


def _variant(options: Mapping[str, Any]) -> str:
    return "".join(f", {key} {value}" for key, value in options.items())


def _difference(values: list[float], wanted: list[float], tolerance: float) -> str:
    """What is wrong with ``values``, or nothing."""
    if np.allclose(values, wanted, rtol=tolerance, atol=0):
        return ""
    got, right = (", ".join(f"{v:.6g}" for v in vs) for vs in (values, wanted))
    return f"computes {got}, where float64 NumPy computes {right}"


# The machine


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_counts(most: int) -> list[int]:
    """1, 4, 16, … and ``most``.

    >>> thread_counts(2), thread_counts(12)
    ([1, 2], [1, 4, 12])
    """
    return sorted({most, *[4**k for k in range(most.bit_length()) if 4**k < most]})


def described(case: Case) -> dict[str, Any]:
    fields = {"name": case.name, "kind": type(case).__name__, "unit": case.unit, "per": case.per}
    if isinstance(case, suites.Mlp):
        fields |= {"flop": case.flop, "bytes": case.bytes}
    return fields


def opening(plan: Plan) -> dict[str, Any]:
    """A record without results."""
    steering = {k: v for k, v in sorted(os.environ.items()) if k.startswith(STEERING)}
    return {
        "schema": 1,
        "status": "running",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "gpugrad": gpugrad.__version__,
        "commit": commit(),
        "device": plan.device,
        "optimizer": plan.optimizer,
        "rounds": plan.rounds,
        "round_s": plan.round_s,
        "contenders": list(plan.contenders),
        "machine": machine(plan.device),
        "environment": {k: v for k, v in steering.items() if k not in UNSET},
        "unset": {k: v for k, v in steering.items() if k in UNSET},
        "ceilings": {
            "gemm": {"work": GEMM_FLOP, "unit": "FLOP/s", "s": []},
            "copy": {"work": COPY_BYTES, "unit": "B/s", "s": []},
        },
        "blas": None,
        "cases": [],
        "results": [],
    }


def machine(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": _memory_bytes(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    if device != "cpu":
        xp: Any = backend.get(device).xp
        index = int(device.partition(":")[2] or 0)
        name = xp.cuda.runtime.getDeviceProperties(index)["name"]
        found["gpu"] = name.decode() if isinstance(name, bytes) else str(name)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def commit() -> str | None:
    """Of the checkout this package is in, with a + after it when files have changed."""
    folder = Path(gpugrad.__file__).parent

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *args], cwd=folder, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    # An installed package may lie in a repository of somebody else's.
    if not git("ls-files", "--error-unmatch", "__init__.py"):
        return None
    head = git("rev-parse", "--short=12", "HEAD")
    return f"{head}+" if head and git("status", "--porcelain", "--", ".") else head
