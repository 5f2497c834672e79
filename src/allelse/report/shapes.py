"""Shapes of figures: plain numbers and words, computed before anything is drawn. ``drawing`` does no statistics.

    Chart   lines over an axis of numbers (accuracy along a factor, learning curves, gradients by layer), in stacked panels
    Rows    marks over a horizontal axis, one row an arm or a difference

Every value that is missing is nan. ``style`` numbers choose colour, marker and dash together, so that no meaning hangs on
colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Words:
    """What stands around a figure."""

    name: str
    """the stem of its files"""
    title: str
    caption: str
    """what is shown, what the bars are, n, hardware and precision"""
    alt: str
    """the figure for one who cannot see it"""


@dataclass(frozen=True)
class Line:
    """One series of a chart."""

    label: str
    style: int
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    """interval ends, one a place of ``x``; both empty where none are drawn"""
    seeds: tuple[tuple[float, ...], ...] = ()
    """one sequence over ``x`` a seed"""
    seeds_as: Literal["markers", "lines"] = "markers"
    faint: bool = False
    """drawn thin and dotted: the companion of another line of its style"""
    references: tuple[tuple[float, float], ...] = ()
    """published (x, value)"""


@dataclass(frozen=True)
class Panel:
    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Chart:
    words: Words
    panels: tuple[Panel, ...]
    x_label: str
    y_label: str
    x_scale: Literal["linear", "log2"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"
    ticks: tuple[tuple[float, str], ...] = ()
    """(place, label); empty: matplotlib's own"""
    whole_ticks: bool = False
    """whether only whole numbers are places of ``x``"""
    percent: bool = True
    """whether the y axis is bounded by 0 and 100"""


@dataclass(frozen=True)
class Mark:
    """One mean with its interval and its seeds, within a row."""

    label: str
    style: int
    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]
    references: tuple[float, ...] = ()


LETTERS_IN_A_LABEL = 60
"""that a row has room for"""


@dataclass(frozen=True)
class Row:
    label: str
    marks: tuple[Mark, ...]
    margin: float | None = None
    """half the width of the band of equivalence about 0"""


@dataclass(frozen=True)
class Rows:
    words: Words
    rows: tuple[Row, ...]
    x_label: str
    zero: bool = False
    """whether 0 is marked: the rows are differences; else the axis is bounded by 0 and 100 %"""


Figure = Chart | Rows
