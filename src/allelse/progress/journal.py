"""The journal: what a study is doing now in; one small JSON file in its output folder out, and read back from there.

It is replaced as a whole, and nothing depends on it: one that is damaged, forged or of another version counts as none.
"""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE = "progress.json"
FORMAT = 1
MOST_BYTES = 100_000
LONGEST = 300
MOST_SHOWN = 16


@dataclass(frozen=True)
class Training:
    """A pack under way."""

    arm: str
    """in words; of its first run"""
    runs: int
    share: float
    """of its work that is done, 0 to 1"""
    epoch: int
    epochs: int


@dataclass(frozen=True)
class Journal:
    """How far a study was at a moment."""

    written: float
    """seconds since 1970, by the clock of the machine that wrote it"""
    part: str
    """what the plan under way is for: ``tuning`` or ``comparison``"""
    share: float
    """of that plan's work that is done, 0 to 1"""
    seconds_left: float
    training: Sequence[Training] = ()
    options: Sequence[str] = ()
    """words of the command that goes on, beside study and folder"""
    ended: bool = False
    """whether all was done"""


def write(folder: Path, journal: Journal) -> bool:
    """Replace the journal; whether it could be written. Never raises for the file system's sake."""
    partial = folder / f"{FILE}.partial"
    try:
        shown = {**asdict(journal), "training": [asdict(one) for one in journal.training[:MOST_SHOWN]]}
        partial.write_text(json.dumps({"format": FORMAT, **shown}), "utf-8")
        os.replace(partial, folder / FILE)
        return True
    except (OSError, ValueError):
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        return False


def read(folder: Path) -> Journal | None:
    """The journal of an output folder; ``None`` where there is none that can be trusted."""
    try:
        if not (folder / FILE).is_file():  # a pipe would wait for ever
            return None
        with (folder / FILE).open("rb") as opened:
            raw = opened.read(MOST_BYTES + 1)
        values = json.loads(raw) if len(raw) <= MOST_BYTES else None
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            return None
        return Journal(
            written=_number(values["written"]),
            part={"tuning": "tuning", "comparison": "comparison"}[values["part"]],
            share=_share(values["share"]),
            seconds_left=_number(values["seconds_left"]),
            training=tuple(_training(one) for one in values["training"][:MOST_SHOWN]),
            options=tuple(shown(word) for word in values["options"][:MOST_SHOWN]),
            ended=values["ended"] is True,
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def shown(text: object) -> str:
    """A text from elsewhere on one line, without what could move a terminal's cursor or turn its direction."""
    if not isinstance(text, str):
        raise TypeError("a text is asked for")
    plain = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text[: 4 * LONGEST])
    line = " ".join(plain.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _training(values: Any) -> Training:
    return Training(
        shown(values["arm"]), _count(values["runs"]), _share(values["share"]), _count(values["epoch"]), _count(values["epochs"])
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12 or not math.isfinite(value):
        raise ValueError("a number is out of range")
    return float(value)


def _share(value: Any) -> float:
    return min(_number(value), 1.0)


def _count(value: Any) -> int:
    return int(_number(value))
