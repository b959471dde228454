"""An ensemble that knows where it does not know: sixteen nets as one program.

A weight with one more axis in front holds all sixteen, and `@` multiplies them side by side. They
start differently and each sees rows of its own drawing, so where there is data they agree, and in
the gap and outside they do not. Breiman 1996; Lakshminarayanan et al. 2017.
"""

import argparse
import time
from itertools import pairwise

import numpy as np

import gpugrad as gg

MEMBERS = 16


class Ensemble(gg.nn.Module):
    """Nets of the same ``sizes`` side by side: (members, rows, in) to (members, rows, out)."""

    def __init__(self, sizes, generator):
        self.weights, self.biases = [], []
        for a, b in pairwise(sizes):
            w = generator.normal(size=(MEMBERS, a, b)) * np.float32(np.sqrt(2 / a))
            self.weights.append(gg.asarray(w, requires_grad=True))
            start = generator.uniform(-1, 1, (MEMBERS, 1, b))
            self.biases.append(gg.asarray(start, requires_grad=True))

    def forward(self, x):
        *inner, last = zip(self.weights, self.biases, strict=True)
        for w, b in inner:
            x = gg.nn.relu(x @ w + b)
        return x @ last[0] + last[1]


def truth(x):
    return np.sin(3 * x) + 0.3 * x


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    steps = 400 if parser.parse_args(argv).quick else 2000

    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-2, -0.5, 100), rng.uniform(0.7, 2, 100)]).astype(np.float32)
    y = (truth(x) + rng.normal(scale=0.1, size=200)).astype(np.float32)
    nets = Ensemble([1, 64, 64, 1], gg.random.Generator(0))
    optimizer = gg.optim.Adam(nets, lr=0.003)

    @gg.compile
    def step(x, y):
        optimizer.zero_grad()
        # A sum over the members, so that each has the gradient it would have alone.
        loss = gg.sum(gg.mean((nets(x) - y) ** 2, axis=(1, 2)))
        loss.backward()
        optimizer.step()

    start = time.perf_counter()
    bags = rng.integers(0, len(x), (MEMBERS, len(x)))  # rows drawn with replacement, for each net
    for _ in range(steps):
        rows = np.take_along_axis(bags, rng.integers(0, len(x), (MEMBERS, 32)), axis=1)
        step(x[rows][..., None], y[rows][..., None])
    seconds = time.perf_counter() - start

    def predict(at):
        with gg.no_grad():
            return nets(at.astype(np.float32)[:, None]).numpy()[..., 0]

    print(f"{MEMBERS} nets, {steps} steps of all of them in {seconds:.1f} s")
    print("    x   truth    mean  spread")
    for at in np.linspace(-3, 3, 13):
        each, (value,) = predict(np.array([at])), truth(np.array([at]))
        bar = "#" * int(each.std() * 40)
        print(f"{at:5.1f} {value:7.2f} {each.mean():7.2f} {each.std():7.2f}  {bar}")

    inside = np.concatenate([np.linspace(-1.9, -0.6, 50), np.linspace(0.8, 1.9, 50)])
    each = predict(inside)
    alone = float(np.mean(np.sqrt(np.mean((each - truth(inside)) ** 2, axis=1))))
    together = float(np.sqrt(np.mean((each.mean(axis=0) - truth(inside)) ** 2)))
    gap = float(predict(np.linspace(-0.2, 0.4, 50)).std(axis=0).mean())
    spread = float(each.std(axis=0).mean())
    print(f"error where there is data: one net {alone:.3f}, their mean {together:.3f}")
    print(f"spread where there is data {spread:.3f}, in the gap {gap:.3f}")
    return {"alone": alone, "together": together, "spread": spread, "gap": gap}


if __name__ == "__main__":
    main()
