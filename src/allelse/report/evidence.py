"""Evidence: a store in; one verdict a declared claim, and one comparison a published figure, out, whatever the store lacks.

A claim that this run did not ask, since a ``--set`` or ``--quick`` took its levels away or none of its runs, all done, has its
metric, is undecided and says so. It leaves the family that Holm corrects over: it was set aside by what was run, not by how it
came out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from allelse import stats
from allelse.claims import Claim, check_claims
from allelse.design import Design, level_key, level_text
from allelse.errors import StudyError
from allelse.records import ACCURACIES
from allelse.stats.contrasts import contrasts
from allelse.stats.runs import Runs
from allelse.store import Store, StoredRun

NOT_ASKED = "not asked in this run"
QUICK = "a quick study has another recipe than the published figures belong to"
SCALED = "a scaled study is trained for less than the published figures belong to"
CHANCE = 105.0
"""percent, to be shared by the classes: what has no more has learned nothing; in a test split classes are not quite alike"""

_CLAIM: TypeAdapter[Claim] = TypeAdapter(Claim)


def judge(store: Store) -> list[stats.Verdict]:
    """Judge every claim that the study declared, in its order, from the runs that the store holds so far."""
    return judge_table(store.definition, store.table(), classes_of(store.outcomes()))


def judge_also(store: Store, claims: Iterable[Claim]) -> list[stats.Verdict]:
    """Judge further claims, which were made when the runs were there: exploratory. They are corrected over all claims, those
    that the study declared included; these keep their own verdicts."""
    definition, further = store.definition, [claim.model_dump(mode="json") for claim in claims]
    both = {**definition, "claims": [*definition["claims"], *further]}
    return judge_table(both, store.table(), classes_of(store.outcomes()))[-len(further) :]


def classes_of(runs: Iterable[StoredRun]) -> int | None:
    """How many classes the data have, as the last layer of a finished network tells; None where it is the user's own."""
    names = (name for run in runs if run.result for name in run.result.fingerprints)
    return next((int(match[1]) for name in names if (match := re.match(r"init head\.bias (\d{1,6}) ", name))), None)


def judge_table(definition: Mapping[str, Any], table: pd.DataFrame, classes: int | None = None) -> list[stats.Verdict]:
    """As ``judge``, from ``Store.definition``, ``Store.table()`` and the number of classes, where it is known."""
    declared = definition.get("claims", [])
    levels = design_of(definition)
    if table.empty:
        return [_undecided(raw, "no run is planned yet") for raw in declared]
    runs = Runs(table, list(levels))
    asked: list[Claim] = []
    why_not: dict[int, str] = {}
    for number, raw in enumerate(declared):
        try:
            claim = _CLAIM.validate_python(raw)
        except ValidationError:
            why_not[number] = f"{NOT_ASKED}: this version of allelse cannot read the claim"
            continue
        if reason := why_not_asked(claim, levels):
            why_not[number] = f"{NOT_ASKED}: {reason}"
        elif _may_be_measured(runs, claim, levels):
            asked.append(claim)
        else:
            why_not[number] = f"{NOT_ASKED}: no finished run has the metric {claim.metric!r}"
    judged = stats.verdicts(asked, table, definition.get("alpha", 0.05), levels) if asked else []
    found = iter([_doubted(*each, runs, levels, classes) for each in zip(judged, asked, strict=True)])
    return [_undecided(raw, why_not[number]) if number in why_not else next(found) for number, raw in enumerate(declared)]


def _doubted(verdict: stats.Verdict, claim: Claim, runs: Runs, levels: Design, classes: int | None) -> stats.Verdict:
    """Say of arms that were found alike that none of them has learned anything, where that is so."""
    if (
        verdict.verdict != "supported"
        or claim.kind not in ("within", "stable")
        or claim.metric not in ACCURACIES
        or not classes
    ):
        return verdict
    for contrast in contrasts(claim, levels):
        for arm, _ in contrast.weights:
            values = runs.values(arm, claim.metric)[0]
            values = values[np.isfinite(values)]
            if not (stats.t_interval(values)[0] <= CHANCE / classes and values.min() <= CHANCE / classes):
                return verdict
    chance = f"the {100 / classes:.3g} % of chance"
    return replace(
        verdict, sentence=f"{verdict.sentence} But no arm here is clearly above {chance}: what has learned nothing is alike."
    )


def of_a_second_look(seeds: Sequence[int], parts: Iterable[Mapping[str, Any]]) -> str:
    """What to mind of a folder with ``seeds`` that was united from ``parts``; empty where nobody could look in between."""
    if not any(1 < len(part["seeds"]) < len(seeds) for part in parts):  # one seed decides nothing
        return ""
    return (
        "If some were added because a claim was undecided, that claim is wrong more often than alpha says: alpha holds for a "
        "number of seeds that was settled before. New seeds alone confirm what a second look found."
    )


def compare(store: Store) -> list[stats.Comparison]:
    """Put every published figure that the study names beside the runs that the store holds so far."""
    return compare_table(store.definition, store.table())


def compare_table(definition: Mapping[str, Any], table: pd.DataFrame) -> list[stats.Comparison]:
    """As ``compare``, from ``Store.definition`` and ``Store.table()``."""
    arms = [arm["levels"] for arm in definition.get("arms", [])]
    why_not = QUICK if definition.get("quick") else None
    found = stats.compare(definition.get("references", []), arms, table, definition.get("alpha", 0.05), why_not)
    if not definition.get("scaled"):
        return found
    return [
        replace(
            one,
            verdict="cannot tell",
            low=None,
            high=None,
            within=None,
            p=None,
            p_adjusted=None,
            prediction_low=None,
            prediction_high=None,
            reason=SCALED,
        )
        for one in found
    ]


def design_of(definition: Mapping[str, Any]) -> Design:
    """Which combinations of levels are arms, as it was declared."""
    return Design(
        definition.get("factors", {}), [arm["levels"] for arm in definition["arms"]] if "arms" in definition else None
    )


def why_not_asked(claim: Claim, levels: Design) -> str | None:
    """Why a run with these levels cannot say anything of a claim; None where it can."""
    try:
        check_claims([claim], levels)
    except StudyError as error:
        reason = str(error).removeprefix(f"claim {claim.id!r}: ")
        return _lacking(claim, levels) or re.split("; (?:did you mean|allowed:|there is none)", reason)[0]
    return None


def _lacking(claim: Claim, levels: Design) -> str:
    """The levels that a claim names and no arm has; empty where that is not what is wrong with it."""
    named = {
        f"{factor} = {level_text(level)}": None
        for _, factor, level in claim.named()
        if factor in levels and level_key(level) not in map(level_key, levels[factor])
    }
    return f"no arm has {' or '.join(named)}" if named else ""


def _may_be_measured(runs: Runs, claim: Claim, levels: Design) -> bool:
    """Whether a run has the claim's metric, or one that the claim compares is lost or not finished."""
    try:
        runs.check_metric(claim.metric, [arm for contrast in contrasts(claim, levels) for arm, _ in contrast.weights])
    except StudyError:
        return False
    return True


def _undecided(raw: Mapping[str, Any], reason: str) -> stats.Verdict:
    return stats.Verdict(
        id=str(raw.get("id", "")),
        says=str(raw.get("says", "")),
        kind=str(raw.get("kind", "")),
        metric=str(raw.get("metric", "accuracy")),
        verdict="undecided",
        estimate=None,
        low=None,
        high=None,
        level=0.95,
        p=None,
        p_adjusted=None,
        p_sign_flip=None,
        n=0,
        correlation=None,
        sentence=f"Undecided: {reason}.",
        reason=reason,
        parts=(),
    )
