"""Norms within one image, without running statistics: sizes of one replica in, a module for R replicas out.

GroupNorm with R·G groups is R GroupNorms. No statistic crosses replicas.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allelse import recipe
from allelse.blocks.norms.affine import Affine, by_channel, wide
from allelse.blocks.weights import constant


class GroupNorm(Affine):
    """Group normalisation with ``groups`` groups a replica; one group is layer norm, a group a channel is instance norm."""

    def __init__(self, replicas: int, channels: int, groups: int, eps: float, affine: bool) -> None:
        super().__init__(replicas, channels, eps, affine, affine)
        self.groups = groups

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


class RMSNorm(Affine):
    """Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4: x / √(mean of x² over the channels of one position + eps)."""

    def __init__(self, replicas: int, channels: int, norm: recipe.RMSNorm) -> None:
        super().__init__(replicas, channels, norm.eps, weight=norm.affine, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x_NRC = wide(x).unflatten(1, (self.replicas, -1))
        x_NRC = x_NRC * torch.rsqrt(x_NRC.square().mean(2, keepdim=True) + self.eps)
        return self.scaled(x_NRC.flatten(1, 2)).to(x.dtype)


class FilterResponseNorm(Affine):
    """Singh and Krishnan 2019 (arXiv:1911.09737), equations 1 to 3: γ · x / √(mean of x² over positions + eps) + β, then TLU.

    The thresholded linear unit is max(y, τ) with one learned τ a channel, which starts from 0.
    """

    threshold: nn.Parameter | None

    def __init__(self, replicas: int, channels: int, norm: recipe.FilterResponseNorm) -> None:
        super().__init__(replicas, channels, norm.eps)
        if norm.tlu:
            self.add_parameter("threshold", (channels,), constant(0.0))
        else:
            self.register_parameter("threshold", None)

    def forward(self, x_NRCHW: Tensor) -> Tensor:
        x = wide(x_NRCHW)
        x = self.scaled(x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + self.eps))
        return (x if self.threshold is None else torch.maximum(x, by_channel(self.threshold, x))).to(x_NRCHW.dtype)


class EvoNormS0(Affine):
    """Liu et al. 2020 (arXiv:2004.02967), table 1: γ · x · sigmoid(v · x) / √(variance of x's group + eps) + β.

    The variance is over positions and the channels of a group, as group norm's; v is learned, one a channel, from 1.
    """

    gate: nn.Parameter

    def __init__(self, replicas: int, channels: int, norm: recipe.EvoNormS0) -> None:
        super().__init__(replicas, channels, norm.eps)
        self.groups = norm.groups_of(channels)
        self.add_parameter("gate", (channels,), constant(1.0))

    def forward(self, x: Tensor) -> Tensor:
        groups = (self.replicas * self.groups, -1)
        full = wide(x)
        grouped = full.unflatten(1, groups)
        variance = grouped.var([2, *range(3, grouped.dim())], correction=0, keepdim=True)
        gated = full * torch.sigmoid(by_channel(self.gate, full) * full)
        out = gated.unflatten(1, groups) * torch.rsqrt(variance + self.eps)
        return self.scaled(out.flatten(1, 2)).to(x.dtype)
