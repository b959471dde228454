"""Batches made by a thread: the same ones, in order, and nothing left behind."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import traceback

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.data import Dataset, batches, prefetch
from gpugrad.errors import DataError


def data(n=50):
    rng = np.random.default_rng(0)
    return Dataset(rng.standard_normal((n, 6)), rng.integers(0, 3, n), classes=("a", "b", "c"))


def threads():
    """Those of `prefetch` that have not ended; one that is ending may take a moment."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        running = [t for t in threading.enumerate() if t.name == "prefetch"]
        if not running:
            break
        time.sleep(0.01)
    return running


def host(x):
    return x.detach().to("cpu").numpy()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_same_bits_in_the_same_order(device, depth):
    plain = list(batches(data(), 7, seed=3, epoch=1))
    ahead = list(prefetch(batches(data(), 7, seed=3, epoch=1), depth=depth))
    assert len(ahead) == len(plain)
    for ours, theirs in zip(ahead, plain, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert isinstance(a, gg.Tensor)
            assert a.device == device
            assert a.dtype == b.dtype
            assert np.array_equal(host(a), b)


def test_structure_and_every_kind_of_array(device):
    batch = {
        "x": [np.float64(2.5), np.zeros((0, 3), np.int8)],
        "m": (np.array([True, False]), None),
    }
    (found,) = prefetch([batch])
    assert found["m"][1] is None
    for a, b in ((found["x"][0], 2.5), (found["x"][1], np.zeros((0, 3))), (found["m"][0], [1, 0])):
        assert a.device == device
        assert np.array_equal(host(a), b)
    assert [found["x"][1].dtype, found["m"][0].dtype] == [np.int8, np.bool_]


def test_a_compiled_training_takes_them(device):
    def train(source):
        model = gg.nn.MLP([6, 8, 3], generator=gg.random.Generator(0))
        optimizer = gg.optim.Adam(model, lr=0.1)

        @gg.compile
        def step(x, y):
            optimizer.zero_grad()
            loss = gg.nn.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        losses = []
        for epoch in range(3):
            for x, y in source(batches(data(), 9, seed=0, epoch=epoch)):
                losses.append(step(gg.asarray(x, device=device), gg.asarray(y, device=device)))
        return [loss.item() for loss in losses]

    assert train(prefetch) == train(lambda made: made)


def test_arrays_that_are_filled_again_are_no_matter(device):
    def refilled():
        x = np.empty(4)
        for i in range(20):
            x[...] = i
            yield x

    assert [host(x)[0] for x in prefetch(refilled(), depth=3)] == list(range(20))


def test_batches_kept_are_not_overwritten(device):
    kept = list(prefetch(np.full((3, 5), i) for i in range(9)))
    assert [host(x).tolist() for x in kept] == [np.full((3, 5), i).tolist() for i in range(9)]


def test_no_further_ahead_than_asked():
    made = []

    def source():
        for i in range(50):
            made.append(i)
            yield np.array(i)

    loop = prefetch(source(), depth=3)
    assert not made  # nothing before the first is asked for
    for used in range(1, 6):
        next(loop)
        time.sleep(0.02)
        assert len(made) <= used + 3
    loop.close()
    assert not threads()


def broken():
    yield np.array(1)
    yield np.array(2)
    raise ZeroDivisionError("of the maker")


def test_an_error_comes_where_its_batch_would_have_come():
    seen = []
    with pytest.raises(ZeroDivisionError, match="of the maker") as caught:
        seen.extend(int(x) for x in prefetch(broken()))
    assert "in broken" in "".join(traceback.format_exception(caught.value))
    assert not threads()


def test_what_is_no_array_is_said_to_who_consumes():
    with pytest.raises(gg.errors.DtypeError):
        list(prefetch([object()]))
    with pytest.raises(TypeError, match="not iterable"):
        list(prefetch(7))
    with pytest.raises(DataError, match="depth is at least 1; got 0"):
        prefetch([], depth=0)
    assert list(prefetch([])) == []


@pytest.mark.parametrize("how", ["break", "close", "forget", "error"])
def test_leaving_early_ends_the_thread(how):
    closed = []

    def endless():
        try:
            while True:
                yield np.zeros(3)
        finally:
            closed.append(True)

    loop = prefetch(endless())
    next(loop)
    assert [t.name for t in threading.enumerate()].count("prefetch") == 1
    if how == "close":
        loop.close()
    elif how == "error":
        with pytest.raises(RuntimeError):
            loop.throw(RuntimeError())
    elif how == "break":
        for _ in loop:
            break
    del loop
    gc.collect()
    assert not threads()
    assert closed == [True]


@pytest.mark.skipif(sys.platform == "win32", reason="a signal to one thread")
def test_ctrl_c_while_the_next_batch_hangs():
    hang = threading.Event()

    def stuck():
        yield np.zeros(1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        hang.wait(30)

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(prefetch(stuck()))
    assert time.monotonic() - start < 10
    hang.set()
    assert not threads()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_is_told():
    code = """
import os
import numpy as np
from gpugrad.data import prefetch
loop = prefetch(np.zeros(1) for _ in range(100))
next(loop)
if os.fork() == 0:
    try:
        list(loop)
    except Exception as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
print(len(list(loop)))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    said, left = run.stdout.splitlines()
    assert "[prefetch] its thread stayed in the process that forked" in said
    assert left == "99"


def test_the_next_is_made_while_one_is_used():
    begun = [threading.Event() for _ in range(6)]

    def source():
        for event in begun:
            event.set()
            yield np.zeros(1)

    for i, _ in enumerate(prefetch(source(), depth=1)):
        assert begun[min(i + 1, 5)].wait(20)


def test_pinned_memory_is_not_filled_again_before_it_was_copied(device):
    if device == "cpu":
        pytest.skip("CUDA's")
    send = gg.backend.get(device).upload(1)
    arrivals = [send([np.full(4, i), np.full((2, 3), i, np.int8)]) for i in range(5)]
    for i, arrive in enumerate(arrivals):
        assert [host(gg.asarray(a)).max() for a in arrive()] == [i, i]


def test_copies_nobody_waited_for_end_before_their_memory_goes_back(cuda):
    send = gg.backend.get(cuda).upload(2)
    stream = send.__self__._stream
    for _ in range(3):
        send([np.ones(1000)])
    del send
    gc.collect()
    assert stream.done


def test_streams_of_each_threads_own_are_refused(
    cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUPY_CUDA_PER_THREAD_DEFAULT_STREAM", "1")
    with pytest.raises(gg.errors.DeviceError, match=r"\[prefetch\] .*unsetting it"):
        next(iter(prefetch(iter([(np.zeros(3, np.float32),)]), cuda)))
