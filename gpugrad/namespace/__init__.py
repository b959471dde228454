"""The public functions on tensors: the array API's names, and NumPy's. Imports ops and tensor.

Here arguments are checked, defaults applied, and what is no Tensor lifted; the work is done by ops.
"""

from importlib import import_module
from typing import Any

from gpugrad.late import functions as _functions
from gpugrad.namespace import array, constants, creation, elementwise, manipulation, reductions
from gpugrad.namespace.numpy import ALIASES

_MODULES = (array, constants, creation, elementwise, manipulation, reductions)

# Imported when one of their names is first asked for: together they cost as much as the rest.
_ROOMS = {
    "info": "__array_namespace_info__ finfo iinfo",
    "linalg": "diagonal dot einsum inner kron outer tensordot trace vdot vecdot",
    "searching": (
        "argsort count_nonzero isin nonzero searchsorted sort unique_all unique_counts "
        "unique_inverse unique_values"
    ),
    "numpy.arranging": (
        "apply_along_axis apply_over_axes atleast_1d atleast_2d atleast_3d fliplr flipud pad "
        "ravel resize rollaxis rot90 swapaxes transpose"
    ),
    "numpy.calculus": (
        "convolve correlate cross cumprod cumsum ediff1d gradient interp nancumprod nancumsum "
        "trapezoid"
    ),
    "numpy.choosing": (
        "choose compress delete diag diagflat extract insert ix_ piecewise ravel_multi_index "
        "select trim_zeros unravel_index"
    ),
    "numpy.counting": (
        "allclose argwhere array_equal array_equiv bincount digitize flatnonzero histogram "
        "histogram2d histogram_bin_edges histogramdd isclose"
    ),
    "numpy.elementwise": (
        "angle around cbrt conjugate deg2rad degrees divmod exp2 fabs float_power fmax fmin "
        "frexp heaviside i0 iscomplex isneginf isposinf isreal logaddexp2 modf "
        "nan_to_num rad2deg radians real_if_close sinc spacing unwrap"
    ),
    "numpy.joining": (
        "append array_split block c_ column_stack concatenate dsplit dstack hsplit hstack r_ "
        "split vsplit vstack"
    ),
    "numpy.order": (
        "argpartition lexsort median nanmedian nanpercentile nanquantile partition percentile "
        "quantile sort_complex"
    ),
    "numpy.polynomials": (
        "poly polyadd polyder polydiv polyfit polyint polymul polysub polyval roots vander"
    ),
    "numpy.ranges": "geomspace identity logspace tri",
    "numpy.sets": "intersect1d setdiff1d setxor1d union1d unique",
    "numpy.statistics": (
        "amax amin average corrcoef cov nanargmax nanargmin nanmax nanmean nanmin nanprod "
        "nanstd nansum nanvar ptp"
    ),
    "numpy.writing": "copyto fill_diagonal place put put_along_axis putmask",
}
ON_DEMAND = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = [*ALIASES, *(name for module in _MODULES for name in module.__all__)]

for _module in _MODULES:
    for _name in _module.__all__:
        globals()[_name] = getattr(_module, _name)
for _alias, _name in ALIASES.items():
    globals()[_alias] = globals()[_name]
for _name in __all__:
    setattr(_functions, _name, globals()[_name])

_functions.getitem = array.getitem
_functions.setitem = array.setitem

# What the layers below ask for, by the rooms it is in.
_BELOW = {
    "array_function": "protocols",
    "array_namespace": "info",
    "array_ufunc": "protocols",
}


def __getattr__(name: str) -> Any:
    if name not in ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{ON_DEMAND[name]}"), name)
    globals()[name] = value
    return value


def _find(name: str) -> Any:
    if name in _BELOW:
        return getattr(import_module(f"{__name__}.{_BELOW[name]}"), name)
    return __getattr__(name)


_functions.find = _find
