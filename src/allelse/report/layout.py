"""Layout: a study's factors in; which goes on the x axis, which gives series and which panels, out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from allelse.design import is_number, level_key, ordered
from allelse.report.findings import Findings

MOST_SERIES = 7
"""styles that stay apart in colour, in grey and by marker"""
MOST_PANELS = 4


@dataclass(frozen=True)
class Layout:
    """The part that each varied factor plays."""

    x: str | None
    """the numeric factor with the most levels; None where no factor is numeric"""
    scale: Literal["linear", "log2"]
    series: tuple[str, ...]
    panels: tuple[str, ...]


def layout_of(findings: Findings) -> Layout:
    """The roles in this study: a factor that only some arms have makes more series, or more panels where these are many."""
    everywhere = {factor: levels for factor, levels in findings.levels.items() if all(factor in arm for arm in findings.arms)}
    layout = choose(everywhere)
    trends = [claim for claim in findings.claims.values() if claim.get("kind") == "trend" and claim.get("along") == layout.x]
    if any((claim.get("scale") or "linear") == "linear" for claim in trends):  # a trend per unit is drawn along units
        layout = replace(layout, scale="linear")
    partly = tuple(factor for factor in findings.varied if factor not in everywhere)
    series = (*layout.series, *partly)
    if len(list(combinations_of(findings, series))) <= MOST_SERIES:
        return replace(layout, series=series)
    return replace(layout, panels=(*layout.panels, *partly))


def choose(levels_from_factor: Mapping[str, Sequence[Any]]) -> Layout:
    """Pick the roles from the factors alone, so that every figure of a study reads the same way."""
    varied = {factor: levels for factor, levels in levels_from_factor.items() if len(levels) > 1}
    numeric = [factor for factor, levels in varied.items() if all(map(is_number, levels))]
    x = max(numeric, key=lambda factor: len(varied[factor]), default=None)
    rest = [factor for factor in varied if factor != x]
    series = [factor for factor in rest if len(varied[factor]) <= MOST_SERIES][:1] or rest[:1]
    scale: Literal["linear", "log2"] = "log2" if x is not None and doubles(varied[x]) else "linear"
    return Layout(x, scale, tuple(series), tuple(factor for factor in rest if factor not in series))


def doubles(levels: Sequence[Any]) -> bool:
    """Whether three or more levels, sorted, are each twice the one before or more, all above 0."""
    numbers = sorted(float(level) for level in levels)
    return len(numbers) >= 3 and numbers[0] > 0 and all(later >= 2 * earlier for earlier, later in pairwise(numbers))


def combinations_of(
    findings: Findings, factors: Sequence[str], arms: Sequence[Mapping[str, Any]] | None = None
) -> Iterator[dict[str, Any]]:
    """Every combination of levels of these factors that some arm has, in the study's order; one empty one without factors.

    Arguments:
        findings: of the study.
        factors: whose levels are combined.
        arms: of which one must have it; any of the study when left out.
    """
    place = {factor: {level_key(level): n for n, level in enumerate(findings.levels[factor])} for factor in factors}
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    for arm in findings.arms if arms is None else arms:
        rank = tuple(place[factor].get(level_key(arm.get(factor)), -1) for factor in factors)
        found.setdefault(rank, {factor: arm[factor] for factor in factors if factor in arm})
    for rank in sorted(found):
        yield found[rank]


def few(levels: Sequence[Any], most: int = 3) -> list[Any]:
    """The first, the last and some between, where there are more than ``most``."""
    if len(levels) <= most:
        return list(levels)
    return [levels[round(place * (len(levels) - 1) / (most - 1))] for place in range(most)]


def and_more(count: int, what: str) -> str:
    """What a caption says of so many that are not drawn."""
    return f" {count} more {what} are in the table of arms only." if count > 0 else ""


def panels_of(findings: Findings, layout: Layout, arms: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The levels of each panel to draw where every one of ``arms`` is a curve of its own, and how many panels there would be.

    Of many, the ends of the x factor and what lies between; where other factors have panels too, the ends of x for each of
    them, so that two panels differ in one factor.
    """
    if layout.x is None:
        panels = list(combinations_of(findings, layout.panels, arms))
        return few(panels, MOST_PANELS), len(panels)
    at_x = [one[layout.x] for one in combinations_of(findings, (layout.x,), arms)]
    along = [{layout.x: level} for level in ordered(at_x)]
    if not layout.panels:
        return few(along, 3), len(along)
    there = list(combinations_of(findings, (layout.x, *layout.panels), arms))
    beside = few(list(combinations_of(findings, layout.panels, arms)), MOST_PANELS // 2)
    chosen = [{**one, **at} for one in beside for at in few(along, 2)]
    return [one for one in chosen if one in there], len(there)


def whole_arm(findings: Findings, chosen: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The arm with these levels of the factors that tell arms apart, and without those left out; None where there is none."""
    return findings.arm_from_varied.get(findings.key(chosen, findings.varied))
