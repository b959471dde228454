"""Random programs, run by gpugrad and by PyTorch or JAX: value and first and second derivatives.

    python benchmarks/agreement.py [--peer torch|jax] [--programs 10000] [--seed 0]

Run it where both are installed; one peer a process. A program draws 3 to 9 steps on one or two
float64 arrays. Value, gradient, jvp and Hessian-vector product must agree, the last one by forward
over reverse and by reverse over reverse mode here. A figure that differs by more than rounding is
printed with the program, and the exit code is 1. JAX compiles each operation for each shape when it
first meets it: JAX_COMPILATION_CACHE_DIR keeps that from one run to the next.

Inputs have exact zeros. Ties, corners and poles that all three treat alike stay in; where they
differ by choice a step keeps away (`generic`): |x| and its kin at 0, where JAX has slope 1, fmax of
equal values, which only gpugrad shares, equal values in a sort, clip at its bounds. So they do
where a peer is wrong: sinc at 0, powers of exponent 0 and an index written twice (PyTorch), vander
of 0 and norms at 0 (JAX), equal eigenvalues (both, NaN).
"""

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import gpugrad as gg

# Each step is written once, in the array API's and NumPy's names. ``xp`` is gpugrad, JAX or
# PyTorch; what a library calls otherwise is spelled in its `Library` below.
Step = Callable[..., Any]


def matrix(x: Any) -> Any:
    """A small matrix, or a stack of them."""
    return x[..., :5, :5] if len(x.shape) > 1 else x[:5, None]


def generic(xp: Any, x: Any) -> Any:
    """No exact zero, and no two equal values."""
    n = int(np.prod(x.shape))
    return x + xp.asarray(0.0137 + np.linspace(0.0, 1e-3, n).reshape(tuple(x.shape)))


def pair(xp: Any, x: Any) -> Any:
    """``x`` with two or more rows of two or more values."""
    y = xp.concat([x, xp.sin(x)], axis=0)
    return y if len(y.shape) > 1 else xp.stack([y, y * y], axis=0)


def definite(xp: Any, x: Any) -> Any:
    """Well conditioned, symmetric, eigenvalues apart."""
    m = xp.tanh(matrix(x))
    n, k = m.shape[-2:]
    return m @ m.mT * (0.3 / k) + xp.asarray(np.diag(np.arange(1.0, n + 1)))


def regular(xp: Any, x: Any) -> Any:
    """Well conditioned, singular values apart, any shape."""
    m = xp.tanh(matrix(x)) * 0.2
    n, k = m.shape[-2:]
    return m + xp.asarray(np.eye(n, k) * np.arange(1.0, k + 1))


def square(xp: Any, x: Any) -> Any:
    """Well conditioned and not symmetric."""
    m = definite(xp, x)
    return m + xp.tril(m, k=-1) * 0.5


def tall(x: Any) -> Any:
    return x if x.shape[-2] >= x.shape[-1] else x.mT


def squares(xp: Any, y: Any) -> Any:
    """|y|² of complex values."""
    return xp.real(y) ** 2 + xp.imag(y) ** 2


def svd_function(xp: Any, x: Any) -> Any:
    u, s, vh = xp.linalg.svd(regular(xp, x), full_matrices=False)
    return (u * xp.exp(0.3 * s)[..., None, :]) @ vh


def eigh_function(xp: Any, x: Any) -> Any:
    w, v = xp.linalg.eigh(definite(xp, x))
    return (v * xp.sqrt(w)[..., None, :]) @ v.mT


def three(xp: Any, x: Any) -> Any:
    return xp.tile(x, (3,))[:3]


KNOTS = np.array([-1.0, 0.3, 2.0])

UNARY: dict[str, Step] = {
    # elementwise
    "sin": lambda xp, x: xp.sin(x),
    "cos": lambda xp, x: xp.cos(x),
    "tan": lambda xp, x: xp.tan(xp.tanh(x)),
    "sinh": lambda xp, x: xp.sinh(xp.tanh(x)),
    "cosh": lambda xp, x: xp.cosh(xp.sin(x)),
    "tanh": lambda xp, x: xp.tanh(x),
    "asin": lambda xp, x: xp.asin(xp.tanh(x) * 0.9),
    "acos": lambda xp, x: xp.acos(xp.tanh(x) * 0.9),
    "atan": lambda xp, x: xp.atan(x),
    "asinh": lambda xp, x: xp.asinh(x),
    "acosh": lambda xp, x: xp.acosh(x * x + 1.5),
    "atanh": lambda xp, x: xp.atanh(xp.tanh(x) * 0.9),
    "exp": lambda xp, x: xp.exp(xp.tanh(x)),
    "exp2": lambda xp, x: xp.exp2(xp.sin(x)),
    "expm1": lambda xp, x: xp.expm1(xp.tanh(x)),
    "log": lambda xp, x: xp.log(xp.abs(generic(xp, x)) + 1),
    "log1p": lambda xp, x: xp.log1p(xp.square(x)),
    "log2": lambda xp, x: xp.log2(x * x + 0.5),
    "log10": lambda xp, x: xp.log10(x * x + 0.5),
    "sqrt": lambda xp, x: xp.sqrt(xp.square(x) + 0.5),
    "cube": lambda xp, x: xp.tanh(x) ** 3,
    "inverse": lambda xp, x: 1 / (x * x + 1),
    "reciprocal": lambda xp, x: xp.reciprocal(x * x + 1),
    "abs": lambda xp, x: xp.abs(generic(xp, x)),
    "sign": lambda xp, x: xp.sign(x) * x,
    "floor": lambda xp, x: xp.floor(x * 3) + xp.ceil(x) * x,
    "round": lambda xp, x: xp.round(x * 2) * x - xp.trunc(x),
    "remainder": lambda xp, x: xp.remainder(x + 0.21, 0.7),
    "sinc": lambda xp, x: xp.sinc(generic(xp, x)),
    "degrees": lambda xp, x: xp.rad2deg(xp.sin(xp.deg2rad(x))),
    "nan_to_num": lambda xp, x: xp.nan_to_num(xp.where(x > 0, np.nan, x)) + x,
    "clip": lambda xp, x: xp.clip(x, -0.5, 0.7),
    "where": lambda xp, x: xp.where(x > 0, xp.sqrt(xp.abs(x) + 1e-3), x * x),
    "sigmoid": lambda xp, x: xp.sigmoid(x),
    "softplus": lambda xp, x: xp.softplus(x),
    "relu": lambda xp, x: xp.relu(x),
    "leaky_relu": lambda xp, x: xp.leaky_relu(generic(xp, x), 0.1),
    "elu": lambda xp, x: xp.elu(generic(xp, x)),
    "gelu": lambda xp, x: xp.gelu(x),
    "silu": lambda xp, x: xp.silu(x),
    # reductions and running values
    "sum": lambda xp, x: xp.sum(x, axis=0, keepdims=True),
    "mean": lambda xp, x: xp.mean(x, axis=-1),
    "max": lambda xp, x: xp.max(x, axis=0),
    "min": lambda xp, x: xp.min(x, axis=-1),
    "prod": lambda xp, x: xp.prod(xp.tanh(x) + 0.1, axis=0),
    "var": lambda xp, x: xp.sqrt(xp.var(x, axis=0) + 0.1),
    "norm": lambda xp, x: xp.linalg.vector_norm(xp.cos(x), axis=-1),
    "norm 3": lambda xp, x: xp.linalg.vector_norm(xp.cos(x), axis=0, ord=3),
    "lse": lambda xp, x: xp.logsumexp(x, axis=-1),
    "softmax": lambda xp, x: xp.softmax(x, axis=-1),
    "log_softmax": lambda xp, x: xp.log_softmax(x, axis=0),
    "cumsum": lambda xp, x: xp.cumsum(x, axis=0),
    "cumprod": lambda xp, x: xp.cumprod(xp.tanh(x) + 0.1, axis=-1),
    "diff": lambda xp, x: xp.diff(xp.sin(x), axis=-1),
    "nansum": lambda xp, x: xp.nansum(xp.where(x < 0, np.nan, x), axis=0),
    "median": lambda xp, x: xp.median(generic(xp, x), axis=-1),
    "quantile": lambda xp, x: xp.quantile(generic(xp, x), 0.3, axis=0),
    "sort": lambda xp, x: xp.sort(generic(xp, x), axis=-1),
    "trapezoid": lambda xp, x: xp.trapezoid(x, axis=-1),
    "gradient": lambda xp, x: xp.gradient(pair(xp, x), axis=0),
    "cov": lambda xp, x: xp.cov(pair(xp, xp.reshape(x, (-1,)))),
    "interp": lambda xp, x: xp.interp(generic(xp, x), xp.asarray(KNOTS), xp.mean(x) * KNOTS**2),
    # shapes and indices
    "T": lambda xp, x: x.T if len(x.shape) == 2 else x,
    "flip": lambda xp, x: xp.flip(x, axis=0),
    "roll": lambda xp, x: xp.roll(x, 1, axis=0),
    "flat": lambda xp, x: xp.reshape(x, (-1,)),
    "column": lambda xp, x: x[..., None],
    "moveaxis": lambda xp, x: xp.moveaxis(x, 0, -1),
    "stack": lambda xp, x: xp.stack([x, x * 2], axis=0),
    "concat": lambda xp, x: xp.concat([x, xp.sin(x)], axis=-1),
    "tile": lambda xp, x: xp.tile(x, (2,) * len(x.shape)),
    "repeat": lambda xp, x: xp.repeat(x, 2, axis=0),
    "pad": lambda xp, x: xp.pad(x, 1),
    "slice": lambda xp, x: x[::2],
    "twice": lambda xp, x: x[np.array([0, -1, 0])],
    "take": lambda xp, x: xp.take(x, xp.asarray([0, 0]), axis=-1),
    "along": lambda xp, x: xp.take_along_axis(x, xp.argsort(generic(xp, x), axis=-1), axis=-1),
    "tril": lambda xp, x: xp.tril(matrix(x)) + xp.triu(matrix(x), k=1) * 2,
    "rot90": lambda xp, x: xp.rot90(matrix(x)),
    "diagonal": lambda xp, x: xp.linalg.diagonal(matrix(x)),
    # products and matrices
    "gram": lambda xp, x: matrix(x) @ matrix(x).mT,
    "einsum": lambda xp, x: xp.einsum("...ij,...kj->...ki", matrix(x), matrix(x) + 1),
    "vander": lambda xp, x: xp.vander(xp.reshape(generic(xp, x), (-1,))[:5], 4),
    "inv": lambda xp, x: xp.linalg.inv(square(xp, x)),
    "det": lambda xp, x: xp.linalg.det(square(xp, x)) * 0.01,
    "slogdet": lambda xp, x: xp.linalg.slogdet(square(xp, x))[1],
    "solve": lambda xp, x: xp.linalg.solve(square(xp, x), matrix(x)),
    "power": lambda xp, x: xp.linalg.matrix_power(square(xp, x) * 0.2, 3),
    "pinv": lambda xp, x: xp.linalg.pinv(regular(xp, x)),
    "cholesky": lambda xp, x: xp.linalg.cholesky(definite(xp, x)),
    "qr": lambda xp, x: xp.linalg.qr(tall(regular(xp, x)))[1] ** 2,
    "eigh": eigh_function,
    "eigvalsh": lambda xp, x: xp.linalg.eigvalsh(definite(xp, x)),
    "eigvals": lambda xp, x: xp.sum(squares(xp, xp.linalg.eigvals(square(xp, x))), axis=-1),
    "svd": svd_function,
    "svdvals": lambda xp, x: xp.linalg.svdvals(regular(xp, x)),
    "nuclear": lambda xp, x: xp.linalg.matrix_norm(regular(xp, x), ord="nuc"),
    "rows": lambda xp, x: xp.linalg.matrix_norm(generic(xp, regular(xp, x)), ord=np.inf),
    # Fourier transforms
    "fft": lambda xp, x: squares(xp, xp.fft.fft(x) * 0.3),
    "rfft": lambda xp, x: xp.imag(xp.fft.rfft(x) * (1 + 0.5j)),
    "irfft": lambda xp, x: xp.fft.irfft(x * (1 + 1j), n=4),
}


# Of operands that broadcast
BINARY: dict[str, Step] = {
    "add": lambda xp, a, b: a + b,
    "sub": lambda xp, a, b: a - b,
    "mul": lambda xp, a, b: a * b,
    "div": lambda xp, a, b: a / (b * b + 1),
    "maximum": lambda xp, a, b: xp.maximum(a, b),
    "minimum": lambda xp, a, b: xp.minimum(a, b),
    "fmax": lambda xp, a, b: xp.fmax(a, xp.where(b > 1, np.nan, b + 0.01)),
    "pow": lambda xp, a, b: (a * a + 0.5) ** xp.tanh(b + 0.01),
    "pow 0": lambda xp, a, b: (a * a + 0.5) ** xp.tanh(b),
    "hypot": lambda xp, a, b: xp.hypot(a, b * b + 0.5),
    "atan2": lambda xp, a, b: xp.atan2(a, b * b + 1),
    "copysign": lambda xp, a, b: xp.copysign(a * a + 0.1, b + 0.01),
    "logaddexp": lambda xp, a, b: xp.logaddexp(a, b),
    "logaddexp2": lambda xp, a, b: xp.logaddexp2(a, b),
    "select": lambda xp, a, b: xp.where(a > b, a * b, xp.sin(b)),
}
# Of operands of any shape, as vectors
PRODUCTS: dict[str, Step] = {
    "outer": lambda xp, a, b: xp.outer(a, b),
    "kron": lambda xp, a, b: xp.kron(a, b),
    "tensordot": lambda xp, a, b: xp.tensordot(a[:, None], b[None, :], axes=1),
    "matmul": lambda xp, a, b: a[:, None] @ b[None, :],
    "cross": lambda xp, a, b: xp.linalg.cross(
        three(xp, a), xp.cos(three(xp, b) + xp.asarray(KNOTS))
    ),
    "vecdot": lambda xp, a, b: xp.linalg.vecdot(a[:, None] * b, xp.sin(b)),
    "convolve": lambda xp, a, b: xp.convolve(a, b),
    "polyval": lambda xp, a, b: xp.polyval(a, xp.tanh(b)),
    "solve 1": lambda xp, a, b: xp.linalg.solve(
        definite(xp, a), xp.tile(b, (5,))[: min(5, len(a))]
    ),
}
# Of an array, which the program goes on to use, and a number
WRITES: dict[str, Step] = {
    "row": lambda xp, x, v: xp.write(x, 0, v),
    "rows": lambda xp, x, v: xp.write(x, slice(None, None, 2), v * 2),
    "picked": lambda xp, x, v: xp.write(x, np.unique([0, len(x) - 1]), xp.sin(v)),
    "masked": lambda xp, x, v: xp.write(x, x > 0, v),
    "last": lambda xp, x, v: xp.write(x, (Ellipsis, -1), x[..., 0] * v),
}
KINDS = {"unary": UNARY, "binary": BINARY, "product": PRODUCTS, "write": WRITES}


class Names:
    """A library's names: ``own`` first, then those of the modules, in turn."""

    def __init__(self, *modules: Any, **own: Any) -> None:
        self.modules = modules
        vars(self).update(own)

    def __getattr__(self, name: str) -> Any:
        for module in self.modules:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)


class Library:
    """``xp`` as the steps name things, ``run`` for the derivatives, the steps it does not have."""

    def __init__(self, module: Any, xp: Names, run: Callable[..., Any], lacks: Any = ()) -> None:
        self.name = f"{module.__name__} {module.__version__}"
        self.xp, self.run, self.lacks = xp, run, lacks


def ours() -> Library:
    def write(x: Any, key: Any, v: Any) -> Any:
        x = x * 1
        x[key] = v
        x += 1
        return x

    def run(f: Any, xs: Any, vs: Any) -> dict[str, Any]:
        every = tuple(range(len(xs)))

        def along(*ys: Any) -> Any:
            return sum(gg.sum(g * v) for g, v in zip(gg.grad(f, every)(*ys), vs, strict=True))

        value, slope = gg.value_and_grad(f, every)(*xs)
        return {
            "value": [value],
            "gradient": slope,
            "jvp": [gg.jvp(f, xs, vs)[1]],
            "hvp": gg.hvp(f, xs, vs),
            "hvp by reverse mode alone": gg.grad(along, every)(*xs),
        }

    return Library(gg, Names(gg, gg.nn, write=write), run)


def derivatives(value_and_grad: Any, jvp: Any) -> Callable[..., dict[str, Any]]:
    """``run`` of a peer."""

    def run(f: Any, xs: Any, vs: Any) -> dict[str, Any]:
        both = value_and_grad(f, tuple(range(len(xs))))
        (value, slope), (pushed, product) = jvp(both, xs, vs)
        return {"value": [value], "gradient": slope, "jvp": [pushed], "hvp": product}

    return run


def jax() -> Library:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")

    def write(x: Any, key: Any, v: Any) -> Any:
        return x.at[key].set(v) + 1

    run = derivatives(jax.value_and_grad, jax.jvp)
    return Library(jax, Names(jnp, jax.nn, write=write), run, ["eigvals"])


def torch() -> Library:
    import torch

    torch.set_num_threads(1)
    functional, linalg = torch.nn.functional, torch.linalg

    def write(x: Any, key: Any, v: Any) -> Any:
        x = x.clone()
        x[key] = v
        return x + 1

    own = {
        "concat": lambda xs, axis: torch.cat(xs, axis),
        "cov": torch.cov,
        "flip": lambda x, axis: torch.flip(x, (axis,)),
        "gelu": lambda x: functional.gelu(x, approximate="tanh"),
        "gradient": lambda x, axis: torch.gradient(x, dim=axis)[0],
        "max": lambda x, axis: torch.amax(x, axis),
        "median": lambda x, axis: torch.quantile(x, 0.5, dim=axis),
        "min": lambda x, axis: torch.amin(x, axis),
        "pad": lambda x, width: functional.pad(x, (width,) * 2 * x.ndim),
        "quantile": lambda x, q, axis: torch.quantile(x, q, dim=axis),
        "repeat": lambda x, times, axis: torch.repeat_interleave(x, times, axis),
        "roll": lambda x, shift, axis: torch.roll(x, shift, axis),
        "sort": lambda x, axis: torch.sort(x, axis).values,
        "take": lambda x, indices, axis: torch.index_select(x, axis, indices),
        "tensordot": lambda a, b, axes: torch.tensordot(a, b, axes),
        "tril": lambda x, k=0: torch.tril(x, k),
        "triu": lambda x, k=0: torch.triu(x, k),
        "take_along_axis": lambda x, indices, axis: torch.take_along_dim(x, indices, axis),
        "var": lambda x, axis: torch.var(x, axis, correction=0),
        "write": write,
        "linalg": Names(
            linalg,
            vector_norm=lambda x, axis, ord=2: linalg.vector_norm(x, ord, axis),
        ),
    }

    def value_and_grad(f: Any, every: Any) -> Any:
        both = torch.func.grad_and_value(f, every)
        return lambda *xs: both(*xs)[::-1]

    run = derivatives(value_and_grad, torch.func.jvp)
    lacks = ["interp", "convolve", "polyval", "vander", "pow 0"]
    return Library(torch, Names(torch, functional, **own), run, lacks)


# Few, as JAX compiles every operation for every shape.
SHAPES = [(3,), (3, 1), (1, 3), (2, 3), (3, 3), (4, 2), (2, 3, 2)]


def draw(rng: np.random.Generator, lacks: Any) -> tuple[list[Any], list[Any]]:
    """Inputs, and steps of (kind, name, register, register, shape of the result)."""

    def shape() -> tuple[int, ...]:
        return SHAPES[rng.integers(len(SHAPES))]

    inputs = [rng.normal(size=shape()) for _ in range(rng.integers(1, 3))]
    for x in inputs:  # exact zeros: corners, and cotangents that vanish
        x[rng.random(x.shape) < 0.15] = 0.0
    steps = []
    for k in range(rng.integers(3, 10)):
        count = len(inputs) + k
        kind = str(rng.choice(list(KINDS), p=[0.6, 0.2, 0.05, 0.15]))
        name = str(rng.choice([name for name in KINDS[kind] if name not in lacks]))
        at = int(rng.integers(max(0, count - 3), count))
        steps.append((kind, name, at, int(rng.integers(count)), shape()))
    return inputs, steps


def program(steps: list[Any], xp: Any) -> Callable[..., Any]:
    """The scalar function that the steps describe, for one of the libraries."""

    def f(*xs: Any) -> Any:
        registers = list(xs)
        for kind, name, i, j, shape in steps:
            a, b = registers[i], registers[j]
            step = KINDS[kind][name]
            if kind == "unary":
                a = step(xp, a)
            elif kind == "binary":
                a = step(xp, a, b if broadcast(a, b) else xp.mean(b))
            elif kind == "product":
                a = step(xp, xp.reshape(a, (-1,))[:9], xp.reshape(b, (-1,))[:9])
            else:
                a = step(xp, a, xp.mean(b))
            registers.append(xp.asinh(fitted(xp, a, shape) / (1 + 0.1 * len(registers))))
        total = xp.sum(registers[-1])
        for r in registers[:-1]:
            total = total + xp.sum(xp.sin(r)) * 0.1
        return total

    return f


def broadcast(a: Any, b: Any) -> bool:
    try:
        return bool(np.broadcast_shapes(tuple(a.shape), tuple(b.shape)))
    except ValueError:
        return False


def fitted(xp: Any, x: Any, shape: tuple[int, ...]) -> Any:
    """All values of ``x`` in ``shape``: repeated, or means of several."""
    size, n = math.prod(shape), math.prod(x.shape)
    if not n:
        return fitted(xp, xp.reshape(xp.sum(x), (1,)), shape)
    places = np.arange(max(size, n))
    weights = np.zeros((size, n))
    weights[places % size, places % n] = 1 / -(-n // size)
    return xp.reshape(xp.asarray(weights) @ xp.reshape(x, (-1,)), shape)


def compare(seed: int, ours: Library, peer: Library) -> list[str]:
    """What differs between the libraries on program number ``seed``."""
    rng = np.random.default_rng(seed)
    inputs, steps = draw(rng, peer.lacks)
    tangents = [rng.normal(size=x.shape) for x in inputs]
    found, wanted = [
        library.run(
            program(steps, library.xp),
            tuple(map(library.xp.asarray, inputs)),
            tuple(map(library.xp.asarray, tangents)),
        )
        for library in (ours, peer)
    ]
    problems = []
    for what, figures in found.items():
        for a, b in zip(figures, wanted[what.partition(" ")[0]], strict=True):
            a, b = np.asarray(a), np.asarray(b)
            scale = 1 + np.max(np.abs(b), initial=0.0)
            if a.shape != b.shape or not np.allclose(a, b, rtol=1e-8, atol=1e-9 * scale):
                problems.append(f"{what}: {a.ravel()[:4]} against {b.ravel()[:4]}")
    return [f"program {seed}, {steps}: {problem}" for problem in problems]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=("torch", "jax"), default="torch")
    parser.add_argument("--programs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first program")
    options = parser.parse_args()
    mine, peer = ours(), {"torch": torch, "jax": jax}[options.peer]()
    wrong = 0
    for seed in range(options.seed, options.seed + options.programs):
        for line in compare(seed, mine, peer):
            wrong += 1
            print(line, flush=True)
    print(f"{options.programs} programs, {wrong} figures differ from {peer.name}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
