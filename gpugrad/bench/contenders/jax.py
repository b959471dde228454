"""JAX: the whole step under `jit`, its parameters donated."""

from typing import Any

import jax
import jax.numpy as jnp


class Mlp:
    def __init__(self, problem: Any) -> None:
        kind = "gpu" if problem.device.startswith("cuda") else "cpu"
        try:
            device = jax.devices(kind)[int(problem.device.partition(":")[2] or 0)]
        except (RuntimeError, IndexError) as error:
            raise NotImplementedError(f"this JAX finds no {problem.device}: {error}") from None
        layers = [(w.T, b) for w, b in zip(problem.weights, problem.biases, strict=True)]
        x, labels, params = jax.device_put((problem.x, problem.labels, layers), device)
        rows, lr = jnp.arange(len(labels)), problem.lr

        def loss_of(params: Any, x: Any, labels: Any) -> Any:
            for w, b in params[:-1]:
                x = jax.nn.sigmoid(x @ w + b)
            w, b = params[-1]
            return -jnp.mean(jax.nn.log_softmax(x @ w + b)[rows, labels])

        def sgd(params: Any, slopes: Any, state: Any) -> Any:
            return jax.tree.map(lambda p, g: p - lr * g, params, slopes), state

        def adam(params: Any, slopes: Any, state: Any) -> Any:
            m, v, t = state
            t = t + 1
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, slopes)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, slopes)
            rate, root = lr / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
            moved = jax.tree.map(
                lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), params, m, v
            )
            return moved, (m, v, t)

        update = {"sgd": sgd, "adam": adam}[problem.optimizer]

        def step(params: Any, state: Any, x: Any, labels: Any) -> Any:
            loss, slopes = jax.value_and_grad(loss_of)(params, x, labels)
            return loss, *update(params, slopes, state)

        self._step = jax.jit(step, donate_argnums=(0, 1))
        zeros = jax.tree.map(jnp.zeros_like, params)
        again = jax.tree.map(jnp.zeros_like, params)  # a buffer can be donated once
        self.state = (zeros, again, jnp.zeros((), "f4")) if problem.optimizer == "adam" else ()
        self.params, self.x, self.labels = params, x, labels

    def step(self) -> None:
        self.loss, self.params, self.state = self._step(
            self.params, self.state, self.x, self.labels
        )

    def sync(self) -> None:
        jax.block_until_ready((self.loss, self.params, self.state))

    def value(self) -> float:
        return float(self.loss)
