"""Arms: a raw recipe, the factors and what is otherwise for some arms in; every arm with its checked recipe and seeds out."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from allelse.design import Level, level_text, matches, short_names
from allelse.errors import DataError, PartError, RecipeError, StudyError
from allelse.messages import Origin, Path, Place
from allelse.recipe import Recipe
from allelse.study.changes import covers, dotted, give_way, outer_first, put
from allelse.study.factors import Factor
from allelse.study.file import Adjust


@dataclass(frozen=True)
class Arm:
    """One combination of levels, and the whole recipe that it trains."""

    levels: Mapping[str, Level]
    """by factor, without the factors that exist only in other arms"""
    recipe: Recipe
    seeds: tuple[int, ...]
    """the study's first ones, so that any two arms share as many as the one with fewer has"""
    place: Place = field(compare=False, repr=False)
    origin: Origin = field(compare=False, repr=False)
    """where in the file, or on the command line, each key of the recipe was set"""
    short: Mapping[str, str] = field(compare=False, repr=False)
    """each factor of the study as a heading, also those that only other arms have"""

    @property
    def name(self) -> str:
        """Levels joined for people: 'sigmoid, depth 8' reads well; keys are shortened to their last part where it tells."""
        named = [f"{self.short[factor]} {level_text(level)}" for factor, level in self.levels.items()]
        return ", ".join(named) or "the only arm"

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Let a mistake that shows with the data, inside this block, say where in the file it stands."""
        try:
            yield
        except PartError as error:
            raise self._mistake(error.path or self._path(error.reason), error.reason) from None
        except RecipeError as error:
            which = f" (arm {self.name})" if self.levels else ""
            raise self._mistake(error.path, f"{error.reason}{which}") from None
        except DataError as error:
            raise DataError(str(self._mistake(("dataset",), str(error)))) from None

    def _mistake(self, path: Sequence[str], message: str) -> StudyError:
        of_tuning = ", in tuning runs, which [tune] epochs makes shorter" * (
            self.origin.moved.get("epochs") == ("tune", "epochs")
        )
        return self.place.error_in_part(self.origin, path, f"{message}{of_tuning}")

    def _path(self, reason: str) -> Sequence[str]:
        """Where a part of the user's own stands, by its name in the reason."""
        parts = self.recipe.own_parts()
        return next((path for path, part in parts.items() if part.reference in reason), next(iter(parts)))


@dataclass(frozen=True)
class Builder:
    """Makes arms from their levels."""

    recipe: Mapping[str, Any]
    """raw, as the file, its version and the command line leave it"""
    factors: Mapping[str, Factor]
    adjust: Sequence[tuple[Path, Adjust]]
    """each with where it stands"""
    seeds: tuple[int, ...]
    """of every arm, unless ``adjust`` says otherwise"""
    place: Place
    changes: Sequence[str]
    """``key=value`` texts from the command line"""
    put_in: Sequence[tuple[str, str]]
    """``quick`` or ``scaled``, and a recipe key that this table set"""

    def build(self, levels: Mapping[str, Level]) -> tuple[Arm, dict[str, Path]]:
        """One arm, and where each key stands that its factors and adjustments set.

        Raises:
            StudyError: a value does not fit, or one of these undoes what another one sets.
        """
        raw = copy.deepcopy(dict(self.recipe))
        moved: dict[str, Path] = {}
        for name, label in levels.items():
            factor = self.factors[name]
            self._set(raw, factor.levels[label], factor.stands, moved)
        by_factors, seeds = dict(moved), self.seeds
        for stands, adjust in self.adjust:
            if matches(adjust.where, levels):
                self._set(raw, adjust.set, stands, dict(by_factors))  # a later one may change what an earlier one sets
                moved |= dict.fromkeys(dotted(adjust.set), stands)
                seeds = self.seeds if adjust.seeds is None else tuple(range(seeds[0], seeds[0] + adjust.seeds))
        origin = Origin(raw, self.changes, moved, self.put_in)
        with self.place.named(origin):
            recipe = Recipe.model_validate(raw)
        return Arm(levels, recipe, seeds, self.place, origin, short_names(self.factors)), moved

    def _set(self, raw: dict[str, Any], values: Mapping[str, Any], stands: Path, moved: dict[str, Path]) -> None:
        values = dotted(values)
        give_way(raw, values)
        for key, value in outer_first(values):
            for other, other_stands in moved.items():
                if other_stands != stands and covers(key, other):
                    raise self.place.error(
                        stands, f"sets {key} and so undoes what {'.'.join(map(str, other_stands))} sets; let one of them set it"
                    )
            with placed(self.place, stands):
                put(raw, key, value)
        moved |= dict.fromkeys(values, stands)


@contextmanager
def placed(place: Place, path: Path) -> Iterator[None]:
    """Let a ``StudyError`` inside this block say where the value stands."""
    try:
        yield
    except StudyError as error:
        raise place.error(path, str(error)) from None
