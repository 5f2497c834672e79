"""Targets: the labels of a batch, and of what its images are mixed with, in; losses and hits of each replica out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """What the images of a batch show."""

    labels_RB: Tensor
    partner_RB: Tensor | None = None
    """labels of the images that they are mixed with"""
    share_RB: Tensor | None = None
    """λ: what an image's own label weighs against the partner's, 0 to 1"""

    def loss(self, logits_RBK: Tensor, smoothing: float) -> Tensor:
        """Mean cross-entropy of each replica in nats, [R]; of a mixture λ · CE(own) + (1 − λ) · CE(partner)."""

        def cross_entropy(labels_RB: Tensor) -> Tensor:
            return F.cross_entropy(logits_RBK.transpose(1, 2), labels_RB, reduction="none", label_smoothing=smoothing)

        losses_RB = cross_entropy(self.labels_RB)
        if self.partner_RB is not None and self.share_RB is not None:
            losses_RB = torch.lerp(cross_entropy(self.partner_RB), losses_RB, self.share_RB)
        return losses_RB.mean(1)

    def correct(self, logits_RBK: Tensor) -> Tensor:
        """How many images of each replica are taken for what they show most of, [R]."""
        wanted_RB = self.labels_RB
        if self.partner_RB is not None and self.share_RB is not None:
            wanted_RB = torch.where(self.share_RB >= 0.5, self.labels_RB, self.partner_RB)
        return (logits_RBK.argmax(2) == wanted_RB).sum(1)
