"""Comparisons: published figures and the table of runs in; ours beside theirs, with a test that respects both spreads, out.

Of theirs only mean, standard deviation and n are known, and their seeds are not ours, so nothing is paired. The test is Welch's
(1947, Biometrika 34) from these summaries: t = (ours − theirs) / √(s₁²/n₁ + s₂²/n₂), with Satterthwaite's degrees of freedom.
n counts seeds, on both sides. Holm corrects over the references that can be tested; one that could be, but for a seed of ours
that diverged, failed or is pending, counts as p = 1, so that a lost run makes no other reference easier.

- *differs*: the adjusted p is at most α.
- *agrees within X*: the 1 − α interval of ours − theirs holds 0, and X is its end farther from 0: the larger, the weaker.
- *cannot tell*: all else; the reason says why.

Where their spread is not known there is no test. As an aid stands then the 1 − α prediction interval: where the mean of as many
new runs of ours as theirs are (one, where their n is not known) would lie. It takes their spread to be ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import special

from allelse.design import matches
from allelse.errors import StudyError
from allelse.stats.effects import spread
from allelse.stats.runs import Runs
from allelse.stats.sentences import number, p_text, seeds_lost
from allelse.stats.verdicts import holm

Ruling = Literal["agrees", "differs", "cannot tell"]


@dataclass(frozen=True)
class Summary:
    """What is known of one arm on one side."""

    mean: float | None
    sd: float | None
    """over seeds, with n − 1"""
    n: int | None
    """seeds; None where it was not published"""


@dataclass(frozen=True)
class Comparison:
    """One published figure beside one arm of ours; figures in the metric's unit."""

    source: str
    arm: Mapping[str, Any]
    """our arm; the reference's own levels where this run has no such arm"""
    metric: str
    theirs: Summary
    ours: Summary
    problems: Mapping[str, int]
    """seeds of ours that ``diverged``, ``failed`` or are ``pending``"""
    note: str | None = None
    difference: float | None = None
    """ours − theirs"""
    low: float | None = None
    high: float | None = None
    """ends of the interval of the difference, uncorrected; None where it is not tested"""
    level: float = 0.95
    p: float | None = None
    p_adjusted: float | None = None
    """p after Holm over the references that can be tested"""
    prediction_low: float | None = None
    prediction_high: float | None = None
    """where new runs of ours would lie; None where there is a test"""
    verdict: Ruling = "cannot tell"
    within: float | None = None
    """of ``agrees``: the interval's end that is farther from 0"""
    reason: str | None = None
    """why it cannot be told"""

    @property
    def is_expected(self) -> bool | None:
        """Whether theirs lies in the prediction interval; None without one."""
        if self.prediction_low is None or self.prediction_high is None or self.theirs.mean is None:
            return None
        return self.prediction_low <= self.theirs.mean <= self.prediction_high

    @property
    def words(self) -> str:
        """The verdict as people read it: ``agrees within 1.20``."""
        return self.verdict + (f" within {number(self.within, self.metric)}" if self.within is not None else "")

    def to_json(self) -> dict[str, Any]:
        """Plain values, one level deep but for ``arm``."""
        row = asdict(self)
        for side in ("theirs", "ours"):
            row |= {f"{side}_{key}": value for key, value in row.pop(side).items()}
        problems = row.pop("problems")
        names = ("source", "arm", "metric", "theirs_mean", "theirs_sd", "theirs_n", "ours_mean", "ours_sd", "ours_n")
        first = {name: row.pop(name) for name in names}
        return {**first, **{name: problems.get(name, 0) for name in ("diverged", "failed", "pending")}, **row}


def welch(
    mean1: float, sd1: float, n1: int, mean2: float, sd2: float, n2: int, level: float = 0.95
) -> tuple[float, float, float] | None:
    """Welch's t from two summaries with n ≥ 2, as ``scipy.stats.ttest_ind_from_stats(equal_var=False)``.

    Returns:
        (low, high) of the interval of the first mean minus the second at ``level``, and the two-sided p; None where neither
        side varies.
    """
    first, second = sd1**2 / n1, sd2**2 / n2
    if first + second == 0:
        return None
    freedom = (first + second) ** 2 / (first**2 / (n1 - 1) + second**2 / (n2 - 1))
    difference, error = mean1 - mean2, sqrt(first + second)
    half = float(special.stdtrit(freedom, (1 + level) / 2)) * error
    return difference - half, difference + half, 2 * float(special.stdtr(freedom, -abs(difference) / error))


def prediction(mean: float, sd: float, n: int, runs: int, level: float = 0.95) -> tuple[float, float]:
    """Where the mean of so many new runs would lie, from n ≥ 2: mean ± t · s · √(1/n + 1/runs), n − 1 degrees of freedom."""
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * sd * sqrt(1 / n + 1 / runs)
    return mean - half, mean + half


def compare(
    references: Sequence[Mapping[str, Any]],
    arms: Sequence[Mapping[str, Any]],
    table: pd.DataFrame,
    alpha: float = 0.05,
    why_not: str | None = None,
) -> list[Comparison]:
    """Put every reference beside each of our arms that it speaks of.

    Arguments:
        references: as ``Study.definition`` keeps them.
        arms: the levels of every arm of this run; a reference without one among them is told as such.
        table: one row a run: factor columns, ``seed``, ``status``, metrics; empty while nothing is planned.
        alpha: how often any *differs* may be wrong, over all references.
        why_not: why no reference may be compared with this run at all, as with a quick study; None where they may.

    Returns:
        references in their order, each with its arms in theirs.
    """
    runs = None if table.empty else Runs(table, list(dict.fromkeys(factor for arm in arms for factor in arm)))
    found = []
    for reference in references:
        named: list[Mapping[str, Any] | None] = [arm for arm in arms if matches(reference["arm"], arm)]
        for arm in named or [None]:
            found.append(_beside(reference, arm, runs, 1 - alpha, why_not))
    family = [p for _, p in found if p is not None]
    adjusted = iter(holm(family))
    return [shown if p is None else _ruled(shown, next(adjusted), len(family), alpha) for shown, p in found]


def _beside(
    reference: Mapping[str, Any], arm: Mapping[str, Any] | None, runs: Runs | None, level: float, why_not: str | None
) -> tuple[Comparison, float | None]:
    """Their figure beside one arm of ours; and the p that it brings to the correction, where it belongs to it."""
    metric = reference.get("metric", "accuracy")
    published = float(reference["accuracy"])
    theirs = Summary(published, reference.get("sd"), reference.get("n"))
    shown = Comparison(
        source=str(reference["source"]),
        arm=dict(reference["arm"] if arm is None else arm),
        metric=metric,
        theirs=theirs,
        ours=Summary(None, None, 0),
        problems={},
        note=reference.get("note"),
        level=level,
    )
    why_not = why_not or _not_asked(arm, metric, runs)
    if why_not or arm is None or runs is None:
        return replace(shown, reason=why_not), None
    values, problems = runs.values(arm, metric)
    good = values[np.isfinite(values)]
    n, sd = len(good), spread(good)
    lost = f"of ours, {seeds_lost(problems, n + sum(problems.values()))}" if problems else ""
    lost = lost or ("ours is one seed, which has no spread" if n < 2 else "")
    if n:
        mean = float(good.mean())
        shown = replace(shown, ours=Summary(mean, sd if n > 1 else None, n), difference=mean - published)
    shown = replace(shown, problems=dict(problems), reason=lost or None)
    if theirs.n is None or theirs.n < 2 or theirs.sd is None:
        unknown = {None: "their n is not given", 1: "theirs is one run"}.get(theirs.n, "their sd is not given")
        low, high = (None, None) if lost else prediction(mean, sd, n, theirs.n or 1, level)
        return replace(shown, prediction_low=low, prediction_high=high, reason=f"{unknown}; {lost}".removesuffix("; ")), None
    if lost:
        return shown, 1.0
    if (tested := welch(mean, sd, n, published, theirs.sd, theirs.n, level)) is None:
        return replace(shown, reason="neither side varies over its seeds"), 1.0
    low, high, p = tested
    return replace(shown, low=low, high=high, p=p), p


def _not_asked(arm: Mapping[str, Any] | None, metric: str, runs: Runs | None) -> str | None:
    """Why what was run, however it came out, holds nothing to put beside."""
    if arm is None:
        return "this run has no such arm"
    if runs is None:
        return "no run is planned yet"
    try:
        runs.check_metric(metric, [arm])
    except StudyError:
        return f"no finished run of ours has the metric {metric!r}"
    return None


def _ruled(shown: Comparison, p_adjusted: float, family: int, alpha: float) -> Comparison:
    low, high = shown.low, shown.high
    if low is None or high is None:
        return shown
    shown = replace(shown, p_adjusted=p_adjusted)
    if p_adjusted <= alpha:
        return replace(shown, verdict="differs")
    if low <= 0 <= high:
        return replace(shown, verdict="agrees", within=max(-low, high))
    reason = (
        f"the interval alone would say that they differ, but not after correction over {family} references "
        f"(adjusted {p_text(p_adjusted)})"
    )
    return replace(shown, reason=reason)
