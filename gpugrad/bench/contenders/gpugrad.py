"""gpugrad, eager and compiled."""

from typing import Any

import gpugrad as gg
from gpugrad import backend


class Mlp:
    phases: tuple[str, ...] = ("forward", "backward", "update")

    def __init__(self, problem: Any, compiled: bool = False, steps: int = 1) -> None:
        device, weights, self.steps_a_call = problem.device, problem.weights, steps
        if compiled and not hasattr(gg, "compile"):
            raise NotImplementedError("this gpugrad has no gg.compile")
        if device != "cpu":
            self.sync = backend.get(device).synchronize
        self.x = gg.asarray(problem.x, device=device)
        self.labels = gg.asarray(problem.labels, device=device)
        self.model = gg.nn.MLP([weights[0].shape[1], *map(len, weights)], device=device)
        layers = zip(weights, problem.biases, strict=True)
        self.model.load_state_dict(
            {
                f"{2 * i}.{name}": value
                for i, layer in enumerate(layers)
                for name, value in zip(("weight", "bias"), layer, strict=True)
            }
        )
        kind = {"sgd": gg.optim.SGD, "adam": gg.optim.Adam}[problem.optimizer]
        self.optimizer = kind(self.model, lr=problem.lr)
        if compiled:
            self.phases = ()
            run = gg.compile(self._step if steps == 1 else self._several)

            def step() -> None:
                self.loss = run(self.x, self.labels)

            self.step = step  # type: ignore[method-assign]

    def _step(self, x: Any, labels: Any) -> Any:
        self.optimizer.zero_grad()
        loss = gg.nn.cross_entropy(self.model(x), labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def _several(self, x: Any, labels: Any) -> Any:
        return gg.stack([self._step(x, labels).detach() for _ in range(self.steps_a_call)])

    def forward(self) -> None:
        self.loss = gg.nn.cross_entropy(self.model(self.x), self.labels)

    def backward(self) -> None:
        self.optimizer.zero_grad()
        self.loss.backward()

    def update(self) -> None:
        self.optimizer.step()

    def step(self) -> None:
        self.loss = self._step(self.x, self.labels)

    def value(self) -> Any:
        return self.loss.tolist()


class Chain:
    def __init__(self, problem: Any) -> None:
        self.links = int(problem.links)
        self.x = gg.asarray(problem.x, device=problem.device, requires_grad=True)
        if problem.device != "cpu":
            self.sync = backend.get(problem.device).synchronize

    def step(self) -> None:
        self.x.grad = None
        y = self.x
        for _ in range(self.links):
            y = gg.tanh(y * 1.01)
        y.sum().backward()

    def value(self) -> float:
        assert self.x.grad is not None
        return float(self.x.grad.sum().item())
