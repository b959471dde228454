"""An operation of your own: erf, declared in one place, fitted to the blur of an edge.

gpugrad has no erf. Its value by Abramowitz and Stegun (1964), 7.1.26, to 1.5e-7, and its derivative
2/√π exp(−x²) are all that is written down; reverse and forward mode, any order of them, the
compiled step and its fused kernel follow, on a CPU and on CUDA.
"""

import argparse
import math

import numpy as np

import gpugrad as gg
from gpugrad.late import ops
from gpugrad.op import elementwise


def erf_value(xp, x):
    t = 1 / (1 + 0.3275911 * xp.abs(x))
    p = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    return xp.sign(x) * (1 - p * xp.exp(-x * x))


erf = elementwise("erf", erf_value, [lambda x: 2 / math.sqrt(math.pi) * ops.exp(-x * x)])


def blurred(parameters, x):
    """Light across an edge at ``at`` that a lens blurs by ``width``."""
    low, high, at, width = (parameters[k] for k in range(4))
    return low + (high - low) * (1 + erf((x - at) / (math.sqrt(2) * width))) / 2


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer points")
    points = 500 if parser.parse_args(argv).quick else 50_000

    x = np.linspace(-3, 3, 1001)
    gap = float(np.max(np.abs(erf(x) - np.vectorize(math.erf)(x))))
    gg.testing.gradcheck(erf, [np.array([-1.5, -0.2, 0.7, 2.0])], rtol=1e-3)
    print(f"largest difference from math.erf: {gap:.1e}; derivatives agree with differences")

    truth = np.array([0.1, 0.9, 0.35, 0.08])
    rng = np.random.default_rng(0)
    where = gg.asarray(np.linspace(0, 1, points))
    light = gg.asarray(blurred(truth, where.numpy()) + rng.normal(scale=0.02, size=points))
    fitted = gg.asarray(np.array([0.0, 1.0, 0.5, 0.2]), requires_grad=True)
    optimizer = gg.optim.LBFGS([fitted], max_iter=100, line_search_fn="strong_wolfe")

    @gg.compile
    def loss():
        optimizer.zero_grad()
        value = gg.mean((blurred(fitted, where) - light) ** 2)
        value.backward()
        return value

    optimizer.step(loss)
    names = ("low", "high", "at", "width")
    for name, found, true in zip(names, fitted.tolist(), truth, strict=True):
        print(f"{name:6} {found:8.4f}   was {true}")
    fused = [passes for passes in loss.stats()["fused"] if "exp" in passes]
    print(f"as compiled, erf and what is around it are {len(fused)} pass(es) over the points")
    return {"gap": gap, "error": float(np.max(np.abs(fitted.detach().numpy() - truth)))}


if __name__ == "__main__":
    main()
