"""Layers, models and losses: NumPy's values, PyTorch's names, and no wrong shape let through."""

import copy
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
from gpugrad import nn
from gpugrad.errors import BoundsError, CheckpointError, DtypeError, GradientError, ShapeError
from gpugrad.random import Generator

DATA = Path(__file__).parent / "data"


def normal(*shape: int, seed: int = 0, dtype: str = "f8") -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def host(x: Any) -> Any:
    return x.detach().to("cpu").numpy()


def sigma(x: Any) -> Any:
    return np.where(x > 0, 1, np.exp(-np.abs(x))) / (1 + np.exp(-np.abs(x)))


def exps(x: Any, axis: int = -1) -> Any:
    return np.exp(x - x.max(axis, keepdims=True))


def log_sum_exp(x: Any) -> Any:
    return np.log(exps(x).sum(-1, keepdims=True)) + x.max(-1, keepdims=True)


# Activations: function, module, and NumPy's version.
FUNCTIONS: dict[str, tuple[Callable[..., Any], nn.Module, Callable[[Any], Any]]] = {
    "identity": (nn.identity, nn.Identity(), lambda x: x),
    "sigmoid": (nn.sigmoid, nn.Sigmoid(), sigma),
    "tanh": (nn.tanh, nn.Tanh(), np.tanh),
    "relu": (nn.relu, nn.ReLU(), lambda x: np.maximum(x, 0)),
    "leaky_relu": (nn.leaky_relu, nn.LeakyReLU(), lambda x: np.where(x > 0, x, 0.01 * x)),
    "elu": (nn.elu, nn.ELU(), lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    "gelu": (
        nn.gelu,
        nn.GELU(),
        lambda x: x * sigma(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    ),
    "silu": (nn.silu, nn.SiLU(), lambda x: x * sigma(x)),
    "softplus": (nn.softplus, nn.Softplus(), lambda x: np.log1p(np.exp(x))),
    "softmax": (nn.softmax, nn.Softmax(), lambda x: exps(x) / exps(x).sum(-1, keepdims=True)),
    "log_softmax": (nn.log_softmax, nn.LogSoftmax(), lambda x: x - log_sum_exp(x)),
}
functions = pytest.mark.parametrize("name", FUNCTIONS)
activations = pytest.mark.parametrize("activation", nn.ACTIVATIONS)


@functions
@pytest.mark.parametrize("shape", [(4, 5), (3,), (2, 3, 4), (0, 3), (1, 1)])
def test_activations_are_numpys(name: str, shape: tuple[int, ...], device: str) -> None:
    function, module, reference = FUNCTIONS[name]
    x = 3 * normal(*shape)
    want = reference(x)
    for f in (function, module):
        np.testing.assert_allclose(host(f(gg.asarray(x, device=device))), want, 1e-12, 1e-14)
        got = f(gg.asarray(x.astype("f4"), device=device))
        assert got.dtype == np.float32
        np.testing.assert_allclose(host(got), want, 1e-5, 1e-6)


@functions
def test_activations_differentiate(name: str, device: str) -> None:
    function, module, _ = FUNCTIONS[name]
    x = normal(2, 3) + 0.1  # away from the corner at 0
    gg.testing.gradcheck(lambda x: function(x) * 1.0, [x])
    gg.testing.gradcheck(lambda x: module(x) ** 2, [x])


def test_activation_settings(device: str) -> None:
    x = gg.asarray([-2.0, 3.0], device=device)
    assert nn.LeakyReLU(0.5)(x).tolist() == nn.leaky_relu(x, 0.5).tolist() == [-1.0, 3.0]
    np.testing.assert_allclose(host(nn.ELU(2.0)(x)), [2 * math.expm1(-2), 3.0], 1e-6)
    table = gg.asarray(normal(3, 4), device=device)
    np.testing.assert_allclose(host(nn.Softmax(axis=0)(table)).sum(0), 1, 1e-12)
    np.testing.assert_allclose(
        host(nn.LogSoftmax(axis=-2)(table)), np.log(host(nn.softmax(table, 0)))
    )


EXTREMES = [-1e4, -100.0, 0.0, 100.0, 1e4]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@functions
def test_activations_at_extremes(name: str, dtype: str, device: str) -> None:
    """Finite values and finite gradients wherever the true ones are."""
    end = 30 if (name, dtype) == ("gelu", "f2") else 1e4  # its cube leaves float16 above 40
    x = gg.asarray(np.clip(EXTREMES, -end, end).astype(dtype), device=device, requires_grad=True)
    y = FUNCTIONS[name][0](x)
    y.sum().backward()
    assert x.grad is not None
    assert (y.dtype, x.grad.dtype) == (dtype, dtype)
    assert np.isfinite(host(y)).all()
    assert np.isfinite(host(x.grad)).all()


def test_integers_have_no_probabilities() -> None:
    """softmax of integers was once cast back to integers: all zeros."""
    for f in (nn.softmax, nn.log_softmax):
        with pytest.raises(DtypeError, match="softmax"):
            f(gg.asarray([1, 2, 3]))
        with pytest.raises(ShapeError):
            f(gg.zeros((3, 0)))
        with pytest.raises((ShapeError, IndexError)):
            f(gg.zeros((3, 2)), axis=2)


# Linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 4, 3), (0, 3), (2, 0, 3)])
def test_linear_is_a_matrix_product(shape: tuple[int, ...], bias: bool, device: str) -> None:
    layer = nn.Linear(3, 2, bias, dtype=gg.float64, device=device)
    x = normal(*shape)
    want = x @ host(layer.weight).T + (host(layer.bias) if layer.bias is not None else 0)
    got = layer(gg.asarray(x, device=device))
    assert got.shape == (*shape[:-1], 2)
    np.testing.assert_allclose(host(got), want, 1e-12, 1e-14)
    got.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.shape == (2, 3)
    rows = np.broadcast_to(x.reshape(-1, 3).sum(0), (2, 3))
    np.testing.assert_allclose(host(layer.weight.grad), rows, 1e-12, 1e-13)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 3)])
def test_linear_differentiates(shape: tuple[int, ...], device: str) -> None:
    args = [normal(*shape), normal(2, 3, seed=1), normal(2, seed=2)]
    gg.testing.gradcheck(nn.linear, args)
    gg.testing.gradcheck(lambda x, w: nn.linear(x, w), args[:2])
    gg.testing.gradcheck(lambda x, w, b: nn.sigmoid(nn.linear(x, w, b)), args)


def test_linear_starts_as_pytorchs() -> None:
    layer = nn.Linear(25, 400, generator=Generator(1))
    assert layer.weight.shape == (400, 25)
    assert layer.bias is not None
    assert layer.bias.shape == (400,)
    for p in layer.parameters():
        assert p.dtype == np.float32
        assert p.is_leaf
        assert p.requires_grad
        assert abs(host(p)).max() < 0.2
        assert abs(abs(host(p)).mean() - 0.1) < 0.01
    want = Generator(1).uniform(-0.2, 0.2, (400, 25))
    np.testing.assert_array_equal(host(layer.weight), host(want))


def test_linear_keeps_float32_for_integers() -> None:
    layer = nn.Linear(3, 2)
    for x in ([[1, 2, 3]], np.array([[1, 2, 3]], "u1"), gg.asarray([[True, False, True]])):
        assert layer(x).dtype == np.float32
    assert nn.Linear(3, 2, bias=False)([[1, 2, 3]]).dtype == np.float32


def test_linear_of_wrong_shapes_raises() -> None:
    x = gg.ones((4, 3))
    for make in (lambda: nn.Linear(0, 2), lambda: nn.Linear(2, 0), lambda: nn.Linear(-1, 2)):
        with pytest.raises(ShapeError, match="Linear"):
            make()
    for w, b in [
        ((2, 4), (2,)),
        ((2, 3), (3,)),
        ((2, 3), (1,)),  # NumPy would broadcast these
        ((2, 3), ()),
        ((2, 3), (4, 2)),
        ((3,), (3,)),
        ((2, 4, 3), (2,)),
    ]:
        with pytest.raises(ShapeError):
            nn.linear(x, gg.ones(w), gg.ones(b))
    for bias in (True, False):
        with pytest.raises(ShapeError):
            nn.Linear(1, 2, bias)(gg.asarray(1.0))
        with pytest.raises(ShapeError):
            nn.Linear(3, 2, bias)(gg.ones((3, 2)))
    with pytest.raises(DtypeError):
        nn.Linear(3, 2, dtype=gg.int64)


def test_layers_made_without_a_generator_differ_and_repeat() -> None:
    nn.manual_seed(3)
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    nn.manual_seed(3)
    c = nn.Linear(3, 2)
    assert (host(a.weight) != host(b.weight)).any()
    np.testing.assert_array_equal(host(a.weight), host(c.weight))


# Losses


def cross_entropy(z: Any, t: Any) -> Any:
    return (log_sum_exp(z) - np.take_along_axis(z, t[:, None], 1))[:, 0]


def bce(z: Any, t: Any) -> Any:
    return -(t * np.log(sigma(z)) + (1 - t) * np.log(sigma(-z)))


LABELS = np.array([2, 0, 1, 2])
LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any], Any, Any]] = {
    "cross_entropy": (nn.cross_entropy, cross_entropy, normal(4, 3), LABELS),
    "bce_with_logits": (
        nn.bce_with_logits,
        bce,
        normal(4, 3),
        np.random.default_rng(1).random((4, 3)),
    ),
    "mse": (nn.mse, lambda p, t: (p - t) ** 2, normal(4, 3), normal(4, 3, seed=1)),
}
losses = pytest.mark.parametrize("name", LOSSES)


@losses
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_are_numpys(name: str, reduction: str, device: str) -> None:
    f, reference, z, t = LOSSES[name]
    want = reference(z, t)
    want = want if reduction == "none" else getattr(np, reduction)(want)
    got = f(gg.asarray(z, device=device), gg.asarray(t, device=device), reduction)
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(host(got), want, 1e-12)
    small = f(gg.asarray(z.astype("f4"), device=device), t, reduction=reduction)
    assert small.dtype == np.float32
    np.testing.assert_allclose(host(small), want, 1e-5)
    half = f(gg.asarray(z.astype("f2"), device=device), t, reduction=reduction)
    assert half.dtype == np.float16
    np.testing.assert_allclose(host(half), want, 1e-2, 1e-2)


@losses
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_differentiate(name: str, reduction: str, device: str) -> None:
    f, _, z, t = LOSSES[name]
    gg.testing.gradcheck(lambda z: f(z, t, reduction), [z])
    if t.dtype.kind == "f":
        gg.testing.gradcheck(lambda z, t: f(z, t, reduction), [z, t])


@losses
def test_an_empty_batch_has_no_mean(name: str) -> None:
    f, _, z, t = LOSSES[name]
    empty, none = gg.asarray(z[:0], requires_grad=True), t[:0]
    with pytest.raises(ShapeError, match=name):
        f(empty, none)
    assert f(empty, none, "none").shape == t[:0].shape
    total = f(empty, none, reduction="sum")
    assert total.item() == 0.0
    total.backward()
    assert empty.grad is not None
    assert empty.grad.shape == (0, 3)


@losses
@pytest.mark.parametrize("reduction", ["avg", "Mean", "", None, True])
def test_unknown_reductions_raise(name: str, reduction: Any) -> None:
    f, _, z, t = LOSSES[name]
    with pytest.raises(ShapeError, match=f"{name}.*reduction"):
        f(z, t, reduction)


@losses
@pytest.mark.parametrize("dtype", ["i8", "?", "c16"])
def test_losses_of_what_is_not_real_raise(name: str, dtype: str) -> None:
    """Integer logits once gave a loss rounded to an integer."""
    f, _, z, t = LOSSES[name]
    with pytest.raises(DtypeError, match=name):
        f(z.astype(dtype), t)


@pytest.mark.parametrize("name", ["mse", "bce_with_logits"])
@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4,), (4, 1)), ((4, 1), ()), ((2, 3), (3,))])
def test_losses_do_not_broadcast(name: str, shapes: Any) -> None:
    p, t = (gg.ones(shape) for shape in shapes)
    with pytest.raises(ShapeError, match=rf"{name}.*reshape"):
        getattr(nn, name)(p, t)


@pytest.mark.parametrize("name", ["mse", "bce_with_logits"])
def test_targets_take_the_dtype_of_the_prediction(name: str) -> None:
    f = getattr(nn, name)
    for t in ([1, 0], [True, False], np.array([1.0, 0.0]), np.array([1, 0], "i2")):
        loss = f(gg.asarray([0.5, 2.0]), t)
        assert loss.dtype == np.float32
        np.testing.assert_allclose(host(loss), host(f(gg.asarray([0.5, 2.0]), [1.0, 0.0])))
    assert f(gg.asarray(0.5), 1.0).shape == ()


def test_cross_entropy_of_wrong_labels_raises(device: str) -> None:
    z = gg.zeros((2, 3), device=device)
    cases: list[tuple[type[Exception], Any]] = [
        (BoundsError, [0, 3]),
        (BoundsError, [-1, 0]),  # NumPy would count from the end
        (BoundsError, np.array([0, 200], "u1")),
        (BoundsError, np.array([0, 2**63], "u8")),
        (DtypeError, [0.0, 1.0]),
        (DtypeError, [True, False]),
        (DtypeError, [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
        (ShapeError, [0]),
        (ShapeError, [0, 1, 2]),
        (ShapeError, [[0], [1]]),
        (ShapeError, [[0, 1], [1, 0]]),
        (ShapeError, 1),
    ]
    for error, labels in cases:
        with pytest.raises(error, match="cross_entropy"):
            nn.cross_entropy(z, labels)
    for shape in [(3,), (2, 0), (2, 3, 1), ()]:
        with pytest.raises(ShapeError, match="cross_entropy"):
            nn.cross_entropy(gg.zeros(shape), np.zeros(shape[:1], "i8"))


@pytest.mark.parametrize("labels", ["i1", "u1", "i4", "u8"])
def test_cross_entropy_takes_any_integers(labels: str) -> None:
    got = nn.cross_entropy(gg.asarray(LOSSES["cross_entropy"][2]), LABELS.astype(labels))
    np.testing.assert_allclose(host(got), cross_entropy(normal(4, 3), LABELS).mean())


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("fuse", [True, False])
def test_losses_at_extremes(dtype: str, fuse: bool, device: str) -> None:
    """Right and finite at logits of ±10⁴, where e^z is neither."""
    z = np.array([[1e4, -1e4], [1e4, -1e4], [0.0, 1e4]], dtype)
    with gg.config.override(fuse=fuse):
        logits = gg.asarray(z, device=device, requires_grad=True)
        loss = nn.cross_entropy(logits, [0, 1, 1], "none")
        assert host(loss).tolist() == [0.0, 2e4, 0.0]
        loss.sum().backward()
        assert logits.grad is not None
        assert host(logits.grad).tolist() == [[0, 0], [1, -1], [0, 0]]
        logits = gg.asarray(z, device=device, requires_grad=True)
        loss = nn.bce_with_logits(logits, [[1, 0], [0, 1], [0.5, 1]], "none")
        want = [[0, 0], [1e4, 1e4], [math.log(2), 0]]
        np.testing.assert_allclose(host(loss), want, 1e-3)
        loss.sum().backward()
        assert logits.grad is not None
        assert host(logits.grad).tolist() == [[0, 0], [1, -1], [0, 0]]


def test_masked_classes_get_no_gradient() -> None:
    z = gg.asarray([[0.0, -math.inf, 0.0]], requires_grad=True)
    nn.cross_entropy(z, [0]).backward()
    assert z.grad is not None
    assert z.grad.tolist() == [[-0.5, 0.0, 0.5]]


# PyTorch's files


def torch_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), nn.Sigmoid(), nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.parametrize("fuse", [True, False])
def test_a_pytorch_checkpoint_gives_pytorchs_numbers(fuse: bool, device: str) -> None:
    torch = dict(np.load(DATA / "torch_mlp.npz"))
    model = torch_model().to(device)
    model.load_state_dict(gg.io.load(DATA / "torch_mlp.safetensors"))
    x = gg.asarray(torch["x"], device=device, requires_grad=True)
    with gg.config.override(fuse=fuse):
        logits = model(x)
        loss = nn.cross_entropy(logits, torch["labels"])
        loss.backward()
    np.testing.assert_allclose(host(logits), torch["logits"], 1e-5, 1e-6)
    np.testing.assert_allclose(loss.item(), torch["loss"], 1e-6)
    for name, p in [*model.named_parameters(), ("x", x)]:
        assert p.grad is not None
        assert p.grad.dtype == np.float32
        np.testing.assert_allclose(host(p.grad), torch[f"grad.{name}"], 1e-5, 1e-7)


def test_names_are_pytorchs() -> None:
    saved = gg.io.load(DATA / "torch_mlp.safetensors")
    assert set(torch_model().state_dict()) == set(saved)
    assert list(nn.MLP([5, 7, 4, 3]).state_dict()) == list(torch_model().state_dict())
    assert list(nn.MLP([2, 3, 1], dropout=0.5).state_dict())[2:] == ["3.weight", "3.bias"]
    nested = nn.Sequential(nn.Sequential(nn.Linear(1, 1, bias=False)), nn.Linear(1, 1))
    assert list(nested.state_dict()) == ["0.0.weight", "1.weight", "1.bias"]


# Modules


class Net(nn.Module):
    """Tensors and modules wherever Python lets one put them."""

    def __init__(self) -> None:
        self.scale = gg.asarray(2.0, requires_grad=True)
        self.mean = gg.zeros((2,))
        self.heads = [nn.Linear(2, 1), {"deep": (nn.Linear(2, 3), gg.ones(1))}]
        self.table = {"a": gg.asarray([1.0], requires_grad=True), 3: nn.Linear(1, 1, bias=False)}
        self.text, self.nothing, self.number = "text", None, 3

    def forward(self, x: Any) -> Any:
        return self.heads[0](x * self.scale - self.mean)  # type: ignore[operator]


def test_names_of_nested_containers() -> None:
    net = Net()
    heads = ["heads.0.weight", "heads.0.bias", "heads.1.deep.0.weight", "heads.1.deep.0.bias"]
    assert list(net.state_dict()) == [
        *("scale", "mean", *heads, "heads.1.deep.1"),
        *("table.a", "table.3.weight"),
    ]
    names = [name for name, _ in net.named_parameters()]
    assert names == ["scale", *heads, "table.a", "table.3.weight"]
    assert len(list(net.parameters())) == 7
    assert [type(m).__name__ for m in net.modules()] == ["Net", "Linear", "Linear", "Linear"]


def test_train_and_eval_reach_everything() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            self.branches = {"a": [nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5))]}

    model = Holder()
    assert all(m.training for m in model.modules())
    assert model.eval() is model
    assert not any(m.training for m in model.modules())
    assert model.train() is model
    assert all(m.training for m in model.modules())
    model.branches["a"][0].eval()
    assert [m.training for m in model.modules()] == [True, False, True, True]


def test_what_a_sequential_holds_besides_its_layers_counts() -> None:
    """A parameter set on a Sequential was once neither trained nor saved."""
    model = nn.MLP([2, 2, 1])
    model.gain = gg.asarray(1.0, requires_grad=True)
    model.extra = nn.Dropout(0.5)
    assert "gain" in model.state_dict()
    assert any(p is model.gain for p in model.parameters())
    assert not model.eval().extra.training


def test_kept_activations_are_no_parameters() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            self.hidden = self.layer(x)
            return self.hidden

    model = Keeping()
    names = list(model.state_dict())
    model(gg.ones((3, 2)))
    assert list(model.state_dict()) == names
    assert len(list(model.parameters())) == 2
    model.layer.weight *= 2  # written to on the tape, and a parameter all the same
    assert len(list(model.parameters())) == 2


def test_a_way_back_up_is_not_followed() -> None:
    """A child that knows its parent once made the walk endless."""
    parent = nn.Sequential(nn.Linear(1, 1))
    parent[0].parent = parent
    parent[0].loop = [parent[0]]
    assert list(parent.state_dict()) == ["0.weight", "0.bias"]
    assert len(list(parent.modules())) == 2


def test_forward_is_for_subclasses() -> None:
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty"):
        Empty()(1)
    assert list(Empty().parameters()) == []
    assert Empty().state_dict() == {}


def test_repr() -> None:
    model = nn.Sequential(
        nn.MLP([2, 3, 1], dropout=0.25), nn.Linear(1, 1, bias=False), nn.LeakyReLU(0.2)
    )
    assert repr(model) == (
        "Sequential(\n"
        "  (0): MLP(\n"
        "    (0): Linear(2, 3)\n"
        "    (1): Sigmoid()\n"
        "    (2): Dropout(p=0.25)\n"
        "    (3): Linear(3, 1)\n"
        "  )\n"
        "  (1): Linear(1, 1, bias=False)\n"
        "  (2): LeakyReLU(negative_slope=0.2)\n"
        ")"
    )


def test_sequential_is_a_sequence() -> None:
    layers = [nn.Linear(2, 2), nn.Tanh()]
    model = nn.Sequential(*layers)
    assert len(model) == 2
    assert list(model) == layers
    assert model[1] is layers[1]
    x = gg.ones((1, 2))
    assert nn.Sequential()(x) is x
    np.testing.assert_array_equal(host(model(x)), host(nn.tanh(layers[0](x))))


def test_shared_parameters_count_once_and_their_gradients_add() -> None:
    layer = nn.Linear(2, 2, dtype=gg.float64)
    tied = nn.Sequential(layer, nn.Sigmoid(), layer)
    assert len(list(tied.parameters())) == 2
    assert list(tied.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    apart = copy.deepcopy(nn.Sequential(layer, nn.Sigmoid()))
    apart.layers.append(copy.deepcopy(layer))
    x = normal(3, 2)
    for model in (tied, apart):
        model(x).sum().backward()
    assert layer.weight.grad is not None
    both = host(apart[0].weight.grad) + host(apart[2].weight.grad)
    np.testing.assert_allclose(host(layer.weight.grad), both, 1e-12)
    tied.load_state_dict(tied.state_dict())
    assert tied[0].weight is tied[2].weight


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_model_are_models_of_their_own(again: Any, device: str) -> None:
    layer = nn.Linear(3, 3, device=device)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.Dropout(0.5), nn.Linear(3, 1, device=device))
    x = gg.ones((8, 3), device=device)
    model(x).sum().backward()
    gg.optim.SGD(model, lr=0.1).step()
    twin = again(model)
    assert len(list(twin.parameters())) == 4  # the tie is kept
    assert twin[0] is twin[2]
    np.testing.assert_array_equal(host(twin(x)), host(model(x)))  # the same dropout, too
    before = [host(p).copy() for p in model.parameters()]
    twin.zero_grad()
    twin(x).sum().backward()
    gg.optim.SGD(twin, lr=0.1).step()
    for p, q, old in zip(model.parameters(), twin.parameters(), before, strict=True):
        np.testing.assert_array_equal(host(p), old)
        assert q.is_leaf
        assert q.grad is not None
    assert (host(twin[4].bias) != host(model[4].bias)).all()


# load_state_dict


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {k: v.numpy(copy=True) for k, v in model.state_dict().items()}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_load_state_dict_takes_values_dtype_and_device(dtype: str, device: str) -> None:
    model = nn.MLP([3, 4, 2]).to(device)
    handles = list(model.parameters())
    state = {k: normal(*v.shape, dtype=dtype) for k, v in model.state_dict().items()}
    assert model.load_state_dict(state) is model
    for p, handle, value in zip(model.parameters(), handles, state.values(), strict=True):
        assert p is handle
        assert p.dtype == np.float32
        assert p.device == device
        assert p.is_leaf
        np.testing.assert_array_equal(host(p), value.astype("f4"))
    state["0.weight"][:] = 0  # the caller's arrays are copied
    assert (host(model[0].weight) != 0).all()
    model(gg.ones((1, 3), device=device)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_state_dict_does_not_move() -> None:
    model = nn.MLP([3, 4, 2])
    state = model.state_dict()
    before = snapshot(model)
    twin = nn.MLP([3, 4, 2]).load_state_dict(state)
    for m in (model, twin):
        m(gg.ones((1, 3))).sum().backward()
        gg.optim.Adam(m).step()
    for name, value in state.items():
        assert not value.requires_grad
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_loading_ends_what_was_on_the_tape() -> None:
    layer = nn.Linear(2, 2)
    layer.weight *= 2
    layer.load_state_dict({"weight": np.ones((2, 2)), "bias": np.ones(2)})
    assert layer.weight.is_leaf
    layer([[1.0, 2.0]]).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[1.0, 2.0]] * 2


MISFITS: dict[str, tuple[Callable[[dict[str, Any]], Any], list[str]]] = {
    "missing": (lambda s: s.pop("0.bias"), ["missing: 0.bias"]),
    "unknown": (
        lambda s: s.update({"0.wieght": np.ones(1)}),
        [r"unknown: 0.wieght \(is it 0.weight\?\)"],
    ),
    "strange": (lambda s: s.update(zzz=np.ones(1)), ["unknown: zzz[;.]"]),
    "shape": (
        lambda s: s.update({"2.weight": np.ones((4, 2))}),
        [r"2.weight: shape \(4, 2\), here \(2, 4\)"],
    ),
    "all": (
        lambda s: (s.pop("0.bias"), s.update({"2.bias": np.ones(3), "2.bais": np.ones(2)})),
        ["missing: 0.bias", r"unknown: 2.bais \(is it 2.bias\?\)", r"2.bias: shape \(3,\)"],
    ),
    "none": (lambda s: s.clear(), ["missing: 0.bias", "missing: 2.weight"]),
}


@pytest.mark.parametrize(("spoil", "words"), MISFITS.values(), ids=MISFITS)
def test_load_state_dict_lists_what_differs_and_changes_nothing(spoil: Any, words: Any) -> None:
    model = nn.MLP([3, 4, 2])
    before = snapshot(model)
    state = {k: v + 1 for k, v in before.items()}
    spoil(state)
    for word in words:
        with pytest.raises(CheckpointError, match=word):
            model.load_state_dict(state)
    for name, value in snapshot(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_zero_grad_forgets() -> None:
    model = nn.MLP([2, 3, 1])
    model(gg.ones((1, 2))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


# Dropout


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_dropout_keeps_and_scales(p: float, dtype: str, device: str) -> None:
    n = 40_000
    layer = nn.Dropout(p, generator=Generator(0, device))
    x = gg.asarray(np.ones(n, dtype), device=device, requires_grad=True)
    y = layer(x)
    assert y.dtype == dtype
    values = host(y)
    np.testing.assert_allclose(values[values != 0], 1 / (1 - p), 1e-3)
    kept = (values != 0).sum()
    assert abs(kept - n * (1 - p)) <= 5 * math.sqrt(n * p * (1 - p))
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(host(x.grad), values)  # the same mask, the same scale


def test_dropout_draws_afresh_and_can_repeat() -> None:
    x = gg.ones((1000,))
    layer, twin = (nn.Dropout(0.5, generator=Generator(7)) for _ in range(2))
    first, second = host(layer(x)), host(layer(x))
    assert (first != second).any()
    np.testing.assert_array_equal(host(twin(x)), first)
    np.testing.assert_array_equal(host(twin(x)), second)
    assert host(x).min() == 1


def test_dropout_evaluates_to_what_it_got() -> None:
    layer = nn.Dropout(0.5, generator=Generator(0)).eval()
    x = gg.asarray(normal(4, 3))
    state = layer.generator.state
    assert layer(x) is x
    assert layer.generator.state == state
    assert layer.train()(x) is not x


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_dropout_of_everything_raises(p: float) -> None:
    with pytest.raises(DtypeError, match="Dropout"):
        nn.Dropout(p)


# MLP


XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "f4")


@activations
def test_mlp_trains(activation: str, device: str) -> None:
    """XOR for what can bend; a plane through it for what cannot."""
    target = XOR[:, :1] != XOR[:, 1:] if activation != "identity" else XOR[:, :1]
    x = gg.asarray(2 * XOR - 1, device=device)
    model = nn.MLP([2, 16, 1], activation, generator=Generator(1), device=device)
    optimizer = gg.optim.Adam(model, lr=0.05)
    first = loss = nn.bce_with_logits(model(x), target)
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.bce_with_logits(model(x), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 < 0.3 < first.item()
    np.testing.assert_array_equal(host(model(x)) > 0, target != 0)


@activations
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", [(9, 3), (1, 3), (0, 3), (3,), (2, 4, 3)], ids=str)
def test_fused_and_unfused_backward_agree(
    activation: str, dtype: str, shape: tuple[int, ...], device: str
) -> None:
    model = nn.MLP([3, 8, 5, 2], activation, generator=Generator(2), dtype=dtype, device=device)
    x = gg.asarray(normal(*shape, dtype=dtype), device=device, requires_grad=True)
    found = []
    for fuse in (True, False):
        model.zero_grad()
        x.grad = None
        with gg.config.override(fuse=fuse):
            (model(x) ** 2).sum().backward()
        found.append([p.grad for p in (x, *model.parameters())])
    for fused, plain in zip(*found, strict=True):
        assert fused is not None
        assert plain is not None
        assert (fused.shape, fused.dtype) == (plain.shape, plain.dtype)
        rtol, atol = (1e-5, 1e-6) if dtype == "f4" else (1e-12, 1e-14)
        np.testing.assert_allclose(host(fused), host(plain), rtol, atol)


@activations
def test_mlp_differentiates(activation: str, device: str) -> None:
    model = nn.MLP([2, 3, 2], activation, generator=Generator(3), dtype=gg.float64)
    start = [p.detach().numpy() for p in model.parameters()]

    def loss(x: Any, *values: Any) -> Any:
        w1, b1, w2, b2 = values
        return nn.cross_entropy(nn.linear(model[1](nn.linear(x, w1, b1)), w2, b2), [0, 1])

    gg.testing.gradcheck(loss, [normal(2, 2), *start])


def test_fused_backward_leaves_what_the_user_asked_for() -> None:
    """A value inside a fused pattern that has a hook, a kept gradient, or a second use."""
    x = gg.asarray(normal(4, 3))
    layer = nn.Linear(3, 2, dtype=gg.float64)
    found = []
    for fuse in (True, False):
        layer.zero_grad()
        hooked = []
        with gg.config.override(fuse=fuse):
            z = layer(x).retain_grad()
            z.register_hook(lambda g, seen=hooked: seen.append(host(g)))
            (nn.sigmoid(z).sum() + (z**2).sum()).backward()
        assert z.grad is not None
        assert layer.bias is not None
        found.append([host(z.grad), *hooked, host(layer.weight.grad), host(layer.bias.grad)])
    assert len(found[0]) == len(found[1]) == 4
    for fused, plain in zip(*found, strict=True):
        np.testing.assert_allclose(fused, plain, 1e-12)


def test_fused_backward_of_frozen_parts() -> None:
    x = gg.asarray(normal(4, 3), requires_grad=True)
    for frozen in (["weight"], ["bias"], ["weight", "bias"]):
        layer = nn.Linear(3, 2, dtype=gg.float64)
        for name in frozen:
            getattr(layer, name).requires_grad = False
        found = []
        for fuse in (True, False):
            layer.zero_grad()
            x.grad = None
            with gg.config.override(fuse=fuse):
                nn.sigmoid(layer(x)).sum().backward()
            found.append([host(p.grad) for p in (x, *layer.parameters())])
        assert len(found[0]) == 3 - len(frozen)
        for fused, plain in zip(*found, strict=True):
            np.testing.assert_allclose(fused, plain, 1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.sampled_from(sorted(nn.ACTIVATIONS)),
    st.integers(0, 6),
    st.booleans(),
)
def test_mlps_of_any_sizes(sizes: list[int], activation: str, n: int, by_function: bool) -> None:
    layer = nn.ACTIVATIONS[activation]()
    chosen: Any = layer if by_function else activation
    model = nn.MLP(sizes, chosen, generator=Generator(0), dtype=gg.float64)
    assert len(list(model.parameters())) == 2 * (len(sizes) - 1)
    x = normal(n, sizes[0])
    want = x
    weights = list(snapshot(model).values())
    for i, (w, b) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        if i:
            name = "sigmoid" if activation == "logistic" else activation
            want = FUNCTIONS[name][2](want)
        want = want @ w.T + b
    np.testing.assert_allclose(host(model(x)), want, 1e-11, 1e-13)


def test_mlp_takes_a_name_a_function_a_module_or_its_class() -> None:
    models = [
        nn.MLP([2, 3, 1], a, generator=Generator(0)) for a in ("relu", nn.relu, nn.ReLU(), nn.ReLU)
    ]
    x = gg.asarray(normal(4, 2, dtype="f4"))
    for model in models:
        assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        np.testing.assert_array_equal(host(model(x)), host(models[0](x)))


def test_mlp_of_bad_arguments_raises() -> None:
    with pytest.raises(ShapeError, match="MLP"):
        nn.MLP([3])
    with pytest.raises(ShapeError, match="Linear"):
        nn.MLP([3, 0, 1])
    with pytest.raises(DtypeError, match=r"MLP.*relu"):
        nn.MLP([2, 2, 1], "rellu")
    with pytest.raises(DtypeError, match="Dropout"):
        nn.MLP([2, 2, 1], dropout=1.0)


def test_backward_of_a_model_twice_raises() -> None:
    model = nn.MLP([2, 2, 1])
    loss = nn.mse(model(gg.ones((3, 2))), gg.zeros((3, 1)))
    loss.backward()
    with pytest.raises(GradientError, match="retain_graph"):
        loss.backward()
