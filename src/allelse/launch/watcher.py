"""Who wants to know how a study goes on: told of what happens, asked nothing."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from allelse.plan import Plan


class Watcher(Protocol):
    """What wants to know how a study goes on: a progress bar, a notebook, a test."""

    def say(self, text: str) -> None:
        """One line about what is happening now."""

    def start(self, plan: Plan, done: float) -> None:
        """Training begins; ``done`` of ``plan.seconds`` were stored before."""

    def advance(self, seconds: float) -> None:
        """Work that the plan estimated at so many seconds is done, by all workers together."""


@runtime_checkable
class ShowsTimeLeft(Protocol):
    """A watcher that wants to know the time left, too."""

    def left(self, seconds: float) -> None:
        """So many seconds from now until all that is planned is done."""
