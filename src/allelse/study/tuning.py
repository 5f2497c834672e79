"""The two parts of a study that tunes a number: the study in; its tuning runs as a study of their own, and, with what these
chose, the comparison, out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from allelse.design import Level, short_names
from allelse.errors import StudyError, did_you_mean
from allelse.messages import Origin, Path, Place
from allelse.recipe import Part, Recipe
from allelse.study.arms import Arm
from allelse.study.changes import covers, give_way, parse_change, put
from allelse.study.file import StudyFile, Tune, Version
from allelse.study.whole import Study
from allelse.tuning import Tuning

FIRST_TUNING_SEED = 1_100_000_000
"""above every seed that a comparison can have (``first_seed`` is at most 1e9), so that none of its draws has been seen"""


def tuning_study(study: Study) -> Study:
    """The tuning runs: every arm with every value of the number, which is one level more of each, with seeds of their own."""
    tune = study.tune
    assert tune is not None
    first = FIRST_TUNING_SEED + study.first_seed  # also with --first-seed, so that all of a study's folders can be united
    seeds = tuple(range(first, first + tune.seeds))
    shorter = {} if tune.epochs is None else {"epochs": tune.epochs}
    arms = []
    for arm, value in product(study.arms, sorted(tune.values)):
        raw = _raw(arm.recipe, {tune.key: value, **shorter})
        levels = {**arm.levels, tune.key: value}
        recipe = Recipe.model_validate(raw)
        arms.append(Arm(levels, recipe, seeds, arm.place, _origin(arm, tune, raw), short_names([*arm.short, tune.key])))
    factors: dict[str, tuple[Level, ...]] = {**study.factors, tune.key: tuple(sorted(tune.values))}
    return replace(study, seeds=seeds, factors=factors, arms=tuple(arms), tune=None, claims=(), references=(), notes=())


def tuned(study: Study, tuning: Tuning) -> Study:
    """The comparison: every arm with the value that was chosen for it."""
    arms = [replace(arm, recipe=changed(arm.recipe, {tuning.key: tuning.choice_for(arm.levels).value})) for arm in study.arms]
    return replace(study, arms=tuple(arms))


def changed(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """A recipe with other values of some dotted keys."""
    return Recipe.model_validate(_raw(recipe, values))


def _raw(recipe: Recipe, values: Mapping[str, Any]) -> dict[str, Any]:
    raw = recipe.model_dump(mode="json")
    give_way(raw, values)
    for key, value in values.items():
        put(raw, key, value)
    return raw


# ── reading and checking the table ──────────────────────────────────────────────────────────────────────────────────


class _Table(Part):
    tune: Tune


def read_tune(file: StudyFile, version: str, put_in: Version, changes: Sequence[str], source: str) -> Tune | None:
    """The ``[tune]`` table with what its version and ``--set`` change in it; None where nothing is tuned.

    Raises:
        StudyError: a change does not fit.
    """
    tune = file.tune
    if put_in.tune is False:
        tune = None
    elif put_in.tune:
        tune = _changed_table(tune, put_in.tune, f"{source}: {version}")
    for change in changes:
        key, value = parse_change(change)
        if key == "tune":
            if value is not False:
                raise StudyError(f"--set {change}: allowed: tune=false, so that nothing is tuned, or tune.KEY=value")
            tune = None
        elif covers("tune", key):
            if tune is None:
                raise StudyError(f"--set {change}: the study has no [tune] table to change; write one into the file")
            tune = _changed_table(tune, {key.removeprefix("tune."): value}, f"--set {change}")
    return tune


def _changed_table(tune: Tune | None, changes: Mapping[str, Any], source: str) -> Tune:
    table = {**(tune.model_dump(mode="json") if tune else {}), **changes}
    with Place(source, "", {"tune": table}).named():
        return _Table.model_validate({"tune": table}).tune


OF_THE_SPLIT = ("train_per_class", "validation_per_class", "image_size")
"""numbers that no value can be chosen for: each would be tried on other images"""


def check_tuning(study: Study, moved: Sequence[Mapping[str, Path]], changes: Sequence[str], place: Place) -> Study:
    """The study with ``per`` filled in: all factors where the table names none.

    Arguments:
        study: as the file, its version and the command line make it.
        moved: for each arm, where the keys stand that its factors and adjustments set.
        changes: ``key=value`` texts from the command line.
        place: the study file.

    Raises:
        StudyError: an arm has no validation images or no such number, a factor or a change sets it, or a value does not fit.
    """
    tune = study.tune
    if tune is None:
        return study
    key_stands = ("tune", "key")
    for other, stands in ((other, stands) for keys in moved for other, stands in keys.items()):
        if other == tune.key:
            who = ".".join(str(part + 1 if isinstance(part, int) else part) for part in stands)
            raise place.error(key_stands, f"{tune.key} is set by {who}; tune another number, or leave it out there")
    for change in changes:
        if covers(tune.key, parse_change(change)[0]):
            raise StudyError(f"--set {change}: [tune] chooses {tune.key}, so this would change nothing; add --set tune=false")
    shorter = {} if tune.epochs is None else {"epochs": tune.epochs}
    for arm in study.arms:
        if arm.recipe.validation_per_class == 0:
            raise place.error(
                ("tune",),
                "there are no images to choose on; set validation_per_class in [recipe], e.g. validation_per_class = 50",
            )
        numbers = dict(_numbers(arm.recipe.model_dump(mode="json")))
        if tune.key in OF_THE_SPLIT:
            raise place.error(key_stands, f"{tune.key} says which images there are to choose on; tune another number")
        if tune.key not in numbers:
            allowed = [key for key, value in numbers.items() if value is not None and key not in OF_THE_SPLIT]
            raise place.error(
                key_stands, f"{tune.key!r} is no number of the recipe (arm {arm.name}); {did_you_mean(tune.key, allowed)}"
            )
        for value in tune.values:
            raw = _raw(arm.recipe, {tune.key: value, **shorter})
            with place.named(_origin(arm, tune, raw)):
                Recipe.model_validate(raw)
    return replace(study, tune=tune.model_copy(update={"per": tuple(study.factors) if tune.per is None else tune.per}))


def _origin(arm: Arm, tune: Tune, raw: Mapping[str, Any]) -> Origin:
    """Of the recipe of a tuning run: ``[tune]`` sets its keys after all else."""
    changes = [change for change in arm.origin.changes if not covers(parse_change(change)[0], tune.key)]
    stands: dict[str, Path] = {tune.key: ("tune", "values")}
    if tune.epochs is not None:
        stands["epochs"] = ("tune", "epochs")
    return Origin(raw, changes, {**stands, **arm.origin.moved}, arm.origin.put_in)


def _numbers(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a recipe that hold a number, or none where one may stand."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _numbers(inner, f"{prefix}{key}.")
        elif inner is None or (isinstance(inner, int | float) and not isinstance(inner, bool)):
            yield f"{prefix}{key}", inner
