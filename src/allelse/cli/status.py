"""How far a study is: an output folder in; a few lines, once or until the study ends or is stopped, out.

The store says what is finished, the journal what is under way, the lock who is at work, the log what went wrong.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from allelse import progress, store
from allelse.cli.console import make_console
from allelse.cli.progress import duration
from allelse.errors import StoreError, StudyError, counted, inert
from allelse.progress import Journal
from allelse.store import Store
from allelse.tuning import choose

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 30.0
SILENT = 120.0
"""Seconds without a word from the process that is at work, after which that is said."""
MOST_WARNINGS = 3
TAIL = 64_000
"""Bytes of the log that are looked through."""


@dataclass(frozen=True)
class Look:
    """What a look at the folder found."""

    name: str
    question: str
    counts: Mapping[str, int]
    tuning: Mapping[str, int] | None
    """the tuning runs by status, until their choice is made"""
    holder: str
    """the process that is at work, in words; empty when none is"""
    journal: Journal | None
    planned_seconds_left: float
    command: str
    warnings: tuple[str, ...]
    now: float
    dead_end: str
    """why the same command cannot go on; empty where it can"""

    @property
    def is_over(self) -> bool:
        """Whether all runs are finished; one that failed can be tried again."""
        return bool(self.counts) and not set(self.counts) & {"pending", "failed"}

    @property
    def seconds_left(self) -> float:
        """By what the process saw until it wrote its journal, if it did, with what is trained in part; else by the plan."""
        part = "comparison" if self.tuning is None else "tuning"
        if self.journal is None or self.journal.ended or self.journal.part != part:
            return self.planned_seconds_left
        if not self.holder and "failed" in (self.tuning or self.counts):  # the same command tries these again
            return self.planned_seconds_left
        passed = max(self.now - self.journal.written, 0.0) if self.holder else 0.0
        return max(self.journal.seconds_left - passed, 0.0)


def look(opened: Store) -> Look:
    """Look at an output folder; quick, however many runs it holds."""
    folder, definition, part = opened.folder, opened.definition, opened.tuning_part
    tunes = part is not None and opened.tuning is None
    left = _planned_seconds_left(opened) + (_planned_seconds_left(part) if part is not None else 0.0)
    journal = progress.read(folder)
    return Look(
        name=progress.shown(definition["name"]),
        question=progress.shown(definition["question"]),
        counts=opened.counts(),
        tuning=part.counts() if tunes and part is not None else None,
        holder=progress.shown(store.writer(folder) or ""),
        journal=journal,
        planned_seconds_left=left,
        command=command(definition, folder, journal),
        warnings=last_warnings(folder),
        now=time.time(),
        dead_end=_dead_end(definition, part) if tunes and part is not None else "",
    )


def command(definition: Mapping[str, object], folder: Path, journal: Journal | None) -> str:
    """The command that goes on. A folder may come from elsewhere: whatever its words are, each stays one word."""
    words = store.words_of(str(definition.get("command", "")))
    if words[:2] != ["allelse", "run"]:
        words = ["allelse", "run", "STUDY"]
    whole = [*words, *(journal.options if journal else ()), "--out", str(folder)]
    return shlex.join(inert(word).replace("\n", "\\n") for word in whole)


def last_warnings(folder: Path) -> tuple[str, ...]:
    """The last warnings and errors of the log, the newest last."""
    try:
        if not (folder / "allelse.log").is_file():  # a pipe would wait for ever
            return ()
        with (folder / "allelse.log").open("rb") as opened:
            opened.seek(max(opened.seek(0, 2) - TAIL, 0))
            lines = opened.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ()
    dated = [line for line in lines if re.match(r"\d{4}-\d\d-\d\d [\d:,]+ (WARNING|ERROR|CRITICAL)\b", line)]
    return tuple(progress.shown(line) for line in dated[-MOST_WARNINGS:])


def _planned_seconds_left(part: Store) -> float:
    """Of a plan's seconds, those of packs that are not finished."""
    packs = (part.plan or {"packs": []})["packs"]
    if not packs or not {"pending", "failed"} & set(part.counts()):
        return 0.0
    status_from_run = part.status_from_run()
    return sum(
        packed["seconds"] for packed in packs if any(status_from_run[run] in ("pending", "failed") for run in packed["runs"])
    )


def _dead_end(definition: Mapping[str, Any], part: Store) -> str:
    """What stands against a choice from tuning runs that are all finished."""
    counts = part.counts()
    if not counts or not set(counts) <= set(store.FINAL):
        return ""
    try:
        choose(definition["tune"], part.outcomes())  # without epochs, on which no choice depends
    except StudyError as error:
        return str(error)
    return ""


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────────────


def runs_text(counts: Mapping[str, int]) -> str:
    """'80 runs: 20 done, 60 pending'."""
    return f"{counted(sum(counts.values()), 'run')}: " + ", ".join(f"{count} {status}" for status, count in counts.items())


def state(seen: Look) -> list[str]:
    """Who is at work, on what, and how long it will take; or what goes on from here. No line when all is finished."""
    journal, lines = seen.journal, []
    if seen.holder:
        lines.append(f"{seen.holder} is at work on it")
        if journal and not journal.ended:
            lines += [f"  {line}" for line in under_way(seen, journal)]
    elif seen.is_over:
        return []
    elif journal and not journal.ended:
        lines.append(f"stopped {duration(max(seen.now - journal.written, 0.0))} ago, with {how_far(journal)}")
    after = ", and then the comparison" if seen.tuning is not None else ""
    if not seen.holder and seen.dead_end:
        lines.append(f"it cannot go on: {seen.dead_end}")
    elif not seen.holder and (seen.counts or seen.tuning):
        if seen.planned_seconds_left:
            left = duration(seen.seconds_left)
            lines.append(f"about {left} left on the device that it was planned on{after}; the same command goes on")
        lines.append(f"go on with: {seen.command}")
    elif seen.holder and journal and not journal.ended:
        lines.append(f"{how_far(journal)}, about {duration(seen.seconds_left)} left{after}")
    return lines


def how_far(journal: Journal) -> str:
    return f"{journal.share:.0%} {'of the tuning ' if journal.part == 'tuning' else ''}done"


def under_way(seen: Look, journal: Journal) -> list[str]:
    """One line a pack that is being trained."""
    lines = []
    for one in journal.training:
        epoch = f", epoch {min(one.epoch + 1, one.epochs)} of {one.epochs}" if one.epochs else ""
        runs = "1 run" if one.runs == 1 else f"{one.runs} runs at once"
        lines.append(f"training {one.arm}: {runs}{epoch}, {one.share:.0%}")
    if (silent := seen.now - journal.written) > SILENT:
        lines.append(f"its last word came {duration(silent)} ago")
    return lines


def show(opened: Store) -> None:
    """Everything, once."""
    console, seen = make_console(), look(opened)
    console.print(f"{seen.name}: {seen.question}", style="bold")
    if not seen.counts and not seen.tuning:
        by = f"{seen.holder} is measuring how to pack it" if seen.holder else "it was stopped while measuring; run it again"
        console.print(f"nothing is planned yet: {by}")
        return
    if opened.tuning_part is not None:
        from allelse.cli import tuning  # which brings scipy along

        tuning.show(console, opened)
    if seen.counts:
        console.print(runs_text(seen.counts))
    for line in state(seen):
        console.print(line, soft_wrap=line.startswith("go on with: "))
    outcomes = opened.outcomes()
    for line in store.pairing(outcomes):
        console.print(line)
    made = {run.result.provenance for run in outcomes if run.result and run.result.provenance}
    for device, precision in sorted({(one.device_text, one.precision) for one in made}):
        console.print(f"trained on {device} in {precision}")
    if seen.warnings:
        console.print(f"the last warnings in {opened.folder / 'allelse.log'}:", soft_wrap=True)
        for line in seen.warnings:
            console.print(f"  {line}")


# ── watching ────────────────────────────────────────────────────────────────────────────────────────────────────────


def watch(folder: Path, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show how far a study is until it ends or is stopped: on a terminal in one place, elsewhere as lines now and then.

    Raises:
        StoreError: no study was run there.
    """
    console = make_console()
    with store.read(folder):
        pass
    if console.is_terminal:
        _watch_terminal(folder, console, sleep)
    else:
        _watch_lines(folder, console, sleep)
    with store.read(folder) as opened:
        show(opened)


def _look(folder: Path) -> Look | None:
    """A look now; none where the folder cannot be read just now."""
    try:
        with store.read(folder) as opened:
            return look(opened)
    except StoreError:
        return None


def _watch_terminal(folder: Path, console: Console, sleep: Callable[[float], None]) -> None:
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while (seen := _look(folder)) and seen.holder:
            live.update(Text("\n".join(watched(seen))), refresh=True)
            sleep(SECONDS_BETWEEN_LOOKS)


def _watch_lines(folder: Path, console: Console, sleep: Callable[[float], None]) -> None:
    last = float("-inf")
    while (seen := _look(folder)) and seen.holder:
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            far = f"{how_far(seen.journal)}, about {duration(seen.seconds_left)} left, " if seen.journal else ""
            console.print(f"{time.strftime('%H:%M:%S')} {far}{runs_text(seen.tuning or seen.counts)}", soft_wrap=True)
        sleep(SECONDS_BETWEEN_LOOKS)


def watched(seen: Look) -> list[str]:
    """What a terminal shows, redrawn at every look."""
    lines = [f"{seen.name}: {seen.question}"]
    if seen.tuning is not None:
        lines.append(f"tuning before the comparison: {runs_text(seen.tuning)}")
    if seen.counts:
        lines.append(runs_text(seen.counts))
    return [*lines, *state(seen), *seen.warnings, "Ctrl-C ends watching, not the study"]
