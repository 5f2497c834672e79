"""Tiny data, packs and plain torch networks for the tests of blocks, models and engine.

The plain network here is the oracle: built from ``torch.nn`` layers alone, trained by ``torch.optim`` alone, and fed images
by a loop over single images, so that it shares nothing with the packed network but the names of its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allelse import recipe
from allelse.data import Dataset, split
from allelse.data.dataset import assemble
from allelse.engine.draws import Draws, draw_epoch
from allelse.engine.loop import Training
from allelse.models import Network, build_network, initialise
from allelse.records import Pack, RunSpec

CPU = torch.device("cpu")
SEEDS = (3, 1, 11)
NORMS: dict[str, dict[str, Any]] = {
    "batch": {"name": "batch"},
    "group": {"name": "group", "groups": 2},
    "layer": {"name": "layer"},
    "instance": {"name": "instance"},
    "none": {"name": "none"},
}
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "sigmoid": {"name": "sigmoid"},
    "tanh": {"name": "tanh"},
    "relu": {"name": "relu"},
    "leaky_relu": {"name": "leaky_relu", "slope": 0.2},
    "prelu": {"name": "prelu", "slope": 0.375},
    "elu": {"name": "elu", "alpha": 1.5},
    "silu": {"name": "silu"},
    "gelu": {"name": "gelu"},
    "mish": {"name": "mish"},
    "identity": {"name": "identity"},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.05},
    "momentum": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    "nesterov": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True},
    "adam": {"name": "adam", "lr": 0.01, "weight_decay": 0.01, "eps": 1e-4},
    "adamw": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "decay_norm_and_bias": False, "eps": 1e-4},
}
# The gradient of a bias right before a norm is nothing but rounding, some 1e-17, which Adam's usual eps of 1e-8 would blow up.
TWO_PARTS = ("conv", "conv-norm", "norm-conv", "conv-act", "act-conv")
THREE_PARTS = ("conv-norm-act", "conv-act-norm", "norm-conv-act", "act-conv-norm", "norm-act-conv", "act-norm-conv")
ORDERS = (*TWO_PARTS, *THREE_PARTS)


def toy_dataset(train: int = 24, test: int = 9, side: int = 6, channels: int = 2, classes: int = 3, seed: int = 0) -> Dataset:
    """Random images whose classes differ in brightness, so that there is something to learn."""
    rng = np.random.default_rng(seed)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % classes
        noise = rng.integers(0, 160, (count, side, side, channels))
        return (noise + (95 * labels // max(classes - 1, 1))[:, None, None, None]).astype(np.uint8), labels

    return assemble("toy", part(train), part(test), tuple(f"class {k}" for k in range(classes)))


def tiny_recipe(**changes: Any) -> dict[str, Any]:
    """A whole recipe as plain values: two blocks of width 4 in float64, two epochs of three steps."""
    model = {"width": 4, "depth": 2, "block": "conv-norm-act", **changes.pop("model", {})}
    values = {
        "dataset": "toy",
        "epochs": 2,
        "batch_size": 8,
        "precision": "fp64",
        "optimizer": {"name": "sgd", "lr": 0.05},
        **changes,
    }
    return recipe.Recipe.model_validate({**values, "model": model}).model_dump(mode="json")


def pack_of(values: Mapping[str, Any], seeds: Sequence[int] = SEEDS) -> Pack:
    return Pack(tuple(RunSpec({}, values, seed) for seed in seeds))


def network_of(
    model: recipe.Model, seeds: Sequence[int] = SEEDS, shape: tuple[int, int, int] = (6, 6, 2), classes: int = 3
) -> Network:
    """A packed network in float64, from each seed's own weights."""
    network = build_network(model, shape, classes, len(seeds)).double()
    initialise(network, seeds)
    return network


def trained(pack: Pack, dataset: Dataset, epochs: int | None = None) -> Training:
    """The training of ``pack`` after ``epochs`` epochs (all of them when left out)."""
    training = Training(pack, dataset, CPU)
    for _ in range(training.epochs if epochs is None else epochs):
        training.run_epoch(lambda progress: None)
    return training


def draws_of(values: recipe.Recipe, dataset: Dataset, seed: int, epoch: int = 0) -> Draws:
    """What ``seed`` draws for one epoch of ``values``."""
    subset, _ = split(
        dataset, train_per_class=values.train_per_class, validation_per_class=values.validation_per_class, seed=seed
    )
    return draw_epoch(seed, epoch, subset, len(dataset.train_images), dataset.train_images.shape[1:3], values)


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


def model_of(**values: Any) -> recipe.Model:
    return recipe.Recipe.model_validate(tiny_recipe(model=values)).model


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
    return nn.Identity()


def plain_activation(activation: recipe.Activation) -> nn.Module:
    name = activation.name
    if name == "leaky_relu":
        return nn.LeakyReLU(activation.slope)
    if name == "prelu":
        return nn.PReLU(init=activation.slope)
    if name == "elu":
        return nn.ELU(activation.alpha)
    kinds = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "mish": nn.Mish}
    return kinds[name]() if name in kinds else nn.Identity()


def plain_network(model: recipe.Model, shape: tuple[int, int, int] = (6, 6, 2), classes: int = 3) -> nn.Sequential:
    """One lone network of torch's own layers in float64, its parameters named as the packed network's are."""
    height, width, channels = shape
    mlp = isinstance(model, recipe.MLP)
    if mlp:
        channels *= height * width

    def block(channels_in: int, channels_out: int, kernel: int, parts: Sequence[str]) -> nn.Sequential:
        out, now = nn.Sequential(), channels_in
        for part in parts:
            if part == "conv":
                out.add_module(part, nn.Conv2d(channels_in, channels_out, kernel, padding="same", bias=model.bias))
                now = channels_out
            elif part == "linear":
                out.add_module(part, nn.Linear(channels_in, channels_out, model.bias))
                now = channels_out
            else:
                out.add_module(
                    part, plain_norm(model.norm, now, not mlp) if part == "norm" else plain_activation(model.activation)
                )
        return out

    parts = model.block.split("-")
    network, blocks = nn.Sequential(), nn.Sequential()
    if mlp:
        network.add_module("images", nn.Flatten())
    elif model.stem:
        leave_out = {"norm": not model.stem.norm, "act": not model.stem.activation}
        kept = [part for part in parts if not leave_out.get(part)]
        network.add_module("stem", block(channels, model.stem.width, model.stem.kernel, kept))
        channels = model.stem.width
    widths = [model.width] * model.depth if isinstance(model.width, int) else list(model.width)[: model.depth]
    for number, wide in enumerate(widths):
        inner = block(channels, wide, 0 if mlp else model.kernel, parts)
        if not mlp and number + 1 in model.pool:
            inner.add_module("pool", nn.MaxPool2d(2) if model.pool_kind == "max" else nn.AvgPool2d(2))
            height, width = height // 2, width // 2
        blocks.add_module(str(number), inner)
        channels = wide
    network.add_module("blocks", blocks)
    if not mlp:
        gap = model.head.name == "gap"
        network.add_module("pool", nn.AdaptiveAvgPool2d(1) if gap else nn.AvgPool2d(model.head.pool))
        network.add_module("flatten", nn.Flatten())
        channels *= 1 if gap else (height // model.head.pool) * (width // model.head.pool)
    network.add_module("head", nn.Linear(channels, classes))
    return network.double()


def packed_name(name: str) -> str:
    """The packed network's name of a plain network's parameter."""
    return name.replace("act.weight", "act.slope")


def load_replica(plain: nn.Module, network: Network, replica: int) -> nn.Module:
    """Give ``plain`` the weights and buffers of one replica."""
    state = network.state_dict()
    with torch.no_grad():
        for name, values in plain.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                values.copy_(state[packed_name(name)][replica])
    return plain


def plain_optimizer(plain: nn.Module, optimizer: recipe.Optimizer, lr: float) -> torch.optim.Optimizer:
    """torch's optimiser, not fused; without ``decay_norm_and_bias`` only conv and linear weights decay."""
    matrices = {id(m.weight) for m in plain.modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    decays = [p for p in plain.parameters() if optimizer.decay_norm_and_bias or id(p) in matrices]
    others = [p for p in plain.parameters() if not (optimizer.decay_norm_and_bias or id(p) in matrices)]
    groups: list[dict[str, Any]] = [{"params": decays, "weight_decay": optimizer.weight_decay}]
    groups += [{"params": others, "weight_decay": 0.0}] if others else []
    if isinstance(optimizer, recipe.SGD):
        return torch.optim.SGD(groups, lr=lr, momentum=optimizer.momentum, nesterov=optimizer.nesterov, foreach=False)
    kind = torch.optim.AdamW if isinstance(optimizer, recipe.AdamW) else torch.optim.Adam
    return kind(groups, lr=lr, betas=optimizer.betas, eps=optimizer.eps, foreach=False)


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
