"""The schema: a connection in; the tables of ``study.sqlite``, made, brought up to date, and checked, out.

Each row carries a seal, a digest of its values, by which bits that flipped on the disk are told from results. What is long in a
result, its epochs and probes, stands in a table of its own: most readers ask for the rest, and a store may hold 10,000 runs.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

from allelse.errors import StoreError
from allelse.records import canonical_json

FILE = "study.sqlite"
FORMAT = 2

RUNS = """
    id TEXT PRIMARY KEY, place INTEGER NOT NULL, arm TEXT NOT NULL, seed INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending', result TEXT, seal TEXT
"""
TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, seal TEXT)",
    f"CREATE TABLE runs ({RUNS})",
    "CREATE INDEX runs_by_place ON runs (place)",
)
DETAILS_TABLE = "CREATE TABLE details (run TEXT PRIMARY KEY, value TEXT NOT NULL, seal TEXT)"
DETAILS = ("epochs", "probes")
"""the keys of a result that stand there"""
TUNING_TABLE = f"CREATE TABLE IF NOT EXISTS tuning_runs ({RUNS})"
KNOWN = {("table", "meta"), ("table", "runs"), ("table", "tuning_runs"), ("table", "details"), ("index", "runs_by_place")}
RUN_SEAL = "seal(id, place, arm, seed, status, result)"
META_SEAL = "seal(key, value)"


def seal(*values: object) -> str:
    """Sixteen hex digits that tell these values from any others."""
    return hashlib.sha256("\x1f".join(map(str, values)).encode("utf-8", "replace")).hexdigest()[:16]


def configure(connection: sqlite3.Connection) -> None:
    """What every connection needs."""
    connection.create_function("seal", -1, seal, deterministic=True)
    connection.execute("PRAGMA trusted_schema = OFF")  # a forged file may not call functions from its tables
    connection.execute("PRAGMA cell_size_check = ON")


def check(connection: sqlite3.Connection, folder: Path) -> int:
    """The file's format; 0 for one that nothing was stored in.

    Raises:
        StoreError: it was written by a newer allelse, or it holds what allelse never makes, as a view or a trigger.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT:
        raise StoreError(f"{folder}: written by a newer allelse (format {version}, this one reads {FORMAT}); upgrade allelse")
    found = set(connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"))
    strange = {(str(kind), str(name)) for kind, name in found} - (KNOWN if version > 0 else set())
    if version < 0 or strange:
        what = ascii(" ".join(min(strange))[:60]) if strange else f"the format {version}"
        raise StoreError(f"{folder}: its {FILE} was not written by allelse: it holds {what}; give another folder")
    return version


def prepare(connection: sqlite3.Connection, version: int, *, tuning: bool) -> None:
    """Make the tables, or bring those of an earlier format up to date; within a transaction of the caller."""
    if version == 0:
        for statement in (*TABLES, DETAILS_TABLE):
            connection.execute(statement)
    if version == 1:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN seal TEXT")
        connection.execute(DETAILS_TABLE)
        for table in set(tables) - {"meta"}:
            stored = f"SELECT id FROM {table} WHERE result IS NOT NULL"  # noqa: S608
            for (run,) in connection.execute(stored).fetchall():  # one by one: a store may be larger than memory
                result, details = parted(connection.execute(f"SELECT result FROM {table} WHERE id = ?", (run,)).fetchone()[0])  # noqa: S608
                connection.execute(f"UPDATE {table} SET result = ? WHERE id = ?", (result, run))  # noqa: S608
                put_details(connection, run, details)
        for table in tables:
            connection.execute(f"UPDATE {table} SET seal = {META_SEAL if table == 'meta' else RUN_SEAL}")  # noqa: S608
    if version < FORMAT:
        connection.execute(f"PRAGMA user_version = {FORMAT}")
    if tuning:
        connection.execute(TUNING_TABLE)


def parted(text: str) -> tuple[str, str]:
    """A whole result as JSON, in its two texts: without its details, and they."""
    try:
        value = json.loads(text)
        details = {key: value.pop(key) for key in DETAILS if key in value}
    except (ValueError, TypeError, AttributeError, RecursionError):  # damaged, which its reader will say
        return text, "{}"
    return canonical_json(value), canonical_json(details)


def put_details(connection: sqlite3.Connection, run: str, details: str) -> None:
    """Store the details of a run in place of those before."""
    connection.execute("INSERT OR REPLACE INTO details VALUES (?1, ?2, seal(?1, ?2))", (run, details))
