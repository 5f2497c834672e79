"""The official files of a CIFAR data set: a .tar.gz or a folder in, the content of the expected files by base name out.

Nothing is extracted to disk, no path inside an archive is used, and no more is read than the expected files can hold.
"""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

from allelse.data.cifar import Cifar
from allelse.errors import DataError, one_line

_MOST_MEMBERS = 64
_MOST_OTHER_BYTES = 1 << 20  # readme, class names: a megabyte is plenty


def _limits(cifar: Cifar) -> dict[str, int]:
    return {**cifar.binary_sizes, **cifar.pickle_limits}


class _TooLong(Exception):
    """An archive unpacks to more than an official one; its headers alone may be of any size."""


class _Bounded:
    """A stream that ends in ``_TooLong`` after so many bytes."""

    def __init__(self, stream: gzip.GzipFile, most: int) -> None:
        self._stream, self._left = stream, most

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise _TooLong
        return content


def read_archive(cifar: Cifar, path: Path) -> dict[str, bytes]:
    """The expected files of an official archive, binary or Python.

    Raises:
        DataError: it is no .tar.gz, is damaged or cut short, or holds what an official archive cannot.
    """
    limits, content = _limits(cifar), {}
    try:
        with gzip.open(path) as opened:
            stream = _Bounded(opened, sum(limits.values()) + _MOST_MEMBERS * _MOST_OTHER_BYTES)
            with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
                for number, member in enumerate(archive):
                    name = member.name.rsplit("/", 1)[-1]
                    limit = limits.get(name, _MOST_OTHER_BYTES) if member.isfile() else 0
                    if number >= _MOST_MEMBERS or member.size > limit or name in content:
                        raise DataError(
                            f"{path} holds {name!r}, which is no part of {cifar.name} in that size; use an official archive"
                        )
                    file = archive.extractfile(member) if name in limits and member.isfile() else None
                    if file is not None:
                        content[name] = file.read()
            # The checksum at the gzip's end is only verified once everything before it was read.
            if len(stream.read(_MOST_OTHER_BYTES)) == _MOST_OTHER_BYTES:
                raise DataError(f"{path} goes on after its end; use an official archive")
    except DataError:
        raise
    except _TooLong:
        raise DataError(f"{path} unpacks to more than {cifar.name} has; use an official archive") from None
    except Exception as error:  # tarfile and gzip raise nearly anything on a damaged file
        reason = one_line(error)[:120]
        raise DataError(
            f"the archive {path} is damaged or cut short ({reason}); delete it and run `allelse data fetch {cifar.name}`"
        ) from error
    return content


def read_folder(cifar: Cifar, path: Path) -> dict[str, bytes]:
    """The expected files of an unpacked official archive.

    Raises:
        DataError: a file cannot be read, or is larger than it can be.
    """
    content = {}
    for name, limit in _limits(cifar).items():
        file = path / name
        if not file.is_file():
            continue
        if file.stat().st_size > limit:
            raise DataError(
                f"{file} has {file.stat().st_size} bytes; {cifar.name} has at most {limit} there; use an official copy"
            )
        try:
            content[name] = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file} cannot be read ({error.strerror}); mend its rights or use another copy") from error
    return content
