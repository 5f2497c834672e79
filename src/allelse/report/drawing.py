"""Drawing: a figure's shapes in; a matplotlib figure out. No statistics are done here."""

from __future__ import annotations

import textwrap
from itertools import accumulate, pairwise
from math import ceil, floor, isfinite, log10

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from allelse.report.shapes import LETTERS_IN_A_LABEL, Chart, Figure, Line, Mark, Rows
from allelse.report.style import COLOURS, DASHES, GRID, INK, MARKERS, WIDTH, drawable

PANEL_HEIGHT, ROW_HEIGHT, LETTERS_A_LINE = 2.35, 0.46, 76
BELOW_LABEL = 0.19
LETTERS_IN_A_ROW = 38
"""of three legend entries that fit beside one another"""
MANY = 2_000
"""single-seed marks beyond which they are stored as pixels: an SVG of each would take megabytes"""


def draw(figure: Figure) -> Canvas:
    """Draw on a new canvas without a ground, within ``style.style()``."""
    legend = _legend(figure)
    columns = 3 if len(legend) == 3 and sum(len(str(entry.get_label())) for entry in legend) <= LETTERS_IN_A_ROW else 2
    above = 0.235 * -(-len(legend) // columns)
    height = above + (PANEL_HEIGHT * len(figure.panels) if isinstance(figure, Chart) else _tops(figure)[-1] + 0.72)
    layout = ConstrainedLayoutEngine(rect=(0.0, 0.0, 0.985, 1 - above / height))
    canvas = Canvas(figsize=(WIDTH, height), layout=layout)
    if isinstance(figure, Chart):
        _draw_chart(canvas, figure)
    else:
        _draw_rows(canvas.subplots(), figure)
    for axes in canvas.axes:
        axes.set_facecolor("none")
    if legend:
        canvas.legend(
            handles=legend, loc="upper left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.1, columnspacing=1.2
        )
    layout.execute(canvas)
    if isinstance(figure, Rows):
        _draw_grid(canvas.axes[0], figure)
    canvas.set_layout_engine("none")  # each file would lay it out anew, after a drawing of its own
    return canvas


def caption(canvas: Canvas, figure: Figure) -> Bbox:
    """Write title and caption around what ``draw`` drew, for files that travel alone; the whole picture's box in inches."""
    lines = textwrap.wrap(drawable(figure.words.caption, 1000), LETTERS_A_LINE)
    width, height = canvas.get_size_inches()
    top, bottom = height + 0.26, -0.16 * len(lines) - 0.08
    canvas.text(0.015, (top - 0.06) / height, drawable(figure.words.title), va="top", weight="bold", size=11)
    canvas.text(0.015, (bottom + 0.06) / height, "\n".join(lines), va="bottom", size=7.6, linespacing=1.25)
    return Bbox.from_extents(0.0, bottom, width, top)


def _colour(style: int) -> str:
    return COLOURS[style % len(COLOURS)]


def _marker(style: int) -> str:
    return MARKERS[style % len(MARKERS)]


# ── charts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _draw_chart(canvas: Canvas, chart: Chart) -> None:
    panels = canvas.subplots(len(chart.panels), sharex=True, sharey=True, squeeze=False)[:, 0]
    marks = sum(len(line.seeds) * len(line.x) for panel in chart.panels for line in panel.lines)
    for axes, panel in zip(panels, chart.panels, strict=True):
        if chart.x_scale == "log2":
            axes.set_xscale("log", base=2)
        if chart.y_scale == "log":
            axes.set_yscale("log")
        for number, line in enumerate(panel.lines):
            _draw_line(axes, line, _nudge(chart, number, len(panel.lines)), marks > MANY, chart.x_scale == "log2")
        axes.set_title(drawable(panel.title, 40, keep_end=True))
        axes.set_ylabel(chart.y_label)
        if chart.ticks:
            axes.set_xticks([place for place, _ in chart.ticks], [drawable(label, 10) for _, label in chart.ticks])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(visible=False, axis="x")
    if chart.percent:
        low, high = panels[0].get_ylim()
        panels[0].set_ylim(max(low, -2.5), min(high, 102.5))
    if chart.whole_ticks:
        panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if chart.y_scale == "log":
        low, high = map(log10, panels[0].get_ylim())
        if floor(high) - ceil(low) < 1:  # fewer than two powers of ten to read it by
            panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high - low > 0.7 else MaxNLocator(5))
            panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        else:
            panels[0].yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
        panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[-1].set_xlabel(drawable(chart.x_label))


def _power_of_ten(value: float, _place: object) -> str:
    """``10⁻³``, without matplotlib's mathematics, which is off so that a level may be called "$x$"."""
    return "10" + f"{round(log10(value))}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")) if value > 0 else ""


def _nudge(chart: Chart, number: int, lines: int) -> tuple[float, float]:
    """What a line's places are multiplied by and shifted by, so that intervals at one place lie side by side."""
    if not chart.panels[0].lines[0].low:
        return (1.0, 0.0)
    share = (number - (lines - 1) / 2) * min(0.12, 0.3 / max(lines, 1))
    places = sorted({x for panel in chart.panels for line in panel.lines for x in line.x})
    if chart.x_scale == "log2":
        return (2.0**share, 0.0)
    step = min((later - earlier for earlier, later in pairwise(places)), default=1.0)
    return (1.0, share * step)


def _draw_line(axes: Axes, line: Line, nudge: tuple[float, float], many: bool, log: bool) -> None:
    colour, x = _colour(line.style), np.array(line.x) * nudge[0] + nudge[1]
    mean = np.array(line.mean)
    if line.seeds and line.seeds_as == "lines":
        segments = [np.column_stack([x, seed]) for seed in line.seeds]
        axes.add_collection(LineCollection(segments, colors=colour, linewidths=0.6, alpha=0.35, zorder=1, rasterized=many))
    elif line.seeds:
        seeds = np.array(line.seeds)
        gap = np.min(np.diff(np.log2(x) if log else x)) if len(x) > 1 else 1.0
        shift = _jitter(len(seeds))[:, None] * 0.07 * gap
        places = x * 2.0**shift if log else x + shift
        axes.plot(
            np.broadcast_to(places, seeds.shape).ravel(),
            seeds.ravel(),
            linestyle="none",
            marker=_marker(line.style),
            markersize=3.2,
            color=colour,
            alpha=0.45,
            markeredgewidth=0,
            zorder=2,
            rasterized=many,
        )
    if line.faint:
        axes.plot(x, mean, color=colour, linewidth=1.0, linestyle=(0, (1, 1.6)), zorder=3)
        return
    dashes = DASHES[line.style % len(DASHES)]
    every = max(1, len(x) // 8)
    axes.plot(
        x,
        mean,
        color=colour,
        linewidth=1.5,
        linestyle=(0, dashes) if dashes else "-",
        marker=_marker(line.style),
        markersize=5,
        markevery=every,
        zorder=4,
    )
    if line.low:
        low, high = np.array(line.low), np.array(line.high)
        axes.vlines(x[np.isfinite(low)], low[np.isfinite(low)], high[np.isfinite(low)], color=colour, linewidth=1.6, zorder=3)
    for place, value in line.references:
        axes.plot(place * nudge[0] + nudge[1], value, marker="s", markersize=8, markerfacecolor="none", color=colour, zorder=5)


def _jitter(seeds: int) -> np.ndarray:
    """Places in −1 … 1, the same for the same number: the golden ratio's multiples fill the range without a random draw."""
    return 2 * ((np.arange(seeds) * 0.6180339887498949) % 1.0) - 1 if seeds > 1 else np.zeros(seeds)


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tops(figure: Rows) -> list[float]:
    """Where each row begins, and where the last one ends."""
    return list(accumulate((ROW_HEIGHT + 0.16 * (len(row.marks) - 1) for row in figure.rows), initial=0.0))


def _draw_rows(axes: Axes, figure: Rows) -> None:
    for row, (top, bottom) in zip(figure.rows, pairwise(_tops(figure)), strict=True):
        if figure.zero:
            axes.plot([0, 0], [top + BELOW_LABEL, bottom], color=INK, linewidth=1.0, zorder=1)
        if row.margin:
            axes.fill_between(
                [-row.margin, row.margin], top + 0.21, bottom - 0.02, color=INK, alpha=0.13, linewidth=0, zorder=0
            )
        label = axes.text(
            0.0, top + 0.04, _short(row.label, LETTERS_IN_A_LABEL), transform=axes.get_yaxis_transform(), va="top", size=9.5
        )
        label.set_in_layout(False)  # it may reach out of the axes to the right, which stay as wide as the picture
        for number, mark in enumerate(row.marks):
            _draw_mark(axes, mark, top + 0.3 + 0.16 * number)
    axes.set_ylim(_tops(figure)[-1] + 0.04, -0.04)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(figure.x_label)
    axes.margins(x=0.06)
    if not any(isfinite(mark.mean) for row in figure.rows for mark in row.marks):
        axes.set_xlim(0, 100)
    if not figure.zero:
        low, high = axes.get_xlim()
        axes.set_xlim(max(low, -2), min(high, 101))


def _draw_grid(axes: Axes, figure: Rows) -> None:
    """Lines at the ticks, which are settled by now, that leave the labels of the rows alone."""
    low, high = axes.get_xlim()
    axes.set_xlim(low, high)  # to stay
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    for top, bottom in pairwise(_tops(figure)):
        axes.vlines(ticks, top + BELOW_LABEL, bottom, color=GRID, linewidth=0.6, zorder=0)


def _draw_mark(axes: Axes, mark: Mark, y: float) -> None:
    colour = _colour(mark.style)
    seeds = np.array(mark.seeds)
    axes.plot(
        seeds,
        y + 0.045 * _jitter(len(seeds)),
        linestyle="none",
        marker="o",
        markersize=3.2,
        markeredgewidth=0,
        color=colour,
        alpha=0.5,
        zorder=3,
        rasterized=len(seeds) > MANY // 10,
    )
    if isfinite(mark.low):
        axes.plot([mark.low, mark.high], [y, y], color=colour, linewidth=2.0, solid_capstyle="butt", zorder=4)
    if isfinite(mark.mean):
        marker = "D" if mark.style == 0 else _marker(mark.style)
        axes.plot(mark.mean, y, marker=marker, markersize=5.5, color=colour, zorder=5)
    for value in mark.references:
        axes.plot(value, y, marker="s", markersize=8.5, markerfacecolor="none", color=INK, zorder=6)


# ── legends ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _short(label: str, most: int = 26) -> str:
    """Cut in the middle: labels of parts of one module, or of one optimiser, differ at the end."""
    return drawable(label, most, keep_end=True)


def _legend(figure: Figure) -> list[Line2D]:
    """One entry a series, once; none where there is nothing to tell apart."""
    if isinstance(figure, Rows):
        style_from_label = {mark.label: mark.style for row in figure.rows for mark in row.marks}
        references = any(mark.references for row in figure.rows for mark in row.marks)
    else:
        style_from_label = {line.label: line.style for panel in figure.panels for line in panel.lines}
        references = any(line.references for panel in figure.panels for line in panel.lines)
    entries = []
    for label, style in style_from_label.items() if len(style_from_label) > 1 else ():
        dashes = DASHES[style % len(DASHES)] if isinstance(figure, Chart) else ()
        marker = "D" if isinstance(figure, Rows) and style == 0 else _marker(style)
        line: object = (0, dashes) if dashes else "-"
        entries.append(
            Line2D([], [], color=_colour(style), marker=marker, markersize=5, linestyle=line, label=_short(label))  # type: ignore[arg-type]
        )
    if references:
        hollow = {"marker": "s", "markersize": 8, "markerfacecolor": "none", "linestyle": "none", "color": INK}
        entries.append(Line2D([], [], label="published", **hollow))  # type: ignore[arg-type]
    return entries
