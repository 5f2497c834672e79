"""Networks: shapes, channels, orders, and what is refused because the images are too small or do not divide."""

from __future__ import annotations

import pytest
import torch
from engine_support import ORDERS, SEEDS, model_of, network_of
from plain_networks import load_replica, plain_network

from allelse import recipe
from allelse.errors import StudyError
from allelse.models import build_network, layer_table


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("stem", [None, {"width": 6, "norm": True, "activation": True}])
def test_every_order_builds_the_layers_of_a_plain_network(order, stem):
    model = model_of(block=order, stem=stem, width=[4, 8], norm={"name": "batch"}, activation="prelu")
    plain = dict(plain_network(model, (6, 6, 3)).named_parameters())
    table = {layer.name.replace("act.slope", "act.weight"): layer.shape for layer in layer_table(model, (6, 6, 3), 3)}
    assert table == {name: tuple(parameter.shape) for name, parameter in plain.items()}
    network = network_of(model, shape=(6, 6, 3))
    x = torch.randn(2, len(SEEDS) * 3, 6, 6, dtype=torch.float64)
    assert network(x).shape == (len(SEEDS), 2, 3)


def test_a_norm_before_the_first_convolution_meets_the_images_channels():
    group = {"name": "group", "groups": 2}
    table = {layer.name: layer.shape for layer in layer_table(model_of(norm=group, block="norm-conv-act"), (6, 6, 4), 3)}
    assert table["blocks.0.norm.weight"] == (4,)
    assert table["blocks.0.conv.weight"] == (4, 4, 3, 3)
    with pytest.raises(StudyError, match="does not divide the width 3"):
        build_network(model_of(norm=group, block="norm-conv-act"), (6, 6, 3), 3, 1)
    build_network(model_of(norm=group, block="conv-norm-act"), (6, 6, 3), 3, 1)
    build_network(model_of(norm=group, block="norm-conv-act", stem={"width": 4}), (6, 6, 3), 3, 1)


@pytest.mark.parametrize(
    ("model", "side", "said"),
    [
        ({"depth": 3, "pool": [1, 2, 3]}, 6, "block 3"),
        ({"depth": 1, "pool": [1]}, 1, "block 1"),
        ({"norm": "instance", "depth": 2, "pool": [1]}, 2, "1 × 1 in block 2"),
        ({"norm": "instance", "depth": 1}, 1, "1 × 1"),
        ({"norm": "instance", "depth": 1, "pool": [1], "pool_kind": "stride"}, 2, "1 × 1 in block 1"),
        ({"norm": "instance", "block": "norm-act-conv", "depth": 1, "pool": [1], "head": {"norm": True}}, 2, "in the head"),
        ({"depth": 2, "pool": [1, 2], "pool_kind": "stride"}, 2, "block 2"),
        ({"head": {"name": "flatten", "pool": 7}}, 6, "7"),
        ({"head": {"name": "flatten", "pool": 4}, "pool": [1]}, 6, "3 × 3"),
    ],
    ids=str,
)
def test_images_that_are_too_small_are_refused_in_one_line(model, side, said):
    with pytest.raises(StudyError, match=said) as caught:
        build_network(model_of(**model), (side, side, 1), 3, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        ({"norm": "instance"}, "block 1 gives it 5"),
        ({"norm": "instance", "block": "norm-linear", "depth": 1}, "block 1 gives it 4"),
        ({"norm": {"name": "frn", "tlu": False}, "block": "norm-linear", "depth": 1}, "block 1 gives it 4"),
        ({"norm": {"name": "group", "groups": 4}, "block": "norm-act-linear", "width": 8}, "block 1 gives it 4"),
        ({"norm": {"name": "group", "groups": 5}, "block": "linear-norm", "depth": 1}, "block 1 gives it 5"),
        ({"norm": {"name": "evonorm-s0", "groups": 5}, "activation": "identity"}, "block 1 gives it 5"),
        ({"norm": {"name": "ghost", "ghost_size": 1}}, "block 1 gives it 5"),
        ({"norm": {"name": "group", "groups": 2}, "block": "norm-linear", "depth": 1}, None),
        ({"norm": "layer", "block": "norm-linear", "depth": 1}, None),
    ],
    ids=str,
)
def test_a_norm_over_single_values_is_refused_in_an_mlp_also_of_the_images_own(model, refused):
    def build():
        build_network(model_of(family="mlp", **{"block": "linear-norm-act", "width": 5, **model}), (2, 2, 1), 3, 2)

    if refused is None:
        build()
    else:
        with pytest.raises(StudyError, match=f"single value, because an MLP has one value a feature and {refused};"):
            build()


def test_pooling_after_blocks_that_are_not_there_is_no_pooling():
    network = network_of(model_of(depth=1, pool=[1, 4]))
    assert network(torch.randn(2, 6, 6, 6, dtype=torch.float64)).shape == (3, 2, 3)


@pytest.mark.parametrize("side", [2, 4])
def test_instance_norm_is_taken_where_images_have_more_than_one_pixel(side):
    build_network(model_of(norm="instance", depth=2, pool=[2]), (side, side, 1), 3, 1)


@pytest.mark.parametrize(("side", "pool", "features"), [(7, 1, 9), (7, 2, 1), (8, 2, 4), (9, 3, 1)])
def test_a_flatten_head_sees_every_window_that_is_left(side, pool, features):
    model = model_of(head={"name": "flatten", "pool": pool}, pool=[1], width=5)
    assert layer_table(model, (side, side, 3), 4)[-2].shape == (4, 5 * features)
    network = network_of(model, shape=(side, side, 3), classes=4)
    plain = load_replica(plain_network(model, (side, side, 3), 4), network, 2)
    x = torch.randn(2, 9, side, side, dtype=torch.float64)
    torch.testing.assert_close(network(x)[2], plain(x[:, 6:]), rtol=1e-10, atol=1e-12)


def test_a_flatten_head_takes_images_in_any_memory_format():
    network = network_of(model_of(head="flatten", norm="layer"))
    x = torch.randn(2, 6, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(network(x), network(x.contiguous(memory_format=torch.channels_last)), rtol=1e-10, atol=1e-12)


def test_the_table_of_layers_is_that_of_the_network_and_makes_no_weights():
    model = model_of(width=2000, depth=30, kernel=9)
    table = layer_table(model, (6, 6, 3), 10)
    assert len(table) == 4 * 30 + 2
    small = model_of(stem={"width": 3}, activation="prelu")
    names = [(name, tuple(p.shape[1:])) for name, p in network_of(small).named_parameters()]
    assert [(layer.name, layer.shape) for layer in layer_table(small, (6, 6, 2), 3)] == names


def test_an_mlp_takes_images_of_any_shape():
    model = model_of(family="mlp", block="linear-norm-act", width=[7, 5])
    assert isinstance(model, recipe.MLP)
    shapes = [layer.shape for layer in layer_table(model, (4, 5, 3), 10) if layer.name.endswith("weight")]
    assert shapes == [(7, 60), (7,), (5, 7), (5,), (10, 5)]


def test_the_names_of_layers_do_not_depend_on_what_else_is_there():
    """Weights follow from names: a part that is repeated, moved, added or left out leaves those of the others alone."""
    orders = ["conv-norm-act-conv-norm-add-act", "norm-act-conv-norm-act-conv", "drop-conv-conv2".replace("conv2", "act-conv")]
    tables = [
        {layer.name for layer in layer_table(model_of(block=order, dropout=0.1 if "drop" in order else None), (6, 6, 2), 3)}
        for order in orders
    ]
    weights = {f"blocks.{block}.{conv}.{name}" for block in (0, 1) for conv in ("conv", "conv2") for name in ("weight", "bias")}
    assert all(weights <= table for table in tables)
    residual = layer_table(model_of(residual=True, width=[4, 4]), (6, 6, 2), 3)
    assert {layer.name for layer in residual} - {layer.name for layer in layer_table(model_of(width=[4, 4]), (6, 6, 2), 3)} == {
        "blocks.0.shortcut.weight"
    }


def test_he_et_al_2016_figure_4_can_be_written_as_orders():
    """The five placements of activation (arXiv:1603.05027) share their convolutions, and all differ in what they compute."""
    orders = {
        "original": "conv-norm-act-conv-norm-add-act",
        "norm after addition": "conv-norm-act-conv-add-norm-act",
        "activation before addition": "conv-norm-act-conv-norm-act",
        "activation-only pre-activation": "act-conv-norm-act-conv-norm",
        "full pre-activation": "norm-act-conv-norm-act-conv",
    }
    x = torch.randn(4, 6, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    networks = [network_of(model_of(block=order, residual=True, stem={"width": 4})) for order in orders.values()]
    assert all(torch.equal(networks[0].blocks[1].conv2.weight, network.blocks[1].conv2.weight) for network in networks)
    assert len({network(x).sum().item() for network in networks}) == 5


OWN = "python:parts_of_users:Bottleneck"


@pytest.mark.parametrize(("name", "values"), [("norm", ["batch", "layer"]), ("activation", ["relu", "gelu"])])
@pytest.mark.parametrize(
    "model",
    [
        {"block": "conv-norm-act"},
        {"block": "conv-act"},
        {"block": "conv-norm"},
        {"block": "conv", "stem": {"width": 4, "norm": True, "activation": True}},
        {"block": "conv", "head": {"name": "gap", "norm": True, "activation": True}},
        {"block": "conv", "head": {"name": "flatten", "hidden": [3]}},
        {"block": OWN},
        {"block": OWN, "stem": {"width": 4, "norm": True}},
        {"block": OWN, "stem": {"width": 4, "activation": True}},
        {"block": OWN, "head": {"name": "gap", "norm": True}},
        {"block": OWN, "head": {"name": "gap", "activation": True}},
        {"family": "mlp", "block": "linear-act"},
        {"family": "mlp", "block": "linear-norm"},
    ],
)
def test_what_a_model_calls_unread_changes_nothing_in_its_network(model, name, values):
    models = [model_of(**model, **{name: value}) for value in values]
    first, second = (repr(build_network(one, (6, 6, 3), 3, 1)) for one in models)
    assert (first == second) is (name in models[0].unread())
