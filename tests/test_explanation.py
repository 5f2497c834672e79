"""Looking at a network: costs against counts by hand, what sets two arms apart, arms by their levels, and the screen."""

from __future__ import annotations

import pytest
import torch
from study_support import PLAIN, allelse, changed, mistake, write_study

import allelse as package
from allelse import study
from allelse.cli.explanation import binary, ranges, si
from allelse.data import sources
from allelse.explanation import anatomy, difference, find_arm

DEEP = """\
[study]
name     = "deep"
question = "Does depth matter?"
seeds    = 3

[recipe]
dataset    = "cifar10"
batch_size = 10
precision  = "fp32"

[recipe.model]
width = [4, 4, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8]
depth = 16
pool  = [8]

[factors]
"model.kernel"     = [3, 5]
"model.activation" = ["relu", "sigmoid"]
order              = { first = { "model.block" = "conv-norm-act" }, last = { "model.block" = "conv-act-norm" } }
"model.depth"      = [16, 2]
"""
CHOSEN = ["--arm", "kernel=3", "--arm", "activation=relu", "--arm", "order=first", "--arm", "depth=16"]


@pytest.fixture
def deep(tmp_path, monkeypatch):
    """A study of 16 arms on CIFAR-10, which is not on this machine."""

    def gone(*_):
        raise AssertionError("the data set was asked for")

    monkeypatch.setattr(sources, "find", gone)
    return write_study(tmp_path, DEEP)


def arm_of(file, *levels):
    loaded = study.load(file)
    return find_arm(loaded, levels)


def wide(text):
    return max(map(len, text.splitlines()))


# ── what is counted ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_totals_are_those_counted_by_hand(deep):
    shown = anatomy(arm_of(deep, "kernel=3", "activation=relu", "order=first", "depth=2"))
    pixels = 32 * 32
    assert shown.macs == pixels * 9 * (3 * 4 + 4 * 4) + 4 * 10
    assert shown.parameters == (3 * 4 * 9 + 4) + (4 * 4 * 9 + 4) + 2 * (4 + 4) + (4 * 10 + 10)
    assert shown.activations == 2 * 3 * 4 * pixels + 4 + 10
    assert shown.memory.activations == shown.activations * 4 * 10


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [("adam", 2), ("adamw", 2), ("{ name = 'sgd', lr = 0.1 }", 0), ("{ name = 'sgd', lr = 0.1, momentum = 0.9 }", 1)],
)
def test_memory_counts_what_the_optimiser_keeps(deep, optimizer, numbers):
    loaded = study.load(deep, changes=[f"optimizer={optimizer}"])
    memory = anatomy(loaded.arms[0]).memory
    assert memory.optimizer == numbers * memory.weights
    assert memory.total == (2 + numbers) * memory.weights + memory.activations


@pytest.mark.parametrize(("precision", "weight", "activation"), [("fp64", 8, 8), ("bf16", 4, 2), ("auto", 4, 4)])
def test_memory_counts_in_the_recipes_precision(deep, precision, weight, activation):
    shown = anatomy(study.load(deep, changes=[f"precision={precision}"]).arms[0])
    assert shown.memory.weights == weight * shown.parameters
    assert shown.memory.activations == activation * 10 * shown.activations


# ── what differs ────────────────────────────────────────────────────────────────────────────────────────────────────


def differ(file, first, *against):
    loaded = study.load(file)
    start = find_arm(loaded, first)
    return difference(anatomy(start), anatomy(find_arm(loaded, against, start)), seed=0)


FIRST = ("kernel=3", "activation=relu", "order=first", "depth=16")


def test_two_activations_differ_in_the_activations_alone(deep):
    found = differ(deep, FIRST, "activation=sigmoid")
    assert {key: values for key, values in found.keys.items() if values != [None, None]} == {
        "model.activation.name": ["relu", "sigmoid"]
    }
    assert [old.name for old, _ in found.changed] == [f"blocks.{number}.act" for number in range(16)]
    assert (found.added, found.removed, found.orders) == ((), (), {})
    assert found.equal == 16 * 2 + 3
    assert len(found.weights) == 16 * 4 + 2
    assert all(found.weights.values())


def test_biases_that_start_elsewhere_are_found_by_their_values(deep):
    found = differ(deep, FIRST, "kernel=5")
    apart = {name for name, equal in found.weights.items() if not equal}
    assert apart == {f"blocks.{number}.conv.bias" for number in range(16)}
    assert "head.weight" in found.weights


def test_an_order_that_differs_is_told_though_every_layer_is_alike(deep):
    found = differ(deep, FIRST, "order=last")
    assert not found.changed
    assert set(found.orders) == {f"blocks.{number}" for number in range(16)}
    assert found.orders["blocks.0"] == (("conv", "norm", "act"), ("conv", "act", "norm"))


def test_layers_that_one_arm_lacks_are_told(deep):
    found = differ(deep, ("kernel=3", "activation=relu", "order=first", "depth=2"), "depth=16")
    assert len(found.added) == 14 * 3 + 1
    assert not found.removed
    assert [old.name for old, _ in found.changed] == ["head_pool", "head"]
    assert "head.bias" in found.weights


def test_weights_are_compared_bit_by_bit(deep, monkeypatch):
    from allelse import explanation

    real, made = explanation.initialise, []

    def disturbed(network, seeds):
        real(network, seeds)
        made.append(seeds)
        if len(made) == 2:
            with torch.no_grad():
                network.blocks[3].conv.weight[0, 0, 0, 0, 0] += 1e-6

    monkeypatch.setattr(explanation, "initialise", disturbed)
    found = differ(deep, FIRST, "activation=sigmoid")
    assert [name for name, equal in found.weights.items() if not equal] == ["blocks.3.conv.weight"]


# ── which arm ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_arm_can_be_addressed_by_its_levels(deep):
    loaded = study.load(deep)
    for arm in loaded.arms:
        assert find_arm(loaded, [f"{factor}={level}" for factor, level in arm.levels.items()]) is arm
    assert find_arm(study.load(deep, changes=["model.kernel=3", "order=first", "model.depth=2"]), ["activation = relu"])


def test_keys_whose_last_parts_are_the_same_are_given_with_more_of_them(tmp_path):
    factors = '"model.activation" = ["relu"]\n"optimizer.name" = ["adam", "adamw"]\n"model.norm.name" = ["batch", "none"]'
    loaded = study.load(write_study(tmp_path, changed('"model.activation" = ["sigmoid", "relu"]', factors, PLAIN)))
    assert find_arm(loaded, ["optimizer.name=adamw", "model.norm.name=none"]).levels["model.norm.name"] == "none"
    with pytest.raises(package.AllelseError, match=r"no such level; did you mean 'norm\.name=none'"):
        find_arm(loaded, ["name=none"])


def test_an_arm_is_named_by_the_names_that_address_it(tmp_path):
    factors = """"model.head.name" = ["gap", "flatten"]
"model.norm.name" = { when = { "model.head.name" = "gap" }, levels = ["batch", "none"] }"""
    loaded = study.load(write_study(tmp_path, changed('"model.activation" = ["sigmoid", "relu"]', factors, PLAIN)))
    names = [arm.name for arm in loaded.arms]
    assert names == ["head.name gap, norm.name batch", "head.name gap, norm.name none", "head.name flatten"]
    for arm in loaded.arms:
        assert find_arm(loaded, [text.replace(" ", "=") for text in arm.name.split(", ")]) is arm


def test_true_and_numbers_are_written_as_in_the_study_file(tmp_path):
    levels = '"model.bias" = [true, false]\n"optimizer.lr" = [0.1, 1e-3]'
    loaded = study.load(write_study(tmp_path, changed('"model.activation" = ["sigmoid", "relu"]', levels, PLAIN)))
    assert find_arm(loaded, ["bias=true", "lr=0.001"]).levels == {"model.bias": True, "optimizer.lr": 0.001}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "deep: 16 arms match; add --arm kernel=3 (or 5) and --arm activation=relu (or sigmoid) and --arm order=first (or"),
        (CHOSEN[2:], "--arm activation=relu --arm order=first --arm depth=16: 2 arms match; add --arm kernel=3 (or 5)"),
        (
            ["--arm", "activation=rely"],
            "--arm activation=rely: no such level; did you mean 'activation=relu'? allowed: kernel=3,",
        ),
        (["--arm", "relu"], "--arm relu: no such level; "),
        (
            [*CHOSEN, "--arm", "kernel=5"],
            "--arm kernel=3 --arm activation=relu --arm order=first --arm depth=16 --arm kernel=5: ",
        ),
        ([*CHOSEN, "--against", "kernel=3"], "--against kernel=3: is the arm itself; name a level that it does not have"),
        ([*CHOSEN, "--against", "krnel=3"], "--against krnel=3: no such level; did you mean 'kernel=3'? "),
        (["--against", "kernel=3"], "deep: 16 arms match; add --arm "),
        ([*CHOSEN, "--set", "model.depth=0"], "--set model.depth=0: "),
    ],
)
def test_an_arm_that_cannot_be_found_is_one_line(deep, options, expected):
    assert mistake("explain", deep, *options).startswith(expected)


def test_data_that_are_not_there_are_one_line(tmp_path):
    file = write_study(tmp_path, changed('"digits"', f'"folder:{tmp_path}/none"', PLAIN))
    assert f"{tmp_path}/none" in mistake("explain", file, "--arm", "activation=relu")
    file = write_study(tmp_path, changed('"digits"', '"cifar1"', PLAIN))
    assert "did you mean 'cifar10'?" in mistake("explain", file, "--arm", "activation=relu")
    assert "no such study" in mistake("explain", "sigmoid-vs-rel")


# ── the screen ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fifty_layers_are_a_screen_of_80_columns(deep):
    ended = allelse("explain", deep, *CHOSEN)
    assert (ended.code, ended.err) == (0, "")
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert (wide(ended.out) <= 80, len(lines) < 40) == (True, True)
    assert lines[:2] == ["deep: kernel 3, activation relu, order first, depth 16", "cifar10: images of 32 × 32 × 3, 10 classes"]
    assert "blocks.0.conv 1 Conv2d 3×3 4×32×32 112 110.6 k" in lines
    assert "blocks.1–7.conv 7 Conv2d 3×3 4×32×32 148 147.5 k" in lines
    assert "blocks.9–15.act 7 ReLU 8×16×16 0 –" in lines
    shown = anatomy(arm_of(deep, *FIRST))
    assert f"total 51 {shown.parameters:,} {si(shown.macs)}" in lines
    assert f"together {binary(shown.memory.total)}" in lines


def test_the_screen_of_a_difference_says_that_only_one_thing_changed(deep):
    ended = allelse("explain", deep, *CHOSEN, "--against", "activation=sigmoid")
    assert (ended.code, ended.err) == (0, "")
    assert wide(ended.out) <= 80
    told = ended.out.partition("Recipe keys that differ")[2]
    assert told.startswith(
        "\n  model.activation.name: relu → sigmoid\n\nLayers that differ\n  blocks.0–15.act: ReLU → Sigmoid\n\n"
    )
    text = " ".join(told.split())
    assert "Equal in both: all other recipe keys; 35 layers; the initial weights in 66 parameter tensors" in text
    assert "start from other values" not in text


def test_the_screen_of_a_difference_shows_costs_orders_and_biases(deep):
    options = ["--against", "kernel=5", "--against", "order=last", "--against", "depth=2"]
    ended = allelse("explain", deep, *CHOSEN, *options)
    assert wide(ended.out) <= 80
    text = " ".join(ended.out.partition("Layers that differ")[2].split())
    assert "blocks.0–1.conv: Conv2d 3×3 → Conv2d 5×5 " in text
    assert "blocks.0–1: order conv, norm, act → conv, act, norm " in text
    assert "blocks.2–15.conv, blocks.2–15.norm, blocks.2–15.act, pool.8: only in the first " in text
    first, second = anatomy(arm_of(deep, *FIRST)), anatomy(arm_of(deep, "kernel=5", "activation=relu", "order=last", "depth=2"))
    assert f"parameters: {first.parameters:,} → {second.parameters:,}" in text
    assert text.endswith("start from other values: blocks.0–1.conv.bias, head.bias")


def test_packaged_studies_are_explained_without_their_data(monkeypatch):
    monkeypatch.setattr(sources, "find", lambda *_: pytest.fail("the data set was asked for"))
    options = ["--arm", "activation=relu", "--arm", "depth=8", "--arm", "norm=batch", "--against", "norm=none"]
    ended = allelse("explain", "sigmoid-vs-relu", *options)
    assert (ended.code, ended.err) == (0, "")
    assert "blocks.0–7.norm: only in the first" in ended.out


def test_quick_and_a_study_of_one_arm_need_no_levels(tmp_path):
    file = write_study(tmp_path, PLAIN.split("\n[factors]")[0])
    ended = allelse("explain", file)
    assert ended.out.startswith("tiny: the only arm\ndigits: images of 8 × 8 × 1, 10 classes\n")


def test_a_notebook_gets_the_layers_as_a_frame(deep):
    loaded = package.load(deep)
    for _ in range(2):  # importing a module of this name must not hide the function
        frame = package.explain(loaded, *FIRST)
    assert frame["parameters"].sum() == anatomy(arm_of(deep, *FIRST)).parameters
    assert list(frame.columns) == ["name", "kind", "output_shape", "parameters", "macs", "activations"]


def test_names_in_a_row_are_one_range():
    assert ranges(["blocks.0.act", "blocks.1.act", "blocks.2.act", "head"]) == ["blocks.0–2.act", "head"]
    assert ranges(["blocks.0.act", "blocks.2.act", "blocks.3.act", "pool.2"]) == ["blocks.0,2–3.act", "pool.2"]
