"""Messages about study files: pydantic's errors and the file's text in, one line with file, line, key and remedy out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from allelse.errors import StudyError, did_you_mean, one_line

Path = Sequence[str | int]

ALLOWED_FROM_TYPE = {
    "int_type": "allowed: a whole number",
    "int_from_float": "allowed: a whole number",
    "float_type": "allowed: a number",
    "bool_type": "allowed: true or false",
    "string_type": 'allowed: a text in "quotes"',
    "string_too_short": "allowed: a text that is not empty",
    "string_pattern_mismatch": "allowed: lower-case letters (a to z) and digits, with single hyphens between them",
    "tuple_type": "allowed: a list in [brackets]",
    "list_type": "allowed: a list in [brackets]",
    "dict_type": "allowed: a table of keys",
    "model_type": "allowed: a table of keys",
    "model_attributes_type": 'allowed: a name in "quotes", or a table with a name',
    "finite_number": "allowed: a finite number",
    "missing": "is missing; add it",
    "union_tag_not_found": 'allowed: a name in "quotes", or a table with a name',
    "too_long": "has too many entries; allowed: at most {max_length}",
    "too_short": "has too few entries; allowed: at least {min_length}",
    "string_too_long": "is too long; allowed: at most {max_length} letters",
}
TABLES = ("claims", "references", "exclude", "adjust")
"""of which a study file may have several"""
BOUND_FROM_TYPE = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}

KEY_FROM_DISCRIMINATOR = {"'name'": "name", "'kind'": "kind", "_family()": "family"}


@dataclass(frozen=True)
class Origin:
    """Where the values of one arm's recipe came from."""

    recipe: Mapping[str, Any]
    """the raw recipe that is being checked"""
    changes: Sequence[str]
    """``key=value`` texts from the command line"""
    moved: Mapping[str, Path]
    """where the factor, the adjustment or the tuning stands that set a dotted key"""
    put_in: Sequence[tuple[str, str]]
    """``quick`` or ``scaled``, and a key that this table set"""


class Place:
    """A study file's source, text and raw values, to say where a mistake stands."""

    def __init__(self, source: str, text: str, raw: Mapping[str, Any]) -> None:
        self.source = source
        self.text = text
        self.raw = raw

    def error(self, path: Path, message: str) -> StudyError:
        """A ``StudyError`` that names source, line and key."""
        line = line_of(self.text, path)
        where = f"{self.source}, line {line}" if line else self.source
        return StudyError(one_line(f"{where}: {_dotted(path)}: {message}"))

    @contextmanager
    def named(self, origin: Origin | None = None) -> Iterator[None]:
        """Turn pydantic's first complaint inside this block into one line about the file, or the ``--set`` behind it."""
        try:
            yield
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            path = _path(first, origin.recipe if origin else self.raw)
            message = describe(first)
            if origin is None:
                raise self.error(path, message) from None
            if isinstance(first["input"], list) and first["type"].endswith("_type"):  # levels, where one value is due
                message += "; what is compared stands under [factors] in a study file"
            raise self.error_in_recipe(origin, path, message) from None

    def error_in_part(self, origin: Origin, path: Path, message: str) -> StudyError:
        """As ``error_in_recipe``, about a part of the recipe that is wrong by what its name stands for."""
        raw: Any = origin.recipe
        for key in path:
            raw = raw.get(key) if isinstance(raw, Mapping) else None
        return self.error_in_recipe(origin, [*path, *["name"] * (isinstance(raw, Mapping) and "name" in raw)], message)

    def error_in_recipe(self, origin: Origin, path: Path, message: str) -> StudyError:
        """A ``StudyError`` about a key of one arm's recipe, at the place where the key was set."""
        key = _dotted(path)
        unknown = message.startswith("unknown key")
        if unknown and key == "recipe":
            message += "; keys of the recipe are written without 'recipe.' here"

        def touches(other: str) -> bool:
            if other.startswith(f"{key}."):  # a whole part is at fault: whoever set a key of it that the message names
                inner = other[len(key) + 1 :].partition(".")[0]
                return unknown or re.search(rf"\b{re.escape(inner)}\b", message) is not None
            return key == other or key.startswith(f"{other}.")

        for change in origin.changes:
            if touches(change.partition("=")[0].strip()):
                return StudyError(one_line(f"--set {change}: {key}: {message}"))
        for moved, stands in origin.moved.items():
            if touches(moved):
                what = "a level of this factor: " if "factors" in stands else ""
                # It is a list, whose key is its name, and no misspelt one.
                named = unknown and bool(what) and moved == stands[-1] and "." not in moved and "did you mean" not in message
                also = "; a factor with a name of its own has named levels, each a table of the keys it sets" if named else ""
                return self.error(stands, f"{what}{key}: {message}{also}")
        for table, put_in in origin.put_in:
            if touches(put_in):
                return self.error((table, put_in, *path[put_in.count(".") + 1 :]), message)
        return self.error(("recipe", *path), message)


def describe(error: Mapping[str, Any]) -> str:
    """What was given and what is allowed, from one entry of ``ValidationError.errors()``."""
    kind, context = error["type"], error.get("ctx", {})
    given = _shorten(error["input"])
    if kind in ("value_error", "assertion_error"):
        reason = str(context["error"])
        return f"{given}; {reason}" if reason.startswith("allowed") else reason
    if kind == "unknown_key":
        return one_line(error["msg"])
    if kind in BOUND_FROM_TYPE:
        name, words = BOUND_FROM_TYPE[kind]
        return f"{given}; allowed: {words} {context[name]:g}"
    if kind in ("literal_error", "union_tag_invalid"):
        names = re.findall(r"'([^']*)'", context.get("expected", "") or context.get("expected_tags", ""))
        return f"{context.get('tag', error['input'])!r} is unknown; {did_you_mean(context.get('tag', error['input']), names)}"
    if kind == "model_attributes_type" and error["loc"][0] == "claims":  # whose kind is no name of a part
        kind = "model_type"
    if kind == "union_tag_not_found" and isinstance(error["input"], Mapping):
        key = KEY_FROM_DISCRIMINATOR.get(context["discriminator"], "name")
        return f"has no {key}; add one" + ', e.g. kind = "higher"' * (key == "kind")
    if kind == "union_tag_not_found" and context["discriminator"] == "_family()":
        return f'{given}; allowed: a table of keys, as family = "convnet"'
    if kind == "missing":
        return ALLOWED_FROM_TYPE[kind]
    if isinstance(error["input"], Mapping) and error["loc"] in [(table,) for table in TABLES]:
        return f"is a table; there may be several of them, each under [[{error['loc'][0]}]], in double brackets"
    return f"{given}; {ALLOWED_FROM_TYPE.get(kind, one_line(error['msg'])).format(**context)}"


def line_of(text: str, path: Path) -> int | None:
    """The line of a TOML text, counted from 1, on which the nearest part of ``path`` stands; ``None`` where none does."""
    table: list[str | int] = []
    counts: dict[tuple[str | int, ...], int] = {}
    best, best_line = 0, None
    for number, line in enumerate((line[:500] for line in text.split("\n")), start=1):  # keys stand at its beginning
        if header := re.match(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(#.*)?$", line):
            table = _keys(f"[{header[2]}]")
            if header[1] == "[[":
                counts[tuple(table)] = counts.get(tuple(table), -1) + 1
                table = [*table, counts[tuple(table)]]
            here = table
        elif key := re.match(r"\s*([\w.\-\"' ]+?)\s*=", line):
            here = [*table, *_keys(f"{key[1]} = 0")]
        else:
            continue
        wanted = list(path[: len(here)])
        if here == wanted and len(here) > best:
            best, best_line = len(here), number
    return best_line


def _keys(toml: str) -> list[str | int]:
    try:
        node: Any = tomllib.loads(toml)
    except tomllib.TOMLDecodeError:
        return []
    keys: list[str | int] = []
    while isinstance(node, dict) and node:
        [(key, node)] = node.items()
        keys.append(key)
    return keys


def _path(error: Mapping[str, Any], raw: Any) -> list[str | int]:
    """The error's location in the user's own keys: the tags that pydantic adds for unions are left out."""
    path: list[str | int] = []
    location = list(error["loc"])
    for place, part in enumerate(location):
        if (isinstance(raw, Mapping) and part in raw) or (isinstance(raw, list) and isinstance(part, int) and part < len(raw)):
            path.append(part)
            raw = raw[part]
        elif place == len(location) - 1 and error["type"] == "missing":
            path.append(part)
    if error["type"] == "unknown_key":
        path.append(error["ctx"]["key"])
    if error["type"] == "value_error":  # a whole part is at fault; our texts about one begin with the key
        for part in re.match(r"[\w.]*", str(error["ctx"]["error"]))[0].split("."):  # type: ignore[index]
            if isinstance(raw, Mapping) and part in raw:
                path.append(part)
                raw = raw[part]
    if error["type"] == "union_tag_invalid" and isinstance(raw, Mapping):
        path.append(KEY_FROM_DISCRIMINATOR[error["ctx"]["discriminator"]])
    return path


def _dotted(path: Path) -> str:
    return ".".join(str(part) if not isinstance(part, int) else f"{part + 1}" for part in path)


def as_toml(value: object) -> str:
    """A value as a user wrote it: lists and truth values as TOML has them."""
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _shorten(value: object) -> str:
    if isinstance(value, int) and abs(value) > 10**60:
        return "a number of more than 60 digits"  # Python refuses to write out the longest ones
    text = one_line(as_toml(value))
    return text if len(text) <= 60 else text[:57] + "…"
