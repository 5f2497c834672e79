"""Evaluation three ways, against torch's own layers and ``torch.optim.swa_utils.update_bn``."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from engine_support import SEEDS, pack_of, tiny_recipe, toy_dataset, trained
from plain_networks import load_replica, plain_network, slow_batch

from allelse.engine.draws import draw_epoch
from allelse.engine.evaluate import batch_norms, evaluate, evaluate_three_ways, recalibrate

MODELS = {
    "convnet": {"norm": "batch", "pool": [1]},
    "without affine": {"norm": {"name": "batch", "affine": False, "momentum": 0.4}, "block": "norm-act-conv"},
    "mlp": {"family": "mlp", "block": "linear-norm-act"},
}


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset(train=1021, test=33)


@pytest.fixture(scope="module", params=MODELS)
def training(request, dataset):
    values = tiny_recipe(model=MODELS[request.param], train_per_class=335, batch_size=300, epochs=3)
    training = trained(pack_of(values), dataset)
    training.dataset = dataset
    return training


def plain_of(training, replica: int) -> torch.nn.Module:
    return load_replica(plain_network(training.recipe.model), training.network, replica).eval()


def batches_of(feed, index, replica: int):
    """The replica's own images of each evaluation batch."""
    for x, labels in feed.evaluation_batches(index, len(SEEDS), torch.float64):
        yield x.unflatten(1, (len(SEEDS), -1))[:, replica], labels[replica]


def seen(training, replica: int) -> list[torch.Tensor]:
    """The replica's own training images in the batches that statistics are recalibrated over."""
    order = training.train_index[:, replica]
    return list(slow_batch(training.dataset.train_images, order).tensor_split(-(-len(order) // 500)))


def score(logits, labels) -> tuple[float, float]:
    return F.cross_entropy(logits, labels).item(), 100 * (logits.argmax(1) == labels).double().mean().item()


def check(scores, replica, logits, labels) -> None:
    loss, accuracy = score(logits, labels)
    assert scores.loss[replica].item() == pytest.approx(loss, rel=1e-10)
    assert scores.accuracy[replica].item() == pytest.approx(accuracy)


def test_running_statistics_score_as_a_plain_network_in_eval_mode(training, dataset):
    scores = evaluate(training.network, training.test_feed, training.test_index, torch.float64)
    x = slow_batch(dataset.test_images, range(33), by=dataset.train_images)
    for replica in range(len(SEEDS)):
        check(scores, replica, plain_of(training, replica)(x), torch.from_numpy(dataset.test_labels))


def test_recalibrated_statistics_are_those_of_update_bn(training):
    before = {name: values.clone() for name, values in training.network.state_dict().items()}
    momenta = [norm.momentum for norm in batch_norms(training.network)]
    recalibrate(training.network, training.training_images())
    after = {name: values.clone() for name, values in training.network.state_dict().items()}
    training.network.load_state_dict(before)
    assert [norm.momentum for norm in batch_norms(training.network)] == momenta
    assert len(list(seen(training, 0))) > 2
    for replica in range(len(SEEDS)):
        plain = plain_of(training, replica)
        torch.optim.swa_utils.update_bn(seen(training, replica), plain)
        statistics = {name: values for name, values in plain.named_buffers() if "running" in name}
        assert len(statistics) == 4
        for name, values in statistics.items():
            torch.testing.assert_close(after[name][replica], values, rtol=1e-10, atol=1e-12)
            assert not torch.allclose(values, before[name][replica], rtol=1e-3), "the test must tell the two apart"


def test_statistics_that_are_not_finite_have_no_share_in_recalibrated_ones(training):
    before = {name: values.clone() for name, values in training.network.state_dict().items()}
    recalibrate(training.network, training.training_images())
    recalibrated = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in batch_norms(training.network)]
    for norm in batch_norms(training.network):
        norm.running_mean.fill_(float("nan"))
        norm.running_var.fill_(float("inf"))
    recalibrate(training.network, training.training_images())
    for norm, (mean, var) in zip(batch_norms(training.network), recalibrated, strict=True):
        assert torch.equal(norm.running_mean, mean)
        assert torch.equal(norm.running_var, var)
    training.network.load_state_dict(before)


def test_the_three_ways_are_running_recalibrated_and_batch_statistics(training):
    train, test = training.training_images(), (training.test_feed, training.test_index)
    before = {name: values.clone() for name, values in training.network.state_dict().items()}
    last = evaluate(training.network, *test, torch.float64)
    scores, _ = evaluate_three_ways(training.network, train, test, torch.float64, last)
    assert set(scores) == {"running", "recalibrated", "batch"}
    for name, values in training.network.state_dict().items():
        assert torch.equal(values, before[name]), f"{name} is left as it was"
    for replica in range(len(SEEDS)):
        (x, labels), *rest = batches_of(*test, replica)
        assert not rest, "one batch, so that batch statistics have one answer"
        plain = plain_of(training, replica)
        check(scores["running"], replica, plain(x), labels)
        check(scores["batch"], replica, plain.train()(x), labels)
        plain = plain_of(training, replica)
        torch.optim.swa_utils.update_bn(seen(training, replica), plain)
        check(scores["recalibrated"], replica, plain.eval()(x), labels)
    losses = [scores[way].loss for way in ("running", "recalibrated", "batch")]
    assert not torch.allclose(losses[0], losses[1])
    assert not torch.allclose(losses[1], losses[2])


def test_batch_statistics_leave_no_trace_in_the_next_training_step(training):
    before = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in batch_norms(training.network)]
    evaluate(training.network, training.test_feed, training.test_index, torch.float64, statistics="batch")
    assert all(norm.statistics == "update" for norm in batch_norms(training.network))
    for norm, (mean, var) in zip(batch_norms(training.network), before, strict=True):
        assert torch.equal(norm.running_mean, mean)
        assert torch.equal(norm.running_var, var)


@pytest.mark.parametrize("norm", ["group", "layer", "instance", "none"])
def test_networks_without_batch_norm_have_one_answer(norm):
    norm = {"name": "group", "groups": 2} if norm == "group" else norm
    training = trained(pack_of(tiny_recipe(model={"norm": norm})), toy_dataset())
    for result in training.results():
        figures = dict(result.metrics)
        assert (
            figures["accuracy_running"] == figures["accuracy_recalibrated"] == figures["accuracy_batch"] == figures["accuracy"]
        )
        assert figures["loss_running"] == figures["loss_recalibrated"] == figures["loss_batch"] == figures["test_loss"]


@pytest.mark.parametrize("count", [501, 1001])
def test_single_pixels_are_evaluated_whatever_the_number_of_images(count):
    values = tiny_recipe(model=MODELS["mlp"], batch_size=300, epochs=1)
    training = trained(pack_of(values), toy_dataset(train=count, test=count, side=2))
    assert all(result.status == "done" for result in training.results())


def test_statistics_are_recalibrated_over_images_augmented_as_in_training():
    dataset = toy_dataset(train=60)
    augment = ["flip", {"name": "crop", "padding": 2}, {"name": "cutout", "size": 3}]
    training = trained(pack_of(tiny_recipe(augment=augment, batch_size=20, epochs=2)), dataset)
    [x] = training.training_images()
    for replica, (seed, subset) in enumerate(zip(SEEDS, training.subsets, strict=True)):
        order = training.train_index[:, replica]
        draws = draw_epoch(seed, 2, subset, 60, dataset.train_images.shape[1:3], training.recipe)  # epochs 0 and 1 were trained
        expected = slow_batch(dataset.train_images, order, draws, padding=2, cutout=3)
        torch.testing.assert_close(x.unflatten(1, (len(SEEDS), -1))[:, replica], expected)
        assert sorted(order) == sorted(subset)
