"""Tensor: what goes in, what comes out, and a mutable handle over values that never change."""

import array
import copy
import math
import operator
import pickle
import re
from operator import attrgetter

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.errors import BoundsError, DtypeError, GradientError, ShapeError


def named(value):
    """Its repr without an address: the same in every process."""
    return re.sub(r" at 0x\w+", "", repr(value))


def leaf(value, dtype=None):
    return gg.asarray(value, dtype=dtype, requires_grad=True)


# In: asarray


@pytest.mark.parametrize(
    ("obj", "dtype"),
    [
        (1.5, "float32"),
        (3, "int64"),
        (True, "bool"),
        (1j, "complex64"),
        ([1.0, 2], "float32"),
        ([1, 2], "int64"),
        ([True, False], "bool"),
        ([1, 2j], "complex64"),
        ([True, 2.5], "float32"),
        ((1.0, (2.0,))[1], "float32"),
        ([], "float32"),
        ([[], []], "float32"),
        (np.float64(1), "float64"),
        (np.float16(1), "float16"),
        (np.int8(1), "int8"),
        (np.bool_(True), "bool"),
        ([np.float64(1), 2.0], "float64"),
        (np.ones(2), "float64"),
        (np.ones(2, np.float32), "float32"),
        (np.ones(2, np.uint8), "uint8"),
        (np.ones(2, np.complex128), "complex128"),
        ([np.ones(2), np.zeros(2)], "float64"),
        ([np.ones(2, np.float32), [0.0, 1.0]], "float64"),
        (range(3), "int64"),
        (array.array("f", [1, 2]), "float32"),
        (memoryview(array.array("d", [1, 2])), "float64"),
    ],
    ids=named,
)
def test_default_dtypes(obj, dtype, device):
    t = gg.asarray(obj)
    assert t.dtype == dtype
    assert t.shape == np.shape(obj)
    assert t.device.startswith(device)
    np.testing.assert_array_equal(t.to("cpu").numpy(), np.asarray(obj))


def test_asked_dtype_wins():
    assert gg.asarray([1, 2], dtype=gg.float64).dtype == gg.float64
    assert gg.asarray(np.ones(2), dtype="float32").dtype == gg.float32
    assert gg.asarray(gg.ones(2), dtype=gg.float16).dtype == gg.float16
    assert gg.asarray([1.7], dtype=int).tolist() == [1]


def test_arrays_are_borrowed_unless_copied():
    a = np.zeros(3)
    borrowed, copied, tensor = gg.asarray(a), gg.asarray(a, copy=True), gg.tensor(a)
    a[0] = 7
    assert borrowed.tolist() == [7, 0, 0]
    assert copied.tolist() == tensor.tolist() == [0, 0, 0]
    strided = gg.asarray(a[::-2])
    assert np.shares_memory(strided.numpy(), a)


def test_borrowed_arrays_are_never_written():
    a = np.zeros(3)
    x = gg.asarray(a)
    x[0] = 5.0
    x += 1
    assert a.tolist() == [0, 0, 0]
    view = a[1:]
    y = gg.asarray(a)
    del a
    y[1] = 5.0
    assert view.tolist() == [0, 0]
    b = np.zeros(2)
    m = memoryview(b)
    z = gg.asarray(m)
    z[0] = 1.0
    assert b.tolist() == [0, 0]


def test_copy_false_refuses_to_copy():
    assert gg.asarray(np.ones(2), copy=False).tolist() == [1, 1]
    with pytest.raises((DtypeError, ValueError)):
        gg.asarray(np.ones(2), dtype=gg.float32, copy=False)
    with pytest.raises(DtypeError, match="needs a copy"):
        gg.asarray(gg.ones(2), dtype=gg.float64, copy=False)
    x = gg.ones(2)
    assert gg.asarray(x, dtype=x.dtype, copy=False) is x


def test_byte_order_becomes_native():
    swapped = np.array([1.5, -2.0]).astype(">f8")
    t = gg.asarray(swapped)
    assert t.dtype.isnative
    assert t.tolist() == [1.5, -2.0]
    assert gg.asarray([1, 2], dtype=">i4").dtype.isnative


class Sub(np.ndarray):
    pass


def test_subclasses_become_plain_arrays(tmp_path):
    m = np.ones((2, 2)).view(Sub)
    t = gg.asarray(m)
    assert type(t.numpy()) is np.ndarray
    assert (t * t).tolist() == [[1, 1], [1, 1]]  # elementwise, as no matrix subclass would
    stored = np.memmap(tmp_path / "data.bin", np.float32, "w+", shape=(4,))
    stored[:] = 3
    x = gg.asarray(stored)
    x[0] = 1.0
    assert type(x.numpy()) is np.ndarray
    assert stored[0] == 3
    assert gg.grad(gg.sum)(stored).tolist() == [1, 1, 1, 1]


def test_matrix_loses_its_algebra():
    with pytest.warns(PendingDeprecationWarning):
        m = np.matrix([[1.0, 2.0], [3.0, 4.0]])
    t = gg.asarray(m)
    assert (t * t).tolist() == [[1, 4], [9, 16]]
    assert t[0].shape == (2,)


@pytest.mark.parametrize(
    "obj",
    [None, object(), "abc", b"abc", ["a"], np.array(["a"]), np.array([None]), {"a": 1}, {1, 2},
     np.array(["2020-01-01"], "M8[D]"), np.zeros(2, [("a", "f4")]), [1.0, "a"], [1.0, None]],
    ids=named,
)  # fmt: skip
def test_no_numbers_no_tensor(obj):
    with pytest.raises(DtypeError, match=r"^\[asarray\] "):
        gg.asarray(obj)


@pytest.mark.parametrize("obj", [[[1, 2], [3]], [[1.0], 2.0], [np.ones(2), np.ones(3)]], ids=named)
def test_ragged_lists(obj):
    with pytest.raises(DtypeError, match=r"\[asarray\].*all rows are equally long"):
        gg.asarray(obj)


def test_asarray_of_a_tensor():
    x = leaf([1.0, 2.0])
    assert gg.asarray(x) is x
    y = gg.asarray(x, copy=True)
    assert y is not x
    y.sum().backward()
    assert x.grad.tolist() == [1, 1]
    z = gg.asarray(gg.ones(2), requires_grad=True)
    assert z.is_leaf
    assert z.requires_grad


def test_list_of_tensors():
    assert gg.asarray([gg.ones(2), gg.zeros(2)]).tolist() == [[1, 1], [0, 0]]
    x = leaf(2.0)
    y = gg.asarray([[x, 0.5], [0.25, x * x]])
    assert y.tolist() == [[2.0, 0.5], [0.25, 4.0]]
    assert y.dtype == gg.float32
    y.sum().backward()
    assert x.grad.item() == 5.0
    wide = gg.asarray([[0.1, 0.2], [gg.asarray(np.float64(1)), 3]])
    assert wide.tolist() == [[0.1, 0.2], [1, 3]]
    assert gg.asarray([x, 1], dtype=gg.float64).dtype == gg.float64
    with pytest.raises(ShapeError, match=r"\[stack\] all shapes"):
        gg.asarray([x, [1.0, 2.0]])
    with pytest.raises(GradientError, match=r"asarray\(\[\.\.\.\]\)"):
        gg.ones(2) * [x, 1.0]


BESIDE = {
    "add": gg.add,
    "append": gg.append,
    "clip": lambda t, v: gg.clip(t, 0, v),
    "concat": lambda t, v: gg.concat([t, v]),
    "cov": gg.cov,
    "diff": lambda t, v: gg.diff(t, prepend=v),
    "dot": gg.dot,
    "einsum": lambda t, v: gg.einsum("i,j", t, v),
    "inner": gg.inner,
    "isin": lambda t, v: gg.isin(t / 10, v),
    "kron": gg.kron,
    "linalg.cross": lambda t, v: gg.linalg.cross(gg.concat([t, t[:1]]), [*v, 0.3]),
    "linalg.lstsq": lambda t, v: gg.linalg.lstsq(gg.diag(t), v)[0],
    "linalg.outer": gg.linalg.outer,
    "linalg.solve": lambda t, v: gg.linalg.solve(gg.diag(t), v),
    "linear": lambda t, v: gg.nn.linear(t, gg.diag(t), v),
    "matmul": lambda t, v: gg.diag(t) @ v,
    "matmul, list first": lambda t, v: v @ gg.diag(t),
    "mse": lambda t, v: gg.nn.mse(t, v, "none"),
    "outer": gg.outer,
    "searchsorted": lambda t, v: gg.searchsorted(t / 10, v),
    "setitem": lambda t, v: (y := t * 1, y.__setitem__(slice(None), v))[0],
    "stack": lambda t, v: gg.stack([t, v]),
    "subtract": lambda t, v: v - t,
    "tensordot": lambda t, v: gg.tensordot(t, v, axes=1),
    "vdot": gg.vdot,
    "vecdot": gg.vecdot,
    "where": lambda t, v: gg.where([True, False], t, v),
}


@pytest.mark.parametrize("name", BESIDE)
def test_numbers_in_a_list_are_exact_beside_a_tensor(name):
    """As NumPy has them: on its own the list would become float32 and lose digits."""
    f, t = BESIDE[name], gg.asarray(np.array([1.0, 3.0]))
    got, want = f(t, [0.1, 0.3]), f(t, np.array([0.1, 0.3]))
    assert (got.tolist(), got.dtype) == (want.tolist(), want.dtype)


def test_searching_integers_for_a_fraction():
    assert gg.searchsorted([1, 2, 3], 2.5).item() == 2
    assert gg.isin([1, 2], [1.5, 2.0]).tolist() == [False, True]


@pytest.mark.parametrize("kind", ["leaf", "constant"])
def test_linspace_between_tensors(kind):
    x = gg.asarray(np.float64(1), requires_grad=kind == "leaf")
    y = gg.linspace(0.1, x, 3)
    assert y.tolist() == [0.1, 0.55, 1.0]
    if kind == "leaf":
        y.sum().backward()
        assert x.grad.item() == 1.5


# NumPy's methods that differentiate, under their NumPy signatures

METHODS = {
    "argpartition": lambda x: x.argpartition([0, 1, 2], axis=1),
    "argsort": lambda x: x.argsort(axis=1),
    "argsort flat": lambda x: x.argsort(None),
    "choose": lambda x: (x > 1).astype(np.int64).choose([x, x * x]),
    "compress": lambda x: x.compress([True, False, True], axis=1),
    "conj": lambda x: x.conj() + x.conjugate(),
    "copy": lambda x: x.copy(),
    "cumprod": lambda x: x.cumprod(1),
    "cumsum": lambda x: x.cumsum(),
    "diagonal": lambda x: x.diagonal(1),
    "divmod": lambda x: divmod(x, 2)[1] + divmod(9, x + 5)[0],
    "dot": lambda x: x.dot(x.transpose()),
    "flatten": lambda x: x.flatten("F"),
    "imag": lambda x: x.imag,
    "nonzero": lambda x: x.nonzero()[1],
    "ravel": lambda x: x.ravel() * 2 + x.ravel("F"),
    "real": lambda x: x.real,
    "reshape": lambda x: x.reshape(3, 2, order="F"),
    "repeat": lambda x: x.repeat(2, 1),
    "round": lambda x: x.round(1),
    "searchsorted": lambda x: x[0].searchsorted([0.5, 2.0], side="right"),
    "std": lambda x: x.std(axis=1, ddof=1),
    "take": lambda x: x.take([2, 0], axis=1),
    "take flat": lambda x: x.take([5, 0]),
    "trace": lambda x: x.trace(1),
    "var": lambda x: x.var(ddof=1),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_of_arrays(name):
    f, a = METHODS[name], np.array([[0.25, 1.5, 2.5], [4.75, 0.0, -1.125]])
    np.testing.assert_array_equal(f(gg.asarray(a)).numpy(), f(a), strict=True)
    if f(a).dtype.kind == "f":
        gg.testing.gradcheck(f, [a + 0.03])


def test_methods_that_write():
    for write in (
        *(lambda x: x.put([0, 3], 5.0), lambda x: x.partition([0, 1])),
        *(lambda x: x.sort(), lambda x: x.sort(0), lambda x: x.fill(7.0)),
    ):
        a = np.array([[3.0, 1.0], [2.0, 0.0]])
        x = leaf(a)
        y = x * 2
        write(y)
        z = 2 * a
        write(z)
        assert y.tolist() == z.tolist()
        y[0, 0].backward()
        assert x.grad is not None
    assert x.grad.tolist() == [[0, 0], [0, 0]]


def test_parts_of_a_complex_tensor():
    z = gg.asarray([1 + 2j, 3 - 4j])
    assert (z.real.tolist(), z.imag.tolist()) == ([1, 3], [2, -4])
    assert z.conj().tolist() == [1 - 2j, 3 + 4j]


def test_only_floats_require_grad():
    for obj in (1, True, [1, 2], np.ones(2, np.int32), np.array([True])):
        with pytest.raises(DtypeError, match=r"\[requires_grad\] only floating.*try"):
            gg.asarray(obj, requires_grad=True)
    x = gg.asarray([1, 2])
    with pytest.raises(DtypeError):
        x.requires_grad = True


# A handle


def test_attributes(device):
    x = gg.asarray(np.zeros((2, 3), np.float32))
    assert (x.shape, x.ndim, x.size, x.nbytes, x.itemsize) == ((2, 3), 2, 6, 24, 4)
    assert x.dtype == gg.float32
    assert x.is_leaf
    assert x.grad is None
    assert gg.asarray(1.0).size == 1
    assert gg.zeros((0, 4)).size == 0


def test_in_place_rebinds_the_handle(device):
    x = gg.asarray([1.0, 2.0])
    other, alias = x * 1, x
    before = x
    x += 10
    assert x is before
    assert alias.tolist() == [11, 12]  # another name of the same handle
    assert other.tolist() == [1, 2]


def test_views_do_not_alias(device):
    x = gg.asarray([[1.0, 2.0], [3.0, 4.0]])
    row, column, flat, turned = x[0], x[:, 1], x.reshape(-1), x.T
    row[...] = 9.0
    row += 1
    column[0] = 9.0
    flat[0] = 9.0
    turned[0, 0] = 9.0
    assert x.tolist() == [[1, 2], [3, 4]]
    x[0] = 0.0
    assert (row.tolist(), flat.tolist()) == ([10, 10], [9, 2, 3, 4])


def test_chained_assignment_raises():
    x = gg.zeros((2, 2))
    for start in (x, leaf(np.zeros((2, 2)))):
        with pytest.raises(GradientError, match=r"^\[setitem\] x\[i\]\[j\] = v.*; try x\[i, j\]"):
            start[0][1] = 5.0
        with pytest.raises(GradientError, match="setitem"):
            start[[0]][0] = 5.0
        with pytest.raises(GradientError, match="setitem"):
            start[0][1] += 5.0
        assert start.tolist() == [[0, 0], [0, 0]]


def test_assignment_to_a_named_row():
    for x in (gg.zeros((2, 2)), leaf(np.zeros((2, 2)))):
        y = x[0]
        y[1] = 5.0
        assert (x.tolist(), y.tolist()) == ([[0, 0], [0, 0]], [0, 5])
    y = x[0]
    y[1] = 5.0
    (y * y + y).sum().backward()
    assert x.grad.tolist() == [[1, 0], [0, 0]]


def test_chained_assignment_in_a_function_raises():
    def f(x):
        x[0][1] = x[1][1]
        return gg.sum(x)

    for call in (gg.grad(f), lambda a: gg.jvp(f, (a,), (a,))):
        with pytest.raises(GradientError, match=r"\[setitem\]"):
            call(np.ones((2, 2)))


def test_saved_values_never_change(device):
    """x, y and w are each overwritten in every way between forward and backward."""
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = gg.exp(x)
    z = (x * w * y).sum()
    with gg.no_grad():
        x += 100
        x[0] = -1.0
        w *= 0
        w[...] = 7.0
        y[:] = 0.0
        y -= 5
    z.backward()
    e = np.exp([1.0, 2.0])
    np.testing.assert_allclose(w.grad.tolist(), e * [1, 2], rtol=1e-6)
    np.testing.assert_allclose(x.grad.tolist(), e * [3, 4] * np.array([2, 3]), rtol=1e-6)


def test_in_place_on_the_tape(device):
    x = leaf([1.0, 2.0, 3.0])
    y = x * 1
    y *= x
    y[0] = y[1] * y[2]
    y -= x
    y.sum().backward()  # x₁²x₂² + x₁² + x₂² − Σx
    assert x.grad.tolist() == [-1, 2 * 2 * 9 + 4 - 1, 2 * 4 * 3 + 6 - 1]


def test_leaf_keeps_its_grad_after_writes(device):
    x = leaf([1.0, 2.0])
    x += 1
    assert x.requires_grad
    assert not x.is_leaf
    (x * x).sum().backward()
    assert x.grad.tolist() == [4, 6]
    x[0] = 0.0
    (x * x).sum().backward()
    assert x.grad.tolist() == [4, 12]


def test_leaf_stays_a_leaf_under_no_grad(device):
    x = leaf([1.0, 2.0])
    with gg.no_grad():
        x -= 0.5
        x[1] = 3.0
    assert x.is_leaf
    (x * x).sum().backward()
    assert x.grad.tolist() == [1, 6]


def test_writing_a_tracked_value_puts_the_target_on_the_tape(device):
    v, x = leaf(2.0), gg.zeros(3)
    x[1] = v
    x[2] = v * v
    assert x.requires_grad
    (x * x).sum().backward()
    assert v.grad.item() == 4 + 4 * 8


def test_self_assignment(device):
    x = gg.asarray([1.0, 2.0, 3.0])
    x[:] = x[::-1]
    assert x.tolist() == [3, 2, 1]
    x[1:] = x[:-1]
    assert x.tolist() == [3, 3, 2]
    x[...] = x
    assert x.tolist() == [3, 3, 2]


def test_loop_of_writes_reuses_the_buffer():
    x = gg.zeros(1000)
    place = x.numpy().__array_interface__["data"]
    for i in range(10):
        x[i] = 1.0
    assert x.numpy().__array_interface__["data"] == place
    seen = x.numpy()
    x[0] = 5.0
    assert seen[0] == 1


def test_in_place_keeps_dtype_and_shape():
    x = gg.ones(2)
    x += np.ones(2)
    x *= np.float64(3)
    x /= gg.asarray(2)
    assert x.dtype == gg.float32
    assert x.tolist() == [3, 3]
    n = gg.arange(3)
    n += 1
    n //= 2
    n <<= 1
    n |= 1
    assert (n.dtype, n.tolist()) == (gg.int64, [1, 3, 3])
    for bad in (0.5, gg.ones(3)):
        with pytest.raises(DtypeError, match=r"\[\+=\] an in-place result keeps its kind"):
            n += bad
    with pytest.raises(DtypeError):
        n /= 2
    with pytest.raises(ShapeError, match=r"\[\+=\].*\(2,\) becoming \(2, 2\); try x = x \+ y"):
        x += gg.ones((2, 2))
    with pytest.raises(ShapeError):
        x @= gg.ones(2)
    assert (n.tolist(), x.tolist()) == ([1, 3, 3], [3, 3])


def test_writing_a_float_into_integers_raises():
    x = gg.zeros(3, dtype=gg.int64)
    for value in (2.7, [2.7], np.float32(2.0), gg.asarray(2.0)):
        with pytest.raises(DtypeError, match=r"^\[setitem\] .*float(32|64) into int64; try"):
            x[:1] = value
    x[0] = 2
    x[1] = True
    assert (x.dtype, x.tolist()) == (gg.int64, [2, 1, 0])


def test_writing_a_tracked_float_into_integers_raises():
    x = gg.zeros(3, dtype=gg.int64)
    with pytest.raises(DtypeError, match=r"^\[setitem\]"):
        x[0] = leaf(2.0)
    assert not x.requires_grad


# Out


def test_numpy_is_a_read_only_view():
    x = gg.asarray([1.0, 2.0])
    a = x.numpy()
    assert np.shares_memory(a, x.numpy())
    with pytest.raises(ValueError, match="read-only"):
        a[0] = 5
    b = x.numpy(copy=True)
    b[0] = 5
    assert x.tolist() == [1, 2]


def test_numpy_refuses_on_the_tape(device):
    x = leaf([1.0, 2.0])
    for t in (x, x * 2):
        for call in (t.numpy, lambda: np.asarray(t), lambda: np.array(t), t.__dlpack__):  # noqa: B023
            with pytest.raises(GradientError, match=r"try x.detach\(\).numpy\(\)"):
                call()
    with pytest.raises(GradientError):
        gg.jvp(lambda t: gg.asarray(t.numpy()), (1.0,), (1.0,))


def test_array_protocol():
    x = gg.asarray([1.0, 2.0])
    assert np.asarray(x).tolist() == [1, 2]
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    fresh = np.array(x)
    fresh[0] = 9
    assert x.tolist() == [1, 2]
    assert np.asarray(x, copy=False).base is not None
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x, dtype=np.float64, copy=False)
    np.testing.assert_allclose(x, [1, 2])


def test_scalars(device):
    assert gg.asarray(2.5).item() == 2.5
    assert gg.asarray([[3]]).item() == 3
    assert type(gg.asarray(2.5).item()) is float
    assert type(gg.asarray(True).item()) is bool
    assert float(leaf(2.5)) == 2.5
    assert int(gg.asarray(2.9)) == 2
    assert complex(gg.asarray(1j)) == 1j
    assert bool(gg.asarray([0.0])) is False
    assert math.sqrt(gg.asarray(4.0)) == 2
    assert operator.index(gg.asarray(3)) == 3
    assert [10, 20, 30][gg.asarray(1)] == 20
    assert list(range(gg.asarray(2))) == [0, 1]
    assert f"{gg.asarray(0.5).item():.2f}" == "0.50"


def test_a_loss_is_a_number_in_eager_code():
    """float(loss) for the log, between forward and backward and outside of any transform."""
    x = leaf(3.0)
    loss = x * x
    assert (float(loss), int(loss), complex(loss), math.sqrt(loss)) == (9, 9, 9, 3)
    loss.backward()
    assert x.grad.item() == 6


def test_scalar_errors(device):
    for convert in (float, int, gg.Tensor.item):
        with pytest.raises(DtypeError, match="one-element"):
            convert(gg.ones(2))
    for shape in (2, 0):
        with pytest.raises(DtypeError, match=r"try gg.any\(x\) or gg.all\(x\)"):
            bool(gg.ones(shape))
    with pytest.raises(TypeError):
        len(gg.asarray(1.0))
    with pytest.raises(TypeError):
        iter(gg.asarray(1.0))


def test_float_is_no_index():
    with pytest.raises(TypeError):
        operator.index(gg.asarray(2.0))


def test_tolist(device):
    assert gg.asarray([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert gg.asarray(1.5).tolist() == 1.5
    assert (leaf([1.0]) * 2).tolist() == [2.0]


def test_container_protocol(device):
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2
    a, b = x
    (a * b).sum().backward()
    assert x.grad.tolist() == [[3, 4], [1, 2]]
    assert 3.0 in x
    assert 5 not in x
    assert list(gg.zeros((0, 2))) == []


def test_hash_is_identity():
    x, y = gg.ones(2), gg.ones(2)
    names = {x: "x", y: "y"}
    x += 1
    assert names[x] == "x"
    assert len({x, y}) == 2


def test_repr(device):
    x = gg.asarray([1.0, -2.5])
    assert repr(x) == f"Tensor([ 1. , -2.5], shape=(2,), float32, {x.device})"
    assert repr(leaf(1.0)).endswith("requires_grad)")
    assert repr(gg.sin(leaf(1.0))).endswith("op=sin)")
    assert len(repr(gg.zeros((100, 100)))) < 400
    assert repr(gg.zeros((0, 2))).startswith("Tensor([], shape=(0, 2)")
    shown = []
    gg.jvp(lambda t: (shown.append(repr(t)), t)[1], (2.0,), (1.0,))
    assert shown[0].startswith("Tensor(2.")


@pytest.mark.parametrize(
    "copied", [lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy, copy.copy]
)
def test_copies(copied, device):
    x = leaf([1.0, 2.0])
    y = copied(x)
    assert y is not x
    assert (y.tolist(), y.dtype, y.device, y.is_leaf) == (x.tolist(), x.dtype, x.device, True)
    assert y.requires_grad
    y.sum().backward()
    assert x.grad is None
    y[0] = 9.0
    assert x.tolist() == [1, 2]
    plain = copied(gg.arange(3))
    assert not plain.requires_grad
    assert plain.tolist() == [0, 1, 2]


def test_deepcopy_is_deep():
    a = np.ones(2)
    y = copy.deepcopy(gg.asarray(a))
    a[0] = 9
    assert y.tolist() == [1, 1]


def test_copy_of_a_computed_tensor_stays_on_the_tape():
    x = leaf([1.0])
    y = copy.copy(x * 2)
    assert y.requires_grad
    assert not y.is_leaf
    y.sum().backward()
    assert x.grad.tolist() == [2]


def test_copy_of_a_leaf_is_a_leaf_of_its_own(device):
    x = leaf([1.0])
    y = copy.copy(x)
    (y * 3).sum().backward()
    assert (x.grad, y.grad.tolist()) == (None, [3])
    y.requires_grad = False
    assert x.requires_grad


# DLPack


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "complex64", "bool"])
def test_dlpack_both_ways(dtype):
    a = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    t = gg.from_dlpack(a)
    assert (t.dtype, t.tolist()) == (dtype, a.tolist())
    assert np.shares_memory(t.numpy(), a)
    b = np.from_dlpack(t)
    np.testing.assert_array_equal(a, b)
    assert t.__dlpack_device__() == (1, 0)
    strided = np.from_dlpack(gg.asarray(a)[:, ::-1])
    np.testing.assert_array_equal(strided, a[:, ::-1])


def test_dlpack_of_gradients():
    """x.sum() leaves a gradient of stride 0, which must cross all the same."""
    x = leaf([1.0, 2.0])
    x.sum().backward()
    assert np.from_dlpack(x.grad).tolist() == [1, 1]


class Foreign:
    """Knows DLPack and nothing else, as an array of another library would."""

    def __init__(self, a):
        self.a = a

    def __dlpack__(self, **options):
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


def test_foreign_arrays_come_in_through_dlpack():
    a = np.arange(3.0)
    for t in (gg.asarray(Foreign(a)), gg.from_dlpack(Foreign(a))):
        assert t.tolist() == [0, 1, 2]
        t[0] = 7.0
    assert a.tolist() == [0, 1, 2]


def test_dlpack_is_no_way_to_write():
    """A write through an exported view must not reach values saved for backward."""
    x = leaf([3.0])
    y = x.detach() * 1
    z = (x * y).sum()
    view = np.from_dlpack(y)
    if view.flags.writeable:
        view[:] = 100
    z.backward()
    assert x.grad.tolist() == [3]


# NumPy calling


def test_ufuncs_stay_on_the_tape(device):
    x = leaf([0.5, 1.0])
    y = np.sin(x) + np.exp(x) * np.maximum(x, 0.75) + np.power(x, 2) + np.arctan2(x, 1.0)
    assert isinstance(y, gg.Tensor)
    y.sum().backward()
    v = np.array([0.5, 1.0])
    want = np.cos(v) + np.exp(v) * [0.75, 1 + 1] + 2 * v + 1 / (1 + v * v)
    np.testing.assert_allclose(x.grad.tolist(), want, rtol=1e-6)


def test_array_on_the_left():
    a = np.array([[2.0, 3.0]], np.float32)
    x = leaf([5.0, 7.0])
    for y, g in [(a * x, [2, 3]), (a - x, [-1, -1]), (a @ x, [2, 3]), (np.float32(4) * x, [4, 4])]:
        assert isinstance(y, gg.Tensor)
        assert y.dtype == gg.float32
        x.grad = None
        y.sum().backward()
        assert x.grad.tolist() == g
    assert isinstance(a < x, gg.Tensor)
    assert (a == gg.asarray(a)).tolist() == [[True, True]]


@pytest.mark.parametrize(
    "call",
    [
        lambda t: operator.iadd(np.ones(2), t),
        lambda t: np.add(t, 1, out=np.ones(2)),
        lambda t: np.sum(t, out=np.ones(())),
        lambda t: np.max(t, where=np.array([True, False])),
    ],
)
def test_arguments_of_numpy_that_raise(call):
    for t in (gg.ones(2), leaf([1.0, 2.0])):
        with pytest.raises(DtypeError, match="; try "):
            call(t)


def add_at(t):
    a = np.ones(2)
    np.add.at(a, [0, 1], t)
    return a


# What has no derivative here: NumPy's own result for plain values, an error on the tape.
UNSUPPORTED = {
    "add.at": add_at,
    "add.reduceat": lambda t: np.add.reduceat(t, [0, 1]),
    "maximum.accumulate": np.maximum.accumulate,
    "vectorize": lambda t: np.vectorize(lambda v: 2 * v)(t),
    "array": lambda t: np.array([t[0], 1.0]),
    "array of rows": lambda t: np.array([t, t]),
}


@pytest.mark.parametrize("call", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_numpy_cannot_do_raises_on_the_tape(call):
    x = leaf([1.0, 2.0])
    for t in (x, x * 1):
        with pytest.raises(GradientError, match="; try "):
            call(t)
    with pytest.raises(GradientError, match="; try "):
        gg.grad(call)(x.detach())
    with pytest.raises(GradientError, match="; try "):
        gg.jvp(call, (x.detach(),), (gg.ones(2),))
    with pytest.raises(GradientError, match="; try "):
        gg.sin(call(x * gg.ones(2)))


def test_masked_ufunc_raises_on_the_tape():
    with pytest.raises(GradientError, match="; try "):
        np.sin(leaf([1.0, 2.0]), where=np.array([True, False]))


@pytest.mark.parametrize("call", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_numpy_does_with_plain_values(call):
    """Off the tape nothing can be lost: NumPy's result, and no tensor."""
    a = np.array([1.0, 2.0], np.float32)
    got, want = call(gg.asarray(a)), call(a)
    assert type(got) is type(want)
    np.testing.assert_array_equal(got, want)
    if isinstance(want, (np.ndarray, np.generic)):
        assert got.dtype == want.dtype
    np.testing.assert_array_equal(call(leaf(a).detach()), want)


@pytest.mark.parametrize("name", ["sum", "prod", "mean", "max", "min", "var", "std"])
def test_numpy_reductions_stay_on_the_tape(name):
    x = leaf([[1.0, 2.0], [3.0, 5.0]])
    for options in ({}, {"axis": 0}, {"axis": 1, "keepdims": True}):
        y = getattr(np, name)(x, **options)
        assert isinstance(y, gg.Tensor)
        assert y.requires_grad
        np.testing.assert_allclose(
            y.detach().tolist(), getattr(np, name)(x.detach().numpy(), **options), rtol=1e-6
        )
        x.grad = None
        y.sum().backward()
        got, x.grad = x.grad.tolist(), None
        getattr(gg, name)(x, **options).sum().backward()
        assert got == x.grad.tolist()


SUPPORTED = {
    "concatenate": lambda t: np.concatenate([t, t * t]),
    "concatenate array": lambda t: np.concatenate([np.ones(1), t]),
    "where": lambda t: np.where(np.asarray([True, False]), t, t * t),
    "where number": lambda t: np.where(True, t, 0),
    "dot": lambda t: np.dot(t, t),
    "dot matrix": lambda t: np.dot(np.array([[1.0, 2.0], [3.0, 4.0]]), t),
    "stack": lambda t: np.stack([t, t * t]),
    "stack axis": lambda t: np.stack([t, t * t], axis=1),
    "cumsum": np.cumsum,
    "clip": lambda t: np.clip(t, 0, 1.5),
    "sum": np.sum,
    "std ddof": lambda t: np.std(t, ddof=1),
    "reshape": lambda t: np.reshape(t, (2, 1)),
    "transpose": lambda t: np.transpose(np.stack([t, t * t, t]), (1, 0)),
    "flip": np.flip,
    "roll": lambda t: np.roll(t, 1),
    "take": lambda t: np.take(t, [0, 0, 1]),
    "triu": lambda t: np.triu(np.stack([t, t])),
    "broadcast_to": lambda t: np.broadcast_to(t, (3, 2)),
    "squeeze": lambda t: np.squeeze(np.expand_dims(t, 0)),
}


@pytest.mark.parametrize("call", SUPPORTED.values(), ids=SUPPORTED)
def test_numpy_functions_stay_on_the_tape(call):
    """The value is NumPy's; the gradient, weighted so that no two entries agree, numerical."""
    a = np.array([1.25, 2.0])
    want = call(a)
    for t in (gg.asarray(a), leaf(a)):
        y = call(t)
        assert isinstance(y, gg.Tensor)
        assert y.requires_grad == t.requires_grad
        np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-12)
    assert gg.testing.gradcheck(call, [a])
    weights = np.arange(1.0, 1 + want.size).reshape(want.shape)
    (y * weights).sum().backward()
    slope = [np.sum(weights * (call(a + h) - call(a - h))) / 2e-6 for h in np.eye(2) * 1e-6]
    np.testing.assert_allclose(t.grad.tolist(), slope, rtol=1e-7)


def test_array_namespace():
    assert gg.ones(1).__array_namespace__() is gg
    with pytest.raises(ValueError, match="unknown version"):
        gg.ones(1).__array_namespace__(api_version="1999.1")


# Dtypes


def test_comparisons_are_boolean(device):
    x, y = leaf([1.0, 2.0]), gg.asarray([2.0, 2.0])
    for op, want in [
        (operator.lt, [True, False]),
        (operator.le, [True, True]),
        (operator.gt, [False, False]),
        (operator.ge, [False, True]),
        (operator.eq, [False, True]),
        (operator.ne, [True, False]),
    ]:
        got = op(x, y)
        assert (got.dtype, got.tolist(), got.requires_grad) == (np.bool_, want, False)
    assert operator.lt(1.5, x).tolist() == [False, True]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_python_scalars_are_weak(dtype):
    x = gg.ones(2, dtype=dtype)
    for y in (x + 1, 1.5 * x, x**2, x**0.5, 2**x, 1 / x, x - True, x // 2, x % 2, gg.maximum(x, 0)):
        assert y.dtype == dtype
    assert gg.where(x > 0, x, 0.0).dtype == dtype
    assert gg.where(x > 0, 1, x).dtype == dtype
    assert gg.clip(x, 0, 1).dtype == dtype
    assert (x + gg.asarray(1, dtype=gg.int8)).dtype == dtype


def test_promotion():
    f4, f8, i8 = gg.ones(2), gg.ones(2, dtype=gg.float64), gg.arange(2)
    assert (f4 + f8).dtype == gg.float64
    assert (i8 + 1.5).dtype == np.float64
    assert (i8 + True).dtype == gg.int64
    assert (i8 / 2).dtype == np.float64
    assert (f4 + 1j).dtype == gg.complex64
    with pytest.raises(TypeError):
        _ = f4 << 1
    with pytest.raises((DtypeError, OverflowError)):
        _ = gg.ones(2, dtype=gg.uint8) + 300


@pytest.mark.parametrize(
    "combine",
    [
        lambda x: operator.add(x, [1.0]),
        lambda x: operator.sub([1.0], x),
        lambda x: operator.add(x, [1.0, 2.0]),
        lambda x: operator.mul([1.0, 2.0], x),
        lambda x: (1.0, 2.0) - x,
        lambda x: x ** [2.0],
        lambda x: x @ [1.0, 2.0],
        lambda x: operator.iadd(x, [1.0]),
        lambda x: np.maximum(x, [1.0]),
        lambda x: gg.where(x > 0, x, [0.0, 1.0]),
        lambda x: gg.concat([x, [1.0]]),
        lambda x: gg.add(x, [1.0, 2.0]),
    ],
)
def test_lists_of_python_numbers_do_not_widen(combine):
    assert combine(gg.ones(2)).dtype == gg.float32
    assert combine(gg.ones(2, dtype=gg.float64)).dtype == gg.float64


def test_lists_beside_a_tracked_tensor():
    x = leaf([2.0, 3.0])
    y = [5.0, 7.0] * x + [1.0]
    assert y.tolist() == [11, 22]
    y.sum().backward()
    assert (x.grad.dtype, x.grad.tolist()) == (gg.float32, [5, 7])


@pytest.mark.parametrize("combine", [lambda a, t: t + a, lambda a, t: a * t])
def test_object_arrays_are_refused(combine):
    with pytest.raises(DtypeError):
        combine(np.array([1, 2], dtype=object), gg.ones(2))


@pytest.mark.parametrize(("low", "high"), [("float32", "float64"), ("float16", "float32")])
def test_gradients_keep_their_leafs_dtype(low, high, device):
    x, w = leaf([1.0, 2.0], low), leaf([3.0, 4.0], high)
    y = x.astype(high) * w + x
    assert y.dtype == high
    y.sum().backward()
    assert (x.grad.dtype, x.grad.tolist()) == (low, [4, 5])
    assert (w.grad.dtype, w.grad.tolist()) == (high, [1, 2])
    w.grad = None
    (w.astype(low) * x).sum().backward()
    assert (w.grad.dtype, w.grad.tolist()) == (high, [1, 2])
    assert x.astype(low, copy=False) is x
    apart = x.astype(low)
    apart += 1
    assert not gg.array_equal(apart, x)


def test_casting_to_integers_leaves_the_tape():
    x = leaf([1.5, 2.5])
    for dtype in (gg.int64, gg.int8, np.bool_):
        assert not x.astype(dtype).requires_grad


# requires_grad, detach, retain_grad, hooks


def test_requires_grad_switch(device):
    x = gg.ones(2)
    assert not (x * 2).requires_grad
    x.requires_grad = True
    x.requires_grad = True
    y = x * 2
    assert (x.is_leaf, y.is_leaf, y.requires_grad) == (True, False, True)
    y.sum().backward()
    assert x.grad.tolist() == [2, 2]
    x.requires_grad = False
    assert x.grad is None
    assert not (x * 2).requires_grad
    for on in (True, False):
        with pytest.raises(GradientError, match=r"only a leaf.*try x.detach\(\)"):
            y.requires_grad = on


def test_detach(device):
    x = leaf([2.0])
    y = (x * x).detach()
    assert not y.requires_grad
    assert y.is_leaf
    (x * y).sum().backward()
    assert x.grad.tolist() == [4]
    assert x.detach().tolist() == [2]


def test_grad_setter(device):
    x = leaf([1.0, 2.0])
    x.grad = gg.ones(2)
    (x * x).sum().backward()
    assert x.grad.tolist() == [3, 5]
    x.grad = None
    assert x.grad is None
    with pytest.raises(GradientError, match="shape of its tensor"):
        x.grad = gg.ones(3)
    with pytest.raises(GradientError, match="keeps no gradient"):
        gg.ones(2).grad = gg.ones(2)


def test_retain_grad(device):
    x = leaf([1.0, 2.0])
    y = x * x
    assert y.retain_grad() is y
    z = y * 3
    z.sum().backward()
    assert (y.grad.tolist(), z.grad, x.grad.tolist()) == ([3, 3], None, [6, 12])
    with pytest.raises(GradientError, match="requires_grad=True"):
        gg.ones(1).retain_grad()


def test_hooks_replace_in_order_and_go_away(device):
    x = leaf([1.0, 1.0])
    y = x * 3
    calls = []
    y.register_hook(lambda g: calls.append(("first", g.tolist())))
    drop = y.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: calls.append(("third", g.tolist())))
    y.sum().backward(retain_graph=True)
    assert calls == [("first", [1, 1]), ("third", [10, 10])]
    assert x.grad.tolist() == [30, 30]
    drop()
    drop()
    x.grad = None
    y.sum().backward()
    assert x.grad.tolist() == [3, 3]
    x.grad = None
    x.register_hook(lambda g: -g)
    (x * 2).sum().backward()
    assert x.grad.tolist() == [-2, -2]


def test_hook_sees_the_finished_gradient_once(device):
    x = leaf(2.0)
    calls = []
    x.register_hook(lambda g: calls.append(g.item()))
    (x * x + gg.sin(x) * 0 + 3 * x).backward()
    assert calls == [7]


def test_hook_errors(device):
    x = leaf([1.0, 2.0])
    drop = x.register_hook(lambda g: gg.ones(3))
    with pytest.raises(ShapeError, match=r"\[hook\]"):
        (x * 2).sum().backward()
    drop()
    x.register_hook(lambda g: g.astype(gg.float64))
    with pytest.raises(ShapeError, match="float64"):
        (x * 2).sum().backward()
    with pytest.raises(GradientError, match="no gradient arrives"):
        gg.ones(2).register_hook(print)


def test_gradient_given_by_the_caller_is_not_kept():
    """x.grad must not change when the array passed to backward does."""
    x, g = leaf(np.zeros(3)), np.ones(3)
    (+x).backward(g)
    g[0] = 7
    assert x.grad.tolist() == [1, 1, 1]


# Indexing


@pytest.mark.parametrize(
    "index",
    [5, -4, (0, 0), [3], np.array([-4]), np.array([True, False]), np.ones((3, 1), bool),
     ([0, 1], [0]), (np.array([0, 1]), np.array([0, 1, 2]))],
    ids=named,
)  # fmt: skip
def test_index_out_of_range(index, device):
    for x in (gg.ones(3), leaf([1.0, 2.0, 3.0])):
        with pytest.raises(BoundsError, match=r"^\[index\] ") as caught:
            x[index]
        assert isinstance(caught.value, IndexError)
        with pytest.raises(BoundsError):
            x[index] = 1.0
        assert len(x) == 3


@pytest.mark.parametrize("index", [1.0, "a", np.array([1.0]), [0.5], {0: 1}, object()], ids=named)
def test_not_an_index(index, device):
    with pytest.raises(DtypeError, match=r"^\[index\] "):
        gg.ones(3)[index]


def test_index_spellings_agree_with_numpy(device):
    a = np.arange(12.0).reshape(3, 4)
    x = gg.asarray(a)
    t = gg.asarray
    for i, j in [
        (1, t(1)),
        (np.array([2, 0]), t([2, 0])),
        (a > 4, x > 4),
        (slice(1, 3), slice(t(1), t(3))),
        ((slice(None), [0, 0]), (slice(None), t([0, 0]))),
        (True, True),
        (False, False),
        ((..., None, -1), (..., None, -1)),
        ([], []),
        ([True, False, True], [True, False, True]),
        (np.uint8(2), np.uint8(2)),
        ((), ()),
    ]:
        np.testing.assert_array_equal(x[j].to("cpu").numpy(), a[i])


def test_written_values_broadcast_or_raise(device):
    x = gg.zeros((2, 3))
    x[:, 0] = 1
    x[1] = [2.0, 3.0, 4.0]
    x[x > 2.5] = 9
    assert x.tolist() == [[1, 0, 0], [2, 9, 9]]
    with pytest.raises(ShapeError, match=r"\[setitem\].*shape \(2,\).*shape \(3,\)"):
        x[0] = gg.ones(2)
    with pytest.raises((ShapeError, DtypeError, ValueError)):
        x[x > 2.5] = gg.ones(5)
    assert x.tolist() == [[1, 0, 0], [2, 9, 9]]


# Called as NumPy is: what the array API takes by keyword also comes by position

BY_POSITION = {
    "all": (1,),
    "any": (1,),
    "argmax": (1,),
    "argsort": (0,),
    "count_nonzero": (0,),
    "diff": (2, 0),
    "fft.fft": (2, 0),
    "fft.fftn": ((2, 2), (0, 1)),
    "fft.fftshift": (1,),
    "flip": (1,),
    "linalg.qr": ("complete",),
    "max": (1,),
    "mean": (1,),
    "ones_like": (np.float64,),
    "prod": (1,),
    "repeat": (2, 1),
    "roll": (1, 1),
    "sort": (0,),
    "std": (1,),
    "sum": (0, np.float64),
    "take": ([2, 0], 1),
    "take_along_axis": (np.array([[1], [0]]), 1),
    "tensordot": (np.ones((3, 2)), 1),
    "tril": (-1,),
    "where": (),
}


@pytest.mark.parametrize("name", BY_POSITION)
def test_options_by_position(name):
    a, args = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]]), BY_POSITION[name]
    ours, numpys = gg, np
    for part in name.split("."):
        ours, numpys = getattr(ours, part), getattr(numpys, part)
    got, want = ours(gg.asarray(a), *args), numpys(a, *args)
    if not isinstance(got, tuple):
        got, want = (got,), (want,)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x.numpy(), y, atol=1e-14)


def test_making_by_position():
    assert gg.zeros(2, np.int8).dtype == gg.ones(2, np.int8).dtype == gg.empty(2, np.int8).dtype
    assert gg.full(2, 7, np.int8).tolist() == [7, 7]
    assert gg.arange(0, 4, 2, np.int8).dtype == gg.int8
    assert gg.eye(2, 3, 1, np.int8).tolist() == [[0, 1, 0], [0, 0, 1]]
    assert gg.linspace(0, 1).shape == (50,)


def test_where_takes_both_branches_or_none():
    with pytest.raises(DtypeError, match=r"\[where\] takes both"):
        gg.where([True], 1.0)


@pytest.mark.parametrize(
    "copied",
    [lambda x: x.astype(x.dtype), gg.clip, lambda x: x.conj(), lambda x: x.copy(), gg.nan_to_num],
)
def test_copies_are_written_to_apart(copied):
    for x in (gg.asarray([1.0, 2.0]), gg.asarray([1, 2])):
        y = copied(x)
        y += 1
        assert (x.tolist(), y.tolist()) == ([1, 2], [2, 3])


@pytest.mark.parametrize(
    ("holder", "name", "hint"),
    [
        (gg, "cat", "; try gg.concat"),
        (gg, "jit", "; try gg.compile"),
        (gg.ones(1), "view", "; try x.reshape"),
        (gg.ones(1), "cuda", '; try x.to("cuda")'),
        (gg.ones(1), "nothing", "a Tensor has no attribute 'nothing'"),
        (gg, "nothing", "module 'gpugrad' has no attribute 'nothing'"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_names_of_other_libraries_are_known(holder, name, hint):
    with pytest.raises(AttributeError) as caught:
        getattr(holder, name)
    assert str(caught.value).endswith(hint)


def test_no_name_of_ours_is_called_another_librarys():
    """What is explained does not exist, and what it is said to be does."""
    x = gg.ones((2, 2))
    for name, ours in gg.errors.ELSEWHERE.items():
        assert not hasattr(gg, name)
        assert not hasattr(x, name)
        found = re.match(r"(gg|x)((?:\.\w+)+)", ours)
        if found:
            attrgetter(found[2][1:])({"gg": gg, "x": x}[found[1]])
