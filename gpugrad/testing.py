"""Checking derivatives: numerical against analytic. Imports transforms."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpugrad.errors import DtypeError, GradientError, message
from gpugrad.late import functions
from gpugrad.state import state
from gpugrad.tensor import Tensor
from gpugrad.transforms import jacobian, jvp, vjp

__all__ = ["Costs", "cost_report", "count_ops", "gradcheck", "numerical_jvp"]


def count_ops(f: Callable[..., Any], *args: Any) -> dict[str, int]:
    """How often each op ran while computing ``f(*args)``, backward and forward passes included.

    >>> import gpugrad as gg
    >>> gg.testing.count_ops(lambda x: gg.sin(x) * x + x, 2.0)
    {'sin': 1, 'multiply': 1, 'add': 1}
    """
    counts: dict[str, int] = {}

    def count(op: Any, xs: Any, y: Any) -> None:
        counts[op.name] = counts.get(op.name, 0) + 1

    lifted = [functions.asarray(np.float64(x) if type(x) is float else x) for x in args]
    with state.watched_by(count):
        f(*lifted)
    return counts


class Costs(NamedTuple):
    """Numbers of ops: of ``f``, of one pass of each mode, of the whole jacobian by each mode."""

    inputs: int
    outputs: int
    value: int
    forward_pass: int
    reverse_pass: int
    jacobian_forward: int
    jacobian_reverse: int

    def __str__(self) -> str:
        return (
            f"f: {self.inputs} inputs, {self.outputs} outputs, {self.value} ops\n"
            f"one pass:  forward mode {self.forward_pass:8d} ops, reverse {self.reverse_pass:8d}\n"
            f"jacobian:  forward mode {self.jacobian_forward:8d} ops "
            f"(a pass an input), reverse {self.jacobian_reverse:8d} (a pass an output)"
        )


def cost_report(f: Callable[..., Any], x: Any) -> Costs:
    """What derivatives of ``f`` at the array ``x`` cost, in ops that were really run.

    Forward mode takes one pass for each input, reverse mode one for each output, whatever the
    number of the other: Griewank and Walther 2008, chapter 3.

    >>> import gpugrad as gg, numpy as np
    >>> costs = gg.testing.cost_report(lambda x: gg.tanh(x).sum(), np.ones(100))
    >>> costs.jacobian_forward > 50 * costs.jacobian_reverse
    True
    """
    x = functions.asarray(x)
    ones = functions.ones_like(x)

    def total(run: Callable[[], Any]) -> int:
        return sum(count_ops(run).values())

    out = f(x)
    cotangent = functions.ones_like(out)
    return Costs(
        inputs=x.size,
        outputs=out.size,
        value=total(lambda: f(x)),
        forward_pass=total(lambda: jvp(f, (x,), (ones,))),
        reverse_pass=total(lambda: vjp(f, x)[1](cotangent)),
        jacobian_forward=total(lambda: jacobian(f, "forward")(x)),
        jacobian_reverse=total(lambda: jacobian(f, "reverse")(x)),
    )


def numerical_jvp(
    f: Callable[..., Tensor], args: Sequence[Any], tangents: Sequence[Any], eps: float = 1e-6
) -> Any:
    """``(f(x + eps·dx) − f(x − eps·dx)) / 2 eps`` in float64: second-order central differences."""
    ahead = [x + eps * dx for x, dx in zip(args, tangents, strict=True)]
    behind = [x - eps * dx for x, dx in zip(args, tangents, strict=True)]
    return (_value(f, ahead) - _value(f, behind)) / (2 * eps)


def _value(f: Callable[..., Tensor], args: Sequence[Any]) -> Any:
    out = f(*[functions.asarray(x) for x in args])
    host = np.asarray(out.detach().to("cpu").numpy())
    return host.astype(np.complex128 if host.dtype.kind == "c" else np.float64)


def _coordinates(a: Any) -> Any:
    """Real numbers as they are; complex ones as (real, imaginary) along a new last axis."""
    a = np.asarray(a)
    return np.stack([a.real, a.imag], axis=-1) if a.dtype.kind == "c" else a


def _unit(like: Any, at: tuple[int, ...]) -> Any:
    """1 (or i) in one coordinate of an array like ``like``, else 0."""
    unit = np.zeros_like(like)
    if unit.dtype.kind == "c":
        unit[at[:-1]] = (1, 1j)[at[-1]]
    else:
        unit[at] = 1.0
    return unit


def gradcheck(
    f: Callable[..., Tensor],
    args: Sequence[Any],
    *,
    eps: float = 1e-6,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    order: int = 2,
    forward: bool = True,
    seed: int = 0,
) -> bool:
    """Compare every derivative of ``f`` at ``args`` with central differences.

    First order: the vjp of every output entry and the jvp along every input entry. Second order
    (``order=2``): the jvp of the vjp, and the vjp of the vjp, along random directions. A complex
    argument or result counts as two real ones, and its gradient is dL/dRe + i·dL/dIm.

    Parameters
    ----------
    f : takes tensors, returns one tensor of any shape.
    args : floating or complex arrays or numbers; they are raised to double precision.
    eps : step of the difference, in the units of the arguments.
    forward : False leaves forward mode out, which a `Function` has none of.

    Raises
    ------
    GradientError
        With the entry that is furthest off: which argument, which output, both values.

    Examples
    --------
    >>> import gpugrad as gg, numpy as np
    >>> gg.testing.gradcheck(lambda x: gg.tanh(x).sum(), [np.array([0.5, -1.0])])
    True
    """
    xs = [np.asarray(x.detach().numpy() if isinstance(x, Tensor) else x) for x in args]
    for x in xs:
        if x.dtype.kind not in "fc":
            raise DtypeError(message("gradcheck", "arguments are floating", x.dtype))
    xs = [x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in xs]
    _first_order(f, xs, eps, rtol, atol, forward)
    if order >= 2:
        _second_order(f, xs, eps, rtol, atol, forward, np.random.default_rng(seed))
    return True


def _first_order(
    f: Any, xs: list[Any], eps: float, rtol: float, atol: float, forward: bool
) -> None:
    _, pullback = vjp(f, *xs)
    out = _value(f, xs)
    shape = _coordinates(out).shape
    for i, x in enumerate(xs):
        numeric = np.empty((*shape, *_coordinates(x).shape))
        pushed = np.empty_like(numeric)
        for at in np.ndindex(numeric.shape[len(shape) :]):
            tangents = [np.zeros_like(other) for other in xs]
            tangents[i] = _unit(x, at)
            numeric[(..., *at)] = _coordinates(numerical_jvp(f, xs, tangents, eps))
            if forward:
                pushed[(..., *at)] = _coordinates(jvp(f, xs, tangents)[1])
        reverse = np.empty_like(numeric)
        for place in np.ndindex(shape):
            reverse[place] = _coordinates(pullback(_unit(out, place))[i])
        _compare("vjp", i, reverse, numeric, len(shape), rtol, atol)
        if forward:
            _compare("jvp", i, pushed, numeric, len(shape), rtol, atol)


def _second_order(
    f: Any,
    xs: list[Any],
    eps: float,
    rtol: float,
    atol: float,
    forward: bool,
    rng: np.random.Generator,
) -> None:
    cotangent = _random_like(_value(f, xs), rng)
    tangents = [_random_like(x, rng) for x in xs]
    weights = [_random_like(x, rng) for x in xs]

    def directional(*args: Any) -> Tensor:
        """⟨weights, vjp of f⟩: a scalar whose derivative needs the second derivative of f."""
        _, pullback = vjp(f, *args)
        parts = [
            functions.sum(functions.real(g * functions.asarray(w.conj(), device=g.device)))
            for g, w in zip(pullback(cotangent), weights, strict=True)
        ]
        total: Tensor = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    numeric = numerical_jvp(directional, xs, tangents, eps)
    gradients = vjp(directional, *xs)[1](1.0)
    reverse = sum(
        float((g * dx.conj()).sum().real) for g, dx in zip(gradients, tangents, strict=True)
    )
    if forward:
        pushed = jvp(directional, xs, tangents)[1]
        _compare("jvp of vjp", None, np.asarray(pushed), np.asarray(numeric), 0, rtol, atol)
    _compare("vjp of vjp", None, np.asarray(reverse), np.asarray(numeric), 0, rtol, atol)


def _random_like(a: Any, rng: np.random.Generator) -> Any:
    x = rng.standard_normal(np.shape(a))
    return x + 1j * rng.standard_normal(np.shape(a)) if a.dtype.kind == "c" else x


def _compare(
    kind: str, i: int | None, ours: Any, numeric: Any, out_ndim: int, rtol: float, atol: float
) -> None:
    gap = np.abs(ours - numeric)
    excess = gap - (atol + rtol * np.abs(numeric))
    wrong = ~(excess <= 0)  # NaN is wrong
    if not wrong.any():
        return
    worst = np.unravel_index(
        np.argmax(np.where(wrong, np.nan_to_num(gap, nan=np.inf), -1)), gap.shape
    )
    place = tuple(map(int, worst))
    at = "" if i is None else f" of argument {i} at {place[out_ndim:]}, output {place[:out_ndim]}"
    got = f"analytic {ours[worst]:.9g}, numerical {numeric[worst]:.9g}"
    rule = f"{kind}{at} is off by {gap[worst]:.3g} ({int(wrong.sum())} of {gap.size} entries wrong)"
    raise GradientError(message("gradcheck", rule, got))
