"""NumPy archives as Keras keeps them, and what is said of one that does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from data_support import random_images, sandbox

from allelse.data import load
from allelse.errors import DataError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    return sandbox(tmp_path, monkeypatch)


def good(shape=(4, 5, 3)):
    return {
        "x_train": random_images(6, shape, 1),
        "y_train": np.array([2, 0, 1, 0, 1, 2]),
        "x_test": random_images(3, shape, 2),
        "y_test": np.array([1, 0, 1], np.uint8),
    }


@pytest.mark.parametrize(("shape", "channels"), [((4, 5), 1), ((4, 5, 1), 1), ((4, 5, 3), 3)])
@pytest.mark.parametrize("column", [False, True])
def test_an_archive_as_keras_keeps_it_is_read(tmp_path, shape, channels, column):
    arrays = good(shape)
    if column:
        arrays.update(y_train=arrays["y_train"][:, None], y_test=arrays["y_test"][:, None])
    np.savez_compressed(tmp_path / "mine.npz", **arrays)
    dataset = load(f"npz:{tmp_path}/mine.npz")
    assert dataset.train_images.shape == (6, 4, 5, channels)
    assert dataset.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.test_labels.tolist() == [0, 1, 1]
    assert dataset.test_labels.dtype == np.int64
    assert dataset.classes == ("0", "1", "2")
    assert {image.tobytes() for image in dataset.train_images[:2]} == {arrays["x_train"][index].tobytes() for index in (1, 3)}


def test_the_order_of_images_does_not_change_the_fingerprint(tmp_path):
    arrays = good()
    np.savez(tmp_path / "one.npz", **arrays)
    arrays.update(x_train=arrays["x_train"][::-1], y_train=arrays["y_train"][::-1].astype(np.uint8))
    np.savez(tmp_path / "two.npz", **arrays)
    arrays["y_train"] = np.roll(arrays["y_train"], 1)
    np.savez(tmp_path / "other-labels.npz", **arrays)
    one, two, other = (load(f"npz:{tmp_path}/{name}.npz").fingerprint for name in ("one", "two", "other-labels"))
    assert one == two != other
    assert len(one) == 16


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y_test": None}, r"lacks y_test; it has x_train, y_train, x_test; all of"),
        ({"x_train": np.array([None] * 6)}, "pickled objects"),
        ({"x_train": random_images(6, (4, 5, 3)) / 255}, "x_train is float64; allowed: uint8"),
        ({"x_test": random_images(3, (3, 4, 5))}, r"x_test has shape \(3, 3, 4, 5\); allowed: \[N, H, W\]"),
        ({"x_test": random_images(3, (20,))}, r"x_test has shape \(3, 20\)"),
        ({"y_train": np.array([0.0, 1, 2, 0, 1, 2])}, "y_train is float64; allowed: whole numbers"),
        ({"y_train": np.zeros((6, 2), int)}, r"y_train has shape \(6, 2\); allowed: \[N\] or \[N, 1\]"),
        ({"y_test": np.array([0, 1])}, "x_test has 3 images, y_test 2 labels"),
        ({"y_train": np.array([1, 2, 3, 1, 2, 3])}, "no train image of label 0"),
        ({"y_train": np.array([-1, 0, 1, 0, 1, 2])}, "train labels from -1 to 2; allowed: 0 to 2"),
        ({"y_test": np.array([0, 1, 3])}, "test labels from 0 to 3; allowed: 0 to 2"),
        ({"x_test": random_images(3, (4, 4, 3))}, "train images of 4 x 5 x 3 and test images of 4 x 4 x 3"),
        ({"x_test": random_images(0, (4, 5, 3)), "y_test": np.array([], int)}, "no test images; allowed: at least 2"),
        ({"x_test": random_images(1, (4, 5, 3)), "y_test": np.array([0])}, "one test image; allowed: at least 2 in each"),
        ({"x_train": random_images(0, (4, 5, 3)), "y_train": np.array([], int)}, "0 class"),
    ],
)
def test_an_archive_that_does_not_fit_is_told_in_one_line(tmp_path, change, said):
    arrays = {key: value for key, value in {**good(), **change}.items() if value is not None}
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match=said) as caught:
        load(f"npz:{tmp_path}/mine.npz")
    assert "\n" not in str(caught.value)
    assert "mine.npz" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no zip", b"\x80\x04N."])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"is no readable \.npz"):
        load(f"npz:{tmp_path}/mine.npz")


def test_a_flipped_byte_is_noticed(tmp_path):
    np.savez(tmp_path / "mine.npz", **good())
    content = bytearray((tmp_path / "mine.npz").read_bytes())
    content[300] ^= 1
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        load(f"npz:{tmp_path}/mine.npz")


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*home/nowhere\.npz; allowed: an \.npz"):
        load("npz:~/nowhere.npz")
