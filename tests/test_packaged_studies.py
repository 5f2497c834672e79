"""The four founding studies: the brief's factors, sizes and figures, and a small version of each on the bundled digits."""

from pathlib import Path

import pandas as pd
import pytest

from allelse import data, store, study
from allelse.fit import check_arm
from allelse.report.evidence import SCALED, compare, compare_table

RESULTS = Path(__file__).parents[1] / "results"
NAMES = ["sigmoid-vs-relu", "batchnorm-vs-groupnorm", "batchnorm-vs-groupnorm-many-epochs", "conv-activation-norm-position"]
BATCHES = (2, 4, 8, 16, 32, 64, 128)
NORM_FIGURES = {
    ("batch", 2): 42.3,
    ("batch", 8): 70.1,
    ("batch", 64): 75.8,
    ("batch", 128): 76.2,
    ("group", 2): 64.8,
    ("group", 8): 69.5,
    ("group", 64): 76.1,
    ("group", 128): 76.4,
}


def figures(loaded: study.Study, *factors: str) -> dict[tuple, float]:
    return {tuple(reference.arm[factor] for factor in factors): reference.accuracy for reference in loaded.references}


def test_the_packaged_studies_are_these_four_in_the_order_of_the_mission():
    assert list(study.packaged_studies()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_study_has_its_files_name_and_enough_seeds(name):
    loaded = study.load(name)
    assert loaded.name == name
    assert loaded.seeds == tuple(range(10))
    assert loaded.claims


def test_sigmoid_vs_relu_is_as_in_the_brief():
    loaded = study.load("sigmoid-vs-relu")
    assert loaded.factors["model.activation"] == ("sigmoid", "relu")
    assert loaded.factors["model.depth"] == tuple(range(1, 9))
    assert {(arm.recipe.dataset, arm.recipe.model.block) for arm in loaded.arms} == {("cifar10", "conv-norm-act")}
    assert {arm.recipe.model.norm.name for arm in loaded.arms} == {"batch", "none"}  # the brief's, and where gradients vanish
    assert {reference.arm.get("model.norm") for reference in loaded.references} == {"batch"}
    assert figures(loaded, "model.activation", "model.depth") == {
        ("sigmoid", 1): 75.2,
        ("sigmoid", 4): 68.5,
        ("sigmoid", 8): 55.7,
        ("relu", 1): 78.9,
        ("relu", 4): 81.3,
        ("relu", 8): 83.1,
    }


@pytest.mark.parametrize("name", NAMES[1:3])
def test_batchnorm_vs_groupnorm_is_as_in_the_brief(name):
    loaded = study.load(name)
    assert loaded.factors == {"model.norm": ("batch", "group"), "batch_size": BATCHES}
    assert {(arm.recipe.dataset, arm.recipe.model.block, arm.recipe.model.activation.name) for arm in loaded.arms} == {
        ("cifar100", "conv-norm-act", "relu")
    }
    groups = {arm.recipe.model.norm.groups_of(64) for arm in loaded.arms if arm.levels["model.norm"] == "group"}
    assert groups == {32}
    assert figures(loaded, "model.norm", "batch_size") == NORM_FIGURES


def test_many_epochs_follows_the_groupnorm_paper():
    recipe = study.load("batchnorm-vs-groupnorm-many-epochs").arms[0].recipe
    assert (recipe.epochs, recipe.optimizer.name, recipe.optimizer.momentum, recipe.optimizer.lr_scaling) == (
        100,
        "sgd",
        0.9,
        "linear",
    )
    assert recipe.schedule.name in ("cosine", "step")
    assert recipe.schedule.warmup_epochs > 0


def test_conv_activation_norm_position_is_as_in_the_brief():
    loaded = study.load("conv-activation-norm-position")
    parts = {arm.levels["order"]: (arm.recipe.model.block, arm.recipe.model.activation.name) for arm in loaded.arms}
    assert parts == {
        "Conv→BN→ReLU": ("conv-norm-act", "relu"),
        "Conv→ReLU→BN": ("conv-act-norm", "relu"),
        "Conv→LeakyReLU→BN": ("conv-act-norm", "leaky_relu"),
        "Conv→BN→LeakyReLU": ("conv-norm-act", "leaky_relu"),
    }
    assert {(arm.recipe.model.depth, arm.recipe.dataset) for arm in loaded.arms} == {(8, "cifar10")}
    assert figures(loaded, "order") == {("Conv→BN→ReLU",): 83.1, ("Conv→ReLU→BN",): 82.4, ("Conv→LeakyReLU→BN",): 82.8}


@pytest.mark.parametrize("name", NAMES)
def test_the_quick_version_asks_the_same_of_the_digits(name):
    loaded, quick = study.load(name), study.load(name, quick=True)
    assert list(quick.factors) == list(loaded.factors)
    assert all(set(levels) <= set(loaded.factors[factor]) for factor, levels in quick.factors.items())
    assert quick.claims == loaded.claims
    assert {arm.recipe.dataset for arm in quick.arms} == {"digits"}
    assert 3 <= len(quick.seeds) <= len(loaded.seeds)
    digits = data.load("digits")
    for arm in quick.arms:
        check_arm(arm, digits)


@pytest.mark.parametrize("name", NAMES)
def test_the_scaled_version_asks_the_same_of_the_same_data_where_the_brief_has_figures(name):
    loaded, scaled = study.load(name), study.load(name, scaled=True)
    assert scaled.name == f"{name}-scaled"
    assert scaled.command == f"allelse run {name} --scaled"
    assert scaled.claims == loaded.claims
    assert {arm.recipe.dataset for arm in scaled.arms} == {arm.recipe.dataset for arm in loaded.arms}
    assert [reference for reference in loaded.references if not scaled.design.find(reference.arm, {})] == []
    assert scaled.definition()["scaled"]
    assert "scaled" not in loaded.definition()


def test_a_scaled_study_stands_beside_published_figures_but_is_not_tested_against_them():
    scaled = study.load("sigmoid-vs-relu", scaled=True)
    found = compare_table(scaled.definition(), pd.DataFrame())
    assert [one.verdict for one in found] == ["cannot tell"] * len(scaled.references)
    assert {one.reason for one in found} == {SCALED}


def test_a_scaled_study_shows_its_own_figures_beside_them():
    folder = RESULTS / "sigmoid-vs-relu-scaled"
    with store.read(folder) as opened:
        found = compare(opened)
    assert [one.ours.n for one in found] == [3] * 6
    assert {(one.verdict, one.p, one.prediction_low) for one in found} == {("cannot tell", None, None)}
