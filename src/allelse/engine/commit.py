"""The commit of allelse that runs: its own source folder in, the commit's name out."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@cache
def commit() -> str | None:
    """Twelve hex digits, with ``+`` where the package was changed since; None for a copy without a repository."""
    name = _git("log", "-1", "--format=%H")
    if not name or not _git("ls-files", PACKAGE.name):  # a repository around it that does not hold it is somebody else's
        return None
    return name[:12] + ("+" if _git("status", "--porcelain", PACKAGE.name) else "")


def _git(*arguments: str) -> str:
    """What git says of the package's folder; nothing where it cannot."""
    try:
        said = subprocess.run(["git", *arguments], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
