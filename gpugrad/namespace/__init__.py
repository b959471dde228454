"""The public functions on tensors: the array API's names, and NumPy's. Imports ops and tensor.

Here arguments are checked, defaults applied, and what is no Tensor lifted; the work is done by ops.
"""

from gpugrad.late import functions as _functions
from gpugrad.namespace import (
    array,
    constants,
    creation,
    elementwise,
    info,
    linalg,
    manipulation,
    numpy,
    protocols,
    searching,
)

_MODULES = (array, constants, creation, elementwise, info, linalg, manipulation, numpy, searching)

__all__ = [name for module in _MODULES for name in module.__all__]

for _module in _MODULES:
    for _name in _module.__all__:
        globals()[_name] = getattr(_module, _name)
        setattr(_functions, _name, globals()[_name])

_functions.getitem = array.getitem
_functions.setitem = array.setitem
_functions.array_function = protocols.array_function
_functions.array_ufunc = protocols.array_ufunc
_functions.array_namespace = info.array_namespace
