"""Activations: values, gradients and what the probe says of them, against torch's own or the formula of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from engine_support import ACTIVATIONS, VARIANTS, model_of, network_of
from plain_networks import plain_activation
from pydantic import TypeAdapter
from torch import nn

from allelse import blocks, recipe
from allelse.engine.probes import FLAT, Probe, summarise

CHANNELS = 4
ALL = {**ACTIVATIONS, **VARIANTS}


def activation_of(name: str) -> recipe.Activation:
    return TypeAdapter(recipe.Activation).validate_python(ALL[name])


def built(name: str, replicas: int) -> nn.Module:
    activation = activation_of(name)
    module = blocks.build_activation(replicas, CHANNELS, activation).double()
    for parameter in module.parameters():
        nn.init.constant_(parameter, activation.slope)
    return module


def images(replicas: int) -> torch.Tensor:
    """Normal numbers, and in the first image those where the pieces of the piecewise ones meet."""
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(5, replicas * CHANNELS, 3, 3, dtype=torch.float64, generator=generator) + 1
    x[0, :, 0] = torch.tensor([0.0, 3.0, -3.0])
    x[0, :, 1] = torch.tensor([6.0, 0.25, -0.25])
    x[0, :, 2] = torch.tensor([40.0, -40.0, 0.125])
    return x


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("flat", [False, True])
def test_values_and_gradients_are_those_of_torch(name, replicas, flat):
    ours, x = built(name, replicas), images(replicas)
    x = x[:, :, 0, 0] if flat else x
    both = [x.clone().requires_grad_() for _ in range(2)]
    values = [ours(both[0]), None]
    plain = plain_activation(activation_of(name), CHANNELS).double()
    values[1] = torch.cat([plain(mine) for mine in both[1].split(CHANNELS, 1)], 1)
    torch.testing.assert_close(*values, rtol=1e-13, atol=1e-15)
    gradients = [torch.autograd.grad(value.pow(2).sum(), x)[0] for value, x in zip(values, both, strict=True)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_every_precision_is_taken_and_kept(name, dtype):
    x = images(2).to(dtype)
    out = built(name, 2).float()(x.contiguous(memory_format=torch.channels_last))
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), built(name, 2)(x.double()), rtol=1e-2, atol=0.05)


def test_each_replica_has_a_slope_of_its_own():
    ours = built("prelu", 3)
    ours.slope.data = torch.tensor([[0.0], [0.5], [2.0]], dtype=torch.float64)
    out = ours(-torch.ones(1, 6, 2, 2, dtype=torch.float64))
    assert out[0, :, 0, 0].tolist() == [0, 0, -0.5, -0.5, -2, -2]


@pytest.mark.parametrize("block", ["conv-act", "act-conv"])
def test_each_channel_has_a_slope_of_its_own_where_asked(block):
    network = network_of(model_of(activation=VARIANTS["prelu by channel"], block=block, width=[3, 5], stem={"width": 4}))
    widths = (3, 5) if block == "conv-act" else (4, 3)
    assert [tuple(block.act.slope.shape) for block in network.blocks] == [(3, width) for width in widths]
    slope = network.blocks[0].act.slope
    slope.data = torch.arange(slope.numel(), dtype=torch.float64).reshape(slope.shape)
    out = network.blocks[0].act(-torch.ones(1, slope.numel(), 2, 2, dtype=torch.float64))
    assert out[0, :, 1, 1].tolist() == [-float(number) for number in range(slope.numel())]


@pytest.mark.parametrize("name", ALL)
def test_the_probe_finds_the_flat_places_of_every_activation(name):
    network = network_of(model_of(activation=ALL[name], block="conv-act", depth=1), (3, 1))
    x = 3 * torch.randn(4, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    probe = Probe(network)
    with probe.watching(0, 0.0):
        network(x).square().sum().backward()
    inside = network.blocks[0].conv(x).detach().requires_grad_()
    plain = plain_activation(activation_of(name), CHANNELS).double()
    torch.cat([plain(mine) for mine in inside.split(CHANNELS, 1)], 1).sum().backward()
    for rows, slopes in zip(probe.rows, inside.grad.split(CHANNELS, 1), strict=True):
        flat = slopes.abs() < FLAT
        found = summarise(rows)
        assert found["saturated"] == pytest.approx(flat.double().mean().item(), rel=1e-6)
        assert found["dead"] == pytest.approx(flat.all(0).all(1).all(1).double().mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0.1, 10.0, 2.0),
        (math.inf, 1e30, -math.inf),
        (1e30, math.inf, math.inf),
        (math.inf, math.inf, math.nan),
        (0.0, 0.0, 0.0),
    ],
)
def test_gradients_that_overflow_cost_no_run_of_the_pack(first, last, expected):
    rows = [
        {"step": 0, "layer": f"blocks.{number}.conv", "gradient_norm": ratio, "gradient_ratio": ratio}
        for number, ratio in enumerate((first, last))
    ]
    assert summarise(rows)["gradient_decades_start"] == pytest.approx(expected, nan_ok=True)
