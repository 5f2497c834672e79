"""Tuning: a number chosen per arm on the validation split before the comparison: told, resumable, blind to the test split."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from data_support import random_images
from study_support import Quiet, allelse, changed, run, write_study
from tuning_support import TUNED, pack_all_seeds, trained

import allelse as package
from allelse import launch, store, study
from allelse.errors import StudyError
from allelse.records import RunResult
from allelse.report import gather
from allelse.report.sameness import differing_keys, shared_keys
from allelse.store import StoredRun
from allelse.tuning import Tuning, blinded, choose

IMAGES = 2 * 3 * 2 * 100
"""2 arms × 3 values × 2 seeds, one epoch of 100 images"""


@pytest.fixture
def load(tmp_path):
    return lambda text=TUNED, **options: study.load(write_study(tmp_path, text), **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("tuned"))


# ── the choice ──────────────────────────────────────────────────────────────────────────────────────────────────────


def tried(norm, value, scores, size=2, status="done"):
    """Tuning runs of one arm with one value; ``scores`` are (accuracy, loss) on the validation split, one a seed."""
    return [
        StoredRun(
            id=f"{norm}{size}{value}{seed}",
            arm={"norm": norm, "size": size, "optimizer.lr": value},
            seed=seed,
            status=status,
            result=RunResult(
                run="r",
                status=status,
                metrics={"validation_accuracy": accuracy, "validation_loss": loss} if status == "done" else {},
                epochs=[{}, {}],
                timing={"images_per_second": 50.0, "train": 2.0},
            ),
        )
        for seed, (accuracy, loss) in enumerate(scores)
    ]


def chosen(*runs, metric="validation_accuracy", per=("norm", "size")) -> Tuning:
    tune = {"key": "optimizer.lr", "metric": metric, "per": list(per)}
    return choose(tune, [run for group in runs for run in group])


def test_the_best_mean_over_seeds_is_chosen_for_each_arm_with_its_cost():
    tuning = chosen(
        tried("batch", 0.1, [(80, 1.0), (70, 1.0)]),
        tried("batch", 0.01, [(76, 1.0), (75, 1.0)]),
        tried("batch", 1.0, [(90, 1.0), (50, 1.0)]),
        tried("group", 0.1, [(60, 1.0), (60, 1.0)]),
        tried("group", 0.01, [(50, 1.0), (50, 1.0)]),
        tried("group", 1.0, [(61, 1.0), (61, 1.0)]),
    )
    assert [(dict(each.levels), each.value, each.at_edge) for each in tuning.choices] == [
        ({"norm": "batch", "size": 2}, 0.01, "lowest"),
        ({"norm": "group", "size": 2}, 1.0, "highest"),
    ]
    assert [(one.value, one.mean, one.n) for one in tuning.choices[0].tried] == [
        (0.01, 75.5, 2),
        (0.1, 75.0, 2),
        (1.0, 70.0, 2),
    ]
    assert (tuning.runs, tuning.seeds, tuning.epochs, tuning.images) == (12, 2, 2, 1200)
    assert tuning.choice_for({"norm": "group", "size": 2, "other": 1}).value == 1.0
    assert Tuning.from_json(json.loads(json.dumps(tuning.to_json()))) == tuning


def test_a_value_between_others_has_no_warning_and_one_at_the_edge_has():
    middle = chosen(*(tried("batch", value, [(score, 1.0)]) for value, score in ((0.1, 50), (0.2, 60), (0.3, 55))))
    assert (middle.choices[0].value, middle.warnings()) == (0.2, [])
    (warning,) = chosen(*(tried("batch", value, [(score, 1.0)]) for value, score in ((0.1, 50), (0.2, 60)))).warnings()
    assert warning.startswith("optimizer.lr = 0.2 for norm = batch, size = 2 is the highest value tried: ")


def test_equal_accuracies_are_told_apart_by_the_loss_and_then_the_lower_value_is_taken():
    runs = [tried("batch", value, [(50, loss)]) for value, loss in ((0.3, 1.0), (0.2, 0.5), (0.1, 0.5))]
    assert chosen(*runs).choices[0].value == 0.1
    runs = [tried("batch", value, [(50, loss)]) for value, loss in ((0.3, 0.4), (0.2, 0.5), (0.1, 0.5))]
    assert chosen(*runs).choices[0].value == 0.3
    assert "last epoch chose, and the loss where that was equal, and the test " in chosen(*runs).budget()
    assert "last epoch chose, and the test " in chosen(*runs, metric="validation_loss").budget()
    assert "last epoch chose, and the test " in chosen(*runs[1:], tried("batch", 0.4, [(60, 1.0)])).budget()


def test_the_lowest_loss_is_chosen_where_the_loss_is_the_metric():
    runs = [
        tried("batch", value, [(accuracy, loss)]) for value, accuracy, loss in ((0.1, 90, 0.9), (0.2, 50, 0.2), (0.3, 60, 0.4))
    ]
    assert chosen(*runs, metric="validation_loss").choices[0].value == 0.2
    assert chosen(*runs).choices[0].value == 0.1


def test_arms_that_share_a_choice_take_the_best_mean_over_all_their_runs():
    runs = [
        tried("batch", 0.1, [(80, 1.0)], size=2), tried("batch", 0.2, [(70, 1.0)], size=2),
        tried("batch", 0.1, [(40, 1.0)], size=8), tried("batch", 0.2, [(60, 1.0)], size=8),
    ]  # fmt: skip
    assert [each.value for each in chosen(*runs).choices] == [0.1, 0.2]
    for per in (["norm"], []):
        (shared,) = chosen(*runs, per=per).choices
        assert (shared.value, [one.mean for one in shared.tried]) == (0.2, [60.0, 65.0])


def test_a_value_of_which_a_run_diverged_is_not_chosen():
    runs = [
        tried("batch", 0.1, [(50, 1.0)] * 2),
        tried("batch", 1.0, [(90, 1.0)]),
        tried("batch", 1.0, [(0, 0)], status="diverged"),
    ]
    tuning = chosen(*runs)
    assert (tuning.choices[0].value, [one.diverged for one in tuning.choices[0].tried]) == (0.1, [0, 1])
    assert "1 diverged" in tuning.budget()
    with pytest.raises(
        StudyError, match=r"tuning optimizer.lr for norm = batch, size = 2: every value has a run that diverged"
    ):
        chosen(*runs[1:])


# ── the two parts of a study ────────────────────────────────────────────────────────────────────────────────────────


def test_the_tuning_runs_are_every_arm_with_every_value_and_share_no_seed_and_no_id_with_the_comparison(load):
    loaded = load()
    tuning = study.tuning_study(loaded)
    assert [(arm.levels["model.activation"], arm.levels["optimizer.lr"]) for arm in tuning.arms] == [
        (activation, value) for activation in ("sigmoid", "relu") for value in (0.003, 0.03, 0.3)
    ]
    assert {(arm.recipe.epochs, arm.recipe.optimizer.lr == arm.levels["optimizer.lr"]) for arm in tuning.arms} == {(1, True)}
    assert {arm.recipe.epochs for arm in loaded.arms} == {2}
    assert min(tuning.seeds) > 1_000_000_000 + 10_000, "first_seed and the number of seeds are at most that"
    assert not {run.id for run in tuning.runs()} & {run.id for run in loaded.runs()}
    other = study.tuning_study(load(changed("seeds    = 2", "seeds = 2\nfirst_seed = 7", TUNED)))
    assert not set(tuning.seeds) & set(other.seeds)


def test_the_comparison_has_the_chosen_number_and_nothing_else_changes(load, finished):
    loaded = load()
    with store.read(finished[1]) as opened:
        tuning = Tuning.from_json(opened.tuning)
        stored = [run.id for run in opened.runs()]
    compared = study.tuned(loaded, tuning)
    assert [run.id for run in compared.runs()] == stored
    for before, after in zip(loaded.arms, compared.arms, strict=True):
        assert after.recipe.optimizer.lr == tuning.choice_for(after.levels).value
        assert changed_lr(after) == changed_lr(before)


def changed_lr(arm) -> dict:
    values = arm.recipe.model_dump()
    values["optimizer"].pop("lr")
    return values


def test_quick_and_set_change_the_table_or_drop_it(load):
    assert load(quick=True).tune.values == (0.01, 0.02)
    assert load(quick=True).tune.epochs == 1
    assert load(changes=["tune.values=[1, 2]", "tune.epochs=3"]).tune.model_dump(include={"values", "epochs"}) == {
        "values": (1, 2),
        "epochs": 3,
    }
    assert load(changes=["tune=false", "optimizer.lr=0.5"]).arms[0].recipe.optimizer.lr == 0.5
    dropped = load(changed("[quick.tune]\nvalues = [0.01, 0.02]\n", "tune = false\n", TUNED), quick=True)
    assert dropped.tune is None
    assert "tune" not in dropped.definition()
    assert load().definition()["tune"]["per"] == ["model.activation"]


def test_epochs_of_the_tuning_runs_go_before_updates_of_the_recipe(load):
    text = changed("epochs = 2", "updates = 7", TUNED)
    tuning = study.tuning_study(load(text))
    assert {(arm.recipe.epochs, arm.recipe.updates) for arm in tuning.arms} == {(1, None)}
    whole = load(changed("seeds  = 2\nepochs = 1\n", "seeds  = 2\n", text))
    assert {arm.recipe.updates for arm in study.tuning_study(whole).arms} == {7}


def test_a_number_that_only_some_norms_have_can_be_tuned_where_all_arms_have_it(load):
    text = changed('"optimizer.lr"\nvalues = [0.3, 0.003, 0.03]', '"model.norm.momentum"\nvalues = [0.1, 1]', TUNED)
    assert {arm.recipe.model.norm.momentum for arm in study.tuning_study(load(text)).arms} == {0.1, 1.0}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("validation_per_class", "validation_per_class says which images there are to choose on; tune another number"),
        ("train_per_class", "train_per_class says which images there are to choose on; tune another number"),
        ("model.norm", "'model.norm' is no number of the recipe"),
    ],
)
def test_what_cannot_be_tuned_is_refused_and_only_numbers_are_offered(load, key, said):
    with pytest.raises(StudyError, match=said) as caught:
        load(changed('"optimizer.lr"\nvalues = [0.3, 0.003, 0.03]', f'"{key}"\nvalues = [1, 2]', TUNED))
    offered = str(caught.value).partition("allowed: ")[2].split(", ")
    assert not {"averaging", "model.stem", "updates", "image_size", "validation_per_class"} & set(offered)


# ── from the command to the report ──────────────────────────────────────────────────────────────────────────────────


def test_choice_and_budget_are_stored_and_shown_everywhere(finished):
    out = finished[1]
    with store.read(out) as opened:
        tuning = Tuning.from_json(opened.tuning)
        part = opened.tuning_part
        scores = {}
        for one in part.runs():
            key = (one.arm["model.activation"], one.arm["optimizer.lr"])
            scores.setdefault(key, []).append(one.result.metrics["validation_accuracy"])
    for choice in tuning.choices:
        means = {value: np.mean(values) for (arm, value), values in scores.items() if arm == choice.levels["model.activation"]}
        assert {one.value: one.mean for one in choice.tried} == pytest.approx(means)
        assert means[choice.value] == max(means.values())
    assert (tuning.runs, tuning.images) == (12, IMAGES)
    shown = ["12 tuning runs (2 seeds of their own, up to 1 epoch), 1,200 images trained", "the test split was not looked at"]
    status, results = (" ".join(allelse(command, out).out.split()) for command in ("status", "results"))
    assert allelse("report", out).code == 0
    page = (out / "report.md").read_text().replace("\\", "")
    for text in (status, results, page):
        assert all(part in text for part in shown)
        assert all(warning in text for warning in tuning.warnings())
    assert "4 runs: 4 done" in status
    assert "| sigmoid | " in page.split("Tuning: mean validation accuracy of each value of optimizer.lr")[1]


def test_a_number_that_was_tuned_differently_is_among_what_differs_between_arms(finished):
    with store.read(finished[1]) as opened:
        findings, settled = gather(opened), opened.tuning
    for value, choice in zip((0.003, 0.3), settled["choices"], strict=True):
        choice["value"] = value
    assert differing_keys(replace(findings, tuning=Tuning.from_json(settled)))["optimizer.lr"] == ["0.003", "0.3"]
    assert "optimizer.lr" not in shared_keys(replace(findings, tuning=Tuning.from_json(settled)))


def test_every_tuning_run_is_among_the_runs_with_its_purpose_and_number(finished):
    out = finished[1]
    runs = json.loads(allelse("results", out, "--runs", "--format", "json").out)
    assert [run["purpose"] for run in runs] == ["tuning"] * 12 + ["comparison"] * 4
    assert {run["optimizer.lr"] for run in runs[:12]} == {0.003, 0.03, 0.3}
    assert all(run["accuracy"] is None and "test_loss" in run for run in runs[:12])
    assert all(run["validation_accuracy"] is not None for run in runs)
    table = allelse("results", out, "--runs").out
    assert all(f"{run['run']}" in table for run in runs)
    for output in ("csv", "parquet"):
        assert allelse("results", out, "--runs", "--format", output).code == 0
    results = package.Results(out)
    assert len(results.runs()) == 4
    tried = results.tuning()
    assert tried.groupby("model.activation")["chosen"].sum().tolist() == [1, 1]
    assert tried["n"].tolist() == [2] * 6


def test_a_choice_at_the_edge_is_warned_of_while_it_runs(tmp_path):
    watcher = Quiet()
    text = changed("values = [0.3, 0.003, 0.03]", "values = [1e-6, 1e-7]", TUNED)
    launch.run_study(study.load(write_study(tmp_path, text)), tmp_path / "out", "cpu", watcher)
    warnings = [line for line in watcher.said if line.startswith("warning: optimizer.lr = 1e-0")]
    assert len(warnings) == 2
    assert "tuning optimizer.lr on validation images first, then the comparison" in watcher.said


def test_plan_tells_what_will_be_tried(finished):
    text = " ".join(allelse("plan", finished[0]).out.split())
    assert (
        "Tuned before the comparison, on validation images: optimizer.lr for each model.activation, one of 0.003, 0.03, 0.3"
        in text
    )
    assert "by validation_accuracy of the last epoch 12 more runs of 1 epoch, with 2 seeds of their own: about " in text
    assert "98 tuned " in text


# ── the test split chooses nothing ──────────────────────────────────────────────────────────────────────────────────


def test_nothing_measured_on_the_test_split_is_kept_of_a_tuning_run(finished):
    with store.read(finished[1]) as opened:
        for one in opened.tuning_part.runs():
            assert set(one.result.metrics) == {"train_accuracy", "train_loss", "validation_accuracy", "validation_loss"}
            assert {name for epoch in one.result.epochs for name in epoch} == set(one.result.metrics) | {"lr"}
        result = opened.runs()[0].result
    assert not any("test" in name for epoch in blinded(result).epochs for name in epoch)


def test_nothing_is_kept_of_the_weights_beside_an_average_either(tmp_path):
    text = changed("validation_per_class", 'averaging = { name = "ema", decay = 0.5 }\nvalidation_per_class', TUNED)
    run(write_study(tmp_path, text), tmp_path / "out")
    with store.read(tmp_path / "out") as opened:
        kept = {name for one in opened.tuning_part.runs() for epoch in one.result.epochs for name in epoch}
        whole = {name for one in opened.runs() for epoch in one.result.epochs for name in epoch}
    assert {"accuracy_raw", "loss_raw"} <= whole
    assert {name.partition("_")[0] for name in kept} == {"lr", "train", "validation"}


@pytest.mark.parametrize("options", [{"changes": ['tune.per=["model.norm"]']}, {"quick": True}])
def test_arms_share_a_choice_by_factors_that_there_are(load, options):
    text = changed("[quick.tune]\n", '[quick.tune]\nper = ["model.norm"]\n', TUNED) if options.get("quick") else TUNED
    with pytest.raises(StudyError, match=r"tune\.per: there is no factor 'model\.norm'; allowed: model\.activation"):
        load(text, **options)


def test_garbage_test_labels_leave_the_choice_as_it_is(tmp_path, monkeypatch):
    pack_all_seeds(monkeypatch)
    labels = np.arange(200) % 2
    stripes = np.where(np.arange(6) % 2, 200, 50)
    images = np.where(labels[:, None, None], stripes[:, None], stripes[None, :]) + random_images(200, (6, 6)) // 8
    images = images.astype(np.uint8)
    longer, found = ["train_per_class=50", "batch_size=5", "tune.epochs=2"], []
    for name, test_labels in (("true", labels), ("garbage", np.random.default_rng(0).permutation(labels))):
        np.savez(tmp_path / f"{name}.npz", x_train=images, y_train=labels, x_test=images, y_test=test_labels)
        run(write_study(tmp_path, TUNED), tmp_path / name, [f"dataset=npz:{tmp_path}/{name}.npz", *longer])
        with store.read(tmp_path / name) as opened:
            found.append((opened.tuning, opened.table()["accuracy"].tolist()))
    (choice, accuracy), (other_choice, other_accuracy) = found
    for each in (choice, other_choice):
        each.pop("images")  # made of times, which differ in the last digit
    assert choice == other_choice
    assert len({one["mean"] for each in choice["choices"] for one in each["tried"]}) > 1, "there was something to choose"
    assert accuracy != other_accuracy, "the labels were garbage indeed"


def test_a_whole_number_is_tuned_and_stays_one(tmp_path):
    text = TUNED.replace('key    = "optimizer.lr"\nvalues = [0.3, 0.003, 0.03]', 'key    = "model.width"\nvalues = [4, 6]')
    file = write_study(tmp_path, text.replace("values = [0.01, 0.02]", "values = [4, 8]"))
    assert run(file, tmp_path / "out").runs_by_status == {"done": 4}
    with store.read(tmp_path / "out") as opened:
        values = [choice["value"] for choice in opened.tuning["choices"]]
    assert values
    assert all(isinstance(value, int) and value in (4, 6) for value in values)
