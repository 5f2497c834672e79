"""Reading: a cell and its record in, medians and ratios out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.speed import floor
from benchmarks.speed.grid import Cell


@dataclass(frozen=True)
class Reading:
    """One cell; every method answers ``None`` where there is no figure."""

    cell: Cell
    record: Mapping[str, Any] | None
    """``None``: not reached yet"""
    precision: str

    @property
    def reason(self) -> str | None:
        """Why the cell as a whole has no figures."""
        if self.record is None:
            return "not reached yet"
        reason: str | None = self.record.get("not_measured")
        return reason

    def way(self, name: str) -> dict[str, Any]:
        """Facts and turns of one way; empty where it has none."""
        found: dict[str, Any] = (self.record or {}).get("ways", {}).get(name, {})
        return found

    def rate(self, way: str) -> float | None:
        """Images a second over all networks, the median of the turns."""
        turns = self.way(way).get("turns")
        return median(turns) if turns else None

    def over(self, way: str) -> float | None:
        """How many times as fast allelse is."""
        ours, theirs = self.rate("allelse"), self.rate(way)
        return ours / theirs if ours and theirs else None

    def share_of_matrix_rate(self) -> float | None:
        """allelse's arithmetic over the matrix rate of the same turns."""
        ours = self.rate("allelse")
        return ours * self.cell.flop_an_image / median(self.record["matrix"]) if ours and self.record else None

    def share_of_floor(self, way: str = "allelse") -> float | None:
        """Images a second over the most that the device's rates of the same turns allow."""
        ours = self.rate(way)
        if not ours or not self.record:
            return None
        rates = floor.Rates(median(self.record["matrix"]), median(self.record["copy"]))
        return ours / floor.images_per_second(self.cell, self.precision, rates)

    def runs_per_hour(self, way: str = "allelse") -> float | None:
        ours = self.rate(way)
        return 3600 * ours / self.cell.source.images_a_run if ours else None

    def once(self, way: str) -> float:
        """Seconds that choosing, compiling and capturing took."""
        facts = self.way(way)
        return float(facts.get("choose_s", 0.0) + facts.get("start_s", 0.0))

    def study_seconds(self, way: str) -> float | None:
        """Of training all the cell's runs, with what has to be done once."""
        rate = self.rate(way)
        return self.cell.replicas * self.cell.source.images_a_run / rate + self.once(way) if rate else None

    def choosing_share(self) -> float | None:
        """Of the training of all the cell's runs that choosing the pack took."""
        seconds = self.study_seconds("allelse")
        return self.way("allelse")["choose_s"] / seconds if seconds else None

    def over_with_all(self, way: str) -> float | None:
        """How many times as fast allelse is when what has to be done once counts."""
        ours, theirs = self.study_seconds("allelse"), self.study_seconds(way)
        return theirs / ours if ours and theirs else None
