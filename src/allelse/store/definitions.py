"""Definitions: studies as they were declared in; in which places they differ, one phrase each, and what unites them, out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

from allelse.design import arm_text, is_number
from allelse.records import canonical_json

WITHOUT_WEIGHT = ("command", "notes", "references")
"""by which command a study was asked for, our words, and what others published do not make it another one"""
OF_ARMS = ("seeds", "factors", "arms", "excluded")
WITH_AN_ORDER = ("trend", "monotone")
"""kinds of claims that take the levels of a factor one after the other; one of another kind takes them all at once"""
NAMED = ("data", "own parts")
"""the fingerprints of what the arms train on and of code of the user's own, by name"""


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What makes them different studies, the first four places: ``recipe.epochs: 20 → 10; …``; empty when nothing does."""
    found = _differences(_decisive(stored), _decisive(given))
    return "; ".join(found[:4]) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")


def fits(stored: Mapping[str, Any], given: Mapping[str, Any], *, united: bool) -> bool:
    """Whether a study as given may go on with what is stored; a united folder holds it with seeds of its other parts too."""
    if not united:
        return _decisive(stored) == _decisive(given)
    return set(given["seeds"]) <= set(stored["seeds"]) and same_but_for_seeds(*map(_in_one_order, (stored, given)))


def same_but_for_seeds(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two folders are of one study, each with seeds of its own."""
    return _decisive(seedless(one)) == _decisive(seedless(other))


def _in_one_order(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A definition with its arms, and the levels that no claim takes in the file's order, in an order of their texts; so with
    what it excludes."""
    along = {claim.get("along") for claim in definition["claims"] if claim.get("kind") in WITH_AN_ORDER}
    factors = {
        factor: sorted(levels, key=canonical_json) if factor not in along or all(map(is_number, levels)) else levels
        for factor, levels in definition["factors"].items()
    }
    arms = sorted(definition["arms"], key=lambda arm: canonical_json(arm["levels"]))
    excluded = {"excluded": sorted(definition["excluded"], key=canonical_json)} if "excluded" in definition else {}
    return {**definition, "factors": factors, "arms": arms, **excluded}


def apart(part: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """Why folders are not of one study, each with seeds of its own, the first with some of the arms of the second, and what to
    do; empty when they are."""
    recipes = {canonical_json(arm["levels"]): arm["recipe"] for arm in whole["arms"]}
    if recipes.keys() == {canonical_json(arm["levels"]) for arm in part["arms"]}:
        found = differences(*(seedless(_in_one_order(one)) for one in (whole, part)))
        return found and f"{found}; leave one of them out"
    if found := differences(*(_without_arms(one, other) for one, other in ((whole, part), (part, whole)))):
        return f"{found}; leave one of them out"
    for arm in part["arms"]:
        name = arm_text(arm["levels"]) or "without factors"
        recipe = recipes.get(canonical_json(arm["levels"]))
        if recipe is None:
            return f"that one lacks the arm {name}; leave one of them out, or name a folder that has the arms of both"
        if found := differences({"recipe": recipe}, {"recipe": arm["recipe"]}):
            return f"in the arm {name}, {found}; leave one of them out"
    return ""


def united(definitions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The definition of the study that has the arms of all of these: the first, where it has them; else the same with all their
    levels, crossed.

    Arguments:
        definitions: of one study, each with some of its levels, the one with the most arms first.

    Raises:
        ValueError: there is no such study: an arm is in none of them, or no one knows in which order levels come that a claim
            goes along.
    """
    first = definitions[0]
    arm_from_levels = {canonical_json(arm["levels"]): arm for one in reversed(definitions) for arm in one["arms"]}
    excluded = {canonical_json(levels) for one in definitions for levels in one.get("excluded", [])}
    lists = {factor: [one["factors"].get(factor, []) for one in definitions] for factor in first["factors"]}
    factors = {factor: _all_levels(of_each) for factor, of_each in lists.items()}
    crossed = {canonical_json(levels): levels for levels in _crossed(factors)}
    if len(arm_from_levels) == len(first["arms"]) or not arm_from_levels.keys() <= crossed.keys():
        return dict(first)
    for claim in first["claims"]:
        along = claim.get("along") if claim.get("kind") in WITH_AN_ORDER else None
        if along in factors and not all(map(is_number, factors[along])) and len(factors[along]) > max(map(len, lists[along])):
            raise ValueError(f"none of them has all levels of {along} in the order that the claim {claim['id']!r} asks for")
    for text, levels in crossed.items():
        if text not in arm_from_levels and text not in excluded:
            raise ValueError(f"none of them has the arm {arm_text(levels)}; train it, too")
    whole = {
        "factors": factors,
        "arms": [arm_from_levels[text] for text in crossed if text in arm_from_levels],
        "excluded": [levels for text, levels in crossed.items() if text not in arm_from_levels],
        **{key: dict(sorted(pair for one in definitions for pair in one.get(key, {}).items())) for key in NAMED},
    }
    if command := _command(first, factors):
        whole["command"] = command
    shared = {key: value for key, value in first.items() if key not in {*whole, "notes", "command"}}  # which are of the first
    return {**shared, **{key: value for key, value in whole.items() if value}}


def words_of(command: str) -> list[str]:
    """The words of a stored command; none where it is none, as a quotation without an end."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _command(first: Mapping[str, Any], factors: Mapping[str, Sequence[Any]]) -> str:
    """The command of the first with the levels of all; empty where it cannot be told."""
    words = words_of(first.get("command", ""))
    for factor, levels in factors.items():
        if words and list(levels) != first["factors"][factor]:
            levels_set = f"{factor}={json.dumps(levels, ensure_ascii=False)}"
            given = [
                place for place, (option, word) in enumerate(pairwise(words), 1) if option == "--set" and _key(word) == factor
            ]
            if given:
                words[given[0]] = levels_set
            else:
                words += ["--set", levels_set]
    return shlex.join(words)


def _key(change: str) -> str:
    return change.partition("=")[0].strip()


def _all_levels(lists: Sequence[Sequence[Any]]) -> list[Any]:
    """Every level once, in the order of the longest list: numbers up or down as there, others as there and then the rest."""
    longest = max(lists, key=len)
    levels = list({canonical_json(level): level for one in (longest, *lists) for level in one}.values())
    if not all(map(is_number, levels)):
        return levels
    return sorted(levels, key=float, reverse=len(longest) > 1 and longest[0] > longest[-1])


def _crossed(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(factors, levels, strict=True)) for levels in product(*factors.values())]


def _without_arms(definition: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A definition without what follows from its arms; of what is kept by name, only what the other one has too."""
    shared = {
        key: {name: value for name, value in definition.get(key, {}).items() if name in other.get(key, {})} for key in NAMED
    }
    return {**{key: value for key, value in definition.items() if key not in OF_ARMS}, **shared}


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
    return "default" if value is None else json.dumps(value, ensure_ascii=False)  # a recipe leaves its defaults out
