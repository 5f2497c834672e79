"""The cache folder of converted data sets: a ``Dataset`` in, one uncompressed .npz file out, and back.

Files are written under a temporary name and renamed, and one process converts while others wait, so that nobody ever reads
half a file. A reader takes no lock and writes nothing, so a cache on a read-only disk can be read.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from allelse.data.arrays import read_arrays
from allelse.data.dataset import Dataset, fingerprint
from allelse.errors import DataError

ROOT_VARIABLE = "ALLELSE_DATA"
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def root() -> Path:
    """The cache folder: ``$ALLELSE_DATA``, or the user's cache folder for allelse. It need not exist yet."""
    from platformdirs import user_cache_dir

    chosen = os.environ.get(ROOT_VARIABLE)
    return path_of(chosen) if chosen else Path(user_cache_dir("allelse"))


def path_of(text: str) -> Path:
    """The path that a user wrote; ``~`` is expanded where there is such a user."""
    return Path(os.path.expanduser(text))


def where_from(path: Path) -> str:
    """Where a path that a user wrote starts, for a message that nothing is there."""
    return "" if path.is_absolute() else f"; a relative path starts here, in {Path.cwd()}"


def exists(path: Path) -> bool:
    """Whether there is something at ``path``; a name that no file can have is a file that is not there."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def writable_folder(folder: Path) -> Path:
    """``folder``, made where it is missing.

    Raises:
        DataError: it cannot be made or written in.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
        reason = "" if writable else " (permission denied)"
    except OSError as error:
        writable, reason = False, f" ({error.strerror})"
    if not writable:
        raise DataError(
            f"the data cache {folder} cannot be written{reason}; set {ROOT_VARIABLE} to a folder that can, or mend its rights"
        )
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock that belongs to the file ``path``, across processes; makes its folder.

    Raises:
        DataError: the folder cannot be written.
    """
    from filelock import FileLock

    lock = FileLock(writable_folder(path.parent) / f".{path.name}.lock")
    try:
        lock.acquire()
    except OSError as error:
        raise DataError(
            f"the data cache {path.parent} cannot be locked ({error.strerror}); set {ROOT_VARIABLE} to a folder that can"
        ) from None
    try:
        yield
    finally:
        lock.release()


def cached(path: Path, name: str, build: Callable[[], Dataset]) -> Dataset:
    """The data set kept at ``path``, under ``name``; built and kept there first where it is missing."""
    if not exists(path):
        with locked(path):
            if not exists(path):
                keep(path, build())
    return read(path, name)


def keep(path: Path, dataset: Dataset) -> None:
    """Writes ``dataset`` to ``path``, all or nothing.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    temporary = writable_folder(path.parent) / f".{path.name}.{secrets.token_hex(6)}.tmp"
    arrays = {key: getattr(dataset, key) for key in _ARRAYS}
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, classes=dataset.classes, fingerprint=dataset.fingerprint, **arrays)
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"the data cache {path} cannot be written ({error.strerror}); free the disk or set {ROOT_VARIABLE} elsewhere"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, name: str) -> Dataset:
    """The data set kept at ``path``; checksums and fingerprint are verified on the way.

    Raises:
        DataError: the file is damaged.
    """
    try:
        if not path.is_file():
            raise OSError("no file")
        arrays = read_arrays(path, (*_ARRAYS, "classes", "fingerprint"))
        classes, known = tuple(map(str, arrays.pop("classes"))), str(arrays.pop("fingerprint"))
        if not _is_whole(arrays, len(classes)) or fingerprint(*arrays.values()) != known:
            raise ValueError("other images than were kept")
    except Exception as error:  # zipfile and its unpackers raise nearly anything on a damaged file
        raise DataError(
            f"the cached data set {path} is damaged; delete that file, and it is made anew at the next load"
        ) from error
    return Dataset(name=name, classes=classes, fingerprint=known, **arrays)


def _is_whole(arrays: Mapping[str, np.ndarray], classes: int) -> bool:
    for images, labels in ((arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test")):
        if images.dtype != np.uint8 or images.ndim != 4 or labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            return False
        if not len(labels) or labels.min() < 0 or labels.max() >= classes:
            return False
    return arrays["train_images"].shape[1:] == arrays["test_images"].shape[1:]
