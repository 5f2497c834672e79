"""The norms that a recipe can name, with their numbers."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field, model_validator

from allelse.recipe.base import Count, Named, Part, PerBlock, Positive


class BatchNorm(Part):
    """Ioffe and Szegedy 2015 (arXiv:1502.03167), as ``torch.nn.BatchNorm2d``."""

    name: Literal["batch"] = "batch"
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """weight of the newest batch in the running statistics"""
    eps: Positive = 1e-5
    affine: bool = True


class GroupNorm(Part):
    """Wu and He 2018 (arXiv:1803.08494), as ``torch.nn.GroupNorm``."""

    name: Literal["group"] = "group"
    groups: PerBlock | None = None
    """how many groups the channels are cut into, or one number for each block, whose first the stem has too; 32 when neither
    this nor ``channels_per_group`` is given"""
    channels_per_group: Count | None = None
    eps: Positive = 1e-5
    affine: bool = True

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> GroupNorm:
        if self.groups is not None and self.channels_per_group is not None:
            raise ValueError("give groups or channels_per_group, not both")
        return self

    def groups_of(self, channels: int) -> int:
        """How many groups ``channels`` are cut into; ``ValueError`` when they do not divide evenly."""
        per_group = self.channels_per_group
        groups = channels // per_group if per_group else self.groups or 32
        if groups < 1 or channels % groups or (per_group and channels % per_group):
            key, value = ("channels_per_group", per_group) if per_group else ("groups", groups)
            raise ValueError(
                f"norm.{key} = {value} does not divide the width {channels}; "
                f"allowed here: {', '.join(str(d) for d in range(1, channels + 1) if channels % d == 0)}"
            )
        return groups


class LayerNorm(Part):
    """Ba et al. 2016 (arXiv:1607.06450): over all channels and positions of one image, scale and shift a channel."""

    name: Literal["layer"] = "layer"
    eps: Positive = 1e-5
    affine: bool = True


class InstanceNorm(Part):
    """Ulyanov et al. 2016 (arXiv:1607.08022): over the positions of each channel of one image."""

    name: Literal["instance"] = "instance"
    eps: Positive = 1e-5
    affine: bool = True


class NoNorm(Part):
    name: Literal["none"] = "none"


Norm = Annotated[Annotated[Union[BatchNorm, GroupNorm, LayerNorm, InstanceNorm, NoNorm], Field(discriminator="name")], Named]
