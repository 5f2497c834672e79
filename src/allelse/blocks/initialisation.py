"""Initial weights by other rules than torch's default: a network's layers and a recipe's rule in, their ``Fill``s changed."""

from __future__ import annotations

from math import prod, sqrt

import numpy as np
from torch import nn

from allelse import recipe
from allelse.blocks.weights import Conv2d, Linear, Rule, constant


def change_fills(layers: nn.Module, model: recipe.ConvNet | recipe.MLP) -> None:
    """Have ``model.init`` fill all convolutions and linear layers within ``layers``.

    A uniform rule takes the draws of torch's default, scaled; the normal rules and the orthogonal one share normal draws.
    """
    for layer in layers.modules():
        if isinstance(layer, (Conv2d, Linear)):
            if model.init.name != "default":
                layer.fill_from_name["weight"] = _rule(model.init, model.init.gain_with(model.activation))
            if model.init.bias == "zero" and layer.bias is not None:
                layer.fill_from_name["bias"] = Rule("zero", constant(0.0))


def _rule(init: recipe.Init, gain: float) -> Rule:
    if isinstance(init, recipe.Orthogonal):
        return Rule(f"{init.name} {gain}", lambda generator, shape: gain * _orthogonal(generator, shape))
    mode = init.mode if isinstance(init, recipe.Kaiming) else "both fans"

    def fill(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        fan_in, fan_out = prod(shape[1:]), shape[0] * prod(shape[2:])
        fan = {"fan_in": fan_in, "fan_out": fan_out, "both fans": (fan_in + fan_out) / 2}[mode]
        sd = gain / sqrt(fan)
        if init.name.endswith("normal"):
            return sd * generator.standard_normal(shape)
        bound = sqrt(3) * sd  # a uniform distribution's standard deviation is its bound over √3
        return generator.uniform(-bound, bound, shape)

    return Rule(f"{init.name} {mode} {gain}", fill)


def _orthogonal(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform over the matrices [shape[0], rest] whose rows, or columns where those are fewer, are orthonormal.

    The QR decomposition of a normal matrix, its signs settled (Mezzadri 2007, arXiv:math-ph/0609050), as torch does it.
    """
    normal = generator.standard_normal((shape[0], prod(shape[1:])))
    wide = normal.shape[0] < normal.shape[1]
    q, r = np.linalg.qr(normal.T if wide else normal)
    q *= np.sign(np.diag(r))
    return (q.T if wide else q).reshape(shape)
