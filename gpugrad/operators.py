"""Python's syntax on a Tensor. Each operator only names the op or function that does the work.

Imports late and errors only: the ops are declared in layers above.
"""

import sys
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gpugrad.errors import DtypeError, GradientError, ShapeError, message
from gpugrad.late import functions, ops

if TYPE_CHECKING:
    from gpugrad.tensor import Tensor


class Operators:
    """What Python syntax expects of an array."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, ...]: ...
        @property
        def dtype(self) -> Any: ...
        @property
        def ndim(self) -> int: ...
        def _assign(self, value: Tensor) -> Self: ...

    __hash__ = object.__hash__  # a handle is itself, whatever its value: usable as a dictionary key

    # ndarray + tensor comes here through __array_ufunc__, so it stays on the tape.

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return functions.array_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return functions.array_function(func, args, kwargs)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return functions.array_namespace(api_version)

    # Arithmetic

    def __add__(self, other: Any) -> "Tensor":
        return ops.add(self, other)

    def __radd__(self, other: Any) -> "Tensor":
        return ops.add(other, self)

    def __sub__(self, other: Any) -> "Tensor":
        return ops.subtract(self, other)

    def __rsub__(self, other: Any) -> "Tensor":
        return ops.subtract(other, self)

    def __mul__(self, other: Any) -> "Tensor":
        return ops.multiply(self, other)

    def __rmul__(self, other: Any) -> "Tensor":
        return ops.multiply(other, self)

    def __truediv__(self, other: Any) -> "Tensor":
        return ops.divide(self, other)

    def __rtruediv__(self, other: Any) -> "Tensor":
        return ops.divide(other, self)

    def __floordiv__(self, other: Any) -> "Tensor":
        return ops.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> "Tensor":
        return ops.floor_divide(other, self)

    def __mod__(self, other: Any) -> "Tensor":
        return ops.remainder(self, other)

    def __rmod__(self, other: Any) -> "Tensor":
        return ops.remainder(other, self)

    def __divmod__(self, other: Any) -> "tuple[Tensor, Tensor]":
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> "tuple[Tensor, Tensor]":
        return other // self, other % self

    def __pow__(self, other: Any) -> "Tensor":
        return ops.pow(self, other)

    def __rpow__(self, other: Any) -> "Tensor":
        return ops.pow(other, self)

    def __matmul__(self, other: Any) -> "Tensor":
        return functions.matmul(self, other)

    def __rmatmul__(self, other: Any) -> "Tensor":
        return functions.matmul(other, self)

    def __neg__(self) -> "Tensor":
        return ops.negative(self)

    def __pos__(self) -> "Tensor":
        return ops.positive(self)

    def __abs__(self) -> "Tensor":
        return ops.abs(self)

    # Bits and logic

    def __and__(self, other: Any) -> "Tensor":
        return ops.bitwise_and(self, other)

    def __rand__(self, other: Any) -> "Tensor":
        return ops.bitwise_and(other, self)

    def __or__(self, other: Any) -> "Tensor":
        return ops.bitwise_or(self, other)

    def __ror__(self, other: Any) -> "Tensor":
        return ops.bitwise_or(other, self)

    def __xor__(self, other: Any) -> "Tensor":
        return ops.bitwise_xor(self, other)

    def __rxor__(self, other: Any) -> "Tensor":
        return ops.bitwise_xor(other, self)

    def __lshift__(self, other: Any) -> "Tensor":
        return ops.bitwise_left_shift(self, other)

    def __rlshift__(self, other: Any) -> "Tensor":
        return ops.bitwise_left_shift(other, self)

    def __rshift__(self, other: Any) -> "Tensor":
        return ops.bitwise_right_shift(self, other)

    def __rrshift__(self, other: Any) -> "Tensor":
        return ops.bitwise_right_shift(other, self)

    def __invert__(self) -> "Tensor":
        return ops.bitwise_invert(self)

    # Comparison

    def __eq__(self, other: object) -> "Tensor":  # type: ignore[override]
        return ops.equal(self, other)

    def __ne__(self, other: object) -> "Tensor":  # type: ignore[override]
        return ops.not_equal(self, other)

    def __lt__(self, other: Any) -> "Tensor":
        return ops.less(self, other)

    def __le__(self, other: Any) -> "Tensor":
        return ops.less_equal(self, other)

    def __gt__(self, other: Any) -> "Tensor":
        return ops.greater(self, other)

    def __ge__(self, other: Any) -> "Tensor":
        return ops.greater_equal(self, other)

    # In place: the handle is pointed at a new value of the same shape and dtype

    def __iadd__(self, other: Any) -> Self:
        return self._become("+=", self + other)

    def __isub__(self, other: Any) -> Self:
        return self._become("-=", self - other)

    def __imul__(self, other: Any) -> Self:
        return self._become("*=", self * other)

    def __itruediv__(self, other: Any) -> Self:
        return self._become("/=", self / other)

    def __ifloordiv__(self, other: Any) -> Self:
        return self._become("//=", self // other)

    def __imod__(self, other: Any) -> Self:
        return self._become("%=", self % other)

    def __ipow__(self, other: Any) -> Self:
        return self._become("**=", self**other)

    def __imatmul__(self, other: Any) -> Self:
        return self._become("@=", self @ other)

    def __iand__(self, other: Any) -> Self:
        return self._become("&=", self & other)

    def __ior__(self, other: Any) -> Self:
        return self._become("|=", self | other)

    def __ixor__(self, other: Any) -> Self:
        return self._become("^=", self ^ other)

    def __ilshift__(self, other: Any) -> Self:
        return self._become("<<=", self << other)

    def __irshift__(self, other: Any) -> Self:
        return self._become(">>=", self >> other)

    def _become(self, symbol: str, value: "Tensor") -> Self:
        if not isinstance(value, Operators):
            got, hint = type(value).__name__, "x = x + y, or gg.asarray(y)"
            raise DtypeError(message(symbol, "a tensor becomes a tensor", got, hint))
        if value.shape != self.shape:
            rule = "an in-place result keeps its shape"
            got = f"{self.shape} becoming {value.shape}"
            raise ShapeError(message(symbol, rule, got, "x = x + y"))
        if value.dtype != self.dtype:
            if not np.can_cast(value.dtype, self.dtype, "same_kind"):
                got = f"{self.dtype} becoming {value.dtype}"
                hint = "x = x + y"
                rule = "an in-place result keeps its kind of dtype"
                raise DtypeError(message(symbol, rule, got, hint))
            value = functions.astype(value, self.dtype)
        return self._assign(value)

    # Indexing

    def __getitem__(self, index: Any) -> "Tensor":
        return functions.getitem(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        if sys.getrefcount(self) <= _TEMPORARY:
            rule = "x[i][j] = v writes to x[i], a value of its own that nothing holds: no effect"
            hint = "x[i, j] = v in one index, or y = x[i]; y[j] = v; x[i] = y"
            raise GradientError(message("setitem", rule, hint=hint))
        functions.setitem(self, index, value)

    def __len__(self) -> int:
        shape: tuple[int, ...] = self.shape
        if not shape:
            raise DtypeError(message("len", "a 0-d tensor has no length"))
        return shape[0]

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self))])

    def __contains__(self, value: Any) -> bool:
        return bool(functions.any(self == value))


class _Probe:
    """Counts its references as ``Tensor.__setitem__`` would."""

    count = 0

    def __setitem__(self, index: Any, value: Any) -> None:
        _Probe.count = sys.getrefcount(self)


def _references_of_a_temporary() -> int:
    """What getrefcount says inside ``__setitem__`` of a value no name holds; 0 if it cannot tell.

    From Python 3.14 on a local name may lend its reference, and then both counts are equal.
    """
    _Probe()[0] = None
    temporary = _Probe.count
    named = _Probe()
    named[0] = None
    return temporary if temporary < _Probe.count else 0


_TEMPORARY = _references_of_a_temporary()


def refuse_numpy(name: str) -> GradientError:
    """The error for a NumPy function that would take a tensor off the tape unnoticed."""
    hint = f"gg.{name}(x) if gpugrad has it, else x.detach().numpy() for a value without gradient"
    return GradientError(message(name, "NumPy cannot run this on a tensor", hint=hint))
