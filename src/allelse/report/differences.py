"""Differences: findings in; the paired difference of every two arms that a claim sets against each other, as rows, out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from allelse import stats
from allelse.claims import Claim, check_claims
from allelse.errors import StudyError
from allelse.report.accuracy import MOST_ROWS, mean_of, points_text
from allelse.report.findings import Findings, finite, seeds_text
from allelse.report.shapes import LETTERS_IN_A_LABEL, Mark, Row, Rows, Words
from allelse.report.style import drawable

_CLAIM: TypeAdapter[Claim] = TypeAdapter(Claim)

Pair = tuple[Mapping[str, Any], Mapping[str, Any], float | None]
"""A, B, and the margin of equivalence where a claim gives one"""


def differences(findings: Findings) -> Rows | None:
    """A − B within each seed, for the claims on accuracy; without such claims, the levels of the first factor."""
    if not findings.has("accuracy"):
        return None
    found = _once(findings, _claimed(findings) or list(_first_factor(findings)))
    rows, counts, names = [], [], []
    for a, b, margin in found[:MOST_ROWS]:
        difference = findings.values(a) - findings.values(b)
        good = finite(difference)
        low, high = stats.t_interval(good)
        mark = Mark("difference", 0, mean_of(difference), low, high, tuple(good.tolist()))
        names.append(_named(findings, a, b))
        rows.append(Row(_label(*names[-1]), (mark,), margin))
        counts.append(len(good))
    if not any(counts):
        return None
    more = len(found) - len(rows)
    bars = "means, bars 95 % t intervals over seeds (not corrected over claims), small marks single seeds"
    judged_by = f"which claims judge by {100 - 200 * findings.definition.get('alpha', 0.05):g} % intervals"
    caption = (
        f"Difference in test accuracy within each seed. Diamonds are {bars if max(counts) > 1 else 'the values of one seed'}"
        + (f"; shaded bands are margins of equivalence, {judged_by}" if any(row.margin for row in rows) else "")
        + f". {seeds_text(counts, 'pair')}; {findings.made_with}."
        + (f" {more} more pairs are not drawn." if more else "")
    )
    told = [f"{one} − {other}{shared}" for one, other, shared in names]
    alt = "; ".join(f"{name}: {points_text(row.marks[0].mean)}" for name, row in zip(told, rows, strict=True))
    words = Words("differences", "Paired differences", caption, f"Mean paired differences. {alt}.")
    return Rows(words, tuple(rows), "difference (percentage points)", zero=True)


def _once(findings: Findings, pairs: Sequence[Pair]) -> list[Pair]:
    """Each pair once, always the same way round, in the order of the arms."""
    found: dict[tuple[Any, Any], Pair] = {}
    ways: dict[tuple[str, str], int] = {}
    place = {findings.key(arm): number for number, arm in enumerate(findings.arms)}
    way_of = {}
    for a, b, margin in pairs:
        if (_apart(findings, b, a)) in ways:
            a, b = b, a
        way = ways.setdefault(_apart(findings, a, b), len(ways))
        key = (findings.key(a), findings.key(b))
        known = found.get(key)
        found[key] = (a, b, margin or (known[2] if known else None))
        way_of[key] = way
    return [found[key] for key in sorted(found, key=lambda key: (way_of[key], place.get(key[0], 0)))]


def _apart(findings: Findings, a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, str]:
    """The two arms in the words that tell them apart."""
    factors = [factor for factor in findings.varied if findings.key(a, [factor]) != findings.key(b, [factor])]
    one, other = (findings.arm_name({factor: arm.get(factor) for factor in factors}) for arm in (a, b))
    return one, other


def _claimed(findings: Findings) -> list[Pair]:
    pairs: list[Pair] = []
    for raw in findings.claims.values():
        try:
            claim = _CLAIM.validate_python(raw)
            check_claims([claim], findings.design)
        except (StudyError, ValidationError):
            continue
        if claim.metric != "accuracy" or claim.kind not in ("higher", "within", "best"):
            continue
        margin = claim.margin if claim.kind == "within" else None
        for contrast in stats.contrasts(claim, findings.design):
            (a, _), (b, _) = contrast.weights
            pairs.append((a, b, margin))
    return pairs


def _first_factor(findings: Findings) -> Iterator[Pair]:
    """Every arm against the one with the first level of the first factor, like it in all that both have."""
    for first in findings.varied[:1]:
        at_base = {first: findings.levels[first][0]}
        for arm in findings.arms:
            for base in findings.design.find(at_base, {**arm, **at_base}):
                if findings.key(base) != findings.key(arm):
                    yield arm, base, None


def _named(findings: Findings, a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, str, str]:
    """``relu``, ``sigmoid``, ``, depth 8``: what differs, then what both share."""
    alike = [factor for factor in findings.varied if findings.key(a, [factor]) == findings.key(b, [factor])]
    shared = {factor: a[factor] for factor in alike if factor in a}
    return (*_apart(findings, a, b), f", {findings.arm_name(shared)}" if shared else "")


def _label(one: str, other: str, shared: str) -> str:
    """All of it where a row has room for it, else a part of each: which arms these are must not be lost."""
    whole = f"{one} − {other}{shared}"
    if drawable(whole, LETTERS_IN_A_LABEL) == drawable(whole, len(whole) * 20):
        return whole
    rest = LETTERS_IN_A_LABEL // 5 if shared else 0
    names = [drawable(name, (LETTERS_IN_A_LABEL - len(" − ") - rest) // 2, keep_end=True) for name in (one, other)]
    return " − ".join(names) + (drawable(shared, rest) if rest else "")
