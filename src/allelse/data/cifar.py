"""What CIFAR-10 and CIFAR-100 are: the content of their official files in, a checked ``Dataset`` in canonical order out.

Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; formats and checksums as at
https://www.cs.toronto.edu/~kriz/cifar.html. Two formats are read: fixed-size binary records, and Python pickles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from allelse.data.dataset import Dataset, assemble
from allelse.data.pickles import read_batch
from allelse.errors import DataError, did_you_mean

SIDE = 32
PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets: its classes, its size, and the names and layout of its official files."""

    name: str
    title: str
    classes: tuple[str, ...]
    """the label order of the official files"""
    train_per_class: int
    test_per_class: int
    archive: str
    """file name of the official binary archive"""
    archive_md5: str
    python_archive: str
    binary_folder: str
    python_folder: str
    train_files: tuple[str, ...]
    """without ``.bin``, which the binary format adds"""
    test_files: tuple[str, ...]
    label_bytes: int
    """label bytes at the head of a binary record; the last one is the label used here (CIFAR-100: coarse, then fine)"""
    label_key: str
    """where a pickle keeps the labels used here"""

    @property
    def counts(self) -> tuple[int, int]:
        """Number of train and of test images."""
        return len(self.classes) * self.train_per_class, len(self.classes) * self.test_per_class

    @property
    def binary_sizes(self) -> dict[str, int]:
        """Bytes of each binary file, by name."""
        record = self.label_bytes + PIXELS
        images = [(name, self.counts[0] // len(self.train_files)) for name in self.train_files]
        images += [(name, self.counts[1] // len(self.test_files)) for name in self.test_files]
        return {f"{name}.bin": count * record for name, count in images}

    @property
    def pickle_limits(self) -> dict[str, int]:
        """The most bytes that each pickle may have, by name: pixels, labels and file names.

        Python 3 writes a byte of an old protocol as up to two, so a batch that was pickled again is larger than the official.
        """
        counts = {**dict.fromkeys(self.train_files, self.counts[0]), **dict.fromkeys(self.test_files, self.counts[1])}
        return {name: count * (2 * PIXELS + 256) + 65536 for name, count in counts.items()}


_CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
    "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle "
    "mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
    "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar "
    "sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree "
    "wolf woman worm"
)

CIFARS: dict[str, Cifar] = {
    "cifar10": Cifar(
        name="cifar10",
        title="CIFAR-10, small colour photographs",
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        train_per_class=5000,
        test_per_class=1000,
        archive="cifar-10-binary.tar.gz",
        archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
        python_archive="cifar-10-python.tar.gz",
        binary_folder="cifar-10-batches-bin",
        python_folder="cifar-10-batches-py",
        train_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test_files=("test_batch",),
        label_bytes=1,
        label_key="labels",
    ),
    "cifar100": Cifar(
        name="cifar100",
        title="CIFAR-100, small colour photographs, fine labels",
        classes=tuple(_CIFAR100_CLASSES.split()),
        train_per_class=500,
        test_per_class=100,
        archive="cifar-100-binary.tar.gz",
        archive_md5="03b5dce01913d631647c71ecec9e9cb8",
        python_archive="cifar-100-python.tar.gz",
        binary_folder="cifar-100-binary",
        python_folder="cifar-100-python",
        train_files=("train",),
        test_files=("test",),
        label_bytes=2,
        label_key="fine_labels",
    ),
}


def cifar_named(name: str) -> Cifar:
    """The entry of ``CIFARS``.

    Raises:
        DataError: the name is none of them.
    """
    if name not in CIFARS:
        raise DataError(f"{name!r} is no data set that can be fetched or imported; {did_you_mean(name, list(CIFARS))}")
    return CIFARS[name]


def from_files(cifar: Cifar, content_from_name: Mapping[str, bytes], where: str) -> Dataset:
    """The data set of its official files.

    Arguments:
        cifar: which one.
        content_from_name: file content by base name, all of the binary or all of the Python files.
        where: the archive or folder, for messages.

    Raises:
        DataError: files are missing or damaged, or do not hold what the data set holds.
    """
    binary = [f"{name}.bin" for name in cifar.train_files + cifar.test_files]
    python = list(cifar.train_files + cifar.test_files)
    splits = []
    if all(name in content_from_name for name in binary):
        for names in (cifar.train_files, cifar.test_files):
            splits.append(
                _join(_read_records(cifar, content_from_name[f"{name}.bin"], f"{where}: {name}.bin") for name in names)
            )
    elif all(name in content_from_name for name in python):
        for names in (cifar.train_files, cifar.test_files):
            splits.append(_join(read_batch(content_from_name[name], cifar.label_key, f"{where}: {name}") for name in names))
    else:
        expected = binary if any(name in content_from_name for name in binary) else python
        missing = next(name for name in expected if name not in content_from_name)
        raise DataError(
            f"{where} lacks the file {missing!r} of {cifar.name}; give a whole copy, or run `allelse data fetch {cifar.name}`"
        )
    train, test = splits
    return checked(cifar, train, test, where)


def checked(cifar: Cifar, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], where: str) -> Dataset:
    """The data set of two (images, labels) splits, once they have the shape and the counts of the official one.

    Raises:
        DataError: other shapes, other labels or other counts.
    """
    for split, (images, labels), per_class in (("train", train, cifar.train_per_class), ("test", test, cifar.test_per_class)):
        if images.shape[1:] != (SIDE, SIDE, 3):
            raise DataError(
                f"{where}: {split} images of {' x '.join(map(str, images.shape[1:]))}; {cifar.name} has 32 x 32 x 3"
            )
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(cifar.classes):
            raise DataError(f"{where}: {split} labels beyond 0 to {len(cifar.classes) - 1}; this is not {cifar.name}")
        for label, count in enumerate(np.bincount(labels.astype(np.int64), minlength=len(cifar.classes))):
            if count != per_class:
                raise DataError(
                    f"{where}: {count} {split} images of {cifar.classes[label]!r}; {cifar.name} has {per_class} in each class"
                )
    return assemble(cifar.name, train, test, cifar.classes)


def _join(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Planes uint8 [N, 3072], red then green then blue, and labels [N], of several files; images out as [N, 32, 32, 3]."""
    planes, labels = zip(*parts, strict=True)
    images = np.concatenate(planes).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.concatenate(labels)


def _read_records(cifar: Cifar, content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    record = cifar.label_bytes + PIXELS
    if len(content) % record:
        raise DataError(f"{where} has {len(content)} bytes, no multiple of {record}; run `allelse data fetch {cifar.name}`")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return rows[:, cifar.label_bytes :], rows[:, cifar.label_bytes - 1].astype(np.int64)
