"""Contrasts: a claim and the study's levels in; the weighted sums of arms that it speaks of out, before any run exists.

Every kind of claim is one or more linear contrasts of arms, computed within each seed: a difference is +1 and −1, a slope is
the least-squares weights of its levels. All weights of a contrast sum to 0, so what a seed adds to every arm falls out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from math import log2
from typing import Any, Literal

from allelse.claims import Claim, Level, Trend, arm_text, is_number, level_key, level_text

Levels = Mapping[str, Sequence[Level]]


@dataclass(frozen=True)
class Contrast:
    """One weighted sum of arms, and what the claim says of its mean over seeds."""

    weights: tuple[tuple[Mapping[str, Level], float], ...]
    """(arm, weight) in order; every factor of the study is in each arm"""
    test: Literal["above", "within"]
    """``above``: sign · mean > margin; ``within``: |mean| ≤ margin"""
    margin: float
    sign: int
    """+1, or −1 where the claim says down"""
    span: float
    """slopes: from the first level to the last, in the unit that the slope is per; else 1"""
    plus: str
    """what is added, in words"""
    minus: str
    """what is subtracted, in words"""
    at: str
    """the level of ``for_each``, in words; empty without one"""


def ordered(levels: Sequence[Level]) -> list[Level]:
    """Levels as ``along`` runs through them: numbers from low to high, anything else in the study's order."""
    return sorted(levels, key=lambda level: float(level)) if all(map(is_number, levels)) else list(levels)


def places(claim: Trend, levels: Sequence[Level]) -> list[float]:
    """Where the levels, in order, lie on the trend's axis."""
    if scale_of(claim, levels) == "order":
        return [float(rank) for rank in range(len(levels))]
    numbers = [float(level) for level in levels]
    return [log2(number) for number in numbers] if claim.scale == "log2" else numbers


def scale_of(claim: Trend, levels: Sequence[Level]) -> str:
    """The trend's scale, with the default filled in."""
    return claim.scale or ("linear" if all(map(is_number, levels)) else "order")


def contrasts(claim: Claim, levels_from_factor: Levels) -> list[Contrast]:
    """The contrasts of a claim that ``check_claims`` has passed; the claim is that all of them hold."""
    single = {factor: levels[0] for factor, levels in levels_from_factor.items() if len(levels) == 1}
    found = []
    for level in levels_from_factor[claim.for_each] if claim.for_each else [None]:
        at = {claim.for_each: level} if claim.for_each else {}
        found += _contrasts_at({**single, **claim.where, **at}, arm_text(at), claim, levels_from_factor)
    return found


def _contrasts_at(base: dict[str, Any], at: str, claim: Claim, levels_from_factor: Levels) -> list[Contrast]:
    sign = -1 if getattr(claim, "direction", "up") == "down" else 1

    def pair(a: Mapping[str, Level], b: Mapping[str, Level], test: Literal["above", "within"] = "above") -> Contrast:
        names = _short_names(a, b)
        weights = (({**base, **a}, 1.0), ({**base, **b}, -1.0))
        return Contrast(weights, test, getattr(claim, "margin", 0.0), sign, 1.0, *names, at)

    if claim.kind == "higher":
        return [pair(claim.a, claim.b)]
    if claim.kind == "within":
        return [pair(claim.a, claim.b, "within")]
    if claim.kind == "best":
        return [pair(claim.arm, other) for other in _others(claim.arm, levels_from_factor)]
    along = claim.along
    levels = ordered(levels_from_factor[along])
    if claim.kind == "monotone":
        return [pair({along: later}, {along: earlier}) for earlier, later in pairwise(levels)]
    if claim.kind == "stable":
        return [pair({along: later}, {along: earlier}, "within") for earlier, later in combinations(levels, 2)]
    return [_slope(base, at, claim, levels, sign)]


def _slope(base: dict[str, Any], at: str, claim: Trend, levels: Sequence[Level], sign: int) -> Contrast:
    x = places(claim, levels)
    centre = sum(x) / len(x)
    squares = sum((place - centre) ** 2 for place in x)
    weights: list[tuple[Mapping[str, Level], float]] = []
    names = ("", "")
    for level, place in zip(levels, x, strict=True):
        weight = (place - centre) / squares
        if claim.a is None or claim.b is None:
            weights.append(({**base, claim.along: level}, weight))
        else:
            names = _short_names(claim.a, claim.b)
            weights += [({**base, **claim.a, claim.along: level}, weight), ({**base, **claim.b, claim.along: level}, -weight)]
    return Contrast(tuple(weights), "above", 0.0, sign, x[-1] - x[0], *names, at)


def _others(arm: Mapping[str, Level], levels_from_factor: Levels) -> list[dict[str, Level]]:
    combined = [dict(zip(arm, levels, strict=True)) for levels in product(*(levels_from_factor[factor] for factor in arm))]
    return [other for other in combined if any(level_key(other[factor]) != level_key(arm[factor]) for factor in arm)]


def _short_names(a: Mapping[str, Level], b: Mapping[str, Level]) -> tuple[str, str]:
    """Two arms in words; the bare level where one factor named in letters tells them apart."""
    if len(a) == 1 and a.keys() == b.keys() and all(isinstance(level, str) for level in (*a.values(), *b.values())):
        return (level_text(next(iter(a.values()))), level_text(next(iter(b.values()))))
    return (arm_text(a), arm_text(b))
