"""The table of arms: every arm and every seed accounted for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from allelse.claims import Higher
from allelse.design import EVERY_RUN
from allelse.errors import StudyError
from allelse.stats import arm_table, verdicts
from allelse.stats.sentences import digits_between, number


def table():
    rows = [
        {"norm": norm, "seed": seed, "status": "done", "accuracy": 80.0 + seed}
        for norm in ("group", "batch")
        for seed in range(5)
    ]
    return pd.DataFrame(rows)


def test_an_arm_is_its_mean_sd_and_t_interval_in_the_tables_order():
    found = arm_table(table(), ["norm"])
    assert list(found["norm"]) == ["group", "batch"]
    low, high = stats.ttest_1samp([80, 81, 82, 83, 84], 0).confidence_interval(0.95)
    assert found.iloc[0][["n", "mean", "sd", "low", "high"]].tolist() == pytest.approx([5, 82, 2.5**0.5, low, high])


def test_runs_that_are_not_done_are_counted_and_left_out_of_the_mean():
    runs = table()
    runs.loc[0, "status"] = "diverged"
    runs.loc[1, "accuracy"] = np.inf
    runs.loc[2, "status"] = "failed"
    runs.loc[5, "status"] = "pending"
    found = arm_table(runs.drop(index=6), ["norm"])
    assert found[["n", "diverged", "failed", "pending"]].values.tolist() == [[2, 2, 1, 0], [3, 0, 0, 2]]
    assert found.loc[0, "mean"] == 83.5


def test_what_a_store_has_no_row_of_was_never_asked_and_what_another_table_lacks_is_missing():
    seeds = {"group": [0, 1, 4, 5], "batch": [0, 1, 2, 3, 4, 5, 6, 7], "layer": [0, 4]}  # of two folders, united
    rows = [{"norm": norm, "seed": seed, "status": "done", "accuracy": 80.0} for norm in seeds for seed in seeds[norm]]
    united = pd.DataFrame(rows)
    assert arm_table(united, ["norm"])["pending"].tolist() == [2, 0, 3], "but for those after its last"
    united.attrs[EVERY_RUN] = True
    assert arm_table(united, ["norm"])[["n", "pending"]].values.tolist() == [[4, 0], [8, 0], [2, 0]]


def test_arms_of_a_store_are_compared_on_the_seeds_that_all_of_them_have():
    seeds = {"group": [0, 1, 4, 5, 6, 7], "batch": [0, 1, 2, 3, 4, 5]}
    rows = [
        {"norm": norm, "seed": seed, "status": "done", "accuracy": 80.0 + seed % 3 + (norm == "batch") * (5 + seed / 10)}
        for norm in seeds
        for seed in seeds[norm]
    ]
    united = pd.DataFrame(rows)
    united.attrs[EVERY_RUN] = True
    claim = {"id": "x", "says": "x", "kind": "higher", "a": {"norm": "batch"}, "b": {"norm": "group"}}
    [judged] = verdicts([Higher(**claim)], united)
    assert (judged.verdict, judged.n, judged.reason) == ("supported", 4, None)
    with pytest.raises(StudyError, match="metric 'validation_accuracy' is not among the results"):
        verdicts([Higher(**claim, metric="validation_accuracy")], united)


def test_nothing_done_yet_is_a_table_of_pending_arms():
    found = arm_table(table().assign(status="pending").drop(columns="accuracy"), ["norm"])
    assert found["pending"].tolist() == [5, 5]
    assert found["mean"].isna().all()


def test_one_seed_has_a_mean_and_no_interval():
    found = arm_table(table().query("seed == 0"), ["norm"])
    assert found["mean"].tolist() == [80, 80]
    assert found[["sd", "low", "high"]].isna().all(axis=None)


def test_a_study_without_factors_is_one_arm():
    found = arm_table(table().query("norm == 'batch'").drop(columns="norm"), [])
    assert found["n"].tolist() == [5]


def test_an_unknown_metric_lists_those_there_are():
    with pytest.raises(StudyError, match=r"'acuracy'.*did you mean 'accuracy'"):
        arm_table(table(), ["norm"], "acuracy")


def test_a_run_that_is_there_twice_is_refused():
    with pytest.raises(StudyError, match="seed 0 twice for norm = group"):
        arm_table(pd.concat([table(), table()]), ["norm"])


def test_a_missing_column_is_named():
    with pytest.raises(StudyError, match="no column 'activation'"):
        arm_table(table(), ["activation"])


@pytest.mark.parametrize(("low", "width"), [(2.302585, 3e-4), (-0.5, 1e-6), (0.0, 0.2), (99.9, 1e-3), (1e-7, 1e-9), (2.3, 4.0)])
def test_the_ends_of_a_narrow_interval_are_told_apart(low, width):
    digits = digits_between(low, low + width)
    ends = [float(number(end, "train_loss", digits=digits).replace("−", "-")) for end in (low, low + width)]
    assert ends[1] - ends[0] == pytest.approx(width, rel=0.1)
    assert digits_between(low, low) == digits_between(float("nan"), 1.0) == 3


@pytest.mark.parametrize("value", [-0.0, -1e-9, -0.0049, 0.0049])
def test_what_rounds_to_nothing_has_no_sign(value):
    assert number(value, "accuracy") == "0.00"
    assert number(value, "accuracy", signed=True) == "+0.00"
