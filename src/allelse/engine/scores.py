"""Final scores named as in papers: the epochs of one run in; accuracies on the test split, in percent, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import median


def final_scores(epochs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The last epoch, the headline; the best epoch, which the test split itself chose; the median of the last five epochs.

    Arguments:
        epochs: one mapping an epoch, in order, each with ``test_accuracy``, NaN where it has none, which is passed over. The
            last has one. Of fewer than five the median is over all.
    """
    accuracies = [epoch["test_accuracy"] for epoch in epochs]
    return {
        "accuracy": accuracies[-1],
        "accuracy_best_epoch": max(filter(isfinite, accuracies)),
        "accuracy_median_last_five": median(filter(isfinite, accuracies[-5:])),
    }
