"""How fast a study trains, beside the loop that people write and beside allelse without packs, all in one run.

    python benchmarks/speed.py [--out FOLDER]

Three ways take turns within each cell, on the same network, images and augmentation; a figure is the median over turns:
  plain    torch.utils.data.DataLoader, eager, fp32, one network after another, as notebooks write it
  serial   allelse with packs of one: data on the device, bf16 where the processor has it, channels-last, fused optimiser
  allelse  the pack size that allelse itself chooses for so many seeds
Ratios are of figures from the same turns, so they hold when the machine's speed drifts. Writes speed.json and speed.md; a
cell that speed.json already holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from allelse import data, engine, study
from allelse.engine.loop import Training
from allelse.engine.measure import images_per_second
from allelse.plan import choose_replicas
from allelse.records import Pack

TURNS = 5
SECONDS_A_TURN = 1.0
CIFAR_CELLS = [(batch, seeds) for batch in (2, 8, 32, 128) for seeds in (1, 4, 8, 16)]
CPU = torch.device("cpu")


class PlainImages(Dataset):
    """Images as notebooks serve them: one by one, cropped, mirrored and normalised in ``__getitem__``."""

    def __init__(self, dataset: data.Dataset, augment: bool) -> None:
        images = torch.from_numpy(dataset.train_images).permute(0, 3, 1, 2).float().div_(255)
        mean, sd = images.mean((0, 2, 3), keepdim=True)[0], images.std((0, 2, 3), keepdim=True)[0]
        self.images, self.labels = (images - mean) / sd, torch.from_numpy(dataset.train_labels)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.images[place]
        if self.augment:
            height, width = image.shape[1:]
            top, left = torch.randint(0, 9, (2,)).tolist()
            image = F.pad(image, (4, 4, 4, 4))[:, top : top + height, left : left + width]
            if torch.rand(()) < 0.5:
                image = image.flip(2)
        return image, self.labels[place]


def plain_loop(dataset: data.Dataset, model, batch: int, augment: bool) -> Callable[[], int]:
    """The eager fp32 loop over ``torch.nn`` layers; each call is one step and returns the images it saw."""
    layers: list[nn.Module] = []
    channels = dataset.train_images.shape[3]
    for width, block in [(model.stem.width, False), *((width, True) for width in model.widths())]:
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        layers += [nn.BatchNorm2d(width), nn.ReLU()] if block else []
        channels = width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, len(dataset.classes)))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = cycle(DataLoader(PlainImages(dataset, augment), batch, shuffle=True, drop_last=True))

    def step() -> int:
        x, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()
        return len(labels)

    return step


def packed_loop(pack: Pack, dataset: data.Dataset) -> Callable[[], int]:
    """allelse's own step, the gathering of the batch included."""
    training = Training(pack, dataset, CPU)
    recipe = training.recipe

    def batches():
        while True:
            yield from training.train_feed.training_batches(
                training.draw(), recipe.batch_size, training.dtype, training.cutout_size
            )

    endless = batches()

    def step() -> int:
        training.train_step(*next(endless), lr=1e-3)
        return recipe.batch_size * len(pack.runs)

    return step


def rate(step: Callable[[], int]) -> float:
    """Images a second over at least one step and ``SECONDS_A_TURN``."""
    begun, images = time.perf_counter(), 0
    while images == 0 or time.perf_counter() - begun < SECONDS_A_TURN:
        images += step()
    return images / (time.perf_counter() - begun)


def measure(dataset: data.Dataset, changes: list[str], quick: bool, seeds: int, batch: int) -> dict[str, float]:
    loaded = study.load("sigmoid-vs-relu", quick=quick, seeds=seeds, changes=[*changes, f"batch_size={batch}"])
    runs = tuple(loaded.runs())
    replicas, _ = choose_replicas(seeds, lambda size: images_per_second(Pack(runs[:size]), dataset, CPU), lambda _: seeds)
    recipe = loaded.arms[0].recipe
    ways = {
        "plain": plain_loop(dataset, recipe.model, batch, augment=bool(recipe.augment)),
        "serial": packed_loop(Pack(runs[:1]), dataset),
    }
    if replicas > 1:
        ways["allelse"] = packed_loop(Pack(runs[:replicas]), dataset)
    for step in ways.values():
        step(), step()
    turns = [{name: rate(step) for name, step in ways.items()} for _ in range(TURNS)]
    for turn in turns:
        turn.setdefault("allelse", turn["serial"])  # the chosen pack is a pack of one: the same code, not measured twice
    return {
        "replicas": replicas,
        **{name: statistics.median(turn[name] for turn in turns) for name in ("plain", "serial", "allelse")},
        "over_plain": statistics.median(turn["allelse"] / turn["plain"] for turn in turns),
        "over_serial": statistics.median(turn["allelse"] / turn["serial"] for turn in turns),
        "lowest_over_serial": min(turn["allelse"] / turn["serial"] for turn in turns),
    }


def cifar() -> tuple[data.Dataset, str]:
    """CIFAR-10 when it is on this machine; else noise of the same shape, which trains at the same speed."""
    if any(entry.name == "cifar10" and entry.present for entry in data.catalogue()):
        return data.load("cifar10"), "CIFAR-10"
    rng = np.random.default_rng(0)
    labels = np.arange(10_000) % 10
    images = rng.integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
    classes = tuple(map(str, range(10)))
    return data.Dataset("noise", images, labels, images[:1000], labels[:1000], classes, "noise"), "noise shaped like CIFAR-10"


def page(cells: dict[str, dict[str, float]], images: str) -> str:
    lines = [
        "# Training speed on the CPU",
        "",
        f"{date.today()} · {engine.describe_device(CPU)} · torch {torch.__version__} · images: {images} · "
        "network: `sigmoid-vs-relu`, ReLU, 4 blocks (digits: its `[quick]`)",
        "",
        f"`python benchmarks/speed.py`: training images a second, median of {TURNS} turns of {SECONDS_A_TURN:.0f} s or a step. "
        "Plain: DataLoader, eager, fp32. Serial: allelse, packs of one. allelse: the pack size it chose by measurement.",
        "",
        "| images | batch | seeds | plain | serial | allelse | pack of | over plain | over serial (lowest turn) |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, cell in cells.items():
        source, batch, seeds = name.split()
        over_serial = f"{cell['over_serial']:.2f}× ({cell['lowest_over_serial']:.2f}×)"
        lines.append(
            f"| {source} | {batch} | {seeds} | {cell['plain']:,.0f} | {cell['serial']:,.0f} | {cell['allelse']:,.0f} | "
            f"{cell['replicas']:.0f} | {cell['over_plain']:.2f}× | {over_serial} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out: Path = parser.parse_args().out
    file = out / "speed.json"
    cells: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    dataset, images = cifar()
    wanted = [("digits", batch, seeds) for batch in (2, 32) for seeds in (1, 5)]
    wanted += [("cifar10", batch, seeds) for batch, seeds in CIFAR_CELLS]
    for source, batch, seeds in wanted:
        name = f"{source} {batch} {seeds}"
        if name not in cells:
            changes = ["model.activation=relu", "model.depth=4", "model.norm=batch"]
            chosen = data.load("digits") if source == "digits" else dataset
            cells[name] = measure(chosen, changes, source == "digits", seeds, batch)
            file.write_text(json.dumps(cells, indent=1))
            (out / "speed.md").write_text(page(cells, images))
        print(name, {key: round(value, 2) for key, value in cells[name].items()}, flush=True)


if __name__ == "__main__":
    main()
