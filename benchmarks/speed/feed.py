"""Batches, in plain torch: images one by one for a DataLoader, or as uint8 on the device for R replicas at once.

Dimensions: R = replicas, B = images in a batch, C = channels, H, W = height and width.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.speed.grid import Job

PADDING = 4


def arrays(job: Job) -> tuple[np.ndarray, ...]:
    """Images uint8 [n, H, W, C], labels int64 [n], and mean and sd [C] in units of a uint8 step."""
    return tuple(np.load(job.folder / f"{job.cell.data}-{what}.npy") for what in ("images", "labels", "mean", "sd"))


class Images(Dataset):
    """Images one by one, cropped and mirrored in ``__getitem__``."""

    def __init__(self, job: Job) -> None:
        images, labels, mean, sd = arrays(job)
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        for channel, plane in enumerate(self.images.unbind(1)):
            plane.sub_(mean[channel]).div_(sd[channel])
        self.labels = torch.from_numpy(labels)
        self.augmented = job.cell.source.augmented

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        image = self.images[place]
        if self.augmented:
            height, width = image.shape[1:]
            top, left = torch.randint(0, 2 * PADDING + 1, (2,)).tolist()
            image = F.pad(image, (PADDING,) * 4)[:, top : top + height, left : left + width]
            if torch.rand(()) < 0.5:
                image = image.flip(2)
        return image, self.labels[place]


class Feed:
    """The images as uint8 on the device; batches for R replicas, each in its own order, cut out by index arithmetic."""

    def __init__(self, job: Job, replicas: int, dtype: torch.dtype) -> None:
        images, labels, mean, sd = arrays(job)
        device = torch.device(job.device)
        self.batch, self.dtype, self.augmented = job.cell.batch, dtype, job.cell.source.augmented
        self.count, self.height, self.width, channels = images.shape
        padding = PADDING if self.augmented else 0
        padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        self.padded_height, self.padded_width = padded.shape[1:3]
        self.pixels = torch.from_numpy(padded).to(device).view(-1, channels)
        self.labels = torch.from_numpy(labels).to(device)
        self.mean = torch.from_numpy(mean).float().to(device)
        self.inverse_sd = torch.from_numpy(1 / sd).float().to(device)
        self.rows = torch.arange(self.height, device=device)
        self.columns = torch.arange(self.width, device=device)
        self.order_Rn = torch.zeros(replicas, self.count, dtype=torch.int64, device=device)
        self.flip_Rn = torch.zeros(replicas, self.count, dtype=torch.bool, device=device)
        self.crop_2Rn = torch.zeros(2, replicas, self.count, dtype=torch.int64, device=device)
        self.first_B = torch.arange(self.batch, device=device)
        self.place_B = self.first_B.clone()
        self.steps_left = 0

    def before_step(self) -> None:
        """At an epoch's end, draw the next one, into the tensors that are there: a captured graph reads them."""
        if self.steps_left == 0:
            device = self.labels.device
            for order_n in self.order_Rn:
                order_n.copy_(torch.randperm(self.count, device=device))
            if self.augmented:
                self.flip_Rn.copy_(torch.rand(self.flip_Rn.shape, device=device) < 0.5)
                self.crop_2Rn.copy_(torch.randint(0, 2 * PADDING + 1, self.crop_2Rn.shape, device=device))
            self.place_B.copy_(self.first_B)
            self.steps_left = self.count // self.batch
        self.steps_left -= 1

    def batches(self) -> tuple[Tensor, Tensor]:
        """Images [R, B, H, W, C] and labels [R, B] of the next step."""
        index_RB = self.order_Rn.index_select(1, self.place_B)
        rows_RBH, columns_RBW = self.rows[None, None], self.columns[None, None]
        if self.augmented:
            flip_RB1 = self.flip_Rn.index_select(1, self.place_B).unsqueeze(2)
            crop_2RB1 = self.crop_2Rn.index_select(2, self.place_B).unsqueeze(3)
            rows_RBH = rows_RBH + crop_2RB1[0]
            columns_RBW = torch.where(flip_RB1, self.width - 1 - columns_RBW, columns_RBW) + crop_2RB1[1]
        place_RBH = (index_RB.unsqueeze(2) * self.padded_height + rows_RBH) * self.padded_width
        place_RBHW = place_RBH.unsqueeze(3) + columns_RBW.unsqueeze(2)
        x_RBHWC = self.pixels.index_select(0, place_RBHW.flatten()).unflatten(0, place_RBHW.shape)
        x_RBHWC = x_RBHWC.float().sub_(self.mean).mul_(self.inverse_sd).to(self.dtype)
        self.place_B += self.batch
        return x_RBHWC, self.labels[index_RB]
