"""``gpugrad doctor``: what it says here, and that nothing it meets can stop it."""

import json
from typing import Any

import pytest

import gpugrad as gg
from gpugrad.cli import doctor, gpu_checks, main


def findings(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json", *options])
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is (code == 0)
    return code, {f["name"]: f for f in report["findings"]}


def test_a_healthy_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = findings(capsys, "--device", "cpu")
    assert code == 0
    assert found["training on cpu"]["state"] == "ok"
    assert "compiled or not" in found["training on cpu"]["found"]
    assert found["gpugrad"]["found"].startswith(gg.__version__)


def test_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "[ ok ] NumPy" in out
    assert out.endswith("all well\n")


def test_a_missing_gpu_is_a_problem_only_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise gg.errors.DeviceError("[device] no CUDA device can be used; try nvidia-smi")

    monkeypatch.setattr("gpugrad.backend.get", lambda n, get=gg.asarray: absent(n))
    monkeypatch.setattr(doctor, "_cpu_step", list)
    code, found = findings(capsys)
    assert (code, found["CUDA"]["state"], found["CUDA"]["fix"]) == (0, "note", "nvidia-smi")
    code, found = findings(capsys, "--device", "cuda")
    assert (code, found["CUDA"]["state"]) == (1, "problem")


def test_a_failing_check_is_a_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[Any]:
        raise OSError("a library is gone")

    monkeypatch.setattr(doctor, "_blas", broken)
    code, found = findings(capsys, "--device", "cpu")
    assert code == 1
    assert found["broken"]["found"] == "OSError: a library is gone"
    assert found["broken"]["fix"]
    assert found["training on cpu"]["state"] == "ok"


def test_what_slows_or_switches_off_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    with gg.config.override(native=False):
        code, found = findings(capsys, "--device", "cpu")
    assert code == 0
    assert found["environment"]["fix"] == "unset OPENBLAS_CORETYPE"
    assert found["native core"]["fix"] == "unset GPUGRAD_NATIVE"


def test_a_gpu_is_put_through_its_paces(
    device: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":
        pytest.skip("a GPU's checks")
    if "stand-in" in gg.backend.get(device).xp.__version__:  # an emulator's speed means nothing
        for name in ("rates", "latencies", "step_times"):
            monkeypatch.setattr(gpu_checks, name, lambda place: "not measured")
    code, found = findings(capsys, "--gpu", "--device", device)
    assert [f for f in found.values() if f["state"] == "problem"] == []
    assert code == 0
    assert found["training"]["found"].startswith("8 steps with 5 activations, captured in one")
    assert "refused: [cross_entropy]" in found["bad labels"]["found"]
