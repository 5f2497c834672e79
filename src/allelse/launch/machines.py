"""Where a study is computed: what a user asks for in; the ``Crew`` that does it out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from allelse import engine
from allelse.errors import MachineError
from allelse.launch.crew import Crew
from allelse.launch.local import Local
from allelse.launch.processes import Processes

MOST_WORKERS = 4096


@dataclass(frozen=True)
class Machines:
    """Where to compute, and what to do when a part of it fails."""

    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    """packs at once, in a process each; None: this process alone, one a GPU where there are several, or all of a cluster"""
    address: str | None = None
    """of a Ray cluster; None: what Ray finds, or one that is started here"""
    retries: int = 2
    """how often a pack is tried again whose worker died"""
    on_error: Literal["continue", "stop"] = "continue"
    """what to do when a pack failed"""

    def options(self, device: str) -> list[str]:
        """Of the command line, that ask for this and for ``device``."""
        given = {
            "device": device if device != "auto" else None,
            "engine": self.engine if self.engine != HERE.engine else None,
            "address": self.address,
            "workers": self.workers,
            "on-error": self.on_error if self.on_error != HERE.on_error else None,
        }
        return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


HERE = Machines()


@contextmanager
def crew(machines: Machines, device: str) -> Iterator[Crew]:
    """Whoever computes, ended when the block is left in whatever way.

    Raises:
        MachineError, DeviceError: what was asked for is not there.
    """
    hired = _hired(machines, device)
    try:
        yield hired
    finally:
        hired.close()


def _hired(machines: Machines, device: str) -> Crew:
    if machines.engine not in ("local", "ray"):
        raise MachineError(f"--engine {machines.engine}: unknown engine; allowed: local, ray")
    if machines.on_error not in ("continue", "stop"):
        raise MachineError(f"--on-error {machines.on_error}: allowed: continue, stop")
    if machines.workers is not None and not 1 <= machines.workers <= MOST_WORKERS:
        raise MachineError(f"--workers {machines.workers}: allowed: 1 to {MOST_WORKERS}")
    if machines.address is not None and not machines.address.strip():
        raise MachineError("--address: is empty; allowed: auto, or HOST:PORT of the head of a Ray cluster; or leave it out")
    if machines.engine == "ray":
        from allelse.launch.cluster import Cluster  # Ray is only loaded when it is asked for

        return Cluster(device, machines.workers, machines.address)
    if machines.address is not None:
        raise MachineError(f"--address {machines.address}: is of a Ray cluster; add --engine ray, or leave --address out")
    first = engine.find_device(device)
    gpus = torch.cuda.device_count() if first.type == "cuda" and first.index is None else 0
    workers = machines.workers or (gpus if gpus > 1 else None)
    if workers is None:
        return Local(first)
    if gpus:
        return Processes([torch.device("cuda", place % gpus) for place in range(workers)])
    return Processes([first] * workers)
