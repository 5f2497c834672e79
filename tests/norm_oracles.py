"""Norms that torch has no layer for, each written plainly from its paper for one lone network; oracles, not to be packed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allelse import recipe

PAPER_NORMS = {
    "ghost": {"name": "ghost", "ghost_size": 2},
    "renorm": {"name": "renorm", "r_max": 1.2, "d_max": 0.3, "hold_steps": 1, "ramp_steps": 2},
    "rms": {"name": "rms"},
    "frn": {"name": "frn"},
    "evonorm-s0": {"name": "evonorm-s0", "groups": 2},
}


class Ghost(nn.modules.batchnorm._BatchNorm):
    """torch's batch normalisation, fed one ghost batch after another (Hoffer et al. 2017, algorithm 1)."""

    def __init__(self, channels: int, norm: recipe.GhostBatchNorm) -> None:
        super().__init__(channels, norm.eps, norm.momentum, norm.affine)
        self.size = norm.ghost_size

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        parts = [super(Ghost, self).forward(x[first : first + self.size]) for first in range(0, len(x), self.size)]
        return torch.cat(parts)


class Renorm(nn.Module):
    """Ioffe 2017, algorithm 1, with the running variance of batch normalisation; r and d are numbers, not functions of x."""

    def __init__(self, channels: int, norm: recipe.BatchRenorm) -> None:
        super().__init__()
        self.norm = norm
        if norm.affine:
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("steps", torch.tensor(0))

    def bounds(self) -> tuple[float, float]:
        done = int(self.steps)
        if done < self.norm.hold_steps:
            return 1.0, 0.0
        share = min((done - self.norm.hold_steps + 1) / (self.norm.ramp_steps + 1), 1.0)
        return 1.0 + (self.norm.r_max - 1.0) * share, self.norm.d_max * share

    def forward(self, x: Tensor) -> Tensor:
        out = []
        r_max, d_max = self.bounds()
        for channel in range(x.shape[1]):
            values = x[:, channel]
            mean, var = self.running_mean[channel], self.running_var[channel]
            running_sd = float(var + self.norm.eps) ** 0.5
            if self.training:
                batch_sd = ((values - values.mean()).square().mean() + self.norm.eps).sqrt()
                r = min(max(batch_sd.item() / running_sd, 1 / r_max), r_max)
                d = min(max((values.mean() - mean).item() / running_sd, -d_max), d_max)
                hat = (values - values.mean()) / batch_sd * r + d
                with torch.no_grad():
                    mean += self.norm.momentum * (values.mean() - mean)
                    var += self.norm.momentum * (values.var(correction=1) - var)
            else:
                hat = (values - mean) / running_sd
            out.append(self.weight[channel] * hat + self.bias[channel] if self.norm.affine else hat)
        self.steps += self.training
        return torch.stack(out, 1)


class RMS(nn.Module):
    """Zhang and Sennrich 2019, equation 4, position by position of images, or of features."""

    def __init__(self, channels: int, norm: recipe.RMSNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(torch.ones(channels)) if norm.affine else None

    def forward(self, x: Tensor) -> Tensor:
        flat = x.view(*x.shape[:2], -1)
        out = torch.stack([one / ((one * one).mean(1, keepdim=True) + self.eps).sqrt() for one in flat.unbind(2)], 2)
        return (out if self.weight is None else out * self.weight.view(-1, 1)).view(x.shape)


class FRN(nn.Module):
    """Singh and Krishnan 2019, as in their listing."""

    def __init__(self, channels: int, norm: recipe.FilterResponseNorm) -> None:
        super().__init__()
        self.norm = norm
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        if norm.tlu:
            self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        nu2 = torch.mean(x**2, dim=[2, 3], keepdim=True)
        y = self.weight.view(1, -1, 1, 1) * (x / torch.sqrt(nu2 + self.norm.eps)) + self.bias.view(1, -1, 1, 1)
        if not self.norm.tlu:
            return y
        threshold = self.threshold.view(1, -1, 1, 1)
        return torch.relu(y - threshold) + threshold


class EvoNorm(nn.Module):
    """Liu et al. 2020, S0, image by image and group by group."""

    def __init__(self, channels: int, norm: recipe.EvoNormS0) -> None:
        super().__init__()
        self.eps, self.size = norm.eps, channels // norm.groups_of(channels)
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.gate = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        images = []
        for image in x:
            channels = []
            for channel, values in enumerate(image):
                first = channel // self.size * self.size
                group = image[first : first + self.size]
                sd = (((group - group.mean()) ** 2).mean() + self.eps) ** 0.5
                swish = values * torch.sigmoid(self.gate[channel] * values)
                channels.append(swish / sd * self.weight[channel] + self.bias[channel])
            images.append(torch.stack(channels))
        return torch.stack(images)


PLAIN_FROM_NAME = {"ghost": Ghost, "renorm": Renorm, "rms": RMS, "frn": FRN, "evonorm-s0": EvoNorm}


def standardized(weight: Tensor) -> Tensor:
    """Qiao et al. 2019: each output filter with mean 0 and variance 1."""
    filters = []
    for one in weight:
        centred = one - one.sum() / one.numel()
        filters.append(centred / ((centred**2).sum() / one.numel() + 1e-10) ** 0.5)
    return torch.stack(filters)


class StandardizedConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, standardized(self.weight), self.bias)


class StandardizedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, standardized(self.weight), self.bias)
