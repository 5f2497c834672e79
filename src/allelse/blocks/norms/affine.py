"""What norms of R replicas share: a scale and a shift a channel, and how values a channel meet activations."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from allelse.blocks.weights import Stacked, constant


class Affine(Stacked):
    """A norm with, where asked, a scale and a shift a channel."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    centres_channels = False
    """whether it subtracts the mean of each channel by itself, so that a shift of a channel is gone after it"""

    def __init__(self, replicas: int, channels: int, eps: float, weight: bool = True, bias: bool = True) -> None:
        super().__init__(replicas)
        self.eps = eps
        for name, wanted, value in (("weight", weight, 1.0), ("bias", bias, 0.0)):
            if wanted:
                self.add_parameter(name, (channels,), constant(value))
            else:
                self.register_parameter(name, None)

    def scale_and_shift(self) -> tuple[Tensor | None, Tensor | None]:
        """Each as [R·C], or ``None`` where there is none."""
        weight = None if self.weight is None else self.weight.flatten()
        return weight, None if self.bias is None else self.bias.flatten()

    def scaled(self, x: Tensor) -> Tensor:
        """Scale · x + shift, where the norm has them."""
        weight, bias = self.scale_and_shift()
        x = x if weight is None else x * by_channel(weight, x)
        return x if bias is None else x + by_channel(bias, x)


def by_channel(values_RC: Tensor, x: Tensor) -> Tensor:
    """Values a channel in a shape that meets activations [N, R·C, ...]."""
    return values_RC.reshape(-1, *[1] * (x.dim() - 2))


def mean_square(x: Tensor, dims: list[int]) -> Tensor:
    """The mean of x² over ``dims``, which stay as 1.

    A sum and not torch's mean, whose gradient is written out at full size; and not torch's variance of x, which on a CPU
    takes ten times as long where ``dims`` are not the last in memory (2.13).
    """
    return x.square().sum(dims, keepdim=True) / prod(x.shape[dim] for dim in dims)
