"""The norms beyond torch's layers: each against its paper's formula, replica by replica, and in all three evaluations."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from engine_support import CPU, SEEDS, model_of, network_of, pack_of, tiny_recipe, toy_dataset, trained
from norm_oracles import PAPER_NORMS, PLAIN_FROM_NAME, standardized
from plain_networks import load_replica, plain_network
from pydantic import TypeAdapter, ValidationError
from study_support import TINY, write_study
from torch import nn

from allelse import blocks, data, recipe, study
from allelse.engine import train_pack
from allelse.engine.evaluate import batch_norms, evaluate, evaluate_three_ways, scatter_of_batch_means
from allelse.engine.loop import Training
from allelse.errors import StudyError
from allelse.fit import check_arm
from allelse.models import build_network
from allelse.plan import _work, make_plan
from allelse.records import Way

NORM = TypeAdapter(recipe.Norm)
CASES = {
    **PAPER_NORMS,
    "rms without scale": {"name": "rms", "affine": False, "eps": 0.1},
    "frn without threshold": {"name": "frn", "tlu": False, "eps": 0.1},
    "evonorm-s0 of one group": {"name": "evonorm-s0", "groups": 1, "eps": 0.1},
    "ghost without affine": {"name": "ghost", "ghost_size": 3, "affine": False, "momentum": 0.3},
    "renorm without affine": {"name": "renorm", "hold_steps": 0, "ramp_steps": 0, "r_max": 1.1, "affine": False, "eps": 0.1},
}
OVER_BATCHES = [name for name in CASES if name.startswith(("ghost", "renorm"))]


def images(replicas: int, seed: int = 1, side: int = 3, count: int = 6) -> torch.Tensor:
    """[N, R·4, side, side] of another mean and scale in each channel."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, replicas * 4, side, side, dtype=torch.float64, generator=generator)
    scale = torch.linspace(0.3, 4, replicas * 4, dtype=torch.float64).view(-1, 1, 1)
    return scale * x + 2 - scale


def norm_of(values: dict, replicas: int) -> nn.Module:
    """In float64, every parameter other in each replica and channel."""
    ours = blocks.build_norm(replicas, 4, NORM.validate_python(values)).double()
    generator = torch.Generator().manual_seed(9)
    for parameter in ours.parameters():
        parameter.data = torch.rand(parameter.shape, dtype=torch.float64, generator=generator) + 0.5
    return ours


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize(
    ("case", "flat"),
    [(case, flat) for case in CASES for flat in (False, True) if not (flat and "frn" in case)],  # frn wants positions
)
def test_norms_are_those_of_their_papers_in_every_replica(case, replicas, flat):
    values = CASES[case]
    ours = norm_of(values, replicas)
    plains = [PLAIN_FROM_NAME[values["name"]](4, NORM.validate_python(values)).double() for _ in range(replicas)]
    for replica, plain in enumerate(plains):
        plain.load_state_dict({name: tensor[replica] for name, tensor in ours.state_dict().items()}, strict=False)
    for step in range(4):  # renorm holds, then ramps, then is at its bounds
        x = images(replicas, step)
        x = (x.flatten(1)[:, ::9].clone() if flat else x).requires_grad_()
        out = ours(x)
        towards = torch.cos(torch.arange(out.numel(), dtype=out.dtype)).view_as(out)
        (ours_dx,) = torch.autograd.grad((out * towards).sum(), x)
        for replica, plain in enumerate(plains):
            mine = slice(4 * replica, 4 * replica + 4)
            expected = plain(x[:, mine])
            torch.testing.assert_close(out[:, mine], expected, rtol=1e-10, atol=1e-12)
            (dx,) = torch.autograd.grad((expected * towards[:, mine]).sum(), x)
            torch.testing.assert_close(ours_dx[:, mine], dx[:, mine], rtol=1e-9, atol=1e-11)
            for name, tensor in plain.state_dict().items():
                if name != "num_batches_tracked":
                    torch.testing.assert_close(ours.state_dict()[name][replica], tensor, rtol=1e-12, atol=1e-12)
    if case in OVER_BATCHES:
        ours.statistics = "running"
        for replica, plain in enumerate(plains):
            mine = slice(4 * replica, 4 * replica + 4)
            torch.testing.assert_close(ours(x)[:, mine], plain.eval()(x[:, mine]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_disturbed_replica_reaches_no_other(case):
    x = images(3)
    out = norm_of(CASES[case], 3)(x)
    for disturbed in range(3):
        other = x.clone()
        other[0, 4 * disturbed] = float("nan")
        same = torch.ones(12, dtype=torch.bool)
        same[4 * disturbed : 4 * disturbed + 4] = False
        ours = norm_of(CASES[case], 3)
        changed = ours(other)
        assert torch.equal(changed[:, same], out[:, same])
        assert not torch.equal(changed, out)
        for name, tensor in ours.state_dict().items():
            others = [replica for replica in range(3) if replica != disturbed]
            assert tensor[others].isfinite().all(), name


@pytest.mark.parametrize(
    "values",
    [
        {"name": "ghost", "ghost_size": 6},
        {"name": "renorm", "r_max": 1.0, "d_max": 0.0, "hold_steps": 0},
        {"name": "renorm", "hold_steps": 4},
    ],
    ids=str,
)
def test_ghosts_of_the_whole_batch_and_renorm_without_room_are_batch_norm(values):
    ours, plain = norm_of(values, 2), norm_of({"name": "batch"}, 2)
    for step in range(4):
        torch.testing.assert_close(ours(images(2, step)), plain(images(2, step)), rtol=1e-12, atol=1e-12)
    assert torch.equal(ours.running_mean, plain.running_mean)
    assert torch.equal(ours.running_var, plain.running_var)


def test_renorm_within_its_bounds_trains_on_what_evaluation_computes():
    ours = norm_of({"name": "renorm", "hold_steps": 2, "ramp_steps": 0, "r_max": 1e6, "d_max": 1e6}, 2)
    outs = []
    for step in range(3):
        ours.statistics = "running"
        expected = ours(images(2, step))
        ours.statistics = "update"
        outs.append(torch.allclose(ours(images(2, step)), expected, rtol=1e-9))
    assert outs == [False, False, True]
    assert ours.steps.tolist() == [3, 3]


def test_ghost_batches_differ_from_the_whole_batch():
    x = images(1)
    ghost, plain = norm_of(PAPER_NORMS["ghost"], 1), norm_of({"name": "batch"}, 1)
    torch.testing.assert_close(ghost(x)[2:4], plain(x[2:4]), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(ghost(x), plain(x), rtol=1e-2)


ALL_NORMS = {**PAPER_NORMS, "batch": {"name": "batch"}, "group": {"name": "group", "groups": 2}}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ALL_NORMS)
def test_activations_keep_their_type_and_statistics_are_taken_in_float32(name, dtype):
    x = images(2, side=16, count=8).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    ours = norm_of(ALL_NORMS[name], 2)
    exact = ours(x.detach().double())
    ours = norm_of(ALL_NORMS[name], 2).float()
    out = ours(x)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    last_digit = torch.finfo(dtype).eps if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(out.double(), exact.double(), rtol=0.6 * last_digit, atol=1e-5)
    out.float().square().sum().backward()
    assert x.grad.dtype == dtype
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in ours.state_dict().values())


@pytest.mark.parametrize("name", ALL_NORMS)
def test_a_training_step_looks_at_no_value(name):
    """As a CUDA graph needs it: tensors of the meta device have none, and raise where one is asked for."""
    with torch.device("meta"):
        ours = blocks.build_norm(2, 4, NORM.validate_python(ALL_NORMS[name]))
        x = torch.zeros(6, 8, 3, 3, requires_grad=True)
        ours(x).sum().backward()
    assert x.grad is not None


# ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module", params=["ghost", "renorm"])
def training(request):
    norm = {**PAPER_NORMS[request.param], **({"ghost_size": 10} if request.param == "ghost" else {})}
    values = tiny_recipe(model={"norm": norm, "pool": [1]}, batch_size=100, epochs=2)
    return trained(pack_of(values), toy_dataset(train=700, test=33))


def test_norms_over_batches_are_evaluated_three_ways_and_left_as_they_were(training):
    network = training.network
    before = {name: values.clone() for name, values in network.state_dict().items()}
    train, test = list(training.training_images()), (training.test_feed, training.test_index)
    last = evaluate(network, *test, torch.float64)
    scores, _ = evaluate_three_ways(network, train, test, torch.float64, last)
    for name, values in network.state_dict().items():
        assert torch.equal(values, before[name]), f"{name} is left as it was"
    assert all(norm.statistics == "update" for norm in batch_norms(network))
    batch = model_of(norm="batch", pool=[1])  # the same weights under plain batch norm, by torch's own layers
    for replica in range(len(SEEDS)):

        def seen(part, replica=replica):
            batches = part[0].evaluation_batches(part[1], len(SEEDS), torch.float64)
            return [(x.unflatten(1, (len(SEEDS), -1))[:, replica], labels[replica]) for x, labels in batches]

        [(x, labels)] = seen(test)
        plain = load_replica(plain_network(batch), network, replica)
        expected = {"batch": plain.train()(x)}
        plain = load_replica(plain_network(batch), network, replica)
        expected["running"] = plain.eval()(x)
        torch.optim.swa_utils.update_bn([x.unflatten(1, (len(SEEDS), -1))[:, replica] for x in train], plain)
        expected["recalibrated"] = plain.eval()(x)
        assert set(scores) == set(expected)
        for way, logits in expected.items():
            assert scores[way].loss[replica].item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-9), way


def test_the_scatter_of_means_is_that_of_ghost_batches(training):
    size = 10 if training.recipe.model.norm.name == "ghost" else 100
    scatter = scatter_of_batch_means(training.network, training.training_images(100, 4))
    index = torch.from_numpy(training.train_index[:400])
    x, _ = training.train_feed.gather(index, torch.float64)
    seen: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for batch in x.split(100):
        network = deepcopy(training.network).train()
        for number, entered in seen.items():
            network.blocks[number].norm.register_forward_pre_hook(lambda _, inputs, to=entered: to.append(inputs[0].detach()))
        network(batch)
    for number, entered in seen.items():
        means = torch.cat(entered).mean((2, 3)).unflatten(0, (400 // size, size)).mean(1)
        torch.testing.assert_close(scatter[number], means.std(0).view(len(SEEDS), -1), rtol=1e-10, atol=1e-12)
    assert all("batch_noise" in result.metrics for result in training.results())


@pytest.mark.parametrize("name", ["batch", "ghost", "renorm"])
def test_recalibrated_evaluation_is_the_headline_and_changes_no_training(name):
    norm = {"batch": {"name": "batch", "momentum": 0.01}, **PAPER_NORMS}[name]
    dataset = toy_dataset(train=60, test=31)
    shared = {"validation_per_class": 4, "epochs": 3}
    usual, asked = (
        trained(pack_of(tiny_recipe(model={"norm": {**norm, "evaluate": evaluate}}, **shared)), dataset)
        for evaluate in ("running", "recalibrated")
    )
    for key, values in usual.network.state_dict().items():
        assert torch.equal(values, asked.network.state_dict()[key]), f"{key} was trained as ever"
    for one, other in zip(usual.results(), asked.results(), strict=True):
        for metric in ("running", "recalibrated", "batch"):
            assert one.metrics[f"loss_{metric}"] == other.metrics[f"loss_{metric}"]
        assert one.metrics["test_loss"] == one.metrics["loss_running"]
        assert other.metrics["test_loss"] == other.metrics["loss_recalibrated"] == other.epochs[-1]["test_loss"]
        assert other.metrics["accuracy"] == other.metrics["accuracy_recalibrated"] == other.metrics["test_accuracy"]
        for before, after in zip(one.epochs, other.epochs, strict=True):
            assert before["train_loss"] == after["train_loss"]
            assert before["test_loss"] != after["test_loss"]
            assert before["validation_loss"] != after["validation_loss"]


@pytest.mark.parametrize("norm", ["group", "none"])
def test_norms_within_an_image_have_nothing_to_recalibrate(norm):
    with pytest.raises(ValidationError, match="unknown key"):
        NORM.validate_python({"name": norm, "evaluate": "recalibrated"})


def test_a_resumed_renorm_goes_on_with_its_step(tmp_path):
    pack = pack_of(tiny_recipe(model={"norm": PAPER_NORMS["renorm"]}, epochs=2))
    dataset = toy_dataset()
    once = trained(pack, dataset, epochs=1)
    once.save(tmp_path / "checkpoint")
    again = Training(pack, dataset, CPU)
    again.resume(tmp_path / "checkpoint")
    assert batch_norms(again.network)[0].steps.tolist() == [3, 3, 3]
    again.run_epoch(lambda progress: None)
    whole = trained(pack, dataset)
    for name, values in whole.network.state_dict().items():
        assert torch.equal(values, again.network.state_dict()[name]), name


# ── weight standardisation ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", ["convnet", "mlp"])
def test_weight_standardisation_is_of_every_filter_before_the_head(family):
    kind = {"family": "mlp", "block": "linear-norm-act"} if family == "mlp" else {"stem": {"width": 4}}
    network = network_of(model_of(weight_standardization=True, **kind))
    layers = [module for module in network.modules() if isinstance(module, (blocks.Conv2d, blocks.Linear))]
    assert len(layers) == (3 if family == "mlp" else 4)
    for layer in layers[:-1]:
        used = layer.used_weight()
        for replica in range(len(SEEDS)):
            torch.testing.assert_close(used[replica], standardized(layer.weight[replica]), rtol=1e-10, atol=1e-12)
        rows = used.flatten(2)
        torch.testing.assert_close(rows.mean(2), torch.zeros_like(rows[..., 0]), atol=1e-12, rtol=0)
        torch.testing.assert_close(rows.var(2, correction=0), torch.ones_like(rows[..., 0]), rtol=1e-6, atol=0)
    assert layers[-1] is network.head
    assert torch.equal(network.head.used_weight(), network.head.weight)


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            {"norm": {"name": "evonorm-s0", "groups": 3}, "activation": "identity"},
            "norm.groups = 3 does not divide the width 4",
        ),
        ({"norm": "evonorm-s0", "width": 32}, "x · sigmoid(v · x), to which 'relu' would be a second; allowed"),
        ({"norm": "frn"}, "the thresholded linear unit (norm.tlu = true), to which 'relu' would be a second; allowed"),
        ({"norm": "rms", "width": 1}, "sign"),
        ({"norm": {"name": "renorm", "r_max": 0.5}}, "greater than or equal to 1"),
        ({"norm": {"name": "batch", "evaluate": "batch"}}, "'running' or 'recalibrated'"),
        (
            {"norm": {"name": "ghost", "ghost_size": 3}},
            "model.norm.ghost_size = 3 does not divide batch_size = 8; allowed here: 1, 2, 4, 8",
        ),
        ({"norm": {"name": "ghost", "ghost_size": 16}}, "does not divide batch_size = 8"),
    ],
    ids=str,
)
def test_norms_that_do_not_fit_are_refused_in_one_line(model, said):
    with pytest.raises(ValidationError) as caught:
        model_of(**model)
    [error] = caught.value.errors()
    assert said in error["msg"]
    assert "\n" not in error["msg"]


@pytest.mark.parametrize("block", ["conv-norm", "norm-conv"])
def test_a_norm_with_an_activation_of_its_own_stands_alone(block):
    for norm in ("frn", PAPER_NORMS["evonorm-s0"]):
        assert model_of(norm=norm, block=block).norm.own_activation()
        assert model_of(norm=norm, block=f"{block}-act", activation="identity")
    assert model_of(norm={"name": "frn", "tlu": False}, activation="relu")


@pytest.mark.parametrize(
    ("model", "side", "said"),
    [
        ({"norm": "frn", "activation": "identity", "pool": [1]}, 2, "'frn' meets images of 1 × 1 in block 2"),
        ({"norm": {"name": "group", "groups": 4}, "pool": [1]}, 2, "'group' meets images of 1 × 1 in block 2"),
        ({"norm": "rms", "block": "norm-conv-act"}, 6, "recipe.model.norm: norm 'rms' is over channels"),
        (
            {"weight_standardization": True, "kernel": 1},
            6,
            "recipe.model.weight_standardization: weight_standardization would set",
        ),
    ],
    ids=str,
)
def test_images_that_a_norm_cannot_normalise_are_refused_in_one_line(model, side, said):
    with pytest.raises(StudyError) as caught:
        build_network(model_of(**model), (side, side, 1), 3, 2)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def arms_with(tmp_path, norm: str) -> tuple[study.Arm, ...]:
    text = TINY.replace('norm  = "batch"', f"norm = {norm}").split("\n[[claims]]")[0]
    return study.load(write_study(tmp_path, text)).arms


def test_a_renorm_that_never_starts_is_refused(tmp_path, digits):
    check_arm(arms_with(tmp_path, '{ name = "renorm", hold_steps = 9 }')[0], digits)
    with pytest.raises(StudyError) as caught:
        check_arm(arms_with(tmp_path, '{ name = "renorm", hold_steps = 10 }')[0], digits)
    assert str(caught.value) == (
        "recipe.model.norm.hold_steps: 10 leaves plain batch normalisation in all 10 training steps; allowed: 0 to 9"
    )


def test_a_study_names_the_line_of_a_ghost_size_that_does_not_divide(tmp_path):
    with pytest.raises(StudyError, match=r"line 17: recipe.model.norm.ghost_size: model.norm.ghost_size = 3 does not divide"):
        arms_with(tmp_path, '{ name = "ghost", ghost_size = 3 }')


def test_recalibrated_evaluation_is_packed_as_the_usual_one_and_its_cost_is_planned(tmp_path, digits):
    usual, asked = (arms_with(tmp_path, f'{{ name = "batch", evaluate = "{way}" }}') for way in ("running", "recalibrated"))
    assert _work(usual[0], digits) == _work(asked[0], digits)
    seconds = []
    for way in ("running", "recalibrated"):
        path = write_study(tmp_path, TINY.replace('"batch"', f'{{ name = "batch", evaluate = "{way}" }}'))
        seconds.append(make_plan(study.load(path), lambda arm: digits, lambda pack: 100.0, [Way()]).seconds)
    forward = 2 * 100 / 3 / 100  # epochs · images · share of a forward pass / images a second
    assert seconds[1] - seconds[0] == pytest.approx(2 * 2 * forward)


def test_the_default_evaluation_leaves_no_trace_in_run_ids():
    assert recipe.BatchNorm(evaluate="running").plain() == {"name": "batch"}
    assert "weight_standardization" not in model_of(weight_standardization=False).plain()


def test_a_whole_pack_of_each_norm_trains_in_bf16():
    for norm in PAPER_NORMS.values():
        own = norm["name"] in ("frn", "evonorm-s0")
        values = tiny_recipe(
            model={"norm": norm, "activation": "identity" if own else "relu", "weight_standardization": True}, precision="bf16"
        )
        assert [result.status for result in train_pack(pack_of(values), toy_dataset(), CPU)] == ["done"] * 3
