"""What NumPy habits expect of an array: its methods, by the functions that do the work.

Imports late, errors and operators only: the functions are declared in layers above.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from gpugrad.errors import ShapeError, message, no_attribute
from gpugrad.late import functions, ops
from gpugrad.operators import Operators

if TYPE_CHECKING:
    from gpugrad.tensor import Tensor


class Methods(Operators):
    """The methods of Tensor that have functions of the same names."""

    __slots__ = ()

    if not TYPE_CHECKING:  # called for what is not there only

        def __getattr__(self, name: str) -> Any:
            if name[:2] == "__":  # NumPy asks for many that it can do without
                raise AttributeError(name)
            raise no_attribute("a Tensor", name)

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

    def reshape(self, *shape: Any, order: str = "C") -> "Tensor":
        """The same values in another shape; one size may be -1. See `gpugrad.reshape`."""
        if order != "C":
            return functions.array_function(np.reshape, (self, _unpacked(shape), order), {})
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

    def flatten(self, order: str = "C") -> "Tensor":
        """All values in one axis. See `gpugrad.ravel`."""
        return functions.ravel(self, order)

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

    def choose(self, choices: Any, *, mode: str = "raise") -> "Tensor":
        """See `gpugrad.choose`."""
        return functions.choose(self, choices, mode=mode)

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

    def argpartition(self, kth: Any, axis: int | None = -1) -> "Tensor":
        """See `gpugrad.argpartition`."""
        return functions.argpartition(self, kth, axis)

    def partition(self, kth: Any, axis: int = -1) -> None:
        """`gpugrad.partition` in place, as `sort`."""
        self._assign(functions.partition(self, kth, axis))

    def searchsorted(self, v: Any, side: str = "left", sorter: Any = None) -> "Tensor":
        """See `gpugrad.searchsorted`."""
        return functions.searchsorted(self, v, side=side, sorter=sorter)

    # Copies and parts

    def copy(self) -> "Tensor":
        """The same value in memory of its own, still on the tape."""
        return functions.asarray(self, copy=True)

    def put(self, indices: Any, values: Any, mode: str = "raise") -> None:
        """See `gpugrad.put`."""
        functions.put(self, indices, values, mode)

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

    def var(
        self,
        axis: Any = None,
        correction: float = 0.0,
        keepdims: bool = False,
        *,
        ddof: float | None = None,
    ) -> "Tensor":
        """See `gpugrad.var`; ``ddof`` is NumPy's name of ``correction``."""
        less = correction if ddof is None else ddof
        return functions.var(self, axis=axis, correction=less, keepdims=keepdims)

    def std(
        self,
        axis: Any = None,
        correction: float = 0.0,
        keepdims: bool = False,
        *,
        ddof: float | None = None,
    ) -> "Tensor":
        """See `gpugrad.std`; ``ddof`` is NumPy's name of ``correction``."""
        less = correction if ddof is None else ddof
        return functions.std(self, axis=axis, correction=less, keepdims=keepdims)

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


def _unpacked(args: tuple[Any, ...]) -> tuple[int, ...]:
    """``f(2, 3)`` and ``f((2, 3))`` mean the same."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
