"""The augmentations of training images that a recipe can name."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar, Union

from pydantic import Field

from allelse.recipe.base import Count, Named, Part


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


AugmentationKind = TypeVar("AugmentationKind", Flip, Crop, Cutout)
Augmentation = Annotated[Annotated[Union[Flip, Crop, Cutout], Field(discriminator="name")], Named]
