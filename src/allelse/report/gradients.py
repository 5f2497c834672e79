"""Gradients: findings in; gradient norm by layer at the first and the last probed step, arm by arm, as a chart out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from allelse.records import RunResult
from allelse.report.findings import Findings, seeds_text
from allelse.report.layout import MOST_SERIES, and_more, combinations_of, layout_of, panels_of, whole_arm
from allelse.report.shapes import Chart, Line, Panel, Words
from allelse.stats.effects import Floats


def gradients(findings: Findings) -> Chart | None:
    """Layers run from the input to the output; None where no run was probed."""
    layout = layout_of(findings)
    there = [arm for arm in findings.arms if _by_layer(findings.results(arm))[0]]
    chosen, panels = panels_of(findings, layout, there)
    all_series = list(combinations_of(findings, layout.series))
    series = all_series[:MOST_SERIES]
    drawn, counts = [], []
    measured = [
        (fixed, style, one, _by_layer(findings.results(arm)))
        for fixed in chosen
        for style, one in enumerate(series)
        if (arm := whole_arm(findings, {**fixed, **one})) is not None
    ]
    # Panels share one axis, which the longest network names; a shorter one leaves gaps, so that its head stands at "head".
    all_layers = max((layers for *_, (layers, _, _) in measured), key=len, default=[])
    for fixed in chosen:
        lines = []
        for panel, style, one, (layers, first, last) in measured:
            if panel is fixed and layers:
                places = [float(all_layers.index(layer)) if layer in all_layers else float(n) for n, layer in enumerate(layers)]
                label = findings.arm_name(one) if one else "the only arm"
                lines.append(_line(label, style, places, last, faint=False))
                if not np.array_equal(first, last):
                    lines.append(_line(label, style, places, first, faint=True))
                counts.append(len(last))
        if lines:
            drawn.append(Panel(findings.arm_name(fixed) if fixed else "", tuple(lines)))
    if not drawn:
        return None
    counts += [0] * (len(findings.arms) - len(there))
    caption = (
        "Norm of the loss gradient by layer, from the input (left) to the output, on a logarithmic axis: strong lines at the "
        "last probed step, dotted lines at the first step"
        + (", geometric means over seeds; small marks are single seeds" if max(counts) > 1 else "")
        + f". {seeds_text(counts)}; {findings.made_with}."
        + (f" Drawn are {len(drawn)} of {panels} panels, the ends among them." if len(drawn) < panels else "")
        + and_more(len(all_series) - len(series), "series")
    )
    ratios = "; ".join(
        f"{panel.title + ', ' if panel.title else ''}{line.label}: {line.mean[0] / line.mean[-1]:.2g}"
        for panel in drawn
        for line in panel.lines
        if not line.faint and line.mean[0] > 0 and line.mean[-1] > 0
    )
    alt = f"First layer's norm over the last layer's, at the end. {ratios or 'None is known'}."
    words = Words("gradients", "Gradient norm by layer", caption, alt)
    ticks = tuple((float(place), _short(layer)) for place, layer in enumerate(all_layers))
    return Chart(
        words, tuple(drawn), "layer (numbers are blocks, from 0)", "gradient norm", y_scale="log", ticks=ticks, percent=False
    )


def _line(label: str, style: int, places: Sequence[float], values: Floats, *, faint: bool) -> Line:
    logs = np.log(np.where(values > 0, values, np.nan))
    counted = np.isfinite(logs).sum(axis=0)
    mean = np.where(counted > 0, np.exp(np.nansum(logs, axis=0) / np.maximum(counted, 1)), np.nan)
    seeds = () if faint else tuple(map(tuple, values.tolist()))
    return Line(label, style, tuple(places), tuple(mean.tolist()), seeds=seeds, faint=faint)


def _by_layer(results: Sequence[RunResult]) -> tuple[list[str], Floats, Floats]:
    """Layers in order, and gradient norms at the first and the last probed step, each of shape (seeds, layers)."""
    layers: list[str] = []
    rows = []
    for result in results:
        probes = [row for row in result.probes if _number(row.get("gradient_norm")) is not None]
        if probes:
            steps = [row.get("step", 0) for row in probes]
            found = [{row["layer"]: row for row in probes if row.get("step", 0) == step} for step in (min(steps), max(steps))]
            layers = layers or list(found[1])
            rows.append([[_norm(at.get(layer, {})) for layer in layers] for at in found])
    values = np.array(rows, dtype=float).reshape(len(rows), 2, len(layers))
    return layers, values[:, 0], values[:, 1]


def _norm(row: Mapping[str, Any]) -> float:
    value = _number(row.get("gradient_norm"))
    return float("nan") if value is None else value


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _short(layer: str) -> str:
    """``blocks.3.conv`` → ``3``: blocks by their number, and the projection of what a residual one adds apart."""
    parts = layer.split(".")
    if parts[0] != "blocks" or len(parts) == 1:
        return parts[0]
    return f"{parts[1]} skip" if parts[2:] == ["shortcut"] else parts[1]
