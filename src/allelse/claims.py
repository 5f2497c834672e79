"""Claims: statements declared before running, as frozen pydantic models. Raw TOML values in, ``Claim`` out; no torch.

A claim names arms by factor and level. Every factor with more than one level must be settled by the claim: fixed by ``where``,
``a``/``b`` or ``arm``, run through by ``along``, or asked for at each level by ``for_each``. What ``where``, ``along`` and
``for_each`` say holds for the arms that have the factor; levels at which the study has no such arm are left out.
``check_claims`` holds the claims against a study's design; what a margin or a slug may be is held by the models themselves
(pydantic's ``ValidationError``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
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
        raise ValueError("allowed: one level; 'along' and 'for_each' name a factor of which all levels are meant")
    return given


Level = Annotated[Union[bool, int, Annotated[float, Field(allow_inf_nan=False)], str], BeforeValidator(_one_value)]
LevelFromFactor = dict[str, Level]
Arm = Annotated[LevelFromFactor, Field(min_length=1)]
Scale = Literal["linear", "log2", "order"]


class _Claim(Part):
    """What every kind of claim has."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    """lower-case letters, digits and single hyphens; each id once a study"""
    says: Annotated[str, Field(min_length=1)]
    """the claim in words, as the report shows it"""
    metric: Annotated[str, Field(min_length=1)] = "accuracy"
    where: LevelFromFactor = Field(default_factory=dict)
    """levels that hold for the whole claim, by factor"""
    for_each: str | None = None
    """a factor at whose every level the claim must hold"""

    def arms(self) -> dict[str, LevelFromFactor]:
        """The arms that the claim names, by the key that names them."""
        return {key: arm for key in ("a", "b", "arm") if (arm := getattr(self, key, None)) is not None}

    def runs_along(self) -> str | None:
        """The factor whose levels the claim runs through, where its kind has one."""
        return getattr(self, "along", None)


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
    """the level of ``for_each``"""
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
    each = [{claim.for_each: level} for level in design[claim.for_each]] if claim.for_each else [{}]
    return [_setting(claim, at, design) for at in each]


def _setting(claim: Claim, at: LevelFromFactor, design: Design) -> Setting:
    shared = {**claim.where, **at}
    if claim.kind == "best":
        arm, why = _meant(claim, "arm", claim.arm, shared, design)
        others = [] if why else design.others(arm, list(claim.arm))
        return Setting(at, tuple(({}, {"arm": arm, "other": other}) for other in others), (why,) if why else ())
    along = claim.runs_along()
    rows: list[tuple[LevelFromFactor, Mapping[str, Mapping[str, Level]]]] = []
    missing: list[str] = []
    for step in [{along: level} for level in ordered(design[along])] if along else [{}]:
        found, reasons = {}, []
        for key, named in (claim.arms() or {"": step}).items():
            found[key], why = _meant(claim, key, named, {**shared, **step}, design)
            reasons += [why] if why else []
        if reasons:
            missing.append(reasons[0])
        elif along is None or any(along in arm for arm in found.values()):
            rows.append((step, found))
    return Setting(at, tuple(rows), tuple(missing))


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
        raise StudyError(
            f"claim {claim.id!r}: {key + ' ' if key else ''}leaves factor {factor!r} open; fix it with "
            f'where = {{ "{factor}" = LEVEL }} or ask for every level with for_each = "{factor}"; '
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
    named = {"where": claim.where, **claim.arms()}
    factors = [(key, factor) for key, arm in named.items() for factor in arm]
    for key, factor in (*factors, ("along", claim.runs_along()), ("for_each", claim.for_each)):
        if factor is not None and factor not in levels_from_factor:
            raise StudyError(
                f"claim {claim.id!r}: {key} names factor {factor!r}, which the study does not have; "
                + did_you_mean(factor, list(levels_from_factor))
            )
    for key, arm in named.items():
        for factor, level in arm.items():
            allowed = levels_from_factor[factor]
            if level_key(level) not in map(level_key, allowed):
                raise StudyError(
                    f"claim {claim.id!r}: {key} gives {factor!r} level {level_text(level)!r}, which the study does not have; "
                    + instead_of(level, allowed)
                )


def _check_settled_once(claim: Claim) -> None:
    shared = [*claim.where, *(factor for factor in (claim.runs_along(), claim.for_each) if factor is not None)]
    for arm in (claim.arms() or {"": {}}).values():
        for factor, count in Counter([*shared, *arm]).items():
            if count > 1:
                raise StudyError(
                    f"claim {claim.id!r}: factor {factor!r} is settled twice; "
                    "allowed: once, by one of where, a/b, arm, along, for_each"
                )


def _check_kind(claim: Claim, levels_from_factor: Mapping[str, Sequence[Level]]) -> None:
    if (along := claim.runs_along()) is not None and len(levels_from_factor[along]) < 2:
        raise StudyError(f"claim {claim.id!r}: along {along!r} has 1 level; allowed: a factor with at least 2")
    if claim.kind == "best" and prod(len(levels_from_factor[factor]) for factor in claim.arm) < 2:
        raise StudyError(f"claim {claim.id!r}: arm has nothing to be better than; name a factor with at least 2 levels")
    if claim.kind == "trend" and claim.scale in ("linear", "log2"):
        for level in levels_from_factor[claim.along]:
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
    for key, factor in (*(("where", factor) for factor in claim.where), ("for_each", claim.for_each)):
        if factor is not None and not any(factor in arm for arm in compared):
            raise StudyError(f"claim {claim.id!r}: {key} names factor {factor!r}, which none of its arms has; leave it out")
