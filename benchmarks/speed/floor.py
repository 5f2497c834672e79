"""The floor: a cell and two measured rates of the device in, the least time that a step of all its networks can take out.

    arithmetic   images · FLOP an image / matrix rate
    bytes        (images · (4 · A · e + C · H · W · (1 + 2 e)) + networks · 40 · P) / copy rate

FLOP an image: every multiplication and addition of the convolutions and the head, padding included, forward, and twice that
backward (but for the gradient of the images). A: outputs of all convolutions for one image, written and read once forward,
their gradients once backward, as if norm and activation were computed on the way; e: bytes of a number (2 in bf16); images
are read as uint8, written and read once. P: parameters in fp32, read forward and backward; gradients, written and read;
Adam's update, which reads and writes the parameter and its two moments: ten times 4 bytes. The larger of the two is the
floor. Caches can beat the second one, which speaks of main memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.speed.grid import Cell

ELEMENT_BYTES = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class Rates:
    """What the device was measured at."""

    matrix: float
    """FLOP a second of a large square matrix product in the computing precision"""
    copy: float
    """bytes a second, read and written, of copying an array far larger than the caches"""


def step_bytes(cell: Cell, precision: str) -> float:
    """Bytes that one step of all the cell's networks moves."""
    element, source = ELEMENT_BYTES[precision], cell.source
    image = source.side**2 * source.channels * (1 + 2 * element)
    an_image = 4 * cell.activations_an_image * element + image
    return cell.replicas * (cell.batch * an_image + 40 * cell.parameters)


def images_per_second(cell: Cell, precision: str, rates: Rates) -> float:
    """The most that any way could reach, over all the cell's networks."""
    images = cell.batch * cell.replicas
    seconds = max(images * cell.flop_an_image / rates.matrix, step_bytes(cell, precision) / rates.copy)
    return images / seconds
