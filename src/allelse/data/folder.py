"""Folders of images: PATH/train/<class>/ and PATH/test/<class>/ of .png, .jpg or .jpeg in, a ``Dataset`` out.

Labels follow the classes' names in sorted order. Images are 8-bit RGB, or grey when all of them are grey; transparency is
dropped. Every image is decoded once; the arrays are then cached under the listing of the folder (path, size, time of change).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from allelse.data import cache
from allelse.data.dataset import Dataset, assemble
from allelse.errors import DataError, inert
from allelse.records import digest

ENDINGS = (".png", ".jpg", ".jpeg")
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_LAYOUT = "allowed: PATH/train/<class>/ and PATH/test/<class>/ with .png, .jpg or .jpeg files"
MOST_SIDE = 8192
"""pixels; an image has at most this many squared, which are 200 MB when it is decoded"""
_SHOW_PROGRESS_FROM = 2000  # images; fewer are decoded before a bar could be read


def load_folder(name: str, path: Path, image_size: int | None = None) -> Dataset:
    """The data set of a folder.

    Arguments:
        name: what ``load`` was asked for.
        path: the folder that holds ``train`` and ``test``.
        image_size: side of the square, in pixels, to which images of another size are resized (bilinear, antialiased);
            None keeps the images' own size, which must then be one.

    Raises:
        DataError: the folder is not laid out so, or an image cannot be used.
    """
    classes, files = list_images(path)
    listing = []
    for split in ("train", "test"):
        for file, label in files[split]:
            try:
                stat = file.stat()
            except OSError as error:
                raise DataError(f"{file} cannot be read ({error.strerror}); replace or remove it") from error
            listing.append([split, classes[label], file.name, stat.st_size, stat.st_mtime_ns])
    owner = f"{digest(str(path.resolve()))}-{image_size or 'own'}-"
    kept = cache.root() / "folders" / f"{owner}{digest(listing, 16)}.npz"

    def build() -> Dataset:
        # Earlier states of this folder would pile up, and nothing would ever read them again.
        for outdated in kept.parent.glob(f"{owner}*.npz"):
            outdated.unlink(missing_ok=True)
        train, test = read_images(path, files, image_size)
        return assemble(name, train, test, classes)

    return cache.cached(kept, name, build)


def list_images(path: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    """What lies in a folder, without opening an image.

    Returns:
        the class names in sorted order, and for ``train`` and ``test`` all (file, label), by class and file name.

    Raises:
        DataError: no such folder, no train or test, no classes, other classes in test, an empty class, a file that is no image,
            an image of no class.
    """
    try:
        return _list_images(path)
    except OSError as error:
        raise DataError(f"the folder {error.filename} cannot be read ({error.strerror}); mend its rights") from error


def _list_images(path: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[Path, int]]]]:
    if not cache.exists(path) or not path.is_dir():
        raise DataError(f"there is no folder {path}; {_LAYOUT}{cache.where_from(path)}")
    for split in ("train", "test"):
        if not (path / split).is_dir():
            raise DataError(f"{path} has no folder {split!r}; {_LAYOUT}")
        for entry in sorted((path / split).iterdir()):
            if entry.suffix.lower() in ENDINGS and entry.name[0] != "." and entry.is_file():
                raise DataError(f"{entry} is in no class folder; put it in one, or take it away; {_LAYOUT}")
    classes, test_classes = (
        tuple(sorted(entry.name for entry in (path / split).iterdir() if entry.is_dir() and entry.name[0] != "."))
        for split in ("train", "test")
    )
    for name in (*classes, *test_classes):
        _check_name(path, name)
    if not classes:
        raise DataError(f"{path / 'train'} has no class folders; {_LAYOUT}")
    for one, other, place in ((classes, test_classes, "test"), (test_classes, classes, "train")):
        missing = sorted(set(one) - set(other))
        if missing:
            raise DataError(f"class {missing[0]!r} is missing in {path / place}; give each class a folder in train and in test")
    files = {
        split: [(file, label) for label, name in enumerate(classes) for file in _class_images(path / split / name)]
        for split in ("train", "test")
    }
    return classes, files


def _class_images(folder: Path) -> list[Path]:
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
                continue
            _check_name(folder, entry.name)
            if not entry.is_file() or not entry.name.lower().endswith(ENDINGS):
                raise DataError(f"{entry.path} is no image; allowed in a class folder: {', '.join(ENDINGS)}; move it elsewhere")
            files.append(Path(entry.path))
    if not files:
        raise DataError(f"the class folder {folder} is empty; put images in it, or remove the class from train and test")
    return sorted(files)


def _check_name(folder: Path, name: str) -> None:
    """Classes are named by their folders on every page, and files in every message."""
    if inert(name) != name or "\n" in name or "\t" in name:
        raise DataError(f"{folder} holds {name!r}, whose name has control characters or is no UTF-8; rename it")


def read_images(
    path: Path, files: dict[str, list[tuple[Path, int]]], image_size: int | None, progress: bool = True
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The decoded images of ``list_images``, for train and then test: uint8 [N, H, W, C] and labels int64 [N].

    Raises:
        DataError: a file cannot be decoded, or sizes are mixed and ``image_size`` is None.
    """
    everything = [file for split in ("train", "test") for file, _ in files[split]]
    # None: no bar where stderr is no terminal.
    quiet = True if not progress or len(everything) < _SHOW_PROGRESS_FROM else None
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Image size")  # Pillow's bound on pixels; ours is ``MOST_SIDE``
        _check_room(path, len(everything), _decode(everything[0], image_size).nbytes)
        decoded = pool.map(lambda file: _decode(file, image_size), everything)
        try:
            images = list(tqdm(decoded, desc=f"reading {path}", total=len(everything), unit="image", disable=quiet))
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise
    _check_one_size(everything, images)
    if len({image.shape[2] for image in images}) > 1:
        images = [np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image for image in images]
    cut = len(files["train"])
    splits = ((images[:cut], files["train"]), (images[cut:], files["test"]))
    return [(np.stack(part), np.array([label for _, label in listed], np.int64)) for part, listed in splits]


def _check_room(path: Path, count: int, size: int) -> None:
    """Refuse what memory cannot hold, before hours are spent on decoding it."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows does not say
        return
    if 2 * count * size > memory:  # once as images, once as the arrays that they are put into
        raise DataError(
            f"{path}: {count:,} images of {size:,} bytes need more than the {memory / 2**30:.1f} GiB of memory here; "
            "set a smaller image_size in the recipe"
        )


def _check_one_size(files: Sequence[Path], images: Sequence[np.ndarray]) -> None:
    height, width = images[0].shape[:2]
    for file, image in zip(files, images, strict=True):
        if image.shape[:2] != (height, width):
            raise DataError(
                f"images of mixed size: {files[0]} has {width} x {height} pixels, {file} has {image.shape[1]} x "
                f"{image.shape[0]}; set image_size in the recipe, and all are resized to it"
            )


def _decode(file: Path, image_size: int | None) -> np.ndarray:
    """One image, uint8 [H, W, 1] when it is grey and [H, W, 3] otherwise."""
    from PIL import Image

    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            mode = image.mode
            if image.width * image.height > MOST_SIDE**2:
                raise DataError(f"{file} has {image.width} x {image.height} pixels; allowed: {MOST_SIDE**2:,}; make it smaller")
            if mode not in _GREY + _COLOUR:
                raise DataError(f"{file} has pixels of mode {mode!r}; allowed: 8-bit grey or colour; convert it")
            # A palette with transparency goes by way of RGBA: straight to RGB, Pillow warns about it.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            pixels = opaque.convert("L" if mode in _GREY else "RGB")
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); mend its rights") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise DataError(f"{file} cannot be read as a PNG or JPEG image; replace or remove it") from error
    if image_size is not None and pixels.size != (image_size, image_size):
        pixels = pixels.resize((image_size, image_size), Image.Resampling.BILINEAR)
    array = np.asarray(pixels)
    return array[..., None] if array.ndim == 2 else array
