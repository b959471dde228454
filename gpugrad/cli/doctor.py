"""``gpugrad doctor``: what is here, what is in use, and how to mend what is not. Never dies itself.

May import backend, config and what a check needs; each check stands on its own.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

GOOD, NOTE, BAD = "ok", "note", "problem"
_MARKS = {GOOD: " ok ", NOTE: "note", BAD: "FAIL"}


class Finding(NamedTuple):
    """One line: what was looked at, what was found, and for a problem the exact fix."""

    name: str
    state: str
    found: str
    fix: str = ""


def add(commands: Any) -> None:
    """Add the subcommand to argparse's ``commands``."""
    parser = commands.add_parser(
        "doctor",
        help="what is installed and in use here, and how to mend what is not",
        description="Look at Python, NumPy and its BLAS, the native CPU core, CUDA and optional "
        "packages; run a small training step on every device. The exit code is 1 when something "
        "that should work does not.",
        epilog="example: gpugrad doctor --device cuda --gpu",
        allow_abbrev=False,
    )
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda (auto)")
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="check kernels, captured steps and their hazards on the GPU, and time it",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make every check and show what it found; 1 when there is a problem."""
    findings: list[Finding] = []
    device = "cuda" if args.gpu and args.device == "auto" else args.device
    every = [_python, _numpy, _blas, _native, _cpu_step, _cuda(device), _extras]
    for check in [*every, _gpu(device)] if args.gpu else every:
        try:
            findings += check()
        except Exception as error:  # a check that fails is a finding too
            last = traceback.format_exception(error)[-1].strip()
            fix = "report this with the output of: GPUGRAD_DEBUG=1 gpugrad doctor"
            findings.append(Finding(check.__name__.strip("_"), BAD, last, fix))
            if os.environ.get("GPUGRAD_DEBUG") == "1":
                traceback.print_exc()
    problems = [f for f in findings if f.state == BAD]
    if args.json:
        print(json.dumps({"healthy": not problems, "findings": [f._asdict() for f in findings]}))
    else:
        print(*map(_line, findings), sep="\n")
        print(
            f"\n{len(problems)} problem{'s' * (len(problems) != 1)}" if problems else "\nall well"
        )
    return 1 if problems else 0


def _line(f: Finding) -> str:
    text = f"[{_MARKS[f.state]}] {f.name:16} {f.found}"
    return text if not f.fix else f"{text}\n{'':24}try: {f.fix}"


def _python() -> list[Finding]:
    import gpugrad

    place = os.path.dirname(gpugrad.__file__)
    system = f"{platform.system()} {platform.machine()}"
    return [
        Finding("gpugrad", GOOD, f"{gpugrad.__version__} in {place}"),
        Finding(
            "Python", GOOD, f"{platform.python_version()} on {system}, {_cores()} cores to use"
        ),
    ]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _numpy() -> list[Finding]:
    import numpy as np

    findings = [Finding("NumPy", GOOD, np.__version__)]
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        if name in os.environ:
            found = f"{name}={os.environ[name]} can hold matrix products at half their rate"
            findings.append(Finding("environment", NOTE, found, f"unset {name}"))
    return findings


def _blas() -> list[Finding]:
    if importlib.util.find_spec("threadpoolctl") is None:
        return [Finding("BLAS", NOTE, "not looked at", 'pip install "gpugrad[train]"')]
    import numpy as np
    from threadpoolctl import threadpool_info

    np.ones((2, 2)) @ np.ones((2, 2))
    pools = [p for p in threadpool_info() if p["user_api"] == "blas"]
    if not pools:
        return [Finding("BLAS", NOTE, "none that threadpoolctl knows")]
    return [
        Finding(
            "BLAS",
            GOOD,
            f"{p['internal_api']} {p.get('version') or ''} {p.get('architecture') or ''}, "
            f"{p['num_threads']} threads",
        )
        for p in pools
    ]


def _native() -> list[Finding]:
    from gpugrad.backend import native

    if not native.available():
        why = native.why_not()
        if "GPUGRAD_NATIVE" in why:
            return [Finding("native core", NOTE, f"off: {why}", "unset GPUGRAD_NATIVE")]
        fix = (
            "install a C compiler and Python's headers, then pip install --force-reinstall gpugrad"
        )
        return [Finding("native core", NOTE, f"everything runs on NumPy: {why}", fix)]
    about: Mapping[str, Any] = native.describe()
    found = f"{about['isa']}, {about['threads']} threads, products by {about['blas'] or 'itself'}"
    return [Finding("native core", GOOD, found)]


def _cpu_step() -> list[Finding]:
    return [_trains("cpu")]


def _trains(device: str) -> Finding:
    """Whether a compiled step lowers the loss as an uncompiled one does."""
    import gpugrad as gg

    losses = []
    for compiled in (False, True):
        model = gg.nn.MLP([4, 8, 3], generator=gg.random.Generator(0), device=device)
        optimizer = gg.optim.Adam(model, lr=0.05)
        x = gg.random.Generator(1).normal(size=(16, 4)).to(device)
        y = gg.asarray([0, 1, 2, 1] * 4, device=device)

        def step(
            x: gg.Tensor,
            y: gg.Tensor,
            model: gg.nn.Module = model,
            optimizer: gg.optim.Optimizer = optimizer,
        ) -> gg.Tensor:
            optimizer.zero_grad()
            loss = gg.nn.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        run = gg.compile(step) if compiled else step
        losses.append([run(x, y).item() for _ in range(20)])
    plain, fast = losses
    found = f"20 steps took the loss from {plain[0]:.4f} to {plain[-1]:.4f}"
    if not plain[-1] < plain[0] or abs(plain[-1] - fast[-1]) > 1e-3 * abs(plain[-1]):
        found += f", compiled to {fast[-1]:.4f}"
        fix = "GPUGRAD_NATIVE=0 gpugrad doctor, and report the difference"
        return Finding(f"training on {device}", BAD, found, fix)
    return Finding(f"training on {device}", GOOD, f"{found}, compiled or not")


def _cuda(device: str) -> Callable[[], list[Finding]]:
    """The CUDA check: no GPU is a problem only when one was asked for."""

    def cuda() -> list[Finding]:
        from gpugrad import backend
        from gpugrad.errors import DeviceError

        if device == "cpu":
            return []
        wheels = _cupy_wheels()
        if len(wheels) > 1:
            fix = f"pip uninstall {' '.join(wheels)}, then install the one for your driver"
            found = f"{len(wheels)} CuPy packages overwrite one another: {', '.join(wheels)}"
            return [Finding("CUDA", BAD, found, fix)]
        name = "cuda" if device == "auto" else device
        try:
            backend.get(name)
        except DeviceError as error:
            rule, _, fix = str(error).removeprefix("[device] ").partition("; try ")
            state = NOTE if device == "auto" else BAD
            return [Finding("CUDA", state, rule, fix)]
        xp = backend.get(name).xp
        stats = backend.memory_stats(name)
        memory = f"{stats['free'] >> 20:,} MiB of {stats['total'] >> 20:,} free"
        version = ".".join(map(str, divmod(xp.cuda.runtime.runtimeGetVersion() // 10, 100)))
        return [
            Finding("CUDA", GOOD, f"CuPy {xp.__version__}, CUDA runtime {version}, {memory}"),
            _trains(name),
        ]

    return cuda


def _gpu(device: str) -> Callable[[], list[Finding]]:
    """What ``--gpu`` asks for: each check of `gpu_checks` as a finding."""

    def gpu() -> list[Finding]:
        from gpugrad.cli import gpu_checks
        from gpugrad.errors import DeviceError

        findings = []
        try:
            every = list(gpu_checks.checks(device))
        except DeviceError:
            return []  # the CUDA check has said so
        for name, check in every:
            try:
                findings.append(Finding(name, GOOD, check()))
            except Exception as error:
                if os.environ.get("GPUGRAD_DEBUG") == "1":
                    traceback.print_exc()
                last = traceback.format_exception_only(error)[-1].strip()
                fix = "report this with the output of: GPUGRAD_DEBUG=1 gpugrad doctor --gpu"
                findings.append(Finding(name, BAD, last, fix))
        return findings

    return gpu


def _cupy_wheels() -> list[str]:
    names = {str(d.metadata["Name"]).lower() for d in importlib.metadata.distributions()}
    return sorted(n for n in names if n == "cupy" or n.startswith(("cupy-cuda", "cupy-rocm")))


# Optional packages and the extra that brings each.
_PACKAGES = {
    "safetensors": "train",
    "scikit-learn": "train",
    "rich": "train",
    "threadpoolctl": "train",
    "matplotlib": "bench",
    "onnx": "onnx",
    "pyarrow": "parquet",
}


def _extras() -> list[Finding]:
    findings = []
    for package, extra in _PACKAGES.items():
        try:
            findings.append(Finding(package, GOOD, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            fix = f'pip install "gpugrad[{extra}]"'
            findings.append(Finding(package, NOTE, "not installed", fix))
    return findings
