"""Spoilt input for every parser: a number of inputs and a seed in; a table of what came of them, in ``fuzz.md``, out.

    python -m benchmarks.fuzz [--inputs 5000] [--seed 0] [--only PARSER]… [--page FILE]

The same seed gives the same inputs. Exit code 1 where there was a fault; each is printed with the number that makes it again:
``--only PARSER --number N``. Needs a system with ``fork``.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.dont_write_bytecode = True

import allelse  # noqa: E402

from . import cifar, datasets, stores, studies  # noqa: E402
from .trials import SECONDS, Outcome, Try, run_slice  # noqa: E402

PARSERS: dict[str, tuple[Try, int, str]] = {
    "study file, text": (studies.text, 800, "bytes and lines of whole study files"),
    "study file, values": (studies.values, 1200, "valid TOML with other types, sizes, names and places"),
    "--set": (studies.changes, 700, "one to three changes, and numbers of seeds"),
    "explain": (studies.explain, 200, "`--arm`, `--against`, and networks of any size"),
    "command line": (studies.command, 400, "whole commands with their options, files and environment"),
    "npz": (datasets.npz, 500, "zip archives and the arrays in them"),
    "image folder": (datasets.images, 200, "files, names, links and sizes"),
    "CIFAR archive": (cifar.archive, 350, "archives and unpacked folders, binary and Python"),
    "CIFAR pickle": (cifar.batch, 300, "single batches, and pickles that call something"),
    "ALLELSE_*": (datasets.variables, 200, "addresses, folders and names of data sets"),
    "data cache": (datasets.kept, 150, "converted data sets"),
    "speeds.json": (datasets.speeds, 150, "remembered speeds"),
    "checkpoint": (stores.checkpoint, 150, "safetensors and what they say of themselves"),
    "store, values": (stores.values, 150, "changed values in study.sqlite"),
    "store, bytes": (stores.bytes_, 100, "a damaged study.sqlite"),
    "report": (stores.pages, 120, "hostile words on every page, table and figure"),
}
"""by name: the trial, its share of the inputs, and what is spoilt"""


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--inputs", type=int, default=5000)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--only", action="append", choices=list(PARSERS), default=[])
    asked.add_argument("--number", type=int, help="with --only: this input alone")
    asked.add_argument("--page", type=Path, default=Path(__file__).parents[1] / "fuzz.md")
    options = asked.parse_args()
    warm_up()
    begun = time.perf_counter()
    total = sum(share for _, share, _ in PARSERS.values())
    outcomes: dict[str, list[Outcome]] = {}
    seconds: dict[str, float] = {}
    for name in options.only or PARSERS:
        attempt, share, _ = PARSERS[name]
        count = max(1, -(-share * options.inputs // total))
        numbers = range(count) if options.number is None else range(options.number, options.number + 1)
        at = time.perf_counter()
        outcomes[name] = []
        for number, outcome in run_slice(name, attempt, options.seed, numbers):
            outcomes[name].append(outcome)
            if outcome.is_fault or options.number is not None:
                print(f"--only {name!r} --number {number}: {outcome.kind}: {outcome.detail}\n", flush=True)
        seconds[name] = time.perf_counter() - at
        print(f"{name}: {dict(Counter(outcome.kind for outcome in outcomes[name]))}, {seconds[name]:.0f} s", flush=True)
    if not options.only:
        options.page.write_text(page(outcomes, seconds, options.seed, time.perf_counter() - begun), "utf-8")
    return int(any(outcome.is_fault for found in outcomes.values() for outcome in found))


def warm_up() -> None:
    """Import and make once what would be made in every trial: it counts for none."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MPLCONFIGDIR"] = os.environ["XDG_CACHE_HOME"] = folder
        import torch

        from allelse.report import write_report

        torch.set_num_threads(1)
        write_report(stores.write(Path(folder) / "out"))
        datasets.pictures()
        cifar.official()
        datasets.bomb()
        studies.warm_up(Path(folder))
        studies.texts()


def page(outcomes: dict[str, list[Outcome]], seconds: dict[str, float], seed: int, whole: float) -> str:
    faults = Counter(outcome.kind for found in outcomes.values() for outcome in found if outcome.is_fault)
    count = sum(map(len, outcomes.values()))
    told = ", ".join(f"{number} × {kind}" for kind, number in faults.items()) or "no fault"
    lines = [
        "# Bad input",
        "",
        f"Written by `python -m benchmarks.fuzz --inputs {count} --seed {seed}` on {date.today()}, in {whole:.0f} s",
        f"({platform.machine()}, one core; Python {platform.python_version()}, allelse {allelse.__version__}).",
        f"**{count} inputs: {told}.** A fault is any exception but allelse's own, a message of several lines or with control",
        f"characters, more than {SECONDS} s, a process that dies (each has 2 GiB), half a data set taken for a whole, a file",
        "written outside the given folder, code that ran, and words that a browser, a Markdown reader, a spreadsheet or a",
        "terminal obeys.",
        "",
        "| parser | what is spoilt | inputs | accepted | refused with a clear line | faults | seconds |",
        "| --- | --- | --: | --: | --: | --- | --: |",
    ]
    for name, found in outcomes.items():
        kinds = Counter(outcome.kind for outcome in found)
        wrong = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if kind not in ("accepted", "refused")) or "0"
        row = (name, PARSERS[name][2], len(found), kinds["accepted"], kinds["refused"], wrong, f"{seconds[name]:.0f}")
        lines.append("| " + " | ".join(map(str, row)) + " |")
    lines += [
        "",
        "Accepted: the input was still valid, and what came of it was checked to be whole. A seed makes the same inputs again.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
