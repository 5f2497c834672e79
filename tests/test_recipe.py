"""The recipe: what it takes, what it refuses, and that it survives a trip through JSON."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from engine_support import ACTIVATIONS, NORMS, ORDERS
from norm_oracles import PAPER_NORMS
from pydantic import TypeAdapter, ValidationError

from allelse import blocks, recipe
from allelse.engine import optim

MINIMAL = {"dataset": "digits"}


def recipe_of(**values: Any) -> recipe.Recipe:
    return recipe.Recipe.model_validate({**MINIMAL, **values})


def names_of(union: Any) -> set[str]:
    """The names that a discriminated union allows, besides those of the user's own."""
    ours, _ = get_args(get_args(union)[0])
    return {name for part in get_args(get_args(ours)[0]) for name in get_args(part.model_fields["name"].annotation)}


def test_the_catalogues_have_exactly_the_names_that_the_recipe_allows():
    assert names_of(recipe.Norm) == set(blocks.NORMS) == {*NORMS, *PAPER_NORMS}
    assert names_of(recipe.Activation) == set(blocks.ACTIVATIONS) == set(ACTIVATIONS)
    assert names_of(recipe.Optimizer) == set(optim.OPTIMIZERS)


@pytest.mark.parametrize("name", [name for name in blocks.ACTIVATIONS if name != "threshold"])
def test_every_activation_may_be_written_as_its_name(name):
    assert recipe_of(model={"activation": name}) == recipe_of(model={"activation": {"name": name}})


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_is_taken_by_both_families(order):
    assert recipe_of(model={"block": order, "width": 32}).model.block == order
    linear = order.replace("conv", "linear")
    assert recipe_of(model={"family": "mlp", "block": linear, "width": 32}).model.block == linear


FULL = {
    "dataset": "cifar10",
    "train_per_class": 100,
    "validation_per_class": 10,
    "epochs": 3,
    "augment": ["flip", {"name": "crop", "padding": 3}, "cutout"],
    "optimizer": {"name": "adamw", "betas": [0.8, 0.99], "lr_scaling": "sqrt"},
    "schedule": {"name": "step", "milestones": [1, 2], "warmup_epochs": 0.5},
    "label_smoothing": 0.1,
    "precision": "fp32",
    "model": {
        "stem": {"width": 16, "norm": True},
        "width": [16, 32, 64],
        "depth": 2,
        "block": "act-conv-norm",
        "norm": {"name": "group", "groups": [4, 8]},
        "kernel": [3, 5],
        "residual": True,
        "activation": {"name": "elu", "alpha": 2.0},
        "pool": [1],
        "pool_kind": "avg",
        "head": {"name": "flatten", "pool": 2, "hidden": [32, 16], "dropout": 0.5},
    },
}


@pytest.mark.parametrize(
    "values",
    [
        MINIMAL,
        FULL,
        {**MINIMAL, "model": {"family": "mlp", "norm": "layer"}},
        {**MINIMAL, "schedule": "one-cycle", "optimizer": "adam"},
        {**MINIMAL, "schedule": "linear", "optimizer": "asgd", "model": {"init": {"name": "orthogonal", "gain": "activation"}}},
        {**MINIMAL, "optimizer": "rprop", "model": {"init": {"name": "kaiming_normal", "gain": 2}, "activation": "celu"}},
    ],
    ids=["minimal", "full", "mlp", "one-cycle", "gain", "kaiming"],
)
def test_a_recipe_survives_json(values):
    one = recipe.Recipe.model_validate(values)
    plain = one.model_dump(mode="json")
    assert recipe.Recipe.model_validate(json.loads(json.dumps(plain))) == one
    assert recipe.Recipe.model_validate(plain).model_dump(mode="json") == plain
    assert recipe.Recipe.model_validate(json.loads(json.dumps(one.plain()))) == one


def test_plain_values_name_the_parts_and_leave_defaults_out():
    one = recipe.Recipe.model_validate({**MINIMAL, "epochs": 10, "model": {"norm": "batch", "activation": "prelu"}})
    assert one.plain() == {**MINIMAL, "model": {"family": "convnet", "activation": {"name": "prelu"}}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"model": {"widht": 3}}, "did you mean 'width'"),
        ({"model": {"norm": {"name": "batch", "groups": 2}}}, "unknown key"),
        ({"model": {"norm": "bacth"}}, "batch"),
        ({"model": {"activation": "rulu"}}, "relu"),
        ({"model": {"activation": "threshold"}}, "threshold"),
        ({"model": {"activation": {"name": "elu", "slope": 1.0}}}, "unknown key"),
        ({"model": {"activation": {"name": "gelu", "approximate": "tan"}}}, "tanh"),
        ({"model": {"activation": {"name": "hardtanh", "min_val": 1.0}}}, "min_val = 1 is not below max_val = 1"),
        ({"model": {"activation": {"name": "softshrink", "lambd": -0.1}}}, "greater than or equal to 0"),
        ({"model": {"init": "he"}}, "kaiming_normal"),
        ({"model": {"init": {"name": "xavier_normal", "mode": "fan_out"}}}, "unknown key"),
        ({"model": {"init": {"name": "kaiming_normal", "mode": "fan"}}}, "fan_out"),
        ({"model": {"init": {"name": "orthogonal", "gain": 0}}}, "a number more than 0, or 'activation'"),
        ({"model": {"init": {"name": "orthogonal", "gain": "relu"}}}, "a number more than 0, or 'activation'"),
        (
            {"model": {"init": {"name": "orthogonal", "gain": "activation"}, "activation": "gelu"}},
            "none for the activation 'gelu'",
        ),
        ({"model": {"init": {"name": "default", "gain": 2.0}}}, "unknown key"),
        ({"model": {"family": "transformer"}}, "convnet"),
        ({"model": {"block": "conv-norm-norm"}}, "none twice in a row"),
        ({"model": {"block": "norm-act"}}, "conv"),
        ({"model": {"block": "conv-nrm"}}, "did you mean 'norm'"),
        ({"model": {"block": "linear-act"}}, "linear"),
        ({"model": {"family": "mlp", "block": "conv-act"}}, "conv"),
        ({"model": {"family": "mlp", "pool": [1]}}, "unknown key"),
        ({"model": {"depth": 0}}, "greater than or equal to 1"),
        ({"model": {"depth": True}}, "valid integer"),
        ({"model": {"width": 0}}, "from 1 to 65536"),
        ({"model": {"width": 2.5}}, "whole number"),
        ({"model": {"width": True}}, "whole number"),
        ({"model": {"width": []}}, "from 1 to 65536"),
        ({"model": {"width": [8, "8"]}}, "whole number"),
        ({"model": {"width": [8, 8], "depth": 3}}, "one width for each block"),
        ({"model": {"block": "act-drop-drop-conv", "dropout": 0.1}}, "none twice in a row"),
        ({"model": {"block": "conv-add-norm-add", "residual": True}}, "'add' once, after the last 'conv'"),
        ({"model": {"block": "conv-add-conv", "residual": True}}, "'add' once, after the last 'conv'"),
        ({"model": {"block": "conv-drop"}}, "as in dropout = 0.2"),
        ({"model": {"dropout": 0.2}}, "as in 'conv-norm-act-drop', or leave it out"),
        ({"model": {"block": "conv-drop", "dropout": 1.0}}, "less than 1"),
        ({"model": {"residual": "yes"}}, "valid boolean"),
        ({"model": {"conv": "depthwise"}}, "'depthwise-separable'"),
        ({"model": {"pool_kind": "strides"}}, "'stride'"),
        ({"model": {"kernel": 4}}, "odd"),
        ({"model": {"kernel": [3, 4], "depth": 2}}, "kernel is 4"),
        ({"model": {"kernel": [3, 3], "depth": 3}}, "kernel lists 2 blocks, depth asks for 3; give one kernel for each block"),
        ({"model": {"kernel": 0}}, "from 1 to 65536"),
        ({"model": {"norm": {"name": "group", "groups": [4, 4]}, "depth": 3}}, "norm.groups lists 2 blocks"),
        ({"model": {"norm": {"name": "group", "groups": [4, 5]}, "depth": 2}}, "norm.groups = 5 does not divide the width 64"),
        ({"model": {"norm": {"name": "group", "groups": [4, 0]}, "depth": 2}}, "from 1 to 65536"),
        ({"model": {"norm": {"name": "group", "groups": [4], "channels_per_group": 2}, "depth": 1}}, "not both"),
        ({"model": {"norm": {"name": "group", "groups": 3}, "block": "norm-conv", "depth": 1, "head": {"norm": True}}}, "64"),
        ({"model": {"head": {"name": "flatten", "hidden": 128}}}, "valid tuple"),
        ({"model": {"head": {"name": "flatten", "hidden": [0]}}}, "greater than or equal to 1"),
        ({"model": {"head": {"dropout": 1.0}}}, "less than 1"),
        ({"model": {"family": "mlp", "head": "gap"}}, "unknown key"),
        ({"model": {"stem": {"width": 8, "kernel": 2}}}, "odd"),
        ({"model": {"stem": {}}}, "width"),
        ({"model": {"pool": [0]}}, "greater than or equal to 1"),
        ({"model": {"pool_kind": "median"}}, "max"),
        ({"model": {"head": {"name": "gap", "pool": 2}}}, "flatten"),
        ({"model": {"norm": {"name": "group", "groups": 4, "channels_per_group": 2}}}, "not both"),
        ({"model": {"norm": {"name": "group", "groups": 5}, "width": 64}}, "does not divide the width 64"),
        ({"model": {"norm": {"name": "group", "channels_per_group": 5}, "width": 64}}, "does not divide the width 64"),
        ({"model": {"norm": {"name": "group", "channels_per_group": 65}, "width": 64}}, "does not divide"),
        ({"model": {"norm": "group", "width": 48}}, "groups = 32 does not divide the width 48"),
        ({"model": {"norm": "group", "width": [64, 48, 64], "depth": 2}}, "48"),
        ({"model": {"norm": "group", "stem": {"width": 12, "norm": True}}}, "12"),
        ({"model": {"norm": {"name": "batch", "momentum": 0.0}}}, "greater than 0"),
        ({"optimizer": {"name": "sgd"}}, "required"),
        ({"optimizer": {"name": "sgd", "lr": 0.0}}, "greater than 0"),
        ({"optimizer": {"name": "sgd", "lr": "0.1"}}, "valid number"),
        ({"optimizer": {"name": "sgd", "lr": 0.1, "nesterov": True}}, "momentum"),
        ({"optimizer": {"name": "sgd", "lr": float("nan")}}, "finite"),
        ({"optimizer": {"name": "adam", "betas": [0.9]}}, "betas"),
        ({"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "dampening": 0.1}}, "no dampening"),
        ({"optimizer": {"name": "rprop", "weight_decay": 0.1}}, "unknown key"),
        ({"optimizer": {"name": "rprop", "etas": [0.5, 0.9]}}, "greater than 1"),
        ({"optimizer": {"name": "rprop", "step_sizes": [1.0, 0.5]}}, "smallest"),
        ({"optimizer": "rprop", "schedule": "cosine"}, "schedule"),
        ({"optimizer": "rprop", "schedule": {"name": "constant", "warmup_epochs": 1}}, "schedule"),
        ({"optimizer": "rmsprob"}, "rmsprop"),
        ({"schedule": "exponential"}, "factor"),
        ({"schedule": {"name": "cosine", "per": "epochs"}}, "epoch"),
        ({"schedule": {"name": "step"}}, "milestones or every"),
        ({"schedule": {"name": "step", "every": 2, "milestones": [3]}}, "milestones or every"),
        ({"schedule": {"name": "cosine", "floor": 1.5}}, "less than or equal to 1"),
        ({"schedule": {"name": "one-cycle", "warmup_epochs": 1}}, "unknown key"),
        ({"augment": ["flip", "flip"]}, "twice"),
        ({"augment": ["rotate"]}, "flip"),
        ({"label_smoothing": 1.0}, "less than 1"),
        (
            {"model": {"family": "mlp", "block": "linear-drop", "dropout": 0.1, "dropout_of": "channels"}},
            "dropout_of is channels, which in an MLP are numbers",
        ),
        ({"model": {"dropout_of": "channels"}}, "dropout_of = channels has no 'drop' in block"),
        ({"model": {"block": "conv-drop", "dropout": 0.1, "dropout_of": "rows"}}, "'numbers', 'channels' or 'images'"),
        ({"epochs": 1.5}, "integer"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"precision": "fp8"}, "fp16" if False else "bf16"),
        ({"dataset": ""}, "at least 1 character"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_what_is_allowed(values, said):
    with pytest.raises(ValidationError) as caught:
        recipe_of(**values)
    assert said in str(caught.value)


def test_recipes_and_their_parts_are_frozen():
    one = recipe.Recipe.model_validate(FULL)
    for part, name, value in (
        (one, "epochs", 4),
        (one.model, "depth", 1),
        (one.model.norm, "eps", 1.0),
        (one.optimizer, "lr", 1.0),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, value)
    assert isinstance(one.model.width, tuple)
    assert isinstance(one.augment, tuple)


@pytest.mark.parametrize(
    ("given", "depth", "widths"),
    [(8, 3, (8, 8, 8)), ([8, 16, 32], 3, (8, 16, 32)), ([8, 16, 32], 2, (8, 16)), ((4,), 1, (4,))],
)
def test_a_width_is_one_number_or_one_for_each_block(given, depth, widths):
    assert recipe_of(model={"width": given, "depth": depth}).model.widths() == widths


def test_groups_matter_only_where_a_norm_meets_a_width():
    group = {"name": "group", "groups": 4}
    recipe_of(model={"norm": group, "width": 6, "block": "conv-act"})
    recipe_of(model={"norm": group, "width": [4, 8, 6], "depth": 2})
    recipe_of(model={"norm": group, "width": 8, "stem": {"width": 6}})
    # A norm before the convolution never meets the last width, which goes to the head.
    recipe_of(model={"norm": group, "width": [8, 6], "depth": 2, "block": "norm-conv-act", "stem": {"width": 4}})
    recipe_of(model={"family": "mlp", "norm": group, "width": [8, 6], "depth": 2, "block": "norm-linear-act"})
    # Blocks count their groups each for themselves, whichever width their norm meets; the stem is as the first block.
    listed = {"name": "group", "groups": [4, 3]}
    recipe_of(model={"norm": listed, "width": [8, 6], "depth": 2, "stem": {"width": 12, "norm": True}})
    recipe_of(model={"norm": listed, "width": [6, 8], "depth": 2, "block": "norm-conv-act", "stem": {"width": 4}})
    with pytest.raises(ValidationError, match="does not divide the width 6"):
        recipe_of(model={"norm": listed, "width": [8, 6], "depth": 2, "stem": {"width": 6, "norm": True}})
    with pytest.raises(ValidationError, match="does not divide the width 6"):
        recipe_of(model={"norm": group, "width": [6, 8], "depth": 2, "block": "norm-conv-act"})
    with pytest.raises(ValidationError, match="does not divide the width 6"):
        recipe_of(model={"norm": group, "width": 8, "depth": 2, "block": "norm-conv-act", "stem": {"width": 6}})


@pytest.mark.parametrize(("channels", "groups"), [(32, 32), (64, 32), (96, 32)])
def test_group_norm_has_32_groups_unless_told(channels, groups):
    assert recipe.GroupNorm().groups_of(channels) == groups
    assert recipe.GroupNorm(channels_per_group=16).groups_of(channels) == channels // 16


def test_a_name_alone_stands_for_a_part_with_its_defaults():
    adapter = TypeAdapter(recipe.Norm)
    assert adapter.validate_python("group") == recipe.GroupNorm()
    assert recipe_of(optimizer="adam", schedule="cosine", augment=["crop"]) == recipe_of(
        optimizer={"name": "adam", "lr": 1e-3},
        schedule={"name": "cosine", "floor": 0.0},
        augment=[{"name": "crop", "padding": 4}],
    )
