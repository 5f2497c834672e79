"""Ways to compute a pack: each does the same mathematics, in float64 to the last digits; nothing in a step needs the host."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import math
import re
import weakref
from itertools import islice, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_support import CPU, NORMS, OPTIMIZERS, SEEDS, pack_of, tiny_recipe, toy_dataset, trained

from allelse import engine
from allelse.blocks import Conv2d, im2col
from allelse.blocks.im2col import conv2d_by_patches
from allelse.engine import fingerprints, loop, train_pack
from allelse.engine.evaluate import Score
from allelse.engine.scores import final_scores
from allelse.records import Pack, RunSpec, Way

WAYS = [Way(convolution, graph) for convolution in ("grouped", "branches", "im2col") for graph in (False, True)]
# A graph reads the learning rate from a float32, because that is what torch's fused CUDA optimisers take.
TOLERANCE = {False: {"rtol": 1e-9, "atol": 1e-11}, True: {"rtol": 1e-5, "atol": 1e-7}}
AUGMENT = ["flip", {"name": "crop", "padding": 1}, {"name": "cutout", "size": 2}, "random-erasing", "mixup", "cutmix"]
EMA = {"name": "ema", "decay": 0.9}


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_patches_and_a_product_are_a_grouped_convolution(kernel, memory, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(3, 4 * 2, 5, 7, dtype=torch.float64).to(memory_format=memory).requires_grad_()
    weight = torch.randn(4, 6, 2, kernel, kernel, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, weight.flatten(0, 1), padding=kernel // 2, groups=4)
    found = conv2d_by_patches(x, weight)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    above = torch.randn_like(expected)
    for ours, theirs in zip(torch.autograd.grad(found, (x, weight), above), torch.autograd.grad(expected, (x, weight), above)):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(conv2d_by_patches(x, weight), found)
        monkeypatch.setattr(im2col, "MOST_NUMBERS", 2 * x[0].numel() * kernel**2)
        in_pieces = conv2d_by_patches(x, weight)
    assert in_pieces.stride() == found.stride()
    torch.testing.assert_close(in_pieces, found, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(conv2d_by_patches, (x, weight), fast_mode=True)


def in_way(pack: Pack, way: Way) -> Pack:
    return dataclasses.replace(pack, way=way)


@functools.cache
def of_way(norm: str, optimizer: str, way: Way) -> loop.Training:
    values = tiny_recipe(
        optimizer=OPTIMIZERS[optimizer],
        augment=AUGMENT,
        averaging=EMA,
        batch_size=2,  # 12 steps an epoch: more than a graph holds, and some are left over
        schedule="cosine",
        model={"norm": NORMS[norm], "activation": "prelu", "pool": [1], "stem": {"width": 4}},
    )
    return trained(in_way(pack_of(values), way), toy_dataset())


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize("way", WAYS[1:], ids=lambda way: way.in_words(2))
def test_whole_trainings_are_the_same_in_every_way(way):
    for norm, optimizer in islice(product(NORMS, OPTIMIZERS), 0, None, 4):  # every norm and every optimiser at least once
        expected, found = of_way(norm, optimizer, WAYS[0]), of_way(norm, optimizer, way)
        for name, value in expected.network.state_dict().items():
            say = f"{norm} {optimizer} {name}"
            close = np.allclose(found.network.state_dict()[name], value, **TOLERANCE[way.graph])
            assert close, say
            average = expected.averaged.network.state_dict()[name]
            assert np.allclose(found.averaged.network.state_dict()[name], average, **TOLERANCE[way.graph]), say
        for ours, theirs in zip(found.history, expected.history, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert one == pytest.approx(other, rel=1e-6)
        assert [row["layer"] for row in found.probe.rows[0]] == [row["layer"] for row in expected.probe.rows[0]]


class OnDevice:
    """Gradient descent whose learning rate may be a tensor on any device."""

    def __init__(self, network, *_):
        self.param_groups = [{"params": list(network.parameters())}]

    def zero_grad(self, set_to_none):
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def step(self):
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter -= self.param_groups[0]["lr"] * parameter.grad


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize("convolution", ["grouped", "branches", "im2col"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_step_never_asks_the_host(convolution, norm, monkeypatch):
    """On the meta device there are no values to read and nothing there can meet a tensor of the CPU."""
    monkeypatch.setattr(fingerprints, "stacked_parameters", lambda network: [])  # no weights to take fingerprints of
    monkeypatch.setattr(loop, "build_optimizer", OnDevice)  # torch's fused ones know no meta device
    values = tiny_recipe(augment=AUGMENT, averaging=EMA, precision="bf16", model={"norm": NORMS[norm], "pool": [1]})
    training = loop.Training(in_way(pack_of(values), Way(convolution, graph=True)), toy_dataset(), torch.device("meta"))
    training.steps.begin(0, training.draw(0))
    training.averaged.begin_epoch(1)
    for _ in range(3):
        training.steps.advance(3)
    training.score_test(training._score_test)
    training.steps.score()


def runs_with(*optimizers: dict) -> tuple[RunSpec, ...]:
    """One run of every seed and optimiser."""
    return tuple(
        RunSpec({"number": number}, tiny_recipe(optimizer=optimizer, schedule="cosine", augment=AUGMENT), seed)
        for number, optimizer in enumerate(optimizers)
        for seed in SEEDS
    )


NUMBERS = [{"lr": 0.05, "weight_decay": 0.0}, {"lr": 0.2, "weight_decay": 0.0}, {"lr": 0.05, "weight_decay": 0.1}]


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.in_words(2))
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_runs_that_differ_in_learning_rate_and_decay_train_as_alone_in_one_pack(way, name):
    dataset = toy_dataset()
    runs = runs_with(*({"name": name, **numbers} for numbers in NUMBERS))
    for run, ours in zip(runs, train_pack(Pack(runs, way), dataset, CPU), strict=True):
        (lone,) = train_pack(Pack((run,)), dataset, CPU)
        assert ours.run == lone.run
        assert ours.metrics["train_loss"] == pytest.approx(lone.metrics["train_loss"], rel=1e-6)
        assert ours.metrics["accuracy"] == lone.metrics["accuracy"]
        assert ours.epochs[-1]["lr"] == lone.epochs[-1]["lr"]
        assert dict(ours.fingerprints) == dict(lone.fingerprints)


def test_a_pack_of_several_learning_rates_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    dataset, pack = toy_dataset(), Pack(runs_with(*({"name": "adam", **numbers} for numbers in NUMBERS)))
    expected = loop.Training(pack, dataset, CPU)
    for _ in range(2):
        expected.run_epoch(lambda progress: None)
    first = loop.Training(pack, dataset, CPU)
    first.run_epoch(lambda progress: None)
    first.save(tmp_path / "c")
    second = loop.Training(pack, dataset, CPU)
    second.resume(tmp_path / "c")
    assert second.epoch == 1
    second.run_epoch(lambda progress: None)
    for name, value in expected.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], value), name


def test_a_pack_that_trains_in_branches_is_evaluated_without_grouped_convolutions():
    training = loop.Training(in_way(pack_of(tiny_recipe()), Way("branches")), toy_dataset(), CPU)
    assert {module.by_patches for module in training.network.modules() if isinstance(module, Conv2d)} == {True}
    branches = [module for row in training.steps.branches for module in row.modules() if isinstance(module, Conv2d)]
    assert {module.by_patches for module in branches} == {False}


def test_rows_share_weights_gradients_and_statistics_with_the_pack():
    training = loop.Training(in_way(pack_of(tiny_recipe()), Way("branches")), toy_dataset(), CPU)
    training.steps.begin(0, training.draw(0))
    training.steps.advance(1)
    for replica, row in enumerate(training.steps.branches):
        stacked = dict(training.network.named_parameters())
        for name, parameter in row.named_parameters():
            assert parameter.data_ptr() == stacked[name][replica].data_ptr()
            assert parameter.grad.data_ptr() == stacked[name].grad[replica].data_ptr()
            assert (parameter.grad.abs().sum() > 0) == (not name.endswith("conv.bias"))  # which the norm takes out
        assert torch.equal(row.blocks[0].norm.running_mean[0], training.network.blocks[0].norm.running_mean[replica])
        assert (row.blocks[0].norm.running_mean != 0).any()


def test_a_training_that_is_over_leaves_nothing_behind():
    training = trained(pack_of(tiny_recipe()), toy_dataset())
    gone = weakref.ref(training.network)
    gc.disable()
    try:
        del training
        assert gone() is None  # no cycle holds its tensors until the collector comes
    finally:
        gc.enable()


def test_the_cpu_has_one_way_and_a_gpu_several():
    assert engine.ways(CPU) == (Way(),)
    assert {way.convolution for way in engine.ways(torch.device("cuda"))} == {"grouped", "branches", "im2col"}
    assert {way.graph for way in engine.ways(torch.device("cuda"))} == {True}
    assert {way.graph for way in engine.ways(torch.device("cuda"), graphs=False)} == {False}


def test_streams_are_waited_for_also_where_a_network_fails(monkeypatch):
    class Stream:
        waits: list[tuple[object, object]] = []

        def wait_stream(self, other):
            self.waits.append((self, other))

    current, first, second, third = (Stream() for _ in range(4))
    steps = loop.Training(in_way(pack_of(tiny_recipe()), Way("branches")), toy_dataset(), CPU).steps
    steps.streams = [first, second, third]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

    def fails():
        raise torch.cuda.OutOfMemoryError("no memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        steps._side_by_side([lambda: None, fails, lambda: None])
    assert set(Stream.waits) == {(first, current), (second, current), (current, first), (current, second)}


def test_the_record_of_a_run_that_diverges_is_that_of_the_run_alone():
    recipe = {"epochs": 4, "model": {"norm": "none", "depth": 2, "activation": "identity"}, "precision": "fp32"}
    rates = (1e9, 0.01, 3.0)
    runs = tuple(RunSpec({}, tiny_recipe(**recipe, optimizer={"name": "sgd", "lr": rate}), 0) for rate in rates)
    together = train_pack(Pack(runs), toy_dataset(), CPU)
    assert [result.status for result in together] == ["diverged", "done", "diverged"]
    for run, ours in zip(runs, together, strict=True):
        [alone] = train_pack(Pack((run,)), toy_dataset(), CPU)
        assert (ours.status, ours.error, len(ours.epochs)) == (alone.status, alone.error, len(alone.epochs))
        assert ours.fingerprints == alone.fingerprints
        places = [[(row["layer"], row["step"], row["epoch"]) for row in result.probes] for result in (ours, alone)]
        assert places[0] == places[1]


@pytest.mark.parametrize("lr", [1e10, 1e14, 1e18])
def test_a_network_that_its_last_step_has_spoilt_has_no_accuracy(lr):
    values = tiny_recipe(epochs=1, precision="fp32", model={"norm": "none", "depth": 4}, optimizer={"name": "sgd", "lr": lr})
    del values["epochs"]
    [result] = train_pack(Pack((RunSpec({}, {**values, "updates": 1}, 0),)), toy_dataset(), CPU)
    assert result.status == "diverged"
    assert result.metrics == {}
    assert re.fullmatch("the (test loss was|weights were) no longer finite in epoch 1", result.error)


def test_where_a_loss_is_not_finite_there_is_no_accuracy():
    score = Score(torch.tensor([0.5, torch.nan, torch.inf]), torch.tensor([50.0, 10.0, 20.0]))
    assert score.of(0) == (0.5, 50.0)
    assert all(math.isnan(score.of(replica)[1]) for replica in (1, 2))
    epochs = [{"test_accuracy": value} for value in (99.0, math.nan, 10.0, math.nan, 40.0, 20.0, 30.0)]
    assert final_scores(epochs) == {"accuracy": 30.0, "accuracy_best_epoch": 99.0, "accuracy_median_last_five": 25.0}


def test_statistics_that_spoil_a_network_give_no_accuracy_under_them(monkeypatch):
    spoilt = Score(torch.full((len(SEEDS),), torch.nan), torch.full((len(SEEDS),), 10.0))
    found = loop.evaluate_three_ways
    monkeypatch.setattr(loop, "evaluate_three_ways", lambda *a: ({**found(*a)[0], "recalibrated": spoilt}, found(*a)[1]))
    for result in train_pack(pack_of(tiny_recipe(model={"norm": "batch"})), toy_dataset(), CPU):
        assert result.status == "done"
        assert math.isfinite(result.metrics["accuracy"])
        assert math.isfinite(result.metrics["accuracy_running"])
        assert math.isnan(result.metrics["accuracy_recalibrated"])
        assert math.isnan(result.metrics["statistics_gap"])
