"""The progress of a whole study on one screen: plan seconds in; a bar with the time left, or plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from allelse.cli.console import Terminal
from allelse.cli.streams import discard
from allelse.errors import counted

if TYPE_CHECKING:
    from allelse.plan import Plan  # brings torch along

SECONDS_BETWEEN_LINES = 30.0


def duration(seconds: float) -> str:
    """'45 s', '3 min', '2 h 05 min', '3 d 4 h'."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def time_of(plan: Plan, word: str) -> str:
    """``about 2 h``, without what cannot take a step here."""
    unknown = sum(len(planned.pack.runs) for planned in plan.packs if not planned.images_per_second)
    if unknown == sum(len(planned.pack.runs) for planned in plan.packs):
        return "their time is not known"
    besides = f", and {counted(unknown, 'run')} that cannot be trained here" if unknown else ""
    return f"{word} {duration(plan.seconds)}{besides}"


def left_text(seconds: float) -> str:
    return f"about {duration(seconds)} left"


@contextmanager
def _lost_without_harm() -> Iterator[None]:
    """A full disk, a reader that left, a terminal that was closed: that stops no training."""
    try:
        yield
    except OSError:
        discard(2)


class Screen:
    """A ``launch.Watcher`` on stderr."""

    def __init__(self) -> None:
        self.console = Terminal(stderr=True)
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.total = self.done = 0.0
        self.begun = self.last_line = 0.0
        self.seconds_left: float | None = None

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            with _lost_without_harm():
                self.bar.stop()

    def say(self, text: str) -> None:
        with _lost_without_harm():
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, plan: Plan, done: float) -> None:
        self.total, self.done = plan.seconds, done
        self.begun = self.last_line = time.monotonic()
        self.seconds_left = None
        runs = sum(len(planned.pack.runs) for planned in plan.packs)
        went_on = f", {done / plan.seconds:.0%} of it stored before" if done else ""
        in_packs = f"{counted(runs, 'run')} in {counted(len(plan.packs), 'pack')}"
        self.say(f"{in_packs}, {time_of(plan, 'estimated')}{went_on}")
        if self.bar:  # that of the tuning runs, which are another plan
            with _lost_without_harm():
                self.bar.stop()
            self.bar = None
        if self.console.is_terminal and done < plan.seconds:
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
                console=self.console,
            )
            self.task = self.bar.add_task("training", total=plan.seconds, left=left_text(plan.seconds - done))
            self.bar.update(self.task, completed=done)
            with _lost_without_harm():
                self.bar.start()

    def left(self, seconds: float) -> None:
        """So many seconds from now, by what has passed so far."""
        self.seconds_left = seconds
        if self.bar:
            self.bar.update(self.task, left=left_text(seconds))

    def advance(self, seconds: float) -> None:
        self.done += seconds
        if self.bar:
            self.bar.update(self.task, completed=self.done)
        elif time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            spent = self.last_line - self.begun
            left = f", {left_text(self.seconds_left)}" if self.seconds_left is not None else ""
            share = f"{self.done / self.total:4.0%} done, " if self.total else ""  # none where nothing could be measured
            self.say(f"{share}{duration(spent)} spent{left}")
