"""The two families of block networks, and the initial weights: a recipe's model and seeds in, a ready ``Network`` out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allelse import recipe
from allelse.blocks import Conv2d, Linear, Stacked, build_block
from allelse.errors import StudyError
from allelse.seeds import stream


class GlobalAverage(nn.Module):
    """The mean over all positions. [N, R·C, H, W] → [N, R·C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Network(nn.Module):
    """Stem, blocks, pooling and head of R replicas. Images [N, R·C, H, W] → logits [R, N, K]."""

    def __init__(self, replicas: int) -> None:
        super().__init__()
        self.replicas = replicas
        self.stem: nn.Module = nn.Identity()
        self.blocks = nn.ModuleList()
        self.pool = nn.ModuleDict()  # by the number of the block before it, counted from 1
        self.head_pool: nn.Module = nn.Identity()
        self.flatten_images = False
        self.head: Linear

    def features(self, x: Tensor) -> Tensor:
        """What the head's linear layer sees: [N, R·F]."""
        if self.flatten_images:
            x = x.flatten(1)
        x = self.stem(x)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if str(number) in self.pool:
                x = self.pool[str(number)](x)
        return self.head_pool(x).flatten(1)  # channel by channel, so the R replicas stay apart

    def forward(self, x: Tensor) -> Tensor:
        features_NRF = self.features(x).to(self.head.weight.dtype)  # the head is cheap: it computes in the weights' precision
        logits_NRK = self.head(features_NRF)
        return logits_NRK.unflatten(1, (self.replicas, -1)).transpose(0, 1)


def build_network(model: recipe.Model, image_shape: tuple[int, int, int], classes: int, replicas: int) -> Network:
    """A network of R replicas whose weights are all zero until ``initialise``.

    Arguments:
        model: the recipe's model.
        image_shape: height and width in pixels, and channels, of one image.
        classes: K.
        replicas: R.

    Raises:
        StudyError: the images are too small for the pooling or norm that the model asks for.
    """
    network = Network(replicas)
    try:
        if isinstance(model, recipe.MLP):
            features = _add_linear_blocks(network, model, image_shape[0] * image_shape[1] * image_shape[2])
        else:
            features = _add_convolution_blocks(network, model, image_shape)
    except ValueError as error:  # the groups of a norm before the first convolution do not divide the image's channels
        raise StudyError(f"recipe.model.{error}") from None
    network.head = Linear(replicas, features, classes)
    return network


def _add_linear_blocks(network: Network, model: recipe.MLP, features: int) -> int:
    network.flatten_images = True
    for width in model.widths():
        weight = Linear(network.replicas, features, width, model.bias)
        network.blocks.append(build_block(network.replicas, weight, (features, width), model))
        features = width
    return features


def _add_convolution_blocks(network: Network, model: recipe.ConvNet, image_shape: tuple[int, int, int]) -> int:
    replicas = network.replicas
    height, width, channels = image_shape
    if model.stem:
        stem = model.stem
        weight = Conv2d(replicas, channels, stem.width, stem.kernel, model.bias)
        wanted = {"conv": True, "norm": stem.norm, "act": stem.activation}
        order = "-".join(name for name in model.block.split("-") if wanted[name])
        network.stem = build_block(replicas, weight, (channels, stem.width), model.model_copy(update={"block": order}))
        channels = stem.width
    pool = nn.AvgPool2d if model.pool_kind == "avg" else nn.MaxPool2d
    for number, block_width in enumerate(model.widths(), start=1):
        if model.norm.name == "instance" and "norm" in model.block and height * width == 1:
            raise StudyError(f"instance norm meets images of 1 × 1 in block {number} and would set them to 0; pool less often")
        weight = Conv2d(replicas, channels, block_width, model.kernel, model.bias)
        network.blocks.append(build_block(replicas, weight, (channels, block_width), model))
        channels = block_width
        if number in model.pool:
            if min(height, width) < 2:
                raise StudyError(
                    f"model.pool halves the image after block {number}, where it is {height} × {width} already; pool less often"
                )
            network.pool[str(number)] = pool(2)
            height, width = height // 2, width // 2
    if model.head.name == "gap":
        network.head_pool = GlobalAverage()
        return channels
    if model.head.pool > 1:
        network.head_pool = nn.AvgPool2d(model.head.pool)
    if model.head.pool > min(height, width):
        raise StudyError(f"model.head.pool = {model.head.pool} is more than the {height} × {width} pixels that reach the head")
    return channels * (height // model.head.pool) * (width // model.head.pool)


def stacked_parameters(network: nn.Module) -> Iterator[tuple[str, Stacked, str, nn.Parameter]]:
    """Every parameter as (full name, its module, its name there, the parameter of shape [R, ...]), in order."""
    for module_name, module in network.named_modules():
        if isinstance(module, Stacked):
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{module_name}.{name}", module, name, parameter


def initialise(network: Network, seeds: Sequence[int]) -> None:
    """Fill replica r from ``seeds[r]``: each layer from its own stream, keyed by its name and shape (invariant 1)."""
    for full_name, module, name, parameter in stacked_parameters(network):
        shape = tuple(parameter.shape[1:])
        fill = module.fill_from_name[name]
        for replica, seed in enumerate(seeds):
            values = fill(stream(seed, "init", full_name, *shape), shape)
            with torch.no_grad():
                parameter[replica] = torch.from_numpy(values).to(parameter.dtype)


@dataclass(frozen=True)
class Layer:
    """One parameter of a lone network."""

    name: str
    shape: tuple[int, ...]


def layer_table(model: recipe.Model, image_shape: tuple[int, int, int], classes: int) -> tuple[Layer, ...]:
    """The parameters of one network of this model, by name and shape, without making any weights."""
    with torch.device("meta"):
        network = build_network(model, image_shape, classes, replicas=1)
    return tuple(Layer(name, tuple(parameter.shape[1:])) for name, _, _, parameter in stacked_parameters(network))
