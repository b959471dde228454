"""Optimisers: PyTorch's numbers, and values that nobody sees change."""

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpugrad as gg
from gpugrad.backend import native
from gpugrad.errors import CheckpointError, DtypeError, GradientError
from gpugrad.optim import base

TORCH = dict(np.load(Path(__file__).parent / "data" / "torch_optimizers.npz"))
SETTINGS = json.loads(str(TORCH["settings"]))
BLOCK = 1 << 15  # values the CPU updates at a time

Make = Callable[[Any], gg.optim.Optimizer]
EVERY: dict[str, Make] = {
    "sgd": lambda ps: gg.optim.SGD(ps, lr=0.1),
    "momentum": lambda ps: gg.optim.SGD(ps, lr=0.1, momentum=0.9),
    "nesterov": lambda ps: gg.optim.SGD(ps, 0.1, 0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda ps: gg.optim.Adam(ps, lr=0.1),
    "adamw": lambda ps: gg.optim.AdamW(ps, lr=0.1),
    "rmsprop": lambda ps: gg.optim.RMSprop(ps, lr=0.1),
    "adagrad": lambda ps: gg.optim.Adagrad(ps, lr=0.1),
}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


def leaf(values: Any, dtype: Any = "f4", device: str | None = None) -> gg.Tensor:
    return gg.asarray(np.array(values, dtype), device=device, requires_grad=True)


def host(x: gg.Tensor) -> Any:
    return x.detach().to("cpu").numpy()


def address(x: gg.Tensor) -> int:
    return int(x.detach().numpy().__array_interface__["data"][0])


def descend(w: gg.Tensor, optimizer: gg.optim.Optimizer, steps: int = 1) -> None:
    """Steps on ½‖w‖², whose gradient is w."""
    for _ in range(steps):
        optimizer.zero_grad()
        (w * w).sum().backward(gradient=np.float32(0.5))
        optimizer.step()


@pytest.fixture(params=["one by one", "at once"], autouse=True)
def _both_ways(request: Any, monkeypatch: Any) -> None:
    """Everything here holds whether or not an update of all parameters has been recorded."""
    monkeypatch.setattr(base, "_WORTH_IT", 1 if request.param == "at once" else 1 << 60)


# PyTorch, step for step


def trained(name: str, dtype: str, device: str) -> list[Any]:
    """The parameters at the fixture's steps, computed as its generator does."""
    kind, keywords = SETTINGS[name]
    x = gg.asarray(TORCH["x"].astype(dtype), device=device)
    ends = np.cumsum([24, 6, 18, 3])
    shapes = [(6, 4), (6,), (3, 6), (3,)]
    parts = np.split(TORCH["start"].astype(dtype), ends[:-1])
    params = [leaf(p.reshape(s), dtype, device) for p, s in zip(parts, shapes, strict=True)]
    first, period = TORCH["late"]
    optimizer = getattr(gg.optim, kind)(params, **keywords)
    seen = []
    for step in range(1, TORCH["steps"][-1] + 1):
        optimizer.zero_grad()
        hidden = gg.nn.sigmoid(gg.nn.linear(x, *params[:2]))
        gg.nn.cross_entropy(gg.nn.linear(hidden, *params[2:]), TORCH["labels"]).backward()
        if "late" in name and (step < first or step % period == 0):
            params[1].grad = None
        optimizer.step()
        if step in TORCH["steps"]:
            seen.append(np.concatenate([host(p).ravel() for p in params]))
    return seen


@pytest.mark.parametrize("name", SETTINGS)
def test_float32_agrees_with_pytorch(name: str, device: str) -> None:
    row = list(SETTINGS).index(name)
    for step, ours, torch in zip(
        TORCH["steps"], trained(name, "float32", device), TORCH["float32"][row], strict=True
    ):
        assert ours.dtype == np.float32
        atol = 2e-6 if step <= 10 else 5e-5  # rounding errors that later steps carry on
        np.testing.assert_allclose(ours, torch, 1e-6, atol, err_msg=f"after step {step}")
    # The yardstick that needs no tolerance of ours: PyTorch's own distance from exact arithmetic.
    exact = TORCH["float64"][row]
    assert np.abs(ours - exact).max() <= 8 * np.abs(torch - exact).max()


@pytest.mark.parametrize("name", SETTINGS)
def test_float64_agrees_with_pytorch(name: str, device: str) -> None:
    ours = trained(name, "float64", device)[-1]
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, TORCH["float64"][list(SETTINGS).index(name)], 1e-11, 1e-12)


def test_the_fixture_is_from_pytorch_2_13() -> None:
    assert str(TORCH["torch"]).startswith("2.13.")
    moved = np.abs(TORCH["float32"][:, -1] - TORCH["start"]).max(axis=1)
    assert (moved > 0.1).all()  # each setting went somewhere, so agreement means something
    ends = {row[-1].tobytes() for row in TORCH["float32"]}
    assert len(ends) == len(SETTINGS)  # and each of them somewhere else


# What a step touches


@every
def test_a_parameter_without_gradient_is_left_alone(make: Make, device: str) -> None:
    used, unused = leaf([1.0, 2.0], device=device), leaf([3.0], device=device)
    optimizer = make([used, unused])
    before = unused._data
    descend(used, optimizer, 3)
    assert unused._data is before
    assert unused.grad is None
    assert all(not host(xs[1]).any() for xs in optimizer.state.values())
    assert optimizer.steps == [3, 0]


@every
def test_a_frozen_beginning_changes_nothing_later(make: Make) -> None:
    """A parameter's first update is its first, however late it comes."""
    late, punctual = leaf([1.0, -2.0]), leaf([1.0, -2.0])
    other = leaf([1.0])
    optimizer, reference = make([late, other]), make([punctual])
    descend(other, optimizer, 4)
    descend(late, optimizer, 3)
    descend(punctual, reference, 3)
    np.testing.assert_array_equal(host(late), host(punctual))


@every
def test_the_learning_rate_may_change_between_steps(make: Make) -> None:
    w = leaf([1.0, -2.0])
    optimizer = make([w])
    descend(w, optimizer)
    moved = host(w).copy()
    optimizer.lr = 0.0
    descend(w, optimizer)
    np.testing.assert_array_equal(host(w), moved)
    optimizer.lr = 0.1
    descend(w, optimizer)
    assert (host(w) != moved).all()


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, np.array])
@every
def test_the_learning_rate_may_be_any_number(make: Make, kind: Any) -> None:
    w, plain = leaf([1.0, -2.0]), leaf([1.0, -2.0])
    optimizer, reference = make([w]), make([plain])
    optimizer.lr = kind(0.125)
    reference.lr = 0.125
    descend(w, optimizer, 3)
    descend(plain, reference, 3)
    assert w.dtype == np.float32
    assert all(x.dtype == np.float32 for xs in optimizer.state.values() for x in xs)
    np.testing.assert_allclose(host(w), host(plain), 1e-6)


@every
def test_gradients_are_read_not_written(make: Make) -> None:
    w = leaf([1.0, -2.0])
    (w * w).sum().backward()
    assert w.grad is not None
    gradient = w.grad.numpy()
    before = gradient.copy()
    make([w]).step()
    np.testing.assert_array_equal(gradient, before)


@every
def test_one_parameter_listed_twice_is_updated_once(make: Make) -> None:
    twice, once = leaf([1.0, -2.0]), leaf([1.0, -2.0])
    descend(twice, make([twice, twice]))
    descend(once, make([once]))
    np.testing.assert_array_equal(host(twice), host(once))


def test_a_module_or_an_iterator_gives_the_parameters() -> None:
    model = gg.nn.MLP([2, 3, 1])
    assert gg.optim.SGD(model).params == list(model.parameters())
    assert gg.optim.SGD(model.parameters()).params == list(model.parameters())


# Layout


GRADIENTS = {
    "broadcast": lambda w: w.sum(),
    "transposed": lambda w: (w.T @ gg.asarray(np.arange(w.shape[0], dtype="f4"))).sum(),
    "sliced": lambda w: (w[::2] * 3).sum() + w[1, 0],
    "permuted": lambda w: (gg.permute_dims(w, (1, 0)) ** 2).sum(),
}


@every
@pytest.mark.parametrize("loss", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_of_any_layout(make: Make, loss: Any) -> None:
    start = np.random.default_rng(0).standard_normal((4, 3)).astype("f4")
    odd, plain = leaf(start), leaf(start)
    loss(odd).backward()
    assert odd.grad is not None
    plain.grad = gg.asarray(np.array(odd.grad.numpy(), order="C"))
    strided = np.empty((8, 6), "f4")[::2, ::2]
    strided[...] = odd.grad.numpy()
    make([odd]).step()
    make([plain]).step()
    np.testing.assert_array_equal(host(odd), host(plain))
    apart = leaf(start)
    apart.grad = gg.asarray(strided)
    make([apart]).step()
    np.testing.assert_array_equal(host(apart), host(plain))


@every
@pytest.mark.parametrize("layout", ["fortran", "strided", "read-only", "broadcast"])
def test_parameters_of_any_layout(make: Make, layout: str) -> None:
    """A column-major parameter once came out of a step as it went in."""
    values = np.full((4, 3), 2.0, "f4") if layout == "broadcast" else None
    if values is None:
        values = np.random.default_rng(1).standard_normal((4, 3)).astype("f4")
    if layout == "fortran":
        odd = np.asfortranarray(values)
    elif layout == "strided":
        odd = np.empty((8, 6), "f4")[::2, ::2]
        odd[...] = values
    elif layout == "read-only":
        odd = values.copy()
        odd.flags.writeable = False
    else:
        odd = np.broadcast_to(np.float32(2.0), (4, 3))
    theirs = odd.copy()
    w, plain = gg.asarray(odd, requires_grad=True), leaf(values)
    descend(w, make([w]), 1)
    optimizer, reference = make([w]), make([plain])
    descend(plain, make([plain]), 1)
    descend(w, optimizer, 3)
    descend(plain, reference, 3)
    np.testing.assert_array_equal(host(w), host(plain))
    assert not np.array_equal(host(w), values)
    np.testing.assert_array_equal(odd, theirs)  # asarray borrowed it: the caller's is unchanged


@every
@pytest.mark.parametrize("n", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
def test_parameters_of_several_blocks(make: Make, n: int, device: str) -> None:
    """Blocks leave no seam: updated whole or by halves, every value is the same."""
    rng = np.random.default_rng(2)
    start = rng.standard_normal(n).astype("f4")
    whole = leaf(start, device=device)
    halves = [leaf(start[: n // 2], device=device), leaf(start[n // 2 :], device=device)]
    optimizer, reference = make([whole]), make(halves)
    for _ in range(2):
        g = rng.standard_normal(n).astype("f4")
        whole.grad = gg.asarray(g, device=device)
        for p, part in zip(halves, (g[: n // 2], g[n // 2 :]), strict=True):
            p.grad = gg.asarray(part, device=device)
        optimizer.step()
        reference.step()
    np.testing.assert_array_equal(host(whole), np.concatenate([host(p) for p in halves]))


@every
@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1, 1, 1)])
def test_small_and_empty_parameters(make: Make, shape: tuple[int, ...], device: str) -> None:
    w = leaf(np.ones(shape), device=device)
    descend(w, make([w]), 2)
    assert w.shape == shape
    assert (host(w) < 1).all()


@every
@pytest.mark.parametrize("gradient", [0.0, 1e-4, 1.0, 300.0])
def test_half_precision_stays_finite(make: Make, gradient: float) -> None:
    """g² and eps both vanish in float16; the averages are kept in float32."""
    w, wide = leaf([1.0, -1.0], "f2"), leaf([1.0, -1.0])
    optimizer, reference = make([w]), make([wide])
    for _ in range(3):
        w.grad = gg.full((2,), gradient, dtype=gg.float16)
        wide.grad = gg.full((2,), float(np.float16(gradient)))
        optimizer.step()
        reference.step()
    assert w.dtype == np.float16
    np.testing.assert_allclose(host(w).astype("f4"), host(wide), 4e-3, 4e-3)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(EVERY)),
    st.lists(st.integers(0, 3), min_size=0, max_size=3).map(tuple),
    st.sampled_from("CFA"),
    st.sampled_from(["f2", "f4", "f8"]),
)
def test_shape_and_dtype_are_kept(
    name: str, shape: tuple[int, ...], order: Any, dtype: str
) -> None:
    values = np.ones(shape, dtype, "C" if order == "A" else order)
    w = gg.asarray(values[::-1] if order == "A" and shape else values, requires_grad=True)
    optimizer = EVERY[name]([w])
    for _ in range(2):
        w.grad = gg.ones(shape, dtype=dtype)
        optimizer.step()
    assert (w.shape, w.dtype) == (shape, np.dtype(dtype))
    assert w.requires_grad
    assert w.is_leaf
    assert (host(w) < 1).all()
    assert (values == 1).all()


# Values that somebody can see


def looks(w: gg.Tensor) -> list[tuple[Any, Any]]:
    """Every way to look at ``w``, each with a copy of what is seen now."""
    copied = w.detach().numpy(copy=True)
    seen = w.detach()
    view = seen.numpy()
    return [
        (view, copied),
        (view[1:], copied[1:]),
        (memoryview(view), copied),
        (np.from_dlpack(seen), copied),
        (seen[:1], copied[:1]),
        (seen.reshape((-1, 1)), copied.reshape(-1, 1)),
    ]


@every
@pytest.mark.parametrize("look", range(6))
def test_what_somebody_holds_is_never_overwritten(make: Make, look: int) -> None:
    w = leaf([1.0, -2.0, 3.0])
    optimizer = make([w])
    descend(w, optimizer)
    held, before = looks(w)[look]
    descend(w, optimizer, 2)
    now = host(held) if isinstance(held, gg.Tensor) else np.asarray(held)
    np.testing.assert_array_equal(now, before)
    assert (host(w).ravel()[: before.size] != before.ravel()[: host(w).size]).any()


@every
def test_state_that_somebody_holds_is_never_overwritten(make: Make) -> None:
    w = leaf([1.0, -2.0, 3.0])
    optimizer = make([w])
    descend(w, optimizer)
    held = {k: v.numpy() for k, v in optimizer.state_dict().items() if isinstance(v, gg.Tensor)}
    copies = {k: v.copy() for k, v in held.items()}
    descend(w, optimizer, 2)
    for name, view in held.items():
        np.testing.assert_array_equal(view, copies[name])


@every
def test_two_handles_of_one_value_part_ways(make: Make) -> None:
    w = leaf([1.0, -2.0])
    descend(w, make([w]))
    twin = gg.asarray(w.detach(), requires_grad=True)
    before = host(twin).copy()
    descend(w, make([w]))
    np.testing.assert_array_equal(host(twin), before)


@every
def test_a_retained_graph_differentiates_the_old_values(make: Make) -> None:
    w = leaf([1.0, -2.0, 3.0])
    optimizer = make([w])
    descend(w, optimizer)  # so that the buffer is the optimiser's own
    optimizer.zero_grad()
    old = host(w).copy()
    loss = (w**3).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    assert (host(w) != old).any()
    optimizer.zero_grad()
    loss.backward()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), 3 * old**2, 1e-6)


@every
def test_a_step_inside_a_graph_differentiates_what_was_used(make: Make) -> None:
    """Values used before a step, by a loss that is finished after it."""
    w = leaf([1.0, -2.0])
    optimizer = make([w])
    descend(w, optimizer)
    old = host(w).copy()
    before = w * w
    w.grad = gg.ones((2,))
    optimizer.step()
    optimizer.zero_grad()
    new = host(w).copy()
    (before + 3 * w).sum().backward()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), 2 * old + 3, 1e-6)
    assert (new != old).any()


@every
def test_a_step_reuses_the_buffer_when_nobody_looks(make: Make) -> None:
    w = leaf(np.ones(1000))
    optimizer = make([w])
    descend(w, optimizer, 2)
    places = [address(w)] + [address(xs[0]) for xs in optimizer.state.values()]
    descend(w, optimizer, 5)
    assert places == [address(w)] + [address(xs[0]) for xs in optimizer.state.values()]


@every
def test_a_parameter_stays_a_leaf(make: Make) -> None:
    w = leaf([1.0, -2.0])
    handle = w
    descend(w, make([w]), 2)
    assert w is handle
    assert w.is_leaf
    assert w.requires_grad


def test_a_parameter_written_to_by_hand_still_trains() -> None:
    w = leaf([1.0, 2.0])
    optimizer = gg.optim.SGD([w], lr=0.5)
    w *= 2  # on the tape: the gradient that arrives is that of the value before
    w.sum().backward()
    optimizer.step()
    assert w.is_leaf
    assert w.tolist() == [1.0, 3.0]


# State


@every
def test_state_round_trip_continues_bitwise(make: Make, tmp_path: Path) -> None:
    w = leaf([1.0, -2.0, 3.0])
    optimizer = make([w])
    descend(w, optimizer, 3)
    optimizer.lr = 0.05
    saved, values = optimizer.state_dict(), host(w).copy()
    path = tmp_path / "optimizer.safetensors"
    gg.io.save(path, saved)
    descend(w, optimizer, 4)  # must not reach into what was saved
    for state in (saved, gg.io.load(path)):
        again = leaf(values)
        resumed = make([again])
        resumed.load_state_dict(state)
        assert resumed.lr == 0.05
        descend(again, resumed, 4)
        np.testing.assert_array_equal(host(again), host(w))
        assert resumed.steps == optimizer.steps


@every
def test_loading_state_copies_it(make: Make) -> None:
    w = leaf([1.0, -2.0])
    optimizer = make([w])
    descend(w, optimizer)
    state = {
        k: v.numpy(copy=True) if isinstance(v, gg.Tensor) else v
        for k, v in optimizer.state_dict().items()
    }
    optimizer.load_state_dict(state)
    copies = {k: np.array(v) for k, v in state.items()}
    descend(w, optimizer, 2)
    for name, value in state.items():
        np.testing.assert_array_equal(value, copies[name])


BROKEN = {
    "missing": lambda s: {k: v for k, v in s.items() if k != "exp_avg.1"},
    "unknown": lambda s: s | {"exp_avg.2": np.zeros(1)},
    "without lr": lambda s: {k: v for k, v in s.items() if k != "lr"},
    "shape": lambda s: s | {"exp_avg_sq.1": np.zeros(7)},
    "lr": lambda s: s | {"lr": "fast"},
    "lr None": lambda s: s | {"lr": None},
    "steps": lambda s: s | {"steps": [1]},
    "one step count": lambda s: s | {"steps": 3},
    "of another optimiser": lambda s: {"lr": 0.1, "steps": [1, 1]},
    "empty": lambda s: {},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_mismatched_state_raises_and_changes_nothing(change: Any) -> None:
    w, v = leaf([1.0, -2.0]), leaf([[3.0]])
    optimizer = gg.optim.Adam([w, v])
    descend(w, optimizer, 2)
    before = optimizer.state_dict()
    other = {k: x + 1 if isinstance(x, gg.Tensor) else x for k, x in before.items()}
    other["lr"] = 9.0
    with pytest.raises(CheckpointError, match="Adam"):
        optimizer.load_state_dict(change(other))
    after = optimizer.state_dict()
    assert (after["lr"], after["steps"]) == (before["lr"], before["steps"])
    for name, x in before.items():
        if isinstance(x, gg.Tensor):
            np.testing.assert_array_equal(after[name].numpy(), x.numpy())


def test_state_is_named_by_what_it_is() -> None:
    w = leaf([1.0])
    names = {type(o).__name__: set(o.state_dict()) for o in (f([w]) for f in EVERY.values())}
    assert names["Adam"] == {"lr", "steps", "exp_avg.0", "exp_avg_sq.0"}
    assert names["SGD"] == {"lr", "steps", "momentum.0"}
    assert set(gg.optim.SGD([w]).state_dict()) == {"lr", "steps"}


# Bad arguments

BAD: dict[str, Callable[[gg.Tensor], Any]] = {
    "lr": lambda w: gg.optim.SGD([w], lr=-1.0),
    "lr NaN": lambda w: gg.optim.Adam([w], lr=math.nan),
    "momentum": lambda w: gg.optim.SGD([w], momentum=-0.1),
    "weight_decay": lambda w: gg.optim.SGD([w], weight_decay=-0.1),
    "nesterov": lambda w: gg.optim.SGD([w], nesterov=True),
    "beta 1": lambda w: gg.optim.Adam([w], betas=(1.0, 0.999)),
    "beta 2": lambda w: gg.optim.AdamW([w], betas=(0.9, -0.1)),
    "eps": lambda w: gg.optim.Adam([w], eps=-1e-8),
    "alpha": lambda w: gg.optim.RMSprop([w], alpha=-0.1),
    "adagrad": lambda w: gg.optim.Adagrad([w], eps=-1.0),
    "clip": lambda w: gg.optim.clip_grad_norm([w], -1.0),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_settings_raise(bad: Callable[[gg.Tensor], Any]) -> None:
    with pytest.raises(DtypeError):
        bad(leaf([1.0]))


@every
def test_bad_parameters_raise(make: Make) -> None:
    w = leaf([1.0])
    for params in ([], [gg.ones((2,))], [w * 2], [np.ones(2)], [None], w):
        with pytest.raises(GradientError):
            make(params)


def test_a_gradient_of_another_shape_raises() -> None:
    with pytest.raises(GradientError):
        leaf([1.0, 2.0]).grad = gg.ones((3,))


# Clipping


def with_gradients(*gradients: Any, dtype: str = "f4") -> list[gg.Tensor]:
    params = []
    for g in gradients:
        p = leaf(np.zeros(np.shape(g)), dtype)
        p.grad = gg.asarray(np.array(g, dtype))
        params.append(p)
    return params


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
@pytest.mark.parametrize("max_norm", [0.0, 1e-3, 1.0, 12.999, 13.1, math.inf])
def test_clip_grad_norm_is_pytorchs(dtype: str, max_norm: float) -> None:
    gradients = [[3.0, 4.0], [[12.0]], 0.0]
    params = with_gradients(*gradients, dtype=dtype)
    assert gg.optim.clip_grad_norm(params, max_norm) == 13.0
    scale = min(1.0, max_norm / (13.0 + 1e-6))  # torch.nn.utils.clip_grad_norm_
    rtol = {"f2": 1e-3, "f4": 1e-6, "f8": 1e-14}[dtype]
    for p, g in zip(params, gradients, strict=True):
        assert p.grad is not None
        assert p.grad.dtype == dtype
        np.testing.assert_allclose(p.grad.numpy(), np.array(g) * scale, rtol, 1e-7)
    if dtype != "f2":  # half precision rounds the smaller ones up
        clipped = [np.linalg.norm(p.grad.numpy()) for p in params if p.grad is not None]
        assert math.hypot(*clipped) <= max_norm


def test_clip_grad_norm_takes_what_holds_parameters() -> None:
    (w,) = with_gradients([3.0, 4.0])
    bare = leaf([1.0])  # no gradient: ignored
    assert gg.optim.clip_grad_norm(iter([w, bare, w]), 10.0) == 5.0  # the same one counts once
    assert gg.optim.clip_grad_norm(w, np.float64(1.0)) == 5.0  # a lone tensor is one parameter
    assert w.grad is not None
    assert w.grad.dtype == np.float32
    assert gg.optim.clip_grad_norm([bare], 1.0) == 0.0
    assert gg.optim.clip_grad_norm(gg.nn.Linear(2, 2), 1.0) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_clip_grad_norm_of_non_finite_gradients_changes_nothing(bad: float) -> None:
    params = with_gradients([30.0, 4.0], [bad])
    before = [p.grad for p in params]
    with pytest.raises(GradientError, match="finite"):
        gg.optim.clip_grad_norm(params, 1.0)
    assert all(p.grad is g for p, g in zip(params, before, strict=True))


def test_clip_grad_norm_squares_without_overflow() -> None:
    params = with_gradients([3e30], [4e30])  # the squares leave float32
    np.testing.assert_allclose(gg.optim.clip_grad_norm(params, 1.0), 5e30, 1e-6)


def test_clipped_gradients_leave_what_others_hold() -> None:
    (w,) = with_gradients([3.0, 4.0])
    assert w.grad is not None
    held = w.grad.numpy()
    gg.optim.clip_grad_norm([w], 1.0)
    assert held.tolist() == [3.0, 4.0]


# Together


@every
@pytest.mark.parametrize("fuse", [True, False])
def test_training_goes_down(make: Make, fuse: bool, device: str) -> None:
    rng = np.random.default_rng(4)
    x = gg.asarray(rng.standard_normal((32, 3)).astype("f4"), device=device)
    labels = (host(x)[:, 0] > 0).astype("i8")
    model = gg.nn.MLP([3, 8, 2], "tanh", generator=gg.random.Generator(0), device=device)
    optimizer = make(model)
    losses = []
    with gg.config.override(fuse=fuse):
        for _ in range(30):
            optimizer.zero_grad()
            loss = gg.nn.cross_entropy(model(x), labels)
            loss.backward()
            gg.optim.clip_grad_norm(model, 5.0)
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# The update of all parameters as one program


def run(make: Make, steps: int, worth_it: int, monkeypatch: Any, dtype: str) -> tuple[Any, Any]:
    monkeypatch.setattr(base, "_WORTH_IT", worth_it)
    rng = np.random.default_rng(0)
    shapes = [(3,), (20, 7), (300, 2), (2, 1, 5)]  # one value alone is computed in float64
    params = [leaf(rng.standard_normal(s), dtype) for s in shapes]
    optimizer = make(params)
    for step in range(steps):
        for p in params:
            p.grad = gg.asarray(rng.standard_normal(p.shape).astype(dtype))
        optimizer.lr = 0.1 / (1 + step)
        optimizer.step()
    return optimizer, [host(p) for p in params]


@every
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_at_once_gives_the_bits_of_one_by_one(make: Make, dtype: str, monkeypatch: Any) -> None:
    if native.why_not():
        pytest.skip(native.why_not())
    plain, wanted = run(make, 40, 1 << 60, monkeypatch, dtype)
    optimizer, got = run(make, 40, 7, monkeypatch, dtype)
    assert optimizer._at_once.recording is not None
    assert plain._at_once.recording is None
    assert [a.tobytes() for a in got] == [b.tobytes() for b in wanted]
    assert optimizer.steps == plain.steps == [40] * 4


def test_an_optimizer_is_copied_and_pickled_at_any_time(monkeypatch: Any) -> None:
    optimizer, _ = run(EVERY["adam"], 10, 2, monkeypatch, "f4")
    twins = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    for one in (optimizer, *twins):
        for p in one.params:
            p.grad = gg.ones(p.shape)
        one.step()
        assert one.steps == [11] * 4
    wanted = [host(p).tobytes() for p in optimizer.params]
    for twin in twins:
        assert [host(p).tobytes() for p in twin.params] == wanted


def test_gradients_that_come_and_go_are_no_storm(monkeypatch: Any) -> None:
    monkeypatch.setattr(base, "_WORTH_IT", 1)
    w, v = leaf([1.0]), leaf([1.0])
    optimizer = gg.optim.SGD([w, v], lr=0.25)
    for step in range(40):
        w.grad = gg.ones(1)
        v.grad = gg.ones(1) if step % 2 else None
        optimizer.step()
    assert (w.tolist(), v.tolist()) == ([-9.0], [-4.0])
    assert optimizer.steps == [40, 20]


def test_an_optimizer_of_the_users_own_is_called_every_time(monkeypatch: Any) -> None:
    monkeypatch.setattr(base, "_WORTH_IT", 1)
    calls = []

    class Loud(gg.optim.SGD):
        def _update(self, p: Any, g: Any, *rest: Any) -> Any:
            calls.append(p.shape)
            return super()._update(p, g, *rest)

    w = leaf([1.0, 2.0])
    descend(w, Loud([w], lr=0.5), steps=5)
    assert calls == [(2,)] * 5
