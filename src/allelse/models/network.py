"""The two families of block networks, and the initial weights: a recipe's model and seeds in, a ready ``Network`` out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from allelse import recipe
from allelse.blocks import (
    Block,
    Conv2d,
    Dropout,
    Linear,
    Own,
    Rows,
    SeparableConv2d,
    Stacked,
    build_activation,
    build_block,
    build_dropout,
    build_own,
    change_fills,
    standardize_weights,
)
from allelse.blocks.block import SHORTCUT
from allelse.blocks.norms.affine import Affine
from allelse.errors import RecipeError
from allelse.seeds import stream


class GlobalAverage(nn.Module):
    """The mean over all positions. [N, R·C, H, W] → [N, R·C]."""

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:  # autograd hands on one number a channel, spread out without strides: five times slower above here
            x.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
        return x.mean((2, 3))


class Network(nn.Module):
    """Stem, blocks, pooling and head of R replicas. Images [N, R·C, H, W] → logits [R, N, K]."""

    def __init__(self, replicas: int) -> None:
        super().__init__()
        self.replicas = replicas
        self.flatten_images = False
        self.stem: nn.Module = nn.Identity()
        self.blocks = nn.ModuleList()
        self.pool = nn.ModuleDict()  # by the number of the block before it, counted from 1
        self.final: nn.Module = nn.Identity()
        self.head_pool: nn.Module = nn.Identity()
        self.hidden = nn.Sequential()
        self.head: Linear

    def features(self, x: Tensor) -> Tensor:
        """What the head's first linear layer sees: [N, R·F]."""
        if self.flatten_images:
            x = x.flatten(1)
        x = self.stem(x)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if str(number) in self.pool:
                x = self.pool[str(number)](x)
        return self.head_pool(self.final(x)).flatten(1)  # channel by channel, so the R replicas stay apart

    def forward(self, x: Tensor) -> Tensor:
        features_NRF = self.features(x).to(self.head.weight.dtype)  # the head is cheap: it computes in the weights' precision
        logits_NRK = self.head(self.hidden(features_NRF))
        return logits_NRK.unflatten(1, (self.replicas, -1)).transpose(0, 1)


class OwnNetwork(Network):
    """A whole network of the user's own."""

    def __init__(self, replicas: int, net: Own) -> None:
        super().__init__(replicas)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).unflatten(1, (self.replicas, -1)).transpose(0, 1)


def build_network(model: recipe.Model, image_shape: tuple[int, int, int], classes: int, replicas: int) -> Network:
    """A network of R replicas whose weights are all zero until ``initialise``.

    Arguments:
        model: the recipe's model.
        image_shape: height and width in pixels, and channels, of one image.
        classes: K.
        replicas: R.

    Raises:
        RecipeError: the images are too small for the pooling or norm that the model asks for.
    """
    network = Network(replicas)
    try:
        if isinstance(model, recipe.OwnModel):
            return OwnNetwork(replicas, build_own(replicas, model, "family", (image_shape, classes), _as_entered(image_shape)))
        if isinstance(model, recipe.MLP):
            features = _add_linear_blocks(network, model, image_shape[0] * image_shape[1] * image_shape[2])
        else:
            features = _add_convolution_blocks(network, model, image_shape)
        if model.weight_standardization:
            standardize_weights(network)
    except ValueError as error:  # the groups of a norm before the first convolution do not divide the image's channels
        key = str(error).split()[0]  # with which these texts begin
        raise RecipeError(str(error), ("model", *key.split("."))) from None
    change_fills(network, model)  # before there is a last layer, which keeps torch's default
    network.head = Linear(replicas, features, classes)
    return network


def _as_entered(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    height, width, channels = image_shape
    return channels, height, width


def _add_linear_blocks(network: Network, model: recipe.MLP, features: int) -> int:
    """Returns what leaves the last block."""
    network.flatten_images = True
    replicas, parts = network.replicas, model.parts()
    normed_before, normed_after = ("norm" in around for around in model.around_weight())
    for number, width in enumerate(model.widths(), start=1):
        for meets in (features,) * normed_before + (width,) * normed_after:
            if model.norm_of_block(number).needs_positions(meets):
                raise RecipeError(
                    f"norm {model.norm.name!r} as it is here takes each statistic over a single value, because an MLP has one "
                    f"value a feature and block {number} gives it {meets}; allowed: batch, renorm, layer, rms, none; ghost of "
                    "at least 2 images; group and evonorm-s0 with at least 2 features a group",
                    ("model", "norm"),
                )
        if isinstance(model.block, recipe.OwnPart):
            weights: list[nn.Module] = [build_own(replicas, model.block, "block", (features, width), (features,))]
        else:
            weights = [Linear(replicas, now, width, model.bias) for now in _entering(parts, "linear", features, width)]
        shortcut: nn.Module | None = None
        if model.residual:
            shortcut = nn.Identity() if features == width else Linear(replicas, features, width, bias=False)
        network.blocks.append(build_block(replicas, model, number, parts, (features, width), weights, shortcut))
        features = width
    return features


def _add_convolution_blocks(network: Network, model: recipe.ConvNet, image_shape: tuple[int, int, int]) -> int:
    """Returns what the head's first linear layer sees."""
    replicas, parts = network.replicas, model.parts()
    height, width, channels = image_shape
    if model.stem:
        stem = model.stem
        weight = Conv2d(replicas, channels, stem.width, stem.kernel, model.bias)
        kept = ["conv", *_once(model, norm=stem.norm, act=stem.activation)]
        network.stem = build_block(replicas, model, 1, kept, (channels, stem.width), [weight])
        channels = stem.width
    normed_before, normed_after = ("norm" in around for around in model.around_weight())
    kind = SeparableConv2d if model.conv == "depthwise-separable" else Conv2d
    for number, (block_width, kernel) in enumerate(zip(model.widths(), model.kernels(), strict=True), start=1):
        halves = number in model.pool
        stride = 2 if halves and model.pool_kind == "stride" else 1
        if halves and min(height, width) < 2:
            raise RecipeError(
                f"halves the image after block {number}, where it is {height} × {width} already; pool less often",
                ("model", "pool"),
            )
        if normed_before:
            _check_norm(model, height * width, number, channels)
        height, width = ceil(height / stride), ceil(width / stride)
        if normed_after:
            _check_norm(model, height * width, number, block_width)
        if isinstance(model.block, recipe.OwnPart):
            entered = (channels, height, width)
            own = build_own(replicas, model.block, "block", (channels, block_width), entered)
            _, height, width = own.shape_after(entered)
            if model.residual and (height, width) != entered[1:]:
                raise own.refused(f"gives {height} × {width} for {entered[1]} × {entered[2]}, which residual = true cannot add")
            weights: list[nn.Module] = [own]
        else:
            weights = [
                kind(replicas, entering, block_width, kernel, model.bias, 1 if place else stride)
                for place, entering in enumerate(_entering(parts, "conv", channels, block_width))
            ]
        shortcut: nn.Module | None = None
        if model.residual:
            same = channels == block_width and stride == 1
            shortcut = nn.Identity() if same else Conv2d(replicas, channels, block_width, 1, False, stride)
        network.blocks.append(build_block(replicas, model, number, parts, (channels, block_width), weights, shortcut))
        channels = block_width
        if halves and model.pool_kind != "stride":
            network.pool[str(number)] = nn.AvgPool2d(2) if model.pool_kind == "avg" else nn.MaxPool2d(2)
            height, width = height // 2, width // 2
    return _add_head(network, model, (height, width, channels))


def _entering(parts: Sequence[str], weight: str, first: int, width: int) -> list[int]:
    """What enters each convolution or linear layer of a block."""
    return [first if name == weight else width for name in parts if name.startswith(weight)]


def _once(model: recipe.ConvNet, **wanted: bool) -> list[str]:
    """The wanted kinds of parts in the order in which a block has them first, beside one of the user's own the usual."""
    parts = ("conv", "norm", "act") if isinstance(model.block, recipe.OwnPart) else model.parts()
    return [name for name in parts if wanted.get(name)]


def _check_norm(model: recipe.ConvNet, positions: int, number: int, channels: int, where: str = "") -> None:
    if positions == 1 and model.norm_of_block(number).needs_positions(channels):
        raise RecipeError(
            f"norm {model.norm.name!r} meets images of 1 × 1 in {where or f'block {number}'}, which leave it nothing to "
            "normalise over; pool less often",
            ("model", "pool"),
        )


def _add_head(network: Network, model: recipe.ConvNet, shape: tuple[int, int, int]) -> int:
    replicas, head = network.replicas, model.head
    height, width, channels = shape
    if kept := _once(model, norm=head.norm, act=head.activation):
        if "norm" in kept:
            _check_norm(model, height * width, model.depth, channels, "the head")
        network.final = build_block(replicas, model, model.depth, kept, (channels, channels), [])
    if head.name == "gap":
        network.head_pool, features = GlobalAverage(), channels
    else:
        if head.pool > min(height, width):
            reaches = f"the {height} × {width} pixels that reach the head"
            raise RecipeError(
                f"{head.pool} is more than {reaches}; allowed: 1 to {min(height, width)}", ("model", "head", "pool")
            )
        if head.pool > 1:
            network.head_pool = nn.AvgPool2d(head.pool)
        features = channels * (height // head.pool) * (width // head.pool)
    for number, hidden in enumerate(head.hidden):
        part_from_name = {
            "linear": Linear(replicas, features, hidden),
            "act": build_activation(replicas, hidden, model.activation, images=False),
            "drop": build_dropout(replicas, head.dropout),
        }
        network.hidden.add_module(str(number), Block(part_from_name))
        features = hidden
    if not head.hidden:
        network.hidden.add_module("drop", build_dropout(replicas, head.dropout))
    return features


def stacked_parameters(network: nn.Module) -> Iterator[tuple[str, Stacked, str, nn.Parameter]]:
    """Every parameter as (full name, its module, its name there, the parameter of shape [R, ...]), in order."""
    for module_name, module in network.named_modules():
        if isinstance(module, Stacked):
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{module_name}.{name}", module, name, parameter


def initialise(network: Network, seeds: Sequence[int]) -> None:
    """Fill replica r from ``seeds[r]``: each layer from its own stream, keyed by its name and shape (invariant 1).

    So does each dropout, whose stream is keyed by its name alone, and each part of the user's own, which is made anew with
    torch's global generator seeded from that stream.
    """
    for full_name, module, name, parameter in stacked_parameters(network):
        if isinstance(module, Rows):
            continue  # below, with all that its part has
        shape = tuple(parameter.shape[1:])
        fill = module.fill_from_name[name]
        for replica, seed in enumerate(seeds):
            values = fill(stream(seed, "init", full_name, *shape), shape)
            with torch.no_grad():
                parameter[replica] = torch.from_numpy(values).to(parameter.dtype)
    for name, part in network.named_modules():
        for replica, seed in enumerate(seeds) if isinstance(part, (Dropout, Own)) else ():
            if isinstance(part, Dropout):
                part.draw_key(replica, stream(seed, "dropout", name))
            else:
                part.draw(replica, stream(seed, "init", name))


def centred_biases(network: Network) -> list[nn.Parameter]:
    """The biases and shifts that a norm takes out again, as it subtracts each channel's mean: none has any gradient.

    What arithmetic leaves in its place is rounding, of which optimisers that divide by the size of gradients make steps as
    large as any, and running means follow them. Between such a bias and its norm stand only parts that a shift goes through;
    one that is added to what goes past its norm, as in a residual network, is not among them.
    """
    found: list[nn.Parameter | None] = []
    shifts: list[nn.Parameter | None] = []
    """what has done nothing, up to here, but to shift whole channels"""
    for part in _one_after_another(network):
        if isinstance(part, (Conv2d, Linear, SeparableConv2d)):
            first, last = (part.depthwise, part.pointwise) if isinstance(part, SeparableConv2d) else (part, part)
            kept = isinstance(first, Linear) or first.is_pointwise  # padding makes of a shift more than a shift
            shifts = [*(shifts if kept else ()), last.bias]
        elif isinstance(part, Affine):
            found += shifts if part.centres_channels else ()
            shifts = [part.bias]  # all norms of a network are of one kind, and none that ends in an activation centres
        elif not isinstance(part, (nn.Identity, nn.AvgPool2d, nn.MaxPool2d)):
            shifts = []
    return [bias for bias in found if bias is not None]


def _one_after_another(network: Network) -> Iterator[nn.Module]:
    """The parts up to the head, in order; where a block's input also goes past it, the network itself stands before it."""
    for number, block in enumerate((network.stem, *network.blocks, network.final)):
        parts = dict(block.named_children())
        if parts.pop(SHORTCUT, None):
            yield network
        yield from parts.values()
        if str(number) in network.pool:
            yield network.pool[str(number)]


def own_parts(model: recipe.Model, image_shape: tuple[int, int, int], classes: int) -> list[Own]:
    """The parts of the user's own in a network of this model, without making any weights.

    Raises:
        PartError: a part is refused.
    """
    with torch.device("meta"):
        network = build_network(model, image_shape, classes, replicas=1)
    return [module for module in network.modules() if isinstance(module, Own)]


def way_of_filling(module: Stacked, name: str) -> str:
    """What a parameter's initial values follow from besides seed, name and shape: ``of 8x3x3 by kaiming``, or nothing more."""
    ways = []
    if name == "bias" and isinstance(module, (Conv2d, Linear)):  # its range follows from its layer's inputs
        ways.append("of " + "x".join(map(str, module.weight.shape[1:])))
    if rule := module.rule(name):
        ways.append(f"by {rule}")
    return " ".join(ways)


@dataclass(frozen=True)
class Layer:
    """One parameter of a lone network."""

    name: str
    shape: tuple[int, ...]
    way: str
    """``way_of_filling``"""


def layer_table(model: recipe.Model, image_shape: tuple[int, int, int], classes: int) -> tuple[Layer, ...]:
    """The parameters of one network of this model, by name and shape, without making any weights."""
    with torch.device("meta"):
        network = build_network(model, image_shape, classes, replicas=1)
    return tuple(
        Layer(full_name, tuple(parameter.shape[1:]), way_of_filling(module, name))
        for full_name, module, name, parameter in stacked_parameters(network)
    )
