"""Vanishing gradients: twelve layers of sigmoids hardly learn, and what helps.

Each net has the same shape, data, optimiser and number of steps. Printed are the gradient that
reaches the first layer, relative to the last, before training and the accuracy after it.
Glorot and Bengio 2010; scaled weights: He et al. 2015; layer normalisation: Ba et al. 2016.
"""

import argparse

import numpy as np

import gpugrad as gg

DEPTH, WIDTH = 12, 32


def sigmoid_neuron():
    """One neuron: its gradient is never more than a quarter of what reaches its output."""
    z = np.array([0.0, 2.0, 5.0, 10.0])
    slopes = gg.grad(lambda z: np.sum(gg.sigmoid(z)))(z)
    print("sigmoid'(z):", ", ".join(f"{s:.5f} at {x:g}" for x, s in zip(z, slopes, strict=True)))


def stack(activation, normalised=False, gain=None):
    """Twelve hidden layers; with a gain, weights of standard deviation gain/√inputs."""
    draw = gg.random.Generator(0)
    layers, inputs = [], 64
    for _ in range(DEPTH):
        linear = gg.nn.Linear(inputs, WIDTH, generator=draw)
        if gain:
            values = draw.normal(size=(WIDTH, inputs)) * (gain / np.sqrt(inputs))
            linear.load_state_dict({"weight": values, "bias": np.zeros(WIDTH)})
        layers += [linear, gg.nn.LayerNorm(WIDTH)] if normalised else [linear]
        layers.append(activation())
        inputs = WIDTH
    return gg.nn.Sequential(*layers, gg.nn.Linear(inputs, 10, generator=draw))


def train(net, data, test, epochs):
    optimizer = gg.optim.Adam(net, lr=0.003)

    @gg.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = gg.nn.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()

    for epoch in range(epochs):
        for x, y in gg.data.batches(data, 64, seed=0, epoch=epoch):
            step(x, y)
    with gg.no_grad():
        return float(np.mean(gg.argmax(net(test.x), axis=1).numpy() == test.y))


NETS = {
    "sigmoid": lambda: stack(gg.nn.Sigmoid),
    "tanh": lambda: stack(gg.nn.Tanh),
    "relu": lambda: stack(gg.nn.ReLU),
    "relu, weights scaled to it": lambda: stack(gg.nn.ReLU, gain=np.sqrt(2)),
    "relu, layer norm": lambda: stack(gg.nn.ReLU, normalised=True),
    "sigmoid, layer norm": lambda: stack(gg.nn.Sigmoid, normalised=True),
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two of the nets, fewer epochs")
    quick = parser.parse_args(argv).quick
    sigmoid_neuron()
    data, test = gg.data.digits().split(0.2, seed=0)
    found = {}
    print(f"{'':28} gradient first/last   accuracy")
    for name in ["sigmoid", "relu, weights scaled to it"] if quick else NETS:
        net = NETS[name]()
        with gg.nn.gradient_flow(net) as flow:
            gg.nn.cross_entropy(net(data.x[:256]), data.y[:256]).backward()
        relative = flow.layers[0].relative
        accuracy = train(net, data, test, 5 if quick else 20)
        print(f"{name:28} {relative:19.0e} {accuracy:10.1%}  {flow.layers[0].verdict}")
        found[name] = {"relative": relative, "accuracy": accuracy}
    return found


if __name__ == "__main__":
    main()
