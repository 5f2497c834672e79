"""Learning curves: findings in; accuracy by epoch on both splits, arm by arm with every seed, as a chart out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from allelse.report.findings import Findings, seeds_text
from allelse.report.layout import MOST_SERIES, and_more, combinations_of, layout_of, panels_of, whole_arm
from allelse.report.shapes import Chart, Line, Panel, Words
from allelse.stats.effects import Floats

SPLITS = ("test", "train")


def learning_curves(findings: Findings) -> Chart | None:
    """Series as in the other figures; of many panels the first, the last and some between."""
    layout = layout_of(findings)
    there = [arm for arm in findings.arms if any(_by_epoch(findings, arm, f"{split}_accuracy").size for split in SPLITS)]
    chosen, panels = panels_of(findings, layout, there)
    all_series = list(combinations_of(findings, layout.series))
    series = all_series[:MOST_SERIES]
    drawn, counts = [], []
    for fixed in chosen:
        lines = []
        for style, one in enumerate(series):
            arm = whole_arm(findings, {**fixed, **one})
            if arm is None:
                continue
            label = findings.arm_name(one) if one else "the only arm"
            for split in SPLITS:
                values = _by_epoch(findings, arm, f"{split}_accuracy")
                if values.size:
                    lines.append(_line(label, style, split, values))
                    counts.append(len(values))
        if lines:
            drawn.append(Panel(findings.arm_name(fixed) if fixed else "", tuple(lines)))
    if not drawn:
        return None
    counts += [0] * (len(findings.arms) - len(there))
    several = max(counts) > 1
    caption = (
        f"Accuracy after each epoch: strong lines are {'means ' if several else ''}on the test split, dotted lines "
        f"{'means ' if several else ''}on the training split (as measured while training)"
        f"{', thin lines single seeds' if several else ''}. {seeds_text(counts)}; {findings.made_with}."
        + (f" Drawn are {len(drawn)} of {panels} panels, the ends among them." if len(drawn) < panels else "")
        + and_more(len(all_series) - len(series), "series")
    )
    ends = "; ".join(
        f"{panel.title + ', ' if panel.title else ''}{line.label}: {line.mean[-1]:.2f} %"
        for panel in drawn
        for line in panel.lines
        if not line.faint
    )
    words = Words("learning-curves", "Learning curves", caption, f"Test accuracy after the last epoch. {ends}.")
    return Chart(words, tuple(drawn), "epoch", "accuracy (%)", whole_ticks=True)


def _line(label: str, style: int, split: str, values: Floats) -> Line:
    epochs = tuple(float(epoch) for epoch in range(1, values.shape[1] + 1))
    counted = np.isfinite(values).sum(axis=0)
    mean = np.where(counted > 0, np.nansum(values, axis=0) / np.maximum(counted, 1), np.nan)
    seeds = tuple(map(tuple, values.tolist())) if split == "test" else ()
    return Line(label, style, epochs, tuple(mean.tolist()), seeds=seeds, seeds_as="lines", faint=split == "train")


def _by_epoch(findings: Findings, arm: Mapping[str, Any], metric: str) -> Floats:
    """Shape (seeds, epochs), nan where a run has no such epoch; empty without any value."""
    rows = [[epoch.get(metric) for epoch in result.epochs] for result in findings.results(arm)]
    longest = max(map(len, rows), default=0)
    values = np.array([[np.nan if value is None else value for value in row] + [np.nan] * (longest - len(row)) for row in rows])
    return values if values.size and np.isfinite(values).any() else np.empty((0, 0))
