"""Reinforcement learning: a small net learns to balance a pole, by policy gradients.

Sixteen carts run side by side in NumPy. After each round of episodes the net makes the actions that
led to more reward than usual more likely: REINFORCE with a baseline, Williams 1992. The cart is
that of Barto, Sutton and Anderson 1983, its constants those of Gymnasium's CartPole-v1; an episode
ends when the pole has tilted 12°, the cart has moved 2.4 m, or after 200 steps.
"""

import argparse
import time

import numpy as np

import gpugrad as gg

CARTS, LIMIT, DISCOUNT = 16, 200, 0.99


class Carts:
    """Carts side by side; each state is position, speed, angle and turning rate of the pole."""

    def __init__(self, count, rng):
        self.state = rng.uniform(-0.05, 0.05, (count, 4))
        self.up = np.ones(count, bool)

    def push(self, right):
        """0.02 s later; a pole that fell stays down. Explicit Euler."""
        _, v, angle, turning = self.state.T
        force = np.where(right, 10.0, -10.0)
        sine, cosine = np.sin(angle), np.cos(angle)
        pull = (force + 0.05 * turning**2 * sine) / 1.1  # cart 1 kg; pole 0.1 kg, 1 m
        twist = (9.8 * sine - cosine * pull) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        rates = np.stack([v, pull - 0.05 * twist * cosine / 1.1, turning, twist], axis=1)
        self.state = self.state + 0.02 * rates
        self.up &= (np.abs(self.state[:, 0]) < 2.4) & (np.abs(self.state[:, 2]) < np.radians(12))


def play(policy, rng):
    """One round: states, actions, and whether the pole was up, each (steps, carts, …)."""
    carts = Carts(CARTS, rng)
    states, actions, alive = [], [], []
    while carts.up.any() and len(states) < LIMIT:
        state = carts.state.astype(np.float32)
        right = rng.uniform(size=CARTS) < policy(state).numpy()[:, 1]
        states.append(state), actions.append(right), alive.append(carts.up.copy())
        carts.push(right)
    return np.array(states), np.array(actions), np.array(alive)


def returns(alive):
    """Discounted count of the steps still to come, against the mean of all carts at that step."""
    ahead, total = np.zeros(alive.shape, np.float32), np.zeros(CARTS, np.float32)
    for t in reversed(range(len(alive))):
        total = ahead[t] = alive[t] * (1 + DISCOUNT * total)
    advantage = (ahead - ahead.mean(axis=1, keepdims=True)) * alive
    return advantage / (advantage[alive].std() + 1e-6)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 40 if parser.parse_args(argv).quick else 80
    rng = np.random.default_rng(0)
    net = gg.nn.MLP([4, 32, 2], "tanh", generator=gg.random.Generator(0))
    optimizer = gg.optim.Adam(net, lr=0.02)

    @gg.compile
    def policy(states):
        with gg.no_grad():
            return gg.nn.softmax(net(states))

    @gg.compile
    def step(states, actions, advantage):
        optimizer.zero_grad()
        chosen = gg.take_along_axis(gg.nn.log_softmax(net(states)), actions, axis=1)
        loss = -gg.mean(advantage * chosen[:, 0])
        loss.backward()
        optimizer.step()

    start, curve = time.perf_counter(), []
    for k in range(rounds):
        states, actions, alive = play(policy, rng)
        advantage = returns(alive)
        # Always as many rows, so that the step is recorded once; those after the end count nothing.
        blank = np.zeros((LIMIT * CARTS, 6), np.float32)
        blank[: alive.size] = np.concatenate(
            [states.reshape(-1, 4), actions.reshape(-1, 1), advantage.reshape(-1, 1)], axis=1
        )
        step(blank[:, :4], blank[:, 4:5].astype(np.int64), blank[:, 5])
        curve.append(float(alive.sum(axis=0).mean()))
        if (k + 1) % (rounds // 8) == 0:
            mean = np.mean(curve[-(rounds // 8) :])
            print(f"round {k + 1:3d}  balanced {mean:5.1f} of {LIMIT} steps  {'#' * int(mean / 4)}")
    seconds = time.perf_counter() - start
    first, last = np.mean(curve[:5]), np.mean(curve[-5:])
    print(f"from {first:.0f} steps to {last:.0f}, in {seconds:.1f} s")
    return {"first": first, "last": last}


if __name__ == "__main__":
    main()
