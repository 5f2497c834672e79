"""The crew of one: this process measures packs and trains them, one after the other. A device's name in, events out."""

from __future__ import annotations

import os
from functools import lru_cache

import torch

from allelse import data, engine
from allelse.launch.crew import Event, Hear, Task, carry_out
from allelse.launch.measured import Speeds
from allelse.recipe import Recipe
from allelse.records import Pack, Way


@lru_cache(maxsize=8)  # arms of several data sets take turns
def _dataset(name: str, image_size: int | None) -> data.Dataset:
    return data.load(name, image_size)


def dataset_of(recipe: Recipe) -> data.Dataset:
    """The data set that a recipe names, loaded once a process."""
    return _dataset(recipe.dataset, recipe.image_size)


class Local:
    """A ``Crew``: this process."""

    is_elsewhere = False

    def __init__(self, device: torch.device, at_once: int = 1) -> None:
        """
        Arguments:
            device: where to measure, and to train.
            at_once: how many share this machine's cores.
        """
        self.device = device
        if device.index is not None:
            torch.cuda.set_device(device)  # a graph is recorded on the current one
        self.at_once = at_once
        self._threads_before = torch.get_num_threads()
        self.threads = max(1, self._threads_before // at_once)
        self._task: Task | None = None
        self.use_threads(None)

    def use_threads(self, planned: int | None) -> None:
        # More threads than cores would only wait for one another: then it is another machine, and the plan's owner is told.
        if planned and planned * self.at_once <= max(os.cpu_count() or 1, self.threads * self.at_once):
            self.threads = planned
        _set_threads(self.threads)

    def machine(self) -> dict[str, str]:
        return {"device": engine.describe_device(self.device), "torch": torch.__version__}

    def in_words(self) -> str:
        return "this process"

    def ways(self, graph: bool) -> tuple[Way, ...]:
        return engine.ways(self.device, graph)

    def images_per_second(self, pack: Pack) -> float | None:
        return Speeds(self.device, dataset_of).images_per_second(pack)

    def submit(self, task: Task) -> None:
        self._task = task

    def wait(self, hear: Hear) -> None:
        task, self._task = self._task, None
        assert task is not None, "one task at a time"
        pack = task.pack.id

        def tell(event: Event) -> None:
            try:
                hear(pack, event)
            except Exception as error:
                raise _NotHeard(error) from error

        try:
            last = carry_out(task, dataset_of(task.recipe), self.device, task.checkpoint, tell)
        except _NotHeard as not_heard:
            raise not_heard.error from None
        hear(pack, last)

    def close(self) -> None:
        _set_threads(self._threads_before)


class _NotHeard(BaseException):
    """Whoever listens to a training failed, and not the training: this passes through it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _set_threads(threads: int) -> None:
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
