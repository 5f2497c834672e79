"""Markdown: the report's contents in; ``report.md`` out, in which every text from outside is shown as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from allelse.errors import inert
from allelse.report.contents import Card, Contents
from allelse.report.shapes import Figure
from allelse.report.tables import Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>&|#~$@])")
_LINKS = re.compile(r"(?i)(https?|ftp|mailto)(:)|(www)(\.)")
_LINE_START = re.compile(r"^(-(?=[-\s]|$)|\+(?=\s|$)|=|\d+[.)](?=\s|$))")


def escape(text: str) -> str:
    """Text on one line that no Markdown reader takes for markup, HTML, a link or a mention."""
    flat = inert(re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip())
    flat = _SPECIAL.sub(r"\\\1", flat)
    flat = _LINKS.sub(lambda found: f"{found[1] or found[3]}\\{found[2] or found[4]}", flat)
    return _LINE_START.sub(lambda found: found[1][:-1] + "\\" + found[1][-1], flat)


def code(text: str, language: str = "") -> str:
    """A fenced block, with a fence longer than any in the text."""
    text = inert(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def markdown(told: Contents) -> str:
    """The whole page."""
    return "\n\n".join(_blocks(told)) + "\n"


def _blocks(told: Contents) -> Iterator[str]:
    yield f"# {escape(told.name)}"
    yield f"**{escape(told.question)}**"
    yield escape(told.state)
    for heading, what in told.caveats:
        yield f"**{heading}** {escape(what)}"
    yield "## Verdicts"
    yield escape(told.tally)
    for card in told.cards:
        yield from _card(card)
    yield "## Arms"
    yield from _table(told.arms) if told.arms else ("No run has a result yet.",)
    yield from map(escape, told.arm_notes)
    if told.published_notes:
        yield "## Published figures"
        yield from _table(told.published)
        yield from _list(told.published_notes)
    yield from _table(told.tuning)
    yield from map(escape, told.tuning_notes)
    if told.figures:
        yield "## Figures"
        yield from _figures(told.figures)
    if told.mechanism_notes or told.evaluations or told.probes or told.mechanism_figures:
        yield "## Mechanism"
        yield from map(escape, told.mechanism_notes)
        yield from _figures(told.mechanism_figures)
        for table in (told.evaluations, told.probes):
            yield from _table(table)
        yield from _list(f"{heading}: {what}" for heading, what in told.probe_legend)
    yield "## The same, and what differed"
    yield from _list(told.same)
    yield from _table(told.differed)
    yield from _table(told.shared)
    yield "## Run it again"
    yield code(told.command, "sh")
    yield from _list(told.command_notes)
    yield "## Versions and hardware"
    yield from _table(told.machines) if told.machines else ("No run has a result yet.",)
    yield "## Diverged, failed and pending runs"
    yield from _table(told.trouble) if told.trouble else ("None.",)
    if told.trouble_note:
        yield escape(told.trouble_note)
    yield "## Definition, as stored before the first run (published figures as last given)"
    yield code(told.definition, "json")


def _card(card: Card) -> Iterator[str]:
    yield f"### {card.icon} {card.verdict}: {escape(card.says)}"
    yield escape(card.sentence)
    yield from _list([f"claim: {card.id}", *(f"{name}: {value}" for name, value in card.facts)])
    yield from _table(card.parts)


def _figures(figures: Iterable[Figure]) -> Iterator[str]:
    for figure in figures:
        yield f"### {escape(figure.words.title)}"
        yield f"![{escape(figure.words.alt)}](figures/{figure.words.name}.png)"
        yield escape(figure.words.caption)


def _list(lines: Iterable[str]) -> Iterator[str]:
    if text := "\n".join(f"- {escape(line)}" for line in lines):
        yield text


def _table(table: Table | None) -> Iterator[str]:
    if table is not None:
        rows = [table.columns, *table.rows]
        head, *body = ("| " + " | ".join(map(escape, row)) + " |" for row in rows)
        yield f"*{escape(table.caption)}*"
        yield "\n".join([head, "|" + " --- |" * len(table.columns), *body])
