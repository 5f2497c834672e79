"""The optimisers and learning-rate schedules that a recipe can name."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field, model_validator

from allelse.recipe.base import Count, Fraction, Listed, Named, NonNegative, Part, Positive


class _Optimizer(Part):
    lr: Positive
    """learning rate at ``lr_batch_size``"""
    weight_decay: NonNegative = 0.0
    decay_norm_and_bias: bool = True
    """whether weight decay also acts on norm parameters, slopes and biases"""
    lr_scaling: Literal["constant", "linear", "sqrt"] = "constant"
    """how lr follows the batch size: lr · (batch_size / lr_batch_size) to the power 0, 1 or ½"""
    lr_batch_size: Count = 128
    """the batch size that ``lr`` is stated for"""

    def scaled_lr(self, batch_size: int) -> float:
        """The learning rate at ``batch_size`` by the declared rule."""
        power = {"constant": 0.0, "linear": 1.0, "sqrt": 0.5}[self.lr_scaling]
        return self.lr * (batch_size / self.lr_batch_size) ** power


class SGD(_Optimizer):
    """As ``torch.optim.SGD``."""

    name: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGD:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0")
        return self


class Adam(_Optimizer):
    """As ``torch.optim.Adam``: weight decay is added to the gradient."""

    name: Literal["adam"] = "adam"
    lr: Positive = 1e-3
    betas: Annotated[tuple[Fraction, Fraction], Listed] = (0.9, 0.999)
    eps: Positive = 1e-8


class AdamW(_Optimizer):
    """As ``torch.optim.AdamW``: weight decay acts on the weights themselves."""

    name: Literal["adamw"] = "adamw"
    lr: Positive = 1e-3
    betas: Annotated[tuple[Fraction, Fraction], Listed] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.01


Optimizer = Annotated[Annotated[Union[SGD, Adam, AdamW], Field(discriminator="name")], Named]


class _Schedule(Part):
    warmup_epochs: NonNegative = 0.0
    """linear rise from 0 over this many epochs before the schedule begins; fractions allowed"""


class Constant(_Schedule):
    name: Literal["constant"] = "constant"


class Cosine(_Schedule):
    """Loshchilov and Hutter 2017 (arXiv:1608.03983), one half period, by step."""

    name: Literal["cosine"] = "cosine"
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """where it ends, as a fraction of the learning rate"""


class Step(_Schedule):
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


Schedule = Annotated[Annotated[Union[Constant, Cosine, Step, OneCycle], Field(discriminator="name")], Named]
