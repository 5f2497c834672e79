"""The log: a study's warnings and failures in; lines of ``allelse.log`` out, and never an exception.

A log that cannot be written is no reason to stop a study: its first such line is shown on the screen instead.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

NAME = "allelse.log"


class LogFile(logging.FileHandler):
    """Appends to a file of an output folder from the first line on that there is to write."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

        self._shown = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or show it."""
        try:
            super().emit(record)
        except OSError:  # opening the file, which logging does not guard
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Show one line, where logging would print a traceback over the progress of the study."""
        if not self._shown:
            self._shown = True
            print(f"{NAME} cannot be written, and would say: {' '.join(record.getMessage().split())}", file=sys.stderr)

    def close(self) -> None:
        """Close the file; what could not be written before cannot be now."""
        with suppress(OSError):
            super().close()
