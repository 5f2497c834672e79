"""Batches for R replicas: images as uint8 on the device and what was drawn in, augmented, normalised tensors out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from allelse.data import Dataset
from allelse.engine.draws import Draws
from allelse.engine.targets import Targets

EVALUATION_BATCH = 500


class ImageFeed:
    """One split on one device, from which batches for R replicas are gathered by index arithmetic alone."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        padding: int,
        scale: tuple[Tensor, Tensor],
        device: torch.device,
        standardize: bool = True,
    ) -> None:
        """
        Arguments:
            images: uint8 [n, H, W, C].
            labels: int64 [n].
            padding: black pixels around each image, for crops.
            scale: mean and 1/sd of the training split a channel, each [C], in units of a uint8 step.
            device: where the images stay.
            standardize: by that scale; else pixels are shown from 0 to 1.
        """
        self.height, self.width, self.channels = images.shape[1:]
        self.padding = padding
        padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        self.padded_height, self.padded_width = padded.shape[1:3]
        self.pixels = torch.from_numpy(padded).to(device).view(-1, self.channels)
        self.labels = torch.from_numpy(labels).to(device)
        mean, inverse_sd = (values.to(device) for values in scale)
        self.offset = mean if standardize else torch.zeros_like(mean)
        self.factor = inverse_sd if standardize else torch.full_like(mean, 1 / 255)
        self.mean_colour = (mean - self.offset) * self.factor
        self.rows = torch.arange(self.height, device=device)
        self.columns = torch.arange(self.width, device=device)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(
        self, index_BR: Tensor, dtype: torch.dtype, flip_BR: Tensor | None = None, crop_BR2: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images [B, R·C, H, W] in channels-last memory and labels [R, B]."""
        return as_input(self.look(index_BR, flip_BR, crop_BR2), dtype), self.labels[index_BR].T

    def look(
        self,
        index_BR: Tensor,
        flip_BR: Tensor | None = None,
        crop_BR2: Tensor | None = None,
        hidden: Sequence[Tensor] = (),
    ) -> Tensor:
        """Images [B, H, W, R, C], scaled, with the mean colour inside of each box [B, R, 4] of ``hidden``."""
        columns_BWR = self.columns[None, :, None]
        if flip_BR is not None:
            columns_BWR = torch.where(flip_BR[:, None, :], self.width - 1 - columns_BWR, columns_BWR)
        row, column = (self.padding, self.padding) if crop_BR2 is None else (crop_BR2[:, None, :, 0], crop_BR2[:, None, :, 1])
        rows_BHR = self.rows[None, :, None] + row
        place_BHR = (index_BR[:, None, :] * self.padded_height + rows_BHR) * self.padded_width
        place_BHWR = place_BHR[:, :, None, :] + (columns_BWR + column)[:, None, :, :]
        x_BHWRC = self.pixels.index_select(0, place_BHWR.flatten()).unflatten(0, place_BHWR.shape)
        x_BHWRC = x_BHWRC.to(self.offset.dtype).sub_(self.offset).mul_(self.factor)
        for box_BR4 in hidden:
            x_BHWRC = torch.where(self._inside(box_BR4), self.mean_colour, x_BHWRC)
        return x_BHWRC

    def mix(self, own_BHWRC: Tensor, partner_BHWRC: Tensor, share_BR: Tensor, pasted_BR4: Tensor | None) -> Tensor:
        """``partner`` where it is pasted on; and where nothing is, a blend of both."""
        weight = share_BR[:, None, None, :, None]
        if pasted_BR4 is not None:
            is_pasted_BR = (pasted_BR4[..., 0] < pasted_BR4[..., 1]) & (pasted_BR4[..., 2] < pasted_BR4[..., 3])
            weight = torch.where(is_pasted_BR[:, None, None, :, None], (~self._inside(pasted_BR4)).to(weight.dtype), weight)
        return torch.lerp(partner_BHWRC, own_BHWRC, weight)

    def _inside(self, box_BR4: Tensor) -> Tensor:
        """Which pixels lie in the box: [B, H, W, R, 1]."""
        inside_BHR = (self.rows[:, None] >= box_BR4[:, None, :, 0]) & (self.rows[:, None] < box_BR4[:, None, :, 1])
        inside_BWR = (self.columns[:, None] >= box_BR4[:, None, :, 2]) & (self.columns[:, None] < box_BR4[:, None, :, 3])
        return (inside_BHR[:, :, None, :] & inside_BWR[:, None, :, :]).unsqueeze(-1)

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


def as_input(x_BHWRC: Tensor, dtype: torch.dtype) -> Tensor:
    """What a network takes: [B, R·C, H, W] in channels-last memory."""
    return x_BHWRC.to(dtype).flatten(3).permute(0, 3, 1, 2)


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
        columns = [self._column(draw, order) for draw, order in zip(draws, orders, strict=True)]
        for name in columns[0]:
            drawn = self._stacked(columns, name).unflatten(0, (steps, self.batch_size))
            if name in self.drawn:
                self.drawn[name].copy_(drawn)
            else:
                self.drawn[name] = drawn.to(self.feed.labels.device)

    def _stacked(self, columns: Sequence[Mapping[str, np.ndarray]], name: str) -> Tensor:
        """What was drawn of one name for all replicas: [images, R, ...]."""
        drawn = torch.from_numpy(np.stack([column[name] for column in columns], axis=1))
        return drawn.to(self.feed.offset.dtype) if drawn.is_floating_point() else drawn

    def _column(self, draw: Draws, order: np.ndarray) -> dict[str, np.ndarray]:
        """What one replica's images in this order look like, by name, each an array with an entry an image."""
        column = {"index": order, **self._looks(draw, order)}
        if draw.partner is not None and draw.share is not None:
            partner = draw.partner[order]
            looks = {"index": partner, **self._looks(draw, partner)}  # as that image looks itself in this epoch
            column |= {f"partner {name}": drawn for name, drawn in looks.items()}
            column["share"] = draw.share[order]
            if draw.pasted is not None:
                column["pasted"] = draw.pasted[order]
        return column

    def _looks(self, draw: Draws, index: np.ndarray) -> dict[str, np.ndarray]:
        looks = {
            name: drawn[index]
            for name, drawn in (("flip", draw.flip), ("crop", draw.crop), ("erased", draw.erased))
            if drawn is not None
        }
        if draw.cutout is not None:
            first = draw.cutout[index] - self.cutout_size // 2
            looks["cutout"] = np.stack([first, first + self.cutout_size], axis=2).reshape(-1, 4)
        return looks

    def at(self, place: int | Tensor, replicas: slice = slice(None)) -> tuple[Tensor, Targets]:
        """The batch at this place of the epoch: images [B, R·C, H, W] and targets. A tensor [1] stays on its device."""
        return self._batch(
            {
                name: (values[place] if isinstance(place, int) else values.index_select(0, place)[0])[:, replicas]
                for name, values in self.drawn.items()
            }
        )

    def once(self, draws: Sequence[Draws], index_nR: np.ndarray, batch_size: int = EVALUATION_BATCH) -> Iterator[Tensor]:
        """The images at ``index_nR`` [n, R] once, in that order, as an epoch with these draws shows them: [B, R·C, H, W]."""
        batches = -(-len(index_nR) // batch_size)  # of even size, as in ``evaluation_batches``
        for index_BR in np.array_split(index_nR, max(batches, 1)):
            columns = [self._column(draw, index_B) for draw, index_B in zip(draws, index_BR.T, strict=True)]
            x, _ = self._batch({name: self._stacked(columns, name).to(self.feed.labels.device) for name in columns[0]})
            yield x

    def _batch(self, drawn: Mapping[str, Tensor]) -> tuple[Tensor, Targets]:
        x_BHWRC, labels = self._look(drawn), self.feed.labels[drawn["index"]].T
        if "share" not in drawn:
            return as_input(x_BHWRC, self.dtype), Targets(labels)
        partner_BHWRC = self._look(drawn, "partner ")
        x_BHWRC = self.feed.mix(x_BHWRC, partner_BHWRC, drawn["share"], drawn.get("pasted"))
        targets = Targets(labels, self.feed.labels[drawn["partner index"]].T, drawn["share"].T)
        return as_input(x_BHWRC, self.dtype), targets

    def _look(self, drawn: Mapping[str, Tensor], whose: str = "") -> Tensor:
        hidden = [drawn[name] for name in (f"{whose}cutout", f"{whose}erased") if name in drawn]
        return self.feed.look(drawn[f"{whose}index"], drawn.get(f"{whose}flip"), drawn.get(f"{whose}crop"), hidden)


@lru_cache(maxsize=4)
def feed_of(
    dataset: Dataset,
    split: Literal["train", "test"],
    padding: int,
    dtype: torch.dtype,
    device: torch.device,
    standardize: bool,
) -> ImageFeed:
    """One split on ``device``; a split of a data set is put there once a process, not once a pack."""
    images, labels = (
        (dataset.train_images, dataset.train_labels) if split == "train" else (dataset.test_images, dataset.test_labels)
    )
    return ImageFeed(images, labels, padding, scale_of(dataset, dtype), device, standardize)


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
