"""Figures: findings in; every figure that the study gets, as plain data, and as files, out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allelse.report.accuracy import accuracy, three_ways
from allelse.report.curves import learning_curves
from allelse.report.differences import differences
from allelse.report.drawing import caption, draw
from allelse.report.findings import Findings
from allelse.report.gradients import gradients
from allelse.report.shapes import Figure
from allelse.report.style import inline_svg, png, style, svg

FIGURES = {
    "accuracy": accuracy,
    "differences": differences,
    "learning-curves": learning_curves,
    "three-ways": three_ways,
    "gradients": gradients,
}
"""Every figure by name, in the report's order; each gives None where the store has nothing for it."""

MECHANISM = ("three-ways", "gradients")


def compute_figures(findings: Findings) -> list[Figure]:
    """The figures of this study; which ones is settled by its factors and by what its runs hold."""
    return [figure for compute in FIGURES.values() if (figure := compute(findings)) is not None]


@dataclass(frozen=True)
class Picture:
    """A figure as drawn: the same canvas in each form."""

    name: str
    inline: str
    """an ``<svg>`` element for a page, which has the caption"""
    png: bytes
    """a file's content, captioned"""
    svg: bytes


def picture(figure: Figure) -> Picture:
    """Draw a figure."""
    with style():
        canvas = draw(figure)
        inline = inline_svg(canvas, figure.words.name)
        box = caption(canvas, figure)
        return Picture(figure.words.name, inline, png(canvas, box), svg(canvas, box).encode())


def write_pictures(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """``NAME.png`` and ``NAME.svg`` for each, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [(f"{one.name}.{kind}", getattr(one, kind)) for one in pictures for kind in ("png", "svg")]
    return [put(folder / name, content) for name, content in contents]


def put(path: Path, content: bytes) -> Path:
    """Write whole or not at all, so that what is open never shows half a page or picture."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_bytes(content)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    return path
