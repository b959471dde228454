"""NumPy as one would write the step by hand: a flat list of calls into preallocated buffers.

What a compiled step can reach without native code of its own. Weights lie (in, out), all parameters
in one array, so that the update is a handful of calls.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Call = tuple[Callable[..., Any], tuple[Any, ...]]


def _f4(x: float) -> Array:
    return np.asarray(x, "f4")  # NumPy converts a Python float at every call


class Mlp:
    phases = ("forward", "backward", "update")

    def __init__(self, problem: Any) -> None:
        n = len(problem.labels)
        sizes = [problem.x.shape[1], *map(len, problem.weights)]
        self.params, weights, biases = _flat(sizes)
        self.slopes, dweights, dbiases = _flat(sizes)
        for mine, given in zip(weights, problem.weights, strict=True):
            mine[...] = given.T
        for mine, given in zip(biases, problem.biases, strict=True):
            mine[...] = given

        one = _f4(1)
        outputs: list[Array] = [problem.x, *[np.empty((n, size), "f4") for size in sizes[1:]]]
        forward: list[Call] = []
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            x, z = outputs[i], outputs[i + 1]
            forward += [(np.matmul, (x, w, z)), (np.add, (z, b, z))]
            if i + 1 < len(weights):
                forward += _sigmoid(z)
        z, p = outputs[-1], np.empty((n, sizes[-1]), "f4")
        peak, total, picked = np.empty((n, 1), "f4"), np.empty((n, 1), "f4"), np.empty(n, "f4")
        logs, self.loss = np.empty(n, "f4"), np.empty((), "f4")
        place = np.arange(n) * sizes[-1] + problem.labels
        forward += [
            (np.maximum.reduce, (z, 1, None, peak, True)),
            (np.subtract, (z, peak, z)),
            (np.exp, (z, p)),
            (np.add.reduce, (p, 1, None, total, True)),
            (np.log, (total[:, 0], logs)),
            (np.take, (z.reshape(-1), place, None, picked, "clip")),  # "raise" would buffer
            (np.subtract, (logs, picked, logs)),
            (np.add.reduce, (logs, 0, None, self.loss)),
            (np.divide, (self.loss, _f4(n), self.loss)),
        ]

        right = np.zeros_like(p)
        right[np.arange(n), problem.labels] = 1
        ones = np.ones(n, "f4")
        backward: list[Call] = [
            (np.divide, (p, total, p)),
            (np.subtract, (p, right, p)),
            (np.multiply, (p, _f4(1 / n), p)),
        ]
        dz = p
        for i in reversed(range(len(weights))):
            x = outputs[i]
            backward += [
                (np.matmul, (x.T, dz, dweights[i])),
                (np.matmul, (ones, dz, dbiases[i])),
            ]
            if i:
                dx = np.empty_like(x)
                backward += [
                    (np.matmul, (dz, weights[i].T, dx)),
                    (np.multiply, (dx, x, dx)),
                    (np.subtract, (one, x, x)),
                    (np.multiply, (dx, x, dx)),
                ]
                dz = dx

        update = {"sgd": self._sgd, "adam": self._adam}[problem.optimizer](problem.lr)
        self._forward, self._backward, self._update = forward, backward, update
        self._calls = [*forward, *backward, *update]

    def _sgd(self, lr: float) -> list[Call]:
        p, g = self.params, self.slopes
        return [(np.multiply, (g, _f4(lr), g)), (np.subtract, (p, g, p))]

    def _adam(self, lr: float) -> list[Call]:
        p, g = self.params, self.slopes
        m, v, s = np.zeros_like(p), np.zeros_like(p), np.empty_like(p)
        rate, root, t = _f4(0), _f4(0), 0

        def tick() -> None:
            nonlocal t
            t += 1
            rate[...] = lr / (1 - 0.9**t)
            root[...] = (1 - 0.999**t) ** -0.5

        return [
            (tick, ()),
            (np.multiply, (m, _f4(0.9), m)),
            (np.multiply, (g, _f4(0.1), s)),
            (np.add, (m, s, m)),
            (np.multiply, (v, _f4(0.999), v)),
            (np.multiply, (g, g, g)),
            (np.multiply, (g, _f4(0.001), g)),
            (np.add, (v, g, v)),
            (np.sqrt, (v, g)),
            (np.multiply, (g, root, g)),
            (np.add, (g, _f4(1e-8), g)),
            (np.divide, (m, g, s)),
            (np.multiply, (s, rate, s)),
            (np.subtract, (p, s, p)),
        ]

    def forward(self) -> None:
        _run(self._forward)

    def backward(self) -> None:
        _run(self._backward)

    def update(self) -> None:
        _run(self._update)

    def step(self) -> None:
        _run(self._calls)

    def value(self) -> float:
        return float(self.loss)


def _sigmoid(z: Array) -> list[Call]:
    """σ by exp or by tanh: which of NumPy's two is the faster depends on the processor."""
    half, one = _f4(0.5), _f4(1)
    forms: list[list[Call]] = [
        [
            (np.negative, (z, z)),
            (np.exp, (z, z)),
            (np.add, (z, one, z)),
            (np.reciprocal, (z, z)),
        ],
        [
            (np.multiply, (z, half, z)),
            (np.tanh, (z, z)),
            (np.multiply, (z, half, z)),
            (np.add, (z, half, z)),
        ],
    ]
    z[...] = np.linspace(-4, 4, z.size, dtype="f4").reshape(z.shape)
    times = [[0.0] * 5, [0.0] * 5]
    for k in range(5):
        for form, spent in zip(forms, times, strict=True):
            start = time.perf_counter()
            _run(form)
            spent[k] = time.perf_counter() - start
    return min(zip(times, forms, strict=True), key=lambda pair: min(pair[0]))[1]


def _run(calls: list[Call]) -> None:
    for function, args in calls:
        function(*args)


def _flat(sizes: list[int]) -> tuple[Array, list[Array], list[Array]]:
    """One array, and the weights and biases that lie in it."""
    counts = [count for a, b in pairwise(sizes) for count in (a * b, b)]
    flat = np.zeros(sum(counts), "f4")
    parts = np.split(flat, np.cumsum(counts)[:-1])
    weights = [w.reshape(a, b) for w, (a, b) in zip(parts[::2], pairwise(sizes), strict=True)]
    return flat, weights, parts[1::2]
