"""Pickled CIFAR batches without the danger of pickles: the bytes of one file in, its pixels and labels out.

A pickle may name any Python function and have it called. This reader knows only the names that an official batch needs (NumPy's
array reconstruction), puts classes of its own in their place, and refuses every other name before anything is called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any

import numpy as np

from allelse.errors import DataError, one_line


class _Type:
    """Stands where a pickle names ``numpy.ndarray`` or ``numpy.dtype``: it keeps the code, and is given no state."""

    def __init__(self, *arguments: object) -> None:
        self.code = arguments[0] if arguments else None

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands for an array: it keeps what the pickle says of one, and makes nothing of it."""

    def __init__(self, *_: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def planes(self) -> np.ndarray | None:
        """The uint8 array [N, 3072] that the state describes; ``None`` where it describes another."""
        match self.state:
            case (_, (int(rows), 3072), _Type(code="u1"), bool(fortran), (bytes() | str()) as raw):
                raw = raw.encode("latin1") if isinstance(raw, str) else raw  # a text of Python 2
                if rows >= 0 and len(raw) == rows * 3072:
                    return np.frombuffer(raw, np.uint8).reshape((rows, 3072), order="F" if fortran else "C")
        return None


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as Python 3 writes them in protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Type,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _latin1,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ALLOWED[module, name]


def _check_memo(content: bytes) -> None:
    """Refuse a place in the unpickler's memo beyond what a pickler writes: Python would make room for all before it."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count + 256:
            raise pickle.UnpicklingError(f"memo {argument}")


def read_batch(content: bytes, label_key: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of one pickled batch.

    Arguments:
        content: the file's bytes.
        label_key: where it keeps the labels: ``labels`` or ``fine_labels``.
        where: the file, for messages.

    Returns:
        planes uint8 [N, 3072], red then green then blue, and labels int64 [N].

    Raises:
        DataError: it is no pickle, names anything but NumPy's array reconstruction, or holds something else.
    """
    try:
        _check_memo(content)
        batch = _Reader(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = one_line(error)[:120]
        raise DataError(f"{where} is no CIFAR batch that is safe to read ({reason}); use an official copy") from error
    if not isinstance(batch, dict):
        raise DataError(f"{where} holds a {type(batch).__name__}; a CIFAR batch is a dict with 'data' and {label_key!r}")
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    array, labels = named.get("data"), named.get(label_key)
    planes = array.planes() if isinstance(array, _Array) else None
    if planes is None:
        raise DataError(f"{where} lacks 'data' of uint8 [N, 3072], as a CIFAR batch has; use an official copy")
    if not (isinstance(labels, list) and all(type(label) is int and 0 <= label < 256 for label in labels)):
        raise DataError(f"{where} lacks {label_key!r}, a list of whole numbers, as a CIFAR batch has; use an official copy")
    if len(labels) != len(planes):
        raise DataError(f"{where} has {len(planes)} images and {len(labels)} labels; use an official copy")
    return planes, np.array(labels, np.int64)
