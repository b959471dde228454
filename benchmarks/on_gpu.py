"""Everything there is to know about gpugrad on this GPU, in one command of under ten minutes.

    python benchmarks/on_gpu.py [--device cuda] [--out benchmarks/results] [--only doctor,tests,…]

Runs, each in a process of its own with a limit on its time: ``gpugrad doctor --gpu`` (kernels,
captured steps, their hazards, first measurements), the test suite on the device, the kernels
against the measured copy rate, and the training steps beside PyTorch and JAX, on the GPU and on
this machine's CPU. Leaves one JSON file with device, versions, date and commit, written anew after
each part, and the logs beside it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# Part: command, seconds it may take (600 in all), the JSON file it leaves (None: what it prints).
PARTS: dict[str, tuple[list[str], int, str | None]] = {
    "doctor": (["-m", "gpugrad", "doctor", "--gpu", "--device", "DEVICE", "--json"], 150, None),
    "tests": (["-m", "pytest", "-q", "--device", "DEVICE", "-p", "no:cacheprovider"], 170, ""),
    "kernels": (
        [
            *(
                "-m",
                "pytest",
                "-q",
                "benchmarks/bench_kernels.py",
                "-k",
                "cuda",
                "--benchmark-enable",
                "--benchmark-max-time=0.3",
            ),
            *("--benchmark-json", "OUT/kernels.json", "-p", "no:cacheprovider"),
        ],
        50,
        "kernels.json",
    ),
    "gpu": (
        [
            *("-m", "gpugrad", "bench", "--suite", "gpu", "--device", "DEVICE", "--rounds", "3"),
            *("--out", "OUT/gpu"),
        ],
        120,
        "gpu/bench.json",
    ),
    "mlp": (
        [
            *("-m", "gpugrad", "bench", "--suite", "mlp", "--device", "DEVICE", "--rounds", "2"),
            *("--contenders", "gpugrad-compiled,jax,torch-reduce-overhead", "--out", "OUT/mlp"),
        ],
        70,
        "mlp/bench.json",
    ),
    "cpu": (
        [
            *("-m", "gpugrad", "bench", "--suite", "mlp", "--device", "cpu", "--rounds", "1"),
            *("--contenders", "gpugrad-compiled", "--out", "OUT/cpu"),
        ],
        40,
        "cpu/bench.json",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by name")
    options = parser.parse_args()
    wanted = options.only.split(",")
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; parts are {', '.join(PARTS)}")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    out = options.out / f"{options.device.replace(':', '-')}-{stamp}"
    out.mkdir(parents=True)
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "commit": _said("git", "rev-parse", "HEAD"),
        "changed_files": _said("git", "status", "--porcelain"),
        "gpu": _said("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv"),
        "versions": _said(sys.executable, "-m", "pip", "list", "--format=freeze").split(),
        "python": sys.version,
        "parts": {},
    }
    for name in wanted:
        record["parts"][name] = part = _run(name, out, options.device)
        (out / "record.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{name:8} exit {part['exit']}  {part['seconds']:.0f} s  {part['last']}", flush=True)
    print(f"everything is in {out / 'record.json'}")
    return int(any(part["exit"] for part in record["parts"].values()))


def _run(name: str, out: Path, device: str) -> dict[str, Any]:
    command, limit_s, left = PARTS[name]
    filled = [a.replace("DEVICE", device).replace("OUT", str(out)) for a in command]
    if name == "doctor" and device == "cpu":
        filled.remove("--gpu")
    if name == "tests" and find_spec("xdist"):  # most of the time is the compilation of kernels
        filled += ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "loadfile"]
    start = time.perf_counter()
    log = out / f"{name}.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, *filled],
            cwd=ROOT,
            env=_environment(),
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.terminate()  # bench saves what it has
            process.wait(30)
            code = 124
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    part: dict[str, Any] = {
        "command": filled,
        "exit": code,
        "seconds": time.perf_counter() - start,
        "last": lines[-1][:200] if lines else "",
    }
    if left is None:
        part["result"] = _json(lines[-1] if lines else "")
    elif left:
        file = out / left
        part["result"] = _json(file.read_text(encoding="utf-8") if file.exists() else "")
    else:
        part["tail"] = lines[-60:]
    return part


def _environment() -> Mapping[str, str]:
    """This process's, with gpugrad of this checkout first, and without what cripples a BLAS."""
    crippling = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    kept = {k: v for k, v in os.environ.items() if k not in crippling}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError as error:
        return f"{command[0]}: {error.strerror}"


if __name__ == "__main__":
    sys.exit(main())
