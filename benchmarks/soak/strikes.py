"""Strikes: a random number generator in; processes that are killed at moments that it draws, and what was under way, out."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import allelse as ours

PHASES = ("starting", "planning", "training", "saving a checkpoint", "storing", "report")


@dataclass(frozen=True)
class Strike:
    """Whom to kill, and when."""

    whom: str
    """``all`` processes of the command at once, the ``parent`` that was begun, or a ``worker`` of it"""
    when: str
    """``any`` moment of the command's life; or, in the ``saving``, ``storing`` or ``report`` phase, aimed at"""
    share: float
    """of that life or phase that passes first, 0 to 1"""
    skipped: int
    """moments of that phase that pass first, where there are several"""


PLACES = os.pathsep.join(filter(None, (str(Path(ours.__file__).parents[1]), os.environ.get("PYTHONPATH"))))
HERE = {"PYTHONPATH": PLACES, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
"""the same allelse for all, and what it needs"""
PATIENCE = 20
"""A command that takes so many times longer than undisturbed hangs."""
SHARE_OF_WHAT_GOES_ON = 0.6
"""about how long a command takes that goes on, of an undisturbed one"""
CHANCES_OF_WHOM = {"local": {"all": 1}, "workers": {"all": 2, "parent": 1, "worker": 1}, "ray": {"all": 3, "worker": 1}}
CHANCES_OF_WHEN = {"any": 10, "saving": 4, "storing": 4, "report": 1}


def draw(rng: random.Random, kind: str) -> Strike:
    whom = rng.choices(*zip(*CHANCES_OF_WHOM[kind].items(), strict=True))[0]
    when = rng.choices(*zip(*CHANCES_OF_WHEN.items(), strict=True))[0]
    strike = Strike(whom, when, rng.random(), rng.randrange(24))
    if whom == "worker" and when in ("storing", "report"):  # no work for a worker
        return Strike(whom, "any", strike.share, strike.skipped)
    return strike


class Command:
    """A command that was begun, in a session of its own: one signal reaches all of its processes at once."""

    def __init__(self, words: Sequence[object], out: Path, environment: Mapping[str, str], said: Path) -> None:
        """
        Arguments:
            words: the command.
            out: the output folder that it writes to; it is begun in the folder around it.
            environment: what it has beside this process's.
            said: a file for what it prints.
        """
        self.words, self.out = [str(word) for word in words], out
        self.shown, self.said = said.with_suffix(".out"), said.with_suffix(".err")
        self.begun = time.monotonic()
        self.left = halves(out)
        """half-written checkpoints of those that were killed before"""
        with self.shown.open("wb") as shown, self.said.open("wb") as complained:
            self.process = subprocess.Popen(
                self.words,
                stdin=subprocess.DEVNULL,
                stdout=shown,
                stderr=complained,
                cwd=out.parent,
                env={**os.environ, **HERE, **environment},
                start_new_session=True,
            )

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False, interval: float = 0.01) -> bool:
        """Until something is so; False where the command ends before, or the time is up."""
        last = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < last:
            if until():
                return True
            time.sleep(interval)
        return False

    def wait_for(self, strike: Strike, seconds: float, report_seconds: float, *, goes_on: bool) -> bool:
        """Until the moment of ``strike``; False where it ended before.

        Arguments:
            seconds: that an undisturbed command takes.
            report_seconds: the last part of them.
            goes_on: whether it goes on with a study that was begun before, and so is shorter.
        """
        long = PATIENCE * seconds
        if strike.when == "report":
            self.wait(long, self.is_reporting)
            self.wait(strike.share * report_seconds)
        elif strike.when == "any":
            self.wait(strike.share * seconds * (SHARE_OF_WHAT_GOES_ON if goes_on else 1))
        else:
            sought = self.is_saving if strike.when == "saving" else self.is_storing
            for _ in range(strike.skipped if strike.when == "saving" else strike.skipped % (2 if goes_on else 4)):
                self.wait(long, sought, 0.0005)
                self.wait(long, lambda: not sought(), 0.0005)
            self.wait(long, sought, 0.0005)
        return self.process.poll() is None

    def strike(self, whom: str) -> str:
        """Kill; the phase that it was in, as far as what is left tells."""
        if whom == "worker":
            for worker in (self.saving() or self.workers())[-1:]:
                _kill(worker)
        elif whom == "parent":
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        if whom != "worker":
            self.process.wait()
        phase = self.phase()
        self.left = halves(self.out)
        return phase

    def phase(self) -> str:
        if self.is_reporting():
            return "report"
        if not self.has_folder():
            return "starting"
        if self.is_storing():
            return "storing"
        if self.is_saving():
            return "saving a checkpoint"
        return "training" if self.is_planned() else "planning"

    def is_saving(self) -> bool:
        return bool(halves(self.out) - self.left)

    def is_storing(self) -> bool:
        return os.path.exists(self.out / "study.sqlite-journal")

    def is_reporting(self) -> bool:
        """Whether all is trained: then results are printed, and the report is written."""
        return "95 % interval" in self.shown.read_text(errors="replace")  # Ray prints there too, of workers that died

    def is_planned(self) -> bool:
        """Whether this very process has said how many packs there are, and measures no other ones."""
        told = self.said.read_text(errors="replace")
        return told.rfind(" packs, estimated") > told.rfind("measuring how to pack")

    def has_folder(self) -> bool:
        """Whether this very process has written its name into the folder as its holder."""
        try:
            return bool(json.loads((self.out / "holder.json").read_text())["process"] == self.process.pid)
        except (OSError, ValueError):
            return False

    def workers(self) -> list[int]:
        """The processes that train for it, the one that was begun last at the end."""
        if "ray" in self.words:
            return [one for one in tasks() if words_of(one).startswith("ray::_train")]
        return [one for one in session(self.process.pid) if "spawn_main" in words_of(one)]

    def saving(self) -> list[int]:
        """Those workers that save a checkpoint now: its name, as long as it is half-written, says who does."""
        named = [int(name.split(".")[-2]) for name in halves(self.out) - self.left]
        return [one for one in named if words_of(one).startswith("ray::_train") or "spawn_main" in words_of(one)]

    @contextmanager
    def killed_where_it_fails(self) -> Iterator[None]:
        """It has a session of its own, so that Ctrl-C does not reach it."""
        try:
            yield
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it, where a test is given up; what each process was at is told in what it said."""
        for process in session(self.process.pid):
            _kill(process, signal.SIGABRT)
        self.wait(5)
        for process in {self.process.pid, *at_work(self)}:
            _kill(process)
        self.process.wait()

    def forget(self) -> None:
        self.shown.unlink()
        self.said.unlink()


def _kill(process: int, how: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, how)


def halves(out: Path) -> set[str]:
    """Checkpoints that are half-written; quick, as it is asked thousands of times."""
    try:
        return {name for name in os.listdir(out / "checkpoints") if name.endswith(".partial")}
    except OSError:
        return set()


# ── what runs ───────────────────────────────────────────────────────────────────────────────────────────────────────


def session(leader: int) -> list[int]:
    """Every process of the session that ``leader`` began, that has not ended."""
    return [process for process, (state, _, of) in _processes() if of == leader and state not in "ZX"]


def descendants(ancestor: int) -> list[int]:
    """Every process that came of ``ancestor``."""
    parent_from_process = {process: parent for process, (state, parent, _) in _processes() if state not in "ZX"}
    known: set[int] = set()
    while more := {one for one, parent in parent_from_process.items() if parent in known | {ancestor}} - known:
        known |= more
    return sorted(known)


def tasks() -> list[int]:
    """Processes of a Ray cluster below this process that carry out something of allelse, whose functions there begin so."""
    return [one for one in descendants(os.getpid()) if words_of(one).startswith("ray::_")]


def at_work(command: Command) -> list[int]:
    """Every process that a command began and that is still there."""
    return session(command.process.pid) + (tasks() if "ray" in command.words else [])


def words_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _processes() -> Iterator[tuple[int, tuple[str, int, int]]]:
    """Each with its state, its parent and its session."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                state, parent, _, of = Path(f"/proc/{entry.name}/stat").read_text().rpartition(")")[2].split()[:4]
            except (OSError, ValueError):
                continue
            yield int(entry.name), (state, int(parent), int(of))


def allelse(*words: object) -> list[object]:
    return [sys.executable, "-m", "allelse", *words]
