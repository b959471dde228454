"""The optimisers. Their update rules are PyTorch's, step for step. Imports base and ops."""

from collections.abc import Iterable
from typing import Any, ClassVar

from gpugrad.errors import DtypeError, message
from gpugrad.late import ops
from gpugrad.nn.module import Module
from gpugrad.optim.base import Optimizer, at_least
from gpugrad.tensor import Tensor


class SGD(Optimizer):
    """Stochastic gradient descent.

    ``g ← g + weight_decay·p``; with momentum ``v ← momentum·v + g`` and ``g ← v``, or
    ``g + momentum·v`` with nesterov; then ``p ← p − lr·g``. Sutskever et al. 2013.

    >>> import gpugrad as gg
    >>> w = gg.asarray([1.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> gg.optim.SGD([w], lr=0.25).step()
    >>> w.tolist()
    [0.5]
    """

    def __init__(
        self,
        params: Module | Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        at_least("SGD", momentum=momentum, weight_decay=weight_decay)
        if nesterov and not momentum:
            raise DtypeError(message("SGD", "nesterov needs a momentum", "momentum=0", "0.9"))
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        if momentum:
            self._slots = ("momentum",)  # type: ignore[misc]
            self._numbers = ("lr", "momentum")  # type: ignore[misc]
        super().__init__(params, lr)

    def _update(self, p: Any, g: Any, state: list[Any], t: Any, numbers: Any, reuse: bool) -> Any:
        settings = {"weight_decay": self.weight_decay, "reuse": reuse}
        if not state:
            return ops.sgd(p, g, *numbers, **settings)
        return ops.sgd_momentum(p, g, *state, *numbers, nesterov=self.nesterov, **settings)


class Adam(Optimizer):
    """Adam: Kingma and Ba 2015, algorithm 1. ``weight_decay`` adds to the gradient (L2).

    >>> import gpugrad as gg
    >>> w = gg.asarray([1.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> gg.optim.Adam([w], lr=0.5).step()
    >>> round(w.item(), 5)
    0.5
    """

    _slots: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    _numbers: ClassVar[tuple[str, ...]] = ("lr", "beta1", "beta2", "eps")
    _decoupled = False

    def __init__(
        self,
        params: Module | Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise DtypeError(message(self._name, "betas are in 0..1, below 1", betas))
        at_least(self._name, eps=eps, weight_decay=weight_decay)
        self.betas = (float(betas[0]), float(betas[1]))
        self.eps, self.weight_decay = eps, weight_decay
        super().__init__(params, lr)

    @property
    def beta1(self) -> float:
        return self.betas[0]

    @property
    def beta2(self) -> float:
        return self.betas[1]

    def _update(self, p: Any, g: Any, state: list[Any], t: Any, numbers: Any, reuse: bool) -> Any:
        lr, *others = numbers
        return ops.adam(
            p,
            g,
            *state,
            lr,
            t,
            *others,
            weight_decay=self.weight_decay,
            decoupled=self._decoupled,
            reuse=reuse,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay, ``p ← p − lr·weight_decay·p``. Loshchilov, Hutter 2019."""

    _decoupled = True

    def __init__(
        self,
        params: Module | Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class RMSprop(Optimizer):
    """``v ← alpha·v + (1 − alpha)·g²``, ``p ← p − lr·g/(√v + eps)``. Hinton, lecture 6e, 2012."""

    _slots: ClassVar[tuple[str, ...]] = ("square_avg",)

    def __init__(
        self,
        params: Module | Iterable[Tensor],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        at_least("RMSprop", alpha=alpha, eps=eps, weight_decay=weight_decay)
        self.settings = {"alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, lr)

    def _update(self, p: Any, g: Any, state: list[Any], t: Any, numbers: Any, reuse: bool) -> Any:
        return ops.rmsprop(p, g, *state, *numbers, **self.settings, reuse=reuse)


class Adagrad(Optimizer):
    """``v ← v + g²``, ``p ← p − lr·g/(√v + eps)``. Duchi et al. 2011."""

    _slots: ClassVar[tuple[str, ...]] = ("sum",)

    def __init__(
        self,
        params: Module | Iterable[Tensor],
        lr: float = 1e-2,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ) -> None:
        at_least("Adagrad", eps=eps, weight_decay=weight_decay)
        self.settings = {"eps": eps, "weight_decay": weight_decay}
        super().__init__(params, lr)

    def _update(self, p: Any, g: Any, state: list[Any], t: Any, numbers: Any, reuse: bool) -> Any:
        return ops.adagrad(p, g, *state, *numbers, **self.settings, reuse=reuse)
