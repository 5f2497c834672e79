"""Fonts of figures: letters that ours lacks are drawn by another that is installed, or spelled out, and that is told."""

from __future__ import annotations

import unicodedata

import matplotlib as mpl
import pytest
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.ft2font import FT2Font
from report_support import definition, write_store

from allelse.report import style as style_of_figures
from allelse.report import write_report
from allelse.report.style import drawable, letters_without_a_font, style


@pytest.fixture
def no_other_fonts(monkeypatch):
    monkeypatch.setattr(style_of_figures, "OTHERS", ())


@pytest.mark.usefixtures("no_other_fonts")
def test_letters_that_no_font_has_are_spelled_or_become_boxes_and_arrows_stay():
    assert drawable("Conv→BN 한") == "Conv→BN han"
    assert drawable("시그모이드 − 렐루 漢") == "sigeumoideu − relru □"
    assert drawable(unicodedata.normalize("NFD", "한글")) == "hangeul"
    assert drawable("a\n\tb\x07c") == "a b c"
    assert letters_without_a_font("Conv→BN 한 漢한") == "한漢"


def test_another_font_that_is_installed_has_the_letters_that_ours_lacks(monkeypatch):
    ours, other = (FT2Font(font_manager.findfont(name)).get_charmap() for name in ("DejaVu Sans", "STIXGeneral"))
    letter = chr(min(set(other) - set(ours)))
    monkeypatch.setattr(style_of_figures, "OTHERS", ("no such font", "STIXGeneral"))
    assert style_of_figures.fonts() == ("DejaVu Sans", "STIXGeneral")
    assert drawable(f"a{letter}") == f"a{letter}"
    assert letters_without_a_font(letter) == ""
    with style():  # matplotlib warns of a letter that it cannot draw, and warnings are errors here
        canvas = FigureCanvasAgg(mpl.figure.Figure())
        canvas.figure.text(0.5, 0.5, drawable(letter))
        canvas.draw()


def test_what_is_too_wide_is_cut_where_it_is_asked_and_korean_letters_are_wide(monkeypatch):
    monkeypatch.setattr(style_of_figures, "_glyphs", lambda names: frozenset(range(0x110000)))
    assert drawable("abcdefghij", 6) == "abcde…"
    assert drawable("abcdefghij", 6, keep_end=True) == "ab…hij"
    assert drawable("가나다라마", 6) == "가나…"
    assert drawable("가나다", 6) == "가나다"


@pytest.mark.usefixtures("no_other_fonts")
def test_a_report_tells_of_letters_that_no_font_has(tmp_path):
    told = []
    for name in ("한국어", "Conv→BN"):
        write_report(write_store(tmp_path / name, definition(factors={"order": [name, "plain"]}, claims=[])), told.append)
    [line] = told
    assert line.startswith("no font here has 한, 국, 어: figures spell Korean out and ")
    assert line.endswith(f"; install a font, as Noto Sans CJK, then allelse report '{tmp_path}/한국어'")
