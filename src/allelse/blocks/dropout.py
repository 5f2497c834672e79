"""Dropout of R replicas: a rate in, a module out whose masks are computed from seed, layer, step and place alone.

A mask belongs to the seed, the layer's name, the training step, the image's place in the batch and the place in the image. It
is a hash of these, not drawn from a generator's state, so that neither the pack nor another layer can shift it (invariant 1),
and so that every device makes the same one, inside a captured graph too.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn


def _signed(value: int) -> int:
    """The 64 bits of ``value`` as torch's int64 has them; its products wrap around as unsigned ones do."""
    return value - 2**64 if value >= 2**63 else value


GAMMA, FIRST, SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
LANES = 4
"""numbers of 16 bits in one hash"""


Unit = Literal["numbers", "channels", "images"]
"""what is dropped as a whole: a number; a channel of an image, as ``torch.nn.Dropout2d``; all channels of an image"""


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014): in training a share ``rate`` is set to 0 and the rest divided by 1 − rate."""

    key: Tensor
    step: Tensor

    def __init__(self, replicas: int, rate: float, unit: Unit = "numbers") -> None:
        """
        Arguments:
            replicas: R.
            rate: in [0, 1); taken to the nearest 1/65536.
            unit: what is dropped as a whole.
        """
        super().__init__()
        self.replicas = replicas
        self.unit = unit
        self.threshold = min(round(rate * 2**16), 2**16 - 1)
        self.rate = self.threshold / 2**16
        self.register_buffer("key", torch.zeros(replicas, dtype=torch.int64), persistent=False)
        self.register_buffer("step", torch.zeros(replicas, dtype=torch.int64))

    def draw_key(self, replica: int, generator: np.random.Generator) -> None:
        """Give one replica the key that all its masks follow from."""
        self.key[replica] = int(generator.integers(-(2**63), 2**63))

    def extra_repr(self) -> str:
        return f"{self.rate:.4g}" + (f" of {self.unit}" if self.unit != "numbers" else "")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        images, channels, *sides = x.shape
        if self.unit == "numbers":
            kept = self.kept(x.shape)
        else:
            kept = self.kept(torch.Size((images, channels if self.unit == "channels" else self.replicas, *[1] * len(sides))))
            kept = kept.repeat_interleave(channels // kept.shape[1], 1)
        self.step.add_(1)
        return torch.where(kept, x * (1 / (1 - self.rate)), 0.0)

    def kept(self, shape: torch.Size) -> Tensor:
        """What the next training step keeps of [N, R·C, ...]: bool of that shape, in channels-last memory."""
        images, channels = shape[0], shape[1] // self.replicas
        words = -(-channels // LANES)  # a hash serves four channels of one place
        place_MW = torch.arange(images * prod(shape[2:]) * words, device=self.key.device).view(-1, 1, words)
        start_R = splitmix64(self.key + self.step * GAMMA)
        hash_MRW = splitmix64(place_MW * GAMMA + start_R[:, None])
        lane_MRC = hash_MRW.view(torch.int16)[..., :channels]
        return (lane_MRC >= self.threshold - 2**15).view(images, *shape[2:], shape[1]).movedim(-1, 1)


def splitmix64(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014), in place: int64 in, int64 of independent-looking bits out."""
    shifted = torch.empty_like(x)
    for shift, factor in ((30, FIRST), (27, SECOND), (31, 1)):
        torch.bitwise_right_shift(x, shift, out=shifted)
        x.bitwise_xor_(shifted.bitwise_and_((1 << (64 - shift)) - 1))  # the shift repeats the sign: cut that off
        if factor != 1:
            x.mul_(factor)
    return x
