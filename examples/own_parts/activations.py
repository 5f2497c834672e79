"""Two activations that work in a study, and one that is refused."""

import torch
from torch import Tensor, nn


class Serf(nn.Module):
    """x · erf(ln(1 + eˣ)) (Nag and Bhattacharyya 2021, arXiv:2108.09598): element by element, so one serves a whole pack."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.erf(nn.functional.softplus(x))


class Swish(nn.Module):
    """x · sigmoid(βx) with one learned β a channel (Ramachandran et al. 2017, arXiv:1710.05941). It declares how it packs."""

    def __init__(self, channels: int, start: float = 1.0) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.full((channels,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x * self.beta.view(-1, *[1] * (x.dim() - 2)))  # [C] or [R, C], to meet [N, R·C, ...]

    @classmethod
    def packed(cls, replicas: int, channels: int, start: float = 1.0) -> nn.Module:
        """R of it as one module: the same parameters with the replicas first."""
        module = cls(channels)
        module.beta = nn.Parameter(torch.full((replicas, channels), start))
        return module


class NoisyReLU(nn.Module):
    """max(0, x + noise) (Nair and Hinton 2010): refused, because no seed of a study pairs the noise between arms."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + torch.randn_like(x)) if self.training else torch.relu(x)
