"""Tuning: results of the tuning runs in; the number that validation chooses for each arm, and what that cost, out.

The choice reads the scores on the validation split and nothing of the test split, which ``blinded`` takes out of every tuning
run before it is stored (invariant 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any, Literal

from allelse.design import Level, arm_key, arm_text
from allelse.errors import StudyError, counted
from allelse.records import RunResult
from allelse.store import StoredRun


@dataclass(frozen=True)
class Tried:
    """One value of the number, over all tuning runs that had it."""

    value: float
    mean: float | None
    """of the metric in the last epoch, over runs; None where one of them diverged: such a value is not chosen"""
    n: int
    """runs"""
    diverged: int


@dataclass(frozen=True)
class Choice:
    """What was chosen for the arms with these levels."""

    levels: Mapping[str, Level]
    value: float
    at_edge: Literal["", "lowest", "highest"]
    """whether it is the lowest or the highest value tried, so that a better one may lie beyond"""
    tried: tuple[Tried, ...]
    """from the lowest to the highest"""


@dataclass(frozen=True)
class Tuning:
    """The choices of a study with their cost."""

    key: str
    """the recipe key, e.g. ``optimizer.lr``"""
    metric: str
    per: tuple[str, ...]
    """factors: arms with the same levels of these share one choice"""
    runs: int
    seeds: int
    epochs: int
    """of the longest run"""
    images: int
    """trained on, over all tuning runs"""
    choices: tuple[Choice, ...]

    def choice_for(self, arm: Mapping[str, object]) -> Choice:
        """The choice for an arm of the study."""
        shared = arm_key({factor: arm[factor] for factor in self.per if factor in arm})
        return next(choice for choice in self.choices if arm_key(choice.levels) == shared)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``from_json`` takes back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Tuning:
        choices = (
            Choice(**{**choice, "tried": tuple(Tried(**tried) for tried in choice["tried"])}) for choice in values["choices"]
        )
        return cls(**{**values, "per": tuple(values["per"]), "choices": tuple(choices)})

    def budget(self) -> str:
        """One sentence: what was tried, on how many runs and images, and what chose."""
        values = ", ".join(f"{tried.value:g}" for tried in self.choices[0].tried)
        each = f"for each {' and '.join(self.per)}" if self.per else "once for all arms"
        diverged = sum(tried.diverged for choice in self.choices for tried in choice.tried)
        lost = f", {diverged} diverged" if diverged else ""
        seeds = "1 seed of its" if self.seeds == 1 else f"{self.seeds} seeds of their"
        is_equal = self.metric == "validation_accuracy" and any(map(_is_tied, self.choices))
        equal = ", and the loss where that was equal" * is_equal
        return (
            f"{self.key} was tuned before the comparison, {each}, from {values}: {counted(self.runs, 'tuning run')} "
            f"({seeds} own, up to {counted(self.epochs, 'epoch')}{lost}), {self.images:,} images trained; {self.metric} of the "
            f"last epoch chose{equal}, and the test split was not looked at"
        )

    def warnings(self) -> list[str]:
        """One line for each choice at the edge of what was tried."""
        return [
            f"{self.key} = {choice.value:g}{_for(choice.levels)} is the {choice.at_edge} value tried: a better one may lie "
            f"beyond; widen the values of [tune]"
            for choice in self.choices
            if choice.at_edge
        ]


def choose(tune: Mapping[str, Any], runs: Sequence[StoredRun]) -> Tuning:
    """Take for each arm, or for arms that share a choice, the value with the best mean on the validation split.

    Equal accuracies are told apart by the validation loss, and then the lower value is taken.

    Arguments:
        tune: the study's ``[tune]`` table (``Study.definition``).
        runs: every tuning run, done or diverged; its arm has the number as one level more.

    Raises:
        StudyError: every value diverged for some arm.
    """
    key, metric, per = tune["key"], tune["metric"], tuple(tune["per"])
    groups: dict[str, tuple[dict[str, Level], dict[float, list[StoredRun]]]] = {}
    for run in runs:
        levels = {factor: run.arm[factor] for factor in per if factor in run.arm}
        _, runs_from_value = groups.setdefault(str(arm_key(levels)), (levels, {}))
        runs_from_value.setdefault(run.arm[key], []).append(run)
    results = [run.result for run in runs if run.result]
    return Tuning(
        key=key,
        metric=metric,
        per=per,
        runs=len(runs),
        seeds=len({run.seed for run in runs}),
        epochs=max(len(result.epochs) for result in results),
        images=round(sum(each.timing.get("images_per_second", 0) * each.timing.get("train", 0) for each in results)),
        choices=tuple(_choice(key, metric, levels, runs_from_value) for levels, runs_from_value in groups.values()),
    )


def _choice(key: str, metric: str, levels: dict[str, Level], runs_from_value: Mapping[float, Sequence[StoredRun]]) -> Choice:
    tried = []
    rank_from_value: dict[float, tuple[float, float, float]] = {}
    for value, runs in sorted(runs_from_value.items()):
        mean, loss = _mean(runs, metric), _mean(runs, "validation_loss")
        tried.append(Tried(value, mean, len(runs), sum(run.status == "diverged" for run in runs)))
        if mean is not None and loss is not None:
            rank_from_value[value] = (mean if metric == "validation_loss" else -mean, loss, value)
    if not rank_from_value:
        raise StudyError(
            f"tuning {key}{_for(levels)}: every value has a run that diverged; "
            f"give [tune] other values, and a new folder with --out"
        )
    value = min(rank_from_value, key=lambda value: rank_from_value[value])
    edges: dict[float, Literal["lowest", "highest"]] = {tried[-1].value: "highest", tried[0].value: "lowest"}
    return Choice(levels, value, edges.get(value, ""), tuple(tried))


def _mean(runs: Sequence[StoredRun], metric: str) -> float | None:
    values = [run.result.metrics.get(metric) if run.result and run.status == "done" else None for run in runs]
    finite = [value for value in values if value is not None and isfinite(value)]
    return sum(finite) / len(finite) if len(finite) == len(runs) else None


def _is_tied(choice: Choice) -> bool:
    """Whether another value had the mean of the one that was chosen."""
    means = {tried.value: tried.mean for tried in choice.tried}
    return list(means.values()).count(means[choice.value]) > 1


def _for(levels: Mapping[str, Level]) -> str:
    return f" for {arm_text(levels)}" if levels else ""


BLIND = ("train_", "validation_")


def blinded(result: RunResult) -> RunResult:
    """A tuning run's result without anything that was measured on the test split."""
    return replace(
        result,
        metrics={name: value for name, value in result.metrics.items() if name.startswith(BLIND)},
        epochs=[{name: epoch[name] for name in epoch if name == "lr" or name.startswith(BLIND)} for epoch in result.epochs],
    )
