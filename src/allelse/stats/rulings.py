"""Rulings: what became of a claim, and of each comparison that it needs, as plain records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from allelse.records import finite

Ruling = Literal["supported", "refuted", "undecided"]


@dataclass(frozen=True)
class Part:
    """One contrast of a claim, over the seeds that have all its runs."""

    label: str
    """what it compares, and where"""
    estimate: float | None
    """mean over seeds, in the metric's unit (slopes: per unit of the factor, doubling or level); None without a seed"""
    low: float | None
    high: float | None
    """ends of the t interval, uncorrected; None with fewer than two seeds"""
    p_support: float | None
    p_refute: float | None
    p_sign_flip: float | None
    """as p of the claim, from sign-flip tests; None with fewer than six seeds"""
    n: int
    """seeds"""
    correlation: float | None
    """Pearson's, over seeds, of what is added and what is subtracted: what pairing achieved"""
    equal: bool
    """whether the arms are equal bit for bit on every seed"""
    no_spread: bool
    """whether every seed gives one and the same value"""


@dataclass(frozen=True)
class Verdict:
    """What became of one claim; estimate, interval, n and correlation are those of the part that the sentence tells of."""

    id: str
    says: str
    kind: str
    metric: str
    verdict: Ruling
    estimate: float | None
    low: float | None
    high: float | None
    level: float
    """of the interval: 1 − α, for ``within`` and ``stable`` 1 − 2α; not corrected over claims"""
    p: float | None
    """the smaller of p_support and p_refute; None where the claim could not be judged"""
    p_adjusted: float | None
    """p after Holm over the study's claims"""
    p_sign_flip: float | None
    """p from exact sign-flip tests, not adjusted; None with fewer than six seeds"""
    n: int
    correlation: float | None
    sentence: str
    reason: str | None
    """why it is undecided"""
    parts: tuple[Part, ...]
    """one a comparison that the claim needs"""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; numbers that are not finite are None."""
        return dict(finite(asdict(self)))
