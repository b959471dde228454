"""How networks are fitted: epochs over minibatches, or L-BFGS over all rows. Imports network.

A "member" is an estimator that one of the networks belongs to. What a member does at the end of an
epoch (stop early, remember its best weights) is scikit-learn's own code.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import gen_batches

from gpugrad import backend, optim
from gpugrad.errors import MissingDependency, message
from gpugrad.sklearn.network import Networks
from gpugrad.state import grad_mode

Array = Any
Batch = tuple[Array, Array, Array | None]

_DENSE_VALUES = 1 << 23  # of a sparse X no more are made dense at a time


class Rows:
    """X, y and weights on one device for the whole fit; a sparse X stays on the host."""

    def __init__(self, x: Array, y: Array, weight: Array | None, device: str) -> None:
        place = backend.get(device).asarray
        self.place = place
        self.sparse = issparse(x)
        self.x = x.tocsr() if self.sparse else place(x)
        self.y = place(y)
        self.weight = None if weight is None else place(weight.astype(x.dtype, copy=False))

    def __len__(self) -> int:
        return int(self.y.shape[0])

    def __getitem__(self, rows: Any) -> Batch:
        x = self.place(self.x[rows].toarray()) if self.sparse else None
        if not isinstance(rows, slice):
            rows = self.place(rows)
        if x is None:
            x = self.x[rows]
        return x, self.y[rows], None if self.weight is None else self.weight[rows]

    def batches(self, order: Array, size: int, even: bool) -> Iterator[Any]:
        """Minibatches of ``size`` rows: x, y, weights, 1 / their sum, number of rows.

        ``even`` fills the last one up with rows of weight 0, so that one recording does for all.
        """
        n, dtype = len(order), self.x.dtype
        padded = n + (-n % size if even else 0)
        order = np.resize(order, padded)
        if not self.sparse:
            order = self.place(order)  # once for all batches
        parts = list(gen_batches(padded, size))
        counts = [min(part.stop, n) - part.start for part in parts]
        real = {c: self.place((np.arange(size) < c).astype(dtype)) for c in set(counts) if even}
        numbers = {c: [self.place(np.array(v, dtype)) for v in (1 / c, c)] for c in set(counts)}
        for part, c in zip(parts, counts, strict=True):
            x, y, w = self[order[part]]
            if even:
                w = real[c] if w is None else w * real[c]
            inverse, number = numbers[c]
            if w is not None and self.weight is not None:
                inverse = self.place(1 / w.sum(), dtype)
            yield x, y, w, inverse, number

    def chunks(self) -> Iterator[Batch]:
        """All rows; of a sparse X in parts that fit in memory."""
        return (self[rows] for rows in dense_parts(self.x))


def dense_parts(x: Array) -> Iterator[slice]:
    """All rows, a sparse matrix in parts that may be made dense."""
    n, columns = x.shape
    size = max(1, _DENSE_VALUES // columns) if issparse(x) else n
    yield from gen_batches(n, size)


class Adam(optim.Adam):
    """With scikit-learn's epsilon, which is not bias-corrected (Kingma and Ba 2015, section 2)."""

    _numbers: ClassVar[tuple[str, ...]] = ("lr", "beta1", "beta2", "epsilon")

    @property
    def epsilon(self) -> float:
        return float(self.eps / (1 - self.beta2 ** (self.steps[0] + 1)) ** 0.5)


class AdamW(Adam, optim.AdamW):
    """The same, with decoupled weight decay."""


def optimizers(networks: Networks, lead: Any) -> list[optim.Optimizer]:
    """What the parameters of ``lead`` say."""
    lr = _rate(lead)
    if lead.solver == "sgd":
        nesterov = bool(lead.nesterovs_momentum and lead.momentum)
        return [optim.SGD(networks.parameters, lr, lead.momentum, nesterov)]
    settings = {"betas": (lead.beta_1, lead.beta_2), "eps": lead.epsilon}
    if lead.solver == "adamw":
        return [
            AdamW(networks.weights, lr, **settings, weight_decay=lead.alpha),
            Adam(networks.biases, lr, **settings),
        ]
    return [Adam(networks.parameters, lr, **settings)]


def _rate(lead: Any) -> float:
    """The optimiser's learning rate: the largest of those of an ensemble."""
    return float(np.max(lead.learning_rate_init))


def set_rate(networks: Networks, lr: float) -> None:
    """Change the learning rate; scikit-learn's velocity holds the rate of its time."""
    for optimizer in networks.optimizers:
        before, optimizer.lr = optimizer.lr, lr
        with grad_mode(False):
            for velocity in optimizer.state.get("momentum", ()):
                velocity *= before / lr


def stochastic(
    lead: Any,
    members: Sequence[Any],
    networks: Networks,
    rows: Rows,
    validation: tuple[Array, Array, Array | None] | None,
    incremental: bool,
) -> None:
    """Epochs over shuffled minibatches, until every member has stopped or ``max_iter``."""
    even = not callable(lead.loss)  # the user's may look at all rows of a batch together
    size = _batch_size(lead, len(rows))
    if incremental and even:  # few sizes in a stream of many: each is recorded once
        most = 200 if lead.batch_size == "auto" else lead.batch_size
        size = min(most, 4 ** math.ceil(math.log(size, 4)))
    order = np.arange(len(rows))
    scored = validation if validation is not None else (None, None, None)
    active = dict(enumerate(members))
    for member in members:
        member.n_iter_ = 0
    try:
        with _progress(lead) as advance:
            for _ in range(lead.max_iter):
                if lead.shuffle:  # what sklearn.utils.shuffle does
                    order = order[lead._random_state.permutation(len(rows))]
                networks.start_epoch()
                for batch in rows.batches(order, size, even):
                    networks.step(*batch)
                losses = networks.epoch_losses(len(rows))
                for k, member in list(active.items()):
                    member.n_iter_ += 1
                    member.t_ += len(rows)
                    member.loss_ = losses[k]
                    member.loss_curve_.append(losses[k])
                    if member.verbose:
                        print(f"Iteration {member.n_iter_}, loss = {member.loss_:.8f}")
                    if validation is not None:
                        member.coefs_, member.intercepts_ = networks.layers(k)
                    member._update_no_improvement_count(validation is not None, *scored)
                if lead.solver == "sgd" and lead.learning_rate == "invscaling":
                    t = max(member.t_ for member in members)
                    set_rate(networks, _rate(lead) / (t + 1) ** lead.power_t)
                advance(float(np.mean(losses)))
                _stop(lead, active, networks)
                if not active or incremental:
                    break
            else:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({lead.max_iter}) "
                    "reached and the optimization hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=4,
                )
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=4)
    for k, member in active.items():
        member.coefs_, member.intercepts_ = networks.layers(k)
    if validation is not None:
        for member in members:
            member.coefs_, member.intercepts_ = member._best_coefs, member._best_intercepts


def _batch_size(lead: Any, rows: int) -> int:
    if lead.batch_size == "auto":
        return min(200, rows)
    if lead.batch_size > rows:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=5,
        )
    return int(np.clip(lead.batch_size, 1, rows))


def _stop(lead: Any, active: dict[int, Any], networks: Networks) -> None:
    """Let go of members that have not improved for long, with the weights they have now."""
    done = [k for k, m in active.items() if m._no_improvement_count > m.n_iter_no_change]
    if not done:
        return
    what = "Validation score" if lead.early_stopping else "Training loss"
    fell = f"{what} did not improve more than tol={lead.tol:f} for "
    fell += f"{lead.n_iter_no_change} consecutive epochs."
    ending = "Stopping."
    if lead.solver == "sgd" and lead.learning_rate == "adaptive":
        if len(done) < len(active):  # they share one rate
            return
        rate = networks.optimizers[0].lr
        if rate > 1e-6:
            set_rate(networks, rate / 5)
            for k in done:
                active[k]._no_improvement_count = 0
            if lead.verbose:
                print(f"{fell} Setting learning rate to {rate / 5:f}")
            return
        ending = "Learning rate too small. Stopping."
    if lead.verbose:
        print(f"{fell} {ending}")
    for k in done:
        member = active.pop(k)
        member.coefs_, member.intercepts_ = networks.layers(k)


def quasi_newton(member: Any, networks: Networks, rows: Rows) -> None:
    """SciPy's L-BFGS-B over all rows."""
    shapes = [p.shape for p in networks.parameters]
    ends = np.cumsum([p.size for p in networks.parameters])[:-1]
    networks.dropout.eval()
    reported = 0.0

    def unpacked(packed: Array) -> tuple[list[Array], list[Array]]:
        arrays = [
            part.reshape(shape).astype(networks.dtype)
            for part, shape in zip(np.split(packed, ends), shapes, strict=True)
        ]
        half = len(arrays) // 2
        return arrays[:half], arrays[half:]

    def value(packed: Array) -> tuple[float, Array]:
        nonlocal reported
        networks.load([unpacked(packed)])
        loss, reported, gradients = networks.value(rows.chunks())
        return loss, np.concatenate([g.ravel() for g in gradients])

    iterations = count(1)

    def note(packed: Array) -> None:
        print(f"Iteration {next(iterations)}, loss = {reported:.8f}")

    coefs, intercepts = networks.layers()
    start = np.concatenate([a.ravel() for a in (*coefs, *intercepts)]).astype(np.float64)
    options = {"maxfun": member.max_fun, "maxiter": member.max_iter, "gtol": member.tol}
    told = note if member.verbose else None
    found = minimize(value, start, jac=True, method="L-BFGS-B", callback=told, options=options)
    if found.status:
        warnings.warn(
            f"lbfgs failed to converge after {found.nit} iteration(s) (status={found.status}):\n"
            f"{found.message}\n\nYou might also want to scale the data, or increase the number of "
            f"iterations (max_iter={member.max_iter}).",
            ConvergenceWarning,
            stacklevel=4,
        )
    member.n_iter_ = min(found.nit, member.max_iter)
    member.coefs_, member.intercepts_ = unpacked(found.x)
    member.loss_ = reported


@contextmanager
def _progress(lead: Any) -> Iterator[Callable[[float], None]]:
    """A bar over the epochs, with the loss; nothing unless ``progress`` is set."""
    if not lead.progress:
        yield lambda loss: None
        return
    try:
        from rich.progress import Progress
    except ImportError as cause:
        rule, hint = "a progress bar is drawn by rich", 'pip install "gpugrad[train]"'
        raise MissingDependency(message("progress", rule, cause, hint)) from cause
    with Progress(transient=True) as bar:
        task = bar.add_task("loss", total=lead.max_iter)
        yield lambda loss: bar.update(task, advance=1, description=f"loss {loss:.4g}")
