"""Names of data sets, the bundled digits, the cache, and what the room exports."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from data_support import binary_files, sandbox, tiny, write_files
from sklearn.datasets import load_digits as bundled

import allelse.data as data
from allelse.data import cache, catalogue, import_images, load
from allelse.data.cifar import CIFARS
from allelse.data.dataset import assemble, fingerprint
from allelse.errors import DataError, RecipeError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    return sandbox(tmp_path, monkeypatch)


def test_the_room_exports_these_names():
    assert sorted(data.__all__) == ["Dataset", "Entry", "catalogue", "fetch", "import_images", "load", "shape", "split"]


def test_the_room_never_imports_torch():
    code = "import sys, allelse.data; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_digits_are_scikit_learns_with_one_fixed_split(cache_folder):
    digits = load("digits")
    assert digits.train_images.shape == (1438, 8, 8, 1)
    assert digits.test_images.shape == (359, 8, 8, 1)
    assert digits.classes == tuple("0123456789")
    levels = {0: 0, 1: 16, 2: 32, 8: 128, 15: 239, 16: 255}
    source = bundled()
    for level, grey in levels.items():
        count = int((source.images == level).sum())
        assert int((digits.train_images == grey).sum() + (digits.test_images == grey).sum()) == count
    shares = np.bincount(digits.test_labels) / np.bincount(source.target)
    assert (np.abs(shares - 0.2) < 0.005).all()
    assert load("digits").fingerprint == digits.fingerprint == "03b341c682cbfffa"
    assert not cache_folder.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "cifar11",
            r"there is no data set 'cifar11'; did you mean 'cifar10+'\? allowed: digits, cifar10, cifar100, folder:PATH",
        ),
        ("cifar10:x", "there is no data set 'cifar10:x'"),
        ("", "there is no data set ''"),
        ("folder:", "'folder:' names no path; allowed: folder:PATH"),
        ("npz:", "'npz:' names no path"),
    ],
)
def test_an_unknown_name_lists_the_allowed_ones(name, said):
    with pytest.raises(DataError, match=said):
        load(name)


def test_shapes_are_known_before_the_images_are_here(cache_folder):
    assert data.shape("digits") == ((8, 8, 1), 10)
    assert data.shape("cifar100") == ((32, 32, 3), 100)
    assert not cache_folder.exists()
    with pytest.raises(DataError, match="did you mean 'cifar10'"):
        data.shape("cifr10")
    with pytest.raises(RecipeError, match="folder:PATH only"):
        data.shape("cifar10", image_size=16)


@pytest.mark.parametrize("name", ["digits", "cifar10", "npz:x.npz"])
def test_an_image_size_belongs_to_folders_only(name):
    with pytest.raises(RecipeError, match=r"recipe\.image_size: 16 with data set .*folder:PATH only; leave it out"):
        load(name, image_size=16)


def test_an_image_size_of_no_pixel_is_refused():
    with pytest.raises(RecipeError, match=r"recipe\.image_size: 0; allowed: a side of 1 to 8192 pixels"):
        load("folder:x", image_size=0)


def test_the_catalogue_tells_what_is_here(cache_folder, tmp_path):
    entries = {entry.name: entry for entry in catalogue()}
    assert list(entries) == ["digits", "cifar10", "cifar100", "folder:PATH", "npz:PATH"]
    assert entries["digits"].present
    assert (entries["cifar10"].present, entries["cifar10"].where, entries["cifar10"].bytes) == (False, None, 0)
    assert not cache_folder.exists()
    folder = write_files(tmp_path / "mine", binary_files(CIFARS["cifar10"], tiny(CIFARS["cifar10"])))
    kept = import_images("cifar10", folder)
    entry = next(entry for entry in catalogue() if entry.name == "cifar10")
    assert (entry.present, entry.where, entry.bytes) == (True, str(kept), kept.stat().st_size)
    assert (entry.shape, entry.classes, entry.train, entry.test) == ((32, 32, 3), 10, 50, 20)


def test_the_catalogue_agrees_with_the_bundled_digits():
    entry, digits = catalogue()[0], load("digits")
    assert (entry.shape, entry.classes, entry.train, entry.test) == (
        digits.train_images.shape[1:],
        len(digits.classes),
        len(digits.train_images),
        len(digits.test_images),
    )


def _small(name="small"):
    images, labels = np.arange(8, dtype=np.uint8).reshape(4, 2, 1, 1), np.array([1, 0, 1, 0])
    return assemble(name, (images, labels), (images[::-1], labels), ("a", "b"))


def test_images_stand_by_label_and_then_by_pixels():
    small = _small()
    assert small.train_labels.tolist() == [0, 0, 1, 1]
    assert small.train_images[:, 0, 0, 0].tolist() == [2, 6, 0, 4]
    assert small.test_images[:, 0, 0, 0].tolist() == [0, 4, 2, 6]


def test_a_fingerprint_sees_shape_content_and_order():
    base = np.arange(6, dtype=np.uint8)
    prints = {fingerprint(base), fingerprint(base.reshape(2, 3)), fingerprint(base[::-1]), fingerprint(base, base)}
    assert len(prints) == 4
    assert fingerprint(np.array([1, 2], ">i8")) == fingerprint(np.array([1, 2], "<i8"))


def test_a_kept_data_set_comes_back_whole(tmp_path):
    small = _small()
    cache.keep(tmp_path / "deep" / "small.npz", small)
    back = cache.read(tmp_path / "deep" / "small.npz", "another name")
    assert (back.name, back.classes, back.fingerprint) == ("another name", small.classes, small.fingerprint)
    np.testing.assert_array_equal(back.train_images, small.train_images)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["small.npz"]


@pytest.mark.parametrize("damage", [lambda content: content[:-30], lambda content: b"", lambda content: _flip(content)])
def test_a_damaged_cache_file_is_named(tmp_path, damage):
    path = tmp_path / "small.npz"
    cache.keep(path, _small())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"small\.npz is damaged; delete that file"):
        cache.read(path, "small")


def _flip(content):
    place = content.index(b"train_images") + 160  # within the first array's own bytes
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(DataError, match="No space left on device"):
        cache.keep(tmp_path / "small.npz", _small())
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_convert_once(tmp_path):
    built = []

    def build():
        built.append(1)
        time.sleep(0.3)
        return _small()

    read = []
    threads = [threading.Thread(target=lambda: read.append(cache.cached(tmp_path / "s.npz", "s", build))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert len(read) == 3


def test_a_cache_that_can_only_be_read_is_enough(tmp_path, monkeypatch):
    cache.keep(tmp_path / "small.npz", _small())
    monkeypatch.setattr(cache, "writable_folder", lambda folder: pytest.fail("wrote"))
    assert cache.cached(tmp_path / "small.npz", "small", _small).name == "small"


def test_without_the_variable_the_users_cache_folder_is_used(monkeypatch, tmp_path):
    monkeypatch.delenv("ALLELSE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root().name == "allelse"
    monkeypatch.setenv("ALLELSE_DATA", "~/here")
    assert cache.root() == tmp_path / "home" / "here"
