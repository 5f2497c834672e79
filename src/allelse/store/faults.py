"""Faults: what the file system and SQLite raise in; one ``StoreError`` line with what happened and what to do, out."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from allelse.errors import StoreError
from allelse.store.forms import visible

STAYS = "what is finished there stays"
FULL = f"no space is left for it; {STAYS}; free space, and the same command goes on"
NOT_WRITABLE = f"{STAYS}; free space or mend its rights, or give another folder (run: --out)"
REFUSED = (
    f"the disk is full, over a quota, or does not answer; {STAYS}; free space or bring it back, and the same command goes on"
)
GONE = f"the folder, its disk or its network share is gone or silent; {STAYS}; bring it back, and the same command goes on"
LOCKED = (
    f"another program has its study.sqlite open, or the file system has no working locks; {STAYS}; close that program, or copy "
    "the folder to a local disk and go on there"
)
CUT_OFF = (
    f"its last write was cut off, and taking that back needs the right to write; {STAYS}; mend its rights, or copy the folder"
)
DAMAGED = "its study.sqlite is damaged; put back a copy of the folder, or run the study again into a new one with --out"
STOPPED_OR_DAMAGED = (
    f"stopped while it was read or written, or its study.sqlite is damaged; {STAYS}, and the same command goes on; "
    "where that says so again, put back a copy of the folder"
)

REMEDY_FROM_ERRNO = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), FULL),
    **dict.fromkeys(
        (
            *(errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENOENT),
            *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET, errno.ESHUTDOWN),
        ),
        GONE,
    ),
    errno.ENOTDIR: "a part of its path is a file; give another folder (run: --out)",
    **dict.fromkeys((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EDEADLK), LOCKED),
}
REMEDY_FROM_SQLITE = {  # by the start of the error's name, the longest that fits
    "SQLITE_FULL": FULL,
    "SQLITE_READONLY_DBMOVED": GONE,
    "SQLITE_READONLY_ROLLBACK": CUT_OFF,
    "SQLITE_READONLY_RECOVERY": CUT_OFF,
    "SQLITE_IOERR": GONE,
    "SQLITE_IOERR_WRITE": REFUSED,  # also what SQLite makes of a quota
    "SQLITE_IOERR_FSYNC": REFUSED,
    "SQLITE_BUSY": LOCKED,
    "SQLITE_LOCKED": LOCKED,
    "SQLITE_PROTOCOL": LOCKED,
    "SQLITE_CORRUPT": DAMAGED,
    "SQLITE_NOTADB": DAMAGED,
    "SQLITE_ERROR": DAMAGED,  # a table or a column is not there
    "SQLITE_TOOBIG": DAMAGED,
}


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what the file system and SQLite say into one line with a remedy."""
    try:
        yield
    except (sqlite3.Error, sqlite3.Warning, OSError, OverflowError, UnicodeError) as error:
        if "user-defined function raised" in str(error):  # a signal came while ``seal`` ran, or it was given what is no text
            raise StoreError(f"{folder}: {STOPPED_OR_DAMAGED}") from None
        said = " ".join(str(visible(str(error))).split())[:300]
        raise StoreError(f"{folder}: cannot be used as an output folder: {said}; {_remedy(error)}") from None


def _remedy(error: Exception) -> str:
    if isinstance(error, OSError):
        return REMEDY_FROM_ERRNO.get(error.errno or 0, NOT_WRITABLE)
    name = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT" if "decode" in str(error) else "")
    fitting = [start for start in REMEDY_FROM_SQLITE if name.startswith(start)]
    return REMEDY_FROM_SQLITE[max(fitting, key=len)] if fitting else NOT_WRITABLE


def on_disk(folder: Path) -> None:
    """Have the names in ``folder`` on the disk: else a power cut takes back a file that was made or renamed there."""
    with suppress(OSError):  # some file systems have no such thing
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
