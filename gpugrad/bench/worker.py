"""One contender in a process of its own. Started as a script, by interpreters without gpugrad too.

Imports NumPy and the standard library; the rest is the contender's. Requests come as lines of JSON
on stdin, each is answered by one on stdout. A contender is a class named as the kind of case:

    Mlp(problem, **options)   see `problem` below
    .step()                   the whole of what is timed
    .value()                  what `answer` is compared with; of several steps, theirs
    .steps_a_call             optional: how many .step() makes, 1
    .sync()                   optional: returns when queued work is done
    .phases                   optional: names of the methods that make up a step

It raises NotImplementedError, with the reason, for what it cannot do.
"""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

WARM_S = 0.1
LEAST_SAMPLES = 3


class Timed:
    """A contender with the number of steps a sample needs to be long enough for the clock."""

    def __init__(self, contender: Any, sample_s: float) -> None:
        self.contender = contender
        self.sync = getattr(contender, "sync", None)
        self.phases = list(getattr(contender, "phases", ()))
        self.steps = getattr(contender, "steps_a_call", 1)
        self.repeats = 1
        calls, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < WARM_S or calls < 2:
            self.sample()
            calls += 1
        self.repeats = max(1, round(sample_s * calls / spent))

    def sample(self) -> float:
        """Seconds a step, each call waited for."""
        step, sync = self.contender.step, self.sync
        start = time.perf_counter()
        if sync is None:
            for _ in range(self.repeats):
                step()
        else:
            for _ in range(self.repeats):
                step()
                sync()
        return (time.perf_counter() - start) / (self.repeats * self.steps)

    def samples(self, for_s: float) -> list[float]:
        end, times = time.perf_counter() + for_s, [self.sample()]
        while len(times) < LEAST_SAMPLES or time.perf_counter() < end:
            times.append(self.sample())
        return times

    def split(self, for_s: float) -> dict[str, float]:
        """Median seconds of each phase of a step."""
        parts = [getattr(self.contender, name) for name in self.phases]
        sync = self.sync or (lambda: None)
        times: list[list[float]] = [[] for _ in parts]
        end = time.perf_counter() + for_s
        while len(times[0]) < LEAST_SAMPLES or time.perf_counter() < end:
            for part, spent in zip(parts, times, strict=True):
                start = time.perf_counter()
                part()
                sync()
                spent.append(time.perf_counter() - start)
        return {n: float(np.median(t)) for n, t in zip(self.phases, times, strict=True)}


def problem(arrays: Mapping[str, Any], **settings: Any) -> SimpleNamespace:
    """What a contender is given: the arrays of a case, weights and biases as lists, settings."""
    depth = sum(name.startswith("weight") for name in arrays)
    return SimpleNamespace(
        **arrays,
        weights=[arrays[f"weight{i}"] for i in range(depth)],
        biases=[arrays[f"bias{i}"] for i in range(depth)],
        **settings,
    )


def build(job: dict[str, Any]) -> Any:
    with np.load(job["data"]) as file:
        arrays = {name: file[name] for name in file.files}
    settings = {key: job[key] for key in ("device", "cores", "optimizer", "lr")}
    spec = importlib.util.spec_from_file_location("contender", job["file"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, job["kind"])(problem(arrays, **settings), **job["options"])


def peak_bytes() -> int | None:
    """The most memory this process has had resident."""
    try:
        # Not ru_maxrss: Linux hands the parent's down to the child, through fork and exec.
        status = Path("/proc/self/status").read_text()
    except OSError:
        try:
            import resource
        except ImportError:  # Windows
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def about(names: list[str]) -> dict[str, Any]:
    """Versions, and the BLAS that NumPy found. Asked last: the look itself costs memory."""
    versions = {"python": sys.version.split()[0], "numpy": np.__version__}
    for name in names:
        if name in sys.modules:
            found = getattr(sys.modules[name], "__version__", None)
            versions[name] = found or metadata.version(name)
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return {"versions": versions, "pools": None}
    keys = ("internal_api", "version", "architecture", "num_threads", "prefix")
    pools = [{key: pool.get(key) for key in keys} for pool in threadpool_info()]
    return {"versions": versions, "pools": pools}


def main() -> int:
    job = json.loads(sys.argv[1])
    # This folder has modules of its own, which would stand before other people's. In its place
    # stands the gpugrad this file belongs to, for the contender that is gpugrad.
    sys.path[:1] = [job["root"]] if job["root"] else []
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    start = time.perf_counter()
    try:
        contender = build(job)
    except ModuleNotFoundError as error:
        if error.name not in job["modules"]:
            raise
        answer(status="absent")
        return 0
    except NotImplementedError as error:
        answer(status="skipped", why=str(error))
        return 0
    values: list[float] = []
    while len(values) < job["checked"]:
        contender.step()
        values += np.ravel(contender.value()).tolist()
    answer(status="built", values=values[: job["checked"]], build_s=time.perf_counter() - start)

    timed: Timed | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if timed is None:
            timed = Timed(contender, job["sample_s"])
        if request["ask"] == "times":
            times = timed.samples(request["for_s"])
            split = timed.split(request["for_s"] / 3) if timed.phases else None
            answer(times=times, split=split, repeats=timed.repeats)
        else:
            peak = peak_bytes()
            answer(peak_bytes=peak, **about(job["modules"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
