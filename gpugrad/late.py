"""Names that layers above fill in, so that methods of Tensor reach them without importing upwards.

``ops.<name>`` is a declared op (filled by each declaration), ``functions.<name>`` a public function
(filled by the namespace, the tape and the transforms).
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpugrad.tensor import Tensor

    class _Late:
        def __getattr__(self, name: str) -> Callable[..., Tensor]: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

else:
    _Late = SimpleNamespace

ops = _Late()
functions = _Late()
