"""Small data for the tests of the data room: a temporary folder in, tiny CIFARs, archives, folders and a web server out."""

from __future__ import annotations

import io
import struct
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from allelse.data.cifar import CIFARS, Cifar

Split = tuple[np.ndarray, np.ndarray]


def sandbox(tmp_path: Path, monkeypatch) -> Path:
    """Nothing outside ``tmp_path`` is read or written, no network is there, and the CIFARs have a few images a class."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ALLELSE_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("ALLELSE_CIFAR_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(CIFARS, "cifar10", replace(CIFARS["cifar10"], train_per_class=5, test_per_class=2))
    monkeypatch.setitem(CIFARS, "cifar100", replace(CIFARS["cifar100"], train_per_class=1, test_per_class=1))
    return tmp_path / "cache"


def random_images(count: int, shape: tuple[int, ...] = (32, 32, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def tiny(cifar: Cifar, seed: int = 0) -> tuple[Split, Split]:
    """Random train and test splits with as many images of each class as ``cifar`` says, in a shuffled order."""
    rng = np.random.default_rng(seed)
    splits = []
    for part, per_class in enumerate((cifar.train_per_class, cifar.test_per_class)):
        labels = rng.permutation(np.repeat(np.arange(len(cifar.classes)), per_class))
        splits.append((random_images(len(labels), seed=10 * seed + part), labels))
    return splits[0], splits[1]


def _parts(cifar: Cifar, splits: tuple[Split, Split]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for names, (images, labels) in zip((cifar.train_files, cifar.test_files), splits, strict=True):
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for name, rows in zip(names, np.array_split(np.arange(len(labels)), len(names)), strict=True):
            yield name, planes[rows], labels[rows]


def binary_files(cifar: Cifar, splits: tuple[Split, Split]) -> dict[str, bytes]:
    """Records as https://www.cs.toronto.edu/~kriz/cifar.html describes them: label bytes, then red, green and blue planes."""
    files = {}
    for name, planes, labels in _parts(cifar, splits):
        coarse = [7] * (cifar.label_bytes - 1)
        files[f"{name}.bin"] = b"".join(
            bytes([*coarse, label]) + row.tobytes() for row, label in zip(planes, labels.tolist(), strict=True)
        )
    return files


def python_2_pickle(planes: np.ndarray, labels: list[int], label_key: str) -> bytes:
    """The opcodes that Python 2's cPickle wrote into the official files, which Python 3 cannot write any more."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    raw = planes.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R(K\x01"
    array += integer(len(planes)) + integer(planes.shape[1]) + b"\x86"
    array += b"cnumpy\ndtype\n" + text("u1") + b"K\x00K\x01\x87R(K\x03" + text("|") + b"NNN" + integer(-1) * 2 + b"K\x00tb"
    array += b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    listed = b"](" + b"".join(integer(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text("data") + array + text(label_key) + listed + b"u."


def python_files(cifar: Cifar, splits: tuple[Split, Split]) -> dict[str, bytes]:
    return {name: python_2_pickle(planes, labels.tolist(), cifar.label_key) for name, planes, labels in _parts(cifar, splits)}


def tar_gz(files: dict[str, bytes], folder: str = "cifar") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {"readme.html": b"hello", **files}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_class_folders(root: Path, classes: tuple[str, ...], splits: tuple[Split, Split]) -> Path:
    """``root``/train/<class>/<number>.png and the same for test."""
    for split, (images, labels) in zip(("train", "test"), splits, strict=True):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            save_image(root / split / classes[label] / f"{number:04}.png", image)
    return root


def save_image(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
    return path


class Served:
    """What a test server answers, and what it was asked."""

    def __init__(self) -> None:
        self.content_from_path: dict[str, bytes] = {}
        self.cut_after: int | None = None
        self.status = 200
        self.silence = 0.0  # seconds before it answers
        self.asked: list[str] = []
        self.url = ""


@contextmanager
def web_server() -> Iterator[Served]:
    """An HTTP server on this machine that may answer with an error status, or hang up in the middle of a file."""
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            time.sleep(served.silence)
            content = served.content_from_path.get(self.path)
            status = served.status if content is not None else 404
            content = content if status == 200 and content is not None else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(content[: served.cut_after])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/mirror"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
