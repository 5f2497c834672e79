"""Streams: the same arguments give the same numbers for ever, any other arguments give other ones."""

from __future__ import annotations

import hashlib
from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from allelse.seeds import stream

PERMUTATION = [4, 2, 0, 6, 8, 5, 3, 9, 7, 1]
UNIFORM = [0.8709224542909426, -0.7452154389473207, 0.7229925358119442]
keys = st.lists(st.one_of(st.integers(0, 99), st.text("abc.", min_size=1, max_size=4)), max_size=3)


def draw(*arguments) -> bytes:
    return stream(*arguments).bytes(16)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from(["init", "order", "augment"]), keys)
def test_the_same_arguments_give_the_same_numbers_whatever_was_drawn_before(seed, purpose, more):
    first = draw(seed, purpose, *more)
    np.random.default_rng().bytes(3)
    stream(seed + 1, purpose, *more).bytes(5)
    assert draw(seed, purpose, *more) == first


def test_streams_of_other_arguments_are_other_streams():
    shapes = [(), (3,), (3, 4), (4, 3), (34,), ("3", "4", ""), ("a.b",), ("a", "b")]
    arguments = [(seed, purpose, *more) for seed, purpose, more in product(range(20), ("init", "order"), shapes)]
    assert len({draw(*one) for one in arguments}) == len(arguments)


def test_a_stream_is_a_philox_keyed_by_a_hash_of_its_arguments():
    key = hashlib.sha256(b"7\x1finit\x1fhead.weight\x1f3\x1f4").digest()[:16]
    philox = np.random.Philox(key=np.frombuffer(key, "<u8"))
    assert np.array_equal(np.random.Generator(philox).random(5), stream(7, "init", "head.weight", 3, 4).random(5))


def test_numbers_stay_the_same_from_one_version_to_the_next():
    assert stream(0, "order", 0).permutation(10).tolist() == PERMUTATION
    assert stream(0, "init", "head.weight", 3, 4).uniform(-1, 1, 3).tolist() == UNIFORM


def test_global_random_state_is_neither_read_nor_moved():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = draw(1, "order", 0)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert draw(1, "order", 0) == first
