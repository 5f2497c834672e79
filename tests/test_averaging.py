"""Averages of weights against torch's AveragedModel and update_bn; they are what is evaluated, and disturb no training."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_support import CPU, SEEDS, pack_of, tiny_recipe, toy_dataset, trained
from plain_networks import (
    assert_same_state,
    epoch_batches,
    load_replica,
    plain_network,
    plain_optimizer,
    slow_batch,
    train_plain,
)
from pydantic import ValidationError
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from allelse import recipe
from allelse.engine import loop, train_pack
from allelse.engine.averaging import Averaged
from allelse.engine.draws import draw_epoch
from allelse.models import Network, build_network
from allelse.recipe.work import FORWARD_SHARE
from allelse.records import METRICS

AVERAGING = {
    "ema": {"name": "ema", "decay": 0.8},
    "ema from the third epoch": {"name": "ema", "decay": 0.8, "start_epoch": 3},
    "swa": {"name": "swa", "start_epoch": 1},
    "swa from the second epoch": {"name": "swa", "start_epoch": 2},
}


def values_of(averaging, **changes):
    return tiny_recipe(**{"epochs": 4, "averaging": averaging, "augment": ["flip"], **changes})


def torchs_average(values: recipe.Recipe, dataset, plain, seed: int) -> AveragedModel:
    """``plain``, which is trained here, averaged as torch's documentation shows."""
    averaging, optimizer = values.averaging, plain_optimizer(plain, values.optimizer, values.optimizer.lr)
    if averaging.name == "ema":
        averaged = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(averaging.decay), use_buffers=True)
    else:
        averaged = AveragedModel(plain)
    for epoch in range(1, values.epochs + 1):
        for number, batch in enumerate(epoch_batches(values, dataset, seed, epoch - 1)):
            if averaging.name == "ema" and epoch == averaging.start_epoch and number == 0:
                averaged.update_parameters(plain)
            train_plain(plain, optimizer, [batch])
            if averaging.name == "ema" and epoch >= averaging.start_epoch:
                averaged.update_parameters(plain)
        if averaging.name == "swa" and epoch >= averaging.start_epoch:
            averaged.update_parameters(plain)
    if averaging.name == "swa":
        everything = np.arange(len(dataset.train_images))  # augmented as the next epoch would show it
        draws = draw_epoch(seed, values.epochs, everything, len(everything), dataset.train_images.shape[1:3], values)
        update_bn([slow_batch(dataset.train_images, everything, draws)], averaged)
    return averaged.eval()


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("averaging", AVERAGING)
def test_averages_are_those_of_torch_and_are_what_is_evaluated(averaging, norm):
    dataset = toy_dataset(test=30)
    plain_values = values_of(AVERAGING[averaging], model={"norm": norm}, optimizer={"name": "sgd", "lr": 0.3})
    values = recipe.Recipe.model_validate(plain_values)
    start, end = (trained(pack_of(plain_values), dataset, epochs) for epochs in (0, None))
    results = end.results()
    for replica, seed in enumerate(SEEDS):
        plain = load_replica(plain_network(values.model), start.network, replica)
        averaged = torchs_average(values, dataset, plain, seed)
        assert_same_state(plain, end.network, replica, say="trained")
        assert_same_state(averaged.module, end.averaged.network, replica, say="averaged")
        metrics = results[replica].metrics
        x, labels = slow_batch(dataset.test_images, range(30), by=dataset.train_images), torch.from_numpy(dataset.test_labels)
        for network, names in (
            (averaged, ("test_{}", "{}_running", "{}_recalibrated") if values.averaging.name == "swa" else ("test_{}",)),
            (plain.eval(), ("{}_raw",)),
        ):
            logits = network(x)
            for name in names:
                assert metrics[name.format("loss")] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-8)
                accuracy = 100 * (logits.argmax(1) == labels).double().mean().item()
                assert metrics[name.format("accuracy")] == pytest.approx(accuracy)
        assert metrics["accuracy"] == metrics["test_accuracy"] == metrics["accuracy_running"]
        assert metrics["test_loss"] != metrics["loss_raw"]
        assert set(metrics) <= set(METRICS)
        raw = [epoch for epoch, scores in enumerate(results[replica].epochs, 1) if "loss_raw" in scores]
        assert raw == list(range(values.averaging.start_epoch, 5))


@pytest.mark.parametrize("averaging", AVERAGING)
def test_averaging_does_not_disturb_the_training(averaging):
    dataset = toy_dataset(test=30)
    given = {"precision": "fp32", "validation_per_class": 1}
    pack, averaged_pack = (pack_of(values_of(asked, **given)) for asked in (None, AVERAGING[averaging]))
    alone, averaged = trained(pack, dataset), trained(averaged_pack, dataset)
    for name, value in alone.network.state_dict().items():
        assert torch.equal(averaged.network.state_dict()[name], value), name
    for ours, theirs in zip(averaged.history, alone.history, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one["train_loss"] == other["train_loss"]
            assert one.get("loss_raw", one["test_loss"]) == other["test_loss"]
            assert one.get("accuracy_raw", one["test_accuracy"]) == other["test_accuracy"]
            has_begun = "loss_raw" in one
            assert (one["test_loss"] != other["test_loss"]) == has_begun or "swa" in averaging
            assert (one["validation_loss"] != other["validation_loss"]) == has_begun or "swa" in averaging
    assert "loss_raw" not in alone.history[0][-1]


def test_an_average_without_memory_is_the_trained_network_to_the_bit():
    training = trained(pack_of(values_of({"name": "ema", "decay": 0.0}, precision="fp32")), toy_dataset())
    for name, value in training.network.state_dict().items():
        assert torch.equal(training.averaged.network.state_dict()[name], value), name
    last = training.history[0][-1]
    assert last["test_loss"] == last["loss_raw"]


@pytest.mark.parametrize("averaging", AVERAGING)
def test_each_replica_of_a_pack_is_averaged_as_alone(averaging):
    dataset, values = toy_dataset(), values_of(AVERAGING[averaging])
    together = trained(pack_of(values), dataset)
    for replica, seed in enumerate(SEEDS):
        alone = trained(pack_of(values, (seed,)), dataset)
        for name, value in alone.averaged.network.state_dict().items():
            ours = together.averaged.network.state_dict()[name][replica]
            torch.testing.assert_close(ours, value[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("epochs_done", [1, 2, 3])
@pytest.mark.parametrize("averaging", AVERAGING)
def test_killed_and_resumed_equals_never_killed(averaging, epochs_done, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    dataset = toy_dataset()
    pack = pack_of(values_of(AVERAGING[averaging], precision="fp32", augment=["mixup", "cutmix"], optimizer="adam"))
    first = loop.Training(pack, dataset, CPU)
    for _ in range(epochs_done):
        first.run_epoch(lambda progress: None)
    first.save(tmp_path / "c")
    second = loop.Training(pack, dataset, CPU)
    second.resume(tmp_path / "c")
    assert second.epoch == epochs_done
    for name, value in first.averaged.network.state_dict().items():
        assert torch.equal(second.averaged.network.state_dict()[name], value), name
    resumed, whole = train_pack(pack, dataset, CPU, tmp_path / "c"), train_pack(pack, dataset, CPU)
    for ours, theirs in zip(resumed, whole, strict=True):
        for kept in ("metrics", "epochs", "fingerprints", "probes"):
            assert json.dumps(getattr(ours, kept)) == json.dumps(getattr(theirs, kept)), kept


def test_the_checkpoint_of_a_training_without_averages_does_not_fit(tmp_path):
    dataset, pack = toy_dataset(), pack_of(values_of({"name": "ema"}))
    training = loop.Training(pack, dataset, CPU)
    training.averaged, averaged = None, training.averaged
    training.save(tmp_path / "c")
    training.averaged = averaged
    training.epoch = 1
    training.resume(tmp_path / "c")
    assert training.epoch == 1, "passed over"


def test_buffers_that_are_no_numbers_to_average_are_copied():
    networks = [build_network(recipe.ConvNet(width=4, depth=1), (6, 6, 2), 3, 2) for _ in range(2)]
    for network in networks:
        network.register_buffer("steps", torch.zeros(2, dtype=torch.int64))
    averaged = Averaged(*networks, recipe.EMA(decay=0.9))
    averaged.begin_epoch(1)
    networks[0].steps += 3
    networks[0].blocks[0].norm.running_mean += 1
    averaged.end_step()
    assert networks[1].steps.tolist() == [3, 3]
    assert networks[1].blocks[0].norm.running_mean.unique().tolist() == pytest.approx([0.1])


@pytest.mark.parametrize(
    ("averaging", "said"),
    [
        ({"name": "ema", "decay": 1.0}, "less than 1"),
        ({"name": "ema", "start_epoch": 0}, "greater than or equal to 1"),
        ({"name": "swa"}, "required"),
        ("sma", "ema"),
        ({"name": "swa", "start_epoch": 2, "decay": 0.9}, "unknown key"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_what_is_allowed(averaging, said):
    with pytest.raises(ValidationError) as caught:
        recipe.Recipe.model_validate({"dataset": "digits", "averaging": averaging})
    assert said in str(caught.value)


@pytest.mark.parametrize("norm", ["none", "batch", {"name": "batch", "evaluate": "recalibrated"}])
@pytest.mark.parametrize("averaging", AVERAGING)
def test_as_many_images_are_evaluated_as_a_plan_reckons_with(averaging, norm, monkeypatch):
    training = loop.Training(pack_of(values_of(AVERAGING[averaging], model={"norm": norm})), toy_dataset(), CPU)
    seen = []
    forward = Network.forward
    monkeypatch.setattr(Network, "forward", lambda self, x: (self.training or seen.append(len(x)), forward(self, x))[1])
    for _ in range(4):
        training.run_epoch(lambda progress: None)
    reckoned = recipe.Work(training.recipe, len(training.train_index), 0, len(training.test_index)).evaluations(4)
    assert sum(seen) == pytest.approx(reckoned / FORWARD_SHARE)
