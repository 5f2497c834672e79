"""Published figures beside ours: the tests against scipy and statsmodels, what can be told and what cannot, and the screen."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from report_support import definition, result, write_store
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW
from study_support import TINY, allelse, changed, mistake, run, write_study

from allelse import store
from allelse.api import Results
from allelse.records import METRICS
from allelse.stats import compare
from allelse.stats.comparisons import prediction, welch

RELU, SIGMOID = {"act": "relu"}, {"act": "sigmoid"}
OURS = np.array([80.0, 80.4, 80.2, 80.9, 80.0])


def table(relu=OURS, sigmoid=OURS - 10, status="done"):
    return pd.DataFrame(
        [
            {"act": arm["act"], "seed": seed, "status": status, "accuracy": value}
            for arm, values in ((RELU, relu), (SIGMOID, sigmoid))
            for seed, value in enumerate(values)
        ]
    )


def reference(accuracy=80.0, arm=RELU, **known):
    return {"source": "a paper", "arm": arm, "accuracy": accuracy, **known}


def compared(*references, runs=None, **options):
    return compare(references, [RELU, SIGMOID], table() if runs is None else runs, **options)


# ── the numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("n1", "n2", "sd2"), [(5, 5, 0.3), (2, 30, 4.0), (40, 3, 0.01), (5, 2, 0.0)])
def test_welch_from_summaries_is_scipys_and_statsmodels(n1, n2, sd2):
    generator = np.random.default_rng(n1)
    raw = [generator.normal(80, 1.0, n1), 79.5 + sd2 * generator.normal(size=n2)]
    summary = [number for x in raw for number in (x.mean(), x.std(ddof=1), len(x))]
    low, high, p = welch(*summary, level=0.9)
    assert p == pytest.approx(stats.ttest_ind_from_stats(*summary, equal_var=False).pvalue)
    both = CompareMeans(DescrStatsW(raw[0]), DescrStatsW(raw[1]))
    assert (low, high) == pytest.approx(both.tconfint_diff(alpha=0.1, usevar="unequal"))


@pytest.mark.parametrize("runs", [1, 4])
def test_the_prediction_interval_is_that_of_a_regression_on_a_constant(runs):
    fitted = sm.OLS(OURS, np.ones((5, 1))).fit()
    expected = fitted.get_prediction([[1.0]], weights=np.array([runs])).conf_int(obs=True, alpha=0.05)[0]
    assert prediction(OURS.mean(), OURS.std(ddof=1), 5, runs) == pytest.approx(tuple(expected))


def test_holm_is_over_the_references_that_can_be_tested_a_lost_seed_counting_as_p_1():
    lost = table()
    lost.loc[9, ["status", "accuracy"]] = ["diverged", np.nan]
    found = compared(
        reference(79.6, sd=0.3, n=5),
        reference(79.9),
        reference(79.0, sd=0.5, n=5),
        reference(70.0, SIGMOID, sd=0.3, n=5),
        runs=lost,
    )
    raw = [
        stats.ttest_ind_from_stats(OURS.mean(), OURS.std(ddof=1), 5, mean, sd, 5, equal_var=False).pvalue
        for mean, sd in ((79.6, 0.3), (79.0, 0.5))
    ]
    adjusted = multipletests([*raw, 1.0], method="holm")[1]
    assert [found[0].p, found[2].p] == pytest.approx(raw)
    assert [found[0].p_adjusted, found[2].p_adjusted] == pytest.approx(list(adjusted[:2]))
    assert [found[1].p_adjusted, found[3].p_adjusted] == [None, None]


# ── what is told ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("theirs", [80.1, 80.5])
def test_agrees_within_the_farther_end_of_the_interval(theirs):
    [one] = compared(reference(theirs, sd=0.4, n=6))
    assert (one.verdict, one.reason) == ("agrees", None)
    assert one.low < 0 < one.high
    assert one.within == max(-one.low, one.high)
    assert one.words == f"agrees within {one.within:.2f}"
    assert one.difference == pytest.approx(OURS.mean() - theirs)


def test_differs_and_what_only_seems_to_before_correction():
    clearly = reference(75.0, sd=0.4, n=6)
    barely = reference(79.75, sd=0.3, n=5)
    assert [one.verdict for one in compared(clearly, barely)] == ["differs", "differs"]
    found = compared(barely, *[reference(80.3, sd=0.4, n=6)] * 4)
    assert found[0].high > found[0].low > 0
    assert found[0].verdict == "cannot tell"
    assert found[0].reason.startswith(
        "the interval alone would say that they differ, but not after correction over 5 references (adjusted p = 0."
    )


def test_the_level_of_the_interval_is_the_studys():
    [one] = compared(reference(80.1, sd=0.4, n=6), alpha=0.2)
    assert one.level == 0.8
    assert (one.low, one.high) == pytest.approx(welch(OURS.mean(), OURS.std(ddof=1), 5, 80.1, 0.4, 6, 0.8)[:2])


@pytest.mark.parametrize(
    ("known", "reason", "runs"),
    [({}, "their n is not given", 1), ({"n": 1}, "theirs is one run", 1), ({"n": 3}, "their sd is not given", 3)],
)
def test_without_their_spread_nothing_is_tested_and_the_prediction_interval_is_an_aid(known, reason, runs):
    inside, outside = compared(reference(80.5, **known), reference(85.0, **known))
    for one in (inside, outside):
        assert (one.verdict, one.reason, one.p, one.low, one.p_adjusted) == ("cannot tell", reason, None, None, None)
        expected = prediction(OURS.mean(), OURS.std(ddof=1), 5, runs)
        assert (one.prediction_low, one.prediction_high) == pytest.approx(expected)
    assert (inside.is_expected, outside.is_expected) == (True, False)
    assert outside.difference == pytest.approx(OURS.mean() - 85.0)


@pytest.mark.parametrize(
    ("runs", "reason", "n"),
    [
        (table().iloc[:0], "no run is planned yet", 0),
        (table(OURS[:1], OURS[:1]), "ours is one seed, which has no spread", 1),
        (table().assign(status="pending", accuracy=np.nan), "of ours, 5 of 5 seeds are pending", 0),
        (table(np.array([*OURS[:4], np.inf])), "of ours, 1 of 5 seeds diverged", 4),
        (table(np.full(5, 80.0)), "neither side varies over its seeds", 5),
        (table().rename(columns={"accuracy": "loss"}), "no finished run of ours has the metric 'accuracy'", 0),
    ],
)
def test_what_ours_lacks_is_said_and_never_tested(runs, reason, n):
    [one] = compared(reference(80.0, sd=0.0, n=5), runs=runs)
    assert (one.verdict, one.reason, one.ours.n) == ("cannot tell", reason, n)
    assert (one.p, one.p_adjusted, one.low, one.prediction_low) == (None, None, None, None)


def test_a_reference_stands_beside_every_arm_it_speaks_of_and_says_where_there_is_none():
    found = compared(reference(80.0, {}), reference(80.0, {"act": "tanh"}))
    assert [one.arm for one in found] == [RELU, SIGMOID, {"act": "tanh"}]
    assert (found[2].reason, found[2].ours.n, found[2].difference) == ("this run has no such arm", 0, None)


def test_levels_are_one_as_claims_see_them():
    arms = [{"bias": True}, {"bias": False}]
    runs = pd.DataFrame([{**arm, "seed": 0, "status": "done", "accuracy": 50.0} for arm in arms])
    assert [one.arm for one in compare([reference(arm={"bias": True})], arms, runs)] == [{"bias": True}]
    assert [one.reason for one in compare([reference(arm={"bias": 1})], arms, runs)] == ["this run has no such arm"]


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────

LEVELS = {"model.activation": "relu", "model.depth": 4}
REFERENCES = [
    {"source": "A. Paper, table 3", "arm": LEVELS, "accuracy": 80.9, "sd": 0.4, "n": 5, "note": "with dropout"},
    {"source": "A. Paper, table 3", "arm": {**LEVELS, "model.depth": 2}, "accuracy": 75.0, "sd": 0.4, "n": 3},
    {"source": "a page", "arm": {"model.activation": "sigmoid"}, "accuracy": 70.0},
    {"source": "a page", "arm": LEVELS, "accuracy": 83.0, "n": 1, "metric": "accuracy_recalibrated"},
]


def one_diverged(spec, accuracy):
    lost = spec.arm == {"model.activation": "sigmoid", "model.depth": 4} and spec.seed == 1
    return result(spec, accuracy, **({"status": "diverged", "error": "the loss is nan"} if lost else {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    described = definition(references=REFERENCES, command="allelse run x --set epochs=2 --set 'model.depth=[1, 2, 4]'")
    return write_store(tmp_path_factory.mktemp("published"), described, one_diverged)


def test_the_screen_shows_both_sides_with_difference_verdict_and_reasons(folder):
    ended = allelse("compare", folder)
    assert (ended.code, ended.err) == (0, "")
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert max(map(len, ended.out.splitlines())) <= 80
    assert lines[2] == "ours beside A. Paper, table 3"
    [first] = [line for line in lines if line.startswith("relu, depth 4 80.90 ± 0.40 80.90 ± 0.23 ")]
    assert first.endswith(", p = 1.000 agrees")
    assert any(line.startswith("relu, depth 2 75.00 ± 0.40") and line.endswith("differs") for line in lines)
    text = " ".join(lines)
    assert "1 diverged" in text
    assert "inside PI" in text
    assert "Cannot tell: their n is not given; of ours, 1 of 5 seeds diverged (sigmoid, depth 4)." in text
    assert "Note on relu, depth 4 by A. Paper, table 3: with dropout" in text
    assert "This run was changed by epochs=2: the published figures belong to the study file's own recipe." in text
    assert f"accuracy_recalibrated: {METRICS['accuracy_recalibrated']}." in text


def test_json_csv_and_python_hold_the_same_rows(folder):
    rows = json.loads(allelse("compare", folder, "--format", "json").out)
    assert [row["verdict"] for row in rows] == ["agrees", "differs", *["cannot tell"] * 4]
    assert rows[0]["arm"] == LEVELS
    assert [rows[0][f"theirs_{key}"] for key in ("mean", "sd", "n")] == [80.9, 0.4, 5]
    assert (rows[4]["diverged"], rows[4]["ours_n"]) == (1, 4)
    listed = list(csv.DictReader(io.StringIO(allelse("compare", folder, "--format", "csv").out)))
    assert [float(row["difference"]) for row in listed] == pytest.approx([row["difference"] for row in rows])
    assert listed[0]["arm"] == "model.activation = relu, model.depth = 4"
    frame = Results(folder).comparisons()
    assert list(frame["verdict"]) == [row["verdict"] for row in rows]
    assert set(frame.columns) == set(rows[0]) == set(listed[0])


def test_results_show_the_published_figure_of_the_metric_asked_for(folder):
    plain = allelse("results", folder).out
    assert "80.9" in plain
    assert "83.0" not in plain
    recalibrated = allelse("results", folder, "--metric", "accuracy_recalibrated").out
    assert "83.0" in recalibrated
    assert "75.0 " not in recalibrated


def test_a_quick_study_is_not_compared(tmp_path):
    out = write_store(tmp_path, definition(references=REFERENCES, quick=True))
    text = " ".join(allelse("compare", out).out.split())
    assert "This is a quick study" in text
    assert "80.90" not in text
    rows = json.loads(allelse("compare", out, "--format", "json").out)
    assert {(row["verdict"], row["difference"], row["p"]) for row in rows} == {("cannot tell", None, None)}
    assert rows[0]["reason"].startswith("a quick study has another recipe")


def test_long_names_do_not_make_the_screen_wider(tmp_path):
    long = "a level with a long name " * 4
    described = definition(
        factors={"model.activation": [long, "relu"]},
        claims=[],
        references=[{"source": "S" * 200, "arm": {"model.activation": long}, "accuracy": 70.0, "sd": 1.0, "n": 3}],
    )
    ended = allelse("compare", write_store(tmp_path, described))
    assert max(map(len, ended.out.splitlines())) <= 80


def test_a_folder_without_references_or_without_a_study_is_one_line(tmp_path):
    out = write_store(tmp_path / "out")
    assert mistake("compare", out).startswith(f"{out}: its study names no published figures; add [[references]] with ")
    assert mistake("compare", tmp_path).startswith(f"{tmp_path}: no study was run there")
    assert mistake("compare", out, "--format", "xml") == "--format xml: allowed: table, csv, json"


def test_a_study_of_which_nothing_is_planned_or_finished_is_no_failure(tmp_path):
    with store.write(tmp_path / "none", definition(references=REFERENCES)):
        pass
    assert "no run is planned yet" in allelse("compare", tmp_path / "none").out
    pending = write_store(tmp_path / "pending", definition(references=REFERENCES), lambda *_: None)
    assert "5 of 5 seeds are pending" in " ".join(allelse("compare", pending).out.split())


def test_published_figures_may_be_mended_and_finished_runs_are_kept(tmp_path):
    file, out = write_study(tmp_path), tmp_path / "out"
    run(file, out)
    runs = allelse("results", out, "--runs", "--timing", "--format", "json").raw
    write_study(tmp_path, changed("accuracy = 50.0", "accuracy = 51.5\nsd = 0.5\nn = 3"))
    run(file, out)
    assert allelse("results", out, "--runs", "--timing", "--format", "json").raw == runs
    [row] = json.loads(allelse("compare", out, "--format", "json").out)
    assert [row["theirs_mean"], row["theirs_sd"], row["theirs_n"]] == [51.5, 0.5, 3]
    assert "metric" not in json.dumps(definition_of(out)["references"]), "defaults are left out, so that old folders go on"
    write_study(tmp_path, changed("epochs          = 2", "epochs = 3", TINY))
    assert "results never mix" in mistake("run", file, "--out", out)


def definition_of(out):
    with store.read(out) as opened:
        return opened.definition
