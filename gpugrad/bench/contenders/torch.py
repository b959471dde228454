"""PyTorch, eager and `torch.compile`."""

from itertools import pairwise
from typing import Any

import torch


class Mlp:
    phases = ("forward", "backward", "update")

    def __init__(self, problem: Any, threads: int = 0, mode: str = "") -> None:
        _prepare(self, problem, threads)
        sizes = [problem.x.shape[1], *map(len, problem.weights)]
        layers: list[Any] = []
        for a, b in pairwise(sizes):
            layers += [torch.nn.Linear(a, b), torch.nn.Sigmoid()]
        model = torch.nn.Sequential(*layers[:-1])
        with torch.no_grad():
            for layer, w, b in zip(layers[::2], problem.weights, problem.biases, strict=True):
                layer.weight.copy_(torch.from_numpy(w))
                layer.bias.copy_(torch.from_numpy(b))
        model.to(problem.device)
        x = torch.from_numpy(problem.x).to(problem.device)
        labels = torch.from_numpy(problem.labels).to(problem.device)
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[problem.optimizer]
        self.optimizer = kind(model.parameters(), lr=problem.lr)

        def loss() -> Any:
            return torch.nn.functional.cross_entropy(model(x), labels)

        self.forward_pass = torch.compile(loss, mode=mode) if mode else loss

    def forward(self) -> None:
        self.loss = self.forward_pass()

    def backward(self) -> None:
        self.optimizer.zero_grad()
        self.loss.backward()

    def update(self) -> None:
        self.optimizer.step()

    def step(self) -> None:
        self.loss = self.forward_pass()
        self.optimizer.zero_grad()
        self.loss.backward()
        self.optimizer.step()

    def value(self) -> float:
        return float(self.loss.item())


class Chain:
    def __init__(self, problem: Any, threads: int = 0) -> None:
        _prepare(self, problem, threads)
        self.links = int(problem.links)
        self.x = torch.from_numpy(problem.x).to(problem.device).requires_grad_()

    def step(self) -> None:
        self.x.grad = None
        y = self.x
        for _ in range(self.links):
            y = torch.tanh(y * 1.01)
        y.sum().backward()

    def value(self) -> float:
        return float(self.x.grad.sum().item())


def _prepare(contender: Any, problem: Any, threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)
    if problem.device != "cpu":
        if not torch.cuda.is_available():
            raise NotImplementedError("this PyTorch finds no CUDA device")
        contender.sync = torch.cuda.synchronize
