"""How fast a study trains, beside everyone else on the same network, data and mathematics, in one run.

    python -m benchmarks.speed [--device auto|cpu|cuda] [--out DIR] [--seconds N] [--cells WORD ...]

Writes speed-DEVICE.json after every cell, and speed-DEVICE.md. Goes on where it stopped: a cell that is there is not measured
again. The most telling cells come first, so a run that is stopped at any time is of use. Close everything else before.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.speed.grid import chosen
from benchmarks.speed.page import page
from benchmarks.speed.suite import SECONDS_A_TURN, TURNS, Figures, Pace, opened
from benchmarks.speed.worker import WayError

WORDS = "words of one kind are alternatives; widths, norms, batches bN, replicas rN, digits"


def file_name(machine: dict[str, Any]) -> str:
    """``cpu``, or the GPU's own name: ``nvidia-h200``."""
    name = "cpu" if machine["type"] == "cpu" else machine["device"]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1], help="folder of the two files")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell that would end later")
    parser.add_argument("--cells", nargs="+", default=[], metavar="WORD", help=f"only these, e.g. narrow b2 b8 r10: {WORDS}")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--turn", type=float, default=SECONDS_A_TURN, metavar="SECONDS", help="length of a turn")
    asked = parser.parse_args()
    deadline = time.monotonic() + asked.seconds
    try:
        cells = chosen(asked.cells)
        with opened(asked.device, Pace(asked.turns, asked.turn), deadline) as suite:
            name = f"speed-{file_name(suite.machine)}"
            asked.out.mkdir(parents=True, exist_ok=True)
            figures = Figures(asked.out / f"{name}.json", suite.machine)
            tasks = [(cell.name, partial(suite.measure, cell)) for cell in cells]
            for done in figures.fill(tasks, deadline):
                (asked.out / f"{name}.md").write_text(page(figures.machine, figures.records))
                print(told(done, figures.records[done]), flush=True)
    except (ValueError, WayError) as problem:
        print(f"benchmarks.speed: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks.speed: stopped; the cells that were finished stay, and the same command goes on", file=sys.stderr)
        return 130
    missing = sum(cell.name not in figures.records for cell in cells)
    print(f"{len(cells) - missing} of {len(cells)} cells are there" + ("; the same command goes on" if missing else ""))
    return 0


def told(name: str, record: dict[str, Any]) -> str:
    """One line about a cell."""
    if "not_measured" in record:
        return f"{name}: not measured: {record['not_measured']}"
    ways = [f"{way} {max(found.get('turns', [0])):,.0f}" for way, found in record["ways"].items()]
    return f"{name} ({record['seconds']:.0f} s), best turn in images/s: {', '.join(ways)}"


if __name__ == "__main__":
    sys.exit(main())
