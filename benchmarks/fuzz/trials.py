"""Trials: one input of one parser in; accepted, refused, or a fault, out. Each parser runs in a process of its own.

A fault is any exception but ``AllelseError``, a message of several lines or with control characters, more than ``SECONDS``, a
process that dies, a file written outside the case's own folder, and code that ran: a program started, a module imported that
lies there as bait, a network asked for.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from allelse.errors import AllelseError

SECONDS = 10
"""of computing, within which a parser answers"""
WAITING = 40
"""seconds by the clock, after which it waits for something that never comes"""
MEMORY = 2 << 30
"""bytes of addresses that a parser may take beyond what it has when it begins"""
LONGEST = 4_000
"""letters of a message"""

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""what a terminal or a reader may obey, without line breaks and tabs"""

BAIT = "open('canary-ran', 'w').close()\nclass Part:\n    pass\n"
PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn")
CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
)


class Fault(Exception):
    """A parser did what it must not; the text says what."""


class Hang(BaseException):
    """The time is up; no ``except Exception`` may swallow it."""


Try = Callable[[Random, Path], None]
"""One trial: makes an input from the generator, in the folder, which is also the working folder; returns where it was taken,
raises ``AllelseError`` where it was refused, ``Fault`` where what came of it is wrong. Its attribute ``may`` names kinds that
are no fault of it, such as the network where an address is what is asked for."""


@dataclass(frozen=True)
class Outcome:
    """What came of one input."""

    kind: str
    """``accepted``, ``refused``, or the kind of fault"""
    detail: str

    @property
    def is_fault(self) -> bool:
        return self.kind not in ("accepted", "refused")


class _Watch:
    """Sees, through Python's audit events, what is written and started while a trial runs."""

    def __init__(self) -> None:
        self.allowed: Path | None = None
        self.seen: list[str] = []
        self.installed = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event in PROGRAMS or event in ("socket.connect", "socket.getaddrinfo"):
            self._saw("code ran" if event in PROGRAMS else "network", f"{event} {arguments!r}"[:200])
            raise ConnectionError("no programs and no network in a trial")
        if event == "import" and arguments[0] in ("canary", "antigravity"):
            self._saw("code ran", f"import {arguments[0]}")
        elif event == "open" and (not isinstance(arguments[2], int) or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            self._check(arguments[0])
        elif event in CHANGES:
            self._check(arguments[event in ("os.rename", "os.symlink", "os.link")])

    def _check(self, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        whole = os.path.realpath(os.fsdecode(path))
        if not Path(whole).is_relative_to(self.allowed) and whole != "/dev/null":  # type: ignore[arg-type]
            self._saw("wrote outside", whole[:200])
            raise PermissionError(13, "no writing outside of a trial's folder", whole[:200])

    def _saw(self, kind: str, what: str) -> None:
        self.seen.append(f"{kind}: {what}")


_watch = _Watch()


@contextmanager
def watched(folder: Path, may: tuple[str, ...] = ()) -> Iterator[None]:
    """Raise ``Fault`` when something was written outside ``folder``, or code ran, but for kinds in ``may``."""
    if not _watch.installed:
        sys.addaudithook(_watch)
        _watch.installed = True
    _watch.seen = []
    _watch.allowed = folder.resolve()
    try:
        yield
    finally:
        _watch.allowed = None
        seen = [one for one in _watch.seen if one.partition(":")[0] not in may]
        if seen:
            raise Fault(seen[0])


def check_message(message: str) -> None:
    """Raise ``Fault`` unless a message is one line that no terminal obeys."""
    if "\n" in message:
        raise Fault("message: several lines")
    if found := CONTROL.search(message):
        raise Fault(f"message: control character {found[0]!r}")
    if not message.strip():
        raise Fault("message: empty")
    if len(message) > LONGEST:
        raise Fault(f"message: {len(message)} letters")


def trial(attempt: Try, rng: Random, folder: Path) -> Outcome:
    """Run one trial in ``folder``, which is empty and becomes the working folder."""
    before = os.getcwd()
    os.chdir(folder)

    begun, used = time.monotonic(), time.process_time()

    def stop(*_: object) -> None:
        waited, worked = time.monotonic() - begun, time.process_time() - used
        if worked < SECONDS and waited < WAITING:  # the machine may be busy with something else
            signal.alarm(2)
        else:
            raise Hang

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        try:
            with watched(folder, getattr(attempt, "may", ())):
                attempt(rng, folder)
        except AllelseError as error:
            check_message(str(error))
            return Outcome("refused", str(error)[:300])
        if (folder / "canary-ran").exists():
            raise Fault("code ran: the bait was imported")
    except Fault as fault:
        return Outcome(str(fault).partition(":")[0], str(fault)[:300])
    except Hang:
        return Outcome("hang", traceback.format_exc()[-1500:])
    except Exception as error:
        return Outcome("traceback", f"{type(error).__name__}: {error}"[:300] + "\n" + traceback.format_exc()[-1500:])
    finally:
        signal.alarm(0)
        os.chdir(before)
    return Outcome("accepted", "")


def generator(seed: int, parser: str, number: int) -> Random:
    return Random(f"{seed}/{parser}/{number}")


def run_slice(parser: str, attempt: Try, seed: int, numbers: range) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of some inputs of one parser, in a process that is begun anew where it dies or no longer answers."""
    left = list(numbers)
    while left:
        for number, outcome in _in_child(parser, attempt, seed, list(left)):
            left.remove(number)
            yield number, outcome


def _in_child(parser: str, attempt: Try, seed: int, numbers: list[int]) -> Iterator[tuple[int, Outcome]]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            _limit_memory()
            _answer(parser, attempt, seed, numbers, writing)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    done, rest = 0, b""
    try:
        while done < len(numbers):
            ready, _, _ = select.select([reading], [], [], 3 * WAITING)
            chunk = os.read(reading, 1 << 16) if ready else b""
            if not chunk:
                yield numbers[done], Outcome("died" if ready else "hang", "the process was killed, or did not answer")
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield numbers[done], Outcome(*json.loads(line))
                done += 1
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


def _answer(parser: str, attempt: Try, seed: int, numbers: list[int], writing: int) -> None:
    base = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
    try:
        for number in numbers:
            folder = base / "case"
            folder.mkdir()
            outcome = trial(attempt, generator(seed, parser, number), folder)
            os.write(writing, json.dumps([outcome.kind, outcome.detail]).encode() + b"\n")
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)
