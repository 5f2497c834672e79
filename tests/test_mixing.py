"""Mixup, CutMix and random erasing against single images in float64, the papers' laws and the authors' loops."""

from __future__ import annotations

import hashlib
from math import sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_support import CPU, SEEDS, draws_of, pack_of, tiny_recipe, toy_dataset, trained
from plain_networks import assert_same_state, load_replica, plain_network, plain_optimizer, slow_batch
from pydantic import ValidationError
from scipy import stats

from allelse import recipe
from allelse.data import split
from allelse.engine import train_pack
from allelse.engine.batches import ImageFeed, TrainingBatches, scale_of
from allelse.engine.draws import draw_epoch
from allelse.engine.targets import Targets
from allelse.seeds import stream

CROP, CUTOUT = {"name": "crop", "padding": 2}, {"name": "cutout", "size": 3}
MIXED = {
    "mixup": [{"name": "mixup", "alpha": 0.4}],
    "cutmix": [{"name": "cutmix", "probability": 0.8}],
    "always cutmix": [{"name": "cutmix", "probability": 1.0}],
    "both": ["mixup", "cutmix"],
    "all": ["flip", CROP, CUTOUT, "random-erasing", "mixup", "cutmix"],
}


def recipe_of(**changes) -> recipe.Recipe:
    return recipe.Recipe.model_validate(tiny_recipe(**changes))


def draws_on(dataset, seed=0, epoch=0, **changes):
    return draws_of(recipe_of(**changes), dataset, seed, epoch)


def slow_mixture(dataset, values, draws, index) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [B, C, H, W] and what each shows, [B, K], image by image and pixel by pixel."""
    crop, cutout = values.augmentation(recipe.Crop), values.augmentation(recipe.Cutout)
    sizes = (crop.padding if crop else 0, cutout.size if cutout else 0)
    own, partner = (slow_batch(dataset.train_images, numbers, draws, *sizes) for numbers in (index, draws.partner[index]))
    shown = torch.zeros(len(index), len(dataset.classes), dtype=torch.float64)
    for place, number in enumerate(index):
        share = float(draws.share[number])
        shown[place, dataset.train_labels[number]] += share
        shown[place, dataset.train_labels[draws.partner[number]]] += 1 - share
        top, bottom, left, right = (0, 0, 0, 0) if draws.pasted is None else draws.pasted[number]
        if bottom > top and right > left:
            own[place, :, top:bottom, left:right] = partner[place, :, top:bottom, left:right]
        else:
            own[place] = share * own[place] + (1 - share) * partner[place]
    return own, shown


@pytest.mark.parametrize("augment", MIXED)
def test_every_replica_sees_its_own_mixtures(augment):
    dataset = toy_dataset(train=23, side=7)
    values = recipe_of(augment=MIXED[augment], batch_size=5)
    draws = [draws_of(values, dataset, seed, epoch=4) for seed in SEEDS]
    crop = values.augmentation(recipe.Crop)
    scale = scale_of(dataset, torch.float64)
    feed = ImageFeed(dataset.train_images, dataset.train_labels, crop.padding if crop else 0, scale, CPU)
    batches = TrainingBatches(feed, 5, torch.float64, 3)
    batches.load(draws[::-1])  # an epoch before, which must leave no trace
    batches.load(draws)
    for place in range(4):
        x, targets = batches.at(place)
        assert x.is_contiguous(memory_format=torch.channels_last)
        for replica in range(len(SEEDS)):
            expected, shown = slow_mixture(dataset, values, draws[replica], draws[replica].order[5 * place : 5 * place + 5])
            torch.testing.assert_close(x[:, 2 * replica : 2 * replica + 2], expected, rtol=1e-12, atol=1e-12)
            share = targets.share_RB[replica][:, None]
            own, partner = (F.one_hot(labels[replica], 3) for labels in (targets.labels_RB, targets.partner_RB))
            torch.testing.assert_close(share * own + (1 - share) * partner, shown, rtol=1e-12, atol=1e-12)
        # A place that is a tensor, as in a CUDA graph, gives the same.
        x_on_device, on_device = batches.at(torch.tensor([place]))
        assert torch.equal(x_on_device, x)
        assert all(torch.equal(getattr(on_device, name), tensor) for name, tensor in vars(targets).items())
        # And one replica of a pack alone sees what it sees among the others.
        x_alone, alone = batches.at(place, slice(1, 2))
        assert torch.equal(x_alone, x[:, 2:4])
        assert torch.equal(alone.share_RB, targets.share_RB[1:2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("augment", ["mixup", "all"])
def test_a_pack_trains_each_replica_on_its_mixtures_as_a_plain_loop_does(augment, smoothing):
    dataset = toy_dataset()
    plain_values = tiny_recipe(augment=MIXED[augment], label_smoothing=smoothing, optimizer={"name": "sgd", "lr": 0.3})
    values = recipe.Recipe.model_validate(plain_values)
    start, end = (trained(pack_of(plain_values), dataset, epochs) for epochs in (0, None))
    for replica, seed in enumerate(SEEDS):
        plain = load_replica(plain_network(values.model), start.network, replica)
        optimizer = plain_optimizer(plain, values.optimizer, 0.3)
        for epoch in range(2):
            draws, losses = draws_of(values, dataset, seed, epoch), []
            for first in range(0, 24, 8):
                x, shown = slow_mixture(dataset, values, draws, draws.order[first : first + 8])
                optimizer.zero_grad()
                loss = F.cross_entropy(plain(x), shown, label_smoothing=smoothing)  # torch's own for soft targets
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            assert end.history[replica][epoch]["train_loss"] == pytest.approx(np.mean(losses), rel=1e-10)
        assert_same_state(plain, end.network, replica)


def test_a_mixture_counts_as_right_when_it_is_taken_for_what_it_shows_most_of():
    logits_RBK = torch.eye(3)[None, [0, 1, 1, 0]]
    targets = Targets(torch.tensor([[0, 0, 0, 0]]), torch.tensor([[1, 1, 1, 1]]), torch.tensor([[0.7, 0.6, 0.3, 0.2]]))
    assert targets.correct(logits_RBK).tolist() == [2]
    assert Targets(targets.labels_RB).correct(logits_RBK).tolist() == [2]
    assert Targets(targets.partner_RB).correct(logits_RBK).tolist() == [2]
    assert Targets(targets.labels_RB, targets.partner_RB, torch.ones(1, 4)).correct(logits_RBK[:, [0, 0, 1, 0]]).tolist() == [3]


# ── what is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_of_mixup_follow_the_beta_law(alpha):
    drawn = draws_on(toy_dataset(train=3000, side=2), augment=[{"name": "mixup", "alpha": alpha}])
    assert stats.kstest(drawn.share, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    own_stream = stream(0, "augment", "mixup", 0).beta(alpha, alpha, 3000)
    assert np.array_equal(drawn.share, own_stream.astype(np.float32))


def test_every_image_of_the_subset_is_the_partner_of_one_and_no_other_image_is():
    dataset = toy_dataset(train=300)
    values = recipe_of(augment=["mixup"], train_per_class=40, validation_per_class=20)
    for seed in SEEDS:
        subset, held_out = split(dataset, train_per_class=40, validation_per_class=20, seed=seed)
        drawn = draws_of(values, dataset, seed)
        assert sorted(drawn.partner[subset]) == sorted(subset)
        assert not set(drawn.partner[subset]) & set(held_out)
        assert (drawn.partner[subset] == subset).mean() < 0.1
        labels = dataset.train_labels
        same_class = (labels[drawn.partner[subset]] == labels[subset]).mean()
        assert 0.15 < same_class < 0.5, "partners are of any class: a third are of an image's own"


def authors_box(share: float, centre: tuple[int, int], side: tuple[int, int]) -> tuple[int, int, int, int]:
    """``rand_bbox`` of the authors' code, rows first."""
    ratio = sqrt(1 - share)
    height, width = int(side[0] * ratio), int(side[1] * ratio)
    low = max(centre[0] - height // 2, 0), max(centre[1] - width // 2, 0)
    high = min(centre[0] + height // 2, side[0]), min(centre[1] + width // 2, side[1])
    return low[0], high[0], low[1], high[1]


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_pasted_boxes_are_those_of_the_authors_code(probability):
    dataset = toy_dataset(train=600, side=9)
    drawn = draws_on(dataset, seed=4, epoch=2, augment=[{"name": "cutmix", "alpha": 0.7, "probability": probability}])
    draw = stream(4, "augment", "cutmix", 2)
    chance, centres, shares = draw.random(600), draw.integers(0, 9, (600, 2)), draw.beta(0.7, 0.7, 600)
    assert stats.kstest(shares, stats.beta(0.7, 0.7).cdf).pvalue > 0.01
    for number in range(600):
        box = authors_box(shares[number], centres[number], (9, 9)) if chance[number] < probability else (0, 0, 0, 0)
        assert tuple(drawn.pasted[number]) == box
        area = (box[1] - box[0]) * (box[3] - box[2])
        assert drawn.share[number] == pytest.approx(1 - area / 81, abs=1e-7)


def test_boxes_of_images_that_are_not_square_keep_rows_and_columns_apart():
    values = recipe_of(augment=[{"name": "cutmix", "probability": 1.0}, {"name": "random-erasing", "probability": 1.0}])
    subset = np.arange(500)
    drawn = draw_epoch(0, 0, subset, 500, (4, 40), values)
    for boxes in (drawn.pasted, drawn.erased):
        assert boxes[:, 0].min() >= 0
        assert boxes[:, 2].min() >= 0
        assert boxes[:, 1].max() in (3, 4)
        assert 30 < boxes[:, 3].max() <= 40


def test_both_share_the_images_out_as_the_probability_says():
    dataset = toy_dataset(train=3000, side=8)
    both = draws_on(dataset, augment=["mixup", {"name": "cutmix", "probability": 0.25}])
    mixup, cutmix = (draws_on(dataset, augment=[name]) for name in ("mixup", {"name": "cutmix", "probability": 0.25}))
    pasted = stream(0, "augment", "cutmix", 0).random(3000) < 0.25
    assert 0.2 < pasted.mean() < 0.3
    assert np.array_equal(both.share, np.where(pasted, cutmix.share, mixup.share))
    assert np.array_equal(both.pasted, cutmix.pasted)
    assert (cutmix.share[~pasted] == 1).all()


def authors_erasing(rng: np.random.Generator, side: int, least: float, most: float, aspect: float) -> tuple[int, int, int, int]:
    """The loop of the authors' code for one image, without its first coin."""
    for _ in range(100):
        area, ratio = rng.uniform(least, most) * side * side, rng.uniform(aspect, 1 / aspect)
        height, width = round(sqrt(area * ratio)), round(sqrt(area / ratio))
        if width < side and height < side:
            top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
            return top, top + height, left, left + width
    return 0, 0, 0, 0


def test_erased_boxes_follow_the_law_of_the_authors_loop():
    drawn = draws_on(toy_dataset(train=3000, side=16), augment=["random-erasing"]).erased
    is_erased = drawn[:, 1] > drawn[:, 0]
    assert abs(is_erased.mean() - 0.5) < 0.03
    rng = np.random.default_rng(0)
    expected = np.array([authors_erasing(rng, 16, 0.02, 0.4, 0.3) for _ in range(1500)])
    found = drawn[is_erased]
    for ours, theirs in zip((*found.T, *sizes(found)), (*expected.T, *sizes(expected)), strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > 0.005


def sizes(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]


# ── all else equal ──────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = ("order", "flip", "crop", "cutout", "erased", "partner", "share", "pasted")


@pytest.mark.parametrize(
    ("change", "shifted"),
    [
        ({"batch_size": 2}, set()),
        ({"epochs": 5, "optimizer": "adam", "model": {"depth": 1}}, set()),
        ({"augment": MIXED["all"][::-1]}, set()),
        ({"augment": ["mixup", "cutmix"]}, set()),
        ({"augment": ["mixup", "flip"]}, {"share"}),
        ({"augment": ["cutmix", "flip"]}, {"share"}),
        ({"augment": ["flip", "random-erasing"]}, set()),
        ({"augment": [{"name": "mixup", "alpha": 0.3}, "cutmix"]}, {"share"}),
        ({"augment": ["mixup", {"name": "cutmix", "alpha": 0.3}]}, {"share", "pasted"}),
        ({"augment": ["mixup", {"name": "cutmix", "probability": 0.4}]}, {"share", "pasted"}),
        ({"augment": [{"name": "random-erasing", "area": [0.1, 0.2]}]}, {"erased"}),
        ({"train_per_class": 5}, {"order", "partner"}),
    ],
)
def test_no_change_of_the_recipe_shifts_another_draw(change, shifted):
    dataset = toy_dataset(train=48)
    for seed, epoch in ((0, 0), (5, 3)):
        first = draws_on(dataset, seed, epoch, augment=MIXED["all"], train_per_class=10)
        second = draws_on(dataset, seed, epoch, **{"augment": MIXED["all"], "train_per_class": 10, **change})
        pairs = {name: (getattr(first, name), getattr(second, name)) for name in NAMES}
        apart = {n for n, (a, b) in pairs.items() if a is not None and b is not None and not np.array_equal(a, b)}
        assert apart == shifted


def test_seeds_and_epochs_draw_differently():
    dataset = toy_dataset(train=48)
    draws = [draws_on(dataset, seed, epoch, augment=MIXED["all"]) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for name in NAMES:
        assert len({getattr(drawn, name).tobytes() for drawn in draws}) == 3, name


def test_a_larger_probability_keeps_the_boxes_that_a_smaller_one_pastes():
    dataset = toy_dataset(train=300)
    less, more = (draws_on(dataset, augment=[{"name": "cutmix", "probability": p}]).pasted for p in (0.3, 0.7))
    pasted = less.any(1)
    assert 40 < pasted.sum() < more.any(1).sum()
    assert np.array_equal(less[pasted], more[pasted])


def fingerprints(**changes) -> dict[str, str]:
    values = tiny_recipe(**{"augment": ["flip", "mixup", "cutmix"], "train_per_class": 6, "batch_size": 6, **changes})
    return dict(train_pack(pack_of(values, (4,)), toy_dataset(), CPU)[0].fingerprints)


def test_fingerprints_cover_the_mixtures_under_a_name_that_says_what_they_depend_on():
    base = fingerprints()
    assert fingerprints(batch_size=3) == base
    [name] = [name for name in base if name.startswith("augmentation")]
    assert "mixup1.0+cutmix1.00.5 within toy 6x6x2: 18 images of 24" in name
    for change in ({"train_per_class": 5, "batch_size": 5}, {"augment": ["flip", "mixup"]}, {"epochs": 3}):
        assert name not in fingerprints(**change), "not compared"
    drawn = draws_on(toy_dataset(), augment=MIXED["all"])
    for field in ("erased", "partner", "share", "pasted"):
        other = draws_on(toy_dataset(), augment=MIXED["all"])
        getattr(other, field)[0] += 1
        assert other.digests()[1] != drawn.digests()[1], field
        assert other.digests()[0] == drawn.digests()[0]


def test_the_fingerprint_of_what_was_drawn_before_there_were_mixtures_is_the_same():
    drawn = draws_on(toy_dataset(), augment=["flip", CUTOUT])
    plain = hashlib.sha256(drawn.flip.tobytes() + b"-" + drawn.cutout.tobytes()).hexdigest()
    assert drawn.digests() == (hashlib.sha256(drawn.order.tobytes()).hexdigest(), plain)


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ([{"name": "mixup", "alpha": 0.0}], "greater than 0"),
        ([{"name": "mixup", "alpha": -1.0}], "greater than 0"),
        ([{"name": "mixup", "alpha": float("inf")}], "finite"),
        ([{"name": "mixup", "probability": 0.5}], "unknown key"),
        ([{"name": "cutmix", "probability": 0.0}], "greater than 0"),
        ([{"name": "cutmix", "probability": 1.5}], "less than or equal to 1"),
        (["mixup", {"name": "cutmix", "probability": 1.0}], "leaves no image for it; allowed: less than 1"),
        (["mixup", "mixup"], "twice"),
        (["cutmx"], "cutmix"),
        ([{"name": "random-erasing", "area": [0.5, 0.1]}], "the least share first"),
        ([{"name": "random-erasing", "area": [0.5]}], "area"),
        ([{"name": "random-erasing", "aspect": 3.0}], "less than or equal to 1"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_with_what_is_allowed(augment, said):
    with pytest.raises(ValidationError) as caught:
        recipe.Recipe.model_validate({"dataset": "digits", "augment": augment})
    assert said in str(caught.value)
