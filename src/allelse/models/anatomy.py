"""The anatomy of a network: a recipe's model and an image shape in, one row a layer with its shape and its costs out.

Nothing is trained and no weights are made: one lone network runs on torch's meta device, which has shapes only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from allelse import recipe
from allelse.blocks import Own
from allelse.models.network import build_network, initialise

BLIND = 1e-9
"""logits of images that differ by no more, relative to the largest, differ by rounding"""
IMAGES = 2
"""How many images the network is shown: the batch statistics of a single one may be undefined."""


@dataclass(frozen=True)
class LayerRow:
    """One layer of one lone network, in the order in which an image passes them."""

    name: str
    """as in fingerprints and probes, e.g. ``blocks.0.conv``"""
    kind: str
    """e.g. ``Conv2d 3×3, stride 1``"""
    output_shape: tuple[int, ...]
    """of one image: channels, height, width; or features"""
    parameters: int
    """how many numbers it learns"""
    macs: int
    """multiply–adds of its convolutions and products for one image; normalising and activating count as none"""
    activations: int
    """numbers in its output for one image"""


def layer_rows(model: recipe.Model, image_shape: tuple[int, int, int], classes: int) -> tuple[LayerRow, ...]:
    """Every layer that computes something; what does nothing (no norm, no pooling) has no row.

    Multiply–adds are half of what ``torch.utils.flop_counter`` counts; biases are left out, as they are there.

    Arguments:
        model: the recipe's model.
        image_shape: height and width in pixels, and channels, of one image.
        classes: K.

    Raises:
        RecipeError: the images are too small for the model.
    """
    height, width, channels = image_shape
    rows: list[LayerRow] = []
    with torch.device("meta"):
        network = build_network(model, image_shape, classes, replicas=1).eval()
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        for name, module in network.named_modules():
            if _is_layer(module):
                module.register_forward_hook(_recorder(rows, name, network, counter))
        network(torch.empty(IMAGES, channels, height, width))
    return tuple(rows)


@lru_cache(maxsize=256)
def tells_images_apart(model: recipe.Model, image_shape: tuple[int, int, int], classes: int) -> bool:
    """Whether what a network of this model says depends on the image, for one of a few random weights and in float64.

    It does not where a norm gives each channel of every image the same mean, and a later part takes that mean alone.
    """
    height, width, channels = image_shape
    network = build_network(model, image_shape, classes, replicas=1).double().eval()
    for seed in range(3):
        initialise(network, [seed])
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
            logits_NK = network(torch.randn(2 * IMAGES, channels, height, width, generator=noise, dtype=torch.float64))[0]
        if logits_NK.std(0).max() > BLIND * (1 + logits_NK.abs().max()):
            return True
    return False


def _is_layer(module: nn.Module) -> bool:
    if isinstance(module, Own):
        return True
    has_own_parameters = next(module.parameters(recurse=False), None) is not None
    has_parts = next(module.children(), None) is not None
    return has_own_parameters or not (
        has_parts or isinstance(module, (nn.Identity, nn.Sequential, nn.ModuleList, nn.ModuleDict))
    )


def _recorder(
    rows: list[LayerRow], name: str, network: nn.Module, counter: FlopCounterMode
) -> Callable[[nn.Module, Any, Tensor], None]:
    def flops(path: str) -> int:
        return sum(counter.get_flop_counts().get(f"{type(network).__name__}.{path}", {}).values())

    def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
        shape = tuple(output.shape[1:])
        inner = sum(flops(f"{name}.{part}") for part, _ in module.named_children())
        recurse = isinstance(module, Own)  # one layer, whatever is inside
        parameters = sum(parameter.numel() for parameter in module.parameters(recurse))
        macs = (flops(name) - inner) // (2 * IMAGES)
        rows.append(LayerRow(name, _kind(module), shape, parameters, macs, prod(shape)))

    return record


def _kind(module: nn.Module) -> str:
    """The module's type, and what it says of itself."""
    if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
        return f"{type(module).__name__} {module.kernel_size}×{module.kernel_size}"
    return f"{type(module).__name__} {module.extra_repr()}".strip()
