"""Convolution and linear layers of R replicas: sizes in, modules with stacked weights out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allelse.blocks.im2col import conv2d_by_patches

Fill = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def uniform(fan_in: int) -> Fill:
    """torch's default for weights and biases of ``Conv2d`` and ``Linear``: U(−1/√fan_in, 1/√fan_in)."""
    bound = 1 / sqrt(fan_in)
    return lambda generator, shape: generator.uniform(-bound, bound, shape)


def constant(value: float) -> Fill:
    return lambda generator, shape: np.full(shape, value)


def wide(x: Tensor) -> Tensor:
    """Activations in the precision that statistics are taken in: float32, or float64 where they are."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class Rule:
    """A ``Fill`` that is not torch's default, with its name for the fingerprints: only arms that share it share weights."""

    name: str
    fill: Fill

    def __call__(self, generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return self.fill(generator, shape)


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

    def rule(self, name: str) -> str:
        """By what a parameter is filled, where that is not torch's default."""
        fill = self.fill_from_name[name]
        return fill.name if isinstance(fill, Rule) else ""


class Weighted(Stacked):
    """Base of convolution and linear layers."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    standardized = False
    """whether each filter is used with mean 0 and variance 1"""

    def used_weight(self) -> Tensor:
        """[R, outputs, ...] what multiplies the inputs.

        Standardised as Qiao et al. 2019 (arXiv:1903.10520): (W − mean) / sd over the inputs of each output filter, through
        which the gradient flows. Its eps is in the variance and 1e-10, so that filters of every size come out alike.
        """
        if not self.standardized:
            return self.weight
        inputs = tuple(range(2, self.weight.dim()))
        variance, mean = torch.var_mean(self.weight, inputs, correction=0, keepdim=True)
        return (self.weight - mean) * torch.rsqrt(variance + 1e-10)


def standardize_weights(network: nn.Module) -> None:
    """Weight standardisation for every convolution and linear layer that is in ``network`` so far.

    Raises:
        ValueError: a layer has a single input, which would leave nothing of it.
    """
    for module in network.modules():
        if isinstance(module, Weighted):
            if module.weight[0, 0].numel() == 1:
                raise ValueError("weight_standardization would set filters of a single weight to 0; take a larger kernel")
            module.standardized = True


class Conv2d(Weighted):
    """R convolutions as one with R times as many groups, padded by half the kernel. [N, R·Cin, H, W] → [N, R·Cout, H', W'].

    Stride 1 keeps the size, stride 2 halves it, rounded up.
    """

    def __init__(
        self, replicas: int, channels_in: int, channels_out: int, kernel: int, bias: bool, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(replicas)
        shape = (channels_out, channels_in // groups, kernel, kernel)
        self.padding = kernel // 2
        self.stride = stride
        self.groups = groups
        self.by_patches = False
        """compute by im2col and a batched product instead of a grouped convolution, where the stride is 1 and groups are too"""
        self.is_pointwise = kernel == 1
        self.add_parameter("weight", shape, uniform(prod(shape[1:])))
        if bias:
            self.add_parameter("bias", (channels_out,), uniform(prod(shape[1:])))
        else:
            self.register_parameter("bias", None)

    def extra_repr(self) -> str:
        height, width = self.weight.shape[-2:]
        return f"{height}×{width}, stride {self.stride}" + (f", {self.groups} groups" if self.groups > 1 else "")

    def forward(self, x_NRCHW: Tensor) -> Tensor:
        # In bf16 the CPU's grouped convolutions with a 1 × 1 kernel or a stride carry NaN from one group into its neighbours.
        carries_nan = x_NRCHW.dtype is torch.bfloat16 and x_NRCHW.device.type == "cpu"
        if self.stride == self.groups == 1 and (self.by_patches or (carries_nan and self.is_pointwise)):
            out_NRDHW = conv2d_by_patches(x_NRCHW, self.used_weight().to(x_NRCHW.dtype))
            return out_NRDHW if self.bias is None else out_NRDHW + self.bias.to(x_NRCHW.dtype).view(-1, 1, 1)
        dtype = torch.float32 if carries_nan and self.stride > 1 else x_NRCHW.dtype
        weight = self.used_weight().flatten(0, 1).to(dtype)
        bias = None if self.bias is None else self.bias.flatten().to(dtype)
        groups = self.replicas * self.groups
        return F.conv2d(x_NRCHW.to(dtype), weight, bias, self.stride, self.padding, groups=groups).to(x_NRCHW.dtype)


class SeparableConv2d(nn.Module):
    """A filter for each channel, without bias, then a 1 × 1 convolution over all channels (Chollet 2017, arXiv:1610.02357)."""

    def __init__(self, replicas: int, channels_in: int, channels_out: int, kernel: int, bias: bool, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = Conv2d(replicas, channels_in, channels_in, kernel, False, stride, groups=channels_in)
        self.pointwise = Conv2d(replicas, channels_in, channels_out, 1, bias)

    def forward(self, x_NRCHW: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x_NRCHW))


class Linear(Weighted):
    """R linear layers as one batched product. [N, R·Fin] → [N, R·Fout]."""

    def __init__(self, replicas: int, features_in: int, features_out: int, bias: bool = True) -> None:
        super().__init__(replicas)
        self.add_parameter("weight", (features_out, features_in), uniform(features_in))
        if bias:
            self.add_parameter("bias", (features_out,), uniform(features_in))
        else:
            self.register_parameter("bias", None)

    def forward(self, x_NRF: Tensor) -> Tensor:
        x_RNF = x_NRF.unflatten(1, (self.replicas, -1)).transpose(0, 1)
        weight = self.used_weight().to(x_NRF.dtype).transpose(1, 2)
        if self.bias is None:
            out_RNF = torch.bmm(x_RNF, weight)
        else:
            out_RNF = torch.baddbmm(self.bias.to(x_NRF.dtype).unsqueeze(1), x_RNF, weight)
        return out_RNF.transpose(0, 1).flatten(1)
