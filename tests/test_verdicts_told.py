"""Every way in which a claim can fail to be judged, and what is said of one that is."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from verdict_support import (
    ALL,
    BEST,
    GROWS,
    HIGHER,
    LEVELS,
    TREND,
    WITHIN,
    claims,
    judge,
    norm,
    study,
    values,
)

from allelse.errors import StudyError
from allelse.stats import verdicts

# ── what cannot be judged ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("status", ["diverged", "failed", "pending"])
@pytest.mark.parametrize("row", ALL, ids=lambda row: row["kind"])
def test_a_claim_whose_runs_are_not_all_done_is_undecided_and_says_why(status, row):
    table = study(6, batch=(83, 86, 89))
    table.loc[table.query("norm == 'batch' and batch_size == 8 and seed < 2").index, "status"] = status
    found = judge(row, table)
    assert (found.verdict, found.p, found.p_adjusted) == ("undecided", None, None)
    assert f"2 of 6 seeds {'are pending' if status == 'pending' else status} in" in found.reason
    assert found.reason in found.sentence
    assert "norm = batch" in found.reason
    assert found.estimate is not None


def test_the_estimate_is_then_over_complete_pairs():
    table = study(6)
    table.loc[table.query("norm == 'batch' and batch_size == 8 and seed == 0").index, "status"] = "failed"
    found = judge(HIGHER, table)
    assert found.n == 5
    assert found.estimate == pytest.approx(np.mean((values(table, "batch", 8) - values(table, "group", 8))[1:]))


def test_a_value_that_is_not_finite_is_a_diverged_run():
    table = study(6)
    table.loc[table.query("norm == 'group' and batch_size == 8 and seed == 0").index, "accuracy"] = np.inf
    assert "1 of 6 seeds diverged" in judge(HIGHER, table).reason


def test_a_metric_that_an_arm_does_not_have_is_no_divergence():
    table = study(6)
    table["mean_distance"] = table["accuracy"].where(table["norm"] == "batch")
    found = judge({**HIGHER, "metric": "mean_distance"}, table)
    assert found.reason == "6 of 6 seeds have no value of this metric in norm = group, batch_size = 8"
    assert found.verdict == "undecided"


@pytest.mark.parametrize("status", ["diverged", "failed", "pending"])
def test_a_run_that_is_compared_with_none_stops_no_claim(status):
    table = study(6, batch=90).query("norm == 'batch' or seed < 4")
    table.loc[table.query("norm == 'batch' and seed == 5").index, "status"] = status
    found = judge(HIGHER, table)
    assert (found.verdict, found.n) == ("supported", 4)
    table.loc[table.query("norm == 'batch' and seed == 3").index, "status"] = status
    assert judge(HIGHER, table).reason.startswith("1 of 4 seeds ")


def test_half_a_study_names_what_is_missing_and_judges_the_rest():
    table = study(6, batch=86).query("norm != 'layer' and not (norm == 'group' and batch_size == 32)")
    higher, best, grows = verdicts(claims(HIGHER, BEST, GROWS), table, levels_from_factor=LEVELS)
    assert higher.verdict == "supported"
    assert "6 of 6 seeds are pending in norm = layer, batch_size = 8" in best.reason
    assert grows.estimate is None
    assert grows.sentence.startswith("No seed has all the runs")


def test_a_claim_that_cannot_be_judged_makes_no_other_easier():
    table = study(6, batch=83)
    table.loc[table.query("norm == 'layer'").index, "status"] = "diverged"
    higher, _ = verdicts(claims(HIGHER, BEST), table, levels_from_factor=LEVELS)
    assert higher.p_adjusted == pytest.approx(2 * higher.p)


def test_one_seed_gives_no_interval():
    for row in ALL:
        found = judge(row, study(1))
        assert (found.verdict, found.low, found.high, found.p) == ("undecided", None, None, None)
        assert found.reason == "an interval needs at least 2 seeds"


def test_results_without_any_run_done_are_undecided():
    table = study(3).assign(status="pending").drop(columns="accuracy")
    assert {each.verdict for each in verdicts(claims(*ALL), table, levels_from_factor=LEVELS)} == {"undecided"}


def test_an_unknown_metric_lists_those_there_are():
    with pytest.raises(StudyError, match=r"'acc'.*allowed: accuracy"):
        judge({**HIGHER, "metric": "acc"}, study(3))


def test_a_claim_that_does_not_fit_the_table_is_refused():
    with pytest.raises(StudyError, match="did you mean 'batch'"):
        judge({**HIGHER, "a": norm("bach")}, study(3))
    with pytest.raises(StudyError, match="seed 0 twice"):
        verdicts(claims({"kind": "higher", "a": norm("batch"), "b": norm("group")}), study(3))
    with pytest.raises(StudyError, match="alpha is 1"):
        judge(HIGHER, study(3), alpha=1)


# ── what is said ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sentences_say_size_unit_interval_n_and_ruling():
    d = values(study(5, batch=83), "batch", 8) - values(study(5, batch=83), "group", 8)
    low, high = stats.t.interval(0.95, 4, d.mean(), stats.sem(d))
    assert judge(HIGHER, study(5, batch=83)).sentence == (
        f"batch is {d.mean():.2f} percentage points above group in accuracy "
        f"(95 % t interval +{low:.2f} to +{high:.2f}, n = 5 seeds) where batch_size = 8; supported."
    )
    assert "90 % t interval" in judge(WITHIN, study(5)).sentence
    assert "per doubling of batch_size" in judge(GROWS, study(5)).sentence
    assert "per unit of batch_size" in judge(TREND, study(5)).sentence
    assert judge(BEST, study(8, batch=85)).sentence.startswith("All 2 comparisons hold, the weakest: ")


def test_a_slope_over_names_or_switches_is_told_by_level():
    for levels in (["a", "b", "c"], [False, True]):
        rows = [
            {"part": level, "seed": seed, "status": "done", "accuracy": 80 + 2 * place + 0.1 * seed * place}
            for place, level in enumerate(levels)
            for seed in range(5)
        ]
        (found,) = verdicts(claims({"kind": "trend", "along": "part", "direction": "up"}), pd.DataFrame(rows))
        assert "percentage points per level of part (" in found.sentence


def test_the_weakest_of_several_on_the_wrong_side_is_the_one_most_against():
    found = judge(BEST, study(6, seed=7, group=80.5, layer=81))
    first, second = found.parts
    assert first.p_support == second.p_support == 1.0
    assert second.p_refute < first.p_refute
    assert (found.verdict, found.estimate) == ("undecided", second.estimate)
    assert found.p == min(1.0, 2 * second.p_refute)


def test_a_margin_that_is_met_exactly_is_not_a_matter_of_seeds():
    table = study(7, sd=0.0, batch=82.0)
    assert judge({**HIGHER, "margin": 2.0}, table).reason == "every seed lies exactly on the margin of 2"
    table = study(7, sd=0.0, batch=83.3, group=83.0)  # 83.3 − 83.0 is 0.2999…
    for claim in ({**HIGHER, "margin": 0.3}, {**WITHIN, "margin": 0.3}):
        found = judge(claim, table)
        assert found.reason == "every seed lies exactly on the margin of 0.3"
        assert (found.p, found.p_sign_flip) == (1.0, 1.0)


def test_what_an_interval_holds_has_no_sign_where_it_is_zero():
    table = study(5, sd=1.0)
    assert judge({**TREND, "direction": "down"}, table).reason == "the interval holds 0"


def test_a_metric_without_any_number_does_not_make_equal_accuracies_those_of_one_network():
    table = study(7, sd=0.0)
    assert judge({**WITHIN, "margin": 2.0}, table).p == judge({**WITHIN, "margin": 2.0}, table.assign(test_loss=None)).p > 0


def test_metrics_other_than_accuracies_have_no_percentage_points():
    table = study(5, batch=83).rename(columns={"accuracy": "train_loss"})
    sentence = judge({**HIGHER, "metric": "train_loss"}, table).sentence
    assert "percentage" not in sentence
    assert "in train loss" in sentence


def test_a_sign_flip_that_disagrees_is_told():
    table = study(6)
    differences = np.array([1.0, 1.0, 1.1, 0.9, 1.0, -0.2])
    b = table.query("norm == 'batch' and batch_size == 8").index
    table.loc[b, "accuracy"] = values(table, "group", 8) + differences
    found = judge(HIGHER, table)
    assert found.verdict == "supported"
    assert found.p_sign_flip == pytest.approx(0.0625)
    assert "The sign-flip check does not confirm it (p = 0.062)." in found.sentence or "p = 0.063" in found.sentence


def test_json_is_plain_and_has_what_the_command_promises():
    found = [each.to_json() for each in verdicts(claims(*ALL), study(6), levels_from_factor=LEVELS)]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    promised = {"id", "says", "verdict", "estimate", "low", "high", "p", "n", "correlation"}
    assert all(promised <= each.keys() for each in found)


def test_beyond_sixteen_seeds_the_generator_that_is_passed_draws():
    table = study(20, batch=80.4)
    ps = [judge(HIGHER, table, generator=np.random.default_rng(seed)).p_sign_flip for seed in (1, 1, 2)]
    assert ps[0] == ps[1] != ps[2]
    assert judge(HIGHER, table).p_sign_flip == judge(HIGHER, table).p_sign_flip


def test_levels_that_are_booleans_or_numbers_in_a_mixed_column_are_told_apart():
    rows = [
        {"bias": level, "seed": seed, "status": "done", "accuracy": 80 + 5 * (level is True) + seed + 0.1 * seed * (level == 2)}
        for level in (True, 1, 2)
        for seed in range(5)
    ]
    found = verdicts(claims({"kind": "higher", "a": {"bias": True}, "b": {"bias": 1}}), pd.DataFrame(rows))
    assert found[0].estimate == pytest.approx(5)


def test_statistics_never_import_torch():
    import subprocess
    import sys

    code = "import allelse.stats, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
