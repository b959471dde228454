"""LayerNorm, BatchNorm1d and Embedding: PyTorch's numbers, names and running statistics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import nn
from gpugrad.errors import BoundsError, DtypeError, ShapeError

TORCH = dict(np.load(Path(__file__).parent / "data" / "torch_norms.npz"))
START = {k.removeprefix("start."): v for k, v in TORCH.items() if k.startswith("start.")}


class Net(nn.Module):
    """The generator's."""

    def __init__(self, dtype: Any = np.float64) -> None:
        self.table = nn.Embedding(4, 3, padding_idx=1, dtype=dtype)
        self.layers = nn.Sequential(
            nn.Linear(5, 6, dtype=dtype),
            nn.BatchNorm1d(6, dtype=dtype),
            nn.Tanh(),
            nn.LayerNorm(6, dtype=dtype),
            nn.Linear(6, 4, bias=False, dtype=dtype),
            nn.BatchNorm1d(4, eps=1e-3, momentum=None, dtype=dtype),
            nn.LayerNorm(4, elementwise_affine=False, dtype=dtype),
            nn.LayerNorm(4, bias=False, dtype=dtype),
            nn.BatchNorm1d(4, affine=False, track_running_stats=False, dtype=dtype),
        )

    def forward(self, x: Any, codes: Any) -> Any:
        return self.layers(gg.concat([x, self.table(codes)], axis=1))


def host(x: gg.Tensor) -> Any:
    return x.detach().to("cpu").numpy()


def trained(dtype: Any, compiled: bool) -> tuple[Net, list[Any]]:
    model = Net(dtype).load_state_dict(START)
    optimizer = gg.optim.SGD(model, lr=0.3)

    def step(x: Any, codes: Any, target: Any) -> Any:
        optimizer.zero_grad()
        y = model(x, codes)
        ((y - target) ** 2).mean().backward()
        optimizer.step()
        return y.detach()

    call = gg.compile(step) if compiled else step
    batch = [gg.asarray(TORCH[k].astype(dtype)) for k in ("x", "target")]
    codes = gg.asarray(TORCH["codes"])
    ys = [host(call(batch[0], codes, batch[1])) for _ in range(5)]
    if compiled:
        assert call.stats()["recordings"] == 1
    return model, ys


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 2e-3)])
def test_training_is_pytorchs(dtype: Any, tolerance: float, compiled: bool) -> None:
    """Values, gradients, running statistics and the names they are saved by."""
    model, ys = trained(dtype, compiled)
    for i, y in enumerate(ys):
        assert y.dtype == dtype
        np.testing.assert_allclose(y, TORCH[f"y.{i}"], tolerance, tolerance)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(host(value), TORCH[f"end.{name}"], tolerance, tolerance)
    for name, p in model.named_parameters():
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.numpy(), TORCH[f"grad.{name}"], tolerance, tolerance)
    assert list(model.state_dict()) == list(START)  # and in PyTorch's order
    x, codes = gg.asarray(TORCH["x"].astype(dtype)), gg.asarray(TORCH["codes"])
    before = host(model.layers[1].running_mean).copy()
    np.testing.assert_allclose(
        host(model.eval()(x, codes)), TORCH["eval"], 10 * tolerance, 10 * tolerance
    )
    np.testing.assert_array_equal(host(model.layers[1].running_mean), before)


def test_the_fixture_trained() -> None:
    assert str(TORCH["torch"]).startswith("2.13.")
    assert np.abs(TORCH["y.4"] - TORCH["y.0"]).max() > 0.1
    assert TORCH["end.layers.1.num_batches_tracked"] == 5


def test_switching_to_eval_records_anew_and_changes_no_statistics() -> None:
    layer = nn.BatchNorm1d(3)
    call = gg.compile(lambda x: layer(x).detach())
    x = gg.asarray(np.random.default_rng(0).standard_normal((8, 3)).astype("f4"))
    train = host(call(x))
    mean, count = host(layer.running_mean).copy(), layer.num_batches_tracked.item()
    layer.eval()
    evaluated = host(call(x))
    layer.train()
    np.testing.assert_array_equal(host(call(x)), train)
    assert (host(layer.running_mean) != mean).all()
    assert layer.num_batches_tracked.item() == count + 1
    assert not np.allclose(evaluated, train, atol=0.1)


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3), (1, 3)])
def test_layer_norm_of_any_rank(shape: tuple[int, ...], device: str) -> None:
    x = np.random.default_rng(1).standard_normal(shape)
    y = host(nn.LayerNorm(3, dtype=gg.float64, device=device)(gg.asarray(x)))
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, want, 1e-12)
    whole = host(nn.layer_norm(gg.asarray(x), shape))
    np.testing.assert_allclose(whole, (x - x.mean()) / np.sqrt(x.var() + 1e-5), 1e-12)
    gg.testing.gradcheck(lambda x, w, b: nn.layer_norm(x, 3, w, b), (x, np.ones(3), np.zeros(3)))


def test_batch_norm_of_sequences(device: str) -> None:
    x = np.random.default_rng(2).standard_normal((4, 3, 5))
    layer = nn.BatchNorm1d(3, dtype=gg.float64, device=device)
    y = host(layer(gg.asarray(x)))
    rows = x.transpose(0, 2, 1).reshape(-1, 3)
    want = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    np.testing.assert_allclose(y.transpose(0, 2, 1).reshape(-1, 3), want, 1e-12)
    np.testing.assert_allclose(host(layer.running_var), 0.9 + 0.1 * rows.var(0, ddof=1), 1e-12)
    gg.testing.gradcheck(lambda x: nn.batch_norm(x, training=True), (x,))


@pytest.mark.parametrize("scale", [1e-8, 1e4])
def test_norms_at_extremes_stay_finite(scale: float, device: str) -> None:
    x = gg.asarray((scale * np.arange(12).reshape(4, 3)).astype("f4"), requires_grad=True)
    for y in (nn.layer_norm(x, 3), nn.batch_norm(x, training=True)):
        x.grad = None
        (y * y * y).sum().backward()
        assert x.grad is not None
        assert np.isfinite(host(y)).all()
        assert np.isfinite(host(x.grad)).all()


def test_an_embedding_adds_the_gradients_of_a_repeated_row(device: str) -> None:
    table = nn.Embedding(4, 2, padding_idx=0)
    y = table([[1, 1], [0, 3]])
    assert y.shape == (2, 2, 2)
    assert host(y)[1, 0].tolist() == [0.0, 0.0]
    y.sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.tolist() == [[0, 0], [2, 2], [0, 0], [1, 1]]


@pytest.mark.parametrize("codes", [[4], [-1]])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_code_outside_the_table_raises(codes: list[int], compiled: bool) -> None:
    table = nn.Embedding(4, 2)
    look = gg.compile(lambda c: table(c).detach()) if compiled else table
    look(gg.asarray([0]))
    with pytest.raises(BoundsError, match="embedding"):
        look(gg.asarray(codes))


BAD = {
    "columns": (ShapeError, lambda: nn.BatchNorm1d(3)(gg.ones((4, 2)))),
    "one row": (ShapeError, lambda: nn.BatchNorm1d(3)(gg.ones((1, 3)))),
    "rank": (ShapeError, lambda: nn.BatchNorm1d(3)(gg.ones(3))),
    "integers": (DtypeError, lambda: nn.BatchNorm1d(3)(gg.ones((4, 3), dtype=gg.int64))),
    "no columns": (ShapeError, lambda: nn.BatchNorm1d(0)),
    "shape": (ShapeError, lambda: nn.LayerNorm(3)(gg.ones((4, 2)))),
    "0-d": (ShapeError, lambda: nn.layer_norm(gg.asarray(1.0), ())),
    "float codes": (DtypeError, lambda: nn.Embedding(3, 2)([0.5])),
    "no rows": (ShapeError, lambda: nn.Embedding(0, 2)),
    "padding": (ShapeError, lambda: nn.Embedding(3, 2, padding_idx=3)),
}


@pytest.mark.parametrize(("error", "bad"), BAD.values(), ids=BAD)
def test_bad_arguments_raise(error: Any, bad: Any) -> None:
    with pytest.raises(error):
        bad()
