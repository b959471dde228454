"""What is computed: cases with their data, their float64 answer, their work. Imports NumPy only.

A new suite is a row of `SUITES`; a new kind of case is a class here and one of the same name in the
contenders that can run it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray[Any, Any]

CHECKED_STEPS = 4  # losses compared: before the first update and after each of three
RATES = {"sgd": 0.1, "adam": 0.001}


@dataclass(frozen=True)
class Mlp:
    """A training step of an MLP: sigmoid hidden layers, softmax cross-entropy, float32."""

    batch: int
    sizes: tuple[int, ...]

    unit: ClassVar[str] = "step"
    per: ClassVar[int] = 1  # units in what is timed
    tolerance: ClassVar[float] = 1e-4  # relative, of float32 losses

    @property
    def name(self) -> str:
        return f"{self.batch}:" + "-".join(map(str, self.sizes))

    @classmethod
    def parse(cls, text: str) -> "Mlp | None":
        """``"128:784-128-10"``, or None for anything else."""
        batch, _, sizes = text.partition(":")
        parts = [batch, *sizes.split("-")]
        if len(parts) < 3 or not all(p.isdecimal() and int(p) > 0 for p in parts):
            return None
        return cls(int(batch), tuple(map(int, parts[1:])))

    @property
    def parameters(self) -> int:
        return sum(a * b + b for a, b in pairwise(self.sizes))

    @property
    def flop(self) -> int:
        """Of the matrix products: three a layer, but none for the gradient of the input."""
        products = sum(a * b for a, b in pairwise(self.sizes))
        return 2 * self.batch * (3 * products - self.sizes[0] * self.sizes[1])

    @property
    def bytes(self) -> int:
        """The least that must move: input read; activations and weights written and read."""
        return 4 * (self.batch * (self.sizes[0] + 2 * sum(self.sizes[1:])) + 2 * self.parameters)

    def data(self) -> dict[str, Array]:
        """Inputs, labels, and weights (out, in) uniform in ±1/√in, as PyTorch starts them."""
        rng = np.random.default_rng(0)
        arrays: dict[str, Array] = {
            "x": rng.standard_normal((self.batch, self.sizes[0]), "f4"),
            "labels": rng.integers(0, self.sizes[-1], self.batch),
        }
        for i, (a, b) in enumerate(pairwise(self.sizes)):
            bound = np.float32(a**-0.5)
            arrays[f"weight{i}"] = (2 * rng.random((b, a), "f4") - 1) * bound
            arrays[f"bias{i}"] = (2 * rng.random(b, "f4") - 1) * bound
        return arrays

    def answer(self, data: Mapping[str, Array], optimizer: str) -> list[float]:
        """The losses of the first steps, computed in float64."""
        rows, labels = np.arange(self.batch), data["labels"]
        params = [
            data[f"{name}{i}"].astype("f8")
            for i in range(len(self.sizes) - 1)
            for name in ("weight", "bias")
        ]
        moments = [(np.zeros_like(p), np.zeros_like(p)) for p in params]
        losses = []
        for t in range(1, CHECKED_STEPS + 1):
            inputs = [data["x"].astype("f8")]
            for w, b in zip(params[::2], params[1::2], strict=True):
                z = inputs[-1] @ w.T + b
                inputs.append(1 / (1 + np.exp(-z)))
            z = z - z.max(axis=1, keepdims=True)
            dz = np.exp(z)
            total = dz.sum(axis=1)
            losses.append(float(np.mean(np.log(total) - z[rows, labels])))
            dz /= total[:, None]
            dz[rows, labels] -= 1
            dz /= self.batch
            gradients: list[Array] = []
            for x, w in zip(inputs[-2::-1], params[-2::-2], strict=True):
                gradients[:0] = [dz.T @ x, dz.sum(axis=0)]
                dz = dz @ w * (x * (1 - x))
            for p, g, (m, v) in zip(params, gradients, moments, strict=True):
                p -= RATES[optimizer] * (g if optimizer == "sgd" else _adam(g, m, v, t))
        return losses


def _adam(g: Array, m: Array, v: Array, t: int) -> Array:
    """Kingma and Ba 2015, algorithm 1, with the constants every library starts from."""
    m += 0.1 * (g - m)
    v += 0.001 * (g * g - v)
    step: Array = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return step


@dataclass(frozen=True)
class Chain:
    """Forward and backward through ``y = tanh(1.01 y)`` on ten values: what the tape costs."""

    links: int = 1000

    unit: ClassVar[str] = "op"
    tolerance: ClassVar[float] = 1e-2  # a product of a thousand float32 slopes

    @property
    def name(self) -> str:
        return f"tape:{self.links}"

    @property
    def per(self) -> int:
        return 2 * self.links

    @classmethod
    def parse(cls, text: str) -> "Chain | None":
        """``"tape:1000"``, or None for anything else."""
        kind, _, links = text.partition(":")
        return cls(int(links)) if kind == "tape" and links.isdecimal() and int(links) else None

    def data(self) -> dict[str, Array]:
        return {"x": np.ones(10, "f4"), "links": np.asarray(self.links)}

    def answer(self, data: Mapping[str, Array], optimizer: str) -> list[float]:
        """The gradient of the sum, added up."""
        y = data["x"].astype("f8")
        slope = np.ones_like(y)
        for _ in range(self.links):
            y = np.tanh(y * 1.01)
            slope = slope * 1.01 * (1 - y * y)
        return [float(np.sum(slope))] * CHECKED_STEPS


Case = Mlp | Chain

SUITES: dict[str, tuple[Case, ...]] = {
    # what people train on a CPU, from launch-bound to GEMM-bound
    "mlp": (
        Mlp(32, (2, 16, 16, 2)),
        Mlp(32, (64, 64, 64, 10)),
        Mlp(128, (64, 128, 128, 10)),
        Mlp(128, (784, 128, 10)),
        Mlp(128, (784, 512, 512, 10)),
        Mlp(1024, (784, 512, 512, 10)),
        Mlp(256, (1024, 2048, 2048, 1024, 10)),
        Mlp(16384, (64, 64, 64, 64, 64, 10)),
    ),
    # what a GPU is for: small and launch-bound, narrow with a huge batch, wide
    "gpu": (
        Mlp(128, (784, 512, 512, 10)),
        Mlp(1 << 14, (64, 64, 64, 64, 64)),
        Mlp(1 << 16, (64, 64, 64, 64, 64)),
        Mlp(1 << 18, (64, 64, 64, 64, 64)),
        Mlp(4096, (4096, 4096, 4096, 4096, 4096)),
    ),
    "tape": (Chain(),),
}


def find(name: str) -> Case | None:
    """The case called ``name``: one of a suite, or of any other size."""
    return Mlp.parse(name) or Chain.parse(name)
