"""The store: the one place where results are kept. A study's definition, its plan and ``RunResult``s in; runs and tables out.

An output folder holds ``study.sqlite`` (all of it, one file), ``checkpoints/`` (packs under way) and ``lock``. One process
writes, any number read. The plan is stored before the first step, and each pack's results in one transaction, so whatever is
killed at whatever moment, the folder holds whole results only.

The runs of a study that tunes a number first stand apart from those of its comparison, with a plan of their own
(``Store.tuning_part``); what they chose is stored before the comparison is planned.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from allelse.errors import StoreError
from allelse.records import RunResult, canonical_json

FILE = "study.sqlite"
FORMAT = 1

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE runs (
    id TEXT PRIMARY KEY, place INTEGER NOT NULL, arm TEXT NOT NULL, seed INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending', result TEXT
);
CREATE INDEX runs_by_place ON runs (place);
"""
TUNING_SCHEMA = """
CREATE TABLE IF NOT EXISTS tuning_runs (
    id TEXT PRIMARY KEY, place INTEGER NOT NULL, arm TEXT NOT NULL, seed INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending', result TEXT
)
"""


@dataclass(frozen=True)
class StoredRun:
    """One planned run and what came of it."""

    id: str
    arm: Mapping[str, Any]
    seed: int
    status: str
    """``pending``, ``done``, ``diverged`` or ``failed``"""
    result: RunResult | None


class Store:
    """An open output folder; ``read`` and ``write`` make one."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, *, tuning: bool = False) -> None:
        self.folder = folder
        self._connection = connection
        self._runs, self._plan = ("tuning_runs", "tuning plan") if tuning else ("runs", "plan")

    @property
    def definition(self) -> dict[str, Any]:
        """The study as it was declared before the first step (``Study.definition``); its references are those last given."""
        return self._meta("definition") or {}

    @property
    def plan(self) -> dict[str, Any] | None:
        """The plan as it was stored before the first step (``Plan.to_json``), or ``None`` when there is none yet."""
        return self._meta(self._plan)

    @property
    def tuning_part(self) -> Store | None:
        """The same folder's plan and runs of tuning, in an arm each with one level more, the number; None without tuning."""
        return Store(self.folder, self._connection, tuning=True) if self.definition.get("tune") else None

    @property
    def tuning(self) -> dict[str, Any] | None:
        """What the tuning runs chose (``tuning.Tuning.to_json``); ``None`` without tuning, and until it is settled."""
        return self._meta("tuning")

    def settle(self, tuning: Mapping[str, Any]) -> None:
        """Store what the tuning runs chose; once, for good."""
        with _explained(self.folder), self._connection:
            self._connection.execute("INSERT INTO meta VALUES ('tuning', ?)", (canonical_json(tuning),))

    def checkpoint(self, pack: str) -> Path:
        """Where the pack of this id keeps its checkpoint."""
        return self.folder / "checkpoints" / f"{pack}.safetensors"

    def begin(self, plan: Mapping[str, Any], runs: Iterable[tuple[str, Mapping[str, Any], int]]) -> None:
        """Store the plan and one pending row a run (id, arm, seed), in one transaction."""
        with _explained(self.folder), self._connection:
            self._connection.execute("INSERT INTO meta VALUES (?, ?)", (self._plan, json.dumps(plan)))
            self._connection.executemany(
                f"INSERT INTO {self._runs} (id, place, arm, seed) VALUES (?, ?, ?, ?)",  # noqa: S608  (a name of ours)
                [(run, place, json.dumps(dict(arm), ensure_ascii=False), seed) for place, (run, arm, seed) in enumerate(runs)],
            )

    def replan(self, plan: Mapping[str, Any]) -> None:
        """Store a plan of the same runs in place of the one before."""
        with _explained(self.folder), self._connection:
            self._connection.execute("UPDATE meta SET value = ? WHERE key = ?", (json.dumps(plan), self._plan))

    def record(self, results: Sequence[RunResult]) -> None:
        """Store the results of one pack, all of them or none."""
        with _explained(self.folder), self._connection:
            self._connection.executemany(
                f"UPDATE {self._runs} SET status = ?, result = ? WHERE id = ?",  # noqa: S608
                [(result.status, canonical_json(result.to_json()), result.run) for result in results],
            )

    def runs(self) -> list[StoredRun]:
        """Every planned run, in the plan's order."""
        with _explained(self.folder):
            rows = self._connection.execute(
                f"SELECT id, arm, seed, status, result FROM {self._runs} ORDER BY place"  # noqa: S608
            ).fetchall()
        return [
            StoredRun(run, json.loads(arm), seed, status, RunResult.from_json(json.loads(result)) if result else None)
            for run, arm, seed, status, result in rows
        ]

    def status_from_run(self) -> dict[str, str]:
        """The status of every run by id."""
        with _explained(self.folder):
            return dict(
                self._connection.execute(f"SELECT id, status FROM {self._runs} ORDER BY place").fetchall()  # noqa: S608
            )

    def table(self, *, timing: bool = False) -> pd.DataFrame:
        """One row a run in the plan's order: ``run``, one column a factor, ``seed``, ``status``, ``error``, one a metric.

        Where the arm of a run lacks a factor, its column holds None.
        With ``timing`` also what differs from one execution to the next: seconds, speed, device, versions, host.
        """
        rows = []
        runs = self.runs()
        factors = dict.fromkeys([*self.definition.get("factors", {}), *(factor for run in runs for factor in run.arm)])
        for run in runs:
            row = {"run": run.id, **{factor: run.arm.get(factor) for factor in factors}, "seed": run.seed, "status": run.status}
            row["error"] = run.result.error if run.result else None
            row["accuracy"] = None
            if run.result:
                row.update(sorted(run.result.metrics.items()))
                if timing:
                    row.update(
                        {
                            f"seconds_{key}" if key != "images_per_second" else key: value
                            for key, value in run.result.timing.items()
                        }
                    )
                    row.update(vars(run.result.provenance) if run.result.provenance else {})
            rows.append(row)
        frame = pd.DataFrame(rows)
        for factor in factors:
            if any(row[factor] is None for row in rows):  # else pandas makes 4 and None into 4.0 and nan
                frame[factor] = pd.Series([row[factor] for row in rows], dtype=object)
        return frame

    def _meta(self, key: str) -> Any:
        with _explained(self.folder):
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None


@contextmanager
def read(folder: str | Path) -> Iterator[Store]:
    """Open an output folder to read from, also while another process writes to it.

    Raises:
        StoreError: no study was run there, or it was written by a newer allelse.
    """
    folder = Path(os.path.expanduser(folder))
    if not (folder / FILE).is_file():
        raise StoreError(f"{folder}: no study was run there (it holds no {FILE}); 'allelse run STUDY --out {folder}' makes one")
    # A writer that was killed while it stored leaves a journal, which only a connection that may write can take back.
    with _connected(folder, "rw" if os.access(folder, os.W_OK) else "ro") as connection:
        yield Store(folder, connection)


@contextmanager
def write(folder: str | Path, definition: Mapping[str, Any]) -> Iterator[Store]:
    """Open an output folder as its only writer, and make it when it is not there.

    Arguments:
        folder: the output folder.
        definition: ``Study.definition``; it must be what the folder was made with, but for published figures, which decide
            nothing and are taken anew.

    Raises:
        StoreError: another process holds the folder, another study or something else is in it, or it cannot be written.
    """
    folder = Path(os.path.expanduser(folder))
    with _explained(folder):
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder}: is a file; give a folder with --out")
        known = {FILE, f"{FILE}-journal", "lock", "holder.json"}
        if folder.exists() and not (folder / FILE).exists() and {entry.name for entry in folder.iterdir()} - known:
            raise StoreError(f"{folder}: holds other files and no study; give an empty or a new folder with --out")
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder), _connected(folder, "rwc") as connection:
        with _explained(folder), connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
            if definition.get("tune"):
                connection.execute(TUNING_SCHEMA)
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('definition', ?)", (json.dumps(definition),))
        store = Store(folder, connection)
        stored, given = store.definition, json.loads(json.dumps(definition))
        if changed := _differences(_decisive(stored), _decisive(given)):
            shown = "; ".join(changed[:4]) + (f"; and {len(changed) - 4} more" if len(changed) > 4 else "")
            raise StoreError(
                f"{folder}: holds results of another study or of this one before a change, and results never mix: {shown}. "
                f"Take the change back, or give a new folder with --out"
            )
        if (references := given.get("references", [])) != stored.get("references", []):
            with _explained(folder), connection:
                text = json.dumps({**stored, "references": references})
                connection.execute("UPDATE meta SET value = ? WHERE key = 'definition'", (text,))
        yield store


@contextmanager
def _connected(folder: Path, mode: str) -> Iterator[sqlite3.Connection]:
    with _explained(folder):
        uri = f"{(folder / FILE).resolve().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=30, check_same_thread=False)
    try:
        with _explained(folder):
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT:
                raise StoreError(
                    f"{folder}: written by a newer allelse (format {version}, this one reads {FORMAT}); upgrade allelse"
                )
            if mode != "rwc" and version == 0:
                raise StoreError(f"{folder}: its study never began; run it again")
        yield connection
    finally:
        connection.close()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock, holder = filelock.FileLock(folder / "lock"), folder / "holder.json"
    try:
        with _explained(folder):
            lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StoreError(
            f"{folder}: {_who_holds(holder)} is writing to it; wait for it to end, or give another folder with --out"
        ) from None
    try:
        with _explained(folder):
            holder.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _who_holds(holder: Path) -> str:
    try:
        who = json.loads(holder.read_text())
        return f"process {int(who['process'])} on {str(who['host'])[:80]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what the file system and SQLite say into one line with a remedy."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if isinstance(error, filelock.Timeout):
            raise
        raise StoreError(
            f"{folder}: cannot be used as an output folder: {' '.join(str(error).split())}; "
            f"what is finished there stays; free space or mend its rights, or give another folder with --out"
        ) from None


def _decisive(definition: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two definitions the same study: not by which command it was asked for, our words, or what others published."""
    return {key: value for key, value in definition.items() if key not in ("command", "notes", "references")}


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """One phrase for each place where two definitions differ: ``recipe.epochs: 20 → 10``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            phrase
            for key in dict.fromkeys([*old, *new])
            for phrase in _differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
        ]
    if isinstance(old, list) and isinstance(new, list):
        if where == "seeds":
            return [] if old == new else [f"seeds: {len(old)} from {old[0]} → {len(new)} from {new[0]}"]
        if len(old) != len(new):
            return [f"{where}: {len(old)} → {len(new)}"]
        return [phrase for number, pair in enumerate(zip(old, new), 1) for phrase in _differences(*pair, f"{where} {number}")]
    return [] if old == new else [f"{where}: {_shown(old)} → {_shown(new)}"]


def _shown(value: Any) -> str:
    return "default" if value is None else json.dumps(value)  # a recipe leaves its defaults out


def pairing(runs: Sequence[StoredRun]) -> list[str]:
    """What the stored fingerprints prove of invariant 1: lines for people, one for each thing that pairs must share."""
    fingerprints = [(run, run.result.fingerprints) for run in runs if run.result and run.result.fingerprints]
    if not fingerprints:
        return []
    values: dict[tuple[int, str], set[str]] = {}
    for run, digest_from_name in fingerprints:
        for name, value in digest_from_name.items():
            values.setdefault((run.seed, name), set()).add(value)
    names = dict.fromkeys(name for _, name in values)  # a name says what its value depends on: only equal names must agree
    broken = [name for name in names if any(len(found) > 1 for (_, key), found in values.items() if key == name)]
    if broken:
        return [f"NOT paired: within a seed, arms differ in {name}" for name in broken]
    layers = sum(name.startswith("init ") for name in names)
    seeds = len({run.seed for run, _ in fingerprints})
    return [
        f"paired: within each of {seeds} seeds, all finished arms share data, training subset, order and augmentation, where "
        f"their recipes ask for the same, and the initial weights of equal layers ({layers} compared)"
    ]
