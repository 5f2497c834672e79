"""Standard streams that nobody can read: what is still written to them is thrown away, and fails no more."""

from __future__ import annotations

import os


def discard(stream: int) -> None:
    """Throw away what goes to a file descriptor from now on, with what waits to be written there."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream)
    os.close(nowhere)
