"""Biases that a norm takes out again: which they are, against autograd in float64, and that rounding does not move them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from engine_support import NORMS, ORDERS, SEEDS, model_of, network_of, pack_of, tiny_recipe, toy_dataset, trained
from norm_oracles import PAPER_NORMS
from test_exactness import MODELS

from allelse.blocks import Conv2d, Linear
from allelse.blocks.norms.affine import Affine
from allelse.models import centred_biases
from allelse.records import Way

FLAT = {"name": "flatten", "norm": True}
"""before a mean over all positions nothing would be left of an instance norm"""
CROSSED = {
    f"{order}, {norm}": {"block": order, "norm": {**NORMS, **PAPER_NORMS}[norm], "stem": {"width": 4}, "head": FLAT}
    for order, norm in product(ORDERS, ("batch", "instance", "layer", "group", "renorm", "ghost"))
    if "norm" in order
}


TWO_NORMS = {
    "through a kernel of 1": {"block": "norm-conv-norm-act", "kernel": 1, "stem": {"width": 4}, "norm": "batch"},
    "not through a kernel of 3": {"block": "norm-conv-norm-act", "stem": {"width": 4}, "norm": "batch"},
    "one after the other": {"block": "norm-conv-act-norm", "stem": {"width": 4}, "norm": "batch", "pool": [1]},
    "separable": {"block": "norm-conv-norm-act", "conv": "depthwise-separable", "stem": {"width": 4}, "norm": "instance"},
    "mlp without activation": {"family": "mlp", "block": "linear-norm-act", "activation": "identity", "norm": "batch"},
    "groups, then channels": {
        "block": "conv-norm-act",
        "kernel": 1,
        "width": [4, 4],
        "activation": "identity",
        "norm": {"name": "group", "groups": [2, 4]},
        "head": "flatten",
    },
}
"""between which the shift of the first goes, or does not"""
LARGER_GHOSTS = {"norm": {"name": "ghost", "ghost_size": 4}}
"""of two images either value comes out as 1 or −1 whatever it is"""


def named(network, parameters) -> set[str]:
    return {name for name, one in network.named_parameters() if any(one is other for other in parameters)}


def without_gradient(network) -> set[str]:
    """The biases and shifts whose gradient is no larger than what float64 leaves of a zero."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 3 * 2, 6, 6)))
    (network(x) * torch.from_numpy(np.random.default_rng(1).normal(size=(3, 8, 3)))).sum().backward()
    layers = {name: module for name, module in network.named_modules() if isinstance(module, (Conv2d, Linear, Affine))}
    largest = max(one.grad.abs().max() for one in network.parameters())
    biases = {f"{name}.bias": layer.bias for name, layer in layers.items() if layer.bias is not None}
    return {name for name, bias in biases.items() if bias.grad.abs().max() < 1e-12 * largest}


@pytest.mark.parametrize("model", {**MODELS, **CROSSED, **TWO_NORMS}.values(), ids={**MODELS, **CROSSED, **TWO_NORMS})
def test_they_are_those_that_autograd_finds_no_gradient_of(model):
    smooth = {"activation": "sigmoid"} if model.get("activation", "relu") == "relu" else {}  # no unit of which is dead
    head = {"head": FLAT} if model.get("head") == {"norm": True} else {}
    ghosts = LARGER_GHOSTS if model.get("norm") == PAPER_NORMS["ghost"] else {}
    network = network_of(model_of(**{"width": 4, "depth": 2, **model, **smooth, **head, **ghosts}))
    found = named(network, centred_biases(network))
    vanishing = without_gradient(network)
    if model.get("residual") and model.get("head", {}).get("norm"):
        assert found <= vanishing  # those that the sum carries to the last norm are not looked for
    else:
        assert found == vanishing


def test_some_are_found_and_some_are_not():
    def biases(**model):
        network = network_of(model_of(**{"width": 4, "depth": 2, "norm": "batch", **model}))
        return named(network, centred_biases(network))

    assert biases() == {"blocks.0.conv.bias", "blocks.1.conv.bias"}
    assert biases(block="norm-act-conv", stem={"width": 4}, pool=[1]) == {"stem.conv.bias", "blocks.0.conv.bias"}
    assert biases(block="norm-act-conv", residual=True, stem={"width": 4}) == set()
    assert biases(conv="depthwise-separable") == {"blocks.0.conv.pointwise.bias", "blocks.1.conv.pointwise.bias"}
    assert biases(block="conv-drop-norm-act", dropout=0.5) == biases(block="conv-act-norm") == set()


@pytest.mark.parametrize("way", [Way(), Way("im2col"), Way("branches")], ids=["grouped", "im2col", "branches"])
@pytest.mark.parametrize("optimizer", ["adam", "rprop", "adagrad"])
def test_no_optimiser_moves_them(optimizer, way):
    values = tiny_recipe(precision="fp32", optimizer={"name": optimizer, "lr": 0.01}, model={"norm": "batch"})
    pack = replace(pack_of(values), way=way)
    before, after = (trained(pack, toy_dataset(), epochs).network.state_dict() for epochs in (0, 2))
    moved = {name for name in before if name.endswith(("weight", "bias")) and not torch.equal(before[name], after[name])}
    assert {name for name in before if name.endswith(("weight", "bias"))} - moved == {f"blocks.{n}.conv.bias" for n in (0, 1)}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "adagrad", "rprop"])
def test_running_means_of_packs_are_those_of_lone_runs_also_in_float32(optimizer):
    values = tiny_recipe(precision="fp32", optimizer={"name": optimizer, "lr": 0.01}, epochs=4, model={"norm": "batch"})
    packed = trained(pack_of(values), toy_dataset()).network.blocks[0].norm.running_mean
    for replica, seed in enumerate(SEEDS):
        lone = trained(pack_of(values, [seed]), toy_dataset()).network.blocks[0].norm.running_mean
        torch.testing.assert_close(packed[replica], lone[0], rtol=0, atol=1e-5)
