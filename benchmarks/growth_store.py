"""Reading a store that grows: made-up studies of 1,000 to 10,000 runs in; the time of each command that reads one out.

    python -m benchmarks.growth --only store [--out DIR] [--times N]

Every run holds what a real one does: the result of a network of 8 blocks (16 layers with weights) after 20 epochs, with
fingerprints and probes. Commands are whole processes, Python's own start included; of several turns the fastest counts, as
what else the machine does can only slow one down. Processor time stands beside, since a shared machine makes processes wait.
Writes growth-store.md.
"""

from __future__ import annotations

import math
import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

import allelse
from benchmarks.speed.page import table

RUNS = (1_000, 2_000, 5_000, 10_000)
COMMANDS = ("status", "results", "verdicts", "report")
AIMS = {"status": 1.0, "results": 2.0, "report": 15.0}
"""Seconds at 10,000 runs."""


@dataclass(frozen=True)
class Turn:
    """What one process took."""

    seconds: float
    processor: float


def take(command: str, folder: Path) -> Turn:
    """One command as a process of its own."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "allelse", command, folder], stdout=subprocess.DEVNULL)
    _, code, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise RuntimeError(f"allelse {command} ended with {process.returncode}")
    return Turn(time.perf_counter() - begun, used.ru_utime + used.ru_stime)


def fill_store(folder: Path, runs: int) -> int:
    """Store results for at least so many runs of the first study: one real result each, with an accuracy of its own."""
    from allelse import data, engine, store, study  # before torch, as in a user's process

    # isort: split
    import numpy as np
    import torch

    from allelse.plan import Plan, PlannedPack
    from allelse.records import Pack

    few = ["model.depth=8", "model.activation=relu", "epochs=20", "train_per_class=40", "batch_size=16"]
    trained = study.load("sigmoid-vs-relu", quick=True, seeds=1, changes=few)
    (pattern,) = engine.train_pack(Pack(tuple(trained.runs())), data.load("digits"), torch.device("cpu"))
    arms = len(study.load("sigmoid-vs-relu").arms)
    loaded = study.load("sigmoid-vs-relu", seeds=math.ceil(runs / arms))
    specs = list(loaded.runs())
    packs = [Pack(tuple(specs[first : first + 10])) for first in range(0, len(specs), 10)]
    accuracies = 70 + 3 * np.random.default_rng(0).normal(size=len(specs))
    with store.write(folder, loaded.definition()) as written:
        plan = Plan(tuple(PlannedPack(pack, 1000.0, 1.0) for pack in packs))
        written.begin(plan.to_json(), [(spec.id, spec.arm, spec.seed) for spec in specs])
        written.record(
            [
                replace(pattern, run=spec.id, metrics={**pattern.metrics, "accuracy": float(accuracy)})
                for spec, accuracy in zip(specs, accuracies, strict=True)
            ]
        )
    return len(specs)


Measured = dict[int, tuple[float, dict[str, Turn]]]
"""by number of runs: the store's megabytes, and the fastest turn of each command"""


def measure(sizes: Sequence[int] = RUNS, times: int = 3) -> Measured:
    """Fill a store of each size and read it."""
    measured: Measured = {}
    for size in sizes:
        with TemporaryDirectory() as base:
            out = Path(base, "out")
            runs = fill_store(out, size)
            turns = {name: min((take(name, out) for _ in range(times)), key=lambda turn: turn.seconds) for name in COMMANDS}
            measured[runs] = ((out / "study.sqlite").stat().st_size / 1e6, turns)
            print(runs, turns, flush=True)
    return measured


def page(measured: Measured, times: int) -> str:
    """The whole page."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    load = os.getloadavg()[2]
    last = max(measured)
    aims = [
        f"`{name}` {measured[last][1][name].seconds:.2f} s of wall time (aim: under {aim:g} s, "
        f"{'met' if measured[last][1][name].seconds < aim else '**not met**'}), "
        f"{measured[last][1][name].processor:.2f} s of processor time"
        for name, aim in AIMS.items()
    ]
    wall = [
        (f"{runs:,}", f"{size:.0f}", *(f"{turns[name].seconds:.2f}" for name in COMMANDS))
        for runs, (size, turns) in measured.items()
    ]
    used = [(f"{runs:,}", *(f"{turns[name].processor:.2f}" for name in COMMANDS)) for runs, (_, turns) in measured.items()]
    return "\n".join(
        [
            "# Reading a store that grows",
            "",
            f"`python -m benchmarks.growth --only store`, {datetime.now(UTC):%Y-%m-%d}, on {os.cpu_count()} cores of "
            f"{processor} (load of the last 15 minutes: {load:.1f}); allelse {allelse.__version__}, Python "
            f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, pandas {pd.__version__}. Each run holds 20 epochs "
            f"and 16 layers. Whole processes, Python's start included; the fastest of {times}. A load above the number of "
            "cores makes every process wait: then processor time says what a quiet machine would take.",
            "",
            f"With {last:,} runs: {'; '.join(aims)}.",
            "",
            "## Seconds from start to end",
            "",
            *table(("runs", "MB", *COMMANDS), "rrrrrr", wall),
            "",
            "## Seconds of processor time",
            "",
            *table(("runs", *COMMANDS), "rrrrr", used),
            "",
        ]
    )


def write_page(folder: Path, times: int = 3, sizes: Sequence[int] = RUNS) -> Path:
    """Measure, and write growth-store.md."""
    file = folder / "growth-store.md"
    file.write_text(page(measure(sizes, times), times))
    return file
