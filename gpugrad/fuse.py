"""The fusion table: patterns of ops that one backend kernel runs backward. Imports backend and ops.

A row hangs on the last op of its pattern and matches towards the inputs. Inner values must be used
once and wanted by nobody. While a pass is being recorded (``create_graph``) no row applies: a fused
kernel is differentiated again through its parts.
"""

from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

from gpugrad import backend
from gpugrad.node import Node
from gpugrad.ops.elementwise import add, relu, sigmoid, tanh
from gpugrad.ops.matrix import linear, matmul

Cotangents = Iterable[tuple[Node, Any]]


class Row(NamedTuple):
    """One pattern. ``backward(node, g, tape)`` gives the cotangents it sends, None for no match.

    ``tape`` is the pass: which values it wants (``uses``) and which may be swallowed (``inner``).
    With ``swallows`` the parent of ``node`` is part of the pattern.
    """

    name: str
    swallows: bool
    backward: Callable[[Node, Any, Any], Cotangents | None]


def _sigmoid_add_bwd(node: Node, g: Any, tape: Any) -> Cotangents | None:
    """``sigmoid(x @ w + b)`` as written by hand; the bias may stand on either side."""
    (shifted,) = node.parents
    if shifted is None or shifted.op is not add or not tape.inner(shifted):
        return None
    for product, bias in (shifted.parents, shifted.parents[::-1]):
        if (
            product is not None
            and bias is not None
            and product.op is matmul
            and product.shape == node.shape
            and bias.shape == node.shape[1:]
        ):
            dz, db = _sigmoid_bwd(node, g)
            pairs = [(product, dz), (bias, db)]
            return [(parent, c) for parent, c in pairs if parent in tape.uses]
    return None


def _activated_bwd(node: Node, g: Any, tape: Any) -> Cotangents | None:
    """``activation(linear(x, w, b))``, what `nn.Linear` followed by a layer of it records."""
    (z,) = node.parents
    if z is None or z.op is not linear or z.parents[2] is None or not tape.inner(z):
        return None
    saved: Any = node.saved
    cotangents = _at_once(node.op.name, g, saved[-1], z, tape.uses)
    if cotangents is not None or node.op is not sigmoid:
        return cotangents
    dz, db = _sigmoid_bwd(node, g)
    x, w, b = z.parents
    rules: Any = linear.rules
    pairs: list[tuple[Node, Any]] = [
        (parent, rule(dz, z.saved, parent, z.params))
        for rule, parent in zip(rules, (x, w), strict=False)
        if parent is not None and parent in tape.uses
    ]
    if b is not None and b in tape.uses:
        pairs.append((b, db))
    return pairs


def _linear_bwd(node: Node, g: Any, tape: Any) -> Cotangents | None:
    if node.parents[2] is None:
        return None
    return _at_once("", g, None, node, tape.uses)


def _at_once(
    activation: str, g: Any, y: Any, z: Node, uses: Container[Node | None]
) -> Cotangents | None:
    """Cotangents of x, w and b by one call of the backend, if it has one for these arrays."""
    x, w, b = z.parents
    saved: Any = z.saved
    x_data = saved[0] if w is not None and w in uses else None
    w_data = saved[1] if x is not None and x in uses else None
    results = backend.of(g).linear_bwd(activation, g, y, x_data, w_data)
    if results is None:
        return None
    _, dx, dw, db = results
    pairs: list[Any] = []
    if dx is not None:
        pairs.append((x, dx))
    if dw is not None:
        pairs.append((w, dw))
    if b in uses:
        pairs.append((b, db))
    return pairs


def _sigmoid_bwd(node: Node, g: Any) -> Any:
    """Only ``y`` was saved, never ``z``: the kernel needs no more."""
    assert node.saved is not None
    return backend.of(g).sigmoid_bwd(g, node.saved[-1])


TABLE = {
    sigmoid: [
        Row("sigmoid(linear(x, w, b))", True, _activated_bwd),
        Row("sigmoid(x @ w + b)", True, _sigmoid_add_bwd),
    ],
    tanh: [Row("tanh(linear(x, w, b))", True, _activated_bwd)],
    relu: [Row("relu(linear(x, w, b))", True, _activated_bwd)],
    linear: [Row("linear(x, w, b)", False, _linear_bwd)],
}

for _op, _rows in TABLE.items():
    _op.fusions = list(_rows)
