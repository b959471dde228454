"""HIPS autograd."""

from typing import Any

import autograd.numpy as np
from autograd.differential_operators import make_vjp


class Mlp:
    phases = ("forward", "backward", "update")

    def __init__(self, problem: Any) -> None:
        self.params = [
            part
            for w, b in zip(problem.weights, problem.biases, strict=True)
            for part in (np.ascontiguousarray(w.T), b)
        ]
        x, labels, rows = problem.x, problem.labels, np.arange(len(problem.labels))

        def loss_of(params: Any) -> Any:
            h = x
            for i in range(0, len(params) - 2, 2):
                h = 1 / (1 + np.exp(-(np.dot(h, params[i]) + params[i + 1])))
            z = np.dot(h, params[-2]) + params[-1]
            z = z - np.max(z, axis=1, keepdims=True)
            return np.mean(np.log(np.sum(np.exp(z), axis=1)) - z[rows, labels])

        self.trace = make_vjp(loss_of)
        self.lr = np.float32(problem.lr)
        self.moments = [(np.zeros_like(p), np.zeros_like(p)) for p in self.params]
        self.t = 0
        self.update = {"sgd": self._sgd, "adam": self._adam}[problem.optimizer]

    def forward(self) -> None:
        self.pullback, self.loss = self.trace(self.params)

    def backward(self) -> None:
        self.slopes = self.pullback(np.float32(1))

    def _sgd(self) -> None:
        for p, g in zip(self.params, self.slopes, strict=True):
            p -= self.lr * g

    def _adam(self) -> None:
        self.t += 1
        for p, g, (m, v) in zip(self.params, self.slopes, self.moments, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            root = np.sqrt(v / (1 - 0.999**self.t))
            p -= self.lr / (1 - 0.9**self.t) * m / (root + 1e-8)

    def step(self) -> None:
        self.forward()
        self.backward()
        self.update()

    def value(self) -> float:
        return float(self.loss)


class Chain:
    def __init__(self, problem: Any) -> None:
        links = int(problem.links)

        def total(x: Any) -> Any:
            y = x
            for _ in range(links):
                y = np.tanh(y * 1.01)
            return y.sum()

        self.trace, self.x = make_vjp(total), problem.x

    def step(self) -> None:
        pullback, _ = self.trace(self.x)
        self.slope = pullback(np.float32(1))

    def value(self) -> float:
        return float(self.slope.sum())
