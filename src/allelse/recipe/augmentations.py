"""The augmentations of training images that a recipe can name."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar, Union

from pydantic import Field, model_validator

from allelse.recipe.base import Count, Listed, Named, Part, Positive

Share = Annotated[float, Field(gt=0, le=1)]


class Flip(Part):
    """Mirror left to right, each image with probability ½."""

    name: Literal["flip"] = "flip"


class Crop(Part):
    """Pad with black and cut the original size out at a random place."""

    name: Literal["crop"] = "crop"
    padding: Count = 4
    """pixels a side"""


class Cutout(Part):
    """DeVries and Taylor 2017 (arXiv:1708.04552): a square of mean colour around a random pixel."""

    name: Literal["cutout"] = "cutout"
    size: Count = 16
    """side of the square, in pixels; it may hang over the edge"""


class RandomErasing(Part):
    """Zhong et al. 2020 (arXiv:1708.04896): a rectangle of mean colour (their RE-M), drawn as in the authors' code, but
    with ten tries, as torchvision has, where that has a hundred."""

    name: Literal["random-erasing"] = "random-erasing"
    probability: Share = 0.5
    """of an image to be erased in part"""
    area: Annotated[tuple[Share, Share], Listed] = (0.02, 0.4)
    """least and largest share of the image that the rectangle covers"""
    aspect: Share = 0.3
    """least ratio of the rectangle's height to its width; the largest is 1 over it"""

    @model_validator(mode="after")
    def _least_before_largest(self) -> RandomErasing:
        if self.area[0] > self.area[1]:
            raise ValueError(f"area is {list(self.area)}; allowed: the least share first, then the largest")
        return self


class Mixup(Part):
    """Zhang et al. 2018 (arXiv:1710.09412), equation 1: each image is blended with another one, and so are their labels.

    The other is drawn from the whole training subset and λ for each image, as the paper's vicinal distribution has it, not
    within the batch and for a batch, as its code does for speed: so that neither depends on the batch size.
    """

    name: Literal["mixup"] = "mixup"
    alpha: Positive = 1.0
    """an image's share λ is drawn from Beta(alpha, alpha)"""


class CutMix(Part):
    """Yun et al. 2019 (arXiv:1905.04899), section 3.1: a rectangle of another image is pasted, labels are mixed by its area.

    Rectangles are those of the authors' code. The other image is drawn as ``Mixup`` does, λ and rectangle for each image.
    """

    name: Literal["cutmix"] = "cutmix"
    alpha: Positive = 1.0
    """the share λ that the image keeps, before the edge cuts the rectangle off, is drawn from Beta(alpha, alpha)"""
    probability: Share = 0.5
    """of an image to be pasted on, ½ as in the authors' CIFAR code; the others are mixed up where ``mixup`` is named too"""


AugmentationKind = TypeVar("AugmentationKind", Flip, Crop, Cutout, RandomErasing, Mixup, CutMix)
Augmentation = Annotated[Annotated[Union[Flip, Crop, Cutout, RandomErasing, Mixup, CutMix], Field(discriminator="name")], Named]
