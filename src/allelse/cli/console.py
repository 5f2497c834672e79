"""The console that commands print to: at most 80 columns where it is no terminal."""

from __future__ import annotations

from rich.console import Console

NARROWEST = 80


def make_console() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=NARROWEST)
