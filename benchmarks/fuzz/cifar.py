"""Parsers of CIFAR: archives and unpacked folders, and the pickles in them."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from dataclasses import replace
from functools import cache as remembered
from pathlib import Path
from random import Random

import numpy as np

from allelse.data.archives import read_archive, read_folder
from allelse.data.cifar import CIFARS, from_files
from allelse.data.pickles import read_batch

from .datasets import check_dataset
from .mutations import odd_value, spoilt_bytes, spoilt_value
from .trials import Fault

TINY = replace(CIFARS["cifar10"], train_per_class=5, test_per_class=2)


@remembered
def official() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The binary and the Python files of a CIFAR of 70 images."""
    binary: dict[str, bytes] = {}
    python: dict[str, bytes] = {}
    noise = np.random.default_rng(0)
    for names, count in ((TINY.train_files, 50), (TINY.test_files, 20)):
        labels = np.arange(count) % 10
        planes = noise.integers(0, 256, (count, 3072), np.uint8)
        for name, rows in zip(names, np.array_split(np.arange(count), len(names)), strict=True):
            binary[f"{name}.bin"] = b"".join(bytes([labels[row]]) + planes[row].tobytes() for row in rows)
            batch = {"data": planes[rows], "labels": labels[rows].tolist(), "batch_label": name}
            python[name] = pickle.dumps(batch, protocol=2)
    return binary, python


def tar(rng: Random, files: dict[str, bytes]) -> bytes:
    """A .tar.gz of the files, with members among them that lead elsewhere."""
    buffer = io.BytesIO()
    odd = rng.choice(
        ("none", "none", "link", "hard", "device", "fifo", "up", "root", "twice", "pax", "many", "large", "sparse", "bomb")
    )
    form = rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content) if kind == tarfile.REGTYPE else 0, kind, link
            archive.addfile(member, io.BytesIO(content))

        place = rng.randrange(len(files) + 1)
        for number, (name, content) in enumerate(files.items()):
            if number == place:
                if odd in ("link", "hard"):
                    kind = tarfile.SYMTYPE if odd == "link" else tarfile.LNKTYPE
                    add(rng.choice((name, f"cifar/{name}")), kind=kind, link=rng.choice(("/etc/passwd", "../../x", name)))
                elif odd == "device":
                    add(f"cifar/{name}", kind=rng.choice((tarfile.CHRTYPE, tarfile.BLKTYPE)))
                elif odd == "fifo":
                    add(f"cifar/{name}", kind=tarfile.FIFOTYPE)
                elif odd == "pax":
                    add("x/" * rng.choice((60, 2500) if form != tarfile.USTAR_FORMAT else (60,)) + name)
                elif odd == "many":
                    for extra in range(100):
                        add(f"cifar/{extra}")
                elif odd == "large":
                    add("cifar/readme", b"\x00" * 3_000_000)
                elif odd == "sparse":
                    add(f"cifar/{name}", kind=tarfile.GNUTYPE_SPARSE)
                elif odd == "twice":
                    add(f"other/{name}", content)
            folder = {"up": "../../../", "root": "/tmp/"}.get(odd, "cifar/")
            add(folder + name, content)
    content = buffer.getvalue()
    if odd == "bomb":  # a header that is as long as it likes, before anything can be looked at
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = rng.choice((tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE)), 1 << 33
        whole = io.BytesIO()
        with gzip.GzipFile(fileobj=whole, mode="wb", mtime=0) as stream:
            stream.write(header.tobuf(tarfile.GNU_FORMAT))
        block = gzip.compress(b"\x00" * (1 << 22), mtime=0)
        return whole.getvalue() + block * rng.choice((10, 700))
    if rng.random() < 0.4:
        content = spoilt_bytes(rng, content)
    content = gzip.compress(content, 1, mtime=0)
    return spoilt_bytes(rng, content) if rng.random() < 0.4 else content


def archive(rng: Random, folder: Path) -> None:
    """A CIFAR archive, or the folder it unpacks to."""
    files = dict(rng.choice(official()))
    for _ in range(rng.randint(0, 1)):
        name = rng.choice(list(files))
        kind = rng.randrange(4)
        if kind == 0:
            del files[name]
        elif kind == 1:
            files[name] = files[name][: rng.randrange(len(files[name]))]
        elif kind == 2:
            files[name] = spoilt_bytes(rng, files[name])
        else:
            files[name] = files[name] * rng.choice((2, 40))
    if rng.random() < 0.7:
        path = folder / "cifar.tar.gz"
        path.write_bytes(tar(rng, files))
        content = read_archive(TINY, path)
    else:
        path = folder / "cifar"
        path.mkdir()
        for name, inner in files.items():
            (path / name).write_bytes(inner)
        target = path / rng.choice(list(files))
        if rng.random() < 0.3:
            target.unlink()
            rng.choice((lambda: os.mkfifo(target), target.mkdir, lambda: target.symlink_to("/dev/zero"), lambda: None))()
        content = read_folder(TINY, path)
    dataset = from_files(TINY, content, str(path))
    check_dataset(dataset)
    if (len(dataset.train_labels), len(dataset.test_labels)) != TINY.counts:
        raise Fault("half taken: not all images")


OPCODES = (
    b"cos\nsystem\nX\x10\x00\x00\x00touch canary-ran\x85R.",
    b"cposix\nsystem\n(S'touch canary-ran'\ntR.",
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x10touch canary-ran\x85R.",
    b"(S'touch canary-ran'\nios\nsystem\n.",
    b'cbuiltins\neval\n(S\'open("canary-ran","w")\'\ntR.',
    b"cnumpy\nload\n(S'x'\ntR.",
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85S'b'\ntR(K\x01J\x00\x00\x00\x7f\x85cnumpy\ndtype\n(S'u1'\nK\x00K\x01tRK\x00C\x01atb.",
    b"r\xff\xff\xff\x7f.",
    b"Nr\xff\xff\xff\x7f.",
    b"Np99999999999\n.",
    b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    b"\x8d\xff\xff\xff\xff\x0f\x00\x00\x00a.",
    b"\x8b\xff\xff\xff\x7f.",
    b"cnumpy\ndtype\n(S'O'\ntR.",
    b"cnumpy\ndtype\n(S'u1'\nK\x00K\x01tR(K\x03S'|'\nNNNJ\xff\xff\xff\x7fJ\xff\xff\xff\x7fK?tb.",
    b"I" + b"9" * 5000 + b"\n.",
    b"(" * 5000 + b"t" * 5000 + b".",
    b"]" * 3000 + b"a" * 2999 + b".",
    b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\ncbuiltins\nobject\nNtR.",
    b"\x82\x01.",
    b"Pabc\n.",
    b"}(X\x04\x00\x00\x00dataX\x04\x00\x00\x00dataX\x06\x00\x00\x00labels]u.",
)


def batch(rng: Random, folder: Path) -> None:
    """One pickled batch."""
    name, content = rng.choice(list(official()[1].items()))
    kind = rng.randrange(4)
    if kind == 0:
        spoilt = spoilt_bytes(rng, content)
    elif kind == 1:
        spoilt = rng.choice(OPCODES)
    elif kind == 2:
        spoilt = spoilt_bytes(rng, rng.choice(OPCODES))
    else:
        tree = {"data": [[1] * 4] * 2, "labels": [0, 1], b"x": odd_value(rng, raw=False)}
        spoilt = pickle.dumps(spoilt_value(rng, tree, raw=False), protocol=rng.choice((0, 1, 2, 3, 4, 5)))
    planes, labels = read_batch(spoilt, "labels", name)
    if planes.shape != (len(labels), 3072) or planes.dtype != np.uint8 or labels.dtype != np.int64:
        raise Fault(f"half taken: {planes.dtype} {planes.shape}")
