"""CIFAR from every form it comes in, and what is said when a copy is damaged, dangerous or not there."""

from __future__ import annotations

import gzip
import os
import pickle

import numpy as np
import pytest
from data_support import (
    binary_files,
    python_2_pickle,
    python_files,
    random_images,
    sandbox,
    tar_gz,
    tiny,
    write_class_folders,
    write_files,
)

from allelse.data import catalogue, import_images, load
from allelse.data.cifar import CIFARS
from allelse.data.pickles import read_batch
from allelse.errors import DataError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    return sandbox(tmp_path, monkeypatch)


def _forms(cifar, splits, folder):
    """Every form of one copy on disk, by a word for it."""
    (x_train, y_train), (x_test, y_test) = splits
    np.savez(folder / "keras.npz", x_train=x_train, y_train=y_train[:, None], x_test=x_test, y_test=y_test[:, None])
    (folder / cifar.archive).write_bytes(tar_gz(binary_files(cifar, splits), cifar.binary_folder))
    (folder / cifar.python_archive).write_bytes(tar_gz(python_files(cifar, splits), cifar.python_folder))
    return {
        "npz": folder / "keras.npz",
        "binary archive": folder / cifar.archive,
        "python archive": folder / cifar.python_archive,
        "python folder": write_files(folder / cifar.python_folder, python_files(cifar, splits)),
        "binary folder": write_files(folder / cifar.binary_folder, binary_files(cifar, splits)),
        "classes": write_class_folders(folder / "classes", cifar.classes, splits),
    }


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_every_form_of_a_copy_gives_the_same_arrays_and_fingerprint(name, tmp_path):
    cifar = CIFARS[name]
    splits = tiny(cifar)
    loaded = {}
    for form, path in _forms(cifar, splits, tmp_path).items():
        assert import_images(name, path) == tmp_path / "cache" / f"{name}.npz"
        loaded[form] = load(name)
    first = loaded["npz"]
    assert {dataset.fingerprint for dataset in loaded.values()} == {first.fingerprint}
    for dataset in loaded.values():
        np.testing.assert_array_equal(dataset.train_images, first.train_images)
        np.testing.assert_array_equal(dataset.test_labels, first.test_labels)
    assert first.classes == cifar.classes
    assert first.train_images.shape == (cifar.counts[0], 32, 32, 3)
    # Every image still has its own label: the pairs are those that went in.
    pairs = {(image.tobytes(), int(label)) for image, label in zip(*splits[0], strict=True)}
    assert pairs == {(image.tobytes(), int(label)) for image, label in zip(first.train_images, first.train_labels, strict=True)}


def test_another_copy_has_another_fingerprint(tmp_path):
    fingerprints = set()
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        archive = tmp_path / str(seed) / "cifar.tar.gz"
        archive.write_bytes(tar_gz(binary_files(CIFARS["cifar10"], tiny(CIFARS["cifar10"], seed))))
        import_images("cifar10", archive)
        fingerprints.add(load("cifar10").fingerprint)
    assert len(fingerprints) == 2


@pytest.mark.parametrize("place", ["data", "home/data", "home/.torch/datasets", "cache"])
def test_a_torchvision_folder_is_found_and_converted(place, tmp_path):
    cifar = CIFARS["cifar10"]
    write_files(tmp_path / place / cifar.python_folder, python_files(cifar, tiny(cifar)))
    entry = next(entry for entry in catalogue() if entry.name == "cifar10")
    assert entry.present
    assert entry.where.endswith(cifar.python_folder)
    assert entry.bytes > 60 * 3072
    assert load("cifar10").train_labels.tolist() == sorted(list(range(10)) * 5)
    assert next(entry for entry in catalogue() if entry.name == "cifar10").where == str(tmp_path / "cache" / "cifar10.npz")


def test_an_archive_in_the_cache_comes_before_a_folder_elsewhere(cache_folder, tmp_path):
    cifar = CIFARS["cifar10"]
    write_files(tmp_path / "data" / cifar.python_folder, python_files(cifar, tiny(cifar, seed=1)))
    write_files(cache_folder, {cifar.archive: tar_gz(binary_files(cifar, tiny(cifar, seed=2)))})
    images = load("cifar10").train_images
    assert {image.tobytes() for image in images} == {image.tobytes() for image in tiny(cifar, seed=2)[0][0]}


class _Shell:
    def __reduce__(self):
        return os.system, ("touch ran",)


class _Eval:
    def __reduce__(self):
        return eval, ("open('ran', 'w')",)


class _Encode:
    def __reduce__(self):
        import _codecs

        return _codecs.encode, ("x", "rot13")


@pytest.mark.parametrize(("dangerous", "said"), [(_Shell(), "system"), (_Eval(), ".eval"), (_Encode(), "encoding 'rot13'")])
def test_a_pickle_that_calls_anything_else_is_refused_unrun(dangerous, said, tmp_path):
    cifar = CIFARS["cifar10"]
    files = python_files(cifar, tiny(cifar))
    files["data_batch_1"] = pickle.dumps({"data": dangerous}, 2)
    write_files(tmp_path / "data" / cifar.python_folder, files)
    with pytest.raises(DataError, match="safe to read") as caught:
        load("cifar10")
    assert said in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "cache" / "cifar10.npz").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("key_type", [str, str.encode])
def test_a_batch_pickled_again_by_python_3_is_read(protocol, key_type):
    planes = random_images(3, (3072,))
    content = pickle.dumps({key_type("data"): planes, key_type("labels"): [2, 0, 1]}, protocol)
    read, labels = read_batch(content, "labels", "here")
    np.testing.assert_array_equal(read, planes)
    assert labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "safe to read"),
        (b"not a pickle", "safe to read"),
        (python_2_pickle(random_images(2, (3072,)), [0, 1], "labels")[:-500], "safe to read"),
        (pickle.dumps([1, 2], 2), "holds a list"),
        (pickle.dumps({"labels": [0]}, 2), "lacks 'data'"),
        (pickle.dumps({"data": np.zeros((1, 3072)), "labels": [0]}, 2), "lacks 'data'"),
        (pickle.dumps({"data": np.array([None]), "labels": [0]}, 2), "lacks 'data'"),
        (python_2_pickle(random_images(2, (100,)), [0, 1], "labels"), "lacks 'data'"),
        (python_2_pickle(random_images(2, (3072,)), [0, 1], "coarse_labels"), "lacks 'labels'"),
        (python_2_pickle(random_images(2, (3072,)), [0, -1], "labels"), "lacks 'labels'"),
        (python_2_pickle(random_images(2, (3072,)), [0], "labels"), "2 images and 1 labels"),
    ],
)
def test_a_damaged_batch_is_named(content, said):
    with pytest.raises(DataError, match=said) as caught:
        read_batch(content, "labels", "here/data_batch_1")
    assert str(caught.value).startswith("here/data_batch_1")
    assert "\n" not in str(caught.value)


def _archive(files):
    return tar_gz(files, "cifar-10-batches-bin")


def _damage_checksum(content):
    return content[:-8] + bytes(byte ^ 255 for byte in content[-8:-4]) + content[-4:]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda files: b"no archive", "damaged or cut short"),
        (lambda files: gzip.compress(b"no tar" * 1000), "damaged or cut short"),
        (lambda files: _archive(files)[:-5000], "damaged or cut short"),
        (lambda files: _damage_checksum(_archive(files)), "damaged or cut short"),
        (lambda files: _archive({**files, "bomb": bytes(2 << 20)}), "holds 'bomb'"),
        (lambda files: _archive({**files, "test_batch.bin": files["test_batch.bin"] * 2}), "holds 'test_batch.bin'"),
        (lambda files: _archive({**files, "twice/test_batch.bin": files["test_batch.bin"]}), "holds 'test_batch.bin'"),
        (lambda files: _archive({**files, **{f"{number}.txt": b"" for number in range(99)}}), "no part of cifar10"),
        (lambda files: _archive({name: files[name] for name in files if name != "data_batch_3.bin"}), "lacks .*data_batch_3"),
        (lambda files: _archive({**files, "test_batch.bin": files["test_batch.bin"][:-1]}), "no multiple of 3073"),
        (
            lambda files: _archive({**files, "test_batch.bin": files["test_batch.bin"][:-3073]}),
            "test images of '.*has 2 in each",
        ),
        (
            lambda files: _archive({**files, "test_batch.bin": b"\x0b" + files["test_batch.bin"][1:]}),
            "test labels beyond 0 to 9",
        ),
    ],
)
def test_a_damaged_archive_is_named_and_nothing_is_cached(make, said, tmp_path):
    archive = tmp_path / "mine.tar.gz"
    archive.write_bytes(make(binary_files(CIFARS["cifar10"], tiny(CIFARS["cifar10"]))))
    with pytest.raises(DataError, match=said) as caught:
        import_images("cifar10", archive)
    assert str(archive) in str(caught.value)
    assert not (tmp_path / "cache" / "cifar10.npz").exists()


def test_paths_inside_an_archive_are_never_followed(tmp_path):
    cifar = CIFARS["cifar10"]
    archive = tmp_path / "mine.tar.gz"
    archive.write_bytes(tar_gz(binary_files(cifar, tiny(cifar)), "../../outside"))
    before = sorted(tmp_path.parent.rglob("outside"))
    import_images("cifar10", archive)
    assert sorted(tmp_path.parent.rglob("outside")) == before == []
    assert len(load("cifar10").train_images) == 50


def test_an_oversized_file_in_a_folder_is_not_read(tmp_path):
    cifar = CIFARS["cifar10"]
    files = {**binary_files(cifar, tiny(cifar)), "test_batch.bin": bytes(1 << 20)}
    folder = write_files(tmp_path / "batches", files)
    with pytest.raises(DataError, match="has 1048576 bytes; cifar10 has at most 61460"):
        import_images("cifar10", folder)


def test_class_folders_must_be_the_official_classes_in_full(tmp_path):
    cifar = CIFARS["cifar10"]
    splits = tiny(cifar)
    renamed = write_class_folders(tmp_path / "renamed", (*cifar.classes[:9], "lorry"), splits)
    with pytest.raises(DataError, match="'lorry' is no class of cifar10"):
        import_images("cifar10", renamed)
    short = write_class_folders(tmp_path / "short", cifar.classes, splits)
    next((short / "train" / "cat").iterdir()).unlink()
    with pytest.raises(DataError, match="has 49 images; cifar10 has 50"):
        import_images("cifar10", short)
    lossy = write_class_folders(tmp_path / "lossy", cifar.classes, splits)
    one = next((lossy / "test" / "cat").iterdir())
    one.rename(one.with_suffix(".JPG"))
    with pytest.raises(DataError, match=r"\.JPG: a JPEG has lost pixels of cifar10; use a copy whose images are PNG"):
        import_images("cifar10", lossy)
    large = write_class_folders(
        tmp_path / "large", cifar.classes, tuple((random_images(len(y), (40, 40, 3)), y) for _, y in splits)
    )
    with pytest.raises(DataError, match="40 x 40 x 3; cifar10 has 32 x 32 x 3"):
        import_images("cifar10", large)


def test_a_path_that_is_no_copy_lists_the_forms(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"is no copy of cifar10; allowed: an official \.tar\.gz"):
        import_images("cifar10", tmp_path / "empty")
    with pytest.raises(DataError, match=r"there is no .*home/nowhere; allowed"):
        import_images("cifar10", "~/nowhere")


def test_only_cifars_are_imported():
    with pytest.raises(DataError, match="did you mean 'cifar100'"):
        import_images("cifar-100", "x")


def test_an_import_replaces_what_the_cache_held(tmp_path):
    cifar = CIFARS["cifar10"]
    for seed in (3, 4):
        write_files(tmp_path / str(seed), binary_files(cifar, tiny(cifar, seed)))
        import_images("cifar10", tmp_path / str(seed))
        assert {image.tobytes() for image in load("cifar10").test_images} == {i.tobytes() for i in tiny(cifar, seed)[1][0]}
