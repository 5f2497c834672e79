"""A data set in memory: uint8 images and labels in, one frozen ``Dataset`` in canonical order with its fingerprint out.

Dimensions: N = images, H = height, W = width, C = channels (1 or 3).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from allelse.errors import DataError, counted


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels, in two splits. Within a split they stand in canonical order: by label, then by pixels."""

    name: str
    """as ``load`` was asked for it"""
    train_images: np.ndarray
    """uint8 [N, H, W, C]"""
    train_labels: np.ndarray
    """int64 [N], 0 to K-1 for K classes"""
    test_images: np.ndarray
    """uint8 [N, H, W, C]"""
    test_labels: np.ndarray
    """int64 [N]"""
    classes: tuple[str, ...]
    """the name of each label"""
    fingerprint: str
    """the first 16 hex digits of a SHA-256 over both splits' shapes, images and labels; it names the content, not the source"""


def assemble(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: tuple[str, ...],
) -> Dataset:
    """The ``Dataset`` of two (images, labels) splits, whatever order they come in.

    Every split is put in canonical order, by label and then by pixels, so that the same images give the same arrays and the
    same fingerprint from whichever source they were read. Training shuffles each epoch, so no order is lost.

    Arguments:
        name: what ``load`` was asked for.
        train: images uint8 [N, H, W, C] and labels, whole numbers [N].
        test: the same for the test split.
        classes: the name of each label.

    Raises:
        DataError: a split of fewer than two images, fewer than two classes, splits of different image shape, or labels that
            are not 0 to K-1.
    """
    where = f"data set {name!r}"
    if len(classes) < 2:
        raise DataError(f"{where} has {counted(len(classes), 'class', 'classes')}; allowed: at least 2")
    for split, (images, labels) in (("train", train), ("test", test)):
        if len(images) < 2:  # one alone has no statistics for BatchNorm to be evaluated with
            count = f"one {split} image" if len(images) else f"no {split} images"
            raise DataError(f"{where} has {count}; allowed: at least 2 in each split")
        if len(images) != len(labels):
            raise DataError(
                f"{where} has {len(images)} {split} images and {len(labels)} {split} labels; give one label an image"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(classes):
            raise DataError(f"{where} has {split} labels from {low} to {high}; allowed: 0 to {len(classes) - 1}")
    absent = sorted(set(range(len(classes))) - set(np.unique(train[1]).tolist()))
    if absent:
        raise DataError(f"{where} has no train image of label {absent[0]} ({classes[absent[0]]!r}); every class needs some")
    if train[0].shape[1:] != test[0].shape[1:]:
        shapes = [" x ".join(map(str, images.shape[1:])) for images in (train[0], test[0])]
        raise DataError(f"{where} has train images of {shapes[0]} and test images of {shapes[1]}; make both the same shape")

    train_images, train_labels = _canonical(*train)
    test_images, test_labels = _canonical(*test)
    arrays = (train_images, train_labels, test_images, test_labels)
    return Dataset(name, *arrays, classes, fingerprint(*arrays))


def _canonical(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = labels.astype(np.int64)
    # Python's sort of byte strings compares pixels as memcmp does and needs well under a second for 60,000 images.
    order = sorted(range(len(labels)), key=lambda index: (labels[index], images[index].tobytes()))
    return np.ascontiguousarray(images[order]), labels[order]


def fingerprint(*arrays: np.ndarray) -> str:
    """The first 16 hex digits of a SHA-256 over the arrays' shapes and bytes, in the order given."""
    sha = hashlib.sha256()
    for array in arrays:
        little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        sha.update(f"{little_endian.dtype.str}{little_endian.shape}".encode())
        sha.update(little_endian.data.cast("B"))
    return sha.hexdigest()[:16]
