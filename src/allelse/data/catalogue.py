"""The catalogue of data sets: a name in, its ``Dataset`` out; and what there is to choose from, for ``allelse data list``."""

from __future__ import annotations

from dataclasses import dataclass

from allelse.data.cache import path_of
from allelse.data.cifar import CIFARS, SIDE
from allelse.data.dataset import Dataset
from allelse.data.digits import TEST_COUNT, TRAIN_COUNT, load_digits
from allelse.data.folder import MOST_SIDE, load_folder
from allelse.data.npz import load_npz
from allelse.data.sources import find, load_cifar
from allelse.errors import DataError, RecipeError, did_you_mean

NAMES = ("digits", *CIFARS, "folder:PATH", "npz:PATH")


@dataclass(frozen=True)
class Entry:
    """One line of ``allelse data list``; what depends on the user's own files is None."""

    name: str
    what: str
    shape: tuple[int, int, int] | None
    """H, W, C"""
    classes: int | None
    train: int | None
    """images in the train split"""
    test: int | None
    present: bool
    """whether it loads without a network"""
    where: str | None
    """the file or folder it is read from"""
    bytes: int
    """what it takes on disk there; 0 where it is not, or is part of another package"""


def load(name: str, image_size: int | None = None) -> Dataset:
    """The data set of this name.

    Arguments:
        name: ``digits`` (bundled), ``cifar10`` or ``cifar100`` (cached, found on this machine, or else downloaded, about
            170 MB), ``folder:PATH`` or ``npz:PATH``; ``~`` is expanded, other relative paths start at the working folder.
        image_size: for ``folder:`` only, the side in pixels to which images are resized; None keeps their own size.

    Raises:
        DataError: no such name, or the data set is missing, damaged or does not fit.
        RecipeError: ``image_size`` is not for this data set, or out of range.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind in ("folder", "npz"):
        if not rest:
            raise DataError(f"{name!r} names no path; allowed: {kind}:PATH")
    elif name not in ("digits", *CIFARS):
        raise DataError(f"there is no data set {name!r}; {did_you_mean(name, NAMES)}")
    if image_size is not None and kind != "folder":
        raise RecipeError(f"{image_size} with data set {name!r}; allowed: with folder:PATH only; leave it out", ("image_size",))
    if image_size is not None and not 1 <= image_size <= MOST_SIDE:
        raise RecipeError(f"{image_size}; allowed: a side of 1 to {MOST_SIDE} pixels", ("image_size",))
    if kind == "folder":
        return load_folder(name, path_of(rest), image_size)
    if kind == "npz":
        return load_npz(name, path_of(rest))
    return load_digits() if name == "digits" else load_cifar(name)


def shape(name: str, image_size: int | None = None) -> tuple[tuple[int, int, int], int]:
    """Height, width and channels of the images of ``load(name, image_size)``, and the number of classes.

    CIFAR's are known without its images, which need not be on this machine.

    Raises:
        DataError, RecipeError: as ``load``.
    """
    if name in CIFARS and image_size is None:
        return (SIDE, SIDE, 3), len(CIFARS[name].classes)
    dataset = load(name, image_size)
    height, width, channels = dataset.train_images.shape[1:]
    return (height, width, channels), len(dataset.classes)


def catalogue() -> list[Entry]:
    """Every data set there is to choose from, and whether it is on this machine. Reads no images and downloads nothing."""
    entries = [
        Entry("digits", "handwritten digits", (8, 8, 1), 10, TRAIN_COUNT, TEST_COUNT, True, "bundled with scikit-learn", 0)
    ]
    for cifar in CIFARS.values():
        place = find(cifar)
        files = [place] if place and place.is_file() else sorted(place.iterdir()) if place else []
        size = sum(file.stat().st_size for file in files if file.is_file())
        where = str(place) if place else None
        known = ((SIDE, SIDE, 3), len(cifar.classes), *cifar.counts)
        entries.append(Entry(cifar.name, cifar.title, *known, place is not None, where, size))
    for name, what in (
        ("folder:PATH", "PATH/train/<class>/ and PATH/test/<class>/ of PNG or JPEG files"),
        ("npz:PATH", "x_train, y_train, x_test, y_test as Keras keeps them"),
    ):
        entries.append(Entry(name, what, None, None, None, None, True, None, 0))
    return entries
