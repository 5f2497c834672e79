"""The optimisers that a recipe can name: those of ``torch.optim`` that update every number by itself, with torch's defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union, get_args

from pydantic import BeforeValidator, Field, model_validator

from allelse.recipe.base import Count, Fraction, Listed, Named, NonNegative, Part, Positive
from allelse.recipe.own import Ours, Own, OwnPart, Whose

Betas = Annotated[tuple[Fraction, Fraction], Listed]


class _Rate(Part):
    lr: Positive
    """learning rate at ``lr_batch_size``"""
    lr_scaling: Literal["constant", "linear", "sqrt"] = "constant"
    """how lr follows the batch size: lr · (batch_size / lr_batch_size) to the power 0, 1 or ½"""
    lr_batch_size: Count = 128
    """the batch size that ``lr`` is stated for"""

    def scaled_lr(self, batch_size: int) -> float:
        """The learning rate at ``batch_size`` by the declared rule."""
        power = {"constant": 0.0, "linear": 1.0, "sqrt": 0.5}[self.lr_scaling]
        return self.lr * (batch_size / self.lr_batch_size) ** power


class _Optimizer(_Rate):
    weight_decay: NonNegative = 0.0
    """added to the gradient, times the weights, but for AdamW and where ``decoupled_weight_decay`` is set"""
    decay_norm_and_bias: bool = True
    """whether weight decay also acts on norm parameters, slopes and biases"""


class SGD(_Optimizer):
    """As ``torch.optim.SGD``."""

    name: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.0
    dampening: NonNegative = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGD:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov needs momentum above 0 and no dampening")
        return self


class Adam(_Optimizer):
    """As ``torch.optim.Adam``: weight decay is added to the gradient."""

    name: Literal["adam"] = "adam"
    lr: Positive = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    amsgrad: bool = False


class AdamW(_Optimizer):
    """As ``torch.optim.AdamW``: weight decay acts on the weights themselves."""

    name: Literal["adamw"] = "adamw"
    lr: Positive = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.01
    amsgrad: bool = False


class NAdam(_Optimizer):
    """As ``torch.optim.NAdam``."""

    name: Literal["nadam"] = "nadam"
    lr: Positive = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    momentum_decay: NonNegative = 4e-3
    decoupled_weight_decay: bool = False
    """whether weight decay acts on the weights themselves, as in AdamW"""


class RAdam(_Optimizer):
    """As ``torch.optim.RAdam``."""

    name: Literal["radam"] = "radam"
    lr: Positive = 1e-3
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    decoupled_weight_decay: bool = False
    """whether weight decay acts on the weights themselves, as in AdamW"""


class Adamax(_Optimizer):
    """As ``torch.optim.Adamax``."""

    name: Literal["adamax"] = "adamax"
    lr: Positive = 2e-3
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8


class RMSprop(_Optimizer):
    """As ``torch.optim.RMSprop``."""

    name: Literal["rmsprop"] = "rmsprop"
    lr: Positive = 1e-2
    alpha: Fraction = 0.99
    eps: Positive = 1e-8
    momentum: NonNegative = 0.0
    centered: bool = False


class Adagrad(_Optimizer):
    """As ``torch.optim.Adagrad``."""

    name: Literal["adagrad"] = "adagrad"
    lr: Positive = 1e-2
    lr_decay: NonNegative = 0.0
    initial_accumulator_value: NonNegative = 0.0
    eps: Positive = 1e-10


class Adadelta(_Optimizer):
    """As ``torch.optim.Adadelta``."""

    name: Literal["adadelta"] = "adadelta"
    lr: Positive = 1.0
    rho: Fraction = 0.9
    eps: Positive = 1e-6


class ASGD(_Optimizer):
    """As ``torch.optim.ASGD``: a falling rate and a decay; the averages that it keeps besides are not what is evaluated."""

    name: Literal["asgd"] = "asgd"
    lr: Positive = 1e-2
    lambd: NonNegative = 1e-4
    alpha: NonNegative = 0.75
    t0: NonNegative = 1e6


class Rprop(_Rate):
    """As ``torch.optim.Rprop``, which has no weight decay; ``lr`` is the size of the first step alone."""

    name: Literal["rprop"] = "rprop"
    lr: Positive = 1e-2
    etas: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=1, allow_inf_nan=False)]],
        Listed,
    ] = (0.5, 1.2)
    """what a step is multiplied by when the gradient changed its sign, and when it did not"""
    step_sizes: Annotated[tuple[NonNegative, Positive], Listed] = (1e-6, 50.0)
    """the smallest and the largest step"""

    @model_validator(mode="after")
    def _smallest_first(self) -> Rprop:
        if self.step_sizes[0] > self.step_sizes[1]:
            raise ValueError("step_sizes are the smallest step and then the largest")
        return self


class OwnOptimizer(_Rate, OwnPart):
    """A ``torch.optim.Optimizer`` of the user's own; all keys but those of the rate are its keyword arguments."""


REASON_FROM_REFUSED = {
    "muon": "orthogonalises whole matrices, which would mix the networks of a pack",
    "adafactor": "scales by norms over whole matrices, which would mix the networks of a pack",
    "lbfgs": "searches along one direction for all weights, which would mix the networks of a pack",
    "sparseadam": "is for sparse gradients, which no layer here has",
}


def _refuse(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else value
    if isinstance(name, str) and (reason := REASON_FROM_REFUSED.get(name.lower().replace("_", ""))):
        raise ValueError(f"{name!r} {reason}; allowed: {', '.join(NAMES)}")
    return value


Optimizers = Union[SGD, Adam, AdamW, NAdam, RAdam, Adamax, RMSprop, Adagrad, Adadelta, ASGD, Rprop]
NAMES = [optimizer.model_fields["name"].default for optimizer in get_args(Optimizers)]
Optimizer = Annotated[
    Union[Annotated[Annotated[Optimizers, Field(discriminator="name")], Ours], Annotated[OwnOptimizer, Own]],
    Whose,
    Named,
    BeforeValidator(_refuse),
]
