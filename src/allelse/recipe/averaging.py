"""The averages of weights that a recipe can ask to be evaluated in place of the trained weights themselves."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field

from allelse.recipe.base import Count, Fraction, Named, Part


class EMA(Part):
    """Exponential moving average over the steps, as ``torch.optim.swa_utils.get_ema_multi_avg_fn``.

    W_EMA ← decay · W_EMA + (1 − decay) · W after every step, from the weights with which ``start_epoch`` begins. What a norm
    has measured (running statistics) is averaged in the same way.
    """

    name: Literal["ema"] = "ema"
    decay: Fraction = 0.999
    start_epoch: Count = 1
    """with which epoch averaging begins, counted from 1"""


class SWA(Part):
    """Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407): the plain mean of the weights that epochs end with.

    BatchNorm's statistics are recalibrated over the training split before each evaluation, as in algorithm 1. The schedule
    is the recipe's own.
    """

    name: Literal["swa"] = "swa"
    start_epoch: Count
    """the first epoch whose last weights are in the mean, counted from 1; the paper begins at about ¾ of the training"""


Averaging = Annotated[Annotated[Union[EMA, SWA], Field(discriminator="name")], Named]
