"""Batches against a plain loop over single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_support import CPU, SEEDS, draws_of, tiny_recipe, toy_dataset
from plain_networks import epoch_batches, slow_batch

from allelse import recipe
from allelse.engine.batches import ImageFeed, TrainingBatches, scale_of

AUGMENTATIONS = {
    "none": [],
    "flip": ["flip"],
    "crop": [{"name": "crop", "padding": 2}],
    "cutout, odd": [{"name": "cutout", "size": 3}],
    "cutout, even": [{"name": "cutout", "size": 4}],
    "cutout, larger than the image": [{"name": "cutout", "size": 20}],
    "all": ["flip", {"name": "crop", "padding": 4}, {"name": "cutout", "size": 2}],
}


def feed_of(dataset, values: recipe.Recipe, dtype=torch.float64) -> tuple[ImageFeed, int]:
    crop, cutout = values.augmentation(recipe.Crop), values.augmentation(recipe.Cutout)
    padding = crop.padding if crop else 0
    feed = ImageFeed(dataset.train_images, dataset.train_labels, padding, scale_of(dataset, dtype), CPU)
    return feed, cutout.size if cutout else 0


def batches_of(feed, draws, batch_size, dtype, cutout):
    """Every batch of an epoch; a place that is a tensor, as in a CUDA graph, gives the same."""
    batches = TrainingBatches(feed, batch_size, dtype, cutout)
    batches.load(draws[::-1])  # an epoch before, which must leave no trace
    batches.load(draws)
    found = [batches.at(place) for place in range(len(draws[0].order) // batch_size)]
    for place, (x, targets) in enumerate(found):
        x_on_device, targets_on_device = batches.at(torch.tensor([place]))
        assert torch.equal(x_on_device, x)
        assert torch.equal(targets_on_device.labels_RB, targets.labels_RB)
    return found


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_replica_sees_its_own_images_in_its_own_channels(augment, channels):
    dataset = toy_dataset(train=23, side=7, channels=channels)
    values = recipe.Recipe.model_validate(tiny_recipe(augment=AUGMENTATIONS[augment], batch_size=5))
    feed, cutout = feed_of(dataset, values)
    draws = [draws_of(values, dataset, seed, epoch=4) for seed in SEEDS]
    batches = batches_of(feed, draws, 5, torch.float64, cutout)
    assert len(batches) == 4
    for replica, seed in enumerate(SEEDS):
        expected = epoch_batches(values, dataset, seed, 4)
        for (x, targets), (x_one, labels_one) in zip(batches, expected, strict=True):
            assert x.shape == (5, len(SEEDS) * channels, 7, 7)
            assert x.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(x[:, replica * channels : (replica + 1) * channels], x_one, rtol=1e-12, atol=1e-12)
            assert torch.equal(targets.labels_RB[replica], labels_one)


def test_images_that_are_not_square_keep_rows_and_columns_apart():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 4, 7, 1), np.uint8), np.zeros(6, np.int64)
    scale = (torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    feed = ImageFeed(images, labels, 2, scale, CPU)
    index = torch.tensor([[5], [1]])
    flip, crop = torch.tensor([[True], [False]]), torch.tensor([[[0, 3]], [[4, 1]]])
    x, _ = feed.gather(index, torch.float64, flip, crop)
    for row, (number, (top, left)) in enumerate(((5, (0, 3)), (1, (4, 1)))):
        cut = np.pad(images[number, ..., 0], 2)[top : top + 4, left : left + 7]
        assert np.array_equal(x[row, 0].numpy(), cut[:, ::-1] if number == 5 else cut)


def test_an_epoch_shows_every_image_of_the_subset_once_but_for_the_tail():
    dataset = toy_dataset(train=60)
    values = recipe.Recipe.model_validate(tiny_recipe(train_per_class=7, validation_per_class=2))
    draws = [draws_of(values, dataset, seed, epoch) for seed in SEEDS for epoch in range(3)]
    for drawn in draws:
        assert len(set(drawn.order)) == len(drawn.order) == 21
        assert np.bincount(dataset.train_labels[drawn.order]).tolist() == [7, 7, 7]
    for batch_size, kept in ((1, 21), (4, 20), (21, 21), (12, 12)):
        unique = np.arange(60, dtype=np.uint8)[:, None, None, None]  # one grey pixel that says which image it is
        scale = (torch.zeros(1), torch.ones(1))
        feed = ImageFeed(unique, dataset.train_labels, 0, scale, CPU)
        batches = batches_of(feed, draws[:1], batch_size, torch.float32, 0)
        seen = torch.cat([x.flatten() for x, _ in batches]).long().numpy()
        assert np.array_equal(seen, draws[0].order[:kept])


def test_draws_cover_every_place_and_both_sides():
    dataset = toy_dataset(train=999, side=5)
    augment = ["flip", {"name": "crop", "padding": 2}, {"name": "cutout", "size": 3}]
    values = recipe.Recipe.model_validate(tiny_recipe(augment=augment))
    drawn = draws_of(values, dataset, 0)
    assert 0.4 < drawn.flip.mean() < 0.6
    for places in (drawn.crop, drawn.cutout):
        for axis in (0, 1):
            counts = np.bincount(places[:, axis])
            assert len(counts) == 5
            assert counts.min() > 150


def test_normalised_training_images_have_mean_zero_and_variance_one_a_channel():
    dataset = toy_dataset(train=50, channels=3)
    feed, _ = feed_of(dataset, recipe.Recipe.model_validate(tiny_recipe()))
    x, _ = feed.gather(torch.arange(50)[:, None], torch.float64)
    assert x.mean((0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-12)
    assert x.std((0, 2, 3), correction=0).tolist() == pytest.approx([1] * 3, rel=1e-12)


def test_a_channel_of_one_colour_is_only_centred():
    dataset = toy_dataset(channels=2)
    dataset.train_images[..., 1] = 77
    mean, inverse_sd = scale_of(dataset, torch.float64)
    assert mean[1] == 77
    assert inverse_sd[1] == 1


@pytest.mark.parametrize("count", [1, 7, 500, 501, 1003])
def test_evaluation_shows_all_replicas_the_same_images_or_each_its_own(count):
    dataset = toy_dataset(train=1100, side=3, channels=2)
    feed, _ = feed_of(dataset, recipe.Recipe.model_validate(tiny_recipe(augment=["crop", "flip"])))
    rng = np.random.default_rng(1)
    own = np.stack([rng.permutation(1100)[:count] for _ in SEEDS], axis=1)
    for index in (own, own[:, :1]):
        batches = list(feed.evaluation_batches(torch.from_numpy(index), len(SEEDS), torch.float64))
        x, labels = torch.cat([x for x, _ in batches]), torch.cat([labels for _, labels in batches], dim=1)
        assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in batches)
        assert x.shape == (count, len(SEEDS) * 2, 3, 3)
        for replica in range(len(SEEDS)):
            mine = index[:, replica if index.shape[1] > 1 else 0]
            oracle = slow_batch(dataset.train_images, mine)
            torch.testing.assert_close(x[:, replica * 2 : replica * 2 + 2], oracle, rtol=1e-12, atol=1e-12)
            assert labels[replica].tolist() == dataset.train_labels[mine].tolist()


def test_no_evaluation_batch_of_many_is_a_single_image():
    dataset = toy_dataset(train=1100, side=1, channels=1)
    feed, _ = feed_of(dataset, recipe.Recipe.model_validate(tiny_recipe()))
    for count in (501, 1001):
        batches = feed.evaluation_batches(torch.arange(count)[:, None], 1, torch.float64)
        assert min(len(x) for x, _ in batches) > 1, "the statistics of a batch of one are not defined on single pixels"
