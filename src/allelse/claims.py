"""Claims: statements declared before running, as frozen pydantic models. Raw TOML values in, ``Claim`` out; no torch.

A claim names arms by factor and level. Every factor with more than one level must be settled by the claim: fixed by ``where``,
``a``/``b`` or ``arm``, run through by ``along``, or asked for at each level by ``for_each``. ``check_claims`` holds the claims
against a study's factors; what a margin or a slug may be is held by the models themselves (pydantic's ``ValidationError``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, Literal, Union

from pydantic import Field, model_validator

from allelse.errors import StudyError, did_you_mean
from allelse.recipe import NonNegative, Part, Positive

Level = Union[bool, int, Annotated[float, Field(allow_inf_nan=False)], str]
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
    """One arm is higher than every other level of the factors that it names."""

    kind: Literal["best"]
    arm: Arm


Claim = Annotated[Union[Higher, Within, Trend, Monotone, Stable, Best], Field(discriminator="kind")]


def level_key(level: object) -> tuple[str, object]:
    """What makes two levels the same: ``8`` and ``8.0`` are, ``1`` and ``true`` are not. NumPy scalars count as Python's."""
    plain = level.item() if hasattr(level, "item") else level
    if isinstance(plain, bool):
        return ("bool", plain)
    return ("number", float(plain)) if isinstance(plain, (int, float)) else ("text", str(plain))


def level_text(level: object) -> str:
    """A level as a person reads it and TOML writes it, without quotes."""
    plain = level.item() if hasattr(level, "item") else level
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def arm_text(arm: Mapping[str, object]) -> str:
    """An arm as a person reads it: ``model.activation = relu, model.depth = 8``."""
    return ", ".join(f"{factor} = {level_text(level)}" for factor, level in arm.items())


def speaks_of(levels: Mapping[str, object], arm: Mapping[str, object]) -> bool:
    """Whether ``arm`` has all these levels; factors that they leave out stand for all their levels."""
    return all(factor in arm and level_key(arm[factor]) == level_key(level) for factor, level in levels.items())


def is_number(level: object) -> bool:
    return level_key(level)[0] == "number"


def check_claims(claims: Sequence[Claim], levels_from_factor: Mapping[str, Sequence[Level]]) -> None:
    """Hold every claim against the study's factors.

    Arguments:
        claims: the study's claims.
        levels_from_factor: the level labels of each factor, in the study's order.

    Raises:
        StudyError: one line with the claim's id, what is wrong and what is allowed: an id given twice, an unknown factor or
            level, a factor settled twice or left open, ``a`` the same arm as ``b``, too few levels, a scale that does not fit.
    """
    for claim_id, count in Counter(claim.id for claim in claims).items():
        if count > 1:
            raise StudyError(f"claim {claim_id!r}: {count} claims have this id; give each its own")
    for claim in claims:
        _check_names(claim, levels_from_factor)
        _check_settled_once(claim, levels_from_factor)
        _check_kind(claim, levels_from_factor)


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
                    + did_you_mean(level_text(level), [level_text(other) for other in allowed])
                )


def _check_settled_once(claim: Claim, levels_from_factor: Mapping[str, Sequence[Level]]) -> None:
    shared = [*claim.where, *(factor for factor in (claim.runs_along(), claim.for_each) if factor is not None)]
    for key, arm in (claim.arms() or {"": {}}).items():
        settled = Counter([*shared, *arm])
        for factor, count in settled.items():
            if count > 1:
                raise StudyError(
                    f"claim {claim.id!r}: factor {factor!r} is settled twice; "
                    "allowed: once, by one of where, a/b, arm, along, for_each"
                )
        for factor, levels in levels_from_factor.items():
            if factor not in settled and len(levels) > 1:
                raise StudyError(
                    f"claim {claim.id!r}: {key + ' ' if key else ''}leaves factor {factor!r} open; fix it with "
                    f'where = {{ "{factor}" = LEVEL }} or ask for every level with for_each = "{factor}"; '
                    f"levels: {', '.join(map(level_text, levels))}"
                )


def _check_kind(claim: Claim, levels_from_factor: Mapping[str, Sequence[Level]]) -> None:
    arms = claim.arms()
    if "b" in arms and _arm_key(arms["a"]) == _arm_key(arms["b"]):
        raise StudyError(f"claim {claim.id!r}: a and b are the same arm ({arm_text(arms['a'])}); name two that differ")
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


def _arm_key(arm: Mapping[str, object]) -> dict[str, tuple[str, object]]:
    return {factor: level_key(level) for factor, level in arm.items()}
