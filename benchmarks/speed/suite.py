"""The measuring: cells in, a JSON file that grows by one cell at a time out.

Within a cell every way has a process of its own, and they take turns, ``TURNS`` each, in an order that shifts from turn to
turn. What is slower than the limits, or fails, is kept with the reason instead of a figure.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.speed.floor import ELEMENT_BYTES, Rates
from benchmarks.speed.grid import Cell, Job
from benchmarks.speed.worker import WayError, Worker

WAYS = ("allelse", "serial", "processes", "plain", "grouped", "vmap")
TURNS = 5
SECONDS_A_TURN = 1.0
SLOWEST_STEP = 3.0
"""seconds that a step may take at the measured matrix rate; it takes longer in truth"""
SLOWEST_MEASURED_STEP = 12.0
SLOWEST_CELL = 240.0
"""seconds after which a cell takes no further round of turns"""
PATIENCE = 300.0
"""seconds until a way must have answered"""
PROCESSES_ON_A_GPU = 8
MEMORY_SHARE = 0.4
"""of the machine's memory that a step on the CPU may be expected to need"""


@dataclass(frozen=True)
class Pace:
    """How long is measured."""

    turns: int = TURNS
    seconds_a_turn: float = SECONDS_A_TURN


class Suite:
    """The workers, kept from cell to cell, and the machine they found themselves on."""

    def __init__(self, device: str, pace: Pace, folder: Path, deadline: float = float("inf")) -> None:
        self.device, self.pace, self.folder, self.deadline = device, pace, folder, deadline
        self.workers: dict[str, Worker] = {}
        self.rates: Rates | None = None

    @cached_property
    def machine(self) -> dict[str, Any]:
        """Hardware and versions, as the process of allelse finds them."""
        return self._ask("allelse", "describe", self.device)

    def measure(self, cell: Cell, ways: Sequence[str] = WAYS) -> dict[str, Any]:
        """The record of one cell: turns and facts by way, or why there are none."""
        try:
            return self._measured(cell, ways)
        except WayError as problem:
            return {"not_measured": str(problem)}

    def _measured(self, cell: Cell, ways: Sequence[str]) -> dict[str, Any]:
        begun = time.monotonic()
        found: dict[str, dict[str, Any]] = {}
        if not (self.folder / f"{cell.data}-images.npy").exists():
            self._ask("allelse", "write", cell.data, self.folder)
        names = {way: self._processes(cell) if way == "processes" else [way] for way in ways}
        everyone = [name for way in ways for name in names[way]]
        for name in everyone:  # at once, because importing torch takes its time
            self._worker(name)
        self._drop(everyone)
        rates = self._rates(cell)
        one_step = cell.batch * cell.flop_an_image / rates.matrix
        if one_step > SLOWEST_STEP:
            return {"not_measured": f"≥ {one_step:.0f} s a step of one network"}
        for way in ways:
            reason = self._reason_against(way, cell, len(names[way]))
            try:
                found[way] = {"not_measured": reason} if reason else self._prepare(way, names[way], cell)
            except WayError as problem:
                found[way] = {"not_measured": str(problem)}
            if found[way].get("seconds_a_step", 0.0) > SLOWEST_MEASURED_STEP:
                found[way] = {"not_measured": f"{found[way]['seconds_a_step']:.0f} s a step"}
            if "not_measured" in found[way]:
                self._drop(names[way])
        rounds: list[dict[str, float]] = []
        for number in range(self.pace.turns):
            if number and time.monotonic() > min(begun + SLOWEST_CELL, self.deadline):
                break
            rounds.append(self._turn(["rates"]))
            shift = number % len(ways)
            for way in [*ways[shift:], *ways[:shift]]:
                if "not_measured" in found[way]:
                    continue
                try:
                    found[way].setdefault("turns", []).append(self._turn(names[way])["rate"])
                except WayError as problem:
                    found[way] = {"not_measured": str(problem)}
        self._drop(everyone)
        self.rates = Rates(median(turn["matrix"] for turn in rounds), median(turn["copy"] for turn in rounds))
        return {
            "seconds": time.monotonic() - begun,
            "matrix": [turn["matrix"] for turn in rounds],
            "copy": [turn["copy"] for turn in rounds],
            "ways": found,
        }

    def close(self) -> None:
        for worker in self.workers.values():
            worker.stop()

    def _rates(self, cell: Cell) -> Rates:
        """The device's rates as they were last measured."""
        if self.rates is None or "rates" not in self.workers:
            self._ask("rates", "prepare", self._job(cell))
            self.rates = Rates(**self._turn(["rates"]))
        return self.rates

    def _job(self, cell: Cell, images_at_once: int = 0, threads: int | None = None) -> Job:
        device, precision = self.machine["type"], self.machine["precision"]
        return Job(cell, device, precision, self.folder, self.pace.seconds_a_turn, images_at_once, threads)

    def _processes(self, cell: Cell) -> list[str]:
        most = self.machine["threads"] if self.machine["type"] == "cpu" else PROCESSES_ON_A_GPU
        count = min(cell.replicas, most)
        return [f"process {number}" for number in range(count)] if count > 1 else []

    def _most_images(self, cell: Cell) -> tuple[float, float]:
        """How many images a step can take within the time, and within the memory."""
        assert self.rates
        in_time = SLOWEST_STEP * self.rates.matrix / cell.flop_an_image
        if self.machine["type"] != "cpu":
            return in_time, float("inf")  # a GPU says when its memory is full; a machine may die of it
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        kept = 4 * cell.activations_an_image * ELEMENT_BYTES["fp32"]  # outputs of convolution, norm, ReLU, and one gradient
        return in_time, MEMORY_SHARE * memory / kept

    def _reason_against(self, way: str, cell: Cell, processes: int) -> str | None:
        if way == "processes" and not processes:
            return "one process is strong serial"
        in_time, in_memory = self._most_images(cell)
        images = cell.batch * {"vmap": cell.replicas, "grouped": cell.replicas, "processes": processes}.get(way, 1)
        if images > in_time:
            return f"≥ {SLOWEST_STEP * images / in_time:.0f} s a step"
        return "too little memory" if images > in_memory else None

    def _prepare(self, way: str, names: list[str], cell: Cell) -> dict[str, Any]:
        threads = max(1, self.machine["threads"] // len(names)) if len(names) > 1 else None
        job = self._job(cell, int(min(1e9, *self._most_images(cell))), threads)
        for name in names:
            self._worker(name).send("prepare", job)
        answers = self._receive(names)
        return {**answers[0], **({"processes": len(names)} if way == "processes" else {})}

    def _turn(self, names: list[str]) -> dict[str, float]:
        """One turn of one way; the rates of processes that run at once are added."""
        for name in names:
            self._worker(name).send("turn", self.pace.seconds_a_turn)
        answers = self._receive(names)
        return {key: sum(answer[key] for answer in answers) for key in answers[0]}

    def _drop(self, names: list[str]) -> None:
        """Also waits until they have started; one that cannot shall say so when it is asked to prepare."""
        for name in names:
            with suppress(WayError):
                if name in self.workers:
                    self._ask(name, "drop")

    def _ask(self, name: str, *message: Any) -> dict[str, Any]:
        self._worker(name).send(*message)
        return self._receive([name])[0]

    def _worker(self, name: str) -> Worker:
        if name not in self.workers:
            self.workers[name] = Worker("serial" if name.startswith("process ") else name)
        return self.workers[name]

    def _receive(self, names: list[str]) -> list[dict[str, Any]]:
        """One answer each, of all of them even where one fails."""
        answers: list[dict[str, Any]] = []
        problems: list[WayError] = []
        for name in names:
            try:
                answers.append(self.workers[name].receive(PATIENCE))
            except WayError as problem:
                problems.append(problem)
                del self.workers[name]  # a new one when it is next asked
        if problems:
            raise problems[0]
        return answers


@contextmanager
def opened(device: str, pace: Pace, deadline: float = float("inf")) -> Iterator[Suite]:
    """A suite with its worker processes, which end with the block; no round of turns begins after ``deadline``."""
    with TemporaryDirectory(prefix="allelse-benchmark-") as folder:
        suite = Suite(device, pace, Path(folder), deadline)
        try:
            yield suite
        finally:
            suite.close()


class Figures:
    """The JSON file: a machine, and a record for each name."""

    def __init__(self, file: Path, machine: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: the file holds figures of another machine or version, and those never mix.
        """
        self.file = file
        kept = json.loads(file.read_text()) if file.exists() else {"machine": machine, "records": {}}
        if changed := [key for key in machine if kept["machine"].get(key) != machine[key]]:
            what = "; ".join(f"{key}: {kept['machine'].get(key)} → {machine[key]}" for key in changed)
            raise ValueError(f"{file}: holds figures of another machine or version ({what}); move it away, or give --out")
        self.machine: dict[str, Any] = kept["machine"]
        self.records: dict[str, dict[str, Any]] = kept["records"]

    def fill(self, tasks: Iterable[tuple[str, Callable[[], dict[str, Any]]]], deadline: float) -> Iterator[str]:
        """Measure what is not there yet, keep each record at once, and yield its name.

        After the first, nothing is begun that would end after ``deadline`` (of ``time.monotonic``) if it took as long as the
        longest one before it.
        """
        longest = 0.0
        for name, measure in tasks:
            if name in self.records:
                continue
            begun = time.monotonic()
            if longest and begun + longest > deadline:
                return
            record = measure()
            longest = max(longest, time.monotonic() - begun)
            self.records[name] = {"date": str(date.today()), **record}
            partial = self.file.with_suffix(".partial")
            partial.write_text(json.dumps({"machine": self.machine, "records": self.records}, indent=1, ensure_ascii=False))
            partial.replace(self.file)
            yield name
