"""Where a run is made: a device in; its name, the versions and the commit of allelse, the machine, out."""

from __future__ import annotations

import platform
import socket
import subprocess
from functools import cache
from pathlib import Path

import torch

import allelse
from allelse.engine.device import describe_device
from allelse.records import Provenance

PACKAGE = Path(__file__).parents[1]


def provenance(device: torch.device, dtype: torch.dtype, started: str) -> Provenance:
    """What a run that computes in ``dtype`` and began at ``started`` (UTC, ISO 8601) is made with."""
    return Provenance(
        allelse=allelse.__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        device=describe_device(device),
        precision={torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}[dtype],
        threads=torch.get_num_threads(),
        host=socket.gethostname(),
        started=started,
        commit=commit(),
    )


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
