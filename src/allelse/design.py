"""The design of a study: the levels of each factor in; which combinations are arms, and the arms that a text means, out.

Without conditions and exclusions every combination of levels is an arm. A factor that exists only where another has a certain
level is missing from the other arms, and an excluded combination is no arm at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import product

from allelse.errors import did_you_mean

Level = str | int | float | bool
Arm = Mapping[str, Level]
Condition = Mapping[str, Level | Sequence[Level]]
"""levels by factor, one or a list of them; arms that have one of them for each factor are meant"""

ABSENT = "–"
"""how a table shows that an arm lacks a factor"""
EVERY_RUN = "every run"
"""in ``DataFrame.attrs``: the table has a row for each run that is asked"""


class Design(Mapping[str, Sequence[Level]]):
    """The levels of every factor in the study's order, and the arms.

    Arguments:
        levels_from_factor: the levels of every factor.
        arms: levels by factor, without the factors that an arm lacks; every combination of levels when left out.
    """

    def __init__(self, levels_from_factor: Mapping[str, Sequence[Level]], arms: Sequence[Arm] | None = None) -> None:
        self._levels = {factor: list(levels) for factor, levels in levels_from_factor.items()}
        combined = (dict(zip(self._levels, levels, strict=True)) for levels in product(*self._levels.values()))
        self.arms: list[Arm] = list(combined) if arms is None else list(arms)
        # A set of arms is a whole number with one bit an arm, so that thousands of them are searched in no time.
        self._with: dict[str, dict[object, int]] = {factor: {} for factor in self._levels}
        for place, arm in enumerate(self.arms):
            for factor, level in arm.items():
                bits = self._with[factor]
                bits[level_key(level)] = bits.get(level_key(level), 0) | 1 << place
        self._having = {factor: reduce(int.__or__, bits.values(), 0) for factor, bits in self._with.items()}

    @classmethod
    def of(cls, levels_from_factor: Mapping[str, Sequence[Level]]) -> Design:
        """A design as it is; the full crossing of any other levels by factor."""
        return levels_from_factor if isinstance(levels_from_factor, Design) else cls(levels_from_factor)

    def __getitem__(self, factor: str) -> Sequence[Level]:
        return self._levels[factor]

    def __iter__(self) -> Iterator[str]:
        return iter(self._levels)

    def __len__(self) -> int:
        return len(self._levels)

    def find(self, named: Arm, shared: Arm) -> list[Arm]:
        """The arms with all ``named`` levels, and with those ``shared`` ones whose factor they have, in the study's order."""
        found, _ = self._search(named, shared)
        return self._arms(found)

    def why_none(self, named: Arm, shared: Arm) -> str:
        """Why ``find`` finds no arm."""
        return self._search(named, shared)[1]

    def others(self, arm: Arm, factors: Sequence[str], shared: Arm) -> list[Arm]:
        """All arms but this one that are like it in every factor that is not among ``factors`` and that both have, with those
        ``shared`` levels whose factor they have."""
        found = self._all
        for factor, level in {**shared, **arm}.items():
            if factor not in factors:
                found &= self._with[factor][level_key(level)] | ~self._having[factor]
        return [other for other in self._arms(found) if arm_key(other) != arm_key(arm)]

    def _search(self, named: Arm, shared: Arm) -> tuple[int, str]:
        found = self._all
        so_far: dict[str, Level] = {}
        for factor in (*filter(named.__contains__, self), *filter(shared.__contains__, self)):
            having = found & self._having[factor]
            if not having:
                if factor in named:
                    return 0, f"arms with {arm_text(so_far)} have no factor {factor!r}"
                continue  # what holds for the whole claim does not speak of an arm that lacks the factor
            level = named[factor] if factor in named else shared[factor]
            so_far[factor] = level
            found = having & self._with[factor].get(level_key(level), 0)
            if not found:
                return 0, f"the study has no arm with {arm_text(so_far)}"
        return found, ""

    @property
    def _all(self) -> int:
        return (1 << len(self.arms)) - 1

    def _arms(self, bits: int) -> list[Arm]:
        found = []
        while bits:
            lowest = bits & -bits
            found.append(self.arms[lowest.bit_length() - 1])
            bits ^= lowest
        return found


def matches(condition: Condition, arm: Arm) -> bool:
    """Whether an arm has one of the levels that the condition names, for every factor that it names."""
    return all(
        factor in arm and level_key(arm[factor]) in map(level_key, levels if isinstance(levels, list | tuple) else [levels])
        for factor, levels in condition.items()
    )


def ordered(levels: Sequence[Level]) -> list[Level]:
    """Levels as ``along`` runs through them: numbers from low to high, anything else in the study's order."""
    return sorted(levels, key=lambda level: float(level)) if all(map(is_number, levels)) else list(levels)


# ── levels and arms in words ────────────────────────────────────────────────────────────────────────────────────────


def is_absent(level: object) -> bool:
    """Whether a cell of a table says that the arm lacks the factor."""
    return level is None or level != level


def level_key(level: object) -> tuple[str, object]:
    """What makes two levels the same: ``8`` and ``8.0`` are, ``1`` and ``true`` are not. NumPy scalars count as Python's."""
    if is_absent(level):
        return ("absent", None)
    plain = level.item() if hasattr(level, "item") else level
    if isinstance(plain, bool):
        return ("bool", plain)
    return ("number", float(plain)) if isinstance(plain, (int, float)) else ("text", str(plain))


def arm_key(arm: Mapping[str, object]) -> dict[str, tuple[str, object]]:
    """What makes two arms the same, whatever the order of their factors."""
    return {factor: level_key(level) for factor, level in arm.items() if not is_absent(level)}


def level_text(level: object) -> str:
    """A level as a person reads it and TOML writes it, without quotes; ``–`` where the arm lacks the factor."""
    if is_absent(level):
        return ABSENT
    plain = level.item() if hasattr(level, "item") else level
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def short_names(factors: Iterable[str]) -> dict[str, str]:
    """Each factor as a heading: as many of its last parts as no other one ends with, ``model.depth`` → ``depth``."""
    names = list(factors)

    def short(name: str) -> str:
        parts = name.split(".")
        ends = (".".join(parts[place:]) for place in reversed(range(len(parts))))
        return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in names) == 1), name)

    return {name: short(name) for name in names}


def instead_of(level: object, allowed: Sequence[Level]) -> str:
    """What to write for a level that is none of ``allowed``: the same without quotes, or in quotes, or one of them."""
    texts = [level_text(other) for other in allowed]
    if level_text(level) in texts:
        return f"write it {'without quotes' if isinstance(level, str) else 'in quotes'}"
    return did_you_mean(level_text(level), texts)


def arm_text(arm: Mapping[str, object]) -> str:
    """An arm as a person reads it: ``model.activation = relu, model.depth = 8``."""
    return ", ".join(f"{factor} = {level_text(level)}" for factor, level in arm.items() if not is_absent(level))


def condition_text(condition: Condition) -> str:
    """A condition as a person reads it: ``model.norm = group or layer, batch_size = 2``."""
    texts = {
        factor: " or ".join(map(level_text, levels)) if isinstance(levels, list | tuple) else level_text(levels)
        for factor, levels in condition.items()
    }
    return ", ".join(f"{factor} = {text}" for factor, text in texts.items())


def is_number(level: object) -> bool:
    return level_key(level)[0] == "number"
