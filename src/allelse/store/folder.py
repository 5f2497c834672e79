"""The folder: where results are kept, in; an open ``Store``, to read from or as its only writer, out."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allelse.errors import AllelseError, StoreError, command
from allelse.store import schema
from allelse.store.definitions import differences, fits, same_but_for_seeds
from allelse.store.faults import explained, on_disk
from allelse.store.forms import visible
from allelse.store.holder import HOLDER, LOCK, held
from allelse.store.opened import CHECKPOINTS, Store
from allelse.store.schema import FILE

SECONDS_TO_WAIT = 30.0
"""for a reader that is just looking, at most"""
LOG = "allelse.log"
UNFINISHED = f"{FILE}.partial"
"""a united store that is not whole yet"""
JOURNAL = f"{FILE}-journal"
OURS = {FILE, JOURNAL, UNFINISHED, f"{UNFINISHED}-journal", LOCK, HOLDER, LOG, CHECKPOINTS}
"""what a folder may hold besides, before its study is stored"""


@contextmanager
def read(folder: str | Path, *, mend: bool = True) -> Iterator[Store]:
    """Open an output folder to read from, also while another process writes to it.

    Arguments:
        folder: the output folder.
        mend: take back a last write that was cut off; without, such a folder is refused and none of its files is changed.

    Raises:
        StoreError: no study was run there, it was written by a newer allelse, or it is damaged.
    """
    folder = Path(os.path.expanduser(folder))
    with explained(folder):
        _check_files(folder, (FILE, JOURNAL))
        if folder.is_file():
            raise StoreError(f"{folder}: is a file; give the output folder of a study")
        if not (folder / FILE).is_file():
            remedy = f"{command('run', 'STUDY', '--out', folder)} makes one"
            if ((usual := Path("runs") / folder) / FILE).is_file():
                remedy = f"one is in {usual}: give that"
            elif folder.is_dir() and any(folder.iterdir()):
                remedy = "give the folder that 'allelse run' named as its report's"
            raise StoreError(f"{folder}: no study was run there (it holds no {FILE}); {remedy}")
    # A writer that was killed while it stored leaves a journal, which only a connection that may write can take back.
    with connected(folder, "rw" if mend and os.access(folder, os.W_OK) else "ro") as (connection, version):
        if version == 0:
            raise StoreError(f"{folder}: its study never began; run it again")
        yield Store(folder, connection, sealed=version > 1)


@contextmanager
def write(folder: str | Path, definition: Mapping[str, Any]) -> Iterator[Store]:
    """Open an output folder as its only writer, and make it when it is not there.

    Arguments:
        folder: the output folder.
        definition: ``Study.definition``; it must be what the folder was made with, but for published figures, which decide
            nothing and are taken anew; and a united folder may have more seeds.

    Raises:
        StoreError: another process holds the folder, another study or something else is in it, or it cannot be written.
    """
    given = json.loads(json.dumps(definition))
    with taken(folder) as ours, connected(folder := ours.folder, "rwc") as (connection, version):
        store = Store(folder, connection)
        with explained(folder), transaction(connection):
            schema.prepare(connection, version, tuning=bool(definition.get("tune")))
            if version == 0 or not store.is_planned:  # a study of which nothing was planned may still be changed
                store.put("definition", json.dumps(given))
        stored = store.definition
        if not fits(stored, visible(given), united=bool(store.parts)):
            more = [seed for seed in given["seeds"] if seed not in stored["seeds"]]
            in_a_row = bool(more) and more == list(range(more[0], more[0] + len(more)))  # what one command can ask for
            if in_a_row and same_but_for_seeds(stored, visible(given)):
                raise StoreError(
                    f"{folder}: holds {len(stored['seeds'])} seeds of this study, from {stored['seeds'][0]}, and results stay; "
                    f"train the others with --seeds {len(more)} --first-seed {more[0]} --out OTHER, "
                    f"and unite them: {command('merge', folder, 'OTHER')}"
                )
            found = differences(stored, visible(given))
            claims = "; claims on results that are there stand in a file of their own: 'allelse verdicts DIR --also FILE'"
            raise StoreError(
                f"{folder}: holds results of another study or of this one before a change, and results never mix: {found}. "
                f"Take the change back, or give a new folder with --out{claims if found.startswith('claims') else ''}"
            )
        if (references := given.get("references", [])) != stored["references"]:
            with explained(folder), connection:
                store.put("definition", json.dumps({**stored, "references": references}))
        store.tidy()
        if part := store.tuning_part:
            part.tidy()
        ours.stays = True  # where it is killed or stopped, the same command goes on
        try:
            yield store
        except AllelseError:
            with suppress(StoreError):  # the disk may be what failed
                ours.stays = store.is_planned
            raise


@dataclass
class Taken:
    """A folder that is held, and whether what was made in it stays where the block fails."""

    folder: Path
    stays: bool = False


@contextmanager
def taken(folder: str | Path) -> Iterator[Taken]:
    """The folder, made when it is not there, and held as its only writer; where the block fails, all that was not there before
    is taken away again.

    Raises:
        StoreError: another process holds it, it is a file, holds something else, or cannot be made.
    """
    folder = Path(os.path.expanduser(folder))
    missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    try:
        lock = make(folder) / LOCK
        kept = {lock} if lock.exists() else set()
        with held(folder):
            with explained(folder):
                kept |= _ours_in(folder) - {lock}
            if folder / FILE in kept:
                kept.add(folder / JOURNAL)  # its own, without which it could be spoilt
            ours = Taken(folder)
            try:
                yield ours
            except BaseException:
                if not ours.stays:
                    with suppress(OSError):
                        _take_away(_ours_in(folder) - kept)
                raise
    except BaseException:
        for one in missing:
            with suppress(OSError):  # it holds something, as a folder that another process has begun to use
                one.rmdir()
        raise


def _ours_in(folder: Path) -> set[Path]:
    return {path for path in (*(folder / name for name in OURS), *(folder / CHECKPOINTS).glob("*")) if os.path.lexists(path)}


def _take_away(paths: set[Path]) -> None:
    for path in sorted(paths, reverse=True):  # what is in a folder before the folder
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def make(folder: str | Path) -> Path:
    """The folder, made when it is not there, with nothing in it that is not of a study.

    Raises:
        StoreError: it is a file, holds something else, or cannot be made.
    """
    folder = Path(os.path.expanduser(folder))
    with explained(folder):
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder}: is a file; give a folder")
        if folder.is_symlink() and not folder.exists():
            raise StoreError(
                f"{folder}: is a link to nothing; bring back what it leads to, or give another folder (run: --out)"
            )
        if folder.exists() and not (folder / FILE).exists() and {entry.name for entry in folder.iterdir()} - OURS:
            raise StoreError(f"{folder}: holds other files and no study; give an empty or a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        on_disk(folder.parent)
        _check_files(folder, (FILE, JOURNAL, UNFINISHED, LOCK, HOLDER, LOG))
        if (folder / FILE).is_symlink():
            raise StoreError(
                f"{folder}: its {FILE} is a link, and copies of the folder would write to one file; put the file itself there"
            )
    return folder


def _check_files(folder: Path, names: tuple[str, ...]) -> None:
    """Never open what is no plain file: a pipe would wait for ever, and a device is not ours."""
    for path in (folder / name for name in names):
        if os.path.lexists(path) and not path.is_file():
            raise StoreError(
                f"{folder}: its {path.name} is no file, but a folder, a device, a pipe or a link to nothing; take it away, or "
                f"give another folder (run: --out)"
            )


@contextmanager
def connected(folder: Path, mode: str, name: str = FILE) -> Iterator[tuple[sqlite3.Connection, int]]:
    """A connection to a folder's file, configured and checked, and the file's format; ``mode`` as SQLite's URIs have it."""
    with explained(folder):
        uri = f"{Path(os.path.abspath(folder / name)).as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=SECONDS_TO_WAIT, check_same_thread=False)
    try:
        with explained(folder):
            schema.configure(connection)
            version = schema.check(connection, folder)
            if mode == "rwc":
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("PRAGMA synchronous = EXTRA")  # a commit lasts, and so does the end of its journal
        yield connection, version
    finally:
        with suppress(sqlite3.Error):
            connection.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of what is done within, tables too, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        yield
