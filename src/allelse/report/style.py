"""Style: the look of every figure, and the bytes that it is saved as. The same figure gives the same bytes.

Colours are Okabe and Ito's (2008), which the colour-blind tell apart, without the yellow that paper swallows; each goes with
a marker and a dash, so that a grey print reads as well. Text is drawn as paths: a browser needs no font.
"""

from __future__ import annotations

import io
import logging
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.figure import Figure as Canvas
from matplotlib.ft2font import FT2Font
from matplotlib.transforms import Bbox

INK, GRID = "#16181d", "#d3d6dc"
"""text and axes; grid lines: a page replaces these, and the dark blue, with its own, so that figures follow its dark mode"""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ((), (5, 1.6), (4, 1.4, 1, 1.4), (2.4, 1.2), (7, 1.4), (5, 1.2, 1, 1.2, 1, 1.2), (1.4, 1))
WIDTH = 4.8
"""inches: one column of a phone, half a page of a desk"""
DPI = 200

RC: Any = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.unicode_minus": True,
    "figure.dpi": DPI,
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "path.simplify": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "allelse",
    "text.color": INK,
    "text.parse_math": False,  # a level may be called "$x$"
    "xtick.color": INK,
    "xtick.labelsize": 9.5,
    "ytick.color": INK,
    "ytick.labelsize": 9.5,
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults with ours over them, whatever the user's matplotlibrc says."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**RC, "font.family": list(fonts())})
        log.setLevel(logging.ERROR)  # a font of a single weight is drawn in that one, which need not be told
        try:
            yield
        finally:
            log.setLevel(level)


_BREAKS = re.compile("[\\s\\x00-\\x1f\\x7f-\\x9f]+", re.ASCII)
"""white space and control characters, but not the no-break space"""


FONT = "DejaVu Sans"
"""comes with matplotlib"""
OTHERS = (
    *("Noto Sans CJK KR", "Noto Sans KR", "Nanum Gothic", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic"),
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans JP", "Noto Sans SC", "Noto Sans TC"),
    *("Hiragino Sans", "Yu Gothic", "PingFang SC", "Microsoft YaHei", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Arial Unicode MS", "Noto Sans", "Segoe UI", "Arial"),
)
"""taken for letters that ``FONT`` lacks, the first that is installed and has them"""


def fonts() -> tuple[str, ...]:
    """``FONT``, and those of ``OTHERS`` that this machine has, or that the user's program gave to matplotlib."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return (FONT, *(name for name in OTHERS if name in installed))


@cache
def _glyphs(names: tuple[str, ...]) -> frozenset[int]:
    return frozenset().union(*(FT2Font(font_manager.findfont(name)).get_charmap() for name in names))


def letters_without_a_font(text: str) -> str:
    """Each letter once that can only be spelled out, or not at all."""
    glyphs = _glyphs(fonts())
    return "".join(
        dict.fromkeys(letter for letter in unicodedata.normalize("NFC", _BREAKS.sub("", text)) if ord(letter) not in glyphs)
    )


def drawable(text: str, most: int = 60, *, keep_end: bool = False) -> str:
    """Text that the fonts can draw, on one line, and not wider than ``most`` letters of the Latin alphabet.

    Where no font has a Korean syllable it is spelled out, so that names stay apart; any other letter becomes a box.
    ``keep_end``: what is too wide is cut in its middle.
    """
    glyphs = _glyphs(fonts())
    flat = unicodedata.normalize("NFC", _BREAKS.sub(" ", str(text)).strip(" "))
    shown = "".join(letter if ord(letter) in glyphs else _spelled(letter) for letter in flat)
    if shown == _first(shown, most):
        return shown
    end = _first(shown[::-1], most // 2)[::-1] if keep_end else ""
    return f"{_first(shown, most - 1 - (most // 2 if keep_end else 0))}…{end}"


def _first(text: str, most: int) -> str:
    """As many letters as are no wider than ``most`` Latin ones."""
    widths = accumulate(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
    return text[: sum(width <= most for width in widths)]


def _spelled(letter: str) -> str:
    kind, _, sound = unicodedata.name(letter, "").rpartition(" ")
    return sound.lower() if kind == "HANGUL SYLLABLE" else "□"


def png(canvas: Canvas, box: Bbox) -> bytes:
    """What ``box``, in inches, holds, on white."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=DPI, facecolor="white", bbox_inches=box, metadata={"Software": None})
    return buffer.getvalue()


def svg(canvas: Canvas, box: Bbox | None = None, ground: str = "white") -> str:
    """A whole SVG file of what ``box``, in inches, holds: all, where there is none."""
    buffer = io.StringIO()  # what is stored as pixels is so at the dpi
    canvas.savefig(buffer, format="svg", dpi=DPI, facecolor=ground, bbox_inches=box, metadata={"Date": None, "Creator": None})
    return _without_comments(buffer.getvalue())


def inline_svg(canvas: Canvas, name: str) -> str:
    """The ``<svg>`` element for a page: transparent, in the page's ink, its ids apart from those of other figures."""
    text = svg(canvas, ground="none")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    used = set(re.findall(r"#([A-Za-z_][\w.\-]*)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', _opening, text, count=1, flags=re.S)
    text = text.replace(INK, "currentColor").replace(GRID, "var(--grid)").replace(COLOURS[0], "var(--series)")
    return re.sub(r"\n\s*", "\n", text).strip()


def _opening(found: re.Match[str]) -> str:
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" viewBox="{found[1]}" '
        'aria-hidden="true" focusable="false">'
    )


def _without_comments(text: str) -> str:
    return re.sub(r"<!--.*?-->\n?\s*", "", text, flags=re.S)
