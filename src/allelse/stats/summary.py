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
        arms in the order of their first run; the factor columns (empty where an arm lacks the factor), ``n`` (seeds with a
        finite value), ``mean``, ``sd``, ``low``, ``high`` in the metric's unit (nan where there are too few), and the number
        of seeds ``diverged`` (a value that is not finite counts as that), ``failed`` and ``pending`` (a seed that this arm has
        no row for counts as that, unless it is later than all of the arm's own: arms may have unequal numbers of seeds).

    Raises:
        StudyError: the table lacks a column, or no run has this metric.
    """
    runs = Runs(table, factors)
    runs.check_metric(metric)
    arms = table[list(factors)].drop_duplicates() if factors else pd.DataFrame(index=[0])
    rows = []
    for arm in arms.to_dict("records"):
        values, problems = runs.values(arm, metric)
        good = values[np.isfinite(values)]
        low, high = t_interval(good, level)
        mean = float(good.mean()) if len(good) else float("nan")
        summary = {"n": len(good), "mean": mean, "sd": spread(good), "low": low, "high": high}
        rows.append({**summary, **{name: problems[name] for name in PROBLEMS}})
    columns = ["n", "mean", "sd", "low", "high", *PROBLEMS]
    return pd.concat([arms.reset_index(drop=True), pd.DataFrame(rows, columns=columns)], axis="columns")
