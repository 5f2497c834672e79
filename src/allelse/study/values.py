"""Raw values of TOML in; the first one that no study can use, with where it stands, out: before anything looks at them."""

from __future__ import annotations

from math import isfinite
from typing import Any

DEEPEST = 20
"""tables and lists in one another; what follows a value inwards needs no more of Python's stack than that"""
MOST_INT = 2**63
"""TOML's own bound of whole numbers"""


def misfit(raw: Any) -> tuple[list[str | int], str] | None:
    """The path and the fault of a value that is nested too deep, no finite number, larger than TOML allows, or a date."""
    waiting: list[tuple[list[str | int], Any]] = [([], raw)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict | list):
            if len(path) > DEEPEST:
                return path[
                    :DEEPEST
                ], f"is nested more than {DEEPEST} deep; allowed: what stands in the reference of study files"
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [([*path, key], each) for key, each in inner][::-1]
        elif isinstance(value, bool | str):
            continue
        elif isinstance(value, int):
            if not -MOST_INT <= value < MOST_INT:
                return path, "a whole number beyond 64 bits; allowed: from -2^63 to 2^63 - 1"
        elif not isinstance(value, float):
            return path, f"{value}; allowed: a text in quotes, a number, true, false, a list or a table"
        elif not isfinite(value):
            return path, f"{value}; allowed: a finite number"
    return None
