"""Tiny data, packs and networks for the tests of blocks, models and engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

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
    "relu6": {"name": "relu6"},
    "selu": {"name": "selu"},
    "softsign": {"name": "softsign"},
    "tanhshrink": {"name": "tanhshrink"},
    "logsigmoid": {"name": "logsigmoid"},
    "hardsigmoid": {"name": "hardsigmoid"},
    "hardswish": {"name": "hardswish"},
    "squared_relu": {"name": "squared_relu"},
    "celu": {"name": "celu", "alpha": 0.5},
    "softplus": {"name": "softplus", "beta": 2.0, "threshold": 3.0},
    "squareplus": {"name": "squareplus", "b": 1.5},
    "hardtanh": {"name": "hardtanh", "min_val": -0.5, "max_val": 2.0},
    "softshrink": {"name": "softshrink", "lambd": 0.25},
    "hardshrink": {"name": "hardshrink", "lambd": 0.25},
    "threshold": {"name": "threshold", "threshold": 0.125, "value": -0.3},
}
CROSSED_ACTIVATIONS = ("sigmoid", "relu", "prelu", "gelu")
"""those that are tried with every norm, order and optimiser"""
VARIANTS: dict[str, dict[str, Any]] = {
    "gelu by tanh": {"name": "gelu", "approximate": "tanh"},
    "prelu by channel": {"name": "prelu", "slope": 0.375, "per_channel": True},
    "softplus without a bend": {"name": "softplus", "threshold": -1.0},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "lr": 0.05},
    "momentum": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    "nesterov": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True},
    "adam": {"name": "adam", "lr": 0.01, "weight_decay": 0.01, "eps": 1e-4},
    "adamw": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "decay_norm_and_bias": False, "eps": 1e-4},
    "dampening": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "dampening": 0.5},
    "amsgrad": {"name": "adam", "lr": 0.01, "amsgrad": True, "eps": 1e-4},
    "nadam": {"name": "nadam", "lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-4},
    "radam": {"name": "radam", "lr": 0.01, "weight_decay": 0.01, "betas": [0.8, 0.9], "eps": 1e-4},
    "adamax": {"name": "adamax", "lr": 0.01, "weight_decay": 0.01, "eps": 1e-4},
    "rmsprop": {"name": "rmsprop", "lr": 0.01, "weight_decay": 0.01, "eps": 1e-4},
    "centered": {"name": "rmsprop", "lr": 0.01, "momentum": 0.9, "centered": True, "alpha": 0.9, "eps": 1e-4},
    "adagrad": {"name": "adagrad", "lr": 0.05, "lr_decay": 0.1, "initial_accumulator_value": 0.1, "weight_decay": 0.01},
    "adadelta": {"name": "adadelta", "lr": 1.0, "rho": 0.8, "weight_decay": 0.01, "eps": 1e-4},
    "asgd": {"name": "asgd", "lr": 0.05, "lambd": 0.01, "alpha": 0.6, "t0": 3.0, "weight_decay": 0.01},
    "rprop": {"name": "rprop", "lr": 0.01, "etas": [0.4, 1.3]},
}
CROSSED_OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw")
"""those that are tried with every norm, order and crossed activation"""
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


def model_of(**values: Any) -> recipe.Model:
    return recipe.Recipe.model_validate(tiny_recipe(model=values)).model
