"""All else equal (invariant 1): what runs of one seed share across arms, told by draws, weights and fingerprints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_support import CPU, draws_of, model_of, network_of, pack_of, tiny_recipe, toy_dataset, trained

from allelse import recipe
from allelse.engine import train_pack

BASE = {"stem": {"width": 4}, "width": [4, 4, 4], "depth": 2}
ARMS = {
    "another activation": {"activation": "prelu"},
    "another norm": {"norm": "layer"},
    "no norm": {"norm": "none"},
    "deeper": {"depth": 3},
    "another order": {"block": "act-norm-conv"},
    "no bias": {"bias": False},
    "pooled": {"pool": [1]},
    "another width in block 2": {"width": [4, 6, 4]},
    "a stem with a norm": {"stem": {"width": 4, "norm": True}},
    "residual": {"residual": True},
    "two convolutions a block": {"block": "norm-act-conv-norm-act-conv"},
    "dropout": {"block": "drop-conv-norm-act", "dropout": 0.5},
    "strides": {"pool": [1], "pool_kind": "stride"},
    "a hidden layer": {"head": {"hidden": [4]}},
    "another kernel in block 2": {"kernel": [3, 5]},
}
ALL = ["flip", {"name": "crop", "padding": 1}, {"name": "cutout", "size": 2}]


def weights_of(seed: int, **model) -> dict[tuple[str, tuple[int, ...]], torch.Tensor]:
    """The initial values of each parameter by its name and its layer's shape, which a bias takes from its weight."""
    parameter_from_name = dict(network_of(model_of(**{**BASE, **model}), [seed]).named_parameters())
    shape_from_name = {name: tuple(p.shape[1:]) for name, p in parameter_from_name.items()}
    return {
        (name, shape_from_name.get(name.replace(".bias", ".weight"), ())): p.detach()[0]
        for name, p in parameter_from_name.items()
    }


@pytest.mark.parametrize("arm", ARMS)
def test_layers_of_one_name_and_shape_start_from_the_same_weights_in_every_arm(arm):
    base, other = weights_of(7), weights_of(7, **ARMS[arm])
    shared = set(base) & set(other)
    random = [key for key in shared if base[key].unique().numel() > 1]
    assert ("blocks.0.conv.weight", (4, 4, 3, 3)) in shared
    assert len(random) >= 3
    for key in shared:
        assert torch.equal(base[key], other[key]), key


def test_weights_differ_between_seeds_layers_and_replicas():
    seeds = [weights_of(seed) for seed in (0, 1)]
    assert not torch.equal(seeds[0]["head.weight", (3, 4)], seeds[1]["head.weight", (3, 4)])
    one = seeds[0]
    assert not torch.equal(one["blocks.0.conv.weight", (4, 4, 3, 3)], one["blocks.1.conv.weight", (4, 4, 3, 3)])
    packed = network_of(model_of(**BASE), [0, 1]).blocks[0].conv.weight
    assert torch.equal(packed[1], seeds[1]["blocks.0.conv.weight", (4, 4, 3, 3)])


def test_initial_weights_are_uniform_within_one_over_the_root_of_the_inputs():
    network = network_of(model_of(width=40, depth=2, stem={"width": 40}), [0], classes=40)
    for parameter, inputs in ((network.blocks[1].conv.weight, 360), (network.head.weight, 40), (network.head.bias, 40)):
        bound = inputs**-0.5  # nn.Conv2d and nn.Linear: Kaiming uniform with a = √5
        assert parameter.abs().max() <= bound
        assert parameter.abs().max() > 0.9 * bound
        assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)


def same(first, second) -> bool:
    return first is None or second is None or np.array_equal(first, second)


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 2},
        {"epochs": 5},
        {"augment": []},
        {"augment": ["flip"]},
        {"augment": ALL[1:]},
        {"augment": ALL[::-1]},
        {"augment": ["flip", ALL[1], {"name": "cutout", "size": 4}]},
        {"model": {"norm": "layer", "depth": 1}},
        {"optimizer": "adam"},
    ],
    ids=str,
)
def test_no_change_of_the_recipe_shifts_another_draw(change):
    dataset = toy_dataset(train=48)
    base = recipe.Recipe.model_validate(tiny_recipe(augment=ALL, train_per_class=10))
    other = recipe.Recipe.model_validate(tiny_recipe(**{"augment": ALL, "train_per_class": 10, **change}))
    for seed in (0, 5):
        for epoch in (0, 3):
            first, second = (draws_of(values, dataset, seed, epoch) for values in (base, other))
            assert np.array_equal(first.order, second.order)
            assert all(same(getattr(first, name), getattr(second, name)) for name in ("flip", "crop", "cutout"))


def test_draws_belong_to_an_image_whatever_the_subset():
    dataset = toy_dataset(train=48)
    small, large = (
        draws_of(recipe.Recipe.model_validate(tiny_recipe(augment=ALL, train_per_class=count)), dataset, 0) for count in (4, 12)
    )
    assert set(small.order) < set(large.order)
    assert all(np.array_equal(getattr(small, name), getattr(large, name)) for name in ("flip", "crop", "cutout"))


def test_seeds_and_epochs_draw_differently():
    dataset = toy_dataset(train=48)
    values = recipe.Recipe.model_validate(tiny_recipe(augment=ALL, train_per_class=10))
    draws = [draws_of(values, dataset, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for name in ("order", "flip", "crop", "cutout"):
        assert len({getattr(drawn, name).tobytes() for drawn in draws}) == 3, name
    assert set(draws[0].order) == set(draws[1].order)
    assert set(draws[0].order) != set(draws[2].order)


def fingerprints(dataset, /, **changes) -> list[dict[str, str]]:
    values = tiny_recipe(**{"augment": ALL, "train_per_class": 6, "batch_size": 6, "model": BASE, **changes})
    return [dict(result.fingerprints) for result in train_pack(pack_of(values, (4, 9)), dataset, CPU)]


def test_partners_of_mixup_are_of_one_name_only_within_one_subset():
    two = fingerprints(toy_dataset(train=48, classes=2), augment=["mixup"], dataset="two")[0]
    four = fingerprints(toy_dataset(train=48, classes=4), augment=["mixup"], dataset="four", train_per_class=3)[0]
    augmented = [{name for name in each if name.startswith("augmentation")} for each in (two, four)]  # 12 of 48 images in both
    assert augmented[0].isdisjoint(augmented[1])


@pytest.mark.parametrize("arm", ARMS)
def test_the_fingerprints_of_a_pair_say_the_same_wherever_both_have_a_say(arm):
    dataset = toy_dataset()
    for base, other in zip(fingerprints(dataset), fingerprints(dataset, model={**BASE, **ARMS[arm]}), strict=True):
        shared = set(base) & set(other)
        assert {"data", "subset", "order", "augmentation", "init"} == {name.split()[0] for name in shared}
        assert "init blocks.0.conv.weight 4x4x3x3" in shared
        assert {name: base[name] for name in shared} == {name: other[name] for name in shared}


def test_the_fingerprints_tell_what_is_not_the_same():
    dataset = toy_dataset()
    base, other_seed = fingerprints(dataset)
    [data] = [name for name in base if name.startswith("data ")]
    assert {name for name in base if base[name] == other_seed[name]} <= {data} | {name for name in base if "norm" in name}
    assert base[data] == other_seed[data]
    assert fingerprints(toy_dataset(seed=1))[0][data] != base[data]
    assert fingerprints(dataset, batch_size=2)[0] == base


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_are_paired(precision):
    dataset = toy_dataset()
    assert fingerprints(dataset, precision=precision) == fingerprints(dataset)


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16"])
def test_a_leaky_relu_without_slope_trains_to_the_bits_of_a_relu(precision):
    dataset = toy_dataset(train=40, test=40)
    runs = []
    for activation in ("relu", {"name": "leaky_relu", "slope": 0.0}, {"name": "leaky_relu", "slope": 0.01}):
        values = tiny_recipe(augment=ALL, precision=precision, epochs=3, model={**BASE, "activation": activation})
        training = trained(pack_of(values), dataset)
        runs.append((training.network.state_dict(), training.history))
    relu, leaky, other = runs
    assert relu[1] == leaky[1] != other[1]
    assert all(torch.equal(relu[0][name], leaky[0][name]) for name in relu[0])
    assert not torch.equal(relu[0]["head.weight"], other[0]["head.weight"])


@pytest.mark.parametrize(
    ("changes", "apart"),
    [
        ({"augment": ALL[:2]}, {"augmentation"}),
        ({"train_per_class": 5, "batch_size": 5}, {"subset", "order"}),
        ({"epochs": 3}, {"order", "augmentation"}),
    ],
)
def test_what_a_recipe_asks_otherwise_has_another_name_and_is_not_compared(changes, apart):
    dataset = toy_dataset()
    base, other = fingerprints(dataset)[0], fingerprints(dataset, **changes)[0]
    assert {name.split()[0] for name in set(base) ^ set(other)} == apart
    assert {name: base[name] for name in set(base) & set(other)} == {name: other[name] for name in set(base) & set(other)}
