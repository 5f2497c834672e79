"""Published figures: comparisons in; the table of theirs beside ours, and what must be said with it, out."""

from __future__ import annotations

from collections.abc import Sequence

from allelse import stats
from allelse.design import arm_text
from allelse.records import METRICS
from allelse.report.findings import Findings
from allelse.report.tables import NONE, Table, interval, p_cell, value
from allelse.stats.comparisons import Summary


def published_table(findings: Findings) -> Table | None:
    """One row a published figure and arm of ours; None where a quick study or no reference leaves nothing to show."""
    shown = findings.comparisons
    if not shown or findings.definition.get("quick"):
        return None
    sources = len({one.source for one in shown}) > 1
    aided = any(one.prediction_low is not None for one in shown)
    level = level_text(shown)
    columns = (
        *("arm", "verdict", "theirs", "ours", "ours − theirs", f"{level} interval", "p after Holm"),
        *([f"{level} prediction interval"] if aided else []),
        *(["published by"] if sources else []),
    )
    rows = tuple(
        (
            with_metric(name_of(findings, one), one.metric, "; "),
            one.words,
            summary_text(one.theirs, one.metric),
            summary_text(one.ours, one.metric),
            value(one.difference, one.metric, signed=True),
            interval(one.low, one.high, one.metric),
            p_cell(one.p_adjusted),
            *([_prediction(one)] if aided else []),
            *([one.source] if sources else []),
        )
        for one in shown
    )
    only = "" if sources else f" by {shown[0].source}"
    return Table("published", f"Published{only}, beside ours: mean ± sd in percent, n runs", columns, rows)


def notes(findings: Findings) -> list[str]:
    """What must be said with the figures: what was tested and how, and why the rest cannot be told."""
    definition, shown = findings.definition, findings.comparisons
    if not shown:
        return []
    if definition.get("quick"):
        return [
            "This is a quick study: other data and a smaller recipe than the study's own. The published figures that the study "
            f"names ({len(definition['references'])}) belong to the full recipe, so they are not shown beside these numbers."
        ]
    lines, level = [], level_text(shown)
    if any(one.p_adjusted is not None for one in shown):
        lines.append(
            "Welch's t test from both means, sds and n; n counts seeds, and nothing is paired, since their seeds are not ours. "
            f"“Differs” means p ≤ {1 - shown[0].level:.3g} after Holm's correction over the references that give sd and n; "
            f"“agrees within X”, that the {level} interval of ours − theirs holds 0 and ends within ±X."
        )
    if any(one.prediction_low is not None for one in shown):
        lines.append(
            f"The {level} prediction interval (PI) is where a new run of ours would lie, or the mean of as many as theirs "
            "where their n is given. It is an aid and no test: it takes their spread to be ours."
        )
    arms_from_reason: dict[str, dict[str, None]] = {}
    for one in shown:
        if one.reason:
            arms_from_reason.setdefault(one.reason, {})[name_of(findings, one)] = None
    everywhere = len(arms_from_reason) == 1 and all(one.reason for one in shown)
    for reason, arms in arms_from_reason.items():
        lines.append(f"Cannot tell: {reason}" + ("." if everywhere else f" ({'; '.join(arms)})."))
    lines += dict.fromkeys(f"Note on {name_of(findings, one)} by {one.source}: {one.note}" for one in shown if one.note)
    set_ = [change for option, change in findings.changes if option == "--set"]
    if changes := [change for change in set_ if change.partition("=")[0].strip() not in findings.levels]:
        lines.append(
            f"This run was changed by {', '.join(changes)}: the published figures belong to the study file's own recipe."
        )
    lines += [f"{metric}: {METRICS.get(metric, 'unknown here')}." for metric in dict.fromkeys(one.metric for one in shown)]
    return lines


def name_of(findings: Findings, one: stats.Comparison) -> str:
    """The arm's short name; all levels of one that this run does not have."""
    return findings.arm_name(one.arm) if one.arm in findings.arms else arm_text(one.arm)


def level_text(shown: Sequence[stats.Comparison]) -> str:
    return f"{100 * shown[0].level:g} %"


def summary_text(side: Summary, metric: str, joint: str = ", ") -> str:
    """``83.10 ± 0.30, n = 5``."""
    if side.mean is None:
        return "no run"
    spread = f" ± {value(side.sd, metric)}" if side.sd is not None else ""
    return f"{value(side.mean, metric)}{spread}{joint}n {'unknown' if side.n is None else f'= {side.n}'}"


def with_metric(name: str, metric: str, joint: str) -> str:
    """An arm's name, with the metric where that is not the headline."""
    return name if metric == "accuracy" else f"{name}{joint}{metric}"


def _prediction(one: stats.Comparison) -> str:
    if one.prediction_low is None or one.prediction_high is None:
        return NONE
    place = "theirs inside" if one.is_expected else "theirs outside"
    return f"{value(one.prediction_low, one.metric)} to {value(one.prediction_high, one.metric)}, {place}"
