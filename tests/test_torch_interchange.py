"""Weights from and to PyTorch: stand-ins for its tensors everywhere, itself where it is there."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import nn
from gpugrad.errors import CheckpointError, MissingDependency
from gpugrad.nn import from_torch, to_torch


class FakeTensor:
    """What `from_torch` uses of a torch tensor that is on a GPU and on the tape."""

    def __init__(self, array: Any, dtype: str = "torch.float32", steps: str = "") -> None:
        self.array, self.dtype, self.steps = np.asarray(array), dtype, steps
        self.shape = self.array.shape

    def detach(self) -> "FakeTensor":
        return FakeTensor(self.array, self.dtype, self.steps + "d")

    def cpu(self) -> "FakeTensor":
        return FakeTensor(self.array, self.dtype, self.steps + "c")

    def float(self) -> "FakeTensor":
        return FakeTensor(self.array, "torch.float32", self.steps)

    def numpy(self) -> Any:
        assert self.steps == "dc"
        assert self.dtype == "torch.float32"
        return self.array


def state_of(model: nn.Module, names: dict[str, str] | None = None, seed: int = 0) -> Any:
    """Random values of the model's shapes; layers called by ``names``."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, value in model.state_dict().items():
        layer, _, last = name.rpartition(".")
        state[f"{(names or {}).get(layer, layer)}.{last}"] = rng.uniform(0, 9, value.shape)
    return state


def values(model: nn.Module) -> list[Any]:
    return [value.numpy().tolist() for value in model.state_dict().values()]


def norms() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_equal_names_load_whatever_the_values_are_held_in() -> None:
    state = state_of(norms())
    assert set(state) > {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    expected = values(from_torch(norms(), state))
    assert np.allclose(expected[0], state["0.weight"])
    holders: list[Any] = [
        {k: FakeTensor(v) for k, v in state.items()},
        {k: FakeTensor(v, "torch.bfloat16") for k, v in state.items()},
        {k: gg.asarray(v) for k, v in state.items()},
        SimpleNamespace(state_dict=lambda: {k: FakeTensor(v) for k, v in state.items()}),
    ]
    for held in holders:
        model = norms()
        assert from_torch(model, held) is model
        assert values(model) == expected
        assert model.layers[0].weight.dtype == np.float32
        assert model.layers[1].num_batches_tracked.dtype == np.int64


def test_a_safetensors_file_of_others(tmp_path: Any) -> None:
    state = state_of(norms(), {"0": "fc1", "1": "bn", "2": "ln", "3": "fc2"})
    gg.io.save(tmp_path / "net.safetensors", state)
    assert values(from_torch(norms(), tmp_path / "net.safetensors")) == values(
        from_torch(norms(), state)
    )


def test_layers_are_found_by_what_they_hold_not_by_order() -> None:
    names = {"0": "first", "1": "batch", "2": "layer", "3": "out"}
    state = state_of(norms(), names)
    back = {new: old for old, new in names.items()}
    expected = norms().load_state_dict(
        {f"{back[k.partition('.')[0]]}.{k.partition('.')[2]}": v for k, v in state.items()}
    )
    turned = dict(reversed(state.items()))
    assert values(from_torch(norms(), turned)) == values(expected)


def test_equal_layers_go_by_the_numbers_in_their_names() -> None:
    model = nn.MLP([2] * 12)  # 0, 2, … 20, and fc1 … fc11: as text fc10 sorts before fc2
    names = {str(2 * i): f"net.fc{i + 1}" for i in range(11)}
    state = state_of(model, names)
    from_torch(model, dict(sorted(state.items())))
    for i in range(11):
        assert np.allclose(
            model.layers[2 * i].weight.detach().numpy(), state[f"net.fc{i + 1}.weight"]
        )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"0": "encoder", "2": "decoder"}, "cannot be told apart .* got decoder, encoder"),
        (
            {"0": "fc1", "2": "out"},
            "cannot be told apart by their names; got fc1, out; try renaming",
        ),
    ],
)
def test_a_choice_is_not_made(names: dict[str, str], said: str) -> None:
    model = nn.MLP([3, 3, 3])
    before = values(model)
    with pytest.raises(CheckpointError, match=said):
        from_torch(model, state_of(model, names))
    assert values(model) == before


def test_names_that_agree_leave_no_choice() -> None:
    class Two(nn.Module):
        def __init__(self, last: str) -> None:
            self.encoder, self.decoder = nn.Linear(2, 2), nn.Linear(2, 2)
            setattr(self, last, nn.Linear(2, 1))

    state = state_of(Two("head"))
    model = from_torch(Two("out"), state)
    assert np.allclose(model.decoder.weight.detach().numpy(), state["decoder.weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("0.weight"), r"layers, here those of bias \(4,\); got 0 for none"),
        (lambda s: s.update({"5.weight": np.zeros(7)}), r"weight \(7,\); got 5 for none"),
        (lambda s: s.update({"0.weight": np.zeros((4, 5))}), r"0.weight: shape \(4, 5\), here"),
        (lambda s: s.pop("1.num_batches_tracked"), r"running_mean \(4,\), .*got 1 for none"),
    ],
)
def test_what_does_not_fit_is_named(change: Any, said: str) -> None:
    model, state = norms(), state_of(norms())
    change(state)
    before = values(model)
    with pytest.raises(CheckpointError, match=said):
        from_torch(model, state)
    assert values(model) == before


def test_to_torch_needs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependency, match=r"\[to_torch\].*pip install torch"):
        to_torch(norms())


def test_to_torch_hands_over_writable_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(from_numpy=lambda a: a))
    model = norms()
    state = to_torch(model)
    assert list(state) == list(model.state_dict())
    assert state["1.num_batches_tracked"].shape == ()
    state["0.weight"][...] = 7
    assert model.layers[0].weight.detach().numpy().max() < 7
    named = to_torch(model, like=state_of(model, {"0": "a", "1": "b", "2": "c", "3": "d"}))
    assert np.array_equal(named["d.weight"], model.layers[3].weight.detach().numpy())
    with pytest.raises(CheckpointError, match=r"\[to_torch\] both sides must"):
        to_torch(model, like={"a.weight": np.zeros((2, 2))})


def test_both_nets_compute_the_same() -> None:
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(5, 3)
            self.fc1, self.fc2 = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
            self.bn, self.ln = torch.nn.BatchNorm1d(6), torch.nn.LayerNorm(6)
            self.out = torch.nn.Linear(6, 2, bias=False)

        def forward(self, x: Any, codes: Any) -> Any:
            h = torch.cat([x, self.table(codes)], 1)
            h = self.ln(torch.tanh(self.fc2(torch.relu(self.bn(self.fc1(h))))))
            return self.out(h)

    class Ours(nn.Module):
        def __init__(self) -> None:
            self.codes = nn.Embedding(5, 3)
            self.net = nn.Sequential(
                *(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU()),
                *(nn.Linear(6, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 2, bias=False)),
            )

        def forward(self, x: Any, codes: Any) -> Any:
            return self.net(gg.concat([x, self.codes(codes)], axis=1))

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    net, ours = Net(), Ours()
    x, codes = rng.standard_normal((9, 3)).astype(np.float32), rng.integers(0, 5, 9)
    inputs = torch.from_numpy(x), torch.from_numpy(codes)
    for _ in range(3):
        net(*inputs)  # moves the running statistics
    from_torch(ours, net).eval()
    net.eval()
    expected = net(*inputs).detach().numpy()
    np.testing.assert_allclose(ours(x, codes).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    back = Net()
    back.load_state_dict(to_torch(ours, like=back))
    assert all(torch.equal(a, net.state_dict()[k]) for k, a in back.state_dict().items())
    bf16 = from_torch(Ours(), {k: v.bfloat16() for k, v in net.state_dict().items()})
    np.testing.assert_allclose(bf16.eval()(x, codes).detach().numpy(), expected, 0.1, 0.1)
