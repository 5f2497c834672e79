"""The log: a study's warnings and failures in; lines of ``allelse.log`` out, and never an exception.

A log that cannot be written is no reason to stop a study: a full disk is told by the store, where it matters.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

NAME = "allelse.log"


class LogFile(logging.FileHandler):
    """Appends to a file of an output folder from the first line on that there is to write."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or not."""
        with suppress(OSError):  # opening the file, which logging does not guard
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Say nothing: logging would print a traceback over the progress of the study."""

    def close(self) -> None:
        """Close the file; what could not be written before cannot be now."""
        with suppress(OSError):
            super().close()
