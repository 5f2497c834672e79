"""Tuning that is killed, fails or is asked for wrongly: nothing is chosen anew, and every mistake is one line."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from study_support import PLAIN, allelse, changed, mistake, run, statuses, write_study
from tuning_support import TUNED, pack_all_seeds, results_of, trained

from allelse import engine, store
from allelse.launch import orchestrator


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("tuned"))


# ── killed and gone on ──────────────────────────────────────────────────────────────────────────────────────────────


def killed_in_pack(number):
    """Kills training at the pack of this number, counted from 0 over both parts."""

    def patch(monkeypatch):
        real, count = engine.train_pack, [0]

        def train_pack(*arguments):
            count[0] += 1
            if count[0] > number:
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(engine, "train_pack", train_pack)

    return patch


def killed_while(name):
    """Kills at the call of a method of the store."""

    def patch(monkeypatch):
        def stopped(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(store.Store, name, stopped)

    return patch


def killed_before_the_comparison_is_planned(monkeypatch):
    real = orchestrator.plan_study

    def plan_study(one, *rest):
        if one.tune is not None:
            raise KeyboardInterrupt
        return real(one, *rest)

    monkeypatch.setattr(orchestrator, "plan_study", plan_study)


@pytest.mark.parametrize(
    ("kill", "left", "settled"),
    [
        (killed_in_pack(2), [], False),
        (killed_while("settle"), [], False),
        (killed_before_the_comparison_is_planned, [], True),
        (killed_in_pack(7), ["done", "done", "pending", "pending"], True),
    ],
    ids=["while it tunes", "before the choice is stored", "before the comparison", "in the comparison"],
)
def test_killed_anywhere_and_run_again_ends_as_if_never_killed(finished, tmp_path, monkeypatch, kill, left, settled):
    pack_all_seeds(monkeypatch)
    with monkeypatch.context() as patch:
        kill(patch)
        with pytest.raises(KeyboardInterrupt):
            run(finished[0], tmp_path / "out")
    assert statuses(tmp_path / "out") == left
    with store.read(tmp_path / "out") as opened:
        assert (opened.tuning is not None) == settled
    for command in ("status", "verdicts", "report"):
        assert allelse(command, tmp_path / "out").code == 0
    assert run(finished[0], tmp_path / "out").runs_by_status == {"done": 4}
    assert results_of(tmp_path / "out") == results_of(finished[1])


def test_a_stored_choice_is_kept_and_nothing_is_tuned_again(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "train_pack", lambda *_: pytest.fail("it trained again"))
    monkeypatch.setattr(orchestrator, "choose", lambda *_: pytest.fail("it chose again"))
    assert run(*finished).runs_by_status == {"done": 4}


def test_half_a_tuning_shows_how_far_it_is(finished, tmp_path, monkeypatch):
    pack_all_seeds(monkeypatch)
    with monkeypatch.context() as patch:
        killed_in_pack(2)(patch)
        with pytest.raises(KeyboardInterrupt):
            run(finished[0], tmp_path / "out")
    status = " ".join(allelse("status", tmp_path / "out").out.split())
    assert "12 tuning runs before the comparison: 4 done, 8 pending" in status
    assert "left on the device that it was planned on, and then the comparison; the same command goes on" in status
    assert "nothing is planned yet" in mistake("results", tmp_path / "out")
    assert len(json.loads(allelse("results", tmp_path / "out", "--runs", "--format", "json").out)) == 12
    assert "is tuned before the comparison: 12 runs, 4 done, 8 pending." in (
        allelse("report", tmp_path / "out") and (tmp_path / "out" / "report.md").read_text()
    )


def test_failed_tuning_runs_hold_the_comparison_back_and_are_tried_again(finished, tmp_path, monkeypatch):
    pack_all_seeds(monkeypatch)
    with monkeypatch.context() as patch:
        real = engine.train_pack

        def train_pack(pack, *rest):
            if pack.runs[0].arm.get("optimizer.lr") == 0.3:
                raise RuntimeError("out of memory")
            return real(pack, *rest)

        patch.setattr(engine, "train_pack", train_pack)
        ended = allelse("run", finished[0], "--out", tmp_path / "out", "--device", "cpu")
    assert ended.code == 1
    assert "4 runs failed" in ended.err
    assert "12 tuning runs before the comparison: 8 done, 4 failed" in ended.out
    assert statuses(tmp_path / "out") == []
    assert run(finished[0], tmp_path / "out").runs_by_status == {"done": 4}
    assert results_of(tmp_path / "out") == results_of(finished[1])


def test_tuning_runs_that_do_not_fit_in_memory_at_once_are_halved_in_their_own_plan(finished, tmp_path, monkeypatch):
    pack_all_seeds(monkeypatch)
    real = engine.train_pack

    def train_pack(pack, *rest):
        if len(pack.runs) > 1 and "optimizer.lr" in pack.runs[0].arm:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(pack, *rest)

    monkeypatch.setattr(engine, "train_pack", train_pack)
    assert run(finished[0], tmp_path / "out").runs_by_status == {"done": 4}
    with store.read(tmp_path / "out") as opened, store.read(finished[1]) as whole:
        assert [len(packed["runs"]) for packed in opened.tuning_part.plan["packs"]] == [1] * 12
        assert [packed["runs"] for packed in opened.plan["packs"]] == [packed["runs"] for packed in whole.plan["packs"]]


def test_values_that_all_diverge_are_told_in_one_line(tmp_path):
    text = changed("values = [0.3, 0.003, 0.03]", "values = [1e38, 2e38]", TUNED)
    text = changed('{ name = "adam", lr = 0.01 }', '{ name = "sgd", lr = 0.01 }', text)
    text = changed('["sigmoid", "relu"]', '["identity"]', changed('norm  = "batch"', 'norm = "none"', text))
    file = write_study(tmp_path, text.split("[[claims]]")[0])
    ended = allelse("run", file, "--out", tmp_path / "out", "--device", "cpu")
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith(
        "allelse: tuning optimizer.lr for model.activation = identity: every value has a run that diverged; give [tune] other"
    )
    status = " ".join(allelse("status", tmp_path / "out").out.split())
    assert "it cannot go on: tuning optimizer.lr for model.activation = identity: every value has a run that" in status
    assert "go on with" not in status


def test_a_folder_that_was_tuned_otherwise_is_refused(finished):
    expected = "results never mix: tune.values 1: 0.3 → 0.1"
    assert expected in mistake("run", finished[0], "--out", finished[1], "--set", "tune.values=[0.1, 0.003, 0.03]")
    assert "results never mix" in mistake("run", finished[0], "--out", finished[1], "--set", "tune=false")


# ── mistakes ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('key    = "optimizer.lr"\n', "", "line 23: tune.key: is missing; add it"),
        (
            '"optimizer.lr"',
            '"optimizer.lrr"',
            "line 24: tune.key: 'optimizer.lrr' is no number of the recipe (arm activation sigmoid); "
            "did you mean 'optimizer.lr'? allowed: ",
        ),
        ('"optimizer.lr"', '"model.norm"', "line 24: tune.key: 'model.norm' is no number of the recipe (arm activation "),
        (
            '"optimizer.lr"',
            '"epochs"',
            "line 27: tune.epochs: epochs is the number that is tuned; leave epochs out",
        ),
        ("[0.3, 0.003, 0.03]", "[0.3]", "line 25: tune.values: [0.3]; has too few entries; allowed: at least 2"),
        ("[0.3, 0.003, 0.03]", "[0.3, 0.3]", "line 25: tune.values: [0.3, 0.3]; allowed: each value once"),
        ("[0.3, 0.003, 0.03]", '["a", 1]', "line 25: tune.values.1: 'a'; allowed: a finite number"),
        ("[0.3, 0.003, 0.03]", "[true, 0.1]", "line 25: tune.values.1: true; allowed: a finite number"),
        ("[0.3, 0.003, 0.03]", "[inf, 0.1]", "line 25: tune.values.1: inf; allowed: a finite number"),
        ("[0.3, 0.003, 0.03]", "[-1, 0.1]", "line 25: tune.values: optimizer.lr: -1; allowed: more than 0"),
        ("seeds  = 2\n", "seeds  = 0\n", "line 26: tune.seeds: 0; allowed: at least 1"),
        ("epochs = 1\n\n", "epochs = 0\n\n", "line 27: tune.epochs: 0; allowed: at least 1"),
        (
            "epochs = 1\n\n",
            'metric = "accuracy"\n\n',
            "line 27: tune.metric: 'accuracy' is unknown; allowed: validation_accuracy, validation_loss",
        ),
        ("epochs = 1\n\n", 'per = ["norm"]\n\n', "line 27: tune.per: there is no factor 'norm'; "),
        ("epochs = 1\n\n", "value = 3\n\n", "line 27: tune.value: unknown key; did you mean 'values'? allowed: key, "),
        (
            "validation_per_class = 10\n",
            "",
            "line 22: tune: there are no images to choose on; set validation_per_class in [recipe], e.g. "
            "validation_per_class = 50",
        ),
        (
            '"model.activation" = ["sigmoid", "relu"]',
            '"model.activation" = ["sigmoid", "relu"]\n"optimizer.lr" = [0.1]',
            "line 25: tune.key: optimizer.lr is set by factors.optimizer.lr; tune another number, or leave it out there",
        ),
    ],
)
def test_a_mistake_is_one_line_with_place_value_and_remedy(tmp_path, monkeypatch, old, new, expected):
    monkeypatch.chdir(tmp_path)
    assert TUNED.count(old) == 1, old
    text = TUNED.replace(old, new)
    text = text if '"optimizer.lr" = [0.1]' not in text else text.split("[[claims]]")[0]
    write_study(tmp_path, text)
    assert mistake("plan", "study.toml").startswith(f"study.toml, {expected}")


@pytest.mark.parametrize(
    ("old", "new", "options", "expected"),
    [
        (
            'key    = "optimizer.lr"\nvalues = [0.3, 0.003, 0.03]',
            'key    = "batch_size"\nvalues = [10, 300]',
            (),
            "study.toml, line 25: tune.values: batch_size: 300 is larger than the training data of 100 images; "
            "allowed: 1 to 100 (arm activation sigmoid, batch_size 300)",
        ),
        (
            "[quick]\n",
            '[quick]\n"optimizer.lr" = 0.5\n',
            ("--quick",),
            "study.toml, line 37: quick.optimizer.lr: [tune] chooses optimizer.lr, so this changes nothing; "
            "leave it out, or add tune = false",
        ),
        (
            "epochs = 2",
            'epochs = 2\nschedule = { name = "step", milestones = [1], factor = 0.5 }',
            ("--set", "tune.epochs=1"),
            "study.toml, line 11: recipe.schedule.milestones: 1 comes when a training of 1 epoch is over; allowed: less than 1 "
            "(arm activation sigmoid, lr 0.003), in tuning runs, which [tune] epochs makes shorter",
        ),
        (
            "[[claims]]",
            "[[claims]]",
            ("--set", "batch_size=300"),
            "--set batch_size=300: batch_size: 300 is larger than the training data of 100 images; allowed: 1 to 100 (arm ",
        ),
    ],
)
def test_a_tuning_run_that_cannot_be_names_what_tunes_it(tmp_path, monkeypatch, old, new, options, expected):
    monkeypatch.chdir(tmp_path)
    text = changed(old, new, TUNED)
    write_study(tmp_path, text if "--quick" in options else text.partition("[quick]")[0])
    assert mistake("plan", "study.toml", *options).startswith(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("optimizer.lr=0.1", "[tune] chooses optimizer.lr, so this would change nothing; add --set tune=false"),
        ("tune.seeds=0", "tune.seeds: 0; allowed: at least 1"),
        ("tune.sedes=1", "tune.sedes: unknown key; did you mean 'seeds'? allowed: "),
        ("tune=3", "allowed: tune=false, so that nothing is tuned, or tune.KEY=value"),
    ],
)
def test_a_mistake_in_set_names_the_change(tmp_path, monkeypatch, change, expected):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, TUNED)
    told = mistake("plan", "study.toml", "--set", change)
    assert told.startswith(f"--set {change}: {expected}")


def test_what_is_not_tuned_cannot_be_set_and_quick_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, PLAIN)
    told = mistake("plan", "study.toml", "--set", "tune.seeds=1")
    assert told == "--set tune.seeds=1: the study has no [tune] table to change; write one into the file"
    write_study(tmp_path, changed("values = [0.01, 0.02]", "values = [0.01]", TUNED))
    told = mistake("plan", "study.toml", "--quick")
    assert told == "study.toml: quick: tune.values: [0.01]; has too few entries; allowed: at least 2"


def test_more_seeds_of_a_tuned_study_are_had_by_what_the_refusal_says(finished, tmp_path):
    file, out = finished
    told = mistake("run", file, "--seeds", 4, "--out", out)
    command, folders = re.search(r"train the others with (.*) --out OTHER, and unite them: 'allelse (.*) OTHER'", told).groups()
    assert command == "--seeds 2 --first-seed 2"
    other = tmp_path / "other"
    assert allelse("run", file, *command.split(), "--out", other).code == 0
    united = tmp_path / "united"
    shutil.copytree(out, united)
    assert allelse("merge", united, other).code == 0, folders
    assert statuses(united) == ["done"] * 8
    with store.read(united) as opened, store.read(out) as first:
        assert opened.tuning == first.tuning
    ended = allelse("run", file, "--seeds", 4, "--out", united)
    assert ended.code == 0
    assert "tuning runs" in allelse("results", united).out
