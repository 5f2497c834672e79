"""The table of arms: the table of runs in, one row an arm out, with nothing dropped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from allelse.stats.effects import spread, t_interval
from allelse.stats.runs import PROBLEMS, Runs


def arm_table(table: pd.DataFrame, factors: Sequence[str], metric: str = "accuracy", level: float = 0.95) -> pd.DataFrame:
    """Summarise one metric by arm.

    Arguments:
        table: one row a run: factor columns, ``seed``, ``status``, metrics.
        factors: the factor columns; with none, the whole table is one arm.
        metric: a metric's column.
        level: of the t interval of the mean.

    Returns:
        arms in the order of their first run; the factor columns, ``n`` (seeds with a finite value), ``mean``, ``sd``, ``low``,
        ``high`` in the metric's unit (nan where there are too few), and the number of seeds ``diverged`` (a value that is not
        finite counts as that), ``failed`` and ``pending`` (a seed of the table that this arm has no row for counts as that).

    Raises:
        StudyError: the table lacks a column, or no run has this metric.
    """
    runs = Runs(table, factors)
    runs.check_metric(metric)
    arms = table[list(factors)].drop_duplicates().to_dict("records") if factors else [{}]
    rows = []
    for arm in arms:
        values, problems = runs.values(arm, metric)
        good = values[np.isfinite(values)]
        low, high = t_interval(good, level)
        mean = float(good.mean()) if len(good) else float("nan")
        summary = {"n": len(good), "mean": mean, "sd": spread(good), "low": low, "high": high}
        rows.append({**arm, **summary, **{name: problems[name] for name in PROBLEMS}})
    return pd.DataFrame(rows, columns=[*factors, "n", "mean", "sd", "low", "high", *PROBLEMS])
