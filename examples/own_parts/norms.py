"""A norm with running statistics, as for one network: it is run for each replica of a pack in turn."""

import torch
from torch import Tensor, nn


class MeanOnlyBatchNorm(nn.Module):
    """x − mean over the batch + bias (Salimans and Kingma 2016, arXiv:1602.07868, section 2.3)."""

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean = x.mean([0, *range(2, x.dim())])
            self.running_mean = torch.lerp(self.running_mean, mean.detach(), self.momentum)
        else:
            mean = self.running_mean
        return x + (self.bias - mean).view(-1, *[1] * (x.dim() - 2))
