"""Optimisers and learning rates: a recipe's optimiser and schedule in, a torch optimiser and one rate a step out."""

from __future__ import annotations

import math

import torch
from torch import nn

from allelse import recipe


def build_optimizer(network: nn.Module, optimizer: recipe.Optimizer, lr: float) -> torch.optim.Optimizer:
    """torch's own fused optimiser over the stacked parameters; each element is updated alone, so packing changes nothing."""
    weights = [p for name, p in network.named_parameters() if name.endswith("weight") and p.dim() > 2]
    others = [p for name, p in network.named_parameters() if not (name.endswith("weight") and p.dim() > 2)]
    decay_of_others = optimizer.weight_decay if optimizer.decay_norm_and_bias else 0.0
    groups = [
        {"params": weights, "weight_decay": optimizer.weight_decay},
        {"params": others, "weight_decay": decay_of_others},
    ]
    groups = [group for group in groups if group["params"]]
    if isinstance(optimizer, recipe.SGD):
        return torch.optim.SGD(groups, lr=lr, momentum=optimizer.momentum, nesterov=optimizer.nesterov, fused=True)
    kind = torch.optim.AdamW if isinstance(optimizer, recipe.AdamW) else torch.optim.Adam
    return kind(groups, lr=lr, betas=optimizer.betas, eps=optimizer.eps, fused=True)


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
        elif isinstance(schedule, recipe.Cosine):
            half_turn = math.cos(math.pi * (step - warmup) / (total - warmup))
            rates.append(peak * (schedule.floor + (1 - schedule.floor) * (1 + half_turn) / 2))
        elif isinstance(schedule, recipe.Step):
            epoch = step // steps_per_epoch
            drops = epoch // schedule.every if schedule.every else sum(epoch >= milestone for milestone in schedule.milestones)
            rates.append(peak * schedule.factor**drops)
        else:
            rates.append(peak)
    return rates


def _one_cycle(schedule: recipe.OneCycle, peak: float, step: int, total: int) -> float:
    first = peak / schedule.start_divisor
    last = first / schedule.final_divisor
    top = schedule.rise * total - 1
    if step <= top:
        low, high, share = first, peak, step / top if top > 0 else 1.0
    else:
        low, high, share = peak, last, (step - top) / (total - 1 - top)
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2
