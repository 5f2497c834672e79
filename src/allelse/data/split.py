"""Who trains and who validates: a data set and counts a class in, two index arrays into its train split out."""

from __future__ import annotations

import numpy as np

from allelse.data.dataset import Dataset
from allelse.errors import DataError, counted
from allelse.seeds import stream


def split(
    dataset: Dataset, *, train_per_class: int | None, validation_per_class: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a balanced validation split, and a balanced training subset, from the train split.

    The validation images are the same for every seed; the training subset is drawn per seed from what is left. A smaller
    count always gives a part of what a larger one gives.

    Arguments:
        dataset: only ``train_labels``, ``classes`` and ``name`` are read.
        train_per_class: training images of each class; None takes all that validation leaves.
        validation_per_class: validation images of each class; 0 for none.
        seed: the replication, which only the training subset depends on.

    Returns:
        (train, validation): int64 indices into ``dataset.train_images``, each ascending, with nothing in common.

    Raises:
        DataError: a class has too few images.
    """
    if validation_per_class < 0 or (train_per_class is not None and train_per_class < 1):
        raise DataError("allowed: train_per_class of at least 1 or none, validation_per_class of at least 0")
    train: list[np.ndarray] = []
    validation: list[np.ndarray] = []
    for label, name in enumerate(dataset.classes):
        members = np.flatnonzero(dataset.train_labels == label)
        asked = validation_per_class + (1 if train_per_class is None else train_per_class)
        if asked > len(members):
            wish = "at least 1" if train_per_class is None else train_per_class
            raise DataError(
                f"{dataset.name}: class {name!r} has {counted(len(members), 'train image')}; {validation_per_class} for "
                f"validation and {wish} for training make {asked}; lower validation_per_class or train_per_class"
            )
        held_out = stream(0, "validation", label).permutation(members)[:validation_per_class]
        rest = np.setdiff1d(members, held_out)
        if train_per_class is not None:
            rest = stream(seed, "subset", label).permutation(rest)[:train_per_class]
        train.append(rest)
        validation.append(held_out)
    return np.sort(np.concatenate(train)).astype(np.int64), np.sort(np.concatenate(validation)).astype(np.int64)
