"""Activations of R replicas: a recipe's activation in, a module out. All act element by element, so packing is free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from allelse import recipe
from allelse.blocks.weights import Stacked, constant


class PReLU(Stacked):
    """max(0, x) + slope · min(0, x) with one learned slope a replica (He et al. 2015, equation 1, channel-shared)."""

    slope: nn.Parameter

    def __init__(self, replicas: int, activation: recipe.PReLU) -> None:
        super().__init__(replicas)
        self.add_parameter("slope", (1,), constant(activation.slope))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1] // self.replicas
        return torch.nn.functional.prelu(x, self.slope.to(x.dtype).expand(-1, channels).flatten())


ACTIVATIONS: dict[str, Callable[[int, Any], nn.Module]] = {
    "sigmoid": lambda replicas, activation: nn.Sigmoid(),
    "tanh": lambda replicas, activation: nn.Tanh(),
    "relu": lambda replicas, activation: nn.ReLU(),
    "leaky_relu": lambda replicas, activation: nn.LeakyReLU(activation.slope),
    "prelu": PReLU,
    "elu": lambda replicas, activation: nn.ELU(activation.alpha),
    "silu": lambda replicas, activation: nn.SiLU(),
    "gelu": lambda replicas, activation: nn.GELU(),
    "mish": lambda replicas, activation: nn.Mish(),
    "identity": lambda replicas, activation: nn.Identity(),
}


def build_activation(replicas: int, activation: recipe.Activation) -> nn.Module:
    """The module of ``activation`` for R replicas."""
    return ACTIVATIONS[activation.name](replicas, activation)
