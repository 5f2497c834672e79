"""The log of a study: all warnings and errors while it runs, with time and pack, in; ``allelse.log`` in its folder out.

It goes on where a study goes on. It is bounded: the same message is written a few times and then only counted, and a file
that is full becomes ``allelse.log.1``.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from logging.handlers import RotatingFileHandler
from pathlib import Path

FILE = "allelse.log"
MOST_BYTES = 2_000_000
MOST_ALIKE = 10
MOST_KINDS = 1_000
LOGGERS = ("allelse", "py.warnings", "torch")


class Log(RotatingFileHandler):
    """Writes the log while it is entered; whatever hinders it, the study goes on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder / FILE, maxBytes=MOST_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace", delay=True
        )
        self.setLevel(logging.WARNING)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s%(pack)s %(message)s"))
        self.pack = ""
        """id of the pack under way; empty between packs"""
        self.alike: Counter[str] = Counter()
        self.shown = False

    def __enter__(self) -> Log:
        logging.captureWarnings(True)
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)
        logging.captureWarnings(False)
        self.tell_repeats()
        self.close()

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a message pass the first times, where numbers and names of packs make no difference."""
        error = record.exc_info[1] if record.exc_info else ""
        kind = re.sub(r"[0-9a-f]{12}|\d+", "#", f"{record.name} {record.getMessage()} {type(error).__name__} {error}"[:500])
        if len(self.alike) >= MOST_KINDS and kind not in self.alike:
            self.tell_repeats()
        self.alike[kind] += 1
        record.pack = f" pack {self.pack}:" if self.pack else ""
        return self.alike[kind] <= MOST_ALIKE and bool(super().filter(record))

    def tell_repeats(self) -> None:
        """Write how often messages came that were only counted, and count anew."""
        repeats = {kind: count - MOST_ALIKE for kind, count in self.alike.items() if count > MOST_ALIKE}
        self.alike.clear()
        for kind, count in repeats.items():
            text = f"and {count} more times, alike but for numbers: {' '.join(kind.split())}"
            record = logging.makeLogRecord({"name": "allelse", "levelno": logging.WARNING, "levelname": "WARNING", "msg": text})
            record.pack = ""
            self.emit(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or show it."""
        try:
            super().emit(record)
        except OSError:  # opening the file, which logging does not guard
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """A log that cannot be written costs the log, no more: its first line is shown instead."""
        if not self.shown:
            self.shown = True
            print(f"{FILE} cannot be written, and would say: {' '.join(record.getMessage().split())}", file=sys.stderr)
