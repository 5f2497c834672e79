"""Verdicts: claims and the table of runs in; supported, refuted or undecided out, each with its numbers and its sentence.

The rule, from the smallest piece up, at level α:

1. *One contrast* (``contrasts``) has two p-values from Student's t over seeds. ``above`` (the mean lies past the margin): twice
   the one-sided p on each side, so that a verdict is a two-sided test, and the 1 − α interval lies wholly on one side.
   ``within``: p_support is the larger of two one-sided p's (TOST, Schuirmann 1987), and the 1 − 2α interval lies wholly inside
   ±margin; p_refute is twice the smaller p of lying beyond +margin or beyond −margin (Bonferroni).
2. *One claim* says that all its J contrasts hold. p_support is the largest of theirs (intersection–union, Berger 1982: no
   correction is due). p_refute is J times their smallest (Bonferroni): one contrast wholly on the other side is enough.
3. *The study*: p = min(p_support, p_refute) for each claim, corrected over all declared claims by Holm (1979). A claim whose
   adjusted p is at most α is supported or refuted, whichever gave p; else it is undecided. A claim that could not be judged
   counts as p = 1, so that a diverged run makes no other claim easier.

When arms do not differ, the probability of any verdict that says they do, either way, is at most α in the whole study, whatever
the dependence between claims. (Where arms differ slightly, that a verdict for the wrong side is as rare rests on the slack of
the doubled p's, as with directional errors of Holm's procedure: Shaffer 1980, Finner 1999.)
``benchmarks/calibration.md`` measures the rates.

The interval shown is that of one contrast, uncorrected: the weakest, or of a refuted claim the one most against it. It always
agrees with a supported or refuted verdict; where it looks decided and the verdict is not, the sentence says that the correction
is why. The sign-flip p is built by the same rule from exact sign-flip tests; it is a check and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allelse.claims import Claim, check_claims
from allelse.design import Design, arm_text, is_absent, level_key
from allelse.errors import StudyError
from allelse.records import ACCURACIES, METRICS
from allelse.stats.contrasts import Contrast, Levels, contrasts
from allelse.stats.effects import Floats, correlation, one_sided, sign_flip, sign_patterns, spread, t_interval
from allelse.stats.rulings import Part, Ruling, Verdict
from allelse.stats.runs import Runs
from allelse.stats.sentences import failed_runs, undecided_because, verdict_sentence

ROUNDING = 1e-12
"""of the size of its terms: a sum as small as this is 0"""


@dataclass(frozen=True)
class _Evidence:
    claim: Claim
    contrasts: list[Contrast]
    parts: list[Part]
    cannot: str | None
    p_support: float = 1.0
    p_refute: float = 1.0
    p_sign_flip: float | None = None

    @property
    def p(self) -> float:
        return 1.0 if self.cannot else min(self.p_support, self.p_refute)


def verdicts(
    claims: Sequence[Claim],
    table: pd.DataFrame,
    alpha: float = 0.05,
    levels_from_factor: Levels | None = None,
    generator: np.random.Generator | None = None,
) -> list[Verdict]:
    """Judge every claim of a study.

    Arguments:
        claims: all that the study declares, since the correction is over all of them.
        table: one row a run: factor columns with level labels, ``seed``, ``status`` (done, diverged, failed, pending), metrics.
        alpha: the probability of any wrong verdict in the study that is accepted, in (0, 0.5).
        levels_from_factor: the study's levels in order, or its ``Design`` where not all combinations are arms; left out, the
            factors are those that the claims name, the levels and arms those of the table: one without any row is not missed.
        generator: draws sign patterns beyond 16 seeds; left out, one and the same for every call.

    Returns:
        one verdict a claim, in order.

    Raises:
        StudyError: a claim names a factor, level or metric that is not there or leaves a factor open, or a run is there twice.
    """
    if not 0 < alpha < 0.5:
        raise StudyError(f"alpha is {alpha}; allowed: above 0 and below 0.5")
    levels = _levels_in(table, claims) if levels_from_factor is None else levels_from_factor
    check_claims(claims, levels)
    runs = Runs(table, list(levels))
    patterns_from_n = _Patterns(np.random.default_rng(0) if generator is None else generator)
    found = [_evidence(claim, runs, levels, alpha, patterns_from_n) for claim in claims]
    adjusted = holm([evidence.p for evidence in found])
    return [_ruling(evidence, p_adjusted, len(claims), alpha) for evidence, p_adjusted in zip(found, adjusted, strict=True)]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (1979, Scandinavian Journal of Statistics 6), in the order given."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


class _Patterns(dict[int, "Floats | None"]):
    """Sign patterns by number of seeds, drawn once for all claims."""

    def __init__(self, generator: np.random.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __missing__(self, n: int) -> Floats | None:
        self[n] = sign_patterns(n, self._generator)
        return self[n]


def _levels_in(table: pd.DataFrame, claims: Sequence[Claim]) -> Levels:
    named: dict[str, None] = {}
    for claim in claims:
        arms = claim.arms().values()
        named |= dict.fromkeys([*claim.where, *(factor for arm in arms for factor in arm)])
        named |= dict.fromkeys(factor for factor in (claim.runs_along(), *claim.each()) if factor is not None)
    cells = {factor: table[factor].tolist() for factor in named if factor in table.columns}
    levels = {
        factor: list({level_key(level): level for level in column if not is_absent(level)}.values())
        for factor, column in cells.items()
    }
    if not any(map(is_absent, chain.from_iterable(cells.values()))):
        return levels
    rows = (dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True))
    arms_there = {tuple(map(level_key, row.values())): row for row in rows}.values()
    return Design(levels, [{factor: level for factor, level in row.items() if not is_absent(level)} for row in arms_there])


def _evidence(claim: Claim, runs: Runs, levels: Levels, alpha: float, patterns_from_n: _Patterns) -> _Evidence:
    needed = contrasts(claim, levels)
    runs.check_metric(claim.metric, [arm for contrast in needed for arm, _ in contrast.weights])
    parts, sign_flips = [], []
    trouble_from_arm: dict[str, Mapping[str, int]] = {}
    seeds_from_arm: dict[str, int] = {}
    for contrast in needed:
        values, equal, identical, pairing, trouble = _values(contrast, claim.metric, runs)
        trouble_from_arm |= {arm: problems for arm, (problems, _) in trouble.items()}
        seeds_from_arm |= {arm: seeds for arm, (_, seeds) in trouble.items()}
        part, flips = _part(contrast, values, equal, identical, pairing, alpha, patterns_from_n[len(values)])
        parts.append(part)
        sign_flips.append(flips)
    if trouble_from_arm:
        return _Evidence(claim, needed, parts, failed_runs(trouble_from_arm, seeds_from_arm))
    if min(part.n for part in parts) < 2:
        return _Evidence(claim, needed, parts, "an interval needs at least 2 seeds")
    p_support, p_refute = _all_hold([(part.p_support or 0.0, part.p_refute or 0.0) for part in parts])
    p_sign_flip = min(_all_hold([flips for flips in sign_flips if flips])) if all(sign_flips) else None
    return _Evidence(claim, needed, parts, None, p_support, p_refute, p_sign_flip)


def _all_hold(p: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(p_support, p_refute) of "all of these hold" from those of each."""
    return (max(support for support, _ in p), min(1.0, len(p) * min(refute for _, refute in p)))


def _values(
    contrast: Contrast, metric: str, runs: Runs
) -> tuple[Floats, bool, bool, float | None, dict[str, tuple[Mapping[str, int], int]]]:
    """One value a complete seed; whether the arms are equal; whether they are one network; the correlation; by arm what is
    wrong, and of how many seeds."""
    trouble: dict[str, tuple[Mapping[str, int], int]] = {}
    columns = []
    shared = set.intersection(*(set(runs.seeds_of(arm)) for arm, _ in contrast.weights))
    seeds = sorted(shared)  # an arm's others are not compared here
    for arm, _ in contrast.weights:
        column, problems = runs.values(arm, metric, seeds)
        columns.append(column)
        if problems:
            name = arm_text({factor: arm[factor] for factor in runs.varied if factor in arm} or arm)
            trouble[name] = problems, len(seeds)
    y = np.array(columns)
    complete = np.asarray(np.isfinite(y).all(axis=0))
    y = y[:, complete]
    total, plus, minus, size = (np.zeros(y.shape[1]) for _ in range(4))
    for (_, weight), column in zip(contrast.weights, y, strict=True):
        offset = weight * (column - y[0])  # weights sum to 0, so that any offset falls out
        total, size = total + offset, size + abs(offset)
        plus, minus = (plus + weight * column, minus) if weight > 0 else (plus, minus - weight * column)
    total[abs(total) <= ROUNDING * size] = 0.0
    equal = y.shape[1] > 0 and (np.array_equal(y[::2], y[1::2]) if contrast.plus else bool((y == y[:1]).all()))
    return total, equal, equal and _are_identical(contrast, runs, complete), correlation(plus, minus), trouble


def _are_identical(contrast: Contrast, runs: Runs, complete: NDArray[np.bool_]) -> bool:
    """Whether arms whose accuracies may be equal by chance have equal losses on every seed, and equal all else, too."""
    metrics = [metric for metric in runs.metrics if metric in METRICS]
    columns = {metric: [runs.values(arm, metric)[0][complete] for arm, _ in contrast.weights] for metric in metrics}
    compared = {metric for metric, column in columns.items() if np.isfinite(column).any()}
    return not compared <= set(ACCURACIES) and all(
        np.array_equal(column, first, equal_nan=True) for first, *others in columns.values() for column in others
    )


def _part(
    contrast: Contrast,
    x: Floats,
    equal: bool,
    identical: bool,
    pairing: float | None,
    alpha: float,
    patterns: Floats | None,
) -> tuple[Part, tuple[float, float] | None]:
    n = len(x)
    p_support = p_refute = low = high = flips = None
    if n >= 2:
        low, high = t_interval(x, interval_level(contrast, alpha))
        if contrast.test == "above":
            p_support, p_refute = _above(*one_sided(contrast.sign * x, contrast.margin, identical))
        else:
            ends = [one_sided(x, margin, identical) for margin in (contrast.margin, -contrast.margin)]
            p_support, p_refute = _within(*ends)
    if patterns is not None:
        if contrast.test == "above":
            flips = _above(*sign_flip(contrast.sign * x, patterns, contrast.margin))
        else:
            flips = _within(sign_flip(x, patterns, contrast.margin), sign_flip(x, patterns, -contrast.margin))
    compared = f"{contrast.plus} against {contrast.minus}" if contrast.plus else ""
    part = Part(
        label=", ".join(filter(None, (compared, contrast.at))),
        estimate=float(x.mean()) if n else None,
        low=low,
        high=high,
        p_support=p_support,
        p_refute=p_refute,
        p_sign_flip=min(flips) if flips else None,
        n=n,
        correlation=pairing,
        equal=equal,
        no_spread=spread(x) == 0.0,
    )
    return part, flips


def interval_level(contrast: Contrast, alpha: float) -> float:
    """Of the interval that lies on one side exactly when the contrast's own p is at most ``alpha``."""
    return 1 - alpha if contrast.test == "above" else 1 - 2 * alpha


def _above(p_above: float, p_below: float) -> tuple[float, float]:
    return (min(1.0, 2 * p_above), min(1.0, 2 * p_below))


def _within(at_plus: tuple[float, float], at_minus: tuple[float, float]) -> tuple[float, float]:
    return (max(at_plus[1], at_minus[0]), min(1.0, 2 * min(at_plus[0], at_minus[1])))


def _ruling(evidence: _Evidence, p_adjusted: float, claims: int, alpha: float) -> Verdict:
    claim, parts = evidence.claim, evidence.parts
    verdict: Ruling = "undecided"
    if p_adjusted <= alpha:
        verdict = "supported" if evidence.p_support < evidence.p_refute else "refuted"
    if verdict == "refuted":
        shown = min(range(len(parts)), key=lambda each: parts[each].p_refute or 0.0)
    else:  # several may be wholly on the wrong side
        shown = max(range(len(parts)), key=lambda each: (parts[each].p_support or 0.0, -(parts[each].p_refute or 0.0)))
    part, contrast = parts[shown], evidence.contrasts[shown]
    level = interval_level(contrast, alpha)
    reason = evidence.cannot
    if verdict == "undecided" and reason is None:
        reason = undecided_because(claim, contrast, part, len(parts), claims, p_adjusted)
    judged = evidence.cannot is None
    found = Verdict(
        id=claim.id,
        says=claim.says,
        kind=claim.kind,
        metric=claim.metric,
        verdict=verdict,
        estimate=part.estimate,
        low=part.low,
        high=part.high,
        level=level,
        p=evidence.p if judged else None,
        p_adjusted=p_adjusted if judged else None,
        p_sign_flip=evidence.p_sign_flip,
        n=part.n,
        correlation=part.correlation,
        sentence="",
        reason=reason,
        parts=tuple(parts),
    )
    return replace(found, sentence=verdict_sentence(claim, contrast, part, found, alpha))
