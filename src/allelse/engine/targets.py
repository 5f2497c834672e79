"""Targets: the labels of a batch, and of what its images are mixed with, in; losses and hits of each replica out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allelse.engine.losses import LossOf


@dataclass(frozen=True)
class Targets:
    """What the images of a batch show."""

    labels_RB: Tensor
    partner_RB: Tensor | None = None
    """labels of the images that they are mixed with"""
    share_RB: Tensor | None = None
    """λ: what an image's own label weighs against the partner's, 0 to 1"""

    def loss(self, logits_RBK: Tensor, loss_of: LossOf) -> Tensor:
        """Mean loss of each replica, [R]; of a mixture λ · loss(own) + (1 − λ) · loss(partner)."""
        losses_RB = loss_of(logits_RBK, self.labels_RB)
        if self.partner_RB is not None and self.share_RB is not None:
            losses_RB = torch.lerp(loss_of(logits_RBK, self.partner_RB), losses_RB, self.share_RB)
        return losses_RB.mean(1)

    def correct(self, logits_RBK: Tensor) -> Tensor:
        """How many images of each replica are taken for what they show most of, [R]."""
        wanted_RB = self.labels_RB
        if self.partner_RB is not None and self.share_RB is not None:
            wanted_RB = torch.where(self.share_RB >= 0.5, self.labels_RB, self.partner_RB)
        return (logits_RBK.argmax(2) == wanted_RB).sum(1)
