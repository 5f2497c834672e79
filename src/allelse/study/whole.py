"""A checked study: its arms and seeds, with all that was declared before; ``loading`` makes one from a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from allelse.claims import Claim
from allelse.design import Design, Level, arm_key
from allelse.records import RunSpec
from allelse.study.arms import Arm
from allelse.study.file import Reference, Tune


@dataclass(frozen=True)
class Study:
    """A checked study. ``load`` makes one."""

    name: str
    question: str
    seeds: tuple[int, ...]
    """of every arm that has no number of its own"""
    first_seed: int
    """of the file, whatever ``--first-seed`` says; what its tuning is done with follows from it"""
    alpha: float
    factors: Mapping[str, tuple[Level, ...]]
    """labels of the levels that arms have, by factor, in the order of the file"""
    arms: tuple[Arm, ...]
    excluded: tuple[Mapping[str, Level], ...]
    """combinations of levels that the file excludes"""
    tune: Tune | None
    """the number that validation chooses for each arm before the comparison; till then the arms have the recipe's own"""
    claims: tuple[Claim, ...]
    references: tuple[Reference, ...]
    notes: tuple[str, ...]
    """what makes the arms more than a crossing of factors, one line each for people"""
    quick: bool
    """whether ``[quick]`` was put in: its figures are no figures of the full study"""
    scaled: bool
    """whether ``[scaled]`` was put in: the study's own data and question, trained for less"""
    command: str
    """what runs it again, without the output folder"""

    @cached_property
    def design(self) -> Design:
        """What claims are held against."""
        return Design(self.factors, [arm.levels for arm in self.arms])

    def runs(self) -> Iterator[RunSpec]:
        """Every run, arm by arm, seed by seed."""
        for arm in self.arms:
            recipe = arm.recipe.plain()
            for seed in arm.seeds:
                yield RunSpec(dict(arm.levels), recipe, seed)

    def with_seeds(self, seeds: Sequence[int], planned: Iterable[tuple[Mapping[str, Level], int]]) -> Study:
        """The same study with other seeds.

        Arguments:
            seeds: the study's.
            planned: the levels and seed of every run; an arm that has none keeps its own.
        """
        found: dict[str, list[int]] = {}
        for levels, seed in planned:
            found.setdefault(str(arm_key(levels)), []).append(seed)
        own = [tuple(found.get(str(arm_key(arm.levels)), arm.seeds)) for arm in self.arms]
        arms = tuple(replace(arm, seeds=of_arm) for arm, of_arm in zip(self.arms, own, strict=True))
        return replace(self, seeds=tuple(seeds), arms=arms)

    def definition(self) -> dict[str, Any]:
        """All that the results depend on and all that was declared before, as plain values; the store keeps it."""
        plain = {
            "name": self.name,
            "question": self.question,
            "seeds": list(self.seeds),
            "alpha": self.alpha,
            "factors": {factor: list(labels) for factor, labels in self.factors.items()},
            "arms": [self._plain(arm) for arm in self.arms],
            "claims": [claim.model_dump(mode="json") for claim in self.claims],
            "references": [reference.plain() for reference in self.references],
            "quick": self.quick,
            "command": self.command,
        }
        if self.scaled:
            plain["scaled"] = True
        if self.tune:
            plain["tune"] = self.tune.model_dump(mode="json")
        if self.excluded:
            plain["excluded"] = [dict(levels) for levels in self.excluded]
        if self.notes:
            plain["notes"] = list(self.notes)
        return plain

    def _plain(self, arm: Arm) -> dict[str, Any]:
        own_seeds = {} if arm.seeds == self.seeds else {"seeds": len(arm.seeds)}
        return {"levels": dict(arm.levels), "recipe": arm.recipe.plain(), **own_seeds}
