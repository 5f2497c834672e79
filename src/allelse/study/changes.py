"""Changes of a recipe's raw values: dotted keys, tables laid over tables, and the ``key=value`` texts of ``--set``."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from typing import Any

from allelse.errors import StudyError
from allelse.messages import one_line
from allelse.recipe import Recipe
from allelse.study.values import DEEPEST, misfit

DEFAULTS = Recipe(dataset="digits")
"""what a recipe that says nothing of a part has"""


def put(recipe: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted ``key``; a part given by its name alone becomes a table first, one that is left out its default's."""
    *parents, last = key.split(".")
    if len(parents) >= DEEPEST:
        raise StudyError(f"a key of {len(parents) + 1} parts; name an existing key of the recipe")
    node = recipe
    default: Any = DEFAULTS
    for parent in parents:
        default = getattr(default, parent, None)
        child = node.get(parent, getattr(default, "name", {}))
        if isinstance(child, str):
            child = {"name": child}
        if not isinstance(child, dict):
            raise StudyError(f"{parent} is {child!r}, which has no keys of its own; name an existing key of the recipe")
        node[parent] = child
        node = child
    node[last] = copy.deepcopy(value)


def merge(recipe: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put ``changes`` over ``recipe``, table by table; a table with a ``name`` is a part and replaces what was there."""
    for key, value in changes.items():
        if "." in key:
            put(recipe, key, value)
        elif isinstance(value, Mapping) and "name" not in value and isinstance(recipe.get(key), dict):
            merge(recipe[key], value)
        else:
            recipe[key] = copy.deepcopy(value)


def covers(moved: str, key: str) -> bool:
    """Whether setting ``moved`` sets ``key``: it is the same, or a table that ``key`` stands in."""
    return key == moved or key.startswith(f"{moved}.")


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
        return key.strip(), text.strip()
    if len(parsed) > 1:  # a text of several lines, of which only the first would be the value
        return key.strip(), text.strip()
    if found := misfit(parsed):
        raise StudyError(one_line(f"--set {change}: {found[1]}"))
    return key.strip(), parsed["value"]
