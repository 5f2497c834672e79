"""NumPy archives as Keras keeps them: one .npz with x_train, y_train, x_test and y_test in, a ``Dataset`` out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from allelse.data.arrays import Missing, read_arrays
from allelse.data.cache import exists, where_from
from allelse.data.dataset import Dataset, assemble
from allelse.errors import DataError

MOST_LABEL = 65_535
KEYS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(name: str, path: Path) -> Dataset:
    """The data set of an .npz file; a class is named by its number.

    Raises:
        DataError: what ``read_npz`` raises, or labels that are not 0 to K-1.
    """
    train, test = read_npz(path)
    return assemble(name, train, test, tuple(str(label) for label in range(int(train[1].max(initial=-1)) + 1)))


def read_npz(path: Path) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The train and the test split, each as images uint8 [N, H, W, C] and labels int64 [N].

    The file holds images as uint8 [N, H, W] or [N, H, W, C] with C of 1 or 3, and labels as whole numbers [N] or [N, 1].

    Raises:
        DataError: no such file, no .npz, missing keys, pickled objects, another dtype or shape, lengths that do not match.
    """
    if not exists(path) or not path.is_file():
        raise DataError(f"there is no file {path}; allowed: an .npz with {', '.join(KEYS)}{where_from(path)}")
    try:
        array_from_key = read_arrays(path, KEYS)
    except Missing as found:
        missing = [key for key in KEYS if key not in found.args]
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(found.args) or 'nothing'}; "
            f"all of {', '.join(KEYS)} are needed"
        ) from None
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); mend its rights") from error
    except ValueError as error:
        raise DataError(
            f"{path} holds pickled objects or damaged arrays, which are not read; write plain uint8 images and integer labels"
        ) from error
    except Exception as error:  # zipfile and its unpackers raise nearly anything on a damaged file
        raise DataError(
            f"{path} is no readable .npz file, or is damaged; write it with numpy.savez({', '.join(KEYS)})"
        ) from error
    x_train, y_train, x_test, y_test = (array_from_key[key] for key in KEYS)
    return _split(path, "train", x_train, y_train), _split(path, "test", x_test, y_test)


def _split(path: Path, split: str, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if images.dtype != np.uint8:
        raise DataError(f"{path}: x_{split} is {images.dtype}; allowed: uint8 from 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise DataError(f"{path}: x_{split} has shape {images.shape}; allowed: [N, H, W], or [N, H, W, C] with C of 1 or 3")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{path}: y_{split} is {labels.dtype}; allowed: whole numbers from 0 to K-1")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(f"{path}: y_{split} has shape {labels.shape}; allowed: [N] or [N, 1]")
    if len(images) != len(labels):
        raise DataError(f"{path}: x_{split} has {len(images)} images, y_{split} {len(labels)} labels; give one label an image")
    if labels.max(initial=0) > MOST_LABEL:
        raise DataError(f"{path}: y_{split} goes to {labels.max()}; allowed: whole numbers from 0 to K-1, at most {MOST_LABEL}")
    return images, labels.astype(np.int64)
