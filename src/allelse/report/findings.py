"""Findings: an open store in; all that the report tells of, read and judged once, out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from allelse import stats
from allelse.design import Design, is_absent, is_number, level_key, level_text, short_names
from allelse.errors import StudyError
from allelse.records import Provenance, RunResult
from allelse.report.evidence import classes_of, compare_table, design_of, judge_table
from allelse.stats.effects import Floats
from allelse.stats.runs import Runs
from allelse.store import Store, StoredRun, words_of
from allelse.tuning import Tuning

Arm = Mapping[str, Any]
ArmKey = tuple[object, ...]


@dataclass(frozen=True)
class Findings:
    """A study's stored runs with what they say."""

    definition: Mapping[str, Any]
    runs: Sequence[StoredRun]
    table: pd.DataFrame
    """``Store.table()``"""
    verdicts: Sequence[stats.Verdict]
    comparisons: Sequence[stats.Comparison]
    folder: str
    tuning: Tuning | None = None
    """what was chosen before the comparison; None without tuning, and until it is settled"""
    tuning_runs: Sequence[StoredRun] = ()
    parts: Sequence[Mapping[str, Any]] = ()
    """that the folder was united from, with the seeds of each"""

    @property
    def levels(self) -> dict[str, list[Any]]:
        """The levels of every factor, in the study's order."""
        return self.definition.get("factors", {})

    @cached_property
    def design(self) -> Design:
        """Which combinations of levels are arms."""
        return design_of(self.definition)

    @cached_property
    def varied(self) -> list[str]:
        """The factors that tell arms apart: those with more than one level, or that some arms lack."""
        texts = {factor: {level_key(arm.get(factor)) for arm in self.arms} for factor in self.levels}
        return [factor for factor, levels in self.levels.items() if len(levels) > 1 or len(texts[factor]) > 1]

    @cached_property
    def arms(self) -> list[dict[str, Any]]:
        """Every arm's levels, in the study's order."""
        return [dict(arm["levels"]) for arm in self.definition.get("arms", [])]

    @cached_property
    def grid(self) -> Runs | None:
        """Metrics by arm and seed; None while no run is planned."""
        return None if self.table.empty else Runs(self.table, list(self.levels))

    def has(self, metric: str) -> bool:
        """Whether a finished run has this metric."""
        if self.grid is None or metric not in self.table.columns:
            return False
        try:
            self.grid.check_metric(metric)
        except StudyError:
            return False
        return bool(pd.to_numeric(self.table[metric], errors="coerce").notna().any())

    def values(self, arm: Arm, metric: str = "accuracy") -> Floats:
        """One value a seed, nan where there is none; the same order of seeds for every arm."""
        assert self.grid is not None
        return self.grid.values(arm, metric)[0]

    def key(self, arm: Arm, factors: Iterable[str] | None = None) -> ArmKey:
        return tuple(level_key(arm.get(factor)) for factor in (self.levels if factors is None else factors))

    @cached_property
    def arm_from_varied(self) -> dict[ArmKey, Arm]:
        """Every arm by its levels of the factors that tell arms apart."""
        return {self.key(arm, self.varied): arm for arm in self.arms}

    @cached_property
    def seeds_from_arm(self) -> dict[ArmKey, int]:
        """How many seeds are asked of each arm."""
        usual = len(self.definition.get("seeds", []))
        return {self.key(arm["levels"]): arm.get("seeds", usual) for arm in self.definition.get("arms", [])}

    @cached_property
    def results_from_arm(self) -> dict[ArmKey, list[RunResult]]:
        """Results of the finished runs of each arm, by seed."""
        found: dict[ArmKey, list[RunResult]] = {}
        for run in sorted(self.runs, key=lambda run: run.seed):
            if run.status == "done" and run.result:
                found.setdefault(self.key(run.arm), []).append(run.result)
        return found

    def results(self, arm: Arm) -> list[RunResult]:
        return self.results_from_arm.get(self.key(arm), [])

    @cached_property
    def claims(self) -> dict[str, Mapping[str, Any]]:
        """The declared claims as raw values, by id."""
        return {str(claim.get("id")): claim for claim in self.definition.get("claims", [])}

    @property
    def references(self) -> list[Mapping[str, Any]]:
        """Published figures of the headline metric to draw beside ours; none for a quick study, which is another recipe."""
        declared = [] if self.definition.get("quick") else self.definition.get("references", [])
        return [reference for reference in declared if reference.get("metric", "accuracy") == "accuracy"]

    # ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def short(self) -> dict[str, str]:
        """Each factor as a heading."""
        return short_names(self.levels)

    def level_name(self, factor: str, level: object) -> str:
        """``relu`` by its name alone; with its factor what would not be understood without: ``depth 8``, ``norm none``."""
        text = level_text(level)
        bare = not is_number(level) and not isinstance(level, bool) and factor not in self._unclear
        return text if bare else f"{self.short[factor].replace('_', ' ')} {text}"

    @cached_property
    def _unclear(self) -> set[str]:
        """The factors with a level whose name says too little: ``none``, or what another factor or a level of it is named."""
        taken = {
            factor: {text for other in self.varied if other != factor for text in self._names(other)} | {"none"}
            for factor in self.varied
        }
        return {factor for factor in self.varied if taken[factor] & set(map(level_text, self.levels[factor]))}

    def _names(self, factor: str) -> list[str]:
        return [*self.short[factor].split("_"), *map(level_text, self.levels[factor])]

    def arm_name(self, arm: Arm) -> str:
        """An arm in words; a row of a table says by an empty cell that the arm lacks a factor."""
        there = [factor for factor in self.varied if not is_absent(arm.get(factor))]
        return ", ".join(self.level_name(factor, arm[factor]) for factor in there) or "the only arm"

    @cached_property
    def commands(self) -> list[str]:
        """What trains all of it: one command, or one for each part with all arms that the folder was united from."""
        command, first = self.definition.get("command", "allelse run STUDY"), self.definition.get("seeds", [])[:1]

        def of(part: Mapping[str, Any]) -> str:  # stores of early versions have none for their parts
            moved = "" if part["seeds"][:1] == first else f" --first-seed {part['seeds'][0]}"
            return str(part.get("command") or f"{command}{moved}")

        return list(dict.fromkeys(map(of, self.parts))) or [command]

    @cached_property
    def changes(self) -> list[tuple[str, str]]:
        """What was asked for whatever the study file says: ``--seeds`` or ``--set`` with its value, each once; of a united
        folder with the levels and seeds of all its parts."""
        whole = self.definition.get("command")
        of_parts, of_all = (
            [pair for one in them for pair in pairwise(words_of(one))] for them in (self.commands, [whole or ""])
        )
        seeds = [pair for pair in of_parts if pair[0] == "--seeds"]
        if seeds and self.parts:
            seeds = [("--seeds", str(len(self.definition["seeds"])))]
        return list(dict.fromkeys([*seeds, *(pair for pair in (of_all if whole else of_parts) if pair[0] == "--set")]))

    @cached_property
    def machines(self) -> list[str]:
        """Devices and precisions that the runs were made with."""
        return sorted({f"{made.device_text}, {made.precision}" for made in self.made})

    @cached_property
    def days(self) -> list[str]:
        """On which runs were begun, in UTC."""
        return sorted({made.started[:10] for made in self.made})

    @cached_property
    def seconds(self) -> float:
        """Of training and evaluating; the runs of a pack share theirs."""
        packs = {tuple(sorted(run.result.timing.items())) for run in self.runs if run.result}
        return sum(value or 0.0 for pack in packs for name, value in pack if name != "images_per_second")

    @cached_property
    def made(self) -> list[Provenance]:
        """Where each run with a result was made."""
        return [run.result.provenance for run in self.runs if run.result and run.result.provenance]

    @cached_property
    def made_with(self) -> str:
        """For captions: hardware, precision and version."""
        versions = {made.allelse for made in self.made}
        where = " and ".join(self.machines) or "unknown hardware"
        return f"{where}; allelse {', '.join(sorted(versions)) or 'of unknown version'}"


def gather(store: Store) -> Findings:
    """Read the store, judge its claims and compare it with what was published."""
    definition, table, runs = store.definition, store.table(), store.runs()
    tuning_part, settled = store.tuning_part, store.tuning
    return Findings(
        definition,
        runs,
        table,
        judge_table(definition, table, classes_of(runs)),
        compare_table(definition, table),
        str(store.folder),
        Tuning.from_json(settled) if settled else None,
        tuning_part.runs() if tuning_part else (),
        store.parts,
    )


def seeds_text(counts: Sequence[int], what: str = "arm") -> str:
    """``n = 5 seeds an arm``, or ``n = 2 to 5 seeds an arm, none in 1 arm`` where they differ."""
    some = sorted({count for count in counts if count}) or [0]
    seeds = f"n\u00a0=\u00a0{' to '.join(map(str, dict.fromkeys((some[0], some[-1]))))} seed{'' if some[-1] == 1 else 's'}"
    without = counts.count(0) if some[-1] else 0
    return f"{seeds} a{'n' if what == 'arm' else ''} {what}" + (
        f", none in {without} {what}{'' if without == 1 else 's'}" if without else ""
    )


def finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]
