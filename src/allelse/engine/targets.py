"""Targets: the labels of a batch, and of what its images are mixed with, in; losses and hits of each replica out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from allelse import recipe

LossOf = Callable[[Tensor, Tensor], Tensor]
"""takes outputs [R, B, K] and labels [R, B]; gives the loss of each image, [R, B]"""


def loss_of(part: recipe.Loss, smoothing: float) -> LossOf:
    """What a recipe's loss makes of one label an image, with so much of the target spread over all classes."""

    def loss(logits_RBK: Tensor, labels_RB: Tensor) -> Tensor:
        if isinstance(part, recipe.CrossEntropy):
            return F.cross_entropy(logits_RBK.transpose(1, 2), labels_RB, reduction="none", label_smoothing=smoothing)
        if isinstance(part, recipe.Focal):
            log_p_RB = logits_RBK.log_softmax(2).gather(2, labels_RB.unsqueeze(2)).squeeze(2)
            unsure_RB = (-log_p_RB.expm1()).clamp(min=torch.finfo(log_p_RB.dtype).tiny)  # at 0 a root has no gradient
            return -(unsure_RB**part.gamma) * log_p_RB
        shown_RBK = torch.zeros_like(logits_RBK).scatter_(2, labels_RB.unsqueeze(2), 1.0)
        if isinstance(part, recipe.BinaryCrossEntropy):
            wanted_RBK = shown_RBK * (1 - smoothing) + smoothing / shown_RBK.shape[2]
            return F.binary_cross_entropy_with_logits(logits_RBK, wanted_RBK, reduction="none").mean(2)
        weight_RBK = 1 + (part.weight - 1) * shown_RBK
        return (weight_RBK * (logits_RBK - part.target * shown_RBK) ** 2).mean(2)

    return loss


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
