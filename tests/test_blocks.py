"""The parts of a block, each against torch's own layer, for one replica and for several."""

from __future__ import annotations

import pytest
import torch
from engine_support import NORMS
from plain_networks import plain_norm
from pydantic import TypeAdapter
from torch import nn

from allelse import blocks, recipe
from allelse.blocks.weights import Conv2d

NORM = TypeAdapter(recipe.Norm)


def images(replicas: int, channels: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(5, replicas * channels, 3, 3, dtype=torch.float64, generator=generator) + 1


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", [name for name in NORMS if name != "none"])
def test_norms_are_those_of_torch(name, affine, replicas):
    norm = NORM.validate_python({**NORMS[name], "affine": affine, "eps": 1e-3})
    ours = blocks.build_norm(replicas, 4, norm).double()
    x = images(replicas)
    x[:, :4] *= 10  # other statistics in one replica, which must not reach the next
    for replica in range(replicas):
        plain = plain_norm(norm, 4, images=True).double()
        if affine:
            with torch.no_grad():
                ours.weight[replica] = plain.weight.uniform_(0.5, 2)
                ours.bias[replica] = plain.bias.uniform_(-1, 1)
        mine = slice(4 * replica, 4 * replica + 4)
        torch.testing.assert_close(ours(x)[:, mine], plain(x[:, mine]), rtol=1e-10, atol=1e-12)
    assert (ours.weight is not None) == affine


def test_layer_norm_is_over_all_channels_and_positions():
    ours = blocks.build_norm(2, 4, recipe.LayerNorm(affine=False)).double()
    plain = nn.LayerNorm([4, 3, 3], elementwise_affine=False)
    torch.testing.assert_close(ours(images(2))[:, 4:], plain(images(2)[:, 4:]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_running_statistics_move_as_those_of_torch(momentum):
    ours = blocks.build_norm(2, 4, recipe.BatchNorm(momentum=momentum)).double()
    nn.init.ones_(ours.weight)
    plain = nn.BatchNorm2d(8, momentum=momentum).double()
    for scale in (1.0, 3.0):
        ours(scale * images(2))
        plain(scale * images(2))
    torch.testing.assert_close(ours.running_mean.flatten(), plain.running_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.running_var.flatten(), plain.running_var, rtol=1e-12, atol=1e-12)
    ours.statistics = "running"
    torch.testing.assert_close(ours(images(2)), plain.eval()(images(2)), rtol=1e-12, atol=1e-12)
    ours.statistics = "batch"
    torch.testing.assert_close(ours(images(2)), plain.train()(images(2)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in NORMS if name != "none"])
def test_a_norm_that_meets_the_images_themselves_has_gradients(name, dtype):
    """torch 2.13's channels-last GroupNorm ends the process here, when the images want no gradient."""
    ours = blocks.build_norm(2, 4, NORM.validate_python(NORMS[name]))
    ours = ours.double() if dtype == torch.float64 else ours
    nn.init.ones_(ours.weight)
    ours(images(2).to(dtype).contiguous(memory_format=torch.channels_last)).float().pow(3).sum().backward()
    assert ours.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("bias", [True, False])
def test_convolution_and_linear_layers_are_r_of_torchs(bias):
    convolution, linear = blocks.Conv2d(3, 2, 5, 3, bias).double(), blocks.Linear(3, 18, 5, bias).double()
    for parameter in (*convolution.parameters(), *linear.parameters()):
        nn.init.normal_(parameter)
    x = images(3, channels=2)
    for replica in range(3):
        mine = x[:, 2 * replica : 2 * replica + 2]
        shift = [layer.bias[replica] if bias else None for layer in (convolution, linear)]
        expected = nn.functional.conv2d(mine, convolution.weight[replica], shift[0], padding=1)
        torch.testing.assert_close(convolution(x)[:, 5 * replica : 5 * replica + 5], expected, rtol=1e-10, atol=1e-12)
        expected = nn.functional.linear(mine.flatten(1), linear.weight[replica], shift[1])
        torch.testing.assert_close(linear(x.flatten(1))[:, 5 * replica : 5 * replica + 5], expected, rtol=1e-10, atol=1e-12)


class SaysItIsOnAGpu(torch.Tensor):
    is_cuda = True


@pytest.mark.parametrize("shape", [(5, 8), (5, 8, 3, 3)], ids=["vectors", "images"])
def test_on_a_gpu_a_norm_of_groups_meets_its_scale_in_one_type(shape, monkeypatch):
    """torch's CUDA kernel reads scale and shift in the type of the input."""
    met = set()

    def seen(x, groups, weight, bias, eps, of_torch=nn.functional.group_norm):
        met.update({x.dtype, weight.dtype, bias.dtype})
        return of_torch(x, groups, weight, bias, eps)

    monkeypatch.setattr(nn.functional, "group_norm", seen)
    norm = blocks.build_norm(2, 4, recipe.GroupNorm(groups=2))
    out = norm(torch.zeros(shape, dtype=torch.bfloat16).as_subclass(SaysItIsOnAGpu))
    assert (out.dtype, out.shape) == (torch.bfloat16, shape)
    assert met == {torch.float32}


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("by_patches", [False, True])
@pytest.mark.parametrize("channels", [(1, 1, 1), (3, 16, 1), (5, 7, 1), (33, 17, 1), (40, 24, 1), (4, 4, 4), (16, 16, 16)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_nan_of_one_replica_stays_in_its_own_channels(kernel, stride, channels, by_patches, precision):
    """In every precision: oneDNN computes some grouped convolutions over the groups of several replicas at once."""
    entering, leaving, groups = channels
    layer = Conv2d(3, entering, leaving, kernel, True, stride, groups)
    layer.by_patches = by_patches
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        parameter.data.normal_(generator=generator)
    shape = (4, 3, entering, 8, 8)

    def moved(spoilt: int | None) -> list[torch.Tensor]:
        """What leaves each replica, and all its gradients."""
        layer.zero_grad()
        x = torch.randn(shape, generator=generator.manual_seed(2)).to(precision)
        if spoilt is not None:
            x[:, spoilt] = float("nan")
        x = x.flatten(1, 2).contiguous(memory_format=torch.channels_last).requires_grad_()
        out = layer(x)
        gradient = torch.randn(out.shape, generator=generator.manual_seed(3)).to(precision).unflatten(1, (3, -1))
        if spoilt is not None:
            gradient[:, spoilt] = float("nan")
        out.backward(gradient.flatten(1, 2))
        per_image = [value.detach().unflatten(1, (3, -1)).transpose(0, 1) for value in (out, x.grad)]
        return [*per_image, *(parameter.grad.clone() for parameter in layer.parameters())]

    undisturbed = moved(None)
    for spoilt in range(3):
        for before, after in zip(undisturbed, moved(spoilt), strict=True):
            others = [replica for replica in range(3) if replica != spoilt]
            torch.testing.assert_close(after[others], before[others])
            assert after[spoilt].isnan().any()


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (3, 2, 1), (3, 2, 4), (3, 1, 4)])
def test_convolutions_in_bf16_are_those_of_torch_to_its_precision(kernel, stride, groups):
    layer = Conv2d(2, 4, 8, kernel, True, stride, groups)
    for parameter in layer.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(5, 8, 7, 7, generator=torch.Generator().manual_seed(2)).bfloat16()
    out = layer(x)
    assert out.dtype is torch.bfloat16
    for replica in range(2):
        plain = nn.Conv2d(4, 8, kernel, stride, kernel // 2, groups=groups)
        plain.load_state_dict({"weight": layer.weight[replica], "bias": layer.bias[replica]})
        expected = plain(x[:, 4 * replica : 4 * replica + 4].float())
        torch.testing.assert_close(out[:, 8 * replica : 8 * replica + 8].float(), expected, rtol=0.02, atol=0.1)
