"""Norms over the batch, with running statistics: a recipe's norm and the channels of one replica in, a module out.

BatchNorm over R·C channels is R BatchNorms. No statistic crosses replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from allelse import recipe
from allelse.blocks.norms.affine import Affine, mean_square
from allelse.blocks.weights import wide

Statistics = Literal["update", "running", "batch", "recalibrate"]


class BatchNorm(Affine):
    """Batch normalisation, and the base of its variants, which differ in training only; ``statistics`` says what normalises.

    ``update``: the batch's statistics, in the variant's own way, and the running ones move towards them (training).
    ``running``: the running ones (the usual evaluation). ``batch``: the batch's, nothing is kept. ``recalibrate``: the
    batch's, and the running ones move towards them, in the plain way of batch normalisation for every variant.
    """

    running_mean: Tensor
    running_var: Tensor
    centres_channels = True

    def __init__(self, replicas: int, channels: int, norm: recipe.BatchStatistics) -> None:
        super().__init__(replicas, channels, norm.eps, norm.affine, norm.affine)
        self.momentum = norm.momentum
        self.evaluate = norm.evaluate
        self.statistics: Statistics = "update"
        self.register_buffer("running_mean", torch.zeros(replicas, channels))
        self.register_buffer("running_var", torch.ones(replicas, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalised(x, *self.scale_and_shift())

    def normalised(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Batch normalisation with this scale and shift, each [R·C]."""
        if self.statistics == "batch":
            return F.batch_norm(x, None, None, scale, shift, True, 0.0, self.eps)
        mean, var = self.running_mean.flatten(), self.running_var.flatten()
        return F.batch_norm(x, mean, var, scale, shift, self.statistics != "running", self.momentum, self.eps)

    def training_parts(self, x: Tensor) -> Sequence[Tensor]:
        """The parts of a training batch, cut along the images, whose statistics are taken apart."""
        return (x,)


class GhostBatchNorm(BatchNorm):
    """Hoffer et al. 2017 (arXiv:1705.08741), algorithm 1: each ``ghost_size`` images in a row are normalised apart.

    The running statistics move once for each ghost batch, one after the other, as the algorithm's powers of 1 − η do.
    """

    def __init__(self, replicas: int, channels: int, norm: recipe.GhostBatchNorm) -> None:
        super().__init__(replicas, channels, norm)
        self.ghost_size = norm.ghost_size

    def forward(self, x: Tensor) -> Tensor:
        parts = self.training_parts(x) if self.statistics == "update" else (x,)
        return torch.cat([self.normalised(part, *self.scale_and_shift()) for part in parts])

    def training_parts(self, x: Tensor) -> Sequence[Tensor]:
        return x.split(self.ghost_size)


class BatchRenorm(BatchNorm):
    """Ioffe 2017 (arXiv:1702.03275), algorithm 1: x̂ = (x − μ_B) / σ_B · r + d, with r = σ_B / σ and d = (μ_B − μ) / σ clipped.

    r and d are constants to the gradient. σ² is the running variance of BatchNorm, where the paper averages σ_B itself, so
    that this norm is evaluated, recalibrated and probed as every other; where r and d are not clipped x̂ is (x − μ) / σ
    either way, what evaluation computes.
    """

    steps: Tensor

    def __init__(self, replicas: int, channels: int, norm: recipe.BatchRenorm) -> None:
        super().__init__(replicas, channels, norm)
        self.norm = norm
        self.register_buffer("steps", torch.zeros(replicas, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.scale_and_shift()
        if self.statistics == "update":
            scale, shift = self.correction(x)  # γ · (x̂ · r + d) + β is batch normalisation with scale γ · r and shift γ · d + β
            weight, bias = (scale, shift) if weight is None or bias is None else (weight * scale, weight * shift + bias)
            self.steps += 1
        return self.normalised(x, weight, bias)

    @torch.no_grad()
    def correction(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """r and d of a training batch, each [R·C]."""
        x, over = wide(x), [0, *range(2, x.dim())]
        mean = x.mean(over, keepdim=True)
        mean_RC, var_RC = (values.view(self.replicas, -1) for values in (mean, mean_square(x - mean, over)))
        running_sd_RC = (self.running_var + self.eps).sqrt()
        steps_R1 = self.steps.to(running_sd_RC.dtype).unsqueeze(1)
        share_R1 = ((steps_R1 - self.norm.hold_steps + 1) / (self.norm.ramp_steps + 1)).clamp(0, 1)
        r_max_R1 = 1 + share_R1 * (self.norm.r_max - 1)
        d_max_R1 = share_R1 * self.norm.d_max
        r_RC = ((var_RC + self.eps).sqrt() / running_sd_RC).clamp(1 / r_max_R1, r_max_R1)
        d_RC = ((mean_RC - self.running_mean) / running_sd_RC).clamp(-d_max_R1, d_max_R1)
        return r_RC.flatten(), d_RC.flatten()
