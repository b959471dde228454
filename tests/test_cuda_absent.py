"""Machines on which CUDA cannot be used, or not for long: what is said, and how to mend it."""

import sys
import types
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import backend
from gpugrad.backend import cublas
from gpugrad.backend import cupy as ours
from gpugrad.cli import doctor


def no_gpu(driver: int) -> Any:
    """What CuPy shows of itself on a machine whose driver is of this version; 0 for none."""
    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: driver, runtimeGetVersion=lambda: 13020, getDeviceCount=lambda: 0
    )
    cuda = types.SimpleNamespace(is_available=lambda: False, runtime=runtime)
    return types.SimpleNamespace(__version__="14.2.0", cuda=cuda)


@pytest.mark.parametrize(
    ("cupy", "words"),
    [
        (None, ["cannot be imported", 'pip install "gpugrad[cuda13]"']),
        (no_gpu(0), ["no CUDA device can be used", "CuPy 14.2.0 is installed", "nvidia-smi"]),
        (no_gpu(12040), ["up to 12.4, CuPy needs 13.2", 'pip install "cupy-cuda12x[ctk]"']),
    ],
)
def test_no_device(cupy: Any, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(ours, "_backends", {})
    for use in (lambda: gg.ones(2, device="cuda"), lambda: gg.ones(2).to("cuda:0")):
        with pytest.raises(gg.errors.DeviceError) as caught:
            use()
        assert all(word in str(caught.value) for word in words)
    assert not backend.cuda_available()


def test_no_nvrtc() -> None:
    def absent(**options: Any) -> Any:
        raise RuntimeError('Failure finding "libnvrtc.so.13"')

    cupy = no_gpu(13020)
    cupy.RawModule = absent
    place = ours.CupyBackend(cupy, 0)
    with pytest.raises(gg.errors.DeviceError, match=r"pip install \"cupy-cuda13x\[ctk\]\""):
        place.kernel("text", "name")


def test_a_kernel_that_does_not_compile_says_its_own_words() -> None:
    def refused(**options: Any) -> Any:
        raise RuntimeError("error: expected a ;")

    cupy = no_gpu(13020)
    cupy.RawModule = refused
    with pytest.raises(RuntimeError, match="expected a ;"):
        ours.CupyBackend(cupy, 0).kernel("text", "name")


def test_no_cublas() -> None:
    with pytest.raises(gg.errors.DeviceError, match=r"pip install \"cupy-cuda7x\[ctk\]\""):
        cublas.load(7)


def test_several_cupys_overwrite_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["numpy", "cupy-cuda12x", "cupy-cuda13x"]
    installed = [types.SimpleNamespace(metadata={"Name": name}) for name in names]
    monkeypatch.setattr("importlib.metadata.distributions", lambda: installed)
    (finding,) = doctor._cuda("auto")()
    assert finding.state == "problem"
    assert finding.fix.startswith("pip uninstall cupy-cuda12x cupy-cuda13x")


def test_memory_stats(cuda: str) -> None:
    before = gg.memory_stats(cuda)
    held = gg.zeros(1 << 20, dtype=gg.float64)
    after = gg.memory_stats(cuda)
    assert list(after) == ["used", "kept", "free", "total"]
    assert 0 <= after["used"] <= after["total"]
    assert before["total"] == after["total"] >= after["free"] >= 0
    assert held.shape == (1 << 20,)


def test_out_of_memory(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the memory; and the tensors are as they were."""
    x = gg.asarray([1.0, 2.0], requires_grad=True)
    error: Exception = MemoryError("1,024 bytes")
    if device != "cpu":  # of what was asked for, and what is allocated so far
        error = backend.get(device).xp.cuda.memory.OutOfMemoryError(1024, 2048)

    def fails(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(gg.late.ops.exp, "forward", fails)
    with pytest.raises(MemoryError) as caught:
        gg.exp(x)
    if device != "cpu":
        assert isinstance(caught.value, gg.errors.DeviceMemoryError)
        for word in ("1,024 bytes", "free of", "CuPy's pool keeps", "free_all_blocks"):
            assert word in str(caught.value)
    np.testing.assert_array_equal(x.detach().to("cpu").numpy(), [1.0, 2.0])
