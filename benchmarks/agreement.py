"""Random programs, run by gpugrad and by PyTorch: value, gradient, jvp and Hessian-vector product.

    python benchmarks/agreement.py [--programs 10000] [--seed 0]

Run it where both are installed. A program draws 3 to 9 steps (elementwise, reductions, shapes,
matrix products, indexing with duplicates, selection, in-place writes) on one or two float64 arrays.
A figure that differs by more than rounding is printed with the program, and the exit code is 1.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import gpugrad as gg

# name -> (on gpugrad tensors, on torch tensors); both sides written with their library's own names
UNARY: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "sin": (gg.sin, torch.sin),
    "cos": (gg.cos, torch.cos),
    "tanh": (gg.tanh, torch.tanh),
    "sigmoid": (gg.sigmoid, torch.sigmoid),
    "softplus": (gg.nn.softplus, torch.nn.functional.softplus),
    "exp": (lambda x: gg.exp(gg.tanh(x)), lambda x: torch.exp(torch.tanh(x))),
    "log": (lambda x: gg.log(gg.abs(x) + 1), lambda x: torch.log(torch.abs(x) + 1)),
    "sqrt": (lambda x: gg.sqrt(gg.square(x) + 0.5), lambda x: torch.sqrt(torch.square(x) + 0.5)),
    "atan": (gg.atan, torch.atan),
    "cube": (lambda x: gg.tanh(x) ** 3, lambda x: torch.tanh(x) ** 3),
    "inverse": (lambda x: 1 / (x * x + 1), lambda x: 1 / (x * x + 1)),
    "gelu": (gg.nn.gelu, lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    "silu": (gg.nn.silu, torch.nn.functional.silu),
    "elu": (gg.nn.elu, torch.nn.functional.elu),
    "relu": (gg.nn.relu, torch.relu),
    "clip": (lambda x: gg.clip(x, -0.5, 0.7), lambda x: torch.clip(x, -0.5, 0.7)),
    "T": (lambda x: x.T if x.ndim == 2 else x, lambda x: x.T if x.ndim == 2 else x),
    "flip": (lambda x: gg.flip(x, axis=0), lambda x: torch.flip(x, (0,))),
    "roll": (lambda x: gg.roll(x, 1, axis=0), lambda x: torch.roll(x, 1, 0)),
    "flat": (lambda x: x.reshape(-1), lambda x: x.reshape(-1)),
    "column": (lambda x: x[..., None], lambda x: x[..., None]),
    "sum0": (lambda x: gg.sum(x, axis=0, keepdims=True), lambda x: x.sum(0, keepdim=True)),
    "mean": (lambda x: gg.mean(x, axis=-1), lambda x: x.mean(-1)),
    "max": (lambda x: gg.max(x, axis=0), lambda x: x.amax(0)),
    "prod": (lambda x: gg.prod(gg.tanh(x), axis=0), lambda x: torch.tanh(x).prod(0)),
    # of equal values std has no second derivative to agree on
    "std": (
        lambda x: gg.sqrt(gg.var(x, axis=0) + 0.1),
        lambda x: torch.sqrt(x.var(0, correction=0) + 0.1),
    ),
    "lse": (lambda x: gg.logsumexp(x, axis=-1), lambda x: x.logsumexp(-1)),
    "softmax": (lambda x: gg.nn.softmax(x), lambda x: x.softmax(-1)),
    "log_softmax": (lambda x: gg.nn.log_softmax(x), lambda x: x.log_softmax(-1)),
    "cumsum": (lambda x: gg.cumulative_sum(x, axis=0), lambda x: x.cumsum(0)),
    "stack": (lambda x: gg.stack([x, x * 2], axis=0), lambda x: torch.stack([x, x * 2], 0)),
    "concat": (lambda x: gg.concat([x, gg.sin(x)]), lambda x: torch.cat([x, torch.sin(x)])),
    "slice": (lambda x: x[::2], lambda x: x[::2]),
    "twice": (lambda x: x[[0, -1, 0]], lambda x: x[[0, -1, 0]]),
    "gram": (
        lambda x: x @ x.T if x.ndim == 2 else x * x,
        lambda x: x @ x.T if x.ndim == 2 else x * x,
    ),
    "where": (
        lambda x: gg.where(x > 0, gg.sqrt(gg.abs(x) + 1e-3), x * x),
        lambda x: torch.where(x > 0, torch.sqrt(torch.abs(x) + 1e-3), x * x),
    ),
    "tril": (
        lambda x: gg.tril(x) if x.ndim > 1 else x,
        lambda x: torch.tril(x) if x.ndim > 1 else x,
    ),
}

BINARY: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "add": (lambda a, b: a + b, lambda a, b: a + b),
    "sub": (lambda a, b: a - b, lambda a, b: a - b),
    "mul": (lambda a, b: a * b, lambda a, b: a * b),
    "div": (lambda a, b: a / (b * b + 1), lambda a, b: a / (b * b + 1)),
    "maximum": (gg.maximum, torch.maximum),
    "minimum": (gg.minimum, torch.minimum),
    "pow": (
        lambda a, b: (a * a + 0.5) ** gg.tanh(b),
        lambda a, b: (a * a + 0.5) ** torch.tanh(b),
    ),
    "hypot": (lambda a, b: gg.hypot(a, b + 3), lambda a, b: torch.hypot(a, b + 3)),
    "atan2": (lambda a, b: gg.atan2(a, b * b + 1), lambda a, b: torch.atan2(a, b * b + 1)),
}


def write_ours(x: Any, v: Any) -> Any:
    x = x * 1
    x[0] = v
    x += 1
    return x


def write_torch(x: Any, v: Any) -> Any:
    x = x.clone()
    x[0] = v
    return x + 1


Step = tuple[str, str, int, int]


def draw(rng: np.random.Generator) -> tuple[list[Any], list[Step]]:
    """Inputs, and steps of (kind, name, register, register)."""
    shapes = [(3,), (4,), (2, 3), (3, 3), (4, 2), (3, 1), (1, 3)]
    inputs = [rng.normal(size=shapes[rng.integers(len(shapes))]) for _ in range(rng.integers(1, 3))]
    for x in inputs:  # exact zeros: corners, and cotangents that vanish
        x[rng.random(x.shape) < 0.15] = 0.0
    steps: list[Step] = []
    for k in range(rng.integers(3, 10)):
        count = len(inputs) + k
        kind = str(rng.choice(["unary", "unary", "binary", "write"]))
        names = list(BINARY if kind == "binary" else UNARY) if kind != "write" else ["write"]
        at = int(rng.integers(max(0, count - 3), count))
        steps.append((kind, str(rng.choice(names)), at, int(rng.integers(count))))
    return inputs, steps


def program(steps: list[Step], ours: bool) -> Callable[..., Any]:
    """The scalar function that the steps describe, for one of the libraries."""
    side = 0 if ours else 1

    def f(*xs: Any) -> Any:
        registers = list(xs)
        for kind, name, i, j in steps:
            a, b = registers[i], registers[j]
            if kind == "binary" and _broadcasts(a.shape, b.shape):
                a = BINARY[name][side](a, b)
            elif kind == "write":
                a = (write_ours, write_torch)[side](a, b.sum() if len(b.shape) else b)
            elif kind == "unary" and len(a.shape):
                a = UNARY[name][side](a)
            if a.shape == () or np.prod(a.shape) > 400:
                a = a.sum().reshape(1)
            registers.append(a / (1 + 0.1 * len(registers)))
        total = registers[-1].sum()
        for r in registers[:-1]:
            total = total + (gg.sin(r) if ours else torch.sin(r)).sum() * 0.1
        return total

    return f


def _broadcasts(a: Any, b: Any) -> bool:
    try:
        return bool(np.prod(np.broadcast_shapes(tuple(a), tuple(b))) <= 400)
    except ValueError:
        return False


def compare(seed: int) -> list[str]:
    """What differs between the libraries on program number ``seed``."""
    rng = np.random.default_rng(seed)
    inputs, steps = draw(rng)
    tangents = tuple(rng.normal(size=x.shape) for x in inputs)
    every = tuple(range(len(inputs)))
    ours, theirs = program(steps, True), program(steps, False)

    value, gradient = gg.value_and_grad(ours, every)(*inputs)
    _, pushed = gg.jvp(ours, tuple(inputs), tangents)
    product = gg.hvp(ours, tuple(inputs), tangents)

    xs = tuple(torch.tensor(x) for x in inputs)
    vs = tuple(torch.tensor(v) for v in tangents)
    slope = torch.func.grad(theirs, argnums=every)
    wanted, wanted_pushed = torch.func.jvp(theirs, xs, vs)
    pairs = [("value", value, wanted), ("jvp", pushed, wanted_pushed)]
    pairs += [("gradient", a, b) for a, b in zip(gradient, slope(*xs), strict=True)]
    second = torch.func.jvp(slope, xs, vs)[1]
    pairs += [("hvp", a, b) for a, b in zip(product, second, strict=True)]
    problems = []
    for what, a, b in pairs:
        a, b = np.asarray(a), b.detach().numpy()
        scale = 1 + np.max(np.abs(b), initial=0.0)
        if a.shape != b.shape or not np.allclose(a, b, rtol=1e-8, atol=1e-9 * scale):
            problems.append(f"{what}: {a.ravel()[:4]} against {b.ravel()[:4]}")
    return [f"program {seed}, {steps}: {problem}" for problem in problems]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    wrong = 0
    for seed in range(options.seed, options.seed + options.programs):
        for line in compare(seed):
            wrong += 1
            print(line, flush=True)
    print(f"{options.programs} programs, {wrong} figures differ from PyTorch {torch.__version__}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
