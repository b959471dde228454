"""scikit-learn and SciPy on tensors, our derivatives in SciPy's solvers: no adapter anywhere."""

import json
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

import gpugrad as gg

pytest.importorskip("sklearn", minversion="1.7")  # older ones want more installed, run less
pytest.importorskip("scipy", minversion="1.15")

import consumers
from scipy import integrate, optimize

# Array API dispatch, by the table of calls


@cache
def outcomes():
    """Of every call, in a Python where SciPy's array API support is switched on."""
    settings = {"SCIPY_ARRAY_API": "1", "GPUGRAD_DEVICE": "cpu"}
    run = subprocess.run(
        [sys.executable, consumers.__file__],
        env=os.environ | settings | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert not run.returncode, run.stderr
    return json.loads(run.stdout)


def older():
    """The consumers that are older than the table."""
    return [
        f"{name} {installed}"
        for name, installed in consumers.INSTALLED.items()
        if _release(installed) < _release(consumers.WRITTEN_FOR[name])
    ]


def _release(version):
    return tuple(map(int, version.split(".")[:2]))


def outcome_of(name, what):
    outcome = outcomes()[name]
    if "absent" in outcome:
        pytest.skip(f"not in these versions: {outcome['absent']}")
    return outcome[what]


def demand(holds, wrong):
    if not holds and older():
        pytest.skip(f"not yet in {older()}: {wrong.splitlines()[0][:100]}")
    assert holds, wrong


@pytest.mark.parametrize("name", consumers.CALLS)
def test_call(name):
    """The value NumPy arrays give, and tensors wherever those give arrays."""
    wrong = outcome_of(name, "value")
    if name not in consumers.REFUSED:
        demand(not wrong, wrong)
        return
    demand(wrong, "it runs now: take it off REFUSED")
    pytest.xfail(consumers.REFUSED[name])


@pytest.mark.parametrize("name", sorted(consumers.CALLS.keys() - consumers.REFUSED.keys()))
def test_gradient_through_a_call(name):
    """Right, or an error: a consumer that leaves the tape on its way never goes unnoticed."""
    wrong = outcome_of(name, "slope")
    if name in consumers.DIFFERENTIATES:
        demand(not wrong, wrong)
    elif name not in consumers.ROUGH:
        demand(not wrong.startswith("AssertionError"), wrong)


def test_lists_name_calls():
    for names in (consumers.REFUSED, consumers.DIFFERENTIATES, consumers.ROUGH):
        assert set(names) <= consumers.CALLS.keys()


# SciPy's solvers, on functions written with NumPy alone

rng = np.random.default_rng(3)
START = np.array([-1.2, 1.0, 0.8, 1.3])


def rosenbrock(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


POINTS = rng.normal(size=(60, 3))
SIDES = np.where(POINTS @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=60) > 0, 1.0, -1.0)


def logistic(w):
    return np.mean(np.logaddexp(0, -SIDES * (POINTS @ w))) + 0.05 * np.dot(w, w)


def hessp(f):
    return lambda x, p: gg.hvp(f, x, p)


SECOND = {
    "Newton-CG": {"hessp": hessp},
    "dogleg": {"hess": gg.hessian},
    "trust-exact": {"hess": gg.hessian},
    "trust-krylov": {"hessp": hessp},
    "trust-ncg": {"hess": gg.hessian},
}


@pytest.mark.parametrize("method", ["BFGS", "CG", "L-BFGS-B", "SLSQP", "TNC", *SECOND])
def test_minimize(method):
    for f, start in ((rosenbrock, START), (logistic, np.zeros(3))):
        if method == "dogleg" and f is rosenbrock:
            start = np.full(4, 1.05)  # it wants a positive definite Hessian all the way
        second = {key: of(f) for key, of in SECOND.get(method, {}).items()}
        found = optimize.minimize(gg.value_and_grad(f), start, jac=True, method=method, **second)
        assert found.success, found.message
        np.testing.assert_allclose(gg.grad(f)(found.x), 0, atol=2e-3)
        reference = optimize.minimize(f, start, method="BFGS").fun  # by differences
        assert found.fun <= reference + 1e-6
        assert type(found.x) is np.ndarray


def test_minimize_under_a_constraint():
    circle = lambda x: np.sum(x**2)  # noqa: E731
    limit = optimize.NonlinearConstraint(circle, 0, 1, jac=gg.grad(circle), hess=_curvature(circle))
    found = optimize.minimize(
        gg.value_and_grad(rosenbrock),
        np.zeros(2),
        jac=True,
        hess=gg.hessian(rosenbrock),
        method="trust-constr",
        constraints=limit,
    )
    np.testing.assert_allclose(found.x, [0.786415, 0.617698], atol=1e-4)


def _curvature(f):
    return lambda x, v: v[0] * gg.hessian(f)(x)


def lines(x):
    """Where a circle meets an exponential."""
    return np.stack([x[0] ** 2 + x[1] ** 2 - 4, np.exp(x[0]) + x[1] - 1])


@pytest.mark.parametrize("method", ["hybr", "lm"])
def test_root(method):
    found = optimize.root(lines, np.array([1.0, -1.0]), jac=gg.jacobian(lines), method=method)
    assert found.success
    np.testing.assert_allclose(lines(found.x), 0, atol=1e-9)
    assert optimize.fsolve(lines, [1.0, -1.0], fprime=gg.jacobian(lines)) == pytest.approx(found.x)


@pytest.mark.parametrize("method", ["newton", "halley"])
def test_root_scalar(method):
    f = lambda x: np.exp(x) - 3 * x  # noqa: E731
    found = optimize.root_scalar(
        f, x0=0.1, fprime=gg.grad(f), fprime2=gg.grad(gg.grad(f)), method=method
    )
    assert found.converged
    assert abs(f(found.root)) < 1e-12


@pytest.mark.parametrize("method", ["dogbox", "lm", "trf"])
def test_least_squares(method):
    times = np.linspace(0, 3, 30)
    truth = np.array([2.0, 0.7, 0.3])

    def model(p, t):
        return p[0] * np.exp(-p[1] * t) + p[2]

    def residuals(p):
        return model(p, times) - model(truth, times)

    found = optimize.least_squares(residuals, np.ones(3), jac=gg.jacobian(residuals), method=method)
    np.testing.assert_allclose(found.x, truth, atol=1e-6)


@pytest.mark.parametrize("method", ["BDF", "LSODA", "Radau"])
def test_stiff_equations(method):
    """Robertson's reaction; its three amounts stay 1 in sum."""
    if method == "LSODA" and older():
        pytest.skip("this LSODA looks into the code of jac for its arguments; a lambda t, y helps")

    def rates(t, y):
        slow, fast, square = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
        return np.stack([fast - slow, slow - fast - square, square])

    found = integrate.solve_ivp(
        rates,
        (0, 40),
        np.array([1.0, 0, 0]),
        jac=gg.jacobian(rates, argnums=1),
        method=method,
        rtol=1e-6,
        atol=1e-9,
    )
    assert found.success
    np.testing.assert_allclose(found.y[:, -1], [0.7158271, 9.185535e-6, 0.2841637], rtol=1e-4)


def test_check_grad():
    assert optimize.check_grad(rosenbrock, gg.grad(rosenbrock), START) < 1e-4
