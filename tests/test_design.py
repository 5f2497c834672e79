"""Designs: which combinations of levels are arms, which arms a claim then means, and verdicts over arms that lack a factor."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter
from scipy import stats as scipy_stats

from allelse.claims import Claim, check_claims, settings
from allelse.design import Design, condition_text, level_text, matches
from allelse.errors import StudyError
from allelse.stats import arm_table, contrasts, decidability, verdicts

LEVELS = {"norm": ["batch", "group", "instance"], "groups": [1, 4, 16], "size": [2, 8, 32]}
ARMS = [
    {"norm": norm, **groups, "size": size}
    for norm, every in (("batch", [{}]), ("group", [{"groups": number} for number in LEVELS["groups"]]), ("instance", [{}]))
    for groups in every
    for size in LEVELS["size"]
    if (norm, size) != ("instance", 2)
]
DESIGN = Design(LEVELS, ARMS)
"""groups exists only where the norm is group; instance at size 2 is excluded: 5 × 3 − 1 arms"""
BATCH, GROUP, INSTANCE = ({"norm": norm} for norm in LEVELS["norm"])


def claim(**keys):
    return TypeAdapter(Claim).validate_python({"id": "c", "says": "something", "kind": "higher", **keys})


def compared(one):
    """The pairs of arms that a claim's contrasts subtract, as sets of levels."""
    check_claims([one], DESIGN)
    return [tuple(set(arm.items()) for arm, _ in contrast.weights) for contrast in contrasts(one, DESIGN)]


def levels(**arm):
    return set(arm.items())


def test_a_full_crossing_is_the_design_of_plain_levels():
    plain = Design.of({"a": [1, 2], "b": ["x", "y"]})
    assert [tuple(arm.values()) for arm in plain.arms] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    assert Design.of(DESIGN) is DESIGN
    assert (len(ARMS), dict(DESIGN)) == (14, LEVELS)


def test_named_levels_are_had_and_shared_ones_where_the_arm_has_the_factor():
    assert DESIGN.find({"norm": "batch", "size": 8}, {"groups": 4}) == [{"norm": "batch", "size": 8}]
    assert DESIGN.find({"groups": 4.0}, {"size": 8}) == [{"norm": "group", "groups": 4, "size": 8}]
    assert DESIGN.find({"norm": "batch", "groups": 4}, {}) == DESIGN.find(INSTANCE, {"size": 2}) == []
    assert "no factor 'groups'" in DESIGN.why_none({"norm": "batch", "groups": 4}, {})
    assert DESIGN.why_none(INSTANCE, {"size": 2}) == "the study has no arm with norm = instance, size = 2"


@pytest.mark.parametrize(
    ("condition", "count"),
    [({}, 14), (BATCH, 3), ({"norm": ["batch", "instance"]}, 5), ({"groups": [1, 4], "size": 2}, 2), ({"groups": 2}, 0)],
)
def test_a_condition_takes_one_level_or_a_list_and_asks_for_the_factor(condition, count):
    assert sum(matches(condition, arm) for arm in ARMS) == count


def test_conditions_and_missing_levels_read_as_people_write_them():
    assert condition_text({"norm": ["batch", "group"], "bias": True}) == "norm = batch or group, bias = true"
    assert (level_text(None), level_text(float("nan")), level_text(4)) == ("–", "–", "4")


# ── which arms a claim means ────────────────────────────────────────────────────────────────────────────────────────


def test_an_arm_with_the_factor_is_compared_with_one_that_lacks_it():
    one = claim(a={"norm": "group", "groups": 4}, b=BATCH, where={"size": 8})
    assert compared(one) == [(levels(norm="group", groups=4, size=8), levels(norm="batch", size=8))]


@pytest.mark.parametrize("way", ["where", "for_each"])
def test_where_and_for_each_hold_for_the_arms_that_have_the_factor(way):
    asked = {"where": {"groups": 4, "size": 2}} if way == "where" else {"for_each": "groups", "where": {"size": 2}}
    expected = [4] if way == "where" else [1, 4, 16]
    assert compared(claim(a=GROUP, b=BATCH, **asked)) == [
        (levels(norm="group", groups=number, size=2), levels(norm="batch", size=2)) for number in expected
    ]


def test_a_level_of_the_factor_alone_says_which_arms_have_it():
    one = claim(kind="trend", along="groups", direction="up", where={"size": 32})
    assert compared(one) == [tuple(levels(norm="group", groups=number, size=32) for number in (1, 4, 16))]
    assert len(compared(claim(kind="stable", along="groups", margin=1, for_each="size"))) == 9
    assert len(compared(claim(kind="monotone", along="groups", direction="up", for_each="size"))) == 6


def test_a_trend_of_a_difference_runs_along_the_factor_that_one_side_lacks():
    one = claim(kind="trend", along="groups", direction="up", a=GROUP, b=BATCH, where={"size": 2})
    (contrast,) = contrasts(one, DESIGN)
    assert [dict(arm) for arm, _ in contrast.weights[1::2]] == [{"norm": "batch", "size": 2}] * 3
    assert sum(weight for _, weight in contrast.weights) == pytest.approx(0)


def test_each_combination_of_two_factors_is_compared_once_where_arms_lack_one_of_them():
    both = compared(claim(kind="stable", along="size", margin=1, for_each=["norm", "groups"], where={"size": [8, 32]}))
    assert both == [
        (levels(**arm, size=32), levels(**arm, size=8))
        for arm in (BATCH, *({**GROUP, "groups": number} for number in LEVELS["groups"]), INSTANCE)
    ]
    against = claim(a=GROUP, b=BATCH, for_each=["groups", "size"], where={"groups": [4, 1]})
    assert compared(against) == [
        (levels(norm="group", groups=number, size=size), levels(norm="batch", size=size))
        for number in (1, 4)
        for size in LEVELS["size"]
    ]


def test_the_best_is_held_against_the_arms_that_have_what_holds_for_the_whole_claim():
    one = claim(kind="best", arm=BATCH, where={"groups": 4, "size": 8})
    against = [levels(norm="group", groups=4, size=8), levels(norm="instance", size=8)]
    assert compared(one) == [(levels(norm="batch", size=8), other) for other in against]
    assert len(compared(claim(kind="best", arm=BATCH, where={"size": 8}))) == 4, "all numbers of groups without it"


def test_levels_at_which_an_arm_is_excluded_are_left_out_and_told():
    one = claim(a=BATCH, b=INSTANCE, for_each="size")
    assert [weights[0] - levels(norm="batch") for weights in compared(one)] == [levels(size=8), levels(size=32)]
    assert [setting.missing for setting in settings(one, DESIGN)] == [
        ("the study has no arm with norm = instance, size = 2",),
        (),
        (),
    ]
    along = claim(kind="stable", along="size", margin=1, where=INSTANCE)
    assert compared(along) == [(levels(norm="instance", size=32), levels(norm="instance", size=8))]


@pytest.mark.parametrize(
    ("arm", "size", "others"),
    [
        (BATCH, 8, [("group", 1), ("group", 4), ("group", 16), ("instance", None)]),
        ({"norm": "group", "groups": 4}, 8, [("batch", None), ("group", 1), ("group", 16), ("instance", None)]),
        (BATCH, 2, [("group", 1), ("group", 4), ("group", 16)]),
    ],
)
def test_the_best_is_held_against_every_other_arm_that_there_is(arm, size, others):
    found = contrasts(claim(kind="best", arm=arm, where={"size": size}), DESIGN)
    against = [contrast.weights[1][0] for contrast in found]
    assert [(other["norm"], other.get("groups")) for other in against] == others
    assert {other["size"] for other in against} == {size}


def test_the_best_of_a_factor_stays_within_what_the_claim_fixes():
    found = contrasts(claim(kind="best", arm={"groups": 4}, where={"size": 8}), DESIGN)
    assert [contrast.weights[1][0]["groups"] for contrast in found] == [1, 16]
    found = contrasts(claim(kind="best", arm=GROUP, where={"groups": 4, "size": 8}), DESIGN)
    assert [dict(contrast.weights[1][0]) for contrast in found] == [
        {"norm": "batch", "size": 8},
        {"norm": "instance", "size": 8},
    ]
    assert found[0].minus == "batch"


WRONG = {
    "an arm that lacks the factor it names": (
        claim(a=BATCH | {"groups": 4}, b=INSTANCE, where={"size": 8}),
        "nothing is left to compare: arms with norm = batch have no factor 'groups'; name arms that the study has",
    ),
    "all arms excluded": (
        claim(a=BATCH, b=INSTANCE, where={"size": 2}),
        "nothing is left to compare: the study has no arm with norm = instance, size = 2; name arms",
    ),
    "along a factor that the arm lacks": (
        claim(kind="trend", along="groups", direction="up", where=BATCH | {"size": 8}),
        "nothing is left to compare: the study has no arm with groups = 1, norm = batch",
    ),
    "along a factor that both arms lack": (
        claim(kind="trend", along="groups", direction="up", a=BATCH, b=INSTANCE, where={"size": 8}),
        "nothing is left to compare: no arm that it names has factor 'groups'",
    ),
    "where names a factor that no arm has": (
        claim(a=BATCH, b=INSTANCE, where={"size": 8, "groups": 4}),
        "where names factor 'groups', which none of its arms has; leave it out",
    ),
    "for_each names a factor that no arm has": (
        claim(a=BATCH, b=INSTANCE, where={"size": 8}, for_each="groups"),
        "for_each names factor 'groups', which none of its arms has",
    ),
    "the factor left open where it exists": (
        claim(a=GROUP, b=BATCH, where={"size": 8}),
        "a leaves factor 'groups' open; fix it with where = { \"groups\" = LEVEL }.*levels: 1, 4, 16",
    ),
    "two names for one arm": (
        claim(a={"norm": "group", "groups": 4}, b={"groups": 4}, where={"size": 8}),
        r"a and b are the same arm \(norm = group, groups = 4\)",
    ),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_claim_without_arms_is_refused_in_one_line(wrong, message):
    with pytest.raises(StudyError, match=f"^claim 'c': {message}") as caught:
        check_claims([wrong], DESIGN)
    assert "\n" not in str(caught.value)


def test_one_level_left_along_is_nothing_to_compare():
    arms = [{"norm": "batch", "size": 2}, {"norm": "batch", "size": 8}, {"norm": "instance", "size": 8}]
    design = Design({"norm": ["batch", "instance"], "size": [2, 8]}, arms)
    stable = claim(kind="stable", along="size", margin=1, for_each="norm")
    assert len(contrasts(stable, design)) == 1
    with pytest.raises(StudyError, match="nothing is left to compare: the study has no arm with size = 2, norm = instance"):
        check_claims([claim(kind="stable", along="size", margin=1, where=INSTANCE)], design)


# ── verdicts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(seeds=8, missing=None):
    """A table as the store gives it: an empty cell where the arm lacks the factor; ``missing`` gives an arm fewer seeds."""
    generator = np.random.default_rng(3)
    shared = generator.normal(size=seeds)
    rows = []
    for arm in ARMS:
        mean = {"batch": 70, "group": 75, "instance": 60}[arm["norm"]] + np.log2(arm.get("groups", 1)) - arm["size"] / 16
        for seed in range(missing or seeds) if arm["norm"] == "group" else range(seeds):
            accuracy = mean + shared[seed] + 0.5 * generator.normal()
            cells = {factor: arm.get(factor) for factor in LEVELS}
            rows.append({**cells, "seed": seed, "status": "done", "accuracy": accuracy})
    frame = pd.DataFrame(rows)
    frame["groups"] = pd.Series([row["groups"] for row in rows], dtype=object)
    return frame


def values(frame, **arm):
    for factor in LEVELS:
        frame = frame[frame[factor].isna()] if factor not in arm else frame[frame[factor] == arm[factor]]
    return frame["accuracy"].to_numpy()


@pytest.mark.parametrize("design", [DESIGN, None], ids=["design", "from the table"])
def test_a_verdict_over_an_arm_that_lacks_the_factor_is_the_paired_t_test(design):
    frame = table()
    (found,) = verdicts([claim(a={"norm": "group", "groups": 4}, b=BATCH, where={"size": 8})], frame, levels_from_factor=design)
    expected = scipy_stats.ttest_rel(values(frame, norm="group", groups=4, size=8), values(frame, norm="batch", size=8))
    assert (found.verdict, found.n) == ("supported", 8)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.sentence.startswith("norm = group, groups = 4 is ")
    assert "where size = 8" in found.sentence


def test_a_slope_over_the_levels_that_there_are_is_that_of_linregress():
    frame = table()
    trend = claim(kind="trend", along="size", direction="down", a=BATCH, b=INSTANCE)
    (found,) = verdicts([trend], frame, levels_from_factor=DESIGN)
    slopes = [
        scipy_stats.linregress([8, 32], [pair[0][seed] - pair[1][seed] for pair in pairs]).slope
        for pairs in [[(values(frame, norm="batch", size=size), values(frame, norm="instance", size=size)) for size in (8, 32)]]
        for seed in range(8)
    ]
    assert found.estimate == pytest.approx(np.mean(slopes))
    assert found.p == pytest.approx(scipy_stats.ttest_1samp(slopes, 0).pvalue)


def test_arms_with_unequal_seeds_are_compared_over_those_that_both_have():
    frame = table(seeds=8, missing=5)
    pair = claim(a={"norm": "group", "groups": 4}, b=BATCH, where={"size": 8})
    alone = claim(id="d", a=BATCH, b=INSTANCE, where={"size": 8})
    found, other = verdicts([pair, alone], frame, levels_from_factor=DESIGN)
    difference = values(frame, norm="group", groups=4, size=8) - values(frame, norm="batch", size=8)[:5]
    assert (found.n, other.n) == (5, 8)
    assert found.reason is None
    assert found.estimate == pytest.approx(difference.mean())
    assert found.p == pytest.approx(scipy_stats.ttest_1samp(difference, 0).pvalue)
    summary = arm_table(frame, list(LEVELS))
    assert summary.groupby("norm")["n"].unique().map(list).to_dict() == {"batch": [8], "group": [5], "instance": [8]}
    assert (summary["pending"] == 0).all()


def test_a_seed_lost_before_an_arms_last_one_is_still_missed():
    frame = table(seeds=8, missing=5)
    lost = frame.drop(frame.query("norm == 'group' and groups == 4 and size == 8 and seed == 2").index)
    pair = claim(a={"norm": "group", "groups": 4}, b=BATCH, where={"size": 8})
    (found,) = verdicts([pair], lost, levels_from_factor=DESIGN)
    assert "1 of 5 seeds is pending in norm = group, groups = 4, size = 8" in found.reason


def test_one_common_seed_gives_no_verdict():
    pair = claim(a={"norm": "group", "groups": 4}, b=BATCH, where={"size": 8})
    (found,) = verdicts([pair], table(seeds=8, missing=1), levels_from_factor=DESIGN)
    assert (found.verdict, found.n, found.p) == ("undecided", 1, None)
    assert found.reason == "an interval needs at least 2 seeds"


def test_the_table_of_arms_has_an_empty_cell_and_no_arm_twice():
    summary = arm_table(table(), list(LEVELS))
    assert len(summary) == len(ARMS)
    assert summary["groups"].map(type).value_counts().to_dict() == {int: 9, type(None): 5}
    assert summary.loc[summary["norm"] == "batch", "groups"].tolist() == [None] * 3


def test_power_counts_the_seeds_of_the_arms_that_a_claim_compares():
    pair = claim(a={"norm": "group", "groups": 4}, b=BATCH, where={"size": 8})
    alone = claim(id="d", a=BATCH, b=INSTANCE, where={"size": 8})
    found = decidability([pair, alone], DESIGN, lambda arm: 3 if arm["norm"] == "group" else 12)
    assert [each.text.split(" seeds")[0] for each in found] == ["c: 3", "d: 12"]
    assert [each.can_decide for each in found] == [False, True]
