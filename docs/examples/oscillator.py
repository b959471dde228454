"""A physics-informed fit: a net that satisfies the equation of a damped oscillator.

    u'' + 2 d u' + w² u = 0,   u(0) = 1,   u'(0) = 0

No solution is shown to the net. The loss is the mean square of the equation's left side; the second
derivative in time is forward mode over forward mode, the gradient of the weights reverse mode over
both, and all of it one compiled program. Raissi et al. 2019. That 1 + t² net(t) / (1 + t²) has the
initial values built in is Lagaris et al. 1998.
"""

import argparse
import time

import numpy as np

import gpugrad as gg

DAMPING, FREQUENCY, END = 0.3, 2.0, 5.0


def exact(t):
    w = np.sqrt(FREQUENCY**2 - DAMPING**2)
    return np.exp(-DAMPING * t) * (np.cos(w * t) + DAMPING / w * np.sin(w * t))


def slope(f):
    """The derivative of ``f``, each of whose values depends on one time."""
    return lambda t: gg.jvp(f, (t,), (gg.ones_like(t),))[1]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer iterations")
    rounds, iterations = (3, 50) if parser.parse_args(argv).quick else (8, 100)

    draw = gg.random.Generator(0)
    net = gg.nn.MLP([1, 32, 32, 1], gg.sin, generator=draw, dtype=gg.float64)
    times = gg.linspace(0, END, 64, dtype=gg.float64).reshape((64, 1))
    optimizer = gg.optim.LBFGS(
        net,
        max_iter=iterations,
        history_size=50,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def u(t):
        return 1 + t**2 / (1 + t**2) * net(2 * t / END - 1)

    @gg.compile
    def residual():
        optimizer.zero_grad()
        velocity, acceleration = gg.jvp(slope(u), (times,), (gg.ones_like(times),))
        r = acceleration + 2 * DAMPING * velocity + FREQUENCY**2 * u(times)
        loss = gg.mean(r**2)
        loss.backward()
        return loss

    start = time.perf_counter()
    for k in range(rounds):
        optimizer.step(residual)
        done = (k + 1) * iterations
        print(f"{done:4d} iterations  mean square of the residual {residual().item():.1e}")
    seconds = time.perf_counter() - start

    t = np.linspace(0, END, 201)
    found = u(gg.asarray(t[:, None])).detach().numpy()[:, 0]
    error = float(np.max(np.abs(found - exact(t))))
    print(f"largest error against the exact solution: {error:.1e}, after {seconds:.1f} s")
    return {"error": error}


if __name__ == "__main__":
    main()
