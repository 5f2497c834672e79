"""allelse as it is: the only file of the suite that knows its engine. Imported in a process of its own, before torch.

The pack is what ``plan`` chooses for so many seeds, measured anew. A turn is whole epochs of allelse's own training loop, its
draws, fingerprints and counting included, on so many of the images that one epoch takes about a turn; evaluation is left out.
"""

from __future__ import annotations

import platform
import time
import traceback
from pathlib import Path
from typing import Any

import allelse  # before torch, as in a user's process: it sets how OpenMP's threads wait

# isort: split
import numpy as np
import torch
from torch import Tensor, nn

from allelse import data, engine, study
from allelse.engine.loop import Training
from allelse.plan import make_plan
from allelse.records import Pack
from benchmarks.speed.grid import CLASSES, GROUPS, SOURCES, Cell, Job
from benchmarks.speed.grid import NORMS as NORM_NAMES

EPOCHS_TO_RECORD = 3
"""at most, beyond the first two, until all that an epoch replays is recorded"""
TEST_IMAGES = 20
"""evaluated after each epoch, outside the turn"""


def _here() -> set[str]:
    return {entry.name for entry in data.catalogue() if entry.present}


def write(name: str, folder: Path) -> None:
    """Put the training images of a source into ``folder``, for the ways that know no allelse."""
    dataset = data.load(name) if name in _here() else noise(name)
    pixels = dataset.train_images.astype(np.float32).reshape(-1, dataset.train_images.shape[3])
    written = {"labels": dataset.train_labels, "mean": pixels.mean(0, dtype=np.float64), "sd": pixels.std(0, dtype=np.float64)}
    for what, values in {**written, "images": dataset.train_images}.items():
        np.save(folder / f"{name}-{what}.npy", values)


def describe(device_name: str) -> dict[str, Any]:
    """The machine."""
    device = engine.find_device(device_name)
    return {
        "device": engine.describe_device(device),
        "type": device.type,
        "precision": {torch.bfloat16: "bf16", torch.float32: "fp32"}[engine.compute_dtype("auto", device)],
        "threads": torch.get_num_threads(),
        "images": "CIFAR-10" if "cifar10" in _here() else "noise of the shape of CIFAR-10",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "system": platform.system(),
        "allelse": allelse.__version__,
    }


def noise(name: str) -> data.Dataset:
    """Images of the same shape and number, which train at the same speed."""
    source, rng = SOURCES[name], np.random.default_rng(0)
    images = rng.integers(0, 256, (source.images, source.side, source.side, source.channels), dtype=np.uint8)
    return _dataset(images, np.arange(source.images) % CLASSES)


def _dataset(images: np.ndarray, labels: np.ndarray) -> data.Dataset:
    classes = tuple(map(str, range(CLASSES)))
    return data.Dataset("benchmark", images, labels, images[:TEST_IMAGES], labels[:TEST_IMAGES], classes, "benchmark")


def study_of(cell: Cell, **recipe: Any) -> study.Study:
    """The first study's network with one arm and the cell's numbers; ``recipe`` changes more of its keys."""
    norm = f'{{ name = "{NORM_NAMES[cell.norm]}"' + (f", groups = {GROUPS} }}" if cell.norm == "GroupNorm" else " }")
    changes = {
        "model.activation": "relu",
        "model.depth": cell.depth,
        "model.norm": norm,
        "model.width": cell.width,
        "model.stem": f"{{ width = {cell.width} }}",
        "model.pool": "[]",
        "model.head": '"gap"',
        "batch_size": cell.batch,
        **recipe,
    }
    return study.load(
        "sigmoid-vs-relu",
        quick=cell.data == "digits",
        seeds=cell.replicas,
        changes=[f"{key}={value}" for key, value in changes.items()],
    )


class Ours:
    """A pack that allelse chose, trained by its own loop."""

    frees_memory = False

    def __init__(self, job: Job) -> None:
        self.job = job
        self.device = engine.find_device(job.device)
        images, labels = (np.load(job.folder / f"{job.cell.data}-{what}.npy") for what in ("images", "labels"))
        self.dataset = _dataset(images, labels)

    def start(self) -> dict[str, Any]:
        """Choose the pack, and train what comes before the first turn."""
        cell, begun = self.job.cell, time.perf_counter()
        plan = make_plan(study_of(cell), lambda arm: self.dataset, self._measure, engine.ways(self.device))
        planned = max(plan.packs, key=lambda p: len(p.pack.runs))
        choosing = time.perf_counter() - begun
        if planned.images_per_second is None:
            raise RuntimeError("allelse could not measure a pack of one")
        self.replicas = len(planned.pack.runs)
        seconds_a_step = cell.batch * self.replicas / planned.images_per_second

        most = len(self.dataset.train_labels) // cell.batch
        steps = min(max(1, round(self.job.seconds_a_turn / seconds_a_step)), most)
        count = max(steps * cell.batch, 2 * CLASSES)
        spread = np.linspace(0, len(self.dataset.train_labels) - 1, count).astype(int)  # sorted by class: some of each
        short = _dataset(self.dataset.train_images[spread], self.dataset.train_labels[spread])
        self.steps_an_epoch = count // cell.batch
        epochs = max(50, 1_000_000 // self.steps_an_epoch)  # so many that the turns never reach the last
        runs = tuple(study_of(cell, epochs=epochs).runs())[: self.replicas]
        begun = time.perf_counter()
        self.training = Training(Pack(runs, planned.pack.way), short, self.device)
        formats = _watch_norms(self.training.network)
        first = self._epoch()
        built = time.perf_counter() - begun
        second = self._epoch()
        for _ in range(EPOCHS_TO_RECORD):
            if not self.training.steps.is_ready(self.steps_an_epoch):
                self._epoch()
        return {
            "replicas": self.replicas,
            "way": planned.pack.way.in_words(self.replicas),
            "choose_s": choosing,
            "start_s": max(built - second, 0.0),
            "seconds_a_step": min(first, second) / self.steps_an_epoch,
            "memory": " and ".join(sorted(formats)),
        }

    def turn(self, seconds: float) -> dict[str, float]:
        """Images a second over whole epochs that take about so many seconds."""
        epochs, taken = 0, 0.0
        while taken < 0.8 * seconds:
            taken += self._epoch()
            epochs += 1
        return {"rate": epochs * self.steps_an_epoch * self.job.cell.batch * self.replicas / taken}

    def _epoch(self) -> float:
        """Seconds of one epoch, evaluation left out."""
        before = self.training.seconds["train"]
        self.training.run_epoch(lambda progress: None)
        return self.training.seconds["train"] - before

    def _measure(self, pack: Pack) -> float | None:
        if len(pack.runs) * self.job.cell.batch > max(self.job.images_at_once, self.job.cell.batch):
            return None  # a step of it would take longer than the suite waits for
        try:
            return engine.images_per_second(pack, self.dataset, self.device)
        except RuntimeError as problem:  # out of memory: the plan goes on with smaller packs
            if not isinstance(problem, torch.cuda.OutOfMemoryError):
                traceback.print_exc()  # else a graph that cannot be recorded would pass for a slow engine
            return None


def _watch_norms(network: nn.Module) -> set[str]:
    """The memory formats of what the norms put out, filled in by the first forward pass."""
    found: set[str] = set()

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.dim() == 4:
            channels_last = output.is_contiguous(memory_format=torch.channels_last)
            found.add("channels_last" if channels_last else "contiguous" if output.is_contiguous() else "strided")
        handles.pop(module).remove()

    norms = [module for name, module in network.named_modules() if name.endswith("norm")]
    handles = {module: module.register_forward_hook(look) for module in norms}
    return found
