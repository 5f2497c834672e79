"""A second run with other seeds: the kept store of a united study in; whether its parts agree, arm by arm, out.

Each part is a whole study with seeds of its own. Where both are right, the interval of the difference of two means (Welch,
95 %) holds 0 in 95 of 100 arms; and a verdict of the one is not contradicted by the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from allelse import stats, store
from allelse.design import arm_text
from allelse.report.evidence import judge_table
from allelse.stats.comparisons import welch

MOST_APART = {"supported", "refuted"}


def table(folder: Path) -> Iterator[str]:
    """Markdown: a row an arm, then a row a claim; nothing where the store was not united from two of several seeds each."""
    with store.read(folder) as opened:
        definition, runs, parts = opened.definition, opened.table(), opened.parts
    if len(parts) != 2 or min(len(part["seeds"]) for part in parts) < 2 or set(parts[0]["seeds"]) & set(parts[1]["seeds"]):
        return
    first, second = (runs[runs["seed"].isin(part["seeds"])] for part in parts)
    seeds = [f"seeds {part['seeds'][0]}–{part['seeds'][-1]}" for part in parts]
    factors = list(definition["factors"])
    yield f"| arm | {' | '.join(seeds)} | difference | 95 % interval | agree |"
    yield "|---|--:|--:|--:|--:|---|"
    found = list(differences(first, second, factors))
    for arm, mean1, mean2, low, high in found:
        agree = "yes" if low <= 0 <= high else "**no**"
        yield f"| {arm} | {mean1:.1f} | {mean2:.1f} | {mean1 - mean2:+.1f} | {low:+.1f} … {high:+.1f} | {agree} |"
    agreed = [low <= 0 <= high for *_, low, high in found]
    yield ""
    yield f"{sum(agreed)} of {len(agreed)} arms agree; {0.95 * len(agreed):.1f} are expected to."
    yield ""
    yield f"| claim | {' | '.join(seeds)} | all |"
    yield "|---|---|---|---|"
    contradicted = 0
    for claims in zip(*(judge_table(definition, part) for part in (first, second, runs)), strict=True):
        verdicts = [claim.verdict for claim in claims]
        contradicted += set(verdicts[:2]) == MOST_APART
        yield f"| {claims[0].says} | {' | '.join(verdicts)} |"
    yield ""
    yield f"{contradicted} of {len(definition['claims'])} claims are supported in one part and refuted in the other."


def differences(
    first: pd.DataFrame, second: pd.DataFrame, factors: Sequence[str]
) -> Iterator[tuple[str, float, float, float, float]]:
    """For each arm: its levels, both means, and the interval of the first minus the second."""
    for (_, a), (_, b) in zip(*(stats.arm_table(one, factors).iterrows() for one in (first, second)), strict=True):
        found = welch(a["mean"], a["sd"], a["n"], b["mean"], b["sd"], b["n"])
        low, high = found[:2] if found else (a["mean"] - b["mean"],) * 2
        yield arm_text({factor: a[factor] for factor in factors if pd.notna(a[factor])}), a["mean"], b["mean"], low, high
