"""The page of a soak: what came of each kind in; Markdown out."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping
from datetime import date
from importlib import metadata
from pathlib import Path

import torch

import allelse

from .soak import KINDS, Tally
from .strikes import PHASES


def page(tallies: Mapping[str, Tally], kills: int, seed: int, seconds: float, device: str) -> str:
    done = sum(tally.kills.total() for tally in tallies.values())
    differed = sum(len(tally.differences) for tally in tallies.values())
    kinds = "" if list(tallies) == list(KINDS) else f" --kinds {' '.join(tallies)}"
    on = f" --device {device}" if device != "cpu" else ""
    command = f"python -m benchmarks.soak --kills {kills} --seed {seed}{kinds}{on} --out benchmarks"
    lines = [
        "# Killed, again and again",
        "",
        f"Written by `{command}` on {date.today()}, in {seconds / 60:.0f} minutes",
        f"({hardware(device)};",
        f"{versions()}).",
        f"**{done} kills: {f'{differed} differences' if differed else 'no difference'}.** Each is a SIGKILL. The same command",
        "was begun again until it ended by itself; then its folder was compared with that of a study that nobody disturbed.",
        "",
        "| command | studies | kills | resumed from a checkpoint | differences | seconds | longest end |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for kind, tally in tallies.items():
        command = " ".join(["allelse run STUDY", *KINDS[kind]])
        row = (f"`{command}`", tally.studies, tally.kills.total(), tally.resumes, len(tally.differences))
        lines.append("| " + " | ".join(map(str, row)) + f" | {tally.seconds:.0f} | {tally.longest_end:.1f} s |")
    lines += [
        "",
        "Longest end: from when a command was looked at after its kill, or ended, until the last process of it was gone.",
        "",
        "| killed | " + " | ".join(PHASES) + " |",
        "| --- |" + " --: |" * len(PHASES),
    ]
    for kind, tally in tallies.items():
        for whom in dict.fromkeys(whom for whom, _ in sorted(tally.kills)):
            counts = Counter({phase: count for (victim, phase), count in tally.kills.items() if victim == whom})
            lines.append(f"| {WHOM[kind, whom]} | " + " | ".join(str(counts[phase]) for phase in PHASES) + " |")
    for tally in tallies.values():
        lines += ["", *(f"- {what}" for what in tally.differences[:20])] if tally.differences else []
    return "\n".join([*lines, "", NOTES.format(gpus=" GPUs," if device == "cpu" else "")])


WHOM = {
    ("local", "all"): "the one process",
    ("workers", "all"): "parent and workers at once",
    ("workers", "parent"): "the parent alone",
    ("workers", "worker"): "one worker",
    ("ray", "all"): "the command, on Ray",
    ("ray", "worker"): "one worker process of Ray",
}

NOTES = """\
Phases are told from what a kill left: *starting* until the folder is held, *planning* until the packs are told, *saving* where
a half-written checkpoint was left, *storing* where SQLite's journal was, *report* from the first line of results on. About half
of the moments are drawn over the length of an undisturbed command, less for one that goes on; the others are aimed at saving,
storing and the report, which are short.

Compared: every stored run with its epochs, probes and fingerprints, the definition, the plan and what tuning chose;
`report.md`, `report.html` and all figures, byte for byte; what `results` and `verdicts` export; which files there are. The
three commands must give the same of all that, undisturbed. Not compared: how long runs took and when they began. After every
kill `allelse status` must give exit code 0, once there is a study in the folder; what is finished must be as expected, and
stay so; no process may be left. In half of the cases the next command begins while what is left of the last one still ends.

Two studies on digits: Adam, BatchNorm and augmentation in packs of four runs; momentum, averaged weights and tuning, with a
value that diverges, in packs of six and four. They save a checkpoint every 0.05 s instead of every 20 s. Their speeds are
measured, but their plans are made with fixed ones, so that all are the same.

A kill is no power cut: what the system had taken over before it is still written. That a commit and a checkpoint are on the
disk in time is tested in `tests/test_faults.py`. Not covered: several machines, a shared disk,{gpus} a head of Ray that dies.
"""


def hardware(device: str) -> str:
    names = [line.partition(":")[2].strip() for line in _read("/proc/cpuinfo") if line.startswith("model name")]
    memory = [int(line.split()[1]) for line in _read("/proc/meminfo") if line.startswith("MemTotal")]
    ram = f", {memory[0] / 2**20:.0f} GiB of RAM" if memory else ""
    gpu = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    return f"{gpu}{names[0] if names else platform.machine()}, {os.cpu_count()} cores{ram}, one thread a process"


def versions() -> str:
    try:
        with_ray = f", Ray {metadata.version('ray')}"
    except metadata.PackageNotFoundError:
        with_ray = ""
    return f"allelse {allelse.__version__}, torch {torch.__version__}{with_ray}, Python {platform.python_version()}"


def _read(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []
