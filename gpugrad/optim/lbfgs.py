"""L-BFGS: a quasi-Newton method for full batches. Imports base, op, tensor and the functions."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from gpugrad.errors import CheckpointError, DtypeError, GradientError, TraceError, message
from gpugrad.late import functions
from gpugrad.nn.module import Module
from gpugrad.op import data_of
from gpugrad.optim.base import Optimizer, at_least
from gpugrad.state import grad_mode, state
from gpugrad.tensor import Tensor

_LEAST_CURVATURE = 1e-10  # sᵀy below which a pair is left out: it would make a step explode
_DECREASE, _CURVATURE = 1e-4, 0.9  # the Wolfe conditions' constants, Nocedal and Wright p. 62
_ENOUGH = 25  # evaluations in one line search


class LBFGS(Optimizer):
    """L-BFGS with PyTorch's interface: ``step(closure)`` makes up to ``max_iter`` iterations.

    Along ``d = −H g``, with H from the last ``history_size`` pairs of moves and gradient changes
    (Nocedal and Wright 2006, algorithm 7.4), it moves by ``lr``, or as far as
    ``line_search_fn="strong_wolfe"`` finds good (algorithms 3.5 and 3.6), which is worth its
    evaluations. The first move is at most ``lr / ‖g‖₁``. It ends early when the largest gradient
    is at most ``tolerance_grad``, or move or loss change by less than ``tolerance_change``.

    The closure clears the gradients, computes the loss, calls ``backward()`` and returns the loss;
    it may be compiled, `step` itself cannot. Raises `GradientError` for a loss that is not finite.

    >>> import gpugrad as gg
    >>> w = gg.asarray([-1.2, 1.0], dtype=gg.float64, requires_grad=True)
    >>> optimizer = gg.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")
    >>> def rosenbrock():
    ...     optimizer.zero_grad()
    ...     loss = (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2
    ...     loss.backward()
    ...     return loss
    >>> _ = optimizer.step(rosenbrock)
    >>> [round(x, 4) for x in w.tolist()]
    [1.0, 1.0]
    """

    def __init__(
        self,
        params: Module | Iterable[Tensor],
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        super().__init__(params, lr)
        at_least("LBFGS", tolerance_grad=tolerance_grad, tolerance_change=tolerance_change)
        if min(max_iter, history_size, 1 if max_eval is None else max_eval) < 1:
            rule = "max_iter, max_eval and history_size are at least 1"
            raise DtypeError(message("LBFGS", rule, (max_iter, max_eval, history_size)))
        if line_search_fn not in (None, "strong_wolfe"):
            hint = '"strong_wolfe" or None'
            raise DtypeError(message("LBFGS", "unknown line search", repr(line_search_fn), hint))
        self.max_iter = max_iter
        self.max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
        self.tolerance_grad, self.tolerance_change = tolerance_grad, tolerance_change
        self.history_size, self.line_search_fn = history_size, line_search_fn
        # Moves s and the gradient changes y they made, oldest first.
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.last: tuple[Tensor, Tensor] | None = None  # the latest gradient, and the move from it

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make up to ``max_iter`` iterations; the loss before them, as ``closure`` returned it."""
        if closure is None:
            rule = "the loss is computed several times in a step, so it takes a closure"
            hint = "optimizer.step(closure), without a GradScaler"
            raise DtypeError(message("LBFGS.step", rule, hint=hint))
        if state.trace is not None:
            rule = "the step looks at losses to choose its way, so it cannot be recorded"
            raise TraceError(message("LBFGS", rule, hint="gg.compile on the closure"))
        with grad_mode(True):
            first = closure()
        loss, gradient = _number(first), self._gradient()
        if not math.isfinite(loss):
            raise GradientError(message("LBFGS", "the loss is not finite", loss))
        evaluations, size = 1, _largest(gradient)
        with grad_mode(False):
            for i in range(self.max_iter):
                if size <= self.tolerance_grad:
                    break
                direction = self._direction(gradient)
                slope = (gradient @ direction).item()
                if slope > -self.tolerance_change:
                    break
                fresh = self.last is None
                t = self.lr * (min(1.0, 1 / abs(gradient).sum().item()) if fresh else 1.0)
                start = Point(0.0, loss, slope, gradient)
                searched = self.line_search_fn is not None
                if not searched and i == self.max_iter - 1:
                    self._move(self._flat(), t * direction, gradient)
                    break  # nobody would use a further evaluation
                at = _Line(closure, self, direction)
                if searched:
                    most = min(self.max_eval - evaluations, _ENOUGH)
                    least = self.tolerance_change / _largest(direction)
                    found = _strong_wolfe(at, start, t, most, least)
                else:
                    found = at(t)
                self._move(at.origin, found.t * direction, gradient)
                evaluations += at.evaluations
                loss, gradient = found.loss, found.gradient
                size, moved = _largest(gradient), found.t * _largest(direction)
                change = abs(loss - start.loss)
                if moved <= self.tolerance_change or change < self.tolerance_change:
                    break
                if evaluations >= self.max_eval:
                    break
        return first

    def _move(self, origin: Tensor, move: Tensor, gradient: Tensor) -> None:
        self._write(origin + move)
        self.last = gradient, move
        self._count(list(range(len(self.params))))

    def _direction(self, gradient: Tensor) -> Tensor:
        """``−H g``, the newest pair learnt first."""
        if self.last is not None:
            before, move = self.last
            change = gradient - before
            if (change @ move).item() > _LEAST_CURVATURE:
                self.pairs.append((move, change))
                del self.pairs[: -self.history_size]
        # Bare arrays: hundreds of small products a move, and nothing of them is recorded.
        pairs = [(data_of(s), data_of(y)) for s, y in self.pairs]
        q, known = -data_of(gradient), []
        for s, y in reversed(pairs):
            rho = 1 / (y @ s)
            alpha = rho * (s @ q)
            known.append((s, y, rho, alpha))
            q = q - alpha * y
        if pairs:
            s, y = pairs[-1]
            q = q * ((y @ s) / (y @ y))
        for s, y, rho, alpha in reversed(known):
            q = q + (alpha - rho * (y @ q)) * s
        return Tensor(q)

    def _gradient(self) -> Tensor:
        found = [p.grad if p.grad is not None else functions.zeros_like(p) for p in self.params]
        return functions.concat([g.detach().reshape(-1) for g in found])

    def _flat(self) -> Tensor:
        return functions.concat([p.detach().reshape(-1) for p in self.params])

    def _write(self, flat: Tensor) -> None:
        start = 0
        for p in self.params:
            part = flat[start : start + p.size].reshape(p.shape)
            p._assign(functions.tensor(functions.astype(part, p.dtype)))
            start += p.size

    def state_dict(self) -> dict[str, Any]:
        """``lr``, ``steps``, and flat over all parameters ``move.<n>`` and ``change.<n>`` of each
        pair, oldest first, ``gradient`` and ``move`` of the latest iteration."""
        named = {"lr": self.lr, "steps": list(self.steps)}
        for i, (s, y) in enumerate(self.pairs):
            named |= {f"move.{i}": s, f"change.{i}": y}
        if self.last is not None:
            named["gradient"], named["move"] = self.last
        return named

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; on any mismatch raise, and change nothing."""
        rest = dict(state)
        size = sum(p.size for p in self.params)

        def take(name: str) -> Tensor:
            value = functions.tensor(rest.pop(name), device=self.params[0].device).detach()
            if value.shape != (size,):
                got = f"{name}: {value.shape}, here {(size,)}"
                raise CheckpointError(message("LBFGS", "the state has other shapes", got))
            return value

        try:
            lr, steps = float(rest.pop("lr")), [int(n) for n in rest.pop("steps")]
            count = sum(name.startswith("move.") for name in rest)
            pairs = [(take(f"move.{i}"), take(f"change.{i}")) for i in range(count)]
            last = (take("gradient"), take("move")) if "move" in rest else None
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            rule = "the state is of another optimiser"
            raise CheckpointError(message("LBFGS", rule, error)) from error
        if rest or len(steps) != len(self.params):
            got = sorted(rest) or f"{len(steps)} step counts for {len(self.params)} parameters"
            raise CheckpointError(message("LBFGS", "the state is of another optimiser", got))
        self.lr, self.steps, self.pairs, self.last = lr, steps, pairs, last


class Point(NamedTuple):
    """A step along a line: how far, and what was found there."""

    t: float
    loss: float
    slope: float
    gradient: Any


class _Line:
    """``at(t)``: the loss with the parameters moved by ``t`` along a direction."""

    def __init__(self, closure: Callable[[], Any], optimizer: LBFGS, direction: Tensor) -> None:
        self.closure, self.optimizer, self.direction = closure, optimizer, direction
        self.origin = optimizer._flat()
        self.evaluations = 0

    def __call__(self, t: float) -> Point:
        self.optimizer._write(self.origin + t * self.direction)
        with grad_mode(True):
            loss = self.closure()
        self.evaluations += 1
        gradient = self.optimizer._gradient()
        return Point(t, _number(loss), (gradient @ self.direction).item(), gradient)


def _strong_wolfe(
    at: Callable[[float], Point], start: Point, t: float, most: int, least: float
) -> Point:
    """A point along a line that fulfils both Wolfe conditions, or the best of ``most`` points.

    The loss has fallen by at least 10⁻⁴ of what the slope promised, and the slope is down to 0.9 of
    itself. Ends also where only ``least`` is left to search in. Nocedal and Wright 2006, algorithms
    3.5 and 3.6 in one; a loss that is not finite counts as too far.
    """
    low, before = start, start
    high: Point | None = None  # until there is one the minimum may lie anywhere ahead
    for _ in range(most):
        point = at(t)
        enough = point.loss <= start.loss + _DECREASE * t * start.slope  # NaN is not
        if not enough or point.loss >= low.loss:
            high = point
        elif abs(point.slope) <= -_CURVATURE * start.slope:
            return point
        else:
            ahead = 1.0 if high is None else high.t - low.t
            if point.slope * ahead >= 0:
                high = low
            before, low = low, point
        if high is None:
            t = min(max(_cubic(before, low), low.t + 0.01 * (low.t - before.t)), 10 * low.t)
            continue
        width = high.t - low.t
        if abs(width) <= least:
            break
        # Within the middle 80 %: a step may not approach one end for ever.
        t = low.t + width * min(max((_cubic(low, high) - low.t) / width, 0.1), 0.9)
    return low


def _cubic(a: Point, b: Point) -> float:
    """Where the cubic through two points with their slopes is least; the middle if nowhere.

    Nocedal and Wright 2006, eq. 3.59.
    """
    middle = (a.t + b.t) / 2
    if not (math.isfinite(b.loss) and math.isfinite(b.slope)):
        return middle
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if square < 0:
        return middle
    d2 = math.copysign(math.sqrt(square), b.t - a.t)
    below = b.slope - a.slope + 2 * d2
    return b.t - (b.t - a.t) * (b.slope + d2 - d1) / below if below else middle


def _number(loss: Any) -> float:
    return float(loss.detach()) if isinstance(loss, Tensor) else float(loss)


def _largest(x: Tensor) -> float:
    return float(abs(x).max().item()) if x.size else 0.0
