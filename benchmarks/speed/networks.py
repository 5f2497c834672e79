"""The one network that all ways train, in plain torch: for one replica, for ``vmap``, and for many side by side.

Dimensions: R = replicas, B = images in a batch, C = channels, F = features, H, W = height and width, K = classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.grid import CLASSES, GROUPS, Cell


def network_of_layers(cell: Cell, replicas: int, head: nn.Module) -> nn.Sequential:
    """Torch's own layers, with the replicas side by side, and a head that takes [B, R·F]."""
    layers: list[nn.Module] = []
    for number, (channels_in, channels_out) in enumerate(cell.convolutions):
        width = replicas * channels_out
        layers.append(nn.Conv2d(replicas * channels_in, width, 3, padding=1, groups=replicas))
        if number > 0:
            norm = nn.BatchNorm2d(width) if cell.norm == "BatchNorm" else nn.GroupNorm(replicas * GROUPS, width)
            layers += [norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class Heads(nn.Module):
    """A linear layer a replica, [B, R·F] → [R, B, K]."""

    def __init__(self, replicas: int, features: int) -> None:
        super().__init__()
        bound = features**-0.5
        self.weight_RFK = nn.Parameter(torch.empty(replicas, features, CLASSES).uniform_(-bound, bound))
        self.bias_R1K = nn.Parameter(torch.empty(replicas, 1, CLASSES).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        x_RBF = x.unflatten(1, (len(self.weight_RFK), -1)).transpose(0, 1)
        return torch.baddbmm(self.bias_R1K, x_RBF, self.weight_RFK)


class ConvNet(nn.Module):
    """One network; convolutions in ``dtype`` from fp32 weights, norms with fp32 scale and shift, the head in fp32."""

    def __init__(self, cell: Cell, dtype: torch.dtype, stacked: bool = False) -> None:
        """``stacked``: to be called by ``vmap``, which can neither update running statistics nor mix types within a norm."""
        super().__init__()
        self.dtype, self.norm, self.stacked = dtype, cell.norm, stacked
        self.convolutions = nn.ModuleList(nn.Conv2d(*channels, 3, padding=1) for channels in cell.convolutions)
        self.scales = nn.ParameterList(torch.ones(cell.width) for _ in range(cell.depth))
        self.shifts = nn.ParameterList(torch.zeros(cell.width) for _ in range(cell.depth))
        self.head = nn.Linear(cell.width, CLASSES)
        for number in range(cell.depth):
            self.register_buffer(f"mean{number}", None if stacked else torch.zeros(cell.width))
            self.register_buffer(f"variance{number}", None if stacked else torch.ones(cell.width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, K]."""
        x = self._convolve(0, x)
        for number in range(len(self.scales)):
            x = F.relu(self._normalise(number, self._convolve(number + 1, x)))
        return self.head(x.mean((2, 3)).float())

    def _convolve(self, number: int, x: Tensor) -> Tensor:
        layer = self.convolutions[number]
        return F.conv2d(x.to(self.dtype), layer.weight.to(self.dtype), layer.bias.to(self.dtype), padding=1)

    def _normalise(self, number: int, x: Tensor) -> Tensor:
        scale, shift = self.scales[number], self.shifts[number]
        if self.stacked:
            x = F.batch_norm(x, None, None, training=True) if self.norm == "BatchNorm" else F.group_norm(x, GROUPS)
            scale, shift = (values.to(x.dtype)[:, None, None] for values in (scale, shift))
            return torch.addcmul(shift, x, scale)
        if self.norm == "BatchNorm":
            statistics = getattr(self, f"mean{number}"), getattr(self, f"variance{number}")
            return F.batch_norm(x, *statistics, scale, shift, training=True)
        if x.is_cuda:  # there, torch wants all three in one type
            normalised = F.group_norm(x.float(), GROUPS, scale, shift).to(x.dtype)
        else:
            normalised = F.group_norm(x, GROUPS, scale, shift)
        return normalised.contiguous(memory_format=torch.channels_last)  # as BatchNorm leaves it: the layouts are compared too

    def look_at_memory(self, x: Tensor) -> str:
        """The memory formats of what the norms put out for these images."""
        with torch.no_grad():
            found = set()
            x = self._convolve(0, x)
            for number in range(len(self.scales)):
                x = self._normalise(number, self._convolve(number + 1, x))
                found.add(memory_of(x))
        return " and ".join(sorted(found))


def memory_of(x: Tensor) -> str:
    """The memory format of [B, C, H, W]."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return "channels_last"
    return "contiguous" if x.is_contiguous() else "strided"
