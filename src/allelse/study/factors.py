"""Factors: the ``[factors]`` table in; what each level sets in the recipe, and which combinations of levels there are, out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import inf, isfinite
from typing import Any

from allelse.design import Condition, Level, instead_of, level_key, level_text, matches
from allelse.errors import StudyError, did_you_mean
from allelse.messages import Place, as_toml
from allelse.recipe import NAMING
from allelse.records import METRICS

COLUMNS = (
    *("run", "arm", "seed", "status", "error", "purpose"),
    *("n", "mean", "sd", "low", "high", "diverged", "failed", "pending"),
    *("value", "chosen"),
    *METRICS,
)
"""what the tables call their own columns, so that no factor may have such a name"""

MOST_ARMS = 10_000
"""combinations of levels, the excluded ones too"""
ALLOWED = "allowed: a list of levels, a table of named levels with the keys each one sets, or { when = …, levels = … }"


@dataclass(frozen=True)
class Factor:
    """One thing that is varied."""

    levels: Mapping[Level, Mapping[str, Any]]
    """the recipe keys that each level sets, by its label"""
    when: Condition
    """levels of earlier factors: only arms with these have this factor; empty where all arms have it"""
    stands: tuple[str, ...]
    """where it stands in the study file"""


def read_factors(raw: Mapping[str, Any], place: Place, under: str = "factors") -> dict[str, Factor]:
    """The factors of a ``[factors]`` table, in its order.

    Raises:
        StudyError: a factor's name is taken, or its value is no list and no table of levels.
    """
    factors = {}
    for name, value in raw.items():
        path = (*under.split("."), name)
        if name in COLUMNS:
            raise place.error(path, "the tables have a column of this name, or the metrics do; name it otherwise")
        when: Condition = {}
        if isinstance(value, Mapping) and {"when", "levels"} & set(value):
            when, value = _conditional(value, path, place)
        elif isinstance(value, Mapping) and name in ("model", "optimizer", "schedule", "loss", "averaging"):
            key = next((f"{name}.{inner}" for inner, levels in value.items() if not isinstance(levels, Mapping)), None)
            if key:  # TOML reads a dot without quotes as a table in a table
                raise place.error(path, f'put the factor\'s name into quotes: "{key}" = [...]')
        factors[name] = Factor(_levels(name, value, path, place), when, path)
    return factors


def _conditional(value: Mapping[str, Any], path: tuple[str, ...], place: Place) -> tuple[Condition, Any]:
    for key in value:
        if key not in ("when", "levels"):
            raise place.error((*path, key), "a factor with when or levels has no other keys; put named levels into levels")
    if "levels" not in value:
        raise place.error(path, "levels is missing beside when; add it, or name no level 'when'")
    when = value.get("when", {})
    if not isinstance(when, Mapping):
        raise place.error((*path, "when"), f"{when!r}; allowed: a table of levels by factor")
    return when, value["levels"]


def _levels(name: str, value: Any, path: tuple[str, ...], place: Place) -> dict[Level, Mapping[str, Any]]:
    if isinstance(value, Mapping) and value and all(isinstance(moved, Mapping) for moved in value.values()):
        labelled = [(_number_or_text(label), dict(moved)) for label, moved in value.items()]
    elif isinstance(value, list) and value:
        labelled = [(_label(level), {name: level}) for level in value]
    else:
        raise place.error(path, f"{value!r}; {ALLOWED}")
    if len({label for label, _ in labelled}) < len(labelled):  # 1, 1.0 and true are one level, as in any dict
        alike = "; true is 1 and false is 0 here" if any(isinstance(level, bool) for level in value) else ""
        raise place.error(path, f"{as_toml(list(value))} names a level twice; allowed: each level once{alike}")
    return dict(labelled)


def _label(level: Any) -> Level:
    if isinstance(level, Mapping):
        options = ", ".join(f"{key}={level_text(_label(value))}" for key, value in level.items() if key not in NAMING)
        name = next((str(level[key]) for key in NAMING if key in level), "")
        return f"{name}({options})" if options or not name else name
    if isinstance(level, list):
        return "-".join(level_text(_label(one)) for one in level) or "none"
    return level


def _number_or_text(name: str) -> Level:
    """The label of a named level: TOML writes keys as texts, but a level that is called 16 is a number to trends and axes."""
    if re.fullmatch(r"-?(0|[1-9]\d{0,15})", name, re.ASCII):
        return int(name)
    number = float(name) if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?", name, re.ASCII) else inf
    return number if isfinite(number) else name


def replaced_levels(change: str, name: str, value: Any, known: Factor) -> Factor:
    """The levels that ``--set name=value`` leaves: known ones by their labels, new ones where a level is a value."""
    place, listed = Place(f"--set {change}", "", {}), value if isinstance(value, list) else [value]
    levels = _levels(name, listed, ("factors", name), place)
    unknown = _unknown(name, levels, known)
    if unknown is not None:
        raise StudyError(f"--set {change}: {unknown!r} is no level of {name!r}; {instead_of(unknown, list(known.levels))}")
    return replace(known, levels=_as_known(levels, known))


def levels_instead(name: str, raw: Any, factor: Factor, known: Factor, place: Place) -> Factor:
    """The factor of ``[quick.factors]``, say, with the condition of the file's own; ``raw`` is what stands there: a list names
    levels of the file's own by their labels, or new ones, and a table has its own."""
    levels = factor.levels
    if isinstance(raw["levels"] if isinstance(raw, Mapping) and "levels" in raw else raw, list):
        unknown = _unknown(name, levels, known)
        if unknown is not None:
            remedy = f"{instead_of(unknown, list(known.levels))}, or a table of levels as under [factors]"
            raise place.error(factor.stands, f"{unknown!r} is no level of {name!r}; {remedy}")
        levels = _as_known(levels, known)
    return replace(factor, levels=levels, when=factor.when or known.when)


def _unknown(name: str, levels: Mapping[Level, Any], known: Factor) -> Level | None:
    """The first label that cannot be a level: of named levels of other keys nobody can make up a new one."""
    if all(set(moved) == {name} for moved in known.levels.values()):
        return None
    keys = set(map(level_key, known.levels))
    return next((label for label in levels if level_key(label) not in keys), None)


def _as_known(levels: Mapping[Level, Mapping[str, Any]], known: Factor) -> dict[Level, Mapping[str, Any]]:
    """Levels with what their labels stand for among the known ones."""
    known_from_key = {level_key(label): (label, moved) for label, moved in known.levels.items()}  # True is no 1
    return dict(known_from_key.get(level_key(label), (label, moved)) for label, moved in levels.items())


# ── conditions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def check_condition(
    condition: Mapping[str, Any], factors: Mapping[str, Factor], path: Sequence[str | int], place: Place
) -> None:
    """Refuse a condition on a factor or a level that is not among ``factors``; ``path`` is where it stands."""
    for name, levels in condition.items():
        if name not in factors:
            which = did_you_mean(name, list(factors)) if factors else "none stands before this"
            raise place.error((*path, name), f"there is no factor {name!r} here; {which}")
        known = list(factors[name].levels)
        if levels == []:
            raise place.error((*path, name), f"[]; allowed: a level or a list of levels of {', '.join(map(level_text, known))}")
        for level in levels if isinstance(levels, list) else [levels]:
            if level_key(level) not in map(level_key, known):
                raise place.error((*path, name), f"{name!r} has no level {level_text(level)!r}; {instead_of(level, known)}")


def check_when(name: str, factor: Factor, factors: Mapping[str, Factor], place: Place) -> None:
    """Refuse a ``when`` on anything but levels of the ``factors`` before this one; one that is not among them is the last."""
    before = dict(takewhile(lambda item: item[0] != name, factors.items()))
    later = [other for other in factor.when if other in factors and other not in before]
    if later:
        raise place.error((*factor.stands, "when"), f"{later[0]!r} stands after this factor, or is itself; put it before")
    check_condition(factor.when, before, (*factor.stands, "when"), place)


def combinations(factors: Mapping[str, Factor], place: Place) -> list[dict[str, Level]]:
    """Every combination of levels, the last factor fastest; one for all levels of a factor where it does not exist.

    Raises:
        StudyError: there are more than a study can have.
    """
    combined: list[dict[str, Level]] = [{}]
    for name, factor in factors.items():
        combined = [
            one
            for levels in combined
            for one in ([{**levels, name: label} for label in factor.levels] if matches(factor.when, levels) else [levels])
        ]
        if len(combined) > MOST_ARMS:
            raise place.error(
                factor.stands,
                f"with this factor there are over {MOST_ARMS} combinations of levels; leave factors or levels out",
            )
    return combined
