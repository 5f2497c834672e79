"""Measurement: a pack and a data set in, the images a second at which this device trains it out."""

from __future__ import annotations

import time
from itertools import cycle, islice

import torch

from allelse.data import Dataset
from allelse.engine.loop import Training
from allelse.records import Pack

WARM_UP_STEPS = 2
SECONDS = 0.25
FEWEST_STEPS = 3


def images_per_second(pack: Pack, dataset: Dataset, device: torch.device) -> float:
    """Training images a second of the whole pack, evaluation left out, from a few real steps after a warm-up.

    At least ``FEWEST_STEPS`` steps and ``SECONDS`` seconds are timed; nothing that is trained here is kept.
    """
    training = Training(pack, dataset, device)
    draws = training.draw()
    batches = training.train_feed.training_batches(draws, training.recipe.batch_size, training.dtype, training.cutout_size)
    batches = cycle(islice(batches, 8))
    for x, labels in islice(batches, WARM_UP_STEPS):
        training.train_step(x, labels, lr=0.0)
    _wait(device)
    begun, steps = time.perf_counter(), 0
    while steps < FEWEST_STEPS or time.perf_counter() - begun < SECONDS:
        training.train_step(*next(batches), lr=0.0)
        _wait(device)
        steps += 1
    return steps * training.recipe.batch_size * len(pack.runs) / (time.perf_counter() - begun)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
