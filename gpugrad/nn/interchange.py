"""Weights to and from PyTorch: state dicts, renamed where only the names differ.

Imports module and io; torch only inside `to_torch`.
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from gpugrad import io
from gpugrad.errors import CheckpointError, MissingDependency, message
from gpugrad.nn.module import Module
from gpugrad.tensor import Tensor

M = TypeVar("M", bound=Module)
Layers = dict[frozenset[tuple[str, Any]], list[str]]


def from_torch(model: M, state: Any) -> M:
    """Load the weights of a PyTorch net into ``model``, of the same layers, and return it.

    ``state`` is a torch module, its ``state_dict()``, a mapping of names to arrays, or the path of
    a ``.safetensors`` file. Linear weights are (out, in) on both sides; running statistics of batch
    norms count. Values are copied, cast to the dtypes and moved to the devices of ``model``.

    Names that differ are matched by what the layers hold: a layer goes with the one layer whose
    tensors have the same last names (``weight``, ``bias``, …) and shapes. Several alike go by the
    numbers in their names (``fc1``, ``fc2`` with ``0``, ``2``); the order in ``state`` is never
    used. Activations, ``eps`` and the like are no weights: they are yours to keep equal.

    Raises CheckpointError, and changes nothing, for tensors that are missing, unknown or of another
    shape, and where names and shapes leave a choice.

    >>> import gpugrad as gg
    >>> net = {"fc1.weight": np.eye(2), "fc1.bias": np.ones(2),
    ...        "out.weight": np.ones((1, 2)), "out.bias": np.zeros(1)}
    >>> model = from_torch(gg.nn.MLP([2, 2, 1], "relu"), net)
    >>> model([[1.0, 2.0]]).tolist()
    [[5.0]]
    """
    if isinstance(state, (str, os.PathLike)):
        state = io.load_arrays(state)
    elif hasattr(state, "state_dict"):
        state = state.state_dict()
    arrays = {name: _host(value) for name, value in state.items()}
    names = _partners("from_torch", _shapes(arrays), _shapes(model.state_dict()))
    return model.load_state_dict({names[name]: value for name, value in arrays.items()})


def to_torch(model: Module, like: Any = None) -> dict[str, Any]:
    """The weights of ``model`` as a PyTorch state dict: copies, as torch tensors on the CPU.

    Names are those of ``model.state_dict()``, which for a `Sequential` are PyTorch's; with
    ``like``, a torch module of the same layers or its state dict, they are the names there, matched
    as by `from_torch`.

    Raises CheckpointError for a ``like`` of other layers, MissingDependency without torch.

    >>> import gpugrad as gg
    >>> state = to_torch(gg.nn.MLP([2, 3, 1]))
    >>> {name: tuple(value.shape) for name, value in state.items()}
    {'0.weight': (3, 2), '0.bias': (3,), '2.weight': (1, 3), '2.bias': (1,)}
    """
    try:
        import torch
    except ImportError as cause:
        rule = "tensors of PyTorch are made by PyTorch"
        hint = "pip install torch, or gg.io.save, which PyTorch users read with safetensors"
        raise MissingDependency(message("to_torch", rule, cause, hint)) from cause
    state = model.state_dict()
    names = {name: name for name in state}
    if like is not None:
        wanted = like.state_dict() if hasattr(like, "state_dict") else like
        names = _partners("to_torch", _shapes(state), _shapes(wanted))
    arrays = {name: value.to("cpu").numpy(copy=True) for name, value in state.items()}
    return {names[name]: torch.from_numpy(array) for name, array in arrays.items()}


def _host(value: Any) -> Any:
    """A NumPy array of what a Tensor, a torch tensor or an array holds."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu").numpy()
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        # NumPy has no bfloat16; float32 holds all of its values.
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    return np.asarray(value)


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _partners(
    op: str, given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """For each name in ``given`` the one in ``wanted`` that means the same tensor."""
    if given.keys() == wanted.keys():
        return {name: name for name in given}
    from_layers, to_layers = _layers(given), _layers(wanted)
    for kind in from_layers | to_layers:
        there, here = from_layers.get(kind, []), to_layers.get(kind, [])
        if len(there) != len(here):
            holds = ", ".join(f"{name} {shape}" for name, shape in sorted(kind))
            rule = f"both sides must have the same layers, here those of {holds}"
            got = f"{', '.join(there) or 'none'} for {', '.join(here) or 'none'}"
            raise CheckpointError(message(op, rule, got))
    found = {}
    for kind, there in from_layers.items():
        here = to_layers[kind]
        if len(there) > 1 and set(there) != set(here):
            there, here = (_by_number(op, layers) for layers in (there, here))
        else:
            there, here = sorted(there), sorted(here)
        for old, new in zip(there, here, strict=True):
            for last, _ in kind:
                found[_joined(old, last)] = _joined(new, last)
    return found


def _layers(shapes: Mapping[str, tuple[int, ...]]) -> Layers:
    """Names of layers by what they hold: the last part of each tensor's name, and its shape."""
    held: dict[str, set[tuple[str, Any]]] = defaultdict(set)
    for name, shape in shapes.items():
        layer, _, last = name.rpartition(".")
        held[layer].add((last, shape))
    found: Layers = defaultdict(list)
    for layer, tensors in held.items():
        found[frozenset(tensors)].append(layer)
    return dict(found)


def _by_number(op: str, layers: list[str]) -> list[str]:
    """Layers that hold the same, in the order of the numbers in otherwise equal names."""
    if len({re.sub(r"\d+", "#", layer) for layer in layers}) > 1:
        rule = "layers of the same shapes cannot be told apart by their names"
        hint = "renaming: {new[name]: value for name, value in state.items()}"
        raise CheckpointError(message(op, rule, ", ".join(sorted(layers)), hint))
    return sorted(layers, key=lambda layer: [int(n) for n in re.findall(r"\d+", layer)])


def _joined(layer: str, last: str) -> str:
    return f"{layer}.{last}" if layer else last
