"""Operators and methods of Tensor. Each one only names the op or the function that does the work.

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
    """What Python syntax and NumPy habits expect of an array."""

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

    # Shape

    @property
    def T(self) -> "Tensor":
        """Transpose of a matrix; `mT` transposes the last two axes of a stack of them."""
        ndim = self.ndim
        if ndim != 2:
            raise ShapeError(message("T", "only a matrix has a transpose", f"{ndim} axes", "x.mT"))
        return ops.permute_dims(self, axes=(1, 0))

    @property
    def mT(self) -> "Tensor":
        """Transpose of the last two axes."""
        return functions.matrix_transpose(self)

    def reshape(self, *shape: Any) -> "Tensor":
        """The same values in another shape; one size may be -1. See `gpugrad.reshape`."""
        return functions.reshape(self, _unpacked(shape))

    def transpose(self, *axes: Any) -> "Tensor":
        """Axes in another order, reversed by default, as NumPy's."""
        order = _unpacked(axes) or tuple(range(self.ndim))[::-1]
        return functions.permute_dims(self, order)

    def swapaxes(self, a: int, b: int) -> "Tensor":
        """Exchange two axes."""
        order = list(range(self.ndim))
        order[a], order[b] = order[b], order[a]
        return functions.permute_dims(self, tuple(order))

    def flatten(self) -> "Tensor":
        """All values in one axis, in C order."""
        return functions.reshape(self, (-1,))

    ravel = flatten

    def squeeze(self, axis: Any = None) -> "Tensor":
        """Drop axes of size 1: those named, or all."""
        if axis is None:
            shape: tuple[int, ...] = self.shape
            axis = tuple(i for i, d in enumerate(shape) if d == 1)
        return functions.squeeze(self, axis)

    def repeat(self, repeats: Any, axis: int | None = None) -> "Tensor":
        """See `gpugrad.repeat`."""
        return functions.repeat(self, repeats, axis=axis)

    # Some of the values

    def take(self, indices: Any, axis: int | None = None) -> "Tensor":
        """The places ``indices`` along ``axis``, of the flattened array by default."""
        return functions.array_function(np.take, (self, indices), {"axis": axis})

    def compress(self, condition: Any, axis: int | None = None) -> "Tensor":
        """See `gpugrad.compress`."""
        return functions.compress(condition, self, axis=axis)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> "Tensor":
        """See `gpugrad.diagonal`."""
        return functions.diagonal(self, offset, axis1, axis2)

    def nonzero(self) -> "tuple[Tensor, ...]":
        """See `gpugrad.nonzero`."""
        found: Any = functions.nonzero(self)
        return found  # type: ignore[no-any-return]

    # Order

    def argsort(self, axis: int | None = -1) -> "Tensor":
        """See `gpugrad.argsort`."""
        return functions.array_function(np.argsort, (self, axis), {})

    def sort(self, axis: int = -1) -> None:
        """Sort in place along ``axis``: as any write, this points the tensor at a new value."""
        self._assign(functions.sort(self, axis=axis))

    def searchsorted(self, v: Any, side: str = "left", sorter: Any = None) -> "Tensor":
        """See `gpugrad.searchsorted`."""
        return functions.searchsorted(self, v, side=side, sorter=sorter)

    # Copies and parts

    def copy(self) -> "Tensor":
        """The same value in memory of its own, still on the tape."""
        return functions.asarray(self, copy=True)

    def fill(self, value: Any) -> None:
        """Set every place to ``value``."""
        functions.setitem(self, ..., value)

    def conj(self) -> "Tensor":
        """Complex conjugate; of real numbers, themselves."""
        return functions.conj(self)

    conjugate = conj

    @property
    def real(self) -> "Tensor":
        """Real part."""
        return functions.array_function(np.real, (self,), {})

    @property
    def imag(self) -> "Tensor":
        """Imaginary part; 0 of real numbers."""
        return functions.array_function(np.imag, (self,), {})

    def astype(self, dtype: Any, copy: bool = True) -> "Tensor":
        """The values in another dtype; the gradient of ``self`` keeps its own.

        Where it is the same dtype the result is a tensor of its own, or ``self`` without ``copy``.
        """
        return functions.astype(self, dtype, copy=copy)

    def to(self, device: str) -> "Tensor":
        """The value on ``device``; off the tape, and a copy only if it has to move."""
        return functions.to_device(self, device)

    def to_device(self, device: str, /, *, stream: Any = None) -> "Tensor":
        """The array API's spelling of `to`."""
        return functions.to_device(self, device)

    # Reductions

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> "Tensor":
        """See `gpugrad.sum`."""
        return functions.sum(self, axis=axis, dtype=dtype, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        """See `gpugrad.mean`."""
        return functions.mean(self, axis=axis, keepdims=keepdims)

    def prod(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> "Tensor":
        """See `gpugrad.prod`."""
        return functions.prod(self, axis=axis, dtype=dtype, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        """See `gpugrad.max`."""
        return functions.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        """See `gpugrad.min`."""
        return functions.min(self, axis=axis, keepdims=keepdims)

    def var(self, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> "Tensor":
        """See `gpugrad.var`."""
        return functions.var(self, axis=axis, correction=correction, keepdims=keepdims)

    def std(self, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> "Tensor":
        """See `gpugrad.std`."""
        return functions.std(self, axis=axis, correction=correction, keepdims=keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        """See `gpugrad.any`."""
        return functions.any(self, axis=axis, keepdims=keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> "Tensor":
        """See `gpugrad.all`."""
        return functions.all(self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> "Tensor":
        """See `gpugrad.argmax`."""
        return functions.argmax(self, axis=axis, keepdims=keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> "Tensor":
        """See `gpugrad.argmin`."""
        return functions.argmin(self, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: int | None = None, dtype: Any = None) -> "Tensor":
        """See `gpugrad.cumsum`."""
        return functions.cumsum(self, axis=axis, dtype=dtype)

    def cumprod(self, axis: int | None = None, dtype: Any = None) -> "Tensor":
        """See `gpugrad.cumprod`."""
        return functions.cumprod(self, axis=axis, dtype=dtype)

    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> "Tensor":
        """See `gpugrad.trace`."""
        return functions.trace(self, offset, axis1, axis2)

    def dot(self, b: Any) -> "Tensor":
        """See `gpugrad.dot`."""
        return functions.dot(self, b)

    def clip(self, min: Any = None, max: Any = None) -> "Tensor":
        """See `gpugrad.clip`."""
        return functions.clip(self, min, max)

    def round(self, decimals: int = 0) -> "Tensor":
        """See `gpugrad.around`."""
        return functions.around(self, decimals)


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


def _unpacked(args: tuple[Any, ...]) -> tuple[int, ...]:
    """``f(2, 3)`` and ``f((2, 3))`` mean the same."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else args


def refuse_numpy(name: str) -> GradientError:
    """The error for a NumPy function that would take a tensor off the tape unnoticed."""
    hint = f"gg.{name}(x) if gpugrad has it, else x.detach().numpy() for a value without gradient"
    return GradientError(message(name, "NumPy cannot run this on a tensor", hint=hint))
