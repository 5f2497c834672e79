"""Folders of images: what is read from them, when they are decoded again, and what is said of a folder that does not fit."""

from __future__ import annotations

import os

import numpy as np
import pytest
from data_support import random_images, sandbox, save_image, write_class_folders
from PIL import Image

from allelse.data import folder as room
from allelse.data import load
from allelse.errors import DataError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    return sandbox(tmp_path, monkeypatch)


def make(root, shape=(6, 6, 3), classes=("ant", "bee"), per_class=3):
    labels = np.repeat(np.arange(len(classes)), per_class)
    splits = tuple((random_images(len(labels), shape, seed), labels) for seed in (1, 2))
    return write_class_folders(root, classes, splits), splits


@pytest.mark.parametrize("channels", [1, 3])
def test_images_keep_their_own_size_and_colour(tmp_path, channels):
    root, splits = make(tmp_path / "mine", (5, 7, channels))
    dataset = load(f"folder:{root}")
    assert dataset.classes == ("ant", "bee")
    assert dataset.name == f"folder:{root}"
    assert dataset.train_images.shape == (6, 5, 7, channels)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.train_labels.dtype == np.int64
    expected = {(image.tobytes(), int(label)) for image, label in zip(*splits[1], strict=True)}
    assert {(i.tobytes(), int(y)) for i, y in zip(dataset.test_images, dataset.test_labels, strict=True)} == expected


def test_images_of_mixed_size_need_an_image_size(tmp_path):
    root, _ = make(tmp_path / "mine")
    odd = save_image(root / "test" / "bee" / "zz.png", random_images(1, (9, 8, 3))[0])
    with pytest.raises(DataError, match=r"mixed size: .* has 6 x 6 pixels, .*zz\.png has 8 x 9; set image_size") as caught:
        load(f"folder:{root}")
    assert str(odd) in str(caught.value)
    dataset = load(f"folder:{root}", image_size=4)
    assert dataset.train_images.shape == (6, 4, 4, 3)
    assert dataset.test_images.shape == (7, 4, 4, 3)
    with Image.open(odd) as image:
        expected = np.asarray(image.resize((4, 4), Image.Resampling.BILINEAR))
    assert any(np.array_equal(image, expected) for image in dataset.test_images)


def test_one_colour_image_makes_all_of_them_colour(tmp_path):
    root, _ = make(tmp_path / "mine", (6, 6, 1))
    save_image(root / "train" / "ant" / "colour.jpg", random_images(1, (6, 6, 3))[0])
    dataset = load(f"folder:{root}")
    assert dataset.train_images.shape == (7, 6, 6, 3)
    assert (dataset.test_images[..., 0] == dataset.test_images[..., 2]).all()


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1"])
def test_other_8_bit_images_are_converted(tmp_path, mode):
    root, _ = make(tmp_path / "mine", (6, 6, 3))
    image = Image.fromarray(random_images(1, (6, 6, 3))[0]).convert(mode)
    extra = {"transparency": bytes([0, 128, 255])} if mode == "P" else {}
    image.save(root / "train" / "ant" / "extra.png", **extra)
    dataset = load(f"folder:{root}")
    expected = np.asarray((image.convert("L") if mode in ("LA", "1") else image).convert("RGB"))
    assert any(np.array_equal(one, expected) for one in dataset.train_images)


def test_an_unchanged_folder_is_decoded_once(tmp_path, monkeypatch, cache_folder):
    root, _ = make(tmp_path / "mine")
    first = load(f"folder:{root}")
    monkeypatch.setattr(room, "_decode", lambda *_: pytest.fail("decoded again"))
    assert load(f"folder:{root}").fingerprint == first.fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("ALLELSE_DATA", str(cache_folder))
    save_image(root / "train" / "ant" / "0000.png", random_images(1, (6, 6, 3), seed=9)[0])
    changed = load(f"folder:{root}")
    assert changed.fingerprint != first.fingerprint
    assert len(list((cache_folder / "folders").glob("*.npz"))) == 1


def test_sizes_and_folders_are_cached_apart(tmp_path):
    one, _ = make(tmp_path / "one")
    two, _ = make(tmp_path / "two", (8, 8, 3))
    shapes = [
        load(f"folder:{root}", size).train_images.shape[1]
        for _ in range(2)
        for root, size in ((one, None), (one, 3), (two, None))
    ]
    assert shapes == [6, 3, 8] * 2


def test_folders_with_the_same_listing_are_cached_apart(tmp_path):
    fingerprints = set()
    for name, grey in (("one", 10), ("two", 20)):
        root, _ = make(tmp_path / name)
        for file in root.rglob("*.png"):
            Image.fromarray(np.full((6, 6, 3), grey, np.uint8)).save(file, compress_level=0)
            os.utime(file, (1, 1))
        fingerprints.add(load(f"folder:{root}").fingerprint)
    assert len(fingerprints) == 2


def test_file_names_do_not_change_the_fingerprint(tmp_path):
    root, _ = make(tmp_path / "mine")
    before = load(f"folder:{root}").fingerprint
    (root / "train" / "ant" / "0000.png").rename(root / "train" / "ant" / "zz.png")
    assert load(f"folder:{root}").fingerprint == before


def test_hidden_files_and_the_home_sign_are_no_trouble(tmp_path):
    root, _ = make(tmp_path / "home" / "mine")
    (root / "train" / "ant" / ".DS_Store").write_bytes(b"x")
    (root / "train" / "ant" / "Thumbs.db").write_bytes(b"x")
    (root / "README.md").write_text("about")
    (root / "train" / ".cache").mkdir()
    assert load("folder:~/mine").train_images.shape == (6, 6, 6, 3)


def _remove(path):
    for file in sorted(path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()


def _sixteen_bit(root):
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(root / "train" / "ant" / "deep.png")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda root: _remove(root), r"there is no folder .*mine; allowed: PATH/train/<class>/"),
        (lambda root: _remove(root / "train"), "has no folder 'train'"),
        (lambda root: _remove(root / "test"), "has no folder 'test'"),
        (lambda root: [_remove(root / "train" / name) for name in ("ant", "bee")], r"train has no class folders"),
        (lambda root: _remove(root / "test" / "bee"), r"class 'bee' is missing in .*test"),
        (lambda root: (root / "test" / "cat").mkdir(), r"class 'cat' is missing in .*train"),
        (lambda root: [file.unlink() for file in (root / "test" / "bee").iterdir()], r"class folder .*test/bee is empty"),
        (lambda root: (root / "train" / "ant" / "notes.txt").write_text("x"), r"notes\.txt is no image; allowed .*\.png"),
        (lambda root: (root / "train" / "ant" / "more").mkdir(), r"more is no image"),
        (
            lambda root: (root / "test" / "loose.PNG").write_text("x"),
            r"test/loose\.PNG is in no class folder; put it in one, or ",
        ),
        (lambda root: (root / "train" / "ant" / "0001.png").write_bytes(b"no image"), r"0001\.png cannot be read"),
        (lambda root: (root / "train" / "ant" / "0001.png").write_bytes(_half(root)), r"0001\.png cannot be read"),
        (_sixteen_bit, r"deep\.png has pixels of mode 'I;16'; allowed: 8-bit"),
        (lambda root: [_remove(root / split / "bee") for split in ("train", "test")], "has 1 class; allowed: at least 2"),
    ],
)
def test_a_folder_that_does_not_fit_is_told_in_one_line(tmp_path, cache_folder, break_it, said):
    root, _ = make(tmp_path / "mine", (40, 40, 3))
    break_it(root)
    with pytest.raises(DataError, match=said) as caught:
        load(f"folder:{root}")
    assert "\n" not in str(caught.value)
    assert not list(cache_folder.rglob("*.npz"))


def _half(root):
    content = (root / "train" / "ant" / "0001.png").read_bytes()
    return content[: len(content) // 2]


def test_a_folder_without_read_permission_is_named(tmp_path, monkeypatch):
    root, _ = make(tmp_path / "mine")

    def forbidden(path):  # a superuser may read everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(room.os, "scandir", forbidden)
    with pytest.raises(DataError, match=r"train/ant cannot be read \(Permission denied\)"):
        load(f"folder:{root}")


def test_an_image_without_read_permission_is_not_called_damaged(tmp_path, monkeypatch):
    root, _ = make(tmp_path / "mine")

    def forbidden(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("PIL.Image.open", forbidden)
    with pytest.raises(DataError, match=r"png cannot be read \(Permission denied\); mend its rights"):
        load(f"folder:{root}")
