"""The learning-rate schedules that a recipe can name."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field, model_validator

from allelse.recipe.base import Count, Listed, Named, NonNegative, Part, Positive


class _Schedule(Part):
    warmup_epochs: NonNegative = 0.0
    """linear rise from 0 over this many epochs before the schedule begins; fractions allowed"""


class Constant(_Schedule):
    name: Literal["constant"] = "constant"


class _Falling(_Schedule):
    """From the learning rate down to a floor that is reached with the end of the training."""

    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """where it ends, as a fraction of the learning rate"""
    per: Literal["step", "epoch"] = "step"
    """how often the rate changes; ``epoch``: it stays the same within each"""


class Cosine(_Falling):
    """Loshchilov and Hutter 2017 (arXiv:1608.03983), one half period, as ``torch.optim.lr_scheduler.CosineAnnealingLR``."""

    name: Literal["cosine"] = "cosine"


class Linear(_Falling):
    """As ``torch.optim.lr_scheduler.LinearLR`` from 1 to ``floor``."""

    name: Literal["linear"] = "linear"


class Polynomial(_Falling):
    """As ``torch.optim.lr_scheduler.PolynomialLR``: what lies above ``floor`` times (1 − share of the training)^power."""

    name: Literal["polynomial"] = "polynomial"
    power: Positive = 1.0


class Exponential(_Schedule):
    """As ``torch.optim.lr_scheduler.ExponentialLR``."""

    name: Literal["exponential"] = "exponential"
    factor: Positive
    """multiply by this in the course of each epoch"""
    per: Literal["step", "epoch"] = "epoch"
    """``epoch``: at the end of each epoch; ``step``: a little with every step"""


class Step(_Schedule):
    """As ``torch.optim.lr_scheduler.MultiStepLR`` and ``StepLR``."""

    name: Literal["step"] = "step"
    milestones: Annotated[tuple[Count, ...], Listed] = ()
    """multiply by ``factor`` once this many epochs are done, for each"""
    every: Count | None = None
    """or: multiply by ``factor`` after every so many epochs"""
    factor: Positive = 0.1

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Step:
        if bool(self.milestones) == (self.every is not None):
            raise ValueError("give milestones or every, one of the two")
        return self


class OneCycle(Part):
    """Smith and Topin 2018 (arXiv:1708.07120), as ``torch.optim.lr_scheduler.OneCycleLR`` with cosine annealing."""

    name: Literal["one-cycle"] = "one-cycle"
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """fraction of all steps until the peak, which is the learning rate"""
    start_divisor: Annotated[float, Field(ge=1)] = 25.0
    """the peak over the first learning rate"""
    final_divisor: Annotated[float, Field(ge=1)] = 1e4
    """the first learning rate over the last"""


Schedule = Annotated[
    Annotated[Union[Constant, Cosine, Linear, Polynomial, Exponential, Step, OneCycle], Field(discriminator="name")],
    Named,
]
