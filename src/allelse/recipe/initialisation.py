"""The rules by which a recipe can have the weights of stem and blocks drawn, with their numbers."""

from __future__ import annotations

from math import inf, sqrt
from typing import Annotated, Any, Literal, Union

from pydantic import Field, PlainValidator

from allelse.recipe.activations import Activation, LeakyReLU, PReLU
from allelse.recipe.base import Named, Part

GAIN_FROM_ACTIVATION = {"identity": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": sqrt(2), "selu": 3 / 4}
"""``torch.nn.init.calculate_gain``; that of leaky_relu, and of prelu where it starts, is √(2 / (1 + slope²))"""


def _check_gain(value: Any) -> float | Literal["activation"]:
    if value == "activation":
        return "activation"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < inf:
        raise ValueError("allowed: a number more than 0, or 'activation'")
    return float(value)


Gain = Annotated[Any, PlainValidator(_check_gain, json_schema_input_type=float | Literal["activation"])]


class _Init(Part):
    bias: Literal["default", "zero"] = "default"
    """of the same layers; ``default``: as torch's own, from U(−1/√fan_in, 1/√fan_in)"""

    def gain_with(self, activation: Activation) -> float:
        """What the weights are multiplied by in a model with ``activation``; ``ValueError`` where that is not known."""
        return 1.0

    def reads_activation(self) -> bool:
        """Whether the model's activation changes what is drawn."""
        return False


class DefaultInit(_Init):
    """As torch's own layers: weights from U(−1/√fan_in, 1/√fan_in), whatever the activation."""

    name: Literal["default"] = "default"


class _Scaled(_Init):
    gain: Gain = 1.0
    """factor of all weights; ``activation``: what ``torch.nn.init.calculate_gain`` has for the model's activation"""

    def gain_with(self, activation: Activation) -> float:
        if self.gain != "activation":
            return self.gain
        if isinstance(activation, (LeakyReLU, PReLU)):
            return sqrt(2 / (1 + activation.slope**2))
        if activation.name not in GAIN_FROM_ACTIVATION:
            known = ", ".join([*GAIN_FROM_ACTIVATION, "leaky_relu", "prelu"])
            raise ValueError(
                f"init.gain: torch knows none for the activation {activation.name!r}; "
                f"allowed: a number, or 'activation' with one of {known}"
            )
        return GAIN_FROM_ACTIVATION[activation.name]

    def reads_activation(self) -> bool:
        return bool(self.gain == "activation")


class Kaiming(_Scaled):
    """He et al. 2015 (arXiv:1502.01852): standard deviation gain / √fan, as ``torch.nn.init.kaiming_normal_``."""

    name: Literal["kaiming_uniform", "kaiming_normal"]
    mode: Literal["fan_in", "fan_out"] = "fan_in"
    """which fan: the weights into one output, or out of one input"""
    gain: Gain = sqrt(2)


class Xavier(_Scaled):
    """Glorot and Bengio 2010: standard deviation gain · √(2 / (fan_in + fan_out)), as ``torch.nn.init.xavier_normal_``."""

    name: Literal["xavier_uniform", "xavier_normal"]


class Orthogonal(_Scaled):
    """Saxe et al. 2014 (arXiv:1312.6120): rows, or columns where they are fewer, orthonormal times gain, as torch's."""

    name: Literal["orthogonal"] = "orthogonal"


Init = Annotated[Annotated[Union[DefaultInit, Kaiming, Xavier, Orthogonal], Field(discriminator="name")], Named]
