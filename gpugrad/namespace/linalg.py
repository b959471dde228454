"""Products and sums over chosen axes: einsum and its special cases. Imports ops, aval, creation.

Everything here is made of matmul, multiply, sum and views, so it differentiates as they do. The
functions of `gpugrad.linalg` stand in their own module.
"""

from collections.abc import Sequence
from itertools import combinations
from math import prod
from typing import Any

import numpy as np

from gpugrad.aval import normalize_axis
from gpugrad.errors import DtypeError, ShapeError, message
from gpugrad.late import ops
from gpugrad.namespace.array import expand_dims, matmul, moveaxis, reshape
from gpugrad.namespace.creation import asarray, astype
from gpugrad.namespace.lifting import together
from gpugrad.namespace.reductions import sum
from gpugrad.tensor import Tensor


def einsum(subscripts: Any, /, *operands: Any) -> Tensor:
    """Products of ``operands``, summed over the indices that are not behind ``->``.

    ``"ij,jk->ik"`` is a matrix product, ``"ii->i"`` a diagonal. ``...`` stands for axes that
    broadcast. Without ``->`` the result has the indices that occur once, in alphabetical order.
    Several operands are multiplied two at a time, in the order that keeps intermediates small.
    Instead of letters, indices may be integers in a list behind each operand, and behind them all
    those of the result: ``einsum(a, [0, 1], b, [1, 2], [0, 2])``.

    Raises
    ------
    ShapeError
        For subscripts that do not fit the operands or each other.

    Examples
    --------
    >>> import gpugrad as gg
    >>> gg.einsum("ij,j->i", gg.ones((2, 3)), gg.ones(3)).tolist()
    [3.0, 3.0]
    >>> gg.einsum("ii", gg.eye(3)).item()
    3.0
    """
    if not isinstance(subscripts, str):
        subscripts, operands = _lettered(subscripts, *operands)
    xs = together(*operands)
    inputs, output = _parsed(subscripts, [x.ndim for x in xs])
    terms = [_without_repeats(x, labels) for x, labels in zip(xs, inputs, strict=True)]
    sizes: dict[str, int] = {}
    for x, labels in terms:
        for label, size in zip(labels, x.shape, strict=True):
            if sizes.setdefault(label, size) != size and 1 not in (size, sizes[label]):
                got = f"{subscripts!r} with {[x.shape for x in xs]}"
                raise ShapeError(message("einsum", "an index has two sizes", got))
            if sizes[label] == 1:
                sizes[label] = size
    return _contracted([_squeezed(x, labels, sizes) for x, labels in terms], output)


Term = tuple[Tensor, str]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _lettered(*args: Any) -> tuple[str, tuple[Any, ...]]:
    """The form with lists of integers in the form with letters, which have the same order."""
    operands, lists = args[: len(args) // 2 * 2 : 2], args[1::2]
    output = args[-1:] if len(args) % 2 else ()
    given = [*lists, *output]
    if not lists or not all(isinstance(labels, (list, tuple)) for labels in given):
        got, hint = [type(x).__name__ for x in args], 'einsum("ij,jk->ik", a, b)'
        rule = "subscripts are a string that comes first, or a list behind each operand"
        raise DtypeError(message("einsum", rule, got, hint))
    numbers = sorted({int(i) for labels in given for i in labels if i is not Ellipsis})
    if len(numbers) > len(_LETTERS):
        rule = f"at most {len(_LETTERS)} different indices"
        raise ShapeError(message("einsum", rule, len(numbers)))
    letters: dict[Any, str] = dict(zip(numbers, _LETTERS, strict=False))
    letters[Ellipsis] = "..."
    groups = ["".join(letters[i] for i in labels) for labels in given]
    if not output:
        return ",".join(groups), operands
    return ",".join(groups[:-1]) + "->" + groups[-1], operands


def _parsed(subscripts: str, ndims: Sequence[int]) -> tuple[list[str], str]:
    """The index letters of each operand and of the result; an ellipsis gets letters of its own."""

    def wrong(rule: str) -> ShapeError:
        got = f"{subscripts!r} for operands of {list(ndims)} axes"
        return ShapeError(message("einsum", rule, got, '"ij,jk->ik"'))

    given, arrow, result = subscripts.replace(" ", "").partition("->")
    parts = given.split(",")
    if len(parts) != len(ndims):
        raise wrong("as many index groups as operands")
    dots = 0
    for part, ndim in zip(parts, ndims, strict=True):
        letters = part.replace("...", "", 1)
        if letters and not (letters.isascii() and letters.isalpha()):
            raise wrong("indices are letters, and at most one ...")
        if len(letters) > ndim or (len(letters) < ndim and "..." not in part):
            raise wrong("one letter an axis, or ... for the rest")
        dots = max(dots, ndim - len(letters))
    fill = "".join(chr(0x100 + i) for i in range(dots))  # no letter a user may write

    def filled(part: str, ndim: int) -> str:
        count = ndim - len(part.replace("...", "", 1))
        return part.replace("...", fill[dots - count :], 1)

    inputs = [filled(part, ndim) for part, ndim in zip(parts, ndims, strict=True)]
    everything = "".join(inputs)
    if not arrow:
        once = sorted(c for c in set(everything) if everything.count(c) == 1 and c not in fill)
        return inputs, fill + "".join(once)
    output = result.replace("...", fill, 1)
    if len(set(output)) < len(output) or not set(output) <= set(everything):
        raise wrong("an index of the result occurs once in it, and in an operand")
    return inputs, output


def _without_repeats(x: Tensor, labels: str) -> Term:
    """Each index that occurs twice in one operand becomes a diagonal, as its last axis."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            if x.shape[i] != x.shape[j]:
                got = f"{x.shape}"
                raise ShapeError(message("einsum", "a repeated index needs equal sizes", got))
            x = ops.diagonal(moveaxis(x, (i, j), (-2, -1)), k=0)
            labels = labels[:i] + labels[i + 1 : j] + labels[j + 1 :] + label
    return x, labels


def _squeezed(x: Tensor, labels: str, sizes: dict[str, int]) -> Term:
    """Without axes of size 1 that broadcast: another operand brings that index."""
    kept = [i for i, label in enumerate(labels) if x.shape[i] == sizes[label]]
    if len(kept) == x.ndim:
        return x, labels
    return reshape(x, tuple(x.shape[i] for i in kept)), "".join(labels[i] for i in kept)


def _contracted(terms: list[Term], output: str) -> Tensor:
    """The product of ``terms``, summed over every index that is not in ``output``."""
    while len(terms) > 1:
        pairs = combinations(range(len(terms)), 2)
        i, j = min(pairs, key=lambda pair: _growth(terms, pair, output))
        rest = [term for k, term in enumerate(terms) if k not in (i, j)]
        needed = set(output).union(*(labels for _, labels in rest))
        terms = [*rest, _pair(terms[i], terms[j], needed)]
    x, labels = _summed(*terms[0], set(output))
    order = tuple(labels.index(label) for label in output)
    return x if order == tuple(range(x.ndim)) else ops.permute_dims(x, axes=order)


def _growth(terms: list[Term], pair: tuple[int, int], output: str) -> tuple[int, int]:
    """Values in memory after multiplying two terms, less those before; then the work it is."""
    i, j = pair
    needed = set(output).union(*(labels for k, (_, labels) in enumerate(terms) if k not in (i, j)))
    (a, la), (b, lb) = terms[i], terms[j]
    sizes = dict(zip(la + lb, a.shape + b.shape, strict=True))
    size = prod(sizes[label] for label in needed & sizes.keys())
    return size - a.size - b.size, prod(sizes.values())


def _summed(x: Tensor, labels: str, needed: set[str]) -> Term:
    axes = tuple(i for i, label in enumerate(labels) if label not in needed)
    if not axes:
        return x, labels
    y = astype(ops.sum(x, axis=axes, keepdims=False), x.dtype)
    return y, "".join(label for label in labels if label in needed)


def _pair(left: Term, right: Term, needed: set[str]) -> Term:
    """The product of two terms as one matmul over all indices that both have and nobody needs."""
    a, la = _summed(*left, needed | set(right[1]))
    b, lb = _summed(*right, needed | set(la))
    both = [label for label in la if label in lb]
    batch = "".join(label for label in both if label in needed)
    inner = "".join(label for label in both if label not in needed)
    free_a = "".join(label for label in la if label not in both)
    free_b = "".join(label for label in lb if label not in both)
    sizes = dict(zip(la + lb, a.shape + b.shape, strict=True))

    def shape(labels: str) -> tuple[int, ...]:
        return tuple(sizes[label] for label in labels)

    a = ops.permute_dims(a, axes=tuple(la.index(c) for c in batch + free_a + inner))
    b = ops.permute_dims(b, axes=tuple(lb.index(c) for c in batch + inner + free_b))
    if inner:
        m, k, n = (prod(shape(part)) for part in (free_a, inner, free_b))
        a = reshape(a, (*shape(batch), m, k))
        b = reshape(b, (*shape(batch), k, n))
        y = reshape(ops.matmul(a, b), shape(batch + free_a + free_b))
    else:
        ones = (1,) * len(free_b)
        a = reshape(a, (*shape(batch + free_a), *ones))
        b = reshape(b, (*shape(batch), *(1,) * len(free_a), *shape(free_b)))
        y = a * b
    return y, batch + free_a + free_b


# Special cases


def tensordot(x1: Any, x2: Any, /, axes: Any = 2) -> Tensor:
    """Sum of products over ``axes``: the last n of ``x1`` with the first n of ``x2``, or two lists.

    >>> import gpugrad as gg
    >>> gg.tensordot(gg.ones((2, 3, 4)), gg.ones((4, 3)), axes=((2, 1), (0, 1))).tolist()
    [12.0, 12.0]
    """
    x1, x2 = together(x1, x2)
    if isinstance(axes, (int, np.integer)):
        n = int(axes)
        if not 0 <= n <= min(x1.ndim, x2.ndim):
            got = f"axes {n} of shapes {x1.shape}, {x2.shape}"
            raise ShapeError(message("tensordot", "axes counts axes that both have", got))
        first, second = list(range(x1.ndim - n, x1.ndim)), list(range(n))
    else:
        first, second = (
            [
                normalize_axis("tensordot", a, x.ndim)
                for a in ((given,) if np.ndim(given) == 0 else given)
            ]
            for given, x in zip(axes, (x1, x2), strict=True)
        )
    if [x1.shape[i] for i in first] != [x2.shape[i] for i in second]:
        got = f"axes {first} of {x1.shape} with axes {second} of {x2.shape}"
        hint = "pairs of axes of equal size"
        raise ShapeError(message("tensordot", "summed axes need equal sizes", got, hint))
    labels1 = [chr(0x100 + i) for i in range(x1.ndim)]
    labels2 = [chr(0x200 + i) for i in range(x2.ndim)]
    for i, j in zip(first, second, strict=True):
        labels2[j] = labels1[i]
    output = [c for c in labels1 + labels2 if (c in labels1) != (c in labels2)]
    return _contracted([(x1, "".join(labels1)), (x2, "".join(labels2))], "".join(output))


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Tensor:
    """``Σ conj(x1) · x2`` along ``axis``; the other axes broadcast.

    >>> import gpugrad as gg
    >>> gg.vecdot(gg.asarray([[1.0, 2.0], [3.0, 4.0]]), gg.asarray([1.0, 1.0])).tolist()
    [3.0, 7.0]
    """
    x1, x2 = together(x1, x2)
    if axis >= 0:  # counted from the front of the shape they broadcast to
        axis -= max(x1.ndim, x2.ndim)
    sizes = [x.shape[normalize_axis("vecdot", axis, x.ndim)] for x in (x1, x2)]
    if sizes[0] != sizes[1]:
        got = f"axis {axis} of {x1.shape} and {x2.shape}"
        raise ShapeError(message("vecdot", "both vectors need one length", got))
    y = _conj(x1) * x2
    return astype(sum(y, axis=axis), y.dtype)


def _conj(x: Tensor) -> Tensor:
    return ops.conj(x) if x.dtype.kind == "c" else x


def vdot(a: Any, b: Any, /) -> Tensor:
    """``Σ conj(a) · b`` over all values, in C order.

    >>> import gpugrad as gg
    >>> gg.vdot(gg.ones((2, 2)), gg.ones((2, 2))).item()
    4.0
    """
    a, b = together(a, b)
    return matmul(reshape(_conj(a), (-1,)), reshape(b, (-1,)))


def outer(a: Any, b: Any, /) -> Tensor:
    """``a[i] · b[j]`` for all pairs; arguments are flattened first, as NumPy does.

    >>> import gpugrad as gg
    >>> gg.outer([1.0, 2.0], [3.0, 4.0]).tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    a, b = together(a, b)
    return reshape(a, (-1, 1)) * reshape(b, (1, -1))


def inner(a: Any, b: Any, /) -> Tensor:
    """Sum of products over the last axis of both; with a scalar, the product.

    >>> import gpugrad as gg
    >>> gg.inner(gg.ones((2, 3)), gg.ones((4, 3))).shape
    (2, 4)
    """
    a, b = together(a, b)
    if not a.ndim or not b.ndim:
        return ops.multiply(a, b)
    return tensordot(a, b, axes=(-1, -1))


def dot(a: Any, b: Any, /) -> Tensor:
    """NumPy's dot: the last axis of ``a`` with the second-last (or only) of ``b``; no broadcasting.

    >>> import gpugrad as gg
    >>> gg.dot([1.0, 2.0], [3.0, 4.0]).item()
    11.0
    """
    a, b = together(a, b)
    if not a.ndim or not b.ndim:
        return ops.multiply(a, b)
    if a.ndim <= 2 and b.ndim <= 2:
        return matmul(a, b)
    return tensordot(a, b, axes=(-1, -1 if b.ndim == 1 else -2))


def kron(a: Any, b: Any, /) -> Tensor:
    """Kronecker product: every value of ``a`` times all of ``b``, laid out in blocks.

    >>> import gpugrad as gg
    >>> gg.kron([1.0, 10.0], [1.0, 2.0]).tolist()
    [1.0, 2.0, 10.0, 20.0]
    """
    a, b = together(a, b)
    ndim = max(a.ndim, b.ndim)
    a = reshape(a, (1,) * (ndim - a.ndim) + a.shape)
    b = reshape(b, (1,) * (ndim - b.ndim) + b.shape)
    blocks = expand_dims(a, axis=tuple(range(1, 2 * ndim, 2)))
    blocks = blocks * expand_dims(b, axis=tuple(range(0, 2 * ndim, 2)))
    return reshape(blocks, tuple(m * n for m, n in zip(a.shape, b.shape, strict=True)))


def diagonal(x: Any, /, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The diagonal ``offset`` places right of the main one, of two axes; it becomes the last axis.

    By NumPy's defaults the axes are the first two; `gpugrad.linalg.diagonal` takes the last two.

    >>> import gpugrad as gg
    >>> gg.diagonal(gg.asarray([[1.0, 2.0], [3.0, 4.0]]), 1).tolist()
    [2.0]
    """
    x = asarray(x)
    if x.ndim < 2:
        raise ShapeError(message("diagonal", "needs at least two axes", x.shape))
    first = normalize_axis("diagonal", axis1, x.ndim)
    second = normalize_axis("diagonal", axis2, x.ndim)
    if first == second:
        raise ShapeError(message("diagonal", "axis1 and axis2 are two axes", (axis1, axis2)))
    return ops.diagonal(moveaxis(x, (first, second), (-2, -1)), k=offset)


def trace(x: Any, /, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None) -> Tensor:
    """Sum of a diagonal; axes as in `diagonal`.

    >>> import gpugrad as gg
    >>> gg.trace(gg.eye(3)).item()
    3.0
    """
    return sum(diagonal(x, offset, axis1, axis2), axis=-1, dtype=dtype)
