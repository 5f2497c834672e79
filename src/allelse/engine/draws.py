"""What is drawn for an epoch: a seed, an epoch and a recipe in; orders, places and partners as NumPy arrays out.

All draws of an epoch are made before it and belong to a sample, not to a place in a batch: with any batch size, order of
parts or width, image i of seed s is cropped, mirrored and mixed in epoch e in the same way (invariant 1).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from allelse import recipe
from allelse.seeds import stream

TRIES_TO_ERASE = 10


@dataclass(frozen=True)
class Draws:
    """What one seed draws for one epoch; arrays have one entry for each image of the training split, but ``order``.

    A box is first and past-the-last row, first and past-the-last column of a rectangle of pixels; empty where nothing is done.
    """

    order: np.ndarray
    """[n] the images of this seed's subset, in the order they are seen"""
    flip: np.ndarray | None = None
    """bool: mirrored or not"""
    crop: np.ndarray | None = None
    """[images, 2] first row and column in the padded image, in pixels"""
    cutout: np.ndarray | None = None
    """[images, 2] row and column of the square's centre"""
    erased: np.ndarray | None = None
    """[images, 4] the box of random erasing"""
    partner: np.ndarray | None = None
    """the image of the subset that this one is mixed with; each is the partner of one"""
    share: np.ndarray | None = None
    """float32: what an image's own label weighs in the mixture (λ), and its pixels too where nothing is pasted"""
    pasted: np.ndarray | None = None
    """[images, 4] the box that shows the partner (CutMix)"""

    def digests(self) -> tuple[str, str]:
        """SHA-256 of the order and of the augmentation."""
        augmentation = hashlib.sha256()
        for drawn in (self.flip, self.crop, self.cutout):
            augmentation.update(b"-" if drawn is None else drawn.tobytes())
        for name in ("erased", "partner", "share", "pasted"):
            if (drawn := getattr(self, name)) is not None:
                augmentation.update(name.encode() + drawn.tobytes())
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
    drawn: dict[str, np.ndarray] = {}
    if training.augmentation(recipe.Flip):
        drawn["flip"] = stream(seed, "augment", "flip", epoch).random(images, dtype=np.float32) < 0.5
    if crop := training.augmentation(recipe.Crop):
        drawn["crop"] = stream(seed, "augment", "crop", epoch).integers(0, 2 * crop.padding + 1, (images, 2))
    if training.augmentation(recipe.Cutout):
        drawn["cutout"] = stream(seed, "augment", "cutout", epoch).integers(0, side, (images, 2))
    if erasing := training.augmentation(recipe.RandomErasing):
        drawn["erased"] = _erased(stream(seed, "augment", "random-erasing", epoch), erasing, images, side)
    mixup, cutmix = training.augmentation(recipe.Mixup), training.augmentation(recipe.CutMix)
    if mixup or cutmix:
        drawn["partner"] = np.zeros(images, np.int64)
        drawn["partner"][subset] = stream(seed, "augment", "partner", epoch).permutation(subset)
        share = np.ones(images)
        if mixup:
            share = stream(seed, "augment", "mixup", epoch).beta(mixup.alpha, mixup.alpha, images)
        if cutmix:
            box, is_pasted = _pasted(stream(seed, "augment", "cutmix", epoch), cutmix, images, side)
            drawn["pasted"] = box
            share = np.where(is_pasted, 1 - _area(box) / np.prod(side), share)
        drawn["share"] = share.astype(np.float32)
    order = subset[stream(seed, "order", epoch).permutation(len(subset))]
    return Draws(order, **drawn)


def _area(box: np.ndarray) -> np.ndarray:
    return (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])


def _pasted(
    draw: np.random.Generator, cutmix: recipe.CutMix, images: int, side: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The box of each image, cut off at the edges, and whether it is pasted on at all."""
    is_pasted = draw.random(images) < cutmix.probability
    centre = draw.integers(0, side, (images, 2))
    share = draw.beta(cutmix.alpha, cutmix.alpha, images)  # the last, because alpha says how many numbers it takes
    half = (np.array(side) * np.sqrt(1 - share)[:, None]).astype(np.int64) // 2
    box = np.stack([centre - half, centre + half], axis=2).clip(0, np.array(side)[:, None])
    return np.where(is_pasted[:, None], box.reshape(images, 4), 0), is_pasted


def _erased(draw: np.random.Generator, erasing: recipe.RandomErasing, images: int, side: tuple[int, int]) -> np.ndarray:
    """The box of each image: the first of some tries that is smaller than the image, anywhere in it."""
    is_erased = draw.random(images) < erasing.probability
    place = draw.random((images, 2))
    area = draw.uniform(*erasing.area, (images, TRIES_TO_ERASE)) * np.prod(side)
    aspect = draw.uniform(erasing.aspect, 1 / erasing.aspect, (images, TRIES_TO_ERASE))
    sizes = np.rint(np.sqrt(np.stack([area * aspect, area / aspect], axis=2))).astype(np.int64)
    fits = np.all(sizes < np.array(side), axis=2)
    size = sizes[np.arange(images), fits.argmax(1)]
    first = (place * (side - size + 1)).astype(np.int64)
    box = np.stack([first, first + size], axis=2).reshape(images, 4)
    return np.where((is_erased & fits.any(1))[:, None], box, 0)
