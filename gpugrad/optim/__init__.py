"""Optimisers, schedules, clipping and loss scaling: PyTorch's names, and its numbers."""

from gpugrad.optim.base import Optimizer
from gpugrad.optim.clip import clip_grad_norm
from gpugrad.optim.lbfgs import LBFGS
from gpugrad.optim.rules import SGD, Adagrad, Adam, AdamW, RMSprop
from gpugrad.optim.scaler import GradScaler
from gpugrad.optim.schedules import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    Schedule,
    SequentialLR,
    StepLR,
)

__all__ = [
    "LBFGS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "ExponentialLR",
    "GradScaler",
    "LambdaLR",
    "LinearLR",
    "OneCycleLR",
    "Optimizer",
    "RMSprop",
    "ReduceLROnPlateau",
    "Schedule",
    "SequentialLR",
    "StepLR",
    "clip_grad_norm",
]
