"""Digests: what most readers of a store ask for, kept small beside the results. A connection and results in; rows out.

A result of 20 epochs and 16 layers takes tens of kilobytes, of which a table of results needs one and ``status`` none. Both
tables are written in the transaction that stores the results. They are a shortcut, not a second truth: a finished run that
has no digest, as in a store of an older allelse, is read from its whole result.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from allelse.records import Provenance, RunResult, canonical_json

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS outcomes (
        run TEXT, status TEXT, error TEXT, metrics TEXT NOT NULL, timing TEXT NOT NULL, provenance TEXT,
        PRIMARY KEY (run, status)
    )""",
    """CREATE TABLE IF NOT EXISTS fingerprints (
        part TEXT, seed INTEGER, name TEXT, value TEXT, PRIMARY KEY (part, seed, name, value)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS machines (
        part TEXT, device TEXT, precision TEXT, PRIMARY KEY (part, device, precision)
    ) WITHOUT ROWID""",
)

Row = tuple[str, str, int, str, RunResult | None]
"""id, arm as JSON, seed, status, and the result without epochs, fingerprints and probes"""


def keep(connection: sqlite3.Connection, part: str, results: Sequence[RunResult]) -> None:
    """Digest results that are stored in the same transaction; ``part`` is the table of their runs."""
    for result in results:
        provenance = canonical_json(asdict(result.provenance)) if result.provenance else None
        connection.execute(
            "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?)",
            (
                result.run,
                result.status,
                result.error,
                canonical_json(result.metrics),
                canonical_json(result.timing),
                provenance,
            ),
        )
        connection.executemany(
            f"INSERT OR IGNORE INTO fingerprints SELECT ?, seed, ?, ? FROM {part} WHERE id = ?",  # noqa: S608  (a name of ours)
            [(part, name, value, result.run) for name, value in result.fingerprints.items()],
        )
        if made := result.provenance:
            connection.execute("INSERT OR IGNORE INTO machines VALUES (?, ?, ?)", (part, made.device, made.precision))


def complete(connection: sqlite3.Connection, part: str) -> None:
    """Make the tables in a store that lacks them, and digest what has no digest yet."""
    for table in SCHEMA:
        connection.execute(table)
    # All that is asked of every run but its result, so that no page of results is read to list runs.
    connection.execute(f"CREATE INDEX IF NOT EXISTS {part}_listed ON {part} (place, id, arm, seed, status)")
    for result in _without_digest(connection, part):
        keep(connection, part, [result])


def rows(connection: sqlite3.Connection, part: str, *, timing: bool = False) -> Iterator[Row]:
    """Every planned run, in the plan's order; ``timing`` and provenance only where they are asked for."""
    whole = {result.run: replace(result, epochs=(), fingerprints={}, probes=()) for result in _without_digest(connection, part)}
    there, more = _there(connection), "o.timing, o.provenance" if timing else "NULL, NULL"
    columns = f"o.error, o.metrics, {more}" if there else "NULL, NULL, NULL, NULL"
    joined = f"LEFT JOIN outcomes o ON o.run = id AND o.status = {part}.status" if there else ""
    query = f"SELECT id, arm, seed, {part}.status, {columns} FROM {part} {joined} ORDER BY place"  # noqa: S608
    for run, arm, seed, status, error, metrics, seconds, provenance in connection.execute(query):
        result = whole.get(run)
        if result is None and metrics is not None:
            made = Provenance(**json.loads(provenance)) if provenance else None
            known: dict[str, float] = json.loads(seconds) if seconds else {}
            result = RunResult(run, status, json.loads(metrics), timing=known, provenance=made, error=error)
        yield run, arm, seed, status, result


def counts(connection: sqlite3.Connection, part: str) -> dict[str, int]:
    """How many runs have each status, in the order in which the plan comes upon them."""
    query = f"SELECT status, count(*) FROM {part} GROUP BY status ORDER BY min(place)"  # noqa: S608
    return dict(connection.execute(query).fetchall())


def fingerprints(connection: sqlite3.Connection, part: str) -> dict[tuple[int, str], set[str]]:
    """The values that were found of each fingerprint, by seed and name: one where pairs are paired."""
    values: dict[tuple[int, str], set[str]] = {}
    if _there(connection):
        query = "SELECT seed, name, value FROM fingerprints WHERE part = ?"
        for seed, name, value in connection.execute(query, (part,)):
            values.setdefault((seed, name), set()).add(value)
    for result in _without_digest(connection, part):
        (seed,) = connection.execute(f"SELECT seed FROM {part} WHERE id = ?", (result.run,)).fetchone()  # noqa: S608
        for name, value in result.fingerprints.items():
            values.setdefault((seed, name), set()).add(value)
    return values


def machines(connection: sqlite3.Connection, part: str) -> list[tuple[str, str]]:
    """Devices and precisions that the runs were made with, sorted."""
    query = "SELECT device, precision FROM machines WHERE part = ?"
    found = set(connection.execute(query, (part,)).fetchall()) if _there(connection) else set()
    made = [result.provenance for result in _without_digest(connection, part) if result.provenance]
    return sorted(found | {(one.device, one.precision) for one in made})


def _there(connection: sqlite3.Connection) -> bool:
    names = "SELECT count(*) FROM sqlite_master WHERE name IN ('outcomes', 'fingerprints', 'machines')"
    return bool(connection.execute(names).fetchone()[0] == len(SCHEMA))


def _without_digest(connection: sqlite3.Connection, part: str) -> list[RunResult]:
    # An older allelse that went on in this folder left the digest of a run that failed where it now is done.
    same = f"SELECT 1 FROM outcomes o WHERE o.run = id AND o.status = {part}.status"  # noqa: S608
    lacking = f"AND NOT EXISTS ({same})" if _there(connection) else ""
    found = connection.execute(f"SELECT id FROM {part} WHERE status <> 'pending' {lacking}").fetchall()  # noqa: S608
    results = (connection.execute(f"SELECT result FROM {part} WHERE id = ?", run).fetchone()[0] for run in found)  # noqa: S608
    return [RunResult.from_json(json.loads(result)) for result in results if result]
