"""A training's length in updates: counted exactly, the last epoch cut short, and everything else as with epochs."""

from __future__ import annotations

import json

import pytest
import torch
from engine_support import CPU, SEEDS, pack_of, tiny_recipe, toy_dataset, trained
from plain_networks import assert_same_state, epoch_batches, load_replica, plain_network, plain_optimizer, train_plain
from study_support import PLAIN, changed, write_study

from allelse import data, fit, plan, recipe, study
from allelse.engine import images_per_second, steps, train_pack
from allelse.engine.optim import learning_rates
from allelse.engine.probes import probe_steps
from allelse.errors import StudyError
from allelse.records import Way

UPDATES = changed("epochs          = 2", "updates         = 12", PLAIN)
"""100 images in batches of 20: two epochs and two steps"""


def values_of(updates: int, **changes):
    values = tiny_recipe(**changes)
    del values["epochs"]
    return recipe.Recipe.model_validate({**values, "updates": updates}).plain()


@pytest.mark.parametrize(("updates", "epochs"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 3)])
def test_so_many_steps_are_taken_and_no_more(updates, epochs):
    dataset = toy_dataset()  # three steps an epoch
    plain_values = values_of(
        updates, augment=["flip"], schedule="cosine", optimizer={"name": "sgd", "lr": 0.3, "momentum": 0.9}
    )
    values = recipe.Recipe.model_validate(plain_values)
    start, told = trained(pack_of(plain_values), dataset, 0), []
    rates = learning_rates(values.schedule, 0.3, updates / 3, 3)
    assert len(rates) == updates
    results = train_pack(pack_of(plain_values), dataset, CPU, on_progress=told.append)
    end = trained(pack_of(plain_values), dataset)
    for replica, seed in enumerate(SEEDS):
        plain = load_replica(plain_network(values.model), start.network, replica)
        optimizer = plain_optimizer(plain, values.optimizer, 0.3)
        batches = [batch for epoch in range(epochs) for batch in epoch_batches(values, dataset, seed, epoch)][:updates]
        losses = []
        for batch, rate in zip(batches, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            losses += train_plain(plain, optimizer, [batch])
        assert_same_state(plain, end.network, replica)
        history = results[replica].epochs
        assert len(history) == epochs
        last = losses[3 * (epochs - 1) :]
        assert history[-1]["train_loss"] == pytest.approx(sum(last) / len(last), rel=1e-10)
        assert [epoch["lr"] for epoch in history] == [rates[min(3 * epoch + 2, updates - 1)] for epoch in range(epochs)]
        steps_probed = {row["step"] for row in results[replica].probes if "gradient_norm" in row}
        assert steps_probed == {0, updates - 1}
        assert results[replica].metrics["accuracy"] == history[-1]["test_accuracy"]
    assert (told[-1].share, told[-1].epoch, told[-1].epochs) == (1.0, epochs, epochs)
    assert [progress.share for progress in told] == sorted(progress.share for progress in told)


def test_as_many_updates_as_epochs_have_are_the_same_to_the_bit():
    dataset = toy_dataset()
    given = {"augment": ["flip", "mixup"], "precision": "fp32", "schedule": "cosine", "averaging": {"name": "ema"}}
    by_epochs = train_pack(pack_of(tiny_recipe(epochs=3, **given)), dataset, CPU)
    by_updates = train_pack(pack_of(values_of(9, **given)), dataset, CPU)
    for ours, theirs in zip(by_updates, by_epochs, strict=True):
        for kept in ("metrics", "epochs", "fingerprints", "probes"):
            assert json.dumps(getattr(ours, kept)) == json.dumps(getattr(theirs, kept)), kept


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize("updates", [5, 18, 31])
def test_graphs_of_several_steps_end_where_the_training_does(updates, monkeypatch):
    """12 steps an epoch: more than a graph holds, and some are left over."""
    taken = []

    step = steps.Steps._step
    monkeypatch.setattr(steps.Steps, "_step", lambda self, look=None: taken.append(0) or step(self, look))
    values, dataset = values_of(updates, batch_size=2, schedule="cosine"), toy_dataset()
    pack = pack_of(values, (0,))
    found = trained(type(pack)(pack.runs, Way("grouped", graph=True)), dataset)
    assert len(taken) == updates
    expected = trained(pack, dataset)
    for name, value in expected.network.state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[name], value, rtol=1e-5, atol=1e-7)


def test_killed_and_resumed_in_the_middle_equals_never_killed(tmp_path):
    dataset, pack = toy_dataset(), pack_of(values_of(8, precision="fp32", optimizer="adam", schedule="one-cycle"))
    first = trained(pack, dataset, 2)
    first.save(tmp_path / "c")
    resumed, whole = train_pack(pack, dataset, CPU, tmp_path / "c"), train_pack(pack, dataset, CPU)
    for ours, theirs in zip(resumed, whole, strict=True):
        assert (ours.metrics, ours.epochs, ours.fingerprints) == (theirs.metrics, theirs.epochs, theirs.fingerprints)


def test_the_last_step_is_probed_wherever_it_falls():
    for epochs in (0.2, 0.5, 1, 1.1, 2.5, 3):
        probed = probe_steps(epochs, 1000)
        assert {0, round(1000 * epochs) - 1} <= probed
        assert max(probed) == round(1000 * epochs) - 1


def test_speed_is_measured_also_where_the_training_ends_within_an_epoch():
    assert images_per_second(pack_of(values_of(1)), toy_dataset(), CPU) > 0


@pytest.fixture
def load(tmp_path):
    return lambda text=UPDATES, **options: study.load(write_study(tmp_path, text), **options)


def test_a_plan_estimates_the_updates_and_the_evaluations_of_the_epochs_they_begin(load):
    made = plan.make_plan(load(), lambda arm: data.load("digits"), lambda pack: 1e6, (Way(),))
    work = 12 * 20 + (3 * 359 + 100 + 3 * 359) / 3
    assert made.packs[0].seconds == pytest.approx(work / 1e6)


def test_a_plan_counts_the_evaluations_of_averages(load):
    text = changed("updates         = 12", "updates = 12\naveraging = { name = 'swa', start_epoch = 3 }", UPDATES)
    made = plan.make_plan(load(text), lambda arm: data.load("digits"), lambda pack: 1e6, (Way(),))
    work = 12 * 20 + (3 * 359 + 100 + 3 * 359 + 359 + 100) / 3
    assert made.packs[0].seconds == pytest.approx(work / 1e6)


@pytest.mark.parametrize("length", ["updates = 12", "epochs = 3"])
def test_an_average_that_never_begins_is_refused_before_training(load, length):
    text = changed("updates         = 12", f"{length}\naveraging = {{ name = 'ema', start_epoch = 4 }}", UPDATES)
    with pytest.raises(StudyError) as caught:
        fit.check_arm(load(text).arms[0], data.load("digits"))
    assert str(caught.value) == "recipe.averaging.start_epoch: 4 comes when a training of 3 epochs is over; allowed: 1 to 3"


def test_arms_of_different_batch_sizes_take_the_same_number_of_steps(load):
    arms = load(UPDATES + "batch_size = [10, 20, 50]\n", changes=["model.activation=relu"]).arms
    assert [arm.recipe.length(100) for arm in arms] == [(12, 2), (12, 3), (12, 6)]


def test_a_length_is_given_in_one_way(load, tmp_path):
    with pytest.raises(StudyError) as caught:
        load(changed("epochs          = 2", "epochs = 2\nupdates = 12", PLAIN))
    assert str(caught.value) == (
        f"{tmp_path}/study.toml, line 10: recipe.updates: updates = 12 and epochs = 2 both say how long to train; "
        "allowed: one of the two"
    )
    with pytest.raises(StudyError, match=r"--set updates=7: would undo --set epochs=3; leave one of them out"):
        load(PLAIN, changes=["epochs=3", "updates=7"])
    with pytest.raises(StudyError, match=r"updates: 0; allowed: at least 1"):
        load(changes=["updates=0"])


def test_a_length_that_is_set_later_takes_the_place_of_the_other(load):
    by_set = load(PLAIN, changes=["updates=7"]).arms[0].recipe
    assert (by_set.updates, "epochs" in by_set.plain()) == (7, False)
    assert load(UPDATES, changes=["epochs=3"]).arms[0].recipe.updates is None
    quick = load(UPDATES + "[quick]\nepochs = 1\n", quick=True).arms[0].recipe
    assert (quick.updates, quick.epochs) == (None, 1)
    longer = '[[adjust]]\nwhere = { "model.activation" = "relu" }\nset = { updates = 9 }\n'
    assert [arm.recipe.updates for arm in load(PLAIN + longer).arms] == [None, 9]
    with pytest.raises(StudyError, match=r"sets updates and so undoes what factors\.epochs sets"):
        load(PLAIN + "epochs = [1, 2]\n" + longer)


def test_updates_stand_in_for_epochs_wherever_a_recipe_is_written():
    one = recipe.Recipe.model_validate({"dataset": "digits", "updates": 500})
    assert one.plain() == {"dataset": "digits", "updates": 500}
    dumped = one.model_dump(mode="json")
    assert "epochs" not in dumped
    assert recipe.Recipe.model_validate(json.loads(json.dumps(dumped))) == one
    assert "updates" not in recipe.Recipe.model_validate({"dataset": "digits", "epochs": 3}).plain()
