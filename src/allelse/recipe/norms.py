"""The norms that a recipe can name, with their numbers."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field, model_validator

from allelse.recipe.base import Count, Named, NonNegative, Part, PerBlock, Positive
from allelse.recipe.own import Ours, Own, OwnPart, Whose


class NormPart(Part):
    """Base of all norms: where they fit."""

    def check_width(self, channels: int) -> None:
        """``ValueError`` when this many channels cannot be normalised."""

    def needs_positions(self, channels: int) -> bool:
        """Whether each statistic over a single position of ``channels`` channels would be over one value, and leave nothing."""
        return False

    def own_activation(self) -> str | None:
        """The activation that this norm ends with, in words."""
        return None


class BatchStatistics(NormPart):
    """What batch normalisation and its variants share."""

    name: str
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """weight of the newest batch in the running statistics"""
    eps: Positive = 1e-5
    affine: bool = True
    evaluate: Literal["running", "recalibrated"] = "running"
    """the statistics behind the accuracy and loss on test and validation images: the running ones, or ones recalibrated over
    the training split after every epoch, at the cost of one forward pass over it"""


class BatchNorm(BatchStatistics):
    """Ioffe and Szegedy 2015 (arXiv:1502.03167), as ``torch.nn.BatchNorm2d``."""

    name: Literal["batch"] = "batch"


class GhostBatchNorm(BatchStatistics):
    """Hoffer et al. 2017 (arXiv:1705.08741): batch normalisation of each part of a training batch."""

    name: Literal["ghost"] = "ghost"
    ghost_size: Count = 32
    """images a part; divides the batch"""

    def needs_positions(self, channels: int) -> bool:
        return self.ghost_size == 1


class BatchRenorm(BatchStatistics):
    """Ioffe 2017 (arXiv:1702.03275): batch normalisation, corrected towards the running statistics within bounds.

    The paper holds for 5,000 steps, then ramps over 20,000 (d) and 35,000 (r), with momentum 0.01; the defaults here are
    about as many lengths of the running statistics' memory at momentum 0.1.
    """

    name: Literal["renorm"] = "renorm"
    r_max: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 3.0
    """largest ratio of the batch's and the running standard deviation that is corrected, either way"""
    d_max: NonNegative = 5.0
    """largest difference of the batch's and the running mean that is corrected, in running standard deviations"""
    hold_steps: Annotated[int, Field(ge=0)] = 500
    """plain batch normalisation for so many training steps"""
    ramp_steps: Annotated[int, Field(ge=0)] = 2000
    """then the bounds grow evenly, from 1 to ``r_max`` and from 0 to ``d_max``, over so many"""


class _Grouped(NormPart):
    """A norm whose statistics are over groups of channels and all positions."""

    name: str
    groups: PerBlock | None = None
    """how many groups the channels are cut into, or one number for each block, whose first the stem has too; 32 when neither
    this nor ``channels_per_group`` is given"""
    channels_per_group: Count | None = None
    eps: Positive = 1e-5

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> _Grouped:
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

    def check_width(self, channels: int) -> None:
        self.groups_of(channels)

    def needs_positions(self, channels: int) -> bool:
        return self.groups_of(channels) == channels


class GroupNorm(_Grouped):
    """Wu and He 2018 (arXiv:1803.08494), as ``torch.nn.GroupNorm``."""

    name: Literal["group"] = "group"
    affine: bool = True


class EvoNormS0(_Grouped):
    """Liu et al. 2020 (arXiv:2004.02967): norm and activation in one, over the groups of group norm."""

    name: Literal["evonorm-s0"] = "evonorm-s0"

    def own_activation(self) -> str:
        return "x · sigmoid(v · x)"


class LayerNorm(NormPart):
    """Ba et al. 2016 (arXiv:1607.06450): over all channels and positions of one image, scale and shift a channel."""

    name: Literal["layer"] = "layer"
    eps: Positive = 1e-5
    affine: bool = True

    def needs_positions(self, channels: int) -> bool:
        return channels == 1


class InstanceNorm(NormPart):
    """Ulyanov et al. 2016 (arXiv:1607.08022): over the positions of each channel of one image."""

    name: Literal["instance"] = "instance"
    eps: Positive = 1e-5
    affine: bool = True

    def needs_positions(self, channels: int) -> bool:
        return True


class RMSNorm(NormPart):
    """Zhang and Sennrich 2019 (arXiv:1910.07467), as ``torch.nn.RMSNorm``: over the channels of each position of one image.

    On flattened images that is over the features.
    """

    name: Literal["rms"] = "rms"
    eps: Positive = 1e-5
    affine: bool = True
    """whether it has a scale a channel; it never has a shift"""

    def check_width(self, channels: int) -> None:
        if channels == 1:
            raise ValueError("norm 'rms' is over channels, and would leave nothing but the sign of a single one; widen it")


class FilterResponseNorm(NormPart):
    """Singh and Krishnan 2019 (arXiv:1911.09737): over the positions of each channel of one image, then a learned threshold."""

    name: Literal["frn"] = "frn"
    eps: Positive = 1e-6
    tlu: bool = True
    """whether the thresholded linear unit follows, which stands for the activation"""

    def needs_positions(self, channels: int) -> bool:
        return True

    def own_activation(self) -> str | None:
        return "the thresholded linear unit (norm.tlu = true)" if self.tlu else None


class NoNorm(NormPart):
    name: Literal["none"] = "none"


class OwnNorm(NormPart, OwnPart):
    """A norm of the user's own, which is taken to fit wherever its module can be made and run."""


Norm = Annotated[
    Union[
        Annotated[
            Annotated[
                Union[
                    BatchNorm,
                    GhostBatchNorm,
                    BatchRenorm,
                    GroupNorm,
                    LayerNorm,
                    InstanceNorm,
                    RMSNorm,
                    FilterResponseNorm,
                    EvoNormS0,
                    NoNorm,
                ],
                Field(discriminator="name"),
            ],
            Ours,
        ],
        Annotated[OwnNorm, Own],
    ],
    Whose,
    Named,
]
