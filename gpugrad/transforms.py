"""Derivatives of functions: grad, vjp, jvp, jacobian and kin. Imports tape, forward and tree.

Arrays in, the same kind out: NumPy gives NumPy, CuPy gives CuPy, tensors give tensors, Python
numbers (which count as float64 or complex128) give numbers. A result that itself still depends on
something that is being differentiated stays a tensor, so that nothing is lost on the way out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.errors import DtypeError, GradientError, ShapeError, message
from gpugrad.forward import push
from gpugrad.late import functions
from gpugrad.node import Dual, Node, leaf
from gpugrad.op import elementwise
from gpugrad.state import grad_mode, state
from gpugrad.tape import gradients, seed, written
from gpugrad.tensor import Tensor, sole_owner, value_of
from gpugrad.tree import Rebuild, flatten, match

# Stands between an outer tape and an inner one: the same value under a node of its own.
_boundary = elementwise("boundary", lambda xp, x: x, [1])


def grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The function that computes the gradient of the scalar function ``f``.

    ``argnums`` says with respect to which arguments; a tuple gives a tuple. An argument may be a
    number, an array, a tensor, or nested lists, tuples and dicts of them; the gradient has the same
    structure, shapes, dtypes and kind.

    Raises `GradientError` when ``f`` returns no tensor or no scalar, `DtypeError` for integers.

    Examples
    --------
    >>> import gpugrad as gg, numpy as np
    >>> gg.grad(lambda x: x * x)(3.0)
    6.0
    >>> gg.grad(lambda w: (w["a"] * w["b"]).sum())({"a": np.ones(2), "b": np.arange(2.0)})
    {'a': array([0., 1.]), 'b': array([1., 1.])}
    >>> gg.grad(gg.grad(gg.tanh))(0.0)
    -0.0
    """
    both = value_and_grad(f, argnums)

    @wraps(f)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return gradient


def value_and_grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """Like `grad`, but the function it gives returns ``(f(x), gradient)``.

    It fits `scipy.optimize.minimize(..., jac=True)` as it is.

    >>> import gpugrad as gg, numpy as np
    >>> value, slope = gg.value_and_grad(lambda x: (x**2).sum())(np.array([1.0, 2.0]))
    >>> float(value), slope
    (5.0, array([2., 4.]))
    """

    @wraps(f)
    def both(*args: Any, **kwargs: Any) -> Any:
        chosen = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        places = [_place("grad", i, args) for i in chosen]
        if len(set(places)) != len(places):
            raise GradientError(message("grad", "argnums names an argument twice", argnums))
        leaves, rebuild = flatten([args[i] for i in places])
        boxes = [box("grad", x) for x in leaves]
        inner = list(args)
        for i, boxed in zip(places, rebuild(boxes), strict=True):
            inner[i] = boxed
        nodes = [_node(boxed) for boxed in boxes]  # before f may write to its arguments
        with differentiating():
            out = f(*inner, **kwargs)
        _require_scalar("grad", out)
        found: Sequence[Tensor | None] = [None] * len(nodes)
        if out._node is not None:
            found = gradients([(out._node, seed("grad", out))], nodes)
        results = [
            _like(x, g if g is not None else functions.zeros_like(boxed.detach()))
            for x, boxed, g in zip(leaves, boxes, found, strict=True)
        ]
        value = _value_like(leaves, _without(out, nodes))
        tree = rebuild(results)
        return value, tree[0] if isinstance(argnums, int) else tuple(tree)

    return both


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., tuple[Any, ...]]]:
    """``f(*primals)``, and the pullback that takes a cotangent of it to cotangents of ``primals``.

    The pullback may be called any number of times; it returns a tuple with one entry an argument.

    >>> import gpugrad as gg, numpy as np
    >>> y, pullback = gg.vjp(lambda x: 3 * x, np.ones(2))
    >>> pullback(np.array([1.0, 10.0]))
    (array([ 3., 30.]),)
    """
    leaves, rebuild = flatten(primals)
    boxes = [box("vjp", x) for x in leaves]
    nodes = [_node(boxed) for boxed in boxes]
    with differentiating():
        value = f(*rebuild(boxes))
    out, rebuild_out = _outputs("vjp", value)

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        given = _matched("vjp", "a cotangent has the structure of the output", value, cotangent)
        seeds = [
            (y._node, seed("vjp", y, g))
            for y, g in zip(out, given, strict=True)
            if y._node is not None
        ]
        found = gradients(seeds, nodes, retain_graph=True)
        return tuple(
            rebuild(
                _like(x, g if g is not None else functions.zeros_like(boxed.detach()))
                for x, boxed, g in zip(leaves, boxes, found, strict=True)
            )
        )

    return rebuild_out(_value_like(leaves, _without(y, nodes)) for y in out), pullback


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """``f(*primals)`` and its derivative along ``tangents``, in one forward pass.

    Nothing is recorded and nothing is kept, so the memory is that of ``f`` itself, twice.

    >>> import gpugrad as gg
    >>> gg.jvp(lambda x, y: x * y, (3.0, 4.0), (1.0, 0.0))
    (12.0, 4.0)
    """
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        got = f"{type(primals).__name__}, {type(tangents).__name__}"
        hint = "gg.jvp(f, (x,), (dx,))"
        raise DtypeError(message("jvp", "primals and tangents are tuples", got, hint))
    leaves, rebuild = flatten(tuple(primals))
    pushed = _matched("jvp", "tangents have the structure of the primals", primals, tangents)
    xs = [_lift("jvp", x) for x in leaves]
    dxs = [_tangent(dx, x) for dx, x in zip(pushed, xs, strict=True)]
    structure: list[Rebuild] = []

    def flat(*duals: Tensor) -> list[Tensor]:
        with differentiating(grad=state.grad):
            value = f(*rebuild(duals))
        out, rebuild_out = _outputs("jvp", value)
        structure.append(rebuild_out)
        return out

    ys, dys = push(flat, xs, dxs)
    (build,) = structure
    return build(_value_like(leaves, y) for y in ys), build(_value_like(leaves, d) for d in dys)


def jacobian(f: Callable[..., Any], mode: str = "reverse", argnums: int = 0) -> Callable[..., Any]:
    """The function that computes all derivatives of the array function ``f``.

    For an argument of shape ``n…`` and an output of shape ``m…`` the result has shape ``(*m, *n)``.
    ``"reverse"`` costs one backward pass an output entry, ``"forward"`` one pass an input entry:
    choose by which are fewer. A nested argument gives the same structure of jacobians.

    >>> import gpugrad as gg, numpy as np
    >>> gg.jacobian(lambda x: x * x)(np.array([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    """
    if mode not in ("reverse", "forward"):
        raise GradientError(
            message("jacobian", "unknown mode", repr(mode), '"reverse" or "forward"')
        )

    @wraps(f)
    def matrix(*args: Any, **kwargs: Any) -> Any:
        place = _place("jacobian", argnums, args)
        leaves, rebuild = flatten(args[place])
        xs = [_lift("jacobian", x) for x in leaves]

        def flat(*inner: Tensor) -> Tensor:
            out = f(*args[:place], rebuild(inner), *args[place + 1 :], **kwargs)
            _require_tensor("jacobian", out)
            return out  # type: ignore[no-any-return]

        columns = _by_columns if mode == "forward" else _by_rows
        return rebuild(_like(x, j) for x, j in zip(leaves, columns(flat, xs), strict=True))

    return matrix


def _by_rows(f: Callable[..., Tensor], xs: list[Tensor]) -> list[Tensor]:
    out, pullback = vjp(f, *xs)
    if not out.size:
        return [functions.zeros((*out.shape, *x.shape), dtype=x.dtype, device=x.device) for x in xs]
    basis = functions.eye(out.size, dtype=out.dtype, device=out.device)
    rows = [pullback(functions.reshape(basis[i], out.shape)) for i in range(out.size)]
    return [
        functions.reshape(functions.stack(list(column)), (*out.shape, *x.shape))
        for column, x in zip(zip(*rows, strict=True), xs, strict=True)
    ]


def _by_columns(f: Callable[..., Tensor], xs: list[Tensor]) -> list[Tensor]:
    result = []
    for i, x in enumerate(xs):
        basis = functions.eye(x.size, dtype=x.dtype, device=x.device)
        columns = [
            jvp(
                lambda *moving, i=i: f(*xs[:i], *moving, *xs[i + 1 :]),
                (x,),
                (functions.reshape(basis[k], x.shape),),
            )[1]
            for k in range(x.size)
        ]
        shape = columns[0].shape if columns else f(*xs).shape
        if not columns:
            result.append(functions.zeros((*shape, *x.shape), dtype=x.dtype, device=x.device))
            continue
        stacked = functions.stack(columns, axis=-1)
        result.append(functions.reshape(stacked, (*shape, *x.shape)))
    return result


def hessian(f: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """The matrix of second derivatives of the scalar function ``f``, forward over reverse.

    For an argument of shape ``n…`` the result has shape ``(*n, *n)``; the argument is one array.

    >>> import gpugrad as gg, numpy as np
    >>> gg.hessian(lambda x: x[0] ** 2 * x[1])(np.array([1.0, 2.0]))
    array([[4., 2.],
           [2., 0.]])
    """
    return jacobian(grad(f, argnums), "forward", argnums)


def hvp(f: Callable[..., Any], primals: Any, v: Any) -> Any:
    """Hessian of the scalar ``f`` at ``primals`` times ``v``, without forming the Hessian.

    ``primals`` and ``v`` are tuples with one entry an argument, and so is the result; or, for one
    argument, the argument and direction themselves. One forward pass over one backward pass:
    Pearlmutter 1994.

    >>> import gpugrad as gg, numpy as np
    >>> gg.hvp(lambda x: (x**3).sum(), np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    array([6., 0.])
    """
    single = not isinstance(primals, (tuple, list))
    points = (primals,) if single else tuple(primals)
    directions = (v,) if single else tuple(v)
    result = jvp(grad(f, tuple(range(len(points)))), points, directions)[1]
    return result[0] if single else result


# In and out


@contextmanager
def differentiating(grad: bool = True) -> Iterator[None]:
    """While the user's function runs: nothing may leave the tape unseen."""
    state.transforms += 1
    try:
        with grad_mode(grad):
            yield
    finally:
        state.transforms -= 1


def _matched(name: str, rule: str, tree: Any, other: Any) -> list[Any]:
    try:
        return match(tree, other)
    except ValueError as error:
        raise ShapeError(message(name, rule, error)) from None


def _place(name: str, i: int, args: tuple[Any, ...]) -> int:
    if not -len(args) <= i < len(args):
        rule = f"argnums={i} names an argument that was not passed by position"
        raise GradientError(message(name, rule, f"{len(args)} arguments"))
    return i % len(args)


def _lift(name: str, x: Any) -> Tensor:
    lifted = functions.asarray(np.asarray(x) if type(x) in (float, complex) else x)
    if lifted.dtype.kind not in "fc":
        hint = "floats: 3.0 instead of 3, or x.astype(float)"
        raise DtypeError(message(name, "integers have no derivative", lifted.dtype, hint))
    return lifted


def box(name: str, x: Any) -> Tensor:
    """A fresh handle of the value of ``x``, on a node of its own."""
    lifted = _lift(name, x)
    if lifted._node is None:
        return Tensor(value_of(lifted), leaf(lifted.shape, lifted.dtype))
    with grad_mode(True):
        return _boundary(lifted)  # type: ignore[no-any-return]


def _node(boxed: Tensor) -> Node:
    assert boxed._node is not None
    return boxed._node


def _tangent(dx: Any, x: Tensor) -> Tensor:
    tangent = functions.asarray(dx, written(dx, x), x.device)
    if tangent.shape != x.shape:
        got = f"{tangent.shape} for {x.shape}"
        raise ShapeError(message("jvp", "a tangent has the shape of its primal", got))
    return functions.astype(tangent, x.dtype)


def _outputs(name: str, out: Any) -> tuple[list[Tensor], Rebuild]:
    leaves, rebuild = flatten(out)
    for y in leaves:
        _require_tensor(name, y)
    return leaves, rebuild


def _require_tensor(name: str, out: Any) -> None:
    if not isinstance(out, Tensor):
        rule = "f returned what has left the tape, so its derivative would be silently zero"
        hint = "gg functions inside f, and no float(), .item() or .numpy()"
        raise GradientError(message(name, rule, type(out).__name__, hint))


def _require_scalar(name: str, out: Any) -> None:
    _require_tensor(name, out)
    if out.size != 1:
        hint = "f(x).sum(), or gg.vjp for an output that is no scalar"
        raise GradientError(message(name, "f must return one number", f"shape {out.shape}", hint))


def _without(out: Tensor, nodes: Sequence[Node]) -> Tensor:
    """The value that leaves a transform: off this transform's tape, still on any outer one."""
    if out._node is None:
        return out
    stop = frozenset(nodes)
    stack, seen = [out._node], {out._node}
    outer = False
    while stack and not outer:
        node = stack.pop()
        inside = node in stop
        outer = any(node.parents) if inside else node.op is None
        for parent in () if inside else node.parents:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    return out if outer else Tensor(value_of(out))


def _like(x: Any, result: Tensor) -> Any:
    """``result`` as the kind of thing ``x`` is."""
    if isinstance(x, Tensor) or result._node is not None or type(result._data) is Dual:
        return result
    if state.trace is not None:  # it has no values yet
        return result
    array = result._data
    if not backend.is_cupy(x):
        if not isinstance(x, (float, complex, np.generic, np.ndarray)):
            return result
        array = backend.of(array).to_numpy(array)
        if not array.ndim and not isinstance(x, np.ndarray):
            return array.item() if type(x) in (float, complex) else array[()]
    # Handed out for good: a writable array that nothing else, the tape above all, can see.
    alone = array is result._data and sole_owner(result, held=1)
    return array if alone else backend.of(array).xp.array(array)


def _value_like(leaves: Sequence[Any], value: Tensor) -> Any:
    """A function's value as the kind of thing its arguments were: tensor, array or number."""
    kinds = sorted(leaves, key=_precedence) or [value]
    out = _like(kinds[0], value)
    return out[()] if isinstance(out, np.ndarray) and out.ndim == 0 else out


def _precedence(x: Any) -> int:
    return 0 if isinstance(x, Tensor) else 2 if isinstance(x, (float, complex, np.generic)) else 1
