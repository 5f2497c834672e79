"""Metrics named as in papers: last epoch, best epoch (and that it looked at the test split), median of the last five."""

from __future__ import annotations

import numpy as np
import pytest
from engine_support import CPU, pack_of, tiny_recipe, toy_dataset
from hypothesis import given
from hypothesis import strategies as st
from study_support import TINY, allelse, run, write_study

from allelse.engine import train_pack
from allelse.engine.scores import final_scores
from allelse.records import CHOSEN_ON_TEST, METRICS

LABEL = "chosen on the test split"


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_last_best_and_median_are_those_of_numpy(accuracies):
    assert final_scores([{"test_accuracy": accuracy, "lr": 0.1} for accuracy in accuracies]) == {
        "accuracy": accuracies[-1],
        "accuracy_best_epoch": np.max(accuracies),
        "accuracy_median_last_five": pytest.approx(np.median(accuracies[-5:])),
    }


def test_every_run_has_them_from_its_own_epochs():
    values = tiny_recipe(epochs=7, optimizer={"name": "sgd", "lr": 1.5})
    results = train_pack(pack_of(values), toy_dataset(train=48, test=30), CPU)
    for result in results:
        tests = [epoch["test_accuracy"] for epoch in result.epochs]
        assert result.metrics["accuracy_best_epoch"] == max(tests)
        assert result.metrics["accuracy_median_last_five"] == sorted(tests[2:])[2]
    assert any(result.metrics["accuracy_best_epoch"] > result.metrics["accuracy"] for result in results)


def test_the_best_epoch_says_wherever_it_is_shown_that_the_test_split_chose_it(tmp_path):
    best = 'id = "best"\nsays = "ReLU is best at every width"\nkind = "higher"\nfor_each = "model.width"\n'
    arms = 'a = { "model.activation" = "relu" }\nb = { "model.activation" = "sigmoid" }\nmetric = "accuracy_best_epoch"\n'
    text = f'{TINY.split("[[claims]]")[0]}"model.width" = [4, 8]\n[[claims]]\n{best}{arms}'
    run(write_study(tmp_path, text), tmp_path / "out")
    results = " ".join(allelse("results", tmp_path / "out", "--metric", "accuracy_best_epoch").out.split())
    assert f"accuracy_best_epoch: percent of the test split, best epoch, {LABEL} itself: optimistic" in results
    assert LABEL not in allelse("results", tmp_path / "out").out
    assert f"in accuracy best epoch ({LABEL}: optimistic)" in " ".join(allelse("verdicts", tmp_path / "out").out.split())
    assert allelse("report", tmp_path / "out").code == 0
    page = (tmp_path / "out" / "report.md").read_text()
    assert f"All comparisons of best in accuracy best epoch ({LABEL}: optimistic), uncorrected" in page
    median = allelse("results", tmp_path / "out", "--metric", "accuracy_median_last_five").out
    assert "median of the last five epochs" in " ".join(median.split())


def test_what_is_chosen_on_the_test_split_is_a_metric_whose_unit_says_so():
    assert all("optimistic" in METRICS[name] for name in CHOSEN_ON_TEST)
