"""GPUGRAD_CHECK, and the counts of ops that show what each mode of differentiation costs."""

import os
import subprocess
import sys
from threading import Thread

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.errors import GradientError, NonFiniteError


@pytest.fixture
def checked():
    with gg.config.override(check=True):
        yield


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, which would come first
@pytest.mark.parametrize(
    ("f", "op", "what", "origin"),
    [
        (lambda x: gg.log(x - 1), "log", "Inf", "out of finite inputs"),
        (lambda x: gg.exp(x * 1000), "exp", "Inf", "out of finite inputs"),
        (lambda x: (x - 1) / (x - 1), "divide", "NaN", "out of finite inputs"),
        (lambda x: x * np.inf, "multiply", "Inf", "its inputs had it already"),
        (lambda x: gg.sqrt(x - 2), "sqrt", "NaN", "out of finite inputs"),
    ],
)
def test_stops_at_the_first_non_finite_value(f, op, what, origin, checked):
    x = gg.asarray(np.ones((2, 3)), requires_grad=True)
    with pytest.raises(NonFiniteError) as caught:
        gg.sum(f(x))
    text = str(caught.value)
    assert text.startswith(f"[{op}] the first {what} ")
    assert origin in text
    assert "(2, 3) float64" in text
    assert os.path.basename(__file__) + ":" in text  # the user's line, not ours


def test_names_the_very_line(checked):
    x = gg.ones(2)
    with pytest.raises(NonFiniteError) as caught, np.errstate(all="ignore"):
        gg.log(x - 1)
    line = caught.traceback[0].lineno + 1
    assert f"{__file__}:{line}" in str(caught.value)


def test_an_infinite_slope_is_no_error(checked):
    """Only the forward pass is looked at: ∂√x at 0 is infinite, and right."""
    assert gg.grad(gg.sqrt)(0.0) == np.inf


def test_finds_it_in_forward_mode_too(checked):
    with pytest.raises(NonFiniteError), np.errstate(all="ignore"):
        gg.jvp(lambda x: gg.log(x - 1), (1.0,), (1.0,))


def test_an_array_changed_between_forward_and_backward_raises(checked):
    a = np.array([1.0, 2.0])
    w = gg.asarray([3.0, 4.0], requires_grad=True)
    loss = gg.sum(w * gg.asarray(a))
    a[0] = 100
    with pytest.raises(GradientError, match=r"array changed .*multiply.*test_check.py:"):
        loss.backward()
    assert w.grad is None


def test_the_same_array_unchanged_is_fine(checked):
    a = np.array([1.0, 2.0])
    w = gg.asarray([3.0, 4.0], requires_grad=True)
    gg.sum(w * gg.asarray(a)).backward()
    a[0] = 100
    assert w.grad.tolist() == [1, 2]


def test_second_backward_names_the_forward_line(checked):
    x = gg.asarray([1.0], requires_grad=True)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(GradientError, match=r"test_check.py:\d+"):
        y.backward()


def test_gradients_are_the_same_when_checked():
    def run():
        model = gg.nn.MLP([4, 5, 3], generator=gg.random.Generator(0))
        x = gg.asarray(np.linspace(-1, 1, 24, dtype="f4").reshape(6, 4))
        gg.nn.cross_entropy(model(x), np.arange(6) % 3).backward()
        return [p.grad.tolist() for p in model.parameters()]

    plain = run()
    with gg.config.override(check=True):
        assert run() == plain


def test_is_on_in_one_thread_only(checked):
    values = []

    def other():
        with np.errstate(all="ignore"):
            values.append(gg.log(gg.zeros(1)).item())

    thread = Thread(target=other)
    thread.start()
    thread.join()
    assert values == [-np.inf]


def test_is_off_again_after_the_block():
    with gg.config.override(check=True):
        pass
    with np.errstate(all="ignore"):
        assert gg.log(gg.zeros(1)).item() == -np.inf


def test_environment_variable():
    code = "import gpugrad as gg, numpy as np; np.seterr(all='ignore'); gg.log(gg.zeros(1))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GPUGRAD_CHECK": "1"},
        capture_output=True,
        text=True,
    )
    assert "NonFiniteError: [log] the first Inf of the forward pass" in run.stderr


# Counts


def test_counts_include_the_backward_pass():
    counts = gg.testing.count_ops(gg.grad(lambda x: gg.sin(x) * 2), 1.0)
    assert counts["sin"] == 1
    assert counts["cos"] == 1
    assert counts["multiply"] >= 2


def test_counting_ends_with_the_call():
    def fail(x):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        gg.testing.count_ops(fail, 1.0)
    x = gg.asarray([1.0], requires_grad=True)
    with gg.config.override(fuse=True):
        (x * 2).sum().backward()
    assert x.grad.tolist() == [2.0]


def test_forward_mode_costs_an_input_and_reverse_an_output():
    """The subject's lesson, with counts: f: Rⁿ → R and f: R → Rⁿ are each other's mirror image."""
    n = 40
    many_in = gg.testing.cost_report(lambda x: gg.sum(gg.tanh(x) * x), np.linspace(0.1, 1, n))
    assert (many_in.inputs, many_in.outputs) == (n, 1)
    assert many_in.reverse_pass < 6 * many_in.value
    assert many_in.jacobian_forward > n * many_in.value
    assert many_in.jacobian_reverse < many_in.jacobian_forward / 5

    spread = gg.asarray(np.linspace(0.1, 1, n))
    many_out = gg.testing.cost_report(lambda t: gg.tanh(t * spread), np.array(0.5))
    assert (many_out.inputs, many_out.outputs) == (1, n)
    assert many_out.jacobian_forward < many_out.jacobian_reverse / 5
    assert "a pass an input" in str(many_out)
