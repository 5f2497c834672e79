"""Time left against the truth: a study is run, and what it says after each tenth of its time is held against its end.

    python -m benchmarks.time_left [STUDY] [--quick] [--set KEY=VALUE]... [--device auto|cpu|cuda]

Without a study: the small version of the first one. Prints a line a tenth, estimate over truth of the time that is left and of
the whole. The estimate is what the bar and ``allelse status`` show.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from allelse import engine, study
from allelse.launch import journal as launch_journal
from allelse.launch import run_study
from allelse.plan import Plan

AIM = 0.2


class Recorded:
    """A watcher that keeps every estimate with its moment."""

    def __init__(self) -> None:
        self.begun = 0.0
        self.planned = 0.0
        self.estimates: list[tuple[float, float]] = []

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def start(self, plan: Plan, done: float) -> None:
        self.begun, self.planned, self.estimates = time.monotonic(), plan.seconds - done, []  # of the last plan

    def advance(self, seconds: float) -> None:
        pass

    def left(self, seconds: float) -> None:
        self.estimates.append((time.monotonic() - self.begun, seconds))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", metavar="STUDY")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    launch_journal.SECONDS_BETWEEN_WRITES = 0.1
    loaded = study.load(asked.study or "sigmoid-vs-relu", quick=asked.quick or not asked.study, changes=asked.changes)
    recorded = Recorded()
    with TemporaryDirectory() as folder:
        outcome = run_study(loaded, Path(folder, "out"), asked.device, recorded)
        whole = time.monotonic() - recorded.begun
    print(
        f"{loaded.name}: {outcome.runs_by_status}, planned {recorded.planned:.0f} s, took {whole:.0f} s on "
        f"{engine.describe_device(engine.find_device(asked.device))}, torch {torch.__version__}, Python "
        f"{platform.python_version()}; load of the last 15 minutes {os.getloadavg()[2]:.1f} on {os.cpu_count()} cores"
    )
    print("tenth  left, s  truth, s  left ÷ truth  whole ÷ truth")
    missed = []
    for tenth in range(1, 10):
        at = next((one for one in recorded.estimates if one[0] >= tenth * whole / 10), None)
        if at is None:
            continue
        passed, left = at
        ratio = left / (whole - passed)
        missed += [tenth] if abs(ratio - 1) > AIM else []
        print(f"{tenth:5d}  {left:7.1f}  {whole - passed:8.1f}  {ratio:12.2f}  {(passed + left) / whole:13.2f}")
    print(f"within {AIM:.0%} at each tenth" if not missed else f"off by more than {AIM:.0%} at tenths {missed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
