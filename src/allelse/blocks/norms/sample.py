"""Norms within one image, without running statistics: sizes of one replica in, a module for R replicas out.

GroupNorm with R·G groups is R GroupNorms. No statistic crosses replicas.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allelse import recipe
from allelse.blocks.norms.affine import Affine, by_channel, mean_square
from allelse.blocks.weights import constant, wide

FEW_CHANNELS = 8
"""a group of fewer is normalised in contiguous memory on the CPU"""


class GroupNorm(Affine):
    """Group normalisation with ``groups`` groups a replica; one group is layer norm, a group a channel is instance norm."""

    def __init__(self, replicas: int, channels: int, groups: int, eps: float, affine: bool) -> None:
        super().__init__(replicas, channels, eps, affine, affine)
        self.groups = groups
        self.centres_channels = groups == channels

    def extra_repr(self) -> str:
        return f"{self.groups} group{'s' * (self.groups > 1)}"

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.scale_and_shift()
        if weight is not None and torch.is_grad_enabled() and not x.requires_grad:
            # A norm that meets the images themselves: torch's channels-last CPU kernel (2.13) crashes where no gradient of
            # its input is wanted, so one is asked for, and thrown away.
            x = x.detach().requires_grad_()
        # torch's CUDA kernel wants scale and shift in the input's type, which would round what BatchNorm keeps in fp32.
        given = wide(x) if x.is_cuda else x
        groups = self.replicas * self.groups
        if x.dim() == 4 and (x.is_cuda or x.shape[1] < FEW_CHANNELS * groups):
            # In contiguous memory, which torch's CUDA kernel takes alone and its CPU kernel is much faster in where groups are
            # small (3.9 times for 2 channels, one thread, bf16); given back as channels-last, for the next convolution.
            out = F.group_norm(given.contiguous(), groups, weight, bias, self.eps)
            return out.to(x.dtype).contiguous(memory_format=torch.channels_last)
        return F.group_norm(given, groups, weight, bias, self.eps).to(x.dtype)


class RMSNorm(Affine):
    """Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4: x / √(mean of x² over the channels of one position + eps)."""

    def __init__(self, replicas: int, channels: int, norm: recipe.RMSNorm) -> None:
        super().__init__(replicas, channels, norm.eps, weight=norm.affine, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x_NHWRC = wide(x).movedim(1, -1).unflatten(-1, (self.replicas, -1))
        out = F.rms_norm(x_NHWRC, x_NHWRC.shape[-1:], eps=self.eps).flatten(-2).movedim(-1, 1)
        return self.scaled(out).to(x.dtype)


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
        x = self.scaled(x * torch.rsqrt(mean_square(x, [2, 3]) + self.eps))
        if self.threshold is not None:
            threshold = by_channel(self.threshold, x)
            x = torch.relu(x - threshold) + threshold  # max(x, threshold), whose own gradient takes six times as long on a CPU
        return x.to(x_NRCHW.dtype)


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
        x_NRCHW = wide(x).reshape(*x.shape[:2], *(x.shape[2:] or (1, 1)))
        mean = self.over_groups(x_NRCHW.detach().mean((2, 3), keepdim=True))  # moving it would not change the variance
        variance = self.over_groups(mean_square(x_NRCHW - mean, [2, 3]))
        gated = x_NRCHW * torch.sigmoid(by_channel(self.gate, x_NRCHW) * x_NRCHW)
        return self.scaled(gated * torch.rsqrt(variance + self.eps)).to(x.dtype).reshape(x.shape)

    def over_groups(self, values_NRC11: Tensor) -> Tensor:
        """Values a channel, each replaced by the mean over its group."""
        grouped = values_NRC11.unflatten(1, (self.replicas * self.groups, -1))
        return grouped.mean(2, keepdim=True).expand_as(grouped).flatten(1, 2)
