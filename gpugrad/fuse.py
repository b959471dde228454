"""The fusion table: patterns of ops that one backend kernel runs backward. Imports backend and ops.

A row hangs on the last op of its pattern and matches towards the inputs. Inner values must be used
once and wanted by nobody. While a pass is being recorded (``create_graph``) no row applies: a fused
kernel is differentiated again through its parts.
"""

from collections.abc import Callable, Container, Iterator
from typing import Any, NamedTuple

from gpugrad import backend
from gpugrad.node import Node
from gpugrad.ops.elementwise import add, sigmoid
from gpugrad.ops.matrix import linear, matmul

Cotangents = Iterator[tuple[Node, Any]]
Inner = Callable[[Node | None], bool]


class Row(NamedTuple):
    """One pattern: ``match(node, inner)`` gives what ``run(match, g)`` needs, or None."""

    name: str
    match: Callable[[Node, Inner], "Match | None"]


class Match(NamedTuple):
    """A place where a row applies: the nodes it swallows, last first, and how to run them."""

    nodes: tuple[Node, ...]
    backward: Callable[..., Cotangents]

    def kernel_takes(self, g: Any) -> bool:
        y = self.nodes[0]
        return len(y.shape) == 2 and y.dtype.char in "fd" and y.dtype == g.dtype

    def run(self, g: Any, wanted: Container[Node | None]) -> Cotangents:
        """Cotangents for those parents that are ``wanted``."""
        return self.backward(*self.nodes, g, wanted)


def _match_sigmoid_add(node: Node, inner: Inner) -> Match | None:
    """``sigmoid(x @ w + b)`` as written by hand; the bias may stand on either side."""
    (shifted,) = node.parents
    if not inner(shifted) or shifted is None or shifted.op is not add:
        return None
    for product, bias in (shifted.parents, shifted.parents[::-1]):
        if (
            product is not None
            and bias is not None
            and product.op is matmul
            and product.shape == node.shape
            and bias.shape == node.shape[1:]
        ):
            return Match((node, shifted), _sigmoid_add_bwd)
    return None


def _sigmoid_add_bwd(
    node: Node, shifted: Node, g: Any, wanted: Container[Node | None]
) -> Cotangents:
    dz, db = _sigmoid_bwd(node, g)
    for parent in shifted.parents:
        if parent is not None and parent in wanted:
            yield parent, db if parent.shape == db.shape else dz


def _match_sigmoid_linear(node: Node, inner: Inner) -> Match | None:
    """``sigmoid(linear(x, w, b))``, what `nn.Linear` followed by `nn.Sigmoid` records."""
    (z,) = node.parents
    if not inner(z) or z is None or z.op is not linear or z.parents[2] is None:
        return None
    return Match((node, z), _sigmoid_linear_bwd)


def _sigmoid_linear_bwd(node: Node, z: Node, g: Any, wanted: Container[Node | None]) -> Cotangents:
    dz, db = _sigmoid_bwd(node, g)
    x, w, b = z.parents
    rules: Any = linear.rules
    for rule, parent in zip(rules, (x, w), strict=False):
        if parent is not None and parent in wanted:
            yield parent, rule(dz, z.saved, parent, z.params)
    if b is not None and b in wanted:
        yield b, db


def _sigmoid_bwd(node: Node, g: Any) -> Any:
    """Only ``y`` was saved, never ``z``: the kernel needs no more."""
    assert node.saved is not None
    return backend.of(g).sigmoid_bwd(g, node.saved[-1])


TABLE = {
    sigmoid: [
        Row("sigmoid(x @ w + b)", _match_sigmoid_add),
        Row("sigmoid(linear(x, w, b))", _match_sigmoid_linear),
    ]
}

for _op, _rows in TABLE.items():
    _op.fusions = list(_rows)
