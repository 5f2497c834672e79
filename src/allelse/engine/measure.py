"""Measurement: a pack and a data set in, the images a second at which this device trains it out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from allelse.data import Dataset
from allelse.engine.loop import Training
from allelse.records import Pack

WARM_UP_STEPS = 2
SECONDS = 0.1
FEWEST_STEPS = 3


def images_per_second(pack: Pack, dataset: Dataset, device: torch.device) -> float:
    """Training images a second of the whole pack, evaluation left out, from the fastest of a few real steps after a warm-up.

    At least ``FEWEST_STEPS`` steps and ``SECONDS`` seconds are timed. The fastest one counts, because what else the machine
    does can only slow a step down. Nothing that is trained here is kept.
    """
    training = Training(pack, dataset, device)
    batches = _batches(training)
    for x, labels in islice(batches, WARM_UP_STEPS):
        training.train_step(x, labels, lr=0.0)
    seconds: list[float] = []
    while len(seconds) < FEWEST_STEPS or sum(seconds) < SECONDS:
        _wait(device)
        begun = time.perf_counter()
        training.train_step(*next(batches), lr=0.0)
        _wait(device)
        seconds.append(time.perf_counter() - begun)
    return training.recipe.batch_size * len(pack.runs) / min(seconds)


def _batches(training: Training) -> Iterator[tuple[Tensor, Tensor]]:
    """The first epoch's batches without end, each gathered and augmented when it is asked for."""
    draws, recipe = training.draw(), training.recipe
    while True:
        yield from training.train_feed.training_batches(draws, recipe.batch_size, training.dtype, training.cutout_size)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
