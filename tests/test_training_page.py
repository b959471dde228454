"""``report.html`` of ``gpugrad train``: what is on it, and that it is whole."""

import os
import re
import signal
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.cli import main, training_page
from gpugrad.cli.loop import Loop

pytest.importorskip("matplotlib")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 7},{'ab'[i % 2]},{'<yes>' if i % 3 else 'no'}" for i in range(60)]
    Path("two.csv").write_text("\n".join(["size,kind & more,buys", *rows]))
    Path("numbers.csv").write_text("\n".join(["x,y", *[f"{i},{i * 2.5}" for i in range(60)]]))
    return tmp_path


def words(page: str) -> str:
    return re.sub(r"<svg.*?</svg>|<[^>]+>", " ", page, flags=re.DOTALL)


def whole(page: str) -> None:
    """Plots are well-formed, nothing comes from elsewhere, no drawing names another's parts."""
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert drawings
    ids: list[str] = []
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        ids += set(re.findall(r'id="([^"]+)"', drawing))
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "<script" not in page


def test_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "two.csv", "--epochs", "3", "--hidden", "6,5"]) == 0
    assert capsys.readouterr().out.endswith("report         runs/two/report.html\n")
    page = (folder / "runs/two/report.html").read_text()
    whole(page)
    for title in ("Loss", "Accuracy", "Gradient flow", "Confusion", "Epochs", "Configuration"):
        assert f"<h2>{title}</h2>" in page
    text = words(page)
    assert "finished after 3 of 3 epochs; on rows it never saw: accuracy" in text
    assert "kind &amp; more: 2 categories, one column each" in text
    assert "MLP" in text
    assert "6, 5" in text
    assert not list((folder / "runs/two").glob("*.part"))


def test_numbers(folder: Path) -> None:
    assert main(["train", "--data", "numbers.csv", "--epochs", "2", "--out", "r.safetensors"]) == 0
    page = (folder / "r.html").read_text()
    whole(page)
    for title in ("Loss", "R²", "RMSE", "Gradient flow", "Predictions"):
        assert f"<h2>{title}</h2>" in page


def test_a_run_stopped_before_its_first_epoch(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is little to show; the page opens all the same."""
    step = Loop._step

    def stopping(self: Any, x: Any, y: Any) -> None:
        step(self, x, y)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Loop, "_step", stopping)
    assert main(["train", "--data", "two.csv", "--batch-size", "8"]) == 130
    page = (folder / "runs/two/report.html").read_text()
    assert "was interrupted after 0 of" in words(page)
    assert "<h2>Loss</h2>" not in page
    assert "<h2>This run</h2>" in page


def test_what_stands_in_the_way_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ["train", "--data", "two.csv", "--epochs", "1"]
    assert main([*quick, "--no-report"]) == 0
    assert "report" not in capsys.readouterr().out
    (folder / "runs/two/report.html.part").mkdir()
    assert main(quick) == 0
    assert "report.html cannot be written: Is a directory" in capsys.readouterr().out
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(quick) == 0
    assert 'plots need matplotlib; try pip install "gpugrad[train]"' in capsys.readouterr().out
    assert not (folder / "runs/two/report.html").exists()


def test_looking_at_gradients_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    data = gg.data.Dataset(rng.normal(size=(40, 3)), np.arange(40) % 2, ("no", "yes"))
    train, test = data.split(0.2)
    model = gg.nn.MLP([3, 4, 2], dropout=0.5, generator=gg.random.Generator(0))
    loop = Loop(model, gg.optim.Adam(model), train, test, batch_size=8, epochs=2, seed=0)
    before = {name: value.numpy(copy=True) for name, value in model.state_dict().items()}
    flow = training_page._flow(loop)
    assert flow is not None
    assert [layer.name for layer in flow.layers if layer.name != "model"]
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    for _ in loop:
        pass
