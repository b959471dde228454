"""The training loop on both devices: one graph a step on a GPU, and nothing waited for."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import backend, nn, optim
from gpugrad.cli import building, checkpoint, tally
from gpugrad.cli import loop as loops
from gpugrad.cli.loop import Diverged, Loop
from gpugrad.data import Dataset
from gpugrad.data.dataset import epoch_order

CLASSES = ("a", "b", "c")


def dataset(n: int, classes: bool = True, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n) if classes else rng.standard_normal((n, 1))
    return Dataset(rng.standard_normal((n, 5)), y, CLASSES if classes else ())


def loop_of(device: str, train: Dataset, **how: Any) -> Loop:
    """A small one; ``how`` mixes what the model, the optimiser and Loop take."""
    layers = {name: how.pop(name) for name in ("norm", "dropout", "activation") if name in how}
    model = nn.MLP(
        [5, 6, 3 if train.classes else 1],
        **{"activation": "tanh", "generator": gg.random.Generator(0), "device": device} | layers,
    )
    optimizer = how.pop("optimizer", optim.Adam)(model, lr=how.pop("lr", 0.05))
    rates = how.pop("rates", None)
    scaler = optim.GradScaler(device=device) if how.pop("half", False) else None
    given = {"batch_size": 8, "epochs": 3, "seed": 1, "device": device, "scaler": scaler, **how}
    given["rates"] = None if rates is None else rates(optimizer)
    return Loop(model, optimizer, train, train, **given)


def weights(loop: Loop) -> list[np.ndarray]:
    return [x.to("cpu").numpy() for x in loop.model.state_dict().values()]


# Those with "numbers" have a mean squared error.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "numbers clipped": {"clip_norm": 0.5},
    "cosine": {"rates": lambda o: optim.CosineAnnealingLR(o, 9), "optimizer": optim.SGD},
    "numbers plateau": {"rates": optim.ReduceLROnPlateau, "optimizer": optim.SGD},
    "half clipped": {"half": True, "clip_norm": 0.5, "lr": 0.001},
    "dropout": {"dropout": 0.3, "optimizer": optim.AdamW},
    "numbers batch norm": {"norm": "batch", "optimizer": optim.SGD},
    "layer norm": {"norm": "layer", "activation": "relu", "optimizer": optim.SGD},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_is_one_graph_whatever_the_options(device: str, name: str) -> None:
    """And the history that of steps one op at a time; the last batch is smaller."""
    train = dataset(21, "numbers" not in name)
    histories = []
    for compiled in (False, True):
        valid = train if "plateau" in name else None
        loop = loop_of(device, train, compiled=compiled, valid=valid, **OPTIONS[name])
        assert len(list(loop)) == 9
        histories.append(loop.position.history)
    tolerance = 2e-2 if "half" in name else 1e-4
    for one, other in zip(*histories, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)
    if device != "cpu":
        stats = loop.learn.stats()  # type: ignore[attr-defined]
        assert (stats["calls"], stats["recordings"]) == (0, 2)
        for recordings in loop.learn._known.values():  # type: ignore[attr-defined]
            assert [recording.stats()["graphs"] for recording in recordings] == [1]


def test_steps_are_not_waited_for(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an epoch the order goes there once, and numbers come back for 64 steps at a time."""
    place: Any = backend.get(cuda)
    seen: Counter[str] = Counter()

    def counted(owner: Any, name: str, what: str) -> None:
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if what != "sent" or not isinstance(args[-1], place.xp.ndarray):
                seen[what] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(place.xp, "asnumpy", "fetched")
    counted(place.xp, "asarray", "sent")
    counted(place.xp, "array", "sent")
    stream = type(place.xp.cuda.get_current_stream())
    for name in ("synchronize", "wait_event"):
        counted(stream, name, "waited")
    loop = loop_of(cuda, dataset(8 * 150), epochs=1)
    seen.clear()
    for position in loop:
        if position.batch == 3:  # by now the graph is there
            assert seen["sent"] == 1
            seen.clear()
        elif position.batch > 3:
            looks = position.batch // tally.STEPS
            assert (seen["sent"], seen["fetched"]) == (0, looks)
            assert seen["waited"] <= looks  # CuPy's own wait for what it fetches
    assert loop.samples == 1200


@pytest.mark.parametrize("fits", [True, False])
def test_position_is_exact_whenever_it_is_looked_at(
    device: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking changes nothing, nor does it whether the data lie on the device."""
    monkeypatch.setattr(loops, "_SHARE", 0.25 if fits else 0.0)
    train = dataset(61)
    plain = loop_of(device, train, batch_size=4, compiled=False)
    quiet, looked = (loop_of(device, train, batch_size=4) for _ in range(2))
    assert bool(quiet._there) == (fits and device != "cpu")
    for k, (a, b, _) in enumerate(zip(plain, looked, quiet, strict=True)):
        if k % 5 == 3:
            p = looked.position
            assert looked.at == (p.epoch, p.batch) == (b.epoch, b.batch)
            assert (p.correct, p.loss_sum) == (a.correct, pytest.approx(a.loss_sum, rel=1e-5))
    assert quiet.position == looked.position
    for one, other in zip(weights(quiet), weights(looked), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("at", [0, 70])
def test_the_batch_that_diverged_is_named(device: str, at: int, clip_norm: float | None) -> None:
    """Also where later ones have been made before anybody looked."""
    train = dataset(600, classes=False)
    x, y, row = train.x.copy(), train.y.copy(), epoch_order(600, 1, 0)[2 * at]
    x[row] = y[row] = 3e38
    bad = Dataset(x, y)
    loop = loop_of(device, bad, batch_size=2, activation="relu", clip_norm=clip_norm)
    with np.errstate(all="ignore"), pytest.raises(Diverged) as raised:
        list(loop)
    assert (raised.value.epoch, raised.value.batch) == (0, at)
    assert raised.value.what.startswith("the gradient" if clip_norm else "the loss is")


def test_resumed_runs_go_on_to_the_same_bits(device: str, tmp_path: Path) -> None:
    """In the middle of an epoch, between two looks at the device."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(50, 4)), y=rng.integers(0, 2, 50))
    given = {
        **{"data": str(tmp_path / "d.npz"), "hidden": (5,), "batch_size": 8, "epochs": 3},
        **{"device": device, "schedule": "cosine", "norm": "batch", "dropout": 0.2},
    }
    place = tmp_path / "run.safetensors"
    ends = []
    for stop in (None, 1, 8):
        run = building.build(building.Plan.of(given, None, None), None, place)
        for k, _ in enumerate(run.loop, 1):
            if k == stop:
                run.save()
                saved = checkpoint.read(place)
                plan = building.Plan.of({"device": device}, place, saved)
                run = building.build(plan, saved, place)
                list(run.loop)
                break
        ends.append((run.loop.position, weights(run.loop)))
    for position, arrays in ends[1:]:
        assert position == ends[0][0]
        for one, other in zip(arrays, ends[0][1], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_tally_goes_round(device: str) -> None:
    kept = tally.Tally(2, device)
    add = gg.compile(lambda a, b: kept.add(a, b))
    made = 0
    for count in (tally.STEPS, 3, 60, 1, 64):
        for k in range(made, made + count):
            add(gg.asarray(k / 2), gg.asarray(k))
        want = np.arange(made, made + count)
        np.testing.assert_array_equal(kept.fetch(count), np.stack([want / 2, want], axis=1))
        made += count
