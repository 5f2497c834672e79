"""Normalisation of R replicas: a recipe's norm and the channels of one replica in, a module out.

BatchNorm over R·C channels is R BatchNorms; GroupNorm with R·G groups is R GroupNorms. No statistic crosses replicas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allelse import recipe
from allelse.blocks.weights import Stacked, constant

Statistics = Literal["update", "running", "batch"]


class _Affine(Stacked):
    """A norm with, where asked, a scale and a shift a channel."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, replicas: int, channels: int, eps: float, affine: bool) -> None:
        super().__init__(replicas)
        self.eps = eps
        if affine:
            self.add_parameter("weight", (channels,), constant(1.0))
            self.add_parameter("bias", (channels,), constant(0.0))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)

    def scale_and_shift(self) -> tuple[Tensor | None, Tensor | None]:
        """Both as [R·C], or both ``None``."""
        if self.weight is None or self.bias is None:
            return None, None
        return self.weight.flatten(), self.bias.flatten()


class BatchNorm(_Affine):
    """Batch normalisation; ``statistics`` says which ones normalise.

    ``update``: those of the batch, and the running ones move towards them (training). ``running``: the running ones
    (the usual evaluation). ``batch``: those of the batch, nothing is kept.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, replicas: int, channels: int, norm: recipe.BatchNorm) -> None:
        super().__init__(replicas, channels, norm.eps, norm.affine)
        self.momentum = norm.momentum
        self.statistics: Statistics = "update"
        self.register_buffer("running_mean", torch.zeros(replicas, channels))
        self.register_buffer("running_var", torch.ones(replicas, channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.scale_and_shift()
        if self.statistics == "batch":
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)
        mean, var = self.running_mean.flatten(), self.running_var.flatten()
        return F.batch_norm(x, mean, var, weight, bias, self.statistics == "update", self.momentum, self.eps)


class GroupNorm(_Affine):
    """Group normalisation with ``groups`` groups a replica; one group is layer norm, a group a channel is instance norm."""

    def __init__(self, replicas: int, channels: int, groups: int, eps: float, affine: bool) -> None:
        super().__init__(replicas, channels, eps, affine)
        self.groups = groups

    def extra_repr(self) -> str:
        return f"{self.groups} group{'s' * (self.groups > 1)}"

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.scale_and_shift()
        if weight is not None and torch.is_grad_enabled() and not x.requires_grad:
            # A norm that meets the images themselves: torch's channels-last CPU kernel (2.13) crashes where no gradient of
            # its input is wanted, so one is asked for, and thrown away.
            x = x.detach().requires_grad_()
        if x.is_cuda and x.dtype == torch.bfloat16:
            # torch's CUDA kernel wants scale and shift in the input's type, which would round what BatchNorm keeps in fp32.
            return F.group_norm(x.float(), self.replicas * self.groups, weight, bias, self.eps).to(x.dtype)
        return F.group_norm(x, self.replicas * self.groups, weight, bias, self.eps)


NORMS: dict[str, Callable[[int, int, Any], nn.Module]] = {
    "batch": BatchNorm,
    "group": lambda replicas, channels, norm: GroupNorm(replicas, channels, norm.groups_of(channels), norm.eps, norm.affine),
    "layer": lambda replicas, channels, norm: GroupNorm(replicas, channels, 1, norm.eps, norm.affine),
    "instance": lambda replicas, channels, norm: GroupNorm(replicas, channels, channels, norm.eps, norm.affine),
    "none": lambda replicas, channels, norm: nn.Identity(),
}


def build_norm(replicas: int, channels: int, norm: recipe.Norm) -> nn.Module:
    """The module of ``norm`` for R replicas with ``channels`` channels each."""
    return NORMS[norm.name](replicas, channels, norm)
