"""Tables: findings in; the report's tables, as rows of text, out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from allelse import stats
from allelse.errors import counted
from allelse.report.accuracy import WAYS, mean_of
from allelse.report.findings import Findings, finite
from allelse.report.sameness import differing_keys
from allelse.stats.runs import PROBLEMS
from allelse.stats.sentences import metric_text, number, p_text

NONE = "–"

PROBES = (
    ("gradient_decades_start", "gradient decades, start", "log10 of the relative gradient (gradient over weight norm) of the "
     "last block over the first, at the first step; above 0 gradients vanish towards the input, below 0 they grow"),
    ("gradient_decades_end", "gradient decades, end", "the same at the last probed step"),
    ("saturated", "saturated", "share of activation inputs where the slope is under 0.05"),
    ("dead", "dead", "share of channels that are saturated for a whole batch"),
    ("effective_rank", "effective rank", "participation ratio of the last block's output channels"),
    ("mean_distance", "distance of means", "running means of BatchNorm from those of the training split, in its standard "
     "deviations"),
    ("variance_distance", "distance of variances", "the same of variances, as |ln| of their ratio"),
    ("batch_noise", "batch noise", "scatter of the means of training batches, in standard deviations"),
)  # fmt: skip
"""(metric, heading, what it is)"""


@dataclass(frozen=True)
class Table:
    """A table as it is shown; the first column names the row."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def arm_table(findings: Findings) -> Table | None:
    """One row an arm."""
    if findings.grid is None or not findings.has("accuracy"):
        return None
    summary = stats.arm_table(findings.table, list(findings.levels), "accuracy")
    troubles = [name for name in PROBLEMS if summary[name].any()]
    columns = ("arm", "n", "mean %", "sd", "95 % t interval", *troubles)
    rows = tuple(
        (
            findings.arm_name(row),
            str(row["n"]),
            _percent(row["mean"]),
            _percent(row["sd"]),
            _interval(row["low"], row["high"]),
            *(str(row[name] or 0) for name in troubles),
        )
        for row in summary.to_dict("records")
    )
    return Table("arms", "Test accuracy by arm, last epoch, over seeds", columns, rows)


def parts_table(verdict: stats.Verdict) -> Table | None:
    """The comparisons that a claim needs, where they are more than one."""
    if len(verdict.parts) < 2:
        return None
    level = f"{100 * verdict.level:g} % t interval"
    rows = tuple(
        (
            part.label,
            value(part.estimate, verdict.metric, signed=True),
            interval(part.low, part.high, verdict.metric),
            p_cell(part.p_support),
            str(part.n),
            NONE if part.correlation is None else f"{part.correlation:.2f}".replace("-", "−"),
        )
        for part in verdict.parts
    )
    columns = ("comparison", "estimate", level, "p (small: it holds)", "n", "correlation")
    return Table(
        f"parts-{verdict.id}", f"All comparisons of {verdict.id} in {metric_text(verdict.metric)}, uncorrected", columns, rows
    )


def tuning_table(findings: Findings) -> Table | None:
    """The number that was chosen for each arm, or for arms that share a choice, with the score of every value tried."""
    tuning = findings.tuning
    if tuning is None:
        return None
    rows = tuple(
        (
            findings.arm_name(choice.levels) if choice.levels else "all arms",
            f"{choice.value:g}" + (f" ({choice.at_edge} tried)" if choice.at_edge else ""),
            *(
                f"{tried.diverged} diverged" if tried.mean is None else value(tried.mean, tuning.metric)
                for tried in choice.tried
            ),
        )
        for choice in tuning.choices
    )
    columns = ("arm", f"{tuning.key} chosen", *(f"{tried.value:g}" for tried in tuning.choices[0].tried))
    return Table("tuning", f"Tuning: mean {metric_text(tuning.metric)} of each value of {tuning.key}", columns, rows)


def evaluation_table(findings: Findings) -> Table | None:
    """The three evaluations of each arm, and the gap between recalibrated and running statistics."""
    ways = [(metric, label) for metric, label in WAYS if findings.has(metric)]
    if len(ways) < 2 or findings.grid is None:
        return None
    has_gap = {"accuracy_running", "accuracy_recalibrated"} <= {metric for metric, _ in ways}
    rows = []
    for arm in findings.arms:
        columns = [findings.values(arm, metric) for metric, _ in ways]
        cells = [_percent(mean_of(column)) for column in columns]
        if has_gap:
            gap = finite(columns[1] - columns[0])
            cells += [_percent(mean_of(gap), signed=True), _interval(*stats.t_interval(gap), signed=True)]
        rows.append((findings.arm_name(arm), str(len(finite(columns[0]))), *cells))
    shown = [f"{label} %" for _, label in ways] + (["recalibrated − running", "95 % t interval"] if has_gap else [])
    return Table(
        "evaluations",
        "Test accuracy of the same networks under three ways to normalise, means over seeds",
        ("arm", "n", *shown),
        tuple(rows),
    )


def probe_table(findings: Findings) -> Table | None:
    """Means over seeds of what was measured inside the networks."""
    measured = [(metric, heading) for metric, heading, _ in PROBES if findings.has(metric)]
    if not measured:
        return None
    rows = tuple(
        (findings.arm_name(arm), *(value(mean_of(findings.values(arm, metric)), metric) for metric, _ in measured))
        for arm in findings.arms
    )
    return Table("probes", "Probes at the end of training, means over seeds", ("arm", *(name for _, name in measured)), rows)


def probe_legend(findings: Findings) -> list[tuple[str, str]]:
    """What each column of ``probe_table`` is."""
    return [(heading, what) for metric, heading, what in PROBES if findings.has(metric)]


def difference_table(findings: Findings) -> Table | None:
    """The recipe keys in which arms differ."""
    keys = differing_keys(findings)
    rows = tuple((key, ", ".join(values)) for key, values in keys.items())
    meaning = f" ({NONE}: at the default, or there is no such key)" if any(NONE in values for values in keys.values()) else ""
    caption = f"Recipe keys that differ between arms{meaning}"
    return Table("differed", caption, ("key", "values"), rows) if rows else None


def machine_table(findings: Findings) -> Table | None:
    """What the runs were made with."""
    kinds = Counter(
        (made.device_text, made.precision, str(made.threads), made.allelse, made.commit or NONE, made.torch, made.python)
        for made in findings.made
    )
    columns = ("device", "precision", "CPU threads", "allelse", "commit", "torch", "python", "runs")
    rows = tuple((*kind, str(count)) for kind, count in sorted(kinds.items()))
    return Table("machines", "Versions, hardware and precision", columns, rows) if rows else None


def trouble_table(findings: Findings, most: int = 200) -> tuple[Table | None, int]:
    """Runs that diverged or failed one by one, pending ones counted by arm; and how many rows there was no room for."""
    rows = [
        (findings.arm_name(run.arm), str(run.seed), run.status, (run.result.error if run.result else None) or "no message")
        for run in findings.runs
        if run.status in ("diverged", "failed")
    ]
    pending = Counter(findings.arm_name(run.arm) for run in findings.runs if run.status == "pending")
    rows += [(arm, counted(count, "seed"), "pending", "not finished yet") for arm, count in pending.items()]
    columns = ("arm", "seed", "status", "what happened")
    table = Table("trouble", "Runs that diverged, failed or are pending", columns, tuple(rows[:most])) if rows else None
    return table, max(0, len(rows) - most)


def p_cell(p: float | None) -> str:
    """``0.012``, ``< 0.001``, or a dash, under a heading that says that it is a p-value."""
    return NONE if p is None else p_text(p).removeprefix("p = ").removeprefix("p ")


def value(estimate: float | None, metric: str, *, signed: bool = False) -> str:
    """A value of a metric with no more digits than the evidence has; a dash where there is none."""
    return NONE if estimate is None or not isfinite(estimate) else number(estimate, metric, signed)


def interval(low: float | None, high: float | None, metric: str) -> str:
    ends = [value(end, metric, signed=True) for end in (low, high)]
    return NONE if NONE in ends else " to ".join(ends)


def _percent(percent: Any, *, signed: bool = False) -> str:
    return value(float(percent), "accuracy", signed=signed)


def _interval(low: float, high: float, *, signed: bool = False) -> str:
    ends: Sequence[str] = [_percent(end, signed=signed) for end in (low, high)]
    return NONE if NONE in ends else " to ".join(ends)
