"""The aims that the suite was built for, each held against the figures: readings in, what was aimed at, found and met out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.speed.grid import EIGHT_SEEDS
from benchmarks.speed.reading import Reading

Value = Callable[[Reading], float | None]


@dataclass(frozen=True)
class Aim:
    """One aim and what became of it."""

    says: str
    found: str
    met: bool | None
    """``None``: not measured"""


def aims(readings: Sequence[Reading], device_type: str) -> list[Aim]:
    """Those of this kind of device, and those of any."""

    def where(*words: str) -> list[Reading]:
        return [reading for reading in readings if set(words) <= set(reading.cell.words)]

    def over(way: str) -> Value:
        return lambda reading: reading.over(way)

    def share(reading: Reading) -> float | None:
        return reading.share_of_matrix_rate()

    narrow = where("narrow", "r32")
    small = [reading for reading in narrow if reading.cell.batch <= 32]
    eight = [reading for reading in readings if reading.cell == EIGHT_SEEDS]
    of_any = [
        _lowest("≥ 1.0× strong serial everywhere", 1.0, over("serial"), readings),
        _highest("choosing the pack under 3 % of the training, for one arm alone", 0.03, Reading.choosing_share, readings),
    ]
    if device_type == "cpu":
        return [
            _lowest("≥ 2.3× the plain loop at batch 128 (middle)", 2.3, over("plain"), where("middle", "b128")),
            _lowest("≥ 3× the plain loop at batch 2 with 8 seeds (middle)", 3.0, over("plain"), eight),
            _lowest("≥ 70 % of the matrix rate at batch 128 (middle)", 0.7, share, where("middle", "b128"), percent=True),
            *of_any,
        ]
    return [
        _lowest("≥ 10× strong serial at batch 2, 32 narrow replicas", 10.0, over("serial"), _at(narrow, 2)),
        _lowest("≥ 4× strong serial at batch 8, 32 narrow replicas", 4.0, over("serial"), _at(narrow, 8)),
        _lowest("≥ 50× the plain loop at batch ≤ 32, 32 narrow replicas", 50.0, over("plain"), small),
        _lowest("≥ 40 % of the matrix rate at batch 512, wide", 0.4, share, where("wide", "b512"), percent=True),
        *of_any,
    ]


def _at(readings: Sequence[Reading], batch: int) -> list[Reading]:
    return [reading for reading in readings if reading.cell.batch == batch]


def _lowest(says: str, wanted: float, value_of: Value, readings: Sequence[Reading], percent: bool = False) -> Aim:
    """An aim that every cell has to reach."""
    values = _values(value_of, readings)
    if not values:
        return Aim(says, "not measured", None)
    value, name = min(values)
    reach = sum(reached >= wanted for reached, _ in values)
    shown = f"{100 * value:.0f} %" if percent else f"{value:.2f}×"
    found = f"lowest {shown}, at {name}; {reach} of {len(values)} cells reach it{_missing(values, readings)}"
    return Aim(says, found, value >= wanted)


def _highest(says: str, wanted: float, value_of: Value, readings: Sequence[Reading]) -> Aim:
    """An aim that every cell has to stay under."""
    values = _values(value_of, readings)
    if not values:
        return Aim(says, "not measured", None)
    value, name = max(values)
    return Aim(says, f"highest {100 * value:.2g} %, at {name}{_missing(values, readings)}", value < wanted)


def _values(value_of: Value, readings: Sequence[Reading]) -> list[tuple[float, str]]:
    found = [(value_of(reading), reading.cell.name) for reading in readings]
    return [(value, name) for value, name in found if value is not None]


def _missing(values: Sequence[object], readings: Sequence[Reading]) -> str:
    missing = len(readings) - len(values)
    return f"; {missing} not measured" if missing else ""
