"""The digits bundled with scikit-learn: nothing in, a ``Dataset`` of 1,797 grey 8 x 8 images out.

1,797 handwritten digits of the UCI "Optical Recognition of Handwritten Digits" test set (Alpaydin and Kaynak 1998), which
scikit-learn carries along, so that this data set needs no network and no cache.
"""

from __future__ import annotations

import numpy as np

from allelse.data.dataset import Dataset, assemble
from allelse.seeds import stream

TRAIN_COUNT, TEST_COUNT = 1438, 359


def load_digits() -> Dataset:
    """The digits, with one fixed split: a fifth of every class, rounded, is the test split.

    Grey levels 0 to 16 become 0 to 255 by round(255 · level / 16), halves up.
    """
    from sklearn.datasets import load_digits as bundled

    source = bundled()
    levels, labels = source.images.astype(np.int64), source.target.astype(np.int64)
    images = ((levels * 255 + 8) // 16).astype(np.uint8)[..., None]
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        members = np.flatnonzero(labels == label)
        is_test[stream(0, "split", "digits", label).permutation(members)[: round(len(members) / 5)]] = True
    return assemble(
        "digits", (images[~is_test], labels[~is_test]), (images[is_test], labels[is_test]), tuple(map(str, range(10)))
    )
