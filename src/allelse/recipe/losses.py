"""The training losses that a recipe can name. Evaluation is in cross-entropy whatever was minimised, so that arms compare."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field

from allelse.recipe.base import Named, NonNegative, Part, Positive
from allelse.recipe.own import Ours, Own, OwnPart, Whose


class CrossEntropy(Part):
    """−ln of the softmax probability of an image's class, as ``torch.nn.functional.cross_entropy``, in nats."""

    name: Literal["cross-entropy"] = "cross-entropy"


class BinaryCrossEntropy(Part):
    """A yes or no for each class, mean over classes, as ``torch.nn.functional.binary_cross_entropy_with_logits``, in nats."""

    name: Literal["binary-cross-entropy"] = "binary-cross-entropy"


class Focal(Part):
    """Lin et al. 2017 (arXiv:1708.02002), equation 4, p the softmax probability of an image's class: −(1 − p)^gamma · ln p."""

    name: Literal["focal"] = "focal"
    gamma: NonNegative = 2.0
    """how much less is made of images that are right already; 0 is cross-entropy"""


class SquaredError(Part):
    """Hui and Belkin 2021 (arXiv:2006.07322): outputs f, without a softmax, towards ``target`` for an image's class c and 0 for
    the others, mean over classes: (weight · (f_c − target)² + Σ f_i²) / K. With both at 1 it is the mean squared error."""

    name: Literal["squared-error"] = "squared-error"
    weight: Positive = 1.0
    """of an image's own class"""
    target: Positive = 1.0
    """for an image's own class; the paper takes weight 1 and target 1 for 10 classes, and 15 and 30 for 1,000"""


Losses = Union[CrossEntropy, BinaryCrossEntropy, Focal, SquaredError]
Loss = Annotated[
    Union[Annotated[Annotated[Losses, Field(discriminator="name")], Ours], Annotated[OwnPart, Own]],
    Whose,
    Named,
]
