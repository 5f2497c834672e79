"""Verdicts against scipy and statsmodels, their symmetries, and how rarely they are wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired
from verdict_support import (
    ALL,
    BEST,
    GROWS,
    HIGHER,
    LEVELS,
    MONOTONE,
    SIZES,
    STABLE,
    TREND,
    WITHIN,
    claims,
    judge,
    norm,
    study,
    values,
)

from allelse.records import METRICS
from allelse.stats import holm, verdicts

# ── against others ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_higher_is_the_two_sided_paired_t_test(n, margin):
    table = study(n, batch=81)
    a, b = values(table, "batch", 8), values(table, "group", 8)
    found = judge({**HIGHER, "margin": margin}, table)
    expected = stats.ttest_rel(a - margin, b)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(stats.ttest_rel(a, b).confidence_interval(0.95)))
    assert (found.estimate, found.n) == (pytest.approx(np.mean(a - b)), n)
    assert found.correlation == (pytest.approx(stats.pearsonr(a, b).statistic) if n > 2 else None)


@pytest.mark.parametrize("n", [3, 5, 12])
def test_within_is_statsmodels_tost(n):
    table = study(n, batch=80.5)
    a, b = values(table, "batch", 8), values(table, "group", 8)
    found = judge(WITHIN, table)
    assert found.p == pytest.approx(ttost_paired(a, b, -3, 3)[0])
    assert (found.low, found.high) == pytest.approx(tuple(stats.ttest_rel(a, b).confidence_interval(0.90)))
    assert found.level == pytest.approx(0.90)


def test_within_is_refuted_by_the_bonferroni_pair_of_one_sided_tests():
    table = study(6, batch=86)
    d = values(table, "batch", 8) - values(table, "group", 8)
    found = judge(WITHIN, table)
    assert found.verdict == "refuted"
    assert found.p == pytest.approx(2 * stats.ttest_1samp(d, 3, alternative="greater").pvalue)


@pytest.mark.parametrize(("scale", "x"), [("linear", SIZES), (None, SIZES), ("log2", np.log2(SIZES)), ("order", range(3))])
def test_a_trend_is_the_t_test_of_linregress_slopes(scale, x):
    table = study(7, batch=(79, 80, 82))
    y = np.array([values(table, "batch", size) for size in SIZES])
    slopes = [stats.linregress(x, y[:, seed]).slope for seed in range(7)]
    found = judge({**TREND, "scale": scale}, table)
    assert found.estimate == pytest.approx(np.mean(slopes))
    assert found.p == pytest.approx(stats.ttest_1samp(slopes, 0).pvalue)


def test_a_trend_of_a_difference_is_that_of_the_differences():
    table = study(7, batch=(79, 80, 82))
    y = np.array([values(table, "batch", size) - values(table, "group", size) for size in SIZES])
    slopes = [stats.linregress(np.log2(SIZES), y[:, seed]).slope for seed in range(7)]
    assert judge(GROWS, table).p == pytest.approx(stats.ttest_1samp(slopes, 0).pvalue)


def test_compound_support_is_the_largest_p_and_compound_refutation_bonferronis():
    table = study(8, batch=(78, 81, 84))
    steps = [
        stats.ttest_rel(values(table, "batch", late), values(table, "batch", early)).pvalue for early, late in [(2, 8), (8, 32)]
    ]
    assert judge(MONOTONE, table).p == pytest.approx(max(steps))
    down = judge({**MONOTONE, "direction": "down"}, table)
    assert (down.verdict, down.p) == ("refuted", pytest.approx(2 * min(steps)))
    best = judge(BEST, study(8, batch=84))
    assert best.verdict == "supported"
    assert best.p == max(part.p_support for part in best.parts)
    assert len(best.parts) == 2


def test_stable_takes_every_pair_of_levels():
    table = study(8, batch=(80, 80.5, 81))
    pairs = [(2, 8), (2, 32), (8, 32)]
    tost = [ttost_paired(values(table, "batch", one), values(table, "batch", other), -3, 3)[0] for one, other in pairs]
    assert judge(STABLE, table).p == pytest.approx(max(tost))


def test_for_each_needs_every_level():
    row = {key: value for key, value in HIGHER.items() if key != "where"} | {"for_each": "batch_size"}
    assert judge(row, study(8, batch=83)).verdict == "supported"
    one_against = judge(row, study(8, batch=(83, 76, 83)))
    assert one_against.verdict == "refuted"
    assert "batch_size = 8" in one_against.sentence
    assert judge(row, study(8, batch=(83, 80, 83))).verdict == "undecided"


@pytest.mark.parametrize(("row", "few"), [(WITHIN, (2, 32)), (STABLE, (2, 32)), (TREND, (8, 32)), (MONOTONE, (2, 32))])
def test_listed_levels_are_judged_as_if_the_study_had_no_others(row, few):
    table = study(8, batch=(79, 81, 83), group=(80, 70, 82))
    fixed = {} if row is WITHIN else row["where"]
    asked = {**row, **({"for_each": "batch_size"} if row is WITHIN else {}), "where": {**fixed, "batch_size": list(few)}}
    plain = {**asked, "where": fixed}
    (expected,) = verdicts(
        claims(plain), table[table["batch_size"].isin(few)], levels_from_factor={**LEVELS, "batch_size": few}
    )
    found = judge(asked, table)
    assert (found.p, found.estimate, found.parts) == (expected.p, expected.estimate, expected.parts)
    assert f"batch_size = {few[0]} or {few[1]}" in found.sentence
    assert judge(plain, table).p != found.p


def test_the_best_of_listed_levels_is_held_against_these_alone():
    row = {"kind": "best", "arm": norm("batch"), "where": {"batch_size": 8, "norm": ["batch", "layer"]}}
    found = judge(row, study(8, batch=83, group=90))
    assert (found.verdict, len(found.parts)) == ("supported", 1)
    assert judge(BEST, study(8, batch=83, group=90)).verdict == "refuted"


def test_for_each_of_two_factors_needs_every_combination():
    table = study(8, batch=83, group=80).assign(depth=1)
    both = pd.concat([table, table.assign(depth=2, accuracy=table["accuracy"] + np.where(table["norm"] == "batch", -5.0, 0.0))])
    row = {"kind": "higher", "a": norm("batch"), "b": norm("group"), "for_each": ["batch_size", "depth"]}
    (found,) = verdicts(claims(row), both, levels_from_factor={**LEVELS, "depth": [1, 2]})
    assert len(found.parts) == 6
    refuting = []
    for _, of_both in both.groupby(["batch_size", "depth"]):
        batch, group = (of_both.query("norm == @name")["accuracy"].to_numpy() for name in ("batch", "group"))
        refuting.append(stats.ttest_rel(batch, group, alternative="less").pvalue)
    assert found.verdict == "refuted"
    assert found.p == pytest.approx(2 * 6 * min(refuting)), "two-sided, and one of six is enough"
    assert "depth = 2 " in found.sentence


@pytest.mark.parametrize("claims_of_study", [1, 2, 7, 30])
def test_holm_is_that_of_statsmodels(claims_of_study):
    p = np.round(np.random.default_rng(claims_of_study).uniform(0, 0.3, claims_of_study), 2)  # rounded: ties happen
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_runs_over_all_claims_of_the_study():
    found = verdicts(claims(*ALL), study(6, batch=(79, 81, 83)), levels_from_factor=LEVELS)
    assert [each.p_adjusted for each in found] == pytest.approx(multipletests([each.p for each in found], method="holm")[1])


@pytest.mark.parametrize("row", [HIGHER, TREND])
def test_the_sign_flip_p_is_scipys_exact_two_sided_one(row):
    table = study(7, batch=(79, 81, 82))
    y = np.array([values(table, "batch", size) for size in SIZES])
    x = y[1] - values(table, "group", 8) if row is HIGHER else (np.array(SIZES) - 14) @ y
    exact = stats.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert judge(row, table).p_sign_flip == pytest.approx(exact.pvalue)
    assert judge(row, study(5)).p_sign_flip is None


# ── symmetries ──────────────────────────────────────────────────────────────────────────────────────────────────────

SMALL = settings(max_examples=25, deadline=None)
MEANS = st.tuples(*[st.floats(70, 90)] * 3)


def rulings(table, *rows):
    return [each.verdict for each in verdicts(claims(*rows), table, levels_from_factor=LEVELS)]


@SMALL
@given(MEANS, st.integers(2, 8), st.integers(0, 99))
def test_swapping_the_arms_turns_supported_into_refuted(means, n, seed):
    table = study(n, seed, batch=means)
    turned = {"supported": "refuted", "refuted": "supported", "undecided": "undecided"}
    (found,), (swapped,) = rulings(table, HIGHER), rulings(table, {**HIGHER, "a": norm("group"), "b": norm("batch")})
    assert turned[found] == swapped
    (up,), (down,) = rulings(table, TREND), rulings(table, {**TREND, "direction": "down"})
    assert turned[up] == down
    assert rulings(table, WITHIN) == rulings(table, {**WITHIN, "a": norm("group"), "b": norm("batch")})


@SMALL
@given(MEANS, st.integers(0, 99), st.lists(st.integers(-20, 20), min_size=5, max_size=5))
def test_what_a_seed_adds_to_every_arm_changes_nothing(means, seed, added):
    table = study(5, seed, batch=means)
    moved = table.assign(accuracy=table["accuracy"] + np.array(added)[table["seed"]])
    for one, other in zip(*(verdicts(claims(*ALL), each, levels_from_factor=LEVELS) for each in (table, moved)), strict=True):
        assert one.verdict == other.verdict
        assert (one.p, one.estimate) == (pytest.approx(other.p, abs=1e-6), pytest.approx(other.estimate, abs=1e-6))


@SMALL
@given(MEANS, st.integers(0, 99), st.sampled_from([0.01, 2.0, 64.0]))
def test_the_unit_of_the_metric_does_not_matter(means, seed, scale):
    table = study(5, seed, batch=means)
    rows = [{**row, "margin": row["margin"] * scale} if "margin" in row else row for row in ALL]
    assert rulings(table, *ALL) == rulings(table.assign(accuracy=table["accuracy"] * scale), *rows)


@SMALL
@given(MEANS, st.integers(2, 8), st.integers(0, 99))
def test_a_verdict_never_contradicts_its_interval(means, n, seed):
    for each in verdicts(claims(*ALL), study(n, seed, batch=means), levels_from_factor=LEVELS):
        if each.kind in ("within", "stable"):
            inside, outside = max(-each.low, each.high) < 3, each.low > 3 or each.high < -3
        else:
            inside, outside = each.low > 0, each.high < 0
        assert {"supported": inside, "refuted": outside, "undecided": True}[each.verdict]
        if each.verdict == "undecided" and (inside or outside):
            assert "after correction" in each.sentence


def test_the_order_of_rows_and_claims_does_not_matter():
    table = study(6, batch=(79, 81, 83))
    forward = verdicts(claims(*ALL), table, levels_from_factor=LEVELS)
    backward = verdicts(claims(*ALL)[::-1], table.iloc[::-1], levels_from_factor=LEVELS)[::-1]
    assert [each.to_json() for each in forward] == [each.to_json() for each in backward]


def test_without_the_studys_levels_the_tables_are_used():
    table = study(6, batch=83)
    assert verdicts(claims(*ALL), table) == verdicts(claims(*ALL), table, levels_from_factor=LEVELS)
    assert verdicts(claims(HIGHER), table)[0].verdict == "supported"


def test_numbers_run_from_low_to_high_and_names_in_the_studys_order():
    table = study(6, batch=(79, 82, 85))
    (found,) = verdicts(claims(MONOTONE), table, levels_from_factor={**LEVELS, "batch_size": [32, 8, 2]})
    assert found.verdict == "supported"
    named = table.assign(batch_size=table["batch_size"].map({2: "small", 8: "middle", 32: "large"}))
    (found,) = verdicts(claims(MONOTONE), named, levels_from_factor={**LEVELS, "batch_size": ["small", "middle", "large"]})
    assert found.verdict == "supported"


# ── no difference ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_under_no_difference_a_study_rarely_has_any_directional_verdict():
    directional = [HIGHER, TREND, GROWS, MONOTONE, BEST]
    studies = 300
    wrong = sum(set(rulings(study(5, seed), *directional)) != {"undecided"} for seed in range(studies))
    # Four standard errors above 5 %: the benchmark is the measurement, this is the alarm.
    assert wrong / studies <= 0.05 + 4 * (0.05 * 0.95 / studies) ** 0.5


@pytest.mark.parametrize("metric", sorted(name for name in METRICS if name.startswith("loss_") or name.endswith("_loss")))
def test_the_best_of_losses_is_the_lowest(metric):
    table = study(5, batch=75).rename(columns={"accuracy": metric})
    best = {**BEST, "metric": metric}
    found = judge(best, table)
    assert found.verdict == "supported"
    assert "batch is" in found.sentence
    assert "below" in found.sentence
    assert judge({**best, "arm": norm("layer")}, table).verdict == "refuted"


def test_two_names_of_one_network_support_nothing_but_equivalence():
    table = study(5, sd=0.0)
    table["test_loss"] = table["accuracy"] / 100
    found = verdicts(claims(*ALL), table, levels_from_factor=LEVELS)
    for each in found:
        assert each.verdict == ("supported" if each.kind in ("within", "stable") else "undecided")
        assert "equal bit for bit on every seed" in each.sentence
    assert judge({**HIGHER, "margin": 1.0}, table).verdict == "refuted"


def test_two_networks_at_chance_are_not_one_network():
    table = study(3, sd=0.0)
    table["test_loss"] = np.random.default_rng(0).uniform(2.30, 2.31, len(table))
    within = judge(WITHIN, table)
    assert (within.verdict, within.p) == ("undecided", 0.125)
    assert within.reason == "all 3 seeds give exactly the same value, too few for it to be sure (adjusted p = 0.125)"
    assert judge({**HIGHER, "margin": 1.0}, table).verdict == "undecided"
    assert judge(WITHIN, study(3, sd=0.0)).verdict == "undecided"  # accuracies alone cannot tell
    told = judge(WITHIN, study(6, sd=0.0)).sentence
    assert told.endswith("supported. Every seed gives exactly the same value, so the sign-flip p decided.")


@pytest.mark.parametrize("levels", [(500, 1000, 2000), (2, 8, 64, 128), (0.1, 0.2, 0.3), tuple(range(1, 9))])
@pytest.mark.parametrize("scale", ["linear", "log2"])
def test_a_difference_that_levels_do_not_change_has_a_slope_of_exactly_zero(levels, scale):
    generator = np.random.default_rng(0)
    from_arm = {name: generator.uniform(50, 90, 5) for name in ("batch", "group")}
    rows = [
        {"norm": name, "x": x, "seed": seed, "status": "done", "accuracy": accuracy}
        for name, accuracies in from_arm.items()
        for x in levels
        for seed, accuracy in enumerate(accuracies)
    ]
    row = {"kind": "trend", "along": "x", "direction": "up", "a": norm("batch"), "b": norm("group"), "scale": scale}
    (found,) = verdicts(claims(row), pd.DataFrame(rows))
    assert (found.low, found.high, found.verdict, found.p) == (0.0, 0.0, "undecided", 1.0)


def test_levels_that_change_nothing_have_a_slope_of_exactly_zero():
    rows = [
        {"depth": depth, "seed": seed, "status": "done", "accuracy": accuracy}
        for depth in (2, 4, 8, 16, 32, 64)
        for seed, accuracy in enumerate(np.random.default_rng(0).uniform(50, 90, 20).round(2))
    ]
    (found,) = verdicts(claims({"kind": "trend", "along": "depth", "direction": "up"}), pd.DataFrame(rows))
    assert (found.low, found.high, found.verdict, found.p) == (0.0, 0.0, "undecided", 1.0)


def test_one_constant_difference_over_few_seeds_is_not_certainty():
    table = study(3, sd=0.0, batch=80.5)
    found = judge(HIGHER, table)
    assert (found.verdict, found.p, found.low) == ("undecided", 0.25, found.high)
    assert "same value" in found.sentence
    assert judge(HIGHER, study(6, sd=0.0, batch=80.5)).verdict == "supported"
