"""Dropout: its masks are right in number, belong to seed, layer, step and place alone, and are gone in evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine_support import CPU, model_of, network_of, pack_of, tiny_recipe, toy_dataset, trained

from allelse.blocks import Dropout
from allelse.blocks.dropout import GAMMA, splitmix64
from allelse.engine.batches import ImageFeed, scale_of
from allelse.engine.evaluate import evaluate, recalibrate, scatter_of_batch_means
from allelse.seeds import stream

BLOCK = {"block": "conv-norm-act-drop", "dropout": 0.25}


def dropout_of(rate: float, seeds=(3, 1, 11), name: str = "blocks.0.drop", unit: str = "numbers") -> Dropout:
    dropout = Dropout(len(seeds), rate, unit)
    for replica, seed in enumerate(seeds):
        dropout.draw_key(replica, stream(seed, "dropout", name))
    return dropout


def test_the_hash_is_splitmix64():
    """The first numbers of the published generator from the seed 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    got = splitmix64(1234567 + GAMMA * torch.arange(1, 6))
    assert got.numpy().view(np.uint64).tolist() == expected


@pytest.mark.parametrize("shape", [(5, 7), (5, 8), (4, 3, 5, 2), (4, 8, 3, 3)])
def test_a_mask_does_not_depend_on_the_pack_or_the_size_of_the_batch(shape):
    images, channels, *sides = shape
    packed = dropout_of(0.3).kept(torch.Size((images, 3 * channels, *sides)))
    for replica, seed in enumerate((3, 1, 11)):
        lone = dropout_of(0.3, [seed])
        mask = lone.kept(torch.Size(shape))
        assert torch.equal(packed[:, replica * channels : (replica + 1) * channels], mask)
        assert torch.equal(lone.kept(torch.Size((images + 2, *shape[1:])))[:images], mask)


@pytest.mark.parametrize(
    "other",
    [{"depth": 3}, {"activation": "prelu"}, {"stem": {"width": 4}}, {"block": "drop-conv-act"}, {"head": {"dropout": 0.5}}],
    ids=str,
)
def test_a_mask_does_not_depend_on_other_layers(other):
    shape = torch.Size((4, 12, 3, 3))
    base, changed = (network_of(model_of(**{**BLOCK, **more})).blocks[1].drop for more in ({}, other))
    assert torch.equal(base.kept(shape), changed.kept(shape))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_the_share_of_zeros_is_the_rate_everywhere_and_the_mean_stays(rate):
    dropout = dropout_of(rate, range(20))
    x = torch.ones(50, 20 * 10, 5, 5)
    steps = torch.stack([dropout(x) for _ in range(8)])
    kept = steps != 0
    assert steps.unique().tolist() == pytest.approx([0, 1 / (1 - rate)], rel=1e-4)
    for dims in [(1, 2, 3, 4), (0, 2, 3, 4), (0, 1, 3, 4), (0, 1, 2, 4), (0, 1, 2, 3)]:
        share = kept.double().mean(dims)
        sd = (rate * (1 - rate) * share.numel() / kept.numel()) ** 0.5
        assert ((share - (1 - rate)).abs() < 5.5 * sd).all(), f"over {dims}"
    assert steps.double().mean().item() == pytest.approx(1, abs=5 * (rate / (1 - rate) / kept.numel()) ** 0.5)


@pytest.mark.parametrize("shape", [(400, 3 * 6, 3, 3), (400, 3 * 6)])
@pytest.mark.parametrize(("unit", "wholes"), [("channels", (0, 1)), ("images", (0,))])
def test_channels_or_images_are_dropped_as_a_whole(unit, wholes, shape):
    dropout = dropout_of(0.3, unit=unit)
    out = dropout(torch.ones(shape))
    kept = out.unflatten(1, (3, 6)).movedim(1, 0)  # [R, N, C, ...]
    apart = [dim for dim in range(1, kept.dim()) if dim - 1 not in wholes]
    assert torch.equal(kept.amax(apart), kept.amin(apart)) if apart else True
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.7], rel=1e-4)
    share = (kept.amax(apart) if apart else kept).ne(0).double()
    for replica in share:
        assert replica.mean().item() == pytest.approx(0.7, abs=5 * (0.21 / replica.numel()) ** 0.5)
    assert not torch.equal(share[0], share[1])
    assert not torch.equal(dropout(torch.ones(shape)), out)


def test_a_block_that_is_dropped_passes_on_what_entered():
    model = model_of(block="conv-norm-act-drop", dropout=0.5, dropout_of="images", residual=True, width=2)
    network = network_of(model)
    block, x = network.blocks[1], torch.randn(40, 6, 6, 6, dtype=torch.float64)
    out = block(x).unflatten(1, (3, 2))
    computed = block.act(block.norm(block.conv(x))).unflatten(1, (3, 2))
    x = x.unflatten(1, (3, 2))
    is_dropped = (out == x).flatten(2).all(2)
    assert 0.3 < is_dropped.double().mean() < 0.7
    torch.testing.assert_close(out[~is_dropped], (x + 2 * computed)[~is_dropped])


def test_masks_of_steps_layers_seeds_images_channels_and_places_are_uncorrelated():
    shape = torch.Size((32, 16, 8, 8))
    dropout = dropout_of(0.5, [0])
    first = dropout.kept(shape)
    dropout.step += 1
    next_step = dropout.kept(shape)
    others = {
        "step": (first, next_step),
        "step, one image on": (first[1:], next_step[:-1]),
        "step, one word on": (first[:, 4:], next_step[:, :-4]),
        "step, one word back": (first[:, :-4], next_step[:, 4:]),
        "layer": (first, dropout_of(0.5, [0], "blocks.1.drop").kept(shape)),
        "seed": (first, dropout_of(0.5, [1]).kept(shape)),
        "image": (first[1:], first[:-1]),
        "channel": (first[:, 1:], first[:, :-1]),
        "word": (first[:, 4:], first[:, :-4]),
        "row": (first[:, :, 1:], first[:, :, :-1]),
        "column": (first[..., 1:], first[..., :-1]),
    }
    for name, (a, b) in others.items():
        agree = (a == b).double()
        assert abs(agree.mean().item() - 0.5) < 5 * 0.5 / agree.numel() ** 0.5, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_type_and_memory_format_stay_and_gradients_pass_where_numbers_do(dtype):
    dropout = dropout_of(0.25)
    x = torch.randn(4, 12, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    out = dropout(x)
    assert out.dtype == dtype
    assert out.stride() == x.stride()
    out.backward(torch.ones_like(out))
    assert torch.equal(x.grad != 0, out != 0)
    assert not torch.equal(dropout(x) != 0, out != 0), "each step has a mask of its own"


def test_a_rate_of_nothing_trains_to_the_bits_of_no_dropout():
    dataset = toy_dataset()
    states = []
    for model in ({}, {"block": "conv-norm-act-drop", "dropout": 0.0, "head": {"dropout": 0.0}}, BLOCK):
        states.append(trained(pack_of(tiny_recipe(model=model)), dataset).network.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][name], values) for name, values in states[0].items())
    assert not torch.equal(states[2]["head.weight"], states[0]["head.weight"])


def test_evaluation_is_without_dropout_and_leaves_the_masks_to_come_as_they_were():
    dataset = toy_dataset()
    training = trained(
        pack_of(tiny_recipe(model={**BLOCK, "head": {"name": "flatten", "hidden": [5], "dropout": 0.5}})), dataset
    )
    network, plain = training.network, network_of(model_of(head={"name": "flatten", "hidden": [5]}))
    plain.load_state_dict({name: values for name, values in network.state_dict().items() if not name.endswith("step")})
    feed = ImageFeed(dataset.test_images, dataset.test_labels, 0, scale_of(dataset, torch.float64), CPU)
    index = torch.arange(9)[:, None]
    for statistics in ("running", "batch"):
        ours, expected = (evaluate(one, feed, index, torch.float64, statistics) for one in (network, plain))
        assert torch.equal(ours.loss, expected.loss)
    images = [x for x, _ in feed.evaluation_batches(index, network.replicas, torch.float64, 3)]
    scatter = [scatter_of_batch_means(one, images) for one in (network, plain)]
    assert all(torch.equal(ours, expected) for ours, expected in zip(*scatter, strict=True))
    for one in (network, plain):
        recalibrate(one, [torch.cat(images)])
    assert torch.equal(network.blocks[1].norm.running_var, plain.blocks[1].norm.running_var)
    counts = {name: values.tolist() for name, values in network.state_dict().items() if name.endswith("step")}
    assert counts == {f"{name}.step": [6, 6, 6] for name in ("blocks.0.drop", "blocks.1.drop", "hidden.0.drop")}
    x = torch.randn(3, 6, 6, 6, dtype=torch.float64)
    assert not torch.equal(network(x), network(x)), "training goes on with dropout"
