"""``gpugrad doctor --gpu``: whether kernels, products and captured steps are right on this GPU.

Each check compares with NumPy or with an uncompiled step and raises `Wrong` in words; the
measurements are of the device itself. May import backend, compiler, nn and optim.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import gpugrad as gg
from gpugrad import backend
from gpugrad.backend import cublas, twin

Array = np.ndarray[Any, Any]
MIB = 1 << 20


CHECKS = (
    *("kernels", "float32_products", "training", "repeats", "undisturbed", "live_numbers"),
    *("smaller_batch", "failed_capture", "bad_labels", "random_bits"),
    *("rates", "latencies", "step_times"),
)


class Wrong(Exception):
    """What a check found, in words."""


def _check(good: Any, words: str) -> None:
    if not good:
        raise Wrong(words)


def checks(device: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Name and check, in order; a check gives what it saw."""
    place = backend.get(device)
    for name in CHECKS:
        yield name.replace("_", " "), partial(globals()[name], place)


# Right


def _same(found: Any, wanted: Any, tolerance: float, what: str) -> None:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    scale = 1 + np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
    good = np.allclose(found, wanted, tolerance, tolerance * scale, equal_nan=True)
    _check(good, f"{what}: {np.nanmax(np.abs(found - wanted)):.3g} away from NumPy")


def instructions() -> dict[str, tuple[list[Any], Any]]:
    """Arrays of a program's memory, and one instruction on them, of every kind."""
    rng = np.random.default_rng(0)
    m, n, k = 300, 130, 70

    def floats(*shape: int) -> Array:
        return rng.standard_normal(shape, np.float32)

    def at(base: int, row: int, col: int = 1, code: str = "f4") -> tuple[Any, ...]:
        return (base, 0, row, col, code, 0)

    out, sums = floats(m, n), floats(n)
    lines = (("sigmoid", 0, -1, -1), ("mul", 3, 1, -1), ("add", 4, 2, -1))
    chain_in = (at(0, n), at(1, n), at(2, 0, 0))
    totals = (("sum", "rows", 5, at(4, 0), 0.5, False),)
    labels = rng.integers(0, n, m)
    guesses = ("argmax", "f4", m, n, at(0, n), at(1, 1, 1, "i8"), False)
    right = (at(0, 1, 0, "i8"), at(1, 1, 0, "i8"))
    count = (("sum", "all", 2, at(2, 0, 0, "i8"), 1.0, False),)
    losses = ("f4", m, n, at(0, n), at(1, 1, 1, "i8"), at(2, 1), at(3, n), None, 0.25, False)
    return {
        "gemm": (
            [floats(m, k), floats(n, k), out],
            ("gemm", "f4", False, True, m, n, k, 0.5, None, at(0, k), at(1, k), 1.0, at(2, n), ""),
        ),
        "chain": (
            [floats(m, n), floats(m, n), floats(1), out, sums],
            ("chain", "f4", m, n, chain_in, (), lines, ((5, at(3, n)),), totals, False),
        ),
        "cross_entropy": ([floats(m, n), labels, floats(m), out], ("cross_entropy", *losses)),
        "softmax": ([floats(m, n), out], ("softmax", "f4", m, n, at(0, n), at(1, n), False, False)),
        "argmax": ([floats(m, n), labels.copy()], guesses),
        "count": (
            [labels, rng.integers(0, 3, m), np.zeros(1, np.int64)],
            ("chain", "i8", m, 1, right, (), (("lt", 1, 0, -1),), (), count, False),
        ),
        "copy": ([floats(n, m), out], ("copy", 4, m, n, at(0, 1, m), at(1, n), False)),
    }


def kernels(place: Any) -> str:
    """Every kind of instruction, on the device and in its NumPy twin."""
    for name, (arrays, instruction) in instructions().items():
        results = []
        for on_device in (False, True):
            memory = [place.asarray(a, copy=True) if on_device else a.copy() for a in arrays]
            segments = (("serial", (instruction,), 0, 0, ()),)
            engine = place.program if on_device else twin.Program
            program = engine(segments, len(memory), 0, 1)
            for i, array in enumerate(memory):
                program.bind(i, array)
            program.run()
            results.append([place.to_numpy(a) if on_device else a for a in memory])
        for found, wanted in zip(results[1], results[0], strict=True):
            _same(found, wanted, 2e-5, name)
    return ", ".join(instructions())


def float32_products(place: Any) -> str:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 512, 512), np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    found = gg.compile(lambda a, b: a @ b)(*[gg.asarray(x, device=place.device) for x in (a, b)])
    worst = np.abs(found.to("cpu").numpy() - exact).max() / np.abs(exact).max()
    _check(worst < 1e-5, f"relative error {worst:.1e}: this is not float32")
    return f"relative error {worst:.1e}, below 1e-5: TF32 is not used unasked"


class Run:
    """A small net that is trained on one batch, compiled or not."""

    def __init__(
        self, device: str, compiled: bool = True, activation: str = "sigmoid", width: int = 33,
        half: bool = False,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(0)
        self.model = gg.nn.MLP(
            [20, width, 17, 5],
            activation=activation,
            generator=gg.random.Generator(0),
            device=device,
        )
        self.optimizer: gg.optim.Optimizer = gg.optim.AdamW(self.model, lr=0.01)
        self.x = gg.asarray(rng.standard_normal((64, 20), np.float32), device=device)
        self.labels = gg.asarray(rng.integers(0, 5, 64), device=device)
        self.step: Any = gg.compile(self._step) if compiled else self._step
        self.half = half

    def _step(self, x: gg.Tensor, labels: gg.Tensor) -> gg.Tensor:
        self.optimizer.zero_grad()
        with gg.autocast(enabled=self.half):
            loss = gg.nn.cross_entropy(self.model(x), labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def __call__(self, steps: int) -> list[Array]:
        losses = [self.step(self.x, self.labels) for _ in range(steps)]
        own = [p.detach().to("cpu").numpy() for p in self.model.parameters()]
        return [np.array([loss.item() for loss in losses]), *own]


def training(place: Any) -> str:
    """Compiled, uncompiled and on the CPU."""
    for activation in ("sigmoid", "tanh", "relu", "gelu", "silu"):
        runs = [Run("cpu", False, activation), Run(place.device, False, activation)]
        captured = Run(place.device, True, activation)
        with gg.config.override(fuse_products=False):
            wanted, eager, found = (run(8) for run in (*runs, captured))
        for a, b, c in zip(wanted, eager, found, strict=True):
            _same(b, a, 1e-4, f"{activation}, uncompiled")
            _same(c, a, 1e-4, f"{activation}, compiled")
        stats = captured.step.stats()
        _check(stats["graphs"] == 1, f"not one graph: {stats}")
    with gg.config.override(fuse_products=True):
        # Forward and backward in one launch each: as narrow as can be, wider, of half precision.
        for activation, width, half in (
            ("gelu", 33, False),
            ("elu", 100, False),
            ("tanh", 33, True),
        ):
            runs = [
                Run(device, device != "cpu", activation, width, half)
                for device in ("cpu", place.device)
            ]
            what = f"{activation}, layers of {width} in one launch{', float16' * half}"
            for a, b in zip(*(run(8) for run in runs), strict=True):
                _same(b, a, 2e-2 if half else 1e-4, what)
            launches = runs[1].step.stats()["launches"]
            _check(launches.get("layers") == 2, f"{what}: {launches}")
    chosen = []
    for fuse, what in ((True, "with what follows in one kernel"), ("auto", "as is fastest")):
        for width in (33, 133):  # several layers in one launch, and a product each
            runs = [Run("cpu", False, width=width), Run(place.device, width=width)]
            with gg.config.override(fuse_products=fuse):
                results = [run(8) for run in runs]
            for a, b in zip(*results, strict=True):
                _same(b, a, 1e-4, f"products {what}, {width} wide")
            chosen.append(runs[1].step.stats()["launches"])
    return (
        "8 steps with 5 activations, captured in one graph each, agree with the CPU's; "
        f"fastest: {_counted(chosen[2])} when narrow, {_counted(chosen[3])} when wider"
    )


def _counted(launches: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in launches.items())


def _alike(one: list[Array], other: list[Array], what: str) -> None:
    _check(all(map(np.array_equal, one, other)), what)


def repeats(place: Any) -> str:
    first = Run(place.device)(20)
    for _ in range(19):
        _alike(first, Run(place.device)(20), "two runs differ")
    return "20 runs of 20 steps, the same bits"


def undisturbed(place: Any) -> str:
    """Arrays made and freed between replays do not reach a graph's memory."""
    wanted = Run(place.device)(100)
    run = Run(place.device)
    run(3)
    before = _pool_bytes(place)
    losses = [run(1)[0] for _ in range(47)]
    after = _pool_bytes(place)
    _check(after == before, f"replays made the pool {before} → {after} bytes")
    for i in range(50):
        losses.append(run(1)[0])
        junk = [gg.full((1 + i, 1000), math.nan, device=place.device) for _ in range(8)]
        del junk
    _alike([wanted[0][3:], *wanted[1:]], [np.concatenate(losses), *run(0)[1:]], "bits changed")
    return f"100 replays, 50 with arrays made between them; CuPy's pool stays at {before} bytes"


def _pool_bytes(place: Any) -> int:
    stats = place.memory_stats()
    return int(stats["used"] + stats["kept"])


def live_numbers(place: Any) -> str:
    runs = [Run(place.device, compiled) for compiled in (False, True)]
    results = []
    for run in runs:
        seen = []
        for lr in (0.01, 0.01, 0.01, 0.1, 0.0, 0.02):
            run.optimizer.lr = lr
            seen.append(run(1)[0])
        results.append([*seen, *run(0)[1:]])
    for a, b in zip(*results, strict=True):
        _same(b, a, 1e-4, "lr changed between replays")
    return "a learning rate that changes between replays is seen"


def smaller_batch(place: Any) -> str:
    run = Run(place.device)
    run(3)
    x, labels = run.x[:7], run.labels[:7]
    found = run.step(x, labels).item()
    other = Run(place.device, compiled=False)
    other(3)
    _same(found, other.step(x, labels).item(), 1e-4, "the smaller batch")
    return "a smaller batch is recorded as its own graph"


def failed_capture(place: Any) -> str:
    def fails(streams: Any) -> None:
        raise RuntimeError("as planned")

    try:
        place.capture(fails)
    except RuntimeError as error:
        _check("as planned" in str(error), f"the capture failed with {error}")
    total = gg.sum(gg.ones(1000, device=place.device)).item()
    _check(total == 1000, f"a sum of ones gives {total}")
    _check(Run(place.device)(3)[0][0] > 0, "no step runs after it")
    return "an exception while capturing leaves the streams usable"


def bad_labels(place: Any) -> str:
    run = Run(place.device)
    run(3)
    labels = run.labels + 0
    labels[3] = 7
    try:
        run.step(run.x, labels).item()
    except gg.errors.BoundsError as error:
        run(1)
        return f"refused: {error}"
    raise Wrong("a label out of range went unnoticed")


def random_bits(place: Any) -> str:
    for dtype in (np.float32, np.float64):
        found = gg.random.Generator(3, place.device).uniform(size=1001, dtype=dtype)
        wanted = np.random.Generator(np.random.Philox(3)).random(1001, dtype)
        _check(np.array_equal(found.to("cpu").numpy(), wanted), f"{dtype.__name__} bits differ")
    return "uniforms are numpy.random.Philox's, bit for bit"


# Fast


# Name, dtype, and what operands may be rounded to.
_KINDS = (
    *(("float32", "f4", "float32"), ("TF32", "f4", "tf32"), ("bfloat16", "f4", "bfloat16")),
    ("float16", "f2", "float32"),
)


def _seconds(place: Any, work: Callable[[], Any], repeat: int) -> float:
    """The median over five rounds of ``repeat`` calls, waited for at the end of each round."""
    work()
    rounds = []
    for _ in range(5):
        place.synchronize()
        start = time.perf_counter()
        for _ in range(repeat):
            work()
        place.synchronize()
        rounds.append((time.perf_counter() - start) / repeat)
    return float(np.median(rounds))


def rates(place: Any) -> str:
    n = 256 * MIB // 4
    a, b = (place.asarray(_values((n,), "f4")) for _ in range(2))
    copied = 8 * n / _seconds(place, lambda: place.copy_into(b, a), 10)
    shown = [f"copy {copied / 1e9:.0f} GB/s"]
    side = 4096
    for name, dtype, matmul in _KINDS:
        t = _seconds(place, _product(place, side, side, side, dtype, matmul), 10)
        shown.append(f"{name} {2e-12 * side**3 / t:.0f} TFLOP/s")
    return ", ".join(shown)


def _values(shape: tuple[int, ...], dtype: str) -> Array:
    """Random ones: on zeros a matrix product runs faster than it ever will."""
    return np.random.default_rng(0).random(shape, np.float32).astype(dtype)


def _product(place: Any, m: int, n: int, k: int, dtype: str, rounded_to: str) -> Callable[[], None]:
    kind = np.dtype(dtype)
    x, w, y = (place.asarray(_values(shape, dtype)) for shape in ((m, k), (n, k), (m, n)))
    at = [place.address(array) for array in (x, w, y)]
    x_at, w_at, y_at = map(cublas.alignment, at)
    product = cublas.Product(
        m, n, k, False, True, k, k, n, kind, False, (x_at, w_at, y_at), rounded_to
    )
    matmul = place.cublas.matmul(product)
    room = place.memory(matmul.workspace_bytes)
    held = (x, w, y, room)

    def call() -> None:
        matmul(1.0, at[0], at[1], 0.0, at[2], place.address(held[3]), place.stream())

    return call


def latencies(place: Any) -> str:
    """What one launch costs the host, what one node of a graph costs, and small products."""
    target = place.numbers(64)
    values = np.zeros(64)
    launch = _seconds(place, lambda: place.send(values, target), 1000)
    times = []
    for count in (10, 210):
        graph = place.capture(partial(_nodes, place, target, count))
        times.append(_seconds(place, graph.launch, 100))
    node = (times[1] - times[0]) / 200
    shown = [f"launch {launch * 1e6:.1f} µs", f"graph node {node * 1e6:.2f} µs"]
    for name, dtype, matmul in _KINDS:
        t = _seconds(place, _product(place, 128, 512, 784, dtype, matmul), 200)
        shown.append(f"128×512×784 in {name} {t * 1e6:.1f} µs")
    return ", ".join(shown)


def _nodes(place: Any, target: Any, count: int, streams: Any) -> None:
    main, side = streams
    side.wait_event(main.record())
    with main:
        for _ in range(count):
            place.send(np.zeros(64), target)
    main.wait_event(side.record())


def step_times(place: Any) -> str:
    """One training step, uncompiled and captured: of middling layers, and of narrow ones."""
    return "; ".join(
        _step_times(place, batch, sizes)
        for batch, sizes in ((128, [784, 512, 512, 10]), (1 << 16, [64, 64, 64, 64, 10]))
    )


def _step_times(place: Any, batch: int, sizes: list[int]) -> str:
    shown = []
    rng = np.random.default_rng(0)
    x = gg.asarray(rng.standard_normal((batch, sizes[0]), np.float32), device=place.device)
    labels = gg.asarray(rng.integers(0, 10, batch), device=place.device)
    for name, compiled, flags in (
        ("uncompiled", False, {}),
        ("captured, products by cuBLASLt", True, {"fuse_products": False}),
        ("by kernels of our own", True, {"fuse_products": True}),
        ("as is fastest", True, {"fuse_products": "auto"}),
        ("as is fastest in TF32", True, {"fuse_products": "auto", "matmul": "tf32"}),
    ):
        run = Run(place.device, compiled)
        run.model = gg.nn.MLP(sizes, generator=gg.random.Generator(0), device=place.device)
        run.optimizer = gg.optim.SGD(run.model, lr=0.1)
        with gg.config.override(**flags):
            t = _seconds(place, partial(run.step, x, labels), 50)
        shown.append(f"{name} {t * 1e6:.0f} µs")
    return f"{batch}:{'-'.join(map(str, sizes))} " + ", ".join(shown)
