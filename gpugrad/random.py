"""Random numbers that are the same bits on every device. Imports tensor and namespace functions.

The stream is `numpy.random.Philox` (Philox4x64-10; Salmon et al., SC'11): counter-based, so a GPU
can compute any part of it. Everything else is made from its bits by one formula.
"""

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpugrad import backend
from gpugrad.aval import Aval
from gpugrad.config import flags
from gpugrad.errors import BoundsError, DtypeError, ShapeError, message
from gpugrad.late import functions
from gpugrad.state import state
from gpugrad.tensor import Tensor

Size = int | tuple[int, ...] | None

# Draws in a traced step: they take nothing, change the generator, and are never left out.
_DRAW = SimpleNamespace(
    name="draw",
    kind="effect",
    rules=None,
    forward=lambda xp, *, draw, shape, dtype, device: draw(),
    aval=lambda *, draw, shape, dtype, device: Aval(shape, dtype),
)
_UNIFORM = SimpleNamespace(
    name="uniform",
    kind="effect",
    rules=None,
    forward=lambda xp, *, generator, shape, dtype, device: generator._drawn(shape, dtype, device),
    aval=lambda *, generator, shape, dtype, device: Aval(shape, dtype),
)


class Generator:
    """A stream of random numbers; the same seed gives the same bits on every device.

    ``Generator(seed).uniform(size=n, dtype=gg.float64)`` equals
    ``numpy.random.Generator(numpy.random.Philox(seed)).random(n)`` bit for bit, float32 likewise.

    Parameters
    ----------
    seed : any integer ≥ 0.
    device : where the tensors are made.
    stream : independent streams of one seed, by number (an epoch, say): NumPy's ``spawn_key``.

    Examples
    --------
    >>> import gpugrad as gg, numpy as np
    >>> ours = gg.random.Generator(0).uniform(size=3, dtype=gg.float64).numpy()
    >>> bool((ours == np.random.Generator(np.random.Philox(0)).random(3)).all())
    True
    """

    def __init__(self, seed: int, device: str | None = None, *, stream: int | None = None) -> None:
        for name, number in (("seed", seed), ("stream", 0 if stream is None else stream)):
            whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
            if not whole or number < 0:
                raise DtypeError(message("Generator", f"a {name} is an integer ≥ 0", repr(number)))
        key = () if stream is None else (int(stream),)
        self._bits = np.random.Generator(
            np.random.Philox(np.random.SeedSequence(int(seed), spawn_key=key))
        )
        self.device = device

    def _made(self, draw: Callable[[], Any], shape: tuple[int, ...], dtype: Any) -> Tensor:
        """What ``draw`` gives: now, or afresh at every run of a step that is being traced."""
        device = self.device or flags.device
        if state.trace is None:
            return functions.asarray(draw(), device=device)
        params = {"draw": draw, "shape": shape, "dtype": dtype, "device": device}
        drawn: Tensor = state.trace.record(_DRAW, (), params)
        return drawn

    def _unit(self, shape: tuple[int, ...], dtype: Any, device: str | None) -> Tensor:
        """Values in [0, 1), made where they will be."""
        device = device or self.device or flags.device
        if state.trace is None:
            return Tensor(self._drawn(shape, dtype, device))
        params = {"generator": self, "shape": shape, "dtype": dtype, "device": device}
        drawn: Tensor = state.trace.record(_UNIFORM, (), params)
        return drawn

    def _drawn(self, shape: tuple[int, ...], dtype: Any, device: str) -> Any:
        if device == "cpu":
            return np.asarray(self._bits.random(shape, dtype))
        n = int(np.prod(shape, dtype=np.int64))
        place: Any = backend.get(device)
        return place.uniform(self.take(n, dtype), shape, dtype)

    def take(self, n: int, dtype: Any) -> "np.ndarray[Any, Any]":
        """Leave the next ``n`` uniforms to a kernel: the state it needs. The stream goes on behind.

        What `state` is before, as twelve uint64.
        """
        before = np.array(self.state, np.uint64)
        state: Any = self._bits.bit_generator.state
        word = self._position(state)
        if dtype != np.float32:
            self._seek(state, word + n)
        elif n:  # half words, of which one may be left over
            halves = n - int(state["has_uint32"])
            state["has_uint32"] = 0
            self._seek(state, word + halves // 2)
            if halves % 2:
                self._bits.random(1, np.float32)  # keeps the other half itself
        return before

    @staticmethod
    def _position(state: Any) -> int:
        """How many words have been used: a counter is that of the block in the buffer."""
        counter = sum(int(word) << 64 * i for i, word in enumerate(state["state"]["counter"]))
        return 4 * (counter - 1) + int(state["buffer_pos"])

    def _seek(self, state: Any, word: int) -> None:
        """Go on from word ``word``, all else as in ``state``."""
        block = word // 4
        counter = [np.uint64(block >> 64 * i & (1 << 64) - 1) for i in range(4)]
        state["state"]["counter"] = np.array(counter)
        state["buffer_pos"] = 4
        self._bits.bit_generator.state = state
        if word % 4:
            self._bits.bit_generator.random_raw(word % 4)

    def uniform(
        self,
        low: float = 0.0,
        high: float = 1.0,
        size: Size = None,
        dtype: Any = np.float32,
        *,
        device: str | None = None,
    ) -> Tensor:
        """Values in ``[low, high)``: 53 random bits each for float64, 24 for float32.

        Made on ``device``, by default the generator's. Raises `ShapeError` unless ``low ≤ high``
        and both are finite.
        """
        dtype, shape = _floating("uniform", dtype), _shape(size)
        low, high, most = float(low), float(high), float(np.finfo(dtype).max)
        if not (0 <= high - low <= most and -most <= low and high <= most):
            hint = f"low ≤ high, both in ±{most:.3g} and no more than that apart"
            raise ShapeError(message("uniform", "an impossible range", f"{low}..{high}", hint))

        unit = self._unit(shape, dtype, device)
        if low == 0.0 and high == 1.0:
            return unit
        # The sum may round up to high itself, which the interval leaves out.
        last = float(np.nextafter(dtype.type(high), dtype.type(low)))
        values: Tensor = functions.minimum(unit * (high - low) + low, last)
        return values

    def normal(
        self, loc: float = 0.0, scale: float = 1.0, size: Size = None, dtype: Any = np.float32
    ) -> Tensor:
        """Normal deviates by Box and Muller (1958), in float64, from pairs of float64 uniforms.

        ``z = √(−2 ln(1 − u₁)) · (cos 2πu₂, sin 2πu₂)``: the first half of the values takes the
        cosines, the rest the sines.
        """
        dtype = _floating("normal", dtype)
        if not scale >= 0:
            raise DtypeError(message("normal", "scale is a number ≥ 0", scale))
        shape = _shape(size)
        n = int(np.prod(shape, dtype=np.int64))
        half = (n + 1) // 2

        def draw() -> Any:
            u1, u2 = self._bits.random((2, half))
            radius, angle = np.sqrt(-2 * np.log1p(-u1)), 2 * np.pi * u2
            z = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]
            return (loc + scale * z.reshape(shape)).astype(dtype)

        return self._made(draw, shape, dtype)

    def integers(
        self,
        low: int,
        high: int | None = None,
        size: Size = None,
        dtype: Any = np.int64,
        endpoint: bool = False,
    ) -> Tensor:
        """Integers in ``[low, high)``, or ``[0, low)``; one 64-bit draw each.

        ``low + ⌊u·(high − low) / 2⁶⁴⌋``: for a range r no value is likelier than another by more
        than r/2⁶⁴. Ranges up to 2³². Raises `BoundsError` where ``dtype`` cannot hold them.
        """
        if high is None:
            low, high = 0, low
        kind = np.dtype(dtype)
        if kind.kind not in "iu":
            raise DtypeError(message("integers", "dtype is one of the integers", kind))
        try:
            low, high = operator.index(low), operator.index(high) - (not endpoint)
        except TypeError:
            raise DtypeError(message("integers", "bounds are integers", (low, high))) from None
        span = high - low + 1
        if not 0 < span <= 1 << 32:
            hint = "low < high, at most 2**32 apart"
            raise ShapeError(message("integers", "an impossible range", f"{low}..{high}", hint))
        if low < np.iinfo(kind).min or high > np.iinfo(kind).max:
            got = f"{low}..{high} as {kind}"
            raise BoundsError(message("integers", "the dtype cannot hold the range", got))
        shape = _shape(size)

        def draw() -> Any:
            u = self._raw(shape)
            top, bottom = u >> np.uint64(32), u & np.uint64(0xFFFFFFFF)
            r = np.uint64(span)  # span = 2**32 still fits: top·span < 2**64
            scaled = (top * r + ((bottom * r) >> np.uint64(32))) >> np.uint64(32)
            with np.errstate(over="ignore"):  # modulo 2⁶⁴, which the cast undoes for a negative low
                return (scaled + np.uint64(low % (1 << 64))).astype(kind)

        return self._made(draw, shape, kind)

    def bernoulli(self, p: float, size: Size = None, *, device: str | None = None) -> Tensor:
        """True with probability ``p``: where a float32 uniform is below it."""
        if not 0.0 <= p <= 1.0:
            raise DtypeError(message("bernoulli", "a probability is in 0..1", p))
        return self._unit(_shape(size), np.dtype(np.float32), device) < float(p)

    def permutation(self, x: Any) -> Tensor:
        """``0..x-1`` in random order for an integer, else the rows of ``x`` in random order.

        The order sorts one 64-bit draw for each row, which a GPU can do as well.
        """
        if isinstance(x, (int, np.integer)):
            return self._order(int(x))
        rows = functions.asarray(x)
        if not rows.ndim:
            raise ShapeError(message("permutation", "a 0-d tensor has no rows", rows, "int(x)"))
        return rows[self._order(rows.shape[0])]

    def _order(self, n: int) -> Tensor:
        shape = _shape(n)
        order = np.dtype(np.intp)
        return self._made(lambda: np.argsort(self._raw(shape), kind="stable"), shape, order)

    def _raw(self, shape: tuple[int, ...]) -> Any:
        n = int(np.prod(shape, dtype=np.int64))
        return self._bits.bit_generator.random_raw(n).reshape(shape)

    # State, for checkpoints

    @property
    def state(self) -> list[int]:
        """The whole state as twelve unsigned 64-bit integers; assign it to go back."""
        state: Any = self._bits.bit_generator.state
        inner = state["state"]
        return [
            *map(int, inner["counter"]),
            *map(int, inner["key"]),
            *map(int, state["buffer"]),
            int(state["buffer_pos"]) | int(state["has_uint32"]) << 32,
            int(state["uinteger"]),
        ]

    @state.setter
    def state(self, words: list[int]) -> None:
        if len(words) != 12:
            raise ShapeError(message("Generator.state", "a state has 12 words", len(words)))
        limits = [1 << 64] * 10 + [2 << 32, 1 << 32]
        for word, limit in zip(words, limits, strict=True):
            if not isinstance(word, (int, np.integer)) or not 0 <= word < limit:
                raise DtypeError(message("Generator.state", "words are unsigned integers", word))
        position = int(words[10]) & 0xFFFFFFFF
        if position > 4:
            rule = "the buffer holds four words"
            raise ShapeError(message("Generator.state", rule, f"position {position}"))
        unsigned = [np.uint64(w) for w in words]
        self._bits.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": np.array(unsigned[:4]), "key": np.array(unsigned[4:6])},
            "buffer": np.array(unsigned[6:10]),
            "buffer_pos": position,
            "has_uint32": int(words[10]) >> 32,
            "uinteger": int(words[11]),
        }


def _shape(size: Size) -> tuple[int, ...]:
    if size is None:
        return ()
    try:
        shape = tuple(map(operator.index, size if isinstance(size, (tuple, list)) else (size,)))
    except TypeError:
        shape = (-1,)
    if min(shape, default=0) < 0:
        raise ShapeError(message("random", "a size is an integer ≥ 0 or several", repr(size)))
    return shape


def _floating(op: str, dtype: Any) -> Any:
    wanted = np.dtype(dtype)
    if wanted not in (np.float32, np.float64):
        raise DtypeError(message(op, "random floats are float32 or float64", wanted))
    return wanted
