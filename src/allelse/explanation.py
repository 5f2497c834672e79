"""Explaining: an arm in; its layers with what they cost, and what sets it apart from another arm, out. Nothing is trained."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from allelse import data, recipe
from allelse.blocks import Linear
from allelse.design import level_text, short_names
from allelse.engine.optim import build_optimizer
from allelse.errors import StudyError, did_you_mean
from allelse.models import LayerRow, build_network, initialise, layer_rows, stacked_parameters
from allelse.plan import differing_keys
from allelse.study import Arm, Study

BYTES_FROM_PRECISION = {"fp64": 8, "fp32": 4, "bf16": 2, "auto": 4}
"""of one activation; ``auto`` as fp32, and half of that where the device computes in bf16"""

MOST_WEIGHTS = 250_000_000
"""of a network that is made to compare initial weights: 1 GB"""


@dataclass(frozen=True)
class Memory:
    """What training one network takes, in bytes: each layer's output is counted once, as kept for the backward pass.

    Not counted: images, running statistics, averaged weights, what kernels need for themselves. R replicas take R times this.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """of one batch"""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Anatomy:
    """One network of an arm."""

    arm: Arm
    image_shape: tuple[int, int, int]
    """height, width, channels"""
    classes: int
    layers: tuple[LayerRow, ...]
    memory: Memory

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply–adds of one image on its way forward."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activations(self) -> int:
        """Numbers in all outputs for one image."""
        return sum(layer.activations for layer in self.layers)


@dataclass(frozen=True)
class Difference:
    """What sets two arms apart; all else of their recipes is equal."""

    keys: Mapping[str, list[Any]]
    """the values in both, by recipe key"""
    changed: tuple[tuple[LayerRow, LayerRow], ...]
    """layers of one name that are not alike"""
    removed: tuple[LayerRow, ...]
    """layers of the first only"""
    added: tuple[LayerRow, ...]
    """layers of the second only"""
    orders: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    """the layers of a block that both have, where they come in another order, by block"""
    equal: int
    """layers that are alike in name, kind, output and costs"""
    weights: Mapping[str, bool]
    """whether they start from the same values, by the name of each parameter that both have in one shape"""


def anatomy(arm: Arm) -> Anatomy:
    """Look at the network that ``arm`` trains; of data sets whose shape is known nothing is read.

    Raises:
        DataError, StudyError: the data set is not there, or its images are too small for the model.
    """
    asked = arm.recipe
    with arm.placed():
        image_shape, classes = data.shape(asked.dataset, asked.image_size)
        layers = layer_rows(asked.model, image_shape, classes)
    weights = sum(layer.parameters for layer in layers) * (8 if asked.precision == "fp64" else 4)
    outputs = sum(layer.activations for layer in layers) * BYTES_FROM_PRECISION[asked.precision]
    kept = weights * _numbers_a_weight(asked.optimizer)
    return Anatomy(arm, image_shape, classes, layers, Memory(weights, weights, kept, outputs * asked.batch_size))


def _numbers_a_weight(optimizer: recipe.Optimizer) -> int:
    """How many numbers an optimiser keeps for each weight, seen from its first step on a small layer."""
    layer = Linear(1, 8, 8, bias=False)
    layer.weight.grad = torch.zeros_like(layer.weight)
    built = build_optimizer(layer, optimizer, optimizer.lr)
    built.step()
    kept = [value for state in built.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return round(sum(value.numel() for value in kept) / layer.weight.numel())


def difference(first: Anatomy, second: Anatomy, seed: int) -> Difference:
    """Hold two networks against each other; their initial weights are made with ``seed`` and compared bit by bit.

    Raises:
        StudyError: there are more weights than can be made only to look at them.
    """
    if (most := max(first.parameters, second.parameters)) > MOST_WEIGHTS:
        raise StudyError(
            f"--against: {most:,} initial weights cannot be compared; allowed: {MOST_WEIGHTS:,}; leave --against out"
        )
    old, new = ({layer.name: layer for layer in side.layers} for side in (first, second))
    both = [(layer, new[name]) for name, layer in old.items() if name in new]
    changed = tuple(pair for pair in both if pair[0] != pair[1])
    start, other = _initial(first, seed), _initial(second, seed)
    return Difference(
        keys=differing_keys([first.arm, second.arm]),
        changed=changed,
        removed=tuple(layer for layer in first.layers if layer.name not in new),
        added=tuple(layer for layer in second.layers if layer.name not in old),
        orders=_orders(list(old), list(new)),
        equal=len(both) - len(changed),
        weights={name: torch.equal(start[name, shape], other[name, shape]) for name, shape in start if (name, shape) in other},
    )


def _orders(old: Sequence[str], new: Sequence[str]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    both = set(old) & set(new)
    found: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for block in dict.fromkeys(name.rpartition(".")[0] for name in old if name in both):
        inner = [[name for name in names if name in both and name.rpartition(".")[0] == block] for names in (old, new)]
        if inner[0] != inner[1]:
            first, second = (tuple(name.rpartition(".")[2] for name in names) for names in inner)
            found[block] = (first, second)
    return found


def _initial(side: Anatomy, seed: int) -> dict[tuple[str, tuple[int, ...]], torch.Tensor]:
    network = build_network(side.arm.recipe.model, side.image_shape, side.classes, replicas=1)
    initialise(network, [seed])
    return {(name, tuple(parameter.shape)): parameter for name, _, _, parameter in stacked_parameters(network)}


def find_arm(study: Study, levels: Sequence[str], start: Arm | None = None) -> Arm:
    """The one arm that has these levels.

    Arguments:
        study: where to look.
        levels: ``KEY=LEVEL`` texts; KEY is a factor, or as many of its last parts as no other ends with.
        start: an arm whose levels hold for all factors that ``levels`` do not name; left out, those are open.

    Raises:
        StudyError: no such factor or level, one factor named twice, none or several arms have these levels, or only ``start``.
    """
    option = "--arm" if start is None else "--against"
    shown = " ".join(f"{option} {level}" for level in levels)
    short = short_names(study.factors)
    allowed = [(factor, level) for factor, known in study.factors.items() for level in known]
    named = {f"{key}={level_text(level)}": (factor, level) for factor, level in allowed for key in (factor, short[factor])}
    wanted: dict[str, Any] = {}
    for text in levels:
        given = "=".join(part.strip() for part in text.split("=", 1))
        if given not in named:
            texts = [f"{short[factor]}={level_text(level)}" for factor, level in allowed]
            raise StudyError(f"{option} {text}: no such level; {did_you_mean(given, texts)}")
        factor, level = named[given]
        if factor in wanted:
            raise StudyError(f"{shown}: names the factor {factor!r} twice; allowed: each at most once")
        wanted[factor] = level
    kept = {} if start is None else {factor: level for factor, level in start.levels.items() if factor not in wanted}
    matching = study.design.find(wanted, kept)
    found = [arm for arm in study.arms if arm.levels in matching]
    if not found:
        raise StudyError(f"{shown}: no arm of {study.name} has these levels together; 'allelse plan' lists its arms")
    if len(found) > 1:
        open_levels = {
            key: list(dict.fromkeys(level_text(arm.levels[factor]) for arm in found if factor in arm.levels))
            for factor, key in short.items()
        }
        more = [
            f"{option} {shlex.quote(f'{key}={first}')} (or {', '.join(others)})"
            for key, (first, *others) in open_levels.items()
            if others
        ]
        raise StudyError(f"{shown or study.name}: {len(found)} arms match; add {' and '.join(more)}")
    if found[0] is start:
        raise StudyError(f"{shown}: is the arm itself; name a level that it does not have")
    return found[0]
