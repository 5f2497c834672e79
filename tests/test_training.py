"""The training loop: what a result says, what it was trained on, and in which precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_support import CPU, SEEDS, pack_of, tiny_recipe, toy_dataset, trained
from plain_networks import load_replica, plain_network, slow_batch, train_plain

from allelse import recipe
from allelse.engine import compute_dtype, train_pack
from allelse.engine.optim import learning_rates
from allelse.records import RunResult


def scores_of(training, replica: int, images: np.ndarray, labels: np.ndarray, by: np.ndarray) -> tuple[float, float]:
    plain = load_replica(plain_network(training.recipe.model), training.network, replica).eval()
    logits, wanted = plain(slow_batch(images, range(len(images)), by=by)), torch.from_numpy(labels)
    return F.cross_entropy(logits, wanted).item(), 100 * (logits.argmax(1) == wanted).double().mean().item()


def test_the_headline_is_the_last_epoch_on_the_test_split():
    dataset = toy_dataset(train=48, test=30)
    values = tiny_recipe(epochs=4, validation_per_class=3, augment=["flip"], optimizer={"name": "sgd", "lr": 1.5})
    training = trained(pack_of(values), dataset)
    for replica, result in enumerate(train_pack(pack_of(values), dataset, CPU)):
        loss, accuracy = scores_of(training, replica, dataset.test_images, dataset.test_labels, dataset.train_images)
        assert result.metrics["accuracy"] == result.metrics["test_accuracy"] == pytest.approx(accuracy)
        assert result.metrics["test_loss"] == pytest.approx(loss)
        assert result.metrics["accuracy"] == result.epochs[-1]["test_accuracy"]
        assert len(result.epochs) == 4
    tests = np.array([[epoch["test_accuracy"] for epoch in history] for history in training.history])
    assert (tests.max(1) > tests[:, -1]).any(), "some seed was better before, so that the last epoch tells"


def test_the_validation_split_is_scored_and_never_trained_on():
    dataset = toy_dataset(train=60)
    values = tiny_recipe(validation_per_class=4, augment=["flip"])
    training = trained(pack_of(values), dataset)
    held_out = training.validation_index.flatten().tolist()
    assert len(held_out) == len(set(held_out)) == 12
    for subset, drawn in zip(training.subsets, training.draw(0), strict=True):
        assert not set(held_out) & set(subset)
        assert not set(held_out) & set(drawn.order)
        assert len(subset) == 48
    order = np.array(sorted(held_out))
    for replica in range(len(SEEDS)):
        images, labels = dataset.train_images[order], dataset.train_labels[order]
        loss, accuracy = scores_of(training, replica, images, labels, dataset.train_images)
        assert training.history[replica][-1]["validation_loss"] == pytest.approx(loss)
        assert training.history[replica][-1]["validation_accuracy"] == pytest.approx(accuracy)

    def with_other(index: np.ndarray) -> list[dict[str, float]]:
        # The pixels' mean and standard deviation are of the whole training split, so they are kept: images trade places.
        images = dataset.train_images.copy()
        images[index] = images[index][::-1]
        results = train_pack(pack_of(values), replace(dataset, train_images=images), CPU)
        return [{name: epoch["train_loss"] for name, epoch in enumerate(result.epochs)} for result in results]

    untouched = [{number: epoch["train_loss"] for number, epoch in enumerate(history)} for history in training.history]
    assert with_other(order) == untouched
    assert with_other(np.sort(training.subsets[0])) != untouched


def test_the_test_split_changes_no_weight():
    dataset = toy_dataset()
    other = replace(dataset, test_images=dataset.test_images[::-1] // 2)
    first, second = (trained(pack_of(tiny_recipe()), data).network.state_dict() for data in (dataset, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("count", [2, 5])
def test_a_balanced_subset_has_so_many_images_of_each_class_and_is_drawn_per_seed(count):
    dataset = toy_dataset(train=60)
    training = trained(pack_of(tiny_recipe(train_per_class=count, batch_size=3)), dataset, epochs=0)
    for subset in training.subsets:
        assert np.bincount(dataset.train_labels[subset]).tolist() == [count] * 3
    assert len({tuple(subset) for subset in training.subsets}) == len(SEEDS)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_that_of_torch(smoothing):
    dataset = toy_dataset()
    values = tiny_recipe(epochs=1, batch_size=24, label_smoothing=smoothing)
    training = trained(pack_of(values), dataset, epochs=0)
    plain = load_replica(plain_network(training.recipe.model), training.network, 1)
    whole = [(slow_batch(dataset.train_images, range(24)), torch.from_numpy(dataset.train_labels))]
    losses = train_plain(plain, torch.optim.SGD(plain.parameters(), lr=0.05), whole, smoothing)
    training.run_epoch(lambda progress: None)
    assert training.history[1][0]["train_loss"] == pytest.approx(losses[0], rel=1e-12)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(training.network.state_dict()[name][1], parameter.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16", "auto"])
def test_the_precision_is_said_in_the_result_and_is_what_was_computed_in(precision):
    training = trained(pack_of(tiny_recipe(precision=precision)), toy_dataset())
    seen = []
    training.network.blocks[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    training.epoch = 0
    training.run_epoch(lambda progress: None)
    said = {result.provenance.precision for result in training.results()}
    wanted = {compute_dtype("auto", CPU)} if precision == "auto" else {compute_dtype(precision, CPU)}
    assert set(seen) == wanted
    assert said == {{torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16"}[wanted.pop()]}
    weights = {parameter.dtype for parameter in training.network.parameters()}
    assert weights == {torch.float64 if precision == "fp64" else torch.float32}, "weights are never kept in bf16"


def test_auto_is_bf16_where_the_cpu_has_it_and_fp32_elsewhere(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert compute_dtype("auto", CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert compute_dtype("auto", CPU) == torch.float32
    assert compute_dtype("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_lower_precisions_start_close_to_float64(precision):
    dataset = toy_dataset(train=240, test=60)
    exact, rough = (
        trained(pack_of(tiny_recipe(precision=chosen, epochs=1, batch_size=24)), dataset) for chosen in ("fp64", precision)
    )
    for ours, theirs in zip(rough.history, exact.history, strict=True):
        assert ours[0]["train_loss"] == pytest.approx(theirs[0]["train_loss"], rel=1e-5 if precision == "fp32" else 0.03)


def test_the_learning_rate_of_each_epochs_last_step_is_told():
    values = tiny_recipe(epochs=3, schedule="cosine", optimizer={"name": "sgd", "lr": 0.4, "lr_scaling": "linear"})
    result = train_pack(pack_of(values), toy_dataset(), CPU)[0]
    rates = learning_rates(recipe.Cosine(), 0.4 * 8 / 128, 3, 3)
    assert [epoch["lr"] for epoch in result.epochs] == rates[2::3]


def test_results_come_in_the_packs_order_with_ids_and_go_through_json():
    pack = pack_of(tiny_recipe(), (5, 2))
    results = train_pack(pack, toy_dataset(), CPU)
    assert [result.run for result in results] == [run.id for run in pack.runs]
    assert all(RunResult.from_json(result.to_json()) == result for result in results)
    assert all(result.timing["images_per_second"] > 0 for result in results)


def test_progress_rises_to_one_and_counts_epochs():
    told = []
    train_pack(pack_of(tiny_recipe(epochs=3)), toy_dataset(), CPU, on_progress=told.append)
    assert told[-1].share == 1
    assert [progress.epoch for progress in told if progress.epoch][-1] == 3
    assert [progress.share for progress in told] == sorted(progress.share for progress in told)


def test_a_pack_that_diverged_altogether_stops_early_and_says_when():
    values = tiny_recipe(epochs=5, optimizer={"name": "sgd", "lr": 1e200}, model={"norm": "none", "activation": "identity"})
    for result in train_pack(pack_of(values), toy_dataset(), CPU):
        assert result.status == "diverged"
        assert "epoch 1" in result.error
        assert len(result.epochs) == 1
        assert "accuracy" not in result.metrics


def test_a_run_that_diverges_with_its_very_last_step_is_no_result():
    values = tiny_recipe(
        epochs=1, batch_size=24, precision="fp32", optimizer={"name": "sgd", "lr": 1e200}, model={"norm": "none"}
    )
    result = train_pack(pack_of(values), toy_dataset(), CPU)[0]
    assert np.isfinite(result.epochs[0]["train_loss"]), "the only loss was measured before the step"
    assert result.status == "diverged"
    assert "weights" in result.error


def test_fp32_means_fp32_whatever_a_notebook_set_before(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    torch.set_float32_matmul_precision("high")
    try:
        trained(pack_of(tiny_recipe(epochs=1), [3]), toy_dataset())
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_the_smallest_batches_train(norm, batch_size):
    values = tiny_recipe(epochs=1, batch_size=batch_size, model={"norm": norm})
    assert {result.status for result in train_pack(pack_of(values), toy_dataset(train=6), CPU)} == {"done"}


def test_probes_see_every_activation_and_leave_shortcuts_and_hidden_layers_out_of_what_blocks_do():
    model = {"block": "act-conv-norm-act-conv", "residual": True, "width": [4, 6], "head": {"hidden": [5], "dropout": 0.5}}
    training = trained(pack_of(tiny_recipe(model=model), [3]), toy_dataset())
    [result] = training.results()
    last = max(row["step"] for row in result.probes if "gradient_ratio" in row)
    found = {row["layer"]: row for row in result.probes if row["step"] == last}
    acts = [f"blocks.{number}.{name}" for number in (0, 1) for name in ("act", "act2")] + ["hidden.0.act"]
    assert [layer for layer, row in found.items() if "saturated" in row] == acts
    assert {"blocks.0.shortcut", "blocks.1.shortcut", "hidden.0.linear"} <= {
        layer for layer, row in found.items() if "gradient_norm" in row
    }
    decades = np.log10(found["blocks.1.conv2"]["gradient_ratio"] / found["blocks.0.conv"]["gradient_ratio"])
    assert result.metrics["gradient_decades_end"] == pytest.approx(decades)
    assert result.metrics["effective_rank"] == found["blocks.1"]["effective_rank"]
