"""Power before running: claims, the study's levels and a number of seeds in; which claims cannot be decided out. No data.

A claim counts as decidable when it would get its verdict in ``POWER`` of all such studies, if things are as assumed: at the
assumed effect for the directional kinds, at no difference for ``within`` and ``stable``. Differences are taken to be normal. Of
a claim with several comparisons, each is asked to fail so seldom that all together hold often enough (Bonferroni's inequality).
Holm's first step is assumed: α over the number of claims.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from allelse.claims import Claim
from allelse.design import Arm
from allelse.stats.contrasts import Contrast, Levels, contrasts
from allelse.stats.effects import SIGN_FLIP_FROM
from allelse.stats.sentences import is_accuracy, number, quantity

MOST_SEEDS = 10_000
POWER = 0.8


@dataclass(frozen=True)
class Decidability:
    """Whether a planned number of seeds can decide a claim."""

    claim: str
    """the claim's id"""
    can_decide: bool
    needs_n: int | None
    """the fewest seeds that could, under the assumed sd; None where even 10 000 could not"""
    largest_sd: float | None
    """the largest sd over seeds of a difference of two arms at which n seeds could decide, in the metric's unit; None at n = 1,
    and for a directional claim on a metric whose effects have no assumed size"""
    text: str
    """one line for people"""


def decidability(
    claims: Sequence[Claim],
    levels_from_factor: Levels,
    n: int | Callable[[Arm], int],
    alpha: float = 0.05,
    sd: float = 1.0,
    effect: float = 2.0,
) -> list[Decidability]:
    """Say which claims n seeds cannot decide, and how many could.

    Arguments:
        claims: all that the study declares.
        levels_from_factor: the study's levels, or its ``Design``.
        n: planned seeds, of every arm or as a function of the arm.
        alpha: of the verdicts.
        sd: standard deviation over seeds of the difference of two arms, in percentage points. The default is an assumption;
            a study's own first seeds know better.
        effect: the difference, or the whole rise or fall of a trend, that directional claims should detect, in percentage
            points beyond their margin.

    Returns:
        one entry a claim, in order. ``sd`` and ``effect`` say nothing of metrics other than accuracies, for which two seeds
        count as enough.
    """
    found = []
    for claim in claims:
        needed = contrasts(claim, levels_from_factor)
        seeds = min(n(arm) for each in needed for arm, _ in each.weights) if callable(n) else n
        found.append(_decidability(claim, needed, seeds, alpha / len(claims), sd, effect))
    return found


def sign_flip_note(n: int) -> str:
    """What so few seeds cannot ask of the sign-flip check; empty where there are enough for it."""
    lowest = f"the sign-flip check cannot go below p = {2 / 2**n:.3g} with {n} seeds and is left out"
    return lowest if 2 <= n < SIGN_FLIP_FROM else ""


def _decidability(claim: Claim, needed: Sequence[Contrast], n: int, alpha: float, sd: float, effect: float) -> Decidability:
    equivalence = needed[0].test == "within"
    known_spread = is_accuracy(claim.metric)
    largest = _largest_sd(needed, n, alpha, effect) if n >= 2 and (known_spread or equivalence) else None
    if not known_spread:
        why = f"no spread of {claim.metric} is assumed" if n >= 2 else "one seed decides nothing; at least 2 are needed"
        text = f"{claim.id}: {why}" + (f"; the margin asks for an sd under {largest:.2g}" if largest is not None else "")
        return Decidability(claim.id, n >= 2, 2, largest, text)
    needs = next((more for more in _sizes() if _largest_sd(needed, more, alpha, effect) > sd), None)
    can = largest is not None and largest > sd
    hoped = f"±{quantity(needed[0].margin, claim.metric)}" if equivalence else f"an effect of {quantity(effect, claim.metric)}"
    hoped += " over all levels" * (claim.kind == "trend")
    spread = f"a per-seed sd of {number(sd, claim.metric)}"
    if n < 2:
        text = f"{claim.id}: one seed decides nothing; {hoped} at {spread} needs {needs or f'over {MOST_SEEDS}'} seeds"
    elif can:
        text = f"{claim.id}: {n} seeds can decide {hoped} at {spread}, and at one of up to {largest:.2g}"
    else:
        text = (
            f"{claim.id}: {n} seeds cannot decide {hoped} at {spread}; {needs or f'over {MOST_SEEDS}'} seeds could, "
            f"or an sd under {largest:.2g}"
        )
    return Decidability(claim.id, can, needs, largest, text)


def _sizes() -> list[int]:
    return [*range(2, 101), *range(110, 1001, 10), *range(1100, MOST_SEEDS + 1, 100)]


def _largest_sd(needed: Sequence[Contrast], n: int, alpha: float, effect: float) -> float:
    chance = 1 - (1 - POWER) / len(needed)
    return min(
        _room(each, effect) * n**0.5 / (_standard_errors(each.test == "within", n, alpha, chance) * _noise(each))
        for each in needed
    )


def _room(contrast: Contrast, effect: float) -> float:
    """How far the assumed mean lies from the edge of the claim, in the contrast's unit."""
    return contrast.margin if contrast.test == "within" else effect / contrast.span


@lru_cache(maxsize=4096)
def _standard_errors(within: bool, n: int, alpha: float, chance: float) -> float:
    """How many true standard errors the assumed mean must lie from the edge of the claim to be shown with this chance.

    Above the edge by a two-sided t test at ``alpha``: the noncentrality of t. Within both edges, and assumed to lie half-way
    between them, by two one-sided tests: over the distribution of the estimated standard error, the chance that the
    interval lies inside (Phillips 1990, doi:10.1007/BF01063556).
    """
    if not within:
        return float(special.nctdtrinc(n - 1, 1 - chance, special.stdtrit(n - 1, 1 - alpha / 2)))
    nodes, weights = np.polynomial.legendre.leggauss(100)
    estimated = np.sqrt(special.gammaincinv((n - 1) / 2, (nodes + 1) / 2) * 2 / (n - 1))  # over the true one
    half_widths = special.stdtrit(n - 1, 1 - alpha) * estimated
    low, high = 0.0, half_widths[-1] + 10.0
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        inside = (2 * special.ndtr(middle - half_widths) - 1).clip(0) @ weights / 2
        low, high = (middle, high) if inside < chance else (low, middle)
    return float(high)


def _noise(contrast: Contrast) -> float:
    """The contrast's sd over seeds where a difference of two arms has 1: weights of arms with independent noise of sd √½."""
    return (sum(weight**2 for _, weight in contrast.weights) / 2) ** 0.5
