"""The journal of a launch: a watcher in; one that passes everything on to it, and keeps the study's journal beside, out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from allelse import progress, store
from allelse.design import arm_text
from allelse.engine import Progress
from allelse.launch.watcher import ShowsTimeLeft, Watcher
from allelse.plan import Plan, PlannedPack

SECONDS_BETWEEN_WRITES = 1.0

log = logging.getLogger("allelse")


class Journalled:
    """A ``Watcher`` around another one. What it writes is for whoever looks from elsewhere; nothing depends on it."""

    def __init__(self, opened: store.Store, watcher: Watcher, options: Sequence[str] = ()) -> None:
        """
        Arguments:
            opened: the store that is written to.
            watcher: who is told, too.
            options: of the command that goes on, beside study and folder.
        """
        self.opened = opened
        self.watcher = watcher
        self.options = tuple(options)
        self.is_stopped = False
        """whether the study was to stop at a failure"""
        self.part = "comparison"
        self.total = self.done = 0.0
        self.time_left = progress.TimeLeft({}, time.monotonic())
        self.training: dict[str, progress.Training] = {}
        self.written = float("-inf")

    def __enter__(self) -> Journalled:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.total or kind is None:
            self._write(ended=kind is None and not self.is_stopped)

    def say(self, text: str) -> None:
        if text.startswith("warning: "):
            log.warning(text.removeprefix("warning: "))
        self.watcher.say(text)

    def start(self, plan: Plan, done: float) -> None:
        tunes = self.opened.tuning_part is not None and self.opened.tuning is None
        part = self.opened.tuning_part if tunes else self.opened
        assert part is not None
        status_from_run = part.status_from_run()
        pending = [planned for planned in plan.packs if not is_final(planned, status_from_run)]
        self.part = "tuning" if tunes else "comparison"
        self.total, self.done = plan.seconds, done
        self.time_left = progress.TimeLeft({one.pack.id: (one.seconds, kind_of(one)) for one in pending}, time.monotonic())
        self.training.clear()
        self.watcher.start(plan, done)
        self._write()

    def at(self, planned: PlannedPack, now: Progress) -> None:
        """One pack's own progress, before ``advance`` tells of it in seconds."""
        pack = planned.pack
        over = now.doing in ("failed", "lost") or now.share >= 1
        self.time_left.at(pack.id, planned.seconds, now.share, now.doing, now.evaluation, time.monotonic())
        if over:
            self.training.pop(pack.id, None)
        else:
            self.training[pack.id] = progress.Training(arm_of(planned), len(pack.runs), now.share, now.epoch, now.epochs)

    def advance(self, seconds: float) -> None:
        self.done += seconds
        now = time.monotonic()
        if now - self.written >= SECONDS_BETWEEN_WRITES:
            if isinstance(self.watcher, ShowsTimeLeft):
                self.watcher.left(self.time_left.seconds(now))
            self._write()
        self.watcher.advance(seconds)

    def _write(self, *, ended: bool = False) -> None:
        self.written = time.monotonic()
        progress.write(
            self.opened.folder,
            progress.Journal(
                written=time.time(),
                part=self.part,
                share=min(max(self.done / self.total, 0.0), 1.0) if self.total else float(ended),
                seconds_left=0.0 if ended else self.time_left.seconds(self.written),
                training=tuple(self.training.values()),
                options=self.options,
                ended=ended,
            ),
        )


def is_final(planned: PlannedPack, status_from_run: Mapping[str, str]) -> bool:
    """Whether all runs of a pack are stored, and none is to be tried again."""
    return all(status_from_run.get(run.id) in store.FINAL for run in planned.pack.runs)


def arm_of(planned: PlannedPack) -> str:
    """The first arm of a pack, in words."""
    return arm_text(dict(planned.pack.runs[0].arm)) or "the only arm"


def kind_of(planned: PlannedPack) -> str:
    """Packs that are planned to take as long a run do the same work, or nearly so."""
    return f"{planned.seconds / len(planned.pack.runs):.3g} {planned.pack.way}"
