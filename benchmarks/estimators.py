"""gpugrad.sklearn beside scikit-learn: scores over seeds, time to fit, ensembles.

    python benchmarks/estimators.py [scores] [fit] [ensemble] [--seeds 10] [--rounds 5]

Each library fits in a process of its own, in turns; times are medians over the rounds, ratios are
of the two times of one round. Scores are accuracy and R² on a test part, with the same parameters
and seeds for both; "within noise" means that the means differ by less than two standard errors of
the differences, or are equal. Data are scikit-learn's own, standardised.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler, scale

CLASSES = ("digits", "breast_cancer", "wine")
DATA = (*CLASSES, "diabetes")
LIBRARIES = {"scikit-learn": "sklearn.neural_network", "gpugrad": "gpugrad.sklearn"}


def load(name: str, dtype: str = "f8") -> tuple[Any, Any]:
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return scale(x).astype(dtype), y if name in CLASSES else scale(y).astype(dtype)


def estimator(library: str, name: str, **settings: Any) -> Any:
    kind = "MLPClassifier" if name in CLASSES else "MLPRegressor"
    return getattr(import_module(LIBRARIES[library]), kind)(**settings)


def score(library: str, name: str, seed: int) -> float:
    x, y = load(name)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, random_state=seed)
    scaler = StandardScaler().fit(x)
    model = estimator(library, name, random_state=seed).fit(scaler.transform(x), y)
    return float(model.score(scaler.transform(x_test), y_test))


def fit(library: str, name: str, dtype: str, settings: dict[str, Any], fits: int = 1) -> float:
    """Seconds for ``fits`` fits with other seeds."""
    x, y = load(name, dtype)
    models = [estimator(library, name, **{"random_state": seed} | settings) for seed in range(fits)]
    start = time.perf_counter()
    for model in models:
        model.fit(x, y)
    return time.perf_counter() - start


def quietly(task: Callable[..., float], *args: Any) -> float:
    warnings.simplefilter("ignore")  # of fits that were ended before they converged
    return task(*args)


def run(worker: Any, task: Callable[..., float], *args: Any) -> float:
    return float(worker.apply(quietly, (task, *args)))


def scores(workers: dict[str, Any], args: argparse.Namespace) -> None:
    print("test scores, default parameters")
    for name in DATA:
        found = {
            library: np.array(
                [run(worker, score, library, name, seed) for seed in range(args.seeds)]
            )
            for library, worker in workers.items()
        }
        theirs, ours = found["scikit-learn"], found["gpugrad"]
        difference = ours - theirs
        error = difference.std(ddof=1) / len(difference) ** 0.5
        within = abs(difference.mean()) <= 2 * error
        verdict = "within noise" if within else "NOT within noise"
        print(
            f"  {name:14} scikit-learn {theirs.mean():.4f} ± {theirs.std():.4f}   "
            f"gpugrad {ours.mean():.4f} ± {ours.std():.4f}   {verdict}",
            flush=True,
        )


def timed(title: str, sides: dict[str, Callable[[], float]], rounds: int) -> None:
    """Two sides in turns: medians, and the median of the first by the second."""
    runs = np.array([[side() for side in sides.values()] for _ in range(rounds + 1)])[1:]
    medians = np.median(runs, axis=0)
    ratios = runs[:, 0] / runs[:, 1]
    text = "   ".join(f"{n} {1e3 * t:.0f} ms" for n, t in zip(sides, medians, strict=True))
    spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
    print(f"  {title:42} {text}   ratio {np.median(ratios):.2f} ({spread})", flush=True)


def fits(workers: dict[str, Any], args: argparse.Namespace) -> None:
    print("time to fit, adam, minibatches of 200")
    for name in DATA:
        for hidden, epochs in (((100,), 100), ((512, 512), 10)):
            for dtype in ("f8", "f4"):
                settings = {
                    "hidden_layer_sizes": hidden,
                    "max_iter": epochs,
                    "n_iter_no_change": epochs,
                }
                sides = {
                    library: partial(run, worker, fit, library, name, dtype, settings)
                    for library, worker in workers.items()
                }
                timed(f"{name}, {hidden}, {dtype}, {epochs} epochs", sides, args.rounds)


def ensembles(workers: dict[str, Any], args: argparse.Namespace) -> None:
    print("16 networks of (16,) for 50 epochs: as one ensemble, and by separate fits of ours")
    worker = workers["gpugrad"]
    for name in DATA:
        for dtype in ("f8", "f4"):
            settings = {"hidden_layer_sizes": (16,), "max_iter": 50, "n_iter_no_change": 50}
            start = partial(run, worker, fit, "gpugrad", name, dtype)
            one, many = partial(start, settings | {"ensemble": 16}), partial(start, settings, 16)
            timed(f"{name}, {dtype}", {"ensemble": one, "separate": many}, args.rounds)


PARTS = {"scores": scores, "fit": fits, "ensemble": ensembles}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="scores, fit, ensemble (all)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    unknown = set(args.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    context = get_context("spawn")
    workers = {library: context.Pool(1) for library in LIBRARIES}
    try:
        for part in args.parts or PARTS:
            PARTS[part](workers, args)
    finally:
        for worker in workers.values():
            worker.terminate()


if __name__ == "__main__":
    main()
