"""Parsers of data: .npz files, folders of images, the cache, and remembered speeds."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from functools import cache as remembered
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from allelse import data
from allelse.data import cache
from allelse.data.dataset import Dataset, assemble, fingerprint

from .mutations import ODD_NUMBERS, ODD_TEXTS, spoilt_bytes, spoilt_value
from .trials import Fault


def check_dataset(dataset: Dataset) -> None:
    """Raise ``Fault`` unless a data set that was taken is whole."""
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        if (
            images.dtype != np.uint8
            or images.ndim != 4
            or labels.dtype != np.int64
            or len(images) != len(labels)
            or not len(labels)
        ):
            raise Fault(f"half taken: images {images.dtype} {images.shape}, labels {labels.dtype} {labels.shape}")
        if labels.min() < 0 or labels.max() >= len(dataset.classes):
            raise Fault("half taken: labels beyond the classes")
    arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    if fingerprint(*arrays) != dataset.fingerprint:
        raise Fault("half taken: the fingerprint is of other images")


# ── .npz ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def arrays(rng: Random) -> dict[str, Any]:
    noise = np.random.default_rng(rng.randrange(1 << 30))
    found = {}
    for split, count in (("train", 8), ("test", 4)):
        found[f"x_{split}"] = noise.integers(0, 256, (count, 4, 4), np.uint8)
        found[f"y_{split}"] = np.arange(count) % 2
    return found


def odd_array(rng: Random, array: np.ndarray) -> Any:
    shapes = ((), (0,), (0, 4, 4), (8, 0, 4), (8, 16), (2, 4, 4, 4), (1, 1, 1, 1, 1), (8, 1), (1, 8), (8,))
    kind = rng.randrange(6)
    if kind == 0 and array.dtype.kind in "iu":
        return array.astype(
            rng.choice(("int8", "uint16", "float16", "float64", "complex64", "bool", "S3", "U2", "M8[s]", ">i8", "<u2"))
        )
    if kind == 1:
        return np.zeros(rng.choice(shapes), array.dtype)
    if kind == 2:
        return np.asfortranarray(array)
    if kind == 3:
        return np.array([{"a": 1}, print] * 4, dtype=object)
    if kind == 4:
        return np.full_like(array, rng.choice((-1, 0, 1, 200)) if array.dtype.kind == "i" else 255)
    return np.zeros(len(array), [("a", "u1"), ("b", "<f4")])


def npy(rng: Random, array: np.ndarray) -> bytes:
    """One .npy file whose header says something else than what follows."""
    shape = rng.choice(
        (
            "(-1,)",
            "(8, -4, 4)",
            "(1099511627776,)",
            "(4611686018427387904, 4)",
            "(8, 4, 4",
            "(True, 4)",
            "(8.0, 4, 4)",
            "8",
            "(1e3,)",
            "()",
            "(17179869184, 1, 1)",
            "(" * 300,
            "(0, 99999999999999999999)",
            "(8, 4, 4)",
            "__import__('os').system('touch canary-ran')",
        )
    )
    descr = rng.choice(
        ("'|u1'", "'<i8'", "'|O'", "'|V999999999'", "'<U999999999'", "[('a', '|u1')]", "'M8[s]'", "1", "'u1,u1'", "'|S0'")
    )
    header = f"{{'descr': {descr}, 'fortran_order': {rng.choice(('True', 'False', '7', 'None'))}, 'shape': {shape}, }}"
    version = rng.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", rng.choice((len(header), len(header), len(header), 65535)))
    return b"\x93NUMPY" + version + length + header.encode() + array.tobytes()


def written(rng: Random, found: dict[str, Any]) -> bytes:
    """A zip archive of arrays, a part of which may be no array; in any of zip's ways."""
    buffer = io.BytesIO()
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    odd = rng.choice((*found, *[None] * 4))
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for key, array in found.items():
            inner = io.BytesIO()
            np.lib.format.write_array(inner, np.asarray(array), allow_pickle=True)
            content = inner.getvalue()
            if key == odd:
                kind = rng.randrange(6)
                if kind == 0:
                    content = npy(rng, np.asarray(arrays(rng)[found_key(key)]))
                elif kind == 1:
                    content = spoilt_bytes(rng, content)
                elif kind == 2:
                    content = pickle.dumps(_Bait())
                elif kind == 3:
                    content = content + b"\x00" * rng.choice((1, 100, 200_000))
                elif kind == 4:
                    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (400000000,), }"
                    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
            name = rng.choice((*[f"{key}.npy"] * 40, f"../{key}.npy", key, f"/{key}.npy"))
            archive.writestr(name, content)
    content = buffer.getvalue()
    kind = rng.randrange(8)
    if kind == 0:
        return spoilt_bytes(rng, content)
    if kind == 1:  # says that it is encrypted
        return content.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    if kind == 2:  # sizes in the directory that are not so
        at = content.rfind(b"PK\x01\x02")
        return (
            content[: at + 20]
            + struct.pack("<II", rng.choice((0, 5, 2**32 - 2)), rng.choice((0, 5, 2**31)))
            + content[at + 28 :]
        )
    if kind == 3:
        return content[: rng.randrange(len(content))]
    return content


def found_key(key: str) -> str:
    return key if key in ("x_train", "y_train", "x_test", "y_test") else "x_train"


class _Bait:
    """Writes a file when a pickle of it is loaded as a pickle."""

    def __reduce__(self) -> Any:
        return os.system, ("touch canary-ran",)


@remembered
def bomb() -> bytes:
    """A third of a megabyte that unpacks to three hundred."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, np.zeros((300_000_000 if key == "x_train" else 1, 1, 1), np.uint8))
    return buffer.getvalue()


def npz(rng: Random, folder: Path) -> None:
    """``npz:PATH``."""
    found = arrays(rng)
    for _ in range(rng.randint(0, 2)):
        key = rng.choice(list(found))
        if rng.random() < 0.2:
            del found[key]
        else:
            found[key] = odd_array(rng, found[key])
        if not found:
            break
    (folder / "x.npz").write_bytes(bomb() if rng.random() < 0.03 else written(rng, found) if found else b"")
    check_dataset(data.load("npz:x.npz"))


# ── folders of images ───────────────────────────────────────────────────────────────────────────────────────────────


@remembered
def pictures() -> tuple[bytes, ...]:
    """One image of each kind that Pillow writes here."""
    found = []
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 4), np.uint8)
    for mode, form in (
        ("RGB", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("1", "PNG"),
        ("RGBA", "PNG"),
        ("I;16", "PNG"),
        ("LA", "PNG"),
    ):
        picture = (
            Image.fromarray(noise[..., 0].astype(np.uint16) * 99) if mode == "I;16" else Image.fromarray(noise).convert(mode)
        )
        buffer = io.BytesIO()
        picture.save(buffer, form)
        found.append(buffer.getvalue())
    for mode, form in (
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "GIF"),
        ("RGB", "BMP"),
        ("RGB", "TIFF"),
        ("RGB", "PPM"),
    ):
        buffer = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(buffer, form)
        found.append(buffer.getvalue())
    return tuple(found)


def huge_png(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""
    from zlib import compress, crc32

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", compress(b"\x00" * 100_000)) + chunk(b"IEND", b"")


NAMES = (
    "a.png",
    "a.PNG",
    "b.jpg",
    "c.jpeg",
    ".hidden.png",
    "Thumbs.db",
    "x.txt",
    "x",
    "\x1b[31m.png",
    "a\nb.png",
    "\udcff.png",
    "한글.png",
    "=1.png",
)
CLASSES = ("\udcff", "\x1b[2J", "a\nb", ".hidden", "x" * 200, "<script>", "=cmd", "한글", " ")


def images(rng: Random, folder: Path) -> None:
    """``folder:PATH``."""
    os.environ["ALLELSE_DATA"] = str(folder / "kept")
    odd = rng.choice(CLASSES)
    classes = ["cat", odd if rng.random() < 0.3 else "dog"]
    for split in ("train", "test"):
        for label in classes:
            place = folder / "images" / split / label
            place.mkdir(parents=True)
            for number in range(2):
                (place / f"{number}.png").write_bytes(pictures()[0])
    spoilt = folder / "images" / rng.choice(("train", "test")) / rng.choice(classes)
    target = spoilt / rng.choice(NAMES)
    kind = rng.randrange(11)
    if kind == 0:
        target.write_bytes(rng.choice(pictures()))
    elif kind < 4:
        target.write_bytes(spoilt_bytes(rng, rng.choice(pictures())))
    elif kind == 4:
        target.write_bytes(
            huge_png(*rng.choice(((10**6, 10**6), (2**31 - 1, 1), (30_000, 30_000), (9_000, 9_000), (12_000, 12_000), (0, 5))))
        )
    elif kind == 5:
        target.symlink_to(rng.choice(("/etc/hostname", "nowhere", ".", "/dev/zero", "../../../..", target.name)))
    elif kind == 6:
        os.mkfifo(target)
    elif kind == 7:
        target.mkdir()
    elif kind == 8:
        target.write_bytes(
            rng.choice((b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", rng.randbytes(100), b"<svg/>", b"%!PS\n/x {x} def x"))
        )
    elif kind == 9:
        (folder / "images" / rng.choice(("train", "test")) / "extra").mkdir()
    else:
        target.write_bytes(pictures()[rng.randrange(7)])
    size = rng.choice((None, None, None, 4, 0, -1, 1, 10**5, 10**6, 10**30))
    name = "folder:images" if rng.random() < 0.9 else "folder:" + rng.choice(ODD_TEXTS)
    check_dataset(data.load(name, size))
    check_dataset(data.load(name, size))  # as it was kept


# ── what allelse keeps for itself ───────────────────────────────────────────────────────────────────────────────────


@remembered
def few_digits() -> Dataset:
    digits = data.load("digits")
    train, test = (digits.train_images[::20], digits.train_labels[::20]), (digits.test_images[::9], digits.test_labels[::9])
    return assemble("digits", train, test, digits.classes)


def kept(rng: Random, folder: Path) -> None:
    """A converted data set in the cache."""
    path = folder / "kept.npz"
    cache.keep(path, few_digits())
    with np.load(path) as file:
        found = {key: file[key] for key in file.files}
    kind = rng.randrange(4)
    if kind == 0:
        path.write_bytes(spoilt_bytes(rng, path.read_bytes()))
    else:
        if kind > 1:
            key = rng.choice(list(found))
            found[key] = odd_array(rng, np.atleast_1d(found[key]))
        path.write_bytes(written(rng, found))
    check_dataset(cache.cached(path, "digits", few_digits))


def speeds(rng: Random, folder: Path) -> None:
    """The file of speeds measured before."""
    import torch

    from allelse.launch.measured import Speeds

    known = {"a" * 24: 100.0, "b" * 24: 3}
    text = json.dumps(known if rng.random() < 0.5 else spoilt_value(rng, known, raw=False))
    content = text.encode() if rng.random() < 0.5 else spoilt_bytes(rng, text.encode())
    content = rng.choice(
        (content, content, content, b"[" * 100_000, b'{"a": 1e999}', b'{"a": ' + b"9" * 400 + b"}", b'{"a": true}', b"\xff\xfe")
    )
    remembered = Speeds(torch.device("cpu"), lambda recipe: data.load("digits"))
    remembered.file = folder / "speeds.json"
    if rng.random() < 0.05:
        os.mkfifo(remembered.file)
    else:
        remembered.file.write_bytes(content)
    found = remembered._read()
    if not all(isinstance(rate, float) and 0 < rate < float("inf") for rate in found.values()):
        raise Fault(f"half taken: {found}"[:200])
    remembered._remember("c" * 24, 7.0)
    if not remembered.file.is_fifo() and json.loads(remembered.file.read_text()).get("c" * 24) != 7.0:
        raise Fault("half taken: a speed was not kept")


def variables(rng: Random, folder: Path) -> None:
    """Addresses and folders in ``ALLELSE_*``, and names of data sets."""
    from .studies import ADDRESSES

    os.environ["ALLELSE_DATA"] = rng.choice((*ODD_TEXTS, "kept")).replace("\x00", "")
    os.environ["ALLELSE_CIFAR_URL"] = rng.choice((*ADDRESSES, *ODD_TEXTS)).replace("\x00", "")
    os.environ["HOME"] = str(folder)
    odd = rng.choice((*ODD_TEXTS, *map(str, ODD_NUMBERS[:20])))
    kind = rng.randrange(5)
    if kind == 0:
        data.fetch("cifar10", progress=False)
    elif kind == 1:
        data.load(rng.choice(("npz:", "folder:", "", "cifar10:")) + odd, rng.choice((None, None, 3)))
    elif kind == 2:
        data.import_images(rng.choice(("cifar10", odd)), odd)
    elif kind == 3:
        data.catalogue()
    else:
        data.load("cifar10")


variables.may = ("network", "wrote outside")  # type: ignore[attr-defined]  # where the variables say so; neither is let through
