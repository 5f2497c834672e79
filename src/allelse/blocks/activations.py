"""Activations of R replicas: a recipe's activation in, a module out. All act element by element, so packing is free."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allelse import recipe
from allelse.blocks.exactness import build_own
from allelse.blocks.weights import Stacked, constant


class PReLU(Stacked):
    """max(0, x) + slope · min(0, x) with learned slopes (He et al. 2015, equation 1): one a replica, or one a channel of it."""

    slope: nn.Parameter

    def __init__(self, replicas: int, channels: int, activation: recipe.PReLU) -> None:
        super().__init__(replicas)
        self.add_parameter("slope", (channels if activation.per_channel else 1,), constant(activation.slope))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1] // self.replicas
        return F.prelu(x, self.slope.to(x.dtype).expand(-1, channels).flatten())


class Squareplus(nn.Module):
    """(x + √(x² + b)) / 2 (Barron 2021, arXiv:2112.11687, equation 1)."""

    def __init__(self, b: float) -> None:
        super().__init__()
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.sqrt(x * x + self.b)) / 2


class SquaredReLU(nn.Module):
    """max(0, x)² (So et al. 2021, arXiv:2109.08668, "Primer")."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "identity": nn.Identity,
    "relu6": nn.ReLU6,
    "selu": nn.SELU,
    "softsign": nn.Softsign,
    "tanhshrink": nn.Tanhshrink,
    "logsigmoid": nn.LogSigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "squared_relu": SquaredReLU,
    "leaky_relu": lambda slope: nn.LeakyReLU(slope),
    "prelu": PReLU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "squareplus": Squareplus,
    "hardtanh": nn.Hardtanh,
    "softshrink": nn.Softshrink,
    "hardshrink": nn.Hardshrink,
    "threshold": nn.Threshold,
}
"""What makes each activation from its numbers in the recipe; PReLU, which learns, is told its sizes too."""


def build_activation(replicas: int, channels: int, activation: recipe.Activation, images: bool = True) -> nn.Module:
    """The module of ``activation`` for R replicas with ``channels`` channels, or features where it meets no ``images``, each.

    Raises:
        PartError: it is one of the user's own, and refused.
    """
    if isinstance(activation, recipe.OwnPart):
        return build_own(replicas, activation, "activation", (channels,), (channels, *[4, 5] * images))
    if isinstance(activation, recipe.PReLU):
        return PReLU(replicas, channels, activation)
    return ACTIVATIONS[activation.name](**activation.model_dump(exclude={"name"}))
