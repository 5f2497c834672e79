"""The table of runs, read once: a pandas DataFrame in; one value a seed for any arm and metric out, with what is wrong counted.

The table has one row a run: a column for each factor (empty where the arm lacks it), ``seed``, ``status`` and one column a
metric. The seeds of an arm are the first ones of the study's; those after an arm's last row are not asked of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from allelse.design import arm_text, level_key
from allelse.errors import StudyError, did_you_mean
from allelse.stats.effects import Floats

PROBLEMS = ("diverged", "failed", "pending")
"""why a seed of an arm has no value; a run without a row is pending, unless no later seed of its arm has one either"""


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
        self._last_seed: dict[tuple[object, ...], int] = {}
        columns = [[level_key(level) for level in table[factor]] for factor in factors]
        self.varied = [factor for factor, column in zip(factors, columns, strict=True) if len(set(column)) > 1]
        for row, seed in enumerate(table["seed"]):
            run = (*(column[row] for column in columns), int(seed))
            if run in self._row_from_run:
                arm = arm_text({factor: table[factor].iloc[row] for factor in factors})
                raise StudyError(f"the table of runs has seed {seed} twice for {arm or 'its one arm'}; is a factor left out?")
            self._row_from_run[run] = row
            self._last_seed[run[:-1]] = max(int(seed), self._last_seed.get(run[:-1], int(seed)))
        self._values_from_metric: dict[str, tuple[Floats, list[str]]] = {}
        self._values_from_arm: dict[tuple[object, ...], tuple[Floats, Counter[str]]] = {}

    def check_metric(self, metric: str) -> None:
        """Refuse a metric that no run has, unless no run is done and so none has any."""
        numeric = [name for name in self._metrics if pd.api.types.is_numeric_dtype(self._table[name])]
        if metric not in numeric and "done" in self._status:
            raise StudyError(f"metric {metric!r} is not among the results; {did_you_mean(metric, numeric)}")

    def values(self, arm: Mapping[str, object], metric: str) -> tuple[Floats, Counter[str]]:
        """One arm's metric.

        Returns:
            values of shape (seeds,), in the order of ``seeds``, nan where the run is not done or not finite; and how many seeds
            ``diverged`` (a value that is not finite counts as that), ``failed`` or are ``pending``.
        """
        arm_key = self._key(arm)
        if (metric, arm_key) not in self._values_from_arm:
            column, status = self._column(metric)
            rows = {seed: self._row_from_run.get((*arm_key, seed)) for seed in self.seeds}
            values = np.array([np.nan if row is None else column[row] for row in rows.values()])
            planned = [rows[seed] for seed in self.seeds_of(arm)]
            states = Counter("pending" if row is None else status[row] for row in planned)
            problems = Counter({problem: states[problem] for problem in PROBLEMS if states[problem]})
            self._values_from_arm[metric, arm_key] = (values, problems)
        return self._values_from_arm[metric, arm_key]

    def seeds_of(self, arm: Mapping[str, object]) -> list[int]:
        """The seeds that are asked of an arm; all of them where it has no row at all."""
        last = self._last_seed.get(self._key(arm), self.seeds[-1] if self.seeds else 0)
        return [seed for seed in self.seeds if seed <= last]

    def _key(self, arm: Mapping[str, object]) -> tuple[object, ...]:
        return tuple(level_key(arm.get(factor)) for factor in self.factors)

    def _column(self, metric: str) -> tuple[Floats, list[str]]:
        if metric not in self._values_from_metric:
            self.check_metric(metric)
            raw = np.full(len(self._status), np.nan)
            if metric in self._metrics:
                raw = self._table[metric].to_numpy(float, na_value=np.nan)
            done = np.array([state == "done" for state in self._status], dtype=bool)
            values = np.where(done & np.isfinite(raw), raw, np.nan)
            lost = done & np.isnan(values)
            status = ["diverged" if bad else state for state, bad in zip(self._status, lost, strict=True)]
            self._values_from_metric[metric] = (values, status)
        return self._values_from_metric[metric]
