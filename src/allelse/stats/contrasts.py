"""Contrasts: a claim and the study's levels in; the weighted sums of arms that it speaks of out, before any run exists.

Every kind of claim is one or more linear contrasts of arms, computed within each seed: a difference is +1 and −1, a slope is
the least-squares weights of its levels. All weights of a contrast sum to 0, so what a seed adds to every arm falls out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import log2
from typing import Literal

from allelse.claims import Claim, Setting, Trend, settings
from allelse.design import Arm, Design, Level, arm_text, is_number, level_text
from allelse.records import LOSSES

Levels = Mapping[str, Sequence[Level]]
"""the levels of each factor, or the ``Design`` where not all of their combinations are arms"""


@dataclass(frozen=True)
class Contrast:
    """One weighted sum of arms, and what the claim says of its mean over seeds."""

    weights: tuple[tuple[Arm, float], ...]
    """(arm, weight) in order; whole arms of the study"""
    test: Literal["above", "within"]
    """``above``: sign · mean > margin; ``within``: |mean| ≤ margin"""
    margin: float
    sign: int
    """+1, or −1 where the claim says down, or best of losses"""
    span: float
    """slopes: from the first level to the last, in the unit that the slope is per; else 1"""
    plus: str
    """what is added, in words"""
    minus: str
    """what is subtracted, in words"""
    at: str
    """the level of ``for_each``, in words; empty without one"""
    scale: str = ""
    """slopes: linear, log2 or order; else empty"""


def places(claim: Trend, levels: Sequence[Level]) -> list[float]:
    """Where the levels, in order, lie on the trend's axis."""
    if scale_of(claim.scale, levels) == "order":
        return [float(rank) for rank in range(len(levels))]
    numbers = [float(level) for level in levels]
    return [log2(number) for number in numbers] if claim.scale == "log2" else numbers


def scale_of(scale: str | None, levels: Sequence[Level]) -> str:
    """A trend's scale, with the default filled in."""
    return scale or ("linear" if all(map(is_number, levels)) else "order")


def contrasts(claim: Claim, levels_from_factor: Levels) -> list[Contrast]:
    """The contrasts of a claim that ``check_claims`` has passed; the claim is that all of them hold."""
    design = Design.of(levels_from_factor)
    return [contrast for setting in settings(claim, design) for contrast in _contrasts_at(claim, setting)]


def _contrasts_at(claim: Claim, setting: Setting) -> list[Contrast]:
    lower_is_better = claim.kind == "best" and claim.metric in LOSSES
    sign = -1 if getattr(claim, "direction", "up") == "down" or lower_is_better else 1
    at = arm_text(setting.at)

    def pair(plus: Arm, minus: Arm, a: Arm, b: Arm, test: Literal["above", "within"] = "above") -> Contrast:
        names = _short_names(a, b)
        return Contrast(((plus, 1.0), (minus, -1.0)), test, getattr(claim, "margin", 0.0), sign, 1.0, *names, at)

    if claim.kind == "higher" or claim.kind == "within":
        test: Literal["above", "within"] = "within" if claim.kind == "within" else "above"
        return [pair(arms["a"], arms["b"], claim.a, claim.b, test) for _, arms in setting.rows]
    if claim.kind == "best":
        pairs = [(arms["arm"], arms["other"]) for _, arms in setting.rows]
        return [pair(arm, other, claim.arm, _told_apart(other, claim.arm, arm)) for arm, other in pairs]
    if claim.kind == "trend":
        return [_slope(claim, setting, sign)] if len(setting.rows) > 1 else []
    steps = pairwise(setting.rows) if claim.kind == "monotone" else combinations(setting.rows, 2)
    test = "within" if claim.kind == "stable" else "above"
    return [
        pair(later[""], earlier[""], later_step, earlier_step, test) for (earlier_step, earlier), (later_step, later) in steps
    ]


def _slope(claim: Trend, setting: Setting, sign: int) -> Contrast:
    levels = [step[claim.along] for step, _ in setting.rows]
    x = places(claim, levels)
    centre = sum(x) / len(x)
    squares = sum((place - centre) ** 2 for place in x)
    weights: list[tuple[Arm, float]] = []
    for (_, arms), place in zip(setting.rows, x, strict=True):
        weight = (place - centre) / squares
        weights += [(arms[""], weight)] if "" in arms else [(arms["a"], weight), (arms["b"], -weight)]
    names = _short_names(claim.a, claim.b) if claim.a and claim.b else ("", "")
    span, scale = x[-1] - x[0], scale_of(claim.scale, levels)
    return Contrast(tuple(weights), "above", 0.0, sign, span, *names, arm_text(setting.at), scale)


def _told_apart(other: Arm, named: Arm, arm: Arm) -> Arm:
    """The levels that tell another arm apart from the best one: of the factors named, and of those that the best one lacks."""
    return {factor: level for factor, level in other.items() if factor in named or factor not in arm}


def _short_names(a: Arm, b: Arm) -> tuple[str, str]:
    """Two arms in words; the bare level where one factor named in letters tells them apart."""
    if len(a) == 1 and a.keys() == b.keys() and all(isinstance(level, str) for level in (*a.values(), *b.values())):
        return (level_text(next(iter(a.values()))), level_text(next(iter(b.values()))))
    return (arm_text(a), arm_text(b))
