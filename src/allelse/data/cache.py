"""The cache folder of converted data sets: a ``Dataset`` in, one uncompressed .npz file out, and back.

Files are written under a temporary name and renamed, and one process converts while others wait, so that nobody ever reads
half a file. A reader takes no lock and writes nothing, so a cache on a read-only disk can be read.
"""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from allelse.data.dataset import Dataset
from allelse.errors import DataError

ROOT_VARIABLE = "ALLELSE_DATA"
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def root() -> Path:
    """The cache folder: ``$ALLELSE_DATA``, or the user's cache folder for allelse. It need not exist yet."""
    from platformdirs import user_cache_dir

    chosen = os.environ.get(ROOT_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(user_cache_dir("allelse"))


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

    with FileLock(writable_folder(path.parent) / f".{path.name}.lock"):
        yield


def cached(path: Path, name: str, build: Callable[[], Dataset]) -> Dataset:
    """The data set kept at ``path``, under ``name``; built and kept there first where it is missing."""
    if not path.exists():
        with locked(path):
            if not path.exists():
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
    """The data set kept at ``path``; the zip's checksums are verified on the way.

    Raises:
        DataError: the file is damaged.
    """
    try:
        # Opened here, because np.load leaves a file that it cannot read open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _ARRAYS}
            classes, fingerprint = tuple(map(str, file["classes"])), str(file["fingerprint"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"the cached data set {path} is damaged; delete that file, and it is made anew at the next load"
        ) from error
    return Dataset(name=name, classes=classes, fingerprint=fingerprint, **arrays)
