"""Time left: what a plan expected and what really passed, in; the seconds until its end, out. No clock of its own.

A plan's seconds come from a few steps that were timed on an idle moment; the estimate keeps their proportions and learns the
rest from what has passed: how much slower or faster training and evaluation each are, and each kind of pack; what a pack
costs beside them; and how many packs are at work at once. Only what this process sees counts, and what it saw long ago
counts less, because other load on the machine comes and goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

WORK = ("training", "evaluating")
PRIOR = 0.005
"""The plan itself weighs as much as this share of it, done at the planned pace."""
OWN = 0.02
"""How much of a pack must be done before its own pace counts as much as that of all packs."""
HALF_LIFE = 60.0
"""Seconds after which what was seen counts half, at least; a quarter of the time so far, when that is more."""


@dataclass
class Pace:
    """Real seconds beside planned ones, of one kind of work."""

    real: float = 0.0
    planned: float = 0.0

    def add(self, real: float, planned: float, fading: float = 1.0) -> None:
        self.real = self.real * fading + real
        self.planned = self.planned * fading + planned

    def over(self, prior: float, weight: float) -> float:
        """Real seconds a planned one, where ``prior`` was expected with so much ``weight`` in planned seconds."""
        total = self.planned + weight
        return (self.real + prior * weight) / total if total else prior


@dataclass
class Running:
    """A pack under way."""

    seconds: float
    """planned"""
    kind: str
    seen: float
    """when it was last heard of"""
    share: float = 0.0
    left: dict[str, float] = field(default_factory=dict)
    """planned seconds left, by what they go to"""
    paces: dict[str, Pace] = field(default_factory=lambda: {doing: Pace() for doing in WORK})


class TimeLeft:
    """Told of every step of progress, it says at any time how long the rest will take."""

    def __init__(self, packs: Mapping[str, tuple[float, str]], now: float) -> None:
        """
        Arguments:
            packs: that this process has to train: by id, the seconds that are planned for each, and what kind of work it is.
                Packs of one kind are expected to be off the plan alike.
            now: seconds of any steady clock, as in all that follows.
        """
        self.packs = dict(packs)
        """not begun"""
        self.ahead: defaultdict[str, float] = defaultdict(float)
        """planned seconds of those, by kind"""
        self.halves: list[str] = []
        """kinds of packs that were not planned, but cut from others; the next comes last"""
        for seconds, kind in packs.values():
            self.ahead[kind] += seconds
        self.begun = self.seen = now
        self.weight = PRIOR * sum(self.ahead.values())
        self.running: dict[str, Running] = {}
        self.paces = {doing: Pace() for doing in WORK}
        self.of_kind: dict[str, Pace] = {}
        """of finished packs, real seconds beside those at the pace of all packs then"""
        self.preparing: defaultdict[str, float] = defaultdict(float)
        """seconds, of each pack so far; the first of a process takes longer than all others, and is no measure for them"""
        self.evaluation = Pace()
        """planned seconds of evaluation beside all, of the packs so far"""
        self.busy = 0.0

    def at(self, pack: str, seconds: float, share: float, doing: str, evaluation: float, now: float) -> None:
        """Note the progress of one pack.

        Arguments:
            pack: its id.
            seconds: planned for all of it.
            share: of its planned work that is done, 0 to 1. What it begins with was done before.
            doing: what the time since its last report went to: ``preparing``, ``training``, ``evaluating``; or ``failed``,
                which ends it: with share 1 it is over, with share 0 two halves of it are still to be done; or ``lost``: it
                will be begun again.
            evaluation: which share of its planned work is evaluation.
            now: when.
        """
        one = self.running.get(pack)
        if one is None:
            halves = (seconds, self.halves.pop()) if self.halves and pack not in self.packs else (0.0, "")
            planned, kind = self.packs.pop(pack, halves)
            self.ahead[kind] -= planned
            one = self.running[pack] = Running(seconds, kind, now)
        passed, one.seen, self.seen = max(now - one.seen, 0.0), now, now
        self.busy += passed
        if doing == "preparing":
            if not one.left and evaluation:
                self.evaluation.add(seconds * evaluation, seconds)
            self.preparing[pack] += passed
            left = seconds * (1 - share)
            one.left = {"training": left * (1 - evaluation), "evaluating": left * evaluation}
        elif doing in WORK:
            self._learn(one, doing, passed, (share - one.share) * seconds)
        one.share = share
        if share >= 1 or doing in ("failed", "lost"):
            del self.running[pack]
            if doing == "lost":
                self.packs[pack] = seconds, one.kind
                self.ahead[one.kind] += seconds
            elif doing != "failed":
                expected = sum(pace.planned * self._pace(name) for name, pace in one.paces.items())
                self.of_kind.setdefault(one.kind, Pace()).add(sum(pace.real for pace in one.paces.values()), expected)
            elif share < 1:
                self.halves += [one.kind, one.kind]
                self.ahead[one.kind] += seconds

    def _learn(self, one: Running, doing: str, passed: float, done: float) -> None:
        fading = 0.5 ** (passed / max(HALF_LIFE, (self.seen - self.begun) / 4))
        for name, pace in self.paces.items():
            pace.add(passed if name == doing else 0.0, done if name == doing else 0.0, fading)
        one.paces[doing].add(passed, done)
        for name in (doing, *WORK):  # a report may tell of a little of the other work, too
            did = min(done, one.left.get(name, 0.0))
            one.left[name] = one.left.get(name, 0.0) - did
            done -= did

    def _pace(self, doing: str) -> float:
        training = self.paces["training"].over(1.0, self.weight)
        return training if doing == "training" else self.paces[doing].over(training, self.weight)

    def _off(self, kind: str) -> float:
        """How far off the pace of all packs this kind is."""
        return self.of_kind[kind].over(1.0, self.weight) if kind in self.of_kind else 1.0

    def seconds(self, now: float) -> float:
        """Real seconds from ``now`` until all is done."""
        pace = {doing: self._pace(doing) for doing in WORK}
        running = [
            sum(
                left * one.paces[doing].over(pace[doing] * self._off(one.kind), OWN * one.seconds)
                for doing, left in one.left.items()
            )
            for one in self.running.values()
        ]
        share = self.evaluation.over(0.0, 0.0)
        planned = sum(seconds * self._off(kind) for kind, seconds in self.ahead.items())
        ahead = planned * ((1 - share) * pace["training"] + share * pace["evaluating"])
        ahead += (len(self.packs) + len(self.halves)) * median([*self.preparing.values()][1:] or [0.0])
        passed = self.seen - self.begun
        at_once = self.busy / passed if self.busy and passed else 1.0
        left = max([(sum(running) + ahead) / at_once, *running])
        return max(left - max(now - self.seen, 0.0), 0.0)
