"""The recipe: what it takes, what it refuses, and that it survives a trip through JSON."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from engine_support import ACTIVATIONS, NORMS, ORDERS
from norm_oracles import PAPER_NORMS
from pydantic import TypeAdapter, ValidationError

from allelse import blocks, recipe

MINIMAL = {"dataset": "digits"}


def recipe_of(**values: Any) -> recipe.Recipe:
    return recipe.Recipe.model_validate({**MINIMAL, **values})


def names_of(union: Any) -> set[str]:
    """The names that a discriminated union allows."""
    parts = get_args(get_args(get_args(union)[0])[0]) or get_args(get_args(union)[0])
    return {name for part in parts for name in get_args(part.model_fields["name"].annotation)}


def test_the_catalogues_of_blocks_have_exactly_the_names_that_the_recipe_allows():
    assert names_of(recipe.Norm) == set(blocks.NORMS) == {*NORMS, *PAPER_NORMS}
    assert names_of(recipe.Activation) == set(blocks.ACTIVATIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", blocks.ACTIVATIONS)
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
        "norm": {"name": "group", "channels_per_group": 8},
        "activation": {"name": "elu", "alpha": 2.0},
        "pool": [1],
        "pool_kind": "avg",
        "head": {"name": "flatten", "pool": 2},
    },
}


@pytest.mark.parametrize(
    "values",
    [
        MINIMAL,
        FULL,
        {**MINIMAL, "model": {"family": "mlp", "norm": "layer"}},
        {**MINIMAL, "schedule": "one-cycle", "optimizer": "adam"},
    ],
    ids=["minimal", "full", "mlp", "one-cycle"],
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
        ({"model": {"family": "transformer"}}, "convnet"),
        ({"model": {"block": "conv-norm-norm"}}, "at most once"),
        ({"model": {"block": "norm-act"}}, "conv"),
        ({"model": {"block": "conv-nrm"}}, "did you mean 'norm'"),
        ({"model": {"block": "linear-act"}}, "linear"),
        ({"model": {"family": "mlp", "block": "conv-act"}}, "conv"),
        ({"model": {"family": "mlp", "norm": "instance"}}, "instance"),
        ({"model": {"family": "mlp", "pool": [1]}}, "unknown key"),
        ({"model": {"depth": 0}}, "greater than or equal to 1"),
        ({"model": {"depth": True}}, "valid integer"),
        ({"model": {"width": 0}}, "from 1 to 65536"),
        ({"model": {"width": 2.5}}, "whole number"),
        ({"model": {"width": True}}, "whole number"),
        ({"model": {"width": []}}, "from 1 to 65536"),
        ({"model": {"width": [8, "8"]}}, "whole number"),
        ({"model": {"width": [8, 8], "depth": 3}}, "one width for each block"),
        ({"model": {"kernel": 4}}, "odd"),
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
        ({"schedule": {"name": "step"}}, "milestones or every"),
        ({"schedule": {"name": "step", "every": 2, "milestones": [3]}}, "milestones or every"),
        ({"schedule": {"name": "cosine", "floor": 1.5}}, "less than or equal to 1"),
        ({"schedule": {"name": "one-cycle", "warmup_epochs": 1}}, "unknown key"),
        ({"augment": ["flip", "flip"]}, "twice"),
        ({"augment": ["rotate"]}, "flip"),
        ({"label_smoothing": 1.0}, "less than 1"),
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
