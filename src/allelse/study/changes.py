"""Changes of a recipe's raw values: dotted keys, tables laid over tables, and the ``key=value`` texts of ``--set``."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from allelse.errors import StudyError, one_line
from allelse.recipe import NAMING, Recipe
from allelse.study.values import DEEPEST, misfit

DEFAULTS = Recipe(dataset="digits")
"""what a recipe that says nothing of a part has"""


LENGTHS = {"epochs": "updates", "updates": "epochs"}
"""A training has its length from one of the two: whoever sets one takes the other away."""


def give_way(recipe: dict[str, Any], changes: Iterable[str]) -> None:
    """Take the other key of ``LENGTHS`` out of a raw recipe before these dotted keys are put in, unless both are."""
    changes = set(changes)
    for key in changes & LENGTHS.keys():
        if LENGTHS[key] not in changes:
            recipe.pop(LENGTHS[key], None)


def put(recipe: dict[str, Any], key: str, value: Any, default: Any = DEFAULTS) -> None:
    """Set the dotted ``key``; a part given by its name alone becomes a table first, one that is left out its default's."""
    *parents, last = key.split(".")
    if len(parents) >= DEEPEST:
        raise StudyError(f"a key of {len(parents) + 1} parts; name an existing key of the recipe")
    node = recipe
    for parent in parents:
        default = getattr(default, parent, None)
        child = node.get(parent, getattr(default, "name", {}))
        if isinstance(child, str) and parent != "model":  # which has no name, but a family
            child = {"name": child}
        if not isinstance(child, dict):
            raise StudyError(f"{parent} is {child!r}, which has no keys of its own; name an existing key of the recipe")
        node[parent] = child
        node = child
    node[last] = copy.deepcopy(value)


def merge(recipe: dict[str, Any], changes: Mapping[str, Any], default: Any = DEFAULTS) -> None:
    """Put ``changes`` over ``recipe``, table by table; a table with a ``name`` is a part and replaces what was there."""
    for key, value in outer_first(changes):
        there = recipe.get(key)
        if "." in key:
            put(recipe, key, value, default)
        elif isinstance(value, Mapping) and "name" not in value and isinstance(there, (dict, str)):
            recipe[key] = {"name": there} if isinstance(there, str) else there
            merge(recipe[key], value, getattr(default, key, None))
        else:
            recipe[key] = copy.deepcopy(value)


def outer_first(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys with their values, a part before the keys that stand in it, whatever the order in which they were written."""
    return sorted(values.items(), key=lambda item: item[0].count("."))


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{ model.depth = 2 }``, which TOML reads as a table in a table, as the key ``model.depth`` that it means."""
    model = values.get("model")
    if not isinstance(model, Mapping) or set(NAMING) & set(model):
        return dict(values)
    return {**{key: value for key, value in values.items() if key != "model"}, **dict(_unnamed(model, "model"))}


def _unnamed(table: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value and not set(NAMING) & set(value):
            yield from _unnamed(value, f"{above}.{key}")
        else:
            yield f"{above}.{key}", value


def covers(moved: str, key: str) -> bool:
    """Whether setting ``moved`` sets ``key``: it is the same, a table that ``key`` stands in, or takes ``key`` away."""
    return key == moved or key.startswith(f"{moved}.") or LENGTHS.get(moved) == key


def parse_change(change: str) -> tuple[str, Any]:
    """The key and the value of a ``--set``; what is no TOML is a text."""
    try:
        change.encode()
    except UnicodeEncodeError:
        raise StudyError(f"--set {change}: holds bytes that are no UTF-8; write it as UTF-8 text") from None
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise StudyError(one_line(f"--set {change}: allowed: key=value, e.g. --set epochs=2 or --set 'model.depth=[1, 2]'"))
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        if text.strip()[:1] in ("[", "{"):
            remedy = """inside one pair of single quotes, with texts in "…": --set 'model.activation=["relu", "gelu"]'"""
            raise StudyError(one_line(f"--set {change}: is no list or table as TOML has it; write it {remedy}")) from None
        return key.strip(), text.strip()
    if len(parsed) > 1:  # a text of several lines, of which only the first would be the value
        return key.strip(), text.strip()
    if found := misfit(parsed):
        raise StudyError(one_line(f"--set {change}: {found[1]}"))
    return key.strip(), parsed["value"]
