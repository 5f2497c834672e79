"""Accuracy figures: findings in; accuracy by arm with every seed, and the three evaluations of a norm, as shapes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from allelse import stats
from allelse.design import matches, ordered
from allelse.report.findings import Findings, finite, seeds_text
from allelse.report.layout import MOST_PANELS, MOST_SERIES, Layout, and_more, combinations_of, few, layout_of, whole_arm
from allelse.report.shapes import Chart, Figure, Line, Mark, Panel, Row, Rows, Words
from allelse.stats.effects import Floats

WAYS = (("accuracy_running", "running"), ("accuracy_recalibrated", "recalibrated"), ("accuracy_batch", "batch statistics"))
"""The three evaluations of a normalisation, by metric."""

MOST_ROWS = 24


def accuracy(findings: Findings) -> Figure | None:
    """The headline metric of every arm: along the numeric factor, or one row an arm where there is none."""
    if not findings.has("accuracy"):
        return None
    layout = layout_of(findings)
    published = "; hollow squares are published figures" if findings.references else ""
    bars = _bars(findings, ["accuracy"])
    alt = _by_arm(findings)
    if layout.x is None:
        rows, left_out = _rows(findings)
        words = Words(
            "accuracy",
            "Test accuracy by arm",
            f"Test accuracy after the last epoch{_statistics(findings)}. "
            f"Diamonds are {_means(bars)}{published}. {_n(findings, findings.arms)}; {findings.made_with}.{left_out}",
            alt,
        )
        return Rows(words, rows, "test accuracy (%)")
    panels, left_out = _along_panels(findings, layout, layout.x)
    words = Words(
        "accuracy",
        f"Test accuracy along {findings.short[layout.x].replace('_', ' ')}",
        f"Test accuracy after the last epoch{_statistics(findings)}. "
        f"Lines join {_means(bars)}{published}. {_n(findings, findings.arms)}; {findings.made_with}.{left_out}",
        alt,
    )
    return _chart(findings, words, layout, layout.x, panels)


def three_ways(findings: Findings) -> Figure | None:
    """Running against recalibrated against batch statistics; None where no arm has them, or they agree everywhere."""
    ways = [(metric, label) for metric, label in WAYS if findings.has(metric)]
    concerned = [arm for arm in findings.arms if ways_differ(findings, arm)]
    if not concerned:
        return None
    layout = layout_of(findings)
    same = len(findings.arms) - len(concerned)
    bars = _bars(findings, [metric for metric, _ in ways])
    note = f" Left out: {same} arm{'s' if same > 1 else ''} where all give the same answer." if same else ""
    caption = (
        f"Test accuracy of the same trained networks, normalised with running statistics, with statistics recalibrated over "
        f"the training split, and with those of each test batch{bars and f'; {bars}'}. "
        f"{_n(findings, concerned, [metric for metric, _ in ways])}; {findings.made_with}.{note}{_unlike_batches(findings)}"
    )
    gaps = [(float(gap.mean()), arm) for arm in concerned if len(gap := statistics_gap(findings, arm))]
    widest, arm = max(gaps, key=lambda gap: abs(gap[0]), default=(float("nan"), concerned[0]))
    alt = f"Widest distance between recalibrated and running statistics: {points_text(widest)} in {findings.arm_name(arm)}."
    words = Words("three-ways", "Running, recalibrated and batch statistics", caption, alt)
    if layout.x is None:
        rows = tuple(
            Row(
                findings.arm_name(arm),
                tuple(_mark(label, style, findings.values(arm, metric)) for style, (metric, label) in enumerate(ways)),
            )
            for arm in concerned[:MOST_ROWS]
        )
        return Rows(_with_left_out(words, len(concerned) - len(rows), "arms"), rows, "test accuracy (%)")
    panels = []
    for outer in combinations_of(findings, (*layout.series, *layout.panels)):
        levels = [
            level
            for level in ordered(findings.levels[layout.x])
            if whole_arm(findings, {**outer, layout.x: level}) in concerned
        ]
        lines = tuple(
            _line(findings, label, style, outer, layout.x, levels, metric) for style, (metric, label) in enumerate(ways)
        )
        if levels:
            panels.append(Panel(findings.arm_name(outer) if outer else "", lines))
    chosen = tuple(few(panels, MOST_PANELS))
    return _chart(findings, _with_left_out(words, len(panels) - len(chosen), "panels"), layout, layout.x, chosen)


def _statistics(findings: Findings) -> str:
    """Which statistics BatchNorm was evaluated with; nothing where the ways cannot differ."""
    if not any(ways_differ(findings, arm) for arm in findings.arms):
        return ""
    norms = [arm["recipe"].get("model", {}).get("norm") for arm in findings.definition["arms"]]
    recalibrated = any(isinstance(norm, Mapping) and norm.get("evaluate") == "recalibrated" for norm in norms)
    return ", with the statistics that norm.evaluate asks for" if recalibrated else ", with running statistics"


def _unlike_batches(findings: Findings) -> str:
    """Why statistics of test batches may stand apart with nothing wrong in the running ones."""
    recipes = [arm.get("recipe", {}) for arm in findings.definition.get("arms", [])]
    kinds = dict.fromkeys(kind["name"] for recipe in recipes for kind in recipe.get("augment", []))
    if not kinds:
        return ""
    return (
        f" Training images are augmented ({', '.join(kinds)}), also where statistics are recalibrated; test images are not, so "
        "that batch statistics differ by that, too."
    )


# ── along a factor ──────────────────────────────────────────────────────────────────────────────────────────────────


def _along_panels(findings: Findings, layout: Layout, x: str) -> tuple[tuple[Panel, ...], str]:
    outer = list(combinations_of(findings, layout.panels))
    chosen = few(outer, MOST_PANELS)
    series = list(combinations_of(findings, layout.series))
    panels = tuple(
        Panel(
            findings.arm_name(fixed) if fixed else "",
            tuple(
                _line(
                    findings,
                    findings.arm_name(one) if one else "accuracy",
                    style,
                    {**fixed, **one},
                    x,
                    ordered(findings.levels[x]),
                    "accuracy",
                )
                for style, one in enumerate(series[:MOST_SERIES])
                if any(whole_arm(findings, {**fixed, **one, x: level}) for level in findings.levels[x])
            ),
        )
        for fixed in chosen
    )
    left_out = and_more(len(outer) - len(chosen), "panels") + and_more(max(0, len(series) - MOST_SERIES), "series")
    return panels, left_out


def _line(
    findings: Findings, label: str, style: int, fixed: Mapping[str, Any], x: str, levels: Sequence[Any], metric: str
) -> Line:
    arms = [arm for level in levels if (arm := whole_arm(findings, {**fixed, x: level})) is not None]
    columns = [findings.values(arm, metric) for arm in arms]
    intervals = [stats.t_interval(finite(values)) for values in columns]
    published = [
        (float(arm[x]), float(reference["accuracy"]))
        for arm in arms
        for reference in findings.references
        if metric == "accuracy" and matches(reference["arm"], arm)
    ]
    return Line(
        label=label,
        style=style,
        x=tuple(float(arm[x]) for arm in arms),
        mean=tuple(mean_of(values) for values in columns),
        low=tuple(low for low, _ in intervals),
        high=tuple(high for _, high in intervals),
        seeds=tuple(map(tuple, np.array(columns).T.tolist())),
        references=tuple(published),
    )


def _chart(findings: Findings, words: Words, layout: Layout, x: str, panels: tuple[Panel, ...]) -> Chart:
    levels = ordered(findings.levels[x])
    ticks = tuple((float(level), str(level)) for level in levels) if len(levels) <= 10 else ()
    return Chart(words, panels, findings.short[x].replace("_", " "), "test accuracy (%)", layout.scale, ticks=ticks)


# ── one row an arm ──────────────────────────────────────────────────────────────────────────────────────────────────


def _rows(findings: Findings) -> tuple[tuple[Row, ...], str]:
    rows = []
    for arm in findings.arms[:MOST_ROWS]:
        published = tuple(float(each["accuracy"]) for each in findings.references if matches(each["arm"], arm))
        rows.append(Row(findings.arm_name(arm), (_mark("accuracy", 0, findings.values(arm), published),)))
    return tuple(rows), and_more(len(findings.arms) - len(rows), "arms")


def _mark(label: str, style: int, values: Any, references: tuple[float, ...] = ()) -> Mark:
    good = finite(values)
    low, high = stats.t_interval(good)
    return Mark(label, style, mean_of(values), low, high, tuple(good.tolist()), references)


# ── words and numbers ───────────────────────────────────────────────────────────────────────────────────────────────


def mean_of(values: Any) -> float:
    good = finite(values)
    return float(good.mean()) if len(good) else float("nan")


def statistics_gap(findings: Findings, arm: Mapping[str, Any]) -> Floats:
    """Accuracy with recalibrated statistics minus that with running ones, of every seed that has both."""
    return finite(findings.values(arm, "accuracy_recalibrated") - findings.values(arm, "accuracy_running"))


def ways_differ(findings: Findings, arm: Mapping[str, Any]) -> bool:
    """Whether the evaluations of an arm's norm are not all the same, as they are where it has no running statistics."""
    columns = [findings.values(arm, metric) for metric, _ in WAYS if findings.has(metric)]
    return any(not np.array_equal(columns[0], other, equal_nan=True) for other in columns[1:])


def _by_arm(findings: Findings) -> str:
    texts = []
    for arm in findings.arms:
        mean = mean_of(findings.values(arm))
        texts.append(f"{findings.arm_name(arm)}: " + (f"{mean:.2f} %" if mean == mean else "no finished run"))
    more = f"; and {len(texts) - MOST_ROWS} more arms in the table" if len(texts) > MOST_ROWS else ""
    return "Mean test accuracy. " + "; ".join(texts[:MOST_ROWS]) + more + "."


def points_text(value: float) -> str:
    return f"{value:+z.2f} points".replace("-", "−") if value == value else "no value"


def _bars(findings: Findings, metrics: Sequence[str]) -> str:
    """What bars and small marks are, if there are any; an interval leaves the axis where few seeds have a mean near 100 %."""
    ends = [stats.t_interval(finite(findings.values(arm, metric))) for metric in metrics for arm in findings.arms]
    if not np.isfinite(ends).any():
        return ""
    cut = ", cut off at the ends of the axis" if any(low < 0 or high > 100 for low, high in ends) else ""
    return f"bars are 95 % t intervals of the mean over seeds{cut}, small marks are single seeds"


def _means(bars: str) -> str:
    return f"means, {bars}" if bars else "the values of one seed"


def _n(findings: Findings, arms: Sequence[Mapping[str, Any]], metrics: Sequence[str] = ("accuracy",)) -> str:
    counts = [len(finite(findings.values(arm, metric))) for arm in arms for metric in metrics]
    return seeds_text(counts, "arm" if len(metrics) == 1 or len(set(counts)) == 1 else "mark")


def _with_left_out(words: Words, count: int, what: str) -> Words:
    return Words(words.name, words.title, words.caption + and_more(count, what), words.alt)
