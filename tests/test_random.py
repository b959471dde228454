"""Random numbers: NumPy's Philox bit for bit, formulas against exact integers, state to the bit."""

import copy
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpugrad as gg
from gpugrad.errors import BoundsError, DtypeError, GpugradError, ShapeError
from gpugrad.random import Generator

SIZES = [None, 0, 1, 2, 3, 4, 5, 7, 8, 1001, (3, 5), (2, 0, 3), (1, 1), ()]


def philox(seed: int, *stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=stream)))


def host(x: gg.Tensor) -> Any:
    return x.to("cpu").numpy()


def same_bits(x: gg.Tensor, want: Any) -> None:
    want = np.asarray(want)
    got = host(x)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert got.tobytes() == want.tobytes()


# The stream


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_uniforms_are_numpys(size: Any, dtype: Any, device: str) -> None:
    ours, theirs = Generator(5, device), philox(5)
    for _ in range(3):
        want = np.asarray(theirs.random(size, dtype), dtype)  # a lone float32 comes as a float
        same_bits(ours.uniform(size=size, dtype=dtype), want)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32, 2**64 - 1, 2**128 + 3, np.int64(7)])
def test_any_seed_is_numpys(seed: int) -> None:
    want = np.random.Generator(np.random.Philox(int(seed))).random(9)
    same_bits(Generator(seed).uniform(size=9, dtype=gg.float64), want)


DRAWS = st.lists(
    st.tuples(st.sampled_from(["f4", "f8", "raw", "coin"]), st.integers(0, 9)), max_size=12
)


def draw(generator: Generator, kind: str, n: int) -> Any:
    if kind == "raw":
        return host(generator.integers(2**32, size=n))
    if kind == "coin":
        return host(generator.bernoulli(0.3, n))
    return host(generator.uniform(size=n, dtype=kind))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**70), DRAWS)
def test_mixed_calls_walk_numpys_stream(seed: int, draws: list[tuple[str, int]]) -> None:
    """Half a word left over from an odd number of float32 waits for the next float32."""
    ours, theirs = Generator(seed), np.random.Generator(np.random.Philox(seed))
    for kind, n in draws:
        if kind == "raw":
            want = theirs.bit_generator.random_raw(n) >> np.uint64(32)
        elif kind == "coin":
            want = theirs.random(n, np.float32) < 0.3
        else:
            want = theirs.random(n, np.dtype(kind))
        np.testing.assert_array_equal(draw(ours, kind, n), want)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**70), DRAWS, DRAWS)
def test_state_goes_on_where_it_stood(
    seed: int, before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    first = Generator(seed)
    for kind, n in before:
        draw(first, kind, n)
    state = json.loads(json.dumps(first.state))
    second = Generator(0)
    second.state = state
    assert second.state == state
    for kind, n in after:
        np.testing.assert_array_equal(draw(second, kind, n), draw(first, kind, n))
    assert second.state == first.state


@pytest.mark.parametrize("odd", [1, 3, 5, 8])
def test_state_after_odd_float32_draws(odd: int) -> None:
    generator = Generator(3)
    generator.uniform(size=odd)
    state = generator.state
    assert len(state) == 12
    assert all(type(word) is int and 0 <= word < 2**64 for word in state)
    want = [host(generator.uniform(size=4)), host(generator.normal(size=3))]
    generator.state = state
    for values in want:
        name = "uniform" if len(values) == 4 else "normal"
        np.testing.assert_array_equal(host(getattr(generator, name)(size=len(values))), values)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copies_go_their_own_way(again: Any) -> None:
    generator = Generator(3, "cpu", stream=2)
    generator.uniform(size=5)
    twin = again(generator)
    want = host(generator.uniform(size=5))
    np.testing.assert_array_equal(host(twin.uniform(size=5)), want)
    assert twin.device == "cpu"


def test_streams_are_numpys_and_independent() -> None:
    n = 20_000
    streams = [Generator(9)] + [Generator(9, stream=k) for k in range(4)]
    values = np.stack([host(g.uniform(size=n, dtype=gg.float64)) for g in streams])
    np.testing.assert_array_equal(values[0], philox(9).random(n))
    np.testing.assert_array_equal(values[3], philox(9, 2).random(n))
    correlation = np.corrcoef(values) - np.eye(len(streams))
    assert np.abs(correlation).max() < 5 / math.sqrt(n)
    assert len(np.intersect1d(values[1], values[2])) == 0


# Uniforms


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_uniform_scales_the_unit_interval(dtype: str) -> None:
    unit = host(Generator(0).uniform(size=1000, dtype=dtype)).astype("f8")
    got = host(Generator(0).uniform(-3.0, 5.0, 1000, dtype))
    np.testing.assert_allclose(got, unit * 8 - 3, 1e-6, 1e-6)
    assert got.dtype == dtype


def test_uniform_leaves_out_its_upper_end() -> None:
    """In float32 (1 − 2⁻²⁴)·1 + 1 rounds to 2, which is not in [1, 2)."""
    generator = Generator(0)
    for _ in range(4):
        values = host(generator.uniform(1.0, 2.0, 1 << 22))
        assert values.min() >= 1.0
        assert values.max() < 2.0
    assert (host(generator.uniform(1e8, 1e8 + 8, 1000)) < np.float32(1e8 + 8)).all()


@settings(max_examples=100, deadline=None)
@given(
    st.floats(-1e30, 1e30),
    st.floats(0, 1e30),
    st.sampled_from(["f4", "f8"]),
)
def test_uniform_stays_inside(low: float, span: float, dtype: str) -> None:
    high = low + span
    values = host(Generator(1).uniform(low, high, 64, dtype))
    low, high = np.array([low, high], dtype)
    assert (values >= low).all()
    assert (values < high).all() or low == high


@pytest.mark.parametrize("p", [0.0, 1.0, 0.5, 0.1, 1e-3, 0.999])
def test_bernoulli_frequency(p: float, device: str) -> None:
    n = 200_000
    values = Generator(4, device).bernoulli(p, n)
    assert values.dtype == bool
    count = int(host(values).sum())
    assert abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p))


# Normals


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n", [200_000, 200_001])
def test_normal_moments_and_distribution(dtype: str, n: int, device: str) -> None:
    z = host(Generator(2, device).normal(size=n, dtype=dtype)).astype("f8")
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((z**power).mean() - moment) < 5 * math.sqrt(variance / n), power
    # Kolmogorov and Smirnov: 1.95/√n is exceeded once in a thousand times.
    cdf = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in np.sort(z)[::20]])
    place = np.arange(n)[::20] / n
    assert np.abs(cdf - place).max() < 1.95 / math.sqrt(n) + 1 / n
    assert abs((z[: n // 2] * z[n // 2 : n // 2 * 2]).mean()) < 5 / math.sqrt(n // 2)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 9, 10])
def test_normal_is_box_muller(n: int) -> None:
    u1, u2 = philox(6).random((2, (n + 1) // 2))
    radius = [math.sqrt(-2 * math.log1p(-u)) for u in u1]
    z = [r * math.cos(2 * math.pi * u) for r, u in zip(radius, u2, strict=True)]
    z += [r * math.sin(2 * math.pi * u) for r, u in zip(radius, u2, strict=True)]
    got = host(Generator(6).normal(size=n, dtype=gg.float64))
    np.testing.assert_allclose(got, z[:n], 1e-12, 1e-15)
    scaled = host(Generator(6).normal(10.0, 0.5, n, gg.float64))
    np.testing.assert_allclose(scaled, 10 + 0.5 * got, 1e-14)
    np.testing.assert_allclose(host(Generator(6).normal(size=n)), got, 1e-6)


def test_normal_of_scale_zero_is_its_centre() -> None:
    assert Generator(0).normal(3.0, 0.0, 4).tolist() == [3.0] * 4


# Integers


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**40), 2**40), st.integers(1, 2**32), st.integers(0, 2**64), st.booleans())
def test_integers_follow_their_formula(low: int, span: int, seed: int, endpoint: bool) -> None:
    raw = np.random.Philox(seed).random_raw(50)
    want = [low + int(u) * span // 2**64 for u in raw]  # exact: Python's integers have no end
    high = low + span - endpoint
    got = Generator(seed).integers(low, high, 50, endpoint=endpoint)
    assert got.dtype == np.int64
    assert got.tolist() == want


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_integers_reach_both_ends_of_their_dtype(dtype: str) -> None:
    limits = np.iinfo(dtype)
    for low in (int(limits.min), int(limits.max) - 2):
        values = Generator(0).integers(low, low + 2, 100, dtype, endpoint=True)
        assert values.dtype == dtype
        assert sorted(set(values.tolist())) == [low, low + 1, low + 2]
    with pytest.raises(BoundsError, match="integers"):
        Generator(0).integers(int(limits.max), int(limits.max) + 2, 3, dtype)
    with pytest.raises(BoundsError, match="integers"):
        Generator(0).integers(int(limits.min) - 1, int(limits.min) + 1, 3, dtype)


def test_integers_of_one_bound_start_at_zero() -> None:
    generator = Generator(0)
    assert set(generator.integers(3, size=100).tolist()) == {0, 1, 2}
    assert set(generator.integers(3, size=100, endpoint=True).tolist()) == {0, 1, 2, 3}
    assert generator.integers(1, size=5).tolist() == [0] * 5
    assert generator.integers(-5, -4).item() == -5
    assert host(generator.integers(2**32, size=100)).max() > 2**31


@pytest.mark.parametrize("span", [2, 3, 7, 10, 100, 1000])
def test_integers_are_unbiased(span: int, device: str) -> None:
    n = 100_000
    counts = np.bincount(host(Generator(11, device).integers(span, size=n)), minlength=span)
    chi2 = ((counts - n / span) ** 2 / (n / span)).sum()
    freedom = span - 1
    assert len(counts) == span
    # Wilson and Hilferty: the cube root of chi²/f is nearly normal.
    z = (math.cbrt(chi2 / freedom) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert abs(z) < 3.5


# Permutations


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(0, 2**32))
def test_permutation_of_a_number(n: int, seed: int) -> None:
    order = Generator(seed).permutation(n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(host(order), np.argsort(np.random.Philox(seed).random_raw(n)))


@pytest.mark.parametrize("shape", [(7,), (7, 2), (1, 3), (0, 2)])
def test_permutation_of_rows_keeps_rows_whole(shape: tuple[int, ...], device: str) -> None:
    rows = np.arange(math.prod(shape)).reshape(shape)
    order = host(Generator(3, device).permutation(len(rows)))
    for x in (rows, gg.asarray(rows, device=device)):
        np.testing.assert_array_equal(host(Generator(3, device).permutation(x)), rows[order])


def test_every_permutation_is_equally_likely() -> None:
    generator = Generator(0)
    n = 6000
    seen = [tuple(generator.permutation(3).tolist()) for _ in range(n)]
    counts = np.array([seen.count(p) for p in set(seen)])
    assert len(counts) == 6
    assert ((counts - n / 6) ** 2 / (n / 6)).sum() < 20.5  # chi², 5 degrees: once in a thousand


def test_permutation_is_on_the_tape() -> None:
    x = gg.asarray(np.arange(4.0), requires_grad=True)
    shuffled = Generator(0).permutation(x)
    (shuffled * gg.asarray(np.arange(4.0))).sum().backward()
    assert x.grad is not None
    assert x.grad.numpy()[shuffled.detach().numpy().astype(int)].tolist() == [0, 1, 2, 3]


# Sizes and errors


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["uniform", "normal", "integers", "bernoulli"])
def test_every_size(name: str, size: Any, device: str) -> None:
    generator = Generator(0, device)
    made = getattr(generator, name)(
        *{"integers": (5,), "bernoulli": (0.5,)}.get(name, ()), size=size
    )
    assert made.shape == np.empty(() if size is None else size).shape
    assert made.device == device
    assert not made.requires_grad


def test_zero_values_use_up_nothing() -> None:
    generator = Generator(0)
    before = generator.state
    for name in ("uniform", "normal"):
        getattr(generator, name)(size=0)
    generator.integers(5, size=(2, 0))
    generator.permutation(0)
    assert generator.state == before


BAD = {
    "seed": lambda g: Generator(-1),
    "seed float": lambda g: Generator(1.0),  # type: ignore[arg-type]
    "seed bool": lambda g: Generator(True),
    "seed None": lambda g: Generator(None),  # type: ignore[arg-type]
    "stream": lambda g: Generator(0, stream=-1),
    "stream float": lambda g: Generator(0, stream=1.5),  # type: ignore[arg-type]
    "float16": lambda g: g.uniform(dtype=gg.float16),
    "normal int": lambda g: g.normal(dtype=gg.int64),
    "complex": lambda g: g.normal(dtype=gg.complex64),
    "scale": lambda g: g.normal(0.0, -1.0),
    "scale NaN": lambda g: g.normal(0.0, math.nan),
    "reversed": lambda g: g.uniform(2.0, 1.0),
    "unbounded": lambda g: g.uniform(0.0, math.inf),
    "NaN": lambda g: g.uniform(math.nan, 1.0),
    "beyond float32 at both ends": lambda g: g.uniform(1e39, 2e39),
    "beyond float32": lambda g: g.uniform(-3e38, 3e38),
    "size": lambda g: g.uniform(size=-1),
    "size of normals": lambda g: g.normal(size=(-2, -3)),
    "size of normals -1": lambda g: g.normal(size=-1),
    "size of integers": lambda g: g.integers(3, size=(2, -1)),
    "size float": lambda g: g.bernoulli(0.5, 2.5),
    "size of floats": lambda g: g.uniform(size=(2.0, 3)),
    "probability": lambda g: g.bernoulli(1.5),
    "probability < 0": lambda g: g.bernoulli(-0.1),
    "probability NaN": lambda g: g.bernoulli(math.nan),
    "no integers": lambda g: g.integers(0),
    "none between": lambda g: g.integers(3, 3),
    "integers reversed": lambda g: g.integers(3, 1),
    "too many": lambda g: g.integers(0, 2**32 + 1),
    "float bounds": lambda g: g.integers(0.5, 3.7),
    "float integers": lambda g: g.integers(3, dtype=gg.float32),
    "bool integers": lambda g: g.integers(2, dtype=bool),
    "permutation": lambda g: g.permutation(-1),
    "permutation 0-d": lambda g: g.permutation(gg.asarray(3)),
    "state short": lambda g: setattr(g, "state", [0] * 11),
    "state negative": lambda g: setattr(g, "state", [-1] + [0] * 11),
    "state float": lambda g: setattr(g, "state", [0.5] + [0] * 11),
    "state large": lambda g: setattr(g, "state", [2**64] + [0] * 11),
    "state position": lambda g: setattr(g, "state", [0] * 10 + [5, 0]),
    "state flag": lambda g: setattr(g, "state", [0] * 10 + [2 << 32, 0]),
    "state half word": lambda g: setattr(g, "state", [0] * 11 + [1 << 32]),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_arguments_raise_and_change_nothing(bad: Any) -> None:
    generator = Generator(0)
    generator.uniform(size=3)
    before = generator.state
    with pytest.raises((DtypeError, ShapeError)) as caught:
        bad(generator)
    assert isinstance(caught.value, GpugradError)
    assert generator.state == before


def test_what_a_kernel_takes_over() -> None:
    """The state before is what it needs, and the stream goes on as if it had been drawn here."""
    choose = np.random.default_rng(0)
    for seed in range(200):
        ours, other = gg.random.Generator(seed), gg.random.Generator(seed)
        for _ in range(choose.integers(1, 8)):
            n, dtype = int(choose.integers(0, 12)), (np.float32, np.float64)[choose.integers(2)]
            want = other.uniform(size=n, dtype=dtype).numpy()
            kernel = gg.random.Generator(0)
            kernel.state = [int(word) for word in ours.take(n, dtype)]
            np.testing.assert_array_equal(kernel.uniform(size=n, dtype=dtype).numpy(), want)
        for dtype in (np.float32, np.float64):
            want = other.uniform(size=5, dtype=dtype).numpy()
            np.testing.assert_array_equal(ours.uniform(size=5, dtype=dtype).numpy(), want)
