"""The activations that a recipe can name, with their numbers."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field

from allelse.recipe.base import Finite, Named, Part, Positive


class PlainActivation(Part):
    """An activation without a number of its own."""

    name: Literal["sigmoid", "tanh", "relu", "silu", "gelu", "mish", "identity"]


class LeakyReLU(Part):
    name: Literal["leaky_relu"] = "leaky_relu"
    slope: Finite = 0.01
    """gradient for negative inputs"""


class PReLU(Part):
    """He et al. 2015 (arXiv:1502.01852), one learned slope a layer."""

    name: Literal["prelu"] = "prelu"
    slope: Finite = 0.25
    """the slope to start from"""


class ELU(Part):
    name: Literal["elu"] = "elu"
    alpha: Positive = 1.0
    """minus the value that negative inputs tend to"""


Activation = Annotated[
    Annotated[Union[PlainActivation, LeakyReLU, PReLU, ELU], Field(discriminator="name")],
    Named,
]
