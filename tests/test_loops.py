"""Loops of single reads and writes of one tensor: right in every mode, and linear in their number.

Backward writes into cotangents that the pass owns; here are the ways somebody else might see one.
"""

from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.tape import Pass

rng = np.random.default_rng(3)


def writes(v: Any) -> Any:
    x = gg.zeros(6, dtype=v.dtype)
    for i in range(5):
        x[i] = v[i % 3] * (i + 1)
    return x * x


def overwrites(v: Any) -> Any:
    x = v * 1
    for i in (0, 2, 0, 1):
        x[i] = x[i] * v[i] + 1
    return x * v


def recurrence(v: Any) -> Any:
    x = gg.zeros(8, dtype=v.dtype)
    x[:3] = v
    for i in range(2, 7):
        x[i + 1] = gg.sin(x[i]) + x[i - 1] * x[i - 2]
    return x


def rows(v: Any) -> Any:
    x = gg.zeros((6, 3), dtype=v.dtype)
    x[0] = v
    for i in range(5):
        x[i + 1] = x[i] * v + gg.sum(x[i])
    return x[2:] * x[1]


def index_arrays(v: Any) -> Any:
    x = v[[0, 1, 2, 2, 1, 0]] * v[1]
    for k in range(3):
        at = np.array([k, 2, 2])
        x[at] = x[at + 1] * v + k
        x[np.arange(6) % 2 == 0] = x[[1, 1, 5]]
    return x * x


def slices(v: Any) -> Any:
    x = gg.concat([v, v * 2, v * 3])
    for k in range(4):
        x[k : k + 3] = x[k + 2 : k + 5] * v
        x[::-3] = x[None, 1:4][0]
    return x


def read_in_between(v: Any) -> Any:
    x = v * 2
    seen = []
    for i in range(3):
        whole = x + 0  # its cotangent is another's too
        x[i] = gg.sum(whole * v) / (i + 1)
        seen.append(whole * x)
    return gg.stack([*seen, x])


LOOPS = [writes, overwrites, recurrence, rows, index_arrays, slices, read_in_between]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda f: f.__name__)
def test_derivatives(loop: Any, device: str) -> None:
    """Against differences; both modes and both kinds of second derivative."""
    gg.testing.gradcheck(loop, (rng.uniform(0.5, 1.5, 3),), rtol=1e-4)


@pytest.mark.parametrize("loop", LOOPS, ids=lambda f: f.__name__)
def test_all_ways_backward_agree(loop: Any, device: str) -> None:
    """On bare arrays, where cotangents are overwritten, and on Tensors, where they are not."""
    a = rng.uniform(0.5, 1.5, 3)
    x = gg.asarray(a, requires_grad=True)
    loop(x).sum().backward(retain_graph=True)
    by_arrays = x.grad
    x.grad = None
    loop(x).sum().backward(create_graph=True)
    by_tensors, x.grad = x.grad, None
    forward = gg.jacobian(lambda v: loop(v).sum(), mode="forward")(gg.asarray(a))
    for other in (by_tensors, forward):
        np.testing.assert_allclose(by_arrays.to("cpu").numpy(), other.detach().to("cpu").numpy())


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex128"])
def test_dtypes(dtype: str, device: str) -> None:
    x = gg.asarray(np.ones(4, dtype), requires_grad=True)
    y = x * 1
    for i in range(3):
        y[i + 1] = y[i] * 2 + y[[i, i]].sum()
    gg.abs(y[3]).backward()
    assert x.grad.dtype == dtype
    assert x.grad.tolist() == [64, 0, 0, 0]


# Who else may see a cotangent


def test_given_gradient_is_not_overwritten(device: str) -> None:
    x = gg.asarray([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 1
    y[1] = x[0]
    g = gg.asarray([1.0, 10.0, 100.0])
    y.backward(g)
    assert g.tolist() == [1, 10, 100]
    assert x.grad.tolist() == [11, 0, 100]


def test_kept_gradients_are_not_overwritten(device: str) -> None:
    """Each value that the handle had keeps its gradient."""
    x = gg.asarray([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 1
    seen: list[Any] = []
    for i in range(3):
        y[i] = y[i] * 2
        y.register_hook(seen.append)
    (y * gg.asarray([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad.tolist() == [2, 20, 200]
    assert [g.tolist() for g in seen] == [[1, 10, 100], [1, 10, 200], [1, 20, 200]]


def test_cotangent_shared_by_two(device: str) -> None:
    """u + w hands one cotangent to both; u then overwrites its own."""
    x = gg.asarray([1.0, 2.0], requires_grad=True)
    w, u = x * 3, x * 5
    u[0] = 7.0
    (u + w).backward(gg.ones(2))
    assert x.grad.tolist() == [3, 8]


def test_read_of_what_shares_its_cotangent(device: str) -> None:
    x = gg.asarray([1.0, 2.0], requires_grad=True)
    w, u = x * 3, x * 5
    read = u[0]
    ((u + w).sum() + read * 7).backward()
    assert x.grad.tolist() == [43, 8]


def test_reads_of_a_scalar(device: str) -> None:
    x = gg.asarray(1.0, requires_grad=True)
    y = x * 1
    read = y[...] * 2 + y[None][0]
    (read + y * 3 + y * 5).backward()
    assert x.grad.item() == 11


def test_half_precision_counts_on(device: str) -> None:
    x = gg.asarray(np.ones(2, "f2"), requires_grad=True)
    x[np.zeros(3000, int)].sum().backward()
    assert x.grad.tolist() == [3000, 0]


def test_backward_twice_through_a_write(device: str) -> None:
    x = gg.asarray([1.0, 2.0], requires_grad=True)
    y = x * 1
    y[0] = 3.0
    first = gg.ones(2)
    y.backward(first, retain_graph=True)
    y.backward(first)
    assert x.grad.tolist() == [0, 2]


# What it costs


class Spy:
    """The arrays of ``size`` values that were cotangents; kept, so that no memory comes twice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        self.arrays: dict[int, Any] = {}
        receive = Pass.receive

        def watched(tape: Pass, node: Any, c: Any, owned: bool = False) -> None:
            receive(tape, node, c, owned)
            held = tape.cotangents.get(node)
            if isinstance(held, np.ndarray) and held.size == size:
                self.arrays[id(held)] = held

        monkeypatch.setattr(Pass, "receive", watched)


@pytest.mark.parametrize("tracked", [False, True])
def test_writes_share_one_cotangent(tracked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 200
    spy = Spy(monkeypatch, n)
    v = gg.asarray(2.0, requires_grad=True)
    x = v * gg.ones(n) if tracked else gg.zeros(n)
    for i in range(n - 1):
        x[i] = v * i
    x.sum().backward()
    assert v.grad.item() == sum(range(n - 1)) + tracked
    assert len(spy.arrays) <= 2


@pytest.mark.parametrize("shape", [(200,), (200, 7)], ids=str)
def test_recurrences_share_one_cotangent(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch, int(np.prod(shape)))
    v = gg.asarray(np.full(shape[1:], 0.5), requires_grad=True)
    x = gg.zeros(shape, dtype=v.dtype)
    x[0] = v
    buffers = set()
    for i in range(shape[0] - 1):
        x[i + 1] = gg.sin(x[i]) * x[i]
        buffers.add(x._data.ctypes.data)
    x.sum().backward()
    assert len(buffers) == 1
    assert len(spy.arrays) <= 3


def test_reads_share_one_cotangent(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch, 600)
    x = gg.asarray(np.ones((200, 3)), requires_grad=True)
    total = sum(gg.sum(row * i) for i, row in enumerate(x))
    total.backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.arange(200.0)[:, None].repeat(3, 1))
    assert len(spy.arrays) <= 2
