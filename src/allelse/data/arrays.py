"""Arrays of an .npz file of anyone's: a path and names in, plain NumPy arrays out; no pickle, and no more memory than needed.

A header may claim any shape and a zip may unpack to a thousand times its size, so both are held against the file before
anything is made of them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from allelse.errors import DataError

PLAIN_BYTES = 1 << 28
MOST_RATIO = 200
"""unpacked over packed bytes of an array of over ``PLAIN_BYTES``; photographs reach 2, sparse drawings 50, zip bombs 1,000"""


class Missing(Exception):
    """The file lacks some of the arrays; its arguments are those that it has."""


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names.

    Raises:
        DataError: it is a bomb or says another size than it has.
        Missing: not all of them are there.
        Exception: nearly any other, where the file is damaged.
    """
    with path.open("rb") as raw, zipfile.ZipFile(raw) as archive:
        there = {info.filename: info for info in archive.infolist()}
        if any(f"{name}.npy" not in there for name in names):
            raise Missing(*(name.removesuffix(".npy") for name in there))
        array_from_name = {}
        for name in names:
            info = there[f"{name}.npy"]
            if info.file_size > max(PLAIN_BYTES, MOST_RATIO * info.compress_size):
                raise DataError(
                    f"{path}: {name} would unpack to {info.file_size:,} bytes from {info.compress_size:,}, as no images do; "
                    "write it with numpy.savez"
                )
            with archive.open(info) as member:
                _check_header(member, info.file_size)
            with archive.open(info) as member:
                array_from_name[name] = np.lib.format.read_array(member, allow_pickle=False)
                if member.read(1):
                    raise ValueError("goes on after its end")
        return array_from_name


def _check_header(member: IO[bytes], size: int) -> None:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError("a version for fields with names")
    if dtype.hasobject or dtype.names or any(side < 0 for side in shape):
        raise ValueError("no plain numbers")
    if member.tell() + prod(map(int, shape)) * dtype.itemsize != size:
        raise ValueError("another size than its header says")
