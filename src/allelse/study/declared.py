"""What the file declares, held against its own levels: conditions, exclusions, adjustments, claims and references.

Each mistake is one ``StudyError`` line. Where a claim or a reference fits no arm because a factor or a level is misspelt, the
line is about that: what is wrong with an arm comes before what is said of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from allelse.claims import Claim, check_claims
from allelse.design import Design, Level, condition_text, instead_of, level_key, matches
from allelse.errors import StudyError, did_you_mean
from allelse.messages import Place
from allelse.recipe import BatchStatistics, Recipe
from allelse.records import METRICS, OF_BATCH_NORM
from allelse.study.arms import Arm, Builder
from allelse.study.factors import Factor, check_condition, check_when, combinations
from allelse.study.file import ClaimsFile, Reference, StudyFile, parsed, read

Levels = Mapping[str, Level]


def is_excluded(exclude: Sequence[Mapping[str, Any]], levels: Mapping[str, Level]) -> bool:
    return any(matches(condition, levels) for condition in exclude)


def check_declared(file: StudyFile, factors: Mapping[str, Factor], place: Place) -> None:
    """Hold conditions, exclusions, adjustments, claims and references against the file's own factors."""
    for name in factors:
        check_when(name, factors[name], factors, place)
    combined = combinations(factors, place)
    for number, condition in enumerate(file.exclude):
        check_condition(condition, factors, ("exclude", number), place)
        if not any(matches(condition, levels) for levels in combined):
            raise place.error(("exclude", number), f"no arm has {condition_text(condition)}, so this excludes nothing")
    left = [levels for levels in combined if not is_excluded(file.exclude, levels)]
    if not left:
        raise place.error(("exclude", 0), "every combination of levels is excluded; leave at least one")
    for number, adjust in enumerate(file.adjust):
        check_condition(adjust.where, factors, ("adjust", number, "where"), place)
        if not any(matches(adjust.where, levels) for levels in left):
            raise place.error(
                ("adjust", number, "where"), f"no arm has {condition_text(adjust.where)}; name arms that there are"
            )
    for factor in (file.tune.per or ()) if file.tune else ():
        if factor not in factors:
            raise place.error(("tune", "per"), f"there is no factor {factor!r}; {did_you_mean(factor, list(factors))}")
    design = Design({name: list(factor.levels) for name, factor in factors.items()}, left)
    try:
        _check_claims(file.claims, design, place)
        _check_references(file.references, design, place)
    except StudyError:
        _check_levels(file, factors, left, place)
        raise


def _check_levels(file: StudyFile, factors: Mapping[str, Factor], combined: Sequence[Levels], place: Place) -> None:
    """Refuse a level that no recipe can have, or a factor that is no key of one: one arm with each is built."""
    adjust = [(("adjust", number), each) for number, each in enumerate(file.adjust)]
    builder = Builder(file.recipe, factors, adjust, (0,), place, (), ())
    built: set[tuple[str, Level]] = set()
    for levels in combined:
        if not built.issuperset(levels.items()):
            builder.build(levels)
            built |= levels.items()


def _check_claims(claims: Sequence[Claim], design: Design, place: Place) -> None:
    for number, claim in enumerate(claims):
        if claim.metric not in METRICS:
            raise place.error(("claims", number, "metric"), f"{claim.metric!r}; {did_you_mean(claim.metric, list(METRICS))}")
    first_from_id: dict[str, Claim] = {}
    for number, claim in enumerate(claims):
        try:
            check_claims([first_from_id[claim.id], claim] if claim.id in first_from_id else [claim], design)
        except StudyError as error:
            raise place.error(("claims", number), str(error)) from None
        first_from_id[claim.id] = claim


def check_measured(claims: Sequence[Claim], arms: Sequence[Arm], place: Place) -> None:
    """Refuse a claim on a metric that no arm will have."""
    for number, claim in enumerate(claims):
        for is_of, has, remedy in (
            (
                claim.metric.startswith("validation_"),
                attrgetter("validation_per_class"),
                "set validation_per_class in [recipe]",
            ),
            (claim.metric.endswith("_raw"), attrgetter("averaging"), "set averaging in [recipe]"),
            (claim.metric in OF_BATCH_NORM, _may_have_batch_norm, "it is measured of BatchNorm"),
        ):
            if is_of and not any(has(arm.recipe) for arm in arms):
                raise place.error(("claims", number, "metric"), f"{claim.metric!r}, which no arm will have; {remedy}")


def _may_have_batch_norm(recipe: Recipe) -> bool:
    return isinstance(getattr(recipe.model, "norm", None), BatchStatistics) or bool(recipe.own_parts())


def _check_references(references: Sequence[Reference], design: Design, place: Place) -> None:
    for number, reference in enumerate(references):
        for factor, level in reference.arm.items():
            if factor not in design:
                raise place.error(
                    ("references", number),
                    f"{reference.source!r} names the factor {factor!r}; {did_you_mean(factor, list(design))}",
                )
            if level_key(level) not in map(level_key, design[factor]):
                remedy = instead_of(level, design[factor])
                raise place.error(("references", number), f"{reference.source!r}: {factor} = {level!r}; {remedy}")
        if not design.find(reference.arm, {}):
            raise place.error(("references", number), f"{reference.source!r}: {design.why_none(reference.arm, {})}")


def further_claims(file: str, definition: Mapping[str, Any]) -> list[Claim]:
    """The claims of a file of their own, about a study that has run.

    Arguments:
        file: of ``[[claims]]`` and nothing else.
        definition: ``Study.definition``, as a store keeps it.

    Raises:
        StudyError: the file is not valid, one of its claims is declared already, or does not fit the study.
    """
    source, text = read(file)
    place = parsed(source, text)
    for table in place.raw:
        if table != "claims":
            raise place.error((table,), "is not of a file of further claims; allowed: [[claims]]")
    with place.named():
        claims = ClaimsFile.model_validate(place.raw).claims
    for number, claim in enumerate(claims):
        if claim.id in {declared["id"] for declared in definition["claims"]}:
            raise place.error(("claims", number, "id"), f"{claim.id!r} is declared by the study itself; give it another one")
    _check_claims(claims, Design(definition["factors"], [arm["levels"] for arm in definition["arms"]]), place)
    return list(claims)
