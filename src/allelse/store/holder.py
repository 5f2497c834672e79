"""The holder: one process at a time may write to an output folder; a second one is told who does, where and since when.

The lock is the operating system's, so it ends with its process, however that ends; ``holder.json`` is for people only.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import filelock

from allelse.errors import StoreError
from allelse.store.faults import explained
from allelse.store.forms import visible

LOCK, HOLDER = "lock", "holder.json"
SECONDS_TO_WAIT = 0.5
"""for who only looks whether somebody writes, as ``writer`` does: that takes the lock for a moment"""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold ``folder`` as its only writer.

    Raises:
        StoreError: another process does, or the file system cannot lock.
    """
    lock, holder = filelock.FileLock(folder / LOCK), folder / HOLDER
    made = [] if os.path.lexists(folder / LOCK) else [folder / LOCK]
    try:
        with explained(folder), _waiting_is_no_fault():
            lock.acquire(timeout=SECONDS_TO_WAIT)
    except _Held:
        who, since = _who(holder)
        raise StoreError(
            f"{folder}: {who} is writing to it{since}; wait for it to end, or give another folder (run: --out)"
        ) from None
    try:
        with explained(folder):
            since = datetime.now(UTC).isoformat(timespec="seconds")
            holder.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}))
            made.clear()
        yield
    finally:
        with suppress(OSError):  # a folder that is gone must not hide why
            for file in (holder, *made):  # the lock, too, where nothing came of it
                file.unlink(missing_ok=True)
        with suppress(OSError):
            lock.release()


class _Held(Exception):
    """Another process holds the lock."""


@contextmanager
def _waiting_is_no_fault() -> Iterator[None]:
    try:
        yield
    except filelock.Timeout:  # which is an OSError
        raise _Held from None
    except NotImplementedError as error:
        raise OSError(str(error)) from None


def _who(holder: Path) -> tuple[str, str]:
    """Who holds it, and since when in brackets, as far as that is known."""
    try:
        who = json.loads(holder.read_text())
        since = f" (since {visible(str(who['since']))[:40]})" if "since" in who else ""
        return " ".join(f"process {int(who['process'])} on {visible(str(who['host']))[:80]}".split()), since
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process", ""


def writer(folder: Path) -> str | None:
    """Who writes to an output folder now, in words; None when nobody does."""
    if not (folder / HOLDER).exists():  # it is there as long as a process holds the folder, and stays when that is killed
        return None
    try:
        with filelock.FileLock(folder / LOCK, timeout=0):
            return None
    except filelock.Timeout:
        return _who(folder / HOLDER)[0]
    except (OSError, NotImplementedError):  # a folder that we may only read
        return None
