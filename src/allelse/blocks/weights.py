"""Convolution and linear layers of R replicas: sizes in, modules with stacked weights out."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Fill = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def uniform(fan_in: int) -> Fill:
    """torch's default for weights and biases of ``Conv2d`` and ``Linear``: U(−1/√fan_in, 1/√fan_in)."""
    bound = 1 / sqrt(fan_in)
    return lambda generator, shape: generator.uniform(-bound, bound, shape)


def constant(value: float) -> Fill:
    return lambda generator, shape: np.full(shape, value)


class Stacked(nn.Module):
    """Base of modules whose parameters are stacked over replicas, each with the rule that fills one replica of it."""

    def __init__(self, replicas: int) -> None:
        super().__init__()
        self.replicas = replicas
        self.fill_from_name: dict[str, Fill] = {}

    def add_parameter(self, name: str, shape: tuple[int, ...], fill: Fill) -> None:
        """Register ``name`` with shape [R, *shape]; ``models.initialise`` gives it its values."""
        self.register_parameter(name, nn.Parameter(torch.zeros(self.replicas, *shape)))
        self.fill_from_name[name] = fill


class Conv2d(Stacked):
    """R convolutions as one with R groups, stride 1, padded to keep the size. [N, R·Cin, H, W] → [N, R·Cout, H, W]."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, replicas: int, channels_in: int, channels_out: int, kernel: int, bias: bool) -> None:
        super().__init__(replicas)
        shape = (channels_out, channels_in, kernel, kernel)
        self.padding = kernel // 2
        self.add_parameter("weight", shape, uniform(prod(shape[1:])))
        if bias:
            self.add_parameter("bias", (channels_out,), uniform(prod(shape[1:])))
        else:
            self.register_parameter("bias", None)

    def extra_repr(self) -> str:
        height, width = self.weight.shape[-2:]
        return f"{height}×{width}, stride 1"

    def forward(self, x_NRCHW: Tensor) -> Tensor:
        weight = self.weight.flatten(0, 1).to(x_NRCHW.dtype)
        bias = None if self.bias is None else self.bias.flatten().to(x_NRCHW.dtype)
        return F.conv2d(x_NRCHW, weight, bias, padding=self.padding, groups=self.replicas)


class Linear(Stacked):
    """R linear layers as one batched product. [N, R·Fin] → [N, R·Fout]."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, replicas: int, features_in: int, features_out: int, bias: bool = True) -> None:
        super().__init__(replicas)
        self.add_parameter("weight", (features_out, features_in), uniform(features_in))
        if bias:
            self.add_parameter("bias", (features_out,), uniform(features_in))
        else:
            self.register_parameter("bias", None)

    def forward(self, x_NRF: Tensor) -> Tensor:
        x_RNF = x_NRF.unflatten(1, (self.replicas, -1)).transpose(0, 1)
        weight = self.weight.to(x_NRF.dtype).transpose(1, 2)
        if self.bias is None:
            out_RNF = torch.bmm(x_RNF, weight)
        else:
            out_RNF = torch.baddbmm(self.bias.to(x_NRF.dtype).unsqueeze(1), x_RNF, weight)
        return out_RNF.transpose(0, 1).flatten(1)
