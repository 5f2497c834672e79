"""The soak: a kind of command and a number of kills in; studies that are struck until they end, and what differed, out."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import studies
from .checks import Watch, differences, stored
from .strikes import PATIENCE, Command, allelse, at_work, draw

KINDS = {"local": (), "workers": ("--workers", "2"), "ray": ("--engine", "ray", "--workers", "2")}
"""options by kind"""
MOST_STRIKES_ON_WORKERS = 2
"""of one command: a pack that is lost a third time is given up"""
SECONDS_TO_END = 30.0
"""for what is left of a command that was killed"""


@dataclass
class Tally:
    """What came of one kind."""

    studies: int = 0
    commands: int = 0
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    """by whom and phase"""
    resumes: int = 0
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0
    longest_end: float = 0.0
    """seconds until all that a killed command had begun was gone"""


@dataclass(frozen=True)
class Undisturbed:
    """A study that nobody disturbed."""

    out: Path
    seconds: float
    report_seconds: float
    runs: Mapping[str, str]


def folder_of(base: Path, kind: str, name: str) -> Path:
    """An output folder. All have one name, which their reports show, and are given by it."""
    return base / f"{kind}-{name}" / "out"


class Soak:
    """Strikes studies with one kind of command, one study after the other."""

    def __init__(
        self, base: Path, kind: str, files: Mapping[str, Path], options: tuple[str, ...] = (), device: str = "cpu"
    ) -> None:
        """
        Arguments:
            base: a folder for all of it.
            files: the studies, which stand in it.
            options: of the command, beside those of its kind.
            device: where to train.
        """
        self.base, self.kind, self.files, self.options = base, kind, dict(files), (*KINDS[kind], "--device", device, *options)
        self.tally = Tally()
        self.undisturbed: dict[str, Undisturbed] = {}

    def begin(self, name: str, out: Path) -> Command:
        self.tally.commands += 1
        out.parent.mkdir(exist_ok=True)
        words = allelse("run", self.files[name], "--out", out.name, *self.options)
        # Speeds are measured anew for each study; matplotlib's list of fonts is made once.
        caches = {"XDG_CACHE_HOME": str(out.parent / "cache"), "MPLCONFIGDIR": str(self.base / "matplotlib")}
        return Command(words, out, {**caches, "OMP_NUM_THREADS": "1"}, self.base / f"{self.kind}-{self.tally.commands}")

    def leave_alone(self, name: str, expected: Path | None = None) -> Path:
        """Run a study once to its end; it must give what is ``expected``, if anything."""
        out = folder_of(self.base, self.kind, name)
        command = self.begin(name, out)
        with command.killed_where_it_fails():
            command.wait(600, command.is_reporting)
            at = time.monotonic()
            command.wait(600)
        seconds, report_seconds = time.monotonic() - command.begun, time.monotonic() - at
        if command.process.poll() != 0:
            command.kill()
            raise RuntimeError(f"{' '.join(command.words)}: {command.said.read_text()}")
        self.undisturbed[name] = Undisturbed(out, seconds, report_seconds, stored(out)["runs"])
        if expected is not None:
            self._differ(f"undisturbed {name}", differences(out, expected, lost=0))
        self._tell(f"{name}, undisturbed: {seconds:.1f} s")
        return out

    def strike(self, kills: int, seed: int, end: float = float("inf")) -> None:
        """Kill so often, in as many studies as that takes; none is begun or killed after ``end`` (of ``time.monotonic``)."""
        begun, done = time.monotonic(), 0
        while done < kills and time.monotonic() < end:
            self.tally.studies += 1
            rng = random.Random(f"{seed} {self.kind} {self.tally.studies}")
            name = rng.choice(sorted(self.files))
            done += _Struck(self, name, rng, kills, done, end).run()
        self.tally.seconds += time.monotonic() - begun

    def _differ(self, where: str, found: Iterable[str]) -> bool:
        fresh = [f"{self.kind} {where}: {what}" for what in found]
        self.tally.differences += fresh
        for what in fresh:
            print(f"DIFFERENCE {what}", flush=True)
        return bool(fresh)

    def _tell(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {self.kind}: {text}", flush=True)


class _Struck:
    """One study that is struck until it ends, or the kills are used up."""

    def __init__(self, soak: Soak, name: str, rng: random.Random, kills: int, before: int, end: float) -> None:
        self.soak, self.name, self.rng, self.kills, self.before, self.end = soak, name, rng, kills, before, end
        self.tally, self.where = soak.tally, f"study {soak.tally.studies} ({name})"
        self.out = folder_of(soak.base, soak.kind, f"study-{soak.tally.studies}")
        self.alone = soak.undisturbed[name]
        self.watch = Watch(self.out, self.alone.runs)
        self.done = self.lost = 0
        self.commands: list[Command] = []

    def run(self) -> int:
        """How many kills it took."""
        resumes = studies.resumes(self.soak.base)
        fine = True
        while True:
            command = self.soak.begin(self.name, self.out)
            self.commands.append(command)
            with command.killed_where_it_fails():
                if not self._until_killed(command):
                    fine &= self._ended_well(command) and self._nothing_is_left()
                    break
                if self.rng.random() < 0.5:  # else the next one begins while what is left is still ending itself
                    fine &= self._nothing_is_left()
        if fine:
            fine = not self.soak._differ(self.where, differences(self.out, self.alone.out, lost=self.lost))
        resumes = studies.resumes(self.soak.base) - resumes
        self.tally.resumes += resumes
        said = "as undisturbed" if fine else f"ANOTHER ONE, kept in {self.out.parent.name}"
        self.soak._tell(f"{self.where}: {len(self.commands)} commands, {self.done} kills, {resumes} resumes: {said}")
        if fine:
            shutil.rmtree(self.out.parent)
            for each in self.commands:
                each.forget()
        return self.done

    def _until_killed(self, command: Command) -> bool:
        """Strike until the command is gone; False where it ended by itself, or may do so."""
        on_workers = 0
        while self.before + self.done < self.kills and time.monotonic() < self.end:
            strike = draw(self.rng, self.soak.kind)
            whom = "all" if strike.whom == "worker" and on_workers == MOST_STRIKES_ON_WORKERS else strike.whom
            goes_on = len(self.commands) > 1
            if not command.wait_for(strike, self.alone.seconds, self.alone.report_seconds, goes_on=goes_on):
                return False
            if whom == "worker" and not command.wait(PATIENCE * self.alone.seconds, lambda: bool(command.workers())):
                return False
            phase = command.strike(whom)
            self.done += 1
            self.tally.kills[whom, phase] += 1
            self.soak._differ(self.where, self.watch.look())
            self.soak._tell(
                f"kill {self.before + self.done} of {self.kills}, {self.where}: {whom} after "
                f"{time.monotonic() - command.begun:.2f} s, {phase}; {len(self.watch.finished)} runs finished"
            )
            if whom != "worker":
                return True
            on_workers, self.lost = on_workers + 1, self.lost + 1
        return False

    def _ended_well(self, command: Command) -> bool:
        command.wait(PATIENCE * self.alone.seconds)
        code = command.process.poll()
        if code is None:
            command.kill()
        if code != 0:
            last = command.said.read_text().strip()[-1000:]
            self.soak._differ(self.where, [f"the command {'hangs' if code is None else f'ended with {code}'}: {last}"])
        return code == 0

    def _nothing_is_left(self) -> bool:
        begun = time.monotonic()
        while left := [one for command in self.commands if command.process.poll() is not None for one in at_work(command)]:
            if time.monotonic() - begun > SECONDS_TO_END:
                self.soak._differ(self.where, [f"processes are left over: {left}"])
                for command in self.commands:
                    command.kill()
                return False
            time.sleep(0.05)
        self.tally.longest_end = max(self.tally.longest_end, time.monotonic() - begun)
        return True
