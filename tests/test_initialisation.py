"""Initial weights by rule: distributions as torch.nn.init has them, orthogonality, and what arms still share."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from engine_support import CPU, SEEDS, model_of, network_of, pack_of, tiny_recipe, toy_dataset
from pydantic import TypeAdapter
from scipy import stats

from allelse import recipe
from allelse.engine import train_pack
from allelse.models import layer_table
from allelse.seeds import stream

MODEL = {"stem": {"width": 12}, "width": [48, 16], "depth": 2}
RULES = ("kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal", "orthogonal")
OF_STEM_AND_BLOCKS = ("stem.conv", "blocks.0.conv", "blocks.1.conv")


def weights_of(init, seeds=SEEDS, **model) -> dict[str, torch.Tensor]:
    network = network_of(model_of(init=init, **{**MODEL, **model}), seeds)
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def of_torch(name: str, mode: str, gain: float) -> tuple[np.ndarray, float]:
    """Weights of 48 × 12 × 3 × 3 drawn by torch, and the standard deviation that its documentation gives."""
    fan_in, fan_out = 12 * 9, 48 * 9
    weight = torch.empty(48, 12, 3, 3, dtype=torch.float64)
    draw, generator = getattr(torch.nn.init, f"{name}_"), torch.Generator().manual_seed(0)
    if name.startswith("xavier"):
        return draw(weight, gain=gain, generator=generator).flatten().numpy(), gain * (2 / (fan_in + fan_out)) ** 0.5
    slope = max(2 / gain**2 - 1, 0.0) ** 0.5  # torch takes the slope of a leaky ReLU: gain = √(2 / (1 + slope²))
    sd = gain / (fan_in if mode == "fan_in" else fan_out) ** 0.5
    return draw(weight, a=slope, mode=mode, generator=generator).flatten().numpy(), sd


@pytest.mark.parametrize("gain", [None, 0.7])
@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, "fan_in") for name in RULES[:4]] + [("kaiming_uniform", "fan_out"), ("kaiming_normal", "fan_out")],
)
def test_weights_are_distributed_as_torch_documents(name, mode, gain):
    init = {"name": name, "mode": mode, "gain": gain}
    given = {key: init[key] for key in init if init[key] not in (None, "fan_in")}
    ours = weights_of(given)["blocks.0.conv.weight"][0].flatten().numpy()
    theirs, sd = of_torch(name, mode, gain or (2**0.5 if name.startswith("kaiming") else 1.0))
    assert stats.ks_2samp(ours, theirs).pvalue > 0.05
    bound = 3**0.5 * sd
    if name.endswith("uniform"):
        assert 0.99 * bound < np.abs(theirs).max() <= bound
        assert 0.99 * bound < np.abs(ours).max() <= bound
    documented = stats.uniform(-bound, 2 * bound) if name.endswith("uniform") else stats.norm(0, sd)
    assert stats.kstest(ours, documented.cdf).pvalue > 0.05


@pytest.mark.parametrize("gain", [1.0, 1.5])
@pytest.mark.parametrize("model", [{"width": [200, 16]}, {"family": "mlp", "block": "linear-act", "width": [100, 16]}])
def test_orthogonal_weights_are_orthonormal_times_gain_and_those_of_torch(gain, model, monkeypatch):
    network = network_of(model_of(init={"name": "orthogonal", "gain": gain}, **model))
    for number, tall in enumerate([True, False]):
        name = f"blocks.{number}.{'linear' if 'family' in model else 'conv'}.weight"
        for seed, weight in zip(SEEDS, network.get_parameter(name).detach(), strict=True):
            matrix = weight.flatten(1)
            assert (len(matrix) > matrix.shape[1]) == tall
            product = matrix.T @ matrix if tall else matrix @ matrix.T
            torch.testing.assert_close(product, gain**2 * torch.eye(len(product), dtype=torch.float64), rtol=0, atol=1e-12)
            drawn = stream(seed, "init", name, *weight.shape).standard_normal((len(weight), prod(weight.shape[1:])))
            with monkeypatch.context() as patch:
                patch.setattr(
                    torch.Tensor, "normal_", lambda empty, *_, drawn=drawn, **__: empty.copy_(torch.from_numpy(drawn))
                )
                theirs = torch.nn.init.orthogonal_(torch.empty_like(weight), gain)
            torch.testing.assert_close(weight, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh", "relu", "selu", "leaky_relu", "prelu"])
def test_the_gain_of_the_activation_is_that_of_torch(activation):
    slope = {"leaky_relu": 0.01, "prelu": 0.25}.get(activation)
    name = {"identity": "linear", "prelu": "leaky_relu"}.get(activation, activation)
    gain = torch.nn.init.calculate_gain(name, slope)
    by_activation = weights_of({"name": "xavier_normal", "gain": "activation"}, activation=activation)
    plain = weights_of("xavier_normal", activation=activation)
    for layer in OF_STEM_AND_BLOCKS:
        torch.testing.assert_close(by_activation[f"{layer}.weight"], gain * plain[f"{layer}.weight"], rtol=1e-13, atol=0)


def test_a_slope_of_ones_own_has_its_own_gain():
    init = TypeAdapter(recipe.Init).validate_python({"name": "orthogonal", "gain": "activation"})
    assert init.gain_with(recipe.LeakyReLU(slope=0.5)) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.5))


def test_the_table_of_layers_tells_rules_apart():
    base, other = (set(layer_table(model_of(init=init, **MODEL), (6, 6, 2), 3)) for init in ("default", "orthogonal"))
    apart = {layer.name for layer in base ^ other}
    assert apart == {f"{layer}.weight" for layer in OF_STEM_AND_BLOCKS}
    assert {layer.way for layer in other if not layer.name.endswith("bias")} == {"", "by orthogonal 1.0"}


ARMS = {
    "another activation": {"activation": "gelu"},
    "no norm": {"norm": "none"},
    "another order": {"block": "act-norm-conv"},
    "another block 2": {"width": [48, 8]},
    "no bias": {"bias": False},
}


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", RULES)
def test_arms_of_one_rule_share_the_bits_of_all_layers_of_one_name_and_shape(name, arm):
    base, other = weights_of(name), weights_of(name, **ARMS[arm])
    assert torch.equal(base["stem.conv.weight"], other["stem.conv.weight"])
    assert torch.equal(base["blocks.0.conv.weight"], other["blocks.0.conv.weight"])
    assert torch.equal(weights_of(name, SEEDS[1:2])["blocks.0.conv.weight"][0], base["blocks.0.conv.weight"][1])


@pytest.mark.parametrize("name", RULES)
def test_a_rule_changes_the_weights_of_stem_and_blocks_and_nothing_else(name):
    base, other = weights_of("default"), weights_of(name)
    assert {layer for layer in base if not torch.equal(base[layer], other[layer])} == {
        f"{x}.weight" for x in OF_STEM_AND_BLOCKS
    }
    if name.endswith("uniform"):  # the same draws, scaled
        ratio = other["blocks.0.conv.weight"] / base["blocks.0.conv.weight"]
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["default", "orthogonal"])
def test_biases_of_stem_and_blocks_start_at_0_where_asked(name):
    base, other = weights_of(name), weights_of({"name": name, "bias": "zero"})
    changed = {layer for layer in base if not torch.equal(base[layer], other[layer])}
    assert changed == {f"{layer}.bias" for layer in OF_STEM_AND_BLOCKS}
    assert not any(other[layer].any() for layer in changed)
    assert "blocks.0.conv.bias" not in weights_of({"name": name, "bias": "zero"}, bias=False)


def fingerprints(init, **model) -> dict[str, str]:
    values = tiny_recipe(epochs=1, model={"init": init, "stem": {"width": 4}, **model})
    return dict(train_pack(pack_of(values, (4,)), toy_dataset(), CPU)[0].fingerprints)


@pytest.mark.parametrize(
    "other",
    [
        *("kaiming_uniform", "orthogonal", {"name": "default", "bias": "zero"}, {"name": "xavier_normal", "gain": 2.0}),
        {"name": "xavier_normal", "gain": "activation"},
    ],
    ids=str,
)
def test_fingerprints_of_arms_with_other_rules_say_the_same_wherever_both_have_a_say(other):
    base, changed = fingerprints("xavier_normal", activation="tanh"), fingerprints(other, activation="tanh")
    shared = set(base) & set(changed)
    assert {name: base[name] for name in shared} == {name: changed[name] for name in shared}
    assert not any("conv.weight" in name for name in shared)
    assert any("conv.bias" in name for name in shared) == (other != {"name": "default", "bias": "zero"})
    assert "init head.weight 3x4" in shared


def test_fingerprints_of_one_rule_and_of_the_default_have_names_of_their_own():
    default, other = (
        {name for name in fingerprints(init, depth=1, norm="none") if name.startswith("init")}
        for init in ("default", {"name": "kaiming_normal", "bias": "zero"})
    )
    assert default == {
        *("init stem.conv.weight 4x2x3x3", "init stem.conv.bias 4 of 4x2x3x3", "init blocks.0.conv.weight 4x4x3x3"),
        *("init blocks.0.conv.bias 4 of 4x4x3x3", "init head.weight 3x4", "init head.bias 3 of 3x4"),
    }
    assert "init blocks.0.conv.weight 4x4x3x3 by kaiming_normal fan_in 1.4142135623730951" in other
    assert "init blocks.0.conv.bias 4 of 4x4x3x3 by zero" in other
    assert default & other == {"init head.weight 3x4", "init head.bias 3 of 3x4"}
