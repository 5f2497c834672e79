"""The digits bundled with scikit-learn: nothing in, a ``Dataset`` of 1,797 grey 8 x 8 images out.

1,797 handwritten digits of the UCI "Optical Recognition of Handwritten Digits" test set (Alpaydin and Kaynak 1998), which
scikit-learn carries along, so that this data set needs no network and no cache.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from allelse.data.dataset import Dataset, assemble
from allelse.seeds import stream

TRAIN_COUNT, TEST_COUNT = 1438, 359


def _bundled() -> np.ndarray:
    """64 grey levels and the label of each image, int64 [1797, 65], as ``sklearn.datasets.load_digits`` reads them.

    From its file, since to import scikit-learn takes longer than all else before a small training.
    """
    found = find_spec("sklearn")
    assert found is not None
    assert found.submodule_search_locations
    with gzip.open(Path(found.submodule_search_locations[0], "datasets", "data", "digits.csv.gz"), "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.int64)


def load_digits() -> Dataset:
    """The digits, with one fixed split: a fifth of every class, rounded, is the test split.

    Grey levels 0 to 16 become 0 to 255 by round(255 · level / 16), halves up.
    """
    table = _bundled()
    levels, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    images = ((levels * 255 + 8) // 16).astype(np.uint8)[..., None]
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        is_test[stream(0, "split", "digits", label).permutation(members)[: round(len(members) / 5)]] = True
    return assemble(
        "digits", (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test]), tuple(map(str, range(10)))
    )
