"""Pickled CIFAR batches without the danger of pickles: the bytes of one file in, its pixels and labels out.

A pickle may name any Python function and have it called. This reader knows only what an official batch needs (NumPy's array
reconstruction) and refuses every other name before anything is called.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from allelse.errors import DataError


def _plain_dtype(code: str, align: bool = False, copy: bool = False) -> np.dtype:
    dtype = np.dtype(code)
    if dtype.kind not in "buif":
        raise pickle.UnpicklingError(f"array of {dtype}")
    # A fresh copy, because the pickle then sets its state; built-in dtypes are shared by the whole process.
    return np.dtype(dtype, copy=True)


def _empty_array(_subtype: object, _shape: object, _code: object) -> np.ndarray:
    """In place of NumPy's ``_reconstruct``, which would allocate any shape; the pickle sets shape and data afterwards."""
    return np.empty(0, np.uint8)


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as Python 3 writes them in protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


class _ArrayType:
    """Stands where a pickle names ``numpy.ndarray``, which it only hands to ``_reconstruct``."""


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _plain_dtype,
    ("_codecs", "encode"): _latin1,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ALLOWED[module, name]


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
        batch = _Reader(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{where} is no CIFAR batch that is safe to read ({reason}); use an official copy") from error
    if not isinstance(batch, dict):
        raise DataError(f"{where} holds a {type(batch).__name__}; a CIFAR batch is a dict with 'data' and {label_key!r}")
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    planes, labels = named.get("data"), named.get(label_key)
    if not (isinstance(planes, np.ndarray) and planes.dtype == np.uint8 and planes.ndim == 2 and planes.shape[1] == 3072):
        raise DataError(f"{where} lacks 'data' of uint8 [N, 3072], as a CIFAR batch has; use an official copy")
    if not (isinstance(labels, list) and all(type(label) is int and 0 <= label < 256 for label in labels)):
        raise DataError(f"{where} lacks {label_key!r}, a list of whole numbers, as a CIFAR batch has; use an official copy")
    if len(labels) != len(planes):
        raise DataError(f"{where} has {len(planes)} images and {len(labels)} labels; use an official copy")
    return planes, np.array(labels, np.int64)
