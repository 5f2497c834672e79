"""The oracle of blocks, models and engine: plain networks from ``torch.nn`` layers alone, trained by ``torch.optim`` alone, fed
images by a loop over single images, so that they share nothing with the packed networks but the names of their parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from engine_support import SEEDS, draws_of
from norm_oracles import PLAIN_FROM_NAME, StandardizedConv2d, StandardizedLinear
from torch import Tensor, nn

from allelse import recipe
from allelse.data import Dataset
from allelse.engine.draws import Draws
from allelse.models import Network
from allelse.seeds import stream

# ── the plain network ───────────────────────────────────────────────────────────────────────────────────────────────


def plain_norm(norm: recipe.Norm, channels: int, images: bool) -> nn.Module:
    if norm.name == "batch":
        kind = nn.BatchNorm2d if images else nn.BatchNorm1d
        return kind(channels, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
    if norm.name == "group":
        return nn.GroupNorm(norm.groups_of(channels), channels, eps=norm.eps, affine=norm.affine)
    if norm.name == "layer":
        return nn.GroupNorm(1, channels, norm.eps, norm.affine) if images else nn.LayerNorm(channels, norm.eps, norm.affine)
    if norm.name == "instance":
        return nn.InstanceNorm2d(channels, eps=norm.eps, affine=norm.affine)
    return PLAIN_FROM_NAME[norm.name](channels, norm) if norm.name in PLAIN_FROM_NAME else nn.Identity()


def plain_activation(activation: recipe.Activation, channels: int = 1) -> nn.Module:
    """torch's own module; the formula of the paper where torch has none."""
    name, numbers = activation.name, activation.model_dump(exclude={"name"})
    if name == "leaky_relu":
        return nn.LeakyReLU(negative_slope=activation.slope)
    if name == "prelu":
        return nn.PReLU(channels if activation.per_channel else 1, init=activation.slope)
    if name == "squareplus":
        return Formula(lambda x: (x + (x**2 + activation.b) ** 0.5) / 2)
    if name == "squared_relu":
        return Formula(lambda x: x.clamp_min(0) ** 2)
    kind_from_name = {kind.__name__.lower(): kind for kind in vars(nn).values() if isinstance(kind, type)}
    return kind_from_name[name](**numbers)


class Formula(nn.Module):
    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x)


class PlainBlock(nn.Sequential):
    """Its parts in order; one named ``shortcut`` sees what entered, and is added."""

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for name, part in self.named_children():
            out = out + part(x) if name == "shortcut" else part(out)
        return out


class PlainDropout(nn.Module):
    """Dropout whose mask is written out number by number in Python's own integers."""

    def __init__(self, name: str, rate: float, unit: str = "numbers") -> None:
        super().__init__()
        self.unit = unit
        self.name, self.rate, self.seed, self.step = name, round(rate * 2**16) / 2**16, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        wholes = {"numbers": 4, "channels": 2, "images": 1}[self.unit]
        shape = [side if place < wholes else 1 for place, side in enumerate(x.shape)]
        kept = torch.tensor([self.keeps(*place, *shape[1:]) for place in np.ndindex(*shape)]).view(shape)
        self.step += 1
        return x * kept / (1 - self.rate)

    def keeps(self, image: int, channel: int, *rest: int) -> bool:
        at, (channels, *sides) = rest[: (len(rest) - 1) // 2], rest[(len(rest) - 1) // 2 :]
        place = image
        for side, along in zip(sides, at, strict=True):
            place = place * side + along
        key = dropout_key(self.seed, self.name)
        word = place * -(-channels // 4) + channel // 4
        bits = splitmix64(splitmix64(key + self.step * GAMMA) + word * GAMMA) >> 16 * (channel % 4) & 0xFFFF
        signed = bits - 2**16 if bits >= 2**15 else bits
        return signed + 2**15 >= self.rate * 2**16


@cache
def dropout_key(seed: int, name: str) -> int:
    return int(stream(seed, "dropout", name).integers(-(2**63), 2**63))


GAMMA = 0x9E3779B97F4A7C15


def splitmix64(x: int) -> int:
    """https://prng.di.unimi.it/splitmix64.c, in the public domain."""
    x %= 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def plain_network(model: recipe.Model, shape: tuple[int, int, int] = (6, 6, 2), classes: int = 3) -> nn.Sequential:
    """One lone network of torch's own layers in float64, its parameters named as the packed network's are."""
    height, width, channels = shape
    mlp = isinstance(model, recipe.MLP)
    if mlp:
        channels *= height * width

    convolution, linear = nn.Conv2d, nn.Linear
    if model.weight_standardization:
        convolution, linear = StandardizedConv2d, StandardizedLinear

    def weight(channels_in: int, channels_out: int, kernel: int, stride: int, bias: bool) -> nn.Module:
        if mlp:
            return linear(channels_in, channels_out, bias)
        return convolution(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=bias)

    def separable(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
        out = nn.Sequential()
        depthwise = convolution(channels_in, channels_in, kernel, stride, kernel // 2, groups=channels_in, bias=False)
        out.add_module("depthwise", depthwise)
        out.add_module("pointwise", convolution(channels_in, channels_out, 1, bias=model.bias))
        return out

    def block(
        name: str, channels_in: int, channels_out: int, kernel: int, parts: Sequence[str], stride: int = 1, skip: bool = False
    ) -> PlainBlock:
        out, now, step, seen = PlainBlock(), channels_in, stride, dict.fromkeys(parts, 0)
        for part in [*parts, *(["add"] if skip and "add" not in parts else [])]:
            seen[part] = seen.get(part, 0) + 1
            key = part if seen[part] == 1 else f"{part}{seen[part]}"
            if part in ("conv", "linear"):
                separate = not mlp and model.conv == "depthwise-separable" and name != "stem"
                made = separable(now, channels_out, kernel, step) if separate else None
                out.add_module(key, made or weight(now, channels_out, kernel, step, model.bias))
                now, step = channels_out, 1
            elif part == "norm":
                number = 0 if name == "stem" else model.depth - 1 if name == "final" else int(name.split(".")[1])
                out.add_module(key, plain_norm(norm_of(model.norm, number), now, not mlp))
            elif part == "act":
                out.add_module(key, plain_activation(model.activation, now))
            elif part == "drop":
                out.add_module(key, PlainDropout(f"{name}.{key}", model.dropout, model.dropout_of))
            elif skip:
                same = channels_in == channels_out and stride == 1
                out.add_module("shortcut", nn.Identity() if same else weight(channels_in, channels_out, 1, stride, False))
        return out

    parts = model.block.split("-")
    network, blocks = nn.Sequential(), nn.Sequential()

    def kept(**wanted: bool) -> list[str]:
        return [part for part in dict.fromkeys(parts) if wanted.get(part)]

    if mlp:
        network.add_module("images", nn.Flatten())
    elif model.stem:
        stem = ["conv", *kept(norm=model.stem.norm, act=model.stem.activation)]
        network.add_module("stem", block("stem", channels, model.stem.width, model.stem.kernel, stem))
        channels = model.stem.width
    widths, kernels = (
        [given] * model.depth if isinstance(given, int) else list(given)[: model.depth]
        for given in (model.width, 1 if mlp else model.kernel)
    )
    for number, (wide, kernel) in enumerate(zip(widths, kernels, strict=True)):
        halves = not mlp and number + 1 in model.pool
        strides = halves and model.pool_kind == "stride"
        inner = block(f"blocks.{number}", channels, wide, kernel, parts, 1 + strides, model.residual)
        if strides:
            height, width = (height + 1) // 2, (width + 1) // 2
        elif halves:
            inner.add_module("pool", nn.MaxPool2d(2) if model.pool_kind == "max" else nn.AvgPool2d(2))
            height, width = height // 2, width // 2
        blocks.add_module(str(number), inner)
        channels = wide
    network.add_module("blocks", blocks)
    if not mlp:
        last = kept(norm=model.head.norm, act=model.head.activation)
        network.add_module("final", block("final", channels, channels, 0, last))
        gap = model.head.name == "gap"
        network.add_module("pool", nn.AdaptiveAvgPool2d(1) if gap else nn.AvgPool2d(model.head.pool))
        network.add_module("flatten", nn.Flatten())
        channels *= 1 if gap else (height // model.head.pool) * (width // model.head.pool)
        hidden = nn.Sequential()
        for number, features in enumerate(model.head.hidden):
            linear = nn.Sequential()
            linear.add_module("linear", nn.Linear(channels, features))
            linear.add_module("act", plain_activation(model.activation, features))
            linear.add_module("drop", PlainDropout(f"hidden.{number}.drop", model.head.dropout))
            hidden.add_module(str(number), linear)
            channels = features
        if not model.head.hidden:
            hidden.add_module("drop", PlainDropout("hidden.drop", model.head.dropout))
        network.add_module("hidden", hidden)
    network.add_module("head", nn.Linear(channels, classes))
    return network.double()


def norm_of(norm: recipe.Norm, number: int) -> recipe.Norm:
    """The norm of the block of that number, counted from 0, where it lists its groups."""
    listed = isinstance(getattr(norm, "groups", None), tuple)
    return recipe.GroupNorm(groups=norm.groups[number], eps=norm.eps, affine=norm.affine) if listed else norm


def packed_name(name: str) -> str:
    """The packed network's name of a plain network's parameter."""
    return name.replace("act.weight", "act.slope")


def load_replica(plain: nn.Module, network: Network, replica: int) -> nn.Module:
    """Give ``plain`` the weights and buffers of one replica, which has the seed of its place in ``SEEDS``."""
    for module in plain.modules():
        if isinstance(module, PlainDropout):
            module.seed, module.step = SEEDS[replica], 0
    state = network.state_dict()
    with torch.no_grad():
        for name, values in plain.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                values.copy_(state[packed_name(name)][replica])
    return plain


def plain_optimizer(plain: nn.Module, optimizer: recipe.Optimizer, lr: float) -> torch.optim.Optimizer:
    """torch's optimiser, not fused; without ``decay_norm_and_bias`` only conv and linear weights decay."""
    matrices = {id(m.weight) for m in plain.modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    if isinstance(optimizer, recipe.Rprop):
        groups: list[dict[str, Any]] = [{"params": list(plain.parameters())}]
        others = []
    else:
        decays = [p for p in plain.parameters() if optimizer.decay_norm_and_bias or id(p) in matrices]
        others = [p for p in plain.parameters() if not (optimizer.decay_norm_and_bias or id(p) in matrices)]
        groups = [{"params": decays, "weight_decay": optimizer.weight_decay}]
    groups += [{"params": others, "weight_decay": 0.0}] if others else []
    kind_from_name = {kind.__name__.lower(): kind for kind in vars(torch.optim).values() if isinstance(kind, type)}
    ours = {"name", "lr", "lr_scaling", "lr_batch_size", "weight_decay", "decay_norm_and_bias"}
    return kind_from_name[optimizer.name](groups, lr=lr, foreach=False, **optimizer.model_dump(exclude=ours))


# ── images, one at a time ───────────────────────────────────────────────────────────────────────────────────────────


def slow_image(images: np.ndarray, index: int, draws: Draws | None, padding: int = 0) -> np.ndarray:
    """Image ``index`` as float64 [C, H, W]: padded, cropped, mirrored, in that order."""
    image = images[index].astype(np.float64)
    height, width, _ = image.shape
    if draws is not None and draws.crop is not None:
        top, left = draws.crop[index]
        image = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))[top : top + height, left : left + width]
    if draws is not None and draws.flip is not None and draws.flip[index]:
        image = image[:, ::-1]
    return image.transpose(2, 0, 1)


def slow_batch(
    images: np.ndarray,
    index: Sequence[int],
    draws: Draws | None = None,
    padding: int = 0,
    cutout: int = 0,
    by: np.ndarray | None = None,
) -> Tensor:
    """[B, C, H, W], normalised with mean and standard deviation of ``by`` (the training split), then cut out and erased."""
    by = images if by is None else by
    mean = by.astype(np.float64).mean((0, 1, 2))[:, None, None]
    sd = by.astype(np.float64).std((0, 1, 2))[:, None, None]
    out = []
    for number in index:
        image = (slow_image(images, number, draws, padding) - mean) / sd
        if draws is not None and draws.cutout is not None:
            for row in range(image.shape[1]):
                for column in range(image.shape[2]):
                    down, right = np.array([row, column]) - (draws.cutout[number] - cutout // 2)
                    if 0 <= down < cutout and 0 <= right < cutout:
                        image[:, row, column] = 0.0
        if draws is not None and draws.erased is not None:
            top, bottom, left, right = draws.erased[number]
            image[:, top:bottom, left:right] = 0.0
        out.append(image)
    return torch.from_numpy(np.ascontiguousarray(np.stack(out)))  # torch's group norm crashes on channels-last images


def epoch_batches(values: recipe.Recipe, dataset: Dataset, seed: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """What a lone network of ``seed`` sees in one epoch of ``values``, image by image."""
    images, labels = dataset.train_images, dataset.train_labels
    draws = draws_of(values, dataset, seed, epoch)
    number_from_name = {"crop": 0, "cutout": 0}
    for part in values.augment:
        if part.name != "flip":
            number_from_name[part.name] = part.padding if part.name == "crop" else part.size
    batches = []
    for first in range(0, len(draws.order) - values.batch_size + 1, values.batch_size):
        index = draws.order[first : first + values.batch_size]
        x = slow_batch(images, index, draws, number_from_name["crop"], number_from_name["cutout"])
        batches.append((x, torch.from_numpy(labels[index])))
    return batches


def train_plain(
    plain: nn.Module, optimizer: torch.optim.Optimizer, batches: Sequence[tuple[Tensor, Tensor]], smoothing: float = 0.0
) -> list[float]:
    """The loop that people write; the loss of each step."""
    plain.train()
    losses = []
    for x, labels in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(plain(x), labels, label_smoothing=smoothing)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def assert_same_state(plain: nn.Module, network: Network, replica: int, tolerance: float = 1e-10, say: str = "") -> None:
    """Parameters and buffers of one replica equal those of a lone plain network."""
    state = network.state_dict()
    for name, values in plain.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            ours = state[packed_name(name)][replica]
            if not torch.allclose(ours, values, rtol=tolerance, atol=tolerance):  # many times faster than assert_close
                torch.testing.assert_close(
                    ours, values, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{say} {name}: {text}"
                )
