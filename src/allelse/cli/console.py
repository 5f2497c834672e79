"""The console that commands print to: 80 columns where it is no terminal, unless a table needs more, and words stay words."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from allelse.errors import inert

NARROWEST = 80


class Terminal(Console):
    """A console on which words from a study or a store are words: nothing in them moves the cursor or changes colours."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(inert(text), **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # Rich's own ends with exit code 1, as where a run failed


def make_console() -> Console:
    console = Terminal(highlight=False, markup=False)
    return console if console.is_terminal else Terminal(highlight=False, markup=False, width=NARROWEST)
