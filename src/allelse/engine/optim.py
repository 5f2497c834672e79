"""Optimisers and learning rates: a recipe's optimiser and schedule in, a torch optimiser and one rate a step out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
from torch import nn

from allelse import recipe
from allelse.engine.own import acts_on_whole_tensors, build_own_optimizer, lone_views

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    kind.__name__.lower(): kind
    for kind in (
        *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax),
        *(torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.ASGD, torch.optim.Rprop),
    )
}
OURS = {"name", "lr", "weight_decay", "decay_norm_and_bias", "lr_scaling", "lr_batch_size"}
"""Fields of a recipe's optimiser that are not handed to torch's by name."""


def build_optimizer(network: nn.Module, optimizer: recipe.Optimizer, lr: float) -> torch.optim.Optimizer:
    """The optimiser over the stacked parameters; each element is updated alone, so packing changes nothing.

    One that ``acts_on_whole_tensors`` is for a network of one replica, whose weights it sees without that dimension.

    torch's own are fused where it offers that, and on a GPU ready to be captured in a graph: each of their parameter groups
    says whether it is, by ``fused`` or ``capturable``.
    """
    if isinstance(optimizer, recipe.OwnOptimizer):
        parameters = lone_views(network) if acts_on_whole_tensors(optimizer) else list(network.parameters())
        return build_own_optimizer(parameters, optimizer, lr)
    weights = [p for name, p in network.named_parameters() if name.endswith("weight") and p.dim() > 2]
    others = [p for name, p in network.named_parameters() if not (name.endswith("weight") and p.dim() > 2)]
    decay = 0.0 if isinstance(optimizer, recipe.Rprop) else optimizer.weight_decay
    decay_of_others = 0.0 if isinstance(optimizer, recipe.Rprop) or not optimizer.decay_norm_and_bias else decay
    groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": decay_of_others}]
    kind = OPTIMIZERS[optimizer.name]
    options: dict[str, Any] = optimizer.model_dump(exclude=OURS)
    offered = signature(kind).parameters
    device = next(network.parameters()).device
    if "fused" in offered and has_fused_steps(kind, device):
        options["fused"] = True
    if "capturable" in offered:
        options["capturable"] = device.type == "cuda"
    return kind([group for group in groups if group["params"]], lr=lr, **options)


@lru_cache(maxsize=64)
def has_fused_steps(kind: Callable[..., torch.optim.Optimizer], device: torch.device) -> bool:
    """Whether torch has them on this device: before 2.12 Adagrad offers them everywhere, and has them on CPUs only, which some
    versions say where it is made and others with its first step."""
    weight = nn.Parameter(torch.zeros(1, device=device))
    weight.grad = torch.zeros_like(weight)
    try:
        kind([weight], lr=1.0, fused=True).step()
    except RuntimeError:
        return False
    return True


def counts_on_its_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether one of torch's own keeps its number of steps where the weights are; the user's own say so themselves."""
    of_torch = isinstance(optimizer, tuple(kind for kind in OPTIMIZERS.values() if isinstance(kind, type)))
    return not of_torch or all(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)


def learning_rates(schedule: recipe.Schedule, peak: float, epochs: float, steps_per_epoch: int) -> list[float]:
    """The learning rate of every step.

    Arguments:
        schedule: the recipe's schedule.
        peak: the learning rate after the batch-size rule.
        epochs: length of the training; a fraction where its last epoch is cut short.
        steps_per_epoch: optimiser steps in one epoch.

    Returns:
        ``epochs · steps_per_epoch`` numbers; the cosine reaches its floor with the step after the last.
    """
    total = round(epochs * steps_per_epoch)
    if isinstance(schedule, recipe.OneCycle):
        return [_one_cycle(schedule, peak, step, total) for step in range(total)]
    warmup = min(round(schedule.warmup_epochs * steps_per_epoch), total)
    rates = []
    for step in range(total):
        if step < warmup:
            rates.append(peak * (step + 1) / (warmup + 1))
        else:
            rates.append(peak * _fraction(schedule, step, warmup, total, steps_per_epoch))
    return rates


def _fraction(schedule: recipe.Schedule, step: int, warmup: int, total: int, steps_per_epoch: int) -> float:
    """Of the peak, at a step after the warm-up."""
    epoch = step // steps_per_epoch
    if isinstance(schedule, recipe.Step):
        drops = epoch // schedule.every if schedule.every else sum(epoch >= milestone for milestone in schedule.milestones)
        return schedule.factor**drops
    if isinstance(schedule, (recipe.Constant, recipe.OneCycle)):
        return 1.0
    done = max((epoch * steps_per_epoch if schedule.per == "epoch" else step) - warmup, 0)
    if isinstance(schedule, recipe.Exponential):
        return schedule.factor ** (done / steps_per_epoch)
    if isinstance(schedule, recipe.Cosine):
        left = (1 + math.cos(math.pi * done / (total - warmup))) / 2
    else:
        left = (1 - done / (total - warmup)) ** (schedule.power if isinstance(schedule, recipe.Polynomial) else 1)
    return schedule.floor + (1 - schedule.floor) * left


def _one_cycle(schedule: recipe.OneCycle, peak: float, step: int, total: int) -> float:
    first = peak / schedule.start_divisor
    last = first / schedule.final_divisor
    top = schedule.rise * total - 1
    if step <= top:
        low, high, share = first, peak, step / top if top > 0 else 1.0
    else:
        low, high, share = peak, last, (step - top) / (total - 1 - top)
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2
