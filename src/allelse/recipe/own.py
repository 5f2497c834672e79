"""Parts of the user's own: ``python:module:Name`` and any keyword arguments in, a recipe part out. Nothing is imported here."""

from __future__ import annotations

import re
from math import isfinite
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Discriminator, Tag, model_validator

from allelse.recipe.base import NAMING, Part

PREFIX = "python:"
PATTERN = re.compile(r"python:[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def _check_reference(value: str) -> str:
    if not PATTERN.fullmatch(value):
        raise ValueError("allowed: python:MODULE:NAME, as in python:mypkg.acts:Squareplus")
    return value


Reference = Annotated[str, AfterValidator(_check_reference)]


class OwnCode(Part):
    """What ``python:module:Name`` names, called with all other keys of its table as keywords: ``docs/own-parts.md``."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        for key, argument in value.items() if isinstance(value, dict) else ():
            if key not in cls.model_fields and not _is_plain(argument):
                raise ValueError(
                    f"{key} = {argument}, which cannot be an argument of a part of your own; allowed: a text, a finite number, "
                    "true, false, a list or a table of these"
                )
        return value

    @property
    def reference(self) -> str:
        """``python:module:Name``."""
        raise NotImplementedError

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments, as plain JSON values."""
        return dict(self.model_extra or {})

    def plain(self) -> dict[str, Any]:
        return {**super().plain(), **self.arguments}


class OwnPart(OwnCode):
    """A part of a network, an optimiser or a loss."""

    name: Reference

    @property
    def reference(self) -> str:
        return self.name


class OwnModel(OwnCode):
    """A whole network: called with (height, width, channels) of the images, the number of classes, and its arguments."""

    family: Reference

    @property
    def reference(self) -> str:
        return self.family


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and isfinite(value))


def _whose(value: Any) -> str:
    named = [value.get(key) if isinstance(value, dict) else getattr(value, key, None) for key in NAMING]
    return "own" if any(isinstance(name, str) and name.startswith(PREFIX) for name in named) else "allelse"


Ours, Own = Tag("allelse"), Tag("own")
Whose = Discriminator(_whose)
"""Tells a part of the catalogue, which has its own discriminator, from one of the user's."""
