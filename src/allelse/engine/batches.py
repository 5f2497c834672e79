"""Batches for R replicas: images as uint8 on the device and one stream a seed in, augmented, normalised tensors out.

All draws of an epoch are made before it and belong to a sample, not to a place in a batch: with any batch size, order of
parts or width, image i of seed s is cropped and mirrored in epoch e in the same way (invariant 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from allelse import recipe
from allelse.data import Dataset
from allelse.seeds import stream

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Draws:
    """What one seed draws for one epoch; arrays have one entry for each image of the training split, but ``order``."""

    order: np.ndarray
    """[n] the images of this seed's subset, in the order they are seen"""
    flip: np.ndarray | None
    """bool: mirrored or not"""
    crop: np.ndarray | None
    """[images, 2] first row and column in the padded image, in pixels"""
    cutout: np.ndarray | None
    """[images, 2] row and column of the square's centre"""

    def digests(self) -> tuple[str, str]:
        """SHA-256 of the order and of the augmentation."""
        augmentation = hashlib.sha256()
        for drawn in (self.flip, self.crop, self.cutout):
            augmentation.update(b"-" if drawn is None else drawn.tobytes())
        return hashlib.sha256(self.order.tobytes()).hexdigest(), augmentation.hexdigest()


def draw_epoch(seed: int, epoch: int, subset: np.ndarray, images: int, side: tuple[int, int], training: recipe.Recipe) -> Draws:
    """The draws of one seed in one epoch, each kind from its own stream.

    Arguments:
        seed: the replication.
        epoch: counted from 0.
        subset: [n] indices of this seed's training images.
        images: size of the whole training split.
        side: height and width of an image, in pixels.
        training: the recipe, for its augmentations.
    """
    flip = crop = cutout = None
    if training.augmentation(recipe.Flip):
        flip = stream(seed, "augment", "flip", epoch).random(images, dtype=np.float32) < 0.5
    if part := training.augmentation(recipe.Crop):
        crop = stream(seed, "augment", "crop", epoch).integers(0, 2 * part.padding + 1, (images, 2))
    if training.augmentation(recipe.Cutout):
        cutout = stream(seed, "augment", "cutout", epoch).integers(0, side, (images, 2))
    order = subset[stream(seed, "order", epoch).permutation(len(subset))]
    return Draws(order, flip, crop, cutout)


class ImageFeed:
    """One split on one device, from which batches for R replicas are gathered by index arithmetic alone."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, padding: int, scale: tuple[Tensor, Tensor], device: torch.device
    ) -> None:
        """
        Arguments:
            images: uint8 [n, H, W, C].
            labels: int64 [n].
            padding: black pixels around each image, for crops.
            scale: mean and 1/sd of the training split a channel, each [C], in units of a uint8 step.
            device: where the images stay.
        """
        self.height, self.width, self.channels = images.shape[1:]
        self.padding = padding
        padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        self.padded_height, self.padded_width = padded.shape[1:3]
        self.pixels = torch.from_numpy(padded).to(device).view(-1, self.channels)
        self.labels = torch.from_numpy(labels).to(device)
        self.mean, self.inverse_sd = (values.to(device) for values in scale)
        self.rows = torch.arange(self.height, device=device)
        self.columns = torch.arange(self.width, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(
        self,
        index_BR: Tensor,
        dtype: torch.dtype,
        flip_BR: Tensor | None = None,
        crop_BR2: Tensor | None = None,
        cutout_BR2: Tensor | None = None,
        cutout_size: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Images [B, R·C, H, W] in channels-last memory and labels [R, B]."""
        columns_BWR = self.columns[None, :, None]
        if flip_BR is not None:
            columns_BWR = torch.where(flip_BR[:, None, :], self.width - 1 - columns_BWR, columns_BWR)
        row, column = (self.padding, self.padding) if crop_BR2 is None else (crop_BR2[:, None, :, 0], crop_BR2[:, None, :, 1])
        rows_BHR = self.rows[None, :, None] + row
        place_BHR = (index_BR[:, None, :] * self.padded_height + rows_BHR) * self.padded_width
        place_BHWR = place_BHR[:, :, None, :] + (columns_BWR + column)[:, None, :, :]
        x_BHWRC = self.pixels.index_select(0, place_BHWR.flatten()).unflatten(0, place_BHWR.shape)
        x_BHWRC = x_BHWRC.to(self.mean.dtype).sub_(self.mean).mul_(self.inverse_sd)
        if cutout_BR2 is not None:
            x_BHWRC *= self._outside_square(cutout_BR2, cutout_size)
        x_BRCHW = x_BHWRC.to(dtype).flatten(3).permute(0, 3, 1, 2)
        return x_BRCHW, self.labels[index_BR].T

    def _outside_square(self, centre_BR2: Tensor, size: int) -> Tensor:
        first_BR2 = centre_BR2 - size // 2
        inside_BHR = (self.rows[:, None] >= first_BR2[:, None, :, 0]) & (self.rows[:, None] < first_BR2[:, None, :, 0] + size)
        inside_BWR = (self.columns[:, None] >= first_BR2[:, None, :, 1]) & (
            self.columns[:, None] < first_BR2[:, None, :, 1] + size
        )
        return ~(inside_BHR[:, :, None, :] & inside_BWR[:, None, :, :]).unsqueeze(-1)

    def evaluation_batches(
        self, index_nR: Tensor, replicas: int, dtype: torch.dtype, batch_size: int = EVALUATION_BATCH
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The images at ``index_nR`` once, in that order, without augmentation; [n, 1] shows all replicas the same ones."""
        batches = -(-len(index_nR) // batch_size)  # of even size, because the statistics of a last batch of one are undefined
        for index_BR in index_nR.tensor_split(max(batches, 1)):
            x, labels = self.gather(index_BR, dtype)
            if index_BR.shape[1] < replicas:
                x = x.permute(0, 2, 3, 1).unsqueeze(3).expand(-1, -1, -1, replicas, -1).flatten(3).permute(0, 3, 1, 2)
            yield x, labels.expand(replicas, -1)


class TrainingBatches:
    """The batches of one epoch after another; replica r sees what ``draws[r]`` says.

    What was drawn stays in the same tensors from epoch to epoch, so that a recorded CUDA graph reads each epoch anew.
    """

    def __init__(self, feed: ImageFeed, batch_size: int, dtype: torch.dtype, cutout_size: int) -> None:
        self.feed = feed
        self.batch_size = batch_size
        self.dtype = dtype
        self.cutout_size = cutout_size
        self.drawn: dict[str, Tensor] = {}

    def load(self, draws: Sequence[Draws]) -> None:
        """Take an epoch's draws. The last images that fill no whole batch are left out of this epoch."""
        steps = len(draws[0].order) // self.batch_size
        orders = [draw.order[: steps * self.batch_size] for draw in draws]
        columns = {"index": orders}
        for name in ("flip", "crop", "cutout"):
            if getattr(draws[0], name) is not None:
                columns[name] = [getattr(draw, name)[order] for draw, order in zip(draws, orders, strict=True)]
        for name, column in columns.items():
            drawn = torch.from_numpy(np.stack(column, axis=1)).unflatten(0, (steps, self.batch_size))
            if name in self.drawn:
                self.drawn[name].copy_(drawn)
            else:
                self.drawn[name] = drawn.to(self.feed.labels.device)

    def at(self, place: int | Tensor, replicas: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """The batch at this place of the epoch: images [B, R·C, H, W] and labels [R, B]. A tensor [1] stays on its device."""
        drawn = {
            name: (values[place] if isinstance(place, int) else values.index_select(0, place)[0])[:, replicas]
            for name, values in self.drawn.items()
        }
        return self.feed.gather(
            drawn["index"], self.dtype, drawn.get("flip"), drawn.get("crop"), drawn.get("cutout"), self.cutout_size
        )


@lru_cache(maxsize=4)
def feed_of(
    dataset: Dataset, split: Literal["train", "test"], padding: int, dtype: torch.dtype, device: torch.device
) -> ImageFeed:
    """One split on ``device``; a split of a data set is put there once a process, not once a pack."""
    images, labels = (
        (dataset.train_images, dataset.train_labels) if split == "train" else (dataset.test_images, dataset.test_labels)
    )
    return ImageFeed(images, labels, padding, scale_of(dataset, dtype), device)


@lru_cache(maxsize=8)
def scale_of(dataset: Dataset, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and 1/sd of each channel over the training split, each [C], in units of a uint8 step."""
    levels = np.arange(256)
    means, inverse_sds = [], []
    for channel in range(dataset.train_images.shape[3]):
        counts = np.bincount(dataset.train_images[..., channel].ravel(), minlength=256)
        mean = (counts * levels).sum() / counts.sum()
        variance = (counts * (levels - mean) ** 2).sum() / counts.sum()
        means.append(mean)
        inverse_sds.append(1 / np.sqrt(variance) if variance > 0 else 1.0)
    return torch.tensor(means, dtype=dtype), torch.tensor(inverse_sds, dtype=dtype)
