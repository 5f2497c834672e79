"""Definitions: two studies as they were declared in; in which places they differ, one phrase each, out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from allelse.records import canonical_json

WITHOUT_WEIGHT = ("command", "notes", "references")
"""by which command a study was asked for, our words, and what others published do not make it another one"""


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What makes them different studies, the first four places: ``recipe.epochs: 20 → 10; …``; empty when nothing does."""
    found = _differences(_decisive(stored), _decisive(given))
    return "; ".join(found[:4]) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")


def fits(stored: Mapping[str, Any], given: Mapping[str, Any], *, united: bool) -> bool:
    """Whether a study as given may go on with what is stored; a united folder holds it with seeds of its other parts too."""
    if not united:
        return _decisive(stored) == _decisive(given)
    return set(given["seeds"]) <= set(stored["seeds"]) and same_but_for_seeds(stored, given)


def same_but_for_seeds(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two folders are of one study, each with seeds of its own."""
    return _decisive(seedless(one)) == _decisive(seedless(other))


def apart(part: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """Why ``part`` is not of one study with ``whole``, with seeds of its own and all of the arms or some, and what to do; empty
    when it is."""
    if found := differences(_narrowed(whole, part), _narrowed(part, whole)):
        return f"{found}; leave it out"
    known = _texts(arm["levels"] for arm in whole["arms"])
    others = [arm["levels"] for arm in part["arms"] if canonical_json(arm["levels"]) not in known]
    return (
        f"that one lacks the arm {_arm(others[0])}; leave it out, or name a folder that has the arms of both" if others else ""
    )


def _narrowed(definition: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A definition without seeds, with only those levels and arms that the other one has too."""
    known = {factor: _texts(levels) for factor, levels in other["factors"].items()}
    factors = {
        factor: [level for level in levels if canonical_json(level) in known.get(factor, ())]
        for factor, levels in definition["factors"].items()
    }
    arms = _texts(arm["levels"] for arm in other["arms"])
    narrow = seedless(definition)
    return {**narrow, "factors": factors, "arms": [arm for arm in narrow["arms"] if canonical_json(arm["levels"]) in arms]}


def _arm(levels: Mapping[str, Any]) -> str:
    return ", ".join(f"{factor} = {_shown(level)}" for factor, level in levels.items())


def _texts(values: Iterable[Any]) -> set[str]:
    return set(map(canonical_json, values))


def seedless(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A definition without the study's seeds and the numbers of seeds of its arms."""
    arms = [{key: value for key, value in arm.items() if key != "seeds"} for arm in definition["arms"]]
    return {**{key: value for key, value in definition.items() if key != "seeds"}, "arms": arms}


def _decisive(definition: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in definition.items() if key not in WITHOUT_WEIGHT}


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """One phrase for each place where two definitions differ: ``recipe.epochs: 20 → 10``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            phrase
            for key in dict.fromkeys([*old, *new])
            for phrase in _differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
        ]
    if isinstance(old, list) and isinstance(new, list):
        if where == "seeds":
            return [] if old == new else [f"seeds: {len(old)} from {old[0]} → {len(new)} from {new[0]}"]
        if len(old) != len(new):
            return [f"{where}: {len(old)} → {len(new)}"]
        return [phrase for number, pair in enumerate(zip(old, new), 1) for phrase in _differences(*pair, f"{where} {number}")]
    return [] if old == new else [f"{where}: {_shown(old)} → {_shown(new)}"]


def _shown(value: Any) -> str:
    return "default" if value is None else json.dumps(value)  # a recipe leaves its defaults out
