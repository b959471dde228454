"""gpugrad beside its peers, one library per process, contenders alternated: ratios of medians.

    python benchmarks/compare.py [--rounds 5] [--peers torch,autograd] [--python PATH]

``--python`` runs the peers in another interpreter (where they are installed). Two thread pools in
one process slow each other up to a hundredfold, and an exported OPENBLAS_CORETYPE or
OPENBLAS_L2_SIZE can halve a BLAS: each contender gets a process of its own with both unset.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

TIMER = """
import json, time
def median(f, repeats=30):
    f()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]
STEPS = 1000
"""

# Microseconds for one op, forward and backward, in a chain of tanh(y * 1.01) on ten float32 values.
CHAIN = {
    "gpugrad": """
import gpugrad as gg
x = gg.asarray([1.0] * 10, requires_grad=True)
def run():
    y = x
    for _ in range(STEPS):
        y = gg.tanh(y * 1.01)
    y.sum().backward()
""",
    "torch": """
import torch
torch.set_num_threads(1)
x = torch.ones(10, requires_grad=True)
def run():
    y = x
    for _ in range(STEPS):
        y = torch.tanh(y * 1.01)
    y.sum().backward()
""",
    "autograd": """
import autograd, autograd.numpy as np
x = np.ones(10, "f4")
def f(x):
    y = x
    for _ in range(STEPS):
        y = np.tanh(y * 1.01)
    return y.sum()
g = autograd.grad(f)
def run():
    g(x)
""",
}


def time_once(python: str, name: str) -> float:
    code = TIMER + CHAIN[name] + "print(json.dumps(median(run) / STEPS / 2 * 1e6))"
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    }
    done = subprocess.run(
        [python, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} failed under {python}:\n{done.stderr}")
    return float(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default="torch,autograd")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the peers")
    options = parser.parse_args()
    names = ["gpugrad", *filter(None, options.peers.split(","))]
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            python = sys.executable if name == "gpugrad" else options.python
            times[name].append(time_once(python, name))
    ours = statistics.median(times["gpugrad"])
    print("chain of tanh(y * 1.01) on 10 float32 values, forward + backward, one thread")
    for name in names:
        value = statistics.median(times[name])
        print(f"{name:10s} {value:6.2f} µs an op   {value / ours:5.2f} × gpugrad")


if __name__ == "__main__":
    main()
