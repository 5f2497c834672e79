"""The activations that a recipe can name, with their numbers: torch's own that act element by element, and a few of papers."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field, model_validator

from allelse.recipe.base import Finite, Named, NonNegative, Part, Positive
from allelse.recipe.own import Ours, Own, OwnPart, Whose


class PlainActivation(Part):
    """An activation without a number of its own, as torch has it.

    ``squared_relu`` is max(0, x)² (So et al. 2021, arXiv:2109.08668, "Primer").
    """

    name: Literal[
        "sigmoid", "tanh", "relu", "silu", "mish", "identity", "relu6", "selu", "softsign", "tanhshrink", "logsigmoid",
        "hardsigmoid", "hardswish", "squared_relu",
    ]  # fmt: skip


class LeakyReLU(Part):
    name: Literal["leaky_relu"] = "leaky_relu"
    slope: Finite = 0.01
    """gradient for negative inputs"""


class PReLU(Part):
    """He et al. 2015 (arXiv:1502.01852), with learned slopes."""

    name: Literal["prelu"] = "prelu"
    slope: Finite = 0.25
    """the slope to start from"""
    per_channel: bool = False
    """one slope a channel or feature, rather than one a layer"""


class ELU(Part):
    """Clevert et al. 2016 (arXiv:1511.07289), and CELU: Barron 2017 (arXiv:1704.07483)."""

    name: Literal["elu", "celu"] = "elu"
    alpha: Positive = 1.0
    """minus the value that negative inputs tend to"""


class GELU(Part):
    """Hendrycks and Gimpel 2016 (arXiv:1606.08415)."""

    name: Literal["gelu"] = "gelu"
    approximate: Literal["none", "tanh"] = "none"
    """``tanh``: the formula with a tanh in place of the normal distribution"""


class Softplus(Part):
    """ln(1 + exp(beta · x)) / beta."""

    name: Literal["softplus"] = "softplus"
    beta: Positive = 1.0
    threshold: Finite = 20.0
    """the identity where beta · x is above this"""


class Squareplus(Part):
    """Barron 2021 (arXiv:2112.11687), equation 1: (x + √(x² + b)) / 2."""

    name: Literal["squareplus"] = "squareplus"
    b: Positive = 4.0
    """how wide the bend at 0 is"""


class HardTanh(Part):
    name: Literal["hardtanh"] = "hardtanh"
    min_val: Finite = -1.0
    max_val: Finite = 1.0

    @model_validator(mode="after")
    def _room_between(self) -> HardTanh:
        if self.min_val >= self.max_val:
            raise ValueError(f"min_val = {self.min_val:g} is not below max_val = {self.max_val:g}; allowed: less than max_val")
        return self


class Shrink(Part):
    """``softshrink`` moves inputs towards 0 by ``lambd``, ``hardshrink`` sets those within ``lambd`` of 0 to 0."""

    name: Literal["softshrink", "hardshrink"]
    lambd: NonNegative = 0.5


class Threshold(Part):
    """x where it is above ``threshold``, else ``value``."""

    name: Literal["threshold"] = "threshold"
    threshold: Finite
    value: Finite


Activation = Annotated[
    Union[
        Annotated[
            Annotated[
                Union[PlainActivation, LeakyReLU, PReLU, ELU, GELU, Softplus, Squareplus, HardTanh, Shrink, Threshold],
                Field(discriminator="name"),
            ],
            Ours,
        ],
        Annotated[OwnPart, Own],
    ],
    Whose,
    Named,
]
