"""Draws the pictures of the guide: ``python docs/pictures/draw.py [FOLDER]``."""

import sys
from pathlib import Path

import gpugrad as gg


def f(a, b):
    c = a + b
    d = b + 1
    e = c * d
    return e


def doubled(x):
    y = 2 * x + 3 * x
    z = 4 * y + 5 * y
    return z


def neuron(x1, x2, w1, w2, b):
    z = w1 * x1 + w2 * x2 + b
    y = gg.sigmoid(z)
    return y


def chain(x):
    h1 = gg.sigmoid(x)
    h2 = gg.sigmoid(h1)
    h3 = gg.sigmoid(h2)
    return h3


PICTURES = {
    "values.svg": lambda: gg.draw(f, 2.0, 1.0, mode="values"),
    "forward.svg": lambda: gg.draw(f, 2.0, 1.0, mode="forward", wrt="b"),
    "reverse.svg": lambda: gg.draw(f, 2.0, 1.0),
    "paths.svg": lambda: gg.draw(doubled, 1.0),
    "neuron.svg": lambda: gg.draw(neuron, 1.0, 2.0, 0.5, -1.0, 1.0),
    "chain.svg": lambda: gg.draw(chain, 0.0),
}


def main(folder: Path) -> None:
    for name, drawn in PICTURES.items():
        drawn().save(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
