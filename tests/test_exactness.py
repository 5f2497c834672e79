"""A pack is exactly R separate trainings (invariant 2), in float64, against lone packs of one and against plain torch."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_support import (
    ACTIVATIONS,
    CPU,
    CROSSED_ACTIVATIONS,
    CROSSED_OPTIMIZERS,
    NORMS,
    OPTIMIZERS,
    ORDERS,
    SEEDS,
    VARIANTS,
    model_of,
    network_of,
    pack_of,
    tiny_recipe,
    toy_dataset,
    trained,
)
from norm_oracles import PAPER_NORMS
from plain_networks import (
    assert_same_state,
    epoch_batches,
    load_replica,
    packed_name,
    plain_network,
    plain_optimizer,
    slow_batch,
    train_plain,
)

from allelse import recipe
from allelse.engine import train_pack
from allelse.engine.loop import Training
from allelse.engine.optim import build_optimizer
from allelse.models import Network

WHOLE_ORDERS = [order for order in ORDERS if order.count("-") == 2]
MODELS = {
    "stem": {"stem": {"width": 4, "kernel": 3}, "width": [4, 6]},
    "stem with norm and activation": {"stem": {"width": 4, "norm": True, "activation": True}, "norm": "batch"},
    "norm first, stem": {"stem": {"width": 4, "norm": True}, "block": "norm-act-conv"},
    "max pool": {"pool": [1], "depth": 2},
    "avg pool": {"pool": [1, 2], "pool_kind": "avg"},
    "flatten head": {"head": "flatten", "pool": [1]},
    "flatten head with pooling": {"head": {"name": "flatten", "pool": 2}},
    "no bias, kernel of 1": {"bias": False, "kernel": 1},
    "kernel of 5, widths": {"kernel": 5, "width": [2, 6], "norm": {"name": "group", "groups": 2}},
    "batch norm of its own": {"norm": {"name": "batch", "momentum": 0.3, "eps": 1e-3, "affine": False}},
    "group norm by size": {"norm": {"name": "group", "channels_per_group": 2, "eps": 1e-2, "affine": False}},
    # Two values a group come out as ±1 whatever they are, but for eps: a usual one would only magnify rounding.
    "group norm on single pixels": {"norm": {"name": "group", "groups": 2, "eps": 0.1}, "pool": [1, 2], "depth": 3},
    "ghost norm": {"norm": PAPER_NORMS["ghost"], "pool": [1]},
    "ghost norm without affine": {"norm": {**PAPER_NORMS["ghost"], "affine": False}, "block": "act-norm-conv"},
    "renorm": {"norm": PAPER_NORMS["renorm"], "pool": [1]},
    "renorm without affine": {"norm": {**PAPER_NORMS["renorm"], "affine": False, "hold_steps": 0}, "block": "act-norm-conv"},
    "rms norm": {"norm": "rms", "stem": {"width": 4, "norm": True}},
    "frn": {"norm": "frn", "activation": "identity", "stem": {"width": 4, "norm": True}},
    "frn without threshold": {"norm": {"name": "frn", "tlu": False}, "activation": "relu"},
    "evonorm": {"norm": PAPER_NORMS["evonorm-s0"], "block": "conv-norm", "pool": [1]},
    "weight standardisation": {"weight_standardization": True, "norm": NORMS["group"], "stem": {"width": 4}},
    "mlp": {"family": "mlp", "block": "linear-norm-act"},
    "mlp, ghost norm": {"family": "mlp", "block": "linear-norm-act", "norm": PAPER_NORMS["ghost"]},
    "mlp, renorm": {"family": "mlp", "block": "linear-norm-act", "norm": PAPER_NORMS["renorm"]},
    "mlp, rms norm": {"family": "mlp", "block": "norm-act-linear", "norm": "rms"},
    "mlp, evonorm": {"family": "mlp", "block": "norm-linear", "norm": PAPER_NORMS["evonorm-s0"]},
    "mlp, weight standardisation": {"family": "mlp", "block": "linear-norm-act", "weight_standardization": True},
    "mlp, widths, no bias": {"family": "mlp", "block": "linear-act-norm", "width": [6, 4], "bias": False},
    "mlp, norm first": {"family": "mlp", "block": "norm-act-linear", "norm": "layer", "activation": "prelu"},
    "mlp, group norm": {"family": "mlp", "block": "linear-norm-act", "norm": {"name": "group", "groups": 2}},
    "residual": {"residual": True, "width": [4, 6, 6], "depth": 3, "pool": [2]},
    "residual, add before the last activation": {
        "block": "conv-norm-act-conv-norm-add-act",
        "residual": True,
        "width": [4, 6],
        "pool": [1],
        "pool_kind": "stride",
    },
    "add without residual": {"block": "conv-norm-act-conv-norm-add-act"},
    "pre-activation": {
        "block": "norm-act-conv-norm-act-conv",
        "residual": True,
        "stem": {"width": 4},
        "width": [4, 6],
        "pool": [2],
        "pool_kind": "stride",
        "head": {"norm": True, "activation": True},
    },
    "strides": {"pool": [1, 2], "pool_kind": "stride", "kernel": [5, 1], "bias": False},
    "depthwise-separable": {"conv": "depthwise-separable", "kernel": [5, 3], "width": [4, 6], "stem": {"width": 4}},
    "depthwise-separable, strides": {
        "conv": "depthwise-separable",
        "block": "act-conv-norm-act-conv",
        "residual": True,
        "pool": [1],
        "pool_kind": "stride",
    },
    "groups by block": {"norm": {"name": "group", "groups": [2, 1, 3]}, "width": [4, 5, 6], "depth": 3, "stem": {"width": 4}},
    "groups by block, norm first": {
        "block": "norm-act-conv",
        "norm": {"name": "group", "groups": [2, 1, 5]},
        "width": [4, 5, 5],
        "depth": 3,
        "stem": {"width": 4, "norm": True},
        "head": {"norm": True},
    },
    "hidden layers": {"head": {"name": "flatten", "hidden": [5, 4], "dropout": 0.25}, "pool": [1], "activation": "prelu"},
    "dropout": {"block": "conv-norm-act-drop", "dropout": 0.25, "head": {"dropout": 0.5}},
    "dropout of channels": {"block": "conv-norm-act-drop", "dropout": 0.25, "dropout_of": "channels", "width": [5, 8]},
    "stochastic depth": {"block": "conv-norm-act-drop", "dropout": 0.4, "dropout_of": "images", "residual": True},
    "mlp, stochastic depth": {
        "family": "mlp",
        "block": "linear-norm-act-drop",
        "residual": True,
        "dropout": 0.4,
        "dropout_of": "images",
    },
    "dropout twice": {"block": "drop-conv-act-drop-conv-norm", "dropout": 0.1, "width": [5, 8], "pool": [1]},
    "mlp, residual, dropout": {
        "family": "mlp",
        "block": "linear-norm-act-drop-linear",
        "residual": True,
        "width": [5, 5, 6],
        "depth": 3,
        "dropout": 0.4,
    },
}
CATALOGUE = ("ghost norm", "renorm", "rms norm", "frn", "evonorm", "weight standardisation")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images [B, R, C, H, W], other ones for each replica, and labels [R, B]."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(6, len(SEEDS), 2, 6, 6, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 3, (len(SEEDS), 6), generator=generator)


def summed_loss(network: Network, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum over replicas of each one's mean loss; x is [B, R, C, H, W]."""
    logits = network(x.flatten(1, 2))
    return sum(F.cross_entropy(logits[replica], labels[replica]) for replica in range(len(labels)))


def check_gradients(model: recipe.Model, x: torch.Tensor, labels: torch.Tensor) -> None:
    """Every replica against a plain network, which has its weights, and one of them against a pack of one."""
    network = network_of(model)
    plains = [load_replica(plain_network(model), network, replica) for replica in range(len(SEEDS))]
    summed_loss(network, x, labels).backward()
    ours = dict(network.named_parameters())
    for replica, plain in enumerate(plains):
        F.cross_entropy(plain(x[:, replica]), labels[replica]).backward()
        oracle = dict(plain.named_parameters())
        assert len(oracle) == len(ours)
        for name, parameter in oracle.items():
            packed = ours[packed_name(name)].grad[replica]
            torch.testing.assert_close(packed, parameter.grad, rtol=1e-10, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}")
        assert_same_state(plain, network, replica, tolerance=1e-12)
    lone = network_of(model, SEEDS[1:2])
    summed_loss(lone, x[:, 1:2], labels[1:2]).backward()
    for name, parameter in lone.named_parameters():
        torch.testing.assert_close(ours[name].grad[1], parameter.grad[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("norm", NORMS)
def test_first_gradients_equal_lone_and_plain_networks_in_every_order(norm, batch):
    for activation, order in product(CROSSED_ACTIVATIONS, ORDERS):
        check_gradients(model_of(norm=NORMS[norm], activation=ACTIVATIONS[activation], block=order), *batch)


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), *VARIANTS.values()], ids=[*ACTIVATIONS, *VARIANTS])
def test_first_gradients_equal_lone_and_plain_networks_with_every_activation(activation, batch):
    for norm in NORMS:
        check_gradients(model_of(norm=NORMS[norm], activation=activation), *batch)
    check_gradients(model_of(family="mlp", block="act-linear-norm", activation=activation), *batch)


@pytest.mark.parametrize("norm", PAPER_NORMS)
def test_first_gradients_with_norms_of_papers_in_every_order(norm, batch):
    own = norm in ("frn", "evonorm-s0")
    for order in ORDERS:
        model = model_of(norm=PAPER_NORMS[norm], activation="identity" if own else "tanh", block=order)
        check_gradients(model, *batch)


@pytest.mark.parametrize("model", MODELS)
def test_first_gradients_equal_lone_and_plain_networks_in_every_kind_of_model(model, batch):
    check_gradients(model_of(**MODELS[model]), *batch)


@pytest.fixture(scope="module")
def small():
    return toy_dataset(train=8, test=3)


@pytest.fixture(scope="module")
def seen(small):
    """The batches of the two steps of each seed."""
    values = recipe.Recipe.model_validate(tiny_recipe(epochs=1, batch_size=4, augment=["flip", "crop"]))
    return {seed: epoch_batches(values, small, seed, 0) for seed in SEEDS}


@pytest.mark.parametrize("activation", CROSSED_ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_whole_steps_equal_lone_runs_for_every_order_and_optimiser(norm, activation, small, seen):
    for number, (order, optimizer) in enumerate(product(WHOLE_ORDERS, CROSSED_OPTIMIZERS)):
        model = {"norm": NORMS[norm], "activation": ACTIVATIONS[activation], "block": order, "pool": [1]}
        values = tiny_recipe(epochs=1, batch_size=4, augment=["flip", "crop"], optimizer=OPTIMIZERS[optimizer], model=model)
        training = Training(pack_of(values), small, CPU)
        if optimizer == CROSSED_OPTIMIZERS[0]:
            plains = [plain_network(training.recipe.model) for _ in SEEDS]
        for replica, plain in enumerate(plains):
            load_replica(plain, training.network, replica)
        training.run_epoch(lambda progress: None)
        say = f"{norm} {activation} {order} {optimizer}"
        for replica, (seed, plain) in enumerate(zip(SEEDS, plains, strict=True)):
            oracle = plain_optimizer(plain, training.recipe.optimizer, training.recipe.optimizer.lr)
            losses = train_plain(plain, oracle, seen[seed])
            assert_same_state(plain, training.network, replica, say=say)
            assert training.history[replica][0]["train_loss"] == pytest.approx(np.mean(losses), rel=1e-12)
        if (
            number % 7 == 0
        ):  # the plain network stands for the lone run; some show that they agree, of every optimiser and order
            replica = number // 7 % len(SEEDS)
            lone = trained(pack_of(values, [SEEDS[replica]]), small)
            for name, values_of_all in training.network.state_dict().items():
                torch.testing.assert_close(values_of_all[replica], lone.network.state_dict()[name][0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_many_steps_of_every_optimiser_equal_lone_runs(optimizer):
    """No bias stands before a norm: its gradient is rounding, whose sign is all that Rprop looks at."""
    dataset = toy_dataset()
    model = {"norm": NORMS["group"], "activation": "prelu", "bias": False}
    values = tiny_recipe(epochs=2, batch_size=4, optimizer=OPTIMIZERS[optimizer], model=model)
    training = Training(pack_of(values), dataset, CPU)
    plains = [load_replica(plain_network(training.recipe.model), training.network, r) for r in range(len(SEEDS))]
    for epoch in range(2):
        training.run_epoch(lambda progress: None)
        for replica, (seed, plain) in enumerate(zip(SEEDS, plains, strict=True)):
            if epoch == 0:
                plain.optimizer = plain_optimizer(plain, training.recipe.optimizer, training.recipe.optimizer.lr)
            train_plain(plain, plain.optimizer, epoch_batches(training.recipe, dataset, seed, epoch))
            assert_same_state(plain, training.network, replica, say=f"epoch {epoch}")
    lone = trained(pack_of(values, SEEDS[1:2]), dataset)
    for name, values_of_all in training.network.state_dict().items():
        torch.testing.assert_close(values_of_all[1], lone.network.state_dict()[name][0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("model", MODELS)
def test_whole_epochs_of_every_kind_of_model_equal_lone_runs(model, optimizer):
    dataset = toy_dataset()
    values = tiny_recipe(
        optimizer=OPTIMIZERS[optimizer],
        model=MODELS[model],
        augment=["flip", {"name": "crop", "padding": 2}, {"name": "cutout", "size": 3}],
        schedule={"name": "constant", "warmup_epochs": 1},
        label_smoothing=0.1,
        train_per_class=6,
        batch_size=4,
    )
    training = Training(pack_of(values), dataset, CPU)
    start = [load_replica(plain_network(training.recipe.model), training.network, r) for r in range(len(SEEDS))]
    for _ in range(2):
        training.run_epoch(lambda progress: None)
    results = training.results()
    for replica, (seed, plain) in enumerate(zip(SEEDS, start, strict=True)):
        oracle = plain_optimizer(plain, training.recipe.optimizer, 1.0)
        for epoch in range(2):
            for number, one in enumerate(epoch_batches(training.recipe, dataset, seed, epoch)):
                for group in oracle.param_groups:  # 4 steps of warm-up: 1/5, 2/5, … of the peak
                    group["lr"] = training.recipe.optimizer.lr * min((4 * epoch + number + 1) / 5, 1)
                train_plain(plain, oracle, [one], smoothing=0.1)
        assert_same_state(plain, training.network, replica)
        x = slow_batch(dataset.test_images, range(9), by=dataset.train_images)
        logits = plain.eval()(x)
        labels = torch.from_numpy(dataset.test_labels)
        lone = train_pack(pack_of(values, [seed]), dataset, CPU)[0]
        for result in (results[replica], lone):
            assert result.metrics["test_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-10)
            assert result.metrics["accuracy"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
        assert dict(lone.fingerprints) == dict(results[replica].fingerprints)
        for ours, theirs in zip(results[replica].epochs, lone.epochs, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-10)


@pytest.mark.parametrize(
    "model",
    [
        *("max pool", "flatten head", "mlp", "kernel of 5, widths", "pre-activation", "depthwise-separable, strides"),
        *("hidden layers", "dropout", "mlp, residual, dropout"),
        *CATALOGUE,
    ],
)
@pytest.mark.parametrize("disturbed", range(len(SEEDS)))
def test_a_disturbed_replica_changes_itself_and_no_other(model, disturbed, batch):
    def step(weights: float = 0.0, images: float = 0.0) -> dict[str, torch.Tensor]:
        network = network_of(model_of(**MODELS[model]))
        x = batch[0].clone()
        x[0, disturbed] += images
        with torch.no_grad():
            network.head.weight[disturbed, 0, 0] += weights
        optimizer = build_optimizer(network, recipe.Adam(), 0.01)
        summed_loss(network, x, batch[1]).backward()
        optimizer.step()
        return network.state_dict()

    base = step()
    for other in (step(weights=1e-3), step(images=1e-2), step(images=float("nan"))):
        assert not torch.equal(other["head.weight"][disturbed], base["head.weight"][disturbed])
        for name, values in base.items():
            for replica in set(range(len(SEEDS))) - {disturbed}:
                assert torch.equal(other[name][replica], values[replica]), name


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_replica_that_diverges_leaves_the_others_as_their_lone_runs(norm, optimizer, monkeypatch):
    dataset = toy_dataset()
    values = tiny_recipe(optimizer=OPTIMIZERS[optimizer], model={"norm": NORMS[norm], "pool": [1]}, augment=["flip"])

    def poisoned(network: Network, seeds) -> None:
        initialise(network, seeds)
        for replica, seed in enumerate(seeds):
            if seed == SEEDS[1]:
                with torch.no_grad():
                    network.blocks[0].conv.weight[replica, 0] = float("inf")

    from allelse.engine import loop

    initialise = loop.initialise
    monkeypatch.setattr(loop, "initialise", poisoned)
    results = train_pack(pack_of(values), dataset, CPU)
    assert [result.status for result in results] == ["done", "diverged", "done"]
    assert results[1].metrics == {}
    assert results[1].error is not None
    assert "epoch 1" in results[1].error
    for result, seed in zip(results, SEEDS, strict=True):
        if seed != SEEDS[1]:
            lone = train_pack(pack_of(values, [seed]), dataset, CPU)[0]
            assert lone.status == "done"
            assert set(result.metrics) == set(lone.metrics)
            for name, value in lone.metrics.items():
                exact = name.startswith(("train", "test", "accuracy", "loss"))  # probes may compute in float32
                assert result.metrics[name] == pytest.approx(value, rel=1e-9 if exact else 1e-4), name
            assert result.error is None
