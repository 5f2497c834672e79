"""Validation and training subsets: balanced, apart, and shared or drawn per seed as they should be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allelse.data import Dataset, split
from allelse.errors import DataError

LABELS = np.repeat([0, 1, 2], [30, 20, 25])
IMAGES = np.zeros((75, 1, 1, 1), np.uint8)
DATASET = Dataset("mine", IMAGES, LABELS, IMAGES, LABELS, ("ant", "bee", "cat"), "0" * 16)


@given(train_per_class=st.none() | st.integers(1, 12), validation_per_class=st.integers(0, 8), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_parts_are_apart_ascending_and_balanced(train_per_class, validation_per_class, seed):
    train, validation = split(DATASET, train_per_class=train_per_class, validation_per_class=validation_per_class, seed=seed)
    assert train.dtype == validation.dtype == np.int64
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert not set(train) & set(validation)
    assert np.bincount(LABELS[validation], minlength=3).tolist() == [validation_per_class] * 3
    expected = [30 - validation_per_class, 20 - validation_per_class, 25 - validation_per_class]
    assert np.bincount(LABELS[train]).tolist() == (expected if train_per_class is None else [train_per_class] * 3)


def test_validation_is_the_same_for_all_seeds_and_the_subset_is_not():
    parts = [split(DATASET, train_per_class=6, validation_per_class=5, seed=seed) for seed in range(4)]
    assert len({tuple(validation) for _, validation in parts}) == 1
    assert len({tuple(train) for train, _ in parts}) == 4
    again, _ = split(DATASET, train_per_class=6, validation_per_class=5, seed=2)
    assert again.tolist() == parts[2][0].tolist()


def test_validation_does_not_depend_on_the_subset_and_is_not_the_head_of_the_class():
    _, small = split(DATASET, train_per_class=1, validation_per_class=5, seed=0)
    _, large = split(DATASET, train_per_class=None, validation_per_class=5, seed=0)
    assert small.tolist() == large.tolist()
    assert large[:5].tolist() != [0, 1, 2, 3, 4]


def test_a_smaller_part_lies_within_a_larger_one():
    small = split(DATASET, train_per_class=3, validation_per_class=4, seed=7)
    large = split(DATASET, train_per_class=9, validation_per_class=4, seed=7)
    assert set(small[0]) < set(large[0])
    assert set(small[1]) < set(split(DATASET, train_per_class=3, validation_per_class=8, seed=7)[1])


def test_the_draw_itself_is_pinned():
    # Stored results are compared with new ones, so these draws may never change.
    train, validation = split(DATASET, train_per_class=2, validation_per_class=2, seed=1)
    assert train.tolist() == [5, 26, 31, 35, 65, 69]
    assert validation.tolist() == [9, 29, 39, 44, 60, 62]


@pytest.mark.parametrize(
    ("train_per_class", "validation_per_class", "said"),
    [
        (16, 5, r"class 'bee' has 20 train images; 5 for validation and 16 for training make 21; lower"),
        (None, 20, r"class 'bee' has 20 train images; 20 for validation and at least 1 for training make 21"),
        (31, 0, r"class 'ant' has 30 train images; 0 for validation and 31 for training make 31"),
        (0, 0, "train_per_class of at least 1"),
        (None, -1, "validation_per_class of at least 0"),
    ],
)
def test_more_than_there_is_names_the_class(train_per_class, validation_per_class, said):
    with pytest.raises(DataError, match=said):
        split(DATASET, train_per_class=train_per_class, validation_per_class=validation_per_class, seed=0)


def test_all_that_there_is_may_be_asked_for():
    train, validation = split(DATASET, train_per_class=15, validation_per_class=5, seed=0)
    assert len(train) == 45
    assert len(validation) == 15
