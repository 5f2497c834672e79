"""What is trained: cells of the grid, the work in each of them, in which order they are measured, and what a way is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

BATCHES = (2, 8, 32, 128, 512)
REPLICAS = (1, 4, 10, 32)
WIDTHS = {"narrow": 32, "middle": 64, "wide": 256}
NORMS = {"BatchNorm": "batch", "GroupNorm": "group"}
GROUPS = 8
"""of GroupNorm"""
CLASSES = 10


@dataclass(frozen=True)
class Source:
    """Images and how long a run on them is."""

    side: int
    """pixels"""
    channels: int
    images: int
    """in the training split"""
    epochs: int
    """of one run"""
    augmented: bool
    """cropped with 4 pixels of padding and mirrored"""

    @property
    def images_a_run(self) -> int:
        return self.images * self.epochs


SOURCES = {"cifar10": Source(32, 3, 50_000, 20, True), "digits": Source(8, 1, 1_438, 8, False)}


@dataclass(frozen=True)
class Cell:
    """``replicas`` networks to be trained: stem, blocks of convolution, norm and ReLU, global average, linear layer; Adam."""

    width: int
    norm: str
    """a key of ``NORMS``"""
    batch: int
    replicas: int
    depth: int = 4
    """blocks"""
    data: str = "cifar10"

    @property
    def size(self) -> str:
        """The word for the width; that of the digits is ``digits``."""
        if self.data == "digits":
            return "digits"
        return next((name for name, width in WIDTHS.items() if width == self.width), f"width{self.width}")

    @property
    def words(self) -> tuple[str, ...]:
        """What ``--cells`` knows this cell by."""
        depth = (f"d{self.depth}",) if self.depth != 4 else ()
        return (self.size, self.norm.lower(), f"b{self.batch}", f"r{self.replicas}", *depth)

    @property
    def name(self) -> str:
        return " ".join(self.words)

    @property
    def source(self) -> Source:
        return SOURCES[self.data]

    @property
    def convolutions(self) -> list[tuple[int, int]]:
        """Channels in and out of each 3 × 3 convolution."""
        return [(self.source.channels, self.width), *[(self.width, self.width)] * self.depth]

    @property
    def flop_an_image(self) -> float:
        """Of one training step: forward, and twice as much backward, but for the gradient of the images, which nobody needs."""
        positions = self.source.side**2
        forward = [2 * 9 * positions * channels_in * channels_out for channels_in, channels_out in self.convolutions]
        return 3 * (sum(forward) + 2 * self.width * CLASSES) - forward[0]

    @property
    def activations_an_image(self) -> int:
        """Numbers that the convolutions of one network put out for one image."""
        return self.source.side**2 * self.width * len(self.convolutions)

    @property
    def parameters(self) -> int:
        """Numbers that one network learns."""
        convolutions = sum(9 * channels_in * channels_out + channels_out for channels_in, channels_out in self.convolutions)
        return convolutions + 2 * self.width * self.depth + (self.width + 1) * CLASSES


DIGITS = [Cell(16, "BatchNorm", batch, replicas, data="digits") for batch in (2, 32) for replicas in (1, 5)]
EIGHT_SEEDS = Cell(WIDTHS["middle"], "BatchNorm", 2, 8)
"""Not of the grid: an aim speaks of it."""


def cells() -> list[Cell]:
    """Every cell, the most telling ones first."""
    grid = [
        Cell(width, norm, batch, replicas)
        for norm, width, replicas, batch in product(NORMS, WIDTHS.values(), REPLICAS, BATCHES)
    ]
    return [*DIGITS, EIGHT_SEEDS, *sorted(grid, key=_rank)]


def _rank(cell: Cell) -> int:
    """Norms, widths, batches and replicas each add what makes a cell less telling."""
    return (
        4 * (cell.norm == "GroupNorm")
        + {"middle": 0, "narrow": 0, "wide": 3}[cell.size]
        + {2: 0, 128: 0, 8: 1, 32: 1, 512: 3}[cell.batch]
        + {10: 0, 1: 1, 32: 1, 4: 2}[cell.replicas]
    )


def chosen(words: Iterable[str]) -> list[Cell]:
    """The cells that have all of ``words``, where words of one kind (two batches, two widths) are alternatives.

    Raises:
        ValueError: no cell has one of the words.
    """
    everything = cells()
    wanted = {word.lower() for word in words}
    known = list(dict.fromkeys(word for cell in everything for word in cell.words))
    if unknown := sorted(wanted - set(known)):
        raise ValueError(f"--cells {unknown[0]}: no cell has it; allowed: {', '.join(known)}")
    kinds = [wanted & {cell.words[place] for cell in everything} for place in range(4)]
    return [cell for cell in everything if all(not kind or word in kind for kind, word in zip(kinds, cell.words))]


@dataclass(frozen=True)
class Job:
    """What a way is told before its first turn."""

    cell: Cell
    device: str
    precision: str
    """``bf16`` or ``fp32``: what convolutions compute in, where a way is not fp32 by its nature"""
    folder: Path
    """holds ``NAME-images.npy`` and the like; see ``feed.arrays``"""
    seconds_a_turn: float
    images_at_once: int
    """the most that one step may take, over all networks; only for a way that chooses"""
    threads: int | None
    """of a process that shares the cores with others; ``None``: as torch sets them"""
