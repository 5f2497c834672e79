"""Where a CIFAR data set is found: a name, or a path in any form people have it in, in; a cached ``Dataset`` out.

In this order: the cache's converted arrays; an official archive in the cache; an unpacked folder, as torchvision leaves one, in
./data, ~/data, ~/.torch/datasets or the cache; the official web page.
"""

from __future__ import annotations

from pathlib import Path

from allelse.data import cache
from allelse.data.archives import read_archive, read_folder
from allelse.data.cifar import Cifar, checked, cifar_named, from_files
from allelse.data.dataset import Dataset
from allelse.data.fetch import fetch
from allelse.data.folder import list_images, read_images
from allelse.data.npz import read_npz
from allelse.errors import DataError

_FORMS = (
    "an official .tar.gz, an unpacked official folder, an .npz, or a folder with train/<class>/*.png and test/<class>/*.png"
)


def converted_path(cifar: Cifar) -> Path:
    """Where the cache keeps the converted arrays."""
    return cache.root() / f"{cifar.name}.npz"


def find(cifar: Cifar) -> Path | None:
    """The first place of this module's order that holds the data set, short of downloading; None where there is none."""
    home = cache.path_of("~")
    roots = [Path("data"), home / "data", home / ".torch" / "datasets", cache.root()]
    places = [converted_path(cifar), cache.root() / cifar.archive, cache.root() / cifar.python_archive]
    places += [folder / name for folder in roots for name in (cifar.python_folder, cifar.binary_folder)]
    return next((place for place in places if cache.exists(place)), None)


def load_cifar(name: str) -> Dataset:
    """The data set ``cifar10`` or ``cifar100``, converted into the cache at first, and downloaded when it is nowhere.

    Raises:
        DataError: it is nowhere and cannot be downloaded, what was found is damaged, or the cache cannot be written.
    """
    cifar = cifar_named(name)
    return cache.cached(converted_path(cifar), name, lambda: read(cifar, find(cifar) or fetch(name)))


def import_images(name: str, path: str | Path) -> Path:
    """Take a copy of CIFAR that is on this machine into the cache, in place of what the cache holds.

    Arguments:
        name: ``cifar10`` or ``cifar100``.
        path: an official archive (binary or Python .tar.gz), the folder it unpacks to, an .npz as Keras keeps it, or a folder
            of images by class under the official class names; ``~`` is expanded.

    Returns:
        the file in the cache.

    Raises:
        DataError: no such path, none of these forms, not the images or counts of the official data set, or a cache that
            cannot be written.
    """
    cifar = cifar_named(name)
    target = converted_path(cifar)
    cache.writable_folder(target.parent)
    dataset = read(cifar, cache.path_of(str(path)))
    with cache.locked(target):
        cache.keep(target, dataset)
    return target


def read(cifar: Cifar, path: Path) -> Dataset:
    """The data set at ``path``, whichever form it has there; every form gives the same arrays and fingerprint.

    Raises:
        DataError: as ``import_images``.
    """
    if not cache.exists(path):
        raise DataError(f"there is no {path}; allowed: {_FORMS}")
    if path.is_file() and path.suffix == ".npz":
        return checked(cifar, *read_npz(path), str(path))
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz")):
        return from_files(cifar, read_archive(cifar, path), str(path))
    if path.is_dir():
        for inner in (cifar.python_folder, cifar.binary_folder):
            if (path / inner).is_dir():
                path = path / inner
        if (path / "train").is_dir() and (path / "test").is_dir():
            return _read_classes(cifar, path)
        content = read_folder(cifar, path)
        if content:
            return from_files(cifar, content, str(path))
    raise DataError(f"{path} is no copy of {cifar.name}; allowed: {_FORMS}")


def _read_classes(cifar: Cifar, path: Path) -> Dataset:
    classes, files = list_images(path)
    if set(classes) != set(cifar.classes):
        odd = sorted(set(classes) ^ set(cifar.classes))[0]
        fault = "is no class of" if odd in classes else "is missing; it is a class of"
        raise DataError(
            f"{path}: {odd!r} {fault} {cifar.name}; allowed: the {len(cifar.classes)} official class names as folders"
        )
    official = {
        split: [(file, cifar.classes.index(classes[label])) for file, label in listed] for split, listed in files.items()
    }
    for split, count in zip(("train", "test"), cifar.counts, strict=True):
        # Counted before 60,000 files are decoded; the count of each class is checked afterwards.
        if len(official[split]) != count:
            raise DataError(f"{path / split} has {len(official[split]):,} images; {cifar.name} has {count:,}; use a whole copy")
    if lossy := [file for listed in official.values() for file, _ in listed if file.suffix.lower() in (".jpg", ".jpeg")]:
        raise DataError(f"{lossy[0]}: a JPEG has lost pixels of {cifar.name}; use a copy whose images are PNG")
    train, test = read_images(path, official, None)
    return checked(cifar, train, test, str(path))
