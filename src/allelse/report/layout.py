"""Layout: a study's factors in; which goes on the x axis, which gives series and which panels, out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal

from allelse.claims import is_number
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
    series: str | None
    panels: tuple[str, ...]


def choose(levels_from_factor: Mapping[str, Sequence[Any]]) -> Layout:
    """Pick the roles from the factors alone, so that every figure of a study reads the same way."""
    varied = {factor: levels for factor, levels in levels_from_factor.items() if len(levels) > 1}
    numeric = [factor for factor, levels in varied.items() if all(map(is_number, levels))]
    x = max(numeric, key=lambda factor: len(varied[factor]), default=None)
    rest = [factor for factor in varied if factor != x]
    series = next((factor for factor in rest if len(varied[factor]) <= MOST_SERIES), rest[0] if rest else None)
    scale: Literal["linear", "log2"] = "log2" if x is not None and doubles(varied[x]) else "linear"
    return Layout(x, scale, series, tuple(factor for factor in rest if factor != series))


def doubles(levels: Sequence[Any]) -> bool:
    """Whether three or more levels, sorted, are each twice the one before or more, all above 0."""
    numbers = sorted(float(level) for level in levels)
    return len(numbers) >= 3 and numbers[0] > 0 and all(later >= 2 * earlier for earlier, later in pairwise(numbers))


def combinations_of(findings: Findings, factors: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every combination of levels of these factors, in the study's order; one empty one without factors."""
    for levels in product(*(findings.levels[factor] for factor in factors)):
        yield dict(zip(factors, levels, strict=True))


def few(levels: Sequence[Any], most: int = 3) -> list[Any]:
    """The first, the last and some between, where there are more than ``most``."""
    if len(levels) <= most:
        return list(levels)
    return [levels[round(place * (len(levels) - 1) / (most - 1))] for place in range(most)]


def whole_arm(findings: Findings, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen levels with the single level of every other factor."""
    return {factor: chosen.get(factor, levels[0]) for factor, levels in findings.levels.items()}
