"""The recipe: everything that the runs of a study share, as frozen pydantic models. Raw TOML values in, a ``Recipe`` out.

One class a part, one field a line, each with its unit. A part with no other field set may be written as its name alone:
``norm = "batch"`` is ``norm = { name = "batch" }``. Unknown keys, wrong types and impossible values raise pydantic's
``ValidationError``, which ``study`` turns into one line with file, line and key.
"""

from allelse.recipe.activations import (
    ELU,
    GELU,
    Activation,
    HardTanh,
    LeakyReLU,
    PlainActivation,
    PReLU,
    Shrink,
    Softplus,
    Squareplus,
    Threshold,
)
from allelse.recipe.augmentations import Augmentation, Crop, Cutout, Flip
from allelse.recipe.base import NonNegative, Part, Positive
from allelse.recipe.initialisation import DefaultInit, Init, Kaiming, Orthogonal, Xavier
from allelse.recipe.models import MLP, ConvNet, Head, Model, Stem
from allelse.recipe.norms import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, NoNorm, Norm
from allelse.recipe.optimizers import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)
from allelse.recipe.schedules import Constant, Cosine, Exponential, Linear, OneCycle, Polynomial, Schedule, Step
from allelse.recipe.whole import Recipe

__all__ = [
    "ASGD",
    "ELU",
    "GELU",
    "MLP",
    "SGD",
    "Activation",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Augmentation",
    "BatchNorm",
    "Constant",
    "ConvNet",
    "Cosine",
    "Crop",
    "Cutout",
    "DefaultInit",
    "Exponential",
    "Flip",
    "GroupNorm",
    "HardTanh",
    "Head",
    "Init",
    "InstanceNorm",
    "Kaiming",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "Model",
    "NAdam",
    "NoNorm",
    "NonNegative",
    "Norm",
    "OneCycle",
    "Optimizer",
    "Orthogonal",
    "PReLU",
    "Part",
    "PlainActivation",
    "Polynomial",
    "Positive",
    "RAdam",
    "RMSprop",
    "Recipe",
    "Rprop",
    "Schedule",
    "Shrink",
    "Softplus",
    "Squareplus",
    "Stem",
    "Step",
    "Threshold",
    "Xavier",
]
