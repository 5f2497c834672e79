"""The recipe: everything that the runs of a study share, as frozen pydantic models. Raw TOML values in, a ``Recipe`` out.

One class a part, one field a line, each with its unit. A part with no other field set may be written as its name alone:
``norm = "batch"`` is ``norm = { name = "batch" }``. Unknown keys, wrong types and impossible values raise pydantic's
``ValidationError``, which ``study`` turns into one line with file, line and key.
"""

from allelse.recipe.activations import ELU, Activation, LeakyReLU, PlainActivation, PReLU
from allelse.recipe.augmentations import Augmentation, Crop, CutMix, Cutout, Flip, Mixup, RandomErasing
from allelse.recipe.averaging import EMA, SWA, Averaging
from allelse.recipe.base import NonNegative, Part, Positive
from allelse.recipe.models import MLP, ConvNet, Head, Model, Stem
from allelse.recipe.norms import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, NoNorm, Norm
from allelse.recipe.optimizers import SGD, Adam, AdamW, Constant, Cosine, OneCycle, Optimizer, Schedule, Step
from allelse.recipe.whole import Recipe

__all__ = [
    "ELU",
    "EMA",
    "MLP",
    "SGD",
    "SWA",
    "Activation",
    "Adam",
    "AdamW",
    "Augmentation",
    "Averaging",
    "BatchNorm",
    "Constant",
    "ConvNet",
    "Cosine",
    "Crop",
    "CutMix",
    "Cutout",
    "Flip",
    "GroupNorm",
    "Head",
    "InstanceNorm",
    "LayerNorm",
    "LeakyReLU",
    "Mixup",
    "Model",
    "NoNorm",
    "NonNegative",
    "Norm",
    "OneCycle",
    "Optimizer",
    "PReLU",
    "Part",
    "PlainActivation",
    "Positive",
    "RandomErasing",
    "Recipe",
    "Schedule",
    "Stem",
    "Step",
]
