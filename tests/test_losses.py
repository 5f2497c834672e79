"""Losses, clipped gradients and the scale of images, against torch's own, papers' formulas and a plain loop in float64."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_support import CPU, SEEDS, draws_of, pack_of, tiny_recipe, toy_dataset, trained
from plain_networks import assert_same_state, epoch_batches, load_replica, plain_network, plain_optimizer, slow_batch
from pydantic import ValidationError
from study_support import allelse, mistake
from torch import Tensor

from allelse import recipe
from allelse.engine.batches import ImageFeed, scale_of
from allelse.engine.losses import loss_of, loss_packing
from allelse.engine.targets import Targets
from allelse.errors import PartError
from allelse.records import Pack, RunSpec, Way

SQUARED = {"name": "squared-error", "weight": 15.0, "target": 30.0}
LOSSES = ["cross-entropy", "binary-cross-entropy", {"name": "focal", "gamma": 0.5}, "focal", "squared-error", SQUARED]


def part_of(loss) -> recipe.Loss:
    return recipe.Recipe.model_validate(tiny_recipe(loss=loss)).loss


def slow_loss(part: recipe.Loss, outputs_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Image by image and class by class, as the papers write it."""
    losses = []
    for f, label in zip(outputs_BK, labels_B.tolist(), strict=True):
        p = torch.exp(f) / torch.exp(f).sum()
        if part.name == "cross-entropy":
            losses.append(-torch.log(p[label]))
        elif part.name == "focal":
            losses.append(-((1 - p[label]) ** part.gamma) * torch.log(p[label]))
        elif part.name == "binary-cross-entropy":
            yes = 1 / (1 + torch.exp(-f))
            losses.append(-sum(torch.log(yes[k] if k == label else 1 - yes[k]) for k in range(len(f))) / len(f))
        else:
            others = sum(f[k] ** 2 for k in range(len(f)) if k != label)
            losses.append((part.weight * (f[label] - part.target) ** 2 + others) / len(f))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_loss_is_what_its_paper_says(loss):
    torch.manual_seed(0)
    outputs_RBK = (3 * torch.randn(2, 7, 5, dtype=torch.float64)).requires_grad_()
    labels_RB = torch.randint(0, 5, (2, 7))
    found_R = Targets(labels_RB).loss(outputs_RBK, loss_of(part_of(loss), 0.0, 5, CPU, torch.float64))
    expected_R = torch.stack([slow_loss(part_of(loss), *both) for both in zip(outputs_RBK, labels_RB, strict=True)])
    torch.testing.assert_close(found_R, expected_R, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(one.sum(), outputs_RBK)[0] for one in (found_R, expected_R))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_losses_that_torch_has_are_torchs():
    torch.manual_seed(0)
    outputs_RBK, labels_RB = 3 * torch.randn(1, 9, 4, dtype=torch.float64), torch.randint(0, 4, (1, 9))
    shown_BK = F.one_hot(labels_RB[0], 4).double()
    for loss, smoothing, expected in (
        ("squared-error", 0.0, F.mse_loss(outputs_RBK[0], shown_BK)),
        ("binary-cross-entropy", 0.0, F.binary_cross_entropy_with_logits(outputs_RBK[0], shown_BK)),
        ("binary-cross-entropy", 0.2, F.binary_cross_entropy_with_logits(outputs_RBK[0], 0.8 * shown_BK + 0.05)),
        ({"name": "focal", "gamma": 0.0}, 0.0, F.cross_entropy(outputs_RBK[0], labels_RB[0])),
    ):
        found = Targets(labels_RB).loss(outputs_RBK, loss_of(part_of(loss), smoothing, 4, CPU, torch.float64))
        torch.testing.assert_close(found[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_an_image_that_is_surely_right_has_a_finite_gradient(gamma):
    outputs = torch.tensor([[[200.0, 0.0]]], requires_grad=True)
    Targets(torch.tensor([[0]])).loss(outputs, loss_of(recipe.Focal(gamma=gamma), 0.0, 2, CPU, torch.float64)).sum().backward()
    assert torch.isfinite(outputs.grad).all()


def test_the_loss_of_a_mixture_is_the_mixture_of_losses():
    torch.manual_seed(0)
    outputs = torch.randn(1, 4, 3, dtype=torch.float64)
    own, other, share = (
        torch.tensor([[0, 1, 2, 0]]),
        torch.tensor([[1, 1, 0, 2]]),
        torch.tensor([[0.5, 0.3, 1.0, 0.0]]).double(),
    )
    for loss in LOSSES:
        part, wanted = part_of(loss), []
        for image in range(4):
            one, two = (slow_loss(part, outputs[0, image : image + 1], labels[0, image : image + 1]) for labels in (own, other))
            wanted.append(share[0, image] * one + (1 - share[0, image]) * two)
        found = Targets(own, other, share).loss(outputs, loss_of(part, 0.0, 3, CPU, torch.float64))
        torch.testing.assert_close(found[0], torch.stack(wanted).mean(), rtol=1e-12, atol=1e-12)


def train_as_people_do(
    values: recipe.Recipe, dataset, start, replica: int, seed: int, lr: float
) -> tuple[torch.nn.Module, list]:
    """A loop over single networks: the loss by hand, ``clip_grad_norm_``, a step; and how long the gradients were."""
    plain = load_replica(plain_network(values.model), start, replica)
    optimizer, lengths = plain_optimizer(plain, values.optimizer, lr), []
    for epoch in range(values.epochs):
        for x, labels in epoch_batches(values, dataset, seed, epoch):
            optimizer.zero_grad()
            slow_loss(values.loss, plain(x), labels).backward()
            if values.max_grad_norm is not None:
                lengths.append(torch.nn.utils.clip_grad_norm_(plain.parameters(), values.max_grad_norm).item())
            optimizer.step()
    return plain, lengths


@pytest.mark.parametrize("way", [Way(), Way("branches"), Way("im2col")], ids=lambda way: way.convolution)
@pytest.mark.parametrize("rates", [(0.3, 0.3, 0.3), (0.3, 0.1, 0.2)], ids=["one optimiser", "one each"])
@pytest.mark.parametrize("loss", ["cross-entropy", SQUARED], ids=["cross-entropy", "squared error"])
def test_a_pack_with_cut_gradients_is_so_many_loops_of_torch(loss, rates, way):
    dataset = toy_dataset()
    model = {"norm": {"name": "group", "groups": 2}, "activation": "prelu"}
    at = [
        tiny_recipe(model=model, loss=loss, max_grad_norm=0.8, optimizer={"name": "sgd", "lr": rate, "momentum": 0.9})
        for rate in rates
    ]
    pack = Pack(tuple(RunSpec({}, values, seed) for values, seed in zip(at, SEEDS, strict=True)), way)
    start, end = (trained(pack, dataset, epochs) for epochs in (0, None))
    lengths = []
    for replica, (values, seed, rate) in enumerate(zip(at, SEEDS, rates, strict=True)):
        whole = recipe.Recipe.model_validate(values)
        plain, found = train_as_people_do(whole, dataset, start.network, replica, seed, rate)
        assert_same_state(plain, end.network, replica)
        lengths += found
    if loss == "cross-entropy":
        assert min(lengths) < 0.8 < max(lengths), "some gradients are cut and some are not"


def test_a_weight_that_is_a_single_number_is_cut_with_the_others():
    dataset, model = toy_dataset(), {"activation": "python:parts_of_users:Scaled"}
    values = tiny_recipe(model=model, max_grad_norm=0.1)
    together = trained(pack_of(values), dataset).network.state_dict()
    uncut = trained(pack_of(tiny_recipe(model=model)), dataset).network.state_dict()
    name = "blocks.0.act.scale"
    for replica, seed in enumerate(SEEDS):
        lone = trained(pack_of(values, [seed]), dataset).network.state_dict()
        torch.testing.assert_close(together[name][replica], lone[name][0], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(together[name], uncut[name])


def test_cut_gradients_reach_an_optimiser_of_the_users_own():
    dataset, own = toy_dataset(), {"name": "python:parts_of_users:NormalisedSGD", "lr": 0.1}
    pack = pack_of(tiny_recipe(optimizer=own, max_grad_norm=0.05))
    together = trained(pack, dataset).network.state_dict()
    uncut = trained(pack_of(tiny_recipe(optimizer=own)), dataset).network.state_dict()
    for replica, seed in enumerate(SEEDS):
        lone = trained(pack_of(pack.runs[0].recipe, [seed]), dataset).network.state_dict()
        for name, values in together.items():
            torch.testing.assert_close(values[replica], lone[name][0], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(together["head.weight"], uncut["head.weight"])


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_what_is_stored_of_a_loss(loss):
    dataset = toy_dataset()
    training = trained(pack_of(tiny_recipe(loss=loss, epochs=1)), dataset, epochs=0)
    plain = load_replica(plain_network(training.recipe.model), training.network, 0)
    losses = []
    optimizer = plain_optimizer(plain, training.recipe.optimizer, 0.05)
    for x, labels in epoch_batches(training.recipe, dataset, SEEDS[0], 0):
        optimizer.zero_grad()
        losses.append(slow_loss(training.recipe.loss, plain(x), labels))
        losses[-1].backward()
        optimizer.step()
    training.run_epoch(lambda progress: None)
    [epoch] = training.history[0]
    assert epoch["train_loss"] == pytest.approx(np.mean([loss.item() for loss in losses]), rel=1e-10)
    plain.eval()
    logits = plain(slow_batch(dataset.test_images, range(9), by=dataset.train_images))
    expected = F.cross_entropy(logits, torch.from_numpy(dataset.test_labels)).item()
    assert epoch["test_loss"] == pytest.approx(expected, rel=1e-10), "in nats, whatever was minimised"


def test_arms_that_differ_in_loss_clipping_and_scale_begin_alike():
    dataset, changes = toy_dataset(), ({}, {"loss": "squared-error"}, {"max_grad_norm": 0.1}, {"standardize": False})
    starts = [trained(pack_of(tiny_recipe(**change)), dataset) for change in changes]
    fingerprints = [training.results()[0].fingerprints for training in starts]
    assert all(dict(one) == dict(fingerprints[0]) for one in fingerprints)
    weights = [training.network.head.weight for training in starts]
    assert all(not torch.equal(weights[0], other) for other in weights[1:])


def test_images_that_are_not_standardised_are_shown_from_0_to_1():
    dataset = toy_dataset()
    values = recipe.Recipe.model_validate(
        tiny_recipe(standardize=False, augment=["flip", {"name": "crop", "padding": 2}, {"name": "cutout", "size": 3}])
    )
    draws = draws_of(values, dataset, SEEDS[0])
    arguments = (dataset.train_images, dataset.train_labels, 2, scale_of(dataset, torch.float64), CPU)
    scaled, plain = (ImageFeed(*arguments, standardize) for standardize in (True, False))
    index = torch.arange(24)[:, None]
    flip, crop = torch.from_numpy(draws.flip)[:, None], torch.from_numpy(draws.crop)[:, None]
    first = torch.from_numpy(draws.cutout) - 1
    box = torch.stack([first, first + 3], 2).reshape(24, 1, 4)
    mean = torch.from_numpy(dataset.train_images.mean((0, 1, 2)))
    sd = torch.from_numpy(dataset.train_images.std((0, 1, 2)))
    x = plain.look(index, flip, crop, [box])
    torch.testing.assert_close(x, (scaled.look(index, flip, crop, [box]) * sd + mean) / 255, rtol=1e-12, atol=1e-12)
    assert 0 == x.min() < x.max() <= 1
    hidden = plain._inside(box)[..., 0]
    assert hidden.any()
    torch.testing.assert_close(x[hidden], (mean / 255).expand_as(x[hidden]), rtol=1e-12, atol=1e-12)


def test_trained_and_tested_images_have_one_scale():
    training = trained(pack_of(tiny_recipe(standardize=False)), toy_dataset(), epochs=0)
    for feed in (training.train_feed, training.test_feed):
        x, _ = feed.gather(torch.arange(9)[:, None], torch.float64)
        assert 0 <= x.min() < x.max() <= 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"loss": "hinge"}, "cross-entropy"),
        ({"loss": {"name": "focal", "gamma": -1.0}}, "greater than or equal to 0"),
        ({"loss": {"name": "squared-error", "target": 0.0}}, "greater than 0"),
        ({"loss": {"name": "cross-entropy", "gamma": 1.0}}, "unknown key"),
        ({"loss": "squared-error", "label_smoothing": 0.1}, "label_smoothing = 0.1 says nothing to squared-error"),
        ({"loss": "focal", "label_smoothing": 0.1}, "label_smoothing = 0.1 says nothing to focal"),
        ({"max_grad_norm": 0.0}, "greater than 0"),
        ({"max_grad_norm": float("inf")}, "finite"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(values, said):
    with pytest.raises(ValidationError) as caught:
        recipe.Recipe.model_validate(tiny_recipe(**values))
    assert said in str(caught.value)


def test_a_gradient_that_is_not_finite_spoils_its_own_replica_alone():
    dataset, pack = toy_dataset(), pack_of(tiny_recipe(max_grad_norm=0.5))
    both = [trained(pack, dataset, epochs=0) for _ in range(2)]
    with torch.no_grad():
        both[1].network.head.weight[1, 0, 0] = float("inf")
    for training in both:
        training.run_epoch(lambda progress: None)
    clean, spoilt = (training.network.state_dict() for training in both)
    assert both[1].diverged.tolist() == [False, True, False]
    for name, values in clean.items():
        assert all(torch.equal(values[replica], spoilt[name][replica]) for replica in (0, 2)), name


def test_the_way_with_recorded_graphs_cuts_them_too(without_cuda):
    dataset = toy_dataset()
    pack = pack_of(tiny_recipe(max_grad_norm=0.3, loss="squared-error"))
    plain, recorded = (trained(dataclasses.replace(pack, way=way), dataset).network for way in (Way(), Way("grouped", True)))
    for name, values in plain.state_dict().items():
        torch.testing.assert_close(values, recorded.state_dict()[name], rtol=1e-5, atol=1e-7)


# ── the user's own ──────────────────────────────────────────────────────────────────────────────────────────────────

USERS = "python:parts_of_users:"
OF_TORCH = {"name": "python:torch.nn:CrossEntropyLoss", "reduction": "none"}


@pytest.mark.parametrize(
    ("loss", "packing"),
    [
        ({"name": f"{USERS}Poly", "epsilon": 2.0}, "image by image"),
        (OF_TORCH, "image by image"),
        ({"name": "python:torch.nn:MultiMarginLoss", "reduction": "none", "margin": 0.5}, "image by image"),
        (f"{USERS}ClassWeights", "image by image"),
        (f"{USERS}HardestFirst", "one by one"),
    ],
    ids=str,
)
@pytest.mark.parametrize("augment", [[], ["mixup"]], ids=["plain", "mixed"])
def test_a_loss_of_the_users_own_trains_a_pack_as_it_trains_lone_networks(loss, packing, augment):
    dataset, values = toy_dataset(), tiny_recipe(loss=loss, augment=augment)
    assert loss_packing(part_of(loss), 3) == packing
    for way in (Way(), Way("branches")):
        together = trained(dataclasses.replace(pack_of(values), way=way), dataset).network.state_dict()
        for replica, seed in enumerate(SEEDS):
            lone = trained(pack_of(values, [seed]), dataset).network.state_dict()
            for name, weights in together.items():
                torch.testing.assert_close(weights[replica], lone[name][0], rtol=1e-10, atol=1e-12)


def test_torchs_own_cross_entropy_as_a_loss_of_the_users_own_trains_as_ours():
    ours, theirs = (trained(pack_of(tiny_recipe(**loss)), toy_dataset()) for loss in ({}, {"loss": OF_TORCH}))
    for name, weights in ours.network.state_dict().items():
        torch.testing.assert_close(weights, theirs.network.state_dict()[name], rtol=1e-12, atol=1e-12)
    assert ours.history[0][-1]["train_loss"] == pytest.approx(theirs.history[0][-1]["train_loss"], rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (
            "python:torch.nn:CrossEntropyLoss",
            'gives [] for 5 images; allowed: one loss for each, in torch with reduction = "none"',
        ),
        ({"name": "python:torch.nn:MSELoss", "reduction": "none"}, "raises "),
        ("python:torch.nn.functional:cross_entropy", "raises TypeError: cross_entropy() missing 2 required positional arg"),
        (
            {"name": f"{USERS}Poly", "e": 1},
            "raises TypeError: Poly.__init__() got an unexpected keyword argument 'e' when it is",
        ),
        (f"{USERS}no_module", "gives a int; allowed: what can be called with outputs and labels"),
        (f"{USERS}NoisyLoss", "is random: "),
        (f"{USERS}Curriculum", "keeps something from one call to the next, "),
        (f"{USERS}LearnedTemperature", "has parameters, which nothing would train; "),
        (f"{USERS}ZeroOne", "has no gradient "),
        (f"{USERS}SingleLoss", "gives torch.float32 where torch.float64 came in; "),
        (f"{USERS}ShiftsLabels", "changes what comes in; "),
        (f"{USERS}LogOfOutputs", "gives NaN or infinity for ordinary numbers"),
    ],
    ids=str,
)
def test_a_loss_that_must_not_be_trusted(loss, reason):
    with pytest.raises(PartError) as caught:
        trained(pack_of(tiny_recipe(loss=loss)), toy_dataset(), epochs=0)
    name = loss["name"] if isinstance(loss, dict) else loss
    assert str(caught.value).startswith(f"recipe.loss: {name!r} {reason}")
    assert "\n" not in str(caught.value)


def test_a_loss_of_the_users_own_in_a_study(tmp_path):
    (tmp_path / "mylosses.py").write_text(
        "import torch\n\nclass Sure:\n    def __call__(self, outputs, labels):\n"
        "        return 1 - outputs.softmax(1).gather(1, labels[:, None])[:, 0]\n"
    )
    file = tmp_path / "study.toml"
    file.write_text(
        '[study]\nname = "own-loss"\nquestion = "?"\nseeds = 2\n[recipe]\ndataset = "digits"\nepochs = 1\nbatch_size = 50\n'
        'train_per_class = 20\nmodel = { width = 4, depth = 1 }\n[factors]\nloss = ["cross-entropy", "python:mylosses:Sure"]\n'
    )
    planned = allelse("plan", file)
    assert planned.code == 0, planned.err
    assert "python:mylosses:Sure: image by image: one serves a whole pack" in planned.out
    ran = allelse("run", file, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "python:mylosses:Sure" in ran.out
    (tmp_path / "other.toml").write_text(file.read_text("utf-8").replace("Sure", "Surest"), "utf-8")
    told = mistake("plan", tmp_path / "other.toml")
    assert re.search(
        r"other.toml, line 12: factors\.loss: .*'python:mylosses:Surest': .* has no 'Surest'; did you mean 'Sure'\?", told
    )
