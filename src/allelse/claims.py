"""Claims: statements declared before running, as frozen pydantic models. Raw TOML values in, ``Claim`` out; no torch.

A claim names arms by factor and level. Every factor with more than one level must be settled by the claim: fixed by ``where``,
``a``/``b`` or ``arm``, run through by ``along``, or asked for at each level by ``for_each``. Levels that ``where`` lists are
all that ``along``, ``for_each`` or ``best`` goes through. What ``where``, ``along`` and ``for_each`` say holds for the arms
that have the factor; levels at which the study has no such arm are left out.
``check_claims`` holds the claims against a study's design; what a margin or a slug may be is held by the models themselves
(pydantic's ``ValidationError``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal, Union

from pydantic import BeforeValidator, Field, model_validator

from allelse.design import Design, arm_key, arm_text, instead_of, is_number, level_key, level_text, ordered
from allelse.errors import StudyError, did_you_mean
from allelse.recipe import NonNegative, Part, Positive


def _one_value(given: object) -> object:
    """Before the union, of whose four complaints the first would be told: 'true or false'."""
    if isinstance(given, Mapping):
        raise ValueError(
            'allowed: one level; write a key that has dots in quotes, as "model.depth" = 1, and a part by its name'
        )
    if isinstance(given, list):
        raise ValueError("allowed: one level; 'along' and 'for_each' go through several, all or those that 'where' lists")
    return given


def _one_or_several(given: object) -> object:
    if given == []:
        raise ValueError("allowed: a level or a list of levels, this one is empty")
    return [_one_value(each) for each in given] if isinstance(given, list) else _one_value(given)


def _name_or_names(given: object) -> object:
    names = given if isinstance(given, list) else [given]
    if not names or not all(isinstance(name, str | None) for name in names):
        raise ValueError("allowed: the name of a factor in quotes, or a list of such names")
    return given


_Plain = Union[bool, int, Annotated[float, Field(allow_inf_nan=False)], str]
Level = Annotated[_Plain, BeforeValidator(_one_value)]
LevelFromFactor = dict[str, Level]
LevelsFromFactor = dict[str, Annotated[Union[_Plain, list[_Plain]], BeforeValidator(_one_or_several)]]
Arm = Annotated[LevelFromFactor, Field(min_length=1)]
Scale = Literal["linear", "log2", "order"]


class _Claim(Part):
    """What every kind of claim has."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    """lower-case letters, digits and single hyphens; each id once a study"""
    says: Annotated[str, Field(min_length=1)]
    """the claim in words, as the report shows it"""
    metric: Annotated[str, Field(min_length=1)] = "accuracy"
    where: LevelsFromFactor = Field(default_factory=dict)
    """levels that hold for the whole claim, by factor; several of a factor that the claim goes through"""
    for_each: Annotated[str | list[str] | None, BeforeValidator(_name_or_names)] = None
    """a factor at whose every level the claim must hold, or several, at every combination of theirs"""

    def arms(self) -> dict[str, LevelFromFactor]:
        """The arms that the claim names, by the key that names them."""
        return {key: arm for key in ("a", "b", "arm") if (arm := getattr(self, key, None)) is not None}

    def runs_along(self) -> str | None:
        """The factor whose levels the claim runs through, where its kind has one."""
        return getattr(self, "along", None)

    def each(self) -> list[str]:
        """The factors of ``for_each``."""
        return [self.for_each] if isinstance(self.for_each, str) else self.for_each or []

    def named(self) -> list[tuple[str, str, Level]]:
        """Every level that the claim names: the key that names it, its factor, and the level."""
        levels_from_key: dict[str, Mapping[str, Level | list[Level]]] = {"where": self.where, **self.arms()}
        return [
            (key, factor, level)
            for key, levels in levels_from_key.items()
            for factor, given in levels.items()
            for level in (given if isinstance(given, list) else [given])
        ]

    def fixed(self) -> LevelFromFactor:
        """What ``where`` gives one level, by factor."""
        return {factor: given for factor, given in self.where.items() if not isinstance(given, list)}

    def picks(self, factor: str, level: Level) -> bool:
        """Whether the level is among those that ``where`` lists of the factor; any is, where it lists none."""
        given = self.where.get(factor)
        return not isinstance(given, list) or level_key(level) in map(level_key, given)


class Higher(_Claim):
    """A > B + margin."""

    kind: Literal["higher"]
    a: Arm
    b: Arm
    margin: NonNegative = 0.0
    """in the metric's unit: percentage points for accuracies"""


class Within(_Claim):
    """|A − B| ≤ margin: equivalence, for which "not significant" is no evidence."""

    kind: Literal["within"]
    a: Arm
    b: Arm
    margin: Positive
    """in the metric's unit: percentage points for accuracies"""


class Trend(_Claim):
    """The metric, or with ``a`` and ``b`` the difference A − B, rises or falls along a factor, by its least-squares slope."""

    kind: Literal["trend"]
    along: str
    direction: Literal["up", "down"]
    a: Arm | None = None
    b: Arm | None = None
    scale: Scale | None = None
    """the slope is per unit of the factor, per doubling, or per level; left out: ``linear`` for numbers, else ``order``"""

    @model_validator(mode="after")
    def _both_arms_or_none(self) -> Trend:
        if (self.a is None) != (self.b is None):
            raise ValueError("give a and b (the trend of A − B), or neither")
        return self


class Monotone(_Claim):
    """Every step from one level of a factor to the next goes the same way."""

    kind: Literal["monotone"]
    along: str
    direction: Literal["up", "down"]


class Stable(_Claim):
    """Every two levels of a factor are within the margin."""

    kind: Literal["stable"]
    along: str
    margin: Positive
    """in the metric's unit: percentage points for accuracies"""


class Best(_Claim):
    """One arm is higher, of a loss lower, than every other level of the factors that it names."""

    kind: Literal["best"]
    arm: Arm


Claim = Annotated[Union[Higher, Within, Trend, Monotone, Stable, Best], Field(discriminator="kind")]


@dataclass(frozen=True)
class Setting:
    """What a claim compares at one level of ``for_each``, or altogether where it has none."""

    at: LevelFromFactor
    """the levels of ``for_each``, of the factors that an arm here has"""
    rows: tuple[tuple[LevelFromFactor, Mapping[str, Mapping[str, Level]]], ...]
    """the level of ``along``, from low to high, and the arms by the key that names them: ``a`` and ``b``; ``arm`` and
    ``other``, one row for each other; or the arm alone, under an empty key"""
    missing: tuple[str, ...]
    """levels at which the study has no such arm, and why"""


def settings(claim: Claim, design: Design) -> list[Setting]:
    """The arms that a claim compares.

    Raises:
        StudyError: a name fits several arms: a factor is left open.
    """
    levels = [_levels(claim, factor, design) for factor in claim.each()]
    found = [_setting(claim, dict(zip(claim.each(), at, strict=True)), design) for at in product(*levels)]
    once = {str(arm_key(setting.at)): setting for setting in found}  # arms that lack a factor are the same at all its levels
    return list(once.values())


def _levels(claim: Claim, factor: str, design: Mapping[str, Sequence[Level]]) -> list[Level]:
    """The levels of a factor that the claim goes through."""
    return [level for level in design[factor] if claim.picks(factor, level)]


def _setting(claim: Claim, at: LevelFromFactor, design: Design) -> Setting:
    rows, missing = _rows(claim, {**claim.fixed(), **at}, design)
    there = {factor for _, arms in rows for arm in arms.values() for factor in arm}
    return Setting({factor: level for factor, level in at.items() if factor in there or not rows}, rows, missing)


def _rows(
    claim: Claim, shared: Mapping[str, Level], design: Design
) -> tuple[tuple[tuple[LevelFromFactor, Mapping[str, Mapping[str, Level]]], ...], tuple[str, ...]]:
    """``Setting.rows`` and ``Setting.missing``, of the arms that have what is ``shared``."""
    if claim.kind == "best":
        arm, why = _meant(claim, "arm", claim.arm, shared, design)
        others = [] if why else design.others(arm, list(claim.arm), shared)
        picked = [other for other in others if all(claim.picks(*level) for level in other.items())]
        return tuple(({}, {"arm": arm, "other": other}) for other in picked), (why,) if why else ()
    along = claim.runs_along()
    rows: list[tuple[LevelFromFactor, Mapping[str, Mapping[str, Level]]]] = []
    missing: list[str] = []
    for step in [{along: level} for level in ordered(_levels(claim, along, design))] if along else [{}]:
        found, reasons = {}, []
        for key, named in (claim.arms() or {"": step}).items():
            found[key], why = _meant(claim, key, named, {**shared, **step}, design)
            reasons += [why] if why else []
        if reasons:
            missing.append(reasons[0])
        elif along is None or any(along in arm for arm in found.values()):
            rows.append((step, found))
    return tuple(rows), tuple(missing)


def _meant(
    claim: Claim, key: str, named: Mapping[str, Level], shared: Mapping[str, Level], design: Design
) -> tuple[Mapping[str, Level], str]:
    """The one arm that is meant; an empty one and the reason where the study has none."""
    found = design.find(named, shared)
    if not found:
        return {}, design.why_none(named, shared)
    if len(found) > 1:
        factor = next(factor for factor in design if len({level_key(arm.get(factor)) for arm in found}) > 1)
        levels = dict.fromkeys(level_text(arm[factor]) for arm in found if factor in arm)
        each = json.dumps([*claim.each(), factor] if claim.each() else factor, ensure_ascii=False)
        raise StudyError(
            f"claim {claim.id!r}: {key + ' ' if key else ''}leaves factor {factor!r} open; fix it with "
            f'where = {{ "{factor}" = LEVEL }} or ask for every level with for_each = {each}; '
            f"levels: {', '.join(levels)}"
        )
    return found[0], ""


def check_claims(claims: Sequence[Claim], levels_from_factor: Mapping[str, Sequence[Level]]) -> None:
    """Hold every claim against the study's design.

    Arguments:
        claims: the study's claims.
        levels_from_factor: the level labels of each factor, in the study's order; a ``Design`` where not all of their
            combinations are arms.

    Raises:
        StudyError: one line with the claim's id, what is wrong and what is allowed: an id given twice, an unknown factor or
            level, a factor settled twice or left open, ``a`` the same arm as ``b``, too few levels, a scale that does not fit,
            no arm left to compare.
    """
    design = Design.of(levels_from_factor)
    for claim_id, count in Counter(claim.id for claim in claims).items():
        if count > 1:
            raise StudyError(f"claim {claim_id!r}: {count} claims have this id; give each its own")
    for claim in claims:
        _check_names(claim, levels_from_factor)
        _check_settled_once(claim)
        _check_kind(claim, levels_from_factor)
        _check_arms(claim, design)


def _check_names(claim: Claim, levels_from_factor: Mapping[str, Sequence[Level]]) -> None:
    factors = [(key, factor) for key, factor, _ in claim.named()]
    for key, factor in (*factors, ("along", claim.runs_along()), *(("for_each", factor) for factor in claim.each())):
        if factor is not None and factor not in levels_from_factor:
            raise StudyError(
                f"claim {claim.id!r}: {key} names factor {factor!r}, which the study does not have; "
                + did_you_mean(factor, list(levels_from_factor))
            )
    for key, factor, level in claim.named():
        allowed = levels_from_factor[factor]
        if level_key(level) not in map(level_key, allowed):
            raise StudyError(
                f"claim {claim.id!r}: {key} gives {factor!r} level {level_text(level)!r}, which the study does not have; "
                + instead_of(level, allowed)
            )


def _check_settled_once(claim: Claim) -> None:
    through = [factor for factor in (claim.runs_along(), *claim.each()) if factor is not None]
    for factor in claim.where.keys() - claim.fixed().keys():
        if factor not in [*through, *(claim.arm if claim.kind == "best" else ())]:
            raise StudyError(
                f"claim {claim.id!r}: where lists levels of factor {factor!r}, through which the claim does not go; allowed: "
                f'one level, or a list with for_each = "{factor}"'
            )
    shared = [*claim.fixed(), *through]
    for arm in (claim.arms() or {"": {}}).values():
        for factor, count in Counter([*shared, *arm]).items():
            if count > 1:
                raise StudyError(
                    f"claim {claim.id!r}: factor {factor!r} is settled twice; "
                    "allowed: once, by one of where, a/b, arm, along, for_each"
                )


def _check_kind(claim: Claim, levels_from_factor: Mapping[str, Sequence[Level]]) -> None:
    if (along := claim.runs_along()) is not None and len(_levels(claim, along, levels_from_factor)) < 2:
        raise StudyError(f"claim {claim.id!r}: along {along!r} has 1 level; allowed: a factor with at least 2")
    if claim.kind == "best" and not any(
        level_key(level) != level_key(own)
        for factor, own in claim.arm.items()
        for level in _levels(claim, factor, levels_from_factor)
    ):
        raise StudyError(f"claim {claim.id!r}: arm has nothing to be better than; name a factor with at least 2 levels")
    if claim.kind == "trend" and claim.scale in ("linear", "log2"):
        for level in _levels(claim, claim.along, levels_from_factor):
            if not is_number(level) or (claim.scale == "log2" and not float(level) > 0):
                kind = "numbers above 0" if claim.scale == "log2" else "numbers"
                raise StudyError(
                    f"claim {claim.id!r}: scale {claim.scale!r} needs levels that are {kind}, "
                    f"{claim.along!r} has {level_text(level)!r}; allowed: scale = 'order'"
                )


def _check_arms(claim: Claim, design: Design) -> None:
    found = settings(claim, design)
    for arms in (arms for setting in found for _, arms in setting.rows):
        if "b" in arms and arm_key(arms["a"]) == arm_key(arms["b"]):
            raise StudyError(
                f"claim {claim.id!r}: a and b are the same arm ({arm_text(claim.arms()['a'])}); name two that differ"
            )
    fewest = 1 if claim.runs_along() is None else 2
    if not any(len(setting.rows) >= fewest for setting in found):
        reasons = dict.fromkeys(reason for setting in found for reason in setting.missing)
        why = next(iter(reasons), f"no arm that it names has factor {claim.runs_along()!r}")
        raise StudyError(f"claim {claim.id!r}: nothing is left to compare: {why}; name arms that the study has")
    compared = [arm for setting in found for _, arms in setting.rows for arm in arms.values()]
    for key, factor in (*(("where", factor) for factor in claim.where), *(("for_each", factor) for factor in claim.each())):
        if not any(factor in arm for arm in compared):
            raise StudyError(f"claim {claim.id!r}: {key} names factor {factor!r}, which none of its arms has; leave it out")
