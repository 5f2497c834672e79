"""Memory of a long study: many tiny trainings in one study, by the ordinary launcher; resident memory every 100 runs.

    python -m benchmarks.memory [--runs 10000] [--pack] [--out DIR]

Every run is a pack of its own unless ``--pack`` is given, which asks most of whatever is kept a pack. Prints megabytes as it
goes on, and at the end what a thousand runs add: the slope of a straight line through all but the first fifth.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from allelse import study
from allelse.launch import Computing, run_study
from allelse.plan import Plan

STUDY = """\
[study]
name     = "memory"
question = "Does a long study need more memory than a short one?"
seeds    = 1

[recipe]
dataset         = "digits"
train_per_class = 4
epochs          = 1
batch_size      = 20
precision       = "fp32"

[recipe.model]
width = 4
depth = 1
"""
EVERY = 100
WARM_UP = 0.2
"""Share of the runs after which memory is expected to be flat."""


def resident() -> float:
    """Megabytes that this process holds in memory now; on systems without /proc the most that it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


class Weighed:
    """A watcher that weighs the process after every ``EVERY`` runs; all runs are planned to take as long."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.total = self.done = 0.0
        self.begun = time.monotonic()
        self.megabytes: list[tuple[int, float]] = []

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def start(self, plan: Plan, done: float) -> None:
        self.total, self.done = plan.seconds, done

    def advance(self, seconds: float) -> None:
        self.done += seconds
        trained = int(self.runs * self.done / self.total + 1e-6)
        if trained >= EVERY * (len(self.megabytes) + 1):
            gc.collect()  # so that what is weighed is what is kept
            self.megabytes.append((trained, resident()))
            print(f"{trained:6d} runs {self.megabytes[-1][1]:8.1f} MB {time.monotonic() - self.begun:7.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--pack", action="store_true", help="several runs in a pack, as is fastest")
    parser.add_argument("--out", type=Path, help="output folder, to go on in; a temporary one when left out")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        file = Path(folder, "memory.toml")
        file.write_text(STUDY)
        weighed = Weighed(asked.runs)
        loaded = study.load(file, seeds=asked.runs)
        outcome = run_study(loaded, asked.out or Path(folder, "out"), "cpu", weighed, Computing(pack=asked.pack))
    runs, megabytes = np.array([row for row in weighed.megabytes if row[0] > WARM_UP * asked.runs]).T
    slope = 1000 * np.polyfit(runs, megabytes, 1)[0] if len(runs) > 1 else float("nan")
    print(
        f"{outcome.runs_by_status}: {slope:+.2f} MB per thousand runs, from {megabytes[0]:.1f} MB at {runs[0]:.0f} runs to "
        f"{megabytes[-1]:.1f} MB at {runs[-1]:.0f}; {platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
