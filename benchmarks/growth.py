"""What more work costs: seeds, depth, width, arms and stored runs, each made larger while all else stays as it is.

    python -m benchmarks.growth [--device auto|cpu|cuda] [--out DIR] [--seconds N]
    python -m benchmarks.growth --only store [--out DIR] [--times N]

Training goes through ``benchmarks.speed`` (allelse and strong serial in turns); planning, the small version of the first study
and the tables go through the command line, imports included. Writes growth-DEVICE.json after every figure, goes on where it
stopped, and writes growth-DEVICE.md. ``growth_store`` tells of ``--only store``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.growth_store import fill_store, write_page
from benchmarks.speed.__main__ import file_name
from benchmarks.speed.grid import Cell
from benchmarks.speed.page import head, number, table
from benchmarks.speed.reading import Reading
from benchmarks.speed.suite import Figures, Pace, opened
from benchmarks.speed.worker import WayError

BASE = Cell(width=64, norm="BatchNorm", batch=8, replicas=4)
GROWING: dict[str, list[Cell]] = {
    "seeds": [replace(BASE, replicas=seeds) for seeds in (1, 2, 4, 8, 16)],
    "depth": [replace(BASE, depth=depth) for depth in (1, 2, 4, 8)],
    "width": [replace(BASE, width=width) for width in (16, 32, 64, 128)],
}
ARMS = {
    1: ["model.depth=[1]", 'model.norm=["batch"]'],
    2: ["model.depth=[1, 2]", 'model.norm=["batch"]'],
    4: ["model.depth=[1, 2, 3, 4]", 'model.norm=["batch"]'],
    8: ['model.norm=["batch"]'],
    16: ['model.norm=["batch", "none"]'],
}
"""What leaves so many arms of the small version of sigmoid-vs-relu, no two of which do the same work."""

STORED_RUNS = (1_000, 10_000)
STORE_COMMANDS = {"status": ["status"], "results": ["results"], "verdicts": ["verdicts"], "report": ["report"]}
TIMES = 3


class CommandError(Exception):
    """One line on why a command gave no figure."""


def allelse(cache: Path, *words: str | Path) -> float:
    """Seconds of one command, with a memory of measured speeds of its own."""
    begun = time.perf_counter()
    command = [sys.executable, "-c", "from allelse.cli import main; main()", *map(str, words)]
    done = subprocess.run(command, env={**os.environ, "XDG_CACHE_HOME": str(cache)}, capture_output=True, text=True)
    if done.returncode:
        raise CommandError(" ".join(done.stderr.split())[-200:])
    return time.perf_counter() - begun


def planning(arms: int, device: str) -> dict[str, float]:
    """Seconds of ``plan`` when nothing was measured before, and when everything was."""
    with TemporaryDirectory() as folder:
        changes = [word for change in ["model.activation=relu", *ARMS[arms]] for word in ("--set", change)]
        command = ["plan", "sigmoid-vs-relu", "--quick", "--device", device, *changes]
        return {"measured": allelse(Path(folder), *command), "remembered": allelse(Path(folder), *command)}


def small_study(device: str) -> dict[str, float]:
    """Seconds of the first study's small version, from the command to its report, and what of it planning takes."""
    with TemporaryDirectory() as folder:
        plan = ["plan", "sigmoid-vs-relu", "--quick", "--device", device]
        choosing = allelse(Path(folder, "first"), *plan) - allelse(Path(folder, "first"), *plan)
        run = ["run", *plan[1:], "--out", str(Path(folder, "out"))]
        return {"run": allelse(Path(folder, "second"), *run), "choosing": choosing}


def stored(runs: int) -> dict[str, float]:
    """Seconds of the commands that read a store of at least so many runs, each the median of ``TIMES``; and its size."""
    with TemporaryDirectory() as folder:
        out = Path(folder, "out")
        count = fill_store(out, runs)
        seconds = {
            name: median(allelse(Path(folder), *words, out) for _ in range(TIMES)) for name, words in STORE_COMMANDS.items()
        }
        return {"runs": count, **seconds, "megabytes": (out / "study.sqlite").stat().st_size / 1e6}


def through_the_command_line(device: str) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Each figure's name with what takes it."""
    for arms in ARMS:
        yield f"planning {arms} arms", partial(_or_why_not, planning, arms, device)
    for runs in STORED_RUNS:
        yield f"store of {runs} runs", partial(_or_why_not, stored, runs)
    yield "small study", partial(_or_why_not, small_study, device)


def _or_why_not(take: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, Any]:
    try:
        return dict(take(*arguments))
    except CommandError as problem:
        return {"not_measured": str(problem)}


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────────────────


def page(machine: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page; what was not measured says so."""
    lines = [
        f"# What more work costs: {machine['device']}",
        "",
        head(machine, records.values()),
        "",
        f"`python -m benchmarks.growth`. Training: {BASE.name} with one number changed; medians of turns; a run is "
        f"{BASE.source.epochs} epochs of {BASE.source.images:,} images. Commands are timed from start to end, Python's own "
        "start included.",
        "",
        _small_study(records.get("small study", {})),
        "",
    ]
    for what, cells in GROWING.items():
        lines += [f"## {what.capitalize()}", "", *_training(what, [_reading(machine, records, cell) for cell in cells]), ""]
    rows = [(str(arms), *_seconds(records.get(f"planning {arms} arms", {}), ("measured", "remembered"))) for arms in ARMS]
    lines += ["## Arms", "", "Seconds of `allelse plan sigmoid-vs-relu --quick` with so many arms of different work.", ""]
    lines += [*table(("arms", "nothing measured before", "all remembered"), "rrr", rows), ""]
    rows = []
    for runs in STORED_RUNS:
        record = records.get(f"store of {runs} runs", {})
        rows.append((f"{record.get('runs', runs):,}", *_seconds(record, ("megabytes", *STORE_COMMANDS))))
    lines += ["## Store", "", f"Seconds of the commands on a store of so many runs of 20 epochs (medians of {TIMES}).", ""]
    return "\n".join([*lines, *table(("runs", "MB", *STORE_COMMANDS), "rrrrrr", rows), ""])


def _reading(machine: Mapping[str, Any], records: Mapping[str, Any], cell: Cell) -> Reading:
    return Reading(cell, records.get(cell.name), machine["precision"])


def _training(what: str, readings: Sequence[Reading]) -> list[str]:
    rows = []
    for reading in readings:
        grown = {"seeds": reading.cell.replicas, "depth": reading.cell.depth, "width": reading.cell.width}[what]
        rate, over = reading.rate("allelse"), reading.over("serial")
        seconds = reading.cell.source.images_a_run / rate if rate else None
        pack = reading.way("allelse").get("replicas", f"not measured: {reading.reason}" if reading.reason else "not measured")
        rows.append((str(grown), str(pack), number(rate), number(seconds), number(over, 2)))
    return table((what, "pack", "images/s", "seconds a run", "× strong serial"), "rlrrr", rows)


def _small_study(record: Mapping[str, Any]) -> str:
    if "run" not in record:
        return f"`allelse run sigmoid-vs-relu --quick`: not measured: {record.get('not_measured', 'not reached yet')}"
    seconds, choosing = record["run"], record["choosing"]
    said = {True: "met", False: "**not met**"}
    return (
        f"`allelse run sigmoid-vs-relu --quick`, from the command to its report, as `make demo` runs it: {seconds:.0f} s (aim: "
        f"under 100 s, {said[seconds < 100]}); choosing its packs takes {choosing:.1f} s of it, "
        f"{100 * choosing / seconds:.1f} % (aim: under 3 %, {said[choosing < 0.03 * seconds]})."
    )


def _seconds(record: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    if "not_measured" in record or not record:
        return [f"not measured: {record.get('not_measured', 'not reached yet')}", *[""] * (len(names) - 1)]
    return [number(record[name]) for name in names]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the two files")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing that would end later")
    parser.add_argument("--only", choices=["store"], help="only the commands that read a store, of four sizes")
    parser.add_argument("--times", type=int, default=3, help="turns of each command, with --only store")
    asked = parser.parse_args()
    if asked.only:
        print(f"wrote {write_page(asked.out, asked.times)}")
        return 0
    deadline = time.monotonic() + asked.seconds
    try:
        with opened(asked.device, Pace()) as suite:
            name = f"growth-{file_name(suite.machine)}"
            asked.out.mkdir(parents=True, exist_ok=True)
            figures = Figures(asked.out / f"{name}.json", suite.machine)

            cells = list(dict.fromkeys(cell for grown in GROWING.values() for cell in grown))
            tasks = [(cell.name, partial(suite.measure, cell, ("allelse", "serial"))) for cell in cells]
            for done in figures.fill([*tasks, *through_the_command_line(asked.device)], deadline):
                (asked.out / f"{name}.md").write_text(page(figures.machine, figures.records))
                print(done, flush=True)
    except (ValueError, WayError) as problem:
        print(f"benchmarks.growth: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
