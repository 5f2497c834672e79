"""Faults that reach any worker of any engine: a study with parts of the user's own, which strike where a pack is trained."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

from study_support import PLAIN, changed, write_study

from allelse import store
from allelse.records import RunResult

PARTS = '''\
"""Activations that are ReLUs, and do something else where a pack is trained outside of the process that planned it."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from allelse.engine import loop

OUT = Path({out!r})
NOTES = Path({notes!r})
ELSEWHERE = os.getpid() != {planner}


def note(text):
    with NOTES.open("a") as file:
        file.write(f"{{os.getpid()}} {{text}}\\n")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


if ELSEWHERE:
    note("began")
    loop.SECONDS_BETWEEN_CHECKPOINTS = -1.0
    save, resume = loop.Training.save, loop.Training.resume

    def save_and_die_once(self, checkpoint):
        save(self, checkpoint)
        died = NOTES.with_name("died")
        if "Once" in str(self.pack.runs[0].arm) and self.epoch == 3 and not died.exists():
            died.touch()
            die()

    def resume_and_note(self, checkpoint):
        resume(self, checkpoint)
        note(f"resumed at {{self.epoch}}")

    loop.Training.save, loop.Training.resume = save_and_die_once, resume_and_note


class Fault(nn.Module):
    def forward(self, x):
        # What is checked beforehand is in float64; what is measured has no token in the folder yet.
        if ELSEWHERE and x.dtype == torch.float32 and (OUT / "checkpoints" / "token").exists():
            self.strike(x)
        return torch.relu(x)

    def strike(self, x):
        pass


class Once(Fault):
    pass


class Held(Fault):
    """Trains no further until it is let go."""

    def strike(self, x):
        if not NOTES.with_name("let go").exists():
            note("held")
            while not NOTES.with_name("let go").exists():
                time.sleep(0.02)


class Always(Fault):
    def strike(self, x):
        if not NOTES.with_name("mended").exists():
            die()


class Big(Fault):
    def strike(self, x):
        if x.shape[1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


class Broken(Fault):
    def strike(self, x):
        if not NOTES.with_name("mended").exists():
            raise RuntimeError("it broke")
'''


class Faults:
    """A folder with a study whose arms have the faults asked for, and what its workers noted."""

    def __init__(self, base: Path, *activations: str, epochs: int = 6, planner: int | None = None) -> None:
        """``planner``: the process that plans and is spared; this one when left out."""
        self.base, self.out = base, base / "out"
        module = f"faults_{base.name.replace('-', '_')}"
        text = PARTS.format(out=str(self.out), notes=str(base / "notes"), planner=os.getpid() if planner is None else planner)
        (base / f"{module}.py").write_text(text)
        levels = [name if name.islower() else f"python:{module}:{name}" for name in activations]
        text = changed('["sigmoid", "relu"]', str(levels), PLAIN)
        self.study = write_study(base, changed("epochs          = 2", f"epochs          = {epochs}", text))

    def mend(self) -> None:
        (self.base / "mended").touch()

    def let_go(self) -> None:
        (self.base / "let go").touch()

    def notes(self) -> list[str]:
        return [text for _, text in self._noted()]

    def workers(self) -> set[int]:
        """Every process that trained."""
        return {process for process, _ in self._noted()}

    def held(self) -> set[int]:
        """Every process that was held."""
        return {process for process, text in self._noted() if text == "held"}

    def _noted(self) -> list[tuple[int, str]]:
        file = self.base / "notes"
        lines = [line.partition(" ") for line in file.read_text().splitlines()] if file.exists() else []
        return [(int(process), text) for process, _, text in lines]

    def status_from_arm(self, out: Path | None = None) -> dict[str, list[str]]:
        statuses: dict[str, list[str]] = {}
        with store.read(out or self.out) as opened:
            for run in opened.runs():
                statuses.setdefault(run.arm["model.activation"].rpartition(":")[2], []).append(run.status)
        return statuses


def equal_part(result: RunResult | None) -> dict:
    """What must be the same whoever trained a run."""
    assert result is not None
    return asdict(replace(result, timing={}, provenance=None))


def results(out: Path) -> dict[str, dict]:
    """By run, what must be equal of each that is done."""
    with store.read(out) as opened:
        return {run.id: equal_part(run.result) for run in opened.runs() if run.status == "done"}


def wait_until(condition, seconds: float = 180.0) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it never came"
        time.sleep(0.02)


def is_running(process: int) -> bool:
    """Whether it does anything still: one that ended and that nobody asked about is none."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.strip().startswith("Z")
