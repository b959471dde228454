"""Regression on a table: early stopping, and the honest question whether a line would do.

Two tables. Friedman's (1991) is made here: a product, a square, two lines, noise, and five columns
that mean nothing; the best possible R² is about 0.96. The diabetes data of Efron et al. (2004),
which comes with scikit-learn, has 442 patients, and there a line is as good as anything.
"""

import argparse

import numpy as np

import gpugrad as gg


def friedman(rows, rng):
    x = rng.uniform(size=(rows, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    y += 10 * x[:, 3] + 5 * x[:, 4] + rng.normal(size=rows)
    return gg.data.Dataset(x, y, name="friedman")


def diabetes():
    from sklearn.datasets import load_diabetes

    return gg.data.Dataset(*load_diabetes(return_X_y=True), name="diabetes")


def r2(y, prediction):
    return float(1 - np.sum((y - prediction) ** 2) / np.sum((y - y.mean()) ** 2))


def least_squares(train, test):
    """The R² of a linear fit."""
    ones = [np.c_[part.x, np.ones(len(part))] for part in (train, test)]
    weights = np.linalg.lstsq(ones[0], train.y, rcond=None)[0]
    return r2(test.y, ones[1] @ weights)


def mlp(train, test, epochs, patience=20):
    """The R² of the epoch that was best on held-out rows of the training part."""
    fit, held = train.split(0.2, seed=1)
    x, y = gg.data.Scaler.fit(fit.x), gg.data.Scaler.fit(fit.y[:, None])
    net = gg.nn.MLP([fit.x.shape[1], 64, 64, 1], "silu", generator=gg.random.Generator(0))
    optimizer = gg.optim.AdamW(net, lr=0.003, weight_decay=0.01)

    @gg.compile
    def step(rows, targets):
        optimizer.zero_grad()
        loss = gg.nn.mse(net(rows), targets)
        loss.backward()
        optimizer.step()

    def predict(part):
        with gg.no_grad():
            return net(x.apply(part.x)).numpy()[:, 0] * y.scale + y.mean

    best, since, weights = -np.inf, 0, net.state_dict()
    for epoch in range(epochs):
        for rows, targets in gg.data.batches(fit, 32, seed=0, epoch=epoch):
            step(x.apply(rows), y.apply(targets[:, None]))
        score = r2(held.y, predict(held))
        since += 1
        if score > best:
            best, since, weights = score, 0, net.state_dict()
        if since == patience:
            break
    net.load_state_dict(weights)
    print(f"  stopped after {epoch + 1} epochs, the best was {epoch + 1 - since}")
    return r2(test.y, predict(test))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows and epochs, one table")
    quick = parser.parse_args(argv).quick
    found = {}
    tables = [friedman(600 if quick else 2000, np.random.default_rng(0))]
    if not quick:
        tables.append(diabetes())
    for data in tables:
        print(data)
        train, test = data.split(0.2, seed=0)
        line, net = least_squares(train, test), mlp(train, test, 60 if quick else 300)
        print(f"  R² on the test rows: least squares {line:.3f}, MLP {net:.3f}")
        found[data.name] = {"line": line, "net": net}
    return found


if __name__ == "__main__":
    main()
