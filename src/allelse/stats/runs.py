"""The table of runs, read once: a pandas DataFrame in; one value a seed for any arm and metric out, with what is wrong counted.

The table has one row a run: a column for each factor (empty where the arm lacks it), ``seed``, ``status`` and one column a
metric. A table of a store has a row for each run that is asked, and is marked so (``EVERY_RUN``). In another an arm's seeds
are the study's first ones: those after an arm's last row are not asked of it, those before it are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from allelse.design import EVERY_RUN, arm_text, level_key
from allelse.errors import StudyError, did_you_mean
from allelse.records import METRICS
from allelse.stats.effects import Floats

PROBLEMS = ("diverged", "failed", "pending")
"""why a seed of an arm has no value; a run without a row is pending, unless no later seed of its arm has one either"""
WITHOUT = "without"
"""or no finished run of its arm has any, as with statistics of BatchNorm where there is none"""


class Runs:
    """Runs by arm and seed.

    Raises:
        StudyError: a column is missing, or two rows are the same arm and seed.
    """

    def __init__(self, table: pd.DataFrame, factors: Sequence[str]) -> None:
        for column in (*factors, "seed", "status"):
            if column not in table.columns:
                known = did_you_mean(column, list(map(str, table.columns)))
                raise StudyError(f"the table of runs has no column {column!r}; {known}")
        self.factors = tuple(factors)
        self.seeds: list[int] = sorted({int(seed) for seed in table["seed"]})
        self._metrics = [str(name) for name in table.columns if name not in (*factors, "seed", "status")]
        self._table = table
        self._status = [str(status) for status in table["status"]]
        self._row_from_run: dict[tuple[object, ...], int] = {}
        self._seeds_from_arm: dict[tuple[object, ...], list[int]] = {}
        columns = [[level_key(level) for level in table[factor]] for factor in factors]
        self.varied = [factor for factor, column in zip(factors, columns, strict=True) if len(set(column)) > 1]
        for row, seed in enumerate(table["seed"]):
            run = (*(column[row] for column in columns), int(seed))
            if run in self._row_from_run:
                arm = arm_text({factor: table[factor].iloc[row] for factor in factors})
                raise StudyError(f"the table of runs has seed {seed} twice for {arm or 'its one arm'}; is a factor left out?")
            self._row_from_run[run] = row
            self._seeds_from_arm.setdefault(run[:-1], []).append(int(seed))
        self._values_from_metric: dict[str, Floats] = {}
        self._values_from_arm: dict[tuple[object, ...], tuple[Floats, list[str]]] = {}

    @cached_property
    def metrics(self) -> list[str]:
        """Those that a run has, be it with no number that is finite, which a table holds as None."""
        return [
            name
            for name in self._metrics
            if pd.api.types.is_numeric_dtype(self._table[name]) or (name in METRICS and self._table[name].isna().all())
        ]

    def check_metric(self, metric: str, arms: Sequence[Mapping[str, object]] | None = None) -> None:
        """Refuse a metric that no run has, unless it may be for want of finished ones.

        Arguments:
            metric: that is asked.
            arms: whose every run must be done before the metric can be missed; left out, one of any arm is enough.
        """
        if arms is None:
            is_missing = "done" in self._status
        else:
            is_missing = all({self._state(arm, seed) for seed in self.seeds_of(arm)} == {"done"} for arm in arms)
        if is_missing and metric not in self.metrics:
            raise StudyError(f"metric {metric!r} is not among the results; {did_you_mean(metric, self.metrics)}")

    def values(self, arm: Mapping[str, object], metric: str, seeds: Sequence[int] | None = None) -> tuple[Floats, Counter[str]]:
        """One arm's metric.

        Arguments:
            arm: its level by factor.
            metric: a metric's column; one that no run has is nan everywhere.
            seeds: whose problems count; those that are asked of the arm when left out.

        Returns:
            values of shape (seeds,), in the order of ``self.seeds``, nan where the run is not done or not finite; and how many
            seeds ``diverged`` (a value that is not finite counts as that), ``failed``, are ``pending`` or, where no finished
            run of the arm has a value, ``without`` one.
        """
        arm_key = self._key(arm)
        if (metric, arm_key) not in self._values_from_arm:
            column, states = self._column(metric), [self._state(arm, seed) for seed in self.seeds]
            rows = [self._row_from_run.get((*arm_key, seed)) for seed in self.seeds]
            values = np.array([np.nan if row is None else column[row] for row in rows])
            lost = "diverged" if np.isfinite(values).any() else WITHOUT
            states = [
                lost if state == "done" and np.isnan(value) else state for state, value in zip(states, values, strict=True)
            ]
            self._values_from_arm[metric, arm_key] = (values, states)
        values, states = self._values_from_arm[metric, arm_key]
        counted = set(self.seeds_of(arm) if seeds is None else seeds)
        found = Counter(state for seed, state in zip(self.seeds, states, strict=True) if seed in counted)
        return values, Counter({problem: found[problem] for problem in (*PROBLEMS, WITHOUT) if found[problem]})

    def seeds_of(self, arm: Mapping[str, object]) -> list[int]:
        """The seeds that are asked of an arm; all of them where it has no row at all."""
        own = self._seeds_from_arm.get(self._key(arm), self.seeds)
        return sorted(own) if self._table.attrs.get(EVERY_RUN) else [seed for seed in self.seeds if seed <= max(own)]

    def _key(self, arm: Mapping[str, object]) -> tuple[object, ...]:
        return tuple(level_key(arm.get(factor)) for factor in self.factors)

    def _state(self, arm: Mapping[str, object], seed: int) -> str:
        """What became of one run."""
        row = self._row_from_run.get((*self._key(arm), seed))
        return "pending" if row is None else self._status[row]

    def _column(self, metric: str) -> Floats:
        if metric not in self._values_from_metric:
            raw = np.full(len(self._status), np.nan)
            if metric in self.metrics:
                raw = self._table[metric].to_numpy(float, na_value=np.nan)
            done = np.array([state == "done" for state in self._status], dtype=bool)
            self._values_from_metric[metric] = np.where(done & np.isfinite(raw), raw, np.nan)
        return self._values_from_metric[metric]
