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

    class _Late(SimpleNamespace):
        def __getattr__(self, name: str) -> Any:
            """What is not there yet is looked for by ``find``, and kept."""
            find = self.__dict__.get("find")
            if find is None:
                raise AttributeError(name)
            setattr(self, name, find(name))
            return self.__dict__[name]


ops = _Late()
functions = _Late()
