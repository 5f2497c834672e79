"""Measurement: a pack and a data set in, the images a second at which this device trains it out."""

from __future__ import annotations

import time

import torch

from allelse.data import Dataset
from allelse.engine.draws import Draws
from allelse.engine.loop import Training
from allelse.records import Pack

WARM_UP_STEPS = 2
SECONDS = 0.04
FEWEST_TIMES = 3


def images_per_second(pack: Pack, dataset: Dataset, device: torch.device) -> float:
    """Training images a second of the whole pack, evaluation left out, from the fastest of a few real steps after a warm-up.

    At least ``FEWEST_TIMES`` are taken, over ``SECONDS`` seconds: of a step each, or of the steps of one graph's replay. The
    fastest counts, because what else the machine does can only slow a step down. Nothing that is trained here is kept.
    """
    training = Training(pack, dataset, device)
    steps, draws = training.steps, training.draw(0)
    steps.begin(0, draws)

    warmed = 0
    while warmed < WARM_UP_STEPS or not steps.is_ready(training.steps_of(0)):
        warmed += _advance(training, draws)
    seconds: list[float] = []
    spent = 0.0
    while len(seconds) < FEWEST_TIMES or spent < SECONDS:
        _wait(device)
        begun = time.perf_counter()
        taken = _advance(training, draws)
        _wait(device)
        spent += time.perf_counter() - begun
        seconds.append((time.perf_counter() - begun) / taken)
    return training.recipe.batch_size * len(pack.runs) / min(seconds)


def _advance(training: Training, draws: list[Draws]) -> int:
    """Take a step, or several in one replay; how many. An epoch that is at its end begins again."""
    if training.steps.done == training.steps_of(0):
        training.steps.begin(0, draws)
    before = training.steps.done
    training.steps.advance(training.steps_of(0))
    return training.steps.done - before


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
